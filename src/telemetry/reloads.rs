//! The last attempt to reload the configuration, and what the last change was.

use super::metrics::Reload;
use serde::Serialize;
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio::time::Instant;

/// The last attempt to reload the configuration, and the last change.
#[derive(Debug, Default)]
pub struct Reloads(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    ended: Option<Ended>,
    changed: Option<Changed>,
}

#[derive(Debug)]
struct Ended {
    how: Reload,
    at: Instant,
    remarks: Vec<String>,
}

#[derive(Debug)]
struct Changed {
    at: Instant,
    previous_digest: String,
    changes: Vec<String>,
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

/// The last change in `/status`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Change {
    /// Its age in seconds.
    pub age_seconds: u64,
    /// The digest of the configuration before.
    pub previous_digest: String,
    /// What has changed, key by key.
    pub changes: Vec<String>,
}

impl Reloads {
    /// Records an attempt.
    pub fn ended(&self, how: Reload, remarks: Vec<String>) {
        self.kept().ended = Some(Ended { how, at: Instant::now(), remarks });
    }

    /// Records what a reload has changed.
    pub fn changed(&self, previous_digest: String, changes: Vec<String>) {
        self.kept().changed = Some(Changed { at: Instant::now(), previous_digest, changes });
    }

    /// The last attempt at `now`, if there was one.
    pub fn status(&self, now: Instant) -> Option<Status> {
        self.kept().ended.as_ref().map(|it| Status {
            outcome: it.how.label(),
            age_seconds: now.saturating_duration_since(it.at).as_secs(),
            remarks: it.remarks.clone(),
        })
    }

    /// The last change at `now`, if there was one.
    pub fn last_change(&self, now: Instant) -> Option<Change> {
        self.kept().changed.as_ref().map(|it| Change {
            age_seconds: now.saturating_duration_since(it.at).as_secs(),
            previous_digest: it.previous_digest.clone(),
            changes: it.changes.clone(),
        })
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
