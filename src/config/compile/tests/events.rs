use super::*;
use crate::config::from_str;
use crate::state::revocation::events::{Delivery, EventRules};

const POLL: &str = "delivery: poll, endpoint: 'https://as.example.com/poll', audience: us";
const PUSH: &str = "delivery: push, bearer_token_file: pushes, audience: us";
const LISTEN: &str = "events: {address: '127.0.0.1:9004'}";

/// The outcome for an issuer with these events, in a folder with the files that they name.
fn read_with(events: &str, listeners: &str, more: &str) -> Result<Config, Vec<Problem>> {
    let folder = private_folder();
    for (name, text) in [
        ("pushes", "secret-of-theirs"),
        ("short", "secret-of-their"),
        ("polls", "token"),
        ("odd", "two words"),
    ] {
        fs::write(folder.path().join(name), text).unwrap();
        let private = fs::Permissions::from_mode(0o600);
        fs::set_permissions(folder.path().join(name), private).unwrap();
    }
    fs::write(folder.path().join("redis"), "redis://127.0.0.1").unwrap();
    let issuers = format!(
        "issuers: [{{issuer: 'https://as.example.com', audiences: [a], revocation: {{events: {{{events}}}}}}}]"
    );
    let text = edited(&format!("listen: {{{listeners}}}"));
    let text = text.replace(
        "issuers:\n- issuer: https://as.example.com\n  audiences: [https://api.example.com]\n",
        &format!("{issuers}\n{more}\n"),
    );
    from_str(&text, folder.path())
}

#[track_caller]
fn rules(events: &str, listen: &str) -> EventRules {
    let config = read_with(events, listen, "");
    let config = config.unwrap_or_else(|problems| panic!("{events}: {problems:#?}"));
    config.rules.issuers[0].revocation.clone().unwrap().events.unwrap()
}

#[track_caller]
fn refused(events: &str, key: &str, message: &str) {
    let problems = read_with(events, LISTEN, "").unwrap_err();
    let path = format!("issuers[0].revocation.events{key}");
    let found = problems.iter().any(|it| it.path == path && it.message.contains(message));
    assert!(found, "{events}: {problems:#?}");
}

#[test]
fn a_poll_has_defaults_for_all_but_its_place_and_our_name() {
    let rules = rules(POLL, "");
    assert_eq!(&*rules.transmitter.issuer, "https://as.example.com");
    assert_eq!(rules.transmitter.audiences, ["us"]);
    assert_eq!((rules.keep, rules.capacity), (EventRules::KEEP, 1_000_000));
    assert!(rules.keys.is_none() && rules.shared.is_none() && !rules.is_passive);
    let Delivery::Poll { endpoint, interval, bearer } = rules.delivery else { panic!() };
    assert_eq!(endpoint, "https://as.example.com/poll");
    assert_eq!((interval, bearer), (Duration::from_secs(5), None));
}

#[test]
fn a_poll_may_say_everything() {
    let all = format!(
        "{POLL}, bearer_token_file: polls, issuer: 'https://events.example.com', stream_id: s, \
         jwks_uri: 'https://events.example.com/jwks', poll_interval: 1s, keep: 1h, capacity: 5, \
         verification_endpoint: 'https://events.example.com/verify', snapshot_file: kept"
    );
    let rules = rules(&all, "");
    assert_eq!(&*rules.transmitter.issuer, "https://events.example.com");
    let source = KeySource::Uri("https://events.example.com/jwks".to_owned());
    assert_eq!(rules.keys.unwrap().source, source);
    let verification = rules.verification.unwrap();
    assert_eq!(rules.transmitter.stream.as_deref(), Some("s"));
    assert!(verification.bearer.is_some(), "that of the polls");
    assert_eq!((rules.keep, rules.capacity), (Duration::from_secs(3600), 5));
    assert!(rules.snapshot_file.unwrap().ends_with("kept"));
}

#[test]
fn what_is_missing_or_odd_is_named() {
    for (events, key, message) in [
        ("audience: us", ".delivery", "poll or push"),
        ("delivery: poll, audience: us", ".endpoint", "is missing"),
        ("delivery: poll, endpoint: 'http://as.example.com', audience: us", ".endpoint", "https"),
        ("delivery: poll, endpoint: 'https://as.example.com'", ".audience", "is missing"),
        ("delivery: push, audience: us", ".bearer_token_file", "is missing"),
        (
            "delivery: push, bearer_token_file: odd, audience: us",
            ".bearer_token_file",
            "one bearer",
        ),
        (
            "delivery: push, bearer_token_file: short, audience: us",
            ".bearer_token_file",
            "16 visible characters",
        ),
        (&format!("{PUSH}, endpoint: 'https://as.example.com'"), ".endpoint", "delivery: poll"),
        (&format!("{PUSH}, poll_interval: 5s"), ".poll_interval", "delivery: poll"),
        (&format!("{POLL}, poll_interval: 99ms"), ".poll_interval", "100ms"),
        (&format!("{POLL}, keep: 59s"), ".keep", "60s"),
        (&format!("{POLL}, capacity: 0"), ".capacity", "1 to"),
        (&format!("{POLL}, jwks_uri: x"), ".jwks_uri", "https://"),
        (&format!("{POLL}, verification_endpoint: x"), ".verification_endpoint", "https://"),
        (&format!("{POLL}, store: redis"), ".store", "dpop.replay.store"),
        (&format!("{POLL}, issuer: ''"), ".issuer", "exact `iss`"),
    ] {
        refused(events, key, message);
    }
}

#[test]
fn what_replicas_share_is_in_the_redis_of_used_proofs() {
    let dpop = "dpop: {replay: {store: redis, url_file: redis}}";
    let config = read_with(&format!("{POLL}, store: redis"), "", dpop).unwrap();
    let events = config.rules.issuers[0].revocation.as_ref().unwrap().events.as_ref().unwrap();
    assert!(events.shared.is_some());
}

#[test]
fn what_is_pushed_needs_somebody_who_listens() {
    assert!(matches!(rules(PUSH, LISTEN).delivery, Delivery::Push { .. }));
    let problems = read_with(PUSH, "", "").unwrap_err();
    assert_eq!(problems[0].path, "issuers[0].revocation.events.delivery");
    assert!(problems[0].message.contains("listen.events"), "{problems:?}");
    // A listener that is there and not as it should be is told of by itself.
    for (listen, at) in [
        ("tls: {certificate_file: odd, key_file: odd}", "tls.certificate_file"),
        ("tls: {certificate_file: none, key_file: none}", "tls.certificate_file"),
        ("tls: {}", "tls.certificate_file"),
        ("tls: {certificate: odd}", "tls.certificate"),
        ("adress: ':9004'", "adress"),
    ] {
        let listen = format!("events: {{address: '127.0.0.1:9004', {listen}}}");
        let problems = read_with(PUSH, &listen, "").unwrap_err();
        assert_eq!(problems[0].path, format!("listen.events.{at}"), "{problems:?}");
        let within = problems.iter().all(|it| it.path.starts_with("listen.events."));
        assert!(within, "{listen}: {problems:?}");
    }
    let problems = read_with(PUSH, "events: {}", "").unwrap_err();
    assert_eq!((problems.len(), &*problems[0].path), (1, "listen.events.address"));
    let config = read_with(POLL, LISTEN, "").unwrap();
    assert!(config.warnings.iter().any(|it| it.path == "listen.events"), "{:?}", config.warnings);
}

#[test]
fn what_may_go_unnoticed_is_told() {
    let warnings = |events: &str, listen: &str| {
        let config = read_with(events, listen, "").unwrap();
        config.warnings.iter().map(|it| format!("{}: {}", it.path, it.message)).collect::<Vec<_>>()
    };
    let tells = |found: &[String], what: &str| found.iter().any(|it| it.contains(what));
    assert!(tells(&warnings(POLL, ""), "kept in memory alone"));
    assert!(!tells(&warnings(&format!("{POLL}, snapshot_file: kept"), ""), "kept in memory alone"));
    assert!(tells(&warnings(PUSH, LISTEN), "name `verification_endpoint`"));
    let asked = format!("{POLL}, verification_token_file: polls");
    assert!(tells(&warnings(&asked, ""), "has no effect"));
    assert!(!tells(&warnings(&format!("{POLL}, stream_id: s"), ""), "has no effect"));
    let open = "events: {address: '0.0.0.0:9004'}";
    assert!(tells(&warnings(PUSH, open), "has no TLS"));
}

#[test]
fn the_listener_for_events_has_an_address_of_its_own() {
    refuses("listen: {events: {}}", "listen.events.address", 1, "is missing");
    refuses("listen: {events: {address: 127.0.0.1:9001}}", "listen.events", 1, "as well");
    refuses("listen: {events: {address: 127.0.0.1:9003}}", "listen.events", 1, "as well");
    refuses("listen: {events: {address: 127.0.0.1:1, tsl: {}}}", "listen.events.tsl", 1, "unknown");
}

#[test]
fn a_revocation_that_revokes_nothing_is_named() {
    let text = edited("listen: {}").replace("  audiences:", "  revocation: {}\n  audiences:");
    let problems = from_str(&text, Path::new(".")).unwrap_err();
    assert!(problems[0].message.starts_with("revokes nothing: "), "{problems:?}");
}
