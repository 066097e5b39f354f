//! A clock that stands still until it is told otherwise.

use keybound::clock::Clock;
use keybound_core::UnixTime;
use std::sync::Mutex;
use std::time::Duration;

/// A clock that stands still until it is told otherwise.
#[derive(Debug)]
pub(crate) struct ManualClock(Mutex<UnixTime>);

impl ManualClock {
    /// A clock that says `now`.
    pub(crate) const fn at(now: UnixTime) -> Self {
        Self(Mutex::new(now))
    }

    /// Lets it say `now` from here on.
    pub(crate) fn set(&self, now: UnixTime) {
        *self.0.lock().unwrap() = now;
    }

    /// Moves it forward by `span`.
    pub(crate) fn advance(&self, span: Duration) {
        self.set(self.now().saturating_add(span));
    }
}

impl Clock for ManualClock {
    fn now(&self) -> UnixTime {
        *self.0.lock().unwrap()
    }
}
