//! Tokens about which Keycloak is asked (RFC 7662).

use super::installation::AUDIENCE;
use super::keycloak::{Asking, Keycloak, access_token};
use super::realm::{BOUND_CLIENT, GATEWAY, LIGHTWEIGHT_CLIENT, SECRET, STRANGER, UNBOUND_CLIENT};
use super::{Row, bearer, check};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use keybound_core::Denial;
use rcgen::KeyPair;
use serde_json::{Value, json};

#[tokio::test]
async fn a_token_that_was_taken_back_is_refused_at_once() {
    let Some(keycloak) = Keycloak::shared().await else { return };
    let mut it = keycloak.installation(&introspection(GATEWAY)).await;
    let client = it.client("client");
    let revoked = keycloak.token(Asking::by(BOUND_CLIENT).with(&client)).await;
    let session = keycloak.tokens(Asking::by(BOUND_CLIENT).with(&client).for_user()).await;
    let logged_out = access_token(&session);
    let kept = keycloak.token(Asking::by(BOUND_CLIENT).with(&client)).await;
    let row = |what, token: &str, expected| Row {
        what,
        identity: Some(&client),
        path: "/",
        headers: bearer(token),
        expected,
    };
    for token in [&revoked, &logged_out, &kept] {
        check(&mut it, row("while it is active", token, Ok(()))).await;
    }

    keycloak.revoke(Asking::by(BOUND_CLIENT).with(&client), &revoked).await;
    check(&mut it, row("revoked", &revoked, Err(Denial::TokenRevoked))).await;
    check(&mut it, row("of a session that goes on", &logged_out, Ok(()))).await;

    let refresh_token = session["refresh_token"].as_str().unwrap();
    keycloak.log_out(Asking::by(BOUND_CLIENT).with(&client), refresh_token).await;
    check(&mut it, row("of a session that ended", &logged_out, Err(Denial::TokenRevoked))).await;
    check(&mut it, row("untouched", &kept, Ok(()))).await;
}

#[tokio::test]
async fn what_is_active_still_needs_its_certificate() {
    let Some(keycloak) = Keycloak::shared().await else { return };
    let mut it = keycloak.installation(&introspection(GATEWAY)).await;
    let (client, thief) = (it.client("client"), it.client("thief"));
    let token = keycloak.token(Asking::by(BOUND_CLIENT).with(&client)).await;
    for (identity, expected) in [
        (Some(&client), Ok(())),
        (Some(&thief), Err(Denial::CertificateMismatch)),
        (None, Err(Denial::CertificateMissing)),
    ] {
        let headers = bearer(&token);
        check(&mut it, Row { what: "active", identity, path: "/", headers, expected }).await;
    }
}

#[tokio::test]
async fn of_a_token_that_is_not_for_the_one_who_asks_keycloak_says_that_it_is_not_active() {
    let Some(keycloak) = Keycloak::shared().await else { return };
    let mut it = keycloak.installation(&introspection(STRANGER)).await;
    let token = keycloak.token(Asking::by(UNBOUND_CLIENT)).await;
    let headers = bearer(&token);
    let expected = Err(Denial::TokenRevoked);
    let row = Row { what: "by a stranger", identity: None, path: "/any", headers, expected };
    check(&mut it, row).await;
}

#[tokio::test]
async fn an_id_token_that_keycloak_calls_active_and_meant_for_the_api_gets_nobody_in() {
    let Some(keycloak) = Keycloak::shared().await else { return };
    let mut it = keycloak.installation(&introspection(GATEWAY)).await;
    let session = keycloak.tokens(Asking::by(GATEWAY).for_user()).await;
    let id_token = session["id_token"].as_str().unwrap();
    let told = keycloak.introspect(GATEWAY, id_token).await;
    assert_eq!((&told["active"], &told["typ"]), (&json!(true), &json!("ID")));
    assert!(told["aud"].as_array().unwrap().contains(&json!(AUDIENCE)), "{told}");
    for (what, token, expected) in [
        ("ID", id_token, Err(Denial::TokenTypeWrong)),
        ("access", session["access_token"].as_str().unwrap(), Ok(())),
    ] {
        let headers = bearer(token);
        check(&mut it, Row { what, identity: None, path: "/any", headers, expected }).await;
    }
}

#[tokio::test]
async fn a_lightweight_token_says_too_little_by_itself() {
    let Some(keycloak) = Keycloak::shared().await else { return };
    for more in [json!({}), introspection(GATEWAY)] {
        let mut it = keycloak.installation(&more).await;
        let client = it.client("client");
        let asking = Asking::by(LIGHTWEIGHT_CLIENT).with(&client);
        for asking in [asking, asking.for_user()] {
            let headers = bearer(&keycloak.token(asking).await);
            let expected = Err(Denial::TokenClaimMissing);
            let row =
                Row { what: "lightweight", identity: Some(&client), path: "/", headers, expected };
            check(&mut it, row).await;
        }
    }
}

#[tokio::test]
async fn what_keycloak_says_of_a_lightweight_token_adds_to_it() {
    let Some(keycloak) = Keycloak::shared().await else { return };
    let mut more = introspection(GATEWAY);
    more["introspection"]["claims_from"] = json!("answer");
    let mut it = keycloak.installation(&more).await;
    let (client, thief) = (it.client("client"), it.client("thief"));
    let asking = Asking::by(LIGHTWEIGHT_CLIENT).with(&client);
    for asking in [asking, asking.for_user()] {
        let token = keycloak.token(asking).await;
        for (identity, expected) in [
            (Some(&client), Ok(())),
            (Some(&thief), Err(Denial::CertificateMismatch)),
            (None, Err(Denial::CertificateMissing)),
        ] {
            let headers = bearer(&token);
            let row = Row { what: "lightweight", identity, path: "/", headers, expected };
            let outcome = check(&mut it, row).await;
            if expected.is_ok() {
                assert_eq!(outcome.seen("x-auth-client-id"), [LIGHTWEIGHT_CLIENT]);
                assert_eq!(outcome.seen("x-auth-subject").len(), 1, "from the answer");
            }
        }
        keycloak.revoke(asking, &token).await;
        let expected = Err(Denial::TokenRevoked);
        let headers = bearer(&token);
        check(
            &mut it,
            Row { what: "revoked", identity: Some(&client), path: "/", headers, expected },
        )
        .await;
    }
    // Keycloak calls the ID token of the very client that asks active, and says that it is for the API.
    let session = keycloak.tokens(Asking::by(GATEWAY).for_user()).await;
    let id_token = session["id_token"].as_str().unwrap();
    let told = keycloak.introspect(GATEWAY, id_token).await;
    assert_eq!((&told["active"], &told["typ"]), (&json!(true), &json!("ID")), "{told}");
    let headers = bearer(id_token);
    let expected = Err(Denial::TokenTypeWrong);
    check(&mut it, Row { what: "an ID token", identity: None, path: "/any", headers, expected })
        .await;
}

#[tokio::test]
async fn a_whole_token_comes_in_place_of_a_lightweight_one_for_a_client_that_may_have_it() {
    let Some(keycloak) = Keycloak::shared().await else { return };
    for (caller, may, expected) in [
        ("phantom", "true", Ok(())),
        ("no-phantom", "false", Err(Denial::IntrospectionUnavailable)),
    ] {
        let client = json!({
            "clientId": caller, "secret": SECRET, "publicClient": false,
            "standardFlowEnabled": false, "attributes": {ANYBODY: "true", PHANTOM: may},
        });
        keycloak.administer("/admin/realms/api/clients", &client).await;
        let mut more = introspection(caller);
        let section = more["introspection"].as_object_mut().unwrap();
        section.insert("claims_from".to_owned(), json!("answer"));
        section.insert("forward_jwt".to_owned(), json!(true));
        let mut it = keycloak.installation(&more).await;
        let client = it.client("client");
        let token = keycloak.token(Asking::by(LIGHTWEIGHT_CLIENT).with(&client)).await;
        let (identity, headers) = (Some(&client), bearer(&token));
        check(&mut it, Row { what: caller, identity, path: "/", headers, expected }).await;
    }
}

#[tokio::test]
async fn keycloak_knows_the_service_by_a_secret_a_signature_or_a_certificate() {
    let Some(keycloak) = Keycloak::shared().await else { return };
    let key = KeyPair::generate().unwrap();
    let certificate = keycloak.authority.client("by-certificate", KeyPair::generate().unwrap());
    let certificate = certificate.unwrap();
    let by_signature =
        json!({"use.jwks.string": "true", "jwks.string": jwks(&key).to_string(), ANYBODY: "true"});
    let by_certificate = json!({"x509.subjectdn": "CN=by-certificate", ANYBODY: "true"});
    for (name, authenticator, attributes) in [
        ("by-secret", "client-secret", json!({ANYBODY: "true"})),
        ("by-signature", "client-jwt", by_signature),
        ("by-certificate", "client-x509", by_certificate),
    ] {
        let client = json!({
            "clientId": name, "secret": SECRET, "publicClient": false, "standardFlowEnabled": false,
            "clientAuthenticatorType": authenticator, "attributes": attributes,
        });
        keycloak.administer("/admin/realms/api/clients", &client).await;
    }
    let key = key.serialize_pem();
    let token = keycloak.token(Asking::by(UNBOUND_CLIENT)).await;
    for (what, caller, edit) in [
        ("basic", "by-secret", json!({"authentication": "client_secret_basic"})),
        ("post", "by-secret", json!({"authentication": "client_secret_post"})),
        ("JWT", "by-signature", json!({"private_key_file": "own.key", "private_key_id": "1"})),
        ("TLS", "by-certificate", json!({"certificate_file": "own.pem", "key_file": "own.key"})),
    ] {
        let mut more = introspection(caller);
        let section = more["introspection"].as_object_mut().unwrap();
        if caller != "by-secret" {
            section.remove("client_secret_file");
        }
        section.extend(edit.as_object().unwrap().clone());
        let files = match caller {
            "by-signature" => vec![("own.key", key.clone())],
            _ => {
                vec![("own.pem", certificate.certificate_pem()), ("own.key", certificate.key_pem())]
            }
        };
        let mut it = keycloak.installation_with(&files, &more).await;
        let headers = bearer(&token);
        check(&mut it, Row { what, identity: None, path: "/any", headers, expected: Ok(()) }).await;
    }
}

/// The client attribute by which a client gets JWTs in answers.
const PHANTOM: &str = "client.introspection.response.allow.jwt.claim.enabled";

/// The client attribute that lets a client ask about tokens of which it is no audience.
const ANYBODY: &str = "allow.token.introspection.without.audience.check";

/// The public part of a P-256 key, as a set.
fn jwks(key: &KeyPair) -> Value {
    // An uncompressed point: 4, then the two coordinates (SEC 1 §2.3.3).
    let (x, y) = key.public_key_raw()[1..].split_at(32);
    let [x, y] = [x, y].map(|it| URL_SAFE_NO_PAD.encode(it));
    json!({"keys": [
        {"kty": "EC", "crv": "P-256", "x": x, "y": y, "kid": "1", "alg": "ES256", "use": "sig"},
    ]})
}

/// Every token is asked about each time, as the client `caller`.
fn introspection(caller: &str) -> Value {
    json!({"introspection": {
        "client_id": caller, "client_secret_file": "secret", "introspect": "always",
        "cache_ttl": "0s", "negative_ttl": "0s",
    }})
}
