//! A rate limit for log lines, so that a flood of denials does not become a flood of lines.

use std::sync::atomic::{AtomicU64, Ordering};
use tokio::time::Instant;

/// A limit on the number of events per second.
#[derive(Debug)]
pub struct RateLimit {
    most: u32,
    since: Instant,
    /// The present second in the upper half, the events in it so far in the lower.
    seen: AtomicU64,
}

/// Whether one event is within its [`RateLimit`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Allowance {
    /// It is.
    Within {
        /// How many events were over the limit in the last second that had any.
        untold: u32,
    },
    /// It is over the limit.
    Exceeded,
}

impl Allowance {
    /// The answer where there is no limit.
    pub const UNLIMITED: Self = Self::Within { untold: 0 };
}

impl RateLimit {
    /// Allows `most` events in each second, and at least one.
    pub fn of(most: u32) -> Self {
        Self { most, since: Instant::now(), seen: AtomicU64::new(0) }
    }

    /// Counts one event at `now`.
    pub fn take(&self, now: Instant) -> Allowance {
        let second = now.saturating_duration_since(self.since).as_secs() & u64::from(u32::MAX);
        let next = |seen: u64| {
            // Threads may see a new second start at slightly different times.
            if seen >> 32 < second { second << 32 | 1 } else { seen.saturating_add(1) }
        };
        let (Ok(before) | Err(before)) =
            self.seen.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |it| Some(next(it)));
        let (seen_second, count) = halves(before);
        if u64::from(seen_second) < second {
            Allowance::Within { untold: count.saturating_sub(self.most) }
        } else if count < self.most {
            Allowance::UNLIMITED
        } else {
            Allowance::Exceeded
        }
    }
}

fn halves(seen: u64) -> (u32, u32) {
    let half = |bits: u64| u32::try_from(bits & u64::from(u32::MAX)).unwrap_or(u32::MAX);
    (half(seen >> 32), half(seen))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[tokio::test(start_paused = true)]
    async fn each_second_has_its_limit_and_what_exceeds_it_is_counted() {
        let rate_limit = RateLimit::of(3);
        let within = |untold| Allowance::Within { untold };
        let take = |millis| rate_limit.take(rate_limit.since + Duration::from_millis(millis));
        assert_eq!([0, 1, 999].map(take), [within(0); 3]);
        assert_eq!([999, 999].map(take), [Allowance::Exceeded; 2]);
        assert_eq!([1000, 1000, 1999].map(take), [within(2), within(0), within(0)]);
        assert_eq!(take(1999), Allowance::Exceeded);
        // A late thread counts towards the present second.
        assert_eq!(take(999), Allowance::Exceeded);
        assert_eq!(take(60_000), within(2));
        assert_eq!(take(61_000), within(0));
    }
}
