//! What comes of documents that are fetched again and again: keys, status lists.

use keybound_core::UnixTime;
use serde::Serialize;
use std::fmt::{Debug, Display};

/// What went wrong last.
#[derive(Clone, Debug, Serialize)]
pub struct LastError {
    /// What went wrong.
    pub what: String,
    /// Its time, in seconds since the epoch.
    pub at: i64,
}

/// Why a fetch failed.
pub(super) trait Failed: Debug + Display + Sync {
    /// The label in metrics, of a closed set.
    fn label(&self) -> &'static str;
}

/// The outcome of a fetch.
#[derive(Clone, Copy, Debug)]
pub(super) enum Outcome<'a> {
    /// The document says something else than before.
    Changed,
    /// The document is unchanged.
    Unchanged,
    /// The server answered 304.
    NotModified,
    /// The fetch failed.
    Failed(&'a dyn Failed),
}

/// The failures of one document.
#[derive(Debug, Default)]
pub(super) struct Failures {
    /// How many there were since the last success.
    pub(super) in_a_row: u32,
    /// The last one, even if fetches have succeeded since.
    pub(super) last: Option<LastError>,
}

impl LastError {
    /// This, at the time `at`.
    pub(super) fn of(what: &dyn Display, at: UnixTime) -> Self {
        Self { what: what.to_string(), at: at.as_secs() }
    }
}

impl Outcome<'_> {
    /// The label in metrics.
    pub(super) fn label(self) -> &'static str {
        match self {
            Self::Changed => "changed",
            Self::Unchanged => "unchanged",
            Self::NotModified => "not_modified",
            Self::Failed(failure) => failure.label(),
        }
    }
}

impl Failures {
    /// Records one fetch.
    pub(super) fn add(&mut self, outcome: Outcome<'_>, at: UnixTime) {
        match outcome {
            Outcome::Changed | Outcome::Unchanged | Outcome::NotModified => self.in_a_row = 0,
            Outcome::Failed(failure) => {
                self.in_a_row = self.in_a_row.saturating_add(1);
                self.last = Some(LastError::of(&failure, at));
            }
        }
    }
}
