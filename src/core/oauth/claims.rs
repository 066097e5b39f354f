//! Claims of a token: selection by dotted path, comparison, and encoding as a header value.

use super::joined::is_said;
use crate::jose::json::{self, Object, strings};
use crate::policy::{ClaimFormat, ClaimNames};
use serde_json::{Number, Value};
use std::borrow::Cow;
use std::fmt::{self, Write};
use std::sync::Arc;

/// The claims of a token that are kept: those that policies or headers use.
///
/// A million tokens may be cached, so the claims of one are a single allocation: for each path, in
/// order, the kind of its value, the length, and the value.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Claims {
    paths: Arc<[String]>,
    kept: Box<[u8]>,
}

/// A claim that was kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Claim<'a> {
    /// A string.
    Text(&'a str),
    /// Any other value, as JSON.
    Json(&'a str),
}

impl Claims {
    /// Keeps the claims that `paths` name: `client_id` and `scope` from wherever `names` says that they
    /// stand.
    pub fn select(claims: &Object, paths: &Arc<[String]>, names: &ClaimNames) -> Self {
        let mut kept = Vec::with_capacity(128);
        for path in paths.iter() {
            match names.find(claims, path) {
                None => kept.push(ABSENT),
                Some(Value::String(text)) => keep(&mut kept, TEXT, text),
                Some(value) => keep(&mut kept, JSON, &value.to_string()),
            }
        }
        Self { paths: Arc::clone(paths), kept: kept.into() }
    }

    /// These claims, and of those that are absent here the ones of `other`, which the same paths must
    /// have selected.
    pub(crate) fn joined(&self, other: &Self) -> Self {
        let mut kept = Vec::with_capacity(self.kept.len().saturating_add(other.kept.len()));
        for path in self.paths.iter() {
            let own = self.get(path).filter(is_said);
            match own.or_else(|| other.get(path)) {
                None => kept.push(ABSENT),
                Some(Claim::Text(text)) => keep(&mut kept, TEXT, text),
                Some(Claim::Json(json)) => keep(&mut kept, JSON, json),
            }
        }
        Self { paths: Arc::clone(&self.paths), kept: kept.into() }
    }

    /// Whether these claims were selected by `paths`.
    pub fn are_selected_by(&self, paths: &Arc<[String]>) -> bool {
        Arc::ptr_eq(&self.paths, paths) || self.paths == *paths
    }

    /// The claim at `path`, which must be among the selected ones.
    pub fn get(&self, path: &str) -> Option<Claim<'_>> {
        let mut rest = &*self.kept;
        for name in self.paths.iter() {
            let (kind, text, behind) = first_kept(rest)?;
            if name == path {
                return Claim::of(kind, text);
            }
            rest = behind;
        }
        None
    }

    /// Whether the claim at `path` has this word: a string's words are separated by spaces (RFC 6749
    /// §3.3), and a list's members are one word each, whatever blanks they hold.
    pub fn has_word(&self, path: &str, word: &str) -> bool {
        match self.get(path) {
            Some(Claim::Text(text)) => text.split(' ').any(|it| it == word),
            Some(Claim::Json(json)) => {
                strings(json).is_some_and(|members| members.iter().any(|it| it == word))
            }
            None => false,
        }
    }

    /// The approximate memory use in bytes.
    pub fn bytes(&self) -> usize {
        self.kept.len()
    }

    /// The claim at `path`, if it is a string.
    pub fn text(&self, path: &str) -> Option<&str> {
        match self.get(path)? {
            Claim::Text(text) => Some(text),
            Claim::Json(_) => None,
        }
    }
}

const ABSENT: u8 = 0;
const TEXT: u8 = 1;
const JSON: u8 = 2;

/// Placeholder for a length of four bytes that is filled in later.
const LONG: u8 = u8::MAX;

fn keep(kept: &mut Vec<u8>, kind: u8, text: &str) {
    kept.push(kind);
    if let Some(short) = u8::try_from(text.len()).ok().filter(|it| *it < LONG) {
        kept.push(short);
    } else {
        kept.push(LONG);
        // A token is at most 1 MiB long, and so are its claims.
        kept.extend_from_slice(&u32::try_from(text.len()).unwrap_or(u32::MAX).to_le_bytes());
    }
    kept.extend_from_slice(text.as_bytes());
}

/// The kind and the text of the first claim, and what follows it.
fn first_kept(kept: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&kind, rest) = kept.split_first()?;
    if kind == ABSENT {
        return Some((kind, &[], rest));
    }
    let (length, rest) = match rest.split_first()? {
        (&LONG, rest) => {
            let (length, rest) = rest.split_first_chunk()?;
            (usize::try_from(u32::from_le_bytes(*length)).ok()?, rest)
        }
        (&short, rest) => (short.into(), rest),
    };
    let (text, rest) = rest.split_at_checked(length)?;
    Some((kind, text, rest))
}

impl<'a> Claim<'a> {
    fn of(kind: u8, text: &'a [u8]) -> Option<Self> {
        let text = str::from_utf8(text).ok()?;
        match kind {
            TEXT => Some(Self::Text(text)),
            JSON => Some(Self::Json(text)),
            _ => None,
        }
    }

    /// Whether the claim equals one of the values, or is an array that contains one.
    pub fn holds_any(self, wanted: &[Value]) -> bool {
        let is_wanted = |text: &str| wanted.iter().any(|it| it.as_str() == Some(text));
        match self {
            Self::Text(text) => is_wanted(text),
            Self::Json(text) => match strings(text) {
                Some(strings) => strings.iter().any(|it| is_wanted(it)),
                None => json::value(text.as_bytes())
                    .is_ok_and(|claim| wanted.iter().any(|it| holds(&claim, it))),
            },
        }
    }

    /// The claim as a header value; none if it is `null`.
    ///
    /// # Errors
    ///
    /// The value would be ambiguous.
    pub fn header_value(self, format: ClaimFormat) -> Result<Option<Cow<'a, str>>, Ambiguous> {
        if self == Self::Json("null") {
            return Ok(None);
        }
        match format {
            ClaimFormat::Plain => self.plain().map(Some),
            ClaimFormat::Json => Ok(Some(self.in_ascii())),
        }
    }

    /// Strings unchanged, arrays of strings joined by one space, everything else as JSON.
    fn plain(self) -> Result<Cow<'a, str>, Ambiguous> {
        let text = match self {
            Self::Text(text) => Cow::Borrowed(text),
            Self::Json(json) => match strings(json) {
                Some(members) => Cow::Owned(joined(&members)?),
                None if is_rounded(json) => return Err(Ambiguous),
                None => Cow::Borrowed(json),
            },
        };
        is_clear(&text).then_some(text).ok_or(Ambiguous)
    }

    /// JSON with all but printable ASCII escaped (RFC 8259 §7), so that a recipient reads the same
    /// whether it decodes headers as Latin-1 or as UTF-8.
    fn in_ascii(self) -> Cow<'a, str> {
        let json = match self {
            Self::Text(text) => Cow::Owned(Value::from(text).to_string()),
            Self::Json(json) => Cow::Borrowed(json),
        };
        let printable = |it: u8| matches!(it, b' '..=b'~');
        if json.bytes().all(printable) {
            return json;
        }
        let mut escaped = String::with_capacity(json.len().saturating_mul(2));
        for unit in json.encode_utf16() {
            match u8::try_from(unit).ok().filter(|it| printable(*it)) {
                Some(byte) => escaped.push(byte.into()),
                // These occur only inside strings: compact JSON has no line breaks.
                None => drop(write!(escaped, "\\u{unit:04x}")),
            }
        }
        Cow::Owned(escaped)
    }
}

/// The claim would be ambiguous as a header value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ambiguous;

/// Whether a header with this value says the same to all: a line break would start another header, and
/// spaces at the ends would be lost.
fn is_clear(text: &str) -> bool {
    // No early exit, so that the loop vectorises. Most claims are of visible ASCII.
    text.bytes().fold(true, |all, it| all & it.is_ascii_graphic())
        || !text.starts_with(char::is_whitespace)
            && !text.ends_with(char::is_whitespace)
            && !text.chars().any(char::is_control)
}

/// The members joined by one space, if they can be split again unambiguously.
fn joined(members: &[Cow<'_, str>]) -> Result<String, Ambiguous> {
    let is_one_word = |it: &str| !it.is_empty() && !it.contains(char::is_whitespace);
    if members.iter().all(|it| is_one_word(it)) { Ok(members.join(" ")) } else { Err(Ambiguous) }
}

/// Whether a JSON number may have been rounded: beyond 2^53, all but whole numbers of 64 bits are
/// (RFC 8259 §6).
fn is_rounded(json: &str) -> bool {
    let is_whole = json.parse::<i64>().is_ok() || json.parse::<u64>().is_ok();
    !is_whole && json.parse::<f64>().is_ok_and(|it| EXACT <= it.abs())
}

/// From here on, not every whole number is an exact `f64` (2^53).
const EXACT: f64 = 9_007_199_254_740_992.0;

/// As JSON.
impl fmt::Display for Claim<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => write!(f, "{}", Value::from(*text)),
            Self::Json(json) => f.write_str(json),
        }
    }
}

fn holds(claim: &Value, wanted: &Value) -> bool {
    claim
        .as_array()
        .map_or_else(|| same(claim, wanted), |members| members.iter().any(|it| same(it, wanted)))
}

/// JSON does not distinguish `1` from `1.0`. But from [`EXACT`] on, a number that is not a whole
/// number of 64 bits may have been rounded, and equals nothing.
fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) if is_whole(a) && is_whole(b) => a == b,
        (Value::Number(a), Value::Number(b)) => {
            a.as_f64() == b.as_f64() && a.as_f64().is_some_and(|it| it.abs() < EXACT)
        }
        _ => a == b,
    }
}

fn is_whole(number: &Number) -> bool {
    number.is_i64() || number.is_u64()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn object(value: &Value) -> Object {
        value.as_object().unwrap().clone()
    }

    #[test]
    fn only_selected_claims_are_kept() {
        let claims = object(&json!({"sub": "s", "secret": "x", "n": 1}));
        let kept = Claims::select(
            &claims,
            &["sub".to_owned(), "n".to_owned()].into(),
            &ClaimNames::default(),
        );
        assert_eq!(kept.text("sub"), Some("s"));
        assert_eq!(kept.text("n"), None, "not a string");
        assert_eq!(kept.get("n"), Some(Claim::Json("1")));
        assert_eq!(kept.get("secret"), None);
    }

    /// The claim as kept, at the path "it" behind others.
    fn kept(claim: Option<&Value>) -> Claims {
        let mut claims = object(&json!({"sub": "s", "n": [1]}));
        claims.extend(claim.map(|it| ("it".to_owned(), it.clone())));
        let paths = ["sub", "absent", "n", "it", "last"].map(str::to_owned).into();
        Claims::select(&claims, &paths, &ClaimNames::default())
    }

    #[test]
    fn what_is_kept_is_what_was_there() {
        assert_eq!(kept(None).get("it"), None);
        for length in [0, 1, 254, 255, 256, 70_000] {
            let text = "é".repeat(length / 2) + &"x".repeat(length % 2);
            let claims = kept(Some(&json!(text)));
            assert_eq!(claims.text("it"), Some(&*text), "{length}");
            assert_eq!((claims.text("sub"), claims.get("last")), (Some("s"), None));
            let claims = kept(Some(&json!([text])));
            assert_eq!(claims.get("it"), Some(Claim::Json(&json!([text]).to_string())), "{length}");
        }
        assert_eq!(kept(Some(&json!("a\"\n"))).get("it").unwrap().to_string(), r#""a\"\n""#);
        assert_eq!(kept(Some(&json!(null))).get("it"), Some(Claim::Json("null")));
    }

    #[test]
    fn a_claim_equals_or_holds_a_value() {
        fn holds(claim: &Value, wanted: &Value) -> bool {
            let others = [json!("another"), json!(7.5)];
            let claims = kept(Some(claim));
            let claim = claims.get("it").unwrap();
            assert!(!claim.holds_any(&others));
            claim.holds_any(&[&others[..], std::slice::from_ref(wanted)].concat())
        }
        assert!(holds(&json!("a"), &json!("a")));
        assert!(holds(&json!(["b", "a"]), &json!("a")));
        assert!(holds(&json!(["b", "a\"\u{e9}\n"]), &json!("a\"\u{e9}\n")));
        assert!(holds(&json!([1, "a"]), &json!("a")));
        assert!(holds(&json!(["a", 1]), &json!(1)));
        assert!(holds(&json!(1), &json!(1.0)));
        assert!(holds(&json!(u64::MAX), &json!(u64::MAX)));
        assert!(holds(&json!(1e15), &json!(1_000_000_000_000_000_u64)));
        assert!(holds(&json!(true), &json!(true)));
        for (claim, wanted) in [
            (json!("A"), json!("a")),
            (json!("a b"), json!("a")),
            (json!([]), json!("a")),
            (json!([["a"]]), json!("a")),
            (json!({"a": 1}), json!("a")),
            (json!("1"), json!(1)),
            (json!(9_007_199_254_740_993_u64), json!(9_007_199_254_740_992_u64)),
            (json!(9_007_199_254_740_993_u64), json!(9_007_199_254_740_992.0)),
            (json!([u64::MAX]), json!(u64::MAX - 1)),
            (json!(i64::MIN), json!(i64::MIN + 1)),
            (json!(18_446_744_073_709_551_616.0), json!(18_446_744_073_709_551_616.0)),
            (json!(null), json!("null")),
            (json!({"$serde_json::private::RawValue": "\"a\""}), json!("a")),
            (json!([{"$serde_json::private::RawValue": "\"a\""}]), json!("a")),
            (json!([1, {"$serde_json::private::RawValue": "\"a\""}]), json!("a")),
        ] {
            assert!(!holds(&claim, &wanted), "{claim} {wanted}");
        }
    }

    fn written(claim: &Value, format: ClaimFormat) -> Result<Option<String>, Ambiguous> {
        let claims = kept(Some(claim));
        let value = claims.get("it").unwrap().header_value(format);
        value.map(|it| it.map(Cow::into_owned))
    }

    #[test]
    fn a_claim_becomes_a_header_value() {
        for (claim, value) in [
            (json!("Zoë"), "Zoë"),
            (json!("Alice  B. Cooper"), "Alice  B. Cooper"),
            (json!(""), ""),
            (json!(1.5), "1.5"),
            (json!(18_446_744_073_709_551_615_u64), "18446744073709551615"),
            (json!(i64::MIN), "-9223372036854775808"),
            (json!(true), "true"),
            (json!(["a", "b"]), "a b"),
            (json!(["a\"", "b\\"]), "a\" b\\"),
            (json!([]), ""),
            (json!(["a", 1]), r#"["a",1]"#),
            (json!({"a": {"b": "\n"}}), r#"{"a":{"b":"\n"}}"#),
        ] {
            assert_eq!(written(&claim, ClaimFormat::Plain), Ok(Some(value.to_owned())), "{claim}");
        }
        for format in [ClaimFormat::Plain, ClaimFormat::Json] {
            assert_eq!(written(&json!(null), format), Ok(None));
        }
    }

    #[test]
    fn what_a_header_could_not_tell_from_another_claim_is_no_value() {
        for claim in [
            json!("a\r\nx-admin: 1"),
            json!("a\u{85}"),
            json!("a\u{7f}"),
            json!("alice "),
            json!(" alice"),
            json!("\talice"),
            json!("alice\u{a0}"),
            json!("\u{3000}alice"),
            json!(" "),
            json!(["staff admin"]),
            json!(["staff", "ad min"]),
            json!(["staff\u{a0}admin"]),
            json!(["staff\tadmin"]),
            json!(["a", "b\n"]),
            json!(["a", ""]),
            json!([""]),
            json!([" a"]),
            json!(1e300),
            json!(18_446_744_073_709_551_616.0),
            json!(-9_007_199_254_740_992.0),
        ] {
            assert_eq!(written(&claim, ClaimFormat::Plain), Err(Ambiguous), "{claim}");
        }
    }

    #[test]
    fn as_json_every_claim_has_a_value_that_all_readers_read_alike() {
        for (claim, value) in [
            (json!("alice "), r#""alice ""#),
            (json!("Zoë 𝄞"), r#""Zo\u00eb \ud834\udd1e""#),
            (json!(["staff admin"]), r#"["staff admin"]"#),
            (json!(["staff", "admin"]), r#"["staff","admin"]"#),
            (json!(["a", ""]), r#"["a",""]"#),
            (json!({"a": ["\u{7f}\u{85}\r\n\u{a0}"]}), r#"{"a":["\u007f\u0085\r\n\u00a0"]}"#),
            (json!(1.5), "1.5"),
            (json!(true), "true"),
        ] {
            let found = written(&claim, ClaimFormat::Json).unwrap().unwrap();
            assert_eq!(found, value);
            assert!(found.bytes().all(|it| matches!(it, b' '..=b'~')), "{found}");
            assert_eq!(serde_json::from_str::<Value>(&found).unwrap(), claim);
        }
    }
}
