//! The clock. No other file reads the wall clock.

use keybound_core::UnixTime;
use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A source of the current time. Read once per check.
pub trait Clock: fmt::Debug + Send + Sync {
    /// The current time.
    fn now(&self) -> UnixTime;

    /// The current time in nanoseconds since the epoch, for traces only.
    fn unix_nanos(&self) -> u64 {
        u64::try_from(self.now().as_millis()).unwrap_or(0).saturating_mul(1_000_000)
    }
}

/// The machine's clock.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemClock;

impl SystemClock {
    /// Whether it is set to a time after 1970. Before that, the HTTP library cannot write a date,
    /// and no token is valid.
    pub fn is_set() -> bool {
        UnixTime::default() < Self.now()
    }
}

impl Clock for SystemClock {
    fn now(&self) -> UnixTime {
        UnixTime::default().saturating_add(since_the_epoch())
    }

    fn unix_nanos(&self) -> u64 {
        u64::try_from(since_the_epoch().as_nanos()).unwrap_or(u64::MAX)
    }
}

#[expect(clippy::disallowed_methods, reason = "the one place that reads the clock")]
fn since_the_epoch() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// A clock that stands still, for `explain --at` and for tests.
#[derive(Clone, Copy, Debug)]
pub struct FixedClock(pub UnixTime);

impl Clock for FixedClock {
    fn now(&self) -> UnixTime {
        self.0
    }
}
