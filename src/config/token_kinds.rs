//! Kinds of tokens beside access tokens, by the signs that providers put on them: for people who set up
//! an issuer. A check goes by the issuer's rules alone.

use keybound_core::jose::Header;
use keybound_core::jose::json::Object;
use serde_json::Value;

/// What a JWT is, if it is no access token. With `takes_id_tokens`, the hashes of an ID token do not
/// count against it.
pub(crate) fn other_kind(
    header: &Header,
    claims: &Object,
    takes_id_tokens: bool,
) -> Option<&'static str> {
    let there = |name: &str| claims.get(name).is_some_and(|it| !it.is_null());
    let says = |(claim, value): &(&str, &str)| {
        claims.get(*claim).and_then(Value::as_str).is_some_and(|it| it.eq_ignore_ascii_case(value))
    };
    let any = |signs: &[(&str, &str)]| signs.iter().any(says);
    let events = claims.get("events").and_then(Value::as_object);
    let logs_out = events.is_some_and(|it| it.keys().any(|it| it.ends_with("/backchannel-logout")));
    if logs_out || header.is_type("logout+jwt") || any(&[("typ", "Logout")]) {
        return Some("a logout token");
    }
    if there("events") || header.is_type("secevent+jwt") {
        return Some("a security event token");
    }
    if header.is_type("dpop+jwt") {
        return Some("a DPoP proof");
    }
    if header.is_type("token-introspection+jwt") {
        return Some("an answer of an introspection endpoint");
    }
    if any(REFRESH) {
        return Some("a refresh token");
    }
    let hashes = ["at_hash", "c_hash", "s_hash"].into_iter().any(there);
    // Some access tokens repeat the nonce of the request, and say what they are.
    let asked = there("nonce") && !is_marked(header) && !any(ACCESS);
    if any(ID) || ((hashes || asked) && !takes_id_tokens) {
        return Some("an ID token");
    }
    None
}

/// Whether the `typ` in the header says that it is an access token.
pub(crate) fn is_marked(header: &Header) -> bool {
    ["at+jwt", "okta-internal-at+jwt"].iter().any(|it| header.is_type(it))
}

/// The claims of Keycloak, Cognito, `PingAM` and Curity, in this order.
const ACCESS: &[(&str, &str)] = &[
    ("typ", "Bearer"),
    ("typ", "DPoP"),
    ("token_use", "access"),
    ("tokenName", "access_token"),
    ("purpose", "access_token"),
];
const ID: &[(&str, &str)] =
    &[("typ", "ID"), ("token_use", "id"), ("tokenName", "id_token"), ("purpose", "id")];
const REFRESH: &[(&str, &str)] =
    &[("typ", "Refresh"), ("typ", "Offline"), ("tokenName", "refresh_token")];

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn of_type(typ: &str) -> Header {
        let typ = Some(typ.to_owned());
        Header { algorithm: None, unsupported: None, kid: None, typ, jwk: None }
    }

    #[track_caller]
    fn is(typ: &str, claims: &Value, expected: Option<&str>) {
        let header = of_type(typ);
        let claims = claims.as_object().unwrap();
        assert_eq!(other_kind(&header, claims, false), expected, "{typ} {claims:?}");
    }

    #[test]
    fn other_tokens_are_told_by_their_signs() {
        let (id, refresh) = (Some("an ID token"), Some("a refresh token"));
        let logout = json!({"http://schemas.openid.net/event/backchannel-logout": {}});
        is("JWT", &json!({"scope": "a", "azp": "app"}), None);
        is("JWT", &json!({"events": logout}), Some("a logout token"));
        is("logout+jwt", &json!({}), Some("a logout token"));
        is("JWT", &json!({"events": {}}), Some("a security event token"));
        is("dpop+jwt", &json!({}), Some("a DPoP proof"));
        is("JWT", &json!({"typ": "Refresh"}), refresh);
        is("JWT", &json!({"tokenName": "refresh_token", "nonce": "n"}), refresh);
        is("JWT", &json!({"token_use": "id"}), id);
        for sign in ["at_hash", "c_hash", "s_hash", "nonce"] {
            is("JWT", &json!({ sign: "x" }), id);
            is("JWT", &json!({ sign: null }), None);
        }
        is("JWT", &json!({"nonce": "n", "typ": "Bearer"}), None);
        is("at+jwt", &json!({"nonce": "n"}), None);
        is("at+jwt", &json!({"at_hash": "x"}), id);
    }

    #[test]
    fn an_id_token_is_none_of_others_where_it_is_taken() {
        let header = of_type("JWT");
        let kind = |claims: Value| other_kind(&header, claims.as_object().unwrap(), true);
        assert_eq!(kind(json!({"at_hash": "x", "nonce": "n"})), None);
        assert_eq!(kind(json!({"events": {}, "at_hash": "x"})), Some("a security event token"));
    }
}
