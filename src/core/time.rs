//! Points in time in tokens and proofs (RFC 7519 §2, RFC 3339).

use std::fmt;
use std::time::Duration;

/// A point in time, in milliseconds since 1970-01-01T00:00:00Z.
///
/// All arithmetic saturates: a hostile `exp` of 10^300 is far in the future, and never a panic.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UnixTime(i64);

impl UnixTime {
    /// From whole seconds since the epoch.
    pub const fn from_secs(seconds: i64) -> Self {
        Self(seconds.saturating_mul(1000))
    }

    /// From milliseconds since the epoch.
    pub const fn from_millis(millis: i64) -> Self {
        Self(millis)
    }

    /// Milliseconds since the epoch.
    pub const fn as_millis(self) -> i64 {
        self.0
    }

    /// Whole seconds since the epoch, rounded down.
    pub const fn as_secs(self) -> i64 {
        self.0.div_euclid(1000)
    }

    /// This time plus `span`.
    pub fn saturating_add(self, span: Duration) -> Self {
        Self(self.0.saturating_add(millis(span)))
    }

    /// This time minus `span`.
    pub fn saturating_sub(self, span: Duration) -> Self {
        Self(self.0.saturating_sub(millis(span)))
    }

    /// The time since `earlier`; zero if `earlier` is later.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }

    /// The whole seconds from `other` until this time, negative if it is earlier.
    pub const fn seconds_after(self, other: Self) -> i64 {
        self.0.saturating_sub(other.0) / 1000
    }
}

impl UnixTime {
    /// The RFC 3339 form `2027-01-15T08:00:00Z`, rounded down to a second (§5.6); for years without
    /// four digits, the seconds since the epoch.
    pub fn to_rfc3339(self) -> String {
        let seconds = self.as_secs();
        let of_day = seconds.rem_euclid(DAY);
        let (hour, minute, second) = (of_day / 3600, of_day / 60 % 60, of_day % 60);
        match civil(seconds.div_euclid(DAY)) {
            Some((year, month, day)) => {
                format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
            }
            None => format!("{seconds} seconds since 1970"),
        }
    }

    /// The same, rounded down to a millisecond.
    pub fn to_rfc3339_millis(self) -> String {
        let millis = self.0.rem_euclid(1000);
        match self.to_rfc3339().strip_suffix('Z') {
            Some(seconds) => format!("{seconds}.{millis:03}Z"),
            None => self.to_rfc3339(),
        }
    }

    /// Parses `2027-01-15T08:00:00Z` or `2027-01-15T09:00:00+01:00`, with an optional fraction that
    /// is cut to milliseconds (RFC 3339 §5.6); or whole seconds since the epoch.
    pub fn parse(text: &str) -> Option<Self> {
        if let Ok(seconds) = text.parse() {
            return Some(Self::from_secs(seconds));
        }
        let number = |from: usize, to: usize| {
            let digits = text.get(from..to)?;
            digits.bytes().all(|it| it.is_ascii_digit()).then(|| digits.parse::<i64>().ok())?
        };
        let is = |at: usize, mark: &str| text.get(at..)?.starts_with(mark).then_some(());
        [(4, "-"), (7, "-"), (10, "T"), (13, ":"), (16, ":")]
            .into_iter()
            .try_for_each(|(at, mark)| is(at, mark))?;
        let date = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
        let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
        if hour > 23 || minute > 59 || second > 59 {
            return None;
        }
        let of_day = hour.checked_mul(3600)?.checked_add(minute.checked_mul(60)?)?;
        let of_day = of_day.checked_add(second)?;
        let rest = text.get(19..)?;
        let (fraction, zone) = rest.split_at_checked(rest.find(['Z', '+', '-'])?)?;
        let (millis, ahead) = (millis_of(fraction)?, seconds_ahead(zone)?);
        // A date that does not exist, such as 30 February, comes back as another day.
        let day = (0..=31).find_map(|it| {
            let day = first_of(date.0, date.1)?.checked_add(it)?;
            (civil(day)? == date).then_some(day)
        })?;
        let seconds = day.checked_mul(DAY)?.checked_add(of_day)?.checked_sub(ahead)?;
        Some(Self(seconds.checked_mul(1000)?.checked_add(millis)?))
    }
}

fn millis(span: Duration) -> i64 {
    i64::try_from(span.as_millis()).unwrap_or(i64::MAX)
}

/// The offset of a zone from UTC in seconds: `Z`, or a sign, hours and minutes.
fn seconds_ahead(zone: &str) -> Option<i64> {
    let (sign, rest) = match zone.split_at_checked(1)? {
        ("Z", "") => return Some(0),
        ("+", rest) => (1, rest),
        ("-", rest) => (-1, rest),
        _ => return None,
    };
    let two = |it: &str, most: i64| {
        let digits = it.len() == 2 && it.bytes().all(|it| it.is_ascii_digit());
        digits.then(|| it.parse::<i64>().ok())?.filter(|it| *it <= most)
    };
    let (hours, minutes) = rest.split_once(':')?;
    let minutes = two(hours, 23)?.checked_mul(60)?.checked_add(two(minutes, 59)?)?;
    minutes.checked_mul(60)?.checked_mul(sign)
}

/// The milliseconds of an optional fraction of a second, with its point.
fn millis_of(fraction: &str) -> Option<i64> {
    if fraction.is_empty() {
        return Some(0);
    }
    let digits = fraction.strip_prefix('.')?;
    if digits.is_empty() || !digits.bytes().all(|it| it.is_ascii_digit()) {
        return None;
    }
    digits.chars().chain("000".chars()).take(3).collect::<String>().parse().ok()
}

/// The year, month and day of a day since the epoch, for years of four digits
/// (<https://howardhinnant.github.io/date_algorithms.html>).
#[expect(clippy::arithmetic_side_effects, reason = "no day within four-digit years overflows")]
fn civil(day: i64) -> Option<(i64, i64, i64)> {
    // 0000-01-01 and 9999-12-31.
    if !(-719_528..=2_932_896).contains(&day) {
        return None;
    }
    let day = day + 719_468;
    let (era, of_era) = (day.div_euclid(146_097), day.rem_euclid(146_097));
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * of_year + 2) / 153;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    Some((year, month, of_year - (153 * shifted + 2) / 5 + 1))
}

/// The day since the epoch on which a month of a four-digit year starts.
#[expect(clippy::arithmetic_side_effects, reason = "no day within four-digit years overflows")]
fn first_of(year: i64, month: i64) -> Option<i64> {
    if !(0..=9999).contains(&year) || !(1..=12).contains(&month) {
        return None;
    }
    let year = if month <= 2 { year - 1 } else { year };
    let shifted = if month > 2 { month - 3 } else { month + 9 };
    let of_year = (153 * shifted + 2) / 5;
    let (era, of_era) = (year.div_euclid(400), year.rem_euclid(400));
    Some(era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468)
}

const DAY: i64 = 86_400;

impl fmt::Display for UnixTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.as_secs())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arithmetic_saturates_instead_of_wrapping() {
        let last = UnixTime::from_secs(i64::MAX);
        assert_eq!(last.saturating_add(Duration::MAX), UnixTime::from_millis(i64::MAX));
        assert_eq!(UnixTime::from_secs(1).since(UnixTime::from_secs(2)), Duration::ZERO);
    }

    #[test]
    fn a_time_is_written_as_it_is_read() {
        for (text, seconds) in [
            ("1970-01-01T00:00:00Z", 0),
            ("1969-12-31T23:59:59Z", -1),
            ("2000-02-29T12:34:56Z", 951_827_696),
            ("2027-01-15T08:00:00Z", 1_800_000_000),
            ("2100-03-01T00:00:00Z", 4_107_542_400),
            ("9999-12-31T23:59:59Z", 253_402_300_799),
            ("0000-01-01T00:00:00Z", -62_167_219_200),
        ] {
            let time = UnixTime::from_secs(seconds);
            assert_eq!(time.to_rfc3339(), text);
            assert_eq!(UnixTime::parse(text), Some(time), "{text}");
            assert_eq!(UnixTime::parse(&seconds.to_string()), Some(time));
        }
        let beyond = UnixTime::from_secs(253_402_300_800);
        assert_eq!(beyond.to_rfc3339(), "253402300800 seconds since 1970");
        let precise = UnixTime::from_millis(1_800_000_000_050);
        assert_eq!(UnixTime::parse("2027-01-15T08:00:00.0509Z"), Some(precise));
        assert_eq!(precise.to_rfc3339_millis(), "2027-01-15T08:00:00.050Z");
        let before = UnixTime::from_millis(-1);
        assert_eq!(before.to_rfc3339_millis(), "1969-12-31T23:59:59.999Z");
        assert_eq!(beyond.to_rfc3339_millis(), beyond.to_rfc3339());
    }

    #[test]
    fn a_time_of_another_zone_is_the_same_time() {
        for same in [
            "2027-01-15T08:00:00+00:00",
            "2027-01-15T08:00:00-00:00",
            "2027-01-15T09:00:00+01:00",
            "2027-01-16T07:59:00.000+23:59",
            "2027-01-15T02:30:00-05:30",
        ] {
            assert_eq!(UnixTime::parse(same), Some(UnixTime::from_secs(1_800_000_000)), "{same}");
        }
    }

    #[test]
    fn what_is_no_time_is_not_read() {
        for odd in [
            "",
            "now",
            "2027-01-15",
            "2027-01-15T08:00:00",
            "2027-01-15T08:00:00+0100",
            "2027-01-15T08:00:00+1:00",
            "2027-01-15T08:00:00+24:00",
            "2027-01-15T08:00:00+01:60",
            "2027-01-15T08:00:00+01:00Z",
            "2027-01-15T08:00:00++1:00",
            "2027-01-15T08:00:00ZZ",
            "2027-01-15 08:00:00Z",
            "2027-02-29T08:00:00Z",
            "2027-13-01T08:00:00Z",
            "2027-00-01T08:00:00Z",
            "2027-01-00T08:00:00Z",
            "2027-01-15T24:00:00Z",
            "2027-01-15T08:60:00Z",
            "2027-01-15T08:00:60Z",
            "2027-01-15T08:00:00.Z",
            "2027-01-15T08:00:00.-1Z",
            "+027-01-15T08:00:00Z",
            "é027-01-15T08:00:00Z",
        ] {
            assert_eq!(UnixTime::parse(odd), None, "{odd}");
        }
    }

    #[test]
    fn seconds_before_the_epoch_round_down() {
        assert_eq!(UnixTime::from_millis(-1).as_secs(), -1);
        assert_eq!(UnixTime::from_millis(1999).as_secs(), 1);
    }
}
