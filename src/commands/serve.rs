//! The command `serve`: starts the service, and stops it on a signal.

use super::paint::Paint;
use super::recording::Recording;
use super::{check_config, complain};
use crate::clock::{Clock, SystemClock};
use crate::config::{self, Attempt, Config, Origin, SourceFile};
use crate::fair_share;
use crate::gate::Gate;
use crate::installation::{Checker, Installation};
use crate::server::reload::InForce;
use crate::server::{Ended, Server, Setup, StartFailure, reminder, sinks};
use crate::telemetry::log::{self, Format, Sink};
use crate::telemetry::metrics::{Metrics, VERSION};
use std::convert::Infallible;
use std::future::pending;
use std::io::IsTerminal;
use std::num::NonZero;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

/// The arguments of `serve`.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// The configuration file.
    #[arg(long, env = "KEYBOUND_CONFIG", value_name = "FILE")]
    config: PathBuf,
    /// Threads that check requests [default: one per core].
    #[arg(long, value_name = "N")]
    shards: Option<NonZero<usize>>,
    /// How long to keep serving while reporting not ready, once shutdown is requested.
    #[arg(long, default_value = "1s", value_name = "DURATION", value_parser = duration)]
    drain_delay: Duration,
    /// How long open connections may then take to finish.
    #[arg(long, default_value = "25s", value_name = "DURATION", value_parser = duration)]
    drain_deadline: Duration,
    #[command(flatten)]
    recording: Recording,
}

/// Runs the service until shutdown is requested.
pub fn run(arguments: &Arguments) -> ExitCode {
    let Attempt { outcome, source_files } = config::attempt(&arguments.config);
    let config = match outcome {
        Ok(config) => config,
        Err(problems) => {
            let words: Vec<_> = problems.iter().map(ToString::to_string).collect();
            let error = format!("{}: {}", arguments.config.display(), words.join("; "));
            return not_started(arguments, &error, || {
                // If standard error is gone, there is nowhere to report it.
                let _written = check_config::tell(&arguments.config, &problems, "");
            });
        }
    };
    match serve(arguments, config, source_files) {
        Ok(Ended::Cleanly) => ExitCode::SUCCESS,
        Ok(Ended::AtOnce) => ExitCode::FAILURE,
        Err(failure) => {
            let failure = failure.to_string();
            not_started(arguments, &failure, || complain(&failure))
        }
    }
}

/// Says why it does not start: in one line of the log where a program reads it, else in text.
fn not_started(arguments: &Arguments, error: &str, tell: impl FnOnce()) -> ExitCode {
    let stderr = std::io::stderr();
    if arguments.recording.log_format == Format::Text || stderr.is_terminal() {
        tell();
    } else if let Ok((sink, writer)) = Sink::to(stderr) {
        let lines = log::subscriber(Format::Json, log::Level::Error, sink);
        tracing::subscriber::with_default(lines, || tracing::error!(error, "not started"));
        writer.finish();
    }
    ExitCode::FAILURE
}

fn serve(
    arguments: &Arguments,
    config: Config,
    source_files: Vec<SourceFile>,
) -> Result<Ended, StartFailure> {
    if !SystemClock::is_set() {
        return Err("the clock of this machine says a time before 1970: set it first".into());
    }
    let (sink, writer) = Sink::to(std::io::stderr())?;
    let sink = sink.coloured(Paint::stderr().is_on());
    let Recording { log_format, log_level, .. } = arguments.recording;
    log::install(log_format, log_level, sink)?;
    // Signed introspection answers are verified beside the accept loops.
    let runtime = fair_share::runtime()?;
    let ended = runtime.block_on(answer(arguments, config, source_files));
    writer.finish();
    ended
}

async fn answer(
    arguments: &Arguments,
    config: Config,
    source_files: Vec<SourceFile>,
) -> Result<Ended, StartFailure> {
    for warning in &config.warnings {
        tracing::warn!(%warning, "configuration warning");
    }
    let (stop, stopped) = mpsc::channel(2);
    let signals = Signals::new()?;
    let mut hangup = signal(SignalKind::hangup())?;
    let (ask, asks) = mpsc::channel(1);
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let Config { listen, rules, telemetry, digest, outline, warnings, .. } = config;
    let made = Installation::start(rules, None, &clock, &Handle::current())?;
    let capture = arguments.recording.start_capture(&clock)?;
    let metrics = Arc::new(Metrics::new()?);
    let (sinks, export) = sinks(telemetry.clone(), &clock, &metrics)?;
    let checker = Checker::new(Arc::clone(&clock));
    let gate = Arc::new(Gate::new(checker, made.installation, digest, metrics).with_sinks(sinks));
    let admin_address = listen.admin.clone();
    let setup = Setup {
        listen,
        shards: arguments.shards.unwrap_or_else(cores),
        drain_delay: arguments.drain_delay,
        drain_deadline: arguments.drain_deadline,
        capture,
    };
    let server = Server::start(setup, Arc::clone(&gate))?;
    // Nothing can refuse the start any more.
    gate.hear();
    let in_force = InForce {
        origin: Origin::File(arguments.config.clone()),
        source_files,
        admin: admin_address,
        telemetry,
        outline,
        logged: &warnings,
    };
    let reloader = server.reloader(in_force, clock);
    let (ext_authz, admin) = (server.ext_authz(), server.admin());
    let forward_auth = server.forward_auth().map(tracing::field::display);
    let events = server.events().map(tracing::field::display);
    tracing::info!(%ext_authz, forward_auth, events, %admin, version = VERSION, "listening");
    let ended = tokio::select! {
        ended = server.run(stopped) => ended,
        () = signals.forward(stop) => Ended::AtOnce,
        never = reloader.run(asks) => match never {},
        never = forward_hangups(&mut hangup, ask) => match never {},
        never = reminder::run(&gate) => match never {},
    };
    if let Some(export) = export {
        export.finish().await;
    }
    Ok(ended)
}

/// Asks for a reload at each SIGHUP.
async fn forward_hangups(hangup: &mut Signal, ask: mpsc::Sender<()>) -> Infallible {
    while hangup.recv().await.is_some() {
        tracing::info!(signal = "SIGHUP", "reload requested");
        // A reload that is asked for and has not begun yet will see this change, too.
        let _asked = ask.try_send(());
    }
    pending().await
}

/// One shard per core, since a check is pure computation once the keys are there.
fn cores() -> NonZero<usize> {
    std::thread::available_parallelism().unwrap_or(NonZero::<usize>::MIN)
}

/// The signals that request a shutdown.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        let terminate = signal(SignalKind::terminate())?;
        let interrupt = signal(SignalKind::interrupt())?;
        Ok(Self { terminate, interrupt })
    }

    /// Forwards each signal until the receiver is gone.
    async fn forward(mut self, stop: mpsc::Sender<()>) {
        loop {
            let name = tokio::select! {
                _ = self.terminate.recv() => "SIGTERM",
                _ = self.interrupt.recv() => "SIGINT",
            };
            tracing::info!(signal = name, "shutdown requested");
            if stop.send(()).await.is_err() {
                return;
            }
        }
    }
}

/// A number with its unit: `250ms`, `30s`, `5m`.
fn duration(text: &str) -> Result<Duration, &'static str> {
    let digits = text.trim_end_matches(|it: char| it.is_ascii_alphabetic());
    let unit = text.strip_prefix(digits).unwrap_or_default();
    let number: u32 = digits.parse().or(Err(EXAMPLE))?;
    match unit {
        "ms" => Ok(Duration::from_millis(number.into())),
        "s" => Ok(Duration::from_secs(number.into())),
        "m" => Ok(Duration::from_secs(u64::from(number).saturating_mul(60))),
        _ => Err(EXAMPLE),
    }
}

const EXAMPLE: &str = "a number and its unit is expected: 250ms, 30s, 5m";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_has_a_unit() {
        for (text, found) in [
            ("250ms", Some(Duration::from_millis(250))),
            ("0s", Some(Duration::ZERO)),
            ("5m", Some(Duration::from_secs(300))),
            ("5", None),
            ("s", None),
            ("", None),
            ("-1s", None),
            ("1.5s", None),
            ("1h", None),
        ] {
            assert_eq!(duration(text).ok(), found, "{text}");
        }
    }
}
