//! Holds the receiver of security events to its promises, against a stub of a transmitter.

use crate::support::clock::ManualClock;
use crate::support::tokens::{Signer, tampered};
use crate::support::transmitter::{State, Transmitter};
use http::StatusCode;
use jsonwebtoken::Algorithm as Signing;
use keybound::clock::Clock;
use keybound::state::http::BearerToken;
use keybound::state::jwks::{self, IssuerKeys, KeyRules, KeySource};
use keybound::state::revocation::events::{
    self, BadEvents, Bell, Delivery, EventRules, Events, NotTaken, Terms, Verification,
};
use keybound_core::UnixTime;
use keybound_core::oauth::{self, SubjectKeys};
use keybound_core::policy::Issuer;
use serde_json::{Value, json};
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;

const NOW: i64 = 1_800_000_000;
const ISSUER: &str = "https://as.example.com";
const US: &str = "https://gateway.example.com";
const SESSION_REVOKED: &str = "https://schemas.openid.net/secevent/caep/event-type/session-revoked";

/// A transmitter, and what receives from it.
struct Site {
    transmitter: Transmitter,
    signer: Signer,
    keys: Arc<IssuerKeys>,
    clock: Arc<ManualClock>,
    bell: Bell,
}

impl Site {
    async fn new() -> Self {
        let signer = Signer::new(Signing::ES256, "k");
        let transmitter = Transmitter::start(signer.jwk()).await;
        let clock = Arc::new(ManualClock::at(UnixTime::from_secs(NOW)));
        let rules = KeyRules::new(KeySource::Uri(transmitter.url("/jwks")));
        let shared: Arc<dyn Clock> = clock.clone();
        let keys = jwks::prepare(&ISSUER.into(), &rules, None, &shared, &Handle::current());
        let keys = keys.unwrap().keys;
        keys.tried().await;
        Self { transmitter, signer, keys, clock, bell: Bell::default() }
    }

    /// Rules for its stream.
    fn polling(&self) -> EventRules {
        EventRules {
            transmitter: oauth::Transmitter {
                issuer: ISSUER.into(),
                audiences: vec![US.into()],
                stream: None,
            },
            delivery: Delivery::Poll {
                endpoint: self.transmitter.url("/poll"),
                interval: Duration::from_millis(5),
                bearer: BearerToken::new("ours"),
            },
            keys: None,
            verification: None,
            keep: EventRules::KEEP,
            capacity: 1000,
            snapshot_file: None,
            shared: None,
            is_passive: false,
        }
    }

    fn pushed(&self) -> EventRules {
        let bearer = BearerToken::new("theirs").unwrap();
        EventRules { delivery: Delivery::Push { bearer }, ..self.polling() }
    }

    fn receive(&self, rules: &EventRules, previous: Option<&Arc<Events>>) -> Arc<Events> {
        let events = self.try_to_receive(rules, previous).unwrap();
        events.begin();
        events
    }

    fn try_to_receive(
        &self,
        rules: &EventRules,
        previous: Option<&Arc<Events>>,
    ) -> Result<Arc<Events>, BadEvents> {
        let issuer = Arc::new(Issuer::new(ISSUER, "https://api.example.com"));
        let terms = Terms { issuer: &issuer, keys: &self.keys, rules, ca: None, allow_http: false };
        let clock: Arc<dyn Clock> = self.clock.clone();
        let runtime = Handle::current();
        let prepared = events::prepare(&terms, previous, &self.bell, &clock, &runtime);
        prepared.map(|it| it.events)
    }

    /// A token that ends the session `sid`.
    fn session_revoked(&self, jti: &str, sid: &str, at: i64) -> String {
        self.signed(&session_revoked(jti, sid, at))
    }

    fn signed(&self, claims: &Value) -> String {
        self.signer.sign("secevent+jwt", claims)
    }

    /// Sends a token to be polled.
    fn send(&self, claims: &Value) {
        self.transmitter.send(claims["jti"].as_str().unwrap(), &self.signed(claims));
    }
}

fn session_revoked(jti: &str, sid: &str, at: i64) -> Value {
    json!({
        "iss": ISSUER, "aud": US, "iat": NOW, "jti": jti,
        "sub_id": {"format": "complex",
            "user": {"format": "iss_sub", "iss": ISSUER, "sub": "alice"},
            "session": {"format": "opaque", "id": sid}},
        "events": {SESSION_REVOKED: {"event_timestamp": at}},
    })
}

/// Whether a token of alice's session `sid` that was issued at `issued` is refused.
fn is_revoked(events: &Events, sid: &str, issued: i64, now: i64) -> bool {
    let subjects = SubjectKeys::from_claims(Some("alice"), Some(sid), Some("t"));
    let (issued, now) = (UnixTime::from_secs(issued), UnixTime::from_secs(now));
    events.find(subjects.iter(), issued, now).is_some()
}

// ---- by poll ----

#[tokio::test]
async fn an_event_is_polled_put_into_force_and_then_acknowledged() {
    let site = Site::new().await;
    let events = site.receive(&site.polling(), None);
    let mut heard = site.bell.heard();
    assert!(!is_revoked(&events, "s", NOW - 9, NOW));
    site.send(&session_revoked("1", "s", NOW - 5));
    site.transmitter.until(|it| it.acknowledged == ["1"]).await;
    assert!(heard.has_changed().unwrap(), "what is going on is judged again");
    heard.mark_unchanged();
    for (sid, issued, expected) in
        [("s", NOW - 9, true), ("s", NOW - 5, true), ("s", NOW - 4, false), ("t", NOW - 9, false)]
    {
        assert_eq!(is_revoked(&events, sid, issued, NOW), expected, "{sid} {issued}");
    }
    let status = events.status();
    assert_eq!(status.received["revoking"], 1);
    assert_eq!(status.last_event.unwrap().happened_at, NOW - 5);
    assert_eq!((status.lag_seconds, status.full), (Some(0), false));
    let asked = site.transmitter.state().authorizations.clone();
    assert!(asked.iter().all(|it| it.as_deref() == Some("Bearer ours")));
}

#[tokio::test]
async fn nobody_is_asked_for_events_before_they_are_in_force() {
    let site = Site::new().await;
    let in_force = site.receive(&site.polling(), None);
    let mut rules = site.polling();
    if let Delivery::Poll { bearer, .. } = &mut rules.delivery {
        *bearer = BearerToken::new("next");
    }
    rules.capacity = 1;
    let prepared = site.try_to_receive(&rules, Some(&in_force)).unwrap();
    let polls = site.transmitter.polls();
    site.transmitter.polled(polls + 10).await;
    let asked_as_next = |it: &State| it.authorizations.contains(&Some("Bearer next".to_owned()));
    assert!(!asked_as_next(&site.transmitter.state()));
    // Whatever becomes of it, nothing has changed for what is in force.
    (0..2).for_each(|it| site.send(&session_revoked(&it.to_string(), &format!("s-{it}"), NOW)));
    site.transmitter.until(|it| it.acknowledged.len() == 2).await;
    assert!(!in_force.status().full);
    prepared.begin();
    site.transmitter.until(asked_as_next).await;
}

#[tokio::test]
async fn a_backlog_is_read_to_its_end_without_a_pause() {
    let site = Site::new().await;
    site.transmitter.state().batch = 3;
    (0..10).for_each(|it| site.send(&session_revoked(&it.to_string(), &format!("s-{it}"), NOW)));
    let events = site.receive(&rarely(site.polling()), None);
    site.transmitter.until(|it| it.acknowledged.len() == 10).await;
    assert!((0..10).all(|it| is_revoked(&events, &format!("s-{it}"), NOW, NOW)));
    assert_eq!(site.transmitter.polls(), 5, "four with events, and the last acknowledgement");
}

/// Polls that leave so much time between them that no second one is waited for.
fn rarely(rules: EventRules) -> EventRules {
    let delivery = match rules.delivery {
        Delivery::Poll { endpoint, bearer, .. } => {
            Delivery::Poll { endpoint, bearer, interval: Duration::from_secs(3600) }
        }
        push @ Delivery::Push { .. } => push,
    };
    EventRules { delivery, ..rules }
}

#[tokio::test]
async fn what_comes_again_although_it_was_answered_is_waited_for_as_usual() {
    for nonsense in [false, true] {
        let (site, other) = (Site::new().await, Site::new().await);
        site.transmitter.state().is_deaf = true;
        let claims = session_revoked("1", "s", NOW);
        let token = if nonsense { "nonsense".to_owned() } else { site.signed(&claims) };
        site.transmitter.send("1", &token);
        let events = site.receive(&rarely(site.polling()), None);
        // The second brings the answer to the first.
        site.transmitter.polled(2).await;
        assert_eq!(is_revoked(&events, "s", NOW, NOW), !nonsense);
        let _events = other.receive(&other.polling(), None);
        other.transmitter.polled(20).await;
        assert_eq!(site.transmitter.polls(), 2);
    }
}

#[tokio::test]
async fn of_an_answer_with_more_than_was_asked_for_the_rest_is_left_for_the_next() {
    for (sent, polls) in [(500, 2), (501, 3)] {
        let site = Site::new().await;
        site.transmitter.state().batch = 1000;
        (0..sent).for_each(|it| site.transmitter.send(&it.to_string(), "nonsense"));
        let _events = site.receive(&rarely(site.polling()), None);
        site.transmitter.until(|it| it.errors.len() == sent).await;
        assert_eq!(site.transmitter.polls(), polls, "{sent}");
    }
}

#[tokio::test]
async fn what_is_refused_is_told_and_takes_nothing_along() {
    let site = Site::new().await;
    let events = site.receive(&site.polling(), None);
    let good = session_revoked("good", "s", NOW);
    let stranger = Signer::new(Signing::ES256, "k");
    let edited = |edit: &dyn Fn(&mut Value)| {
        let mut claims = good.clone();
        edit(&mut claims);
        site.signed(&claims)
    };
    let refused = [
        ("signature", tampered(&site.signed(&good)), "invalid_key"),
        ("stranger", stranger.sign("secevent+jwt", &good), "invalid_key"),
        ("type", site.signer.sign("at+jwt", &good), "invalid_request"),
        ("untyped", site.signer.sign(None, &good), "invalid_request"),
        ("audience", edited(&|it| it["aud"] = "https://other".into()), "invalid_audience"),
        ("issuer", edited(&|it| it["iss"] = "https://other".into()), "invalid_issuer"),
        ("events", edited(&|it| it["events"] = json!({})), "invalid_request"),
        ("nonsense", "nonsense".to_owned(), "invalid_request"),
        ("long", edited(&|it| it["x"] = "x".repeat(64 * 1024).into()), "invalid_request"),
    ];
    for (jti, token, _) in &refused {
        site.transmitter.send(jti, token);
    }
    site.send(&session_revoked("good", "other", NOW));
    site.transmitter.until(|it| it.errors.len() == refused.len()).await;
    let errors = site.transmitter.state().errors.clone();
    for (jti, _, code) in &refused {
        let told = errors.iter().find(|(it, _)| it == jti);
        assert_eq!(told.map(|it| &*it.1), Some(*code), "{jti}");
    }
    assert!(!is_revoked(&events, "s", NOW, NOW) && is_revoked(&events, "other", NOW, NOW));
    assert_eq!(site.transmitter.state().acknowledged, ["good"]);
    let counted = events.status().refused;
    for (cause, count) in [
        ("signature", 2),
        ("type", 2),
        ("audience", 1),
        ("issuer", 1),
        ("claims", 1),
        ("malformed", 2),
    ] {
        assert_eq!(counted.get(cause), Some(&count), "{cause}: {counted:?}");
    }
}

#[tokio::test]
async fn events_that_are_replayed_reordered_or_sent_twice_leave_the_latest_in_force() {
    let site = Site::new().await;
    let events = site.receive(&site.polling(), None);
    for (jti, at) in
        [("3", NOW - 1), ("1", NOW - 9), ("3", NOW - 1), ("2", NOW - 5), ("1", NOW - 9)]
    {
        site.transmitter.state().acknowledged.clear();
        site.send(&session_revoked(jti, "s", at));
        site.transmitter.until(|it| it.acknowledged == [jti]).await;
        assert!(is_revoked(&events, "s", NOW - 1, NOW), "{jti}");
        assert!(!is_revoked(&events, "s", NOW, NOW), "{jti}");
    }
    assert_eq!(events.status().entries, 2, "the session, and tokens of its user that name none");
}

#[tokio::test]
async fn an_event_about_a_subject_of_another_issuer_does_nothing_and_is_counted() {
    let site = Site::new().await;
    let events = site.receive(&site.polling(), None);
    let mut claims = session_revoked("1", "s", NOW);
    claims["sub_id"]["user"]["iss"] = "https://other.example.com".into();
    site.send(&claims);
    site.transmitter.until(|it| it.acknowledged == ["1"]).await;
    assert!(!is_revoked(&events, "s", NOW, NOW));
    assert_eq!((events.status().received["foreign"], events.status().entries), (1, 0));
}

#[tokio::test]
async fn what_cannot_be_applied_or_is_not_known_is_acknowledged_and_counted_apart() {
    let site = Site::new().await;
    let events = site.receive(&site.polling(), None);
    let mut email = session_revoked("email", "s", NOW);
    email["sub_id"] = json!({"format": "email", "email": "alice@example.com"});
    let mut unknown = session_revoked("unknown", "s", NOW);
    unknown["events"] = json!({"urn:new": {}});
    let mut created = session_revoked("created", "s", NOW);
    let credential = "https://schemas.openid.net/secevent/caep/event-type/credential-change";
    created["events"] = json!({credential: {"change_type": "create"}});
    for it in &[email, unknown, created] {
        site.send(it);
    }
    site.transmitter.until(|it| it.acknowledged.len() == 3).await;
    let received = events.status().received;
    for outcome in ["unmapped", "unknown", "harmless"] {
        assert_eq!(received.get(outcome), Some(&1), "{outcome}");
    }
    assert_eq!(events.status().entries, 0);
}

#[tokio::test]
async fn a_transmitter_that_is_down_or_talks_nonsense_changes_nothing_that_is_in_force() {
    let site = Site::new().await;
    let events = site.receive(&site.polling(), None);
    site.send(&session_revoked("1", "s", NOW));
    site.transmitter.until(|it| it.acknowledged == ["1"]).await;
    for (status, body, outcome) in [
        (StatusCode::UNAUTHORIZED, None, "status"),
        (StatusCode::OK, Some("[]"), "malformed"),
        (StatusCode::OK, Some("{\"sets\": []}"), "malformed"),
        (StatusCode::OK, Some("{\"moreAvailable\": 1}"), "malformed"),
        (StatusCode::OK, Some("{\"status\": \"up\"}"), "malformed"),
        (StatusCode::ACCEPTED, Some("{\"status\": \"up\"}"), "malformed"),
    ] {
        {
            let mut state = site.transmitter.state();
            (state.status, state.body) = (status, body.map(str::to_owned));
        }
        let before = events.status().polls.get(outcome).copied().unwrap_or_default();
        let polls = site.transmitter.polls();
        site.transmitter.polled(polls + 2).await;
        assert!(before < events.status().polls[outcome], "{outcome}");
        assert!(is_revoked(&events, "s", NOW, NOW));
        assert!(events.status().last_error.is_some());
    }
    {
        let mut state = site.transmitter.state();
        (state.status, state.body) = (StatusCode::OK, None);
    }
    site.send(&session_revoked("2", "t", NOW));
    site.transmitter.until(|it| it.acknowledged.ends_with(&["2".to_owned()])).await;
    assert!(is_revoked(&events, "t", NOW, NOW));
}

#[tokio::test]
async fn an_empty_answer_is_none() {
    for (status, body) in [
        (StatusCode::NO_CONTENT, None),
        (StatusCode::ACCEPTED, Some("")),
        (StatusCode::OK, Some("{}")),
        (StatusCode::OK, Some("{\"moreAvailable\": false}")),
        (StatusCode::OK, Some("{\"sets\": null, \"more\": 1}")),
    ] {
        let site = Site::new().await;
        {
            let mut state = site.transmitter.state();
            (state.status, state.body) = (status, body.map(str::to_owned));
        }
        let events = site.receive(&site.polling(), None);
        site.transmitter.polled(3).await;
        assert_eq!(events.status().polls.keys().collect::<Vec<_>>(), [&"ok"], "{status} {body:?}");
    }
}

// ---- bounds ----

#[tokio::test]
async fn a_flood_forgets_no_event() {
    let site = Site::new().await;
    let rules = EventRules { capacity: 4, ..site.polling() };
    let events = site.receive(&rules, None);
    for it in 0..50 {
        site.send(&session_revoked(&it.to_string(), &format!("s-{it}"), NOW - 5));
    }
    site.transmitter.until(|it| it.acknowledged.len() == 50).await;
    let status = events.status();
    assert!(status.full && status.entries == 4, "{status:?}");
    assert!((0..50).all(|it| is_revoked(&events, &format!("s-{it}"), NOW - 5, NOW)));
    assert!(is_revoked(&events, "of nobody who was named", NOW - 5, NOW), "rather more than less");
    assert!(!is_revoked(&events, "s-0", NOW - 4, NOW), "a new token is good");
    let end = NOW + 24 * 3600;
    assert!(is_revoked(&events, "s-49", NOW - 5, end - 1));
    assert!(!is_revoked(&events, "s-49", NOW - 5, end));
}

#[tokio::test]
async fn events_outlive_a_new_configuration() {
    let site = Site::new().await;
    let old = site.receive(&site.polling(), None);
    site.send(&session_revoked("1", "s", NOW));
    site.transmitter.until(|it| it.acknowledged == ["1"]).await;
    assert!(Arc::ptr_eq(&old, &site.receive(&site.polling(), Some(&old))), "nothing has changed");
    let more = EventRules { capacity: 2000, ..site.polling() };
    let new = site.receive(&more, Some(&old));
    assert!(!Arc::ptr_eq(&old, &new) && is_revoked(&new, "s", NOW, NOW));
    assert_eq!((new.status().received["revoking"], new.status().capacity), (1, 2000));
    let mut another = site.polling();
    another.transmitter.issuer = "https://other.example.com".into();
    assert!(!is_revoked(&site.receive(&another, Some(&new)), "s", NOW, NOW));
}

// ---- over a restart ----

#[tokio::test]
async fn events_outlive_a_restart_where_a_file_is_named() {
    let site = Site::new().await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("events");
    let kept = |path: &Path| EventRules { snapshot_file: Some(path.to_owned()), ..site.pushed() };
    let before = site.receive(&kept(&path), None);
    let token = site.session_revoked("1", "s", NOW - 5);
    assert_eq!(before.take(token.as_bytes()).await, Ok(()));
    drop(before);
    let after = site.receive(&kept(&path), None);
    assert!(is_revoked(&after, "s", NOW - 5, NOW) && !is_revoked(&after, "s", NOW - 4, NOW));
    assert!(!is_revoked(&after, "t", NOW - 5, NOW));
    let forgetful = site.receive(&site.pushed(), None);
    assert!(!is_revoked(&forgetful, "s", NOW - 5, NOW), "without a file");
    // What counts no longer is not restored.
    site.clock.advance(EventRules::KEEP);
    assert_eq!(site.receive(&kept(&path), None).status().entries, 0);
}

#[tokio::test]
async fn a_flood_is_not_forgotten_over_a_restart() {
    let site = Site::new().await;
    let folder = tempfile::tempdir().unwrap();
    let snapshot_file = Some(folder.path().join("events"));
    let rules = EventRules { snapshot_file, capacity: 1, ..site.pushed() };
    let before = site.receive(&rules, None);
    let token = site.session_revoked("1", "s", NOW - 5);
    assert_eq!(before.take(token.as_bytes()).await, Ok(()));
    drop(before);
    let after = site.receive(&EventRules { capacity: 100, ..rules.clone() }, None);
    assert!(after.status().full && is_revoked(&after, "x", NOW - 5, NOW));
    drop(after);
    // Nor where it is all that is added to a file.
    let before = site.receive(&rules, None);
    let token = site.session_revoked("2", "t", NOW);
    assert!(!is_revoked(&before, "t", NOW, NOW));
    assert_eq!(before.take(token.as_bytes()).await, Ok(()));
    let later = site.session_revoked("3", "u", NOW + 1);
    assert_eq!(before.take(later.as_bytes()).await, Ok(()));
    drop(before);
    let after = site.receive(&rules, None);
    assert!(is_revoked(&after, "u", NOW + 1, NOW) && !is_revoked(&after, "u", NOW + 2, NOW));
}

#[tokio::test]
async fn what_cannot_be_kept_is_in_force_and_not_acknowledged() {
    let site = Site::new().await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("events");
    let rules = EventRules { snapshot_file: Some(path.clone()), ..site.polling() };
    let events = site.receive(&rules, None);
    while !path.is_file() {
        tokio::task::yield_now().await;
    }
    // A folder is in the way of the file.
    fs::remove_file(&path).unwrap();
    fs::create_dir_all(path.join("full")).unwrap();
    site.send(&session_revoked("1", "s", NOW));
    site.transmitter.until(|_| is_revoked(&events, "s", NOW, NOW)).await;
    let polls = site.transmitter.polls();
    site.transmitter.polled(polls + 2).await;
    assert!(site.transmitter.state().acknowledged.is_empty());
    assert!(1 <= events.status().refused["not_kept"]);
    fs::remove_dir_all(&path).unwrap();
    site.transmitter.until(|it| it.acknowledged == ["1"]).await;
    assert!(path.is_file());
}

#[tokio::test]
async fn a_file_that_cannot_be_read_is_an_error_at_the_start() {
    let site = Site::new().await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("events");
    fs::write(&path, "nonsense").unwrap();
    let rules = EventRules { snapshot_file: Some(path), ..site.pushed() };
    let refused = site.try_to_receive(&rules, None).unwrap_err();
    assert!(matches!(refused, BadEvents::Snapshot(_)), "{refused}");
    assert!(refused.to_string().contains("would be forgotten"), "{refused}");
}

#[tokio::test]
async fn a_file_that_cannot_be_read_refuses_a_new_configuration_and_stays_as_it_is() {
    let site = Site::new().await;
    let folder = tempfile::tempdir().unwrap();
    let place = |name: &str| folder.path().join(name);
    let kept = |name: &str| EventRules { snapshot_file: Some(place(name)), ..site.pushed() };
    let of_old = site.receive(&kept("old"), None);
    let token = site.session_revoked("1", "t", NOW - 5);
    assert_eq!(of_old.take(token.as_bytes()).await, Ok(()));
    drop(of_old);
    let events = site.receive(&kept("events"), None);
    fs::write(place("notes"), "of somebody").unwrap();
    for previous in [None, Some(&events)] {
        let refused = site.try_to_receive(&kept("notes"), previous).unwrap_err();
        assert!(matches!(refused, BadEvents::Snapshot(_)), "{refused}");
        assert_eq!(fs::read_to_string(place("notes")).unwrap(), "of somebody");
    }
    // One that is good, or not there yet, is taken.
    for name in ["old", "new"] {
        let token = site.session_revoked(name, name, NOW - 5);
        let events = site.receive(&kept(name), Some(&events));
        assert_eq!(events.take(token.as_bytes()).await, Ok(()));
        assert!(is_revoked(&events, name, NOW - 5, NOW) && is_revoked(&events, "t", NOW - 5, NOW));
    }
}

// ---- verification ----

#[tokio::test]
async fn a_stream_is_tried_out_and_its_silence_told() {
    let site = Site::new().await;
    let verification = Some(Verification {
        endpoint: site.transmitter.url("/verify"),
        bearer: BearerToken::new("ours"),
    });
    let mut rules = EventRules { verification, ..site.pushed() };
    rules.transmitter.stream = Some("stream-1".into());
    let events = site.receive(&rules, None);
    while site.transmitter.state().verifications.is_empty() {
        tokio::task::yield_now().await;
    }
    let asked = site.transmitter.state().verifications[0].clone();
    assert_eq!(asked["stream_id"], "stream-1");
    let lag = |it: &Events| it.status().lag_seconds;
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(100)).await;
    assert!(Some(100) <= lag(&events));
    let uri = "https://schemas.openid.net/secevent/ssf/event-type/verification";
    let token = |stream: &str, state: &Value| {
        site.signed(&json!({
            "iss": ISSUER, "aud": US, "iat": NOW, "jti": "v",
            "sub_id": {"format": "opaque", "id": stream}, "events": {uri: {"state": state}},
        }))
    };
    // Of another stream, and in answer to somebody else: acknowledged, and no sign of life.
    for (stream, state) in [("stream-2", &asked["state"]), ("stream-1", &json!("else"))] {
        assert_eq!(events.take(token(stream, state).as_bytes()).await, Ok(()));
        assert!(Some(100) <= lag(&events), "{stream} {state}");
    }
    let counted = |it: &str| events.status().received[it];
    assert_eq!((counted("foreign"), counted("stream")), (2, 0));
    assert_eq!(events.take(token("stream-1", &asked["state"]).as_bytes()).await, Ok(()));
    assert_eq!((lag(&events), counted("stream")), (Some(0), 1));
    let silent = site.receive(&site.pushed(), None);
    assert_eq!(lag(&silent), None, "nothing tells whether a pushed stream is silent");
}

#[tokio::test]
async fn keys_that_are_not_there_yet_refuse_a_token_for_a_while() {
    let site = Site::new().await;
    let mut rules = site.pushed();
    rules.keys = Some(KeyRules::new(KeySource::Uri(site.transmitter.url("/jwks"))));
    let own = site.receive(&rules, None);
    let token = site.session_revoked("1", "s", NOW);
    assert_eq!(own.take(token.as_bytes()).await, Ok(()), "keys of its own");
    let missing = KeySource::File("/nonexistent/keys.json".into());
    rules.keys = Some(KeyRules::new(missing));
    let without = site.receive(&rules, None);
    let refused = without.take(token.as_bytes()).await;
    assert_eq!(refused, Err(NotTaken::Refused(oauth::BadEvents::Keys)));
    assert!(!is_revoked(&without, "s", NOW, NOW));
    // By poll, it is neither acknowledged nor told to be bad, for the transmitter would not send it again.
    rules.delivery = site.polling().delivery;
    let polling = site.receive(&rules, None);
    site.send(&session_revoked("1", "s", NOW));
    site.transmitter.polled(3).await;
    assert!(0 < polling.status().refused["keys"]);
    let state = site.transmitter.state();
    assert!(state.acknowledged.is_empty() && state.errors.is_empty(), "{:?}", state.errors);
}
