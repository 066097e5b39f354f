//! A burst of denials, and what the page says about it: who, since when, and what to do.

use super::browser::Browser;
use super::page::SCOPED;
use super::service::{Service, request};
use super::world::{World, certificate, reason, url_encoded};
use envoy_types::pb::envoy::service::auth::v3::CheckRequest;
use keybound_core::jose::Thumbprint;
use serde_json::{Value, json};
use std::fs;
use std::path::Path;

/// The name of an issuer that cannot be reached, too long for one line of a phone.
const DEAD: &str = "https://login.of.the.partner.with.a.very.long.name.example.com/realms/payments";

fn service(world: &World) -> Service {
    let edit = |config: String| {
        let dead = format!(
            "  - {{issuer: '{DEAD}', audiences: [a], keys: {{jwks_uri: \
             'http://127.0.0.1:1/jwks'}}}}\npolicies:\n"
        );
        let scoped = config.replace("sender_constraint: certificate", SCOPED);
        scoped.replace("policies:\n", &dead)
    };
    world.service_with(edit, &[])
}

/// A request with a token of a client that is bound to `bound`, over TLS with `shown`. Its claims are
/// the usual ones and `more`, without those that are null.
fn ask(
    world: &World,
    client: &str,
    bound: &[u8],
    shown: Option<&[u8]>,
    more: &Value,
) -> CheckRequest {
    let cnf = json!({"x5t#S256": Thumbprint::of(bound).to_base64url()});
    let mut claims = json!({"client_id": client, "scope": "payments", "cnf": cnf});
    let own = more.as_object().unwrap().clone();
    claims.as_object_mut().unwrap().extend(own);
    claims.as_object_mut().unwrap().retain(|_, it| !it.is_null());
    let shown = shown.map(url_encoded).unwrap_or_default();
    request(&format!("Bearer {}", world.token_with(&claims)), &shown)
}

/// Eight kinds of denials by three clients and somebody who is not known.
fn burst(world: &World, service: &Service) {
    let [bank, renewed, mobile, reports] = [(); 4].map(|()| certificate());
    let none = json!({});
    let thief = json!({"cnf": {"jkt": "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"}});
    let elsewhere = json!({"iss": "https://as.staging.example.com"});
    for (times, client, bound, shown, more, expected) in [
        (5, "partner-bank", &bank, Some(&renewed), &none, "certificate_mismatch"),
        (4, "partner-bank", &bank, None, &none, "certificate_missing"),
        (3, "acme-mobile", &mobile, Some(&mobile), &thief, "scheme_mismatch"),
        (2, "acme-mobile", &mobile, Some(&mobile), &json!({"cnf": null}), "binding_missing"),
        (1, "reports", &reports, Some(&reports), &json!({"exp": 1}), "token_expired"),
        (1, "reports", &reports, Some(&reports), &json!({"scope": "x"}), "scope_insufficient"),
        (1, "reports", &reports, Some(&reports), &json!({"aud": "x"}), "token_audience_mismatch"),
        (1, "partner-bank", &bank, Some(&bank), &elsewhere, "token_issuer_unknown"),
    ] {
        for _ in 0..times {
            let shown = shown.map(Vec::as_slice);
            let asked = ask(world, client, bound, shown, more);
            assert_eq!(reason(service, asked), expected);
        }
    }
}

fn open(service: &Service, width: u32) -> Option<Browser> {
    let shown = "document.querySelector('#clients td') !== null";
    Browser::open(&format!("http://{}/", service.admin), (width, 844), shown)
}

/// Each client with its reasons, as the page shows them.
const TOLD: &str = "[...document.querySelectorAll('#clients tbody')].map((it) =>
  [it.querySelector('th').textContent.split(' since ')[0], [...it.querySelectorAll('.mono')].map((it) => it.textContent)])";

/// Whether each of them has a sentence, something to do, and the times of its first and last denial.
const WHOLE: &str = "[...document.querySelectorAll('#clients td.why')].every((it) =>
  it.querySelectorAll('.meaning').length === 2 && it.textContent.includes('What to do: ')
  && it.parentElement.querySelectorAll('time[datetime]').length === 2)";

/// Words that are broken in two, but for identifiers.
const TORN: &str = "(() => {
  const torn = [];
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let text = walk.nextNode(); text !== null; text = walk.nextNode()) {
    if (text.parentElement.closest('code, script, noscript, pre, option') !== null) continue;
    for (const word of text.data.matchAll(/[a-z_]+/gi)) {
      const range = document.createRange();
      range.setStart(text, word.index);
      range.setEnd(text, word.index + word[0].length);
      const tops = new Set([...range.getClientRects()].filter((it) => it.width > 0).map((it) => it.top));
      if (tops.size > 1) torn.push(word[0]);
    }
  }
  return torn;
})()";

const WIDER: &str = "document.documentElement.scrollWidth - document.documentElement.clientWidth";

/// Where each section begins, the uppermost first.
const SECTIONS: &str = "[...document.querySelectorAll('main > section')]
  .map((it) => [it.getBoundingClientRect().top, it.getAttribute('aria-labelledby')])
  .sort((one, other) => one[0] - other[0])";

#[test]
fn a_burst_is_told_by_client_since_when_and_what_to_do_on_a_wide_and_on_a_narrow_screen() {
    let world = World::new();
    let service = service(&world);
    burst(&world, &service);
    for (width, picture) in [(1280, "admin.png"), (390, "admin-phone.png")] {
        let Some(mut browser) = open(&service, width) else { return };
        let expected = json!([
            [
                "partner-bank of https://as.example.com · 9 denials",
                ["certificate_mismatch", "certificate_missing"]
            ],
            [
                "acme-mobile of https://as.example.com · 5 denials",
                ["scheme_mismatch", "binding_missing"]
            ],
            [
                "reports of https://as.example.com · 3 denials",
                ["scope_insufficient", "token_audience_mismatch", "token_expired"]
            ],
            [
                "Unknown client whose token claims to be from https://as.staging.example.com · 1 denial",
                ["token_issuer_unknown"]
            ],
        ]);
        let mut found = browser.value(TOLD);
        for it in found.as_array_mut().unwrap() {
            // Those with equal counts are in no order.
            let reasons = it[1].as_array_mut().unwrap();
            if reasons.len() == 3 {
                reasons.sort_by_key(ToString::to_string);
            }
        }
        assert_eq!(found, expected, "{width}");
        assert_eq!(browser.value(WHOLE), true, "{width}");
        assert_eq!(browser.value(TORN), json!([]), "{width}");
        assert_eq!(browser.value(WIDER), 0, "{width}");
        assert!(browser.complaints.is_empty(), "{:?}", browser.complaints);
        let picture = Path::new(env!("CARGO_TARGET_TMPDIR")).join(picture);
        fs::write(picture, browser.picture()).unwrap();
    }
}

#[test]
fn a_renewed_certificate_is_told_from_a_stolen_token() {
    let world = World::new();
    let mut service = service(&world);
    let [old, renewed, reports, unknown] = [(); 4].map(|()| certificate());
    let none = json!({});
    for (client, own) in [("partner-bank", &renewed), ("reports", &reports)] {
        assert_eq!(reason(&service, ask(&world, client, own, Some(own), &none)), "allowed");
    }
    for (client, shown, known, told) in [
        ("acme-mobile", &unknown, None, "has been seen lately: it is new, or a thief's."),
        (
            "partner-bank",
            &renewed,
            Some("partner-bank"),
            "it has renewed its certificate, and must replace the older tokens that it still sends.",
        ),
        (
            "acme-mobile",
            &reports,
            Some("reports"),
            "is that of reports, which sends a token that is not its own: revoke that token at the issuer.",
        ),
    ] {
        let asked = ask(&world, client, &old, Some(shown), &none);
        assert_eq!(reason(&service, asked), "certificate_mismatch");
        let line = service.wait_for("denied");
        let last = &service.status()["last_denials"][0];
        for it in [&line, last] {
            assert_eq!(it["certificate_client"].as_str(), known, "{it}");
        }
        let Some(mut browser) = open(&service, 1280) else { return };
        let page = browser.text("denials");
        assert!(page.contains(told), "{page}");
    }
}

#[test]
fn on_a_phone_who_is_denied_stands_above_everything_else_but_what_is_wrong() {
    let world = World::new();
    let service = service(&world);
    burst(&world, &service);
    let Some(mut browser) = open(&service, 390) else { return };
    let sections = browser.value(SECTIONS);
    assert_eq!(sections[0][1], "h-denials", "{sections}");
    let top = |id: &str| format!("document.querySelector('{id}').getBoundingClientRect().top");
    let above = format!("{} < {}", top("#alerts .alert"), top("#h-denials"));
    assert_eq!(browser.value(&above), true);
    // Its client can be read without scrolling.
    let first = browser.value(&top("#clients tbody th"));
    assert!(first.as_f64().unwrap() < 844.0, "{first}");
}

#[test]
fn what_is_wrong_stands_in_a_box_that_is_announced() {
    let world = World::new();
    let mut service = service(&world);
    burst(&world, &service);
    let Some(mut browser) = open(&service, 1280) else { return };
    let in_box = |text: &str| {
        format!(
            "[...document.querySelectorAll('.alert')].filter((it) => it.textContent.includes({text:?})) \
             .map((it) => it.closest('[role=alert]') !== null)"
        )
    };
    // Of an issuer, with its error.
    let error = format!("{DEAD}: key set at http://127.0.0.1:1/jwks: unreachable");
    assert_eq!(browser.value(&in_box(&error)), json!([true]));
    // Of the form.
    browser.value("document.getElementById('request').value = 'no request line'");
    browser.click("#explain button");
    let wrong = in_box("the first line must look like");
    browser.wait_for(&format!("({wrong}).length === 1"));
    assert_eq!(browser.value(&wrong), json!([true]));
    // Of the page itself, when nobody answers any more.
    service.signal("KILL");
    service.end();
    let lost = in_box("keybound did not answer");
    browser.wait_for(&format!("({lost}).length === 1"));
    assert_eq!(browser.value(&lost), json!([true]));
    assert_eq!(browser.text("live"), "not live");
}
