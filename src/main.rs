//! The program: arguments in, one command run, its exit code out.

use clap::Parser;
use keybound::commands::Command;
use std::process::ExitCode;

/// External authorizer for Envoy and Istio: sender-constrained OAuth access tokens at the gateway
#[derive(Debug, Parser)]
#[command(name = "keybound", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

fn main() -> ExitCode {
    Arguments::parse().command.run()
}
