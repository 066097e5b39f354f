//! Metadata of a resource (RFC 9728), which Envoy sends as the response of a denial.

use super::installation::{Call, Installation};
use super::{BOTH, OPTIONAL};
use keybound_core::Denial;
use reqwest::Method;
use serde_json::json;

const PATH: &str = "/.well-known/oauth-protected-resource/payments";

/// An installation whose service serves the metadata of one resource.
async fn serving() -> Installation {
    Installation::start_with(&[OPTIONAL], |_, config| {
        config["policies"][1]["match"] = json!({"path_prefix": "/payments"});
        config["policies"][1]["scopes"] = json!(["read"]);
        config["policies"][1]["origin"] = json!("https://127.0.0.1");
        config["policies"][1]["resource"] = json!({"name": "Payments"});
    })
    .await
}

fn call(http: reqwest::Version, path: &str) -> Call<'_> {
    Call { door: "optional", http, identity: None, path, headers: vec![] }
}

#[tokio::test]
async fn a_client_finds_the_metadata_where_the_challenge_says() {
    let mut it = serving().await;
    for http in BOTH {
        let refused = it.call(&call(http, "/payments/7")).await.unwrap();
        assert_eq!(refused.reason(), Denial::CredentialsMissing.label());
        let challenge = refused.headers["www-authenticate"].to_str().unwrap();
        let url = format!("resource_metadata=\"https://127.0.0.1{PATH}\"");
        assert!(challenge.contains(&url) && challenge.contains("scope=\"read\""), "{challenge}");

        let served = it.call(&call(http, PATH)).await.unwrap();
        assert_eq!((served.status.as_u16(), served.reason()), (200, "resource_metadata"));
        let expected = json!({
            "resource": "https://127.0.0.1/payments",
            "authorization_servers": ["https://as.example.com"],
            "scopes_supported": ["read"],
            "bearer_methods_supported": ["header"],
            "tls_client_certificate_bound_access_tokens": true,
            "resource_name": "Payments",
        });
        assert_eq!(served.body, expected);
        for (name, value) in [
            ("content-type", "application/json"),
            ("cache-control", "public, max-age=300"),
            ("access-control-allow-origin", "*"),
        ] {
            assert_eq!(served.headers[name], value);
        }
        let elsewhere = it.call(&call(http, &format!("{PATH}/x"))).await.unwrap();
        assert_eq!(elsewhere.status, 403);
    }
}

#[tokio::test]
async fn a_page_may_ask_first_and_look_at_the_head() {
    let it = serving().await;
    for http in BOTH {
        for (method, status, is_json) in
            [(Method::HEAD, 200, true), (Method::OPTIONS, 200, false), (Method::POST, 403, true)]
        {
            let request = it
                .https_client(&call(http, PATH))
                .request(method.clone(), it.url("optional", PATH));
            let response = request.send().await.unwrap();
            assert_eq!(response.status(), status, "{method}");
            let header = |name: &str| response.headers().get(name).map(|it| it.to_str().unwrap());
            assert_eq!(header("content-type"), is_json.then_some("application/json"), "{method}");
            let allowed = (method == Method::OPTIONS).then_some("GET, HEAD, OPTIONS");
            assert_eq!(header("access-control-allow-methods"), allowed);
            let body = response.text().await.unwrap();
            assert_eq!(body.is_empty(), method != Method::POST, "{body}");
        }
    }
}
