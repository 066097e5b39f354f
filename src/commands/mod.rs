//! The commands of the program and their exit codes.

pub mod check_config;
pub mod demo;
pub mod explain;
pub mod healthcheck;
mod schema;
pub mod serve;
pub mod thumbprint;

use std::io::Write;
use std::process::ExitCode;

/// What the program is asked to do.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Runs the service
    Serve(serve::Arguments),
    /// Shows good and stolen tokens at work on this machine, through Envoy if there is one
    Demo(demo::Arguments),
    /// Says everything that is wrong with a configuration file, or what it would enforce
    CheckConfig(check_config::Arguments),
    /// Tells step by step what would become of a request, and why
    Explain(explain::Arguments),
    /// Prints the thumbprint of a certificate (x5t#S256) or of a JWK (jkt), in base64url and hex
    Thumbprint(thumbprint::Arguments),
    /// Prints the JSON Schema of the configuration file
    Schema,
    /// Asks a running service whether it is ready, or alive, for probes without a shell
    Healthcheck(healthcheck::Arguments),
}

impl Command {
    /// Does it. The code is what the shell gets.
    pub fn run(&self) -> ExitCode {
        match self {
            Self::Serve(arguments) => serve::run(arguments),
            Self::Demo(arguments) => demo::run(arguments),
            Self::CheckConfig(arguments) => check_config::run(arguments),
            Self::Explain(arguments) => explain::run(arguments),
            Self::Thumbprint(arguments) => thumbprint::run(arguments),
            Self::Schema => schema::run(),
            Self::Healthcheck(arguments) => healthcheck::run(arguments),
        }
    }
}

/// One line on standard error.
fn complain(line: &str) {
    // Nobody is left to be told that standard error is gone.
    let _written = writeln!(std::io::stderr().lock(), "keybound: {line}");
}
