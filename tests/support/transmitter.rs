//! A transmitter of security events: a stub on loopback with a poll endpoint (RFC 8936), which keeps what
//! is not acknowledged, and an endpoint that sends a verification event (SSF 1.0 §8.1.4).

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Collected, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use std::collections::VecDeque;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

/// The stub. It stops when it is dropped.
pub(crate) struct Transmitter {
    address: SocketAddr,
    shared: Arc<Shared>,
    accepting: JoinHandle<()>,
}

struct Shared {
    state: Mutex<State>,
    polls: watch::Sender<usize>,
}

/// What it holds, and what it was told.
pub(crate) struct State {
    jwks: Value,
    pub(crate) pending: VecDeque<(String, String)>,
    pub(crate) acknowledged: Vec<String>,
    pub(crate) errors: Vec<(String, String)>,
    /// It sends again what was answered.
    pub(crate) is_deaf: bool,
    /// The most tokens of one answer.
    pub(crate) batch: usize,
    /// The status of each answer to a poll.
    pub(crate) status: StatusCode,
    /// What is answered instead.
    pub(crate) body: Option<String>,
    pub(crate) authorizations: Vec<Option<String>>,
    pub(crate) verifications: Vec<Value>,
}

impl Transmitter {
    /// One that publishes this key.
    pub(crate) async fn start(jwk: &Value) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Mutex::new(State {
            jwks: json!({"keys": [jwk]}),
            pending: VecDeque::new(),
            acknowledged: vec![],
            errors: vec![],
            is_deaf: false,
            batch: 100,
            status: StatusCode::OK,
            body: None,
            authorizations: vec![],
            verifications: vec![],
        });
        let shared = Arc::new(Shared { state, polls: watch::Sender::new(0) });
        let accepting = Handle::current().spawn(accept(listener, Arc::clone(&shared)));
        Self { address, shared, accepting }
    }

    /// The URL of `path`.
    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// What it holds.
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap()
    }

    /// Holds a token until it is acknowledged.
    pub(crate) fn send(&self, jti: &str, token: &str) {
        self.state().pending.push_back((jti.to_owned(), token.to_owned()));
    }

    /// How often it was polled.
    pub(crate) fn polls(&self) -> usize {
        *self.shared.polls.borrow()
    }

    /// Waits until it was polled so often.
    pub(crate) async fn polled(&self, times: usize) {
        self.shared.polls.subscribe().wait_for(|it| times <= *it).await.unwrap();
    }

    /// Waits until this holds after a poll.
    pub(crate) async fn until(&self, holds: impl Fn(&State) -> bool) {
        let mut polls = self.shared.polls.subscribe();
        while !holds(&self.state()) {
            polls.changed().await.unwrap();
        }
    }
}

impl Drop for Transmitter {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let shared = Arc::clone(&shared);
        connections.spawn(async move {
            let service = service_fn(|request: Request<Incoming>| {
                let shared = Arc::clone(&shared);
                async move { Ok::<_, Infallible>(answer(request, &shared).await) }
            });
            drop(http1::Builder::new().serve_connection(TokioIo::new(stream), service).await);
        });
    }
}

async fn answer(request: Request<Incoming>, shared: &Shared) -> Response<Full<Bytes>> {
    let authorization = request.headers().get(header::AUTHORIZATION);
    let authorization = authorization.map(|it| it.to_str().unwrap().to_owned());
    let (parts, body) = request.into_parts();
    let body = body.collect().await.map(Collected::to_bytes).unwrap();
    let (status, body) = match (&parts.method, parts.uri.path()) {
        (&Method::GET, "/jwks") => (StatusCode::OK, shared.state.lock().unwrap().jwks.to_string()),
        (&Method::POST, "/verify") => {
            let asked: Value = serde_json::from_slice(&body).unwrap();
            shared.state.lock().unwrap().verifications.push(asked);
            (StatusCode::NO_CONTENT, String::new())
        }
        (&Method::POST, "/poll") => {
            let told = {
                let mut state = shared.state.lock().unwrap();
                state.authorizations.push(authorization);
                polled(&mut state, &serde_json::from_slice(&body).unwrap())
            };
            shared.polls.send_modify(|it| *it += 1);
            told
        }
        other => panic!("{other:?}"),
    };
    let answer = Response::builder().status(status);
    let answer = answer.header(header::CONTENT_TYPE, "application/json");
    answer.body(Full::new(Bytes::from(body))).unwrap()
}

fn polled(state: &mut State, asked: &Value) -> (StatusCode, String) {
    assert_eq!(asked["returnImmediately"], true, "{asked}");
    if state.status != StatusCode::OK || state.body.is_some() {
        return (state.status, state.body.clone().unwrap_or_default());
    }
    let is_deaf = state.is_deaf;
    for jti in asked["ack"].as_array().into_iter().flatten() {
        let jti = jti.as_str().unwrap();
        state.pending.retain(|(it, _)| is_deaf || it != jti);
        state.acknowledged.push(jti.to_owned());
    }
    for (jti, error) in asked["setErrs"].as_object().into_iter().flatten() {
        assert!(error["description"].is_string());
        state.pending.retain(|(it, _)| is_deaf || it != jti);
        state.errors.push((jti.clone(), error["err"].as_str().unwrap().to_owned()));
    }
    let sets: Value = state
        .pending
        .iter()
        .take(state.batch)
        .map(|(jti, set)| (jti.clone(), set.as_str()))
        .collect();
    let more = state.batch < state.pending.len();
    (StatusCode::OK, json!({"sets": sets, "moreAvailable": more}).to_string())
}
