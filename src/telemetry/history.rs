//! The decisions of the last hour, minute by minute.
//!
//! They are sampled from the counters, so that checks do no work for them.

use super::metrics::Decisions;
use keybound_core::facts::{PUBLIC, RESOURCE_METADATA};
use serde::Serialize;
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio::time::Instant;

/// The number of minutes kept, including the present one.
const MINUTES: usize = 60;

/// The decisions of the last hour.
#[derive(Debug)]
pub struct History(Mutex<Kept>);

#[derive(Debug)]
struct Kept {
    since: Instant,
    /// The counters at the last sample.
    totals: BTreeMap<Key, f64>,
    /// The minutes, the present one last.
    minutes: VecDeque<BTreeMap<Key, f64>>,
    /// The present minute, counted from the start.
    minute: u64,
}

/// The decisions that a number counts.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    policy: String,
    reason: String,
    let_through: bool,
}

/// The decisions of the last hour in `/status`.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct LastHour {
    /// Decisions per minute by reason, the present minute last.
    pub reasons: BTreeMap<String, Vec<f64>>,
    /// The same for requests that policies in report mode would have denied. They are also counted
    /// as allowed.
    pub would_deny: BTreeMap<String, Vec<f64>>,
    /// Decisions by policy. The empty name stands for requests without a policy.
    pub policies: BTreeMap<String, Tally>,
}

/// The decisions of one policy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Tally {
    /// Allowed requests.
    pub allowed: f64,
    /// Denied requests.
    pub denied: f64,
    /// Allowed requests that it would have denied in enforce mode.
    pub would_deny: f64,
}

impl History {
    /// A history that begins at `since`.
    pub fn since(since: Instant) -> Self {
        let minutes = VecDeque::from([BTreeMap::new()]);
        Self(Mutex::new(Kept { since, totals: BTreeMap::new(), minutes, minute: 0 }))
    }

    /// Adds the decisions since the last sample to the minute of `now`. `totals` never decrease.
    pub fn sample(&self, totals: &[Decisions], now: Instant) {
        let mut kept = self.kept();
        kept.turn_to(now);
        let mut sums: BTreeMap<Key, f64> = BTreeMap::new();
        for it in totals {
            let Decisions { policy, reason, let_through, total } = it.clone();
            *sums.entry(Key { policy, reason, let_through }).or_default() += total;
        }
        let Kept { totals: seen, minutes, .. } = &mut *kept;
        if let Some(present) = minutes.back_mut() {
            for (key, total) in &sums {
                let more = total - seen.get(key).copied().unwrap_or_default();
                if 0.0 < more {
                    *present.entry(key.clone()).or_default() += more;
                }
            }
        }
        *seen = sums;
    }

    /// The hour that ends at `now`.
    pub fn last_hour(&self, now: Instant) -> LastHour {
        let mut kept = self.kept();
        kept.turn_to(now);
        let mut hour = LastHour::default();
        // Minutes before the start are zero.
        let first = MINUTES.saturating_sub(kept.minutes.len());
        for (place, minute) in (first..).zip(&kept.minutes) {
            for (key, decisions) in minute {
                hour.count(key, place, *decisions);
            }
        }
        hour
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl LastHour {
    fn count(&mut self, key: &Key, place: usize, decisions: f64) {
        let Key { policy, reason, let_through } = key;
        let tally = self.policies.entry(policy.clone()).or_default();
        let (rows, side) = match (let_through, reason.as_str()) {
            (true, _) => (&mut self.would_deny, Some(&mut tally.would_deny)),
            (false, "allowed" | PUBLIC) => (&mut self.reasons, Some(&mut tally.allowed)),
            (false, RESOURCE_METADATA) => (&mut self.reasons, None),
            (false, _) => (&mut self.reasons, Some(&mut tally.denied)),
        };
        if let Some(side) = side {
            *side += decisions;
        }
        let row = rows.entry(reason.clone()).or_insert_with(|| vec![0.0; MINUTES]);
        if let Some(cell) = row.get_mut(place) {
            *cell += decisions;
        }
    }
}

impl Kept {
    fn turn_to(&mut self, now: Instant) {
        let minute = now.saturating_duration_since(self.since).as_secs() / 60;
        let passed = minute.saturating_sub(self.minute);
        for _ in 0..passed.min(MINUTES.try_into().unwrap_or(u64::MAX)) {
            if MINUTES <= self.minutes.len() {
                self.minutes.pop_front();
            }
            self.minutes.push_back(BTreeMap::new());
        }
        self.minute = self.minute.max(minute);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    fn totals(rows: &[(&str, &str, f64)]) -> Vec<Decisions> {
        let row = |&(policy, reason, total): &(&str, &str, f64)| Decisions {
            policy: policy.to_owned(),
            reason: reason.to_owned(),
            let_through: false,
            total,
        };
        rows.iter().map(row).collect()
    }

    /// The reason's minutes in which there was something, by how long ago they were.
    fn minutes(hour: &LastHour, reason: &str) -> Vec<(usize, f64)> {
        let row = hour.reasons.get(reason).map_or(&[][..], Vec::as_slice);
        let numbered = row.iter().rev().copied().enumerate();
        numbered.filter(|(_, decisions)| 0.0 < *decisions).collect()
    }

    #[test]
    fn what_is_new_counts_in_its_minute() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let history = History::since(start);
        history.sample(&totals(&[("a", "allowed", 3.0), ("b", "allowed", 1.0)]), at(5));
        history.sample(&totals(&[("a", "allowed", 5.0), ("b", "allowed", 1.0)]), at(59));
        history.sample(&totals(&[("a", "allowed", 6.0), ("a", "token_expired", 2.0)]), at(60));
        let hour = history.last_hour(at(119));
        assert_eq!(minutes(&hour, "allowed"), [(0, 1.0), (1, 6.0)]);
        assert_eq!(minutes(&hour, "token_expired"), [(0, 2.0)]);
        let tally = |allowed, denied| Tally { allowed, denied, would_deny: 0.0 };
        assert_eq!(hour.policies["a"], tally(6.0, 2.0));
        assert_eq!(hour.policies["b"], tally(1.0, 0.0));
    }

    #[test]
    fn what_would_be_denied_is_told_apart_from_what_is() {
        let start = Instant::now();
        let history = History::since(start);
        let mut all = totals(&[("a", "allowed", 5.0), ("b", "token_expired", 1.0)]);
        let mut reported = totals(&[("a", "token_expired", 2.0), ("a", "binding_missing", 1.0)]);
        for it in &mut reported {
            it.let_through = true;
        }
        all.extend(reported);
        history.sample(&all, start);
        let hour = history.last_hour(start);
        assert_eq!(minutes(&hour, "token_expired"), [(0, 1.0)]);
        assert_eq!(minutes(&hour, "binding_missing"), []);
        let last = |reason: &str| hour.would_deny[reason].last().copied();
        assert_eq!(last("token_expired"), Some(2.0));
        assert_eq!(last("binding_missing"), Some(1.0));
        assert_eq!(hour.policies["a"], Tally { allowed: 5.0, denied: 0.0, would_deny: 3.0 });
        assert_eq!(hour.policies["b"], Tally { allowed: 0.0, denied: 1.0, would_deny: 0.0 });
    }

    #[test]
    fn a_policy_counts_by_all_its_fronts() {
        let start = Instant::now();
        let history = History::since(start);
        history.sample(&totals(&[("a", "allowed", 3.0), ("a", "allowed", 4.0)]), start);
        assert_eq!(minutes(&history.last_hour(start), "allowed"), [(0, 7.0)]);
    }

    #[test]
    fn what_is_an_hour_old_is_forgotten() {
        let start = Instant::now();
        let at = |minutes: u64| start + Duration::from_secs(60 * minutes);
        let history = History::since(start);
        history.sample(&totals(&[("a", "allowed", 1.0)]), start);
        assert_eq!(minutes(&history.last_hour(at(59)), "allowed"), [(59, 1.0)]);
        assert_eq!(history.last_hour(at(60)), LastHour::default());
        history.sample(&totals(&[("a", "allowed", 2.0)]), at(1_000_000_000));
        assert_eq!(minutes(&history.last_hour(at(1_000_000_000)), "allowed"), [(0, 1.0)]);
    }
}
