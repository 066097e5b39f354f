//! The programs that the benchmarks are made of: what is asked, who asks, and who answers
//! without looking. `tests/bench/run.py` puts them together.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::disallowed_methods,
    reason = "a benchmark may panic, prints, and reads clocks"
)]

mod browse;
mod checks;
mod corpus;
mod fill;
mod flood;
mod load;
mod noop;
#[path = "../../support/proofs.rs"]
mod proofs;
mod raw;
mod soak;
#[path = "../../support/tokens.rs"]
mod tokens;

use clap::Parser;

#[derive(Parser)]
enum Command {
    /// Makes keys, tokens and requests.
    Corpus(corpus::Options),
    /// Asks a server for checks.
    Load(load::Options),
    /// Browses through a proxy.
    Browse(load::Options),
    /// Fills a server.
    Fill(fill::Options),
    /// Pushes security events to a server.
    Flood(flood::Options),
    /// Answers OK to everything.
    Noop(noop::Options),
    /// Asks for a long time, while things fail and change.
    Soak(soak::Options),
    /// Times bare signature verifications.
    Raw,
}

fn main() {
    // `cargo bench` adds a flag of its own.
    let arguments = std::env::args().filter(|it| it != "--bench");
    let command = Command::parse_from(arguments);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    match command {
        Command::Corpus(options) => corpus::make(&options),
        Command::Load(options) => runtime.block_on(checks::run(&options)),
        Command::Browse(options) => runtime.block_on(browse::run(&options)),
        Command::Fill(options) => runtime.block_on(fill::run(&options)),
        Command::Flood(options) => runtime.block_on(flood::run(&options)),
        Command::Noop(options) => runtime.block_on(noop::serve(&options)),
        Command::Soak(options) => runtime.block_on(soak::run(&options)),
        Command::Raw => raw::measure(),
    }
}
