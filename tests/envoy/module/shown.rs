//! What the module shows of what it does, and what it does not enforce.

use super::dpop_client;
use super::edge::{Edge, Listener, Site, inline, string, target, until};
use serde_json::{Value, json};
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;
use std::{fs, thread};

#[tokio::test]
async fn in_report_mode_what_would_be_denied_passes_and_is_counted() {
    let site = Site::new().await;
    let mut config = site.configuration();
    config["policies"][0]["mode"] = json!("report");
    let edge = Edge::start(&site, &[Listener::tls("a", inline(&config))]).await;
    let (client, thief) = (site.client("client"), site.client("thief"));
    let token = site.token_of(&client);
    for identity in [&client, &thief] {
        let answer = edge.bearer("a", "/certificate", Some(identity), &token).await;
        assert_eq!(answer.is(), (200, "allowed"));
    }
    assert_eq!(
        edge.bearer("a", "/other", Some(&client), &token).await.is(),
        (401, "binding_missing")
    );
    let metrics = edge.own("/metrics").await.1;
    let told =
        "keybound_would_deny_total{policy=\"certificate\",reason=\"certificate_mismatch\"} 1";
    assert!(metrics.contains(told), "{metrics}");
}

#[tokio::test]
async fn a_file_that_becomes_stricter_is_reloaded_and_a_bad_one_changes_nothing() {
    let site = Site::new().await;
    let mut config = site.configuration();
    let path = site.write("keybound.json", &config.to_string());
    let edge = Edge::start(&site, &[Listener::tls("a", string(path.to_str().unwrap()))]).await;
    let client = site.client("client");
    let token = site.token_of(&client);
    let ask = async || edge.bearer("a", "/certificate", Some(&client), &token).await;
    assert_eq!(ask().await.is(), (200, "allowed"));
    config["policies"][0]["scopes"] = json!(["admin"]);
    site.write("keybound.json", &config.to_string());
    until("it is stricter", async || {
        let answer = ask().await;
        assert!(
            matches!(answer.is(), (200, "allowed") | (403, "scope_insufficient")),
            "{answer:?}"
        );
        (answer.status == 403).then_some(())
    })
    .await;
    // The second is good, but not inside Envoy.
    let mut elsewhere = config.clone();
    elsewhere["policies"][0]["scopes"] = json!([]);
    elsewhere["policies"][0]["allow_route_annotation"] = json!(true);
    let bad = [("{\"issuers\": []}".to_owned(), "issuers: ")];
    let bad = bad.into_iter().chain([(elsewhere.to_string(), "allow_route_annotation: ")]);
    for ((text, words), count) in bad.zip(1..) {
        site.write("keybound.json", &text);
        edge.logs(words).await;
        assert_eq!(ask().await.is(), (403, "scope_insufficient"));
        until("it is shown", async || {
            let metrics = edge.own("/metrics").await.1;
            let told = format!("keybound_config_reloads_total{{outcome=\"refused\"}} {count}");
            metrics.contains(&told).then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn the_admin_listener_tells_of_checks_inside_envoy() {
    let site = Site::new().await;
    let edge = Edge::start(&site, &[Listener::tls("a", inline(&site.configuration()))]).await;
    let (client, thief) = (site.client("client"), site.client("thief"));
    let token = site.token_of(&client);
    until("it is ready", async || (edge.own("/readyz").await.0 == 200).then_some(())).await;
    assert_eq!(edge.own("/livez").await.0, 200);
    assert_eq!(
        edge.bearer("a", "/certificate", Some(&client), &token).await.is(),
        (200, "allowed")
    );
    let answer = edge.bearer("a", "/certificate", Some(&thief), &token).await;
    assert_eq!(answer.is(), (401, "certificate_mismatch"));
    assert_eq!(answer.body["error"], "invalid_token");
    let metrics = edge.own("/metrics").await.1;
    for (decision, reason) in [("allow", "allowed"), ("deny", "certificate_mismatch")] {
        let told = format!(
            "keybound_checks_total{{decision=\"{decision}\",front=\"envoy\",policy=\"certificate\",\
             reason=\"{reason}\"}} 1"
        );
        assert!(metrics.contains(&told), "{metrics}");
    }
    let (status, page) = edge.own("/").await;
    assert!(status == 200 && page.contains("<title>keybound</title>"), "{page}");
    let denials = edge.status().await["last_denials"].to_string();
    assert!(denials.contains(&thief.thumbprint().to_base64url()), "{denials}");
    // And so does the log.
    edge.logs(&thief.thumbprint().to_base64url()).await;
    assert!(!site.log().contains(&token));
}

#[tokio::test]
async fn listeners_with_the_same_configuration_share_all_of_it() {
    let site = Site::new().await;
    let config = inline(&site.configuration());
    let names = ["a", "b", "c", "d", "e", "f"];
    let edge = Edge::start(&site, &names.map(|it| Listener::plain(it, config.clone()))).await;
    for name in names {
        assert_eq!(edge.bearer(name, "/certificate", None, "forged").await.status, 401);
    }
    assert_eq!(site.log().matches("checking inside Envoy").count(), 1, "{}", site.log());
    assert_eq!(site.log().matches("\"listening\"").count(), 1);
}

/// What `keybound explain` says of a captured request with this token, and perhaps this proof, whose
/// signatures are not captured.
fn explained(site: &Site, request: &Path, token: &str, proof: Option<&str>) -> Value {
    let mut explain = Command::new(env!("CARGO_BIN_EXE_keybound"));
    explain.arg("explain").arg("--config").arg(site.path("keybound.json"));
    explain.arg("--request").arg(request).arg("--json");
    explain.arg("--token").arg(site.write("token", token));
    if let Some(proof) = proof {
        explain.arg("--proof").arg(site.write("proof", proof));
    }
    let output = explain.output().unwrap();
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[tokio::test]
async fn a_captured_request_is_explained_with_the_reason_that_it_got() {
    let site = Site::new().await;
    let folder = site.path("captures");
    fs::create_dir(&folder).unwrap();
    let path = site.write("keybound.json", &site.configuration().to_string());
    let listener = Listener::tls("a", string(path.to_str().unwrap()));
    let edge = Edge::start_with(&site, &[listener], &[("KEYBOUND_CAPTURE", &folder)]).await;
    let (client, thief) = (site.client("client"), site.client("thief"));
    let (bound, dpop) = (site.token_of(&client), dpop_client(&site));
    let elsewhere = dpop.proof("GET", &target("/elsewhere"));
    edge.bearer("a", "/certificate", Some(&thief), &bound).await;
    edge.bearer("a", "/certificate", None, &bound).await;
    edge.bearer("a", "/a", Some(&client), &bound).await;
    edge.dpop("a", "/a", &dpop.token, &elsewhere).await;
    for (reason, token, proof) in [
        ("certificate_mismatch", &bound, None),
        ("certificate_missing", &bound, None),
        ("proof_target_mismatch", &dpop.token, Some(&*elsewhere)),
        ("binding_missing", &bound, None),
    ] {
        let file = until(reason, async || {
            let files = fs::read_dir(&folder).unwrap().map(|it| it.unwrap().path());
            let mut files = files.filter(|it| it.extension().is_some_and(|it| it == "pb"));
            files.find(|it| it.to_str().unwrap().contains(reason))
        })
        .await;
        let told = explained(&site, &file, token, proof);
        assert_eq!(told["reason"], reason, "{told:#}");
        let shown = thief.thumbprint().to_base64url();
        assert_eq!(reason == "certificate_mismatch", told.to_string().contains(&shown), "{told:#}");
    }
}

#[tokio::test]
async fn an_admin_address_in_use_is_tried_again_and_refuses_no_listener() {
    let site = Site::new().await;
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut config = site.configuration();
    config["listen"]["admin"] = json!(taken.local_addr().unwrap().to_string());
    let edge = Edge::start(&site, &[Listener::plain("a", inline(&config))]).await;
    let answer = edge.bearer("a", "/certificate", None, "forged").await;
    assert_eq!(answer.is(), (401, "token_malformed"));
    edge.logs("the admin address is tried again until it is free").await;
    thread::spawn(move || drop(taken)).join().unwrap();
    assert_eq!(edge.own("/livez").await.0, 200);
}

#[tokio::test]
async fn two_configurations_that_name_one_admin_address_share_it() {
    let site = Site::new().await;
    let config = site.configuration();
    let mut other = config.clone();
    other["policies"][0]["name"] = json!("renamed");
    let both = [Listener::plain("a", inline(&config)), Listener::plain("b", inline(&other))];
    let mut edge = Edge::start(&site, &both).await;
    for name in ["a", "b"] {
        assert_eq!(edge.bearer(name, "/certificate", None, "forged").await.status, 401);
    }
    let status = edge.status().await;
    assert_eq!(status["policies"][0]["name"], "renamed", "the newest is shown: {status}");
    let metrics = edge.own("/metrics").await.1;
    for policy in ["policy=\"certificate\"", "policy=\"renamed\""] {
        assert!(metrics.contains(policy), "both are counted: {metrics}");
    }
    edge.update(&both[..1]).await;
    edge.drained().await;
    until("the other one is shown", async || {
        (edge.status().await["policies"][0]["name"] == "certificate").then_some(())
    })
    .await;
    assert!(!site.log().contains("tried again"));
}
