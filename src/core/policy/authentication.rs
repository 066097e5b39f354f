//! Requirements on the login of the user (RFC 9470): how, and how recently.

use serde::Serialize;
use std::fmt;

/// How and how recently the user must have logged in. By default, neither matters.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Authentication {
    /// The accepted authentication context classes (`acr`), the preferred one first; empty: any.
    pub acr: Vec<String>,
    /// How long ago the login (`auth_time`) may be, in seconds; none: any time.
    #[serde(rename = "max_age", serialize_with = "with_unit")]
    pub max_age_seconds: Option<u32>,
}

impl Authentication {
    /// Whether it does not matter.
    pub const fn is_any(&self) -> bool {
        self.acr.is_empty() && self.max_age_seconds.is_none()
    }

    /// The claims that it is judged by.
    pub const CLAIMS: &[&str] = &["acr", "auth_time"];

    /// Whether every login that meets this requirement meets `other`.
    pub(super) fn asks_at_least(&self, other: &Self) -> bool {
        let is_subset = !self.acr.is_empty() && self.acr.iter().all(|it| other.acr.contains(it));
        let is_as_recent = |most| self.max_age_seconds.is_some_and(|own| own <= most);
        (other.acr.is_empty() || is_subset) && other.max_age_seconds.is_none_or(is_as_recent)
    }
}

/// As the configuration writes a duration.
#[expect(clippy::ref_option, clippy::trivially_copy_pass_by_ref, reason = "as serde calls it")]
fn with_unit<S: serde::Serializer>(seconds: &Option<u32>, to: S) -> Result<S::Ok, S::Error> {
    seconds.map(|it| format!("{it}s")).serialize(to)
}

/// Nothing if it does not matter.
impl fmt::Display for Authentication {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.acr.join(" or "))?;
        let between = if self.acr.is_empty() { "" } else { ", " };
        match self.max_age_seconds {
            Some(seconds) => write!(f, "{between}at most {seconds}s ago"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn login(acr: &[&str], max_age_seconds: Option<u32>) -> Authentication {
        Authentication { acr: acr.iter().map(ToString::to_string).collect(), max_age_seconds }
    }

    #[test]
    fn a_login_that_fewer_have_asks_for_more() {
        for (what, one, other, as_much, is_as_much) in [
            ("nothing", login(&[], None), login(&[], None), true, true),
            ("a class", login(&["a"], None), login(&[], None), true, false),
            ("fewer classes", login(&["a"], None), login(&["b", "a"], None), true, false),
            ("classes turned", login(&["a", "b"], None), login(&["b", "a"], None), true, true),
            ("other classes", login(&["a"], None), login(&["b"], None), false, false),
            ("a time", login(&[], Some(5)), login(&[], None), true, false),
            ("less time", login(&[], Some(5)), login(&[], Some(6)), true, false),
            ("one of each", login(&["a"], None), login(&[], Some(5)), false, false),
            ("both", login(&["a"], Some(5)), login(&["a"], None), true, false),
        ] {
            assert_eq!(one.asks_at_least(&other), as_much, "{what}");
            assert_eq!(other.asks_at_least(&one), is_as_much, "{what}");
        }
    }

    #[test]
    fn it_is_told_in_a_line() {
        for (given, expected) in [
            (login(&[], None), ""),
            (login(&["a", "b"], None), "a or b"),
            (login(&[], Some(300)), "at most 300s ago"),
            (login(&["a"], Some(300)), "a, at most 300s ago"),
        ] {
            assert_eq!(given.to_string(), expected);
            assert_eq!(given.is_any(), expected.is_empty());
        }
    }
}
