//! The circuit breaker of an introspection endpoint: pure functions of past results and the time.
//!
//! One token can make a server fail, and anybody can make up tokens. So failures count once per
//! token, any answer clears them all, and only a period of nothing but failures is an outage.
//! Tokens that were active before have a circuit of their own, which other tokens cannot open.

use super::rank::Rank;
use crate::state::token_cache::Digest;
use crate::state::waits::{after, doubled};
use std::collections::VecDeque;
use std::time::Duration;
use tokio::time::Instant;

/// A circuit breaker: it opens after a period of nothing but failures, and then permits one trial
/// at a time.
#[derive(Debug)]
pub(super) struct Breaker {
    /// For tokens that were active before. Only their failures count.
    known: Circuit,
    /// For all other tokens. The failures of all tokens count.
    others: Circuit,
}

#[derive(Debug)]
struct Circuit {
    spans: Spans,
    /// The tokens that failed since the last answer, most recent last.
    failed: VecDeque<Digest>,
    /// When the first of them failed.
    since: Option<Instant>,
    open: Option<Open>,
}

#[derive(Debug)]
struct Open {
    until: Instant,
    span: Duration,
    trial: bool,
}

/// How long an open circuit blocks calls.
#[derive(Clone, Copy, Debug)]
struct Spans {
    first: Duration,
    /// Each failed trial doubles the duration up to this.
    last: Duration,
}

/// A permit for one call, whose end must be reported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Permit {
    known: bool,
    /// The call is a trial of an open circuit.
    trial: bool,
}

/// What the result of a call says about the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Signal {
    /// It answers.
    Answers,
    /// It does not answer, or rejects our credentials.
    Fails,
    /// It limits our calls, and may say how long to make none.
    Limits(Option<Duration>),
    /// Nothing, since no request was sent.
    Nothing,
}

/// Which tokens may cause calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum State {
    /// All.
    Closed,
    /// Tokens that were active before, and one trial at a time for others.
    OpenToKnown,
    /// One at a time.
    Open,
}

impl Default for Breaker {
    fn default() -> Self {
        Self { known: Circuit::new(KNOWN_SPANS), others: Circuit::new(OTHER_SPANS) }
    }
}

impl Breaker {
    /// A permit for a call about this token, if it may be made now.
    pub(super) fn permit(&mut self, rank: Rank, digest: &Digest, now: Instant) -> Option<Permit> {
        let known = rank == Rank::Known;
        let circuit = if known { &mut self.known } else { &mut self.others };
        circuit.permit(rank, digest, now).map(|trial| Permit { known, trial })
    }

    /// Records the result of a call. Returns whether that changed the state.
    pub(super) fn ended(
        &mut self,
        permit: Permit,
        digest: &Digest,
        signal: Signal,
        now: Instant,
    ) -> bool {
        let before = self.state();
        let (own, other) = if permit.known {
            (&mut self.known, Some(&mut self.others))
        } else {
            (&mut self.others, None)
        };
        match signal {
            Signal::Answers => *self = Self::default(),
            // A rate limit used up by other tokens is no outage; one that blocks tokens that were
            // active before is.
            Signal::Limits(_) if !permit.known => own.untried(permit.trial),
            Signal::Fails | Signal::Limits(_) => {
                own.fails(digest, permit.trial, now);
                if let Some(other) = other {
                    other.fails(digest, false, now);
                }
            }
            Signal::Nothing => own.untried(permit.trial),
        }
        before != self.state()
    }

    /// Which tokens it lets through.
    pub(super) const fn state(&self) -> State {
        match (&self.known.open, &self.others.open) {
            (None, None) => State::Closed,
            (None, Some(_)) => State::OpenToKnown,
            (Some(_), _) => State::Open,
        }
    }

    /// The name of its state in the status.
    pub(super) fn label(&self, now: Instant) -> &'static str {
        let open = self.known.open.as_ref().or(self.others.open.as_ref());
        match open {
            None => "closed",
            Some(open) if open.trial || open.until <= now => "half_open",
            Some(_) => "open",
        }
    }
}

impl Circuit {
    const fn new(spans: Spans) -> Self {
        Self { spans, failed: VecDeque::new(), since: None, open: None }
    }

    /// Whether a call may be made, and whether it is a trial.
    fn permit(&mut self, rank: Rank, digest: &Digest, now: Instant) -> Option<bool> {
        let Some(open) = &mut self.open else { return Some(false) };
        // Tokens that failed before try last, so that one bad token does not use up every trial;
        // and first-time tokens try after returning ones.
        let wait = if self.failed.contains(digest) {
            open.span
        } else if rank == Rank::New {
            open.span.checked_div(2).unwrap_or_default()
        } else {
            Duration::ZERO
        };
        if open.trial || now < after(open.until, wait) {
            return None;
        }
        open.trial = true;
        Some(true)
    }

    fn fails(&mut self, digest: &Digest, trial: bool, now: Instant) {
        if !self.failed.contains(digest) {
            self.failed.push_back(*digest);
            if REMEMBERED < self.failed.len() {
                self.failed.pop_front();
            }
        }
        let since = *self.since.get_or_insert(now);
        match &mut self.open {
            Some(open) if trial => {
                let span = doubled(open.span, 1, self.spans.last);
                *open = Open { until: after(now, span), span, trial: false };
            }
            // This call started before the circuit opened and says nothing new.
            Some(_) => {}
            None => {
                if THRESHOLD <= self.failed.len() && after(since, AT_LEAST) <= now {
                    let span = self.spans.first;
                    self.open = Some(Open { until: after(now, span), span, trial: false });
                }
            }
        }
    }

    /// No request was sent, so another token may make the trial.
    const fn untried(&mut self, trial: bool) {
        if let (Some(open), true) = (&mut self.open, trial) {
            open.trial = false;
        }
    }
}

/// The number of different tokens that must fail.
const THRESHOLD: usize = 5;

/// How long there must have been nothing but failures. A flood of tokens at which the server fails
/// leaves gaps in which good ones are answered.
const AT_LEAST: Duration = Duration::from_secs(2);

/// The number of failed tokens that are remembered.
const REMEMBERED: usize = 16;

/// The time that a restart takes; after recovery no check should wait much longer.
const KNOWN_SPANS: Spans = Spans { first: Duration::from_secs(1), last: Duration::from_secs(8) };

/// Unknown tokens must not prolong the outage, and five calls a second harm no server.
const OTHER_SPANS: Spans =
    Spans { first: Duration::from_millis(200), last: Duration::from_millis(200) };

#[cfg(test)]
mod tests {
    use super::*;
    use keybound_core::jose::Thumbprint;

    const MILLISECOND: Duration = Duration::from_millis(1);

    fn token(number: u64) -> Digest {
        Thumbprint::of(&number.to_le_bytes()).into()
    }

    /// Lets a call about a token end so. It must be permitted.
    fn call(
        breaker: &mut Breaker,
        rank: Rank,
        token: Digest,
        signal: Signal,
        now: Instant,
    ) -> bool {
        let permit = breaker.permit(rank, &token, now).unwrap();
        breaker.ended(permit, &token, signal, now)
    }

    /// One of which five different tokens of this rank have failed, the last of them after two
    /// seconds; and when that was.
    fn opened(rank: Rank) -> (Breaker, Instant) {
        let (mut breaker, start) = (Breaker::default(), Instant::now());
        let end = after(start, AT_LEAST);
        for (number, now) in [(0, start), (1, start), (2, start), (3, start), (4, end)] {
            let opens = call(&mut breaker, rank, token(number), Signal::Fails, now);
            assert_eq!(opens, number == 4);
        }
        (breaker, end)
    }

    /// Of which token, after how many milliseconds, and how it ended.
    type Call = (u64, u64, Signal);

    #[test]
    fn it_opens_when_five_tokens_have_failed_and_nothing_else_came_for_two_seconds() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let table: [(&str, &[Call], State); 7] = [
            (
                "four tokens",
                &[
                    (1, 0, Signal::Fails),
                    (2, 0, Signal::Fails),
                    (3, 0, Signal::Fails),
                    (4, 2000, Signal::Fails),
                    (4, 9000, Signal::Fails),
                ],
                State::Closed,
            ),
            (
                "five, in less than two seconds",
                &[
                    (1, 0, Signal::Fails),
                    (2, 0, Signal::Fails),
                    (3, 0, Signal::Fails),
                    (4, 0, Signal::Fails),
                    (5, 1999, Signal::Fails),
                ],
                State::Closed,
            ),
            (
                "five",
                &[
                    (1, 0, Signal::Fails),
                    (2, 0, Signal::Fails),
                    (3, 0, Signal::Fails),
                    (4, 0, Signal::Fails),
                    (5, 2000, Signal::Fails),
                ],
                State::OpenToKnown,
            ),
            (
                "five, and then the first again",
                &[
                    (1, 0, Signal::Fails),
                    (2, 0, Signal::Fails),
                    (3, 0, Signal::Fails),
                    (4, 0, Signal::Fails),
                    (5, 0, Signal::Fails),
                    (1, 2000, Signal::Fails),
                ],
                State::OpenToKnown,
            ),
            (
                "an answer in between",
                &[
                    (1, 0, Signal::Fails),
                    (2, 0, Signal::Fails),
                    (3, 0, Signal::Fails),
                    (4, 1000, Signal::Answers),
                    (4, 1001, Signal::Fails),
                    (5, 2000, Signal::Fails),
                    (6, 2000, Signal::Fails),
                    (7, 2000, Signal::Fails),
                    (8, 3000, Signal::Fails),
                ],
                State::Closed,
            ),
            (
                "one token, again and again",
                &[
                    (1, 0, Signal::Fails),
                    (1, 1000, Signal::Fails),
                    (1, 2000, Signal::Fails),
                    (1, 3000, Signal::Fails),
                    (1, 4000, Signal::Fails),
                    (1, 5000, Signal::Fails),
                ],
                State::Closed,
            ),
            (
                "what the server limits, and what it was not asked",
                &[
                    (1, 0, Signal::Limits(None)),
                    (2, 0, Signal::Limits(None)),
                    (3, 0, Signal::Nothing),
                    (4, 0, Signal::Nothing),
                    (5, 2000, Signal::Fails),
                    (6, 4000, Signal::Limits(None)),
                ],
                State::Closed,
            ),
        ];
        for (what, calls, expected) in table {
            let mut breaker = Breaker::default();
            for (number, millis, signal) in calls {
                call(&mut breaker, Rank::New, token(*number), *signal, at(*millis));
            }
            assert_eq!(breaker.state(), expected, "{what}");
        }
    }

    #[test]
    fn other_tokens_cannot_shut_out_those_that_were_active() {
        let (mut breaker, now) = opened(Rank::New);
        assert_eq!(breaker.state(), State::OpenToKnown);
        assert_eq!(breaker.permit(Rank::New, &token(9), now), None);
        for number in 10..20 {
            let permit = breaker.permit(Rank::Known, &token(number), now);
            assert_eq!(permit, Some(Permit { known: true, trial: false }));
        }
        assert!(call(&mut breaker, Rank::Known, token(10), Signal::Answers, now));
        assert_eq!(breaker.state(), State::Closed, "any answer closes it for all");

        let (breaker, _) = opened(Rank::Known);
        assert_eq!(breaker.state(), State::Open, "their own failures do");
        let (mut breaker, start) = (Breaker::default(), Instant::now());
        for number in 0..5 {
            let now = start + AT_LEAST * number;
            call(&mut breaker, Rank::Known, token(number.into()), Signal::Limits(None), now);
        }
        assert_eq!(breaker.state(), State::Open, "and so does a limit that is in their way");
    }

    #[test]
    fn when_its_time_is_over_it_tries_once_at_a_time() {
        let (mut breaker, now) = opened(Rank::Known);
        let known = |breaker: &mut Breaker, number, now| {
            breaker.permit(Rank::Known, &token(number), now).is_some()
        };
        assert_eq!(breaker.label(now), "open");
        let later = now + KNOWN_SPANS.first;
        assert!(!known(&mut breaker, 7, later - MILLISECOND));
        let trial = breaker.permit(Rank::Known, &token(7), later).unwrap();
        assert!(trial.trial);
        assert!(!known(&mut breaker, 8, later), "one trial is under way");
        assert_eq!(breaker.label(later), "half_open");
        assert!(!breaker.ended(trial, &token(7), Signal::Nothing, later));
        let trial = breaker.permit(Rank::Known, &token(8), later).unwrap();
        assert!(breaker.ended(trial, &token(8), Signal::Answers, later));
        assert!(known(&mut breaker, 7, later) && known(&mut breaker, 8, later));
        assert_eq!(breaker.label(later), "closed");
    }

    #[test]
    fn each_trial_that_fails_doubles_the_time_for_those_that_were_active_and_for_no_others() {
        let (mut breaker, mut now) = opened(Rank::Known);
        for (number, span) in [(100, 1), (101, 2), (102, 4), (103, 8), (104, 8)] {
            let span = Duration::from_secs(span);
            let early = now + span - MILLISECOND;
            assert_eq!(breaker.permit(Rank::Known, &token(number), early), None, "{span:?}");
            now += span;
            assert!(!call(&mut breaker, Rank::Known, token(number), Signal::Fails, now));
        }
        let (mut breaker, mut now) = opened(Rank::New);
        for number in 100..110 {
            let early = now + Duration::from_millis(199);
            assert_eq!(breaker.permit(Rank::Returning, &token(number), early), None);
            now += Duration::from_millis(200);
            assert!(!call(&mut breaker, Rank::Returning, token(number), Signal::Fails, now));
        }
    }

    #[test]
    fn one_token_cannot_take_every_trial() {
        let (mut breaker, now) = opened(Rank::New);
        let may = |breaker: &Breaker, rank, number, millis| {
            let now = now + Duration::from_millis(millis);
            let mut circuit = Circuit {
                failed: breaker.others.failed.clone(),
                open: breaker.others.open.as_ref().map(|it| Open { trial: false, ..*it }),
                ..Circuit::new(OTHER_SPANS)
            };
            circuit.permit(rank, &token(number), now).is_some()
        };
        let poison = 4;
        for (rank, number, due) in [
            (Rank::Returning, 9, 200),
            (Rank::New, 9, 300),
            (Rank::New, poison, 400),
            (Rank::Returning, poison, 400),
        ] {
            assert!(!may(&breaker, rank, number, due - 1), "{rank:?} {number}");
            assert!(may(&breaker, rank, number, due), "{rank:?} {number}");
        }
        call(&mut breaker, Rank::Returning, token(9), Signal::Fails, now + OTHER_SPANS.first);
        assert!(!may(&breaker, Rank::Returning, 9, 599), "it has failed now, too");
    }

    #[test]
    fn calls_that_began_before_it_opened_do_not_prolong_it() {
        let (mut breaker, now) = opened(Rank::Known);
        let before = Permit { known: true, trial: false };
        for number in 0..100 {
            let late = now + Duration::from_millis(900);
            assert!(!breaker.ended(before, &token(number), Signal::Fails, late));
        }
        let due = now + KNOWN_SPANS.first;
        assert!(breaker.permit(Rank::Known, &token(1000), due).is_some());
        assert!(breaker.known.failed.len() <= REMEMBERED, "and what is remembered is bounded");
    }
}
