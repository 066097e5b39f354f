//! Knows how claims are found by dotted path, compared, and written into a header.

use crate::jose::json::Object;
use serde_json::Value;
use std::borrow::Cow;
use std::sync::Arc;

/// The claims of a token that somebody will ask for; the others are not kept.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Claims {
    paths: Arc<[String]>,
    values: Box<[Option<Value>]>,
}

impl Claims {
    /// Keeps those of `claims` that `paths` name.
    pub fn select(claims: &Object, paths: &Arc<[String]>) -> Self {
        let values = paths.iter().map(|it| find(claims, it).cloned()).collect();
        Self { paths: Arc::clone(paths), values }
    }

    /// Whether they are what `paths` name.
    pub fn are_selected_by(&self, paths: &Arc<[String]>) -> bool {
        Arc::ptr_eq(&self.paths, paths) || self.paths == *paths
    }

    /// The claim at `path`, which must be one of those that were selected.
    pub fn get(&self, path: &str) -> Option<&Value> {
        let place = self.paths.iter().position(|it| it == path)?;
        self.values.get(place)?.as_ref()
    }

    /// About how much memory they take, in bytes.
    pub fn bytes(&self) -> usize {
        let each = |it: &Value| size_of::<Value>().saturating_add(heap(it));
        self.values.iter().map(|it| it.as_ref().map_or(size_of::<Value>(), each)).sum()
    }

    /// The claim at `path`, when it is a string.
    pub fn text(&self, path: &str) -> Option<&str> {
        self.get(path)?.as_str()
    }
}

/// About how much memory a value takes outside of itself.
fn heap(value: &Value) -> usize {
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) => 0,
        Value::String(text) => text.capacity(),
        Value::Array(members) => {
            members.iter().map(|it| size_of::<Value>().saturating_add(heap(it))).sum()
        }
        // A node of a B-tree holds eleven members, however few there are.
        Value::Object(members) => members
            .iter()
            .map(|(name, it)| name.capacity().saturating_add(heap(it)).saturating_add(64))
            .sum::<usize>()
            .saturating_add(640),
    }
}

/// The claim at a dotted path. A claim whose own name holds dots is found by its whole name first,
/// since namespaced claims are called `https://example.com/roles`.
pub fn find<'a>(claims: &'a Object, path: &str) -> Option<&'a Value> {
    if let Some(value) = claims.get(path) {
        return Some(value);
    }
    path.match_indices('.').find_map(|(dot, _)| {
        let (name, rest) = path.split_at_checked(dot)?;
        find(claims.get(name)?.as_object()?, rest.strip_prefix('.')?)
    })
}

/// Whether a claim equals, or holds, a value.
pub fn holds(claim: &Value, wanted: &Value) -> bool {
    claim
        .as_array()
        .map_or_else(|| same(claim, wanted), |members| members.iter().any(|it| same(it, wanted)))
}

/// JSON does not tell `1` from `1.0`.
fn same(a: &Value, b: &Value) -> bool {
    match (a, b) {
        (Value::Number(a), Value::Number(b)) => a == b || a.as_f64() == b.as_f64(),
        _ => a == b,
    }
}

/// A claim as the value of a header: strings as they are, numbers and booleans as JSON, arrays of
/// strings joined by one space, all else as compact JSON. None when there is no value, or one with
/// control characters, which could end the header and begin another.
pub fn header_value(claim: &Value) -> Option<Cow<'_, str>> {
    let text = match claim {
        Value::Null => return None,
        Value::String(text) => Cow::Borrowed(text.as_str()),
        Value::Array(members) => joined(members).unwrap_or_else(|| claim.to_string()).into(),
        Value::Bool(_) | Value::Number(_) | Value::Object(_) => claim.to_string().into(),
    };
    if text.chars().any(char::is_control) { None } else { Some(text) }
}

fn joined(members: &[Value]) -> Option<String> {
    let texts: Option<Vec<&str>> = members.iter().map(Value::as_str).collect();
    texts.map(|it| it.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn object(value: &Value) -> Object {
        value.as_object().unwrap().clone()
    }

    #[test]
    fn a_dotted_path_reaches_inside() {
        let claims = object(&json!({
            "sub": "s", "cnf": {"x5t#S256": "t"}, "a": {"b": {"c": 1}, "b.c": 2},
            "https://example.com/roles": ["r"],
        }));
        assert_eq!(find(&claims, "sub"), Some(&json!("s")));
        assert_eq!(find(&claims, "cnf.x5t#S256"), Some(&json!("t")));
        assert_eq!(find(&claims, "https://example.com/roles"), Some(&json!(["r"])));
        assert_eq!(find(&claims, "a.b.c"), Some(&json!(2)), "the longest name first");
        for absent in ["", ".", "sub.", ".sub", "cnf.", "a.b.d", "sub.x", "a..b"] {
            assert_eq!(find(&claims, absent), None, "{absent}");
        }
    }

    #[test]
    fn only_selected_claims_are_kept() {
        let claims = object(&json!({"sub": "s", "secret": "x", "n": 1}));
        let kept = Claims::select(&claims, &["sub".to_owned(), "n".to_owned()].into());
        assert_eq!(kept.text("sub"), Some("s"));
        assert_eq!(kept.text("n"), None, "not a string");
        assert_eq!(kept.get("n"), Some(&json!(1)));
        assert_eq!(kept.get("secret"), None);
    }

    #[test]
    fn a_claim_equals_or_holds_a_value() {
        assert!(holds(&json!("a"), &json!("a")));
        assert!(holds(&json!(["b", "a"]), &json!("a")));
        assert!(holds(&json!(1), &json!(1.0)));
        assert!(holds(&json!(true), &json!(true)));
        for (claim, wanted) in [
            (json!("A"), json!("a")),
            (json!("a b"), json!("a")),
            (json!([]), json!("a")),
            (json!([["a"]]), json!("a")),
            (json!({"a": 1}), json!("a")),
            (json!("1"), json!(1)),
            (json!(null), json!("null")),
        ] {
            assert!(!holds(&claim, &wanted), "{claim} {wanted}");
        }
    }

    #[test]
    fn a_claim_becomes_a_header_value() {
        for (claim, value) in [
            (json!("Zoë"), Some("Zoë")),
            (json!(""), Some("")),
            (json!(1.5), Some("1.5")),
            (json!(true), Some("true")),
            (json!(["a", "b"]), Some("a b")),
            (json!([]), Some("")),
            (json!(["a", 1]), Some(r#"["a",1]"#)),
            (json!({"a": {"b": "\n"}}), Some(r#"{"a":{"b":"\n"}}"#)),
            (json!(null), None),
            (json!("a\r\nx-admin: 1"), None),
            (json!("a\u{85}"), None),
            (json!("a\u{7f}"), None),
            (json!(["a", "b\n"]), None),
        ] {
            assert_eq!(header_value(&claim).as_deref(), value, "{claim}");
        }
    }
}
