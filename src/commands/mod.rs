//! Knows the commands of the program, and how each one ends.

pub mod check_config;
mod schema;

use std::process::ExitCode;

/// What the program is asked to do.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Says everything that is wrong with a configuration file, or what it would enforce
    CheckConfig(check_config::Arguments),
    /// Prints the JSON Schema of the configuration file
    Schema,
}

impl Command {
    /// Does it. The code is what the shell gets.
    pub fn run(&self) -> ExitCode {
        match self {
            Self::CheckConfig(arguments) => check_config::run(arguments),
            Self::Schema => schema::run(),
        }
    }
}
