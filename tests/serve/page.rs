//! The page for people, in a real browser.

use super::block_on;
use super::browser::Browser;
use super::explain::{command, comparable};
use super::service::{KEYS, Service, request};
use super::world::{World, certificate, reason, url_encoded};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use envoy_types::pb::envoy::service::auth::v3::authorization_client::AuthorizationClient;
use keybound_core::jose::Thumbprint;
use serde_json::json;
use std::fs;
use std::path::Path;

const HOSTILE: &str = "<img src=x onerror=\"document.title='taken'\">";

fn open(service: &Service) -> Option<Browser> {
    let is_live = "document.getElementById('live')?.textContent === 'live'";
    Browser::open(&format!("http://{}/", service.admin), (1200, 900), is_live)
}

/// A token that names this key, of which nothing else is right. It is older than the keys, so that an
/// unknown key is known to be none, however long a look for it takes.
fn forged(kid: &str) -> String {
    let header = serde_json::json!({"typ": "at+jwt", "alg": "ES256", "kid": kid});
    let part = |it: &str| URL_SAFE_NO_PAD.encode(it);
    let claims = part(r#"{"iss":"https://as.example.com","sub":"somebody","iat":1}"#);
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
    let service = Service::ready(&[]);
    deny(&service, &["1", HOSTILE, "missing"]);
    let Some(mut browser) = open(&service) else { return };
    let page = browser.value("document.documentElement.outerHTML");
    let page = page.as_str().unwrap();
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
    assert!(browser.complaints.is_empty(), "{:?}", browser.complaints);
}

#[test]
fn keys_that_are_skipped_are_named_in_log_status_and_page() {
    let odd = format!(
        r#"{{"keys": [{{"kty": "RSA", "kid": "{}", "n": "AQAB", "e": "AQAB"}}, "#,
        "<b>1</b>"
    );
    let keys = KEYS.replace(r#"{"keys": ["#, &odd);
    let mut service = Service::start(
        |folder, it| {
            fs::write(folder.join("jwks.json"), &keys).unwrap();
            it
        },
        &[],
    );
    let logged = service.wait_for("keys skipped");
    assert_eq!(logged["level"], "WARN");
    let words = logged["skipped"].as_str().unwrap();
    assert!(words.starts_with("\"<b>1</b>\" (RSA): it is weak"), "{words}");
    service.wait_until(|it| it["issuers"][0]["keys"] == 1);
    let found = &service.status()["issuers"][0]["skipped_keys"];
    assert_eq!((&found[0]["kid"], &found[0]["kty"]), (&"<b>1</b>".into(), &"RSA".into()));
    let Some(mut browser) = open(&service) else { return };
    let told = browser.text("issuers");
    assert!(told.contains("<b>1</b> (RSA): it is weak"), "{told}");
}

#[test]
fn what_is_wrong_with_issuers_and_proxies_stands_above_all_else_with_its_error() {
    let world = World::new();
    let service = world.service();
    let bare = request(&format!("Bearer {}", world.token("payments")), "");
    assert_eq!(reason(&service, bare), "certificate_missing");
    let edit = |_: &Path, config: String| {
        let dead = "  - {issuer: 'https://dead.example.com', audiences: [a], keys: {jwks_uri: \
                    'http://127.0.0.1:1/jwks'}}\npolicies:\n";
        config.replace("policies:\n", dead)
    };
    let mut beside = Service::start(edit, &[]);
    beside.wait_for("key refresh failed");
    for (service, part) in [
        (&service, "No request has carried a client certificate so far"),
        (
            &beside,
            "https://dead.example.com: key set at http://127.0.0.1:1/jwks: unreachable: Connection refused",
        ),
    ] {
        let Some(mut browser) = open(service) else { return };
        let told = browser.text("alerts");
        assert!(told.contains(part), "{told}");
        assert!(browser.complaints.is_empty(), "{:?}", browser.complaints);
    }
}

#[test]
fn what_is_not_the_clients_fault_does_not_look_as_if_it_were() {
    let mut service = Service::ready(&[]);
    deny(&service, &["1"]);
    let dead = "keys: {jwks_uri: 'http://127.0.0.1:1/jwks'}";
    service.rewrite(|it| it.replace("keys: {jwks_file: jwks.json}", dead));
    service.wait_for("configuration reloaded");
    deny(&service, &["1"]);
    let Some(mut browser) = open(&service) else { return };
    for (look, expected) in [("bad", "token_signature_invalid"), ("ours", "keys_unavailable")] {
        for place in ["#decisions .LOOK h3", "#denials .LOOK"] {
            let all =
                format!("[...document.querySelectorAll('{place}')].map((it) => it.textContent)");
            let found = browser.value(&all.replace("LOOK", look));
            assert_eq!(found, serde_json::json!([expected]), "{place} {look}");
        }
    }
    assert!(browser.complaints.is_empty(), "{:?}", browser.complaints);
}

#[test]
fn a_policy_that_asks_for_no_token_is_shown_as_such() {
    let mut service = Service::ready(&[]);
    service.rewrite(|it| {
        let health =
            "policies:\n  - {name: health, match: {path_prefix: /healthz}, public: true}\n";
        it.replace("policies:\n", health)
    });
    service.wait_for("configuration reloaded");
    let policy = &service.status()["policies"][0];
    assert_eq!((&policy["name"], &policy["public"]), (&"health".into(), &true.into()));
    let Some(mut browser) = open(&service) else { return };
    let page = browser.value("document.documentElement.outerHTML");
    let page = page.as_str().unwrap();
    assert!(page.contains(">health<") && page.contains("public: no token is asked for"), "{page}");
    assert!(browser.complaints.is_empty(), "{:?}", browser.complaints);
}

#[test]
fn what_would_be_denied_is_shown_apart_from_what_is() {
    let world = World::new();
    let mut service = world.service();
    service.rewrite(|it| {
        let policies = "policies:\n  - name: trial\n    match: {path_prefix: /trial}\n    \
                        mode: report\n    sender_constraint: certificate\n  - name: payments\n    \
                        match: {path_prefix: /payments}\n";
        it.replace("policies:\n  - name: payments\n", policies)
    });
    service.wait_for("configuration reloaded");
    let mut trial = world.request("payments");
    let attributes = trial.attributes.as_mut().unwrap();
    attributes.request.as_mut().unwrap().http.as_mut().unwrap().path = "/trial".to_owned();
    let mut stolen = trial.clone();
    stolen.attributes.as_mut().unwrap().source = None;
    for _ in 0..3 {
        assert_eq!(reason(&service, trial.clone()), "allowed");
        assert_eq!(reason(&service, stolen.clone()), "allowed");
    }
    assert_eq!(reason(&service, request("Bearer x", "")), "token_malformed");

    let Some(mut browser) = open(&service) else { return };
    let told = browser.text("decisions");
    assert!(told.contains("allowed6") && told.contains("token_malformed1"), "{told}");
    assert!(!told.contains("certificate_missing"), "{told}");
    let told = browser.text("reported");
    assert!(told.contains("certificate_missing3") && !told.contains("token_malformed"), "{told}");
    let told = browser.text("policies");
    assert!(told.contains("trial6 allowed (3 would be denied) · 0 denied"), "{told}");
    assert!(told.contains("payments0 allowed · 1 denied"), "{told}");
    let labels =
        "[...document.querySelectorAll('#reported svg')].map((it) => it.ariaLabel.split(',')[0])";
    let told = "certificate_missing: 3 would be denied in the last hour";
    assert_eq!(browser.value(labels), serde_json::json!([told]));
    assert!(browser.complaints.is_empty(), "{:?}", browser.complaints);
}

#[test]
fn a_request_that_was_denied_is_explained_by_the_form() {
    let service = Service::ready(&[]);
    deny(&service, &["1"]);
    let Some(mut browser) = open(&service) else { return };
    assert!(browser.text("denials").contains("token_signature_invalid"));

    // What is known of it is put into the form; the token is not, and is typed.
    browser.click("#denials button");
    browser.type_in(&forged("1"));
    let typed = format!(
        "GET /payments HTTP/1.1\nHost: api.example.com\nAuthorization: Bearer {}",
        forged("1")
    );
    assert_eq!(browser.value("document.getElementById('request').value"), typed);
    browser.click("#explain button");
    browser.wait_for("document.getElementById('explanation').textContent !== ''");
    let told = browser.text("explanation");
    for line in [
        "GET https://api.example.com/payments",
        "✗ key           signature    not by any key of that name",
        "advice: was the token altered or cut on the way, or does another environment use the \
         same key names?",
        "✗ denied with status 401: token_signature_invalid",
    ] {
        assert!(told.lines().any(|it| it == line), "{line}\n{told}");
    }

    let at = told.lines().find_map(|it| it.strip_prefix("as checked at ")).unwrap();
    let authorization = format!("Authorization: Bearer {}", forged("1"));
    let arguments = ["--at", at, "-H", &authorization, "https://api.example.com/payments"];
    assert_eq!(comparable(&told), comparable(&command(&service, &arguments, b"")));
    assert!(browser.complaints.is_empty(), "{:?}", browser.complaints);
}

#[test]
fn the_form_can_be_used_by_the_keyboard_alone() {
    let service = Service::ready(&[]);
    let Some(mut browser) = open(&service) else { return };
    browser.value("document.getElementById('request').focus()");
    browser.type_in("GET /payments\nHost: api.example.com\nAuthorization: Bearer x");
    browser.press("Tab");
    browser.type_in(&forged("missing"));
    for (id, label) in [
        ("token", "Token, if not that of the request"),
        ("proof", "DPoP proof, if not that of the request"),
        ("at", "Time of the check"),
        ("online", "Ask issuers about opaque tokens"),
    ] {
        let focused = browser.value("document.activeElement.id");
        let labelled = browser.value("document.activeElement.labels[0].textContent.trim()");
        assert_eq!((focused, labelled), (id.into(), label.into()));
        browser.press("Tab");
    }
    browser.press("Enter");
    browser.wait_for("document.activeElement.id === 'explanation'");
    let told = browser.text("explanation");
    assert!(told.ends_with("✗ denied with status 401: token_key_unknown\n"), "{told}");
}

#[test]
fn what_a_stranger_wrote_stays_text_when_it_is_explained() {
    let service = Service::ready(&[]);
    let Some(mut browser) = open(&service) else { return };
    for (path, authorization, shown) in [
        (HOSTILE.replace(' ', "/"), format!("Bearer {}", forged(HOSTILE)), "kid \"<img src=x"),
        ("/payments".to_owned(), HOSTILE.to_owned(), "authorization: "),
        ("no request line".to_owned(), HOSTILE.to_owned(), "the first line must look like"),
    ] {
        let path = path.trim_start_matches('/');
        let pasted = format!("GET /{path}\nHost: {HOSTILE}\nAuthorization: {authorization}");
        browser.value("document.getElementById('request').select()");
        browser.type_in(&pasted);
        browser.value("document.getElementById('explanation').replaceChildren()");
        browser.click("#explain button");
        browser.wait_for("document.getElementById('explanation').textContent !== ''");
        let told = browser.text("explanation");
        assert!(told.contains(shown), "{told}");
    }
    let found = browser.value("[document.images.length, document.title]");
    assert_eq!(found, serde_json::json!([0, "keybound"]));
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

/// Fills in the search of the page.
fn search(browser: &mut Browser, text: &str) {
    let typed = format!(
        "(() => {{ const it = document.getElementById('search'); it.value = '{text}'; \
         it.dispatchEvent(new Event('input')); return it.value; }})()"
    );
    assert_eq!(browser.value(&typed), text);
}

/// Three kinds of denials by two clients and somebody unknown.
fn burst(world: &World, service: &Service) {
    let mut stolen = world.request("payments");
    let source = stolen.attributes.as_mut().unwrap().source.as_mut().unwrap();
    source.certificate = url_encoded(&certificate());
    for _ in 0..3 {
        assert_eq!(reason(service, stolen.clone()), "certificate_mismatch");
    }
    assert_eq!(reason(service, world.request("other")), "scope_insufficient");
    deny(service, &["1"]);
}

#[test]
fn who_is_denied_and_since_when_is_told_and_can_be_searched_for() {
    let world = World::new();
    let mut service = world.service();
    service.rewrite(|it| it.replace("sender_constraint: certificate", SCOPED));
    service.wait_for("configuration reloaded");
    burst(&world, &service);
    let status = service.status();
    let group = &status["denied_clients"][0];
    assert_eq!(
        [&group["policy"], &group["reason"], &group["denials"]],
        [&json!("payments"), &json!("certificate_mismatch"), &json!(3)]
    );
    let client = &group["clients"][0];
    assert_eq!([&client["denials"], &client["at_most_over"]], [&json!(3), &json!(0)]);
    let last = &client["last"];
    assert_eq!(
        [&last["client_id"], &last["path"], &last["bound_certificate"]],
        [
            &json!("client"),
            &json!("/payments"),
            &json!(Thumbprint::of(&world.certificate).to_base64url())
        ]
    );
    assert!(last["certificate"].is_string() && last["certificate"] != last["bound_certificate"]);
    let change = &status["config"]["last_change"]["changes"];
    assert_eq!(change, &json!([r#"policies[payments].scopes: added: ["payments"]"#]));
    service.has_metric(&format!(
        "keybound_config_info{{digest=\"{}\"}} 1",
        status["config"]["digest"].as_str().unwrap()
    ));

    let Some(mut browser) = open(&service) else { return };
    let told = browser.text("summary");
    let digest = status["config"]["digest"].as_str().unwrap().get(..12).unwrap();
    for part in [status["replica"].as_str().unwrap(), status["version"].as_str().unwrap(), digest] {
        assert!(told.contains(part), "{part}: {told}");
    }
    assert!(browser.text("change").contains("policies[payments].scopes: added"));
    let told = browser.text("decisions");
    assert!(told.contains("The access token is bound to another client certificate."), "{told}");
    let all = ["certificate_mismatch", "scope_insufficient", "token_signature_invalid"];
    for place in ["clients", "denials"] {
        let told = browser.text(place);
        assert!(all.iter().all(|it| told.contains(it)), "{place}: {told}");
    }
    let shown = last["certificate"].as_str().unwrap();
    for (text, expected) in [
        ("CLIENT", &all[..2]),
        (shown, &all[..1]),
        ("mismatch", &all[..1]),
        ("nobody", &[]),
        ("", &all[..]),
    ] {
        search(&mut browser, text);
        for place in ["clients", "denials"] {
            let told = browser.text(place);
            for reason in all {
                assert_eq!(told.contains(reason), expected.contains(&reason), "{text}: {told}");
            }
        }
    }
    // One row alone, by its button.
    browser.click("#clients button");
    let told = browser.text("denials");
    assert!(told.contains(all[0]) && !told.contains(all[1]) && !told.contains(all[2]), "{told}");
    assert!(browser.complaints.is_empty(), "{:?}", browser.complaints);
}

pub(super) const SCOPED: &str = "sender_constraint: certificate\n    scopes: [payments]";
