//! The task that connects to Redis, checks the connection, and reconnects.

use super::link::{CONNECT, Link};
use super::record::Record;
use super::rules::RedisRules;
use super::{Shared, Unavailable, count, look, runs_no_script, set, told};
use crate::clock::{Clock, SystemClock};
use crate::randomness;
use crate::state::waits::{after, doubled};
use redis::{ErrorKind, RedisError, RedisResult};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep, sleep_until, timeout};

/// Keeps the connection to one Redis alive.
#[derive(Debug)]
pub(super) struct Keeper {
    rules: RedisRules,
    shared: Arc<Shared>,
}

impl Keeper {
    pub(super) const fn new(rules: RedisRules, shared: Arc<Shared>) -> Self {
        Self { rules, shared }
    }

    /// Connects, watches the connection and reconnects. It never returns.
    pub(super) async fn run(self) {
        let mut failures = 0;
        loop {
            let since = Instant::now();
            let failure = match self.connect().await {
                Ok(link) => {
                    let (cluster, master) = (link.heals(), link.named());
                    tracing::info!(cluster, master, "replay store connected");
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
            tracing::warn!(error = %told(&failure), failures, "replay store not connected");
            sleep(pause(failures, randomness::jitter())).await;
            failures = failures.saturating_add(1);
        }
    }

    /// A connection that can make records: not to a replica, nor to a Redis that is full or
    /// loading, nor as a user who may not write.
    async fn connect(&self) -> RedisResult<Link> {
        let open = async {
            let link = Link::open(&self.rules).await?;
            try_out(&link).await?;
            self.try_script(&link).await?;
            Ok(link)
        };
        timeout(CONNECT, open).await.unwrap_or_else(|_| Err(late()))
    }

    /// Tests whether the limit per client can be enforced.
    async fn try_script(&self, link: &Link) -> RedisResult<()> {
        match count(link, &Record::probe(), usize::MAX).await {
            Ok(_) => self.shared.start_counting(),
            Err(failure) if runs_no_script(&failure) => self.shared.stop_counting(&failure),
            Err(failure) => return Err(failure),
        }
        Ok(())
    }

    /// Tests again whether the limit per client can be enforced. Rights may be granted while
    /// connected, and before Redis 7 a script that hits a transient error fails like one that may
    /// not run. Other failures are ignored here, since writes are tested elsewhere.
    async fn try_script_again(&self, link: &Link) {
        match timeout(PATIENCE, self.try_script(link)).await {
            Ok(Ok(())) => (),
            Ok(Err(failure)) => tracing::debug!(error = %failure, "limit per client not tested"),
            Err(_) => tracing::debug!("limit per client not tested in time"),
        }
    }

    /// Waits until records can no longer be made, and returns why.
    async fn watch(&self) -> RedisError {
        let mut look_at = Instant::now();
        let mut ask_at = after(Instant::now(), CALM);
        loop {
            // The reason was set by `doubt`, which may have dropped the connection.
            let Ok(link) = self.shared.link.borrow().clone() else {
                return RedisError::from((ErrorKind::Io, "connection lost"));
            };
            if ask_at <= Instant::now() {
                ask_at = after(Instant::now(), CALM);
                if let Err(failure) = link.still_leads().await {
                    return failure;
                }
            }
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
                // One missing server is no reason to leave the others.
                Err(failure) if link.heals() => {
                    tracing::warn!(error = %failure, "replay store partly unreachable");
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

    /// Checks the settings and the clock of Redis. A failure is ignored here, since writes are
    /// tested elsewhere.
    async fn look(&self, link: &Link) {
        match timeout(PATIENCE, look::at(link, || SystemClock.now())).await {
            Ok(Ok(found)) => self.shared.found(&found),
            Ok(Err(failure)) => tracing::debug!(error = %failure, "replay store not inspected"),
            Err(_) => tracing::debug!("replay store not inspected in time"),
        }
    }
}

/// Makes a test record.
async fn try_out(link: &Link) -> RedisResult<()> {
    set(link, &Record::probe()).await.map(drop)
}

fn late() -> RedisError {
    RedisError::from((ErrorKind::Io, "late answer"))
}

/// The delay before the next attempt. It doubles up to a limit, and jitter takes off up to a half,
/// so that replicas do not reconnect all at once.
fn pause(failures: u32, jitter: u8) -> Duration {
    let longest = doubled(FIRST_PAUSE, failures, LAST_PAUSE);
    let off = longest.saturating_mul(jitter.into()).checked_div(512).unwrap_or_default();
    longest.saturating_sub(off)
}

/// How soon a dead connection is noticed, even if unused.
const CALM: Duration = Duration::from_secs(1);

/// The time between two checks of its settings.
const LOOK_AGAIN: Duration = Duration::from_secs(300);

/// Longer than Redis pauses to fork, so that a fork does not cause a reconnect.
const PATIENCE: Duration = Duration::from_millis(500);

/// A connection that lasts less than this counts as a failure.
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
