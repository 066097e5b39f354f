//! The header `grpc-timeout` (gRPC over HTTP/2, "Requests"): how long a call may take, as a number of at
//! most eight digits and a unit. Envoy bounds any stream by it where it is told to, not only calls.

use crate::request::Field;
use std::time::Duration;

/// Its name.
pub const GRPC_TIMEOUT: &str = "grpc-timeout";

/// The shortest one that is sent, as Envoy counts in milliseconds and takes 0 for no limit.
pub(crate) const SHORTEST: Duration = Duration::from_millis(1);

/// The greatest number that eight digits can say.
const MOST: u128 = 99_999_999;

/// The units in which a span is written, in milliseconds.
const WRITTEN: [(u128, char); 4] = [(1, 'm'), (1000, 'S'), (60_000, 'M'), (3_600_000, 'H')];

/// The value for a stream with so much time `left`: or the client's own, where that is shorter. One that
/// is malformed or repeated counts as none.
pub(crate) fn bounded(left: Duration, clients: Field<'_>) -> String {
    let own = clients.sole().and_then(read);
    written(own.map_or(left, |own| own.min(left)).max(SHORTEST))
}

/// The span in a value; none for one that is malformed, or 0.
fn read(value: &[u8]) -> Option<Duration> {
    let (unit, digits) = value.split_last()?;
    let is_number = matches!(digits.len(), 1..=8) && digits.iter().all(u8::is_ascii_digit);
    let number: u64 = str::from_utf8(digits).ok().filter(|_| is_number)?.parse().ok()?;
    let seconds = |each: u64| Some(Duration::from_secs(number.checked_mul(each)?));
    let span = match unit {
        b'H' => seconds(3600)?,
        b'M' => seconds(60)?,
        b'S' => seconds(1)?,
        b'm' => Duration::from_millis(number),
        b'u' => Duration::from_micros(number),
        b'n' => Duration::from_nanos(number),
        _ => return None,
    };
    (!span.is_zero()).then_some(span)
}

/// A span in the finest unit that can say it, rounded up: it ends late by less than one unit, and never
/// early.
fn written(span: Duration) -> String {
    let millis = span.as_nanos().div_ceil(1_000_000);
    let fits = |(unit, name)| Some((millis.div_ceil(unit), name)).filter(|it| it.0 <= MOST);
    let (number, unit) = WRITTEN.into_iter().find_map(fits).unwrap_or((MOST, 'H'));
    format!("{number}{unit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_is_said_in_the_finest_unit_and_never_cut_short() {
        let millis = Duration::from_millis;
        for (left, expected) in [
            (Duration::ZERO, "1m"),
            (Duration::from_nanos(1), "1m"),
            (Duration::from_micros(1001), "2m"),
            (millis(2500), "2500m"),
            (millis(99_999_999), "99999999m"),
            (millis(100_000_000), "100000S"),
            (millis(100_000_001), "100001S"),
            (Duration::from_secs(99_999_999), "99999999S"),
            (Duration::from_secs(100_000_000), "1666667M"),
            (Duration::from_secs(99_999_999 * 60), "99999999M"),
            (Duration::from_secs(99_999_999 * 60 + 1), "1666667H"),
            (Duration::from_secs(99_999_999 * 3600), "99999999H"),
            (Duration::MAX, "99999999H"),
        ] {
            assert_eq!(bounded(left, Field::Absent), expected, "{left:?}");
        }
    }

    #[test]
    fn a_client_may_have_less_and_nothing_that_is_no_span_counts() {
        for (own, expected) in [
            ("1S", "1000m"),
            ("00000002S", "2000m"),
            ("59999m", "59999m"),
            ("59999999u", "60000m"),
            ("1n", "1m"),
            ("60S", "60000m"),
            ("61S", "60000m"),
            ("1M", "60000m"),
            ("99999999H", "60000m"),
            // None of these is a span.
            ("0S", "60000m"),
            ("000000001S", "60000m"),
            ("", "60000m"),
            ("S", "60000m"),
            ("1", "60000m"),
            ("1s", "60000m"),
            ("1h", "60000m"),
            ("-1S", "60000m"),
            ("+1S", "60000m"),
            (" 1S", "60000m"),
            ("1S ", "60000m"),
            ("1.5S", "60000m"),
            ("1S,2S", "60000m"),
            ("\u{661}S", "60000m"),
        ] {
            let found = bounded(Duration::from_secs(60), Field::One(own.as_bytes()));
            assert_eq!(found, expected, "{own:?}");
        }
        assert_eq!(bounded(Duration::from_secs(60), Field::Many), "60000m");
    }
}
