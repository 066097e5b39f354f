//! Knows the command line.

use clap::{Parser, Subcommand};
use keybound::commands::demo;
use std::process::ExitCode;

/// External authorizer for Envoy and Istio: sender-constrained OAuth access tokens at the gateway
#[derive(Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Show good and stolen tokens at work on this machine, through Envoy if there is one
    Demo(demo::Options),
}

fn main() -> ExitCode {
    match Arguments::parse().command {
        Command::Demo(options) => demo::run(&options),
    }
}
