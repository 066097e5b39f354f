//! The stages of `docs/rollout.md`, with the real Envoy: what each refuses, and what it does not.

use crate::envoy::Deployed;
use crate::replaced;
use keybound::commands::demo::pki::Identity;
use rcgen::KeyPair;
use serde_json::{Value, json};

const PAGE: &str = include_str!("../../docs/rollout.md");

/// A policy for `/api` that asks for a token, and whatever others there are.
fn policies(text: &str, mode: &str, others: &str) -> String {
    let name = "  - name: api\n";
    let text = replaced(text, name, &format!("{name}    match: {{path_prefix: /api}}\n"));
    let scopes = "    scopes: [payments]\n";
    replaced(&text, scopes, &format!("{scopes}    mode: {mode}\n{others}"))
}

/// The bootstrap with the filter in shadow mode.
fn shadowed(bootstrap: &str) -> String {
    let line = "failure_mode_allow: false\n";
    assert!(PAGE.contains("    shadow_mode: true\n"));
    replaced(bootstrap, line, &format!("{line}              shadow_mode: true\n"))
}

/// The bootstrap for clients that may have no certificate, or one of whomever.
fn lenient(bootstrap: &str) -> String {
    for shown in
        ["require_client_certificate: false\n", "trust_chain_verification: ACCEPT_UNTRUSTED "]
    {
        assert!(PAGE.contains(shown), "{shown}");
    }
    let required = "require_client_certificate: true";
    let text = replaced(bootstrap, required, "require_client_certificate: false");
    let authority = "trusted_ca: {filename: client-ca.crt}";
    let both = format!("{authority}, trust_chain_verification: ACCEPT_UNTRUSTED");
    replaced(&text, authority, &both)
}

/// The status, and the subject that the upstream was told.
async fn subject(
    it: &Deployed,
    identity: &Identity,
    path: &str,
    token: Option<&str>,
) -> (u16, Value) {
    let mut headers = vec![("x-auth-subject", "mallory")];
    headers.extend(token.map(|it| ("authorization", it)));
    let (status, body) = it.get(Some(identity), path, &headers).await.unwrap();
    (status, body["headers"]["x-auth-subject"].clone())
}

#[tokio::test]
async fn each_stage_of_a_roll_out_refuses_what_its_page_says() {
    let other = "  - {name: other, match: {path_prefix: /other}, sender_constraint: certificate, mode: report}\n";
    let (mallory, nobody) = (json!(["mallory"]), Value::Null);
    for (stage, mode, others, denied, unmatched, down) in [
        ("shadow", "enforce", "", (200, &mallory), 200, (200, &mallory)),
        ("report", "report", "", (200, &nobody), 200, (503, &nobody)),
        ("some", "enforce", other, (401, &nobody), 403, (503, &nobody)),
        ("enforce", "enforce", "", (401, &nobody), 403, (503, &nobody)),
    ] {
        let bootstrap = |it: &str| if stage == "shadow" { shadowed(it) } else { it.to_owned() };
        let config = |it: &str| policies(it, mode, others);
        let mut it = Deployed::start_with(".", config, bootstrap).await;
        let client = it.client("client");
        let token = it.token(&client, "payments");

        let good = subject(&it, &client, "/api", Some(&token)).await;
        assert_eq!(good, (200, json!(["alice"])), "{stage}");
        let (status, told) = denied;
        assert_eq!(subject(&it, &client, "/api", None).await, (status, told.clone()), "{stage}");
        assert_eq!(subject(&it, &client, "/", Some(&token)).await.0, unmatched, "{stage}");
        if !others.is_empty() {
            assert_eq!(subject(&it, &client, "/other", None).await, (200, Value::Null), "{stage}");
        }
        it.stop();
        let (status, told) = down;
        let found = subject(&it, &client, "/api", Some(&token)).await;
        assert_eq!(found, (status, told.clone()), "{stage}");
    }
}

#[tokio::test]
async fn for_a_roll_out_clients_connect_with_any_certificate_and_with_none() {
    let config = |it: &str| policies(it, "report", "");
    let it = Deployed::start_with(".", config, lenient).await;
    let own = Identity::self_signed("self", KeyPair::generate().unwrap()).unwrap();
    let client = it.client("client");
    for identity in [None, Some(&own), Some(&client)] {
        let token = it.token(identity.unwrap_or(&client), "payments");
        let headers = [("authorization", token.as_str())];
        let (status, body) = it.get(identity, "/api", &headers).await.unwrap();
        // The one without a certificate would be denied, and passes as who the token says.
        let told = &body["headers"]["x-auth-subject"];
        assert_eq!((status, told), (200, &json!(["alice"])));
    }
}
