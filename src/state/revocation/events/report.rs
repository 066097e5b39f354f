//! What has been received, and when the stream was last heard: for metrics and the status.

use super::marks::Marks;
use super::rules::{Delivery, EventRules};
use crate::state::refreshes::LastError;
use keybound_core::UnixTime;
use keybound_core::oauth::{BadEvents, Effect, EventKind, StreamStatus};
use keybound_core::words::{Words, words};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt::Display;
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio::time::Instant;

words! {
    /// What came of an event.
    pub enum Outcome as "EventOutcome" {
        /// It revokes tokens.
        Revoking = "revoking",
        /// It tells nothing but that the stream works, or how.
        Stream = "stream",
        /// It has no consequence, as it should be.
        Harmless = "harmless",
        /// It is about a subject of another issuer, or about another stream.
        Foreign = "foreign",
        /// It should revoke tokens, but no token tells whether it is this subject's.
        Unmapped = "unmapped",
        /// Its kind is not known.
        Unknown = "unknown",
    }
}

words! {
    /// Why a delivery is refused.
    pub enum Refusal as "EventRefusal" {
        /// It is not a signed JWT, or is longer than such a token may be.
        Malformed = "malformed",
        /// Its `typ` is another.
        Type = "type",
        /// It is not signed by a key of its transmitter.
        Signature = "signature",
        /// The keys of its transmitter are not known at present.
        Keys = "keys",
        /// Its `iss` is not the transmitter.
        Issuer = "issuer",
        /// Its `aud` is not us.
        Audience = "audience",
        /// A claim that it needs is missing or malformed.
        Claims = "claims",
        /// It is in force, but could not be kept where it was to be kept.
        NotKept = "not_kept",
        /// A request without the expected `Authorization`.
        Unauthenticated = "unauthenticated",
        /// A request with another method, path or content type, or with too long a body.
        Request = "request",
    }
}

/// What has been received so far.
#[derive(Debug, Default)]
pub(super) struct Report(Mutex<Counts>);

#[derive(Clone, Debug, Default)]
struct Counts {
    received: BTreeMap<&'static str, u64>,
    refused: BTreeMap<&'static str, u64>,
    polls: BTreeMap<&'static str, u64>,
    /// When the stream was last heard to its end.
    heard: Option<Instant>,
    /// When a token of the transmitter was last received.
    received_at: Option<Instant>,
    last_event: Option<LastEvent>,
    last_error: Option<LastError>,
    stream: Option<StreamStatus>,
}

/// The last event that revoked tokens.
#[derive(Clone, Debug, Serialize)]
pub struct LastEvent {
    /// Its kind.
    pub kind: &'static str,
    /// When it happened, in seconds since 1970.
    pub happened_at: i64,
    /// When it was received, in seconds since 1970.
    pub received_at: i64,
}

/// The state of the events of one issuer.
#[derive(Clone, Debug, Serialize)]
pub struct Status {
    /// `poll` or `push`.
    pub delivery: &'static str,
    /// `memory` or `redis`.
    pub store: &'static str,
    /// How many subjects are kept.
    pub entries: usize,
    /// How many there may be.
    pub capacity: usize,
    /// Whether there was no room for an event, so that other tokens are refused as well.
    pub full: bool,
    /// Whether what replicas share could not be read for so long, or in part, that tokens are refused.
    pub unheard: bool,
    /// How many entries of it cannot be read.
    pub unreadable: usize,
    /// For how long the stream has not been heard to its end; none where that cannot be told.
    pub lag_seconds: Option<u64>,
    /// What the transmitter last said of the stream.
    pub stream: Option<&'static str>,
    /// The last event that revoked tokens.
    pub last_event: Option<LastEvent>,
    /// What last went wrong.
    pub last_error: Option<LastError>,
    /// Events by what came of them.
    pub received: BTreeMap<&'static str, u64>,
    /// Deliveries that were refused, by cause.
    pub refused: BTreeMap<&'static str, u64>,
    /// Polls by outcome.
    pub polls: BTreeMap<&'static str, u64>,
}

impl Report {
    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An event was received.
    pub(super) fn received(&self, outcome: Outcome) {
        add(&mut self.counts().received, outcome.name());
    }

    /// An event revoked tokens.
    pub(super) fn revoked(&self, kind: EventKind, happened: UnixTime, now: UnixTime) {
        let (happened_at, received_at) = (happened.as_secs(), now.as_secs());
        self.counts().last_event = Some(LastEvent { kind: kind.name(), happened_at, received_at });
    }

    /// A delivery was refused.
    pub(super) fn refused(&self, refusal: Refusal) {
        add(&mut self.counts().refused, refusal.name());
    }

    /// A poll ended like this.
    pub(super) fn polled(&self, outcome: &'static str) {
        add(&mut self.counts().polls, outcome);
    }

    /// The stream was heard to its end.
    pub(super) fn heard(&self) {
        self.counts().heard = Some(Instant::now());
    }

    /// A good token of the transmitter has come.
    pub(super) fn token_came(&self) {
        self.counts().received_at = Some(Instant::now());
    }

    /// The transmitter told the state of the stream.
    pub(super) fn streams(&self, status: StreamStatus) {
        self.counts().stream = Some(status);
    }

    /// Something went wrong.
    pub(super) fn failed(&self, what: &dyn Display, now: UnixTime) {
        self.counts().last_error = Some(LastError::of(what, now));
    }

    /// The numbers, with those that `previous` receivers of this issuer counted.
    pub(super) fn after(previous: &Self) -> Self {
        Self(Mutex::new(previous.counts().clone()))
    }

    /// The state under `rules`, which have been in force since `began`.
    pub(super) fn status(
        &self,
        rules: &EventRules,
        marks: &Marks,
        began: Instant,
        now: UnixTime,
    ) -> Status {
        let counts = self.counts().clone();
        let heard = match (&rules.verification, &rules.delivery) {
            // What is polled in vain may be a stream that is not fed.
            (Some(_), _) => Some(counts.received_at.unwrap_or(began)),
            (None, Delivery::Poll { .. }) => Some(counts.heard.unwrap_or(began)),
            (None, Delivery::Push { .. }) => None,
        };
        Status {
            delivery: rules.delivery.label(),
            store: if rules.shared.is_some() { "redis" } else { "memory" },
            entries: marks.entries(),
            capacity: rules.capacity,
            full: marks.no_room(now).is_some(),
            unheard: false,
            unreadable: 0,
            lag_seconds: heard.map(|it| it.elapsed().as_secs()),
            stream: counts.stream.map(StreamStatus::name),
            last_event: counts.last_event,
            last_error: counts.last_error,
            received: all::<Outcome>(&counts.received),
            refused: all::<Refusal>(&counts.refused),
            polls: counts.polls,
        }
    }
}

fn add(counts: &mut BTreeMap<&'static str, u64>, label: &'static str) {
    let count = counts.entry(label).or_default();
    *count = count.saturating_add(1);
}

/// A count for each label, so that the first of its kind is seen to be more than none.
fn all<T: Words>(counts: &BTreeMap<&'static str, u64>) -> BTreeMap<&'static str, u64> {
    let count = |it: &&'static str| (*it, counts.get(it).copied().unwrap_or_default());
    T::NAMES.iter().map(count).collect()
}

impl From<&Effect> for Outcome {
    fn from(effect: &Effect) -> Self {
        match effect {
            Effect::Revokes { partly: None, .. } => Self::Revoking,
            Effect::Verifies | Effect::Streams(_) => Self::Stream,
            Effect::Nothing => Self::Harmless,
            Effect::Foreign | Effect::OtherStream => Self::Foreign,
            Effect::Revokes { partly: Some(_), .. } | Effect::Unmapped { .. } => Self::Unmapped,
            Effect::Unknown => Self::Unknown,
        }
    }
}

impl From<BadEvents> for Refusal {
    fn from(bad: BadEvents) -> Self {
        Self::named(bad.name()).unwrap_or(Self::Malformed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fault_of_a_token_is_counted_by_its_own_name() {
        for bad in BadEvents::all() {
            assert_eq!(Refusal::from(bad).name(), bad.name());
        }
    }
}
