//! A real Envoy Gateway, with the files of deploy/envoy-gateway and deploy/envoy-module/envoy-gateway as they are:
//! what it makes of them, and what it makes of what its page warns of.

mod network;
mod traps;
mod world;

use crate::dpop_client::DpopClient;
use crate::{replaced, skipped};
use keybound_core::Denial;
use network::in_a_network_of_its_own;
use serde_json::{Value, json};
use std::fs;
use std::path::Path;
use world::{Ask, HTTPS, World, config_of, listening};

const GATEWAY: &str = "envoy-gateway/gateway.yaml";
const CERTIFICATES: &str = "envoy-gateway/client-certificate.yaml";
const CHECK: &str = "envoy-gateway/authorization.yaml";
const ANNOTATED: &str = "envoy-gateway/annotated-route.yaml";

/// What `make module` leaves; nothing, and a line that says so, where it was not made.
fn built_module() -> Option<std::path::PathBuf> {
    let module = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("module");
    let module = module.join("libkeybound_envoy.so");
    if !module.exists() {
        skipped("the module in Envoy Gateway: make module");
        return None;
    }
    Some(module)
}

/// The configuration in the values of the chart, listening over gRPC.
fn values() -> String {
    let values = concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/envoy-gateway/keybound-values.yaml");
    listening(&config_of(&fs::read_to_string(values).unwrap()), &[("ext_authz", 9001)])
}

#[test]
fn by_the_files_as_they_are_every_request_is_checked() {
    in_a_network_of_its_own(|| async {
        let files = [GATEWAY, CERTIFICATES, CHECK];
        let mut it = World::start(&files, Some(&values()), |_, _| {}).await;
        let [client, thief] = ["client", "thief"].map(|it_is| it.client(it_is));
        let [reader, payer] = ["", "payments"].map(|scope| it.bound(&client, scope));
        let [reader, payer] = [&reader, &payer].map(|it| [("authorization", it.as_str())]);
        let docs = Ask { port: HTTPS, identity: Some(&client), path: "/docs/a", headers: &reader };
        it.until_status(200, &docs).await;

        let passed = it.expect(Ok(()), &docs).await;
        assert_eq!(passed.body["headers"]["x-auth-subject"], json!(["alice"]));
        assert_eq!(passed.body["headers"]["x-forwarded-client-cert"], Value::Null);
        let stolen = Ask { identity: Some(&thief), ..docs };
        it.expect(Err(Denial::CertificateMismatch), &stolen).await;
        let hash = client.thumbprint().to_hex();
        let forged = format!("Hash={hash}");
        let forged = [reader[0], ("x-forwarded-client-cert", forged.as_str())];
        it.expect(Err(Denial::CertificateMismatch), &Ask { headers: &forged, ..stolen }).await;
        let refused =
            it.expect(Err(Denial::CredentialsMissing), &Ask { headers: &[], ..docs }).await;
        assert!(refused.headers.contains_key("www-authenticate"), "{refused:?}");
        assert!(it.get(&Ask { identity: None, ..docs }).await.is_none());
        let stranger = keybound::commands::demo::pki::Authority::new("another").unwrap();
        let stranger = stranger.client("client", rcgen::KeyPair::generate().unwrap()).unwrap();
        assert!(it.get(&Ask { identity: Some(&stranger), ..docs }).await.is_none());

        let pay = Ask { path: "/", ..docs };
        it.expect(Err(Denial::ScopeInsufficient), &pay).await;
        it.expect(Ok(()), &Ask { headers: &payer, ..pay }).await;

        // What keybound sees is what the API sees.
        let answer = it.get(&Ask { path: "/docs/..%2fa", ..docs }).await.unwrap();
        assert_eq!((answer.status, answer.body), (400, Value::Null));
        // Over HTTP/2, Envoy ends the stream.
        let spelled = [reader[0], ("x_auth_subject", "root")];
        assert!(it.get(&Ask { headers: &spelled, ..docs }).await.is_none());
        it.stop();
        assert_eq!(it.get(&docs).await.unwrap().status, 503);
    });
}

/// Puts into the route what Envoy Gateway makes of its annotation: of files, it does not keep any.
const ANNOTATION: &str = r#"
apiVersion: gateway.envoyproxy.io/v1alpha1
kind: EnvoyPatchPolicy
metadata: {name: annotation, namespace: default}
spec:
  targetRef: {group: gateway.networking.k8s.io, kind: Gateway, name: api}
  type: JSONPatch
  jsonPatches:
    - type: type.googleapis.com/envoy.config.route.v3.RouteConfiguration
      name: default/api/https
      operation:
        op: add
        jsonPath: "..routes[?(@.match.path_separated_prefix=='/docs/payouts')].metadata.filter_metadata['envoy-gateway'].resources[0]"
        path: /annotations
        value: {keybound-policy: payments}
"#;

#[test]
fn a_route_that_is_annotated_has_the_policy_that_it_names() {
    in_a_network_of_its_own(|| async {
        let files = [GATEWAY, CERTIFICATES, CHECK, ANNOTATED];
        let it = World::start(&files, Some(&values()), |resources, _| {
            // Where `match` would choose the policy that asks for less.
            let route = resources.get_mut("envoy-gateway-annotated-route.yaml").unwrap();
            *route = replaced(route, "value: /payouts", "value: /docs/payouts");
            resources.insert("annotation.yaml".to_owned(), ANNOTATION.to_owned());
        })
        .await;
        let client = it.client("client");
        let [reader, payer] = ["", "payments"].map(|scope| it.bound(&client, scope));
        let [reader, payer] = [&reader, &payer].map(|it| [("authorization", it.as_str())]);
        let docs = Ask { port: HTTPS, identity: Some(&client), path: "/docs/a", headers: &reader };
        it.until_status(200, &docs).await;
        let annotated = Ask { path: "/docs/payouts", ..docs };
        it.expect(Err(Denial::ScopeInsufficient), &annotated).await;
        it.expect(Ok(()), &Ask { headers: &payer, ..annotated }).await;
    });
}

#[test]
fn over_http_the_check_is_the_same() {
    in_a_network_of_its_own(|| async {
        let config =
            values().replace("ext_authz: 127.0.0.11:9001", "forward_auth: 127.0.0.11:9002");
        let files = [GATEWAY, CERTIFICATES, "envoy-gateway/over-http.yaml"];
        let config = config.replace("      allow_route_annotation: true\n", "");
        let mut it = World::start(&files, Some(&config), |_, _| {}).await;
        let [client, thief] = ["client", "thief"].map(|it_is| it.client(it_is));
        let reader = it.bound(&client, "");
        let reader = [("authorization", reader.as_str())];
        let docs = Ask { port: HTTPS, identity: Some(&client), path: "/docs/a", headers: &reader };
        it.until_status(200, &docs).await;

        let forged = ["x-auth-subject", "x-auth-client-id", "x-auth-scope", "x-auth-issuer"];
        let named: Vec<_> = forged.iter().map(|it| (*it, "root")).chain(reader).collect();
        let passed = it.expect(Ok(()), &Ask { headers: &named, ..docs }).await;
        assert_eq!(passed.body["headers"]["x-auth-subject"], json!(["alice"]));
        assert!(!passed.body.to_string().contains("root"), "{passed:?}");
        assert_eq!(passed.body["headers"]["x-forwarded-client-cert"], Value::Null);
        it.expect(Err(Denial::CertificateMismatch), &Ask { identity: Some(&thief), ..docs }).await;
        let refused =
            it.expect(Err(Denial::CredentialsMissing), &Ask { headers: &[], ..docs }).await;
        assert!(refused.headers.contains_key("www-authenticate"), "{refused:?}");
        it.expect(Err(Denial::ScopeInsufficient), &Ask { path: "/", ..docs }).await;
        it.stop();
        assert_eq!(it.get(&docs).await.unwrap().status, 503);
    });
}

#[test]
fn a_proof_is_for_the_request_as_the_client_sent_it() {
    in_a_network_of_its_own(|| async {
        let config = values().replace("sender_constraint: certificate", "sender_constraint: dpop");
        let it = World::start(&[GATEWAY, CERTIFICATES, CHECK], Some(&config), |_, _| {}).await;
        let identity = it.client("client");
        let client = DpopClient::new(|cnf| it.token("", &cnf));
        let token = format!("DPoP {}", client.token);
        let ask = Ask { port: HTTPS, identity: Some(&identity), path: "/docs/a?b=c", headers: &[] };
        it.until_status(401, &ask).await;
        let url = format!("https://api.example.com:{HTTPS}/docs/a");
        let proof = client.proof("GET", &url);
        let sent = [("authorization", token.as_str()), ("dpop", proof.as_str())];
        it.expect(Ok(()), &Ask { headers: &sent, ..ask }).await;
        it.expect(Err(Denial::ProofReplayed), &Ask { headers: &sent, ..ask }).await;
        let other = client.proof("GET", &url.replace("https:", "http:"));
        let sent = [("authorization", token.as_str()), ("dpop", other.as_str())];
        it.expect(Err(Denial::ProofTargetMismatch), &Ask { headers: &sent, ..ask }).await;
    });
}

#[test]
fn by_the_patch_for_streams_every_route_heeds_the_limit_that_keybound_sets() {
    in_a_network_of_its_own(|| async {
        let files = [GATEWAY, CERTIFICATES, CHECK, "envoy-gateway/streams.yaml"];
        let it = World::start(&files, Some(&values()), |resources, _| {
            let check = resources.get_mut("envoy-gateway-authorization.yaml").unwrap();
            *check = replaced(
                check,
                "    failOpen: false\n",
                "    failOpen: false\n    recomputeRoute: true\n",
            );
        })
        .await;
        let client = it.client("client");
        let token = it.bound(&client, "");
        let token = [("authorization", token.as_str())];
        let ask = Ask { port: HTTPS, identity: Some(&client), path: "/docs/a", headers: &token };
        it.until_status(200, &ask).await;
        let has = it.envoy_has().await.to_string();
        assert!(has.contains(r#""max_stream_duration":{"grpc_timeout_header_max":"0s"}"#), "{has}");
        assert!(has.contains(r#""clear_route_cache":true"#), "{has}");
    });
}

#[test]
fn inside_its_envoy_the_module_checks_every_request() {
    let Some(module) = built_module() else { return };
    in_a_network_of_its_own(|| async {
        let files = [
            GATEWAY,
            CERTIFICATES,
            "envoy-module/envoy-gateway/proxy.yaml",
            "envoy-module/envoy-gateway/check.yaml",
        ];
        let config =
            concat!(env!("CARGO_MANIFEST_DIR"), "/deploy/envoy-module/envoy-gateway/keybound.yaml");
        let config = fs::read_to_string(config).unwrap();
        let it = World::start(&files, None, |resources, folder| {
            in_this_network(resources, folder, &module, &config);
        })
        .await;
        let [client, thief] = ["client", "thief"].map(|it_is| it.client(it_is));
        let reader = it.bound(&client, "");
        let reader = [("authorization", reader.as_str())];
        let docs = Ask { port: HTTPS, identity: Some(&client), path: "/docs/a", headers: &reader };
        it.until_status(200, &docs).await;
        let passed = it.expect(Ok(()), &docs).await;
        assert_eq!(passed.body["headers"]["x-auth-subject"], json!(["alice"]));
        it.expect(Err(Denial::CertificateMismatch), &Ask { identity: Some(&thief), ..docs }).await;
        it.expect(Err(Denial::CredentialsMissing), &Ask { headers: &[], ..docs }).await;
        it.expect(Err(Denial::ScopeInsufficient), &Ask { path: "/", ..docs }).await;
    });
}

/// Has the files for the module refer to what is here: the module, its configuration, and an Envoy without pods.
fn in_this_network(resources: &mut world::Resources, folder: &Path, module: &Path, config: &str) {
    // The gateway in proxy.yaml takes the place of the other.
    let gateway = resources.get_mut("envoy-gateway-gateway.yaml").unwrap();
    let (class, rest) = gateway.split_once("---\n").unwrap();
    let (_, route) = rest.split_once("---\n").unwrap();
    *gateway = format!("{class}---\n{route}");
    let file = folder.join("module.yaml");
    fs::write(&file, world::configuration(config, folder)).unwrap();
    let check = resources.get_mut("envoy-module-envoy-gateway-check.yaml").unwrap();
    *check = replaced(check, "/etc/keybound/keybound.yaml", &file.display().to_string());
    let proxy = resources.get_mut("envoy-module-envoy-gateway-proxy.yaml").unwrap();
    let at = module.display().to_string();
    let text = replaced(proxy, "/usr/local/lib/keybound/libkeybound_envoy.so", &at);
    let (head, rest) = text.split_once("  provider:\n").unwrap();
    let (_, tail) = rest.split_once("  # Without a line here").unwrap();
    let host = "  provider: {type: Host, host: {envoyVersion: 1.40.0}}\n";
    *proxy = format!("{head}{host}  # Without a line here{tail}");
}
