//! Tokens that are bound to DPoP keys (RFC 9449).

use super::dpop_client::DpopClient;
use super::installation::{Call, Installation, Outcome, claims};
use super::proofs::prove;
use super::tokens::tampered;
use super::{BOTH, OPTIONAL, check};
use keybound_core::Denial;
use reqwest::Version;
use serde_json::{Value, json};

/// Headers of a request, and what must come of it.
type Row = (Vec<(&'static str, String)>, Result<(), Denial>);

#[tokio::test]
async fn a_token_is_good_with_a_new_proof_by_its_key_for_the_very_request_and_no_other() {
    let (mut it, client) = start(&json!({})).await;
    let stranger = client_of(&it);
    let url = it.url("optional", PATH);
    let edited = |name: &str, value: Value| {
        let mut claims = client.claims("GET", &url);
        claims[name] = value;
        prove(&client.key, &claims)
    };
    let now = client.claims("GET", &url)["iat"].as_i64().unwrap();
    for http in BOTH {
        let proof = client.proof("GET", &url);
        let [method, target, token] = [
            client.proof("POST", &url),
            client.proof("GET", &it.url("optional", "/elsewhere")),
            edited("ath", stranger.claims("GET", &url)["ath"].clone()),
        ];
        let by_another = prove(&stranger.key, &client.claims("GET", &url));
        let rows: Vec<Row> = vec![
            (vec![dpop(&client), ("dpop", proof.clone())], Ok(())),
            (vec![dpop(&client), ("dpop", proof)], Err(Denial::ProofReplayed)),
            (vec![dpop(&client), ("dpop", method)], Err(Denial::ProofMethodMismatch)),
            (vec![dpop(&client), ("dpop", target)], Err(Denial::ProofTargetMismatch)),
            (vec![dpop(&client), ("dpop", token)], Err(Denial::ProofTokenMismatch)),
            (vec![dpop(&client), ("dpop", by_another)], Err(Denial::ProofKeyMismatch)),
            (
                vec![dpop(&client), ("dpop", tampered(&client.proof("GET", &url)))],
                Err(Denial::ProofSignatureInvalid),
            ),
            (
                vec![dpop(&client), ("dpop", edited("iat", json!(now - 120)))],
                Err(Denial::ProofStale),
            ),
            (vec![dpop(&client)], Err(Denial::ProofMissing)),
            (
                vec![
                    dpop(&client),
                    ("dpop", client.proof("GET", &url)),
                    ("dpop", client.proof("GET", &url)),
                ],
                Err(Denial::CredentialsAmbiguous),
            ),
            (
                vec![bearer(&client), ("dpop", client.proof("GET", &url))],
                Err(Denial::SchemeMismatch),
            ),
            (vec![bearer(&client)], Err(Denial::SchemeMismatch)),
        ];
        for (headers, expected) in rows {
            checked(&mut it, http, headers, expected).await;
        }
    }
}

#[tokio::test]
async fn a_token_that_is_bound_to_a_certificate_too_needs_both() {
    let (mut it, _) = start(&json!({})).await;
    let (own, other) = (it.client("client"), it.client("other"));
    let client = DpopClient::new(|mut cnf| {
        cnf["x5t#S256"] = own.thumbprint().to_base64url().into();
        signed(&it, cnf)
    });
    for (identity, expected) in [
        (Some(&own), Ok(())),
        (Some(&other), Err(Denial::CertificateMismatch)),
        (None, Err(Denial::CertificateMissing)),
    ] {
        let proof = client.proof("GET", &it.url("optional", PATH));
        let headers = vec![dpop(&client), ("dpop", proof)];
        let http = Version::HTTP_2;
        let call = Call { door: "optional", http, identity, path: PATH, headers };
        let outcome = check(&mut it, &call, expected).await;
        if expected.is_ok() {
            assert_eq!(outcome.logged["sender_constraint"], "certificate+dpop");
        }
    }
}

#[tokio::test]
async fn a_nonce_that_is_required_reaches_the_client_and_lets_it_in() {
    let (mut it, client) = start(&json!({"dpop": {"nonce": "required"}})).await;
    let url = it.url("optional", PATH);
    for http in BOTH {
        let headers = vec![dpop(&client), ("dpop", client.proof("GET", &url))];
        let refused = Err(Denial::NonceRequired);
        let outcome = checked(&mut it, http, headers, refused).await;
        assert_eq!(outcome.body["error"], "use_dpop_nonce");
        let challenge = outcome.headers["www-authenticate"].to_str().unwrap();
        assert!(challenge.starts_with("DPoP "), "{challenge}");
        assert!(challenge.contains("error=\"use_dpop_nonce\""), "{challenge}");

        let nonce = nonce(&outcome).unwrap();
        let headers = vec![dpop(&client), ("dpop", with_nonce(&client, &url, &nonce))];
        let outcome = checked(&mut it, http, headers, Ok(())).await;
        assert_eq!(self::nonce(&outcome), None, "it will do for some time yet");

        let forged: String = nonce.chars().rev().collect();
        let headers = vec![dpop(&client), ("dpop", with_nonce(&client, &url, &forged))];
        let outcome = checked(&mut it, http, headers, refused).await;
        assert!(self::nonce(&outcome).is_some());
    }
}

#[tokio::test]
async fn a_nonce_that_is_offered_comes_with_the_upstreams_response() {
    let (mut it, client) = start(&json!({"dpop": {"nonce": "offered"}})).await;
    let url = it.url("optional", PATH);
    for http in BOTH {
        let headers = vec![dpop(&client), ("dpop", client.proof("GET", &url))];
        let outcome = checked(&mut it, http, headers, Ok(())).await;
        let nonce = nonce(&outcome).unwrap();
        let headers = vec![dpop(&client), ("dpop", with_nonce(&client, &url, &nonce))];
        let outcome = checked(&mut it, http, headers, Ok(())).await;
        assert_eq!(self::nonce(&outcome), None);
    }
}

#[tokio::test]
async fn the_upstream_sees_what_the_operator_says() {
    for (authorization, scheme, proofs) in
        [("keep", Some("DPoP"), 1), ("bearer", Some("Bearer"), 0), ("remove", None, 0)]
    {
        let (mut it, client) = start(&json!({"upstream": {"authorization": authorization}})).await;
        let url = it.url("optional", PATH);
        for http in BOTH {
            let headers = vec![dpop(&client), ("dpop", client.proof("GET", &url))];
            let outcome = checked(&mut it, http, headers, Ok(())).await;
            let expected: Vec<_> =
                scheme.iter().map(|it| format!("{it} {}", client.token)).collect();
            assert_eq!(outcome.seen("authorization"), expected);
            assert_eq!(outcome.seen("dpop").len(), proofs, "{authorization}");
        }
    }
}

/// Where the requests go. The query is no part of what a proof is for.
const PATH: &str = "/things?page=2";

/// An installation that demands a DPoP key, with more of a configuration, and a client.
pub(crate) async fn start(more: &Value) -> (Installation, DpopClient) {
    let it = Installation::start_with(&[OPTIONAL], |_, config| demand_dpop(config, more)).await;
    let client = client_of(&it);
    (it, client)
}

pub(crate) fn demand_dpop(config: &mut Value, more: &Value) {
    config["policies"] = json!([{"name": "all", "sender_constraint": "dpop"}]);
    for (name, value) in more.as_object().unwrap() {
        config[name] = value.clone();
    }
}

pub(crate) fn client_of(it: &Installation) -> DpopClient {
    DpopClient::new(|cnf| signed(it, cnf))
}

/// A token that is in order, with this `cnf`.
fn signed(it: &Installation, cnf: Value) -> String {
    let mut claims = claims(&it.client("unused"));
    claims["cnf"] = cnf;
    it.signer.sign("at+jwt", &claims)
}

async fn checked(
    it: &mut Installation,
    http: Version,
    headers: Vec<(&'static str, String)>,
    expected: Result<(), Denial>,
) -> Outcome {
    let call = Call { door: "optional", http, identity: None, path: PATH, headers };
    let outcome = check(it, &call, expected).await;
    if expected.is_ok() {
        assert_eq!(outcome.logged["sender_constraint"], "dpop");
    }
    outcome
}

fn dpop(client: &DpopClient) -> (&'static str, String) {
    ("authorization", format!("DPoP {}", client.token))
}

fn bearer(client: &DpopClient) -> (&'static str, String) {
    ("authorization", format!("Bearer {}", client.token))
}

fn with_nonce(client: &DpopClient, url: &str, nonce: &str) -> String {
    let mut claims = client.claims("GET", url);
    claims["nonce"] = nonce.into();
    prove(&client.key, &claims)
}

fn nonce(outcome: &Outcome) -> Option<String> {
    let mut found = outcome.headers.get_all("dpop-nonce").iter();
    let nonce = found.next().map(|it| it.to_str().unwrap().to_owned());
    assert_eq!(found.next(), None, "one at most");
    nonce
}
