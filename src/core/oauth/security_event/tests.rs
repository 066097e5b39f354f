use super::*;
use crate::oauth::examples;
use serde_json::json;
use std::time::Duration;

const NOW: i64 = 1_800_000_000;
const ISSUER: &str = "https://as.example.com";
const US: &str = "https://gateway.example.com";
const SESSION_REVOKED: &str = "https://schemas.openid.net/secevent/caep/event-type/session-revoked";
const CREDENTIAL: &str = "https://schemas.openid.net/secevent/caep/event-type/credential-change";

fn alice() -> Value {
    json!({"format": "iss_sub", "iss": ISSUER, "sub": "alice"})
}

/// A token that ends a session, as Keycloak writes it.
fn token() -> Value {
    json!({
        "iss": ISSUER, "aud": [US], "iat": NOW - 10, "jti": "event-1", "txn": "t",
        "sub_id": {"format": "complex", "user": alice(), "session": {"format": "opaque", "id": "s-1"}},
        "events": {SESSION_REVOKED: {"event_timestamp": NOW - 20, "reason_admin": {"en": "logout"}}},
    })
}

fn read(claims: &Value) -> Result<SecurityEvents, BadEvents> {
    let claims = claims.as_object().unwrap();
    SecurityEvents::from_claims(claims, &from(None), &examples::issuer(), UnixTime::from_secs(NOW))
}

fn from(stream: Option<&str>) -> Transmitter {
    let stream = stream.map(Into::into);
    Transmitter { issuer: ISSUER.into(), audiences: vec!["other".into(), US.into()], stream }
}

fn read_after(edit: impl FnOnce(&mut Value)) -> Result<SecurityEvents, BadEvents> {
    let mut claims = token();
    edit(&mut claims);
    read(&claims)
}

#[track_caller]
fn effect_after(edit: impl FnOnce(&mut Value)) -> Effect {
    let events = read_after(edit).unwrap().events;
    assert_eq!(events.len(), 1);
    events.into_iter().next().unwrap().effect
}

#[track_caller]
fn refused(edit: impl FnOnce(&mut Value), cause: BadEvents) {
    assert_eq!(read_after(edit), Err(cause));
}

fn at(seconds: i64) -> UnixTime {
    UnixTime::from_secs(seconds)
}

#[test]
fn a_session_that_ended_takes_its_tokens_along() {
    let found = read(&token()).unwrap();
    assert_eq!(&*found.jti, "event-1");
    assert_eq!(found.events[0].kind, Some(EventKind::SessionRevoked));
    let subjects =
        vec![EventSubject::Session("s-1".into()), EventSubject::Sessionless("alice".into())];
    let kind = EventKind::SessionRevoked;
    assert_eq!(
        found.events[0].effect,
        Effect::Revokes { kind, subjects, until: at(NOW - 20), partly: None }
    );
}

#[test]
fn a_token_is_for_us_from_the_transmitter_and_tells_something() {
    refused(|it| it["iss"] = "https://as.example.com/".into(), BadEvents::Issuer);
    refused(|it| it["iss"] = json!(null), BadEvents::Issuer);
    for aud in [json!("https://other.example.com"), json!([]), json!([US, 7]), json!(null)] {
        refused(|it| it["aud"] = aud, BadEvents::Audience);
    }
    for aud in [json!(US), json!(["x", US]), json!("other")] {
        assert!(read_after(|it| it["aud"] = aud).is_ok());
    }
    for iat in [json!(null), json!("1800000000")] {
        refused(|it| it["iat"] = iat, BadEvents::Claims);
    }
    for jti in [json!(null), json!(""), json!(7), json!("x".repeat(1025))] {
        refused(|it| it["jti"] = jti, BadEvents::Claims);
    }
    assert!(read_after(|it| it["jti"] = "x".repeat(1024).into()).is_ok());
    for events in [json!(null), json!({}), json!([]), json!({SESSION_REVOKED: null})] {
        refused(|it| it["events"] = events, BadEvents::Claims);
    }
    let many = |count: usize| -> Value {
        (0..count).map(|it| (format!("urn:event:{it}"), json!({}))).collect()
    };
    assert!(read_after(|it| it["events"] = many(32)).is_ok());
    refused(|it| it["events"] = many(33), BadEvents::Claims);
    for name in ["iss", "aud", "iat", "jti", "events"] {
        assert!(read_after(|it| drop(it.as_object_mut().unwrap().remove(name))).is_err(), "{name}");
    }
    // It needs no end (RFC 8417 §2.2), and one that is there does not count.
    assert!(read_after(|it| it["exp"] = 1.into()).is_ok());
}

#[test]
fn the_time_is_that_of_the_event_and_not_of_its_delivery() {
    let until = |edit: &dyn Fn(&mut Value)| {
        let Effect::Revokes { until, .. } = effect_after(edit) else { panic!("it revokes") };
        until
    };
    let stamped = |stamp: Value| {
        until(&|it| it["events"][SESSION_REVOKED]["event_timestamp"] = stamp.clone())
    };
    assert_eq!(stamped(json!(NOW - 3600)), at(NOW - 3600));
    assert_eq!(stamped(json!(1_799_999_900.25)), UnixTime::from_millis(1_799_999_900_250));
    // A clock of the transmitter's that is ahead of another of its own.
    assert_eq!(stamped(json!(NOW - 10 + 30)), at(NOW - 10 + 30));
    assert_eq!(stamped(json!(NOW - 10 + 31)), at(NOW - 10), "later than the token that tells it");
    assert_eq!(stamped(json!((NOW - 20) * 1000)), at(NOW - 10), "milliseconds");
    assert_eq!(stamped(json!("1799999000")), at(NOW - 10), "a string");
    let bare = |it: &mut Value| it["events"][SESSION_REVOKED] = json!({});
    assert_eq!(until(&bare), at(NOW - 10), "iat");
    let toe = |it: &mut Value| {
        bare(it);
        it["toe"] = (NOW - 15).into();
    };
    assert_eq!(until(&toe), at(NOW - 15), "toe");
}

#[test]
fn an_event_from_our_future_counts_as_far_as_two_clocks_may_differ_and_what_is_beyond_is_told() {
    for (leeway, ahead, until, partly) in [
        (30, 29, 29, None),
        (30, 30, 30, None),
        (30, 31, 30, Some(Partly::ClockAhead)),
        (5, 5, 5, None),
        (5, 6, 5, Some(Partly::ClockAhead)),
        (0, 0, 0, None),
        (0, 1, 0, Some(Partly::ClockAhead)),
        // In milliseconds.
        (30, NOW * 999, 30, Some(Partly::ClockAhead)),
    ] {
        let mut claims = token();
        claims["iat"] = (NOW + ahead).into();
        claims["events"] = json!({SESSION_REVOKED: {}});
        let issuer = Issuer {
            clock_leeway: Duration::from_secs(leeway),
            ..Issuer::clone(&examples::issuer())
        };
        let claims = claims.as_object().unwrap();
        let found = SecurityEvents::from_claims(claims, &from(None), &issuer, at(NOW)).unwrap();
        let Effect::Revokes { until: found, partly: told, .. } = found.events[0].effect else {
            panic!("it revokes")
        };
        assert_eq!((found, told), (at(NOW + until), partly), "{ahead} s ahead of {leeway} s");
    }
    // What it says of the time of the event is believed, whatever the clock of the token.
    let stamped = effect_after(|it| it["iat"] = (NOW + 100_000).into());
    let Effect::Revokes { until, partly, .. } = stamped else { panic!("it revokes") };
    assert_eq!((until, partly), (at(NOW - 20), None));
}

#[test]
fn a_new_credential_revokes_nothing_and_each_other_change_does() {
    let change = |body: Value| {
        effect_after(|it| {
            it["events"] = json!({CREDENTIAL: body});
            it["sub_id"] = alice();
        })
    };
    assert_eq!(change(json!({"change_type": "create"})), Effect::Nothing);
    for body in ["update", "revoke", "delete", "Create", "else"] {
        let found = change(json!({"change_type": body}));
        assert!(matches!(found, Effect::Revokes { .. }), "{body}: {found:?}");
    }
    assert!(matches!(change(json!({})), Effect::Revokes { .. }), "unsaid");
}

#[test]
fn kinds_are_told_apart_by_their_whole_names() {
    let schema = "https://schemas.openid.net/secevent";
    for (uri, kind) in [
        ("caep/event-type/session-revoked", Some(EventKind::SessionRevoked)),
        ("caep/event-type/token-claims-change", Some(EventKind::TokenClaimsChange)),
        ("caep/event-type/credential-change", Some(EventKind::CredentialChange)),
        ("risc/event-type/account-disabled", Some(EventKind::AccountDisabled)),
        ("risc/event-type/account-purged", Some(EventKind::AccountPurged)),
        ("risc/event-type/sessions-revoked", Some(EventKind::SessionsRevoked)),
        ("ssf/event-type/verification", Some(EventKind::Verification)),
        ("ssf/event-type/stream-updated", Some(EventKind::StreamUpdated)),
        ("caep/event-type/account-disabled", None),
        ("risc/event-type/account-enabled", None),
        ("caep/event-type/session-established", None),
        ("caep/event-type/session-revoked/", None),
        ("caep/event-type/Session-Revoked", None),
        ("session-revoked", None),
    ] {
        let events = json!({format!("{schema}/{uri}"): {}});
        let found = read_after(|it| it["events"] = events).unwrap().events;
        assert_eq!(found[0].kind, kind, "{uri}");
        assert_eq!(found[0].effect == Effect::Unknown, kind.is_none() || uri.ends_with("updated"));
    }
    let other = read_after(|it| it["events"] = json!({"urn:x": {}})).unwrap().events;
    assert_eq!(other[0].effect, Effect::Unknown, "acknowledged like any other");
}

#[test]
fn a_token_may_tell_several_events() {
    let events = json!({"urn:x": {}, SESSION_REVOKED: {}, CREDENTIAL: {"change_type": "delete"}});
    let found = read_after(|it| it["events"] = events).unwrap().events;
    let revoking = found.iter().filter(|it| matches!(it.effect, Effect::Revokes { .. }));
    assert_eq!((found.len(), revoking.count()), (3, 2));
}

#[test]
fn a_subject_is_mapped_to_the_claims_of_tokens() {
    use EventSubject::{Session, Sessionless, Token, User};
    let email = json!({"format": "email", "email": "alice@example.com"});
    let session = json!({"format": "opaque", "id": "s"});
    for (subject, expected) in [
        (alice(), vec![User("alice".into())]),
        (
            json!({"subject_type": "iss-sub", "iss": ISSUER, "sub": "alice"}),
            vec![User("alice".into())],
        ),
        (session.clone(), vec![User("s".into()), Session("s".into())]),
        (json!({"format": "jwt_id", "iss": ISSUER, "jti": "j"}), vec![Token("j".into())]),
        (json!({"format": "aliases", "identifiers": [email, alice()]}), vec![User("alice".into())]),
        (json!({"format": "complex", "user": alice()}), vec![User("alice".into())]),
        (json!({"format": "complex", "session": session}), vec![Session("s".into())]),
        (json!({"user": alice()}), vec![User("alice".into())]),
        (
            json!({"format": "complex", "user": email, "session": session}),
            vec![Session("s".into())],
        ),
        (
            json!({"format": "complex", "user": alice(), "session": session,
                "tenant": {"format": "opaque", "id": "t"}}),
            vec![Session("s".into()), Sessionless("alice".into())],
        ),
        (
            json!({"format": "complex", "user": alice(), "device": {"format": "opaque", "id": "d"}}),
            vec![User("alice".into())],
        ),
        (
            json!({"format": "complex", "user": alice(), "session": {"format": "email"}}),
            vec![User("alice".into())],
        ),
    ] {
        for place in ["sub_id", "subject"] {
            let found = effect_after(|it| {
                drop(it.as_object_mut().unwrap().remove("sub_id"));
                if place == "sub_id" {
                    it["sub_id"] = subject.clone();
                } else {
                    it["events"][SESSION_REVOKED]["subject"] = subject.clone();
                }
            });
            let (kind, subjects) = (EventKind::SessionRevoked, expected.clone());
            assert_eq!(
                found,
                Effect::Revokes { kind, subjects, until: at(NOW - 20), partly: None }
            );
        }
    }
}

#[test]
fn what_happens_to_an_account_is_not_narrowed_to_the_session_that_is_named_besides() {
    use EventSubject::{Session, Token, User};
    let email = json!({"format": "email", "email": "alice@example.com"});
    let session = json!({"format": "opaque", "id": "s"});
    let token = json!({"format": "jwt_id", "iss": ISSUER, "jti": "j"});
    let theirs = json!({"format": "iss_sub", "iss": "https://other.example.com", "sub": "alice"});
    for name in [
        "risc/event-type/account-disabled",
        "risc/event-type/account-purged",
        "risc/event-type/sessions-revoked",
        "caep/event-type/credential-change",
        "caep/event-type/token-claims-change",
    ] {
        let event = |subject: &Value| {
            effect_after(|it| {
                it["events"] = json!({format!("https://schemas.openid.net/secevent/{name}"): {}});
                it["sub_id"] = subject.clone();
            })
        };
        for (subject, expected, partial) in [
            (json!({"user": alice(), "session": session}), User("alice".into()), false),
            (json!({"user": alice(), "session": theirs}), User("alice".into()), false),
            (json!({"user": alice()}), User("alice".into()), false),
            (alice(), User("alice".into()), false),
            // Less than all that the event says: told apart, so that somebody looks.
            (json!({"user": email, "session": session}), Session("s".into()), true),
            (json!({"session": session}), Session("s".into()), true),
            (token.clone(), Token("j".into()), true),
        ] {
            let found = event(&subject);
            let Effect::Revokes { subjects, partly, .. } = found else {
                panic!("{name} {subject}: {found:?}")
            };
            let partial = partial.then_some(Partly::UserUnknown);
            assert_eq!((subjects, partly), (vec![expected], partial), "{name} {subject}");
        }
        assert_eq!(event(&json!({"user": theirs, "session": session})), Effect::Foreign, "{name}");
        assert_eq!(event(&json!({"user": email})), Effect::Unmapped { format: "email" }, "{name}");
    }
}

#[test]
fn a_subject_of_another_issuer_is_none_of_ours() {
    let theirs = json!({"format": "iss_sub", "iss": "https://other.example.com", "sub": "alice"});
    let session = json!({"format": "opaque", "id": "s"});
    for subject in [
        theirs.clone(),
        json!({"format": "jwt_id", "iss": "https://other.example.com", "jti": "j"}),
        json!({"format": "complex", "user": theirs, "session": session}),
        json!({"format": "complex", "user": alice(), "session": theirs}),
        json!({"format": "aliases", "identifiers": [theirs]}),
    ] {
        assert_eq!(effect_after(|it| it["sub_id"] = subject.clone()), Effect::Foreign, "{subject}");
    }
}

#[test]
fn a_subject_that_no_token_names_is_told_by_its_format() {
    let email = json!({"format": "email", "email": "alice@example.com"});
    let mut deep = alice();
    for _ in 0..3 {
        deep = json!({"format": "aliases", "identifiers": [deep]});
    }
    for (subject, format) in [
        (email.clone(), "email"),
        (json!({"format": "phone_number", "phone_number": "+1"}), "phone_number"),
        (json!({"format": "account", "uri": "acct:a@b"}), "account"),
        (json!({"format": "did", "url": "did:x"}), "did"),
        (json!({"format": "uri", "uri": "urn:x"}), "uri"),
        (json!({"format": "new", "id": "x"}), "other"),
        (json!({"format": "iss_sub", "iss": ISSUER}), "malformed"),
        (json!({"format": "iss_sub", "iss": ISSUER, "sub": ""}), "malformed"),
        (json!({"format": "iss_sub", "sub": "alice"}), "malformed"),
        (json!({"format": "opaque"}), "malformed"),
        (json!({"format": "aliases", "identifiers": [email]}), "aliases"),
        (deep, "aliases"),
        (json!({"format": "complex", "user": email}), "email"),
        (json!({"format": "complex", "device": {"format": "opaque", "id": "d"}}), "complex"),
        (json!({}), "malformed"),
        (json!("alice"), "malformed"),
    ] {
        let found = effect_after(|it| it["sub_id"] = subject.clone());
        assert_eq!(found, Effect::Unmapped { format }, "{subject}");
    }
    let absent = effect_after(|it| drop(it.as_object_mut().unwrap().remove("sub_id")));
    assert_eq!(absent, Effect::Unmapped { format: "absent" });
}

#[test]
fn a_stream_is_verified_and_tells_its_state() {
    let ssf = |name: &str, body: Value| {
        let uri = format!("https://schemas.openid.net/secevent/ssf/event-type/{name}");
        effect_after(|it| {
            it["sub_id"] = json!({"format": "opaque", "id": "stream"});
            it["events"] = json!({uri: body});
        })
    };
    let state = from(None).verification_state();
    assert_eq!(ssf("verification", json!({"state": state})), Effect::Verifies);
    assert_eq!(ssf("verification", json!({})), Effect::Verifies);
    for (name, status) in [
        ("enabled", StreamStatus::Enabled),
        ("paused", StreamStatus::Paused),
        ("disabled", StreamStatus::Disabled),
    ] {
        assert_eq!(ssf("stream-updated", json!({"status": name})), Effect::Streams(status));
    }
}

#[test]
fn what_is_about_another_stream_or_was_not_asked_for_says_nothing_of_ours() {
    let ssf = |name: &str, stream: Option<&str>, sub_id: &Value, body: &Value| {
        let uri = format!("https://schemas.openid.net/secevent/ssf/event-type/{name}");
        let mut claims = token();
        claims["sub_id"] = sub_id.clone();
        claims["events"] = json!({uri: body});
        let claims = claims.as_object().unwrap();
        let events =
            SecurityEvents::from_claims(claims, &from(stream), &examples::issuer(), at(NOW));
        events.unwrap().events.remove(0).effect
    };
    let (ours, theirs) =
        (json!({"format": "opaque", "id": "a"}), json!({"format": "opaque", "id": "b"}));
    let (paused, nothing) = (json!({"status": "paused"}), json!({}));
    let tells = Effect::Streams(StreamStatus::Paused);
    for (stream, sub_id, other) in [
        (Some("a"), &ours, false),
        (Some("a"), &theirs, true),
        // As transmitters wrote it before there was a `sub_id`.
        (Some("a"), &json!(null), false),
        (None, &theirs, false),
    ] {
        let found = [
            ssf("verification", stream, sub_id, &nothing),
            ssf("stream-updated", stream, sub_id, &paused),
        ];
        let expected = if other {
            [Effect::OtherStream, Effect::OtherStream]
        } else {
            [Effect::Verifies, tells.clone()]
        };
        assert_eq!(found, expected, "{stream:?} {sub_id}");
    }
    let (named, unnamed) = (from(Some("a")).verification_state(), from(None).verification_state());
    for (stream, state, other) in [
        (Some("a"), json!(named), false),
        (Some("a"), json!(unnamed), true),
        (None, json!(unnamed), false),
        (None, json!(named), true),
        (Some("a"), json!("else"), true),
        (Some("a"), json!(7), true),
        (Some("a"), json!(null), false),
    ] {
        let found = ssf("verification", stream, &ours, &json!({"state": state}));
        let expected = if other { Effect::OtherStream } else { Effect::Verifies };
        assert_eq!(found, expected, "{stream:?} {state}");
    }
}

#[test]
fn a_token_is_found_by_each_of_its_subjects() {
    use EventSubject::{Session, Sessionless, Token, User};
    let found =
        |subject: EventSubject, keys: &SubjectKeys| keys.iter().any(|it| it == subject.key());
    let whole = SubjectKeys::from_claims(Some("u"), Some("s"), Some("j"));
    let sessionless = SubjectKeys::from_claims(Some("u"), None, Some("j"));
    let light = SubjectKeys::from_claims(None, Some("s"), None);
    for (subject, expected) in [
        (User("u".into()), [true, true, false]),
        (Session("s".into()), [true, false, true]),
        (Sessionless("u".into()), [false, true, false]),
        (Token("j".into()), [true, true, false]),
        (User("s".into()), [false; 3]),
        (Session("u".into()), [false; 3]),
        (Token("u".into()), [false; 3]),
    ] {
        let hit = [&whole, &sessionless, &light].map(|it| found(subject.clone(), it));
        assert_eq!(hit, expected, "{subject:?}");
    }
    assert_eq!(SubjectKeys::from_claims(None, None, None).iter().count(), 0);
    let key = User("u".into()).key();
    assert_eq!(SubjectKey::from_octets(*key.octets()), key);
}

#[test]
fn only_a_token_of_this_type_is_taken() {
    let header = |typ: Option<&str>| Header {
        algorithm: None,
        unsupported: None,
        kid: None,
        typ: typ.map(str::to_owned),
        jwk: None,
    };
    for (typ, expected) in [
        (Some("secevent+jwt"), Ok(())),
        (Some("application/secevent+jwt"), Ok(())),
        (Some("SecEvent+JWT"), Ok(())),
        (Some("at+jwt"), Err(BadEvents::Type)),
        (Some("logout+jwt"), Err(BadEvents::Type)),
        (Some("JWT"), Err(BadEvents::Type)),
        (None, Err(BadEvents::Type)),
    ] {
        assert_eq!(SecurityEvents::admit(&header(typ)), expected, "{typ:?}");
    }
}

#[test]
fn every_cause_has_a_code_of_the_registry() {
    for cause in BadEvents::all() {
        let known = ["invalid_request", "invalid_key", "invalid_issuer", "invalid_audience"];
        assert!(known.contains(&cause.code()));
        assert!(!cause.sentence().is_empty());
        assert_eq!(cause.is_passing(), cause == BadEvents::Keys);
    }
    assert_eq!(Duration::from_secs(30), examples::issuer().clock_leeway);
}
