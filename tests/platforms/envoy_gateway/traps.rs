//! What the pages of Envoy Gateway warn of, one route or listener for each.

use super::network::in_a_network_of_its_own;
use super::world::{Ask, HTTPS, World, standing_in};
use super::{CERTIFICATES, CHECK, GATEWAY, values};
use crate::replaced;
use keybound::commands::demo::pki::Identity;
use keybound_core::Denial;
use rcgen::KeyPair;
use serde_json::json;
use std::fmt::Write;

/// A route, and the `SecurityPolicy` that it has of its own: what is in `spec` besides its target.
struct Route {
    name: &'static str,
    policy: &'static str,
}

const ASKS: &str =
    "timeout: 10s, grpc: {backendRefs: [{name: keybound, namespace: keybound, port: 9001}]}";
const ASKS_NOBODY: &str =
    "grpc: {backendRefs: [{group: gateway.envoyproxy.io, kind: Backend, name: nobody}]}";

const ROUTES: &[Route] = &[
    Route { name: "cors", policy: "cors: {allowOrigins: [\"https://a.example.com\"]}" },
    Route {
        name: "merged",
        policy: "mergeType: StrategicMerge, cors: {allowOrigins: [\"https://a.example.com\"]}",
    },
    Route {
        name: "context",
        policy: "extAuth: {ASKS, statusOnError: 503, contextExtensions: [{name: policy, value: payments}]}",
    },
    Route { name: "open", policy: "extAuth: {ASKS, failOpen: true}" },
    Route { name: "open-wrong", policy: "extAuth: {ASKS_NOBODY, failOpen: true}" },
    Route { name: "closed-wrong", policy: "extAuth: {ASKS_NOBODY}" },
    Route { name: "no-status", policy: "extAuth: {ASKS}" },
    Route {
        name: "few-headers",
        policy: "extAuth: {ASKS, headersToExtAuth: [x-forwarded-client-cert]}",
    },
];

/// The objects of all routes.
fn routes() -> String {
    let mut text = String::new();
    for Route { name, policy } in ROUTES {
        let policy = policy.replace("ASKS_NOBODY", ASKS_NOBODY).replace("ASKS", ASKS);
        write!(
            text,
            "---
apiVersion: gateway.networking.k8s.io/v1
kind: HTTPRoute
metadata: {{name: {name}, namespace: default}}
spec:
  parentRefs: [{{name: api}}]
  hostnames: [api.example.com]
  rules: [{{matches: [{{path: {{type: PathPrefix, value: /docs/{name}}}}}], backendRefs: [{{name: api, port: 80}}]}}]
---
apiVersion: gateway.envoyproxy.io/v1alpha1
kind: SecurityPolicy
metadata: {{name: {name}, namespace: default}}
spec: {{targetRefs: [{{group: gateway.networking.k8s.io, kind: HTTPRoute, name: {name}}}], {policy}}}
"
        )
        .unwrap();
    }
    text
}

/// A listener with mutual TLS besides the first, and what its `ClientTrafficPolicy` says of certificates.
struct Listener {
    name: &'static str,
    port: u16,
    validation: &'static str,
    headers: &'static str,
}

const CA: &str = "caCertificateRefs: [{kind: ConfigMap, name: client-ca}]";
const SANITIZE_SET: &str = "xForwardedClientCert: {mode: SanitizeSet}";
const APPEND: u16 = 8444;
const FORWARD: u16 = 8445;
const ALWAYS: u16 = 8446;
const USUAL: u16 = 8447;
const REQUEST: u16 = 8448;
const UNDERSCORES: u16 = 8449;
const CLEAR: u16 = 8080;

const LISTENERS: &[Listener] = &[
    Listener {
        name: "append",
        port: APPEND,
        validation: CA,
        headers: "xForwardedClientCert: {mode: AppendForward}",
    },
    Listener {
        name: "forward",
        port: FORWARD,
        validation: CA,
        headers: "xForwardedClientCert: {mode: ForwardOnly}",
    },
    Listener {
        name: "always",
        port: ALWAYS,
        validation: CA,
        headers: "xForwardedClientCert: {mode: AlwaysForwardOnly}",
    },
    Listener { name: "usual", port: USUAL, validation: CA, headers: "" },
    Listener { name: "request", port: REQUEST, validation: "mode: Request", headers: SANITIZE_SET },
    Listener {
        name: "underscores",
        port: UNDERSCORES,
        validation: CA,
        headers: "xForwardedClientCert: {mode: SanitizeSet}, withUnderscoresAction: Allow",
    },
];

/// The listeners, to stand in the gateway.
fn listeners() -> String {
    let clear = format!(
        "    - {{name: clear, port: {CLEAR}, protocol: HTTP, hostname: api.example.com}}\n"
    );
    let secured = LISTENERS.iter().map(|Listener { name, port, .. }| {
        format!(
            "    - {{name: {name}, port: {port}, protocol: HTTPS, hostname: api.example.com, tls: {{mode: \
             Terminate, certificateRefs: [{{name: api-tls}}]}}}}\n"
        )
    });
    clear + &secured.collect::<String>()
}

/// What is said of their certificates.
fn traffic() -> String {
    let policy = |Listener { name, validation, headers, .. }: &Listener| {
        format!(
            "---
apiVersion: gateway.envoyproxy.io/v1alpha1
kind: ClientTrafficPolicy
metadata: {{name: {name}, namespace: default}}
spec:
  targetRefs: [{{group: gateway.networking.k8s.io, kind: Gateway, name: api, sectionName: {name}}}]
  tls: {{clientValidation: {{{validation}}}}}
  headers: {{{headers}}}
"
        )
    };
    LISTENERS.iter().map(policy).collect()
}

async fn started() -> World {
    World::start(&[GATEWAY, CERTIFICATES, CHECK], Some(&values()), |resources, _| {
        let gateway = resources.get_mut("envoy-gateway-gateway.yaml").unwrap();
        *gateway = replaced(gateway, "  listeners:\n", &format!("  listeners:\n{}", listeners()));
        resources.insert("routes.yaml".to_owned(), standing_in(&routes()));
        resources.insert("traffic.yaml".to_owned(), traffic());
    })
    .await
}

#[test]
fn a_route_with_a_policy_of_its_own_is_checked_by_that_alone() {
    in_a_network_of_its_own(|| async {
        let mut it = started().await;
        let client = it.client("client");
        let reader = it.bound(&client, "");
        let reader = [("authorization", reader.as_str())];
        let payer = it.bound(&client, "payments");
        let payer = [("authorization", payer.as_str())];
        let at = |path, headers| Ask { port: HTTPS, identity: Some(&client), path, headers };
        it.until_status(200, &at("/docs/a", &reader)).await;
        for (path, headers, expected) in [
            // The check is gone.
            ("/docs/cors", &[][..], Ok(())),
            ("/docs/merged", &[], Err(Denial::CredentialsMissing)),
            ("/docs/merged", &reader, Ok(())),
            // The route names a policy.
            ("/docs/context", &reader, Err(Denial::ScopeInsufficient)),
            ("/docs/context", &payer, Ok(())),
            // A configuration that cannot be: unchecked, or out of order.
            ("/docs/open-wrong", &[], Ok(())),
            ("/docs/open", &[], Err(Denial::CredentialsMissing)),
            // keybound does not see the token.
            ("/docs/few-headers", &reader, Err(Denial::CredentialsMissing)),
        ] {
            it.expect(expected, &at(path, headers)).await;
        }
        assert_eq!(it.get(&at("/docs/closed-wrong", &reader)).await.unwrap().status, 500);

        it.stop();
        for (path, status) in
            [("/docs/a", 503), ("/docs/merged", 503), ("/docs/no-status", 403), ("/docs/open", 200)]
        {
            assert_eq!(it.get(&at(path, &[])).await.unwrap().status, status, "{path}");
        }
    });
}

#[test]
fn a_listener_that_is_not_told_how_to_treat_certificates_shows_none_or_any() {
    in_a_network_of_its_own(|| async {
        let it = started().await;
        let [client, thief] = ["client", "thief"].map(|name| it.client(name));
        let own = Identity::self_signed("own", KeyPair::generate().unwrap()).unwrap();
        let token = it.bound(&client, "");
        let token = [("authorization", token.as_str())];
        let hash = format!("Hash={}", client.thumbprint().to_hex());
        let forged = [token[0], ("x-forwarded-client-cert", hash.as_str())];
        let by_thief =
            |port, headers| Ask { port, identity: Some(&thief), path: "/docs/a", headers };
        it.until_status(200, &Ask { identity: Some(&client), ..by_thief(HTTPS, &token) }).await;
        for (port, expected) in [
            (HTTPS, Err(Denial::CertificateMismatch)),
            (APPEND, Err(Denial::CertificateConflict)),
            (USUAL, Err(Denial::CertificateMissing)),
            (REQUEST, Err(Denial::CertificateMismatch)),
            // These two cannot be told.
            (FORWARD, Ok(())),
            (ALWAYS, Ok(())),
        ] {
            it.expect(expected, &by_thief(port, &forged)).await;
        }
        let in_the_clear = Ask { identity: None, ..by_thief(CLEAR, &forged) };
        let answer = it.get_in_the_clear(&in_the_clear).await;
        answer.must_be(Err(Denial::CertificateMissing), &in_the_clear);

        // A certificate of the client's own making.
        let bound = it.bound(&own, "");
        let bound = [("authorization", bound.as_str())];
        let by_own = Ask { port: REQUEST, identity: Some(&own), path: "/docs/a", headers: &bound };
        it.expect(Ok(()), &by_own).await;
        it.expect(Err(Denial::CertificateMismatch), &Ask { headers: &token, ..by_own }).await;
        it.expect(Err(Denial::CertificateMissing), &Ask { identity: None, ..by_own }).await;
        assert!(it.get(&Ask { port: HTTPS, ..by_own }).await.is_none());

        let spelled = [token[0], ("x_auth_subject", "root")];
        let by_client = Ask { identity: Some(&client), ..by_thief(UNDERSCORES, &spelled) };
        let passed = it.expect(Ok(()), &by_client).await;
        assert_eq!(passed.body["headers"]["x_auth_subject"], json!(null));
    });
}
