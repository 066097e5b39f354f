//! The page for people, in a real browser.

use super::service::{Service, request};
use super::{block_on, provision};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use envoy_types::pb::envoy::service::auth::v3::authorization_client::AuthorizationClient;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

const HOSTILE: &str = "<img src=x onerror=\"document.title='taken'\">";

/// A browser. Without one the test is skipped, with a line that says so; under CI there must be
/// one.
fn browser() -> Option<PathBuf> {
    let reason = match provision("chromium") {
        Ok(found) => return Some(found),
        Err(reason) => reason,
    };
    let ci = std::env::var_os("CI").is_some_and(|it| it == "true");
    assert!(!ci, "there must be a browser under CI: {reason}");
    // Not by a print macro: the harness would swallow the line.
    let line = format!("skipped: there is no browser: {reason}\n");
    io::stderr().write_all(line.as_bytes()).unwrap();
    None
}

/// What a browser makes of the page, and its complaints.
fn open(browser: &Path, service: &Service, arguments: &[&str]) -> Output {
    let profile = tempfile::tempdir().unwrap();
    let mut command = Command::new(browser);
    command
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"])
        .args(["--no-first-run", "--disable-background-networking", "--disable-sync"])
        .args(["--disable-component-update", "--disable-extensions", "--enable-logging=stderr"])
        // Time jumps, so that nobody waits for the page to ask again.
        .arg("--virtual-time-budget=3000")
        .arg(format!("--user-data-dir={}", profile.path().display()))
        .args(arguments)
        .arg(format!("http://{}/", service.admin));
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output
}

/// A token that names this key, of which nothing else is right.
fn forged(kid: &str) -> String {
    let header = serde_json::json!({"typ": "at+jwt", "alg": "ES256", "kid": kid});
    let part = |it: &str| URL_SAFE_NO_PAD.encode(it);
    let claims = part(r#"{"iss":"https://as.example.com","sub":"somebody"}"#);
    format!("{}.{claims}.{}", part(&header.to_string()), part(&"x".repeat(64)))
}

fn deny(service: &Service, kids: &[&str]) {
    block_on(async {
        let mut client = AuthorizationClient::new(service.channel().await);
        for kid in kids {
            client.check(request(&format!("Bearer {}", forged(kid)), "")).await.unwrap();
        }
    });
}

#[test]
fn the_page_shows_what_was_denied_and_runs_nothing_that_a_stranger_wrote() {
    let Some(browser) = browser() else { return };
    let service = Service::ready(&[]);
    deny(&service, &["1", HOSTILE, "missing"]);
    let output = open(&browser, &service, &["--dump-dom"]);
    let page = String::from_utf8(output.stdout).unwrap();
    for part in [
        ">live<",
        ">payments<",
        ">https://as.example.com<",
        ">token_signature_invalid<",
        ">token_key_unknown<",
        "GET api.example.com/payments",
        "<title>keybound</title>",
        "&lt;img src=x onerror=",
    ] {
        assert!(page.contains(part), "{part}\n{page}");
    }
    assert!(!page.contains("<img"), "{page}");
    let complaints = String::from_utf8_lossy(&output.stderr);
    assert!(!complaints.contains("CONSOLE"), "{complaints}");
}

#[test]
fn a_picture_is_taken_of_it() {
    let Some(browser) = browser() else { return };
    let service = Service::ready(&[]);
    deny(&service, &["1", "missing"]);
    let picture = Path::new(env!("CARGO_TARGET_TMPDIR")).join("admin.png");
    // What an earlier run left behind proves nothing.
    drop(fs::remove_file(&picture));
    open(
        &browser,
        &service,
        &["--window-size=1200,900", &format!("--screenshot={}", picture.display())],
    );
    assert_eq!(fs::read(&picture).unwrap().get(1..4), Some(&b"PNG"[..]));
}

#[test]
fn nothing_of_the_page_comes_from_elsewhere() {
    let service = Service::ready(&[]);
    let (status, head, _) = service.answer("GET", "/");
    assert_eq!(status, 200);
    for line in [
        "content-type: text/html; charset=utf-8",
        "content-security-policy: default-src 'none'; style-src 'sha256-",
        "connect-src 'self'",
        "frame-ancestors 'none'",
        "x-content-type-options: nosniff",
        "cache-control: no-store",
    ] {
        assert!(head.contains(line), "{line}\n{head}");
    }
}
