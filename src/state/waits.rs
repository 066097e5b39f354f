//! Arithmetic of deadlines and of exponential backoff.

use std::time::Duration;
use tokio::time::Instant;

/// The end of a `span` that starts at `from`. If the monotonic clock cannot represent it, an
/// instant later than any process lives.
pub(super) fn after(from: Instant, span: Duration) -> Instant {
    let end = from.checked_add(span).or_else(|| from.checked_add(FAR));
    end.unwrap_or(from)
}

/// `first` doubled `times` times, but at most `last`.
pub(super) fn doubled(first: Duration, times: u32, last: Duration) -> Duration {
    first.saturating_mul(2_u32.saturating_pow(times)).min(last)
}

/// Ten years.
const FAR: Duration = Duration::from_secs(10 * 365 * 86_400);

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_span_that_no_clock_can_hold_ends_when_nobody_waits_any_more() {
        let now = Instant::now();
        for (span, expected) in
            [(Duration::ZERO, Duration::ZERO), (SECOND, SECOND), (FAR, FAR), (Duration::MAX, FAR)]
        {
            assert_eq!(after(now, span).duration_since(now), expected, "{span:?}");
        }
        assert_eq!(after(after(now, Duration::MAX), Duration::MAX).duration_since(now), 2 * FAR);
    }

    #[test]
    fn a_wait_doubles_up_to_its_last() {
        for (times, seconds) in [(0, 3), (1, 6), (2, 12), (4, 48), (5, 90), (40, 90)] {
            let found = doubled(3 * SECOND, times, 90 * SECOND);
            assert_eq!(found.as_secs(), seconds, "{times}");
        }
        assert_eq!(doubled(SECOND, u32::MAX, 90 * SECOND), 90 * SECOND);
        assert_eq!(doubled(3 * SECOND, 7, SECOND), SECOND);
        assert_eq!(doubled(Duration::ZERO, u32::MAX, SECOND), Duration::ZERO);
    }
}
