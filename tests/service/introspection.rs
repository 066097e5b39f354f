//! Holds introspection to its promises, in whole checks against a stub of an endpoint.
//!
//! Time passes in jumps: the clock of the runtime is stopped, set forward, and let go, so that
//! nothing sleeps.

use crate::support::clock::ManualClock;
use crate::support::introspection_endpoint::{IntrospectionEndpoint, Reply};
use crate::support::subrequest::checked;
use crate::support::tokens::{self, Signer};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use futures_util::FutureExt;
use futures_util::future::{join, join_all};
use jsonwebtoken::Algorithm as Signing;
use keybound::clock::Clock;
use keybound::installation::{
    BadIssuer, Checker, DpopRules, Installation, InstallationRules, IssuerRules, Limits,
    LiveIssuer, StartError,
};
use keybound::state::introspection::{
    AssertionKey, ClientAuthentication, Identity, IntrospectionRules, IntrospectionUpkeep,
};
use keybound::state::introspection::{BadEndpoint, Status};
use keybound::state::jwks::{KeyRules, KeySource};
use keybound_core::client_certificate::{HeaderFormat, Source};
use keybound_core::jose::Algorithm;
use keybound_core::jose::Thumbprint;
use keybound_core::policy::{
    Authentication, ClaimsFrom, IdentityHeader, Introspection, Issuer, IssuerId, Policy, PolicySet,
    ProofRules, SenderConstraint, Streams, Upstream, UpstreamAuthorization,
};
use keybound_core::{
    Answer, Denial, Detail, Evidence, Field, Header, Request, Rules, Target, UnixTime, Verdict,
};
use rcgen::{BasicConstraints, CertificateParams, IsCa};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{RootCertStore, ServerConfig};

const NOW: i64 = 1_800_000_000;
const ISSUER: &str = "https://as.example.com";
const OTHER_ISSUER: &str = "https://other.example.com";
const SECOND: Duration = Duration::from_secs(1);

// ---- one call for all ----

#[tokio::test]
async fn a_thousand_checks_of_a_new_token_cause_one_call() {
    let endpoint = IntrospectionEndpoint::start(active(|_| {})).await;
    let site = Site::new(&[&endpoint], |_| {}).await;
    endpoint.hold();
    let checks = join_all((0..1000).map(|_| site.check("opaque")));
    let (found, ()) = join(checks, async {
        endpoint.called(1).await;
        endpoint.release();
    })
    .await;
    assert!(found.iter().all(|it| *it == Ok(())));
    assert_eq!(endpoint.calls(), 1);
    assert_eq!(site.check("opaque").await, Ok(()));
    assert_eq!(endpoint.calls(), 1, "it is remembered");
    assert_eq!(site.check("another").await, Ok(()));
    assert_eq!(endpoint.calls(), 2);
}

#[tokio::test]
async fn one_who_goes_away_does_not_end_the_call_for_others() {
    let endpoint = IntrospectionEndpoint::start(active(|_| {})).await;
    let site = Site::new(&[&endpoint], |_| {}).await;
    endpoint.hold();
    let mut first = Box::pin(site.check("opaque"));
    assert!(first.as_mut().now_or_never().is_none());
    endpoint.called(1).await;
    drop(first);
    let (second, ()) = join(site.check("opaque"), async { endpoint.release() }).await;
    assert_eq!((second, endpoint.calls()), (Ok(()), 1));
}

// ---- a slow server ----

#[tokio::test]
async fn a_server_that_never_answers_is_given_up_in_time_and_others_are_not_touched() {
    let (slow, good) = two(active(|_| {}), active(|_| {})).await;
    let site = Site::build(&[&slow, &good], |issuer| {
        if *issuer.issuer.name == *ISSUER {
            let rules = issuer.introspection.as_mut().unwrap();
            rules.upkeep.timeout = Duration::from_millis(120);
        }
    })
    .await;
    slow.hold();
    let start = tokio::time::Instant::now();
    assert_eq!(site.check_of("first", "opaque").await, Err(Denial::IntrospectionUnavailable));
    // The deadline of a check and Envoy's are later.
    let waited = start.elapsed();
    assert!(Duration::from_millis(119) < waited, "{waited:?}");
    assert!(waited < 2 * SECOND, "{waited:?}");
    // The call and who waits for it give up at that time, each for itself. Nothing is left behind.
    while 0 < site.status(0).in_flight {
        tokio::task::yield_now().await;
    }

    let mut waiting = Box::pin(site.check_of("first", "another"));
    assert!(waiting.as_mut().now_or_never().is_none());
    assert_eq!(site.check_of("second", "opaque").await, Ok(()));
}

#[tokio::test]
async fn no_answer_in_time_is_said_to_be_that() {
    let endpoint = IntrospectionEndpoint::start(active(|_| {})).await;
    let site = Site::new(&[&endpoint], |it| it.upkeep.timeout = Duration::from_millis(50)).await;
    endpoint.hold();
    assert_eq!(site.refusal("opaque").await, unavailable(Detail::IssuerLate));
    while 0 < site.status(0).in_flight {
        tokio::task::yield_now().await;
    }
    let error = site.status(0).last_error.unwrap().what;
    for name in ["introspection.timeout", "limits.check_deadline", "Envoy's `timeout`"] {
        assert!(error.contains(name), "{error}");
    }
}

#[tokio::test]
async fn the_time_for_finding_the_endpoint_is_not_its_time_to_answer() {
    let endpoint = IntrospectionEndpoint::start(active(|_| {})).await;
    for (deadline, waits, expected) in [
        // Four fifths of it are for waiting.
        (5 * SECOND, 3 * SECOND, Ok(())),
        (5 * SECOND, 4 * SECOND, unavailable(Detail::IssuerLate)),
        // The time of a call is granted in any case.
        (SECOND, SECOND, Ok(())),
        (SECOND, 2 * SECOND, unavailable(Detail::IssuerLate)),
    ] {
        let (mut site, metadata) = discovered(&endpoint, None, |it| {
            it["introspection_endpoint"] = endpoint.url().into();
        })
        .await;
        let mut rules = site.rules.clone();
        rules.issuers[0].introspection.as_mut().unwrap().upkeep.timeout = 2 * SECOND;
        rules.limits.check_deadline = deadline;
        metadata.hold();
        let asked = metadata.calls();
        let issuers = site.start(&rules, None).unwrap();
        issuers[0].keys.ready().await;
        site.installation.issuers = issuers;
        site.installation.limits = rules.limits;
        let mut check = Box::pin(site.refusal("opaque"));
        assert!(check.as_mut().now_or_never().is_none());
        metadata.called(asked + 1).await;
        jump(waits).await;
        if expected.is_ok() {
            assert!(check.as_mut().now_or_never().is_none());
            metadata.release();
        }
        assert_eq!(check.await, expected, "{deadline:?} {waits:?}");
    }
}

#[tokio::test]
async fn calls_under_way_are_bounded_and_who_is_one_too_many_waits_for_a_place() {
    let endpoint = IntrospectionEndpoint::start(active(|_| {})).await;
    let site = Site::new(&[&endpoint], |it| {
        it.upkeep.concurrency = 4;
        it.upkeep.cache_ttl = SECOND;
    })
    .await;
    assert_eq!(site.check("known").await, Ok(()));
    jump(SECOND).await;
    endpoint.hold();
    let mut waiting = Vec::new();
    for token in ["a", "b", "c", "c", "d", "e", "known"] {
        let mut check = Box::pin(site.refusal(token));
        assert!(check.as_mut().now_or_never().is_none());
        waiting.push(check);
    }
    let status = site.status(0);
    assert_eq!((status.in_flight, status.waiting), (4, 2), "one place is kept for known tokens");
    endpoint.called(1 + 4).await;
    // A place that came later would be of no use.
    jump(site.timeout() / 4 * 3).await;
    for token in ["e", "d"] {
        let place = waiting.len() - 2;
        assert_eq!(waiting.remove(place).await, unavailable(Detail::IssuerBusy), "{token}");
    }
    assert_eq!(site.status(0).turned_away["busy"], 2);
    assert_eq!(site.status(0).shedding["busy"], 1);
    endpoint.release();
    assert!(join_all(waiting).await.iter().all(Result::is_ok));
    assert_eq!(endpoint.calls(), 1 + 4);
}

#[tokio::test]
async fn of_those_who_wait_known_tokens_go_first_then_those_who_come_again_then_the_latest() {
    let endpoint = IntrospectionEndpoint::start(active(|_| {})).await;
    let site = Site::new(&[&endpoint], |it| {
        it.upkeep.concurrency = 1;
        it.upkeep.cache_ttl = SECOND;
    })
    .await;
    assert_eq!(site.check("known").await, Ok(()));
    jump(SECOND).await;
    endpoint.hold();
    let mut first = Box::pin(site.refusal("first"));
    assert!(first.as_mut().now_or_never().is_none());
    let mut again = Box::pin(site.refusal("again"));
    assert!(again.as_mut().now_or_never().is_none());
    endpoint.called(2).await;
    jump(site.timeout() / 4 * 3).await;
    assert_eq!(again.await, unavailable(Detail::IssuerBusy));
    let mut waiting = Vec::new();
    for token in ["early", "again", "known", "late"] {
        let mut check = Box::pin(site.refusal(token));
        assert!(check.as_mut().now_or_never().is_none());
        waiting.push(check);
    }
    endpoint.release();
    assert!(join_all(waiting).await.iter().all(Result::is_ok));
    let asked = endpoint.asked();
    let asked = asked.iter().map(|it| it.form.split(['=', '&']).nth(1).unwrap());
    let expected = ["known", "first", "known", "again", "late", "early"];
    assert_eq!(asked.collect::<Vec<_>>(), expected);
}

#[tokio::test]
async fn a_server_that_fails_is_left_alone_and_tried_again() {
    let endpoint = IntrospectionEndpoint::start(active(|_| {})).await;
    let site = Site::new(&[&endpoint], |_| {}).await;
    assert_eq!(site.check("known").await, Ok(()));
    endpoint.reply(Reply::status(503));
    for token in ["a", "b", "c", "d"] {
        assert_eq!(site.refusal(token).await, unavailable(Detail::IssuerAnswerUnusable));
    }
    jump(2 * SECOND).await;
    assert_eq!(site.status(0).breaker, "closed");
    assert_eq!(site.check("e").await, Err(Denial::IntrospectionUnavailable));
    assert_eq!((endpoint.calls(), site.status(0).breaker), (6, "open"));
    assert_eq!(site.status(0).shedding["breaker_open"], 1);
    let refused = site.refusal("new").now_or_never();
    assert_eq!(refused, Some(unavailable(Detail::IssuerFails)), "at once");
    assert_eq!(site.check("known").await, Ok(()), "what it said before counts on");
    assert_eq!(endpoint.calls(), 6);

    jump(SECOND).await;
    endpoint.hold();
    let mut trial = Box::pin(site.check("new"));
    assert!(trial.as_mut().now_or_never().is_none());
    let refused = site.refusal("other").now_or_never();
    assert_eq!(refused, Some(unavailable(Detail::IssuerFails)), "one trial at a time");
    assert_eq!(site.status(0).breaker, "half_open");
    endpoint.reply(active(|_| {}));
    endpoint.release();
    assert_eq!(trial.await, Ok(()));
    assert_eq!(site.status(0).breaker, "closed");
    assert_eq!(site.check("other").await, Ok(()));
    let status = site.status(0);
    assert_eq!((status.calls["active"], status.calls["status"]), (3, 5));
    assert_eq!(status.last_error.unwrap().what, "answered with 503");
}

#[tokio::test]
async fn a_failure_at_a_token_is_remembered_for_this_token_and_a_moment() {
    let odd = [Reply::of("application/json", "{}"), Reply::status(500), Reply::status(400)];
    for reply in odd {
        let endpoint = IntrospectionEndpoint::start(reply.clone()).await;
        let site = Site::new(&[&endpoint], |_| {}).await;
        for call in 1..=7 {
            assert_eq!(site.check("odd").await, Err(Denial::IntrospectionUnavailable));
            assert_eq!(endpoint.calls(), call, "{reply:?}");
            let refused = site.refusal("odd").now_or_never();
            assert_eq!(refused, Some(unavailable(Detail::IssuerFailedBefore)), "{reply:?}");
            // `negative_ttl`.
            jump(5 * SECOND).await;
        }
        assert_eq!(site.status(0).turned_away["failed_before"], 7);
        assert_eq!(site.status(0).breaker, "closed");
        endpoint.reply(active(|_| {}));
        assert_eq!(site.check("odd").await, Ok(()));
    }
}

#[tokio::test]
async fn a_known_token_gets_over_a_short_outage_at_once() {
    let endpoint = IntrospectionEndpoint::start(active(|_| {})).await;
    let site = Site::new(&[&endpoint], |it| it.upkeep.cache_ttl = SECOND).await;
    assert_eq!(site.check("known").await, Ok(()));
    jump(SECOND).await;
    endpoint.reply(Reply::status(500));
    for _ in 0..4 {
        assert_eq!(site.check("known").await, Err(Denial::IntrospectionUnavailable));
        jump(Duration::from_millis(250)).await;
    }
    assert_eq!(endpoint.calls(), 5);
    endpoint.reply(active(|_| {}));
    assert_eq!(site.check("known").await, Ok(()));
}

// ---- floods ----

/// How many tokens of a flood come in a second.
const FLOOD: u32 = 300;

/// What a flood is made of: the `n`th token.
type Garbage = fn(u32) -> String;

const FLOODS: [(&str, Garbage); 3] = [
    ("each another", |n| format!("garbage-{n}")),
    ("always the same", |_| "garbage-1".to_owned()),
    ("a mix", |n| format!("garbage-{}", if n % 2 == 0 { n } else { n % 40 })),
];

/// Whether the server fails at the `n`th call about garbage.
type IsOdd = fn(u32) -> bool;

/// How many good checks passed, of how many, during some seconds of a flood: those of tokens that
/// were active before, of new ones, and of new ones that came again half a second later, where they
/// were not answered at first.
#[derive(Debug, Default)]
struct Passed {
    known: [u32; 2],
    new: [u32; 2],
    again: [u32; 2],
}

/// A flood at [`FLOOD`] a second, and every 200 ms two good tokens, one of them known.
async fn flood(site: &Site, seconds: u32, garbage: Garbage) -> Passed {
    const SETS: u32 = 60;
    let mut passed = Passed::default();
    let mut turned_away = Vec::new();
    let note = |[passed, all]: &mut [u32; 2], found: Result<(), Denial>| {
        *passed += u32::from(found.is_ok());
        *all += 1;
        found.is_ok()
    };
    for known in 0..5 {
        assert_eq!(site.check(&format!("good-known-{known}")).await, Ok(()));
    }
    jump(SECOND).await;
    for n in 0..seconds * FLOOD {
        let _refused = site.check(&garbage(n)).await;
        if n % SETS == 0 {
            let known = format!("good-known-{}", n / SETS % 5);
            note(&mut passed.known, site.check(&known).await);
            let new = format!("good-new-{n}");
            if !note(&mut passed.new, site.check(&new).await) {
                turned_away.push((n, new));
            }
        }
        while turned_away.first().is_some_and(|(then, _)| then + FLOOD / 2 <= n) {
            note(&mut passed.again, site.check(&turned_away.remove(0).1).await);
        }
        jump(SECOND / FLOOD).await;
    }
    passed
}

fn nearly_all([passed, all]: [u32; 2]) -> bool {
    all * 99 <= passed * 100
}

#[tokio::test]
async fn a_flood_at_which_the_server_fails_shuts_out_no_good_token() {
    let shares: [(&str, IsOdd); 2] = [("half", |n| n / 10 % 2 == 0), ("all", |_| true)];
    for (share, is_odd) in shares {
        for (what, garbage) in FLOODS {
            let endpoint = IntrospectionEndpoint::start(inactive()).await;
            let mut garbage_calls = 0;
            endpoint.follow(move |token| {
                if token.starts_with("good") {
                    return active(|_| {});
                }
                garbage_calls += 1;
                if is_odd(garbage_calls) { Reply::status(500) } else { inactive() }
            });
            let site = Site::new(&[&endpoint], |it| it.upkeep.cache_ttl = SECOND).await;
            let passed = flood(&site, 5, garbage).await;
            let none_missing = nearly_all(passed.known) && nearly_all(passed.new);
            assert!(none_missing, "{share} of a flood, {what}: {passed:?}");
        }
    }
}

#[tokio::test]
async fn a_flood_at_a_server_that_limits_its_calls_shuts_out_no_known_token() {
    for retry_after in [None, Some(1)] {
        let endpoint = IntrospectionEndpoint::start(inactive()).await;
        // Fifty calls in each second, as many servers count them.
        let (mut since, mut calls) = (tokio::time::Instant::now(), 0);
        endpoint.follow(move |token| {
            if SECOND <= since.elapsed() {
                (since, calls) = (tokio::time::Instant::now(), 0);
            }
            calls += 1;
            match calls {
                51.. => Reply::limited(retry_after),
                _ if token.starts_with("good") => active(|_| {}),
                _ => inactive(),
            }
        });
        let site = Site::new(&[&endpoint], |it| it.upkeep.cache_ttl = SECOND).await;
        // The limit is found in the first seconds.
        flood(&site, 2, FLOODS[0].1).await;
        let passed = flood(&site, 20, FLOODS[0].1).await;
        assert!(nearly_all(passed.known), "{retry_after:?}: {passed:?}");
        let [again, all] = passed.again;
        assert!(all * 8 / 10 <= again, "{retry_after:?}: {passed:?}");
        assert!(0 < site.status(0).turned_away["rate_limited"]);
    }
}

// ---- time and memory ----

#[tokio::test]
async fn a_revoked_token_is_refused_after_the_time_that_answers_are_kept() {
    let endpoint = IntrospectionEndpoint::start(active(|_| {})).await;
    let site = Site::new(&[&endpoint], |_| {}).await;
    assert_eq!(site.check("opaque").await, Ok(()));
    endpoint.reply(inactive());
    jump(59 * SECOND).await;
    assert_eq!(site.check("opaque").await, Ok(()));
    jump(SECOND).await;
    assert_eq!(site.check("opaque").await, Err(Denial::TokenInactive));
    assert_eq!(endpoint.calls(), 2);
}

#[tokio::test]
async fn a_refusal_is_kept_for_a_moment() {
    let endpoint = IntrospectionEndpoint::start(inactive()).await;
    let site = Site::new(&[&endpoint], |_| {}).await;
    assert_eq!(site.check("opaque").await, Err(Denial::TokenInactive));
    endpoint.reply(active(|_| {}));
    jump(4 * SECOND).await;
    assert_eq!(site.check("opaque").await, Err(Denial::TokenInactive));
    assert_eq!(endpoint.calls(), 1);
    jump(SECOND).await;
    assert_eq!(site.check("opaque").await, Ok(()));
}

#[tokio::test]
async fn no_answer_outlives_the_token() {
    let endpoint = IntrospectionEndpoint::start(active(|it| it["exp"] = json!(NOW + 10))).await;
    let site = Site::new(&[&endpoint], |_| {}).await;
    assert_eq!(site.check("opaque").await, Ok(()));
    // The leeway is 30 s. The wall clock moves, and the answer is still in memory.
    site.clock.advance(40 * SECOND);
    assert_eq!(site.check("opaque").await, Err(Denial::TokenExpired));
    assert_eq!(endpoint.calls(), 1);
    jump(40 * SECOND).await;
    assert_eq!(site.check("opaque").await, Err(Denial::TokenExpired));
    assert_eq!(endpoint.calls(), 2, "it was forgotten");
    assert_eq!(site.status(0).calls["refused"], 1);
}

#[tokio::test]
async fn what_is_remembered_is_bounded_and_garbage_displaces_no_token() {
    let endpoint = IntrospectionEndpoint::start(active(|_| {})).await;
    let site = Site::new(&[&endpoint], |it| it.upkeep.cache_entries = 10).await;
    assert_eq!(site.check("good").await, Ok(()));
    endpoint.reply(inactive());
    for garbage in 0..100 {
        let refused = site.check(&format!("garbage-{garbage}")).await;
        assert_eq!(refused, Err(Denial::TokenInactive));
    }
    let status = site.status(0);
    assert!((1..=10).contains(&status.refused_entries), "{status:?}");
    let calls = endpoint.calls();
    assert_eq!(site.check("good").await, Ok(()));
    assert_eq!(endpoint.calls(), calls);
    endpoint.reply(active(|_| {}));
    for token in 0..100 {
        assert_eq!(site.check(&format!("good-{token}")).await, Ok(()));
    }
    let status = site.status(0);
    assert!((1..=10).contains(&status.active_entries), "{status:?}");
}

// ---- what is asked ----

#[tokio::test]
async fn the_token_goes_into_the_body_and_the_secret_into_a_header() {
    let endpoint = IntrospectionEndpoint::start(active(|_| {})).await;
    let site = Site::new(&[&endpoint], |_| {}).await;
    assert_eq!(site.check("a+b/c~d==").await, Ok(()));
    let asked = endpoint.asked().remove(0);
    assert_eq!((asked.method.as_str(), asked.uri.as_str()), ("POST", "/introspect"));
    assert_eq!(asked.form, "token=a%2Bb%2Fc%7Ed%3D%3D&token_type_hint=access_token");
    let header = |name| asked.headers.get(name).map(|it| it.to_str().unwrap());
    let basic = format!("Basic {}", STANDARD.encode("gate+way:s%3Aecret"));
    assert_eq!(header("authorization"), Some(basic.as_str()));
    assert_eq!(header("content-type"), Some("application/x-www-form-urlencoded"));
    assert!(header("accept").unwrap().starts_with("application/json,"));
    assert_eq!(header("accept-encoding"), Some("identity"), "none but that is understood");
    let printed = format!("{:?} {:?}", site.installation, site.status(0));
    for secret in [":ecret", "3Aecret", "a+b/c", basic.trim_start_matches("Basic ")] {
        assert!(!printed.contains(secret), "{secret}: {printed}");
    }
}

#[tokio::test]
async fn with_mutual_tls_the_certificate_stands_for_the_client() {
    let authority = Authority::new();
    let endpoint = IntrospectionEndpoint::start_tls(authority.server(), active(|_| {})).await;
    let identity = authority.client();
    let site = Site::build(&[&endpoint], |issuer| {
        issuer.keys.ca = Some(authority.pem.clone());
        let rules = issuer.introspection.as_mut().unwrap();
        rules.authentication = ClientAuthentication::TlsClientAuth;
        rules.identity = Some(Identity(identity.clone()));
    })
    .await;
    assert_eq!(site.check("opaque").await, Ok(()));
    let asked = endpoint.asked().remove(0);
    assert_eq!(asked.form, "token=opaque&token_type_hint=access_token&client_id=gate+way");
    assert!(!asked.headers.contains_key("authorization"));

    let without = Site::build(&[&endpoint], |it| it.keys.ca = Some(authority.pem.clone())).await;
    assert_eq!(without.check("opaque").await, Err(Denial::IntrospectionUnavailable));
    assert_eq!(endpoint.calls(), 1, "the handshake fails");
}

#[tokio::test]
async fn other_machines_are_asked_over_plain_http_only_where_that_is_allowed() {
    let endpoint = IntrospectionEndpoint::start(active(|_| {})).await;
    // A name of this machine that does not look like one.
    let elsewhere = endpoint.url().replace("127.0.0.1", "0.0.0.0");
    let site = Site::build(&[&endpoint], |issuer| {
        issuer.introspection.as_mut().unwrap().endpoint = Some(elsewhere.clone());
        issuer.keys.allow_http = true;
    })
    .await;
    assert_eq!(site.check("opaque").await, Ok(()));
    assert_eq!(endpoint.calls(), 1);
    let mut rules = site.rules.clone();
    rules.issuers[0].keys.allow_http = false;
    let refused = issuer_fault(site.start(&rules, None).err());
    assert!(
        matches!(refused, Some(BadIssuer::Introspection(BadEndpoint::UrlRefused))),
        "{refused:?}"
    );
}

#[tokio::test]
async fn the_place_comes_from_the_metadata_unless_it_is_given() {
    let endpoint = IntrospectionEndpoint::start(active(|_| {})).await;
    for (named, expected) in [(true, Ok(())), (false, Err(Denial::IntrospectionUnavailable))] {
        let metadata = IntrospectionEndpoint::start(Reply::status(404)).await;
        let name = metadata.url();
        let mut document = json!({ "issuer": name });
        if named {
            document["introspection_endpoint"] = endpoint.url().into();
        }
        metadata.reply(Reply::json(&document));
        let site = Site::build(&[&endpoint], |issuer| {
            judged(issuer).name = name.clone().into();
            issuer.introspection.as_mut().unwrap().endpoint = None;
        })
        .await;
        assert_eq!(site.check("opaque").await, expected);
        assert_eq!(endpoint.calls(), 1, "only the first time");
        assert!(metadata.asked()[0].uri.starts_with("/.well-known/oauth-authorization-server"));
        assert_eq!(metadata.asked()[0].headers["accept-encoding"], "identity");
    }
}

#[tokio::test]
async fn each_way_to_authenticate_is_seen_by_the_server() {
    let endpoint = IntrospectionEndpoint::start(active(|_| {})).await;
    let token = "token=opaque&token_type_hint=access_token";
    for (authentication, client_id, form) in [
        (
            ClientAuthentication::SecretPost("s:ecret".to_owned()),
            Some("gate way"),
            format!("{token}&client_secret=s%3Aecret&client_id=gate+way"),
        ),
        (ClientAuthentication::None, Some("gate way"), format!("{token}&client_id=gate+way")),
        (ClientAuthentication::None, None, token.to_owned()),
    ] {
        let site = Site::new(&[&endpoint], |it| {
            it.authentication = authentication.clone();
            it.client_id = client_id.map(str::to_owned);
        })
        .await;
        assert_eq!(site.check("opaque").await, Ok(()));
        let asked = endpoint.asked().pop().unwrap();
        assert_eq!(asked.form, form);
        assert!(!asked.headers.contains_key("authorization"));
    }
}

#[tokio::test]
async fn a_client_assertion_is_for_the_issuer_and_another_one_for_each_call() {
    let endpoint = IntrospectionEndpoint::start(active(|_| {})).await;
    let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).unwrap();
    let key = AssertionKey::from_pem(pair.serialize_pem().as_bytes(), Some("gateway-1".to_owned()));
    let key = key.unwrap();
    let site = Site::new(&[&endpoint], |it| {
        it.authentication = ClientAuthentication::PrivateKeyJwt(key.clone());
    })
    .await;
    let decoder = jsonwebtoken::DecodingKey::from_rsa_pem(pair.public_key_pem().as_bytes());
    let decoder = decoder.unwrap();
    let mut ids = Vec::new();
    for token in ["first", "second"] {
        assert_eq!(site.check(token).await, Ok(()));
        let asked = endpoint.asked().pop().unwrap();
        let form = asked.form.strip_prefix(&format!("token={token}&token_type_hint=access_token"));
        let form = form.unwrap().strip_prefix(
            "&client_assertion_type=\
             urn%3Aietf%3Aparams%3Aoauth%3Aclient-assertion-type%3Ajwt-bearer&client_assertion=",
        );
        let assertion = form.unwrap().strip_suffix("&client_id=gate+way").unwrap();
        assert_eq!(jsonwebtoken::decode_header(assertion).unwrap().kid.unwrap(), "gateway-1");
        let mut rules = jsonwebtoken::Validation::new(Signing::RS256);
        rules.set_audience(&[ISSUER]);
        rules.set_issuer(&["gate way"]);
        rules.validate_exp = false;
        let claims = jsonwebtoken::decode::<Value>(assertion, &decoder, &rules).unwrap().claims;
        assert_eq!((&claims["sub"], &claims["exp"]), (&json!("gate way"), &json!(NOW + 60)));
        ids.push(claims["jti"].clone());
        assert!(!asked.headers.contains_key("authorization"));
    }
    assert_ne!(ids[0], ids[1]);
}

/// An issuer whose metadata are edited, and a client of it with a key for assertions. It is found
/// where the metadata say.
async fn discovered(
    endpoint: &IntrospectionEndpoint,
    certificate: Option<(&Authority, Vec<u8>)>,
    edit: impl FnOnce(&mut Value),
) -> (Site, IntrospectionEndpoint) {
    let metadata = IntrospectionEndpoint::start(Reply::status(404)).await;
    let name = metadata.url();
    let mut document = json!({ "issuer": name });
    edit(&mut document);
    metadata.reply(Reply::json(&document));
    let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_RSA_SHA256).unwrap();
    let key = AssertionKey::from_pem(pair.serialize_pem().as_bytes(), None).unwrap();
    let site = Site::build(&[endpoint], |issuer| {
        judged(issuer).name = name.clone().into();
        issuer.keys.ca = certificate.as_ref().map(|it| it.0.pem.clone());
        let rules = issuer.introspection.as_mut().unwrap();
        rules.endpoint = None;
        rules.authentication = ClientAuthentication::PrivateKeyJwt(key.clone());
        rules.identity = certificate.as_ref().map(|it| Identity(it.1.clone()));
    })
    .await;
    (site, metadata)
}

#[tokio::test]
async fn an_assertion_is_signed_as_the_metadata_say() {
    let endpoint = IntrospectionEndpoint::start(active(|_| {})).await;
    let own = "introspection_endpoint_auth_signing_alg_values_supported";
    for (algorithms, expected) in
        [(json!(["PS256", "RS256"]), Signing::PS256), (json!(null), Signing::RS256)]
    {
        let (site, _metadata) = discovered(&endpoint, None, |it| {
            it["introspection_endpoint"] = endpoint.url().into();
            it[own] = algorithms;
        })
        .await;
        assert_eq!(site.check("opaque").await, Ok(()));
        let form = endpoint.asked().pop().unwrap().form;
        let assertion = form.split("client_assertion=").nth(1).unwrap().split('&').next();
        assert_eq!(jsonwebtoken::decode_header(assertion.unwrap()).unwrap().alg, expected);
    }
}

#[tokio::test]
async fn who_shows_a_certificate_prefers_the_alias_for_mutual_tls() {
    let authority = Authority::new();
    let plain = IntrospectionEndpoint::start(active(|_| {})).await;
    let mutual = IntrospectionEndpoint::start_tls(authority.server(), active(|_| {})).await;
    for (certified, aliased, expected) in
        [(true, true, (0, 1)), (true, false, (1, 1)), (false, true, (2, 1)), (false, false, (3, 1))]
    {
        let certificate = certified.then(|| (&authority, authority.client()));
        let (site, _metadata) = discovered(&plain, certificate, |it| {
            it["introspection_endpoint"] = plain.url().into();
            if aliased {
                let aliases = json!({ "introspection_endpoint": mutual.url() });
                it["mtls_endpoint_aliases"] = aliases;
            }
        })
        .await;
        assert_eq!(site.check("opaque").await, Ok(()), "{certified} {aliased}");
        assert_eq!((plain.calls(), mutual.calls()), expected, "{certified} {aliased}");
    }
}

// ---- what an answer is worth ----

#[tokio::test]
async fn an_answer_that_cannot_be_believed_is_none() {
    let endpoint = IntrospectionEndpoint::start(inactive()).await;
    let good = r#"{"active":true,"aud":"api"}"#;
    let json = |body: &str| Reply::of("application/json", body);
    let mut table = vec![
        (json(""), "not_json"),
        (json("null"), "not_json"),
        (json("<html>"), "not_json"),
        (json(r#"{"active":true,"active":false}"#), "not_json"),
        (json("{}"), "active_missing"),
        (json(r#"{"active":"true"}"#), "active_missing"),
        (json(r#"{"active":1}"#), "active_missing"),
        (json(r#"{"active":null}"#), "active_missing"),
        (json(&format!("{}{good}", " ".repeat(65_536))), "too_large"),
        (Reply::of("text/html", good), "form_unknown"),
        (Reply::of("application/problem+json", good), "form_unknown"),
        (Reply::of("application/jwt", good), "jwt_refused"),
        (Reply::status(204), "status"),
        (Reply::status(302), "redirected"),
        (Reply::status(401), "credentials_refused"),
        (Reply::status(403), "credentials_refused"),
        (Reply::limited(None), "limited"),
        (Reply::limited(Some(1)), "limited"),
    ];
    table.extend([400, 404, 500, 503].map(|it| (Reply::status(it), "status")));
    for (reply, label) in table {
        let site = Site::new(&[&endpoint], |_| {}).await;
        endpoint.reply(reply.clone());
        let found = site.check("opaque").await;
        assert_eq!(found, Err(Denial::IntrospectionUnavailable), "{reply:?}");
        assert_eq!(site.status(0).calls[label], 1, "{reply:?}");
    }
}

#[tokio::test]
async fn an_explanation_says_why_the_issuer_does_not_confirm_a_token() {
    let endpoint = IntrospectionEndpoint::start(inactive()).await;
    let good = r#"{"active":true,"aud":"api"}"#;
    let signed = |alg, typ: &'static str| {
        let signer = Signer::new(alg, "key-1");
        Reply::of("application/token-introspection+jwt", signer.sign(typ, &claims()))
    };
    let unusable = Some(Detail::IssuerAnswerUnusable);
    for (reply, detail, words) in [
        (Reply::status(401), unusable, "refuses our credentials with 401"),
        (Reply::status(403), unusable, "refuses our credentials with 403"),
        (Reply::status(404), unusable, "answered with 404"),
        (Reply::status(302), unusable, "redirected with 302"),
        (
            Reply::of("text/html; charset=x", good),
            unusable,
            "its media type is \"text/html; charset=x\"",
        ),
        (Reply::json(&json!({"active": "true"})), unusable, "`active` must be true or false"),
        (Reply::of("application/jwt", good), unusable, "token_malformed; not a signed JWT"),
        (signed(Signing::RS384, "token-introspection+jwt"), unusable, "alg: RS384 (wanted: ES256"),
        (
            signed(Signing::ES256, "token-introspection+jwt"),
            unusable,
            "not by any key of that name",
        ),
        (inactive(), None, "is not active"),
        (active(|it| it["aud"] = json!(null)), None, "aud: absent (wanted: api)"),
        (active(|it| it["aud"] = json!("other")), None, "aud: \"other\" (wanted: api)"),
        (
            active(|it| it["exp"] = json!(NOW - 30)),
            None,
            "exp: 2027-01-15T07:59:30Z (wanted: later",
        ),
        (active(|it| it["cnf"] = json!("x")), None, "cnf: \"x\" (wanted: an object"),
    ] {
        let site = Site::new(&[&endpoint], |_| {}).await;
        endpoint.reply(reply);
        let told = site.told("opaque").await;
        assert_eq!(told.len(), 1);
        assert!(told[0].contains(words), "{words}: {told:?}");
        assert!(told[0].starts_with(&format!("{ISSUER}: ")), "{told:?}");
        // What is remembered says the same.
        let (again, again_detail) = (site.told("opaque").await, site.refusal("opaque").await);
        assert!(again[0].contains(words), "{words}: {again:?}");
        let detail = detail.map(|_| Detail::IssuerFailedBefore);
        assert_eq!(again_detail.unwrap_err().1, detail, "{words}");
    }
}

#[tokio::test]
async fn what_the_issuer_says_is_held_to_the_rules_for_a_jwt() {
    let endpoint = IntrospectionEndpoint::start(inactive()).await;
    let site = Site::new(&[&endpoint], |_| {}).await;
    let table = [
        ("aud", json!("other"), Denial::TokenAudienceMismatch),
        ("aud", json!(null), Denial::TokenClaimMissing),
        ("aud", json!([]), Denial::TokenAudienceMismatch),
        ("aud", json!(""), Denial::TokenAudienceMismatch),
        ("aud", json!(7), Denial::TokenMalformed),
        ("iss", json!("https://evil.example"), Denial::TokenIssuerUnknown),
        ("exp", json!(NOW - 30), Denial::TokenExpired),
        ("nbf", json!(NOW + 31), Denial::TokenPremature),
        ("iat", json!("today"), Denial::TokenMalformed),
        ("scope", json!(["read", 7]), Denial::TokenMalformed),
        ("scope", json!(["read it"]), Denial::ScopeInsufficient),
        ("scope", json!("write"), Denial::ScopeInsufficient),
        ("cnf", json!([]), Denial::TokenMalformed),
        ("cnf", json!({"x5t#S256": "x"}), Denial::TokenMalformed),
        ("cnf", json!({"x5t": "x"}), Denial::BindingUnsupported),
    ];
    for (place, (name, odd, denial)) in table.into_iter().enumerate() {
        endpoint.reply(active(|it| it[name] = odd.clone()));
        assert_eq!(site.check(&format!("{place}")).await, Err(denial), "{name} {odd}");
    }
    endpoint.reply(active(|it| drop(it.as_object_mut().unwrap().remove("aud"))));
    assert_eq!(site.check("no-aud").await, Err(Denial::TokenClaimMissing));
    let site = Site::new(&[&endpoint], |it| it.allow_missing_audience = true).await;
    assert_eq!(site.check("no-aud").await, Ok(()));
    // As some servers say it.
    for (place, nothing) in [json!([]), json!(""), json!(null)].into_iter().enumerate() {
        endpoint.reply(active(|it| it["aud"] = nothing.clone()));
        assert_eq!(site.check(&format!("empty-aud-{place}")).await, Ok(()), "{nothing}");
    }
    endpoint.reply(active(|it| it["aud"] = json!("other")));
    assert_eq!(site.check("another").await, Err(Denial::TokenAudienceMismatch));
}

#[tokio::test]
async fn the_login_in_an_answer_counts_like_that_in_a_jwt() {
    let endpoint = IntrospectionEndpoint::start(inactive()).await;
    let site = Site::new(&[&endpoint], |_| {}).await;
    let refused = Err(Denial::AuthenticationInsufficient);
    for (place, (acr, auth_time, expected)) in [
        (json!("phr"), json!(NOW), Ok(())),
        (json!("phr"), json!(NOW - 330), Ok(())),
        (json!("phr"), json!(NOW - 331), refused),
        (json!("pwd"), json!(NOW), refused),
        (json!(null), json!(NOW), refused),
        (json!("phr"), json!(null), refused),
    ]
    .into_iter()
    .enumerate()
    {
        endpoint
            .reply(active(|it| (it["acr"], it["auth_time"]) = (acr.clone(), auth_time.clone())));
        let found = site.check_of("login", &format!("{place}")).await;
        assert_eq!(found, expected, "{acr} {auth_time}");
    }
}

#[tokio::test]
async fn an_answer_says_of_the_login_what_a_token_that_says_little_does_not() {
    let endpoint = IntrospectionEndpoint::start(inactive()).await;
    let site = Site::build(&[&endpoint], completed_by_answers).await;
    let refused = Err(Denial::AuthenticationInsufficient);
    for (own, said, expected) in [
        (json!({}), json!({"acr": "phr", "auth_time": NOW}), Ok(())),
        (json!({"acr": "phr"}), json!({"auth_time": NOW}), Ok(())),
        (json!({"acr": "pwd"}), json!({"acr": "phr", "auth_time": NOW}), refused),
        (json!({"auth_time": NOW - 331}), json!({"acr": "phr", "auth_time": NOW}), refused),
        (json!({}), json!({"acr": "phr"}), refused),
        (json!({}), json!({}), refused),
    ] {
        let with = |mut object: Value, more: &Value| {
            object.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            object
        };
        endpoint.reply(active(|it| *it = with(it.take(), &said)));
        let jwt = site.signer.sign("at+jwt", &with(claims(), &own));
        assert_eq!(site.check_of("login", &jwt).await, expected, "{own} {said}");
    }
}

#[tokio::test]
async fn a_member_that_is_null_is_absent() {
    let endpoint = IntrospectionEndpoint::start(inactive()).await;
    let site = Site::new(&[&endpoint], |_| {}).await;
    for name in ["iss", "sub", "client_id", "jti", "exp", "nbf", "iat", "cnf", "username"] {
        endpoint.reply(active(|it| it[name] = json!(null)));
        assert_eq!(site.check(name).await, Ok(()), "{name}");
    }
    endpoint.reply(active(|it| it["scope"] = json!(null)));
    assert_eq!(site.check("scope").await, Err(Denial::ScopeInsufficient));
}

#[tokio::test]
async fn the_binding_in_an_answer_is_enforced() {
    let (mine, other) = (Thumbprint::of(b"mine"), Thumbprint::of(b"other"));
    let bound = active(|it| it["cnf"] = json!({"x5t#S256": mine.to_base64url()}));
    let endpoint = IntrospectionEndpoint::start(bound).await;
    let site = Site::new(&[&endpoint], |_| {}).await;
    let with = |shown: Option<Thumbprint>| {
        let site = &site;
        async move { site.verdict("Bearer", "opaque", "first", shown).await }
    };
    let verdict = with(Some(mine)).await;
    assert_eq!(verdict.outcome, Ok(()));
    assert!(verdict.facts.proved.certificate);
    assert_eq!(with(Some(other)).await.outcome, Err(Denial::CertificateMismatch));
    assert_eq!(with(None).await.outcome, Err(Denial::CertificateMissing));
    endpoint.reply(active(|it| it["cnf"] = json!({"jkt": mine.to_base64url()})));
    assert_eq!(site.check("dpop-bound").await, Err(Denial::SchemeMismatch));
    assert_eq!(endpoint.calls(), 2);
}

// ---- signed answers ----

#[tokio::test]
async fn a_signed_answer_counts_when_the_issuer_signed_it_for_us() {
    let endpoint = IntrospectionEndpoint::start(inactive()).await;
    let site = Site::new(&[&endpoint], |_| {}).await;
    let statement = json!({"active": true, "aud": "api", "scope": "read"});
    let claims = json!({
        "iss": ISSUER, "aud": "gate way", "iat": NOW, "token_introspection": statement,
    });
    let typ = "token-introspection+jwt";
    let signed = |jwt: String| Reply::of("Application/Token-Introspection+JWT; a=b", jwt);
    let edited = |name: &str, value: Value| {
        let mut claims = claims.clone();
        claims[name] = value;
        signed(site.signer.sign(typ, &claims))
    };
    let stranger = Signer::new(Signing::ES256, "key-1");
    let other_algorithm = Signer::new(Signing::ES384, "key-2");
    let unavailable = Err(Denial::IntrospectionUnavailable);
    let table = [
        (signed(site.signer.sign(typ, &claims)), Ok(())),
        (edited("aud", json!(["gate way", "x"])), Ok(())),
        (edited("token_introspection", json!({"active": false})), Err(Denial::TokenInactive)),
        (
            edited("token_introspection", json!({"active": true, "aud": "other"})),
            Err(Denial::TokenAudienceMismatch),
        ),
        (edited("token_introspection", json!({"active": "true"})), unavailable),
        (edited("token_introspection", json!(null)), unavailable),
        (edited("iss", json!(OTHER_ISSUER)), unavailable),
        (edited("aud", json!("api")), unavailable),
        (edited("iat", json!(NOW + 31)), unavailable),
        (edited("iat", json!(NOW - 3600)), unavailable),
        (signed(site.signer.sign("at+jwt", &claims)), unavailable),
        (signed(site.signer.sign("JWT", &claims)), unavailable),
        (signed(stranger.sign(typ, &claims)), unavailable),
        (signed(other_algorithm.sign(typ, &claims)), unavailable),
        (signed(tokens::tampered(&site.signer.sign(typ, &claims))), unavailable),
        (signed(statement.to_string()), unavailable),
    ];
    for (place, (reply, expected)) in table.into_iter().enumerate() {
        endpoint.reply(reply);
        assert_eq!(site.check(&format!("{place}")).await, expected, "row {place}");
    }
}

#[tokio::test]
async fn the_jwt_for_which_a_token_stands_goes_upstream_in_its_place() {
    let endpoint = IntrospectionEndpoint::start(inactive()).await;
    let site = Site::new(&[&endpoint], |it| it.forward_jwt = true).await;
    let jwt = site.signer.sign("at+jwt", &claims());
    endpoint.reply(Reply::of("application/jwt;charset=UTF-8", format!("{jwt}\n")));
    let bearer = Header { name: "authorization", value: format!("Bearer {jwt}").into() };
    for asked in [1, 1] {
        let verdict = site.verdict("Bearer", "opaque", "first", None).await;
        assert_eq!(verdict.outcome, Ok(()));
        assert_eq!(verdict.facts.token.as_ref().unwrap().claims.text("sub"), Some("alice"));
        let answer = Answer::of(&verdict, &site.installation.rules.policies, None);
        let Answer::Allow { set, remove, .. } = &answer else { panic!("{answer:?}") };
        assert_eq!((set, remove), (&vec![bearer.clone()], &vec![]));
        assert!(!format!("{verdict:?} {answer:?}").contains(&jwt), "it is a secret");
        assert_eq!(endpoint.calls(), asked);
    }
    let accept = endpoint.asked()[0].headers["accept"].to_str().unwrap().to_owned();
    assert!(accept.starts_with("application/jwt, application/token-introspection+jwt"), "{accept}");
}

#[tokio::test]
async fn what_goes_upstream_is_the_operators_to_say() {
    let endpoint = IntrospectionEndpoint::start(inactive()).await;
    for (authorization, forward_jwt, sets, removes) in [
        (UpstreamAuthorization::Keep, true, 1, 0),
        (UpstreamAuthorization::Bearer, true, 1, 1),
        (UpstreamAuthorization::Remove, true, 0, 2),
        (UpstreamAuthorization::Keep, false, 0, 0),
    ] {
        let mut site = Site::new(&[&endpoint], |it| it.forward_jwt = forward_jwt).await;
        site.installation.rules.policies.upstream.authorization = authorization;
        let jwt = site.signer.sign("at+jwt", &claims());
        endpoint.reply(Reply::of("application/jwt", jwt));
        let verdict = site.verdict("Bearer", "opaque", "first", None).await;
        let answer = Answer::of(&verdict, &site.installation.rules.policies, None);
        let Answer::Allow { set, remove, .. } = answer else { panic!("{answer:?}") };
        assert_eq!((set.len(), remove.len()), (sets, removes), "{authorization:?}");
    }
}

#[tokio::test]
async fn a_jwt_to_forward_is_an_access_token_or_nothing() {
    let endpoint = IntrospectionEndpoint::start(inactive()).await;
    let site = Site::new(&[&endpoint], |it| it.forward_jwt = true).await;
    let jwt = |jwt: String| Reply::of("application/jwt", jwt);
    let edited = |name: &str, value: Value| {
        let mut claims = claims();
        claims[name] = value;
        jwt(site.signer.sign("at+jwt", &claims))
    };
    let stranger = Signer::new(Signing::ES256, "key-1");
    let unknown = Signer::new(Signing::ES256, "key-2");
    let unavailable = Err(Denial::IntrospectionUnavailable);
    let bound = json!({"x5t#S256": Thumbprint::of(b"mine").to_base64url()});
    let table = [
        (inactive(), Err(Denial::TokenInactive)),
        (Reply::status(204), Err(Denial::TokenInactive)),
        (active(|_| {}), unavailable),
        (jwt(stranger.sign("at+jwt", &claims())), unavailable),
        (jwt(unknown.sign("at+jwt", &claims())), unavailable),
        (jwt(site.signer.sign("JWT", &claims())), unavailable),
        (jwt(tokens::tampered(&site.signer.sign("at+jwt", &claims()))), unavailable),
        (jwt("opaque".to_owned()), unavailable),
        (jwt(String::new()), unavailable),
        (edited("aud", json!("other")), Err(Denial::TokenAudienceMismatch)),
        (edited("iss", json!(OTHER_ISSUER)), Err(Denial::TokenIssuerUnknown)),
        (edited("exp", json!(NOW - 30)), Err(Denial::TokenExpired)),
        (edited("cnf", json!("x")), Err(Denial::TokenMalformed)),
        (edited("cnf", bound), Err(Denial::CertificateMissing)),
    ];
    for (place, (reply, expected)) in table.into_iter().enumerate() {
        endpoint.reply(reply);
        assert_eq!(site.check(&format!("{place}")).await, expected, "row {place}");
    }
}

#[tokio::test]
async fn the_jwt_may_be_a_member_of_a_plain_answer() {
    let endpoint = IntrospectionEndpoint::start(inactive()).await;
    let site = Site::new(&[&endpoint], |it| it.forward_jwt = true).await;
    let stranger = Signer::new(Signing::ES256, "key-1");
    let mine = json!({"x5t#S256": Thumbprint::of(b"mine").to_base64url()});
    let other = json!({"x5t#S256": Thumbprint::of(b"other").to_base64url()});
    let whole = |edit: &dyn Fn(&mut Value)| {
        let mut claims = claims();
        edit(&mut claims);
        site.signer.sign("at+jwt", &claims)
    };
    let plain = whole(&|_| {});
    let with = |jwt: &str, edit: &dyn Fn(&mut Value)| {
        let mut answer = json!({"active": true, "sub": "alice", "jwt": jwt});
        edit(&mut answer);
        Reply::json(&answer)
    };
    let unavailable = Err(Denial::IntrospectionUnavailable);
    let table = [
        (with(&plain, &|_| {}), Ok(())),
        (with(&plain, &|it| it["active"] = json!(false)), Err(Denial::TokenInactive)),
        (with(&plain, &|it| it["jwt"] = json!(7)), unavailable),
        (with(&plain, &|it| it["jwt"] = json!(null)), unavailable),
        (with("opaque", &|_| {}), unavailable),
        (with(&stranger.sign("at+jwt", &claims()), &|_| {}), unavailable),
        (with(&site.signer.sign("id+jwt", &claims()), &|_| {}), unavailable),
        (
            with(&whole(&|it| it["aud"] = json!("other")), &|_| {}),
            Err(Denial::TokenAudienceMismatch),
        ),
        (with(&plain, &|it| it["aud"] = json!("other")), Err(Denial::TokenAudienceMismatch)),
        (with(&plain, &|it| it["sub"] = json!("mallory")), Err(Denial::TokenMalformed)),
        (with(&plain, &|it| it["exp"] = json!(NOW - 30)), Err(Denial::TokenExpired)),
        (with(&plain, &|it| it["cnf"] = mine.clone()), Ok(())),
        (with(&plain, &|it| it["cnf"] = other.clone()), Err(Denial::CertificateMismatch)),
        (
            with(&whole(&|it| it["cnf"] = mine.clone()), &|it| it["cnf"] = other.clone()),
            Err(Denial::CertificateMismatch),
        ),
    ];
    for (place, (reply, expected)) in table.into_iter().enumerate() {
        endpoint.reply(reply);
        let shown = Some(Thumbprint::of(b"mine"));
        let verdict = site.verdict("Bearer", &format!("{place}"), "first", shown).await;
        assert_eq!(verdict.outcome, expected, "row {place}");
        assert!(expected.is_err() || verdict.facts.forward.is_some(), "row {place}");
    }
}

#[tokio::test]
async fn a_server_that_sends_a_jwt_to_an_exact_header_alone_is_asked_so_from_then_on() {
    let endpoint = IntrospectionEndpoint::start(inactive()).await;
    let site = Site::new(&[&endpoint], |it| it.forward_jwt = true).await;
    let whole = site.signer.sign("at+jwt", &claims());
    let exact = move |headers: &http::HeaderMap| headers["accept"] == "application/jwt";
    endpoint.follow_headers(move |headers| {
        let mut answer = json!({"active": true, "sub": "alice"});
        if exact(headers) {
            answer["jwt"] = json!(whole);
        }
        Reply::json(&answer)
    });
    for (token, calls) in [("first", 2), ("second", 3), ("third", 4)] {
        assert_eq!(site.check(token).await, Ok(()), "{token}");
        assert_eq!(endpoint.calls(), calls, "{token}");
    }
    endpoint.reply(active(|_| {}));
    assert_eq!(site.check("fourth").await, Err(Denial::IntrospectionUnavailable));
    assert_eq!(site.status(0).calls["jwt_missing"], 1, "what it says is heard once");
}

#[tokio::test]
async fn a_signed_answer_goes_when_its_key_leaves_the_issuers_keys() {
    let endpoint = IntrospectionEndpoint::start(inactive()).await;
    let site = Site::new(&[&endpoint], |it| it.forward_jwt = true).await;
    endpoint.reply(Reply::of("application/jwt", site.signer.sign("at+jwt", &claims())));
    assert_eq!(site.check("opaque").await, Ok(()));
    let next = Signer::new(Signing::ES256, "key-2");
    site.publish(&[next.jwk().clone()]).await;
    assert_eq!(site.check("opaque").await, Err(Denial::IntrospectionUnavailable));
    jump(SECOND).await;
    endpoint.reply(Reply::of("application/jwt", next.sign("at+jwt", &claims())));
    assert_eq!(site.check("opaque").await, Ok(()));
    assert_eq!(endpoint.calls(), 3);
}

#[tokio::test]
async fn a_signed_answer_goes_when_its_key_no_longer_serves_its_algorithm() {
    let endpoint = IntrospectionEndpoint::start(inactive()).await;
    let site = Site::build(&[&endpoint], |issuer| {
        judged(issuer).algorithms = vec![Algorithm::RS256, Algorithm::PS256];
        issuer.introspection.as_mut().unwrap().forward_jwt = true;
    })
    .await;
    let signer = Signer::new(Signing::RS256, "key-rsa");
    let jwk = |alg: &str| {
        let mut jwk = signer.jwk().clone();
        jwk["alg"] = alg.into();
        jwk
    };
    site.publish(&[jwk("RS256")]).await;
    endpoint.reply(Reply::of("application/jwt", signer.sign("at+jwt", &claims())));
    assert_eq!(site.check("opaque").await, Ok(()));
    site.publish(&[jwk("PS256")]).await;
    assert_eq!(site.check("opaque").await, Err(Denial::IntrospectionUnavailable));
    assert_eq!(endpoint.calls(), 2, "what it said before does not count");
}

// ---- which issuer ----

#[tokio::test]
async fn the_policys_issuers_are_asked_in_order_until_one_knows_the_token() {
    let inactive_here = Err(Denial::TokenInactive);
    let unavailable = Err(Denial::IntrospectionUnavailable);
    let broken = || Reply::status(500);
    let elsewhere = || active(|it| it["iss"] = json!("https://third.example.com"));
    let not_for_us = || active(|it| it["aud"] = json!("other"));
    for (first, second, expected, calls) in [
        (active(|_| {}), active(|_| {}), Ok(()), (1, 0)),
        (inactive(), active(|_| {}), Ok(()), (1, 1)),
        (broken(), active(|_| {}), Ok(()), (1, 1)),
        (elsewhere(), active(|_| {}), Ok(()), (1, 1)),
        (inactive(), inactive(), inactive_here, (1, 1)),
        (broken(), inactive(), unavailable, (1, 1)),
        (inactive(), broken(), unavailable, (1, 1)),
        (broken(), elsewhere(), unavailable, (1, 1)),
        (inactive(), elsewhere(), Err(Denial::TokenIssuerUnknown), (1, 1)),
        (not_for_us(), active(|_| {}), Err(Denial::TokenAudienceMismatch), (1, 0)),
    ] {
        let (a, b) = two(first, second).await;
        let site = Site::new(&[&a, &b], |_| {}).await;
        assert_eq!(site.check_of("both", "opaque").await, expected);
        assert_eq!((a.calls(), b.calls()), calls);
    }
}

#[tokio::test]
async fn only_the_policys_issuers_are_asked() {
    let (a, b) = two(active(|_| {}), active(|_| {})).await;
    let site = Site::new(&[&a, &b], |_| {}).await;
    assert_eq!(site.check_of("second", "opaque").await, Ok(()));
    assert_eq!((a.calls(), b.calls()), (0, 1));
}

#[tokio::test]
async fn without_introspection_an_opaque_token_is_none() {
    let endpoint = IntrospectionEndpoint::start(active(|_| {})).await;
    let site = Site::build(&[&endpoint], |it| {
        it.introspection = None;
        judged(it).introspection = Introspection::Never;
    })
    .await;
    for token in ["opaque", "a.b", "a.b.c.d.e"] {
        assert_eq!(site.check(token).await, Err(Denial::TokenMalformed), "{token}");
    }
    assert_eq!(endpoint.calls(), 0);
}

#[tokio::test]
async fn a_token_of_no_grammar_is_asked_about_where_the_policy_asks() {
    let (asking, silent) = two(active(|_| {}), active(|_| {})).await;
    let site = Site::build(&[&asking, &silent], |it| {
        if *it.issuer.name == *OTHER_ISSUER {
            it.introspection = None;
            judged(it).introspection = Introspection::Never;
        }
    })
    .await;
    let session = "00D5g0!AQEAQ.zX_1.k";
    assert_eq!(site.check_of("second", session).await, Err(Denial::TokenMalformed));
    assert_eq!((asking.calls(), silent.calls()), (0, 0));
    for policy in ["first", "both"] {
        assert_eq!(site.check_of(policy, session).await, Ok(()), "{policy}");
    }
    assert_eq!((asking.calls(), silent.calls()), (1, 0));
    assert!(asking.asked()[0].form.starts_with("token=00D5g0%21AQEAQ.zX_1.k&"));
    for (token, denial) in [
        ("a!,b", Denial::CredentialsAmbiguous),
        ("a! b", Denial::TokenMalformed),
        ("a!\"b\"", Denial::TokenMalformed),
        ("a!;token=b", Denial::TokenMalformed),
    ] {
        assert_eq!(site.check(token).await, Err(denial), "{token}");
    }
    assert_eq!(asking.calls(), 1);
}

#[tokio::test]
async fn all_that_is_no_signed_jwt_is_opaque_up_to_its_bound() {
    let endpoint = IntrospectionEndpoint::start(active(|_| {})).await;
    let site = Site::new(&[&endpoint], |_| {}).await;
    let longest = "x".repeat(4096);
    for token in ["opaque", "a.b", "a.b.c.d.e", &longest] {
        assert_eq!(site.check(token).await, Ok(()), "{token}");
    }
    assert_eq!(endpoint.calls(), 4);
    assert_eq!(site.check("a.b.c").await, Err(Denial::TokenMalformed));
    assert_eq!(site.check(&format!("{longest}x")).await, Err(Denial::TokenTooLarge));
    assert_eq!(endpoint.calls(), 4);
}

// ---- JWTs that may have been revoked ----

#[tokio::test]
async fn a_jwt_is_introspected_only_when_the_operator_says_so() {
    let endpoint = IntrospectionEndpoint::start(inactive()).await;
    let site = Site::new(&[&endpoint], |_| {}).await;
    assert_eq!(site.check(&site.signer.sign("at+jwt", &claims())).await, Ok(()));
    assert_eq!(endpoint.calls(), 0);
}

#[tokio::test]
async fn a_revoked_jwt_is_refused_after_the_time_that_answers_are_kept() {
    let endpoint = IntrospectionEndpoint::start(active(|_| {})).await;
    let site = Site::build(&[&endpoint], asked_about_all).await;
    let jwt = site.signer.sign("at+jwt", &claims());
    assert_eq!(site.check(&jwt).await, Ok(()));
    endpoint.reply(inactive());
    jump(59 * SECOND).await;
    assert_eq!(site.check(&jwt).await, Ok(()));
    assert_eq!(endpoint.calls(), 1);
    jump(SECOND).await;
    assert_eq!(site.check(&jwt).await, Err(Denial::TokenRevoked));
}

#[tokio::test]
async fn the_claims_of_a_jwt_count_and_the_answer_may_only_take_away() {
    let endpoint = IntrospectionEndpoint::start(inactive()).await;
    let mine = json!({"x5t#S256": Thumbprint::of(b"mine").to_base64url()});
    let other = json!({"x5t#S256": Thumbprint::of(b"other").to_base64url()});
    let with = |name: &str, value: &Value| active(|it| it[name] = value.clone());
    let unavailable = Err(Denial::IntrospectionUnavailable);
    let table = [
        (None, with("active", &json!(true)), Ok(())),
        (None, with("aud", &json!("other")), Ok(())),
        (None, with("scope", &json!("")), Ok(())),
        (None, with("exp", &json!(NOW - 30)), Err(Denial::TokenExpired)),
        (None, with("cnf", &mine), Err(Denial::TokenMalformed)),
        (Some(&mine), with("cnf", &mine), Ok(())),
        (Some(&mine), with("active", &json!(true)), Ok(())),
        (Some(&mine), with("cnf", &other), Err(Denial::TokenMalformed)),
        (Some(&mine), with("cnf", &json!({})), Err(Denial::TokenMalformed)),
        (Some(&other), with("cnf", &other), Err(Denial::CertificateMismatch)),
        (None, Reply::status(500), unavailable),
        (None, inactive(), Err(Denial::TokenRevoked)),
    ];
    for (place, (cnf, reply, expected)) in table.into_iter().enumerate() {
        let site = Site::build(&[&endpoint], |it| {
            asked_about_all(it);
            it.introspection.as_mut().unwrap().forward_jwt = true;
        })
        .await;
        let mut claims = claims();
        claims["jti"] = place.to_string().into();
        if let Some(cnf) = cnf {
            claims["cnf"] = cnf.clone();
        }
        endpoint.reply(reply);
        let jwt = site.signer.sign("at+jwt", &claims);
        let verdict = site.verdict("Bearer", &jwt, "first", Some(Thumbprint::of(b"mine"))).await;
        assert_eq!(verdict.outcome, expected, "row {place}");
        assert!(verdict.facts.forward.is_none(), "the client's own JWT goes upstream");
    }
}

#[tokio::test]
async fn a_jwt_that_is_refused_anyway_is_not_asked_about() {
    let endpoint = IntrospectionEndpoint::start(active(|_| {})).await;
    let site = Site::build(&[&endpoint], asked_about_all).await;
    let stranger = Signer::new(Signing::ES256, "key-1");
    let mut expired = claims();
    expired["exp"] = json!(NOW - 30);
    for jwt in [stranger.sign("at+jwt", &claims()), site.signer.sign("at+jwt", &expired)] {
        assert!(site.check(&jwt).await.is_err());
    }
    assert_eq!(endpoint.calls(), 0);
}

// ---- streams that end with their token ----

#[tokio::test]
async fn a_stream_lasts_as_long_as_the_first_end_that_is_said_or_the_answer_if_none_is() {
    let endpoint = IntrospectionEndpoint::start(inactive()).await;
    let with = |exp: Option<i64>| {
        active(|it| {
            if let Some(exp) = exp {
                it["exp"] = json!(NOW + exp);
            }
        })
    };
    let opaque: fn(&mut IssuerRules) = |_| ();
    // The ends of the token, if it is a JWT, and of the answer; the leeway of 30 s is on top.
    for (what, edit, own, said, expected) in [
        ("opaque", opaque, None, Some(100), 130),
        ("opaque", opaque, None, Some(-29), 1),
        ("opaque", opaque, None, None, 20),
        ("asked about", asked_about_all, Some(50), Some(100), 80),
        ("asked about", asked_about_all, Some(100), Some(50), 80),
        ("asked about", asked_about_all, Some(100), None, 130),
        ("completed", completed_by_answers, Some(50), Some(100), 80),
        ("completed", completed_by_answers, None, Some(100), 130),
        ("completed", completed_by_answers, Some(100), None, 130),
        ("completed", completed_by_answers, None, None, 20),
    ] {
        endpoint.reply(with(said));
        let site = Site::build(&[&endpoint], |it| {
            it.introspection.as_mut().unwrap().upkeep.cache_ttl = 20 * SECOND;
            edit(it);
        })
        .await;
        let mut claims = json!({"iss": ISSUER, "aud": "api", "sub": "alice", "scope": "read"});
        if let Some(exp) = own {
            claims["exp"] = json!(NOW + exp);
        }
        let jwt = site.signer.sign("at+jwt", &claims);
        let token = if what == "opaque" { "opaque" } else { &*jwt };
        for time in ["first", "second"] {
            let row = format!("{what} {own:?} {said:?}, the {time} time");
            let verdict = site.verdict("Bearer", token, "streams", None).await;
            assert_eq!(verdict.outcome, Ok(()), "{row}");
            assert_eq!(verdict.facts.left, Some(expected * SECOND), "{row}");
            let verdict = site.verdict("Bearer", token, "first", None).await;
            assert_eq!((verdict.outcome, verdict.facts.left), (Ok(()), None), "{row}");
        }
    }
}

// ---- JWTs whose claims are in the answer ----

fn completed_by_answers(rules: &mut IssuerRules) {
    asked_about_all(rules);
    judged(rules).claims_from = ClaimsFrom::Answer;
}

#[tokio::test]
async fn an_answer_adds_to_a_token_that_says_little_and_takes_nothing_from_it() {
    let endpoint = IntrospectionEndpoint::start(inactive()).await;
    let mine = json!({"x5t#S256": Thumbprint::of(b"mine").to_base64url()});
    let other = json!({"x5t#S256": Thumbprint::of(b"other").to_base64url()});
    let key = json!({"jkt": Thumbprint::of(b"key").to_base64url()});
    let little = json!({"iss": ISSUER, "iat": NOW, "jti": "1"});
    let said =
        json!({"active": true, "aud": "api", "sub": "alice", "client_id": "app", "scope": "read"});
    // What the token and the answer hold besides, and what comes of it.
    let table = [
        (json!({}), json!({}), Ok(())),
        (json!({"sub": "alice", "azp": "app"}), json!({}), Ok(())),
        (json!({"sub": "bob"}), json!({}), Err(Denial::TokenMalformed)),
        (json!({"client_id": "other"}), json!({}), Err(Denial::TokenMalformed)),
        (json!({}), json!({"iss": ISSUER}), Ok(())),
        (json!({}), json!({"iss": OTHER_ISSUER}), Err(Denial::TokenIssuerUnknown)),
        (json!({}), json!({"aud": null}), Err(Denial::TokenClaimMissing)),
        (json!({}), json!({"aud": "other"}), Err(Denial::TokenAudienceMismatch)),
        (json!({"aud": "api"}), json!({"aud": null}), Ok(())),
        (json!({"aud": "other"}), json!({}), Err(Denial::TokenAudienceMismatch)),
        (json!({}), json!({"scope": "write"}), Err(Denial::ScopeInsufficient)),
        (json!({"scope": "read"}), json!({"scope": null}), Ok(())),
        (json!({"scope": "write"}), json!({}), Err(Denial::ScopeInsufficient)),
        (json!({"exp": NOW - 30}), json!({}), Err(Denial::TokenExpired)),
        (json!({"exp": NOW + 60}), json!({"exp": NOW - 30}), Err(Denial::TokenExpired)),
        (json!({"nbf": NOW + 31}), json!({}), Err(Denial::TokenPremature)),
        (json!({}), json!({"nbf": NOW + 31}), Err(Denial::TokenPremature)),
        (json!({"cnf": mine}), json!({}), Ok(())),
        (json!({}), json!({"cnf": mine}), Ok(())),
        (json!({"cnf": mine}), json!({"cnf": mine}), Ok(())),
        (json!({"cnf": other}), json!({}), Err(Denial::CertificateMismatch)),
        (json!({}), json!({"cnf": other}), Err(Denial::CertificateMismatch)),
        (json!({"cnf": mine}), json!({"cnf": other}), Err(Denial::CertificateMismatch)),
        (json!({"cnf": mine}), json!({"cnf": key}), Err(Denial::SchemeMismatch)),
        (json!({"cnf": mine}), json!({"cnf": {"x": 1}}), Err(Denial::BindingUnsupported)),
        (json!({"cnf": {"x": 1}}), json!({"cnf": mine}), Err(Denial::BindingUnsupported)),
        (json!({}), json!({"token_use": "refresh_token"}), Err(Denial::TokenTypeWrong)),
        (json!({}), json!({"token_type": "ID"}), Err(Denial::TokenTypeWrong)),
        (json!({"events": {}}), json!({}), Err(Denial::TokenTypeWrong)),
        (json!({}), json!({"active": false}), Err(Denial::TokenRevoked)),
    ];
    let with = |object: &Value, more: &Value| {
        let mut object = object.clone();
        let more = more.as_object().unwrap().clone();
        object.as_object_mut().unwrap().extend(more);
        object
    };
    for (own, answer, expected) in table {
        let site = Site::build(&[&endpoint], completed_by_answers).await;
        endpoint.reply(Reply::json(&with(&said, &answer)));
        let jwt = site.signer.sign("at+jwt", &with(&little, &own));
        for _again in 0..2 {
            let verdict =
                site.verdict("Bearer", &jwt, "first", Some(Thumbprint::of(b"mine"))).await;
            assert_eq!(verdict.outcome, expected, "{own} {answer}");
            if expected.is_ok() {
                let token = verdict.facts.token.unwrap();
                assert_eq!(token.claims.text("sub"), Some("alice"), "{own} {answer}");
                assert_eq!(token.claims.text("client_id"), Some("app"), "{own} {answer}");
            }
        }
    }
}

#[tokio::test]
async fn what_only_an_answer_can_say_is_no_mismatch_of_the_token() {
    let endpoint = IntrospectionEndpoint::start(inactive()).await;
    let other = json!({"x5t#S256": Thumbprint::of(b"other").to_base64url()});
    let little = json!({"iss": ISSUER, "iat": NOW, "jti": "1"});
    for (reply, denial, besides) in [
        (Reply::status(500), Denial::IntrospectionUnavailable, &[][..]),
        (inactive(), Denial::TokenRevoked, &[]),
        // Once it has answered, what it says counts.
        (
            active(|it| {
                it["scope"] = json!("write");
                it["cnf"] = other.clone();
            }),
            Denial::ScopeInsufficient,
            &[Denial::CertificateMissing],
        ),
    ] {
        let site = Site::build(&[&endpoint], completed_by_answers).await;
        endpoint.reply(reply);
        let authorization = format!("Bearer {}", site.signer.sign("at+jwt", &little));
        let request = Request {
            policy: Some("first"),
            target: Target { method: "GET", scheme: "https", authority: "api", path: "/" },
            authorization: Field::One(authorization.as_bytes()),
            ..Request::default()
        };
        let (rules, sources) = (&site.installation.rules, &site.installation);
        let verdict = site.checker.explain_with(rules, sources, &request, None).await;
        assert_eq!(verdict.outcome, Err(denial));
        let now = UnixTime::from_secs(NOW);
        let found = keybound_core::diagnose(rules, sources, &request, now, &verdict).await;
        let found: Vec<_> = found.mismatches.iter().map(|it| it.denial).collect();
        assert_eq!(found, besides, "{denial:?}");
    }
}

#[tokio::test]
async fn an_issuer_whose_answers_add_must_be_reached() {
    let endpoint = IntrospectionEndpoint::start(Reply::status(500)).await;
    let site = Site::build(&[&endpoint], completed_by_answers).await;
    let whole = site.signer.sign("at+jwt", &claims());
    assert_eq!(site.check(&whole).await, Err(Denial::IntrospectionUnavailable));
    let stranger = Signer::new(Signing::ES256, "key-1").sign("at+jwt", &claims());
    let calls = endpoint.calls();
    assert_eq!(site.check(&stranger).await, Err(Denial::TokenSignatureInvalid));
    assert_eq!(endpoint.calls(), calls, "nobody is asked about what anybody may have written");
}

#[tokio::test]
async fn the_jwt_that_stands_for_a_lightweight_one_goes_upstream() {
    let endpoint = IntrospectionEndpoint::start(inactive()).await;
    let site = Site::build(&[&endpoint], |it| {
        completed_by_answers(it);
        it.introspection.as_mut().unwrap().forward_jwt = true;
    })
    .await;
    let whole = site.signer.sign("at+jwt", &claims());
    let answer = json!({"active": true, "sub": "alice", "jwt": whole});
    endpoint.reply(Reply::json(&answer));
    let lightweight = site.signer.sign("at+jwt", &json!({"iss": ISSUER}));
    let verdict = site.verdict("Bearer", &lightweight, "first", None).await;
    assert_eq!(verdict.outcome, Ok(()));
    assert_eq!(verdict.facts.forward.as_ref().map(|it| it.as_str()), Some(whole.as_str()));
}

#[tokio::test]
async fn what_is_null_in_a_token_is_for_the_answer_to_say() {
    let endpoint = IntrospectionEndpoint::start(active(|_| {})).await;
    let site = Site::build(&[&endpoint], completed_by_answers).await;
    let little = json!({"iss": ISSUER, "sub": null, "scope": null, "aud": null});
    let verdict = site.verdict("Bearer", &site.signer.sign("at+jwt", &little), "first", None).await;
    assert_eq!(verdict.outcome, Ok(()));
    assert_eq!(verdict.facts.token.unwrap().claims.text("sub"), Some("alice"));
}

#[tokio::test]
async fn the_jwt_of_an_opaque_token_says_everything_also_where_answers_add() {
    let endpoint = IntrospectionEndpoint::start(inactive()).await;
    let site = Site::build(&[&endpoint], |it| {
        completed_by_answers(it);
        it.introspection.as_mut().unwrap().forward_jwt = true;
    })
    .await;
    for name in ["iss", "aud", "exp"] {
        let mut claims = claims();
        claims.as_object_mut().unwrap().remove(name);
        endpoint.reply(Reply::of("application/jwt", site.signer.sign("at+jwt", &claims)));
        assert_eq!(site.check(name).await, Err(Denial::TokenClaimMissing), "{name}");
    }
}

#[tokio::test]
async fn an_active_token_of_another_kind_is_no_access_token() {
    let endpoint = IntrospectionEndpoint::start(inactive()).await;
    let site = Site::new(&[&endpoint], |_| {}).await;
    for (place, (name, value, expected)) in [
        ("token_type", json!("Bearer"), Ok(())),
        ("token_type", json!("DPoP"), Ok(())),
        ("token_type", json!(null), Ok(())),
        ("token_type", json!("refresh_token"), Err(Denial::TokenTypeWrong)),
        ("token_type", json!("Refresh"), Err(Denial::TokenTypeWrong)),
        ("token_type", json!("ID"), Err(Denial::TokenTypeWrong)),
        ("token_use", json!("access_token"), Ok(())),
        ("token_use", json!("refresh_token"), Err(Denial::TokenTypeWrong)),
        ("token_use", json!("id"), Err(Denial::TokenTypeWrong)),
        ("events", json!({}), Err(Denial::TokenTypeWrong)),
    ]
    .into_iter()
    .enumerate()
    {
        endpoint.reply(active(|it| it[name] = value.clone()));
        assert_eq!(site.check(&format!("opaque-{place}")).await, expected, "{name} {value}");
    }
}

// ---- configuration ----

#[tokio::test]
async fn a_new_configuration_takes_over_what_stands_as_it_stood() {
    let (a, b) = two(active(|_| {}), active(|_| {})).await;
    let site = Site::new(&[&a, &b], |_| {}).await;
    let before = &site.installation.issuers;
    let mut rules = site.rules.clone();
    let again = site.start(&rules, Some(&site.installation)).unwrap();
    assert_eq!(same(before, &again), [true, true]);

    let edited = rules.issuers[1].introspection.as_mut().unwrap();
    edited.client_id = Some("another".to_owned());
    let again = site.start(&rules, Some(&site.installation)).unwrap();
    assert_eq!(same(before, &again), [true, false]);

    rules.policies.upstream.headers.push(IdentityHeader::new("x-amr", "amr"));
    let again = site.start(&rules, Some(&site.installation)).unwrap();
    assert_eq!(same(before, &again), [false, false], "other claims are kept now");
}

/// A change of the configuration.
type Edit = fn(&mut PolicySet, &mut IssuerRules);

/// A change of how an issuer is asked.
type Rule = fn(&mut IntrospectionRules);

const RULES: &[(&str, Rule)] = &[
    ("allow_missing_audience", |it| it.allow_missing_audience = true),
    ("timeout", |it| it.upkeep.timeout = 20 * SECOND),
    ("negative_ttl", |it| it.upkeep.negative_ttl = SECOND),
    ("cache_entries", |it| it.upkeep.cache_entries = 1000),
    ("concurrency", |it| it.upkeep.concurrency = 1),
    ("secret", |it| it.authentication = ClientAuthentication::SecretBasic("new".to_owned())),
];

const EDITS: &[(&str, Edit, Result<(), Denial>)] = &[
    ("nothing", |_, _| {}, Ok(())),
    ("clock_leeway", |_, it| judged(it).clock_leeway = 31 * SECOND, Ok(())),
    (
        "upstream.headers",
        |it, _| it.upstream.headers.push(IdentityHeader::new("x-amr", "amr")),
        Ok(()),
    ),
    ("audiences", |_, it| judged(it).audiences.insert(0, "other".to_owned()), Ok(())),
    (
        "other audiences",
        |_, it| judged(it).audiences = vec!["other".to_owned()],
        Err(Denial::TokenAudienceMismatch),
    ),
    ("algorithms", |_, it| judged(it).algorithms.push(Algorithm::PS256), Ok(())),
    ("introspect", |_, it| judged(it).introspection = Introspection::AllTokens, Ok(())),
    ("keys.max_stale", |_, it| it.keys.upkeep.max_stale *= 2, Ok(())),
];

/// Every configuration that is to be tried in place of `rules`, and what becomes of a token that
/// passed.
fn changed(
    rules: &InstallationRules,
) -> Vec<(&'static str, InstallationRules, Result<(), Denial>)> {
    let with = |edit: &dyn Fn(&mut PolicySet, &mut IssuerRules)| {
        let mut policies = rules.policies.clone();
        let changed = edited(rules, |it| edit(&mut policies, it));
        let issuers = changed.policies.issuers.clone();
        InstallationRules { policies: PolicySet { issuers, ..policies }, ..changed }
    };
    let edits = EDITS.iter().map(|(what, edit, expected)| (*what, with(edit), *expected));
    let rules = RULES.iter().map(|(what, rule)| {
        (*what, with(&|_, it| rule(it.introspection.as_mut().unwrap())), Ok(()))
    });
    edits.chain(rules).collect()
}

/// `rules` with another first issuer.
fn edited(rules: &InstallationRules, edit: impl FnOnce(&mut IssuerRules)) -> InstallationRules {
    let mut rules = rules.clone();
    edit(&mut rules.issuers[0]);
    rules.policies.issuers[0] = Arc::clone(&rules.issuers[0].issuer);
    rules
}

/// Of which JWTs, too, it is asked whether they are active.
fn asked_about_all(rules: &mut IssuerRules) {
    judged(rules).introspection = Introspection::AllTokens;
}

/// What the tokens of an issuer are held to, to be changed.
fn judged(rules: &mut IssuerRules) -> &mut Issuer {
    Arc::make_mut(&mut rules.issuer)
}

#[tokio::test]
async fn what_the_issuer_said_outlives_a_change_of_how_it_is_read() {
    let endpoint = IntrospectionEndpoint::start(inactive()).await;
    for form in ["json", "statement", "jwt"] {
        let site = Site::new(&[&endpoint], |it| it.forward_jwt = form != "json").await;
        let statement = json!({"active": true, "aud": "api", "scope": "read", "acr": "high"});
        let mut about = claims();
        about["acr"] = json!("high");
        let reply = match form {
            "json" => Reply::json(&statement),
            "statement" => {
                let typ = "token-introspection+jwt";
                let signed = json!({
                    "iss": ISSUER, "aud": "gate way", "iat": NOW, "token_introspection": statement,
                });
                Reply::of("application/token-introspection+jwt", site.signer.sign(typ, &signed))
            }
            _ => Reply::of("application/jwt", site.signer.sign("at+jwt", &about)),
        };
        for (what, rules, expected) in changed(&site.rules) {
            let token = format!("{form}-{what}").replace(' ', "-");
            endpoint.reply(reply.clone());
            assert_eq!(site.check(&token).await, Ok(()), "{form}, {what}");
            endpoint.reply(Reply::status(500));
            let calls = endpoint.calls();
            let after = site.start(&rules, Some(&site.installation)).unwrap();
            let changed = site.under(rules, after);
            // An answer to a signed question is as old as the call; it need not be so when read.
            site.clock.advance(100 * SECOND);
            for _ in 0..2 {
                let verdict = changed.verdict("Bearer", &token, "first", None).await;
                assert_eq!(verdict.outcome, expected, "{form}, {what}");
                let forwarded = expected.is_ok() && form != "json";
                assert_eq!(verdict.facts.forward.is_some(), forwarded, "{form}, {what}");
                if what == "upstream.headers" {
                    let token = verdict.facts.token.unwrap();
                    assert_eq!(token.claims.text("acr"), Some("high"), "{form}");
                }
            }
            site.clock.set(UnixTime::from_secs(NOW));
            assert_eq!(endpoint.calls(), calls, "{form}, {what}: nobody is asked");
            assert!(0 < changed.status(0).calls["active"], "{form}, {what}: it counts on");
        }
    }
}

#[tokio::test]
async fn how_the_issuer_fares_outlives_a_change_of_how_it_is_read() {
    let endpoint = IntrospectionEndpoint::start(inactive()).await;
    let ways = changed(&Site::new(&[&endpoint], |_| {}).await.rules).len();
    for way in 0..ways {
        let site = Site::new(&[&endpoint], |_| {}).await;
        let (what, rules, _) = changed(&site.rules).remove(way);
        let reloaded = || {
            let after = site.start(&rules, Some(&site.installation)).unwrap();
            site.under(rules.clone(), after)
        };
        endpoint.reply(Reply::status(503));
        for token in ["a", "b", "c", "d"] {
            site.check(token).await.unwrap_err();
        }
        // Nothing of what is asked for now waits.
        tokio::time::pause();
        let refused = reloaded().refusal("d").now_or_never();
        assert_eq!(refused, Some(unavailable(Detail::IssuerFailedBefore)), "{what}");
        tokio::time::resume();
        jump(2 * SECOND).await;
        site.check("e").await.unwrap_err();
        tokio::time::pause();
        let refused = reloaded().refusal("new").now_or_never();
        assert_eq!(refused, Some(unavailable(Detail::IssuerFails)), "{what}");
        assert_eq!(reloaded().status(0).breaker, "open", "{what}");
        tokio::time::resume();

        jump(10 * SECOND).await;
        endpoint.reply(Reply::limited(Some(30)));
        site.check("f").await.unwrap_err();
        let refused = reloaded().refusal("new").now_or_never();
        assert_eq!(refused, Some(unavailable(Detail::IssuerLimits)), "{what}");
    }
}

#[tokio::test]
async fn no_more_calls_than_may_be_are_under_way_at_once_across_a_reload() {
    for (before, now, at_once) in [(2, 2, 0), (4, 2, 0), (2, 4, 2)] {
        let endpoint = IntrospectionEndpoint::start(active(|_| {})).await;
        let site = Site::new(&[&endpoint], |it| it.upkeep.concurrency = before).await;
        endpoint.hold();
        let places = before - (before / 4).max(1);
        let tokens: Vec<_> = (0..4).map(|it| format!("new-{it}")).collect();
        let mut old = Box::pin(join_all(tokens[..places].iter().map(|it| site.check(it))));
        assert!(old.as_mut().now_or_never().is_none());
        let rules = edited(&site.rules, |it| {
            judged(it).clock_leeway = SECOND;
            it.introspection.as_mut().unwrap().upkeep.concurrency = now;
        });
        let after = site.start(&rules, Some(&site.installation)).unwrap();
        assert_eq!(site.status(0).in_flight, places, "{before}, {now}: to start is not to ask");
        let changed = site.under(rules, after);
        let others = ["a", "b"].map(|it| changed.check(it));
        let mut new = Box::pin(join_all(others));
        assert!(new.as_mut().now_or_never().is_none());
        let status = changed.status(0);
        assert_eq!(status.in_flight, places + at_once, "{before}, {now}");
        assert_eq!(status.waiting, 2 - at_once, "{before}, {now}");
        endpoint.release();
        assert!(old.await.iter().chain(&new.await).all(Result::is_ok), "{before}, {now}");
        assert_eq!((changed.status(0).in_flight, changed.status(0).waiting), (0, 0));
    }
}

#[tokio::test]
async fn what_is_another_question_is_asked_anew() {
    let endpoint = IntrospectionEndpoint::start(active(|_| {})).await;
    let site = Site::new(&[&endpoint], |_| {}).await;
    assert_eq!(site.check("opaque").await, Ok(()));
    let edits: &[(&str, Rule, usize)] = &[
        ("client_id", |it| it.client_id = Some("another".to_owned()), 1),
        ("endpoint", |it| it.endpoint.as_mut().unwrap().push_str("?x=1"), 1),
        // No JWT comes, whatever is accepted.
        ("forward_jwt", |it| it.forward_jwt = true, 2),
        ("cache_ttl", |it| it.upkeep.cache_ttl = 10 * SECOND, 1),
    ];
    jump(10 * SECOND).await;
    for (what, edit, expected) in edits {
        let rules = edited(&site.rules, |it| edit(it.introspection.as_mut().unwrap()));
        let after = site.start(&rules, Some(&site.installation)).unwrap();
        let calls = endpoint.calls();
        let _found = site.under(rules, after).check("opaque").await;
        assert_eq!(endpoint.calls(), calls + expected, "{what}");
    }
}

#[tokio::test]
async fn an_answer_that_is_read_again_counts_no_longer_than_it_did() {
    let endpoint = IntrospectionEndpoint::start(active(|_| {})).await;
    let site = Site::new(&[&endpoint], |_| {}).await;
    assert_eq!(site.check("opaque").await, Ok(()));
    let rules = edited(&site.rules, |it| judged(it).clock_leeway = SECOND);
    jump(59 * SECOND).await;
    let after = site.start(&rules, Some(&site.installation)).unwrap();
    let changed = site.under(rules, after);
    assert_eq!((changed.check("opaque").await, endpoint.calls()), (Ok(()), 1));
    jump(SECOND).await;
    assert_eq!((changed.check("opaque").await, endpoint.calls()), (Ok(()), 2));
}

#[tokio::test]
async fn an_answer_that_is_refused_when_read_again_is_not_read_for_each_check() {
    let endpoint = IntrospectionEndpoint::start(active(|_| {})).await;
    let site = Site::new(&[&endpoint], |_| {}).await;
    assert_eq!(site.check("opaque").await, Ok(()));
    let rules = edited(&site.rules, |it| judged(it).audiences = vec!["other".to_owned()]);
    let after = site.start(&rules, Some(&site.installation)).unwrap();
    let changed = site.under(rules, after);
    let refused = Err(Denial::TokenAudienceMismatch);
    jump(58 * SECOND).await;
    assert_eq!(changed.check("opaque").await, refused);
    assert_eq!((changed.status(0).refused_entries, changed.status(0).active_entries), (1, 1));
    // Those whose checks began before ask once more, and the issuer says something else.
    jump(2 * SECOND).await;
    endpoint.reply(active(|it| it["aud"] = json!(["api", "other"])));
    assert_eq!((site.check("opaque").await, endpoint.calls()), (Ok(()), 2));
    assert_eq!(changed.check("opaque").await, refused, "for its time it is not read");
    jump(3 * SECOND).await;
    assert_eq!((changed.check("opaque").await, endpoint.calls()), (Ok(()), 2));
}

#[tokio::test]
async fn an_endpoint_that_cannot_be_used_is_no_configuration() {
    let endpoint = IntrospectionEndpoint::start(inactive()).await;
    let site = Site::new(&[&endpoint], |_| {}).await;
    let start = |edit: &dyn Fn(&mut IssuerRules)| {
        issuer_fault(site.start(&edited(&site.rules, edit), None).err())
    };
    for url in ["http://as.example.com/", "introspect", "", "https://a:b@as.example.com/"] {
        let edit = |it: &mut IssuerRules| {
            it.introspection.as_mut().unwrap().endpoint = Some(url.to_owned());
        };
        assert_eq!(start(&edit), Some(BadIssuer::Introspection(BadEndpoint::UrlRefused)), "{url}");
    }
    let no_url = |it: &mut IssuerRules| {
        judged(it).name = "urn:example:as".into();
        it.introspection.as_mut().unwrap().endpoint = None;
    };
    assert_eq!(start(&no_url), Some(BadIssuer::Introspection(BadEndpoint::UrlRefused)));
    let no_pem = |it: &mut IssuerRules| {
        let rules = it.introspection.as_mut().unwrap();
        rules.identity = Some(Identity(b"not PEM".to_vec()));
    };
    assert!(matches!(start(&no_pem), Some(BadIssuer::Introspection(BadEndpoint::Credentials(_)))));
}

// ---- the installation ----

/// One or two issuers with a key each, and three policies: for the first, the second, and both.
struct Site {
    rules: InstallationRules,
    installation: Installation,
    checker: Checker,
    clock: Arc<ManualClock>,
    signer: Signer,
    files: tempfile::TempDir,
}

impl Site {
    async fn new(
        endpoints: &[&IntrospectionEndpoint],
        edit: impl Fn(&mut IntrospectionRules),
    ) -> Self {
        Self::build(endpoints, |it| edit(it.introspection.as_mut().unwrap())).await
    }

    async fn build(endpoints: &[&IntrospectionEndpoint], edit: impl Fn(&mut IssuerRules)) -> Self {
        let signer = Signer::new(Signing::ES256, "key-1");
        let files = tempfile::tempdir().unwrap();
        let mut issuers = Vec::new();
        for (place, (endpoint, name)) in endpoints.iter().zip([ISSUER, OTHER_ISSUER]).enumerate() {
            let path = files.path().join(format!("keys-{place}.json"));
            std::fs::write(&path, json!({ "keys": [signer.jwk()] }).to_string()).unwrap();
            let mut issuer = issuer(name, KeySource::File(path), endpoint.url());
            edit(&mut issuer);
            issuers.push(issuer);
        }
        let clock = Arc::new(ManualClock::at(UnixTime::from_secs(NOW)));
        let shared: Arc<dyn Clock> = clock.clone();
        let policies = policies(issuers.iter().map(|it| Arc::clone(&it.issuer)).collect());
        let (limits, dpop) = (Limits::default(), DpopRules::default());
        let rules = InstallationRules { policies, issuers, limits, dpop };
        let made = Installation::start(rules.clone(), None, &shared, &Handle::current());
        let installation = made.unwrap().installation;
        for issuer in &installation.issuers {
            issuer.keys.ready().await;
        }
        Self { rules, installation, checker: Checker::new(shared), clock, signer, files }
    }

    /// How a check ends that brings `token` to the first issuer's policy.
    async fn check(&self, token: &str) -> Result<(), Denial> {
        self.check_of("first", token).await
    }

    async fn check_of(&self, policy: &str, token: &str) -> Result<(), Denial> {
        self.verdict("Bearer", token, policy, None).await.outcome
    }

    /// The same, with what the operator is told besides.
    async fn refusal(&self, token: &str) -> Result<(), (Denial, Option<Detail>)> {
        let verdict = self.verdict("Bearer", token, "first", None).await;
        verdict.outcome.map_err(|it| (it, verdict.facts.detail))
    }

    /// What an explanation tells of the issuer's answers about `token`.
    async fn told(&self, token: &str) -> Vec<String> {
        let authorization = format!("Bearer {token}");
        let request = Request {
            policy: Some("first"),
            target: Target { method: "GET", scheme: "https", authority: "api", path: "/" },
            authorization: Field::One(authorization.as_bytes()),
            ..Request::default()
        };
        let (rules, sources) = (&self.installation.rules, &self.installation);
        let verdict = self.checker.explain_with(rules, sources, &request, None).await;
        let body = format!("{:?}", Answer::of(&verdict, &rules.policies, Some(&request)));
        let steps = verdict.facts.explanation.steps().iter();
        let answers = steps.filter(|it| it.finding.what == "answer").map(|it| &it.finding.found);
        let told: Vec<_> = answers.cloned().collect();
        assert!(told.iter().all(|it| !body.contains(it)), "clients read a fixed sentence");
        told
    }

    /// How long a check waits for the first issuer.
    fn timeout(&self) -> Duration {
        self.rules.issuers[0].introspection.as_ref().unwrap().upkeep.timeout
    }

    /// The same site under another configuration.
    fn under(&self, rules: InstallationRules, issuers: Vec<Arc<LiveIssuer>>) -> Self {
        let Installation { rules: before, cache, replay, .. } = &self.installation;
        let (cache, replay) = (Arc::clone(cache), Arc::clone(replay));
        let judged = Rules::new(rules.policies.clone(), Arc::clone(&before.nonces));
        Self {
            installation: Installation::new(judged, issuers, rules.limits, cache, replay),
            rules,
            checker: Checker::new(self.clock.clone()),
            clock: Arc::clone(&self.clock),
            signer: Signer::new(Signing::ES256, "key-1"),
            files: tempfile::tempdir().unwrap(),
        }
    }

    async fn verdict(
        &self,
        scheme: &str,
        token: &str,
        policy: &str,
        certificate: Option<Thumbprint>,
    ) -> Verdict {
        let authorization = format!("{scheme} {token}");
        let hex = certificate.map(|it| it.to_hex());
        let header = hex.as_ref().map_or(Field::Absent, |it| Field::One(it.as_bytes()));
        let request = Request {
            policy: Some(policy),
            target: Target { method: "GET", scheme: "https", authority: "api", path: "/" },
            authorization: Field::One(authorization.as_bytes()),
            evidence: Evidence { header, ..Evidence::default() },
            ..Request::default()
        };
        checked(&self.checker, &self.installation, &request).await
    }

    /// From here on, the first issuer has these keys.
    async fn publish(&self, keys: &[Value]) {
        let keys = json!({ "keys": keys });
        std::fs::write(self.files.path().join("keys-0.json"), keys.to_string()).unwrap();
        let ended: u64 = self.installation.issuers[0].keys.refreshes().values().sum();
        jump(5 * SECOND).await;
        self.installation.issuers[0].keys.ended(ended + 1).await;
    }

    fn status(&self, issuer: usize) -> Status {
        self.installation.issuers[issuer].introspection.as_ref().unwrap().status()
    }

    fn start(
        &self,
        rules: &InstallationRules,
        previous: Option<&Installation>,
    ) -> Result<Vec<Arc<LiveIssuer>>, StartError> {
        let clock: Arc<dyn Clock> = self.clock.clone();
        let made = Installation::start(rules.clone(), previous, &clock, &Handle::current());
        made.map(|it| it.installation.issuers)
    }
}

fn issuer(name: &str, source: KeySource, endpoint: String) -> IssuerRules {
    let issuer = Arc::new(Issuer {
        algorithms: vec![Algorithm::ES256],
        introspection: Introspection::OpaqueTokens,
        ..Issuer::new(name, "api")
    });
    IssuerRules {
        issuer,
        keys: KeyRules::new(source),
        introspection: Some(IntrospectionRules {
            endpoint: Some(endpoint),
            client_id: Some("gate way".to_owned()),
            authentication: ClientAuthentication::SecretBasic("s:ecret".to_owned()),
            identity: None,
            forward_jwt: false,
            allow_missing_audience: false,
            // A machine under load must not fail a test that is not about time.
            upkeep: IntrospectionUpkeep { timeout: 30 * SECOND, ..IntrospectionUpkeep::default() },
        }),
        revocation: None,
    }
}

fn policies(issuers: Vec<Arc<Issuer>>) -> PolicySet {
    let ids: Vec<_> = (0..issuers.len()).map(IssuerId).collect();
    let policy = |name: &str, issuers: &[IssuerId]| {
        Arc::new(Policy {
            issuers: issuers.to_vec(),
            scopes: vec!["read".to_owned()],
            ..Policy::new(name, SenderConstraint::IfBound)
        })
    };
    PolicySet {
        policies: vec![
            policy("first", &ids[..1]),
            policy("second", &ids[ids.len() - 1..]),
            policy("both", &ids),
            Arc::new(Policy {
                issuers: ids.clone(),
                streams: Streams::EndWithToken,
                ..Policy::new("streams", SenderConstraint::IfBound)
            }),
            Arc::new(Policy {
                issuers: ids.clone(),
                authentication: Authentication {
                    acr: vec!["phr".to_owned()],
                    max_age_seconds: Some(300),
                },
                ..Policy::new("login", SenderConstraint::IfBound)
            }),
        ]
        .into(),
        issuers,
        client_certificate: Source::Header {
            name: "x-client-cert".to_owned(),
            format: HeaderFormat::Sha256Hex,
        },
        token_bytes: 4096,
        upstream: Upstream::default(),
        proofs: ProofRules::default(),
    }
}

fn claims() -> Value {
    json!({"iss": ISSUER, "aud": "api", "exp": NOW + 300, "sub": "alice", "scope": "read"})
}

/// An answer about an active token, edited.
fn active(edit: impl FnOnce(&mut Value)) -> Reply {
    let mut answer = json!({"active": true, "aud": "api", "sub": "alice", "scope": "read"});
    edit(&mut answer);
    Reply::json(&answer)
}

fn unavailable(detail: Detail) -> Result<(), (Denial, Option<Detail>)> {
    Err((Denial::IntrospectionUnavailable, Some(detail)))
}

fn inactive() -> Reply {
    Reply::json(&json!({"active": false}))
}

async fn two(first: Reply, second: Reply) -> (IntrospectionEndpoint, IntrospectionEndpoint) {
    (IntrospectionEndpoint::start(first).await, IntrospectionEndpoint::start(second).await)
}

/// Which of the introspectors are the same.
/// What is wrong with an issuer, if that is what is wrong.
fn issuer_fault(error: Option<StartError>) -> Option<BadIssuer> {
    match error? {
        StartError::Issuer(error) => Some(error),
        StartError::NoRandomness(_) => None,
    }
}

fn same(a: &[Arc<LiveIssuer>], b: &[Arc<LiveIssuer>]) -> Vec<bool> {
    let asking = |it: &Arc<LiveIssuer>| it.introspection.clone().unwrap();
    a.iter().zip(b).map(|(a, b)| Arc::ptr_eq(&asking(a), &asking(b))).collect()
}

/// Lets `span` pass at once.
async fn jump(span: Duration) {
    tokio::time::pause();
    tokio::time::advance(span).await;
    tokio::time::resume();
}

/// A certification authority for both ends of mutual TLS.
struct Authority {
    issuer: rcgen::Issuer<'static, rcgen::KeyPair>,
    pem: Vec<u8>,
    roots: RootCertStore,
}

impl Authority {
    fn new() -> Self {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).unwrap();
        let mut roots = RootCertStore::empty();
        roots.add(certificate.der().clone()).unwrap();
        let pem = certificate.pem().into_bytes();
        Self { issuer: rcgen::Issuer::new(params, key), pem, roots }
    }

    /// A server at 127.0.0.1 that demands a certificate of this authority.
    fn server(&self) -> ServerConfig {
        let key = rcgen::KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
        let chain = vec![params.signed_by(&key, &self.issuer).unwrap().der().clone()];
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let provider = Arc::new(tokio_rustls::rustls::crypto::aws_lc_rs::default_provider());
        let roots = Arc::new(self.roots.clone());
        let clients =
            WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(&provider)).build();
        let config = ServerConfig::builder_with_provider(provider);
        let config = config.with_safe_default_protocol_versions().unwrap();
        config.with_client_cert_verifier(clients.unwrap()).with_single_cert(chain, key).unwrap()
    }

    /// PEM of a certificate of this authority and its key.
    fn client(&self) -> Vec<u8> {
        let key = rcgen::KeyPair::generate().unwrap();
        let certificate = CertificateParams::default().signed_by(&key, &self.issuer).unwrap();
        format!("{}{}", certificate.pem(), key.serialize_pem()).into_bytes()
    }
}
