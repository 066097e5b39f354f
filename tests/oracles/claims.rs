//! Claims: what a policy demands of them holds exactly where the plainest reading of the JSON says
//! so, and a header that tells one tells no other.

use super::choices::Choices;
use keybound_core::jose::json;
use keybound_core::oauth::Claims;
use keybound_core::policy::{ClaimFormat, ClaimNames};
use serde_json::{Map, Number, Value};
use std::fmt::Write;

/// Holds that the claims of a token are read, found by their path and compared as plainly as can
/// be.
pub fn a_demand_holds_where_the_claim_says_so(choices: &mut Choices<'_>) -> &'static str {
    let claims = object(choices, 0);
    let text = spelled(choices, &claims.clone().into());
    let read = json::object(text.as_bytes()).unwrap();
    assert_eq!(Value::Object(read.clone()), Value::Object(claims.clone()), "{text}");

    let path = path(choices, &claims);
    let wanted: Vec<_> = (0..=choices.below(3)).map(|_| scalar(choices)).collect();
    let kept = Claims::select(
        &read,
        &["sub".to_owned(), path.clone(), "n".to_owned()].into(),
        &ClaimNames::default(),
    );
    let found = kept.get(&path);
    let expected = at(&claims, &path);
    assert_eq!(found.map(|it| it.to_string()), expected.map(Value::to_string), "{path} {text}");
    assert_eq!(kept.text(&path), expected.and_then(Value::as_str), "{path} {text}");
    let (Some(found), Some(expected)) = (found, expected) else { return "absent" };
    let holds = wanted.iter().any(|it| holds(expected, it));
    assert_eq!(found.holds_any(&wanted), holds, "{path} {wanted:?} {text}");
    if holds { "holds" } else { "does not hold" }
}

/// The first of all ways to take a path for names of members: the whole of it for one name, else
/// its beginning, up to a dot, for the name of an object that has a member for the rest.
fn at<'v>(claims: &'v Map<String, Value>, path: &str) -> Option<&'v Value> {
    let parts: Vec<_> = path.split('.').collect();
    let ends = (1..parts.len()).map(|end| (parts[..end].join("."), parts[end..].join(".")));
    claims.get(path).or_else(|| {
        ends.into_iter().find_map(|(name, rest)| match claims.get(&name) {
            Some(Value::Object(members)) => at(members, &rest),
            _ => None,
        })
    })
}

/// A claim is one of several if it is a list, and one otherwise. Only strings, numbers and booleans
/// are demanded.
fn holds(claim: &Value, wanted: &Value) -> bool {
    let members = match claim {
        Value::Array(members) => members.iter().collect(),
        claim => vec![claim],
    };
    members.into_iter().any(|it| match (it, wanted) {
        (Value::Number(one), Value::Number(other)) => match (one.as_i128(), other.as_i128()) {
            (Some(one), Some(other)) => one == other,
            _ => one.as_f64() == other.as_f64() && ![one, other].into_iter().any(is_rounded),
        },
        (one, other) => one == other,
    })
}

/// Whether a number stands for others as well: from 2^53 on, what is no whole number of 64 bits has
/// lost some of its digits.
fn is_rounded(number: &Number) -> bool {
    let is_whole = number.as_i64().is_some() || number.as_u64().is_some();
    !is_whole && number.as_f64().is_some_and(|it| 9_007_199_254_740_992.0 <= it.abs())
}

/// Holds that the value of a header tells the claim from all others of its kind, and that none is
/// left out without need.
pub fn a_header_tells_the_claim(choices: &mut Choices<'_>) -> &'static str {
    let claim = value(choices, 1);
    let members = Map::from_iter([("a".to_owned(), claim.clone())]);
    let kept = Claims::select(&members, &["a".to_owned()].into(), &ClaimNames::default());
    let found = kept.get("a").unwrap();

    let json = found.header_value(ClaimFormat::Json).unwrap();
    let plain = found.header_value(ClaimFormat::Plain);
    if claim.is_null() {
        assert_eq!((json, plain), (None, Ok(None)));
        return "null";
    }
    let json = json.unwrap();
    assert!(json.bytes().all(|it| matches!(it, b' '..=b'~')), "{json}");
    let outside = |it: &&str| !claim.to_string().contains(*it);
    if ["$serde_json::private::RawValue", "$serde_json::private::Number"].iter().all(outside) {
        assert_eq!(serde_json::from_str::<Value>(&json).unwrap(), claim, "{json}");
    }
    let expected = match &claim {
        Value::String(text) => text.clone(),
        Value::Array(members) if members.iter().all(Value::is_string) => {
            members.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(" ")
        }
        other => other.to_string(),
    };
    let Ok(plain) = plain else {
        assert!(!is_clear(&claim, &expected), "{claim} has no value");
        return "left out";
    };
    assert!(is_clear(&claim, &expected), "{claim} became {plain:?}");
    assert_eq!(plain.as_deref(), Some(&*expected), "{claim}");
    "told"
}

/// Whether nobody can read the value of a header as another claim of its kind.
fn is_clear(claim: &Value, written: &str) -> bool {
    let is_word = |it: &Value| {
        it.as_str().is_none_or(|it| !it.is_empty() && !it.contains(char::is_whitespace))
    };
    let told_apart = match claim {
        Value::Array(members) if members.iter().all(Value::is_string) => {
            members.iter().all(is_word)
        }
        Value::Number(number) => !is_rounded(number),
        _ => true,
    };
    told_apart && written.trim() == written && !written.contains(char::is_control)
}

// Claims.

/// Any names, or those of members, one within the other.
fn path(choices: &mut Choices<'_>, claims: &Map<String, Value>) -> String {
    if choices.one_in(3) {
        let names: Vec<_> = (0..=choices.below(3)).map(|_| choices.pick(NAMES)).collect();
        return names.join(".");
    }
    let mut path = vec![];
    let mut members = claims;
    while let Some((name, value)) = members.iter().nth(choices.below(members.len().max(1))) {
        path.push(name.as_str());
        match value {
            Value::Object(inside) if !choices.one_in(4) => members = inside,
            _ => break,
        }
    }
    path.join(".")
}

/// Names to which `serde_json` gives a meaning, in some of its features, are among them.
const NAMES: &[&str] = &[
    "a",
    "a",
    "b",
    "a.b",
    "https://a.b/c",
    "",
    "$serde_json::private::RawValue",
    "$serde_json::private::Number",
];

fn object(choices: &mut Choices<'_>, depth: usize) -> Map<String, Value> {
    let count = choices.below(5);
    let member = |_| (choices.pick(NAMES).to_owned(), value(choices, depth + 1));
    (0..count).map(member).collect()
}

fn value(choices: &mut Choices<'_>, depth: usize) -> Value {
    match choices.below(if depth < 4 { 6 } else { 3 }) {
        0 => Value::Null,
        1 | 2 => scalar(choices),
        3 => (0..choices.below(4)).map(|_| scalar(choices)).collect(),
        4 => (0..choices.below(4)).map(|_| value(choices, depth + 1)).collect(),
        _ => object(choices, depth).into(),
    }
}

fn scalar(choices: &mut Choices<'_>) -> Value {
    match choices.below(3) {
        0 => Value::from(choices.one_in(2)),
        1 => serde_json::from_str(choices.pick(NUMBERS)).unwrap(),
        _ => Value::from(choices.pick(TEXTS)),
    }
}

const NUMBERS: &[&str] = &[
    "0",
    "-0",
    "1",
    "1.0",
    "10e-1",
    "1.5",
    "-1",
    "9007199254740992",
    "9007199254740993",
    "9007199254740992.0",
    "9223372036854775807",
    "9223372036854775808",
    "18446744073709551615",
    "18446744073709551616",
    "-9223372036854775808",
    "1e300",
];

const TEXTS: &[&str] = &[
    "a",
    "b",
    "a b",
    "a ",
    "\u{a0}a",
    "a\u{85}",
    "A",
    "",
    "1",
    "true",
    "null",
    "\"a\"",
    "[\"a\"]",
    "é",
    "\u{1d11e}",
    "a\n",
    "\\",
    "\u{0}",
];

/// A JSON text for a value, in one of many spellings (RFC 8259).
fn spelled(choices: &mut Choices<'_>, value: &Value) -> String {
    let blank = choices.pick(&["", "", " ", "\n\t"]);
    let text = match value {
        Value::String(text) => quoted(choices, text),
        Value::Array(members) => {
            let members: Vec<_> = members.iter().map(|it| spelled(choices, it)).collect();
            format!("[{}]", members.join(","))
        }
        Value::Object(members) => {
            let member = |(name, value)| {
                let name: &String = name;
                format!("{blank}{}{blank}:{}", quoted(choices, name), spelled(choices, value))
            };
            format!("{{{}}}", members.iter().map(member).collect::<Vec<_>>().join(","))
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => value.to_string(),
    };
    format!("{blank}{text}{blank}")
}

fn quoted(choices: &mut Choices<'_>, text: &str) -> String {
    let mut quoted = "\"".to_owned();
    for character in text.chars() {
        if character.is_control() || "\"\\".contains(character) || choices.one_in(8) {
            for unit in character.encode_utf16(&mut [0; 2]) {
                write!(quoted, "\\u{unit:04x}").unwrap();
            }
        } else {
            quoted.push(character);
        }
    }
    quoted + "\""
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::choices::{CASES, outcomes};

    #[test]
    fn a_demand_holds_where_the_plainest_reading_says_so() {
        outcomes(CASES, a_demand_holds_where_the_claim_says_so).came_up(&[
            "holds",
            "does not hold",
            "absent",
        ]);
    }

    #[test]
    fn the_value_of_a_header_tells_the_claim_from_all_others() {
        outcomes(CASES, a_header_tells_the_claim).came_up(&["told", "left out", "null"]);
    }
}
