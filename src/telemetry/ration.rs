//! Knows how much is told in a second, so that a flood of denials costs no more than the denials.

use std::sync::atomic::{AtomicU64, Ordering};
use tokio::time::Instant;

/// So many things in each second, and no more.
#[derive(Debug)]
pub struct Ration {
    most: u32,
    since: Instant,
    /// The second, in the upper half, and how many there have been in it, in the lower.
    seen: AtomicU64,
}

/// What a [`Ration`] says of one thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Share {
    /// It may be told; and so many before it were not.
    Told {
        /// In the last second in which there were any.
        untold: u32,
    },
    /// It is one too many.
    Untold,
}

impl Share {
    /// Of what there is enough for all.
    pub const FREE: Self = Self::Told { untold: 0 };
}

impl Ration {
    /// Allows `most` in each second, and one at least.
    pub fn of(most: u32) -> Self {
        Self { most, since: Instant::now(), seen: AtomicU64::new(0) }
    }

    /// Whether one more may be told at `now`.
    pub fn take(&self, now: Instant) -> Share {
        let second = now.saturating_duration_since(self.since).as_secs() & u64::from(u32::MAX);
        let next = |seen: u64| {
            // Threads may see the turn of a second a moment apart.
            if seen >> 32 < second { second << 32 | 1 } else { seen.saturating_add(1) }
        };
        let (Ok(before) | Err(before)) =
            self.seen.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |it| Some(next(it)));
        let (seen_second, count) = halves(before);
        if u64::from(seen_second) < second {
            Share::Told { untold: count.saturating_sub(self.most) }
        } else if count < self.most {
            Share::FREE
        } else {
            Share::Untold
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
    async fn so_many_are_told_in_each_second_and_the_others_counted() {
        let ration = Ration::of(3);
        let told = |untold| Share::Told { untold };
        let take = |millis| ration.take(ration.since + Duration::from_millis(millis));
        assert_eq!([0, 1, 999].map(take), [told(0); 3]);
        assert_eq!([999, 999].map(take), [Share::Untold; 2]);
        assert_eq!([1000, 1000, 1999].map(take), [told(2), told(0), told(0)]);
        assert_eq!(take(1999), Share::Untold);
        // What a thread brings late counts to the second that is.
        assert_eq!(take(999), Share::Untold);
        assert_eq!(take(60_000), told(2));
        assert_eq!(take(61_000), told(0));
    }
}
