//! The JSON Schema (draft 2020-12) of the configuration file, generated from its shape.

use super::file::File;
use schemars::JsonSchema;
use serde_json::Value;

/// The schema of the configuration file.
pub fn schema() -> Value {
    schema_of::<File>()
}

/// The schema of a file of this shape, in which no key may be null.
pub(crate) fn schema_of<T: JsonSchema>() -> Value {
    let mut schema = schemars::schema_for!(T).to_value();
    refuse_nulls(&mut schema);
    schema
}

/// An optional key may be absent; it may not be there without a value.
fn refuse_nulls(schema: &mut Value) {
    match schema {
        Value::Object(members) => {
            if let Some(Value::Array(types)) = members.get_mut("type") {
                types.retain(|it| it != "null");
                if let [one] = types.as_slice() {
                    let one = one.clone();
                    members.insert("type".to_owned(), one);
                }
            }
            if let Some(Value::Array(choices)) = members.get_mut("anyOf") {
                choices.retain(|it| it.get("type").is_none_or(|it| it != "null"));
                if let [Value::Object(one)] = choices.as_slice() {
                    let one = one.clone();
                    members.remove("anyOf");
                    members.extend(one);
                }
            }
            members.values_mut().for_each(refuse_nulls);
        }
        Value::Array(items) => items.iter_mut().for_each(refuse_nulls),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => (),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn objects<'a>(schema: &'a Value, found: &mut Vec<&'a Value>) {
        match schema {
            Value::Object(members) => {
                if members.get("type").is_some_and(|it| it == "object") {
                    found.push(schema);
                }
                members.values().for_each(|it| objects(it, found));
            }
            Value::Array(items) => items.iter().for_each(|it| objects(it, found)),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => (),
        }
    }

    #[test]
    fn no_mapping_with_known_keys_takes_others() {
        let schema = schema();
        let mut found = vec![];
        objects(&schema, &mut found);
        assert!(10 < found.len());
        for object in found.iter().filter(|it| it.get("properties").is_some()) {
            assert_eq!(object["additionalProperties"], false, "{object:#}");
        }
    }

    #[test]
    fn nothing_may_be_null_and_what_is_required_is_said_to_be() {
        let schema = schema();
        assert!(!schema.to_string().contains("\"null\""));
        assert_eq!(schema["$schema"], "https://json-schema.org/draft/2020-12/schema");
        assert_eq!(schema["required"], serde_json::json!(["issuers", "policies"]));
        let issuer = &schema["$defs"]["Issuer"];
        assert_eq!(issuer["required"], serde_json::json!(["issuer", "audiences"]));
        let policy = &schema["$defs"]["Policy"];
        assert_eq!(policy["required"], serde_json::json!(["name"]));
        // Unless it is public.
        assert_eq!(policy["if"]["properties"]["public"]["const"], true);
        assert_eq!(policy["else"]["required"], serde_json::json!(["sender_constraint"]));
    }

    #[test]
    fn what_counts_by_default_is_told_as_it_would_be_written() {
        let schema = schema();
        for (part, key, expected) in [
            ("Limits", "check_deadline", json!("150ms")),
            ("Limits", "concurrent_checks", json!(10_000)),
            ("Issuer", "algorithms", json!(["ES256", "PS256", "RS256", "EdDSA", "Ed25519"])),
            ("Issuer", "token_types", json!(["at+jwt"])),
            ("Keys", "refresh_max", json!("1h")),
            ("Keys", "withdrawn_key_grace", json!("0s")),
            ("Dpop", "proof_window", json!("60s")),
            ("Dpop", "time", json!("iat")),
            ("Dpop", "nonce", json!("off")),
            ("Listen", "admin", json!("127.0.0.1:9003")),
            ("Otlp", "sample_ratio", json!(0.01)),
        ] {
            assert_eq!(schema["$defs"][part]["properties"][key]["default"], expected, "{key}");
        }
    }

    #[test]
    fn everything_is_described() {
        let schema = schema();
        let mut found = vec![];
        objects(&schema, &mut found);
        for properties in found.iter().filter_map(|it| it.get("properties")?.as_object()) {
            for (key, property) in properties {
                assert!(property.get("description").is_some(), "{key}: {property:#}");
            }
        }
    }
}
