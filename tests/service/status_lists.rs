//! Holds the keeping of status lists to its promises, against a stub that serves them and misbehaves.
//!
//! Time passes in jumps: the clock of the runtime is stopped, set forward, and let go, so that
//! nothing sleeps and sockets never see a stopped clock.

use crate::support::clock::ManualClock;
use crate::support::configured::configured;
use crate::support::identity_provider::{Behaviour, IdentityProvider};
use crate::support::tokens::Signer;
use futures_util::future::join_all;
use jsonwebtoken::Algorithm as Signing;
use keybound::clock::Clock;
use keybound::front::module::{Begun, Decision, Endpoint, Peer};
use keybound::gate::Gate;
use keybound::installation::{Checker, Installation};
use keybound::state::jwks::{self, IssuerKeys, KeyRules, KeySource, KeyUpkeep};
use keybound::state::revocation::Changes;
use keybound::state::revocation::status_lists::{
    StatusListTerms, StatusLists, StatusListsStatus, Untold,
};
use keybound::telemetry::metrics::Metrics;
use keybound_core::jose::{Algorithm, Thumbprint, base64url};
use keybound_core::oauth::{STATUS_LIST_BYTES, STATUS_LIST_TOKEN_BYTES, Status, StatusReference};
use keybound_core::policy::Issuer;
use keybound_core::{
    Denial, Detail, Evidence, Facts, Field, Mark, PeerCertificate, Request, UnixTime,
};
use miniz_oxide::deflate::compress_to_vec_zlib;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::task::JoinSet;
use tokio::time::timeout;

pub(super) const NOW: i64 = 1_800_000_000;
const SECOND: Duration = Duration::from_secs(1);
pub(super) const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);

/// An issuer, and whoever serves its lists.
pub(super) struct World {
    pub(super) signer: Signer,
    keys: Arc<IssuerKeys>,
    pub(super) issuer: IdentityProvider,
    server: IdentityProvider,
    clock: Arc<ManualClock>,
    rules: KeyRules,
    changes: Arc<Changes>,
    lists: Arc<StatusLists>,
}

impl World {
    async fn new() -> Self {
        Self::with(|_| {}).await
    }

    async fn with(edit: impl FnOnce(&mut KeyRules)) -> Self {
        let signer = Signer::new(Signing::ES256, "own");
        let issuer = IdentityProvider::start(std::slice::from_ref(signer.jwk())).await;
        let server = IdentityProvider::start(&[]).await;
        let clock = Arc::new(ManualClock::at(UnixTime::from_secs(NOW)));
        let mut rules = KeyRules::new(KeySource::Uri(issuer.jwks_uri()));
        edit(&mut rules);
        let keys = keys(&issuer.issuer(), &rules, &clock);
        let changes = Arc::new(Changes::default());
        let lists = start(&issuer.issuer(), &keys, &rules, &clock, &changes, None);
        Self { signer, keys, issuer, server, clock, rules, changes, lists }
    }

    /// Where the server has a list.
    fn uri(&self) -> String {
        self.server.jwks_uri()
    }

    /// The claims of a list with these statuses.
    pub(super) fn claims(&self, bits: u64, octets: &[u8]) -> Value {
        claims(&self.uri(), bits, octets)
    }

    /// Serves this list from here on.
    pub(super) fn serve(&self, claims: &Value) {
        self.server.behave(Behaviour::Body(self.signed(claims)));
    }

    fn signed(&self, claims: &Value) -> Vec<u8> {
        self.signer.sign("statuslist+jwt", claims).into_bytes()
    }

    fn time(&self) -> UnixTime {
        self.clock.now()
    }

    /// What is known at once.
    fn look_up(&self, index: u64) -> Result<Status, Untold> {
        self.lists.look_up(&place(&self.uri(), index), &self.issuer.issuer(), self.time())
    }

    /// What is known once the list was waited for.
    async fn told(&self, index: u64) -> Result<Status, Untold> {
        told(&self.lists, &self.uri(), index, self.time()).await
    }

    fn state(&self) -> StatusListsStatus {
        self.lists.status()
    }

    /// How many fetches have ended.
    fn fetches(&self) -> u64 {
        self.state().fetches.values().sum()
    }

    /// Lets `span` pass, and waits for the fetch that is due by then.
    async fn refresh_after(&self, span: Duration) {
        let fetches = self.fetches();
        self.pass(span).await;
        self.lists.ended(fetches + 1).await;
    }

    async fn refresh(&self) {
        self.refresh_after(5 * MINUTE).await;
    }

    /// Lets `span` pass, by both clocks.
    pub(super) async fn pass(&self, span: Duration) {
        // What has been begun goes on until it waits.
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        self.clock.advance(span);
        tokio::time::pause();
        tokio::time::advance(span).await;
        tokio::time::resume();
    }
}

fn keys(issuer: &str, rules: &KeyRules, clock: &Arc<ManualClock>) -> Arc<IssuerKeys> {
    let clock: Arc<dyn Clock> = Arc::<ManualClock>::clone(clock);
    jwks::prepare(&issuer.into(), rules, None, &clock, &Handle::current()).unwrap().keys
}

fn start(
    issuer: &str,
    keys: &Arc<IssuerKeys>,
    rules: &KeyRules,
    clock: &Arc<ManualClock>,
    changes: &Arc<Changes>,
    previous: Option<&Arc<StatusLists>>,
) -> Arc<StatusLists> {
    let issuer = Issuer::new(issuer, "https://api.example.com");
    let issuer = &Arc::new(Issuer { algorithms: vec![Algorithm::ES256], ..issuer });
    let clock: Arc<dyn Clock> = Arc::<ManualClock>::clone(clock);
    let terms = StatusListTerms { issuer, keys, rules };
    StatusLists::start(terms, previous, changes, &clock, &Handle::current()).unwrap()
}

async fn told(
    lists: &StatusLists,
    uri: &str,
    index: u64,
    time: UnixTime,
) -> Result<Status, Untold> {
    // As long as a test may take on a machine that is busy.
    lists.told(&place(uri, index), "", time, MINUTE).await
}

/// What a token says that has this place in the list at `uri`.
fn place(uri: &str, index: u64) -> StatusReference {
    let claims = json!({"status": {"status_list": {"idx": index, "uri": uri}}});
    StatusReference::of(claims.as_object().unwrap()).unwrap().unwrap()
}

fn claims(uri: &str, bits: u64, octets: &[u8]) -> Value {
    let list = base64url::encode(&compress_to_vec_zlib(octets, 9));
    json!({"sub": uri, "iat": NOW, "status_list": {"bits": bits, "lst": list}})
}

// ---- what a list says ----

#[tokio::test]
async fn checks_that_meet_an_unknown_list_share_its_first_fetch() {
    let world = World::new().await;
    let changes = world.changes.subscribe();
    world.serve(&world.claims(1, &[0b10]));
    assert_eq!(world.look_up(1), Err(Untold::Awaited));
    assert_eq!(world.server.fetches(), 0, "a look causes nothing");
    world.server.hold();
    let checks = join_all((0..100).map(|it| world.told(it % 3)));
    let release = async {
        world.server.fetched(1).await;
        world.server.release();
    };
    let (found, ()) = tokio::join!(checks, release);
    for (index, found) in found.into_iter().enumerate() {
        let expected = if index % 3 == 1 { Status::Invalid } else { Status::Valid };
        assert_eq!(found, Ok(expected), "{index}");
    }
    assert_eq!(world.server.fetches(), 1);
    assert_eq!(world.look_up(1), Ok(Status::Invalid), "from here on nothing waits");
    let asked = &world.server.asked()[0].headers;
    assert_eq!(asked["accept"], "application/statuslist+jwt");
    assert_eq!(asked["accept-encoding"], "identity");
    assert!(!asked.contains_key("authorization"));
    assert!(changes.has_changed().unwrap(), "open streams are judged again");
}

#[tokio::test]
async fn statuses_of_each_width_are_told_apart_from_both_neighbours() {
    for (bits, octets, expected) in [
        (1, [0b0001_0000, 0], [0, 1, 0]),
        (2, [0b1001_1100, 0b11], [3, 1, 2]),
        (4, [0x52, 0x91], [5, 1, 9]),
        (8, [0xff, 0x02], [0xff, 2, 0]),
    ] {
        let world = World::new().await;
        world.serve(&world.claims(bits, &octets));
        let first = match bits {
            1 => 3,
            2 | 4 => 1,
            _ => 0,
        };
        for (index, expected) in (first..).zip(expected) {
            let expected = match expected {
                0 if bits == 8 => Err(Untold::BeyondEnd),
                0 => Ok(Status::Valid),
                1 => Ok(Status::Invalid),
                2 => Ok(Status::Suspended),
                other => Ok(Status::Other(other)),
            };
            assert_eq!(world.told(index).await, expected, "{bits} bits, index {index}");
        }
    }
}

#[tokio::test]
async fn a_list_of_sixteen_million_tokens_is_held() {
    let world = World::new().await;
    let mut octets = vec![0; 2 << 20];
    *octets.last_mut().unwrap() = 0b1000_0000;
    world.serve(&world.claims(1, &octets));
    let last = (16 << 20) - 1;
    assert_eq!(world.told(last).await, Ok(Status::Invalid));
    assert_eq!(world.told(last - 1).await, Ok(Status::Valid));
    assert_eq!(world.told(last + 1).await, Err(Untold::BeyondEnd));
    let state = world.state();
    assert!((2 << 20..3 << 20).contains(&state.bytes), "{}", state.bytes);
    assert_eq!(state.each[0].entries, 16 << 20);
}

#[tokio::test]
async fn a_bomb_is_refused() {
    let world = World::new().await;
    let bomb = world.claims(1, &vec![0; STATUS_LIST_BYTES + 1]);
    world.serve(&bomb);
    assert_eq!(world.told(0).await, Err(Untold::Unavailable));
    assert_eq!(world.state().fetches["too_long"], 1);
}

/// What is served in place of a good list.
type Served = Box<dyn Fn(&World) -> Behaviour>;

#[tokio::test]
async fn what_is_not_the_list_that_the_token_names_tells_nothing() {
    let other = Signer::new(Signing::ES256, "own");
    let edited = |edit: fn(&mut Value)| {
        move |world: &World| {
            let mut claims = world.claims(1, &[0]);
            edit(&mut claims);
            Behaviour::Body(world.signed(&claims))
        }
    };
    let cases: Vec<(&str, Served)> = vec![
        ("subject_mismatch", Box::new(edited(|it| it["sub"] = "https://as.example.com/2".into()))),
        ("issuer_mismatch", Box::new(edited(|it| it["iss"] = "https://as.example.com".into()))),
        ("audience_mismatch", Box::new(edited(|it| it["aud"] = "other".into()))),
        ("expired", Box::new(edited(|it| it["exp"] = (NOW - 30).into()))),
        ("premature", Box::new(edited(|it| it["iat"] = (NOW + 31).into()))),
        ("claim_missing", Box::new(edited(|it| drop(it.as_object_mut().unwrap().remove("iat"))))),
        ("claim_malformed", Box::new(edited(|it| it["status_list"]["bits"] = 3.into()))),
        ("claim_malformed", Box::new(edited(|it| it["ttl"] = 0.into()))),
        ("not_zlib", Box::new(edited(|it| it["status_list"]["lst"] = "AAAA".into()))),
        (
            "type_wrong",
            Box::new(|it| {
                Behaviour::Body(it.signer.sign("at+jwt", &it.claims(1, &[0])).into_bytes())
            }),
        ),
        (
            "signature_invalid",
            Box::new(move |it| {
                let list = other.sign("statuslist+jwt", &it.claims(1, &[0]));
                Behaviour::Body(list.into_bytes())
            }),
        ),
        ("malformed", Box::new(|_| Behaviour::Body(b"<html>Welcome</html>".to_vec()))),
        (
            "malformed",
            Box::new(|_| Behaviour::Body(b"{\"bits\":1,\"lst\":\"eNpjAAAAAQAB\"}".to_vec())),
        ),
        ("status", Box::new(|_| Behaviour::Status(404))),
        ("status", Box::new(|_| Behaviour::Status(500))),
        ("too_large", Box::new(|_| Behaviour::Huge(STATUS_LIST_TOKEN_BYTES + 1))),
        ("too_large", Box::new(|_| Behaviour::Endless)),
        ("compressed", Box::new(|_| Behaviour::Compressed)),
    ];
    for (label, served) in cases {
        let world = World::new().await;
        world.server.behave(served(&world));
        assert_eq!(world.told(0).await, Err(Untold::Unavailable), "{label}");
        assert_eq!(world.state().fetches.keys().collect::<Vec<_>>(), [&label]);
        assert_eq!(world.state().unusable, 1);
    }
}

#[tokio::test]
async fn a_redirect_is_not_followed() {
    let world = World::new().await;
    let elsewhere = IdentityProvider::start(&[]).await;
    elsewhere.behave(Behaviour::Body(world.signed(&world.claims(1, &[0]))));
    world.server.behave(Behaviour::Redirect(elsewhere.jwks_uri()));
    assert_eq!(world.told(0).await, Err(Untold::Unavailable));
    assert_eq!(world.state().fetches["redirected"], 1);
    assert_eq!(elsewhere.asked().len(), 0);
}

#[tokio::test]
async fn a_line_break_behind_the_list_does_no_harm() {
    let world = World::new().await;
    let list = [&world.signed(&world.claims(1, &[1]))[..], b"\r\n"].concat();
    world.server.behave(Behaviour::Body(list));
    assert_eq!(world.told(0).await, Ok(Status::Invalid));
}

// ---- how it is kept ----

#[tokio::test]
async fn what_is_said_to_be_something_else_than_a_list_is_none() {
    let world = World::new().await;
    world.serve(&world.claims(1, &[0b10]));
    world.server.content_type("application/statuslist+jwt");
    assert_eq!(world.told(1).await, Ok(Status::Invalid));
    world.serve(&world.claims(1, &[0b00]));
    world.server.content_type("text/html; charset=utf-8");
    world.refresh().await;
    assert_eq!(world.look_up(1), Ok(Status::Invalid), "it is not taken over");
    let error = world.state().each[0].last_error.clone().unwrap().what;
    assert!(error.contains("text/html") && error.contains("application/statuslist+jwt"), "{error}");
    assert_eq!(world.state().fetches["content_type"], 1);
    world.server.content_type("application/octet-stream");
    world.refresh().await;
    assert_eq!(world.look_up(1), Ok(Status::Valid));
}

#[tokio::test]
async fn a_revocation_counts_from_the_next_refresh_on() {
    let world = World::new().await;
    world.serve(&world.claims(1, &[0]));
    assert_eq!(world.told(7).await, Ok(Status::Valid));
    world.serve(&world.claims(1, &[0b1000_0000]));
    let mut changes = world.changes.subscribe();
    world.refresh_after(MINUTE).await;
    assert_eq!(world.look_up(7), Ok(Status::Invalid), "no check waited for it");
    changes.changed().await.unwrap();
    world.refresh_after(MINUTE).await;
    assert!(!changes.has_changed().unwrap(), "the same list changes nothing");
    assert_eq!(world.state().fetches["unchanged"], 1);
}

#[tokio::test]
async fn the_time_between_two_fetches_follows_the_ttl() {
    let world = World::new().await;
    let planned = async |ttl: u64| {
        let mut claims = world.claims(1, &[0]);
        claims["ttl"] = ttl.into();
        world.serve(&claims);
        if world.fetches() == 0 {
            world.told(0).await.unwrap();
        } else {
            world.refresh().await;
        }
        world.state().each[0].next_refresh_seconds.unwrap()
    };
    for (ttl, least, most) in [(43_200, 269, 300), (20, 17, 20), (200, 179, 200), (1, 4, 5)] {
        let planned = planned(ttl).await;
        assert!((least..=most).contains(&planned), "ttl {ttl}: {planned}");
    }
    assert_eq!(world.server.fetches(), 4);
}

#[tokio::test]
async fn a_list_is_fetched_again_before_it_expires() {
    let world = World::new().await;
    let mut claims = world.claims(1, &[0]);
    claims["exp"] = json!(NOW + 100);
    claims["ttl"] = json!(300);
    world.serve(&claims);
    world.told(0).await.unwrap();
    let planned = world.state().each[0].next_refresh_seconds.unwrap();
    assert!(planned <= 75, "{planned}");
}

#[tokio::test]
async fn a_list_is_good_until_its_end_and_the_leeway_and_not_longer() {
    let world = World::new().await;
    let mut claims = world.claims(1, &[0]);
    claims["exp"] = json!(NOW + 600);
    world.serve(&claims);
    world.told(0).await.unwrap();
    world.server.go_down().await;
    world.clock.set(UnixTime::from_secs(NOW + 629));
    assert_eq!(world.look_up(0), Ok(Status::Valid));
    world.clock.set(UnixTime::from_secs(NOW + 630));
    assert_eq!(world.look_up(0), Err(Untold::Unavailable));
    assert_eq!(world.told(0).await, Err(Untold::Unavailable));
    assert_eq!(world.state().unusable, 1);
}

#[tokio::test]
async fn a_list_outlives_an_outage_of_an_hour_and_not_a_longer_one() {
    let world = World::new().await;
    world.serve(&world.claims(1, &[0]));
    world.told(0).await.unwrap();
    world.server.go_down().await;
    world.refresh_after(HOUR - MINUTE).await;
    assert_eq!(world.look_up(0), Ok(Status::Valid));
    assert!((3540..3600).contains(&world.state().age_seconds.unwrap()));
    world.pass(MINUTE).await;
    assert_eq!(world.look_up(0), Err(Untold::Unavailable));
    assert_eq!(world.told(0).await, Err(Untold::Unavailable), "at once");
    world.server.come_up().await;
    // The first may be one that began before.
    for _ in 0..5 {
        if world.look_up(0).is_err() {
            world.refresh_after(MINUTE).await;
        }
    }
    assert_eq!(world.look_up(0), Ok(Status::Valid));
}

#[tokio::test]
async fn a_list_whose_ttl_is_longer_outlives_a_longer_outage() {
    let world = World::new().await;
    let mut claims = world.claims(1, &[0]);
    claims["ttl"] = json!(7200);
    world.serve(&claims);
    world.told(0).await.unwrap();
    world.server.go_down().await;
    world.pass(2 * HOUR - MINUTE).await;
    assert_eq!(world.look_up(0), Ok(Status::Valid));
    world.pass(MINUTE).await;
    assert_eq!(world.look_up(0), Err(Untold::Unavailable));
}

#[tokio::test]
async fn bad_answers_never_replace_a_good_list() {
    let world = World::new().await;
    world.serve(&world.claims(1, &[0b10]));
    world.told(0).await.unwrap();
    let other = Signer::new(Signing::ES256, "own");
    let forged = other.sign("statuslist+jwt", &world.claims(1, &[0])).into_bytes();
    for behaviour in [
        Behaviour::Status(500),
        Behaviour::Body(b"<html>".to_vec()),
        Behaviour::Body(forged),
        Behaviour::Redirect(world.uri()),
    ] {
        world.server.behave(behaviour);
        world.refresh().await;
        assert_eq!(world.look_up(1), Ok(Status::Invalid));
    }
    assert_eq!(world.state().each[0].consecutive_failures, 4);
    assert!(world.state().each[0].last_error.is_some());
}

#[tokio::test]
async fn a_list_is_never_replaced_by_an_older_one() {
    let world = World::new().await;
    world.serve(&world.claims(1, &[1]));
    world.told(0).await.unwrap();
    let mut older = world.claims(1, &[0]);
    older["iat"] = json!(NOW - 1);
    world.serve(&older);
    world.refresh().await;
    assert_eq!(world.look_up(0), Ok(Status::Invalid));
    assert_eq!(world.state().fetches["older"], 1);
    let mut newer = world.claims(1, &[0]);
    newer["iat"] = json!(NOW + 1);
    world.serve(&newer);
    world.refresh().await;
    assert_eq!(world.look_up(0), Ok(Status::Valid));
}

#[tokio::test]
async fn a_version_that_still_holds_is_not_sent_again() {
    let world = World::new().await;
    world.server.etag("\"1\"");
    world.serve(&world.claims(1, &[1]));
    world.told(0).await.unwrap();
    world.refresh().await;
    world.refresh().await;
    assert_eq!(world.state().fetches["not_modified"], 2);
    assert_eq!(world.look_up(0), Ok(Status::Invalid));
    assert!(world.state().age_seconds.unwrap() < 60);
    let asked = world.server.asked();
    let known: Vec<_> = asked.iter().map(|it| it.headers.get("if-none-match")).collect();
    assert!(known[0].is_none() && known[1..].iter().all(|it| it.unwrap() == "\"1\""));
}

#[tokio::test]
async fn a_list_whose_key_is_withdrawn_is_read_anew() {
    let world = World::new().await;
    world.server.etag("\"1\"");
    world.serve(&world.claims(1, &[0]));
    world.told(0).await.unwrap();
    let new = Signer::new(Signing::ES256, "new");
    world.issuer.publish(std::slice::from_ref(new.jwk()));
    let seen = world.keys.current().unwrap();
    world.keys.newer_than(&seen).await;
    world.refresh().await;
    assert_eq!(world.state().fetches["key_unknown"], 1, "not modified is no answer then");
    let list = new.sign("statuslist+jwt", &world.claims(1, &[1])).into_bytes();
    world.server.behave(Behaviour::Body(list));
    world.refresh().await;
    assert_eq!(world.look_up(0), Ok(Status::Invalid));
}

#[tokio::test]
async fn a_list_by_a_new_key_is_a_reason_to_fetch_the_keys() {
    let world = World::new().await;
    world.keys.ended(1).await;
    let new = Signer::new(Signing::ES256, "new");
    world.issuer.publish(&[world.signer.jwk().clone(), new.jwk().clone()]);
    let list = new.sign("statuslist+jwt", &world.claims(1, &[1])).into_bytes();
    world.server.behave(Behaviour::Body(list));
    assert_eq!(world.told(0).await, Ok(Status::Invalid));
    assert_eq!(world.issuer.fetches(), 2);
}

#[tokio::test]
async fn a_list_that_has_grown_is_fetched_for_a_token_beyond_its_end_once_per_cooldown() {
    let world = World::new().await;
    world.serve(&world.claims(1, &[0]));
    assert_eq!(world.told(7).await, Ok(Status::Valid));
    assert_eq!(world.look_up(8), Err(Untold::BeyondEnd));
    world.serve(&world.claims(1, &[0, 1]));
    assert_eq!(world.told(8).await, Ok(Status::Invalid), "it waits for the longer list");
    assert_eq!(world.server.fetches(), 2);
    for index in 16..1016 {
        assert_eq!(world.told(index).await, Err(Untold::BeyondEnd));
    }
    assert_eq!(world.server.fetches(), 2, "ten seconds have not passed");
    world.pass(10 * SECOND).await;
    assert_eq!(world.told(16).await, Err(Untold::BeyondEnd));
    assert_eq!(world.server.fetches(), 3);
}

#[tokio::test]
async fn a_list_that_cannot_be_had_is_asked_for_with_longer_and_longer_pauses() {
    let world = World::new().await;
    world.server.behave(Behaviour::Status(503));
    assert_eq!(world.told(0).await, Err(Untold::Unavailable));
    for _ in 0..100 {
        assert_eq!(world.told(0).await, Err(Untold::Unavailable), "at once");
    }
    assert_eq!(world.server.fetches(), 1);
    for (fetches, seconds) in [(2, 1), (3, 2), (4, 4), (5, 8)] {
        assert!(world.told(0).await.is_err());
        world.refresh_after(Duration::from_secs(seconds)).await;
        assert_eq!(world.server.fetches(), fetches);
    }
    world.serve(&world.claims(1, &[1]));
    assert!(world.told(0).await.is_err());
    world.refresh_after(16 * SECOND).await;
    assert_eq!(world.look_up(0), Ok(Status::Invalid));
}

#[tokio::test]
async fn a_check_waits_for_no_longer_than_its_patience() {
    let world = World::new().await;
    world.serve(&world.claims(1, &[1]));
    world.server.hold();
    let place = place(&world.uri(), 0);
    let told = world.lists.told(&place, "", world.time(), Duration::from_millis(1)).await;
    assert_eq!(told, Err(Untold::Late));
    world.server.release();
    world.lists.ended(1).await;
    assert_eq!(world.told(0).await, Ok(Status::Invalid));
}

// ---- bounds ----

#[tokio::test]
async fn places_that_never_answer_hold_up_no_list_that_is_good() {
    let world = World::new().await;
    world.serve(&world.claims(1, &[0]));
    assert_eq!(world.told(0).await, Ok(Status::Valid));
    let silent = IdentityProvider::start(&[]).await;
    silent.hold();
    for number in 0..10 {
        let place = place(&format!("{}?{number}", silent.jwks_uri()), 0);
        let told = world.lists.told(&place, "", world.time(), Duration::from_millis(1)).await;
        assert_eq!(told, Err(Untold::Late));
    }
    // A token beyond the end has the list fetched again.
    world.serve(&world.claims(1, &[0, 1]));
    let grown = world.lists.told(&place(&world.uri(), 8), "", world.time(), 3 * SECOND).await;
    assert_eq!(grown, Ok(Status::Invalid));
    silent.release();
}

#[tokio::test]
async fn a_good_list_that_waits_for_others_stays_a_good_one() {
    let world = World::new().await;
    world.serve(&world.claims(1, &[0]));
    assert_eq!(world.told(0).await, Ok(Status::Valid));
    let beyond = |uri: &str| {
        let (place, world) = (place(uri, 8), &world);
        async move { world.lists.told(&place, "", world.time(), Duration::from_millis(1)).await }
    };
    let mut others = vec![];
    for _ in 0..8 {
        let server = IdentityProvider::start(&[]).await;
        let uri = server.jwks_uri();
        server.behave(Behaviour::Body(world.signed(&claims(&uri, 1, &[0]))));
        assert_eq!(told(&world.lists, &uri, 0, world.time()).await, Ok(Status::Valid));
        server.hold();
        assert_eq!(beyond(&uri).await, Err(Untold::Late), "four have their turn, four wait");
        others.push(server);
    }
    world.serve(&world.claims(1, &[0, 1]));
    assert_eq!(beyond(&world.uri()).await, Err(Untold::Late), "it waits for all of them");
    let ended = world.fetches();
    world.pass(31 * SECOND).await;
    world.lists.ended(ended + 4).await;
    world.pass(31 * SECOND).await;
    world.lists.ended(ended + 9).await;
    assert_eq!(world.look_up(8), Ok(Status::Invalid));
    assert_eq!(world.state().fetches["timed_out"], 8, "those that never answered");
    others.iter().for_each(IdentityProvider::release);
}

#[tokio::test]
async fn a_thousand_lists_are_too_many() {
    let world = World::new().await;
    world.serve(&world.claims(1, &[1]));
    assert_eq!(world.told(0).await, Ok(Status::Invalid));
    let others: Vec<_> = (1..=1000).map(|it| format!("{}?{it}", world.uri())).collect();
    let found = join_all(others.iter().map(|it| told(&world.lists, it, 0, world.time()))).await;
    let full = found.iter().filter(|it| **it == Err(Untold::Full)).count();
    let fetched = found.iter().filter(|it| **it == Err(Untold::Unavailable)).count();
    assert_eq!((fetched, full), (255, 745));
    assert_eq!(world.state().lists, 256);
    assert_eq!(world.look_up(0), Ok(Status::Invalid), "one that is in use stays");

    // Those that nobody asks for any more make room.
    world.pass(30 * SECOND).await;
    assert_eq!(world.look_up(0), Ok(Status::Invalid));
    world.pass(31 * SECOND).await;
    assert_ne!(told(&world.lists, &others[999], 0, world.time()).await, Err(Untold::Full));
    assert_eq!(world.look_up(0), Ok(Status::Invalid));
}

#[tokio::test]
async fn a_list_leads_nowhere_that_metadata_could_not_lead() {
    let world = World::new().await;
    for uri in [
        "http://as.example.com/1",
        "http://169.254.169.254/latest/meta-data",
        "https://169.254.169.254/1",
        "http://0.0.0.0/1",
        "http://10.0.0.1/1",
        "file:///etc/passwd",
        "urn:list",
        "/1",
    ] {
        assert_eq!(told(&world.lists, uri, 0, world.time()).await, Err(Untold::Forbidden), "{uri}");
    }
    let own = world.uri();
    let secret = own.replace("http://", "http://user:secret@");
    assert_eq!(told(&world.lists, &secret, 0, world.time()).await, Err(Untold::Forbidden));
    let public = start(
        "https://as.example.com",
        &keys("https://as.example.com", &in_a_file(), &world.clock),
        &in_a_file(),
        &world.clock,
        &world.changes,
        None,
    );
    assert_eq!(told(&public, &own, 0, world.time()).await, Err(Untold::Forbidden));
    assert_eq!((world.state().lists, public.status().lists), (0, 0));
    assert_eq!(world.server.asked().len(), 0);
}

fn in_a_file() -> KeyRules {
    KeyRules::new(KeySource::File("/nowhere/jwks.json".into()))
}

#[tokio::test]
async fn a_list_that_no_token_names_is_dropped() {
    let world = World::new().await;
    world.serve(&world.claims(1, &[1]));
    world.told(0).await.unwrap();
    for _ in 0..11 {
        world.refresh().await;
    }
    assert_eq!(world.state().lists, 1);
    world.pass(6 * MINUTE).await;
    while world.state().lists != 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(world.look_up(0), Err(Untold::Awaited));
    assert_eq!(world.told(0).await, Ok(Status::Invalid), "it is fetched when it is named again");
}

#[tokio::test]
async fn what_is_dropped_stops_fetching() {
    let world = World::new().await;
    world.serve(&world.claims(1, &[1]));
    world.told(0).await.unwrap();
    let World { lists, server, .. } = world;
    drop(lists);
    tokio::time::pause();
    tokio::time::advance(HOUR).await;
    tokio::time::resume();
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert_eq!(server.fetches(), 1);
}

// ---- whole checks ----

/// What checks the tokens of an issuer under a configuration that says so of it.
async fn installed(world: &World, more: &str) -> Installation {
    let text = format!(
        "listen: {{ext_authz: 127.0.0.1:0, events: {{address: 127.0.0.1:0}}}}
issuers:
  - issuer: {issuer}
    audiences: [api]
    keys: {{jwks_uri: {issuer}/jwks}}
    {more}
limits: {{check_deadline: 60s}}
policies:
  - {{name: all, sender_constraint: if_bound}}
  - {{name: writes, sender_constraint: if_bound, scopes: [write]}}
",
        issuer = world.issuer.issuer()
    );
    let folder = tempfile::tempdir().unwrap();
    let config = configured(&text, folder.path()).unwrap();
    let clock: Arc<dyn Clock> = Arc::<ManualClock>::clone(&world.clock);
    let made = Installation::start(config.rules, None, &clock, &Handle::current()).unwrap();
    made.installation.issuers[0].keys.ready().await;
    made.installation
}

/// A service by its configuration, and the issuer whose tokens it checks.
pub(super) struct Checked {
    pub(super) world: World,
    pub(super) installation: Installation,
    checker: Checker,
}

impl Checked {
    async fn under(revocation: &str) -> Self {
        Self::with(&format!("revocation: {revocation}")).await
    }

    /// Under a configuration that says so of the issuer.
    pub(super) async fn with(more: &str) -> Self {
        let world = World::new().await;
        let installation = installed(&world, more).await;
        let checker = Checker::new(Arc::<ManualClock>::clone(&world.clock));
        Self { world, installation, checker }
    }

    /// A token with this `status`.
    fn token(&self, status: Option<&Value>) -> String {
        let status = status.map(|it| json!({"status": it}));
        self.token_with(&status.unwrap_or_else(|| json!({})))
    }

    /// A token with these claims beside the usual ones.
    pub(super) fn token_with(&self, more: &Value) -> String {
        let mut claims = json!({
            "iss": self.world.issuer.issuer(), "aud": "api", "sub": "alice", "client_id": "app",
            "iat": NOW, "exp": NOW + 7200,
        });
        claims.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        format!("Bearer {}", self.world.signer.sign("at+jwt", &claims))
    }

    /// How a request with this token ends, and the detail.
    pub(super) async fn ends(&self, token: &str) -> (Result<(), Denial>, Option<Detail>) {
        self.ends_for(token, None, "all").await
    }

    /// The same, for who shows this certificate under this policy.
    async fn ends_for(
        &self,
        token: &str,
        certificate: Option<&[u8]>,
        policy: &str,
    ) -> (Result<(), Denial>, Option<Detail>) {
        let peer = certificate
            .map_or(PeerCertificate::Absent, |it| PeerCertificate::Sha256(Thumbprint::of(it)));
        let request = Request {
            policy: Some(policy),
            authorization: Field::One(token.as_bytes()),
            evidence: Evidence { peer_certificate: peer, ..Evidence::default() },
            ..Request::default()
        };
        let mut facts = Facts::default();
        let ended = self.checker.check_into(&mut facts, &self.installation, &request).await;
        let is_bad = matches!(ended, Err(Denial::TokenRevoked | Denial::RevocationUnavailable));
        assert!(!(is_bad && facts.admitted), "nothing of it is forwarded under report mode");
        let rules = &self.installation.rules;
        let explained = self.checker.explain_with(rules, &self.installation, &request, None).await;
        assert_eq!(explained.outcome, ended, "the same in each step");
        let steps = explained.facts.explanation.steps();
        let failed = steps.iter().rfind(|it| it.mark == Mark::Failed);
        assert_eq!(failed.is_some(), ended.is_err());
        (ended, facts.detail)
    }

    pub(super) fn place(&self, index: u64) -> Value {
        json!({"status_list": {"idx": index, "uri": self.world.uri()}})
    }
}

#[tokio::test]
async fn each_token_is_held_to_what_the_operator_asks_for() {
    let refused = |detail: Detail| (Err(detail.denial()), Some(detail));
    let good = (Ok(()), None);
    let (malformed, missing) = (refused(Detail::StatusMalformed), refused(Detail::StatusMissing));
    for (mode, without) in [("if_present", good), ("required", missing)] {
        let it = Checked::under(&format!("{{status_list: {mode}}}")).await;
        it.world.serve(&it.world.claims(8, &[0, 1, 2, 11]));
        let elsewhere = json!({"status_list": {"idx": 0, "uri": "http://10.0.0.1/list"}});
        let other = json!({"status_attestation": {"credential_hash_alg": "sha-256"}});
        for (status, expected) in [
            (None, without),
            (Some(json!({})), without),
            (Some(other), without),
            (Some(json!(null)), malformed),
            (Some(json!("active")), malformed),
            (Some(json!({"status_list": null})), malformed),
            (Some(json!({"status_list": []})), malformed),
            (Some(json!({"status_list": {"idx": "0", "uri": it.world.uri()}})), malformed),
            (Some(it.place(0)), good),
            (Some(it.place(1)), refused(Detail::StatusInvalid)),
            (Some(it.place(2)), refused(Detail::StatusSuspended)),
            (Some(it.place(3)), refused(Detail::StatusOther)),
            (Some(it.place(4)), refused(Detail::StatusUnreadable)),
            (Some(elsewhere), refused(Detail::StatusListForbidden)),
        ] {
            let found = it.ends(&it.token(status.as_ref())).await;
            assert_eq!(found, expected, "{mode} {status:?}");
        }
    }
}

#[tokio::test]
async fn where_nobody_asks_for_it_no_status_is_looked_at() {
    let folder = tempfile::tempdir().unwrap();
    let list = folder.path().join("revoked.yaml");
    std::fs::write(&list, "revoked: []\n").unwrap();
    let it = Checked::under(&format!("{{denylist_file: {}}}", list.display())).await;
    for status in [None, Some(json!("active")), Some(it.place(0))] {
        assert_eq!(it.ends(&it.token(status.as_ref())).await, (Ok(()), None), "{status:?}");
    }
    assert_eq!(it.world.server.asked().len(), 0);
}

#[tokio::test]
async fn a_cached_token_follows_its_list_at_once() {
    let it = Checked::under("{status_list: required}").await;
    let mut claims = it.world.claims(2, &[0]);
    it.world.serve(&claims);
    let token = it.token(Some(&it.place(0)));
    assert_eq!(it.ends(&token).await, (Ok(()), None));
    let revocation = it.installation.issuers[0].revocation.as_ref().unwrap();
    let mut changes = revocation.changes();
    for (status, expected) in
        [(2, Err(Denial::TokenRevoked)), (0, Ok(())), (1, Err(Denial::TokenRevoked))]
    {
        claims["status_list"] = it.world.claims(2, &[status])["status_list"].clone();
        it.world.serve(&claims);
        it.world.pass(5 * MINUTE).await;
        changes.changed().await.unwrap();
        assert_eq!(it.ends(&token).await.0, expected, "{status}");
    }
}

#[tokio::test]
async fn a_token_whose_signature_is_not_verified_leads_nowhere() {
    let it = Checked::under("{status_list: required}").await;
    let stranger = Signer::new(Signing::ES256, "own");
    let claims = json!({
        "iss": it.world.issuer.issuer(), "aud": "api", "sub": "alice", "client_id": "app",
        "iat": NOW, "exp": NOW + 300, "status": it.place(0),
    });
    let forged = format!("Bearer {}", stranger.sign("at+jwt", &claims));
    assert_eq!(it.ends(&forged).await.0, Err(Denial::TokenSignatureInvalid));
    assert_eq!(it.world.server.asked().len(), 0);
}

#[tokio::test]
async fn a_token_that_its_sender_cannot_use_leads_nowhere() {
    let it = Checked::under("{status_list: required}").await;
    it.world.serve(&it.world.claims(1, &[0]));
    let certificate = Thumbprint::of(b"its own");
    let cnf = json!({"x5t#S256": certificate.to_base64url()});
    let token = |index| {
        let more = json!({"cnf": cnf, "status": it.place(index)});
        it.token_with(&more)
    };
    let (own, stolen) = (Some(b"its own".as_slice()), Some(b"another's".as_slice()));
    for (certificate, policy, denial) in [
        (None, "all", Denial::CertificateMissing),
        (stolen, "all", Denial::CertificateMismatch),
        (own, "writes", Denial::ScopeInsufficient),
    ] {
        assert_eq!(it.ends_for(&token(0), certificate, policy).await.0, Err(denial));
        assert_eq!(it.world.server.asked().len(), 0, "{denial:?}");
    }
    assert_eq!(it.ends_for(&token(0), own, "all").await, (Ok(()), None));
    let asked = it.world.server.asked().len();
    // Nor does a place beyond the end of the list cause anything.
    let refused = it.ends_for(&token(8), stolen, "all").await;
    assert_eq!(refused.0, Err(Denial::CertificateMismatch));
    assert_eq!(it.world.server.asked().len(), asked);
    let unreadable = it.ends_for(&token(8), own, "all").await;
    assert_eq!(unreadable.1, Some(Detail::StatusUnreadable));
    assert_eq!(it.world.server.asked().len(), asked + 1);
}

#[tokio::test]
async fn what_is_known_of_a_token_is_told_before_its_sender_is_looked_at() {
    let it = Checked::under("{status_list: required}").await;
    it.world.serve(&it.world.claims(1, &[0b1]));
    let cnf = json!({"x5t#S256": Thumbprint::of(b"its own").to_base64url()});
    let token = it.token_with(&json!({"cnf": cnf, "status": it.place(0)}));
    let invalid = (Err(Denial::TokenRevoked), Some(Detail::StatusInvalid));
    assert_eq!(it.ends_for(&token, Some(b"its own"), "all").await, invalid);
    assert_eq!(it.ends_for(&token, Some(b"another's"), "all").await, invalid);
}

#[tokio::test]
async fn a_token_is_refused_while_its_list_cannot_be_had() {
    for mode in ["if_present", "required"] {
        let it = Checked::under(&format!("{{status_list: {mode}}}")).await;
        it.world.server.go_down().await;
        let found = it.ends(&it.token(Some(&it.place(0)))).await;
        let unavailable = Detail::StatusListUnavailable;
        assert_eq!(found, (Err(Denial::RevocationUnavailable), Some(unavailable)), "{mode}");
    }
}

// ---- what is open ----

/// A client of whom Envoy knows nothing.
struct Nobody;

impl Peer for Nobody {
    fn certificate_digest(&self) -> Option<&[u8]> {
        None
    }

    fn principal(&self) -> &[u8] {
        b""
    }
}

/// What was opened by a token whose status is in place 0, at a gate.
struct Opened {
    world: World,
    gate: Arc<Gate>,
    /// It ends when the token is revoked.
    open: JoinSet<()>,
}

impl Checked {
    async fn open(self) -> Opened {
        let token = self.token(Some(&self.place(0)));
        let Self { world, installation, checker } = self;
        let metrics = Arc::new(Metrics::new().unwrap());
        let gate = Arc::new(Gate::new(checker, installation, String::new(), metrics));
        let endpoint = Arc::new(Endpoint::new(Arc::clone(&gate), Handle::current()));
        let lines = [
            (":method", "GET"),
            (":scheme", "https"),
            (":authority", "api"),
            (":path", "/"),
            ("authorization", &token),
        ];
        let lines = lines.map(|(name, value)| (name.as_bytes(), value.as_bytes()));
        let finished = match endpoint.begin(lines, &Nobody, Some("all")) {
            Begun::Ended(finished) => finished,
            Begun::Waits(check) => check.end().await,
        };
        assert!(matches!(finished.decision(), Decision::Allow { .. }));
        let mut open = JoinSet::new();
        open.spawn(finished.opens().unwrap().revoked());
        Opened { world, gate, open }
    }
}

impl Opened {
    /// Lets twenty minutes pass so many times, and waits each time until a fetch of the list has ended.
    async fn pass_twenty_minutes(&self, times: u32) {
        let active = self.gate.active();
        let lists = || active.installation.issuers[0].revocation.as_ref().unwrap().status();
        let fetches = || lists().status_lists.unwrap().fetches.values().sum::<u64>();
        for _ in 0..times {
            let before = fetches();
            self.world.pass(20 * MINUTE).await;
            let once_more = async {
                while fetches() == before {
                    tokio::task::yield_now().await;
                }
            };
            timeout(PATIENCE, once_more).await.unwrap();
        }
    }

    fn goes_on(&mut self) -> bool {
        self.open.try_join_next().is_none()
    }

    /// Returns once it has ended, long before it is looked at again without a reason.
    async fn ends(&mut self) {
        timeout(PATIENCE, self.open.join_next()).await.unwrap().unwrap().unwrap();
    }
}

const PATIENCE: Duration = Duration::from_secs(20);

#[tokio::test]
async fn what_is_open_ends_when_the_status_of_its_token_cannot_be_told_any_more() {
    let it = Checked::under("{status_list: required}").await;
    it.world.serve(&it.world.claims(8, &[0]));
    let mut it = it.open().await;
    it.pass_twenty_minutes(1).await;
    it.world.server.behave(Behaviour::Status(500));
    it.pass_twenty_minutes(2).await;
    assert!(it.goes_on());
    it.world.pass(21 * MINUTE).await;
    it.ends().await;
}

#[tokio::test]
async fn a_list_by_which_something_is_open_is_not_dropped_though_nobody_asks_for_it() {
    let it = Checked::under("{status_list: required}").await;
    it.world.serve(&it.world.claims(8, &[0]));
    let mut it = it.open().await;
    it.pass_twenty_minutes(5).await;
    assert!(it.goes_on());
    it.world.serve(&it.world.claims(8, &[1]));
    it.pass_twenty_minutes(1).await;
    it.ends().await;
}

#[tokio::test]
async fn what_is_open_is_judged_at_once_under_each_new_configuration() {
    let folder = tempfile::tempdir().unwrap();
    let revoking = |name: &str, list: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, list).unwrap();
        format!("revocation: {{denylist_file: {}}}", path.display())
    };
    let (nobody, alice) =
        (revoking("nobody", "revoked: []\n"), revoking("alice", "revoked: [{sub: alice}]\n"));
    for between in [None, Some(&*nobody), Some("")] {
        let mut it = Checked::with(&nobody).await.open().await;
        if let Some(between) = between {
            it.gate.replace(installed(&it.world, between).await, String::new());
            assert!(it.goes_on(), "{between}");
        }
        it.gate.replace(installed(&it.world, &alice).await, String::new());
        it.ends().await;
    }
}

// ---- restarts and new configurations ----

fn saving(folder: &Path) -> impl FnOnce(&mut KeyRules) {
    let path = folder.join("as.json");
    move |it| {
        it.upkeep = KeyUpkeep { snapshot_file: Some(path), ..KeyUpkeep::default() };
    }
}

/// Waits until the file of a list is there, and returns its path.
async fn saved(folder: &Path) -> PathBuf {
    loop {
        let mut files = std::fs::read_dir(folder).unwrap().map(|it| it.unwrap().path());
        let is_list = |it: &PathBuf| {
            let name = it.file_name().unwrap().to_str().unwrap();
            // A file that is being written has a longer name.
            name.strip_prefix("as.json.status-list-").is_some_and(|it| it.len() == 64)
        };
        if let Some(found) = files.find(is_list) {
            return found;
        }
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_restart_during_an_outage_begins_with_the_snapshot() {
    let folder = tempfile::tempdir().unwrap();
    let world = World::with(saving(folder.path())).await;
    let mut claims = world.claims(1, &[1]);
    claims["exp"] = json!(NOW + 7200);
    world.serve(&claims);
    world.told(0).await.unwrap();
    saved(folder.path()).await;
    world.server.go_down().await;
    let again = || {
        let issuer = world.issuer.issuer();
        start(&issuer, &world.keys, &world.rules, &world.clock, &world.changes, None)
    };
    world.clock.set(UnixTime::from_secs(NOW + 3540));
    let restarted = again();
    assert_eq!(told(&restarted, &world.uri(), 0, world.time()).await, Ok(Status::Invalid));
    let state = restarted.status();
    assert!(state.each[0].from_snapshot);
    assert!((3540..3600).contains(&state.age_seconds.unwrap()));
    world.clock.set(UnixTime::from_secs(NOW + 3600));
    let found = told(&again(), &world.uri(), 0, world.time()).await;
    assert_eq!(found, Err(Untold::Unavailable), "it is too old");
}

#[tokio::test]
async fn what_a_snapshot_holds_is_verified_like_what_was_fetched() {
    let folder = tempfile::tempdir().unwrap();
    let world = World::with(saving(folder.path())).await;
    world.serve(&world.claims(1, &[1]));
    world.told(0).await.unwrap();
    let path = saved(folder.path()).await;
    world.server.go_down().await;
    let other = Signer::new(Signing::ES256, "own");
    let forged = other.sign("statuslist+jwt", &world.claims(1, &[0]));
    let mut record: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    record["status_list"] = forged.into();
    std::fs::write(&path, record.to_string()).unwrap();
    let issuer = world.issuer.issuer();
    let again = start(&issuer, &world.keys, &world.rules, &world.clock, &world.changes, None);
    assert_eq!(told(&again, &world.uri(), 0, world.time()).await, Err(Untold::Unavailable));
}

#[tokio::test]
async fn a_new_configuration_takes_over_the_lists_that_it_judges_alike() {
    let world = World::new().await;
    world.serve(&world.claims(1, &[1]));
    world.told(0).await.unwrap();
    let issuer = world.issuer.issuer();
    let lists = Some(&world.lists);
    let same = start(&issuer, &world.keys, &world.rules, &world.clock, &world.changes, lists);
    assert!(Arc::ptr_eq(&same, &world.lists));
    let stricter = KeyUpkeep { max_stale: 2 * HOUR, ..KeyUpkeep::default() };
    let rules = KeyRules { upkeep: stricter, ..world.rules.clone() };
    let other = start(&issuer, &world.keys, &rules, &world.clock, &world.changes, lists);
    assert!(!Arc::ptr_eq(&other, &world.lists));
    assert_eq!(other.status().fetches["changed"], 1, "counters go on");
}
