//! Tokens of Keycloak that are bound to certificates and keys, and what else it signs.

use super::dpop_client::DpopClient;
use super::keycloak::{Asking, Keycloak, access_token};
use super::realm::{
    BOUND_AT_JWT_CLIENT, BOUND_CLIENT, BOUND_ES256_CLIENT, DPOP_CLIENT, ELSEWHERE_CLIENT,
    NAMESAKE_CLIENT, NOWHERE_CLIENT, UNBOUND_CLIENT,
};
use super::tokens::Signer;
use super::{DOOR, Row, bearer, check};
use jsonwebtoken::Algorithm;
use keybound_core::Denial;
use reqwest::StatusCode;
use serde_json::json;

#[tokio::test]
async fn a_token_is_good_with_the_certificate_with_which_it_was_asked_for_and_no_other() {
    let Some(keycloak) = Keycloak::shared().await else { return };
    let mut it = keycloak.installation(&json!({})).await;
    let (client, thief) = (it.client("client"), it.client("thief"));
    for name in [BOUND_CLIENT, BOUND_AT_JWT_CLIENT, BOUND_ES256_CLIENT] {
        let (status, _) = keycloak.ask(Asking::by(name)).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "without a certificate there is no token");
        for asking in [Asking::by(name).with(&client), Asking::by(name).with(&client).for_user()] {
            let token = keycloak.token(asking).await;
            for path in ["/", "/any"] {
                for (identity, expected) in [
                    (Some(&client), Ok(())),
                    (Some(&thief), Err(Denial::CertificateMismatch)),
                    (None, Err(Denial::CertificateMissing)),
                ] {
                    let headers = bearer(&token);
                    let outcome =
                        check(&mut it, Row { what: name, identity, path, headers, expected }).await;
                    if expected.is_ok() {
                        assert_eq!(outcome.seen("x-auth-client-id"), [name]);
                        assert_eq!(outcome.seen("x-auth-subject").len(), 1);
                    }
                }
            }
        }
    }
}

#[tokio::test]
async fn a_token_is_good_with_a_proof_by_the_key_with_which_it_was_asked_for_and_no_other() {
    let Some(keycloak) = Keycloak::shared().await else { return };
    let mut it = keycloak.installation(&json!({})).await;
    let (status, _) = keycloak.ask(Asking::by(DPOP_CLIENT)).await;
    assert_eq!(status, StatusCode::BAD_REQUEST, "without a proof there is no token");
    let [asking, for_user] = [Asking::by(DPOP_CLIENT), Asking::by(DPOP_CLIENT).for_user()];
    // Keycloak binds the token of a client that need not prove anything and does, too.
    for asking in [asking, for_user, Asking::by(UNBOUND_CLIENT)] {
        let key = Signer::new(Algorithm::ES256, "dpop");
        let answer = keycloak.tokens(asking.proving(&key)).await;
        assert_eq!(answer["token_type"], "DPoP");
        let client = DpopClient { token: access_token(&answer), key };
        let thief =
            DpopClient { token: client.token.clone(), key: Signer::new(Algorithm::ES256, "dpop") };
        for path in ["/dpop", "/any"] {
            let url = it.url(DOOR.name, path);
            let once = client.proof("GET", &url);
            for (what, scheme, proof, expected) in [
                ("a proof", "DPoP", Some(once.clone()), Ok(())),
                ("the same again", "DPoP", Some(once), Err(Denial::ProofReplayed)),
                ("no proof", "DPoP", None, Err(Denial::ProofMissing)),
                (
                    "a proof by another key",
                    "DPoP",
                    Some(thief.proof("GET", &url)),
                    Err(Denial::ProofKeyMismatch),
                ),
                (
                    "a proof for another method",
                    "DPoP",
                    Some(client.proof("POST", &url)),
                    Err(Denial::ProofMethodMismatch),
                ),
                ("Bearer", "Bearer", None, Err(Denial::SchemeMismatch)),
            ] {
                let mut headers = vec![("authorization", format!("{scheme} {}", client.token))];
                headers.extend(proof.map(|it| ("dpop", it)));
                check(&mut it, Row { what, identity: None, path, headers, expected }).await;
            }
        }
    }
}

#[tokio::test]
async fn what_else_it_signs_and_for_whom_else_gets_nobody_in() {
    let Some(keycloak) = Keycloak::shared().await else { return };
    let mut it = keycloak.installation(&json!({})).await;
    let client = it.client("client");
    let of = |name| keycloak.tokens(Asking::by(name).with(&client).for_user());
    let bound = of(BOUND_CLIENT).await;
    let namesake = of(NAMESAKE_CLIENT).await;
    let unbound = of(UNBOUND_CLIENT).await;
    let no_audience = Err(Denial::TokenClaimMissing);
    for (what, path, token, expected) in [
        ("a bound token", "/any", &bound["access_token"], Ok(())),
        ("its ID token", "/any", &bound["id_token"], Err(Denial::TokenTypeWrong)),
        (
            "an ID token with the API's audience",
            "/any",
            &namesake["id_token"],
            Err(Denial::TokenTypeWrong),
        ),
        ("a refresh token", "/any", &bound["refresh_token"], Err(Denial::TokenAlgorithmForbidden)),
        (
            "for another API",
            "/any",
            &of(ELSEWHERE_CLIENT).await["access_token"],
            Err(Denial::TokenAudienceMismatch),
        ),
        ("for no API", "/any", &of(NOWHERE_CLIENT).await["access_token"], no_audience),
        (
            "for the administration",
            "/any",
            &keycloak.administrator_token().await.into(),
            Err(Denial::TokenIssuerUnknown),
        ),
        ("unbound", "/any", &unbound["access_token"], Ok(())),
        (
            "unbound where it must not be",
            "/",
            &unbound["access_token"],
            Err(Denial::BindingMissing),
        ),
    ] {
        let headers = bearer(token.as_str().unwrap());
        check(&mut it, Row { what, identity: Some(&client), path, headers, expected }).await;
    }
}

#[tokio::test]
async fn a_new_key_of_the_realm_is_taken_at_once_and_the_one_before_stays_good() {
    const REALM: &str = "rotating";
    let Some(keycloak) = Keycloak::shared().await else { return };
    keycloak.make_realm(REALM).await;
    let mut it = keycloak.installation_of(REALM).await;
    let client = it.client("client");
    let asking = Asking::by(BOUND_CLIENT).of(REALM).with(&client);
    let before = keycloak.token(asking).await;
    let row = |what, token: &str| Row {
        what,
        identity: Some(&client),
        path: "/",
        headers: bearer(token),
        expected: Ok(()),
    };
    check(&mut it, row("by the first key", &before)).await;

    let key = json!({
        "name": "next", "providerId": "rsa-generated", "providerType": "org.keycloak.keys.KeyProvider",
        "config": {"priority": ["200"], "enabled": ["true"], "active": ["true"]},
    });
    keycloak.administer(&format!("/admin/realms/{REALM}/components"), &key).await;
    let after = keycloak.token(asking).await;
    let header = |token: &str| token.split('.').next().unwrap().to_owned();
    assert_ne!(header(&before), header(&after), "another kid");
    check(&mut it, row("by the next key", &after)).await;
    check(&mut it, row("by the first key still", &before)).await;
}
