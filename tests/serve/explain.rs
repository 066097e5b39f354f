//! A request is explained on the admin listener as the command explains it, and nobody notices.

#![expect(clippy::indexing_slicing, reason = "a test may panic")]

use super::service::{Service, SlowKeys, keybound, request};
use super::tokens::Signer;
use super::world::{World, certificate, reason, url_encoded};
use super::{block_on, check_with_forged_token, forged_token, with};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use envoy_types::pb::envoy::service::auth::v3::CheckRequest;
use jsonwebtoken::Algorithm;
use keybound::clock::{Clock, SystemClock};
use prost::Message;
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::Stdio;

/// The status and the text that `question` gets.
fn ask(service: &Service, question: &Value) -> (u16, String) {
    let mut stream = TcpStream::connect(&service.admin).unwrap();
    let (host, body) = (&service.admin, question.to_string());
    let length = body.len();
    write!(
        stream,
        "POST /explain HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/json\r\n\
         content-length: {length}\r\n\r\n{body}"
    )
    .unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, text) = answer.split_once("\r\n\r\n").unwrap();
    (head.split(' ').nth(1).unwrap().parse().unwrap(), text.to_owned())
}

/// What the service says of the request that is in question.
#[track_caller]
pub(crate) fn explained(service: &Service, question: &Value) -> String {
    let (status, text) = ask(service, question);
    assert_eq!(status, 200, "{text}");
    text
}

/// As it is kept, to be pasted.
pub(crate) fn kept(request: &CheckRequest) -> String {
    STANDARD.encode(request.encode_to_vec())
}

/// What the command says of the request that `arguments` or its input describe.
pub(crate) fn command(service: &Service, arguments: &[&str], input: &[u8]) -> String {
    let config = service.folder.path().join("keybound.yaml");
    let mut command = keybound();
    command.arg("explain").arg("--config").arg(config).args(arguments);
    let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// What is the same wherever it is asked: not the age of the keys, and not what becomes of a proof.
pub(crate) fn comparable(text: &str) -> String {
    let aged = |it: &str| match it.split_once("s old") {
        Some((before, after)) => {
            format!("{}{after}", before.trim_end_matches(|it: char| it.is_ascii_digit()))
        }
        None => it.to_owned(),
    };
    let lines = text.lines().filter(|it| !it.starts_with("note: ")).map(aged);
    lines.collect::<Vec<_>>().join("\n")
}

#[test]
fn it_says_what_the_command_says() {
    let world = World::new();
    let mut service = world.service();
    service.rewrite(|it| it.replace("constraint: certificate", "constraint: either"));
    service.wait_for("configuration reloaded");
    let at = SystemClock.now().as_secs().to_string();
    let bearer =
        |it: &str, certificate: &[u8]| request(&format!("Bearer {it}"), &url_encoded(certificate));
    let mut malformed = bearer("x", &certificate());
    let attributes = malformed.attributes.as_mut().unwrap();
    attributes.request.as_mut().unwrap().http.as_mut().unwrap().method.clear();
    for (message, last) in [
        (world.request("payments"), "✓ allowed; proved possession of: certificate"),
        (
            world.proved_request(&Signer::new(Algorithm::ES256, "client")),
            "✓ allowed; proved possession of: dpop",
        ),
        (bearer(&world.token("payments"), &certificate()), "status 401: certificate_mismatch"),
        (bearer(&forged_token(), &certificate()), "status 401: token_signature_invalid"),
        (bearer("<script>alert(1)</script>", &certificate()), "status 401: token_malformed"),
        (malformed, "status 400: request_malformed"),
    ] {
        let said = command(&service, &["--request", "-", "--at", &at], &message.encode_to_vec());
        let told = explained(&service, &json!({"request": kept(&message), "at": at}));
        assert_eq!(comparable(&told), comparable(&said));
        assert!(told.ends_with(&format!("{last}\n")), "{told}");
    }
}

#[test]
fn a_request_that_is_pasted_as_http_is_the_one_that_is_described_to_the_command() {
    let world = World::new();
    let service = world.service();
    let at = SystemClock.now().as_secs().to_string();
    let file = service.folder.path().join("client.pem");
    let body = STANDARD.encode(&world.certificate);
    let pem = format!("-----BEGIN CERTIFICATE-----\n{body}\n-----END CERTIFICATE-----\n");
    std::fs::write(&file, &pem).unwrap();
    let authorization = format!("Authorization: Bearer {}", world.token("payments"));
    let arguments = ["--at", &at, "-X", "POST", "-H", &authorization, "--cert"];
    let arguments = [&arguments[..], &[file.to_str().unwrap(), "https://api.example.com/a?b=c"]];
    let said = command(&service, &arguments.concat(), b"");
    let pasted =
        format!("POST /a?b=c HTTP/1.1\r\nHost: api.example.com\r\n{authorization}\r\n\r\n{pem}");
    let told = explained(&service, &json!({"request": pasted, "at": at}));
    assert_eq!(comparable(&told), comparable(&said));
    assert!(told.ends_with("allowed; proved possession of: certificate\n"), "{told}");
}

/// What would tell that something was checked.
fn traces(service: &Service) -> (Value, Vec<String>) {
    let status = service.status();
    let told = json!([status["token_cache"], status["replay"], status["last_denials"]]);
    let (_, metrics) = service.page("GET", "/metrics");
    // Time passes, and connections that nobody uses any more end when they do.
    let moving = ["keybound_connections{", "process_"];
    let moves =
        |it: &&str| it.contains("age_seconds") || moving.iter().any(|start| it.starts_with(start));
    let counted = metrics.lines().filter(|it| !moves(it));
    (told, counted.map(ToOwned::to_owned).collect())
}

#[test]
fn a_proof_that_was_explained_is_still_accepted_and_known_once_it_was() {
    let world = World::new();
    let mut service = world.service();
    service.rewrite(|it| it.replace("constraint: certificate", "constraint: dpop"));
    service.wait_for("configuration reloaded");
    let request = world.proved_request(&Signer::new(Algorithm::ES256, "client"));
    let question = json!({"request": kept(&request)});
    let before = traces(&service);
    for _ in 0..2 {
        let told = explained(&service, &question);
        assert!(told.contains("replay       not used before, by the record in memory"), "{told}");
        assert!(told.contains("note: the proof was only looked up"), "{told}");
        assert!(told.ends_with("✓ allowed; proved possession of: dpop\n"), "{told}");
    }
    assert_eq!(traces(&service), before);
    assert_eq!(reason(&service, request.clone()), "allowed");
    let told = explained(&service, &question);
    assert!(told.ends_with("✗ denied with status 401: proof_replayed\n"), "{told}");
    // What is recorded by now says nothing of another time.
    let at = SystemClock.now().as_secs().to_string();
    let told = explained(&service, &json!({"request": kept(&request), "at": at}));
    assert!(told.contains("replay was checked against an empty store"), "{told}");
    assert!(told.ends_with("✓ allowed; proved possession of: dpop\n"), "{told}");
    assert_eq!(reason(&service, request), "proof_replayed");
    service.has_metric("keybound_replay_recorded_total 1");
    service.has_metric("keybound_replay_repeats_total 1");
}

#[test]
fn a_token_that_was_verified_before_is_verified_again_and_not_remembered() {
    let world = World::new();
    let service = world.service();
    let request = world.request("payments");
    assert_eq!(reason(&service, request.clone()), "allowed");
    let before = traces(&service);
    for request in [&request, &world.request("other")] {
        let told = explained(&service, &json!({"request": kept(request)}));
        assert!(told.contains("✓ key           signature"), "{told}");
    }
    assert_eq!(traces(&service), before);
}

#[test]
fn nothing_of_what_is_pasted_is_logged() {
    let mut service = Service::ready(&["--log-level", "trace", "--drain-delay", "0s"]);
    let kept = kept(&request("Bearer x", ""));
    let told = explained(&service, &json!({"request": kept, "token": forged_token()}));
    assert!(told.ends_with(": token_signature_invalid\n"), "{told}");
    assert_eq!(ask(&service, &json!({"request": kept, "tokens": forged_token()})).0, 400);
    service.signal("TERM");
    assert_eq!(service.end(), Some(0));
    let log = format!("{:?}", service.log);
    assert!(!log.contains("token_signature_invalid"), "{log}");
    for part in forged_token().split('.').chain([&*kept]) {
        assert!(!log.contains(part), "{log}");
    }
}

#[test]
fn what_was_redacted_is_put_back() {
    let world = World::new();
    let service = world.service();
    let token = world.token("payments");
    let (signed, signature) = token.rsplit_once('.').unwrap();
    let redacted = format!("Bearer {signed}.{}", "A".repeat(signature.len()));
    let kept = kept(&request(&redacted, &url_encoded(&world.certificate)));
    let told = explained(&service, &json!({"request": kept}));
    let note = "note: the signature of the token was redacted when it was captured: the field for the \
                token restores it\n";
    assert!(told.contains(note), "{told}");
    let told = explained(&service, &json!({"request": kept, "token": format!(" {token}\n")}));
    assert!(told.ends_with("allowed; proved possession of: certificate\n"), "{told}");
}

#[test]
fn an_issuer_is_asked_about_an_opaque_token_only_when_it_is_meant_to_be() {
    let endpoint = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = endpoint.local_addr().unwrap();
    let edit = |folder: &Path, config: String| {
        std::fs::write(folder.join("secret"), "secret").unwrap();
        let asked = format!(
            "    introspection: {{endpoint: 'http://{address}/', client_id: k, \
             client_secret_file: secret}}\npolicies:\n"
        );
        config.replace("policies:\n", &asked).replace("150ms", "4s")
    };
    let mut service = Service::start(edit, &[]);
    service.wait_for("ready");
    let kept = kept(&request("Bearer opaque", ""));
    let told = explained(&service, &json!({"request": kept}));
    assert!(told.contains("https://as.example.com: not asked"), "{told}");
    assert!(
        told.ends_with("would ask the issuer; so does this form with its box checked\n"),
        "{told}"
    );
    endpoint.set_nonblocking(true).unwrap();
    assert!(endpoint.accept().is_err(), "it was asked");
    let told = explained(&service, &json!({"request": kept, "online": true}));
    assert!(told.ends_with(": introspection_unavailable\n"), "{told}");
    assert!(endpoint.accept().is_ok(), "it was not asked");
}

#[test]
fn what_takes_too_long_is_told_as_far_as_it_went() {
    let keys = SlowKeys::start();
    let edit = with(&keys);
    let edit = |folder: &Path, config| edit(folder, config).replace("4s", "50ms");
    let service = Service::start(edit, &[]);
    let kept = kept(&request(&format!("Bearer {}", forged_token()), ""));
    let told = explained(&service, &json!({"request": kept}));
    assert!(told.contains("✓ issuer        iss          \"https://as.example.com\""), "{told}");
    assert!(told.contains("✗ check         deadline"), "{told}");
    assert!(told.ends_with("✗ denied with status 503: check_timed_out\n"), "{told}");
    keys.release();
}

#[test]
fn what_was_found_before_the_deadline_is_logged() {
    let keys = SlowKeys::start();
    let edit = with(&keys);
    let edit = |folder: &Path, config| edit(folder, config).replace("4s", "50ms");
    let mut service = Service::start(edit, &[]);
    block_on(check_with_forged_token(service.uri())).unwrap();
    let denied = service.wait_for("denied");
    let found = ["reason", "policy", "kid"].map(|it| denied[it].as_str().unwrap_or("absent"));
    assert_eq!(found, ["check_timed_out", "payments", "1"]);
    keys.release();
}

#[test]
fn rules_that_come_into_force_are_those_that_are_explained() {
    let mut service = Service::ready(&[]);
    let kept = kept(&request("Bearer x", ""));
    let of = |service: &Service| explained(service, &json!({"request": kept}));
    assert!(of(&service).contains("payments, the first"));
    service.rewrite(|it| it.replace("name: payments", "name: ledger"));
    service.wait_for("configuration reloaded");
    assert!(of(&service).contains("ledger, the first"));
}

#[test]
fn an_explanation_and_a_denial_give_the_same_reason() {
    let mut service = Service::ready(&[]);
    block_on(check_with_forged_token(service.uri())).unwrap();
    let denied = service.wait_for("denied");
    let kept = kept(&request(&format!("Bearer {}", forged_token()), ""));
    let told = explained(&service, &json!({"request": kept}));
    let reason = denied["reason"].as_str().unwrap();
    assert!(told.ends_with(&format!(": {reason}\n")), "{told}");
}
