//! The check at the ingress gateway.

use super::mesh::{HOST, Plan, istio};
use crate::dpop_client::DpopClient;
use crate::verbatim::Verbatim;
use http::Version;
use keybound::commands::demo::pki::Identity;
use keybound_core::Denial;
use rcgen::KeyPair;
use serde_json::json;

/// Istiod's two kinds of providers.
const PROVIDERS: [fn() -> Plan; 2] = [Plan::at_the_gateway, Plan::over_http];

#[tokio::test]
async fn at_istios_gateway_a_token_is_good_with_its_certificate_alone() {
    for plan in PROVIDERS {
        let Some(mut it) = plan().start().await else { return };
        let [client, thief] = ["client", "thief"].map(|name| it.client(name));
        let token = it.bearer(&client, "payments");
        let forged = format!("Hash={}", client.thumbprint().to_hex());
        let headers = [
            ("authorization", token.as_str()),
            ("x-forwarded-client-cert", &forged),
            ("x-auth-subject", "root"),
        ];
        for path in ["/docs", "/payments"] {
            let seen = it.passes(&client, path, &headers).await;
            assert_eq!(seen["x-auth-subject"], json!(["alice"]), "{seen}");
            assert_eq!(seen.get("x-forwarded-client-cert"), None, "as upstream.remove says");
            it.refuses(Denial::CertificateMismatch, &thief, path, &headers).await;
        }
        it.refuses(Denial::CredentialsMissing, &client, "/docs", &headers[1..]).await;
        assert!(it.answer(None, "/docs", &headers).await.is_err(), "no certificate, no connection");
        let stranger = Identity::self_signed("client", KeyPair::generate().unwrap()).unwrap();
        assert!(
            it.answer(Some(&stranger), "/docs", &headers).await.is_err(),
            "of another authority"
        );
        it.service = None;
        assert_eq!(it.get(&client, "/docs", &headers).await.0, 503, "as statusOnError says");
    }
}

#[tokio::test]
async fn at_istios_gateway_no_spelling_gets_the_weaker_policy() {
    for plan in PROVIDERS {
        let Some(it) = plan().start().await else { return };
        let client = it.client("client");
        let [token, payer] = ["", "payments"].map(|scope| it.bearer(&client, scope));
        let headers = [("authorization", token.as_str())];
        let payer = [("authorization", payer.as_str())];
        it.passes(&client, "/docs/a", &headers).await;
        for path in [
            "/payments",
            "/Docs",
            "/docs.json",
            "//payments",
            "/docs/../payments",
            "/docs/%2e%2e/payments",
            "/docs//../../payments",
            "/docs/..;/payments",
        ] {
            let (status, body) = it.get(&client, path, &headers).await;
            assert!(matches!(status, 400 | 403), "{path}: {status} {body}");
        }
        // What is checked is what the API sees.
        for (path, seen) in [
            ("/x/../docs/a", "/docs/a"),
            ("/docs//a", "/docs/a"),
            ("/docs/./a?x=/../y", "/docs/a?x=/../y"),
            ("/docs/%2e%2e/payments", "/payments"),
        ] {
            let (status, body) = it.get(&client, path, &payer).await;
            assert_eq!((status, &body["path"]), (200, &json!(seen)), "{path}");
        }
        let other = Verbatim { http: Version::HTTP_11, ..it.verbatim(Some(&client)) };
        let written = format!(
            "GET /docs HTTP/1.1\r\nhost: other.example.com\r\nconnection: close\r\nauthorization: \
             {token}\r\n\r\n"
        );
        let answer = other.written(&written).await.unwrap();
        assert!(answer.starts_with("HTTP/1.1 404"), "{answer}");
    }
}

/// Headers with a proof.
fn with<'a>(token: &'a str, proof: &'a str) -> [(&'a str, &'a str); 2] {
    [("authorization", token), ("dpop", proof)]
}

#[tokio::test]
async fn at_istios_gateway_a_dpop_proof_is_good_once_and_for_what_it_names() {
    for plan in PROVIDERS {
        let plan = plan().with(|it| {
            for policy in it.keybound["policies"].as_array_mut().unwrap() {
                policy["sender_constraint"] = "dpop".into();
            }
        });
        let Some(it) = plan.start().await else { return };
        let client = it.client("client");
        let bound = DpopClient::new(|cnf| it.issue(&cnf, "payments"));
        let thief = DpopClient::new(|cnf| it.issue(&cnf, "payments"));
        let url = format!("https://{HOST}:{}/docs", it.address.port());
        let proof = bound.proof("GET", &url);
        let token = format!("DPoP {}", bound.token);
        it.passes(&client, "/docs?x=1", &with(&token, &proof)).await;
        it.refuses(Denial::ProofReplayed, &client, "/docs?x=1", &with(&token, &proof)).await;
        for (denial, proof) in [
            (Denial::ProofTargetMismatch, bound.proof("GET", &url.replace("/docs", "/payments"))),
            (Denial::ProofMethodMismatch, bound.proof("POST", &url)),
            (Denial::ProofKeyMismatch, thief.proof("GET", &url)),
        ] {
            it.refuses(denial, &client, "/docs", &with(&token, &proof)).await;
        }
        it.refuses(Denial::ProofMissing, &client, "/docs", &with(&token, "")[..1]).await;
    }
}

#[tokio::test]
async fn certificates_of_the_clients_own_making_are_as_good_where_istios_gateway_takes_them() {
    let plan = Plan::at_the_gateway().with(|it| {
        let tls = &mut it.object("Gateway")["spec"]["servers"][0]["tls"];
        tls["mode"] = "OPTIONAL_MUTUAL".into();
        tls["insecureSkipVerify"] = true.into();
    });
    let Some(it) = plan.start().await else { return };
    let [client, thief] =
        [(); 2].map(|()| Identity::self_signed("self", KeyPair::generate().unwrap()).unwrap());
    let token = it.bearer(&client, "payments");
    let bearer = [("authorization", token.as_str())];
    it.passes(&client, "/docs", &bearer).await;
    it.refuses(Denial::CertificateMismatch, &thief, "/docs", &bearer).await;
    let answer = it.answer(None, "/docs", &bearer).await.unwrap();
    let body = String::from_utf8_lossy(answer.body());
    assert_eq!(answer.status(), 401, "{body}");
    assert!(body.contains(Denial::CertificateMissing.sentence()), "{body}");
}

#[tokio::test]
async fn pages_of_another_origin_can_read_what_istios_gateway_refuses_and_ask_first() {
    let plan = Plan::at_the_gateway().and(&istio("browsers.yaml"));
    let Some(it) = plan.start().await else { return };
    let client = it.client("client");
    let origin = ("origin", "https://app.example.com");
    let refused = it.answer(Some(&client), "/docs", &[origin]).await.unwrap();
    assert_eq!(refused.status(), 401);
    assert_eq!(refused.headers()["access-control-allow-origin"], "https://app.example.com");
    assert_eq!(refused.headers()["access-control-expose-headers"], "www-authenticate,dpop-nonce");
    let asks = [origin, ("access-control-request-method", "GET")];
    let asked = it.verbatim(Some(&client)).ask("OPTIONS", "/docs", &asks).await.unwrap();
    assert_eq!(asked.status(), 200, "{asked:?}");
    assert_eq!(asked.headers()["access-control-allow-methods"], "GET,POST,PUT,DELETE");
    let other = it.answer(Some(&client), "/docs", &[("origin", "https://evil.example")]).await;
    assert_eq!(other.unwrap().headers().get("access-control-allow-origin"), None);
}
