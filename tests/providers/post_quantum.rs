//! Tokens and proofs that jwcrypto signs by ML-DSA (RFC 9964).

use super::dpop_client::DpopClient;
use super::installation::{AUDIENCE, ISSUER, Installation};
use super::program::provisioned;
use super::tokens::{Signer, tampered};
use super::{DOOR, Row, check};
use jsonwebtoken::Algorithm;
use keybound::clock::{Clock, SystemClock};
use keybound_core::Denial;
use serde_json::{Value, json};
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

const ALGORITHMS: [&str; 3] = ["ML-DSA-44", "ML-DSA-65", "ML-DSA-87"];

/// jwcrypto, with the keys that it has made. It ends with this.
struct Jwcrypto {
    child: Child,
    asked: ChildStdin,
    told: BufReader<ChildStdout>,
}

/// A key that jwcrypto has made.
struct Key {
    alg: &'static str,
    jwk: Value,
    /// As jwcrypto computes it.
    thumbprint: String,
}

impl Jwcrypto {
    /// A new one; nothing, and a line that says why, where it is not to be had.
    fn start() -> Option<Self> {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/providers/jose.py");
        let mut child = Command::new(provisioned("python-jose")?)
            .arg(script)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let (asked, told) = (child.stdin.take().unwrap(), child.stdout.take().unwrap());
        Some(Self { child, asked, told: BufReader::new(told) })
    }

    fn ask(&mut self, what: &Value) -> Value {
        writeln!(self.asked, "{what}").unwrap();
        let mut line = String::new();
        self.told.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap()
    }

    fn key(&mut self, alg: &'static str) -> Key {
        let made = self.ask(&json!({"alg": alg}));
        let thumbprint = made["thumbprint"].as_str().unwrap().to_owned();
        Key { alg, jwk: made["jwk"].clone(), thumbprint }
    }

    fn sign(&mut self, key: &Key, mut header: Value, claims: &Value) -> String {
        header["alg"] = key.alg.into();
        let asked = json!({"key": key.thumbprint, "header": header, "claims": claims});
        self.ask(&asked).as_str().unwrap().to_owned()
    }

    /// A token by `issuer` that is bound to the key of `client`.
    fn token(&mut self, issuer: &Key, client: &Key) -> String {
        let now = SystemClock.now().as_secs();
        let claims = json!({
            "iss": ISSUER, "aud": AUDIENCE, "sub": "alice", "client_id": "app",
            "iat": now, "exp": now + 300, "cnf": {"jkt": client.thumbprint},
        });
        self.sign(issuer, json!({"typ": "at+jwt", "kid": issuer.thumbprint}), &claims)
    }

    /// A new proof by `key` for a GET of `url` with `token`.
    fn proof(&mut self, key: &Key, url: &str, token: &str) -> String {
        // Only the claims are this client's.
        let client =
            DpopClient { token: token.to_owned(), key: Signer::new(Algorithm::ES256, "none") };
        let header = json!({"typ": "dpop+jwt", "jwk": key.jwk});
        self.sign(key, header, &client.claims("GET", url))
    }
}

impl Drop for Jwcrypto {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// An installation whose issuer has these keys, and where these algorithms are accepted; `None` for
/// those of the default.
async fn installation(
    issuers: &[&Key],
    tokens: Option<&[&str]>,
    proofs: Option<&[&str]>,
) -> Installation {
    let keys: Vec<_> = issuers
        .iter()
        .map(|it| {
            let mut jwk = it.jwk.clone();
            jwk["kid"] = it.thumbprint.clone().into();
            jwk
        })
        .collect();
    Installation::start_with(&[DOOR], |directory, config| {
        let file = directory.join("ml-dsa.json");
        fs::write(&file, json!({ "keys": keys }).to_string()).unwrap();
        config["issuers"][0]["keys"] = json!({"jwks_file": file});
        if let Some(tokens) = tokens {
            config["issuers"][0]["algorithms"] = json!(tokens);
        }
        if let Some(proofs) = proofs {
            config["dpop"] = json!({"algorithms": proofs});
        }
        config["policies"] = json!([{"name": "any", "sender_constraint": "dpop"}]);
    })
    .await
}

fn headers(token: &str, proof: &str) -> Vec<(&'static str, String)> {
    vec![("authorization", format!("DPoP {token}")), ("dpop", proof.to_owned())]
}

#[tokio::test]
async fn ml_dsa_of_another_implementation_is_good_where_it_is_named() {
    let Some(mut jwcrypto) = Jwcrypto::start() else { return };
    let issuers = ALGORITHMS.map(|it| jwcrypto.key(it));
    let published: Vec<_> = issuers.iter().collect();
    let mut it = installation(&published, Some(&ALGORITHMS), Some(&ALGORITHMS)).await;
    let url = it.url(DOOR.name, "/");
    for issuer in &issuers {
        for alg in ALGORITHMS {
            let (client, thief) = (jwcrypto.key(alg), jwcrypto.key(alg));
            let token = jwcrypto.token(issuer, &client);
            let good = jwcrypto.proof(&client, &url, &token);
            let other = jwcrypto.proof(&client, &url, &token);
            let forged = tampered(&token);
            let by_thief = jwcrypto.proof(&thief, &url, &token);
            for (what, headers, expected) in [
                ("a proof", headers(&token, &good), Ok(())),
                ("the same again", headers(&token, &good), Err(Denial::ProofReplayed)),
                (
                    "a proof that was changed",
                    headers(&token, &tampered(&other)),
                    Err(Denial::ProofSignatureInvalid),
                ),
                (
                    "a proof by another key",
                    headers(&token, &by_thief),
                    Err(Denial::ProofKeyMismatch),
                ),
                (
                    "a token that was changed",
                    headers(&forged, &other),
                    Err(Denial::TokenSignatureInvalid),
                ),
            ] {
                let what = format!("{} and {alg}: {what}", issuer.alg);
                check(&mut it, Row { what: &what, identity: None, path: "/", headers, expected })
                    .await;
            }
        }
    }
}

#[tokio::test]
async fn ml_dsa_of_another_implementation_is_refused_where_it_is_not_named() {
    let Some(mut jwcrypto) = Jwcrypto::start() else { return };
    let [issuer, client] = [(); 2].map(|()| jwcrypto.key("ML-DSA-44"));
    let others = &ALGORITHMS[1..];
    for (tokens, proofs, expected) in [
        (None, Some(&ALGORITHMS[..]), Denial::TokenAlgorithmForbidden),
        (Some(others), Some(&ALGORITHMS[..]), Denial::TokenAlgorithmForbidden),
        (Some(&ALGORITHMS[..]), None, Denial::ProofAlgorithmForbidden),
        (Some(&ALGORITHMS[..]), Some(others), Denial::ProofAlgorithmForbidden),
    ] {
        let mut it = installation(&[&issuer], tokens, proofs).await;
        let url = it.url(DOOR.name, "/");
        let token = jwcrypto.token(&issuer, &client);
        let headers = headers(&token, &jwcrypto.proof(&client, &url, &token));
        let what = format!("{tokens:?} {proofs:?}");
        let row = Row { what: &what, identity: None, path: "/", headers, expected: Err(expected) };
        let outcome = check(&mut it, row).await;
        let challenge = outcome.headers["www-authenticate"].to_str().unwrap();
        assert_eq!(challenge.contains("ML-DSA-87"), proofs.is_some(), "{challenge}");
    }
}
