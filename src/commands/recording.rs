//! How much is recorded of requests, by option or by variable: the log, and the capture of denied ones.

use crate::clock::Clock;
use crate::front::capture::{Capture, CaptureRules};
use crate::server::StartFailure;
use crate::telemetry::log::{Format, Level};
use clap::Args;
use keybound_core::Denial;
use std::env;
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
        default_value_t = MOST,
        requires = "capture",
        env = "KEYBOUND_CAPTURE_MAX"
    )]
    pub capture_max: usize,
}

impl Recording {
    /// What the environment says, where there is no command line: the same variables, without the code that
    /// reads options.
    ///
    /// # Errors
    ///
    /// A variable that has no such value, and what would be one.
    pub fn from_environment() -> Result<Self, String> {
        #[expect(clippy::disallowed_methods, reason = "options, where there is no command line")]
        Self::of(&|name| env::var(name).ok().filter(|it| !it.is_empty()))
    }

    fn of(variable: &dyn Fn(&str) -> Option<String>) -> Result<Self, String> {
        let most = variable("KEYBOUND_CAPTURE_MAX")
            .map(|it| it.parse().or(Err("KEYBOUND_CAPTURE_MAX: write a number of requests")));
        let reasons = variable("KEYBOUND_CAPTURE_REASONS").unwrap_or_default();
        let reasons = reasons.split(',').filter(|it| !it.is_empty()).map(|label| {
            reason(label).map_err(|why| format!("KEYBOUND_CAPTURE_REASONS: {label:?} is {why}"))
        });
        Ok(Self {
            log_format: chosen(variable, "KEYBOUND_LOG_FORMAT", &FORMATS)?,
            log_level: chosen(variable, "KEYBOUND_LOG_LEVEL", &LEVELS)?,
            capture: variable("KEYBOUND_CAPTURE").map(PathBuf::from),
            capture_reasons: reasons.collect::<Result<_, _>>()?,
            capture_max: most.transpose()?.unwrap_or(MOST),
        })
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

/// How many files a folder holds at most, unless told otherwise.
const MOST: usize = 1000;

const FORMATS: [(&str, Format); 2] = [("json", Format::Json), ("text", Format::Text)];

const LEVELS: [(&str, Level); 5] = [
    ("error", Level::Error),
    ("warn", Level::Warn),
    ("info", Level::Info),
    ("debug", Level::Debug),
    ("trace", Level::Trace),
];

fn chosen<T: Copy + Default>(
    variable: &dyn Fn(&str) -> Option<String>,
    name: &str,
    all: &[(&str, T)],
) -> Result<T, String> {
    let Some(text) = variable(name) else { return Ok(T::default()) };
    let found = all.iter().find(|(it, _)| *it == text).map(|(_, value)| *value);
    found.ok_or_else(|| {
        let all: Vec<_> = all.iter().map(|(it, _)| *it).collect();
        format!("{name} is {text:?}: write one of {}", all.join(", "))
    })
}

/// A reason by its label.
fn reason(text: &str) -> Result<Denial, &'static str> {
    Denial::labelled(text).ok_or("not a reason: `keybound reasons` lists them")
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::{Parser, ValueEnum};
    use std::ffi::OsStr;

    #[derive(Parser)]
    struct Options {
        #[command(flatten)]
        recording: Recording,
    }

    fn of(variables: &[(&str, &str)]) -> Result<Recording, String> {
        let all =
            |name: &str| variables.iter().find(|(it, _)| *it == name).map(|it| it.1.to_owned());
        Recording::of(&all)
    }

    #[test]
    fn variables_say_the_same_as_options() {
        let variables = of(&[
            ("KEYBOUND_LOG_FORMAT", "text"),
            ("KEYBOUND_LOG_LEVEL", "warn"),
            ("KEYBOUND_CAPTURE", "folder"),
            ("KEYBOUND_CAPTURE_REASONS", "token_expired,proof_stale"),
            ("KEYBOUND_CAPTURE_MAX", "7"),
        ]);
        let options = [
            "keybound",
            "--log-format",
            "text",
            "--log-level",
            "warn",
            "--capture",
            "folder",
            "--capture-reasons",
            "token_expired,proof_stale",
            "--capture-max",
            "7",
        ];
        let options = Options::try_parse_from(options).unwrap().recording;
        assert_eq!(format!("{:?}", variables.unwrap()), format!("{options:?}"));
        let usual = Options::try_parse_from(["keybound"]).unwrap().recording;
        assert_eq!(format!("{:?}", of(&[]).unwrap()), format!("{usual:?}"));
    }

    #[test]
    fn every_option_has_a_variable_and_every_value_a_name() {
        let command = <Recording as Args>::augment_args(clap::Command::new("keybound"));
        for argument in command.get_arguments() {
            let named = argument.get_env().and_then(OsStr::to_str);
            let name = argument.get_id().as_str().to_uppercase();
            assert_eq!(named, Some(&*format!("KEYBOUND_{name}")));
        }
        let names = |all: &[&str], known: Vec<String>| assert_eq!(all, known);
        let known = |it: Option<clap::builder::PossibleValue>| it.unwrap().get_name().to_owned();
        names(
            &FORMATS.map(|it| it.0),
            Format::value_variants().iter().map(|it| known(it.to_possible_value())).collect(),
        );
        names(
            &LEVELS.map(|it| it.0),
            Level::value_variants().iter().map(|it| known(it.to_possible_value())).collect(),
        );
    }

    #[test]
    fn a_value_that_is_none_is_refused_with_what_would_be_one() {
        for (name, value, words) in [
            ("KEYBOUND_LOG_FORMAT", "xml", "write one of json, text"),
            ("KEYBOUND_LOG_LEVEL", "loud", "error, warn, info"),
            ("KEYBOUND_CAPTURE_REASONS", "token_expired,none", "\"none\" is not a reason"),
            ("KEYBOUND_CAPTURE_MAX", "many", "a number"),
        ] {
            let problem = of(&[(name, value)]).unwrap_err();
            assert!(problem.contains(name) && problem.contains(words), "{problem}");
        }
    }
}
