//! How much is recorded of requests, by option or by variable: the log, and the capture of denied ones.

use crate::clock::Clock;
use crate::front::capture::{Capture, CaptureRules};
use crate::server::StartFailure;
use crate::telemetry::log::{Format, Level};
use clap::{ArgMatches, Args, Command, FromArgMatches};
use keybound_core::Denial;
use std::path::PathBuf;
use std::sync::Arc;

/// The options of the log and of the capture of denied requests.
#[derive(Clone, Debug, Args)]
pub struct Recording {
    /// The format of log lines.
    #[arg(long, value_enum, default_value_t, env = "KEYBOUND_LOG_FORMAT")]
    pub log_format: Format,
    /// The log level; `debug` also logs allowed requests.
    #[arg(long, value_enum, default_value_t, env = "KEYBOUND_LOG_LEVEL")]
    pub log_level: Level,
    /// Saves denied requests in this folder, for `explain`, without the signatures of tokens and
    /// proofs.
    #[arg(long, value_name = "DIR", env = "KEYBOUND_CAPTURE")]
    pub capture: Option<PathBuf>,
    /// The denial reasons whose requests are saved [default: all].
    #[arg(long, value_name = "REASON,…", value_delimiter = ',', value_parser = reason,
        requires = "capture", env = "KEYBOUND_CAPTURE_REASONS")]
    pub capture_reasons: Vec<Denial>,
    /// The maximum number of requests in the folder.
    #[arg(
        long,
        value_name = "N",
        default_value_t = 1000,
        requires = "capture",
        env = "KEYBOUND_CAPTURE_MAX"
    )]
    pub capture_max: usize,
}

impl Recording {
    /// What the environment says, where there is no command line.
    ///
    /// # Errors
    ///
    /// A variable that has no such value.
    pub fn from_environment() -> Result<Self, clap::Error> {
        let command = Self::augment_args(Command::new("keybound").no_binary_name(true));
        let found: ArgMatches = command.try_get_matches_from::<_, &str>([])?;
        Self::from_arg_matches(&found)
    }

    /// Starts the capture of denied requests, if there is to be one.
    ///
    /// # Errors
    ///
    /// The folder does not exist, or is not writable.
    pub fn start_capture(
        &self,
        clock: &Arc<dyn Clock>,
    ) -> Result<Option<Arc<Capture>>, StartFailure> {
        let Some(folder) = &self.capture else { return Ok(None) };
        let (reasons, most) = (self.capture_reasons.clone(), self.capture_max);
        let kept = CaptureRules { folder: folder.clone(), reasons, most };
        let capture = Capture::start(kept, Arc::clone(clock))
            .map_err(|error| format!("--capture {}: {error}", folder.display()))?;
        Ok(Some(Arc::new(capture)))
    }
}

/// A reason by its label.
fn reason(text: &str) -> Result<Denial, &'static str> {
    Denial::labelled(text).ok_or("not a reason: README lists them")
}
