//! Knows when a server that fails is left alone: pure functions of what happened and of the time.

use std::time::Duration;
use tokio::time::Instant;

/// Lets calls through, until too many in a row have failed; then one at a time to try again.
#[derive(Debug, Default)]
pub(super) struct Breaker {
    failures: u32,
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    until: Instant,
    span: Duration,
    trial: bool,
}

/// The permission to make one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Permit {
    /// One of many.
    Call,
    /// The one that tries whether the server has come back.
    Trial,
}

/// What the end of a call tells about the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Told {
    /// It answers.
    Answers,
    /// It does not, or it answers nobody.
    Fails,
    /// Nothing, since it was not asked.
    Nothing,
}

impl Breaker {
    /// The permission to make a call, if there is one now. Its end must be told.
    pub(super) fn permit(&mut self, now: Instant) -> Option<Permit> {
        let Some(open) = &mut self.open else { return Some(Permit::Call) };
        if open.trial || now < open.until {
            return None;
        }
        open.trial = true;
        Some(Permit::Trial)
    }

    /// Takes note of how a call ended. Says whether that opened or closed it.
    pub(super) fn ended(&mut self, permit: Permit, told: Told, now: Instant) -> bool {
        match told {
            Told::Answers => std::mem::take(self).open.is_some(),
            Told::Fails => self.failed(permit, now),
            Told::Nothing => {
                if let (Some(open), Permit::Trial) = (&mut self.open, permit) {
                    open.trial = false;
                }
                false
            }
        }
    }

    fn failed(&mut self, permit: Permit, now: Instant) -> bool {
        self.failures = self.failures.saturating_add(1);
        match (&mut self.open, permit) {
            (None, _) if self.failures < THRESHOLD => false,
            (None, _) => {
                self.open = Some(Open { until: after(now, FIRST), span: FIRST, trial: false });
                true
            }
            (Some(open), Permit::Trial) => {
                let span = open.span.saturating_mul(2).min(LAST);
                *open = Open { until: after(now, span), span, trial: false };
                false
            }
            // It began before the others failed, and tells nothing new.
            (Some(_), Permit::Call) => false,
        }
    }

    /// As the status names its state.
    pub(super) fn label(&self, now: Instant) -> &'static str {
        match &self.open {
            None => "closed",
            Some(open) if open.trial || open.until <= now => "half_open",
            Some(_) => "open",
        }
    }
}

fn after(now: Instant, span: Duration) -> Instant {
    now.checked_add(span).unwrap_or(now)
}

/// So many failures in a row are no chance.
const THRESHOLD: u32 = 5;

/// A server that restarts is back about then.
const FIRST: Duration = Duration::from_secs(1);

/// Nobody should wait longer for a server that has come back.
const LAST: Duration = Duration::from_secs(30);

#[cfg(test)]
mod tests {
    use super::*;

    /// One whose calls have failed so often.
    fn failed(times: u32, now: Instant) -> Breaker {
        let mut breaker = Breaker::default();
        for _ in 0..times {
            breaker.ended(Permit::Call, Told::Fails, now);
        }
        breaker
    }

    #[test]
    fn it_opens_at_the_fifth_failure_in_a_row() {
        let now = Instant::now();
        assert_eq!(failed(4, now).permit(now), Some(Permit::Call));
        assert_eq!(failed(5, now).permit(now), None);
        let mut interrupted = failed(4, now);
        interrupted.ended(Permit::Call, Told::Answers, now);
        assert!(!interrupted.ended(Permit::Call, Told::Fails, now));
        assert_eq!(interrupted.permit(now), Some(Permit::Call));
    }

    #[test]
    fn when_its_time_is_over_it_tries_once_at_a_time() {
        let now = Instant::now();
        let mut breaker = failed(5, now);
        assert_eq!(breaker.label(now), "open");
        assert_eq!(breaker.permit(now + Duration::from_millis(999)), None);
        let later = now + Duration::from_secs(1);
        assert_eq!(breaker.permit(later), Some(Permit::Trial));
        assert_eq!(breaker.permit(later), None, "one trial is under way");
        assert_eq!(breaker.label(later), "half_open");
        breaker.ended(Permit::Trial, Told::Nothing, later);
        assert_eq!(breaker.permit(later), Some(Permit::Trial), "the server was not asked");
        assert!(breaker.ended(Permit::Trial, Told::Answers, later));
        assert_eq!(breaker.permit(later), Some(Permit::Call));
        assert_eq!(breaker.label(later), "closed");
    }

    #[test]
    fn each_trial_that_fails_doubles_the_time_up_to_half_a_minute() {
        let mut now = Instant::now();
        let mut breaker = failed(5, now);
        for span in [1, 2, 4, 8, 16, 30, 30] {
            let span = Duration::from_secs(span);
            assert_eq!(breaker.permit(now + span - Duration::from_millis(1)), None, "{span:?}");
            now += span;
            assert_eq!(breaker.permit(now), Some(Permit::Trial), "{span:?}");
            assert!(!breaker.ended(Permit::Trial, Told::Fails, now));
        }
    }

    #[test]
    fn calls_that_began_before_it_opened_do_not_prolong_it() {
        let now = Instant::now();
        let mut breaker = failed(5, now);
        for _ in 0..100 {
            breaker.ended(Permit::Call, Told::Fails, now + Duration::from_millis(900));
        }
        assert_eq!(breaker.permit(now + Duration::from_secs(1)), Some(Permit::Trial));
    }
}
