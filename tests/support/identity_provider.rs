//! A stub of an authorization server: it that publishes metadata
//! and keys on loopback, misbehaves as told, and counts what it is asked.

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::{HeaderMap, Request, Response, StatusCode, header};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use std::collections::{HashMap, VecDeque};
use std::convert::Infallible;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;

/// The stub. It stops when it is dropped.
pub(crate) struct IdentityProvider {
    address: SocketAddr,
    tls: Option<TlsAcceptor>,
    shared: Arc<Shared>,
    accepting: Mutex<Option<JoinHandle<()>>>,
}

/// How requests for the keys are answered.
#[derive(Clone, Debug)]
pub(crate) enum Behaviour {
    /// With the keys.
    Normal,
    /// With a status and no keys.
    Status(u16),
    /// With something else than the keys. Those who know its version get 304.
    Body(Vec<u8>),
    /// With a body that says how long it is, and is as long.
    Huge(usize),
    /// With a body that never ends.
    Endless,
    /// With one byte, and then silence.
    Stalled,
    /// With a redirect to this place.
    Redirect(String),
    /// With keys that are said to be compressed.
    Compressed,
}

/// Where the metadata is published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Published {
    /// RFC 8414.
    OAuth,
    /// OpenID Connect Discovery; a page for people is where RFC 8414 would have it.
    OpenId,
}

/// What is at a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Placed {
    /// The metadata.
    Metadata,
    /// The metadata without this member.
    MetadataWithout(&'static str),
    /// An answer with this status.
    Status(u16),
    /// The connection is closed without an answer.
    HangsUp,
    /// There is never an answer.
    Hangs,
}

/// A request that came.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) path: String,
    pub(crate) headers: HeaderMap,
}

struct Shared {
    script: Mutex<Script>,
    /// The requests for keys so far.
    fetches: watch::Sender<usize>,
    /// Closed: answers are held back.
    open: watch::Sender<bool>,
}

struct Script {
    keys: Value,
    behaviour: Behaviour,
    next: VecDeque<Behaviour>,
    published: Published,
    placed: HashMap<String, Placed>,
    metadata: Value,
    cache_control: Option<String>,
    etag: Option<String>,
    content_type: Option<String>,
    asked: Vec<Asked>,
}

type Body = BoxBody<Bytes, Infallible>;

impl IdentityProvider {
    /// Starts one that publishes `keys` over plain HTTP.
    pub(crate) async fn start(keys: &[Value]) -> Self {
        // An address of its own keeps the port from others while it is down.
        static STARTED: AtomicU16 = AtomicU16::new(1);
        let [high, low] = STARTED.fetch_add(1, Ordering::Relaxed).to_be_bytes();
        Self::start_with(Ipv4Addr::new(127, 77, high, low), None, keys).await
    }

    /// Starts one that publishes `keys` over plain HTTP on 127.0.0.1, which 0.0.0.0 leads to as well.
    pub(crate) async fn start_local(keys: &[Value]) -> Self {
        Self::start_with(Ipv4Addr::LOCALHOST, None, keys).await
    }

    /// Starts one that publishes `keys` over TLS, on 127.0.0.1.
    pub(crate) async fn start_tls(tls: ServerConfig, keys: &[Value]) -> Self {
        Self::start_with(Ipv4Addr::LOCALHOST, Some(TlsAcceptor::from(Arc::new(tls))), keys).await
    }

    async fn start_with(host: Ipv4Addr, tls: Option<TlsAcceptor>, keys: &[Value]) -> Self {
        let listener = TcpListener::bind((host, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let issuer = issuer(tls.as_ref(), address);
        let script = Script {
            keys: json!({ "keys": keys }),
            behaviour: Behaviour::Normal,
            next: VecDeque::new(),
            published: Published::OAuth,
            placed: HashMap::new(),
            metadata: json!({
                "issuer": issuer,
                "jwks_uri": format!("{issuer}/jwks"),
            }),
            cache_control: None,
            etag: None,
            content_type: None,
            asked: Vec::new(),
        };
        let shared = Arc::new(Shared {
            script: Mutex::new(script),
            fetches: watch::Sender::new(0),
            open: watch::Sender::new(true),
        });
        let accepting = accept(listener, tls.clone(), Arc::clone(&shared));
        let accepting = Mutex::new(Some(Handle::current().spawn(accepting)));
        Self { address, tls, shared, accepting }
    }

    /// Its issuer identifier.
    pub(crate) fn issuer(&self) -> String {
        issuer(self.tls.as_ref(), self.address)
    }

    /// Where its keys are.
    pub(crate) fn jwks_uri(&self) -> String {
        format!("{}/jwks", self.issuer())
    }

    /// Publishes other keys from here on.
    pub(crate) fn publish(&self, keys: &[Value]) {
        self.script().keys = json!({ "keys": keys });
    }

    /// Answers requests for keys so from here on.
    pub(crate) fn behave(&self, behaviour: Behaviour) {
        self.script().behaviour = behaviour;
    }

    /// Answers the next requests for keys so, and then as before.
    pub(crate) fn flap(&self, behaviours: impl IntoIterator<Item = Behaviour>) {
        self.script().next.extend(behaviours);
    }

    /// Publishes the metadata there.
    pub(crate) fn publish_metadata(&self, published: Published) {
        self.script().published = published;
    }

    /// Puts something at a path.
    pub(crate) fn place(&self, path: &str, placed: Placed) {
        self.script().placed.insert(path.to_owned(), placed);
    }

    /// Changes the metadata.
    pub(crate) fn edit_metadata(&self, edit: impl FnOnce(&mut Value)) {
        edit(&mut self.script().metadata);
    }

    /// Sends this `Cache-Control`.
    pub(crate) fn cache_control(&self, value: &str) {
        self.script().cache_control = Some(value.to_owned());
    }

    /// Sends this `Content-Type`.
    pub(crate) fn content_type(&self, value: &str) {
        self.script().content_type = Some(value.to_owned());
    }

    /// Sends this `ETag`, and 304 to those who know it.
    pub(crate) fn etag(&self, value: &str) {
        self.script().etag = Some(value.to_owned());
    }

    /// Holds all answers back until [`Self::release`].
    pub(crate) fn hold(&self) {
        self.shared.open.send_replace(false);
    }

    /// Lets the answers go that were held back.
    pub(crate) fn release(&self) {
        self.shared.open.send_replace(true);
    }

    /// Closes the port and all connections.
    pub(crate) async fn go_down(&self) {
        let accepting = self.accepting.lock().unwrap().take();
        if let Some(accepting) = accepting {
            accepting.abort();
            assert!(accepting.await.unwrap_err().is_cancelled());
        }
    }

    /// Opens the port again.
    pub(crate) async fn come_up(&self) {
        let listener = TcpListener::bind(self.address).await.unwrap();
        let accepting = accept(listener, self.tls.clone(), Arc::clone(&self.shared));
        *self.accepting.lock().unwrap() = Some(Handle::current().spawn(accepting));
    }

    /// How often the keys were asked for.
    pub(crate) fn fetches(&self) -> usize {
        *self.shared.fetches.borrow()
    }

    /// Waits until the keys were asked for so often.
    pub(crate) async fn fetched(&self, times: usize) {
        let mut fetches = self.shared.fetches.subscribe();
        drop(fetches.wait_for(|it| times <= *it).await.unwrap());
    }

    /// All requests so far.
    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.script().asked.clone()
    }

    /// Forgets the requests so far.
    pub(crate) fn forget(&self) {
        self.script().asked.clear();
    }

    fn script(&self) -> MutexGuard<'_, Script> {
        self.shared.script.lock().unwrap()
    }
}

impl Drop for IdentityProvider {
    fn drop(&mut self) {
        if let Some(accepting) = self.accepting.lock().unwrap().take() {
            accepting.abort();
        }
    }
}

fn issuer(tls: Option<&TlsAcceptor>, address: SocketAddr) -> String {
    let scheme = if tls.is_some() { "https" } else { "http" };
    format!("{scheme}://{address}")
}

async fn accept(listener: TcpListener, tls: Option<TlsAcceptor>, shared: Arc<Shared>) {
    // Dropped with this task, and all connections with it.
    let mut connections = JoinSet::new();
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        let shared = Arc::clone(&shared);
        match tls.clone() {
            None => connections.spawn(serve(stream, shared)),
            Some(tls) => connections.spawn(async move {
                if let Ok(stream) = tls.accept(stream).await {
                    serve(stream, shared).await;
                }
            }),
        };
    }
}

async fn serve(stream: impl AsyncRead + AsyncWrite + Unpin, shared: Arc<Shared>) {
    let service = service_fn(move |it| answer(it, Arc::clone(&shared)));
    // The one who asks may hang up; that is no concern of the stub.
    drop(http1::Builder::new().serve_connection(TokioIo::new(stream), service).await);
}

async fn answer(
    request: Request<Incoming>,
    shared: Arc<Shared>,
) -> Result<Response<Body>, io::Error> {
    let path = request.uri().path().to_owned();
    let asked = Asked { path: path.clone(), headers: request.headers().clone() };
    shared.script.lock().unwrap().asked.push(asked);
    if path == "/jwks" {
        shared.fetches.send_modify(|it| *it = it.saturating_add(1));
    }
    drop(shared.open.subscribe().wait_for(|it| *it).await);
    let placed = shared.script.lock().unwrap().placed.get(&path).copied();
    if placed == Some(Placed::Hangs) {
        std::future::pending::<()>().await;
    }
    let mut script = shared.script.lock().unwrap();
    if let Some(placed) = placed {
        return script.placed(placed);
    }
    Ok(match path.as_str() {
        "/jwks" => {
            let behaviour = script.next.pop_front().unwrap_or_else(|| script.behaviour.clone());
            script.keys(&behaviour, request.headers())
        }
        "/.well-known/oauth-authorization-server" => script.metadata(Published::OAuth),
        "/.well-known/openid-configuration" => script.metadata(Published::OpenId),
        _ => respond(StatusCode::NOT_FOUND, full("")),
    })
}

impl Script {
    fn placed(&self, placed: Placed) -> io::Result<Response<Body>> {
        let mut metadata = self.metadata.clone();
        match placed {
            Placed::Metadata => (),
            Placed::MetadataWithout(name) => drop(metadata.as_object_mut().unwrap().remove(name)),
            Placed::Status(status) => {
                return Ok(respond(StatusCode::from_u16(status).unwrap(), full("")));
            }
            Placed::HangsUp | Placed::Hangs => return Err(io::ErrorKind::ConnectionReset.into()),
        }
        Ok(respond(StatusCode::OK, full(metadata.to_string())))
    }

    fn keys(&self, behaviour: &Behaviour, headers: &HeaderMap) -> Response<Body> {
        match behaviour {
            Behaviour::Normal => self.normal(headers),
            Behaviour::Status(status) => {
                respond(StatusCode::from_u16(*status).unwrap(), full("an error"))
            }
            Behaviour::Body(body) => self.unless_known(headers, full(body.clone())),
            Behaviour::Huge(bytes) => self.ok(full(vec![b' '; *bytes])),
            Behaviour::Endless => self.ok(streamed(stream::repeat(vec![b' '; 65_536]))),
            Behaviour::Stalled => {
                self.ok(streamed(stream::iter([b"{".to_vec()]).chain(stream::pending())))
            }
            Behaviour::Redirect(to) => {
                let mut response = respond(StatusCode::FOUND, full(""));
                response.headers_mut().insert(header::LOCATION, to.parse().unwrap());
                response
            }
            Behaviour::Compressed => {
                let mut response = self.normal(headers);
                let gzip = header::HeaderValue::from_static("gzip");
                response.headers_mut().insert(header::CONTENT_ENCODING, gzip);
                response
            }
        }
    }

    fn normal(&self, headers: &HeaderMap) -> Response<Body> {
        self.unless_known(headers, full(self.keys.to_string()))
    }

    fn unless_known(&self, headers: &HeaderMap, body: Body) -> Response<Body> {
        let known = headers.get(header::IF_NONE_MATCH).and_then(|it| it.to_str().ok());
        if known.is_some() && known == self.etag.as_deref() {
            // Without the name of the version, which many servers do not repeat.
            return respond(StatusCode::NOT_MODIFIED, full(""));
        }
        self.ok(body)
    }

    fn metadata(&self, at: Published) -> Response<Body> {
        if at == self.published {
            respond(StatusCode::OK, full(self.metadata.to_string()))
        } else {
            respond(StatusCode::OK, full("<html>Welcome</html>"))
        }
    }

    fn ok(&self, body: Body) -> Response<Body> {
        let mut response = respond(StatusCode::OK, body);
        let headers = response.headers_mut();
        if let Some(value) = &self.cache_control {
            headers.insert(header::CACHE_CONTROL, value.parse().unwrap());
        }
        if let Some(value) = &self.content_type {
            headers.insert(header::CONTENT_TYPE, value.parse().unwrap());
        }
        if let Some(value) = &self.etag {
            headers.insert(header::ETAG, value.parse().unwrap());
        }
        response
    }
}

fn respond(status: StatusCode, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    response
}

fn full(body: impl Into<Bytes>) -> Body {
    Full::new(body.into()).boxed()
}

fn streamed(chunks: impl stream::Stream<Item = Vec<u8>> + Send + Sync + 'static) -> Body {
    BodyExt::boxed(StreamBody::new(chunks.map(|it| Ok(Frame::data(Bytes::from(it))))))
}
