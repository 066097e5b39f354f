//! An MCP client with a DPoP session finds out what to ask for, and whoever steals from it gets nowhere.

use super::dpop_client::DpopClient;
use super::mcp_world::{KNOWN_CLIENT, World, shown};
use super::program::provisioned;
use super::programs;
use super::tokens::Signer;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::Algorithm;
use keybound::commands::demo::pki::Authority;
use keybound_core::Denial;
use serde_json::{Value, json};
use std::collections::HashSet;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;
use tempfile::TempDir;

/// A request of the client's, and what it got.
#[derive(Debug)]
struct Exchange<'a>(&'a Value);

impl<'a> Exchange<'a> {
    fn text(&self, name: &str) -> &'a str {
        self.0[name].as_str().unwrap_or_default()
    }

    fn header(&self, name: &str) -> Option<&'a str> {
        self.0["headers"][name].as_str()
    }

    /// Method, URL and status.
    fn told(&self) -> (&'a str, &'a str, u64) {
        (self.text("method"), self.text("url"), self.0["status"].as_u64().unwrap())
    }
}

fn exchanges(answer: &Value) -> Vec<Exchange<'_>> {
    answer["exchanges"].as_array().unwrap().iter().map(Exchange).collect()
}

fn call(world: &World, path: &str, tool: &str, arguments: &Value) -> Value {
    json!({"url": format!("{}{path}", world.origin), "tool": tool, "arguments": arguments})
}

/// The headers that the tool saw.
fn seen(answer: &Value) -> &Value {
    assert_eq!(answer["result"]["isError"], false, "{answer}");
    &answer["result"]["structuredContent"]
}

#[test]
fn the_files_that_the_page_shows_are_accepted_as_they_stand() {
    let folder = TempDir::new().unwrap();
    let certificate = Authority::new("ca").unwrap().server(&["mcp.example.com"]).unwrap();
    for (name, text) in [
        ("server.crt", certificate.certificate_pem()),
        ("server.key", certificate.key_pem()),
        ("keybound.yaml", shown("policies:").to_owned()),
        ("envoy.yaml", shown("static_resources:").to_owned()),
    ] {
        fs::write(folder.path().join(name), text).unwrap();
    }
    let run = |program: &Path, arguments: &[&str]| {
        let mut command = Command::new(program);
        let output = command.args(arguments).current_dir(folder.path()).output().unwrap();
        let told = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{told}");
        told
    };
    let keybound = Path::new(env!("CARGO_BIN_EXE_keybound"));
    let warnings = run(keybound, &["check-config", "keybound.yaml"]);
    assert!(warnings.lines().all(|it| it.contains("with several replicas")), "{warnings}");
    let quiet = ["--mode", "validate", "--log-level", "error", "-c", "envoy.yaml"];
    run(&programs::provisioned("envoy"), &quiet);
}

#[tokio::test]
async fn a_client_that_knows_the_address_alone_gets_a_token_bound_to_its_key_and_calls_a_tool() {
    let Some(world) = World::start().await else { return };
    let mut client = world.client(None);
    let answer = client.ask(&call(&world, "/mcp", "headers", &json!({}))).await;
    let seen = seen(&answer);
    assert_eq!(seen["x-auth-subject"], "alice");
    for gone in ["authorization", "dpop"] {
        assert_eq!(seen[gone], Value::Null, "the server gets no token to pass on");
    }

    let World { origin, issuer, .. } = &world;
    let all = exchanges(&answer);
    let url = |path: &str| format!("{origin}{path}");
    let metadata = url("/.well-known/oauth-protected-resource/mcp");
    let places = [
        ("POST", url("/mcp"), 401),
        ("GET", metadata.clone(), 200),
        ("GET", format!("{issuer}/.well-known/oauth-authorization-server"), 200),
        ("POST", format!("{issuer}/reg"), 201),
        ("POST", format!("{issuer}/token"), 200),
    ];
    let (asked, passed) = all.split_at(places.len());
    let told: Vec<_> = asked.iter().map(Exchange::told).collect();
    let expected: Vec<_> =
        places.iter().map(|(method, url, status)| (*method, &**url, *status)).collect();
    assert_eq!(told, expected);
    let challenge = asked[0].text("challenge");
    let of_it = ["scope=\"mcp:tools\"".to_owned(), format!("resource_metadata=\"{metadata}\"")];
    assert!(challenge.starts_with("DPoP "), "{challenge}");
    assert!(of_it.iter().all(|it| challenge.contains(it)), "{challenge}");
    assert!(asked[0].header("authorization").is_none());

    // What opens the session, what the server says of its own accord, and the call.
    assert!(3 <= passed.len(), "{passed:?}");
    let mut proofs = HashSet::new();
    for it in passed {
        let (_, at, status) = it.told();
        assert!(at == url("/mcp") && (200..300).contains(&status), "{it:?}");
        assert!(it.header("authorization").unwrap().starts_with("DPoP "), "{it:?}");
        assert!(proofs.insert(it.header("dpop").unwrap()), "a proof of its own");
    }
}

#[tokio::test]
async fn a_stolen_token_gets_nobody_in_and_its_owner_still() {
    let Some(world) = World::start().await else { return };
    let mut client = world.client(None);
    let asked = call(&world, "/mcp", "headers", &json!({}));
    let answer = client.ask(&asked).await;
    seen(&answer);
    let all = exchanges(&answer);
    let stolen = all.iter().find(|it| it.text("body").contains("tools/call")).unwrap();
    let (method, url, _) = stolen.told();
    let (_, token) = stolen.header("authorization").unwrap().split_once(' ').unwrap();
    let proof = stolen.header("dpop").unwrap().to_owned();
    let key = Signer::new(Algorithm::ES256, "thief");
    let thief = DpopClient { token: token.to_owned(), key };
    let own = || thief.proof(method, url);

    let http = world.http();
    for (what, scheme, proof, denial) in [
        ("the request once more", "DPoP", Some(proof.clone()), Denial::ProofReplayed),
        ("without a proof", "DPoP", None, Denial::ProofMissing),
        ("with a proof by another key", "DPoP", Some(own()), Denial::ProofKeyMismatch),
        ("as a bearer token", "Bearer", None, Denial::SchemeMismatch),
        ("as a bearer token with that proof", "Bearer", Some(proof), Denial::SchemeMismatch),
    ] {
        let mut request = http.post(url).header("authorization", format!("{scheme} {token}"));
        request = request.header("accept", "application/json, text/event-stream");
        request = request.header("content-type", "application/json");
        request = request.body(stolen.text("body").to_owned());
        if let Some(proof) = proof {
            request = request.header("dpop", proof);
        }
        let response = request.send().await.unwrap();
        let status = response.status().as_u16();
        let body: Value = serde_json::from_slice(&response.bytes().await.unwrap()).unwrap();
        let wrong = body["error_description"].as_str();
        assert_eq!((status, wrong), (denial.status(), Some(denial.sentence())), "{what}");
    }

    let answer = client.ask(&asked).await;
    seen(&answer);
    let tokens = exchanges(&answer).iter().filter(|it| it.text("url").ends_with("/token")).count();
    assert_eq!(tokens, 0, "by the same token");
}

#[tokio::test]
async fn a_client_whose_token_lacks_a_scope_gets_a_wider_one_as_the_challenge_says_and_passes() {
    let Some(world) = World::start().await else { return };
    let mut client = world.client(Some(KNOWN_CLIENT));
    let asked = call(&world, "/mcp", "headers", &json!({}));
    seen(&client.ask(&asked).await);

    world.ask_for(&["mcp:tools", "mcp:write"]).await;
    let answer = client.ask(&asked).await;
    seen(&answer);
    let all = exchanges(&answer);
    let (url, token) = (format!("{}/mcp", world.origin), format!("{}/token", world.issuer));
    let told: Vec<_> = all.iter().take(3).map(Exchange::told).collect();
    assert_eq!(told, [("POST", &*url, 403), ("POST", &*token, 200), ("POST", &*url, 200)]);
    let challenge = all[0].text("challenge");
    let metadata = format!("{}/.well-known/oauth-protected-resource/mcp", world.origin);
    assert!(challenge.starts_with("DPoP "), "{challenge}");
    for part in [
        "error=\"insufficient_scope\"".to_owned(),
        "scope=\"mcp:tools mcp:write\"".to_owned(),
        format!("resource_metadata=\"{metadata}\""),
    ] {
        assert!(challenge.contains(&part), "{part}: {challenge}");
    }
    let tokens: HashSet<_> = all.iter().filter_map(|it| it.header("authorization")).collect();
    assert_eq!(tokens.len(), 2, "the narrower one, and the wider one");
}

#[tokio::test]
async fn a_server_whose_tools_ask_for_more_is_a_resource_of_its_own() {
    let Some(world) = World::start().await else { return };
    let mut client = world.client(None);
    let restart = call(&world, "/admin/mcp", "restart", &json!({"name": "db"}));
    let answer = client.ask(&restart).await;
    assert_eq!(answer["result"]["content"][0]["text"], "db restarted by alice", "{answer}");
    let all = exchanges(&answer);
    let challenge = all[0].text("challenge");
    assert!(challenge.contains("scope=\"mcp:tools mcp:admin\""), "{challenge}");
    let metadata = format!("{}/.well-known/oauth-protected-resource/admin/mcp", world.origin);
    assert_eq!(all[1].told(), ("GET", &*metadata, 200));
}

/// Seconds by which a clock is off.
const HOUR: i64 = 3600;

#[tokio::test]
async fn a_client_whose_clock_is_an_hour_off_passes_by_nonces_and_only_so() {
    let Some(faketime) = provisioned("faketime") else { return };
    let Some(by_nonces) = World::with_nonces().await else { return };
    let Some(by_its_clock) = World::start().await else { return };
    for skew in [-HOUR, HOUR] {
        let mut client = by_nonces.client_off_by(skew, &faketime);
        let answer = client.ask(&call(&by_nonces, "/mcp", "headers", &json!({}))).await;
        assert_eq!(seen(&answer)["x-auth-subject"], "alice");

        let mut client = by_its_clock.client_off_by(skew, &faketime);
        let answer = client.ask(&call(&by_its_clock, "/mcp", "headers", &json!({}))).await;
        assert!(answer["error"].is_string(), "{answer}");
        let all = exchanges(&answer);
        let refused = all.iter().filter(|it| it.header("authorization").is_some());
        let challenges: Vec<_> = refused.map(|it| it.text("challenge")).collect();
        assert!(!challenges.is_empty(), "it got a token");
        for challenge in challenges {
            assert!(challenge.contains("error=\"invalid_dpop_proof\""), "{challenge}");
        }
    }
}

/// Long enough to open a stream with it.
const SHORT_LIFE: Duration = Duration::from_secs(6);

#[tokio::test]
async fn what_a_server_says_of_its_own_accord_ends_with_the_token() {
    let Some(world) = World::with_tokens_for(SHORT_LIFE).await else { return };
    let mut client = world.client(None);
    let answer = client.ask(&json!({"url": format!("{}/mcp", world.origin)})).await;
    let all = exchanges(&answer);
    let stream = all.iter().find(|it| it.told() == ("GET", &*format!("{}/mcp", world.origin), 200));
    let token = stream.unwrap().header("authorization").unwrap();
    let claims = URL_SAFE_NO_PAD.decode(token.split('.').nth(1).unwrap()).unwrap();
    let claims: Value = serde_json::from_slice(&claims).unwrap();
    let expires = claims["exp"].as_i64().unwrap() * 1000;
    let late = answer["result"]["ended"].as_i64().unwrap() - expires;
    // Over HTTP/1.1, Envoy is silent for a second (`delayed_close_timeout`) before it closes.
    assert!((-100..2000).contains(&late), "it ended {late} ms after the token");
}
