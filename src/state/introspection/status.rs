//! The status of introspection at one issuer, for metrics and the admin page.

use super::breaker::State;
use super::rank::{Rank, TurnedAway};
use crate::state::refreshes::LastError;
use crate::state::waits::after;
use keybound_core::UnixTime;
use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// The state of introspection at one issuer, without secrets.
#[derive(Clone, Debug, Serialize)]
pub struct Status {
    /// The issuer.
    pub issuer: String,
    /// The number of calls in flight.
    pub in_flight: usize,
    /// The number of waiting calls.
    pub waiting: usize,
    /// The number of tokens cached as active.
    pub active_entries: usize,
    /// The number of tokens cached as refused.
    pub refused_entries: usize,
    /// `closed` (calls are made), `open` (none is) or `half_open` (one tries).
    pub breaker: &'static str,
    /// By cause, which tokens are turned away without a call: none (0), those that were not active
    /// before (1), or those that were, too (2).
    pub shedding: BTreeMap<&'static str, u8>,
    /// The last failure, even if calls have succeeded since.
    pub last_error: Option<LastError>,
    /// Calls by outcome.
    pub calls: BTreeMap<&'static str, u64>,
    /// Checks that were turned away without a call, or before its end, by cause.
    pub turned_away: BTreeMap<&'static str, u64>,
}

impl Status {
    /// Outcomes of calls and of checks that were turned away.
    pub fn outcomes(&self) -> impl Iterator<Item = (&'static str, u64)> {
        self.calls.iter().chain(&self.turned_away).map(|(outcome, total)| (*outcome, *total))
    }
}

/// Counters of outcomes.
#[derive(Debug, Default)]
pub(super) struct Report {
    pub(super) last_error: Option<LastError>,
    /// The last failure, in the words of [`last_error`](Self::last_error).
    pub(super) last_words: Option<Arc<str>>,
    pub(super) calls: BTreeMap<&'static str, u64>,
    pub(super) turned_away: BTreeMap<&'static str, u64>,
    /// When tokens were last turned away for lack of capacity: those that were active before, and
    /// others.
    shed: BTreeMap<&'static str, [Option<Instant>; 2]>,
    failure_told: Told,
    shedding_told: Told,
}

/// A rate limit for log lines with the same text.
#[derive(Debug, Default)]
struct Told {
    at: Option<Instant>,
    since: u64,
}

impl Told {
    /// The number of events that this line stands for; `None` if it is not to be logged.
    fn tell(&mut self, now: Instant) -> Option<u64> {
        self.since = self.since.saturating_add(1);
        if self.at.is_some_and(|it| now < after(it, SILENCE)) {
            return None;
        }
        self.at = Some(now);
        Some(std::mem::take(&mut self.since))
    }
}

impl Report {
    pub(super) fn ended(&mut self, label: &'static str) {
        count(&mut self.calls, label);
    }

    /// Records a check that was turned away. Returns the count to log, if a line is due.
    pub(super) fn turned_away(&mut self, rank: Rank, why: TurnedAway, now: Instant) -> Option<u64> {
        count(&mut self.turned_away, why.label());
        if !why.is_for_want_of_room() {
            return None;
        }
        let [known, others] = self.shed.entry(why.label()).or_default();
        *(if rank == Rank::Known { known } else { others }) = Some(now);
        self.shedding_told.tell(now)
    }

    /// The failure on account of which a check is turned away, if one is.
    pub(super) fn behind(&self, why: TurnedAway) -> Option<Arc<str>> {
        match why {
            TurnedAway::FailedBefore | TurnedAway::BreakerOpen => self.last_words.clone(),
            TurnedAway::Busy | TurnedAway::RateLimited | TurnedAway::Late => None,
        }
    }

    /// Records a failure, and returns whether to log it.
    pub(super) fn failed(
        &mut self,
        label: &'static str,
        words: &Arc<str>,
        at: UnixTime,
        now: Instant,
    ) -> bool {
        self.ended(label);
        self.last_error = Some(LastError::of(&words, at));
        self.last_words = Some(Arc::clone(words));
        self.failure_told.tell(now).is_some()
    }

    /// Which tokens were just turned away, by cause. An open breaker turns away all that would
    /// come.
    pub(super) fn shedding(&self, breaker: State, now: Instant) -> BTreeMap<&'static str, u8> {
        let lately = |it: &Option<Instant>| it.is_some_and(|it| now < after(it, SILENCE));
        let shed = |why: TurnedAway| match self.shed.get(why.label()) {
            Some([known, _]) if lately(known) => 2,
            Some([_, others]) if lately(others) => 1,
            Some(_) | None => 0,
        };
        let open = match breaker {
            State::Closed => 0,
            State::OpenToKnown => 1,
            State::Open => 2,
        };
        let causes = TurnedAway::ALL.into_iter().filter(|it| it.is_for_want_of_room());
        let level = |why| if why == TurnedAway::BreakerOpen { open } else { shed(why) };
        causes.map(|why| (why.label(), level(why))).collect()
    }
}

fn count(counts: &mut BTreeMap<&'static str, u64>, label: &'static str) {
    let count = counts.entry(label).or_default();
    *count = count.saturating_add(1);
}

/// The least time between two log lines of the same kind about one endpoint.
const SILENCE: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_counted_each_and_logged_once_in_a_while() {
        let (mut report, start) = (Report::default(), Instant::now());
        let mut failed = |seconds| {
            let now = start + Duration::from_secs(seconds);
            report.failed("jwt_missing", &"no JWT".into(), UnixTime::from_secs(7), now)
        };
        assert!(failed(0));
        assert!(!failed(0));
        assert!(!failed(9));
        assert!(failed(10));
        assert!(!failed(19));
        assert_eq!(report.calls["jwt_missing"], 5);
    }

    #[test]
    fn who_is_turned_away_is_told_once_in_a_while_with_their_number() {
        let (mut report, start) = (Report::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        let told = [(0, Some(1)), (1, None), (9, None), (10, Some(3)), (11, None)];
        for (seconds, expected) in told {
            let found = report.turned_away(Rank::New, TurnedAway::Busy, at(seconds));
            assert_eq!(found, expected, "{seconds}");
        }
        for why in [TurnedAway::Late, TurnedAway::FailedBefore] {
            assert_eq!(report.turned_away(Rank::New, why, at(99)), None, "it is not for others");
        }
        assert_eq!(report.turned_away["busy"], 5);
    }

    #[test]
    fn the_status_says_whom_it_hits() {
        let (mut report, start) = (Report::default(), Instant::now());
        report.turned_away(Rank::New, TurnedAway::Busy, start);
        report.turned_away(Rank::Returning, TurnedAway::RateLimited, start);
        report.turned_away(Rank::Known, TurnedAway::RateLimited, start);
        report.turned_away(Rank::Known, TurnedAway::Late, start);
        let levels = |breaker, seconds| {
            let found = report.shedding(breaker, start + Duration::from_secs(seconds));
            assert_eq!(found.len(), 3);
            ["breaker_open", "busy", "rate_limited"].map(|it| found[it])
        };
        assert_eq!(levels(State::Closed, 9), [0, 1, 2]);
        assert_eq!(levels(State::OpenToKnown, 9), [1, 1, 2]);
        assert_eq!(levels(State::Open, 10), [2, 0, 0]);
    }
}
