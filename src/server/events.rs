//! The listener for security events by push. It has a thread of its own: neither a handshake nor a
//! signature there holds up a check.

use super::StartFailure;
use super::failures;
use super::tls::{BadTls, Spoken};
use crate::config::{Address, EventsListener};
use crate::front::events::Endpoint;
use crate::gate::Gate;
use crate::listener::places::{LOOK, Place, PlaceRules, Places};
use crate::listener::{Arrival, Listener};
use crate::rate_limit::{Allowance, RateLimit};
use crate::telemetry::connections::Cause;
use crate::telemetry::metrics::Metrics;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::fmt::Display;
use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::thread;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::{Instant, interval, timeout};

/// The listener, which ends when this is dropped.
#[derive(Debug)]
pub struct EventsServer {
    address: Address,
    places: Arc<Places>,
    #[expect(dead_code, reason = "the thread ends when it is dropped")]
    stop: oneshot::Sender<()>,
}

/// What connections share.
#[derive(Debug)]
struct Shared {
    endpoint: Endpoint,
    tls: Option<Arc<Spoken>>,
    gate: Arc<Gate>,
    failed: RateLimit,
}

/// Transmitters are few. One who says nothing makes room for others.
const PLACES: PlaceRules = PlaceRules { most: 256, idle: Duration::from_secs(10), anybody: true };

/// How long the TLS handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// How long the head of a request may take, and a connection be idle.
const HEAD: Duration = Duration::from_secs(30);

/// The longest head of a request, in bytes.
const HEAD_BYTES: usize = 16 * 1024;

/// How long a connection may last.
const CONNECTION: Duration = Duration::from_secs(600);

/// The name in metrics and logs.
const NAME: &str = "events";

/// Its application protocol (RFC 7301).
const PROTOCOL: &[u8] = b"http/1.1";

impl EventsServer {
    /// What it will say in TLS, if it is to use it.
    pub fn spoken(listen: &EventsListener) -> Result<Option<Arc<Spoken>>, BadTls> {
        let spoken = listen.tls.as_ref().map(|it| Spoken::new(it, PROTOCOL));
        spoken.transpose().map(|it| it.map(Arc::new))
    }

    /// Listens at `address`, says `tls`, and answers for what is in force at `gate`.
    pub fn start(
        address: &Address,
        tls: Option<Arc<Spoken>>,
        gate: &Arc<Gate>,
    ) -> Result<Self, StartFailure> {
        let shared = Arc::new(Shared {
            endpoint: Endpoint::new(Arc::clone(gate)),
            tls,
            gate: Arc::clone(gate),
            failed: RateLimit::of(1),
        });
        let places = Places::new(NAME, PLACES, Arc::default());
        let (stop, stopped) = oneshot::channel();
        let (tell, told) = sync_channel(1);
        let (bound_to, places_there) = (address.clone(), Arc::clone(&places));
        let of = Arc::clone(gate);
        // The runtime is made and dropped there: it may not be dropped on a thread of another one.
        thread::Builder::new().name(NAME.to_owned()).spawn(move || {
            let bound = bind(&bound_to, places_there, of.metrics());
            let (runtime, listener) = match bound {
                Ok(both) => both,
                Err(failure) => return drop(tell.send(Err(failure))),
            };
            drop(tell.send(Ok(listener.bound().clone())));
            runtime.block_on(async {
                tokio::select! {
                    () = accept(&listener, &shared) => (),
                    // An error means that the other end was dropped.
                    _ = stopped => (),
                }
            });
        })?;
        let address = told.recv()??;
        Ok(Self { address, places, stop })
    }

    /// The address, with the port that the system chose if 0 was requested.
    pub const fn address(&self) -> &Address {
        &self.address
    }

    /// Its connection limit.
    pub const fn places(&self) -> &Arc<Places> {
        &self.places
    }
}

fn bind(
    address: &Address,
    places: Arc<Places>,
    metrics: &Metrics,
) -> Result<(Runtime, Listener), StartFailure> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let inside = runtime.enter();
    let listener = Listener::bind(address, places)?.counting(metrics.connections());
    drop(inside);
    Ok((runtime, listener))
}

async fn accept(listener: &Listener, shared: &Arc<Shared>) {
    let mut connections = JoinSet::new();
    let mut looks = interval(LOOK);
    loop {
        tokio::select! {
            _ = looks.tick() => listener.places().look(Instant::now()),
            arrival = listener.arrival() => {
                let hold = arrival.place.hold();
                hold.on(connections.spawn(serve(Arc::clone(shared), arrival)));
            }
            Some(_) = connections.join_next() => (),
        }
    }
}

async fn serve(shared: Arc<Shared>, arrival: Arrival) {
    let Arrival { socket, place, .. } = arrival;
    let Ok(stream) = socket.into_stream() else { return };
    let Some(tls) = &shared.tls else { return speak(&shared, stream, &place).await };
    match timeout(HANDSHAKE, tls.acceptor().accept(stream)).await {
        Ok(Ok(stream)) => speak(&shared, stream, &place).await,
        Ok(Err(error)) => {
            shared.failed(failures::of_handshake(&error), &failures::describe(&error));
        }
        Err(late) => shared.failed(Cause::TimedOut, &late),
    }
}

async fn speak<S>(shared: &Shared, stream: S, place: &Place)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(async |request| {
        let _call = place.peer().call();
        Ok::<_, Infallible>(shared.endpoint.answer(request).await)
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_buf_size(HEAD_BYTES)
        .serve_connection(TokioIo::new(stream), service);
    if !matches!(timeout(CONNECTION, connection).await, Ok(Ok(()))) {
        tracing::debug!(listener = NAME, "connection broken");
    }
}

impl Shared {
    fn failed(&self, cause: Cause, error: &dyn Display) {
        let metrics: &Metrics = self.gate.metrics();
        metrics.connections().failures(NAME, cause).inc();
        if cause == Cause::Closed {
            return;
        }
        if let Allowance::Within { untold } = self.failed.take(Instant::now()) {
            let cause = cause.label();
            tracing::warn!(listener = NAME, cause, %error, untold, "connection failed");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SystemClock;
    use crate::installation::{Checker, samples};
    use std::net::TcpListener;

    #[tokio::test]
    async fn an_address_that_is_taken_is_a_failure_and_can_be_had_later() {
        let taken = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let address = Address::Tcp(taken.local_addr().unwrap());
        let metrics = Arc::new(Metrics::new().unwrap());
        let installation = samples::installation(samples::policy_set());
        let checker = Checker::new(Arc::new(SystemClock));
        let gate = Arc::new(Gate::new(checker, installation, "digest".to_owned(), metrics));
        let failure = EventsServer::start(&address, None, &gate).unwrap_err();
        assert!(failure.to_string().contains("cannot listen"), "{failure}");
        drop(taken);
        assert_eq!(*EventsServer::start(&address, None, &gate).unwrap().address(), address);
    }
}
