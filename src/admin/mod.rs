//! The admin listener: health, metrics, status and a page for people over HTTP/1.1.

pub mod explain;
mod origin;
mod page;
pub mod status;

use crate::gate::Gate;
use crate::health::{Health, Phase};
use crate::listener::places::{LOOK, PlaceRules, Places};
use crate::listener::{Arrival, Listener};
use crate::telemetry::history::History;
use crate::telemetry::reloads::Reloads;
use arc_swap::ArcSwap;
use bytes::Bytes;
use http::header::{
    ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderMap, HeaderValue, X_CONTENT_TYPE_OPTIONS,
};
use http::{Method, Request, Response, StatusCode};
use http_body::Body;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::fmt::Display;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::{Instant, interval, timeout};

/// What the admin listener reports on.
#[derive(Debug)]
pub struct Admin {
    /// The gate for all checks.
    pub gate: Arc<Gate>,
    /// The phase of the process.
    pub health: Arc<Health>,
    /// When the process started.
    pub started: Instant,
    /// The number of open connections of each shard.
    pub connections: Arc<[Arc<AtomicUsize>]>,
    /// The connection limits of every listener.
    pub places: Vec<Arc<Places>>,
    /// The outcome of the last configuration reload.
    pub reloads: Arc<Reloads>,
    /// The decisions of the last hour.
    pub history: Arc<History>,
    /// The permits for explanations.
    pub explaining: explain::Permits,
}

/// The connection limit of this listener. A connection carries one request, so that it is freed
/// soon, and a probe gets through whatever other clients do.
pub const PLACES: PlaceRules = PlaceRules { most: 64, idle: Duration::ZERO, anybody: true };

/// The longest duration of a connection. It carries one request, so that no client occupies it for
/// long.
const CONNECTION: Duration = Duration::from_secs(10);

/// The interval at which the counters are sampled, short enough to put each decision into its
/// minute.
const SAMPLE: Duration = Duration::from_secs(5);

/// The time a client has to send its request.
const REQUEST_HEAD: Duration = Duration::from_secs(5);

impl Admin {
    /// Serves what is in `shown` on `listener` until the future is dropped.
    pub async fn serve(shown: Arc<ArcSwap<Self>>, listener: Listener) {
        let mut connections = JoinSet::new();
        let mut samples = interval(SAMPLE);
        let mut looks = interval(LOOK);
        loop {
            tokio::select! {
                _ = samples.tick() => shown.load().sample(),
                _ = looks.tick() => listener.places().look(Instant::now()),
                arrival = listener.arrival() => {
                    let hold = arrival.place.hold();
                    hold.on(connections.spawn(serve_one(shown.load_full(), arrival)));
                }
                Some(_) = connections.join_next() => (),
            }
        }
    }

    /// The response to a request.
    pub async fn respond<B: Body<Data = Bytes>>(
        &self,
        request: Request<B>,
    ) -> Response<Full<Bytes>> {
        match request.uri().path() {
            "/explain" => explain::answer(self, request).await,
            path => self.answer(request.method(), path, request.headers()),
        }
    }

    /// The response to a request for `path`, for the paths that need no body.
    ///
    /// Probes are answered for any host, and reveal nothing. Details about clients are shown only
    /// if the request was sent to an IP address ([`origin`]).
    fn answer(&self, method: &Method, path: &str, headers: &HeaderMap) -> Response<Full<Bytes>> {
        let (page, may): (fn(&Self) -> _, _) = match path {
            "/livez" => (|_| text(StatusCode::OK, "alive\n"), true),
            "/readyz" if origin::is_by_address(headers) => (|it| it.readiness(true), true),
            "/readyz" => (|it| it.readiness(false), true),
            "/metrics" => (Self::metrics, origin::may_collect(headers)),
            "/status" => (Self::status, origin::is_by_address(headers)),
            "/" => (|_| page::answer(), origin::is_by_address(headers)),
            _ => return text(StatusCode::NOT_FOUND, "no such page\n"),
        };
        match *method {
            Method::GET | Method::HEAD if may => page(self),
            Method::GET | Method::HEAD => {
                text(StatusCode::FORBIDDEN, format!("{}\n", origin::BY_ADDRESS))
            }
            _ => not_allowed(),
        }
    }

    fn sample(&self) {
        self.history.sample(&self.gate.metrics().decisions(), Instant::now());
    }

    /// Whether it is ready, and otherwise what it waits for; `in_full`: why, too, which names URLs.
    fn readiness(&self, in_full: bool) -> Response<Full<Bytes>> {
        match self.health.phase() {
            Phase::Ready => text(StatusCode::OK, "ready\n"),
            Phase::Starting => {
                let waits = if in_full { self.awaited_and_why() } else { self.awaited() };
                let waits = match &*waits {
                    [] => "starting\n".to_owned(),
                    issuers => format!("starting: waits for the keys of {}\n", issuers.join(", ")),
                };
                text(StatusCode::SERVICE_UNAVAILABLE, waits)
            }
            Phase::Leaving | Phase::Draining => text(StatusCode::SERVICE_UNAVAILABLE, "draining\n"),
        }
    }

    /// The issuers whose keys have not been fetched yet.
    fn awaited(&self) -> Vec<String> {
        if self.health.phase() != Phase::Starting {
            return vec![];
        }
        self.gate.active().installation.awaited().into_iter().map(str::to_owned).collect()
    }

    /// The same with the last error of each, if there was one.
    fn awaited_and_why(&self) -> Vec<String> {
        let names = self.awaited();
        let active = self.gate.active();
        let with_error = |name: String| {
            let issuer = active.installation.issuers.iter().find(|it| it.name() == name);
            match issuer.and_then(|it| it.keys.status().last_error) {
                Some(error) => format!("{name} ({})", error.what),
                None => name,
            }
        };
        names.into_iter().map(with_error).collect()
    }

    fn metrics(&self) -> Response<Full<Bytes>> {
        let metrics = self.gate.metrics();
        for places in &self.places {
            metrics.connections().set_open(places.listener(), places.taken());
        }
        match metrics.exposition(&status::installed(&self.gate.active())) {
            Ok(found) => document(StatusCode::OK, prometheus::TEXT_FORMAT, found),
            Err(error) => failed(&error),
        }
    }

    fn status(&self) -> Response<Full<Bytes>> {
        self.sample();
        match serde_json::to_string_pretty(&status::Status::of(self)) {
            Ok(found) => document(StatusCode::OK, "application/json", found + "\n"),
            Err(error) => failed(&error),
        }
    }
}

async fn serve_one(admin: Arc<Admin>, arrival: Arrival) {
    let Arrival { socket, place, .. } = arrival;
    let Ok(stream) = socket.into_stream() else { return };
    let service = service_fn(async |request: Request<Incoming>| {
        let _call = place.peer().call();
        Ok::<_, Infallible>(admin.respond(request).await)
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(REQUEST_HEAD)
        .max_buf_size(16 * 1024)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    if !matches!(timeout(CONNECTION, connection).await, Ok(Ok(()))) {
        tracing::debug!(listener = "admin", "connection broken");
    }
}

fn failed(error: &dyn Display) -> Response<Full<Bytes>> {
    tracing::error!(%error, listener = "admin", "page failed");
    text(StatusCode::INTERNAL_SERVER_ERROR, "failed\n")
}

fn not_allowed() -> Response<Full<Bytes>> {
    let mut answer = text(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n");
    answer.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
    answer
}

fn text(status: StatusCode, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    document(status, "text/plain; charset=utf-8", body)
}

fn document(
    status: StatusCode,
    content_type: &'static str,
    body: impl Into<Bytes>,
) -> Response<Full<Bytes>> {
    let mut answer = Response::new(Full::new(body.into()));
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    answer
}
