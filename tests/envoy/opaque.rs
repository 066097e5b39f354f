//! Opaque tokens, which the issuer is asked about (RFC 7662).

use super::installation::{Call, Installation, claims};
use super::introspection_endpoint::{IntrospectionEndpoint, Reply};
use super::{BOTH, OPTIONAL, check};
use keybound_core::Denial;
use serde_json::json;

const OPAQUE: &str = "8xLOxBtZp8";

#[tokio::test]
async fn the_jwt_for_which_a_token_stands_reaches_the_upstream_in_its_place() {
    let (endpoint, mut it) = phantom().await;
    let (client, thief) = (it.client("client"), it.client("thief"));
    let jwt = it.token(&client);
    endpoint.reply(Reply::of("application/jwt", jwt.clone()));
    for http in BOTH {
        let call = |identity| {
            let headers = vec![("authorization", format!("Bearer {OPAQUE}"))];
            Call { door: "optional", http, identity, path: "/", headers }
        };
        let outcome = check(&mut it, &call(Some(&client)), Ok(())).await;
        assert_eq!(outcome.seen("authorization"), [format!("Bearer {jwt}")]);
        assert_eq!(outcome.seen("x-auth-subject"), ["alice"]);
        check(&mut it, &call(Some(&thief)), Err(Denial::CertificateMismatch)).await;
        check(&mut it, &call(None), Err(Denial::CertificateMissing)).await;
    }
    let asked = endpoint.asked();
    assert!(asked.iter().all(|it| it.form.contains(OPAQUE)), "{asked:?}");
}

#[tokio::test]
async fn a_token_is_good_until_the_issuer_says_otherwise_or_says_nothing() {
    let (endpoint, mut it) = phantom().await;
    let client = it.client("client");
    let headers = vec![("authorization", format!("Bearer {OPAQUE}"))];
    let http = BOTH[1];
    let call = Call { door: "optional", http, identity: Some(&client), path: "/", headers };
    let good = Reply::of("application/jwt", it.token(&client));
    let mut unbound = claims(&client);
    unbound.as_object_mut().unwrap().remove("cnf");
    let unbound = Reply::of("application/jwt", it.signer.sign("at+jwt", &unbound));
    let inactive = Reply::json(&json!({"active": false}));
    for (reply, expected) in [
        (good.clone(), Ok(())),
        (inactive.clone(), Err(Denial::TokenInactive)),
        (unbound, Err(Denial::BindingMissing)),
        (Reply::status(500), Err(Denial::IntrospectionUnavailable)),
        (good, Ok(())),
    ] {
        endpoint.reply(reply);
        check(&mut it, &call, expected).await;
    }
    drop(endpoint);
    check(&mut it, &call, Err(Denial::IntrospectionUnavailable)).await;
}

/// An installation whose service asks this endpoint about every token, each time.
async fn phantom() -> (IntrospectionEndpoint, Installation) {
    let endpoint = IntrospectionEndpoint::start(Reply::json(&json!({"active": false}))).await;
    let it = Installation::start_with(&[OPTIONAL], |directory, config| {
        let secret = directory.join("secret");
        std::fs::write(&secret, "secret").unwrap();
        config["issuers"][0]["introspection"] = json!({
            "endpoint": endpoint.url(), "client_id": "gateway", "client_secret_file": secret,
            "forward_jwt": true, "cache_ttl": "0s", "negative_ttl": "0s", "timeout": "800ms",
        });
    })
    .await;
    (endpoint, it)
}
