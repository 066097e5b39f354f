//! Holds the keeping of keys to its promises, against a stub of an issuer that misbehaves.
//!
//! Time passes in jumps: the clock of the runtime is stopped, set forward, and let go, so that
//! nothing sleeps and sockets never see a stopped clock.

use crate::support::clock::ManualClock;
use crate::support::identity_provider::{Behaviour, IdentityProvider, Placed, Published};
use crate::support::tokens::Signer;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};
use futures_util::future::{FutureExt as _, join_all};
use http::header;
use jsonwebtoken::Algorithm as Signing;
use keybound::clock::Clock;
use keybound::installation::IssuerRules;
use keybound::state::http::BearerToken;
use keybound::state::jwks::{self, BadSource, IssuerKeys};
use keybound::state::jwks::{KeyRules, KeySource, KeyUpkeep};
use keybound_core::jose::KeySet;
use keybound_core::jose::Unverified;
use keybound_core::jose::base64url;
use keybound_core::policy::Issuer;
use keybound_core::signature::{self, Unverifiable};
use keybound_core::{Denial, Detail, Explanation, Newer, Refusal, UnixTime};
use rcgen::{BasicConstraints, CertificateParams, IsCa};
use serde_json::{Value, json};
use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::{Builder, Handle};
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;

const NOW: UnixTime = UnixTime::from_secs(1_800_000_000);
const MILLISECOND: Duration = Duration::from_millis(1);
const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);

// ---- rotation ----

#[tokio::test]
async fn keys_that_overlap_rotate_without_notice() {
    let (old, new) = (jwk("old"), jwk("new"));
    let provider = IdentityProvider::start(std::slice::from_ref(&old)).await;
    let keys = start(&provider);
    keys.ended(1).await;
    provider.publish(&[old, new.clone()]);
    refresh(&keys).await;
    assert_eq!(kids(&keys), ["old", "new"]);
    provider.publish(&[new]);
    refresh(&keys).await;
    assert_eq!(kids(&keys), ["new"], "the withdrawn key is gone, though nobody asked for another");
    // Without it, a server may compress, and what is compressed is not unpacked.
    assert!(provider.asked().iter().all(|it| it.headers["accept-encoding"] == "identity"));
}

#[tokio::test]
async fn a_rotation_without_overlap_costs_one_fetch() {
    let provider = IdentityProvider::start(&[jwk("old")]).await;
    let keys = start(&provider);
    let seen = keys.available().await.unwrap();
    provider.publish(&[jwk("new")]);
    let newer = newer(&keys, &seen).await.unwrap();
    assert!(newer.knows("new") && !newer.knows("old"));
    assert_eq!(provider.fetches(), 2);
    let again = self::newer(&keys, &seen).await.unwrap();
    assert!(Arc::ptr_eq(&newer, &again), "who comes late gets what is there");
    assert_eq!(provider.fetches(), 2);
}

#[tokio::test]
async fn the_same_document_is_the_same_set_of_keys() {
    let provider = IdentityProvider::start(&[jwk("old")]).await;
    let keys = start(&provider);
    let before = keys.available().await.unwrap();
    refresh(&keys).await;
    assert!(Arc::ptr_eq(&before, &keys.current().unwrap()));
    provider.publish(&[jwk("new")]);
    refresh(&keys).await;
    assert!(!Arc::ptr_eq(&before, &keys.current().unwrap()));
}

#[tokio::test]
async fn an_odd_key_does_not_take_the_good_ones_with_it() {
    let mut odd = jwk("odd");
    odd["x"] = "AAAA".into();
    let provider = IdentityProvider::start(&[jwk("a"), odd, json!(null), jwk("b")]).await;
    let keys = start(&provider);
    keys.ended(1).await;
    assert_eq!(kids(&keys), ["a", "b"]);
    assert_eq!(keys.status().skipped, 2);
}

#[tokio::test]
async fn each_key_that_is_skipped_is_named_with_its_reason() {
    let mut odd = jwk("odd");
    odd["x"] = "AAAA".into();
    let provider = IdentityProvider::start(&[jwk("good"), odd.clone()]).await;
    let keys = start(&provider);
    keys.ended(1).await;
    let wrong =
        "its `x` is missing, is not base64url without padding, or has a wrong length or value";
    let skipped = keys.status().skipped_keys;
    let [key] = &*skipped else { panic!("{skipped:?}") };
    assert_eq!((key.position, key.kid.as_deref(), &*key.reason), (2, Some("odd"), wrong));
    assert_eq!((key.kty.as_deref(), key.crv.as_deref()), (Some("EC"), Some("P-256")));

    // A set of such keys alone is not taken over, and yet they are what the operator must know of.
    odd["kid"] = "odder".into();
    provider.publish(&[odd]);
    refresh(&keys).await;
    let status = keys.status();
    assert_eq!((status.keys, status.skipped), (1, 1));
    assert_eq!(status.skipped_keys[0].kid.as_deref(), Some("odder"));
    let what = status.last_error.unwrap().what;
    assert_eq!(
        what,
        format!("key set: none of its members can be used: \"odder\" (EC, P-256, ES256): {wrong}")
    );
    provider.publish(&[]);
    refresh_after(&keys, MINUTE).await;
    let status = keys.status();
    assert_eq!(status.last_error.unwrap().what, "key set: it is empty");
    assert_eq!(status.skipped, 0);
}

#[tokio::test]
async fn a_token_whose_key_is_there_and_not_for_it_is_refused_for_that() {
    let (mut odd, mut other) = (jwk("odd"), jwk("other"));
    odd["use"] = "enc".into();
    other["crv"] = "P-384".into();
    let ed25519 = json!({"kty": "OKP", "crv": "Ed25519", "kid": "ed25519",
        "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"});
    let provider = IdentityProvider::start(&[ed25519, odd, other]).await;
    let keys = start(&provider);
    keys.ended(1).await;
    for (kid, detail) in [
        ("ed25519", Some(Detail::KeyForbidsAlgorithm)),
        ("odd", Some(Detail::KeyUnusable)),
        ("other", Some(Detail::KeyUnusable)),
        ("missing", None),
    ] {
        let found = unverifiable(&keys, Some(kid), &json!(1)).await;
        assert_eq!(found.refusal.detail, detail, "{kid}");
    }
}

#[tokio::test]
async fn a_withdrawn_key_counts_on_for_its_grace_and_not_a_moment_longer() {
    let (one, two) = (jwk("one"), jwk("two"));
    let provider = IdentityProvider::start(std::slice::from_ref(&one)).await;
    let upkeep = KeyUpkeep { withdrawn_key_grace: 10 * MINUTE, ..KeyUpkeep::default() };
    let keys = start_with(&provider, upkeep);
    keys.ended(1).await;
    // As if one replica of the issuer answered, and then the other.
    provider.publish(std::slice::from_ref(&two));
    refresh(&keys).await;
    assert_eq!((kids(&keys), keys.status().withdrawn), (vec!["two".into(), "one".into()], 1));
    provider.publish(std::slice::from_ref(&one));
    refresh(&keys).await;
    assert_eq!(kids(&keys), ["one", "two"]);
    let before = keys.current().unwrap();
    provider.go_down().await;
    jump(10 * MINUTE - SECOND).await;
    assert_eq!(kids(&keys), ["one", "two"]);
    jump(SECOND).await;
    while kids(&keys) != ["one"] {
        tokio::task::yield_now().await;
    }
    assert!(!Arc::ptr_eq(&before, &keys.current().unwrap()));
    assert_eq!(keys.status().withdrawn, 0);
}

#[tokio::test]
async fn a_grace_that_is_taken_back_is_over_at_once() {
    let (one, two) = (jwk("one"), jwk("two"));
    let provider = IdentityProvider::start(&[one]).await;
    let upkeep = KeyUpkeep { withdrawn_key_grace: HOUR, ..KeyUpkeep::default() };
    let keys = start_with(&provider, upkeep);
    keys.ended(1).await;
    provider.publish(&[two]);
    refresh(&keys).await;
    assert_eq!(kids(&keys), ["two", "one"]);
    provider.go_down().await;
    let source = KeySource::Uri(provider.jwks_uri());
    let after = issuer(&provider.issuer(), source, KeyUpkeep::default());
    let keys = applied(reconfigured(&keys, &after));
    assert_eq!(kids(&keys), ["two"]);
}

#[tokio::test]
async fn a_grace_brings_no_keys_back_that_had_ended() {
    let provider = IdentityProvider::start(&[jwk("one")]).await;
    let upkeep =
        KeyUpkeep { withdrawn_key_grace: HOUR, max_stale: 2 * HOUR, ..KeyUpkeep::default() };
    let keys = start_with(&provider, upkeep);
    keys.ended(1).await;
    provider.go_down().await;
    refresh_after(&keys, 2 * HOUR).await;
    assert!(keys.current().is_none());
    provider.publish(&[jwk("two")]);
    provider.come_up().await;
    refresh_after(&keys, MINUTE).await;
    assert_eq!(kids(&keys), ["two"]);
}

// ---- floods ----

#[tokio::test]
async fn a_hundred_thousand_unknown_keys_cause_one_fetch_per_cooldown() {
    let provider = IdentityProvider::start(&[jwk("known")]).await;
    let keys = start(&provider);
    let seen = keys.available().await.unwrap();
    for flood in 1..=3 {
        provider.hold();
        let (found, ()) = tokio::join!(join_all((0..1000).map(|_| newer(&keys, &seen))), async {
            provider.fetched(1 + flood).await;
            provider.release();
        });
        assert!(found.iter().all(Option::is_none));
        // On a slow machine, so many take longer than the cooldown.
        tokio::time::pause();
        for _ in 1000..100_000 {
            assert!(newer(&keys, &seen).now_or_never().is_some_and(|it| it.is_none()));
        }
        tokio::time::resume();
        assert_eq!(provider.fetches(), 1 + flood);
        assert_eq!(kids(&keys), ["known"]);
        jump(10 * SECOND).await;
    }
}

#[tokio::test]
async fn a_flood_beside_a_slow_issuer_leaves_room_for_others() {
    let provider = IdentityProvider::start(&[jwk("known")]).await;
    let keys = start(&provider);
    let seen = keys.available().await.unwrap();
    provider.hold();
    let waiting = join_all((0..1000).map(|_| newer(&keys, &seen)));
    let others = async {
        provider.fetched(2).await;
        for _ in 0..1000 {
            let answer = newer(&keys, &seen).now_or_never();
            assert!(answer.is_some_and(|it| it.is_none()), "at once: all places are taken");
        }
        assert_eq!(kids(&keys), ["known"]);
        provider.release();
    };
    tokio::join!(waiting, others);
    assert_eq!(provider.fetches(), 2);
}

#[tokio::test]
async fn a_thousand_first_requests_share_one_fetch() {
    let provider = IdentityProvider::start(&[jwk("a")]).await;
    provider.hold();
    let keys = start(&provider);
    assert!(!keys.is_ready());
    let (found, ()) = tokio::join!(join_all((0..1000).map(|_| keys.available())), async {
        provider.fetched(1).await;
        provider.release();
    });
    assert!(found.iter().all(|it| it.as_ref().is_some_and(|it| it.knows("a"))));
    assert_eq!(provider.fetches(), 1);
    assert!(keys.is_ready());
}

#[tokio::test]
async fn a_request_on_another_runtime_waits_as_well() {
    let provider = IdentityProvider::start(&[jwk("a")]).await;
    provider.hold();
    let keys = start(&provider);
    let shard = {
        let keys = Arc::clone(&keys);
        tokio::task::spawn_blocking(move || {
            let runtime = Builder::new_current_thread().build().unwrap();
            runtime.block_on(async { keys.available().await })
        })
    };
    provider.fetched(1).await;
    provider.release();
    assert!(shard.await.unwrap().unwrap().knows("a"));
}

/// What becomes of a token that names `kid`, if any, is signed by nobody and claims to be issued at
/// `iat`.
async fn unverifiable(keys: &Arc<IssuerKeys>, kid: Option<&str>, iat: &Value) -> Unverifiable {
    let mut header = json!({"alg": "ES256"});
    if let Some(kid) = kid {
        header["kid"] = kid.into();
    }
    let part = |it: &Value| base64url::encode(it.to_string().as_bytes());
    let token = format!("{}.{}.AAAA", part(&header), part(&json!({"iat": iat})));
    let jws = Unverified::parse(token.as_bytes()).unwrap();
    let issuer = issuer(keys.issuer(), KeySource::Discovery, KeyUpkeep::default());
    signature::verify(&keys.within(PATIENCE), jws, &issuer.issuer, &mut Explanation::default())
        .await
        .unwrap_err()
}

const PATIENCE: Duration = Duration::from_millis(120);

/// It is not known to be bad.
fn not_yet(seconds: u64) -> Unverifiable {
    let refusal = Detail::KeyNotKnownYet.into();
    Unverifiable { refusal, retry_after: Some(seconds) }
}

fn known_bad(denial: Denial) -> Unverifiable {
    Unverifiable { refusal: Refusal::from(denial), retry_after: None }
}

#[tokio::test]
async fn an_unknown_key_is_not_refused_while_the_issuer_may_not_be_asked() {
    let provider = IdentityProvider::start(&[jwk("known")]).await;
    let clock = Arc::new(ManualClock::at(NOW));
    let source = KeySource::Uri(provider.jwks_uri());
    let issuer = issuer(&provider.issuer(), source, KeyUpkeep::default());
    let (name, clocked) = (&issuer.issuer.name, Arc::<ManualClock>::clone(&clock));
    let keys = begun(name, &issuer.keys, clocked);
    let keys = keys.unwrap();
    keys.ended(1).await;
    let now = json!(NOW.as_secs());
    let found = unverifiable(&keys, Some("new"), &now).await;
    assert_eq!(found, known_bad(Denial::TokenKeyUnknown), "the issuer was asked, and has it not");
    for (iat, expected) in [
        (now.clone(), not_yet(10)),
        (json!(NOW.as_secs() - 30), not_yet(10)),
        (json!(NOW.as_secs() - 45), known_bad(Denial::TokenKeyUnknown)),
        (json!(NOW.as_secs() + 1_000_000), not_yet(10)),
        (json!("yesterday"), not_yet(10)),
        (json!(null), not_yet(10)),
    ] {
        assert_eq!(unverifiable(&keys, Some("new"), &iat).await, expected, "{iat}");
    }
    assert_eq!(provider.fetches(), 2);
    let found = unverifiable(&keys, Some("known"), &now).await;
    assert_eq!(found, known_bad(Denial::TokenSignatureInvalid));
    jump(9 * SECOND).await;
    clock.set(NOW.saturating_add(9 * SECOND));
    assert_eq!(unverifiable(&keys, Some("new"), &now).await, not_yet(1));
    jump(SECOND).await;
    let found = unverifiable(&keys, Some("new"), &now).await;
    assert_eq!(found, known_bad(Denial::TokenKeyUnknown));
    assert_eq!(provider.fetches(), 3);
}

#[tokio::test]
async fn an_unknown_key_is_not_refused_while_the_issuer_is_down() {
    let provider = IdentityProvider::start(&[jwk("known")]).await;
    let keys = start(&provider);
    keys.ended(1).await;
    provider.go_down().await;
    let issued = |ago: i64| json!(NOW.as_secs() - ago);
    assert_eq!(unverifiable(&keys, Some("new"), &issued(0)).await, not_yet(10));
    let found = unverifiable(&keys, Some("new"), &issued(60)).await;
    assert_eq!(found, known_bad(Denial::TokenKeyUnknown));
}

#[tokio::test]
async fn a_token_without_a_key_name_asks_for_another_set_when_no_key_fits_its_algorithm() {
    let ed25519 = json!({"kty": "OKP", "crv": "Ed25519",
        "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"});
    let provider = IdentityProvider::start(&[ed25519]).await;
    let keys = start(&provider);
    keys.ended(1).await;
    provider.publish(&[jwk("new")]);
    let now = json!(NOW.as_secs());
    let found = unverifiable(&keys, None, &now).await;
    assert_eq!(found, known_bad(Denial::TokenSignatureInvalid), "the new key was tried");
}

#[tokio::test]
async fn nobody_waits_for_a_slow_issuer_until_the_check_is_over() {
    let provider = IdentityProvider::start(&[jwk("known")]).await;
    let keys = start(&provider);
    keys.ended(1).await;
    provider.hold();
    let now = json!(NOW.as_secs());
    let (found, ()) = tokio::join!(unverifiable(&keys, Some("new"), &now), async {
        provider.fetched(2).await;
        jump(PATIENCE).await;
    });
    assert_eq!(found, not_yet(1));
    let (found, ()) = tokio::join!(unverifiable(&keys, Some("other"), &now), async {
        tokio::task::yield_now().await;
        jump(PATIENCE).await;
    });
    assert_eq!(found, not_yet(1), "nor who waits for what another asked");
}

#[tokio::test]
async fn forged_tokens_that_name_no_key_cost_a_bounded_number_of_tries() {
    let signer = Signer::new(Signing::ES256, "good");
    let mut published: Vec<_> = (0..7).map(|it| jwk(&it.to_string())).collect();
    published.push(signer.jwk().clone());
    let provider = IdentityProvider::start(&published).await;
    let keys = start(&provider);
    keys.ended(1).await;
    let issuer = issuer(&provider.issuer(), KeySource::Discovery, KeyUpkeep::default());
    let header = || jsonwebtoken::Header::new(Signing::ES256);
    let good = signer.sign_as("at+jwt", header(), &json!({"iat": 1}));
    let verified = async || {
        let jws = Unverified::parse(good.as_bytes()).unwrap();
        signature::verify(&keys.within(PATIENCE), jws, &issuer.issuer, &mut Explanation::default())
            .await
            .map(drop)
    };
    assert_eq!(verified().await, Ok(()), "the last of eight keys signed it");
    tokio::time::pause();
    let spent = Unverifiable { refusal: Detail::KeyTriesSpent.into(), retry_after: None };
    for _ in 0..2 {
        let mut tried = 0;
        while unverifiable(&keys, None, &json!(1)).await != spent {
            tried += 1;
        }
        assert_eq!(tried, 1000 / 7);
        assert_eq!(verified().await, Ok(()), "it is tried with that key first");
        tokio::time::advance(SECOND).await;
    }
}

// ---- outages ----

#[tokio::test]
async fn keys_outlive_an_outage_of_an_hour_but_not_of_two() {
    let provider = IdentityProvider::start(&[jwk("a")]).await;
    let upkeep = KeyUpkeep { max_stale: 2 * HOUR, ..KeyUpkeep::default() };
    let keys = start_with(&provider, upkeep);
    keys.ended(1).await;
    provider.go_down().await;
    refresh_after(&keys, HOUR).await;
    assert_eq!(kids(&keys), ["a"]);
    assert_eq!(keys.status().refreshes.get("unreachable"), Some(&1));
    refresh_after(&keys, HOUR - MINUTE).await;
    assert_eq!(kids(&keys), ["a"]);
    assert!((1..=60).contains(&keys.status().usable_for_seconds.unwrap()));
    refresh_after(&keys, MINUTE).await;
    assert!(keys.current().is_none());
    assert!(keys.available().await.is_none());
    let status = keys.status();
    assert!(!status.usable && status.keys == 0 && status.kids.is_empty());
    assert!(status.last_error.unwrap().what.contains("/jwks: unreachable"));
    assert!(keys.is_ready(), "readiness does not turn back");
    provider.come_up().await;
    refresh_after(&keys, MINUTE).await;
    assert_eq!(kids(&keys), ["a"]);
    assert_eq!(keys.status().consecutive_failures, 0);
}

#[tokio::test]
async fn a_request_hurries_the_fetch_when_the_keys_are_unusable() {
    let provider = IdentityProvider::start(&[jwk("a")]).await;
    provider.go_down().await;
    let keys = start(&provider);
    keys.ended(1).await;
    provider.come_up().await;
    assert!(keys.available().await.is_none(), "it does not wait");
    keys.ended(2).await;
    assert_eq!(kids(&keys), ["a"]);
}

#[tokio::test]
async fn an_issuer_that_is_down_at_the_start_is_tried_again_and_again() {
    let provider = IdentityProvider::start(&[jwk("a")]).await;
    provider.go_down().await;
    let keys = start(&provider);
    for delay in [1, 2, 4, 8, 16, 32, 60, 60] {
        assert!(keys.available().await.is_none());
        assert!(!keys.is_ready());
        refresh_after(&keys, Duration::from_secs(delay)).await;
    }
    provider.come_up().await;
    refresh_after(&keys, MINUTE).await;
    keys.ready().await;
    assert_eq!(kids(&keys), ["a"]);
}

#[tokio::test]
async fn bad_answers_never_replace_good_keys() {
    let body = |it: &str| Behaviour::Body(it.as_bytes().to_vec());
    for (behaviour, label) in [
        (Behaviour::Status(500), "status"),
        (Behaviour::Status(404), "status"),
        (Behaviour::Status(204), "status"),
        (Behaviour::Status(206), "status"),
        (Behaviour::Status(304), "not_modified_unasked"),
        (Behaviour::Redirect("/jwks".to_owned()), "redirected"),
        (Behaviour::Compressed, "compressed"),
        (Behaviour::Huge(512 * 1024 + 1), "too_large"),
        (Behaviour::Endless, "too_large"),
        (body(""), "malformed"),
        (body("<html>Welcome</html>"), "malformed"),
        (body("{}"), "malformed"),
        (body("[]"), "malformed"),
        (body("null"), "malformed"),
        (body("{\"keys\": null}"), "malformed"),
        (body("{\"keys\": {}}"), "malformed"),
        (body("{\"keys\": [{\"kty\": \"EC\","), "malformed"),
        (body("{\"keys\": []}"), "empty"),
        (body("{\"keys\": [{\"kty\": \"oct\", \"k\": \"AAAA\"}, 1]}"), "empty"),
        (Behaviour::Huge(512 * 1024), "malformed"),
    ] {
        let provider = IdentityProvider::start(&[jwk("a")]).await;
        let keys = start(&provider);
        keys.ended(1).await;
        provider.flap([behaviour.clone()]);
        refresh(&keys).await;
        assert_eq!(kids(&keys), ["a"], "{behaviour:?}");
        let refreshes = keys.refreshes();
        assert_eq!(refreshes.get(label), Some(&1), "{behaviour:?}: {refreshes:?}");
        refresh_after(&keys, SECOND).await;
        assert_eq!(keys.status().consecutive_failures, 0, "{behaviour:?}");

        provider.behave(behaviour.clone());
        let keys = start(&provider);
        assert!(keys.available().await.is_none(), "{behaviour:?}");
        assert!(!keys.is_ready(), "{behaviour:?}");
        assert_eq!(keys.refreshes().get(label), Some(&1), "{behaviour:?}");
    }
}

#[tokio::test]
async fn an_issuer_that_fails_every_other_time_is_no_outage() {
    let provider = IdentityProvider::start(&[jwk("a")]).await;
    let keys = start(&provider);
    keys.ended(1).await;
    for _ in 0..10 {
        provider.flap([Behaviour::Status(503)]);
        refresh(&keys).await;
        assert_eq!(keys.status().consecutive_failures, 1);
        assert_eq!(kids(&keys), ["a"]);
        refresh_after(&keys, SECOND).await;
        assert_eq!(keys.status().consecutive_failures, 0, "and the delay begins anew");
    }
}

#[tokio::test]
async fn one_issuer_that_is_down_does_not_disturb_another() {
    let (down, up) = (IdentityProvider::start(&[]).await, IdentityProvider::start(&[]).await);
    down.go_down().await;
    up.publish(&[jwk("a")]);
    let (down, up) = (start(&down), start(&up));
    up.ready().await;
    down.ended(1).await;
    assert!(!down.is_ready());
    assert_eq!(kids(&up), ["a"]);
}

#[tokio::test]
async fn a_body_that_stalls_ends_with_the_deadline() {
    let provider = IdentityProvider::start(&[jwk("a")]).await;
    let keys = start(&provider);
    keys.ended(1).await;
    provider.flap([Behaviour::Stalled]);
    jump(5 * MINUTE).await;
    provider.fetched(2).await;
    jump(4 * SECOND).await;
    assert_eq!(keys.refreshes().get("timed_out"), None);
    jump(SECOND).await;
    keys.ended(2).await;
    assert_eq!(keys.refreshes().get("timed_out"), Some(&1));
    assert_eq!(kids(&keys), ["a"]);
}

#[tokio::test]
async fn a_redirect_is_not_followed_to_another_host() {
    let canary = IdentityProvider::start(&[jwk("evil")]).await;
    let provider = IdentityProvider::start(&[jwk("a")]).await;
    provider.behave(Behaviour::Redirect(canary.jwks_uri()));
    let keys = start(&provider);
    keys.ended(1).await;
    assert!(canary.asked().is_empty());
    assert!(keys.current().is_none());
}

// ---- freshness ----

#[tokio::test]
async fn the_proposed_lifetime_is_kept_within_bounds() {
    for (cache_control, least, most) in [
        ("max-age=31536000", 3239, 3600),
        ("max-age=600", 539, 600),
        ("max-age=0", 29, 30),
        ("no-store", 29, 30),
        ("max-age=soon", 29, 30),
        ("public", 269, 300),
    ] {
        let provider = IdentityProvider::start(&[jwk("a")]).await;
        provider.cache_control(cache_control);
        let keys = start(&provider);
        keys.ended(1).await;
        let next = keys.status().next_refresh_seconds.unwrap();
        assert!((least..=most).contains(&next), "{cache_control}: {next}");
    }
}

#[tokio::test]
async fn a_version_that_still_holds_is_not_sent_again() {
    let provider = IdentityProvider::start(&[jwk("a")]).await;
    provider.etag("\"1\"");
    let keys = start(&provider);
    keys.ended(1).await;
    let before = keys.current().unwrap();
    refresh(&keys).await;
    refresh(&keys).await;
    let first = Some("\"1\"".to_owned());
    assert_eq!(asked_for(&provider), [None, first.clone(), first]);
    assert_eq!(keys.refreshes().get("not_modified"), Some(&2));
    assert!(Arc::ptr_eq(&before, &keys.current().unwrap()));
    assert!(keys.status().age_seconds.unwrap() < 60, "the issuer stands by them anew");
    provider.publish(&[jwk("b")]);
    provider.etag("\"2\"");
    refresh(&keys).await;
    assert_eq!(kids(&keys), ["b"]);
    refresh(&keys).await;
    assert_eq!(asked_for(&provider).last(), Some(&Some("\"2\"".to_owned())));
}

#[tokio::test]
async fn the_version_of_a_broken_document_is_not_remembered() {
    let provider = IdentityProvider::start(&[jwk("a")]).await;
    provider.etag("\"1\"");
    let keys = start(&provider);
    keys.ended(1).await;
    provider.etag("\"2\"");
    provider.flap([Behaviour::Body(b"<html></html>".to_vec())]);
    refresh(&keys).await;
    refresh_after(&keys, SECOND).await;
    assert_eq!(asked_for(&provider).last(), Some(&Some("\"1\"".to_owned())));
    assert_eq!(keys.refreshes().get("unchanged"), Some(&1));
}

#[tokio::test]
async fn a_server_that_always_says_not_modified_must_send_the_document_in_the_end() {
    let provider = IdentityProvider::start(&[jwk("withdrawn")]).await;
    provider.etag("\"for ever\"");
    let upkeep = KeyUpkeep { max_stale: 10 * MINUTE, ..KeyUpkeep::default() };
    let keys = start_with(&provider, upkeep);
    keys.ended(1).await;
    provider.publish(&[jwk("new")]);
    refresh(&keys).await;
    assert_eq!(kids(&keys), ["withdrawn"]);
    refresh(&keys).await;
    assert_eq!(kids(&keys), ["new"]);
    assert_eq!(asked_for(&provider), [None, Some("\"for ever\"".to_owned()), None]);
}

// ---- snapshot ----

#[tokio::test]
async fn a_restart_during_an_outage_begins_with_the_snapshot() {
    let directory = tempfile::tempdir().unwrap();
    let upkeep = KeyUpkeep {
        snapshot_file: Some(directory.path().join("keys.json")),
        max_stale: 24 * HOUR,
        ..KeyUpkeep::default()
    };
    let provider = IdentityProvider::start(&[jwk("a")]).await;
    let keys = start_with(&provider, upkeep.clone());
    keys.ended(1).await;
    // The snapshot of one fetch is written before the next fetch begins.
    refresh(&keys).await;
    drop(keys);
    provider.go_down().await;

    let clock = ManualClock::at(NOW.saturating_add(23 * HOUR));
    let keys = start_at(&provider, upkeep.clone(), clock);
    keys.ready().await;
    assert_eq!(kids(&keys), ["a"]);
    let status = keys.status();
    assert!(status.from_snapshot);
    assert_eq!(status.age_seconds.unwrap() / 3600, 23);
    jump(HOUR - MINUTE).await;
    assert_eq!(kids(&keys), ["a"]);
    jump(MINUTE).await;
    assert!(keys.current().is_none(), "the age does not begin anew with a restart");

    let clock = ManualClock::at(NOW.saturating_add(25 * HOUR));
    let keys = start_at(&provider, upkeep, clock);
    keys.ended(1).await;
    assert!(!keys.is_ready());
}

#[tokio::test]
async fn the_issuer_is_heard_before_the_snapshot() {
    let directory = tempfile::tempdir().unwrap();
    let provider = IdentityProvider::start(&[jwk("new")]).await;
    let snapshot = |name: &str, issuer: &str, keys: &[Value]| {
        let path = directory.path().join(name);
        let jwks = json!({ "keys": keys }).to_string();
        let record = json!({
            "issuer": issuer, "source": provider.jwks_uri(), "fetched_at": NOW.as_secs(), "jwks": jwks,
        });
        std::fs::write(&path, record.to_string()).unwrap();
        std::fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
        KeyUpkeep { snapshot_file: Some(path), ..KeyUpkeep::default() }
    };

    let keys = start_with(&provider, snapshot("up", &provider.issuer(), &[jwk("old")]));
    keys.ended(1).await;
    assert_eq!(kids(&keys), ["new"]);

    provider.go_down().await;
    let other =
        start_with(&provider, snapshot("other", "https://other.example.com", &[jwk("old")]));
    other.ended(1).await;
    assert!(!other.is_ready());

    let empty = start_with(&provider, snapshot("empty", &provider.issuer(), &[]));
    empty.ended(1).await;
    assert!(!empty.is_ready());

    let keys = start_with(&provider, snapshot("down", &provider.issuer(), &[jwk("old")]));
    keys.ended(1).await;
    assert_eq!(kids(&keys), ["old"]);
    provider.come_up().await;
    refresh_after(&keys, SECOND).await;
    assert_eq!(kids(&keys), ["new"]);
    assert!(!keys.status().from_snapshot);
}

// ---- sources ----

/// A URL of this machine that does not look like one.
fn from_elsewhere(url: &str) -> String {
    let elsewhere = url.replace("127.0.0.1", "0.0.0.0");
    assert_ne!(elsewhere, url);
    elsewhere
}

#[tokio::test]
async fn other_machines_are_asked_over_plain_http_only_where_that_is_allowed() {
    let provider = IdentityProvider::start_local(&[jwk("a")]).await;
    let name = from_elsewhere(&provider.issuer());
    let jwks_uri = from_elsewhere(&provider.jwks_uri());
    provider.edit_metadata(|it| *it = json!({"issuer": name, "jwks_uri": provider.jwks_uri()}));
    for source in [KeySource::Uri(jwks_uri.clone()), KeySource::Discovery] {
        let mut issuer = issuer(&name, source.clone(), KeyUpkeep::default());
        let refused = try_start(&issuer, ManualClock::at(NOW)).err();
        assert_eq!(refused, Some(BadSource::UrlRefused));
        assert!(provider.asked().is_empty());

        issuer.keys.allow_http = true;
        let keys = start_issuer(&issuer, ManualClock::at(NOW));
        keys.ended(1).await;
        match source {
            KeySource::Uri(_) => assert_eq!(kids(&keys), ["a"]),
            // The metadata lead to loopback, which is nearer.
            _ => assert_eq!(keys.refreshes().get("url_refused"), Some(&1)),
        }
        drop(keys);
        provider.forget();
    }
}

/// Whom the token was sent to, by path.
fn shown_to(provider: &IdentityProvider) -> Vec<(String, bool)> {
    let asked = provider.asked().into_iter();
    asked
        .map(|it| {
            let sent = it.headers.get(header::AUTHORIZATION).map(|it| it.to_str().unwrap());
            assert!(sent.is_none_or(|it| it == "Bearer t0k.en"), "{sent:?}");
            (it.path, sent.is_some())
        })
        .collect()
}

#[tokio::test]
async fn the_bearer_token_goes_to_whom_the_configuration_names_and_nowhere_else() {
    let metadata = "/.well-known/oauth-authorization-server".to_owned();
    let jwks = || "/jwks".to_owned();
    let start = |name: &str, source| {
        let mut issuer = issuer(name, source, KeyUpkeep::default());
        issuer.keys.bearer = BearerToken::new("t0k.en");
        start_issuer(&issuer, ManualClock::at(NOW))
    };
    // To the issuer itself.
    let own = IdentityProvider::start(&[jwk("a")]).await;
    let keys = start(&own.issuer(), KeySource::Discovery);
    keys.ended(1).await;
    assert_eq!(shown_to(&own), [(metadata.clone(), true), (jwks(), true)]);

    // Not to a server that its metadata name, and be it on another port of the same host.
    let other = IdentityProvider::start(&[jwk("b")]).await;
    own.forget();
    own.edit_metadata(|it| it["jwks_uri"] = other.jwks_uri().into());
    other.behave(Behaviour::Status(401));
    let keys = start(&own.issuer(), KeySource::Discovery);
    keys.ended(1).await;
    assert_eq!((shown_to(&own), shown_to(&other)), (vec![(metadata, true)], vec![(jwks(), false)]));
    let what = keys.status().last_error.unwrap().what;
    assert!(
        what.contains("answered with 401; keys.bearer_token_file was not sent there"),
        "{what}"
    );

    // To one that the configuration names, and not to where that redirects.
    other.forget();
    own.forget();
    other.behave(Behaviour::Redirect(own.jwks_uri()));
    let keys = start(&own.issuer(), KeySource::Uri(other.jwks_uri()));
    keys.ended(1).await;
    assert_eq!((shown_to(&own), shown_to(&other)), (vec![], vec![(jwks(), true)]));

    // Nowhere without one.
    other.forget();
    let keys = self::start(&other);
    keys.ended(1).await;
    assert_eq!(shown_to(&other), [(jwks(), false)]);
}

#[tokio::test]
async fn a_bearer_token_that_has_changed_is_sent_at_once() {
    let provider = IdentityProvider::start(&[jwk("a")]).await;
    let source = KeySource::Uri(provider.jwks_uri());
    let mut issuer = issuer(&provider.issuer(), source, KeyUpkeep::default());
    let mut last = None;
    for (token, fetches) in [("one", 1), ("two", 2), ("two", 2)] {
        issuer.keys.bearer = BearerToken::new(token);
        let keys = match &last {
            None => start_issuer(&issuer, ManualClock::at(NOW)),
            Some(keys) => applied(reconfigured(keys, &issuer)),
        };
        keys.ended(fetches).await;
        let sent = provider.asked().last().unwrap().headers[header::AUTHORIZATION].clone();
        assert_eq!(sent.to_str().unwrap(), format!("Bearer {token}"));
        assert_eq!(keys.refreshes().values().sum::<u64>(), fetches);
        assert_eq!(kids(&keys), ["a"]);
        last = Some(keys);
    }
}

#[tokio::test]
async fn keys_that_came_over_plain_http_go_with_the_permission() {
    let provider = IdentityProvider::start(&[jwk("a")]).await;
    let source = KeySource::Uri(provider.jwks_uri());
    let strict = issuer(&provider.issuer(), source, KeyUpkeep::default());
    let mut lax = strict.clone();
    lax.keys.allow_http = true;
    for (before, after, kept) in [
        (&strict, &lax, true),
        (&lax, &lax, true),
        (&lax, &strict, false),
        (&strict, &strict, true),
    ] {
        let old = start_issuer(before, ManualClock::at(NOW));
        old.ended(1).await;
        let prepared = reconfigured(&old, after);
        assert_eq!(!prepared.left_behind, kept);
        assert_eq!(Arc::ptr_eq(&old, &prepared.keys), kept);
    }
}

#[tokio::test]
async fn the_metadata_is_found_in_both_places() {
    for published in [Published::OAuth, Published::OpenId] {
        let provider = IdentityProvider::start(&[jwk("a")]).await;
        provider.publish_metadata(published);
        let keys = discover(&provider);
        keys.ended(1).await;
        assert_eq!(kids(&keys), ["a"], "{published:?}");
        let agent = provider.asked()[0].headers[header::USER_AGENT].clone();
        assert_eq!(agent, concat!("keybound/", env!("CARGO_PKG_VERSION")));
        refresh(&keys).await;
        let lookups = provider.asked().iter().filter(|it| it.path != "/jwks").count();
        assert_eq!(lookups, if published == Published::OAuth { 1 } else { 2 }, "not each time");
    }
}

const INSERTED: &str = "/.well-known/oauth-authorization-server/realm";
const OPENID: &str = "/realm/.well-known/openid-configuration";
const APPENDED: &str = "/realm/.well-known/oauth-authorization-server";

/// Keys by discovery of an issuer with a path, with these things at the places of its metadata.
async fn discover_among(places: [Placed; 3]) -> (IdentityProvider, Arc<IssuerKeys>) {
    let provider = IdentityProvider::start(&[jwk("a")]).await;
    let name = format!("{}/realm", provider.issuer());
    provider.edit_metadata(|it| it["issuer"] = name.clone().into());
    for (path, placed) in [INSERTED, OPENID, APPENDED].into_iter().zip(places) {
        provider.place(path, placed);
    }
    let issuer = issuer(&name, KeySource::Discovery, KeyUpkeep::default());
    let keys = start_issuer(&issuer, ManualClock::at(NOW));
    (provider, keys)
}

fn paths(provider: &IdentityProvider) -> Vec<String> {
    provider.asked().into_iter().map(|it| it.path).collect()
}

#[tokio::test]
async fn a_place_that_fails_does_not_stop_the_next() {
    let not_found = Placed::Status(404);
    let without = Placed::MetadataWithout("jwks_uri");
    for (places, asked) in [
        ([Placed::Metadata, not_found, not_found], 1),
        ([Placed::HangsUp, Placed::Metadata, not_found], 2),
        ([Placed::Status(500), Placed::Metadata, Placed::HangsUp], 2),
        ([not_found, not_found, Placed::Metadata], 3),
        ([Placed::HangsUp, Placed::HangsUp, Placed::Metadata], 3),
        ([without, Placed::Metadata, not_found], 2),
    ] {
        let (provider, keys) = discover_among(places).await;
        keys.ended(1).await;
        assert_eq!(kids(&keys), ["a"], "{places:?}");
        let expected = [INSERTED, OPENID, APPENDED].into_iter().take(asked).chain(["/jwks"]);
        assert!(paths(&provider).iter().eq(expected), "{places:?}: {:?}", paths(&provider));
        assert!(provider.asked().iter().all(|it| it.headers["accept-encoding"] == "identity"));
    }
}

#[tokio::test]
async fn a_place_that_hangs_does_not_stop_the_next() {
    let (provider, keys) = discover_among([Placed::Hangs, Placed::Hangs, Placed::Metadata]).await;
    for place in 1..3 {
        while paths(&provider).len() < place {
            tokio::task::yield_now().await;
        }
        jump(1250 * MILLISECOND).await;
    }
    keys.ended(1).await;
    assert_eq!(kids(&keys), ["a"]);
    assert_eq!(paths(&provider), [INSERTED, OPENID, APPENDED, "/jwks"]);
}

#[tokio::test]
async fn errors_name_what_was_asked() {
    let last = async |keys: &IssuerKeys| {
        keys.ended(1).await;
        keys.status().last_error.unwrap().what
    };
    let (provider, keys) =
        discover_among([Placed::Status(404), Placed::Metadata, Placed::Status(503)]).await;
    keys.ended(1).await;
    drop(keys);
    // Only its name differs, by a slash.
    let at = provider.issuer();
    let name = format!("{at}/realm/");
    let slashed = issuer(&name, KeySource::Discovery, KeyUpkeep::default());
    let keys = start_issuer(&slashed, ManualClock::at(NOW));
    assert_eq!(
        last(&keys).await,
        format!(
            "issuer metadata: {at}{INSERTED}: answered with 404; {at}{OPENID}: the document is that of \
             the issuer \"{at}/realm\", and the configuration says \"{name}\": they must be \
             identical; {at}{APPENDED}: answered with 503"
        )
    );
    provider.behave(Behaviour::Status(404));
    let keys = start(&provider);
    assert_eq!(last(&keys).await, format!("key set at {at}/jwks: answered with 404"));
    let secret = KeySource::Uri(format!("{at}/jwks?secret=x"));
    let keys = start_issuer(&issuer(&at, secret, KeyUpkeep::default()), ManualClock::at(NOW));
    assert_eq!(last(&keys).await, format!("key set at {at}/jwks?…: answered with 404"));
    let nowhere = Placed::MetadataWithout("jwks_uri");
    let (provider, keys) = discover_among([nowhere; 3]).await;
    let at = provider.issuer() + INSERTED;
    assert_eq!(last(&keys).await, format!("issuer metadata: {at}: there is no jwks_uri"));
}

#[tokio::test]
async fn the_metadata_of_another_issuer_is_refused() {
    for published in [Published::OAuth, Published::OpenId] {
        let provider = IdentityProvider::start(&[jwk("a")]).await;
        provider.publish_metadata(published);
        let issuer = provider.issuer();
        provider.edit_metadata(|it| it["issuer"] = format!("{issuer}/").into());
        let keys = discover(&provider);
        keys.ended(1).await;
        assert!(keys.current().is_none());
        assert_eq!(provider.fetches(), 0, "its keys are not even asked for");
    }
}

#[tokio::test]
async fn metadata_cannot_send_the_fetch_elsewhere() {
    for (jwks_uri, label) in [
        (json!("http://10.0.0.1/jwks"), "url_refused"),
        (json!("http://169.254.169.254/latest/meta-data"), "url_refused"),
        (json!("file:///etc/passwd"), "url_refused"),
        (json!(7), "url_refused"),
    ] {
        let provider = IdentityProvider::start(&[jwk("a")]).await;
        provider.edit_metadata(|it| it["jwks_uri"] = jwks_uri.clone());
        let keys = discover(&provider);
        keys.ended(1).await;
        assert_eq!(keys.refreshes().get(label), Some(&1), "{jwks_uri}");
    }
    let provider = IdentityProvider::start(&[jwk("a")]).await;
    provider.edit_metadata(|it| drop(it.as_object_mut().unwrap().remove("jwks_uri")));
    let keys = discover(&provider);
    keys.ended(1).await;
    assert_eq!(keys.refreshes().get("jwks_uri_missing"), Some(&1));
}

#[tokio::test]
async fn keys_that_moved_are_found_again() {
    let provider = IdentityProvider::start(&[jwk("old")]).await;
    provider.etag("\"1\"");
    let keys = discover(&provider);
    let seen = keys.available().await.unwrap();
    let elsewhere = IdentityProvider::start(&[jwk("new")]).await;
    // The same name of a version at another place names another thing.
    elsewhere.etag("\"1\"");
    provider.edit_metadata(|it| it["jwks_uri"] = elsewhere.jwks_uri().into());
    let newer = newer(&keys, &seen).await.unwrap();
    assert!(newer.knows("new"));
}

#[tokio::test]
async fn a_file_is_read_again_when_it_changes() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("jwks.json");
    let write = |kid| std::fs::write(&path, json!({"keys": [jwk(kid)]}).to_string()).unwrap();
    write("a");
    let issuer = issuer("urn:example:as", KeySource::File(path.clone()), KeyUpkeep::default());
    let keys = start_issuer(&issuer, ManualClock::at(NOW));
    keys.ended(1).await;
    assert_eq!(kids(&keys), ["a"]);
    write("b");
    refresh_after(&keys, 5 * SECOND).await;
    assert_eq!(kids(&keys), ["b"]);
    std::fs::remove_file(&path).unwrap();
    refresh_after(&keys, 5 * SECOND).await;
    assert_eq!(kids(&keys), ["b"]);
    std::fs::create_dir(&path).unwrap();
    refresh_after(&keys, 5 * SECOND).await;
    assert_eq!(keys.refreshes().get("file_unreadable"), Some(&2));
    std::fs::remove_dir(&path).unwrap();
    write("c");
    refresh_after(&keys, 5 * SECOND).await;
    assert_eq!(kids(&keys), ["c"]);
}

#[tokio::test]
async fn what_is_not_to_be_asked_does_not_start() {
    for source in [
        KeySource::Uri("http://as.example.com/jwks".to_owned()),
        KeySource::Uri("https://user:secret@as.example.com/jwks".to_owned()),
        KeySource::Uri("/jwks".to_owned()),
        KeySource::Discovery,
    ] {
        let issuer = issuer("http://as.example.com", source.clone(), KeyUpkeep::default());
        let clock = Arc::new(ManualClock::at(NOW));
        let name = &issuer.issuer.name;
        let started = begun(name, &issuer.keys, clock);
        assert_eq!(started.err(), Some(BadSource::UrlRefused), "{source:?}");
    }
}

// ---- TLS ----

#[tokio::test]
async fn only_the_private_authority_counts_when_there_is_one() {
    let (authority, other) = (Authority::new(), Authority::new());
    let (trusted, untrusted) = (Some(authority.pem.clone()), Some(other.pem));
    let expired = rcgen::date_time_ymd(2020, 1, 1);
    for (host, until, ca, expected) in [
        ("127.0.0.1", None, trusted.clone(), true),
        ("127.0.0.1", None, untrusted, false),
        ("127.0.0.1", None, None, false),
        ("other.example.com", None, trusted.clone(), false),
        ("127.0.0.1", Some(expired), trusted, false),
    ] {
        let mut certificate = CertificateParams::new([host.to_owned()]).unwrap();
        certificate.not_after = until.unwrap_or(certificate.not_after);
        let tls = authority.server(&certificate);
        let provider = IdentityProvider::start_tls(tls, &[jwk("a")]).await;
        let mut issuer = issuer(&provider.issuer(), KeySource::Discovery, KeyUpkeep::default());
        issuer.keys.ca = ca;
        let keys = start_issuer(&issuer, ManualClock::at(NOW));
        keys.ended(1).await;
        assert_eq!(keys.is_ready(), expected, "{host} {until:?}: {:?}", keys.status().last_error);
        assert_eq!(keys.refreshes().contains_key("unreachable"), !expected);
    }
}

// ---- life ----

/// The keys that a configuration with `after` in place of `before` begins with.
fn reconfigured(before: &Arc<IssuerKeys>, after: &IssuerRules) -> jwks::Prepared {
    let clock: Arc<dyn Clock> = Arc::new(ManualClock::at(NOW));
    jwks::prepare(&after.issuer.name, &after.keys, Some(before), &clock, &Handle::current())
        .unwrap()
}

#[tokio::test]
async fn a_new_configuration_takes_over_the_keys_that_it_leaves_alone() {
    let provider = IdentityProvider::start(&[jwk("a")]).await;
    let source = KeySource::Uri(provider.jwks_uri());
    let issuer = issuer("https://same", source, KeyUpkeep::default());
    let old = start_issuer(&issuer, ManualClock::at(NOW));
    old.ready().await;
    let prepared = reconfigured(&old, &issuer);
    assert!(Arc::ptr_eq(&old, &prepared.keys) && prepared.change.is_none());
    tokio::task::yield_now().await;
    assert_eq!(provider.fetches(), 1, "nothing is asked anew");
}

#[tokio::test]
async fn keys_outlive_every_change_of_how_they_are_kept() {
    let folder = tempfile::tempdir().unwrap();
    let snapshot_file = folder.path().join("keys.json");
    let usual = KeyUpkeep::default;
    let edits: [(&str, KeyUpkeep); 9] = [
        ("withdrawn_key_grace", KeyUpkeep { withdrawn_key_grace: MINUTE, ..usual() }),
        ("refresh_min", KeyUpkeep { refresh_min: SECOND, ..usual() }),
        ("refresh_max", KeyUpkeep { refresh_max: 2 * HOUR, ..usual() }),
        ("refresh_default", KeyUpkeep { refresh_default: MINUTE, ..usual() }),
        ("max_stale", KeyUpkeep { max_stale: 48 * HOUR, ..usual() }),
        ("unknown_kid_cooldown", KeyUpkeep { unknown_kid_cooldown: SECOND, ..usual() }),
        ("fetch_timeout", KeyUpkeep { fetch_timeout: SECOND, ..usual() }),
        ("max_bytes", KeyUpkeep { max_bytes: 1024, ..usual() }),
        ("snapshot_file", KeyUpkeep { snapshot_file: Some(snapshot_file.clone()), ..usual() }),
    ];
    for (edit, upkeep) in edits {
        let provider = IdentityProvider::start(&[jwk("a")]).await;
        let keys = start(&provider);
        keys.ended(1).await;
        provider.go_down().await;
        let source = KeySource::Uri(provider.jwks_uri());
        let prepared = reconfigured(&keys, &issuer(&provider.issuer(), source, upkeep));
        assert!(!prepared.left_behind);
        let new = applied(prepared);
        assert!(Arc::ptr_eq(&new, &keys), "{edit}");
        assert_eq!(kids(&new), ["a"], "{edit}");
        new.tried().await;
        new.ended(2).await;
        assert_eq!(kids(&new), ["a"], "{edit}");
        assert_eq!(new.refreshes().get("changed"), Some(&1), "what was counted counts on");
        assert_eq!(new.refreshes().get("unreachable"), Some(&1), "the issuer is asked at once");
    }
    // What is held is written into a snapshot that is named during the outage.
    while !snapshot_file.exists() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn how_long_keys_are_used_counts_anew_from_when_the_issuer_was_last_heard() {
    for (hours, expected) in [(48, &["a"][..]), (4, &["a"]), (3, &[]), (2, &[])] {
        let provider = IdentityProvider::start(&[jwk("a")]).await;
        let keys = start(&provider);
        keys.ended(1).await;
        provider.go_down().await;
        refresh_after(&keys, 3 * HOUR).await;
        let source = KeySource::Uri(provider.jwks_uri());
        let upkeep = KeyUpkeep { max_stale: hours * HOUR, ..KeyUpkeep::default() };
        let after = issuer(&provider.issuer(), source, upkeep);
        let new = applied(reconfigured(&keys, &after));
        assert_eq!(kids(&new), expected, "{hours}h");
        new.tried().await;
        jump((hours - hours.min(3)) * HOUR - MINUTE.min((hours - hours.min(3)) * HOUR)).await;
        assert_eq!(kids(&new), expected, "{hours}h");
        jump(MINUTE).await;
        assert!(new.current().is_none(), "{hours}h");
    }
}

#[tokio::test]
async fn authorities_that_are_wrong_though_valid_cost_no_keys() {
    let (authority, other) = (Authority::new(), Authority::new());
    let tls = authority.server(&CertificateParams::new(["127.0.0.1".to_owned()]).unwrap());
    let provider = IdentityProvider::start_tls(tls, &[jwk("a")]).await;
    let with_ca = |pem: &[u8]| {
        let mut issuer = issuer(&provider.issuer(), KeySource::Discovery, KeyUpkeep::default());
        issuer.keys.ca = Some(pem.to_vec());
        issuer
    };
    let keys = start_issuer(&with_ca(&authority.pem), ManualClock::at(NOW));
    keys.ended(1).await;
    let keys = applied(reconfigured(&keys, &with_ca(&other.pem)));
    keys.ended(2).await;
    assert!(keys.refreshes().contains_key("unreachable"), "they count at once");
    assert_eq!(kids(&keys), ["a"]);
    let keys = applied(reconfigured(&keys, &with_ca(&authority.pem)));
    // While the new configuration is prepared, which may take a while, more attempts with the old one may fail.
    while !keys.refreshes().contains_key("unchanged") {
        let ended: u64 = keys.refreshes().values().sum();
        keys.ended(ended + 1).await;
    }
    assert_eq!(keys.status().consecutive_failures, 0);
}

#[tokio::test]
async fn keys_of_another_place_or_issuer_do_not_count() {
    let folder = tempfile::tempdir().unwrap();
    let upkeep =
        KeyUpkeep { snapshot_file: Some(folder.path().join("as.json")), ..KeyUpkeep::default() };
    let provider = IdentityProvider::start(&[jwk("a")]).await;
    let elsewhere = format!("{}/elsewhere", provider.issuer());
    let uri = KeySource::Uri(provider.jwks_uri());
    for (name, source, told) in [
        (provider.issuer(), KeySource::Uri(elsewhere), true),
        (provider.issuer(), KeySource::Discovery, true),
        (provider.issuer(), KeySource::File("/nonexistent".into()), true),
        ("https://other".to_owned(), uri, false),
    ] {
        let keys = start_with(&provider, upkeep.clone());
        keys.ended(1).await;
        // The snapshot of one fetch is written before the next fetch begins.
        refresh(&keys).await;
        provider.hold();
        let prepared = reconfigured(&keys, &issuer(&name, source.clone(), upkeep.clone()));
        assert_eq!(prepared.left_behind, told, "{source:?}");
        let new = applied(prepared);
        assert!(new.current().is_none(), "{source:?}");
        let counted = new.refreshes().get("changed").copied().unwrap_or_default();
        assert_eq!(counted, u64::from(told), "{source:?}: what is counted never falls");
        provider.release();
        provider.behave(Behaviour::Status(500));
        new.ended(1).await;
        assert!(new.current().is_none(), "{source:?}: not out of the snapshot either");
        provider.behave(Behaviour::Normal);
    }
}

#[tokio::test]
async fn a_new_configuration_breaks_off_a_fetch_that_hangs() {
    let provider = IdentityProvider::start(&[jwk("a")]).await;
    provider.flap([Behaviour::Stalled]);
    let keys = start(&provider);
    provider.fetched(1).await;
    let source = KeySource::Uri(provider.jwks_uri());
    let upkeep = KeyUpkeep { fetch_timeout: 4 * SECOND, ..KeyUpkeep::default() };
    let new = applied(reconfigured(&keys, &issuer(&provider.issuer(), source, upkeep)));
    new.tried().await;
    assert_eq!(kids(&new), ["a"]);
}

#[tokio::test]
async fn what_is_dropped_stops_fetching() {
    let provider = IdentityProvider::start(&[jwk("a")]).await;
    let issuer = issuer("https://as", KeySource::Uri(provider.jwks_uri()), KeyUpkeep::default());
    let clock = Arc::new(ManualClock::at(NOW));
    let (name, clocked) = (&issuer.issuer.name, Arc::<ManualClock>::clone(&clock));
    let keys = begun(name, &issuer.keys, clocked);
    let keys = keys.unwrap();
    keys.ended(1).await;
    drop(keys);
    while Arc::strong_count(&clock) != 1 {
        tokio::task::yield_now().await;
    }
    jump(HOUR).await;
    assert_eq!(provider.fetches(), 1);
}

// ---- what the tests need ----

fn jwk(kid: &str) -> Value {
    let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
    let point = pair.public_key().as_ref();
    let (x, y) = (base64url::encode(&point[1..33]), base64url::encode(&point[33..]));
    json!({"kty": "EC", "crv": "P-256", "kid": kid, "use": "sig", "alg": "ES256", "x": x, "y": y})
}

/// A certification authority.
struct Authority {
    issuer: rcgen::Issuer<'static, rcgen::KeyPair>,
    pem: Vec<u8>,
}

impl Authority {
    fn new() -> Self {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).unwrap().pem().into_bytes();
        Self { issuer: rcgen::Issuer::new(params, key), pem }
    }

    fn server(&self, certificate: &CertificateParams) -> ServerConfig {
        let key = rcgen::KeyPair::generate().unwrap();
        let chain = vec![certificate.signed_by(&key, &self.issuer).unwrap().der().clone()];
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let provider = Arc::new(tokio_rustls::rustls::crypto::aws_lc_rs::default_provider());
        let config = ServerConfig::builder_with_provider(provider);
        let config = config.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
        config.with_single_cert(chain, key).unwrap()
    }
}

fn issuer(name: &str, source: KeySource, upkeep: KeyUpkeep) -> IssuerRules {
    let issuer = Arc::new(Issuer {
        algorithms: vec![keybound_core::jose::Algorithm::ES256],
        ..Issuer::new(name, "https://api.example.com")
    });
    IssuerRules {
        issuer,
        keys: KeyRules { upkeep, ..KeyRules::new(source) },
        introspection: None,
        revocation: None,
    }
}

fn start_issuer(rules: &IssuerRules, clock: ManualClock) -> Arc<IssuerKeys> {
    try_start(rules, clock).unwrap()
}

fn begun(
    name: &Arc<str>,
    rules: &KeyRules,
    clock: Arc<ManualClock>,
) -> Result<Arc<IssuerKeys>, BadSource> {
    let clock: Arc<dyn Clock> = clock;
    jwks::prepare(name, rules, None, &clock, &Handle::current()).map(|it| it.keys)
}

fn applied(prepared: jwks::Prepared) -> Arc<IssuerKeys> {
    prepared.change.into_iter().for_each(jwks::Change::apply);
    prepared.keys
}

fn try_start(rules: &IssuerRules, clock: ManualClock) -> Result<Arc<IssuerKeys>, BadSource> {
    let name = &rules.issuer.name;
    begun(name, &rules.keys, Arc::new(clock))
}

fn start_at(provider: &IdentityProvider, upkeep: KeyUpkeep, clock: ManualClock) -> Arc<IssuerKeys> {
    let source = KeySource::Uri(provider.jwks_uri());
    start_issuer(&issuer(&provider.issuer(), source, upkeep), clock)
}

fn start_with(provider: &IdentityProvider, upkeep: KeyUpkeep) -> Arc<IssuerKeys> {
    start_at(provider, upkeep, ManualClock::at(NOW))
}

fn start(provider: &IdentityProvider) -> Arc<IssuerKeys> {
    start_with(provider, KeyUpkeep::default())
}

fn discover(provider: &IdentityProvider) -> Arc<IssuerKeys> {
    let issuer = issuer(&provider.issuer(), KeySource::Discovery, KeyUpkeep::default());
    start_issuer(&issuer, ManualClock::at(NOW))
}

/// Another set than `seen`.
async fn newer(keys: &IssuerKeys, seen: &Arc<KeySet>) -> Option<Arc<KeySet>> {
    match keys.newer_than(seen).await {
        Newer::Set(set) => Some(set),
        Newer::None | Newer::Unasked { .. } => None,
    }
}

/// Lets `span` pass at once.
async fn jump(span: Duration) {
    tokio::time::pause();
    tokio::time::advance(span).await;
    tokio::time::resume();
}

/// Lets `span` pass and waits for the fetch that is due by then.
async fn refresh_after(keys: &IssuerKeys, span: Duration) {
    let ended: u64 = keys.refreshes().values().sum();
    keys.ended(ended).await;
    jump(span).await;
    keys.ended(ended + 1).await;
}

/// Lets the usual time between two fetches pass.
async fn refresh(keys: &IssuerKeys) {
    refresh_after(keys, 5 * MINUTE).await;
}

fn kids(keys: &IssuerKeys) -> Vec<String> {
    let set: Option<Arc<KeySet>> = keys.current();
    set.map_or_else(Vec::new, |it| it.kids().map(str::to_owned).collect())
}

/// The `If-None-Match` of each request for keys.
fn asked_for(provider: &IdentityProvider) -> Vec<Option<String>> {
    let asked = provider.asked();
    let keys = asked.iter().filter(|it| it.path == "/jwks");
    keys.map(|it| it.headers.get(header::IF_NONE_MATCH).map(|it| it.to_str().unwrap().to_owned()))
        .collect()
}

#[tokio::test]
async fn a_survey_tells_where_the_metadata_and_the_keys_are_and_which_are_skipped() {
    let odd = json!({"kty": "oct", "kid": "odd", "k": "AA"});
    let provider = IdentityProvider::start(&[jwk("a"), odd]).await;
    provider.publish_metadata(Published::OpenId);
    let rules = issuer(&provider.issuer(), KeySource::Discovery, KeyUpkeep::default()).keys;
    let survey = async || jwks::survey(&provider.issuer(), &rules).await.unwrap();
    let found = survey().await;
    let location = found.metadata.unwrap().unwrap().location;
    assert_eq!(location.as_str(), provider.issuer() + "/.well-known/openid-configuration");
    assert_eq!(found.keys_at, Some(provider.jwks_uri()));
    let set = found.keys.unwrap();
    assert_eq!((set.kids().collect::<Vec<_>>(), set.skipped_count()), (vec!["a"], 1));
    assert_eq!(provider.fetches(), 1);

    provider.behave(Behaviour::Status(500));
    let found = survey().await;
    assert!(found.metadata.unwrap().is_ok());
    assert!(found.keys.unwrap_err().contains("500"));

    provider.go_down().await;
    let found = survey().await;
    assert!(found.metadata.unwrap().is_err() && found.keys.is_err());
}
