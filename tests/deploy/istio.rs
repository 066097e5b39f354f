//! Istio's files for a provider over HTTP, in an Envoy that is configured as
//! istiod would, with the real service, and requests.

use crate::envoy::Deployed;
use crate::programs::provisioned;
use crate::{deploy, replaced, succeeds};
use keybound_core::Denial;
use serde_json::{Value, json};
use std::fs;
use std::path::Path;
use std::process::Command;

/// A YAML file of `deploy/istio/over-http`.
fn over_http(name: &str) -> Value {
    let mut read = Command::new(provisioned("python-tools"));
    let program =
        "import json, sys, yaml; json.dump(yaml.safe_load(open(sys.argv[1])), sys.stdout)";
    let read = read.args(["-c", program]).arg(deploy("istio/over-http").join(name));
    serde_json::from_slice(&succeeds(read).stdout).unwrap()
}

/// What istiod makes of the provider in the filter, and of the gateway around it.
pub(crate) fn as_istiod_has_it(bootstrap: &str) -> String {
    let values = over_http("istiod-values.yaml");
    let provider = &values["meshConfig"]["extensionProviders"][0]["envoyExtAuthzHttp"];
    let named = |list: &str| {
        let names = provider[list].as_array().unwrap().iter();
        let patterns: Vec<_> = names.map(|it| json!({"exact": it, "ignore_case": true})).collect();
        json!({"patterns": patterns})
    };
    let response = json!({
        "allowed_upstream_headers": named("headersToUpstreamOnAllow"),
        "allowed_client_headers": named("headersToDownstreamOnDeny"),
        "allowed_client_headers_on_success": named("headersToDownstreamOnAllow"),
    });
    let asks = format!(
        "http_service:
                server_uri: {{uri: 'http://keybound', cluster: keybound, timeout: {}}}
                authorization_response: {response}
              allowed_headers: {}
              ",
        provider["timeout"].as_str().unwrap(),
        named("includeRequestHeadersInCheck"),
    );
    let (head, rest) = bootstrap.split_once("grpc_service:").unwrap();
    let (_, tail) = rest.split_once("failure_mode_allow: false").unwrap();
    let text = format!("{head}{asks}failure_mode_allow: false{tail}");
    let sanitize = "forward_client_cert_details: SANITIZE_SET\n          use_remote_address: true";
    let text = replaced(&text, "use_remote_address: true", sanitize);
    replaced(&text, "http2_protocol_options", "http_protocol_options")
}

/// The service's configuration for it, with addresses and files of this test.
pub(crate) fn behind_istio(files: &Path) -> String {
    let mut config = over_http("keybound-values.yaml")["config"].take();
    let any = "127.0.0.1:0";
    config["listen"] = json!({"ext_authz": any, "forward_auth": any, "admin": any});
    config["limits"] = json!({"check_deadline": "10s"});
    config["issuers"][0]["keys"] = json!({"jwks_file": files.join("jwks.json")});
    config.to_string()
}

#[tokio::test]
async fn asked_over_http_as_istio_does_the_answers_are_the_same() {
    let bootstrap = fs::read_to_string(deploy("envoy/envoy.yaml")).unwrap();
    let mut it =
        Deployed::run(behind_istio, &as_istiod_has_it(&bootstrap), Some("forward_auth")).await;
    let [client, thief] = ["client", "thief"].map(|name| it.client(name));
    let token = it.token(&client, "read");
    let forged = format!("Hash={}", client.thumbprint().to_hex());
    let headers = [
        ("authorization", token.as_str()),
        ("x-forwarded-client-cert", &forged),
        ("x-auth-subject", "root"),
        ("x-original-uri", "/"),
    ];
    let (status, body) = it.get(Some(&client), "/docs", &headers).await.unwrap();
    assert_eq!((status, &body["headers"]["x-auth-subject"]), (200, &json!(["alice"])), "{body}");
    assert_eq!(body["headers"].get("x-forwarded-client-cert"), None, "as upstream.remove says");
    it.refuses(Denial::CertificateMismatch, &thief, "/docs", &headers).await;
    for path in ["/", "/payments", "/Docs", "/docs.json"] {
        it.refuses(Denial::ScopeInsufficient, &client, path, &headers).await;
    }
    let [url, method] = [("x-original-url", "/payments"), ("x-http-method-override", "PUT")];
    for path in ["/docs/..;/payments", "/docs;v=1", "/docs%2f..%2fpayments"] {
        let (status, _) = it.get(Some(&client), path, &headers).await.unwrap();
        assert!(matches!(status, 400 | 403), "{path}: {status}");
    }
    let with = |header| [&headers[..], &[header]].concat();
    it.refuses(Denial::RequestMalformed, &client, "/docs", &with(url)).await;
    assert_eq!(it.get(Some(&client), "/docs", &with(method)).await.unwrap().0, 200);
    it.refuses(Denial::CredentialsMissing, &client, "/", &[]).await;
    it.passes_nothing_without_an_answer().await;
}
