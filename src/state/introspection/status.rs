//! Knows what is told about the introspection at an issuer, to people and to metrics.

use super::call::Failure;
use crate::clock::UnixTime;
use crate::state::jwks::LastError;
use serde::Serialize;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time::Instant;

/// The state of the introspection at one issuer. It holds nothing secret.
#[derive(Clone, Debug, Serialize)]
pub struct Status {
    /// The issuer.
    pub issuer: String,
    /// How many calls are under way.
    pub in_flight: usize,
    /// How many tokens are remembered as active.
    pub active_entries: usize,
    /// How many tokens are remembered as refused.
    pub refused_entries: usize,
    /// `closed` (calls are made), `open` (none is) or `half_open` (one tries).
    pub breaker: &'static str,
    /// The last failure, also when calls have gone well since.
    pub last_error: Option<LastError>,
    /// How many calls ended in which way.
    pub calls: BTreeMap<&'static str, u64>,
    /// How many checks were refused without a call, or before its end, and why.
    pub turned_away: BTreeMap<&'static str, u64>,
}

/// What has happened so far.
#[derive(Debug, Default)]
pub(super) struct Report {
    pub(super) last_error: Option<LastError>,
    pub(super) calls: BTreeMap<&'static str, u64>,
    pub(super) turned_away: BTreeMap<&'static str, u64>,
    told_at: Option<Instant>,
}

impl Report {
    pub(super) fn ended(&mut self, label: &'static str) {
        count(&mut self.calls, label);
    }

    pub(super) fn turned_away(&mut self, label: &'static str) {
        count(&mut self.turned_away, label);
    }

    /// Takes note of a failure, and says whether it is worth a line in the log: one in a while is.
    pub(super) fn failed(&mut self, failure: &Failure, at: UnixTime, now: Instant) -> bool {
        self.ended(failure.label());
        self.last_error = Some(LastError { what: failure.to_string(), at: at.as_secs() });
        let due = self.told_at.is_none_or(|it| SILENCE <= now.saturating_duration_since(it));
        if due {
            self.told_at = Some(now);
        }
        due
    }
}

fn count(counts: &mut BTreeMap<&'static str, u64>, label: &'static str) {
    let count = counts.entry(label).or_default();
    *count = count.saturating_add(1);
}

/// The time between two lines in the log about failures of one endpoint.
const SILENCE: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_counted_each_and_logged_once_in_a_while() {
        let (mut report, start) = (Report::default(), Instant::now());
        let mut failed = |seconds| {
            let now = start + Duration::from_secs(seconds);
            report.failed(&Failure::JwtMissing, UnixTime::from_secs(7), now)
        };
        assert!(failed(0));
        assert!(!failed(0));
        assert!(!failed(9));
        assert!(failed(10));
        assert!(!failed(19));
        assert_eq!(report.calls["jwt_missing"], 5);
    }
}
