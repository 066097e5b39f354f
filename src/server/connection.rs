//! Knows how one connection is served, from its first byte to its last: HTTP/2 for gRPC, HTTP/1.1
//! for proxies that ask by subrequest.

use super::ahead::Ahead;
use super::tls::Spoken;
use crate::front::{ext_authz, forward_auth};
use crate::health::{Phase, reached};
use crate::listener::Socket;
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use std::convert::Infallible;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::watch;
use tokio::time::{Sleep, sleep, timeout};

/// What the connections of a listener are served with.
#[derive(Clone, Debug)]
pub struct Serving {
    /// What answers.
    pub front: Front,
    /// TLS, if it is spoken.
    pub tls: Option<Arc<Spoken>>,
    /// When to end.
    pub phases: watch::Receiver<Phase>,
}

/// What answers the requests of a connection.
#[derive(Clone, Debug)]
pub enum Front {
    /// gRPC for Envoy.
    ExtAuthz(Arc<ext_authz::endpoint::Endpoint>),
    /// HTTP for proxies that ask by subrequest.
    ForwardAuth(Arc<forward_auth::endpoint::Endpoint>),
}

/// How long a client may take for its part of the TLS handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// How long a client may take to say that it speaks HTTP/2.
const PREFACE: Duration = Duration::from_secs(10);

/// `PRI * HTTP/2.0 …` (RFC 9113 §3.4).
const PREFACE_BYTES: usize = 24;

/// How long a proxy may leave a connection idle, or take for the head of a request. nginx closes a
/// connection that it keeps after 60 s by itself, so that none is closed while it is taken up again.
const IDLE: Duration = Duration::from_secs(75);

/// The longest head of a request over HTTP/1.1, in bytes: a certificate in a header of what proxies
/// take altogether, and a token.
const HEAD_BYTES: usize = 128 * 1024;

/// How many headers a request over HTTP/1.1 may have. Envoy takes 100 from its clients, and proxies
/// add some.
const HEADERS: usize = 256;

/// Serves the connection behind `socket` until it ends.
pub async fn serve(socket: Socket, serving: Serving) {
    if let Err(error) = try_serve(socket, serving).await {
        // Clients come and go as they please: nothing to tell an operator about.
        tracing::debug!(%error, "connection ended");
    }
}

type Failure = Box<dyn std::error::Error + Send + Sync>;

async fn try_serve(socket: Socket, serving: Serving) -> Result<(), Failure> {
    let stream = socket.into_stream()?;
    match serving.tls.clone() {
        None => speak(stream, serving).await,
        Some(tls) => {
            let stream = timeout(HANDSHAKE, tls.acceptor().accept(stream)).await??;
            speak(stream, serving).await
        }
    }
}

async fn speak<S>(stream: S, serving: Serving) -> Result<(), Failure>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    match serving.front {
        Front::ExtAuthz(endpoint) => speak_http2(stream, endpoint, serving.phases).await,
        Front::ForwardAuth(endpoint) => speak_http1(stream, endpoint, serving.phases).await,
    }
}

async fn speak_http1<S>(
    stream: S,
    endpoint: Arc<forward_auth::endpoint::Endpoint>,
    mut phases: watch::Receiver<Phase>,
) -> Result<(), Failure>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(move |request| {
        let endpoint = Arc::clone(&endpoint);
        async move { Ok::<_, Infallible>(endpoint.answer(request).await) }
    });
    let mut connection = pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(IDLE)
            .max_buf_size(HEAD_BYTES)
            .max_headers(HEADERS)
            .serve_connection(TokioIo::new(stream), service)
    );
    tokio::select! {
        ended = connection.as_mut() => return Ok(ended?),
        () = reached(&mut phases, Phase::Draining) => connection.as_mut().graceful_shutdown(),
    }
    Ok(connection.await?)
}

async fn speak_http2<S>(
    stream: S,
    endpoint: Arc<ext_authz::endpoint::Endpoint>,
    mut phases: watch::Receiver<Phase>,
) -> Result<(), Failure>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(move |request| {
        let endpoint = Arc::clone(&endpoint);
        // Boxed, for it is handed on several times before it is polled, and it is large.
        Box::pin(async move { Ok::<_, Infallible>(endpoint.answer(request).await) })
    });
    let io = TokioIo::new(Prompt::new(Ahead::new(stream)));
    let mut connection = pin!(http2().serve_connection(io, service));
    tokio::select! {
        ended = connection.as_mut() => return Ok(ended?),
        () = reached(&mut phases, Phase::Draining) => connection.as_mut().graceful_shutdown(),
    }
    Ok(connection.await?)
}

fn http2() -> http2::Builder<TokioExecutor> {
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        // gRPC has no use for it (PROTOCOL-HTTP2).
        .auto_date_header(false)
        .max_concurrent_streams(4096)
        .max_header_list_size(16 * 1024)
        // A proxy that gives up on a burst of checks resets them together. The library's own bound
        // of 20 would end the connection then, when it is needed most.
        .max_pending_accept_reset_streams(1024);
    builder
}

/// A stream whose peer must begin in time.
struct Prompt<S> {
    inner: S,
    read: usize,
    end: Option<Pin<Box<Sleep>>>,
}

impl<S> Prompt<S> {
    fn new(inner: S) -> Self {
        Self { inner, read: 0, end: Some(Box::pin(sleep(PREFACE))) }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Prompt<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let Some(end) = &mut this.end else {
            return Pin::new(&mut this.inner).poll_read(context, buffer);
        };
        let before = buffer.filled().len();
        if let Poll::Ready(done) = Pin::new(&mut this.inner).poll_read(context, buffer) {
            let more = buffer.filled().len().saturating_sub(before);
            this.read = this.read.saturating_add(more);
            if PREFACE_BYTES <= this.read {
                this.end = None;
            }
            return Poll::Ready(done);
        }
        ready!(end.as_mut().poll(context));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Prompt<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(context, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}
