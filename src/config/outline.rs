//! What a configuration says, key by key, and what differs between two of them.

use super::problem::without_credentials;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// The keys of a configuration file and their values, as text. Secrets are in files of their own.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outline {
    values: BTreeMap<String, String>,
    /// The lists whose elements have names, with those names in order.
    lists: BTreeMap<String, Vec<String>>,
}

/// The keys by which the elements of a list are told apart.
const NAMES: [&str; 2] = ["name", "issuer"];

/// The most characters of a value.
const VALUE_CHARS: usize = 80;

/// The most changes that are listed.
const CHANGES: usize = 50;

impl Outline {
    /// The outline of a file.
    pub(super) fn of(tree: &Value) -> Self {
        let mut outline = Self::default();
        outline.add("", tree);
        outline
    }

    /// What is different here from `before`, a line for each.
    pub fn changes_from(&self, before: &Self) -> Vec<String> {
        let mut changes = vec![];
        let mut whole = BTreeSet::new();
        for (one, other, what) in [(before, self, "added"), (self, before, "removed")] {
            for (list, names) in &other.lists {
                let known = one.lists.get(list).map_or(&[][..], Vec::as_slice);
                for name in names.iter().filter(|it| !known.contains(it)) {
                    let at = format!("{list}[{name}]");
                    changes.push(format!("{at}: {what}"));
                    whole.insert(at);
                }
            }
        }
        changes.extend(self.lists.iter().filter_map(|(list, now)| {
            let then = before.lists.get(list)?;
            let common = |one: &[String], other: &[String]| {
                one.iter().filter(|it| other.contains(it)).cloned().collect::<Vec<_>>()
            };
            let is_moved = common(then, now) != common(now, then);
            is_moved.then(|| format!("{list}: order is now {}", now.join(", ")))
        }));
        let keys: BTreeSet<_> = self.values.keys().chain(before.values.keys()).collect();
        let is_within = |key: &str| whole.iter().any(|it| key.starts_with(&**it));
        for key in keys.into_iter().filter(|it| !is_within(it)) {
            match (before.values.get(key), self.values.get(key)) {
                (Some(then), Some(now)) if then != now => {
                    changes.push(format!("{key}: {now}, before: {then}"));
                }
                (Some(then), None) => changes.push(format!("{key}: removed, before: {then}")),
                (None, Some(now)) => changes.push(format!("{key}: added: {now}")),
                (Some(_), Some(_)) | (None, None) => (),
            }
        }
        let more = changes.len().saturating_sub(CHANGES);
        changes.truncate(CHANGES);
        if 0 < more {
            changes.push(format!("and {more} more"));
        }
        changes
    }

    fn add(&mut self, at: &str, value: &Value) {
        match value {
            Value::Object(entries) => {
                for (key, value) in entries {
                    let at = if at.is_empty() { key.clone() } else { format!("{at}.{key}") };
                    self.add(&at, value);
                }
            }
            Value::Array(items) if items.iter().any(Value::is_object) => self.add_list(at, items),
            Value::Null
            | Value::Bool(_)
            | Value::Number(_)
            | Value::String(_)
            | Value::Array(_) => {
                self.values.insert(at.to_owned(), shown(value));
            }
        }
    }

    fn add_list(&mut self, at: &str, items: &[Value]) {
        let mut names = vec![];
        for (index, item) in items.iter().enumerate() {
            let own = NAMES.iter().find_map(|it| item.get(it)?.as_str());
            let name = own.map_or_else(|| index.to_string(), without_credentials);
            self.add(&format!("{at}[{name}]"), item);
            names.push(name);
        }
        self.lists.insert(at.to_owned(), names);
    }
}

fn shown(value: &Value) -> String {
    let text = without_credentials(&value.to_string());
    let mut characters = text.chars();
    let mut shown: String = characters.by_ref().take(VALUE_CHARS).collect();
    if characters.next().is_some() {
        shown.push('…');
    }
    shown
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn file() -> Value {
        json!({
            "issuers": [{"issuer": "https://as.example.com", "audiences": ["a"]}],
            "policies": [
                {"name": "payments", "sender_constraint": "certificate", "scopes": ["pay"]},
                {"name": "rest", "sender_constraint": "dpop"},
            ],
        })
    }

    /// The changes after one edit.
    fn changes(edit: impl FnOnce(&mut Value)) -> Vec<String> {
        let mut edited = file();
        edit(&mut edited);
        Outline::of(&edited).changes_from(&Outline::of(&file()))
    }

    #[test]
    fn a_change_is_told_by_its_key_with_both_values() {
        assert_eq!(changes(|_| {}), [""; 0]);
        assert_eq!(
            changes(|it| it["policies"][0]["scopes"] = json!(["pay", "read"])),
            [r#"policies[payments].scopes: ["pay","read"], before: ["pay"]"#]
        );
        assert_eq!(
            changes(|it| it["policies"][0]["mode"] = json!("report")),
            [r#"policies[payments].mode: added: "report""#]
        );
        assert_eq!(
            changes(|it| drop(it["policies"][0].as_object_mut().unwrap().remove("scopes"))),
            [r#"policies[payments].scopes: removed, before: ["pay"]"#]
        );
        assert_eq!(
            changes(|it| it["dpop"] = json!({"proof_window": "30s"})),
            [r#"dpop.proof_window: added: "30s""#]
        );
    }

    #[test]
    fn what_has_a_name_comes_goes_and_moves_as_a_whole() {
        let list = |it: &mut Value| it["policies"].as_array_mut().unwrap().clone();
        assert_eq!(
            changes(|it| {
                let mut policies = list(it);
                policies.insert(0, json!({"name": "first", "sender_constraint": "none"}));
                it["policies"] = policies.into();
            }),
            ["policies[first]: added"]
        );
        assert_eq!(
            changes(|it| it["policies"] = json!([list(it)[1]])),
            ["policies[payments]: removed"]
        );
        assert_eq!(
            changes(|it| it["policies"] = json!([list(it)[1], list(it)[0]])),
            ["policies: order is now rest, payments"]
        );
    }

    #[test]
    fn values_and_their_number_are_bounded_and_hold_no_credentials() {
        let long = changes(|it| it["realm"] = json!("x".repeat(1000)));
        assert_eq!(long[0].chars().count(), "realm: added: ".len() + VALUE_CHARS + 1);
        let secret = changes(|it| it["realm"] = json!("https://user:secret@as.example.com/"));
        assert!(!secret[0].contains("secret"), "{secret:?}");
        let many = changes(|it| {
            for number in 0..=CHANGES {
                it[format!("key-{number}")] = json!(1);
            }
        });
        assert_eq!((many.len(), &*many[CHANGES]), (CHANGES + 1, "and 1 more"));
    }
}
