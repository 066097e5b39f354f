//! Values that a configuration writes as text, or in more than one form.

use keybound_core::jose::Algorithm;
use keybound_core::words::Words;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Deserialize, Deserializer, Error, Visitor};
use serde::{Serialize, Serializer};
use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// A length of time, written with its unit: `150ms`, `30s`, `5m`, `1h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span(pub(crate) Duration);

impl Span {
    fn parse(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is not a duration: write it as in 150ms, 30s, 5m or 1h");
        let digits = text.find(|it: char| !it.is_ascii_digit()).ok_or_else(wrong)?;
        let (number, unit) = text.split_at_checked(digits).ok_or_else(wrong)?;
        let millis: u64 = match unit {
            "ms" => 1,
            "s" => 1000,
            "m" => 60_000,
            "h" => 3_600_000,
            _ => return Err(wrong()),
        };
        let number: u64 = number.parse().ok().ok_or_else(wrong)?;
        let millis = number.checked_mul(millis).ok_or_else(wrong)?;
        Ok(Self(Duration::from_millis(millis)))
    }
}

/// In the notation of the file, with seconds for a minute.
impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = self.0.as_millis();
        let whole = |unit: u128| millis.checked_rem(unit) == Some(0);
        let (unit, name) = match millis {
            0 => (1000, "s"),
            _ if whole(3_600_000) => (3_600_000, "h"),
            60_001.. if whole(60_000) => (60_000, "m"),
            _ if whole(1000) => (1000, "s"),
            _ => (1, "ms"),
        };
        write!(f, "{}{name}", millis.checked_div(unit).unwrap_or_default())
    }
}

impl Serialize for Span {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// The address of a listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// An IP address and a port.
    Tcp(SocketAddr),
    /// A Unix domain socket at an absolute path.
    Unix(PathBuf),
}

impl Address {
    fn parse(text: &str) -> Result<Self, String> {
        /// `sun_path` holds 108 bytes, the last of them a NUL (unix(7)).
        const LONGEST_PATH: usize = 107;
        if let Some(path) = text.strip_prefix("unix:") {
            return match path.len() {
                _ if !path.starts_with('/') => {
                    Err(format!("{path:?} is not an absolute path, as in unix:/run/x.sock"))
                }
                ..=LONGEST_PATH => Ok(Self::Unix(path.into())),
                _ => Err(format!("the path of a socket has at most {LONGEST_PATH} bytes")),
            };
        }
        text.parse().ok().map(Self::Tcp).ok_or_else(|| {
            format!(
                "{text:?} is not an address: write IP:PORT, as in 127.0.0.1:9001 or [::]:9001, or \
                 unix:/PATH"
            )
        })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// The name of a signature algorithm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct AlgorithmName(pub(super) Algorithm);

impl AlgorithmName {
    fn parse(text: &str) -> Result<Self, String> {
        if text.eq_ignore_ascii_case("none") {
            return Err("`none` means unsigned: anybody could forge such a token".to_owned());
        }
        if text.get(..2).is_some_and(|it| it.eq_ignore_ascii_case("hs")) {
            return Err(format!(
                "{text:?} is symmetric: anybody who can verify such a token can also forge it"
            ));
        }
        Algorithm::named(text).map(Self).ok_or_else(|| {
            format!("{text:?} is not known: there are {}", Algorithm::NAMES.join(", "))
        })
    }
}

/// A value of an enumeration, by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Word<T>(pub(super) T);

/// The values of a claim that a policy requires.
#[derive(Clone, Debug, PartialEq, serde::Deserialize)]
#[serde(transparent)]
pub(super) struct ClaimValues(pub(super) keybound_core::policy::ClaimValues);

impl<'de> Deserialize<'de> for Span {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        text(deserializer, "a duration with its unit, such as 30s", Self::parse)
    }
}

impl<'de> Deserialize<'de> for Address {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        text(deserializer, "IP:PORT or unix:/PATH", Self::parse)
    }
}

impl<'de> Deserialize<'de> for AlgorithmName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        text(deserializer, "the name of a signature algorithm, such as ES256", Self::parse)
    }
}

impl<'de, T: Words> Deserialize<'de> for Word<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_str(Named(PhantomData))
    }
}

struct Named<T>(PhantomData<T>);

impl<T: Words> Visitor<'_> for Named<T> {
    type Value = Word<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a string")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Word<T>, E> {
        T::named(text).map(Word).ok_or_else(|| E::unknown_variant(text, T::NAMES))
    }
}

type Parse<T> = fn(&str) -> Result<T, String>;

fn text<'de, D: Deserializer<'de>, T>(
    deserializer: D,
    expected: &'static str,
    parse: Parse<T>,
) -> Result<T, D::Error> {
    deserializer.deserialize_str(Text { expected, parse })
}

struct Text<T> {
    expected: &'static str,
    parse: Parse<T>,
}

impl<T> Visitor<'_> for Text<T> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.expected)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<T, E> {
        (self.parse)(text).map_err(E::custom)
    }
}

impl JsonSchema for Span {
    fn schema_name() -> Cow<'static, str> {
        "Duration".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "pattern": "^[0-9]+(ms|s|m|h)$",
            "description": "A length of time with its unit, as in 150ms, 30s, 5m or 1h."
        })
    }
}

impl JsonSchema for Address {
    fn schema_name() -> Cow<'static, str> {
        "Address".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "pattern": "^(unix:/.+|.+:[0-9]+)$",
            "description": "IP:PORT, or unix:/PATH for a Unix domain socket."
        })
    }
}

impl JsonSchema for AlgorithmName {
    fn schema_name() -> Cow<'static, str> {
        "Algorithm".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": "string", "enum": Algorithm::NAMES })
    }
}

impl<T: Words> JsonSchema for Word<T> {
    fn schema_name() -> Cow<'static, str> {
        T::KIND.into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let each = T::TABLE.iter().map(|(_, name, meaning)| {
            json_schema!({ "type": "string", "const": name, "description": told(meaning) })
        });
        json_schema!({ "oneOf": each.collect::<Vec<_>>(), "description": told(T::ABOUT) })
    }
}

/// The text of a doc comment, whose lines begin with the space after the slashes.
fn told(comment: &str) -> String {
    comment.lines().map(str::trim).collect::<Vec<_>>().join("\n")
}

impl JsonSchema for ClaimValues {
    fn schema_name() -> Cow<'static, str> {
        "ClaimValues".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let schema = keybound_core::policy::ClaimValues::schema();
        Schema::try_from(schema).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use keybound_core::policy::NonceDemand;

    #[test]
    fn a_duration_has_a_unit() {
        for (text, millis) in
            [("150ms", 150), ("0s", 0), ("30s", 30_000), ("5m", 300_000), ("1h", 3_600_000)]
        {
            let span = Span(Duration::from_millis(millis));
            assert_eq!((Span::parse(text), span.to_string()), (Ok(span), text.to_owned()));
        }
        for (text, shown) in [("0ms", "0s"), ("1500ms", "1500ms"), ("1m", "60s"), ("90s", "90s")] {
            assert_eq!(Span::parse(text).unwrap().to_string(), shown);
        }
        for (text, shown) in [("61s", "61s"), ("120s", "2m"), ("60m", "1h"), ("90m", "90m")] {
            assert_eq!(Span::parse(text).unwrap().to_string(), shown);
        }
        for odd in
            ["", "30", "s", "1.5s", "-1s", "+1s", " 1s", "1 s", "1S", "1d", "1m30s", "٣s", "1sé"]
        {
            assert!(Span::parse(odd).is_err(), "{odd}");
        }
        assert!(Span::parse("18446744073709551615ms").is_ok());
        assert!(Span::parse("18446744073709551616ms").is_err());
        assert!(Span::parse("18446744073709551615s").is_err());
    }

    #[test]
    fn an_address_reads_as_it_is_written() {
        for text in ["127.0.0.1:9001", "[::1]:0", "unix:/run/keybound/ext_authz.sock"] {
            assert_eq!(Address::parse(text).unwrap().to_string(), text);
        }
        let longest = format!("unix:/{}", "x".repeat(106));
        assert!(Address::parse(&longest).is_ok());
        let too_long = format!("{longest}x");
        for odd in ["", ":9001", "localhost:9001", "127.0.0.1", "unix:x", "unix:", &too_long] {
            assert!(Address::parse(odd).is_err(), "{odd}");
        }
    }

    #[test]
    fn the_schema_of_a_word_tells_each_name_and_what_it_means() {
        let schema = Word::<NonceDemand>::json_schema(&mut SchemaGenerator::default()).to_value();
        assert_eq!(
            schema["description"],
            "Whether DPoP proofs need a nonce of this server (RFC 9449 §9)."
        );
        let names = schema["oneOf"].as_array().unwrap().iter().map(|it| &it["const"]);
        assert!(names.eq(["off", "offered", "required"]));
        let offered = "A nonce is given, and optional.";
        assert_eq!(schema["oneOf"][1]["description"], offered);
    }

    #[test]
    fn what_cannot_prove_anything_is_no_algorithm() {
        for (text, message) in [
            ("none", "unsigned"),
            ("NONE", "unsigned"),
            ("HS256", "symmetric"),
            ("hs512", "symmetric"),
            ("es256", "there are RS256"),
            ("ES256K", "there are RS256"),
            ("", "there are RS256"),
        ] {
            assert!(AlgorithmName::parse(text).unwrap_err().contains(message), "{text}");
        }
        assert_eq!(AlgorithmName::parse("ES256"), Ok(AlgorithmName(Algorithm::ES256)));
    }
}
