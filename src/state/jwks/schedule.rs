//! When keys are fetched and how long they may be used: pure functions of past results and the
//! time.
//!
//! Durations are measured on the monotonic clock, so that a step of the wall clock neither drops
//! good keys nor keeps withdrawn ones.

use super::rules::KeyUpkeep;
use crate::state::waits::doubled;
use std::time::Duration;
use tokio::time::Instant;

/// The time until the next planned fetch after a successful one. The issuer proposes `lifetime`.
///
/// `jitter` shortens it by up to a tenth, so that replicas that started together drift apart.
pub(super) fn next_refresh(lifetime: Option<Duration>, upkeep: &KeyUpkeep, jitter: u8) -> Duration {
    let proposed = lifetime.unwrap_or(upkeep.refresh_default).min(upkeep.refresh_max);
    proposed.saturating_sub(share(proposed, 10, jitter)).max(upkeep.refresh_min)
}

/// The time until the next planned fetch after `failures` in a row: it doubles from one to sixty
/// seconds, and `jitter` shortens it by up to a half.
pub(super) fn next_retry(failures: u32, upkeep: &KeyUpkeep, jitter: u8) -> Duration {
    let last = LAST_RETRY.min(upkeep.refresh_max.max(FIRST_RETRY));
    let delay = doubled(FIRST_RETRY, failures.saturating_sub(1), last);
    delay.saturating_sub(share(delay, 2, jitter))
}

/// Whether an unknown `kid` may cause a fetch, if the last fetch of this kind ended at `last`.
pub(super) fn may_ask(last: Option<Instant>, cooldown: Duration, now: Instant) -> bool {
    last.is_none_or(|it| cooldown <= now.saturating_duration_since(it))
}

/// Whole seconds until an unknown `kid` may cause a fetch, and at least one.
pub(super) fn ask_again(last: Option<Instant>, cooldown: Duration, now: Instant) -> u64 {
    let passed = last.map_or(cooldown, |it| now.saturating_duration_since(it));
    let left = cooldown.saturating_sub(passed);
    left.as_secs().saturating_add(u64::from(0 < left.subsec_nanos())).max(1)
}

/// How much longer keys may be used that the issuer confirmed `age` ago; `None` if they are too
/// old.
pub(super) fn time_left(age: Duration, upkeep: &KeyUpkeep) -> Option<Duration> {
    upkeep.max_stale.checked_sub(age).filter(|it| !it.is_zero())
}

/// Whether a 304 is accepted for a document that was last read `age` ago.
///
/// Not for ever: a server or cache that always answers 304 would keep a withdrawn key alive.
pub(super) fn may_be_unchanged(age: Duration, upkeep: &KeyUpkeep) -> bool {
    age < upkeep.max_stale
}

/// Whether discovery is repeated before a fetch, when its result is `age` old.
///
/// A token with an unknown key, or a failure, may mean that the keys moved.
pub(super) fn must_discover(age: Option<Duration>, asked: bool, failures: u32) -> bool {
    asked || 0 < failures || age.is_none_or(|it| METADATA_KEPT <= it)
}

/// The fraction `jitter`/255 of a `part`-th of `span`.
fn share(span: Duration, part: u32, jitter: u8) -> Duration {
    let whole = u32::from(u8::MAX).saturating_mul(part);
    span.saturating_mul(u32::from(jitter)).checked_div(whole).unwrap_or_default()
}

const FIRST_RETRY: Duration = Duration::from_secs(1);
const LAST_RETRY: Duration = Duration::from_secs(60);

/// Issuers hardly ever move their keys, and one request an hour costs them nothing.
const METADATA_KEPT: Duration = Duration::from_secs(3600);

#[cfg(test)]
mod tests {
    use super::*;

    fn upkeep() -> KeyUpkeep {
        KeyUpkeep::default()
    }

    const fn secs(it: u64) -> Duration {
        Duration::from_secs(it)
    }

    #[test]
    fn the_issuer_proposes_and_the_bounds_dispose() {
        for (lifetime, expected) in [
            (None, 300),
            (Some(0), 30),
            (Some(29), 30),
            (Some(30), 30),
            (Some(31), 31),
            (Some(3599), 3599),
            (Some(3600), 3600),
            (Some(3601), 3600),
            (Some(31_536_000), 3600),
            (Some(u64::MAX), 3600),
        ] {
            let found = next_refresh(lifetime.map(secs), &upkeep(), 0);
            assert_eq!(found, secs(expected), "{lifetime:?}");
        }
    }

    #[test]
    fn jitter_makes_a_refresh_earlier_but_never_too_early() {
        assert_eq!(next_refresh(Some(secs(3600)), &upkeep(), 255), secs(3240));
        assert_eq!(next_refresh(Some(secs(33)), &upkeep(), 255), secs(30));
        assert_eq!(next_refresh(None, &upkeep(), 51), secs(294));
    }

    #[test]
    fn failures_double_the_delay_up_to_a_minute() {
        let delays: Vec<_> = (1..=9).map(|it| next_retry(it, &upkeep(), 0).as_secs()).collect();
        assert_eq!(delays, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
        assert_eq!(next_retry(u32::MAX, &upkeep(), 0), secs(60));
        assert_eq!(next_retry(u32::MAX, &upkeep(), 255), secs(30));
    }

    #[test]
    fn a_retry_comes_no_later_than_a_refresh_would() {
        let upkeep = KeyUpkeep { refresh_max: secs(10), ..upkeep() };
        assert_eq!(next_retry(9, &upkeep, 0), secs(10));
        let upkeep = KeyUpkeep { refresh_max: Duration::ZERO, ..upkeep };
        assert_eq!(next_retry(9, &upkeep, 0), secs(1));
    }

    #[test]
    fn an_unknown_key_may_ask_once_per_cooldown() {
        let last = Instant::now();
        let millis = |it| last + Duration::from_millis(it);
        for (now, expected) in [(0, false), (1, false), (9_999, false), (10_000, true)] {
            assert_eq!(may_ask(Some(last), secs(10), millis(now)), expected, "{now} ms");
        }
        assert!(may_ask(None, secs(10), last));
        assert!(!may_ask(Some(millis(5)), secs(10), last), "the future is not long ago");
    }

    #[test]
    fn who_may_not_ask_is_told_when_to_come_again() {
        let last = Instant::now();
        let millis = |it| last + Duration::from_millis(it);
        for (now, expected) in [(0, 10), (1, 10), (5_000, 5), (9_500, 1), (10_000, 1), (99_000, 1)]
        {
            assert_eq!(ask_again(Some(last), secs(10), millis(now)), expected, "{now} ms");
        }
        assert_eq!(ask_again(None, secs(10), last), 1);
        assert_eq!(ask_again(Some(millis(5)), secs(10), last), 10, "the future is not long ago");
    }

    #[test]
    fn keys_are_used_for_so_long_and_no_longer() {
        let upkeep = KeyUpkeep { max_stale: secs(100), ..upkeep() };
        for (age, expected) in [(0, Some(100)), (99, Some(1)), (100, None), (101, None)] {
            assert_eq!(time_left(secs(age), &upkeep), expected.map(secs), "{age} s");
        }
        assert!(may_be_unchanged(secs(99), &upkeep));
        assert!(!may_be_unchanged(secs(100), &upkeep));
    }

    #[test]
    fn the_place_of_the_keys_is_looked_up_when_it_may_have_moved() {
        for (age, asked, failures, expected) in [
            (Some(0), false, 0, false),
            (Some(3599), false, 0, false),
            (Some(3600), false, 0, true),
            (None, false, 0, true),
            (Some(0), true, 0, true),
            (Some(0), false, 1, true),
        ] {
            let found = must_discover(age.map(secs), asked, failures);
            assert_eq!(found, expected, "{age:?} {asked} {failures}");
        }
    }
}
