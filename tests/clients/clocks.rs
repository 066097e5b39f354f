//! Clients of DPoP by other libraries, whose clocks are an hour off: by libfaketime, which changes no line of
//! theirs. The service's clock is moved in the same way.

use super::installation::{AUDIENCE, Call, Door, ISSUER, Installation, Way};
use super::node::{Client, Node};
use super::program::provisioned;
use keybound::clock::{Clock, SystemClock};
use keybound_core::Denial;
use reqwest::Version;
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use tempfile::TempDir;
use tokio::process::Command;

/// By the time of a nonce, and by the proof's own.
const DOORS: [Door; 2] = [door("by-nonce"), door("by-iat")];

const fn door(name: &'static str) -> Door {
    Door {
        name,
        source: "peer",
        forward_client_cert: "SANITIZE",
        certificate_required: false,
        way: Way::Grpc,
    }
}

const LIBRARIES: [&str; 2] = ["dpop", "openid-client"];

/// Seconds by which a clock is off.
const HOUR: i64 = 3600;

struct World {
    it: Installation,
    node: Node,
    faketime: PathBuf,
    folder: TempDir,
}

impl World {
    /// Nothing, and a line that says why, where Node or libfaketime cannot be had.
    async fn start() -> Option<Self> {
        let node = Node::provisioned()?;
        let faketime = provisioned("faketime")?;
        let it = Installation::start_with(&DOORS, |_, config| {
            config["dpop"] = json!({"nonce": "required"});
            if config["listen"]["ext_authz"].as_str().unwrap().ends_with("by-nonce.sock") {
                config["dpop"]["time"] = "nonce".into();
            }
            config["policies"] = json!([{"name": "all", "sender_constraint": "dpop"}]);
        })
        .await;
        let folder = TempDir::new().unwrap();
        fs::write(folder.path().join("ca.pem"), it.authority.certificate_pem()).unwrap();
        Some(Self { it, node, faketime, folder })
    }

    /// A client by `library` whose clock is off by `skew` seconds, and its token.
    async fn client(&self, library: &str, skew: i64) -> (Client, String) {
        let mut command = Command::new(&self.faketime);
        command.arg(&self.node.program).arg(self.node.path("dpop_client.mjs")).arg(library);
        command.env("FAKETIME", format!("{skew:+}"));
        command.env("NODE_EXTRA_CA_CERTS", self.folder.path().join("ca.pem"));
        let log = self.folder.path().join(format!("{library}{skew}.log"));
        let mut client = Client::start(command, log);
        let said = client.said().await;
        let now = SystemClock.now().as_secs();
        let off = said["now"].as_i64().unwrap() - now;
        assert!((off - skew).abs() < 120, "its clock is off by {off} s");
        let claims = json!({
            "iss": ISSUER, "aud": AUDIENCE, "sub": "alice", "client_id": "app",
            "iat": now, "exp": now + HOUR, "cnf": {"jkt": said["jkt"]},
        });
        (client, self.it.signer.sign("at+jwt", &claims))
    }

    /// Has the client ask at a door: the answers, and the headers of its last request.
    async fn ask(&self, by: &mut (Client, String), door: &str) -> (Vec<Answer>, Headers) {
        let (client, token) = by;
        let said = client.ask(&json!({"url": self.it.url(door, "/"), "token": token})).await;
        let exchanges = said["exchanges"].as_array().unwrap();
        let headers = &exchanges.last().unwrap()["headers"];
        let header = |name| (name, headers[name].as_str().unwrap().to_owned());
        let headers = [header("authorization"), header("dpop")];
        (exchanges.iter().map(Answer::of).collect(), headers)
    }

    /// Sends a request of the client's once more.
    async fn repeat(&mut self, door: &str, headers: &Headers) -> String {
        let headers = headers.to_vec();
        let call = Call { door, http: Version::HTTP_2, identity: None, path: "/", headers };
        self.it.call(&call).await.unwrap().reason().to_owned()
    }

    /// Puts a service with a clock that can be moved in the place of the one behind [`DOORS`]`[0]`.
    async fn hold_the_clock(&mut self) -> MovedClock {
        let clock = MovedClock(self.folder.path().join("clock"));
        clock.set(0);
        let program = self.folder.path().join("keybound");
        let text = format!(
            "#!/bin/sh\nFAKETIME_TIMESTAMP_FILE={} FAKETIME_NO_CACHE=1 exec {} {} \"$@\"\n",
            clock.0.display(),
            self.faketime.display(),
            env!("CARGO_BIN_EXE_keybound"),
        );
        fs::write(&program, text).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o700)).unwrap();
        self.it.restart_by(&program, 0, &DOORS[0]).await;
        clock
    }
}

type Headers = [(&'static str, String); 2];

/// A status, and what is wrong.
#[derive(Debug, PartialEq, Eq)]
struct Answer(u64, String);

impl Answer {
    fn of(exchange: &Value) -> Self {
        let wrong = exchange["body"]["error_description"].as_str().unwrap_or_default();
        Self(exchange["status"].as_u64().unwrap(), wrong.to_owned())
    }

    fn denied(by: Denial) -> Self {
        Self(by.status().into(), by.sentence().to_owned())
    }
}

/// How far the clock of a service is ahead.
struct MovedClock(PathBuf);

impl MovedClock {
    fn set(&self, seconds: u64) {
        // In one step: it is read at any time.
        let next = self.0.with_extension("next");
        fs::write(&next, format!("+{seconds}\n")).unwrap();
        fs::rename(&next, &self.0).unwrap();
    }
}

#[tokio::test]
async fn clients_of_other_libraries_an_hour_off_pass_by_the_time_of_a_nonce_and_only_so() {
    let Some(mut world) = World::start().await else { return };
    let passed = || Answer(200, String::new());
    let challenged = || Answer::denied(Denial::NonceRequired);
    for library in LIBRARIES {
        for skew in [-HOUR, 0, HOUR] {
            let mut client = world.client(library, skew).await;
            let (answers, first) = world.ask(&mut client, "by-nonce").await;
            assert_eq!(answers, [challenged(), passed()], "{library} {skew}");
            let (answers, second) = world.ask(&mut client, "by-nonce").await;
            assert_eq!(answers, [passed()], "{library} {skew}: the nonce is good again");
            for headers in [&first, &second] {
                assert_eq!(world.repeat("by-nonce", headers).await, "proof_replayed");
            }

            // By a client of its own, since the first one has a nonce.
            let mut client = world.client(library, skew).await;
            let (answers, _) = world.ask(&mut client, "by-iat").await;
            let stale = Answer::denied(Denial::ProofStale);
            let then = if skew == 0 { passed() } else { stale };
            assert_eq!(answers, [challenged(), then], "{library} {skew}");
        }
    }
}

#[tokio::test]
async fn a_proof_of_a_client_an_hour_off_is_good_once_up_to_the_end_of_its_nonce_and_beyond() {
    let Some(mut world) = World::start().await else { return };
    let clock = world.hold_the_clock().await;
    let mut used = vec![];
    for library in LIBRARIES {
        for skew in [-HOUR, HOUR] {
            let mut client = world.client(library, skew).await;
            let (answers, headers) = world.ask(&mut client, "by-nonce").await;
            assert_eq!(answers.last().unwrap().0, 200, "{library} {skew}");
            used.push(headers);
        }
    }
    // A nonce lives for one to two minutes.
    let mut reasons = vec![vec![]; used.len()];
    for seconds in [0, 30, 60, 75, 90, 105, 121, HOUR.unsigned_abs()] {
        clock.set(seconds);
        for (headers, reasons) in used.iter().zip(&mut reasons) {
            reasons.push(world.repeat("by-nonce", headers).await);
        }
    }
    for reasons in &reasons {
        let lived = reasons.iter().take_while(|it| *it == "proof_replayed").count();
        assert!((1..=6).contains(&lived), "{reasons:?}");
        assert!(reasons[lived..].iter().all(|it| it == "nonce_required"), "{reasons:?}");
    }
    let last = reasons.last().unwrap();
    assert_eq!(last[1], "proof_replayed", "its nonce was new: {last:?}");
}
