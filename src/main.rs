//! The program: reads its arguments and does what they say.

use clap::Parser;
use keybound::commands::Arguments;
use std::process::ExitCode;

fn main() -> ExitCode {
    Arguments::parse().run()
}
