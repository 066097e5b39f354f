//! The command `demo`: an issuer, a client, a thief, the service and, if installed, an Envoy on one
//! machine.

pub mod cast;
pub mod dpop;
pub mod envoy;
pub mod issuer;
pub mod pki;
pub mod process;
pub mod roles;
pub mod scenarios;
pub mod service;
pub mod site;
pub mod upstream;

mod stage;
mod way;

use super::paint;
use crate::clock::{Clock, SystemClock};
use stage::{Programs, Stage};
use std::fmt;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use tokio::signal::unix::{SignalKind, signal};

/// The arguments of `demo`.
#[derive(clap::Args, Debug)]
pub struct Arguments {
    /// The Envoy to use; by default the one on PATH. Without one, requests go straight to the
    /// service
    #[arg(long, value_name = "PATH", env = "ENVOY_BIN")]
    pub envoy: Option<PathBuf>,
    /// Checks inside Envoy, by this dynamic module
    #[arg(long, value_name = "FILE", num_args = 0..=1, default_missing_value = MODULE)]
    pub module: Option<PathBuf>,
    /// Keeps everything running, and prints curl commands to try
    #[arg(long)]
    pub stay: bool,
}

/// Where `make module` leaves it.
const MODULE: &str = "target/module/libkeybound_envoy.so";

/// Why the demo failed: what was tried, and its error.
#[derive(Debug)]
pub struct Failure(String);

impl Failure {
    /// `what` failed because of `cause`.
    pub fn new(what: impl fmt::Display, cause: impl fmt::Display) -> Self {
        Self(format!("{what}: {cause}"))
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Failure {}

/// Runs the demo. Succeeds if every scenario has the expected outcome.
pub fn run(arguments: &Arguments) -> ExitCode {
    let shown = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|cause| Failure::new("starting", cause))
        .and_then(|runtime| runtime.block_on(show(arguments)));
    match shown {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(failure) => {
            // If standard error is gone, there is nowhere to report it.
            drop(writeln!(io::stderr().lock(), "keybound demo: {failure}"));
            ExitCode::FAILURE
        }
    }
}

async fn show(arguments: &Arguments) -> Result<bool, Failure> {
    let interrupted = |cause| Failure::new("waiting for signals", cause);
    let mut interrupt = signal(SignalKind::interrupt()).map_err(interrupted)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(interrupted)?;
    let play = async {
        let programs =
            Programs { envoy: arguments.envoy_binary(), module: arguments.module.clone() };
        let mut stage = Stage::set(programs, SystemClock.now()).await?;
        let good = tell(&mut stage).await?;
        if arguments.stay {
            say(&stage.invitation())?;
            std::future::pending::<()>().await;
        }
        Ok(good)
    };
    // Whichever ends first drops the other, and the stage drops everything that runs on it.
    tokio::select! {
        shown = play => shown,
        _ = interrupt.recv() => Ok(arguments.stay),
        _ = terminate.recv() => Ok(arguments.stay),
    }
}

/// Runs every scenario and prints the table.
async fn tell(stage: &mut Stage) -> Result<bool, Failure> {
    say(&format!(
        "{}\n\n{}",
        stage.description(),
        row("", "scenario", "expected", "got", "reason")
    ))?;
    let mut held = 0_usize;
    for scenario in scenarios::ALL {
        let observed = stage.play(scenario).await?;
        let holds = scenario.holds(&observed);
        held = held.saturating_add(holds.into());
        let (status, reason) = scenario.expected();
        say(&row(
            if holds { "✓" } else { "✗" },
            scenario.title,
            &format!("{status} {reason}"),
            &observed.status.to_string(),
            &observed.reason,
        ))?;
        if !holds && !observed.subjects.is_empty() {
            say(&format!("  the upstream was told: {}", observed.subjects.join(", ")))?;
        }
    }
    let all = scenarios::ALL.len();
    say(&format!("\n{held} of {all} scenarios ended as they must."))?;
    Ok(held == all)
}

fn row(mark: &str, title: &str, expected: &str, got: &str, reason: &str) -> String {
    format!("{mark:1} {title:<42}  {expected:<28}  {got:<3}  {reason}").trim_end().to_owned()
}

fn say(line: &str) -> Result<(), Failure> {
    paint::print(&format!("{line}\n")).map_err(|cause| Failure::new("writing", cause))
}

impl Arguments {
    fn envoy_binary(&self) -> Option<PathBuf> {
        self.envoy.clone().or_else(|| {
            let path = std::env::var_os("PATH")?;
            std::env::split_paths(&path).map(|it| it.join("envoy")).find(|it| it.is_file())
        })
    }
}
