//! The command `schema`: the JSON Schema of the configuration file.

use crate::config;
use std::io::{self, Write};
use std::process::ExitCode;

/// Prints the schema.
pub(super) fn run() -> ExitCode {
    match writeln!(io::stdout().lock(), "{:#}", config::schema()) {
        Ok(()) => ExitCode::SUCCESS,
        // The reader has closed the pipe.
        Err(_) => ExitCode::FAILURE,
    }
}
