//! What holds behind every proxy.

use super::caddy::CADDY;
use super::dpop_client::DpopClient;
use super::installation::{BOTH, Installation, Outcome, Proxy};
use super::nginx::NGINX;
use super::proofs::prove;
use super::tokens::tampered;
use super::traefik::TRAEFIK;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use keybound::commands::demo::pki::Identity;
use keybound_core::Denial;
use rcgen::KeyPair;
use reqwest::Version;
use serde_json::json;

const PROXIES: [&Proxy; 3] = [&NGINX, &TRAEFIK, &CADDY];

/// Holds the answer that the client of a proxy gets against what the service meant.
#[track_caller]
fn means(it: &Installation, outcome: &Outcome, denial: Denial) {
    let status = match denial.status() {
        400 => it.proxy.malformed,
        503 => it.proxy.outage[0],
        status => status,
    };
    assert_eq!(outcome.status, status, "{} {denial} {outcome:?}", it.proxy.name);
    let challenge = outcome.challenge();
    if denial.status() < 500 && denial.error().is_some() {
        assert!(challenge.contains(denial.sentence()), "{} {denial} {outcome:?}", it.proxy.name);
    }
    if it.proxy.hands_on_bodies {
        assert_eq!(outcome.body["error_description"], denial.sentence(), "{}", it.proxy.name);
    }
}

#[track_caller]
fn is_let_through(it: &Installation, outcome: &Outcome) {
    assert_eq!(outcome.status, 200, "{} {outcome:?}", it.proxy.name);
}

fn bearer(token: &str) -> String {
    format!("Bearer {token}")
}

#[tokio::test]
async fn a_token_is_good_with_the_certificate_that_it_is_bound_to_and_no_other() {
    for proxy in PROXIES {
        let it = Installation::start(proxy).await;
        let (client, other) = (it.client(), it.client());
        let renewed = it.renew(&client);
        let token = bearer(&it.token(&client, |_| {}));
        let headers = [("authorization", token.as_str())];
        for http in BOTH {
            let good = it.call(http, Some(&client), "/a?x=1", &headers).await;
            is_let_through(&it, &good);
            for (name, value) in [
                ("x-auth-subject", "alice"),
                ("x-auth-client-id", "app"),
                ("x-auth-scope", "payments"),
                ("x-auth-issuer", "https://as.example.com"),
                ("authorization", &token),
            ] {
                assert_eq!(good.seen(name), [value], "{} {name}", proxy.name);
            }
            assert_eq!(good.body["path"], "/a?x=1", "{}", proxy.name);
            for (identity, denial) in [
                (Some(&other), Denial::CertificateMismatch),
                (Some(&renewed), Denial::CertificateMismatch),
                (None, Denial::CertificateMissing),
            ] {
                let outcome = it.call(http, identity, "/a?x=1", &headers).await;
                means(&it, &outcome, denial);
                let challenge = outcome.challenge();
                let begin = "Bearer realm=\"api\", error=\"invalid_token\"";
                assert!(challenge.starts_with(begin), "{} {challenge}", proxy.name);
            }
        }
    }
}

#[tokio::test]
async fn without_an_authority_a_certificate_of_the_clients_own_making_is_as_good() {
    for proxy in PROXIES {
        let it = Installation::start_for_all(proxy).await;
        let [client, other] =
            [(); 2].map(|()| Identity::self_signed("self", KeyPair::generate().unwrap()).unwrap());
        let token = bearer(&it.token(&client, |_| {}));
        let headers = [("authorization", token.as_str())];
        for http in BOTH {
            is_let_through(&it, &it.call(http, Some(&client), "/", &headers).await);
            let outcome = it.call(http, Some(&other), "/", &headers).await;
            means(&it, &outcome, Denial::CertificateMismatch);
            let outcome = it.call(http, None, "/", &headers).await;
            means(&it, &outcome, Denial::CertificateMissing);
        }
    }
}

#[tokio::test]
async fn of_a_chain_of_certificates_the_first_counts() {
    for proxy in PROXIES {
        let it = Installation::start(proxy).await;
        let client = it.client();
        let token = bearer(&it.token(&client, |_| {}));
        let headers = [("authorization", token.as_str())];
        is_let_through(&it, &it.call_with_chain(&client, "/", &headers).await);
        let outcome = it.call_with_chain(&it.client(), "/", &headers).await;
        means(&it, &outcome, Denial::CertificateMismatch);
    }
}

#[tokio::test]
async fn a_client_finds_the_metadata_where_the_challenge_says_without_a_token() {
    for proxy in PROXIES {
        let it = Installation::start(proxy).await;
        for http in BOTH {
            let path = "/.well-known/oauth-protected-resource/told";
            let refused = it.call(http, None, "/told/7", &[]).await;
            let url = format!("resource_metadata=\"https://api.example.com{path}\"");
            assert!(refused.challenge().contains(&url), "{} {refused:?}", proxy.name);
            let served = it.call(http, None, path, &[]).await;
            is_let_through(&it, &served);
            assert_eq!(served.body["resource"], "https://api.example.com/told", "{}", proxy.name);
            assert_eq!(served.body["resource_name"], "Told", "{}", proxy.name);
            assert_eq!(served.headers["access-control-allow-origin"], "*", "{}", proxy.name);
            assert_eq!(served.headers["cache-control"], "public, max-age=300", "{}", proxy.name);
            // What is no resource is nobody's: it reaches no upstream.
            for other in
                ["", "/", "/other", "/told/x", "s/told", "/../../check", "/%2e%2e/%2e%2e/check"]
            {
                let path = format!("/.well-known/oauth-protected-resource{other}");
                let outcome = it.call(http, None, &path, &[]).await;
                assert!(outcome.status.is_client_error(), "{} {other} {outcome:?}", proxy.name);
            }
        }
    }
}

/// All that a client could write to pass for `victim`, or for somebody else's request.
fn forged(victim: &Identity) -> Vec<(&'static str, String)> {
    let pem = victim.certificate_pem();
    let pem = pem.replace(' ', "%20").replace('\n', "%0A").replace('+', "%2B");
    let der = STANDARD.encode(victim.certificate_der());
    let hex = victim.thumbprint().to_hex();
    let written = [
        ("x-ssl-client-verify", "SUCCESS"),
        ("x-original-uri", "/"),
        ("x-original-method", "GET"),
        ("x-forwarded-uri", "/"),
        ("x-forwarded-method", "GET"),
        ("x-auth-subject", "root"),
        ("x-auth-client-id", "root"),
        ("x_auth_client_id", "root"),
    ];
    let mut headers = vec![
        ("x-ssl-client-cert", pem),
        ("x-forwarded-tls-client-cert", der.clone()),
        ("x_forwarded_tls_client_cert", der),
        ("x-client-cert-sha256", hex.clone()),
        ("x_client_cert_sha256", hex.clone()),
        ("x-forwarded-client-cert", format!("Hash={hex}")),
    ];
    headers.extend(written.map(|(name, value)| (name, value.to_owned())));
    headers
}

#[tokio::test]
async fn a_client_cannot_vouch_for_itself() {
    for proxy in PROXIES {
        let it = Installation::start(proxy).await;
        let (client, thief) = (it.client(), it.client());
        let token = it.token(&client, |it| drop(it.as_object_mut().unwrap().remove("client_id")));
        let mut forged = forged(&client);
        forged.push(("authorization", bearer(&token)));
        let forged: Vec<_> = forged.iter().map(|(name, value)| (*name, value.as_str())).collect();
        for http in BOTH {
            let outcome = it.call(http, Some(&thief), "/", &forged).await;
            means(&it, &outcome, Denial::CertificateMismatch);
            let outcome = it.call(http, None, "/", &forged).await;
            means(&it, &outcome, Denial::CertificateMissing);

            let good = it.call(http, Some(&client), "/", &forged).await;
            is_let_through(&it, &good);
            assert_eq!(good.seen("x-auth-subject"), ["alice"], "replaced");
            assert_eq!(good.seen("x-auth-client-id"), [""; 0], "the token has no such claim");
            assert_eq!(good.seen("x_auth_client_id"), [""; 0], "it would be taken for the other");

            // The scope that is needed below /admin is one that the token does not have.
            let admin = it.call(http, Some(&client), "/admin", &forged).await;
            means(&it, &admin, Denial::ScopeInsufficient);
        }
    }
}

#[tokio::test]
async fn a_client_cannot_take_away_what_the_service_says_of_it() {
    for proxy in PROXIES {
        let it = Installation::start(proxy).await;
        let client = it.client();
        let token = bearer(&it.token(&client, |_| {}));
        for name in [
            "x-auth-subject",
            "x-forwarded-uri",
            "x-original-uri",
            "x-ssl-client-cert",
            "x-client-cert-sha256",
            "x-forwarded-tls-client-cert",
        ] {
            // What is listed there is about the connection and ends with it (RFC 9110 §7.6.1).
            let headers = [("authorization", token.as_str()), ("connection", name)];
            let outcome = it.call(Version::HTTP_11, Some(&client), "/admin", &headers).await;
            assert!(outcome.status.is_client_error(), "{} {name} {outcome:?}", proxy.name);
            let outcome = it.call(Version::HTTP_11, Some(&client), "/", &headers).await;
            if outcome.status == 200 {
                assert_eq!(outcome.seen("x-auth-subject"), ["alice"], "{} {name}", proxy.name);
            }
        }
    }
}

#[tokio::test]
async fn a_proof_is_good_once_and_a_client_hears_of_the_nonce_that_it_needs() {
    for proxy in PROXIES {
        let it = Installation::start(proxy).await;
        let client = DpopClient::new(|cnf| it.token(&it.client(), |it| it["cnf"] = cnf));
        let authorization = format!("DPoP {}", client.token);
        let mut proof = client.claims("GET", &it.url("/either"));
        let call = async |proof: &str| {
            let headers = [("authorization", authorization.as_str()), ("dpop", proof)];
            it.call(Version::HTTP_2, None, "/either?x=1", &headers).await
        };
        let outcome = call(&prove(&client.key, &proof)).await;
        means(&it, &outcome, Denial::NonceRequired);
        let challenge = outcome.challenge();
        assert!(challenge.starts_with("Bearer realm=\"either\", DPoP realm"), "{challenge}");
        assert!(challenge.contains("error=\"use_dpop_nonce\""), "{challenge}");

        proof["nonce"] = outcome.headers["dpop-nonce"].to_str().unwrap().into();
        let good = prove(&client.key, &proof);
        let outcome = call(&good).await;
        is_let_through(&it, &outcome);
        assert_eq!(outcome.seen("authorization"), [authorization.as_str()]);
        assert!(!outcome.headers.contains_key("dpop-nonce"), "it has one: {outcome:?}");
        means(&it, &call(&good).await, Denial::ProofReplayed);
        proof["htu"] = json!(it.url("/elsewhere"));
        means(&it, &call(&prove(&client.key, &proof)).await, Denial::ProofTargetMismatch);
        // Nor is a proof for another host good because the client says that it was asked for.
        proof["htu"] = json!("http://evil.example/either");
        let elsewhere = prove(&client.key, &proof);
        let headers = [
            ("authorization", authorization.as_str()),
            ("dpop", &elsewhere),
            ("x-forwarded-host", "evil.example"),
            ("x-forwarded-proto", "http"),
        ];
        for http in BOTH {
            let outcome = it.call(http, None, "/either", &headers).await;
            means(&it, &outcome, Denial::ProofTargetMismatch);
        }
    }
}

/// A new proof for a request, as long as one may be where ML-DSA is accepted, and a little longer.
fn longest_proofs(client: &DpopClient, url: &str) -> [String; 2] {
    let padded = |padding: usize| {
        let mut claims = client.claims("GET", url);
        claims["padding"] = "x".repeat(padding).into();
        prove(&client.key, &claims)
    };
    // Three octets are four characters.
    let most = (12 * 1024 - padded(0).len()) * 3 / 4;
    [padded(most - 3), padded(most + 3)]
}

#[tokio::test]
async fn a_proof_that_is_as_long_as_any_may_be_passes_beside_a_token_that_is() {
    for proxy in PROXIES {
        let it = Installation::start_with(proxy, "algorithms: [ES256, ML-DSA-87]").await;
        let client = DpopClient::new(|cnf| {
            it.token(&it.client(), |it| {
                it["cnf"] = cnf;
                it["padding"] = "x".repeat(11_700).into();
            })
        });
        assert!((16_000..=16_384).contains(&client.token.len()), "{}", client.token.len());
        let authorization = format!("DPoP {}", client.token);
        for http in BOTH {
            let [good, longer] = longest_proofs(&client, &it.url("/either"));
            assert!(
                good.len() <= 12_288 && 12_288 < longer.len(),
                "{} {}",
                good.len(),
                longer.len()
            );
            let call = async |proof: &str| {
                let headers = [("authorization", authorization.as_str()), ("dpop", proof)];
                it.call(http, None, "/either", &headers).await
            };
            is_let_through(&it, &call(&good).await);
            means(&it, &call(&longer).await, Denial::ProofMalformed);
        }
    }
}

#[tokio::test]
async fn a_nonce_that_comes_with_an_allow_reaches_the_client_where_the_proxy_can() {
    for proxy in PROXIES {
        let it = Installation::start_with(proxy, "nonce: offered").await;
        let client = DpopClient::new(|cnf| it.token(&it.client(), |it| it["cnf"] = cnf));
        let authorization = format!("DPoP {}", client.token);
        let proof = client.proof("GET", &it.url("/either"));
        let headers =
            [("authorization", authorization.as_str()), ("dpop", &proof), ("dpop-nonce", "forged")];
        let outcome = it.call(Version::HTTP_2, None, "/either", &headers).await;
        is_let_through(&it, &outcome);
        let nonces = outcome.headers.get_all("dpop-nonce").iter().collect::<Vec<_>>();
        assert_eq!(nonces.len(), usize::from(proxy.hands_on_nonces), "{} {outcome:?}", proxy.name);
        assert!(nonces.iter().all(|it| it.len() == 32), "{} {nonces:?}", proxy.name);
    }
}

#[tokio::test]
async fn who_needs_no_token_is_let_through_as_nobody() {
    for proxy in PROXIES {
        let it = Installation::start(proxy).await;
        let forged = ["authorization", "x-auth-subject", "x-auth-client-id", "x-auth-scope"];
        for http in BOTH {
            for written in [&[][..], &forged] {
                let headers: Vec<_> = written.iter().map(|it| (*it, "Bearer root")).collect();
                let outcome = it.call(http, None, "/public/x", &headers).await;
                is_let_through(&it, &outcome);
                for name in forged {
                    assert!(outcome.seen(name).is_empty(), "{} {name} {outcome:?}", proxy.name);
                }
            }
            means(&it, &it.call(http, None, "/publicly", &[]).await, Denial::CredentialsMissing);
        }
    }
}

#[tokio::test]
async fn in_report_mode_nothing_is_made_up() {
    for proxy in PROXIES {
        let it = Installation::start(proxy).await;
        let forged = [("x-auth-subject", "root"), ("x-auth-client-id", "root")];
        let outcome = it.call(Version::HTTP_2, None, "/report", &forged).await;
        is_let_through(&it, &outcome);
        for name in ["authorization", "x-auth-subject", "x-auth-client-id"] {
            assert_eq!(outcome.seen(name), [""; 0], "{} {name}", proxy.name);
        }
        let unknown = [("authorization", "Bearer unknown")];
        let outcome = it.call(Version::HTTP_2, None, "/report", &unknown).await;
        is_let_through(&it, &outcome);
        assert_eq!(outcome.seen("authorization"), ["Bearer unknown"], "{}", proxy.name);
    }
}

#[tokio::test]
async fn a_request_to_upgrade_is_checked_like_any_other() {
    for proxy in PROXIES {
        let it = Installation::start_with(proxy, "nonce: off").await;
        let client = DpopClient::new(|cnf| it.token(&it.client(), |it| it["cnf"] = cnf));
        let authorization = format!("DPoP {}", client.token);
        let proof = client.proof("GET", &it.url("/either"));
        let upgrade = [("connection", "upgrade"), ("upgrade", "websocket")];
        let outcome = it.call(Version::HTTP_11, None, "/either", &upgrade).await;
        means(&it, &outcome, Denial::CredentialsMissing);
        let shown = [("authorization", authorization.as_str()), ("dpop", &proof)];
        let headers = [&upgrade[..], &shown].concat();
        is_let_through(&it, &it.call(Version::HTTP_11, None, "/either", &headers).await);
    }
}

#[tokio::test]
async fn what_is_refused_looks_as_it_is_meant_or_worse() {
    for proxy in PROXIES {
        let it = Installation::start(proxy).await;
        let client = it.client();
        let token = it.token(&client, |_| {});
        let good = bearer(&token);
        let broken = bearer(&tampered(&token));
        let opaque = bearer("opaque");
        for (headers, denial) in [
            (vec![], Denial::CredentialsMissing),
            (vec![("authorization", "Basic YTpi")], Denial::SchemeUnsupported),
            (vec![("authorization", broken.as_str())], Denial::TokenSignatureInvalid),
            (
                vec![("authorization", good.as_str()), ("dpop", "a"), ("dpop", "b")],
                Denial::CredentialsAmbiguous,
            ),
            (vec![("authorization", opaque.as_str())], Denial::IntrospectionUnavailable),
        ] {
            let outcome = it.call(Version::HTTP_2, Some(&client), "/", &headers).await;
            means(&it, &outcome, denial);
            assert_eq!(outcome.body.get("headers"), None, "the upstream was not asked");
            if denial == Denial::CredentialsMissing {
                let challenge = "Bearer realm=\"api\", scope=\"payments\"";
                assert_eq!(outcome.challenge(), challenge, "{}", proxy.name);
            }
        }
        // Some proxies refuse two of them by themselves.
        let twice = [("authorization", good.as_str()), ("authorization", good.as_str())];
        let outcome = it.call(Version::HTTP_2, Some(&client), "/", &twice).await;
        assert!(matches!(outcome.status.as_u16(), 400 | 401), "{} {outcome:?}", proxy.name);
    }
}

#[tokio::test]
async fn nobody_gets_by_through_a_spelling() {
    for proxy in PROXIES {
        let it = Installation::start(proxy).await;
        let client = it.client();
        let token = bearer(&it.token(&client, |_| {}));
        let headers = [("authorization", token.as_str())];
        let unreadable = [proxy.unreadable; 3];
        let cleaned = if proxy.cleans_paths { [403; 3] } else { unreadable };
        for (paths, statuses) in [
            (["/other", "/administration", "/x?/../admin"], [200; 3]),
            (["/admin", "/admin/", "/%61dmin"], [403; 3]),
            (["//admin", "/x/../admin", "/x/%2e%2e/admin"], cleaned),
            (["/x/..%2fadmin", "/x/%2e%2E%2Fadmin", "/x%5c..%5cadmin"], unreadable),
            // nginx refuses them by itself.
            (["/admin%00", "/admin%00.html", "/%61dmin%00/x"], [400; 3]),
            (["/Admin", "/admin;x=1", "/%2561dmin"], unreadable),
            (["/X", "/x;y", "/x/a%20b"], [200; 3]),
        ] {
            for (path, status) in paths.into_iter().zip(statuses) {
                for http in BOTH {
                    let outcome = it.call(http, Some(&client), path, &headers).await;
                    assert_eq!(outcome.status, status, "{} {path} {outcome:?}", proxy.name);
                }
            }
        }
    }
}

#[tokio::test]
async fn an_outage_lets_nothing_through_and_ends() {
    for proxy in PROXIES {
        let mut it = Installation::start(proxy).await;
        let client = it.client();
        let token = bearer(&it.token(&client, |_| {}));
        let headers = [("authorization", token.as_str())];
        is_let_through(&it, &it.call(Version::HTTP_2, Some(&client), "/", &headers).await);

        let address = it.stop();
        let outcome = it.call(Version::HTTP_2, Some(&client), "/", &headers).await;
        assert_eq!(outcome.status, proxy.outage[1], "{} {outcome:?}", proxy.name);

        it.restart(&address).await;
        is_let_through(&it, &it.call(Version::HTTP_2, Some(&client), "/", &headers).await);
    }
}
