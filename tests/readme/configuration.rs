//! The table of all keys of the configuration is that of the schema, with the bounds that are enforced.
//! `KEYBOUND_BLESS=1` writes it anew.

use super::configured::configured;
use super::{CONFIGURATION, root};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt::Write;
use std::fs;

const BEGIN: &str = "<!-- keys: KEYBOUND_BLESS=1 cargo test --test readme -->\n";
const END: &str = "<!-- end of keys -->\n";

/// Every duration, and too long.
const TOO_LONG: &str = "
issuers:
- issuer: https://as.example.com
  audiences: [a]
  clock_leeway: 9999h
  keys: {refresh_min: 9999h, refresh_max: 9999h, refresh_default: 9999h, max_stale: 9999h,
    withdrawn_key_grace: 9999h, unknown_kid_cooldown: 9999h, fetch_timeout: 9999h}
  introspection: {client_id: gateway, authentication: none, timeout: 9999h, cache_ttl: 9999h, negative_ttl: 9999h}
  revocation: {events: {delivery: poll, endpoint: 'https://as.example.com', audience: a, poll_interval: 9999h, keep: 9999h}}
policies:
- {name: a, sender_constraint: dpop, match: {hosts: [a.example]}, authentication: {max_age: 9999h}}
limits: {check_deadline: 9999h}
dpop: {proof_window: 9999h, replay: {store: redis, url_file: redis-url, timeout: 9999h}}
";

/// It is kept between two others.
const UNBOUNDED: &[&str] = &["issuers[].keys.refresh_default"];

/// What a duration may be, by its path, as a configuration that is wrong is told.
fn bounds() -> BTreeMap<String, String> {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("redis-url"), "redis://127.0.0.1").unwrap();
    let mut bounds = BTreeMap::new();
    for problem in configured(TOO_LONG, folder.path()).err().unwrap() {
        let told = problem.to_string();
        let bound = told.split_once("must be ").and_then(|it| it.1.split_once(", not "));
        if let Some((bound, _)) = bound {
            bounds.insert(problem.path.replace("[0]", "[]"), bound.to_owned());
        }
    }
    bounds
}

/// The table of the keys below one key at the root.
struct Table<'a> {
    schema: &'a Value,
    bounds: &'a BTreeMap<String, String>,
    text: String,
}

impl Table<'_> {
    /// `node` with what it refers to.
    fn resolved(&self, node: &Value) -> Value {
        let Some(name) = node["$ref"].as_str() else { return node.clone() };
        let mut found = self.schema["$defs"][name.rsplit('/').next().unwrap()].clone();
        for (key, value) in node.as_object().unwrap() {
            found[key] = value.clone();
        }
        found
    }

    /// Adds a row for each key of `node`, which is at `place`, whose own rows begin with `prefix`.
    fn rows(&mut self, node: &Value, place: &str, prefix: &str) {
        for (key, value) in node["properties"].as_object().into_iter().flatten() {
            let value = self.resolved(value);
            let (place, path) = (format!("{place}.{key}"), format!("{prefix}{key}"));
            let (kind, usual) = (self.kind(&value, &place), usual(node, key, &value));
            let told = value["description"].as_str().unwrap().replace('\n', " ");
            let told = told.replace(['<', '>'], "`").replace('|', "\\|");
            writeln!(self.text, "| `{path}` | {kind} | {usual} | {told} |").unwrap();
            self.rows(&value, &place, &format!("{path}."));
        }
    }

    /// What may be written.
    fn kind(&self, node: &Value, place: &str) -> String {
        if node["$ref"].as_str().is_some_and(|it| it.ends_with("/Duration")) {
            let bound = self.bounds.get(place);
            assert!(bound.is_some() || UNBOUNDED.contains(&place), "{place} is not in TOO_LONG");
            return bound.map_or_else(|| "duration".to_owned(), |it| format!("duration, {it}"));
        }
        if node["$ref"].as_str().is_some_and(|it| it.ends_with("/Address")) {
            return "`IP:PORT` or `unix:/PATH`".to_owned();
        }
        if let Some(choices) = node["oneOf"].as_array() {
            let names = choices.iter().map(|it| format!("`{}`", it["const"].as_str().unwrap()));
            return names.collect::<Vec<_>>().join(", ");
        }
        let range = || format!(", {} to {}", node["minimum"], node["maximum"]);
        match node["type"].as_str() {
            Some("boolean") => "`true`, `false`".to_owned(),
            Some("integer") => format!("whole number{}", range()),
            Some("number") => format!("number{}", range()),
            Some("array") if node["items"]["$ref"] == "#/$defs/Algorithm" => {
                "list of [algorithms](#algorithms)".to_owned()
            }
            Some("array") => "list".to_owned(),
            Some("object") => "mapping".to_owned(),
            Some("string") if place.ends_with("_file") => "path of a file".to_owned(),
            Some("string") => "text".to_owned(),
            _ => panic!("{place}: {node:#}"),
        }
    }
}

/// The default of a key of `parent`.
fn usual(parent: &Value, key: &str, node: &Value) -> String {
    let holds = |list: &Value| list.as_array().is_some_and(|it| it.iter().any(|it| it == key));
    if holds(&parent["required"]) {
        return "required".to_owned();
    }
    if holds(&parent["else"]["required"]) {
        return "required, unless `public`".to_owned();
    }
    let given = node.get("default").map(|it| format!("`{}`", written(it)));
    given.unwrap_or_else(|| "–".to_owned())
}

/// A value as it is written in a configuration.
fn written(value: &Value) -> String {
    let all = |them: Vec<String>| them.join(", ");
    match value {
        Value::String(text) => text.clone(),
        Value::Array(items) => format!("[{}]", all(items.iter().map(written).collect())),
        Value::Object(members) => {
            let members = members.iter().map(|(key, it)| format!("{key}: {}", written(it)));
            format!("{{{}}}", all(members.collect()))
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => value.to_string(),
    }
}

/// The keys at the root in the order in which a file is written.
const ORDER: &[&str] = &[
    "listen",
    "issuers",
    "policies",
    "client_certificate",
    "dpop",
    "forward_auth",
    "limits",
    "upstream",
    "telemetry",
];

#[test]
fn every_key_has_a_row_with_its_default_and_its_bounds() {
    let schema = keybound::config::schema();
    let bounds = bounds();
    let known: Vec<_> = schema["properties"].as_object().unwrap().keys().collect();
    let missing: Vec<_> = known.iter().filter(|it| !ORDER.contains(&it.as_str())).collect();
    assert!(missing.is_empty() && known.len() == ORDER.len(), "{missing:?}");
    let mut table = Table { schema: &schema, bounds: &bounds, text: String::new() };
    for key in ORDER {
        let node = table.resolved(&schema["properties"][key]);
        let told = node["description"].as_str().unwrap().replace('\n', " ");
        let (node, place) = match node.get("items") {
            None => (node, (*key).to_owned()),
            Some(items) => (table.resolved(items), format!("{key}[]")),
        };
        let head = "| key | value | default | what it is |\n|---|---|---|---|\n";
        write!(table.text, "\n### `{place}`\n\n{told}\n\n{head}").unwrap();
        table.rows(&node, &place, "");
    }
    let (before, rest) = CONFIGURATION.split_once(BEGIN).unwrap();
    let (_, after) = rest.split_once(END).unwrap();
    let expected = format!("{before}{BEGIN}{}\n{END}{after}", table.text);
    if std::env::var_os("KEYBOUND_BLESS").is_some() {
        fs::write(root().join("docs/configuration.md"), expected).unwrap();
    } else {
        assert!(CONFIGURATION == expected, "the keys should be:\n{}", table.text);
    }
}
