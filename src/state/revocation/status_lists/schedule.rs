//! When status lists are fetched and how long they are used: pure functions of what the issuer said, of
//! past results and of the time.

use crate::state::waits::doubled;
use std::time::Duration;

/// What an issuer says of the life of a list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Life {
    /// The `ttl` of the list.
    pub(super) ttl: Option<Duration>,
    /// How long the response may be cached, by its headers.
    pub(super) cached: Option<Duration>,
    /// What is left until its `exp`.
    pub(super) left: Option<Duration>,
    /// How long it is used at most, if no fetch succeeds any more.
    pub(super) usable: Duration,
}

/// The time until the next planned fetch after a successful one. `jitter` shortens it by up to a tenth.
///
/// A list is fetched more often than its issuer asks for where that is seldom: this bounds the time
/// from a revocation to the refusal.
pub(super) fn next_refresh(life: Life, jitter: u8) -> Duration {
    let cached = life.cached.map(|it| it.max(SHORTEST_CACHED));
    let proposed = life.ttl.map(|it| it.max(SHORTEST)).or(cached).unwrap_or(USUAL);
    // Twice before it becomes useless, so that one failure does no harm.
    let half = life.usable.checked_div(2).unwrap_or_default();
    let planned = proposed.min(LONGEST).min(half);
    let planned = planned.saturating_sub(share(planned, 10, jitter));
    let before_end = life.left.map(|it| it.saturating_mul(3).checked_div(4).unwrap_or_default());
    planned.min(before_end.unwrap_or(Duration::MAX)).max(FIRST_RETRY)
}

/// The time until the next attempt after `failures` in a row: it doubles from one to sixty seconds, and
/// `jitter` shortens it by up to a half.
pub(super) fn next_retry(failures: u32, jitter: u8) -> Duration {
    let delay = doubled(FIRST_RETRY, failures.saturating_sub(1), LAST_RETRY);
    delay.saturating_sub(share(delay, 2, jitter))
}

/// How long a list is used after it was last confirmed: an hour, or its `ttl` where that is longer, but
/// not longer than the keys of the same issuer would be.
pub(super) fn usable(ttl: Option<Duration>, max_stale: Duration) -> Duration {
    ttl.unwrap_or_default().max(STALE).min(max_stale)
}

/// Whether nobody needs a list that was last used `unused` ago, if there `is_one` at all.
pub(super) fn is_forgotten(unused: Duration, is_one: bool) -> bool {
    (if is_one { UNUSED } else { UNUSED_AND_MISSING }) <= unused
}

/// The fraction `jitter`/255 of a `part`-th of `span`.
fn share(span: Duration, part: u32, jitter: u8) -> Duration {
    let whole = u32::from(u8::MAX).saturating_mul(part);
    span.saturating_mul(u32::from(jitter)).checked_div(whole).unwrap_or_default()
}

/// Between two planned fetches, where the list has a `ttl`.
const SHORTEST: Duration = Duration::from_secs(5);

/// The same by the headers of the response alone: many servers forbid all caching without a thought.
const SHORTEST_CACHED: Duration = Duration::from_secs(30);

/// Where the issuer says nothing.
const USUAL: Duration = Duration::from_secs(60);

/// While the issuer can be reached, a revoked token is accepted for at most this long.
const LONGEST: Duration = Duration::from_secs(300);

const STALE: Duration = Duration::from_secs(3600);

const FIRST_RETRY: Duration = Duration::from_secs(1);
const LAST_RETRY: Duration = Duration::from_secs(60);

/// A list that no token named for so long is dropped.
const UNUSED: Duration = Duration::from_secs(3600);

/// The same for one that could never be fetched.
const UNUSED_AND_MISSING: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: u64 = 3600;

    const fn secs(it: u64) -> Duration {
        Duration::from_secs(it)
    }

    fn life(ttl: Option<u64>, cached: Option<u64>, left: Option<u64>) -> Life {
        let [ttl, cached, left] = [ttl, cached, left].map(|it| it.map(secs));
        Life { ttl, cached, left, usable: secs(HOUR) }
    }

    #[test]
    fn the_issuer_proposes_and_the_bounds_dispose() {
        for (ttl, cached, left, expected) in [
            (None, None, None, 60),
            (Some(1), None, None, 5),
            (Some(5), None, None, 5),
            (Some(6), None, None, 6),
            (Some(300), None, None, 300),
            (Some(301), None, None, 300),
            (Some(43_200), None, None, 300),
            (Some(u64::MAX), None, None, 300),
            (None, Some(0), None, 30),
            (None, Some(31), None, 31),
            (None, Some(31_536_000), None, 300),
            (Some(10), Some(3600), None, 10),
            (Some(120), Some(0), None, 120),
            (Some(300), None, Some(400), 300),
            (Some(300), None, Some(399), 299),
            (Some(300), None, Some(40), 30),
            (Some(300), None, Some(0), 1),
        ] {
            let found = next_refresh(life(ttl, cached, left), 0).as_secs();
            assert_eq!(found, expected, "{ttl:?} {cached:?} {left:?}");
        }
        let brief = Life { usable: secs(61), ..life(Some(300), None, None) };
        assert_eq!(next_refresh(brief, 0), Duration::from_millis(30_500));
    }

    #[test]
    fn jitter_makes_a_refresh_earlier() {
        assert_eq!(next_refresh(life(Some(300), None, None), 255), secs(270));
        assert_eq!(next_refresh(life(None, None, None), 51), Duration::from_millis(58_800));
    }

    #[test]
    fn failures_double_the_delay_up_to_a_minute() {
        let delays: Vec<_> = (1..=8).map(|it| next_retry(it, 0).as_secs()).collect();
        assert_eq!(delays, [1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(next_retry(u32::MAX, 255), secs(30));
    }

    #[test]
    fn a_list_is_used_for_an_hour_or_its_ttl_but_not_longer_than_keys() {
        let day = secs(24 * HOUR);
        for (ttl, max_stale, expected) in [
            (None, day, HOUR),
            (Some(60), day, HOUR),
            (Some(HOUR + 1), day, HOUR + 1),
            (Some(48 * HOUR), day, 24 * HOUR),
            (None, secs(61), 61),
        ] {
            assert_eq!(usable(ttl.map(secs), max_stale), secs(expected), "{ttl:?}");
        }
    }

    #[test]
    fn what_nobody_needs_is_forgotten() {
        for (unused, is_one, expected) in
            [(3599, true, false), (3600, true, true), (59, false, false), (60, false, true)]
        {
            assert_eq!(is_forgotten(secs(unused), is_one), expected, "{unused} {is_one}");
        }
    }
}
