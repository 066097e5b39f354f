//! The program: parses its arguments, runs one command, and returns its exit code.

use clap::Parser;
use keybound::commands::CommandLine;
use mimalloc::MiMalloc;
use std::process::ExitCode;

/// Each check allocates and frees blocks of some KiB, which the system's allocator coalesces and
/// splits anew each time: a tenth of the CPU time of a check.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    CommandLine::parse().command.run()
}
