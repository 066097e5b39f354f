//! What is done with a token that was delivered, however it came: it is verified, what it revokes is put
//! into force and kept, and only then is it acknowledged.

use super::Bell;
use super::keeping::{Keeping, NotKept};
use super::kept::Kept;
use super::marks::{Mark, Marked, Marks, Put};
use super::report::{Outcome, Refusal, Report};
use super::rules::EventRules;
use crate::clock::Clock;
use crate::rate_limit::{Allowance, RateLimit};
use crate::state::jwks::IssuerKeys;
use keybound_core::jose::Unverified;
use keybound_core::oauth::{
    BadEvents, EVENT_BYTES, Effect, EventKind, Partly, SecurityEvent, SecurityEvents,
};
use keybound_core::policy::Issuer;
use keybound_core::{Denial, Explanation, UnixTime, signature};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// A receiver of one stream.
#[derive(Debug)]
pub(super) struct Receiver {
    /// Whose tokens are revoked.
    pub(super) issuer: Arc<Issuer>,
    /// Who signs events, as far as the verification of a signature needs to know.
    pub(super) signer: Issuer,
    pub(super) keys: Arc<IssuerKeys>,
    pub(super) rules: EventRules,
    pub(super) marks: Arc<Marks>,
    pub(super) report: Arc<Report>,
    pub(super) keeping: Keeping,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) bell: Bell,
    pub(super) lines: Lines,
}

/// How many lines of the log a stream has in a second, whatever comes.
#[derive(Debug)]
pub(super) struct Lines {
    /// About what revokes tokens.
    revoking: RateLimit,
    /// About what does not, though it may be meant to.
    other: RateLimit,
    /// About what is refused, or cannot be kept.
    failing: RateLimit,
}

impl Default for Lines {
    fn default() -> Self {
        let [revoking, other, failing] = [20, 5, 5].map(RateLimit::of);
        Self { revoking, other, failing }
    }
}

/// How many lines were left out in the last second that had too many; none where this one is.
fn untold(lines: &RateLimit) -> Option<u32> {
    match lines.take(Instant::now()) {
        Allowance::Within { untold } => Some(untold),
        Allowance::Exceeded => None,
    }
}

/// Why a token is not acknowledged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotTaken {
    /// It is not a security event token of this transmitter for us, or cannot be told to be.
    Refused(BadEvents),
    /// It is in force, but could not be kept where it was to be kept: it may be sent again.
    NotKept,
}

/// What must still be kept.
#[derive(Debug, Default)]
pub(super) struct Changes {
    /// What is revoked now that was not before.
    pub(super) marks: Vec<Marked>,
    /// Whether anything revokes tokens, new or not.
    pub(super) revoking: bool,
    /// The time of issue for whose events there is no room now.
    pub(super) passed_over: bool,
    /// Whether a token came that tells nothing but that the stream works.
    pub(super) heard: bool,
}

/// How long the keys of the transmitter are waited for.
const PATIENCE: Duration = Duration::from_secs(5);

impl Receiver {
    /// Takes one token, and returns once it may be acknowledged.
    pub(super) async fn take(&self, token: &[u8]) -> Result<(), NotTaken> {
        let mut changes = Changes::default();
        self.apply(token, &mut changes).await.map_err(NotTaken::Refused)?;
        self.keep(changes).await
    }

    /// Verifies a token and puts it into force. It may be acknowledged once `changes` are kept.
    pub(super) async fn apply(&self, token: &[u8], changes: &mut Changes) -> Result<(), BadEvents> {
        let events = self.read(token).await.inspect_err(|bad| {
            self.report.refused((*bad).into());
            let Some(untold) = untold(&self.lines.failing) else { return };
            let (issuer, cause) = (&*self.issuer.name, bad.sentence());
            tracing::warn!(issuer, cause, untold, "security event token refused");
        })?;
        // What is about another stream does not show that this one works.
        if events.events.iter().any(|it| it.effect != Effect::OtherStream) {
            self.report.token_came();
            changes.heard = true;
        }
        for event in &events.events {
            self.put(event, &events.jti, changes);
        }
        Ok(())
    }

    /// Counts and logs a push of which no token was read.
    pub(super) fn refuse_unread(&self, cause: &str) {
        self.report.refused(Refusal::Request);
        let Some(untold) = untold(&self.lines.failing) else { return };
        let issuer = &*self.issuer.name;
        tracing::warn!(issuer, cause, untold, "push refused unread");
    }

    /// Keeps what was put into force.
    pub(super) async fn keep(&self, changes: Changes) -> Result<(), NotTaken> {
        self.keeping.keep(self, changes).await.map_err(|error| {
            self.report.refused(Refusal::NotKept);
            self.not_kept(&error);
            NotTaken::NotKept
        })
    }

    /// Writes to the file what came into force otherwise than by a delivery.
    pub(super) async fn catch_up(&self) {
        if let Err(error) = self.keeping.write().await {
            self.not_kept(&error);
        }
    }

    fn not_kept(&self, error: &NotKept) {
        self.report.failed(&format_args!("events not kept: {error}"), self.clock.now());
        let Some(untold) = untold(&self.lines.failing) else { return };
        let issuer = &*self.issuer.name;
        tracing::error!(issuer, %error, untold, "events are in force but not kept: not acknowledged");
    }

    async fn read(&self, token: &[u8]) -> Result<SecurityEvents, BadEvents> {
        if EVENT_BYTES < token.len() {
            return Err(BadEvents::Malformed);
        }
        let jws = Unverified::parse(token).or(Err(BadEvents::Malformed))?;
        SecurityEvents::admit(jws.header())?;
        let header = jws.header().clone();
        let keys = self.keys.within(PATIENCE);
        let mut explanation = Explanation::default();
        let verified = signature::verify(&keys, jws, &self.signer, &mut explanation).await;
        let (verified, _) = verified.map_err(|it| {
            let unknown = it.refusal.denial == Denial::KeysUnavailable;
            if unknown { BadEvents::Keys } else { BadEvents::Signature }
        })?;
        let (from, now) = (&self.rules.transmitter, self.clock.now());
        SecurityEvents::read(&header, &verified, from, &self.issuer, now)
    }

    fn put(&self, event: &SecurityEvent, jti: &str, changes: &mut Changes) {
        let now = self.clock.now();
        self.report.received(Outcome::from(&event.effect));
        let mut is_new = false;
        match &event.effect {
            Effect::Revokes { kind, subjects, until, .. } => {
                let expires = now.saturating_add(self.rules.keep);
                let mark = Mark { until: *until, expires, kind: *kind };
                let marks = subjects.iter().map(|it| (it.key(), mark));
                is_new = self.put_all(marks, now, changes);
                self.report.revoked(*kind, *until, now);
            }
            Effect::Streams(status) => self.report.streams(*status),
            Effect::Unmapped { .. }
            | Effect::Foreign
            | Effect::OtherStream
            | Effect::Unknown
            | Effect::Verifies
            | Effect::Nothing => (),
        }
        self.tell(event, jti, is_new, now);
    }

    /// Logs what came of an event.
    fn tell(&self, event: &SecurityEvent, jti: &str, is_new: bool, now: UnixTime) {
        let (issuer, kind) = (&*self.issuer.name, event.kind.map(EventKind::name));
        let revokes = matches!(event.effect, Effect::Revokes { partly: None, .. });
        let lines = if revokes { &self.lines.revoking } else { &self.lines.other };
        let Some(untold) = untold(lines) else { return };
        match &event.effect {
            Effect::Revokes { until, partly, .. } => {
                let delay = now.since(*until).as_secs();
                tracing::info!(issuer, kind, jti, delay, is_new, untold, "event revokes tokens");
                match partly {
                    None => (),
                    Some(Partly::UserUnknown) => tracing::error!(
                        issuer,
                        kind,
                        jti,
                        "event applied IN PART: it is about a user who cannot be found in tokens, and only \
                         the session or token that it names is revoked; have the issuer name users as \
                         iss_sub"
                    ),
                    Some(Partly::ClockAhead) => tracing::error!(
                        issuer,
                        kind,
                        jti,
                        "event applied IN PART: it claims a time that is later than clock_leeway allows, and \
                         only tokens issued until the end of that are revoked; compare the clocks of the \
                         issuer and of this machine"
                    ),
                }
            }
            Effect::Unmapped { format } => {
                tracing::error!(
                    issuer,
                    kind,
                    jti,
                    format,
                    untold,
                    "event NOT applied: its subject cannot be found in tokens; have the issuer name \
                     subjects as iss_sub or by their session"
                );
            }
            Effect::Foreign => {
                tracing::warn!(
                    issuer,
                    kind,
                    jti,
                    untold,
                    "event about a subject of another issuer: ignored"
                );
            }
            Effect::OtherStream => {
                tracing::warn!(
                    issuer,
                    kind,
                    jti,
                    untold,
                    "event about another stream, or one that was not asked for: ignored"
                );
            }
            Effect::Streams(status) => {
                tracing::warn!(issuer, %status, untold, "the issuer tells the state of the event stream");
            }
            Effect::Unknown => {
                tracing::info!(issuer, jti, untold, "event of a kind that is not known");
            }
            Effect::Verifies | Effect::Nothing => {
                tracing::debug!(issuer, kind, jti, untold, "event without a consequence");
            }
        }
    }

    /// Puts marks into force, and notes them as changes that must be kept.
    fn put_all(
        &self,
        marks: impl Iterator<Item = Marked>,
        now: UnixTime,
        changes: &mut Changes,
    ) -> bool {
        let had_room = self.marks.no_room(now).is_none();
        let (mut is_new, mut pending) = (false, self.keeping.pending());
        for (subject, mark) in marks {
            changes.revoking = true;
            match self.marks.put((subject, mark), now) {
                Put::Nothing => continue,
                Put::More(mark) => {
                    if let Some(pending) = &mut pending {
                        pending.mark((subject, mark));
                    }
                    changes.marks.push((subject, mark));
                }
                Put::MoreOfAll => changes.passed_over = true,
            }
            is_new = true;
        }
        // Also where nothing is new but how long it counts.
        if let (Some(pending), Some(times)) = (&mut pending, self.marks.passed_over(now)) {
            pending.passed_over(times);
        }
        drop(pending);
        if had_room && self.marks.no_room(now).is_some() {
            let (issuer, capacity) = (&*self.issuer.name, self.rules.capacity);
            tracing::error!(
                issuer,
                capacity,
                "no room for more events: all tokens that were issued until now are refused; raise \
                 revocation.events.capacity"
            );
        }
        if is_new {
            self.bell.ring();
        }
        is_new
    }

    /// Puts into force what another replica has received.
    pub(super) fn put_shared(&self, kept: &Kept) {
        if kept.passed_over.is_some_and(|it| self.marks.pass_over(it)) {
            self.bell.ring();
        }
        let (marks, mut changes) = (kept.marks.iter().copied(), Changes::default());
        self.put_all(marks, self.clock.now(), &mut changes);
    }
}
