//! Tokens that are bound to client certificates.

use super::installation::{Call, Door, Installation, claims};
use super::tokens::tampered;
use super::{BOTH, OPTIONAL, check};
use keybound::commands::demo::pki::Identity;
use keybound_core::Denial;
use rcgen::{KeyPair, PKCS_ED25519, PKCS_RSA_SHA256};
use reqwest::Version;
use serde_json::{Value, json};

/// Clients must have a certificate.
const REQUIRED: Door = Door { name: "required", certificate_required: true, ..OPTIONAL };
/// The service hears of the certificate from `x-forwarded-client-cert`, which Envoy writes.
const XFCC: Door =
    Door { name: "xfcc", source: "xfcc", forward_client_cert: "SANITIZE_SET", ..OPTIONAL };

#[tokio::test]
async fn a_token_is_good_with_the_certificate_that_it_is_bound_to_and_no_other() {
    let mut it = Installation::start(&[OPTIONAL, XFCC]).await;
    let client = it.client("client");
    let other = it.client("other");
    let renewed = it.authority.renew(&client).unwrap();
    let rows = [
        (Some(&client), Ok(())),
        (Some(&other), Err(Denial::CertificateMismatch)),
        (Some(&renewed), Err(Denial::CertificateMismatch)),
        (None, Err(Denial::CertificateMissing)),
    ];
    let bearer = vec![("authorization", format!("Bearer {}", it.token(&client)))];
    for door in ["optional", "xfcc"] {
        for http in BOTH {
            for (identity, expected) in rows {
                let headers = bearer.clone();
                check(&mut it, &Call { door, http, identity, path: "/", headers }, expected).await;
            }
        }
    }
}

#[tokio::test]
async fn every_kind_of_client_key_is_recognised() {
    let mut it = Installation::start(&[OPTIONAL, XFCC]).await;
    for algorithm in [&PKCS_RSA_SHA256, &PKCS_ED25519] {
        let key = KeyPair::generate_for(algorithm).unwrap();
        let client = it.authority.client("client", key).unwrap();
        let headers = vec![("authorization", format!("Bearer {}", it.token(&client)))];
        for door in ["optional", "xfcc"] {
            let headers = headers.clone();
            let http = Version::HTTP_2;
            let call = Call { door, http, identity: Some(&client), path: "/", headers };
            check(&mut it, &call, Ok(())).await;
        }
    }
}

#[tokio::test]
async fn a_token_that_is_not_in_order_is_refused_with_its_reason() {
    let mut it = Installation::start(&[OPTIONAL]).await;
    let client = it.client("client");
    let now = claims(&client)["iat"].as_i64().unwrap();
    let edited = |claim: &str, value: Value| {
        let mut claims = claims(&client);
        claims[claim] = value;
        vec![format!("Bearer {}", it.signer.sign("at+jwt", &claims))]
    };
    let without = |claim: &str| {
        let mut claims = claims(&client);
        claims.as_object_mut().unwrap().remove(claim);
        vec![format!("Bearer {}", it.signer.sign("at+jwt", &claims))]
    };
    let good = format!("Bearer {}", it.token(&client));
    let rows: Vec<(Vec<String>, &str, Result<(), Denial>)> = vec![
        (vec![good.clone()], "/", Ok(())),
        (vec![tampered(&good)], "/", Err(Denial::TokenSignatureInvalid)),
        (vec!["Bearer garbage".to_owned()], "/", Err(Denial::TokenMalformed)),
        (vec!["Basic YTpi".to_owned()], "/", Err(Denial::SchemeUnsupported)),
        (vec![], "/", Err(Denial::CredentialsMissing)),
        (vec![good.clone(), good.clone()], "/", Err(Denial::CredentialsAmbiguous)),
        (edited("exp", json!(now - 60)), "/", Err(Denial::TokenExpired)),
        (edited("nbf", json!(now + 60)), "/", Err(Denial::TokenPremature)),
        (
            edited("aud", json!("https://other.example.com")),
            "/",
            Err(Denial::TokenAudienceMismatch),
        ),
        (edited("iss", json!("https://evil.example.com")), "/", Err(Denial::TokenIssuerUnknown)),
        (without("cnf"), "/", Err(Denial::BindingMissing)),
        (without("exp"), "/", Err(Denial::TokenClaimMissing)),
        (vec![good], "/admin", Err(Denial::ScopeInsufficient)),
        (edited("scope", json!("admin")), "/admin", Ok(())),
    ];
    for (authorization, path, expected) in rows {
        for http in BOTH {
            let headers = authorization.iter().map(|it| ("authorization", it.clone())).collect();
            let call = Call { door: "optional", http, identity: Some(&client), path, headers };
            check(&mut it, &call, expected).await;
        }
    }
}

#[tokio::test]
async fn a_client_cannot_vouch_for_itself() {
    let mut it = Installation::start(&[OPTIONAL, XFCC]).await;
    let client = it.client("client");
    let thief = it.client("thief");
    let hash = client.thumbprint().to_hex();
    for door in ["optional", "xfcc"] {
        for http in BOTH {
            let bearer = ("authorization", format!("Bearer {}", it.token(&client)));
            let forged = [
                ("x-forwarded-client-cert", format!("Hash={hash}")),
                ("x-auth-subject", "root".to_owned()),
                ("x-auth-subject", "admin".to_owned()),
                ("x-auth-tenant", "forged".to_owned()),
            ];
            let headers: Vec<_> = [bearer].into_iter().chain(forged).collect();
            let call =
                |identity| Call { door, http, identity, path: "/", headers: headers.clone() };

            check(&mut it, &call(Some(&thief)), Err(Denial::CertificateMismatch)).await;
            check(&mut it, &call(None), Err(Denial::CertificateMissing)).await;
            let outcome = check(&mut it, &call(Some(&client)), Ok(())).await;
            assert_eq!(outcome.seen("x-auth-subject"), ["alice"], "replaced");
            assert_eq!(outcome.seen("x-auth-client-id"), ["app"], "set");
            assert_eq!(
                outcome.seen("x-auth-tenant"),
                [""; 0],
                "removed: the token has no such claim"
            );
        }
    }
}

/// The client's own connection ends at a proxy, which tells of it.
const BEHIND: Door =
    Door { name: "behind", source: "behind", forward_client_cert: "APPEND_FORWARD", ..OPTIONAL };

#[tokio::test]
async fn a_proxy_in_between_tells_of_the_client_if_it_is_the_one_that_may() {
    let mut it = Installation::start(&[BEHIND]).await;
    let [client, thief, proxy, other] = ["client", "thief", "proxy", "other"].map(|name| it.client(name));
    for http in BOTH {
        for (peer, shown, expected) in [
            (&proxy, &client, Ok(())),
            (&proxy, &thief, Err(Denial::CertificateMismatch)),
            (&other, &client, Err(Denial::CertificateConflict)),
        ] {
            let headers = vec![
                ("authorization", format!("Bearer {}", it.token(&client))),
                ("x-forwarded-client-cert", format!("Hash={}", shown.thumbprint().to_hex())),
            ];
            let call = Call { door: "behind", http, identity: Some(peer), path: "/", headers };
            check(&mut it, &call, expected).await;
        }
    }
}

#[tokio::test]
async fn a_client_without_a_verified_certificate_does_not_get_past_the_handshake() {
    let mut it = Installation::start(&[REQUIRED]).await;
    let client = it.client("client");
    let own = Identity::self_signed("client", KeyPair::generate().unwrap()).unwrap();
    for (identity, answered) in [(Some(&client), true), (Some(&own), false), (None, false)] {
        let bound_to = identity.unwrap_or(&client);
        let headers = vec![("authorization", format!("Bearer {}", it.token(bound_to)))];
        let http = Version::HTTP_2;
        let call = Call { door: "required", http, identity, path: "/", headers };
        assert_eq!(it.call(&call).await.is_ok(), answered);
    }
}
