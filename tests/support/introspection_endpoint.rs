//! An introspection endpoint as those see it who ask it: a stub on loopback that answers as told
//! and keeps what it is asked.

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Collected, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use serde_json::Value;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;

/// The stub. It stops when it is dropped.
pub(crate) struct IntrospectionEndpoint {
    address: SocketAddr,
    scheme: &'static str,
    shared: Arc<Shared>,
    accepting: JoinHandle<()>,
}

/// An answer.
#[derive(Clone, Debug)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) content_type: &'static str,
    pub(crate) body: Vec<u8>,
    pub(crate) retry_after: Option<u64>,
}

/// What is answered about a token, asked with these headers.
type Script = Box<dyn FnMut(&str, &HeaderMap) -> Reply + Send>;

/// A request that came.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) method: Method,
    pub(crate) uri: String,
    pub(crate) headers: HeaderMap,
    pub(crate) form: String,
}

struct Shared {
    script: Mutex<Script>,
    asked: Mutex<Vec<Asked>>,
    calls: watch::Sender<usize>,
    /// Closed: answers are held back.
    open: watch::Sender<bool>,
}

impl Reply {
    pub(crate) fn json(body: &Value) -> Self {
        Self::of("application/json", body.to_string())
    }

    pub(crate) fn of(content_type: &'static str, body: impl Into<Vec<u8>>) -> Self {
        Self { status: 200, content_type, body: body.into(), retry_after: None }
    }

    pub(crate) const fn status(status: u16) -> Self {
        Self { status, content_type: "application/json", body: Vec::new(), retry_after: None }
    }

    /// 429: no more calls for so many seconds.
    pub(crate) fn limited(retry_after: Option<u64>) -> Self {
        Self { retry_after, ..Self::status(429) }
    }
}

impl IntrospectionEndpoint {
    pub(crate) async fn start(reply: Reply) -> Self {
        Self::start_with(None, reply).await
    }

    pub(crate) async fn start_tls(tls: ServerConfig, reply: Reply) -> Self {
        Self::start_with(Some(TlsAcceptor::from(Arc::new(tls))), reply).await
    }

    async fn start_with(tls: Option<TlsAcceptor>, reply: Reply) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let scheme = if tls.is_some() { "https" } else { "http" };
        let shared = Arc::new(Shared {
            script: Mutex::new(Box::new(move |_, _| reply.clone())),
            asked: Mutex::default(),
            calls: watch::Sender::new(0),
            open: watch::Sender::new(true),
        });
        let accepting = Handle::current().spawn(accept(listener, tls, Arc::clone(&shared)));
        Self { address, scheme, shared, accepting }
    }

    /// Where it is.
    pub(crate) fn url(&self) -> String {
        format!("{}://{}/introspect", self.scheme, self.address)
    }

    /// Answers so from here on.
    pub(crate) fn reply(&self, reply: Reply) {
        self.follow(move |_| reply.clone());
    }

    /// Answers from here on what `script` says about each token.
    pub(crate) fn follow(&self, mut script: impl FnMut(&str) -> Reply + Send + 'static) {
        *self.shared.script.lock().unwrap() = Box::new(move |token, _| script(token));
    }

    /// Answers from here on what `script` says to the headers of each request.
    pub(crate) fn follow_headers(&self, script: impl Fn(&HeaderMap) -> Reply + Send + 'static) {
        *self.shared.script.lock().unwrap() = Box::new(move |_, headers| script(headers));
    }

    /// Holds all answers back until [`Self::release`].
    pub(crate) fn hold(&self) {
        self.shared.open.send_replace(false);
    }

    /// Lets the answers go that were held back.
    pub(crate) fn release(&self) {
        self.shared.open.send_replace(true);
    }

    /// How often it was asked.
    pub(crate) fn calls(&self) -> usize {
        *self.shared.calls.borrow()
    }

    /// Waits until it was asked so often.
    pub(crate) async fn called(&self, times: usize) {
        let mut calls = self.shared.calls.subscribe();
        drop(calls.wait_for(|it| times <= *it).await.unwrap());
    }

    /// All that it was asked.
    pub(crate) fn asked(&self) -> MutexGuard<'_, Vec<Asked>> {
        self.shared.asked.lock().unwrap()
    }
}

impl Drop for IntrospectionEndpoint {
    fn drop(&mut self) {
        self.accepting.abort();
    }
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
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.map(Collected::to_bytes).unwrap_or_default();
    let form = String::from_utf8(body.to_vec()).unwrap();
    shared.asked.lock().unwrap().push(Asked {
        method: head.method,
        uri: head.uri.to_string(),
        headers: head.headers.clone(),
        form: form.clone(),
    });
    shared.calls.send_modify(|it| *it = it.saturating_add(1));
    drop(shared.open.subscribe().wait_for(|it| *it).await);
    let token = form.strip_prefix("token=").and_then(|it| it.split('&').next());
    let reply = (shared.script.lock().unwrap())(token.unwrap_or_default(), &head.headers);
    let mut response = Response::new(Full::new(Bytes::from(reply.body)));
    *response.status_mut() = StatusCode::from_u16(reply.status).unwrap();
    let content_type = reply.content_type.parse().unwrap();
    response.headers_mut().insert(header::CONTENT_TYPE, content_type);
    if let Some(seconds) = reply.retry_after {
        response.headers_mut().insert(header::RETRY_AFTER, seconds.into());
    }
    Ok(response)
}
