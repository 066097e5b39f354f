//! How Envoy takes a configuration, or does not.

use super::edge::{Edge, Listener, Site, inline, string, target};
use super::{dpop_client, edge};
use crate::identity_provider::IdentityProvider;
use serde_json::{Value, json};
use std::fs;

/// Configurations that cannot be, and what is said of each.
fn bad(site: &Site) -> [(Value, &'static str); 4] {
    let mut unknown = site.configuration();
    unknown["policies"][0]["scope"] = json!("read");
    [
        (inline(&json!({"issuers": []})), "issuers: "),
        (inline(&unknown), "policies[0].scope"),
        (string("/nowhere/keybound.yaml"), "cannot read /nowhere/keybound.yaml"),
        (string(""), "filter_config is missing"),
    ]
}

#[tokio::test]
async fn a_bad_configuration_is_refused_with_our_words_and_the_old_one_stays() {
    let site = Site::new().await;
    let good = Listener::tls("a", inline(&site.configuration()));
    let mut edge = Edge::start(&site, std::slice::from_ref(&good)).await;
    let client = site.client("client");
    let token = site.token_of(&client);
    for (config, words) in bad(&site) {
        edge.refuses(&[Listener { config, ..good.clone() }]).await;
        edge.logs("keybound: ").await;
        edge.logs(words).await;
        let answer = edge.bearer("a", "/certificate", Some(&client), &token).await;
        assert_eq!(answer.is(), (200, "allowed"));
        assert_eq!(edge.bearer("a", "/certificate", None, &token).await.status, 401);
    }
    let bad_route = vec![("/x", inline(&json!({"policy": "dpop", "mode": "report"})))];
    edge.refuses(&[Listener { routes: bad_route, ..good.clone() }]).await;
    edge.logs("filter_config of a route is the name of a policy").await;
    assert!(edge.ends().await.success());
}

#[tokio::test]
async fn a_missing_module_stops_the_start() {
    let site = Site::new().await;
    let listener = Listener::plain("a", inline(&site.configuration()));
    fs::remove_file(site.path("libkeybound_envoy.so")).unwrap();
    assert!(!site.start_fails(&listener).success());
    assert!(site.log().contains("keybound_envoy"), "{}", site.log());
}

#[tokio::test]
async fn a_bad_configuration_stops_the_start() {
    let site = Site::new().await;
    for (config, words) in bad(&site) {
        assert!(!site.start_fails(&Listener::plain("a", config)).success());
        let log = site.log();
        assert!(log.contains("keybound: ") && log.contains(words), "{words}: {log}");
    }
}

#[tokio::test]
async fn a_validation_tells_what_is_wrong_and_starts_nothing() {
    let site = Site::new().await;
    let idp = IdentityProvider::start(&[site.signer.jwk().clone()]).await;
    let mut config = site.fetching(&idp.jwks_uri());
    // Somebody else has it: whoever opened it would say so.
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    config["listen"] = json!({
        "admin": taken.local_addr().unwrap().to_string(), "ext_authz": "127.0.0.1:9001",
    });
    let (status, log) = site.validate(&[Listener::plain("a", inline(&config))]);
    assert!(status.success(), "{log}");
    assert!(log.contains("keybound: ") && log.contains("means nothing inside Envoy"), "{log}");
    for begun in ["checking inside Envoy", "admin address", "listening"] {
        assert!(!log.contains(begun), "{log}");
    }
    assert_eq!(idp.fetches(), 0);
    for (config, words) in bad(&site) {
        let (status, log) = site.validate(&[Listener::plain("a", config)]);
        assert!(!status.success());
        assert!(log.contains("keybound: ") && log.contains(words), "{words}: {log}");
    }
    // The same configuration where Envoy does run: it says all that it did not say above.
    let edge = Edge::start(&site, &[Listener::plain("a", inline(&config))]).await;
    edge.logs("checking inside Envoy").await;
    edge.logs("the admin address is tried again until it is free").await;
    idp.fetched(1).await;
}

#[tokio::test]
async fn a_route_names_its_policy_and_none_that_there_is_not() {
    let site = Site::new().await;
    let routes = vec![
        ("/by-string", string("certificate")),
        ("/by-struct", inline(&json!({"policy": "certificate"}))),
        ("/certificate", string("dpop")),
        ("/unknown", string("nobody")),
    ];
    let listener = Listener { routes, ..Listener::tls("a", inline(&site.configuration())) };
    let edge = Edge::start(&site, &[listener]).await;
    let client = site.client("client");
    let bound = site.token_of(&client);
    let dpop = dpop_client(&site);
    for (path, by_certificate, by_proof) in [
        ("/by-string", (200, "allowed"), (401, "binding_missing")),
        ("/by-struct", (200, "allowed"), (401, "binding_missing")),
        ("/certificate", (401, "binding_missing"), (200, "allowed")),
        ("/", (401, "binding_missing"), (200, "allowed")),
        ("/unknown", (403, "policy_unknown"), (403, "policy_unknown")),
    ] {
        let answer = edge.bearer("a", path, Some(&client), &bound).await;
        assert_eq!(answer.is(), by_certificate, "{path}");
        let proof = dpop.proof("GET", &target(path));
        let request = site.http_client(Some(&client)).get(edge.url("a", path).await);
        let answer = edge::send(edge::presenting(request, &dpop.token, &proof)).await.unwrap();
        assert_eq!(answer.is(), by_proof, "{path}");
    }
}
