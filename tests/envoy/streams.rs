//! Streams that end with the token by which they were opened, and streams that outlive it.

use super::channel::connect;
use super::installation::{AUDIENCE, Call, ISSUER, Installation, Upstream};
use super::{BOTH, OPTIONAL, Way};
use futures_util::FutureExt;
use futures_util::future::{BoxFuture, join_all};
use keybound::clock::{Clock, SystemClock};
use keybound_core::UnixTime;
use reqwest::{Response, StatusCode, Upgraded, Version};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::interval;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Streaming};
use tonic_health::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

/// Where streams end with their token, and where they do not.
const ENDS: &str = "/ends";
const STAYS: &str = "/stays";

/// How late a stream may end.
const LATE: Duration = Duration::from_secs(1);

/// How early a stream may end: a timer of Envoy's counts from where the turn of its loop began that set it.
const EARLY: Duration = Duration::from_millis(100);

/// Between two events of an upstream.
const PACE: Duration = Duration::from_millis(50);

/// Something that is open.
enum Open {
    Events(Response),
    WebSocket(Upgraded),
    Call(Box<Streaming<HealthCheckResponse>>),
}

impl Open {
    /// Waits for one more event; false if there will be none.
    async fn goes_on(&mut self) -> bool {
        match self {
            Self::Events(it) => matches!(it.chunk().await, Ok(Some(_))),
            Self::WebSocket(it) => matches!(it.read(&mut [0; 64]).await, Ok(1..)),
            Self::Call(it) => matches!(it.message().await, Ok(Some(_))),
        }
    }

    /// When it ends; none if it still goes on after `until`.
    async fn ended(mut self, until: UnixTime) -> Option<UnixTime> {
        while self.goes_on().await {
            if until < SystemClock.now() {
                return None;
            }
        }
        Some(SystemClock.now())
    }
}

#[tokio::test]
async fn events_and_web_sockets_end_with_the_token_only_where_the_policy_says_so() {
    let it = Installation::in_front_of(talkative().await, &[OPTIONAL], streaming).await;
    let (token, ends) = token(&it);
    let opened = [ENDS, STAYS].into_iter().flat_map(|path| {
        let (it, token) = (&it, &token);
        let events = BOTH.map(|http| events(it, token, path, http).boxed());
        events.into_iter().chain([web_socket(it, token, path).boxed()]).map(move |it| (path, it))
    });
    hold(opened.collect(), ends).await;
}

#[tokio::test]
async fn calls_end_with_the_token_only_where_the_policy_says_so() {
    // The path of a call is that of its method, so that each policy is the only one.
    for path in [ENDS, STAYS] {
        let all = |folder: &Path, config: &mut Value| {
            streaming(folder, config);
            let policies = config["policies"].as_array_mut().unwrap();
            policies.retain(|it| path.strip_prefix('/') == it["name"].as_str());
            policies[0].as_object_mut().unwrap().remove("match");
        };
        let it = Installation::in_front_of(restless().await, &[OPTIONAL], all).await;
        let (token, ends) = token(&it);
        hold(vec![(path, call(&it, &token).boxed())], ends).await;
    }
}

#[tokio::test]
async fn what_is_open_ends_when_its_token_is_revoked_inside_envoy_and_at_its_end_elsewhere() {
    let list = Denylist::new();
    let edit = |folder: &Path, config: &mut Value| list.named_by(folder, config);
    let it = Installation::in_front_of(talkative().await, &[OPTIONAL], edit).await;
    let [mine, others] = ["mine", "others"].map(|jti| long_lived_token(&it, jti));
    let mut opened = vec![];
    for (token, is_revoked) in [(&mine, true), (&others, false)] {
        for http in BOTH {
            opened.push((events(&it, token, ENDS, http).await, is_revoked));
        }
        opened.push((web_socket(&it, token, ENDS).await, is_revoked));
    }
    opened.push((events(&it, &mine, STAYS, Version::HTTP_2).await, false));
    list.revoke("mine");
    hold_revoked(opened).await;
}

#[tokio::test]
async fn a_call_ends_when_its_token_is_revoked_inside_envoy_and_at_its_end_elsewhere() {
    let list = Denylist::new();
    let edit = |folder: &Path, config: &mut Value| {
        list.named_by(folder, config);
        // The path of a call is that of its method.
        config["policies"][0].as_object_mut().unwrap().remove("match");
    };
    let it = Installation::in_front_of(restless().await, &[OPTIONAL], edit).await;
    let [mine, others] = ["mine", "others"].map(|jti| long_lived_token(&it, jti));
    let opened = vec![(call(&it, &mine).await, true), (call(&it, &others).await, false)];
    list.revoke("mine");
    hold_revoked(opened).await;
}

/// A denylist that names nobody at first.
struct Denylist(TempDir);

impl Denylist {
    fn new() -> Self {
        let it = Self(TempDir::new().unwrap());
        std::fs::write(it.path(), "{\"sub\":\"nobody\"}\n").unwrap();
        it
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("revoked.jsonl")
    }

    fn named_by(&self, folder: &Path, config: &mut Value) {
        streaming(folder, config);
        config["issuers"][0]["revocation"] = json!({"denylist_file": self.path()});
    }

    fn revoke(&self, jti: &str) {
        let beside = self.0.path().join("beside");
        std::fs::write(&beside, format!("{{\"jti\":\"{jti}\"}}\n")).unwrap();
        std::fs::rename(beside, self.path()).unwrap();
    }
}

/// Each ends if its token was revoked, inside Envoy: who asks from outside can end a stream by its time alone,
/// which was told when it began.
async fn hold_revoked(opened: Vec<(Open, bool)>) {
    let ends = matches!(OPTIONAL.way, Way::Inside(_));
    let until = SystemClock.now().saturating_add(4 * LATE);
    let watched = opened.into_iter().enumerate().map(|(place, (open, is_revoked))| async move {
        let ended = open.ended(until).await;
        assert_eq!(ended.is_some(), ends && is_revoked, "{place}");
    });
    join_all(watched).await;
}

/// What was opened at [`ENDS`] ends when the token does, and what was opened at [`STAYS`] goes on.
async fn hold(opened: Vec<(&str, BoxFuture<'_, Open>)>, ends: UnixTime) {
    let late = ends.saturating_add(LATE);
    let watched = opened.into_iter().enumerate().map(|(place, (path, open))| async move {
        let ended = open.await.ended(late).await;
        let after = ended.map(|it| it.as_millis() - ends.as_millis());
        assert_eq!(ended.is_some(), path == ENDS, "{place} at {path}: ended after {after:?} ms");
        assert!(
            ended.is_none_or(|it| ends.saturating_sub(EARLY) <= it),
            "{place} at {path}: ended after {after:?} ms"
        );
    });
    join_all(watched).await;
}

async fn events(it: &Installation, token: &str, path: &str, http: Version) -> Open {
    let call = Call { door: OPTIONAL.name, http, identity: None, path, headers: vec![] };
    let request = it.https_client(&call).get(it.url(call.door, path)).bearer_auth(token);
    let response = request.send().await.unwrap();
    assert_eq!((response.version(), response.status()), (http, StatusCode::OK));
    Open::Events(response)
}

async fn web_socket(it: &Installation, token: &str, path: &str) -> Open {
    let http = Version::HTTP_11;
    let call = Call { door: OPTIONAL.name, http, identity: None, path, headers: vec![] };
    let request = it.https_client(&call).get(it.url(call.door, path)).bearer_auth(token);
    let request = request.header("connection", "upgrade").header("upgrade", "websocket");
    let request = request.header("sec-websocket-version", "13");
    let request = request.header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==");
    let response = request.send().await.unwrap();
    assert_eq!(response.status(), StatusCode::SWITCHING_PROTOCOLS);
    Open::WebSocket(response.upgrade().await.unwrap())
}

async fn call(it: &Installation, token: &str) -> Open {
    let channel = connect(&it.url(OPTIONAL.name, ""), &it.authority).await;
    let mut request = Request::new(HealthCheckRequest::default());
    let bearer = format!("Bearer {token}").parse().unwrap();
    request.metadata_mut().insert("authorization", bearer);
    let answer = HealthClient::new(channel).watch(request).await.unwrap();
    Open::Call(Box::new(answer.into_inner()))
}

/// A token that lives one to two seconds more, and its end.
fn token(it: &Installation) -> (String, UnixTime) {
    let now = SystemClock.now().as_secs();
    let exp = now + 2;
    let claims = json!({
        "iss": ISSUER, "aud": AUDIENCE, "sub": "alice", "client_id": "app", "iat": now, "exp": exp,
    });
    (it.signer.sign("at+jwt", &claims), UnixTime::from_secs(exp))
}

/// A token that outlives the test.
fn long_lived_token(it: &Installation, jti: &str) -> String {
    let now = SystemClock.now().as_secs();
    let claims = json!({
        "iss": ISSUER, "aud": AUDIENCE, "sub": "alice", "client_id": "app", "iat": now,
        "exp": now + 600, "jti": jti,
    });
    it.signer.sign("at+jwt", &claims)
}

fn streaming(_: &Path, config: &mut Value) {
    config["issuers"][0]["clock_leeway"] = "0s".into();
    config["policies"] = json!([
        {
            "name": "ends", "match": {"path_prefix": "/ends"}, "sender_constraint": "if_bound",
            "streams": "end_with_token",
        },
        {"name": "stays", "sender_constraint": "if_bound"},
    ]);
}

/// An upstream that never stops: events, or bytes in a WebSocket.
async fn talkative() -> Upstream {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((connection, _)) = listener.accept().await {
            connections.spawn(talk(connection));
        }
    });
    Upstream { address, http2: false, tasks }
}

async fn talk(mut connection: TcpStream) {
    let mut head = vec![];
    while !head.ends_with(b"\r\n\r\n") {
        let Ok(byte) = connection.read_u8().await else { return };
        head.push(byte.to_ascii_lowercase());
    }
    let head = String::from_utf8(head).unwrap();
    let (begin, event): (&[u8], &[u8]) = if head.contains("\r\nupgrade: websocket\r\n") {
        (
            b"HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
              sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n",
            // A frame with one character of text (RFC 6455 §5.7).
            b"\x81\x01x",
        )
    } else {
        (
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n",
            b"9\r\ndata: x\n\n\r\n",
        )
    };
    let mut written = connection.write_all(begin).await;
    let mut pace = interval(PACE);
    while written.is_ok() {
        pace.tick().await;
        written = connection.write_all(event).await;
    }
}

/// A server whose health changes all the time.
async fn restless() -> Upstream {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (reporter, health) = tonic_health::server::health_reporter();
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut pace = interval(PACE);
        for status in [ServingStatus::Serving, ServingStatus::NotServing].into_iter().cycle() {
            pace.tick().await;
            reporter.set_service_status("", status).await;
        }
    });
    tasks.spawn(async {
        Server::builder().serve_with_incoming(health, TcpIncoming::from(listener)).await.unwrap();
    });
    Upstream { address, http2: true, tasks }
}
