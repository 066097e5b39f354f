//! The command `schema`: the JSON Schema of the configuration file, or of tables for `test`.

use super::test;
use crate::config;
use std::io::{self, Write};
use std::process::ExitCode;

/// The arguments of `schema`.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Prints that of the tables that `keybound test` takes
    #[arg(long)]
    tests: bool,
}

/// Prints the schema.
pub(super) fn run(arguments: &Arguments) -> ExitCode {
    let schema = if arguments.tests { test::schema() } else { config::schema() };
    match writeln!(io::stdout().lock(), "{schema:#}") {
        Ok(()) => ExitCode::SUCCESS,
        // The reader has closed the pipe.
        Err(_) => ExitCode::FAILURE,
    }
}
