//! The command `completions`: a script by which a shell completes the commands and options.

use clap::CommandFactory;
use clap_complete::Shell;
use std::io::{self, Write};
use std::process::ExitCode;

/// The arguments of `completions`.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// The shell
    shell: Shell,
}

/// Prints the script for the command line `C`.
pub(super) fn run<C: CommandFactory>(arguments: &Arguments) -> ExitCode {
    let mut command = C::command();
    let name = command.get_name().to_owned();
    let mut script = vec![];
    clap_complete::generate(arguments.shell, &mut command, name, &mut script);
    match io::stdout().lock().write_all(&script) {
        Ok(()) => ExitCode::SUCCESS,
        // The reader has closed the pipe.
        Err(_) => ExitCode::FAILURE,
    }
}
