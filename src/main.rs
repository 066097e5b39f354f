//! The program: parses its arguments, runs one command, and returns its exit code.

use clap::Parser;
use keybound::commands::Command;
use mimalloc::MiMalloc;
use std::process::ExitCode;

/// External authorizer for Envoy and Istio: sender-constrained OAuth access tokens at the gateway
#[derive(Debug, Parser)]
#[command(name = "keybound", version)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

/// Each check allocates and frees blocks of some KiB, which the system's allocator coalesces and
/// splits anew each time: a tenth of the CPU time of a check.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    Arguments::parse().command.run()
}
