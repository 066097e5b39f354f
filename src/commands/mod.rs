//! Knows what the program can be told to do.

pub mod demo;
pub mod healthcheck;
pub mod serve;

use clap::{Parser, Subcommand};
use std::io::Write;
use std::process::ExitCode;

/// Sender-constrained OAuth access tokens at the gateway.
#[derive(Debug, Parser)]
#[command(version, arg_required_else_help = true)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Runs the service.
    Serve(serve::Arguments),
    /// Shows good and stolen tokens at work on this machine.
    Demo(demo::Arguments),
    /// Asks a running service whether it is ready.
    Healthcheck(healthcheck::Arguments),
}

impl Arguments {
    /// Does what they say.
    pub fn run(self) -> ExitCode {
        match self.command {
            Command::Serve(arguments) => serve::run(arguments),
            Command::Demo(arguments) => demo::run(&arguments),
            Command::Healthcheck(arguments) => healthcheck::run(&arguments),
        }
    }
}

/// One line on standard error.
fn complain(line: &str) {
    // Nobody is left to be told that standard error is gone.
    let _written = writeln!(std::io::stderr().lock(), "keybound: {line}");
}
