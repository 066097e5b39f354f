//! Deserialisation that recovers from mistakes: as much of a file as a faulty tree holds.
//!
//! Serde stops at the first mistake. So each mistake is noted and removed from the tree, and the
//! rest is read again, until none is left.

use super::problem::{Findings, Path, Step, without_credentials};
use serde::de::DeserializeOwned;
use serde_json::Value;
use serde_path_to_error::{Segment, Track};

/// The file in `tree`, without the parts that cannot be read. `None` if there are too many of
/// those, or if the tree is not a mapping. At each place in `mappings` stands a mapping.
pub(super) fn read<T: DeserializeOwned>(
    mut tree: Value,
    mappings: &[&str],
    findings: &mut Findings,
) -> Option<T> {
    refuse_lists(&mut tree, "", mappings, &Path::default(), findings);
    if tree.is_null() {
        return None;
    }
    take_out_nulls(&mut tree, &Path::default(), findings);
    while !findings.is_full() {
        let mut track = Track::new();
        let reader = serde_path_to_error::Deserializer::new(&tree, &mut track);
        let error = match T::deserialize(reader) {
            Ok(file) => return Some(file),
            Err(error) => error.to_string(),
        };
        let mut at = place(&track.path());
        note(&error, &at, findings);
        // Serde may blame a place that is not in the tree; then its parent is removed.
        while !take_out(&mut tree, &at, findings) {
            match at.split_last() {
                Some((parent, _)) => at = parent,
                None => return None,
            }
        }
    }
    findings.give_up();
    None
}

/// The places of mappings in a configuration. Making them from the schema would take a proxy's memory for good.
pub(super) const MAPPINGS: &[&str] = &[
    "",
    ".client_certificate",
    ".client_certificate.header",
    ".client_certificate.xfcc",
    ".dpop",
    ".dpop.replay",
    ".forward_auth",
    ".issuers[]",
    ".issuers[].claim_names",
    ".issuers[].introspection",
    ".issuers[].keys",
    ".issuers[].revocation",
    ".issuers[].revocation.events",
    ".limits",
    ".listen",
    ".listen.events",
    ".listen.events.tls",
    ".listen.tls",
    ".policies[]",
    ".policies[].authentication",
    ".policies[].claims",
    ".policies[].match",
    ".policies[].resource",
    ".telemetry",
    ".telemetry.log",
    ".telemetry.otlp",
    ".upstream",
    ".upstream.headers",
];

/// Serde accepts a list as a mapping, by the order of its keys. Lists in the `place` of a mapping are
/// replaced by null.
fn refuse_lists(
    tree: &mut Value,
    place: &str,
    mappings: &[&str],
    at: &Path,
    findings: &mut Findings,
) {
    match tree {
        Value::Array(_) if mappings.contains(&place) => {
            findings.unreadable(at, "invalid type: list, expected a mapping");
            *tree = Value::Null;
        }
        Value::Object(entries) => {
            for (key, value) in entries {
                refuse_lists(value, &format!("{place}.{key}"), mappings, &at.key(key), findings);
            }
        }
        Value::Array(items) => {
            for (index, item) in items.iter_mut().enumerate() {
                refuse_lists(item, &format!("{place}[]"), mappings, &at.index(index), findings);
            }
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => (),
    }
}

/// A key without a value, such as a bare `match:`, is ambiguous.
fn take_out_nulls(tree: &mut Value, at: &Path, findings: &mut Findings) {
    const MESSAGE: &str = "has no value: give it one, or remove it";
    match tree {
        Value::Object(entries) => entries.retain(|key, value| {
            let at = at.key(key);
            if value.is_null() {
                findings.unreadable(&at, MESSAGE);
            } else {
                take_out_nulls(value, &at, findings);
            }
            !value.is_null()
        }),
        Value::Array(items) => {
            for (index, item) in items.iter_mut().enumerate() {
                take_out_nulls(item, &at.index(index), findings);
            }
            let mut left: usize = 0;
            for item in items.iter() {
                if !item.is_null() {
                    left = left.saturating_add(1);
                } else if findings.is_full() {
                    break;
                } else {
                    findings.unreadable(&at.index(left), MESSAGE);
                    findings.take_out(at, left);
                }
            }
            items.retain(|it| !it.is_null());
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => (),
    }
}

fn place(blamed: &serde_path_to_error::Path) -> Path {
    let mut at = Path::default();
    for segment in blamed {
        at = match segment {
            Segment::Seq { index } => at.index(*index),
            Segment::Map { key } => at.key(key),
            Segment::Enum { .. } | Segment::Unknown => break,
        };
    }
    at
}

/// Removes the value at `at`, if there is one.
fn take_out(tree: &mut Value, at: &Path, findings: &mut Findings) -> bool {
    let Some((within, last)) = at.split_last() else { return false };
    let mut parent = tree;
    for step in within.steps() {
        let inner = match step {
            Step::Key(key) => parent.get_mut(key),
            Step::Index(index) => parent.get_mut(index),
        };
        let Some(inner) = inner else { return false };
        parent = inner;
    }
    match (parent, last) {
        (Value::Object(entries), Step::Key(key)) => entries.remove(key).is_some(),
        (Value::Array(items), Step::Index(index)) if *index < items.len() => {
            items.remove(*index);
            findings.take_out(&within, *index);
            true
        }
        _ => false,
    }
}

/// Records serde's error in the terms of the file.
fn note(error: &str, at: &Path, findings: &mut Findings) {
    let Some(expected) = error.strip_prefix("unknown field ") else {
        findings.unreadable(at, reworded(error));
        return;
    };
    // `x`, expected one of `a`, `b`
    let known: Vec<_> =
        expected.rsplit("expected ").next().unwrap_or_default().split('`').collect();
    let known: Vec<_> = known.into_iter().skip(1).step_by(2).collect();
    let Some((parent, Step::Key(key))) = at.split_last() else {
        findings.unreadable(at, reworded(error));
        return;
    };
    if key == "type" && known.contains(&BINDING) {
        let hint = "what others call `type: certificate-bound` is `sender_constraint: certificate`";
        findings.unreadable(at, format!("unknown key: {hint}"));
        findings.meant(&parent.key(BINDING));
        return;
    }
    match closest(key, &known) {
        Some(meant) => {
            findings.unreadable(at, format!("unknown key: did you mean `{meant}`?"));
            findings.meant(&parent.key(meant));
        }
        None => {
            findings.unreadable(at, format!("unknown key: known here are {}", known.join(", ")));
        }
    }
}

/// The key that says how a token must be bound.
const BINDING: &str = "sender_constraint";

/// What other programs call a binding, and its value of `sender_constraint`.
const ELSEWHERE: [(&str, &str); 4] = [
    ("certificate-bound", "certificate"),
    ("certificate_bound", "certificate"),
    ("mtls", "certificate"),
    ("dpop-bound", "dpop"),
];

/// The hint for a binding under a name that other programs use.
fn named_elsewhere(error: &str) -> Option<String> {
    let (value, known) = error.strip_prefix("unknown variant `")?.split_once('`')?;
    let (_, meant) = ELSEWHERE.iter().find(|(it, _)| *it == value)?;
    known.contains("`if_bound`").then(|| format!(": did you mean `{meant}`?"))
}

fn reworded(error: &str) -> String {
    let unquoted = ["integer", "floating point", "boolean"]
        .iter()
        .any(|it| error.starts_with(&format!("invalid type: {it}")));
    let wants_text = error.ends_with("expected a string") || error.ends_with("string or map");
    let quotes =
        (unquoted && wants_text).then(|| ": put it in quotes if a string is meant".to_owned());
    let hint = quotes.or_else(|| named_elsewhere(error)).unwrap_or_default();
    let error = match error.split_once(", expected struct ") {
        Some((found, _)) => format!("{found}, expected a mapping"),
        None => error.to_owned(),
    };
    let error = error
        .replace("unknown variant", "unknown value")
        .replace("expected string or map", "expected a string")
        .replace("expected u64", "expected a whole number")
        .replace("expected a sequence", "expected a list")
        .replace("expected a map,", "expected a mapping,")
        .replace("invalid type: map", "invalid type: mapping")
        .replace("invalid type: sequence", "invalid type: list");
    without_credentials(&format!("{error}{hint}"))
}

fn closest<'a>(key: &str, known: &[&'a str]) -> Option<&'a str> {
    let near = |it: &&&str| distance(key, it) <= 2.max(it.len() / 3);
    known.iter().filter(near).min_by_key(|it| distance(key, it)).copied()
}

/// The edit distance of two words (Levenshtein).
fn distance(one: &str, other: &str) -> usize {
    let mut row: Vec<usize> = (0..=other.chars().count()).collect();
    for (index, left) in one.chars().enumerate() {
        let mut diagonal = index;
        let mut before = index.saturating_add(1);
        for (cell, right) in
            row.iter_mut().zip(std::iter::once(None).chain(other.chars().map(Some)))
        {
            let Some(right) = right else {
                diagonal = std::mem::replace(cell, before);
                continue;
            };
            let substituted = diagonal.saturating_add(usize::from(left != right));
            let shifted = (*cell).min(before).saturating_add(1);
            diagonal = *cell;
            *cell = substituted.min(shifted);
            before = *cell;
        }
    }
    row.last().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::file::File;
    use crate::config::problem::MOST;
    use crate::config::schema;
    use crate::config::yaml;

    #[track_caller]
    fn problems(text: &str) -> Vec<String> {
        let mut findings = Findings::default();
        let tree = yaml::read(text, &mut findings).unwrap();
        read::<File>(tree, MAPPINGS, &mut findings);
        findings.finish().0.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn every_mistake_is_found_and_places_are_those_of_the_file() {
        let text = "\
issuers:
- 5
- issuer: 2026
  audience: [a]
  audiences: [1, b, 2, c, 3]
  keys: []
- {issuer: b, clock_leeway: 30}
policies: {}
limits: {token_bytes: -1}
";
        assert_eq!(
            problems(text),
            [
                "line 2: issuers[0]: invalid type: integer `5`, expected a mapping",
                "line 3: issuers[1].issuer: invalid type: integer `2026`, expected a string: put \
                 it in quotes if a string is meant",
                "line 4: issuers[1].audience: unknown key: did you mean `audiences`?",
                "line 5: issuers[1].audiences[0]: invalid type: integer `1`, expected a string: \
                 put it in quotes if a string is meant",
                "line 5: issuers[1].audiences[2]: invalid type: integer `2`, expected a string: \
                 put it in quotes if a string is meant",
                "line 5: issuers[1].audiences[4]: invalid type: integer `3`, expected a string: \
                 put it in quotes if a string is meant",
                "line 6: issuers[1].keys: invalid type: list, expected a mapping",
                "line 7: issuers[2].clock_leeway: invalid type: integer `30`, expected a duration \
                 with its unit, such as 30s",
                "line 8: policies: invalid type: mapping, expected a list",
                "line 9: limits.token_bytes: invalid value: integer `-1`, expected a whole number",
            ]
        );
    }

    #[test]
    fn a_binding_by_the_name_that_others_have_for_it_is_understood() {
        let values = "one of `certificate`, `dpop`, `either`, `if_bound`, `none`";
        for (policy, expected) in [
            (
                "type: certificate-bound",
                "type: unknown key: what others call `type: certificate-bound` is `sender_constraint: \
                 certificate`"
                    .to_owned(),
            ),
            (
                "sender_constraint: certificate-bound",
                format!(
                    "sender_constraint: unknown value `certificate-bound`, expected {values}: did \
                     you mean `certificate`?"
                ),
            ),
            (
                "sender_constraint: mtls",
                format!(
                    "sender_constraint: unknown value `mtls`, expected {values}: did you mean \
                     `certificate`?"
                ),
            ),
            (
                "sender_constraint: bearer",
                format!("sender_constraint: unknown value `bearer`, expected {values}"),
            ),
        ] {
            let found = problems(&format!("policies:\n- {policy}\n"));
            assert_eq!(found, [format!("line 2: policies[0].{expected}")], "{policy}");
        }
        // Elsewhere the key means nothing of the kind.
        let found = problems("limits: {type: certificate-bound}\n").concat();
        assert!(found.contains("known here are token_bytes"), "{found}");
        let found = problems("policies:\n- mode: mtls\n").concat();
        assert!(!found.contains("did you mean"), "{found}");
    }

    #[test]
    fn a_key_without_a_value_is_a_mistake() {
        assert_eq!(
            problems("policies:\n- name:\n  match:\n-\n- scopes: [a, ~, b, null]\n"),
            [
                "line 2: policies[0].name: has no value: give it one, or remove it",
                "line 3: policies[0].match: has no value: give it one, or remove it",
                "line 4: policies[1]: has no value: give it one, or remove it",
                "line 5: policies[2].scopes[1]: has no value: give it one, or remove it",
                "line 5: policies[2].scopes[3]: has no value: give it one, or remove it",
            ]
        );
    }

    /// The places of mappings in `schema`, which may be a reference into the `whole` one.
    fn mappings(schema: &Value, whole: &Value, place: &str, found: &mut Vec<String>) {
        let reference = schema.get("$ref").and_then(Value::as_str);
        let definition = reference.and_then(|it| whole.pointer(it.strip_prefix('#')?));
        let schema = definition.unwrap_or(schema);
        if schema.get("type").is_some_and(|it| it == "object") {
            found.push(place.to_owned());
        }
        let properties = schema.get("properties").and_then(Value::as_object);
        for (key, property) in properties.into_iter().flatten() {
            mappings(property, whole, &format!("{place}.{key}"), found);
        }
        if let Some(items) = schema.get("items") {
            mappings(items, whole, &format!("{place}[]"), found);
        }
    }

    #[test]
    fn mappings_are_where_the_schema_has_them() {
        let (schema, mut found) = (schema(), vec![]);
        mappings(&schema, &schema, "", &mut found);
        assert_eq!(MAPPINGS, found);
    }

    #[test]
    fn a_list_is_no_mapping() {
        let text = "\
listen: [127.0.0.1:1, 127.0.0.1:2, 127.0.0.1:3, {}]
limits: [300, 1s, 1]
upstream: [keep, {}, []]
client_certificate: [peer, {behind: []}, [client-cert, rfc9440]]
dpop: {replay: [memory, 1, x]}
issuers:
- [a, [b], [ES256], [at+jwt], 1s, {}, x, {}]
- keys: [true, x, y]
policies:
- match: [[a], /, [GET]]
";
        let found = problems(text);
        assert_eq!(found.len(), 8, "{found:#?}");
        assert!(found.iter().all(|it| it.ends_with("list, expected a mapping")), "{found:#?}");
    }

    #[test]
    fn a_file_that_is_no_mapping_is_one_mistake() {
        for text in ["a", "[]", "- listen: {}", "5"] {
            assert_eq!(problems(text).len(), 1, "{text}");
        }
    }

    #[test]
    fn a_flood_of_mistakes_ends() {
        let lines: Vec<_> = (0..1000).map(|it| format!("x{it}: 1\n")).collect();
        let text = lines.concat();
        let found = problems(&text);
        assert_eq!(found.len(), MOST + 1);
        assert!(found.iter().any(|it| it.contains("more problems")));
    }

    #[test]
    fn a_flood_of_mistakes_costs_no_more_than_reading_it() {
        // To look at all others again for each of them would take minutes.
        let many = 30_000;
        for text in [
            format!("x: [{}]\n", "~,".repeat(many)),
            format!("x: [{}]\n", "{},~,".repeat(many)),
            "x: 1\n".repeat(many),
            format!("policies: [{}]\n", "{a: ~},".repeat(many)),
            format!("policies: [{}]\n", "&a x, ".repeat(many)),
            format!("policies: [{}]\n", "[], ".repeat(many)),
        ] {
            let found = problems(&text);
            let begin: String = text.chars().take(20).collect();
            assert!(found.len() <= MOST + 1, "{begin}: {}", found.len());
            let told = found.iter().any(|it| it.contains("more problems"));
            assert_eq!(told, found.len() == MOST + 1, "{begin}");
        }
    }

    #[test]
    fn the_distance_counts_edits() {
        for (one, other, edits) in
            [("", "", 0), ("a", "", 1), ("", "ab", 2), ("abc", "abd", 1), ("kitten", "sitting", 3)]
        {
            assert_eq!(distance(one, other), edits, "{one} {other}");
        }
    }
}
