//! One connection from start to end: HTTP/2 for gRPC, HTTP/1.1 for forward-auth.

use super::failures::{self, Failures};
use super::paced::Paced;
use super::read_ahead::ReadAhead;
use super::tls::Spoken;
use crate::front::peer::Peer;
use crate::front::{ext_authz, forward_auth};
use crate::health::{Phase, reached};
use crate::listener::Arrival;
use crate::telemetry::connections::Cause;
use http::header::{CONNECTION, HeaderValue};
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use std::convert::Infallible;
use std::fmt::Display;
use std::net::IpAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::watch;
use tokio::time::timeout;

/// The settings that connections of a listener share.
#[derive(Clone, Debug)]
pub struct Serving {
    /// What answers requests.
    pub front: Front,
    /// TLS, if enabled.
    pub tls: Option<Arc<Spoken>>,
    /// The phase of the process, which says when to close.
    pub phases: watch::Receiver<Phase>,
    /// The counter of failed connections.
    pub failures: Arc<Failures>,
}

/// The service behind a connection.
#[derive(Clone, Debug)]
pub enum Front {
    /// gRPC for Envoy.
    ExtAuthz(Arc<ext_authz::endpoint::Endpoint>),
    /// HTTP for forward-auth.
    ForwardAuth(Arc<forward_auth::endpoint::Endpoint>),
}

/// How long the TLS handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// How long an HTTP connection may be idle. nginx closes its idle connections after 60 s, so that
/// we never close one that it is about to use.
const IDLE: Duration = Duration::from_secs(75);

/// The maximum size of an HTTP/1.1 request head in bytes: the usual limit of proxies, a certificate
/// and a token.
const HEAD_BYTES: usize = 128 * 1024;

/// The maximum number of headers of an HTTP/1.1 request. Envoy accepts 100 from its clients, and
/// proxies add some.
const HEADERS: usize = 256;

/// A connection that is being served.
struct Served {
    serving: Serving,
    peer: Arc<Peer>,
    from: Option<IpAddr>,
}

/// Serves a connection until it is closed.
pub async fn serve(arrival: Arrival, serving: Serving) {
    let Arrival { socket, from, place } = arrival;
    let served = Served { serving, peer: Arc::clone(place.peer()), from };
    match socket.into_stream() {
        Ok(stream) => served.serve(stream).await,
        Err(error) => served.failed(Cause::Other, &error),
    }
    drop(place);
}

impl Served {
    async fn serve<S>(self, stream: S)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let Some(tls) = self.serving.tls.clone() else { return self.speak(stream).await };
        match timeout(HANDSHAKE, tls.acceptor().accept(stream)).await {
            Ok(Ok(stream)) => self.speak(stream).await,
            Ok(Err(error)) => {
                self.failed(failures::of_handshake(&error), &failures::describe(&error));
            }
            Err(late) => self.failed(Cause::TimedOut, &late),
        }
    }

    async fn speak<S>(self, stream: S)
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (peer, phases) = (Arc::clone(&self.peer), self.serving.phases.clone());
        let (ended, beginning) = match self.serving.front.clone() {
            Front::ExtAuthz(endpoint) => {
                let stream = Paced::http2(ReadAhead::new(stream), Arc::clone(&peer));
                let beginning = stream.beginning();
                (speak_http2(stream, endpoint, peer, phases).await, beginning)
            }
            Front::ForwardAuth(endpoint) => {
                let stream = Paced::http1(stream, Arc::clone(&peer));
                let beginning = stream.beginning();
                (speak_http1(stream, endpoint, peer, phases).await, beginning)
            }
        };
        if let Err(error) = ended {
            self.failed(self.serving.failures.of_http(&error, beginning.get().copied()), &error);
        }
    }

    /// Reports why the connection failed, unless it has served a request: later on, clients may
    /// disconnect as they please.
    fn failed(&self, cause: Cause, error: &dyn Display) {
        if self.peer.calls() == 0 {
            self.serving.failures.add(cause, self.from, error);
        } else {
            tracing::debug!(%error, "connection ended");
        }
    }
}

async fn speak_http1<S>(
    stream: Paced<S>,
    endpoint: Arc<forward_auth::endpoint::Endpoint>,
    peer: Arc<Peer>,
    mut phases: watch::Receiver<Phase>,
) -> hyper::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let closing = stream.closing();
    let service = service_fn(move |request| {
        let (endpoint, closing) = (Arc::clone(&endpoint), Arc::clone(&closing));
        let call = peer.call();
        async move {
            let answer = endpoint.answer(request).await;
            if answer.headers().get(CONNECTION) == Some(&HeaderValue::from_static("close")) {
                closing.store(true, Ordering::Relaxed);
            }
            drop(call);
            Ok::<_, Infallible>(answer)
        }
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
        ended = connection.as_mut() => return ended,
        () = reached(&mut phases, Phase::Draining) => connection.as_mut().graceful_shutdown(),
    }
    connection.await
}

async fn speak_http2<S>(
    stream: Paced<S>,
    endpoint: Arc<ext_authz::endpoint::Endpoint>,
    peer: Arc<Peer>,
    mut phases: watch::Receiver<Phase>,
) -> hyper::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(move |request| {
        let (endpoint, peer) = (Arc::clone(&endpoint), Arc::clone(&peer));
        // Boxed, since it is large and moved several times before it is polled.
        Box::pin(async move { Ok::<_, Infallible>(endpoint.answer(request, peer).await) })
    });
    let mut connection = pin!(http2().serve_connection(TokioIo::new(stream), service));
    tokio::select! {
        ended = connection.as_mut() => return ended,
        () = reached(&mut phases, Phase::Draining) => connection.as_mut().graceful_shutdown(),
    }
    connection.await
}

fn http2() -> http2::Builder<TokioExecutor> {
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        // gRPC does not use the `date` header (PROTOCOL-HTTP2).
        .auto_date_header(false)
        .max_concurrent_streams(4096)
        // The limit on unread data of all messages. Even the longest message needs only a few
        // window updates, since data is read at once.
        .initial_connection_window_size(1024 * 1024)
        .initial_stream_window_size(256 * 1024)
        .max_frame_size(16 * 1024)
        .max_header_list_size(16 * 1024)
        .max_send_buf_size(64 * 1024)
        // A proxy that cancels a burst of checks resets them all together. The library's default of
        // 20 would then close the connection, when it is needed most.
        .max_pending_accept_reset_streams(1024);
    builder
}
