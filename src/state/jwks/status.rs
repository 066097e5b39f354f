//! Knows what is told about an issuer's keys, to people and to metrics.

use super::Failure;
use keybound_core::UnixTime;
use serde::Serialize;
use std::collections::BTreeMap;
use tokio::time::Instant;

/// The state of an issuer's keys. It holds nothing secret.
#[derive(Clone, Debug, Serialize)]
pub struct Status {
    /// The issuer.
    pub issuer: String,
    /// `discovery`, `jwks_uri` or `jwks_file`.
    pub source: &'static str,
    /// Whether there are keys to check tokens with.
    pub usable: bool,
    /// Whether they come from the snapshot, the issuer not having been heard since the start.
    pub from_snapshot: bool,
    /// How many keys are in use.
    pub keys: usize,
    /// How many of them the issuer no longer publishes (`withdrawn_key_grace`).
    pub withdrawn: usize,
    /// How many members of the set cannot be used.
    pub skipped: usize,
    /// The names of the keys in use, where they have one. The issuer chose them.
    pub kids: Vec<String>,
    /// Since when the issuer was not heard, in seconds.
    pub age_seconds: Option<u64>,
    /// For how much longer the keys are used if the issuer is not heard again, in seconds.
    pub usable_for_seconds: Option<u64>,
    /// When the next fetch is planned, in seconds from now.
    pub next_refresh_seconds: Option<u64>,
    /// How many fetches have failed since the last that went well.
    pub consecutive_failures: u32,
    /// The last failure, also when fetches have gone well since.
    pub last_error: Option<LastError>,
    /// How many fetches ended in which way.
    pub refreshes: BTreeMap<&'static str, u64>,
}

/// A fetch that failed.
#[derive(Clone, Debug, Serialize)]
pub struct LastError {
    /// What went wrong.
    pub what: String,
    /// When, in seconds since the epoch.
    pub at: i64,
}

/// How a fetch ended.
#[derive(Clone, Copy, Debug)]
pub(super) enum Outcome<'a> {
    /// There is another set of keys now.
    Changed,
    /// The document is the same as before.
    Unchanged,
    /// The server said that the document is the same as before (304).
    NotModified,
    /// Nothing was learnt.
    Failed(&'a Failure),
}

impl Outcome<'_> {
    /// The label in metrics.
    const fn label(self) -> &'static str {
        match self {
            Self::Changed => "changed",
            Self::Unchanged => "unchanged",
            Self::NotModified => "not_modified",
            Self::Failed(failure) => failure.label(),
        }
    }
}

/// What has happened so far.
#[derive(Debug, Default)]
pub(super) struct Report {
    pub(super) consecutive_failures: u32,
    pub(super) last_error: Option<LastError>,
    pub(super) next: Option<Instant>,
    pub(super) refreshes: BTreeMap<&'static str, u64>,
}

impl Report {
    /// Adds the end of one fetch.
    pub(super) fn add(&mut self, outcome: Outcome<'_>, at: UnixTime) {
        let count = self.refreshes.entry(outcome.label()).or_default();
        *count = count.saturating_add(1);
        match outcome {
            Outcome::Changed | Outcome::Unchanged | Outcome::NotModified => {
                self.consecutive_failures = 0;
            }
            Outcome::Failed(failure) => {
                self.consecutive_failures = self.consecutive_failures.saturating_add(1);
                self.last_error = Some(LastError { what: failure.to_string(), at: at.as_secs() });
            }
        }
    }
}
