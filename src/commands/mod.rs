//! Knows what the program can be told to do.

pub mod demo;

use clap::{Parser, Subcommand};
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
    /// Shows good and stolen tokens at work on this machine.
    Demo(demo::Arguments),
}

impl Arguments {
    /// Does what they say.
    pub fn run(self) -> ExitCode {
        match self.command {
            Command::Demo(arguments) => demo::run(&arguments),
        }
    }
}
