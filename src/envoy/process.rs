//! What the whole process shares: one thread of our own, the log, the counters.

use keybound::clock::{Clock, SystemClock};
use keybound::commands::recording::Recording;
use keybound::fair_share;
use keybound::front::capture::Capture;
use keybound::telemetry::denials::Denials;
use keybound::telemetry::history::History;
use keybound::telemetry::log::{self, Sink};
use keybound::telemetry::metrics::Metrics;
use std::error::Error;
use std::future::pending;
use std::sync::{Arc, OnceLock};
use std::thread;
use tokio::runtime::Handle;
use tokio::time::Instant;

/// What the whole process shares, until its end.
#[derive(Debug)]
pub(crate) struct Process {
    /// Where everything goes on that must wait: keys, introspection, Redis, reloads, the admin listener.
    pub(crate) runtime: Handle,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) denials: Arc<Denials>,
    pub(crate) history: Arc<History>,
    pub(crate) started: Instant,
    /// The capture of denied requests, if the environment asks for it.
    pub(crate) capture: Option<Arc<Capture>>,
}

/// The process, which starts at the first call.
///
/// # Errors
///
/// One sentence for the operator, the same at each call.
pub(crate) fn get() -> Result<&'static Process, &'static str> {
    static PROCESS: OnceLock<Result<Process, String>> = OnceLock::new();
    let process = PROCESS.get_or_init(|| Process::start().map_err(|it| it.to_string()));
    process.as_ref().map_err(String::as_str)
}

impl Process {
    fn start() -> Result<Self, Box<dyn Error + Send + Sync>> {
        let recording = Recording::from_environment()?;
        if !SystemClock::is_set() {
            return Err("the clock of this machine says a time before 1970: set it first".into());
        }
        // Its thread writes until the process ends.
        let (sink, _writer) = Sink::to(std::io::stderr())?;
        log::install(recording.log_format, recording.log_level, sink)?;
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let capture = recording.start_capture(&clock)?;
        let metrics = Arc::new(Metrics::new()?);
        let runtime = fair_share::runtime()?;
        let handle = runtime.handle().clone();
        thread::Builder::new()
            .name("keybound".to_owned())
            .spawn(move || runtime.block_on(pending::<()>()))?;
        let started = Instant::now();
        Ok(Self {
            runtime: handle,
            clock,
            metrics,
            denials: Arc::default(),
            history: Arc::new(History::since(started)),
            started,
            capture,
        })
    }
}
