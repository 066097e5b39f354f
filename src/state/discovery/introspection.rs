//! What the metadata of an authorization server say about introspection (RFC 8414 §2, RFC 8705 §5).

use super::{From, endpoint};
use keybound_core::jose::json::Object;
use reqwest::Url;
use serde_json::Value;

/// The members about introspection. A fault in one of them counts as its absence: few deployments
/// use them, and it must not cost all keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct IntrospectionMetadata {
    /// The endpoint (RFC 7662), if its URL may be asked.
    pub endpoint: Option<Url>,
    /// The endpoint for clients that use mutual TLS, if its URL may be asked.
    pub mtls_endpoint: Option<Url>,
    /// The ways to authenticate there; `None` if they are not listed.
    pub authentication_methods: Option<Vec<String>>,
    /// The algorithms for client assertions; empty if they are not listed. What is listed for the
    /// token endpoint counts where nothing is listed for this one: few servers tell them apart.
    pub signing_algorithms: Vec<String>,
}

impl IntrospectionMetadata {
    /// Reads the members of a document.
    pub(super) fn read(document: &Object, from: From<'_>) -> Self {
        let url = |members: &Object| {
            let url = members.get("introspection_endpoint").and_then(Value::as_str);
            endpoint(url, from)
        };
        let aliases = document.get("mtls_endpoint_aliases").and_then(Value::as_object);
        let algorithms =
            words(document, "introspection_endpoint_auth_signing_alg_values_supported")
                .or_else(|| words(document, "token_endpoint_auth_signing_alg_values_supported"));
        Self {
            endpoint: url(document),
            mtls_endpoint: aliases.and_then(url),
            authentication_methods: words(
                document,
                "introspection_endpoint_auth_methods_supported",
            ),
            signing_algorithms: algorithms.unwrap_or_default(),
        }
    }
}

/// A list of strings.
fn words(document: &Object, name: &str) -> Option<Vec<String>> {
    let members = document.get(name)?.as_array()?;
    members.iter().map(|it| it.as_str().map(str::to_owned)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(document: &Value) -> IntrospectionMetadata {
        let from = Url::parse("https://as.example.com/.well-known/openid-configuration").unwrap();
        let from = From { at: &from, allow_http: false };
        IntrospectionMetadata::read(document.as_object().unwrap(), from)
    }

    #[test]
    fn members_with_a_fault_count_as_absent() {
        let good = "https://as.example.com/introspect";
        let found = read(&json!({
            "introspection_endpoint": good,
            "mtls_endpoint_aliases": {"introspection_endpoint": "https://mtls.example.com/i"},
        }));
        assert_eq!(found.endpoint.unwrap().as_str(), good);
        assert_eq!(found.mtls_endpoint.unwrap().as_str(), "https://mtls.example.com/i");
        for odd in [
            json!(null),
            json!(7),
            json!(""),
            json!("http://as.example.com/introspect"),
            json!("https://127.0.0.1/introspect"),
            json!([good]),
        ] {
            let aliases = json!({ "introspection_endpoint": odd });
            let document = json!({
                "introspection_endpoint": odd, "mtls_endpoint_aliases": aliases,
            });
            assert_eq!(read(&document), IntrospectionMetadata::default(), "{document}");
        }
        for odd in [json!(null), json!([]), json!("x"), json!({})] {
            let document = json!({ "mtls_endpoint_aliases": odd });
            assert_eq!(read(&document), IntrospectionMetadata::default(), "{document}");
        }
    }

    #[test]
    fn lists_are_lists_of_strings() {
        let methods = "introspection_endpoint_auth_methods_supported";
        for (list, expected) in [
            (json!(["a", "b"]), Some(vec!["a".to_owned(), "b".to_owned()])),
            (json!([]), Some(vec![])),
            (json!(null), None),
            (json!("a"), None),
            (json!(["a", 7]), None),
        ] {
            assert_eq!(read(&json!({ methods: list })).authentication_methods, expected);
        }
    }

    #[test]
    fn the_algorithms_of_the_token_endpoint_stand_in() {
        let own = "introspection_endpoint_auth_signing_alg_values_supported";
        let other = "token_endpoint_auth_signing_alg_values_supported";
        for (document, expected) in [
            (json!({}), vec![]),
            (json!({ other: ["PS256"] }), vec!["PS256"]),
            (json!({ own: ["ES256"], other: ["PS256"] }), vec!["ES256"]),
            (json!({ own: [], other: ["PS256"] }), vec![]),
        ] {
            assert_eq!(read(&document).signing_algorithms, expected, "{document}");
        }
    }
}
