//! Mistakes in the files for Envoy, each made on purpose: the line of the service that names its cause.

use crate::envoy::Deployed;
use crate::replaced;
use serde_json::Value;

const TLS: &str = "tls: {certificate_file: server.crt, key_file: server.key";

/// The service's configuration with this under `listen`.
fn listening(text: &str, with: &str) -> String {
    replaced(text, "listen:\n", &format!("listen:\n  {with}\n"))
}

/// Envoy asks by TLS, and shows no certificate.
fn by_tls(text: &str) -> String {
    let cluster = "  - name: keybound\n    type: STATIC\n";
    let tls = "    transport_socket:\n      name: envoy.transport_sockets.tls\n      typed_config: {\"@type\": \
               type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext}\n";
    replaced(text, cluster, &format!("{cluster}{tls}"))
}

type Edit = fn(&str) -> String;

#[tokio::test]
async fn what_envoy_was_told_wrongly_is_in_the_log_of_the_service() {
    let same: Edit = str::to_owned;
    let rows: [(Edit, Edit, &str, &str); 4] = [
        (
            same,
            |it| replaced(it, "http2_protocol_options", "http_protocol_options"),
            "http_version",
            "set http2_protocol_options for Envoy's cluster",
        ),
        (same, by_tls, "tls_unexpected", "remove the transport_socket of Envoy's cluster"),
        (|it| listening(it, &format!("{TLS}}}")), same, "not_tls", "UpstreamTlsContext"),
        (
            |it| listening(it, &format!("{TLS}, client_ca_file: client-ca.crt}}")),
            by_tls,
            "certificate_missing",
            "give Envoy's cluster tls_certificates",
        ),
    ];
    for (keybound, envoy, cause, advice) in rows {
        let it = Deployed::start_with(".", keybound, envoy).await;
        let client = it.client("client");
        let token = it.token(&client, "payments");
        let answer = it.get(Some(&client), "/", &[("authorization", token.as_str())]).await;
        assert_eq!(answer.unwrap(), (503, Value::Null), "{cause}");
        let line = it.logged("connection failed").await;
        assert_eq!(line["cause"], cause, "{line}");
        assert!(line["advice"].as_str().unwrap().contains(advice), "{line}");
    }
}

#[tokio::test]
async fn an_envoy_that_keeps_the_certificates_to_itself_is_told_of_in_the_log_of_the_service() {
    let envoy = |it: &str| {
        replaced(it, "include_peer_certificate: true", "include_peer_certificate: false")
    };
    let it = Deployed::start_with(".", str::to_owned, envoy).await;
    let client = it.client("client");
    let token = it.token(&client, "payments");
    let bearer = [("authorization", token.as_str())];
    it.refuses(keybound_core::Denial::CertificateMissing, &client, "/", &bearer).await;
    let line = it.logged("no request has carried a client certificate so far").await;
    assert!(line["advice"].as_str().unwrap().contains("include_peer_certificate: true"), "{line}");
}
