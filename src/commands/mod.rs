//! The commands of the program and their exit codes.

pub mod check_config;
pub mod completions;
pub mod demo;
pub mod explain;
pub mod healthcheck;
pub mod init;
mod input;
mod paint;
pub mod reasons;
pub mod recording;
pub mod schema;
pub mod serve;
pub mod test;
pub mod thumbprint;

use crate::telemetry::metrics::VERSION;
use paint::{Colour, Paint};
use std::io::Write;
use std::process::ExitCode;

/// The command line: the one of the program.
#[derive(Debug, clap::Parser)]
#[command(name = "keybound", version = VERSION, about = ABOUT)]
pub struct CommandLine {
    /// The command.
    #[command(subcommand)]
    pub command: Command,
}

const ABOUT: &str = "External authorizer for Envoy and Istio: sender-constrained OAuth access tokens at the gateway";

/// The subcommands.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Runs the service
    Serve(serve::Arguments),
    /// Demonstrates good and stolen tokens on this machine, through Envoy if installed
    Demo(demo::Arguments),
    /// Validates a configuration file and prints what it enforces
    CheckConfig(check_config::Arguments),
    /// Writes a working configuration for an issuer, from its metadata, its keys and a token
    Init(init::Arguments),
    /// Explains step by step how a request would be decided
    Explain(explain::Arguments),
    /// Tests a configuration with tables of requests and what each must get, offline
    Test(test::Arguments),
    /// Lists the reasons for a denial, or says what one of them means and what to do
    Reasons(reasons::Arguments),
    /// Prints the thumbprint of a certificate (x5t#S256) or of a JWK (jkt), in base64url and hex
    Thumbprint(thumbprint::Arguments),
    /// Prints the JSON Schema of the configuration file, or of tables for `test`
    Schema(schema::Arguments),
    /// Prints a script by which a shell completes commands and options
    Completions(completions::Arguments),
    /// Checks whether a running service is ready or alive, for probes without a shell
    Healthcheck(healthcheck::Arguments),
}

impl Command {
    /// Runs the command and returns its exit code.
    pub fn run(&self) -> ExitCode {
        match self {
            Self::Serve(arguments) => serve::run(arguments),
            Self::Demo(arguments) => demo::run(arguments),
            Self::CheckConfig(arguments) => check_config::run(arguments),
            Self::Init(arguments) => init::run(arguments),
            Self::Explain(arguments) => explain::run(arguments),
            Self::Test(arguments) => test::run(arguments),
            Self::Reasons(arguments) => reasons::run(arguments),
            Self::Thumbprint(arguments) => thumbprint::run(arguments),
            Self::Schema(arguments) => schema::run(arguments),
            Self::Completions(arguments) => completions::run::<CommandLine>(arguments),
            Self::Healthcheck(arguments) => healthcheck::run(arguments),
        }
    }
}

/// One line on standard error.
fn complain(line: &str) {
    // If standard error is gone, there is nowhere to report it.
    let name = Paint::stderr().text(Colour::Bold, "keybound:");
    let _written = writeln!(std::io::stderr().lock(), "{name} {line}");
}
