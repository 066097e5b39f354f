//! A rate limit for an issuer that answers 429: pure functions of past results and the time.
//!
//! There is no limit until the issuer sets one. After the first 429, calls are limited to a part of
//! the rate that it answered before. While it answers, the rate grows a little each second, and
//! more slowly near the last known limit; with the next 429 it falls again. So calls exceed the
//! issuer's limit only briefly, and there is room for tokens that were active before: they are
//! never delayed, and their calls are taken from the budget of the others.
//!
//! The rest is assigned to new tokens at random, so that each has the same chance, whenever in a
//! second it comes.

use super::rank::Rank;
use crate::state::waits::after;
use std::hash::{BuildHasher, RandomState};
use std::time::Duration;
use tokio::time::Instant;

/// The pace of calls.
#[derive(Debug, Default)]
pub(super) struct Pace {
    answered: Meter,
    /// New tokens that arrived.
    came: Meter,
    /// Calls for other tokens.
    others: Meter,
    lots: Lots,
    limit: Option<Limit>,
}

/// A rate limit.
#[derive(Debug)]
struct Limit {
    /// Calls per second.
    rate: u32,
    /// The rate at which the limit was last exceeded.
    ceiling: u32,
    /// When the next call is due. Some calls may borrow a little time.
    next: Instant,
    /// No calls until then (`Retry-After`).
    paused_until: Instant,
    /// When the rate was last reduced.
    fell_at: Instant,
    /// When a call was last held back.
    held_at: Instant,
    /// When the rate grows next.
    grows_at: Instant,
    /// The time between two growths.
    step: Duration,
}

/// Random numbers, which need not be unpredictable: whoever predicts one gains a call that answers
/// nothing.
#[derive(Debug)]
struct Lots(u64);

/// Counts of the present and the previous second.
#[derive(Debug, Default)]
struct Meter {
    since: Option<Instant>,
    now: u32,
    before: u32,
}

impl Pace {
    /// Whether a call for a token of this rank may be made now.
    pub(super) fn allows(&mut self, rank: Rank, now: Instant) -> bool {
        if self.limit.as_ref().is_some_and(|it| it.is_over(now)) {
            self.limit = None;
        }
        if rank == Rank::New {
            self.came.count(now);
        }
        let Some(limit) = &mut self.limit else { return true };
        limit.grow(now);
        let left = limit.rate.saturating_sub(self.others.rate(now));
        let drawn = rank != Rank::New || self.lots.draw(left, self.came.rate(now));
        let allowed = drawn && limit.allows(rank, now);
        if !allowed {
            limit.held_at = now;
        }
        allowed
    }

    /// Records a call for a token of this rank.
    pub(super) fn called(&mut self, rank: Rank, now: Instant) {
        if rank != Rank::New {
            self.others.count(now);
        }
        if let Some(limit) = &mut self.limit {
            limit.called(now);
        }
    }

    /// Records a call that was not rate limited.
    pub(super) fn answered(&mut self, now: Instant) {
        self.answered.count(now);
    }

    /// Records a call that was rate limited, and for how long to make none.
    pub(super) fn limited(&mut self, retry_after: Option<Duration>, now: Instant) {
        let pause = retry_after.unwrap_or_default().min(LONGEST);
        let rate = match &self.limit {
            // Calls in flight when the rate was reduced say nothing new.
            Some(limit) if now < after(limit.fell_at, SECOND) => {
                let paused_until = after(now, pause).max(limit.paused_until);
                self.limit = Some(Limit { paused_until, ..*limit });
                return;
            }
            Some(limit) => limit.rate,
            None => self.answered.rate(now),
        };
        let step = pause.max(SECOND);
        self.limit = Some(Limit {
            rate: rate.saturating_sub(rate / 4).max(1),
            ceiling: rate,
            next: self.limit.as_ref().map_or(now, |it| it.next),
            paused_until: after(now, pause),
            fell_at: now,
            held_at: now,
            grows_at: after(now, pause.saturating_add(step)),
            step,
        });
    }
}

impl Limit {
    fn is_over(&self, now: Instant) -> bool {
        after(self.held_at, self.step.saturating_mul(STEPS)) <= now
    }

    fn grow(&mut self, now: Instant) {
        while self.grows_at <= now && !self.step.is_zero() {
            self.rate = self.rate.saturating_add((self.rate / 16).max(1));
            let near = self.ceiling.saturating_sub(self.ceiling / 8)..=self.ceiling;
            let steps = if near.contains(&self.rate) { CAREFULLY } else { 1 };
            self.grows_at = after(self.grows_at, self.step.saturating_mul(steps));
        }
    }

    fn allows(&self, rank: Rank, now: Instant) -> bool {
        let ahead = match rank {
            Rank::Known => return true,
            Rank::Returning => AHEAD_AGAIN,
            Rank::New => AHEAD,
        };
        self.paused_until <= now && self.next <= after(now, ahead)
    }

    fn called(&mut self, now: Instant) {
        let span = SECOND.checked_div(self.rate).unwrap_or(SECOND);
        // Calls for known tokens delay others only briefly.
        self.next = after(self.next.max(now), span).min(after(now, SECOND));
    }
}

impl Default for Lots {
    fn default() -> Self {
        Self(RandomState::new().hash_one(0) | 1)
    }
}

impl Lots {
    /// True with probability `many`/`all`.
    fn draw(&mut self, many: u32, all: u32) -> bool {
        // Marsaglia's xorshift64.
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 32).saturating_mul(all.into()) < u64::from(many) << 32
    }
}

impl Meter {
    fn turn(&mut self, now: Instant) {
        let since = self.since.get_or_insert(now);
        let passed = now.saturating_duration_since(*since);
        if SECOND <= passed {
            self.before = if passed < SECOND.saturating_mul(2) { self.now } else { 0 };
            self.now = 0;
            *since = now;
        }
    }

    fn count(&mut self, now: Instant) {
        self.turn(now);
        self.now = self.now.saturating_add(1);
    }

    fn rate(&mut self, now: Instant) -> u32 {
        self.turn(now);
        self.now.max(self.before)
    }
}

const SECOND: Duration = Duration::from_secs(1);

/// How early a call for a new token may be, so that a burst gets its share.
const AHEAD: Duration = Duration::from_millis(125);

/// The same for a returning token: new ones never take everything.
const AHEAD_AGAIN: Duration = Duration::from_millis(200);

/// The longest pause, since others may have used up the limit.
const LONGEST: Duration = Duration::from_secs(30);

/// After this many steps without a delayed call the limit is forgotten.
const STEPS: u32 = 60;

/// Growth is this much slower near the last known limit: each time that it is exceeded, calls for
/// known tokens are rejected too.
const CAREFULLY: u32 = 16;

#[cfg(test)]
mod tests {
    use super::*;

    /// One whose issuer answered `rate` calls a second, and then limits them; and when that was.
    fn limited(rate: u32, retry_after: Option<u64>) -> (Pace, Instant) {
        let (mut pace, now) = (Pace::default(), Instant::now());
        for _ in 0..rate {
            assert!(pace.allows(Rank::New, now));
            pace.called(Rank::New, now);
            pace.answered(now);
        }
        pace.limited(retry_after.map(Duration::from_secs), now);
        (pace, now)
    }

    /// How many calls for tokens of these ranks are allowed in the second after `now`, if they come
    /// a thousand times.
    fn allowed<const N: usize>(pace: &mut Pace, ranks: [Rank; N], now: Instant) -> [u32; N] {
        let mut allowed = [0; N];
        for millis in 0..1000 {
            let now = after(now, Duration::from_millis(millis));
            for (rank, count) in ranks.iter().zip(&mut allowed) {
                if pace.allows(*rank, now) {
                    pace.called(*rank, now);
                    *count = u32::saturating_add(*count, 1);
                }
            }
        }
        allowed
    }

    #[test]
    fn without_a_limit_everybody_is_asked_about() {
        let mut pace = Pace::default();
        assert_eq!(allowed(&mut pace, Rank::ALL, Instant::now()), [1000; 3]);
    }

    #[test]
    fn with_a_limit_a_part_of_what_was_answered_is_asked() {
        let (mut pace, now) = limited(100, None);
        let [found] = allowed(&mut pace, [Rank::New], now);
        assert!((65..=85).contains(&found), "{found}");
        let (mut pace, now) = limited(0, None);
        let [found] = allowed(&mut pace, [Rank::New], now);
        assert!((1..=2).contains(&found), "one a second is always asked");
    }

    #[test]
    fn the_rate_grows_until_the_issuer_limits_it_again() {
        let (mut pace, start) = limited(64, None);
        let rate = |pace: &Pace| pace.limit.as_ref().map(|it| it.rate);
        let at = |seconds| start + Duration::from_secs(seconds);
        for (seconds, expected) in [(0, 48), (1, 51), (2, 54), (3, 57), (18, 57), (19, 60)] {
            assert!(pace.allows(Rank::Returning, at(seconds)));
            assert_eq!(rate(&pace), Some(expected), "after {seconds} s");
        }
        // Beyond the old limit there may be much more.
        for (seconds, expected) in [(35, 63), (51, 66), (52, 70), (53, 74)] {
            assert!(pace.allows(Rank::Returning, at(seconds)));
            assert_eq!(rate(&pace), Some(expected), "after {seconds} s");
        }
        pace.limited(None, at(53));
        assert_eq!(rate(&pace), Some(56));
        pace.limited(None, at(53) + Duration::from_millis(999));
        assert_eq!(rate(&pace), Some(56), "it was under way");
        pace.limited(None, at(54));
        assert_eq!(rate(&pace), Some(42));
    }

    #[test]
    fn a_limit_is_forgotten_when_it_has_held_nobody_back_for_a_minute() {
        let (mut pace, start) = limited(64, None);
        let at = |seconds| start + Duration::from_secs(seconds);
        for second in 1..50 {
            allowed(&mut pace, [Rank::New], at(second));
            assert!(pace.limit.is_some(), "it holds back some");
        }
        assert!(pace.allows(Rank::New, at(109)) && pace.limit.is_some());
        assert!(pace.allows(Rank::New, at(110)) && pace.limit.is_none());
    }

    #[test]
    fn tokens_that_come_again_go_before_new_ones_and_known_ones_before_all() {
        let (mut pace, now) = limited(40, None);
        let found = allowed(&mut pace, [Rank::New, Rank::Returning], now);
        assert!(found[0] <= 6 && 26 <= found[1], "{found:?}");
        let (mut pace, now) = limited(40, None);
        let found = allowed(&mut pace, Rank::ALL, now);
        assert!(found[0] == 1000 && found[1] <= 5 && found[2] <= 5, "{found:?}");
    }

    #[test]
    fn a_new_token_gets_its_share_also_when_it_comes_behind_a_burst() {
        let (mut pace, mut now) = limited(60, None);
        pace.lots = Lots(0x243f_6a88_85a3_08d3);
        let mut last = 0;
        for _ in 0..300 {
            // Ten bursts a second of thirty.
            now += Duration::from_millis(100);
            for place in 1..=30 {
                let allowed = pace.allows(Rank::New, now);
                if allowed {
                    pace.called(Rank::New, now);
                }
                last += u32::from(allowed && place == 30);
            }
        }
        // Of three hundred, about as many as of all others: at 45 to 60 a second a sixth.
        assert!((25..=75).contains(&last), "{last}");
    }

    #[test]
    fn while_the_issuer_wants_no_calls_only_known_tokens_are_asked_about() {
        for (retry_after, pause) in [(7, 7), (86_400, 30)] {
            let (mut pace, now) = limited(100, Some(retry_after));
            let end = now + Duration::from_secs(pause);
            let before = end - Duration::from_millis(1);
            let may = |pace: &mut Pace, now| Rank::ALL.map(|it| pace.allows(it, now));
            assert_eq!(may(&mut pace, now), [true, false, false]);
            assert_eq!(may(&mut pace, before), [true, false, false]);
            assert_eq!(may(&mut pace, end), [true; 3]);
        }
    }

    #[test]
    fn a_limit_with_a_pause_grows_no_oftener_than_the_pause_is_long() {
        let (mut pace, now) = limited(64, Some(10));
        for (seconds, expected) in [(10, 48), (19, 48), (20, 51), (30, 54)] {
            pace.allows(Rank::New, now + Duration::from_secs(seconds));
            assert_eq!(pace.limit.as_ref().map(|it| it.rate), Some(expected), "{seconds}");
        }
    }
}
