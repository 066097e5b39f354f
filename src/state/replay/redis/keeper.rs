//! Knows how to stay in touch with Redis: the task that connects, watches, and connects again.

use super::link::{CONNECT, Link};
use super::rules::RedisRules;
use super::{PREFIX, Shared};
use crate::randomness;
use redis::{Cmd, ErrorKind, RedisError, RedisResult, Value};
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
                    self.shared.link.send_replace(Some(link));
                    let failure = self.watch().await;
                    self.shared.link.send_replace(None);
                    if STEADY < since.elapsed() {
                        failures = 0;
                    }
                    failure
                }
                Err(failure) => failure,
            };
            tracing::warn!(error = %failure, failures, "replay store not reached");
            sleep(pause(failures, randomness::luck())).await;
            failures = failures.saturating_add(1);
        }
    }

    /// A connection over which records can be made: not to a replica, nor to a Redis that is full
    /// or loading, nor as a user who may not write.
    async fn connect(&self) -> RedisResult<Link> {
        let open = async {
            let link = Link::open(&self.rules).await?;
            try_out(&link).await?;
            Ok(link)
        };
        timeout(CONNECT, open).await.unwrap_or_else(|_| Err(late()))
    }

    /// Waits until records can be made no longer, and says why.
    async fn watch(&self) -> RedisError {
        loop {
            let next = Instant::now().checked_add(CALM).unwrap_or_else(Instant::now);
            tokio::select! {
                () = sleep_until(next) => (),
                () = self.shared.suspect.notified() => (),
            }
            let Some(link) = self.shared.link.borrow().clone() else {
                return RedisError::from((ErrorKind::Io, "connection lost"));
            };
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
        }
    }
}

/// Makes a record.
async fn try_out(link: &Link) -> RedisResult<()> {
    let mut command = Cmd::new();
    command.arg("SET").arg(format!("{PREFIX}probe")).arg(1).arg("PX").arg(1000);
    let answer = link.clone().send(&command).await?;
    if answer == Value::Okay {
        Ok(())
    } else {
        Err(RedisError::from((ErrorKind::UnexpectedReturnType, "odd answer")))
    }
}

fn late() -> RedisError {
    RedisError::from((ErrorKind::Io, "late answer"))
}

/// The time between two attempts: it doubles up to a limit, and chance takes up to half of it, so
/// that replicas do not come back all at once.
fn pause(failures: u32, luck: u8) -> Duration {
    let factor = 2_u32.saturating_pow(failures.min(16));
    let longest = FIRST_PAUSE.saturating_mul(factor).min(LAST_PAUSE);
    let off = longest.saturating_mul(luck.into()).checked_div(512).unwrap_or_default();
    longest.saturating_sub(off)
}

/// A dead connection is noticed within so long, even when nobody uses it.
const CALM: Duration = Duration::from_secs(1);

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
        for (failures, luck, millis) in [
            (0, 0, 50),
            (0, 255, 25),
            (1, 0, 100),
            (5, 0, 1600),
            (6, 0, 2000),
            (6, 255, 1003),
            (u32::MAX, 0, 2000),
        ] {
            assert_eq!(pause(failures, luck).as_millis(), millis, "{failures} {luck}");
        }
    }
}
