//! Knows the decisions of the last hour, minute by minute.
//!
//! It looks at the counters now and then, so that checks do nothing for it.

use super::metrics::Decisions;
use serde::Serialize;
use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use tokio::time::Instant;

/// How many minutes are kept, the present one included.
const MINUTES: usize = 60;

/// The decisions of the last hour.
#[derive(Debug)]
pub struct History(Mutex<Kept>);

#[derive(Debug)]
struct Kept {
    since: Instant,
    /// What the counters said at the last look.
    totals: BTreeMap<Key, f64>,
    /// The minutes, the present one last.
    minutes: VecDeque<BTreeMap<Key, f64>>,
    /// The number of the present minute, counted from the start.
    minute: u64,
}

/// A policy and a reason.
type Key = (String, String);

/// The decisions of the last hour, as `/status` tells them.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct LastHour {
    /// For each reason, the decisions of each minute, the present one last.
    pub reasons: BTreeMap<String, Vec<f64>>,
    /// What each policy decided; the empty one stands for requests that none could be chosen for.
    pub policies: BTreeMap<String, Tally>,
}

/// What a policy decided.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Tally {
    /// How often it allowed.
    pub allowed: f64,
    /// How often it denied.
    pub denied: f64,
}

impl History {
    /// A history that begins at `since`.
    pub fn since(since: Instant) -> Self {
        let minutes = VecDeque::from([BTreeMap::new()]);
        Self(Mutex::new(Kept { since, totals: BTreeMap::new(), minutes, minute: 0 }))
    }

    /// Adds what was decided since the last look to the minute of `now`. `totals` never fall.
    pub fn sample(&self, totals: &[Decisions], now: Instant) {
        let mut kept = self.kept();
        kept.turn_to(now);
        let mut sums: BTreeMap<Key, f64> = BTreeMap::new();
        for it in totals {
            *sums.entry((it.policy.clone(), it.reason.clone())).or_default() += it.total;
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
        // Minutes before the start count as well: nothing was decided.
        let first = MINUTES.saturating_sub(kept.minutes.len());
        for (place, minute) in (first..).zip(&kept.minutes) {
            for ((policy, reason), decisions) in minute {
                let row = hour.reasons.entry(reason.clone()).or_insert_with(|| vec![0.0; MINUTES]);
                if let Some(cell) = row.get_mut(place) {
                    *cell += decisions;
                }
                let tally = hour.policies.entry(policy.clone()).or_default();
                let side = if reason == "allowed" { &mut tally.allowed } else { &mut tally.denied };
                *side += decisions;
            }
        }
        hour
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
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
        assert_eq!(hour.policies["a"], Tally { allowed: 6.0, denied: 2.0 });
        assert_eq!(hour.policies["b"], Tally { allowed: 1.0, denied: 0.0 });
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
