//! One entry of a denylist, as it is written.

use keybound_core::UnixTime;
use keybound_core::oauth::Identifier;
use serde::de::{self, Deserializer, Visitor};
use serde::{Deserialize, de::Error};
use std::fmt;

/// The tokens of which all this holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entry {
    #[serde(default, deserialize_with = "text")]
    jti: Option<String>,
    #[serde(default, deserialize_with = "text")]
    sub: Option<String>,
    #[serde(default, deserialize_with = "text")]
    sid: Option<String>,
    #[serde(default, deserialize_with = "text")]
    client_id: Option<String>,
    /// Only those that were issued until then.
    #[serde(default, deserialize_with = "time")]
    before: Option<UnixTime>,
}

impl Entry {
    /// The value of an identifier, if the entry names it.
    pub(super) fn get(&self, identifier: Identifier) -> Option<&str> {
        match identifier {
            Identifier::Jti => self.jti.as_deref(),
            Identifier::Sub => self.sub.as_deref(),
            Identifier::Sid => self.sid.as_deref(),
            Identifier::ClientId => self.client_id.as_deref(),
        }
    }

    /// The last time at which a token that it means was issued.
    pub(super) fn until(&self) -> UnixTime {
        self.before.unwrap_or(UnixTime::from_millis(i64::MAX))
    }

    /// What is wrong with it beyond its shape.
    pub(super) fn fault(&self) -> Option<String> {
        let named = || Identifier::ALL.into_iter().filter_map(|it| Some((it, self.get(it)?)));
        if named().next().is_none() {
            return Some("names no token: give one of jti, sub, sid and client_id".to_owned());
        }
        let empty = named().find(|(_, value)| value.is_empty());
        empty.map(|(it, _)| format!("`{}` must not be empty", it.name()))
    }
}

/// A member that is there is a string.
fn text<'de, D: Deserializer<'de>>(input: D) -> Result<Option<String>, D::Error> {
    String::deserialize(input).map(Some)
}

/// A member that is there is a time.
fn time<'de, D: Deserializer<'de>>(input: D) -> Result<Option<UnixTime>, D::Error> {
    input.deserialize_any(Time).map(Some)
}

struct Time;

/// The last second of the year 9999. Whoever writes milliseconds means another time than is read.
const LAST: i64 = 253_402_300_799;

impl Time {
    fn of<E: Error>(seconds: Option<i64>) -> Result<UnixTime, E> {
        let seconds = seconds.filter(|it| (0..=LAST).contains(it));
        let far = "`before` must be whole seconds since 1970, up to the year 9999";
        seconds.map(UnixTime::from_secs).ok_or_else(|| E::custom(far))
    }
}

impl Visitor<'_> for Time {
    type Value = UnixTime;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a time: whole seconds since 1970, or as 2027-01-15T08:00:00Z")
    }

    fn visit_i64<E: Error>(self, seconds: i64) -> Result<UnixTime, E> {
        Self::of(Some(seconds))
    }

    fn visit_u64<E: Error>(self, seconds: u64) -> Result<UnixTime, E> {
        Self::of(seconds.try_into().ok())
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<UnixTime, E> {
        // A number is no string.
        let is_number = text.parse::<i64>().is_ok();
        let time = UnixTime::parse(text).filter(|_| !is_number);
        time.ok_or_else(|| E::invalid_value(de::Unexpected::Str(text), &self))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_entry_is_read_by_its_members() {
        let all = json!({"jti": "j", "sub": "s", "sid": "i", "client_id": "c", "before": 7});
        let entry: Entry = serde_json::from_value(all).unwrap();
        let found = Identifier::ALL.map(|it| entry.get(it).unwrap().to_owned());
        assert_eq!(found, ["j", "s", "i", "c"]);
        assert_eq!((entry.until(), entry.fault()), (UnixTime::from_secs(7), None));
    }

    #[test]
    fn before_is_seconds_or_a_time_as_rfc_3339_has_it() {
        let until = |before| {
            let entry = serde_json::from_value::<Entry>(json!({"jti": "j", "before": before}));
            entry.map(|it| it.until()).map_err(|it| it.to_string())
        };
        for (before, seconds) in [
            (json!(0), 0),
            (json!(1_800_000_000), 1_800_000_000),
            (json!(LAST), LAST),
            (json!("2027-01-15T08:00:00Z"), 1_800_000_000),
            (json!("2027-01-15T09:00:00+01:00"), 1_800_000_000),
        ] {
            assert_eq!(until(before), Ok(UnixTime::from_secs(seconds)));
        }
        for odd in [
            json!(-1),
            json!(LAST + 1),
            json!(u64::MAX),
            json!(1.5),
            json!("1800000000"),
            json!("2027-01-15"),
            json!(""),
            json!(null),
            json!(true),
            json!([7]),
        ] {
            assert!(until(odd.clone()).is_err(), "{odd}");
        }
        let without: Entry = serde_json::from_value(json!({"jti": "j"})).unwrap();
        assert_eq!(without.until(), UnixTime::from_millis(i64::MAX));
    }
}
