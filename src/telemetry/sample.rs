//! Deterministic sampling of a fixed fraction of events.

use std::sync::atomic::{AtomicU64, Ordering};

/// The resolution of a share.
const WHOLE: u64 = 1_000_000;

/// A share between none and all, in millionths.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Share(u64);

impl Share {
    /// None of them.
    pub const NONE: Self = Self(0);

    /// The share `ratio`; `None` unless it is between 0 and 1.
    pub fn of(ratio: f64) -> Option<Self> {
        if !(0.0..=1.0).contains(&ratio) {
            return None;
        }
        #[expect(
            clippy::as_conversions,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "0 to a million"
        )]
        let of_a_million = (ratio * 1e6).round() as u64;
        Some(Self(of_a_million))
    }

    /// As a percentage.
    pub fn percent(self) -> String {
        let (whole, rest) = (self.0 / 10_000, self.0 % 10_000);
        let text = format!("{whole}.{rest:04}");
        format!("{}%", text.trim_end_matches('0').trim_end_matches('.'))
    }
}

/// A sampler that takes a share of events, evenly spaced.
#[derive(Debug, Default)]
pub struct Sample {
    share: u64,
    shown: AtomicU64,
}

impl Sample {
    /// A sampler that takes `share`.
    pub fn new(share: Share) -> Self {
        Self { share: share.0, shown: AtomicU64::new(0) }
    }

    /// Whether to take this event.
    pub fn takes(&self) -> bool {
        if self.share == 0 {
            return false;
        }
        // It overflows once in a million years.
        let before = self.shown.fetch_add(self.share, Ordering::Relaxed);
        before / WHOLE != before.wrapping_add(self.share) / WHOLE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_between_none_and_all() {
        for (ratio, percent) in [
            (0.0, Some("0%")),
            (0.000_001, Some("0.0001%")),
            (0.01, Some("1%")),
            (0.125, Some("12.5%")),
            (1.0, Some("100%")),
            (1.000_001, None),
            (-0.000_001, None),
            (f64::NAN, None),
            (f64::INFINITY, None),
        ] {
            let found = Share::of(ratio).map(Share::percent);
            assert_eq!(found.as_deref(), percent, "{ratio}");
        }
    }

    #[test]
    fn a_sample_takes_its_share_evenly() {
        for (ratio, of, taken) in [(0.0, 1000, 0), (0.25, 1000, 250), (0.01, 1000, 10), (1.0, 9, 9)]
        {
            let sample = Sample::new(Share::of(ratio).unwrap());
            let found = std::iter::repeat_with(|| sample.takes()).take(of).filter(|it| *it);
            assert_eq!(found.count(), taken, "{ratio}");
        }
        let sample = Sample::new(Share::of(0.25).unwrap());
        let found: Vec<_> = std::iter::repeat_with(|| sample.takes()).take(8).collect();
        assert_eq!(found, [false, false, false, true, false, false, false, true]);
    }
}
