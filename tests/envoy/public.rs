//! Requests under a policy that asks for no token.

use super::installation::{Call, Installation, Way};
use super::{BOTH, OPTIONAL};
use serde_json::json;

#[tokio::test]
async fn who_needs_no_token_is_let_through_as_nobody() {
    let mut it = Installation::start_with(&[OPTIONAL], |_, config| {
        let health =
            json!({"name": "health", "match": {"path_prefix": "/healthz"}, "public": true});
        config["policies"].as_array_mut().unwrap().insert(0, health);
    })
    .await;
    let forged = ["authorization", "dpop", "x-auth-subject", "x-auth-client-id", "x-auth-tenant"];
    for http in BOTH {
        for written in [&[][..], &forged] {
            let headers = written.iter().map(|it| (*it, "Bearer root".to_owned())).collect();
            let call =
                Call { door: "optional", http, identity: None, path: "/healthz/live", headers };
            let outcome = it.call(&call).await.unwrap();
            assert_eq!(outcome.status, 200, "{outcome:?}");
            // Over HTTP, Envoy is told no more than that.
            if OPTIONAL.way != Way::Http {
                let policy = outcome.logged["policy"].as_str();
                assert_eq!((outcome.reason(), policy), ("public", Some("health")), "{outcome:?}");
            }
            for name in forged {
                assert!(outcome.seen(name).is_empty(), "{name} {outcome:?}");
            }
        }
        for (path, status) in [
            ("/healthz", 200),
            ("/healthz?access_token=x", 400),
            ("/healthzz", 401),
            ("/healthz/../things", 401),
            ("/admin", 401),
        ] {
            let call = Call { door: "optional", http, identity: None, path, headers: vec![] };
            let outcome = it.call(&call).await.unwrap();
            assert_eq!(outcome.status, status, "{path} {outcome:?}");
            let is_challenged = outcome.headers.contains_key("www-authenticate");
            assert_eq!(is_challenged, status == 401, "{path} {outcome:?}");
        }
    }
}
