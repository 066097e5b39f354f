//! Security event tokens that joserfc and jose sign.

use super::program::provisioned;
use keybound::clock::{Clock, SystemClock};
use keybound::state::http::BearerToken;
use keybound::state::jwks::{self, KeyRules, KeySource};
use keybound::state::revocation::events::{self, Bell, Delivery, EventRules, NotTaken, Terms};
use keybound_core::UnixTime;
use keybound_core::oauth::{BadEvents, SubjectKeys, Transmitter};
use keybound_core::policy::Issuer;
use serde_json::{Value, json};
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use tempfile::TempDir;
use tokio::runtime::Handle;

const ISSUER: &str = "https://as.example.com";
const US: &str = "https://gateway.example.com";
const ALGORITHMS: [&str; 4] = ["RS256", "PS256", "ES256", "Ed25519"];

/// The public key and the token that `command` makes of these claims.
fn signed(mut command: Command, alg: &str, claims: &Value) -> (Value, String) {
    let command = command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    writeln!(child.stdin.take().unwrap(), "{}", json!({"alg": alg, "claims": claims})).unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert!(child.wait().unwrap().success(), "{alg}");
    let made: Value = serde_json::from_str(&line).unwrap();
    (made["jwk"].clone(), made["token"].as_str().unwrap().to_owned())
}

async fn holds(by: &str, command: impl Fn() -> Command) {
    let now = UnixTime::from_secs(SystemClock.now().as_secs());
    let uri = "https://schemas.openid.net/secevent/caep/event-type/session-revoked";
    let claims = json!({
        "iss": ISSUER, "aud": [US], "iat": now.as_secs(), "jti": "1",
        "sub_id": {"format": "complex",
            "user": {"format": "iss_sub", "iss": ISSUER, "sub": "alice"},
            "session": {"format": "opaque", "id": "s"}},
        "events": {uri: {"event_timestamp": now.as_secs()}},
    });
    for alg in ALGORITHMS {
        let (jwk, token) = signed(command(), alg, &claims);
        let folder = TempDir::new().unwrap();
        let path = folder.path().join("jwks.json");
        fs::write(&path, json!({"keys": [jwk]}).to_string()).unwrap();
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let (runtime, keys) = (Handle::current(), KeyRules::new(KeySource::File(path)));
        let keys = jwks::prepare(&ISSUER.into(), &keys, None, &clock, &runtime).unwrap().keys;
        keys.tried().await;
        let rules = EventRules {
            transmitter: Transmitter {
                issuer: ISSUER.into(),
                audiences: vec![US.into()],
                stream: None,
            },
            delivery: Delivery::Push { bearer: BearerToken::new("x").unwrap() },
            keys: None,
            verification: None,
            keep: EventRules::KEEP,
            capacity: 10,
            snapshot_file: None,
            shared: None,
            is_passive: false,
        };
        let issuer = Arc::new(Issuer::new(ISSUER, "api"));
        let terms =
            Terms { issuer: &issuer, keys: &keys, rules: &rules, ca: None, allow_http: false };
        let events = events::prepare(&terms, None, &Bell::default(), &clock, &runtime);
        let events = events.unwrap().events;
        let forged = super::tokens::tampered(&token);
        let refused = Err(NotTaken::Refused(BadEvents::Signature));
        assert_eq!(events.take(forged.as_bytes()).await, refused, "{by} {alg}");
        assert_eq!(events.take(token.as_bytes()).await, Ok(()), "{by} {alg}");
        let subjects = SubjectKeys::from_claims(Some("alice"), Some("s"), None);
        assert!(events.find(subjects.iter(), now, now).is_some(), "{by} {alg}");
    }
}

fn script(name: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/providers").join(name)
}

#[tokio::test]
async fn events_that_joserfc_signs_are_taken() {
    let Some(python) = provisioned("python-jose") else { return };
    holds("joserfc", || {
        let mut command = Command::new(&python);
        command.arg(script("events_joserfc.py"));
        command
    })
    .await;
}

#[tokio::test]
async fn events_that_jose_signs_are_taken() {
    let Some(node) = provisioned("node-clients") else { return };
    let folder = TempDir::new().unwrap();
    symlink(node.with_file_name("node_modules"), folder.path().join("node_modules")).unwrap();
    let program = folder.path().join("events_jose.mjs");
    fs::copy(script("events_jose.mjs"), &program).unwrap();
    holds("jose", || {
        let mut command = Command::new(&node);
        command.arg(&program);
        command
    })
    .await;
}
