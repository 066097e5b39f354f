//! The task that connects to Redis, watches the connection, and connects again.

use super::link::{CONNECT, Link};
use super::record::Record;
use super::rules::RedisRules;
use super::{Shared, Unavailable, count, look, runs_no_script, set};
use crate::clock::{Clock, SystemClock};
use crate::randomness;
use crate::state::waits::{after, doubled};
use redis::{ErrorKind, RedisError, RedisResult};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep, sleep_until, timeout};

/// Keeps up the connection to one Redis.
#[derive(Debug)]
pub(super) struct Keeper {
    rules: RedisRules,
    shared: Arc<Shared>,
}

impl Keeper {
    pub(super) const fn new(rules: RedisRules, shared: Arc<Shared>) -> Self {
        Self { rules, shared }
    }

    /// Connects, watches, and connects again, for ever.
    pub(super) async fn run(self) {
        let mut failures = 0;
        loop {
            let since = Instant::now();
            let failure = match self.connect().await {
                Ok(link) => {
                    tracing::info!(cluster = self.rules.cluster, "replay store reached");
                    drop(self.shared.link.send_replace(Ok(link)));
                    let failure = self.watch().await;
                    if STEADY < since.elapsed() {
                        failures = 0;
                    }
                    failure
                }
                Err(failure) => failure,
            };
            drop(self.shared.link.send_replace(Err(Unavailable::of(&failure))));
            tracing::warn!(error = %failure, failures, "replay store not reached");
            sleep(pause(failures, randomness::jitter())).await;
            failures = failures.saturating_add(1);
        }
    }

    /// A connection over which records can be made: not to a replica, nor to a Redis that is full
    /// or loading, nor as a user who may not write.
    async fn connect(&self) -> RedisResult<Link> {
        let open = async {
            let link = Link::open(&self.rules).await?;
            try_out(&link).await?;
            self.try_script(&link).await?;
            Ok(link)
        };
        timeout(CONNECT, open).await.unwrap_or_else(|_| Err(late()))
    }

    /// Finds out whether the share of a client can be made to hold.
    async fn try_script(&self, link: &Link) -> RedisResult<()> {
        match count(link, &Record::probe(), usize::MAX).await {
            Ok(_) => self.shared.start_counting(),
            Err(failure) if runs_no_script(&failure) => self.shared.stop_counting(&failure),
            Err(failure) => return Err(failure),
        }
        Ok(())
    }

    /// Finds out whether the share of a client can be made to hold by now: rights are given while
    /// this is connected, and before Redis 7 a script that meets a short fault fails like one that
    /// may not run. A failure says nothing else: whether records can be made is seen elsewhere.
    async fn try_script_again(&self, link: &Link) {
        match timeout(PATIENCE, self.try_script(link)).await {
            Ok(Ok(())) => (),
            Ok(Err(failure)) => tracing::debug!(error = %failure, "client's share not tried"),
            Err(_) => tracing::debug!("client's share not tried in time"),
        }
    }

    /// Waits until records can be made no longer, and says why.
    async fn watch(&self) -> RedisError {
        let mut look_at = Instant::now();
        loop {
            // What is known of it is said by `doubt`, which may have given it up.
            let Ok(link) = self.shared.link.borrow().clone() else {
                return RedisError::from((ErrorKind::Io, "connection lost"));
            };
            if look_at <= Instant::now() {
                look_at = after(Instant::now(), LOOK_AGAIN);
                self.look(&link).await;
            }
            if !self.shared.counts() {
                self.try_script_again(&link).await;
            }
            let tried = timeout(PATIENCE, try_out(&link)).await.unwrap_or_else(|_| Err(late()));
            match tried {
                Ok(()) => (),
                // One of its servers being away is no reason to do without the others.
                Err(failure) if link.heals() => {
                    tracing::warn!(error = %failure, "replay store partly out of reach");
                    sleep(CALM).await;
                }
                Err(failure) => return failure,
            }
            tokio::select! {
                () = sleep_until(after(Instant::now(), CALM)) => (),
                () = self.shared.suspect.notified() => (),
            }
        }
    }

    /// Looks at what is wrong with Redis otherwise. A look that fails says nothing: whether records
    /// can be made is seen elsewhere.
    async fn look(&self, link: &Link) {
        match timeout(PATIENCE, look::at(link, || SystemClock.now())).await {
            Ok(Ok(found)) => self.shared.found(&found),
            Ok(Err(failure)) => tracing::debug!(error = %failure, "replay store not looked at"),
            Err(_) => tracing::debug!("replay store not looked at in time"),
        }
    }
}

/// Makes a record.
async fn try_out(link: &Link) -> RedisResult<()> {
    set(link, &Record::probe()).await.map(drop)
}

fn late() -> RedisError {
    RedisError::from((ErrorKind::Io, "late answer"))
}

/// The time between two attempts: it doubles up to a limit, and chance takes up to half of it, so
/// that replicas do not come back all at once.
fn pause(failures: u32, jitter: u8) -> Duration {
    let longest = doubled(FIRST_PAUSE, failures, LAST_PAUSE);
    let off = longest.saturating_mul(jitter.into()).checked_div(512).unwrap_or_default();
    longest.saturating_sub(off)
}

/// A dead connection is noticed within so long, even when nobody uses it.
const CALM: Duration = Duration::from_secs(1);

/// So long after a look at its settings there is another.
const LOOK_AGAIN: Duration = Duration::from_secs(300);

/// Longer than Redis stands still to fork, so that it is not deserted for that.
const PATIENCE: Duration = Duration::from_millis(500);

/// A connection that was lost sooner counts as a failure.
const STEADY: Duration = Duration::from_secs(10);

const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LAST_PAUSE: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pause_doubles_up_to_a_limit_and_chance_takes_up_to_half() {
        for (failures, jitter, millis) in [
            (0, 0, 50),
            (0, 255, 25),
            (1, 0, 100),
            (5, 0, 1600),
            (6, 0, 2000),
            (6, 255, 1003),
            (u32::MAX, 0, 2000),
        ] {
            assert_eq!(pause(failures, jitter).as_millis(), millis, "{failures} {jitter}");
        }
    }
}
