//! The last denials, with some of every reason however many there are of another.

use super::Noted;
use keybound_core::Denial;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// How many denials are kept.
pub(super) const KEPT: usize = 100;

/// Of so many of a reason, each one is taken, however many denials there are.
const FEW: usize = 5;

/// In a flood, one denial of each reason is taken in this time.
const APART: Duration = Duration::from_secs(1);

/// The last denials, the oldest first.
#[derive(Debug, Default)]
pub(super) struct Last(VecDeque<Arc<Noted>>);

impl Last {
    /// Whether a denial is taken in a flood of them, in which most are not.
    pub(super) fn wants(&self, reason: Denial, now: Instant) -> bool {
        let mut of_it = self.0.iter().rev().filter(|it| it.reason == reason);
        let newest = of_it.next().map(|it| now.saturating_duration_since(it.at));
        newest.is_none_or(|it| APART <= it) || of_it.count() < FEW.saturating_sub(1)
    }

    /// Takes a denial. Returns the one that makes room for it: the oldest of the reason with the most.
    pub(super) fn take(&mut self, noted: Arc<Noted>) -> Option<Arc<Noted>> {
        let before = if self.0.len() < KEPT { None } else { self.0.remove(self.loudest()) };
        self.0.push_back(noted);
        before
    }

    /// The denials, the newest first.
    pub(super) fn newest(&self) -> Vec<Arc<Noted>> {
        self.0.iter().rev().map(Arc::clone).collect()
    }

    /// The position of the oldest of the reason with the most.
    fn loudest(&self) -> usize {
        let mut counts = [0_u8; Denial::ALL.len()];
        let place = |reason| Denial::ALL.iter().position(|it| *it == reason);
        for it in &self.0 {
            if let Some(count) = place(it.reason).and_then(|it| counts.get_mut(it)) {
                *count = count.saturating_add(1);
            }
        }
        let most = Denial::ALL.iter().zip(counts).max_by_key(|it| it.1).map(|it| *it.0);
        self.0.iter().position(|it| Some(it.reason) == most).unwrap_or(0)
    }
}
