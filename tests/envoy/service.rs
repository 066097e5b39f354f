//! What holds where Envoy asks a service.

use super::installation::{Call, Door, Installation, Way};
use super::{BOTH, OPTIONAL, check};
use keybound_core::Denial;
use reqwest::Version;

/// Asked over HTTP, the service hears of the certificate from `x-forwarded-client-cert`, which Envoy writes.
const HTTP: Door = Door {
    name: "http",
    source: "xfcc",
    forward_client_cert: "SANITIZE_SET",
    way: Way::Http,
    ..OPTIONAL
};

#[tokio::test]
async fn over_http_the_answers_are_the_same() {
    let mut it = Installation::start(&[HTTP]).await;
    let (client, thief) = (it.client("client"), it.client("thief"));
    let headers = vec![
        ("authorization", format!("Bearer {}", it.token(&client))),
        ("x-forwarded-client-cert", format!("Hash={}", client.thumbprint().to_hex())),
        ("x-original-uri", "/".to_owned()),
        ("x-auth-subject", "root".to_owned()),
        ("x-auth-tenant", "forged".to_owned()),
    ];
    let rows = [
        (Some(&client), "/?x=1", Ok(())),
        (Some(&thief), "/?x=1", Err(Denial::CertificateMismatch)),
        (None, "/?x=1", Err(Denial::CertificateMissing)),
        (Some(&client), "/admin", Err(Denial::ScopeInsufficient)),
        (Some(&client), "/check/admin", Ok(())),
    ];
    for http in BOTH {
        for (identity, path, expected) in rows {
            let headers = headers.clone();
            let call = Call { door: "http", http, identity, path, headers };
            let outcome = it.call(&call).await.unwrap();
            match expected {
                Ok(()) => {
                    assert_eq!(outcome.status, 200, "{path}: {outcome:?}");
                    assert_eq!(outcome.seen("x-auth-subject"), ["alice"], "replaced");
                    assert_eq!(outcome.seen("x-auth-client-id"), ["app"], "set");
                    assert_eq!(outcome.seen("x-auth-tenant"), [""; 0], "removed");
                }
                Err(denial) => {
                    assert_eq!(outcome.status, denial.status(), "{path}: {outcome:?}");
                    assert_eq!(outcome.body["error_description"], denial.sentence());
                    let challenge = outcome.headers["www-authenticate"].to_str().unwrap();
                    assert!(challenge.contains(denial.error().unwrap().code()), "{challenge}");
                }
            }
        }
    }
    it.stop(0);
    let headers = headers.clone();
    let call = Call { door: "http", http: BOTH[0], identity: Some(&client), path: "/", headers };
    assert_eq!(it.call(&call).await.unwrap().status, 503);
}

#[tokio::test]
async fn an_outage_lets_nothing_through_and_ends() {
    let mut it = Installation::start(&[OPTIONAL]).await;
    let client = it.client("client");
    let headers = vec![("authorization", format!("Bearer {}", it.token(&client)))];
    let http = Version::HTTP_2;
    let call = Call { door: "optional", http, identity: Some(&client), path: "/", headers };
    check(&mut it, &call, Ok(())).await;

    it.stop(0);
    let outcome = it.call(&call).await.unwrap();
    assert_eq!(outcome.status, 503);
    assert_eq!(outcome.logged["details"], "ext_authz_error");

    it.restart(0, &OPTIONAL).await;
    check(&mut it, &call, Ok(())).await;
}
