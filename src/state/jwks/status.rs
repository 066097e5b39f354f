//! The status of an issuer's keys, for metrics and the admin page.

use crate::state::refreshes::{Failures, LastError, Outcome};
use keybound_core::UnixTime;
use keybound_core::jose::{self, KeySet};
use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::time::Instant;

/// The state of an issuer's keys, without secrets.
#[derive(Clone, Debug, Serialize)]
pub struct Status {
    /// The issuer.
    pub issuer: String,
    /// `discovery`, `jwks_uri` or `jwks_file`.
    pub source: &'static str,
    /// Whether there are keys to check tokens with.
    pub usable: bool,
    /// Whether they come from the snapshot, because no fetch has succeeded since the start.
    pub from_snapshot: bool,
    /// How many keys are in use.
    pub keys: usize,
    /// How many of them the issuer no longer publishes (`withdrawn_key_grace`).
    pub withdrawn: usize,
    /// How many members of the last set cannot be used.
    pub skipped: usize,
    /// Those members, or the first of very many. The issuer chose their texts.
    pub skipped_keys: Vec<SkippedKey>,
    /// The names of the keys in use, where they have one. The issuer chose them.
    pub kids: Vec<String>,
    /// Seconds since the last successful fetch.
    pub age_seconds: Option<u64>,
    /// Seconds that the keys may still be used if no fetch succeeds.
    pub usable_for_seconds: Option<u64>,
    /// When the next fetch is planned, in seconds from now.
    pub next_refresh_seconds: Option<u64>,
    /// Failed fetches since the last successful one.
    pub consecutive_failures: u32,
    /// The last failure, even if fetches have succeeded since.
    pub last_error: Option<LastError>,
    /// Fetches by outcome.
    pub refreshes: BTreeMap<&'static str, u64>,
}

/// A member of a key set that cannot be used.
#[derive(Clone, Debug, Serialize)]
pub struct SkippedKey {
    /// Its position in the set, from 1.
    pub position: usize,
    /// Its `kid`.
    pub kid: Option<String>,
    /// Its `kty`.
    pub kty: Option<String>,
    /// Its `crv`.
    pub crv: Option<String>,
    /// Its `alg`.
    pub alg: Option<String>,
    /// Why it cannot be used: a clause.
    pub reason: String,
}

impl SkippedKey {
    /// What is told of `key`.
    pub fn of(key: &jose::SkippedKey) -> Self {
        let own = |text: &Option<Box<str>>| text.as_deref().map(str::to_owned);
        Self {
            position: key.position,
            kid: own(&key.kid),
            kty: own(&key.kty),
            crv: own(&key.crv),
            alg: own(&key.alg),
            reason: key.reason.to_string(),
        }
    }
}

/// The skipped members of the last set that was read, whether or not it was taken over.
#[derive(Debug, Default)]
pub(super) struct Skipped(Option<Arc<KeySet>>);

impl Skipped {
    /// Those of `set`.
    pub(super) fn of(set: &Arc<KeySet>) -> Self {
        Self(Some(Arc::clone(set)))
    }

    pub(super) fn count(&self) -> usize {
        self.0.as_ref().map_or(0, |it| it.skipped_count())
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = SkippedKey> {
        self.0.iter().flat_map(|it| it.skipped()).map(SkippedKey::of)
    }
}

/// Counters of outcomes.
#[derive(Debug, Default)]
pub(super) struct Report {
    pub(super) failures: Failures,
    pub(super) next: Option<Instant>,
    pub(super) skipped: Skipped,
    pub(super) refreshes: BTreeMap<&'static str, u64>,
}

impl Report {
    /// Counts one fetch.
    pub(super) fn add(&mut self, outcome: Outcome<'_>, at: UnixTime) {
        let count = self.refreshes.entry(outcome.label()).or_default();
        *count = count.saturating_add(1);
        self.failures.add(outcome, at);
    }
}
