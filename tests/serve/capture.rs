//! What is refused can be kept, and explained later.

use super::forward_auth::connect;
use super::service::{Service, keybound, request};
use super::world::{World, certificate, reason, url_encoded};
use super::{block_on, check_with_forged_token, forged_token};
use serde_json::{Value, json};
use std::fs;
use std::io::{Read, Write};
use std::path::Path;

#[test]
fn a_refused_request_is_kept_without_its_signature_and_explained_for_the_same_reason() {
    let kept = tempfile::tempdir().unwrap();
    let folder = kept.path().to_str().unwrap();
    let mut service = Service::ready(&["--capture", folder, "--capture-max", "1"]);
    let response = block_on(check_with_forged_token(service.uri())).unwrap();
    assert_ne!(response.status.unwrap().code, 0);
    let line = service.wait_for("refused request kept");
    let file = Path::new(line["file"].as_str().unwrap());
    service.wait_for("no more refused requests are kept");

    let name = file.file_name().unwrap().to_str().unwrap();
    assert!(name.contains("-token_signature_invalid-"), "{name}");
    let message = fs::read(file).unwrap();
    let token = forged_token();
    let (signed, signature) = token.rsplit_once('.').unwrap();
    let holds = |text: &str| message.windows(text.len()).any(|it| it == text.as_bytes());
    assert!(holds(signed) && !holds(signature));

    let config = service.folder.path().join("keybound.yaml");
    let mut explain = keybound();
    explain.arg("explain").arg("--config").arg(config).arg("--request").arg(file);
    let output = explain.output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(3), "{text}");
    assert!(text.contains("redacted"), "{text}");
    assert!(text.ends_with(": token_signature_invalid\n"), "{text}");
}

/// What `check-config --against` says of the requests in `folder` under the file at `config`.
fn against(folder: &Path, config: &Path) -> Value {
    let mut check = keybound();
    check.args(["check-config", "--json", "--against"]).arg(folder).arg(config);
    let output = check.output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(0), "{told}");
    let told: Value = serde_json::from_slice(&output.stdout).unwrap();
    told.get("against").cloned().unwrap()
}

#[test]
fn a_changed_configuration_is_told_by_what_kept_requests_would_get_under_it() {
    let world = World::new();
    let kept = tempfile::tempdir().unwrap();
    let folder = kept.path();
    let scoped = |it: String| it.replace("limits:", "    scopes: [payments]\nlimits:");
    let mut service = world.service_with(scoped, &["--capture", folder.to_str().unwrap()]);
    let stolen = format!("Bearer {}", world.token("payments"));
    let stolen = request(&stolen, &url_encoded(&certificate()));
    assert_eq!(reason(&service, world.request("reports")), "scope_insufficient");
    assert_eq!(reason(&service, stolen), "certificate_mismatch");
    block_on(check_with_forged_token(service.uri())).unwrap();
    for _ in 0..3 {
        service.wait_for("refused request kept");
    }
    fs::write(folder.join("other.pb"), "other").unwrap();

    let file = service.folder.path().join("keybound.yaml");
    let text = fs::read_to_string(&file).unwrap();
    let changed = service.folder.path().join("changed.yaml");
    for (from, to, expected) in [
        ("", "", json!({"unchanged": 3, "reported": 0, "open": 0, "changes": []})),
        (
            "    scopes: [payments]\n",
            "",
            json!({"unchanged": 1, "reported": 0, "open": 1, "changes": [
                {"kept_for": "scope_insufficient", "now": "allowed", "reported": false, "policy": "payments"},
            ]}),
        ),
        (
            "scopes: [payments]",
            "mode: report",
            json!({"unchanged": 1, "reported": 1, "open": 1, "changes": [
                {"kept_for": "scope_insufficient", "now": "allowed", "reported": false, "policy": "payments"},
            ]}),
        ),
        (
            "- name: payments",
            "- name: payments\n    match: {path_prefix: /elsewhere}",
            json!({"unchanged": 0, "reported": 0, "open": 0, "changes": [
                {"kept_for": "certificate_mismatch", "now": "policy_unknown", "reported": false, "policy": null},
                {"kept_for": "scope_insufficient", "now": "policy_unknown", "reported": false, "policy": null},
                {"kept_for": "token_signature_invalid", "now": "policy_unknown", "reported": false, "policy": null},
            ]}),
        ),
    ] {
        fs::write(&changed, text.replacen(from, to, 1)).unwrap();
        let mut told = against(folder, if from.is_empty() { &file } else { &changed });
        for change in told["changes"].as_array_mut().unwrap() {
            let files = change["files"].take();
            let name = files[0].as_str().unwrap();
            assert!(name.contains(change["kept_for"].as_str().unwrap()), "{name}");
            change.as_object_mut().unwrap().remove("files");
        }
        assert_eq!(told["requests"].take(), 3);
        assert!(told["unreadable"].take()[0].as_str().unwrap().ends_with("other.pb"));
        for key in ["requests", "unreadable"] {
            told.as_object_mut().unwrap().remove(key);
        }
        assert_eq!(told, expected, "{to}");
    }

    let mut check = keybound();
    let check = check.arg("check-config").arg(&changed).arg("--against").arg(folder);
    let told = String::from_utf8(check.output().unwrap().stdout).unwrap();
    for line in ["kept requests: 3", "  1 scope_insufficient → policy_unknown (no policy)"] {
        assert!(told.lines().any(|it| it == line), "{line}: {told}");
    }
    let mut check = keybound();
    let check = check.arg("check-config").arg(&file).args(["--against", "/nonexistent"]);
    assert_eq!(check.output().unwrap().status.code(), Some(1));
}

/// What `explain` says last of the request in `file`, and of nothing else.
fn explained(service: &Service, file: &Path) -> String {
    let config = service.folder.path().join("keybound.yaml");
    let mut explain = keybound();
    explain.arg("explain").arg("--config").arg(config).arg("--request").arg(file);
    let output = explain.output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().last().unwrap_or_default().to_owned()
}

#[test]
fn what_is_refused_to_another_proxy_is_kept_and_explained_alike() {
    let world = World::new();
    let kept = tempfile::tempdir().unwrap();
    let nginx = |it: String| {
        it.replacen("listen: {", "listen: {forward_auth: '127.0.0.1:0', ", 1)
            + "forward_auth: {flavour: nginx}\n\
               client_certificate: {source: header, header: {name: x-ssl-client-cert, \
               format: pem-urlencoded}}\n"
    };
    let mut service = world.service_with(nginx, &["--capture", kept.path().to_str().unwrap()]);
    let token = world.token("payments");
    let bearer = format!("authorization: Bearer {token}\r\n");
    let certificate = format!("x-ssl-client-cert: {}\r\n", url_encoded(&certificate()));
    for (path, lines, reason) in [
        ("/check", bearer.clone() + &certificate, "certificate_mismatch"),
        ("/check", bearer.clone(), "certificate_missing"),
        ("/check", bearer.clone() + "x-ssl-client-cert: x\r\n", "certificate_malformed"),
        ("/check", bearer.clone() + &bearer, "credentials_ambiguous"),
        ("/check", bearer.clone() + "dpop: a\r\ndpop: b\r\n", "credentials_ambiguous"),
        ("/check", format!("authorization: DPoP {token}\r\n"), "scheme_mismatch"),
        ("/check", "authorization: Basic c2VjcmV0\r\n".to_owned(), "scheme_unsupported"),
        ("/check", "authorization: Bearer secret\r\n".to_owned(), "token_malformed"),
        ("/check", String::new(), "credentials_missing"),
        ("/check/unheard-of", bearer.clone() + &certificate, "policy_unknown"),
    ] {
        let question = format!(
            "GET {path} HTTP/1.1\r\nhost: keybound\r\nconnection: close\r\nx-original-method: GET\r\n\
             x-original-uri: /payments?key=secret\r\nx-forwarded-host: api.example.com\r\n\
             x-forwarded-proto: https\r\ncookie: session=secret\r\n{lines}\r\n"
        );
        let mut stream = connect(&service);
        stream.write_all(question.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 4"), "{reason}: {answer}");
        let line = service.wait_for("refused request kept");
        let file = Path::new(line["file"].as_str().unwrap());
        assert!(line["file"].as_str().unwrap().contains(&format!("-{reason}-")), "{line}");
        let message = String::from_utf8_lossy(&fs::read(file).unwrap()).into_owned();
        let signature = token.rsplit('.').next().unwrap();
        for text in ["secret", "c2VjcmV0", signature] {
            assert!(!message.contains(text), "{text}: {message}");
        }
        let said = explained(&service, file);
        assert!(said.ends_with(&format!(": {reason}")), "{reason}: {said}");
    }
}

#[test]
fn only_reasons_that_there_are_can_be_asked_for() {
    for (arguments, code) in [
        (&["--capture", "/nonexistent"][..], 1),
        (&["--capture", ".", "--capture-reasons", "bad_luck"], 2),
        (&["--capture-reasons", "token_expired"], 2),
    ] {
        let (_folder, file) = super::folder(|_, it| it);
        let output = keybound().arg("serve").arg("--config").arg(file).args(arguments).output();
        assert_eq!(output.unwrap().status.code(), Some(code), "{arguments:?}");
    }
}
