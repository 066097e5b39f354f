//! The metrics of configuration reloads.

use super::metrics::Reload;
use serde::Serialize;
use std::sync::{Mutex, PoisonError};
use tokio::time::Instant;

/// The last attempt to reload the configuration.
#[derive(Debug, Default)]
pub struct Reloads(Mutex<Option<Ended>>);

#[derive(Debug)]
struct Ended {
    how: Reload,
    at: Instant,
    remarks: Vec<String>,
}

/// The last attempt in `/status`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Status {
    /// `applied` or `refused`.
    pub outcome: &'static str,
    /// Its age in seconds.
    pub age_seconds: u64,
    /// The problems of a rejected file, or the changes that need a restart.
    pub remarks: Vec<String>,
}

impl Reloads {
    /// Records an attempt.
    pub fn ended(&self, how: Reload, remarks: Vec<String>) {
        let ended = Ended { how, at: Instant::now(), remarks };
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(ended);
    }

    /// The last attempt at `now`, if there was one.
    pub fn status(&self, now: Instant) -> Option<Status> {
        let last = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        last.as_ref().map(|it| Status {
            outcome: it.how.label(),
            age_seconds: now.saturating_duration_since(it.at).as_secs(),
            remarks: it.remarks.clone(),
        })
    }
}
