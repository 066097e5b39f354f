//! The `status` claim of a token, as far as it names a status list.

use crate::jose::json::Object;
use crate::jose::thumbprint::Thumbprint;
use serde_json::Value;

/// Where the status of a token stands: a place in a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StatusReference {
    uri: Box<str>,
    list: Thumbprint,
    index: u64,
}

/// The `status` claim cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MalformedStatus;

impl StatusReference {
    /// The place that the `status` claim names; none where it is absent, or names other mechanisms only.
    /// A null where a status should stand tells nothing of it, so it is malformed.
    pub fn of(claims: &Object) -> Result<Option<Self>, MalformedStatus> {
        let list = match claims.get("status") {
            None => return Ok(None),
            Some(Value::Object(mechanisms)) => mechanisms.get("status_list"),
            Some(_) => return Err(MalformedStatus),
        };
        let list = match list {
            None => return Ok(None),
            Some(Value::Object(list)) => list,
            Some(_) => return Err(MalformedStatus),
        };
        let index = list.get("idx").and_then(Value::as_u64).ok_or(MalformedStatus)?;
        let uri = list.get("uri").and_then(Value::as_str).ok_or(MalformedStatus)?;
        if uri.is_empty() || URI_BYTES < uri.len() {
            return Err(MalformedStatus);
        }
        Ok(Some(Self { uri: uri.into(), list: Thumbprint::of(uri.as_bytes()), index }))
    }

    /// The URI of the list, exactly as the token has it.
    pub fn uri(&self) -> &str {
        &self.uri
    }

    /// The SHA-256 of the URI, which stands for the list wherever it is looked up.
    pub const fn list(&self) -> &Thumbprint {
        &self.list
    }

    /// The place in the list, from 0.
    pub const fn index(&self) -> u64 {
        self.index
    }

    /// The approximate memory use in bytes, besides its own size.
    pub fn bytes(&self) -> usize {
        self.uri.len()
    }
}

/// The longest URI of a list. Each is kept with every token that names it.
const URI_BYTES: usize = 2048;

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const URI: &str = "https://as.example.com/statuses/1";

    fn read(status: &Value) -> Result<Option<(String, u64)>, MalformedStatus> {
        let claims = json!({"sub": "alice", "status": status});
        let found = StatusReference::of(claims.as_object().unwrap())?;
        Ok(found.map(|it| (it.uri().to_owned(), it.index())))
    }

    #[test]
    fn a_token_names_its_list_and_its_place() {
        for index in [0, 1, 16_777_215, u64::MAX] {
            let status = json!({"status_list": {"idx": index, "uri": URI}});
            assert_eq!(read(&status), Ok(Some((URI.to_owned(), index))));
        }
        let more = json!({"status_list": {"idx": 7, "uri": URI, "x": 1}, "status_attestation": {}});
        assert_eq!(read(&more), Ok(Some((URI.to_owned(), 7))), "other members are left alone");
    }

    #[test]
    fn other_mechanisms_alone_are_none() {
        for none in [json!({}), json!({"status_attestation": {"credential_hash_alg": "sha-256"}})] {
            assert_eq!(read(&none), Ok(None), "{none}");
        }
        assert_eq!(StatusReference::of(&Object::new()), Ok(None));
    }

    #[test]
    fn a_status_that_cannot_be_read_is_malformed() {
        let list = |list: Value| json!({ "status_list": list });
        for odd in [
            json!(null),
            json!("active"),
            json!(0),
            json!(true),
            json!([{"status_list": {"idx": 0, "uri": URI}}]),
            list(json!(null)),
            list(json!([0, URI])),
            list(json!(URI)),
            list(json!({})),
            list(json!({ "uri": URI })),
            list(json!({"idx": 0})),
            list(json!({"idx": -1, "uri": URI})),
            list(json!({"idx": 1.0, "uri": URI})),
            list(json!({"idx": 0.5, "uri": URI})),
            list(json!({"idx": 1e300, "uri": URI})),
            list(json!({"idx": "0", "uri": URI})),
            list(json!({"idx": null, "uri": URI})),
            list(json!({"idx": 0, "uri": null})),
            list(json!({"idx": 0, "uri": ""})),
            list(json!({"idx": 0, "uri": [URI]})),
            list(json!({"idx": 0, "uri": "u".repeat(URI_BYTES + 1)})),
        ] {
            assert_eq!(read(&odd), Err(MalformedStatus), "{odd}");
        }
        let longest = "u".repeat(URI_BYTES);
        assert_eq!(read(&list(json!({"idx": 0, "uri": longest}))), Ok(Some((longest, 0))));
    }

    #[test]
    fn one_list_has_one_name() {
        let of = |uri: &str| {
            let claims = json!({"status": {"status_list": {"idx": 0, "uri": uri}}});
            *StatusReference::of(claims.as_object().unwrap()).unwrap().unwrap().list()
        };
        assert_eq!(of(URI), of(URI));
        assert_ne!(of(URI), of("https://as.example.com/statuses/1/"));
    }
}
