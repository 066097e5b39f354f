//! One call for all who ask about one token, from the wait for a place to its end.

use super::Shared;
use super::answers::Finding;
use super::breaker::{Breaker, Permit, Signal};
use super::call::{Failure, Question};
use super::pace::Pace;
use super::places::{Place, Places};
use super::rank::{Rank, TurnedAway};
use crate::state::token_cache::{Digest, Seeded};
use std::collections::HashMap;
use std::sync::Arc;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

/// A call for all who ask about one token.
#[derive(Clone, Debug)]
pub(super) enum Call {
    UnderWay,
    Ended(Finding),
    Failed,
    /// The issuer was not asked.
    TurnedAway(TurnedAway),
}

/// The calls that are under way or wait for a place, by their tokens.
pub(super) type Calls = HashMap<Digest, watch::Receiver<Call>, Seeded>;

/// Whether more calls may be made, and how many at once. All configurations under which an issuer
/// is asked in the same place share it, so that a reload neither lets go of an issuer that is to be
/// spared nor asks it twice as much.
#[derive(Debug, Default)]
pub(super) struct Load {
    pub(super) breaker: Breaker,
    pub(super) pace: Pace,
    pub(super) places: Places,
}

/// A call that waits for its place or runs. Its end is told however it comes about: a panic and an
/// abort drop this, too.
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
    /// Whether a call about this token may begin as soon as there is a place.
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

    /// Takes note of how a call ended. Says whether that opened or closed the breaker.
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
    /// Asks as soon as there is a place, and has done by the `deadline`.
    pub(super) async fn run(mut self, question: Question, deadline: Instant) {
        if let Place::Awaited(given) = &mut self.place {
            // To begin when the time is nearly over is to ask in vain.
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

    /// Whether a place must be given back. It may have come at the last moment.
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
                if shared.report().failed(&failure, shared.caller.clock.now(), now) {
                    tracing::warn!(issuer, error = %failure, "token not introspected");
                }
                Call::Failed
            }
        };
        self.tell.send_replace(call);
    }
}
