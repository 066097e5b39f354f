//! Calls in flight: one per token, shared by all checks that ask about it.

use super::Shared;
use super::answers::Finding;
use super::breaker::{Breaker, Permit, Signal};
use super::call::Question;
use super::failure::Failure;
use super::pace::Pace;
use super::places::{Place, Places};
use super::rank::{Rank, TurnedAway};
use crate::state::token_cache::{Digest, Seeded};
use std::collections::HashMap;
use std::sync::Arc;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

/// The state of a call that all checks of one token share.
#[derive(Clone, Debug)]
pub(super) enum Call {
    UnderWay,
    Ended(Finding),
    /// It failed, for this reason in words.
    Failed(Arc<str>),
    /// It failed for want of time.
    TooLate,
    /// No request was sent.
    TurnedAway(TurnedAway),
}

/// Calls in flight or waiting for a place, by token.
pub(super) type Calls = HashMap<Digest, watch::Receiver<Call>, Seeded>;

/// The limits on calls. All configurations with the same endpoint share them, so that a reload
/// neither forgets that an issuer must be spared nor doubles its load.
#[derive(Debug, Default)]
pub(super) struct Load {
    pub(super) breaker: Breaker,
    pub(super) pace: Pace,
    pub(super) places: Places,
}

/// A waiting or running call. Its result is published on drop, so that a panic or abort ends it
/// too.
pub(super) struct Running {
    pub(super) shared: Arc<Shared>,
    pub(super) digest: Digest,
    pub(super) rank: Rank,
    pub(super) permit: Permit,
    pub(super) place: Place,
    pub(super) tell: watch::Sender<Call>,
    pub(super) ended: Option<Result<Finding, Failure>>,
}

impl Load {
    /// A permit for a call about this token, which starts as soon as there is a place.
    pub(super) fn permit(
        &mut self,
        rank: Rank,
        digest: &Digest,
        now: Instant,
    ) -> Result<Permit, TurnedAway> {
        if !self.pace.allows(rank, now) {
            return Err(TurnedAway::RateLimited);
        }
        let permit = self.breaker.permit(rank, digest, now).ok_or(TurnedAway::BreakerOpen)?;
        self.pace.called(rank, now);
        Ok(permit)
    }

    /// Records the result of a call. Returns whether that opened or closed the breaker.
    fn ended(&mut self, permit: Permit, digest: &Digest, signal: Signal, now: Instant) -> bool {
        match signal {
            Signal::Limits(retry_after) => self.pace.limited(retry_after, now),
            Signal::Answers | Signal::Fails => self.pace.answered(now),
            Signal::Nothing => {}
        }
        self.breaker.ended(permit, digest, signal, now)
    }
}

impl Running {
    /// Waits for a place and makes the call, until the `deadline`.
    pub(super) async fn run(mut self, question: Question, deadline: Instant) {
        if let Place::Awaited(given) = &mut self.place {
            // A call that starts shortly before the deadline would time out.
            let least = self.shared.caller.rules.upkeep.timeout.checked_div(4);
            let latest = least.and_then(|it| deadline.checked_sub(it)).unwrap_or(deadline);
            if !matches!(timeout_at(latest, given).await, Ok(Ok(()))) {
                self.ended = Some(Err(Failure::Busy));
                return;
            }
            self.place = Place::Taken;
        }
        self.ended = Some(self.shared.caller.ask(question, deadline).await);
    }

    /// Whether a place must be given back. It may have been granted at the last moment.
    fn has_place(&mut self) -> bool {
        match &mut self.place {
            Place::Taken => true,
            Place::Awaited(given) => {
                given.close();
                given.try_recv().is_ok()
            }
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let (has_place, ended) = (self.has_place(), self.ended.take());
        let shared = &*self.shared;
        let ended = ended.unwrap_or(Err(Failure::Aborted));
        let signal = match &ended {
            Ok(_) => Signal::Answers,
            Err(failure) => failure.signal(),
        };
        match &ended {
            Ok(finding) => shared.remember(self.digest, finding),
            Err(_) if signal != Signal::Nothing => shared.answers.failed(self.digest, self.rank),
            Err(_) => {}
        }
        let now = Instant::now();
        let (turned, breaker) = {
            drop(shared.calls().remove(&self.digest));
            let mut load = shared.load();
            if has_place {
                load.places.leave();
            }
            let turned = load.ended(self.permit, &self.digest, signal, now);
            (turned, load.breaker.label(now))
        };
        let issuer = &*shared.caller.issuer.name;
        if turned {
            tracing::warn!(issuer, breaker, "introspection circuit breaker");
        }
        let call = match ended {
            Ok(finding) => {
                shared.report().ended(finding.label());
                Call::Ended(finding)
            }
            Err(Failure::Busy) => Call::TurnedAway(TurnedAway::Busy),
            Err(failure) => {
                let words: Arc<str> = failure.to_string().into();
                let at = shared.caller.clock.now();
                if shared.report().failed(failure.label(), &words, at, now) {
                    tracing::warn!(issuer, error = &*words, "introspection failed");
                }
                if failure.is_late() { Call::TooLate } else { Call::Failed(words) }
            }
        };
        self.tell.send_replace(call);
    }
}
