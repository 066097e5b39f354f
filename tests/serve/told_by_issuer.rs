//! Tokens that their issuer revokes while the service runs, by status lists and by events that are polled,
//! and how that is explained.

#![expect(clippy::indexing_slicing, reason = "a test may panic")]

use super::explain::{command, explained, kept};
use super::revocation::asking;
use super::service::{Service, keybound};
use super::world::{World, reason};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use keybound::clock::{Clock, SystemClock};
use miniz_oxide::deflate::compress_to_vec_zlib;
use prost::Message;
use serde_json::{Value, json};
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread;

const ISSUER: &str = "https://as.example.com";
const GATEWAY: &str = "https://gateway.example.com";

/// What the issuer has to say, at an address of its own: a list and a stream of events.
struct Voice {
    address: SocketAddr,
    said: Arc<Mutex<Said>>,
}

#[derive(Default)]
struct Said {
    list: String,
    /// Tokens that were not acknowledged, by their `jti`.
    events: serde_json::Map<String, Value>,
}

impl Voice {
    fn new() -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let said = Arc::<Mutex<Said>>::default();
        let says = Arc::clone(&said);
        thread::spawn(move || {
            for stream in listener.incoming() {
                let says = Arc::clone(&says);
                // Whoever asks may hang up.
                thread::spawn(move || drop(converse(stream.unwrap(), &says)));
            }
        });
        Self { address, said }
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// Publishes a list of eight tokens, of whom the second is invalid.
    fn publish(&self, world: &World) {
        let list = URL_SAFE_NO_PAD.encode(compress_to_vec_zlib(&[0b10], 9));
        let claims = json!({
            "sub": self.url("/list"), "iat": SystemClock.now().as_secs(), "ttl": 300,
            "status_list": {"bits": 1, "lst": list},
        });
        self.said.lock().unwrap().list = world.sign("statuslist+jwt", &claims);
    }

    /// Tells that the account of `user` is disabled.
    fn disable(&self, world: &World, user: &str) {
        let uri = "https://schemas.openid.net/secevent/risc/event-type/account-disabled";
        let claims = json!({
            "iss": ISSUER, "aud": GATEWAY, "jti": user, "iat": SystemClock.now().as_secs(),
            "events": {uri: {}}, "sub_id": {"format": "iss_sub", "iss": ISSUER, "sub": user},
        });
        let token = world.sign("secevent+jwt", &claims).into();
        self.said.lock().unwrap().events.insert(user.to_owned(), token);
    }

    /// Whether each event was acknowledged.
    fn is_heard(&self) -> bool {
        self.said.lock().unwrap().events.is_empty()
    }

    /// A service under its word.
    fn service(&self, world: &World) -> Service {
        let edit = |folder: &Path, config: String| {
            fs::write(folder.join("ours"), "our-secret").unwrap();
            let jwks_uri = format!("jwks_uri: '{}'", world.provider.jwks_uri());
            let poll = self.url("/poll");
            let revocation = format!(
                "    revocation:\n      status_list: if_present\n      events: {{delivery: poll, endpoint: '{poll}', \
                 poll_interval: 100ms, bearer_token_file: ours, audience: '{GATEWAY}', \
                 snapshot_file: events}}\npolicies:\n"
            );
            config.replace("jwks_file: jwks.json", &jwks_uri).replace("policies:\n", &revocation)
        };
        let mut service = Service::start(edit, &[]);
        service.wait_for("ready");
        service
    }

    /// The claims of a token at this place of the list.
    fn place(&self, index: u64) -> Value {
        json!({"status": {"status_list": {"idx": index, "uri": self.url("/list")}}})
    }
}

/// Answers what is asked on a connection (RFC 9112).
fn converse(stream: TcpStream, said: &Mutex<Said>) -> std::io::Result<()> {
    let mut asked = BufReader::new(stream.try_clone()?);
    let mut answers = stream;
    loop {
        let (mut head, mut length) = (String::new(), 0);
        while !head.ends_with("\r\n\r\n") {
            let start = head.len();
            if asked.read_line(&mut head)? == 0 {
                return Ok(());
            }
            let line = head.get(start..).unwrap_or_default().to_ascii_lowercase();
            if let Some(told) = line.strip_prefix("content-length:") {
                length = told.trim().parse().unwrap();
            }
        }
        let mut body = vec![0; length];
        asked.read_exact(&mut body)?;
        let answer = if head.starts_with("GET /list ") {
            said.lock().unwrap().list.clone()
        } else {
            assert!(head.starts_with("POST /poll "), "{head}");
            let request: Value = serde_json::from_slice(&body).unwrap();
            let mut said = said.lock().unwrap();
            for jti in request["ack"].as_array().into_iter().flatten() {
                said.events.remove(jti.as_str().unwrap());
            }
            json!({"sets": said.events}).to_string()
        };
        write!(answers, "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{answer}", answer.len())?;
    }
}

#[test]
fn a_status_is_looked_up_and_the_place_of_the_token_is_explained() {
    let (world, voice) = (World::new(), Voice::new());
    voice.publish(&world);
    let service = voice.service(&world);
    let [good, bad] = [0, 1].map(|it| asking(&world, &voice.place(it)));
    assert_eq!(reason(&service, good.clone()), "allowed");
    assert_eq!(reason(&service, bad.clone()), "token_revoked");
    let place = format!("place 1 of {}: invalid (8 places, confirmed ", voice.url("/list"));
    for told in [
        explained(&service, &json!({"request": kept(&bad)})),
        command(&service, &["--request", "-"], &bad.encode_to_vec()),
    ] {
        assert!(told.contains(&place), "{told}");
        assert!(told.contains("the status list that it names"), "{told}");
        assert!(told.contains(" (status_invalid)\n"), "{told}");
    }
    let told = explained(&service, &json!({"request": kept(&good)}));
    assert!(told.contains("revocation   not revoked\n"), "{told}");
    service.has_metric(&format!(
        "keybound_revocations_total{{issuer=\"{ISSUER}\",source=\"status_list\"}} 1"
    ));
}

#[test]
fn an_event_is_polled_and_the_service_explains_it() {
    let (world, voice) = (World::new(), Voice::new());
    let service = voice.service(&world);
    let mine = asking(&world, &json!({"sub": "somebody"}));
    let others = asking(&world, &json!({"sub": "another"}));
    assert_eq!(reason(&service, mine.clone()), "allowed");
    voice.disable(&world, "somebody");
    service.wait_until(|_| voice.is_heard());
    assert_eq!(reason(&service, mine.clone()), "token_revoked");
    assert_eq!(reason(&service, others), "allowed");
    let event = "the issuer told by an event, account-disabled, that tokens until ";
    // The command reads what was kept, and polls nothing.
    for told in [
        explained(&service, &json!({"request": kept(&mine)})),
        command(&service, &["--request", "-"], &mine.encode_to_vec()),
    ] {
        assert!(told.contains(event), "{told}");
        assert!(told.contains(" (event_received)\n"), "{told}");
    }
}

#[test]
fn a_configuration_says_what_may_revoke_tokens() {
    let (world, voice) = (World::new(), Voice::new());
    let service = voice.service(&world);
    let file = service.folder.path().join("keybound.yaml");
    let output = keybound().arg("check-config").arg(&file).output().unwrap();
    let told = String::from_utf8(output.stdout).unwrap();
    let (poll, kept) = (voice.url("/poll"), service.folder.path().join("events"));
    for line in [
        "status_list if_present: a token that names no list passes".to_owned(),
        format!(
            "events poll {poll} each 100ms, from {ISSUER} to {GATEWAY}, kept in {} for 86400s, at most \
             1000000 subjects",
            kept.display()
        ),
    ] {
        assert!(told.contains(&line), "{line} in {told}");
    }
}
