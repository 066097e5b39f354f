//! Security events by push: who may send them, what becomes of what is sent, and what it costs others.

#![expect(clippy::indexing_slicing, reason = "a test may panic")]

use super::block_on;
use super::mutual_tls::{Connector, authority, tls_files};
use super::service::{Service, keybound};
use super::tokens::{Signer, tampered};
use super::world::{World, reason};
use keybound::clock::{Clock, SystemClock};
use serde_json::{Value, json};
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const URI: &str = "https://schemas.openid.net/secevent/risc/event-type/account-disabled";

/// A service that takes events of the issuer by push.
fn service(world: &World) -> Service {
    service_with(world, "", &[])
}

fn service_with(world: &World, more: &str, files: &[(&str, String)]) -> Service {
    service_of(world, more, "", files)
}

/// A service whose listener and whose receiver of events have more settings.
fn service_of(world: &World, more: &str, kept: &str, files: &[(&str, String)]) -> Service {
    let edit = |folder: &Path, config: String| {
        for (name, content) in files {
            fs::write(folder.join(name), content).unwrap();
        }
        fs::write(folder.join("pushes"), "the-secret-of-theirs").unwrap();
        let jwks_uri = format!("jwks_uri: '{}'", world.provider.jwks_uri());
        let config = config.replace("jwks_file: jwks.json", &jwks_uri);
        let listen = format!("listen: {{events: {{address: '127.0.0.1:0'{more}}}, ");
        let events = format!(
            "    revocation: {{events: {{delivery: push, bearer_token_file: pushes, \
             audience: 'https://gateway.example.com'{kept}}}}}\n    audiences:"
        );
        config.replacen("listen: {", &listen, 1).replacen("    audiences:", &events, 1)
    };
    let mut service = Service::start(edit, &[]);
    service.wait_for("ready");
    service
}

fn address(service: &Service) -> String {
    let line = service.log.iter().find(|it| it["message"] == "listening").unwrap();
    line["events"].as_str().unwrap().to_owned()
}

/// A token that tells that the account of this user is disabled.
fn event(world: &World, user: &str) -> String {
    world.sign("secevent+jwt", &claims(user))
}

fn claims(user: &str) -> Value {
    json!({
        "iss": "https://as.example.com", "aud": "https://gateway.example.com", "jti": user,
        "iat": SystemClock.now().as_secs(), "events": {URI: {}},
        "sub_id": {"format": "iss_sub", "iss": "https://as.example.com", "sub": user},
    })
}

fn request(authorization: &str, token: &str) -> String {
    format!(
        "POST /events HTTP/1.1\r\nhost: gateway\r\n{authorization}content-type: application/secevent+jwt\r\n\
         content-length: {}\r\n\r\n{token}",
        token.len()
    )
}

const KNOWN: &str = "authorization: Bearer the-secret-of-theirs\r\n";

/// The status and the whole answer.
fn answered(stream: &mut (impl Read + Write), request: &str) -> (u16, String) {
    // The answer may come before all of it was read.
    drop(stream.write_all(request.as_bytes()));
    let mut found = vec![];
    let mut piece = [0; 1024];
    while let Ok(count @ 1..) = stream.read(&mut piece) {
        found.extend_from_slice(&piece[..count]);
        let text = String::from_utf8_lossy(&found);
        let whole = text.split_once("\r\n\r\n").is_some_and(|(head, body)| {
            let length = head.lines().find_map(|it| it.strip_prefix("content-length: "));
            length.and_then(|it| it.parse().ok()).is_none_or(|it: usize| it <= body.len())
        });
        if whole {
            break;
        }
    }
    let text = String::from_utf8(found).unwrap();
    let status = text.split(' ').nth(1).and_then(|it| it.parse().ok());
    (status.unwrap_or_else(|| panic!("no answer: {text:?}")), text)
}

fn sent(address: &str, request: &str) -> (u16, String) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    answered(&mut stream, request)
}

#[test]
fn a_pushed_event_is_in_force_when_it_is_acknowledged() {
    let world = World::new();
    // A token that is issued behind the event is none of those that it revokes.
    let asked = world.request("payments");
    let service = service(&world);
    let address = address(&service);
    assert_eq!(reason(&service, asked.clone()), "allowed");
    assert_eq!(sent(&address, &request(KNOWN, &event(&world, "another"))).0, 202);
    assert_eq!(reason(&service, asked.clone()), "allowed");
    let begun = Instant::now();
    let (status, answer) = sent(&address, &request(KNOWN, &event(&world, "somebody")));
    assert_eq!(status, 202, "{answer}");
    assert_eq!(reason(&service, asked), "token_revoked");
    assert!(begun.elapsed() < Duration::from_secs(2));
    let (_, metrics) = service.page("GET", "/metrics");
    for series in [
        "keybound_revocations_total{issuer=\"https://as.example.com\",source=\"event\"} 1\n",
        "keybound_events_received_total{issuer=\"https://as.example.com\",outcome=\"revoking\"} 2\n",
        "keybound_events_entries{issuer=\"https://as.example.com\"} 2\n",
        "keybound_connections{listener=\"events\"}",
    ] {
        assert!(metrics.contains(series), "{series} in {metrics}");
    }
}

#[test]
fn what_was_acknowledged_is_in_force_after_a_crash_and_a_file_that_was_changed_is_an_error() {
    let world = World::new();
    // A token that is issued behind the event is none of those that it revokes.
    let asked = world.request("payments");
    let service = service_of(&world, "", ", snapshot_file: kept", &[]);
    for user in ["another", "somebody", "a-third"] {
        assert_eq!(sent(&address(&service), &request(KNOWN, &event(&world, user))).0, 202);
    }
    let mut service = service.killed_and_started();
    service.wait_for("ready");
    assert_eq!(reason(&service, asked), "token_revoked");
    // It would write anew what somebody else has changed.
    service.signal("TERM");
    service.end();
    let file = service.folder.path().join("kept");
    let mut content = fs::read(&file).unwrap();
    let middle = content.len() / 2;
    content[middle] ^= 1;
    fs::write(&file, content).unwrap();
    let config = service.folder.path().join("keybound.yaml");
    let started = keybound().arg("serve").arg("--config").arg(config).output().unwrap();
    assert!(!started.status.success());
    let told = String::from_utf8_lossy(&started.stderr).into_owned();
    for part in ["is not as it was written", "put back a good one"] {
        assert!(told.contains(part), "{part}: {told}");
    }
}

#[test]
fn a_flood_of_tokens_that_are_refused_is_no_flood_of_lines() {
    let world = World::new();
    let mut service = service(&world);
    let address = address(&service);
    let stranger = Signer::new(jsonwebtoken::Algorithm::ES256, "1");
    let forged = stranger.sign("secevent+jwt", &claims("somebody"));
    let begun = Instant::now();
    let mut stream = TcpStream::connect(&address).unwrap();
    for _ in 0..300 {
        assert_eq!(answered(&mut stream, &request(KNOWN, &forged)).0, 400);
    }
    let seconds = usize::try_from(begun.elapsed().as_secs()).unwrap() + 2;
    let (_, metrics) = service.page("GET", "/metrics");
    let series = "keybound_events_refused_total{cause=\"signature\",issuer=\"https://as.example.com\"} 300\n";
    assert!(metrics.contains(series), "{metrics}");
    service.signal("TERM");
    service.end();
    let refused = |it: &&Value| it["message"] == "security event token refused";
    let lines = service.log.iter().filter(refused).count();
    assert!(0 < lines && lines <= 5 * seconds, "{lines} in {seconds} s");
}

#[test]
fn who_does_not_show_the_secret_is_refused_before_the_body_is_read() {
    let world = World::new();
    let service = service(&world);
    let address = address(&service);
    let token = event(&world, "somebody");
    for authorization in [
        "",
        "authorization: Bearer other\r\n",
        "authorization: Basic the-secret-of-theirs\r\n",
        "authorization: the-secret-of-theirs\r\n",
        "authorization: Bearer the-secret-of-theirs\r\nauthorization: Bearer the-secret-of-theirs\r\n",
        "authorization: Bearer the-secret-of-theirs, Bearer the-secret-of-theirs\r\n",
    ] {
        let (status, answer) = sent(&address, &request(authorization, &token));
        assert_eq!(status, 401, "{authorization}: {answer}");
        assert!(answer.contains("\"err\":\"authentication_failed\""), "{answer}");
        assert!(answer.to_lowercase().contains("connection: close"), "{answer}");
        // Not a byte of the body comes, and none is waited for.
        let whole = request(authorization, &token);
        let head = whole.split_inclusive("\r\n\r\n").next().unwrap();
        assert_eq!(sent(&address, head).0, 401);
    }
    assert_eq!(reason(&service, world.request("payments")), "allowed");
    let (_, metrics) = service.page("GET", "/metrics");
    let series = "keybound_events_refused_total{cause=\"unauthenticated\",issuer=\"https://as.example.com\"} 12\n";
    assert!(metrics.contains(series), "{metrics}");
}

#[test]
fn what_is_not_a_token_for_us_is_refused_with_its_code() {
    let world = World::new();
    let service = service(&world);
    let address = address(&service);
    let good = event(&world, "somebody");
    let stranger = Signer::new(jsonwebtoken::Algorithm::ES256, "1");
    let other = |name: &str, value: &str| {
        let mut claims = claims("somebody");
        claims[name] = value.into();
        world.sign("secevent+jwt", &claims)
    };
    for (token, code) in [
        (tampered(&good), "invalid_key"),
        (stranger.sign("secevent+jwt", &claims("somebody")), "invalid_key"),
        (world.sign("at+jwt", &claims("somebody")), "invalid_request"),
        (other("aud", "https://other.example.com"), "invalid_audience"),
        (other("iss", "https://other.example.com"), "invalid_issuer"),
        (other("events", "none"), "invalid_request"),
        ("nonsense".to_owned(), "invalid_request"),
        (String::new(), "invalid_request"),
    ] {
        let (status, answer) = sent(&address, &request(KNOWN, &token));
        assert_eq!(status, 400, "{code}: {answer}");
        assert!(answer.contains(&format!("\"err\":\"{code}\"")), "{code}: {answer}");
    }
    let json = request(KNOWN, &good).replace("application/secevent+jwt", "application/json");
    assert_eq!(sent(&address, &json).0, 400);
    assert_eq!(sent(&address, &request(KNOWN, &good).replace("POST", "GET")).0, 405);
    assert_eq!(sent(&address, &request(KNOWN, &good).replace("/events", "/event")).0, 404);
    assert_eq!(reason(&service, world.request("payments")), "allowed");
    assert_eq!(sent(&address, &request(KNOWN, &good)).0, 202);
}

#[test]
fn who_shows_the_secret_and_asks_otherwise_than_for_a_push_is_told_of_in_the_log() {
    let world = World::new();
    let mut service = service(&world);
    let address = address(&service);
    let good = request(KNOWN, &event(&world, "somebody"));
    let mut expected = 0;
    for (asked, status, cause) in [
        (good.replace("application/secevent+jwt", "application/jwt"), 400, "Content-Type"),
        (good.replace("POST", "PUT"), 405, "method"),
        (good.replace("/events", "/events/"), 404, "path"),
        (request(KNOWN, &"x".repeat(64 * 1024 + 1)), 400, "too long"),
    ] {
        assert_eq!(sent(&address, &asked).0, status, "{cause}");
        expected += 1;
        let line = service.wait_for("push refused unread");
        assert!(line["cause"].as_str().unwrap().contains(cause), "{line}");
        assert_eq!(
            (&line["issuer"], &line["level"]),
            (&"https://as.example.com".into(), &"WARN".into())
        );
        // Who shows nothing is a stranger, and may be a probe.
        let stranger = asked.replace(KNOWN, "");
        assert!([401, status].contains(&sent(&address, &stranger).0), "{cause}");
        let (_, metrics) = service.page("GET", "/metrics");
        let series =
            "keybound_events_refused_total{cause=\"request\",issuer=\"https://as.example.com\"}";
        assert!(metrics.contains(&format!("{series} {expected}\n")), "{cause}: {metrics}");
    }
    assert_eq!(reason(&service, world.request("payments")), "allowed");
}

#[test]
fn a_body_has_bounds_of_size_and_of_time() {
    let world = World::new();
    let service = service(&world);
    let address = address(&service);
    let (status, answer) = sent(&address, &request(KNOWN, &"x".repeat(64 * 1024 + 1)));
    assert_eq!(status, 400, "{answer}");
    assert!(answer.contains("too long"), "{answer}");
    let (status, answer) = sent(&address, &request(KNOWN, &"x".repeat(64 * 1024)));
    assert_eq!(status, 400, "read, and no token: {answer}");
    assert!(!answer.contains("too long"), "{answer}");
    let endless = "POST /events HTTP/1.1\r\nhost: gateway\r\nauthorization: Bearer the-secret-of-theirs\r\n\
                   content-type: application/secevent+jwt\r\ntransfer-encoding: chunked\r\n\r\n";
    let chunks = format!("10000\r\n{}\r\n", "x".repeat(0x10000)).repeat(3);
    assert_eq!(sent(&address, &format!("{endless}{chunks}")).0, 400);
    // One that begins and never ends is given up, and holds up nobody meanwhile.
    let mut slow = TcpStream::connect(&address).unwrap();
    slow.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    slow.write_all(format!("{endless}1\r\nx\r\n").as_bytes()).unwrap();
    let begun = Instant::now();
    assert_eq!(sent(&address, &request(KNOWN, &event(&world, "another"))).0, 202);
    assert!(begun.elapsed() < Duration::from_secs(5));
    assert_eq!(answered(&mut slow, "").0, 400);
    assert!(Duration::from_secs(5) < begun.elapsed());
}

#[test]
fn events_are_taken_and_checks_answered_beside_silent_connections() {
    let world = World::new();
    let service = service(&world);
    let address = address(&service);
    let silent: Vec<_> = (0..400).map(|_| TcpStream::connect(&address).unwrap()).collect();
    let begun = Instant::now();
    assert_eq!(sent(&address, &request(KNOWN, &event(&world, "another"))).0, 202);
    assert_eq!(reason(&service, world.request("payments")), "allowed");
    assert!(begun.elapsed() < Duration::from_secs(5));
    drop(silent);
}

#[test]
fn events_come_over_tls_of_their_own() {
    let world = World::new();
    let authority = authority();
    let files = tls_files(&authority);
    let tls = ", tls: {certificate_file: tls.pem, key_file: key.pem}";
    let service = service_with(&world, tls, &files);
    let address = address(&service);
    let connector = Connector::new(&service, &authority, None).to(&address);
    let asked = world.request("payments");
    let answer = block_on(async {
        let mut stream = connector.connect().await.unwrap();
        let request = request(KNOWN, &event(&world, "somebody"));
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = vec![0; 64];
        let count = stream.read(&mut answer).await.unwrap();
        String::from_utf8_lossy(&answer[..count]).into_owned()
    });
    assert!(answer.starts_with("HTTP/1.1 202 "), "{answer}");
    assert_eq!(reason(&service, asked), "token_revoked");
    let mut plain = TcpStream::connect(&address).unwrap();
    plain.write_all(request(KNOWN, &event(&world, "another")).as_bytes()).unwrap();
    let mut answer = vec![];
    drop(plain.read_to_end(&mut answer));
    assert!(!answer.starts_with(b"HTTP"), "nothing is taken without TLS");
    let (_, metrics) = service.page("GET", "/metrics");
    for series in [
        "keybound_tls_certificate_not_after_timestamp_seconds{file=\"events.certificate_file\",position=\"1\"}",
        "keybound_connections_not_accepted_total{cause=\"limit_reached\",listener=\"events\"} 0",
    ] {
        assert!(metrics.contains(series), "{series} in {metrics}");
    }
}
