//! The front end inside a proxy: the proxy calls us on its own threads, and gets an answer at once or
//! later.
//!
//! ```text
//!  lines of headers ──▶ Arrived ──▶ check ──▶ Finished ──▶ Decision ──▶ the proxy's own calls
//!                                     └─▶ Check, when it must wait: goes on in our own thread
//! ```

mod arrived;
mod decision;
mod open;

pub use arrived::Told;
pub use decision::Decision;
pub use open::Open;

use crate::fair_share;
use crate::front::capture::{Capture, to_check_request};
use crate::gate::{Call, Gate};
use crate::telemetry::metrics::Front;
use arrived::Arrived;
use futures_util::FutureExt;
use futures_util::task::noop_waker_ref;
use keybound_core::Verdict;
use keybound_core::client_certificate::Source;
use std::fmt;
use std::ops::Deref;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::runtime::Handle;

/// Checks the requests that a proxy calls us about. Its threads share it.
#[derive(Debug)]
pub struct Endpoint {
    gate: Arc<Gate>,
    capture: Option<Arc<Capture>>,
    /// Where checks go on that must wait.
    runtime: Handle,
}

/// A check under way keeps the front end.
#[derive(Debug)]
struct Kept(Arc<Endpoint>);

impl Deref for Kept {
    type Target = Gate;

    fn deref(&self) -> &Gate {
        &self.0.gate
    }
}

/// What came of the beginning of a check.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "nearly all have ended")]
pub enum Begun {
    /// It has ended.
    Ended(Finished),
    /// It waits, for keys, an introspection endpoint, Redis, or its turn.
    Waits(Check),
}

/// A check that waits. It must go on where a [`fair_share::runtime`] runs; dropped, it is broken off.
pub struct Check(Pin<Box<dyn Future<Output = Finished> + Send>>);

/// A check that has ended. It counts as in progress until dropped.
#[derive(Debug)]
pub struct Finished(Ended);

#[derive(Debug)]
enum Ended {
    /// The request was read.
    Read(Judged),
    /// It could not be, or too many were being checked.
    Unread(Call<Kept>, Verdict),
    /// In a way that left no verdict.
    Failed,
}

/// A request that was read, and what came of it.
#[derive(Debug)]
struct Judged {
    call: Call<Kept>,
    arrived: Box<Arrived>,
    verdict: Verdict,
}

/// What the proxy knows of the client's certificate.
pub trait Peer {
    /// The SHA-256 of the certificate that the client showed in its TLS handshake, as 64 hexadecimal
    /// digits, if it showed one.
    fn certificate_digest(&self) -> Option<&[u8]>;

    /// The peer's name as Envoy tells an authorizer (`source.principal`): the first URI SAN of its
    /// certificate, else the first DNS SAN, else the subject; empty if there is none.
    fn principal(&self) -> &[u8];
}

impl Endpoint {
    /// A front end that checks requests at `gate`. What must wait goes on in `runtime`.
    pub fn new(gate: Arc<Gate>, runtime: Handle) -> Self {
        Self { gate, capture: None, runtime }
    }

    /// The same front end, capturing denied requests with `capture`.
    #[must_use]
    pub fn capturing(self, capture: Option<Arc<Capture>>) -> Self {
        Self { capture, ..self }
    }

    /// Where checks go on that must wait.
    pub const fn runtime(&self) -> &Handle {
        &self.runtime
    }

    /// The gate.
    pub const fn gate(&self) -> &Arc<Gate> {
        &self.gate
    }

    /// Begins to check the request with these `lines` of headers, pseudo-headers among them, on a thread of
    /// the proxy. `policy` is
    /// the one that the proxy's configuration of the route names.
    ///
    /// What it borrows is copied, so that a check that waits outlives this call. It is polled once
    /// here; a check that is begun twice would find its own proof used.
    pub fn begin<'l>(
        self: &Arc<Self>,
        lines: impl IntoIterator<Item = (&'l [u8], &'l [u8])>,
        peer: &'l impl Peer,
        policy: Option<&'l str>,
    ) -> Begun {
        let call = Call::of(Kept(Arc::clone(self)), Front::Envoy);
        let told = Told::by(peer, policy, &call.active().policies().client_certificate);
        let arrived = match arrived::read(lines, told, call.active().rules()) {
            Ok(request) => Box::write(Box::new_uninit(), Arrived::from(&request)),
            Err(refusal) => {
                let verdict = call.refuse_unread(refusal);
                return Begun::Ended(Finished(Ended::Unread(call, verdict)));
            }
        };
        // Made in its place: `Box::pin` would make it elsewhere, and copy all of it there.
        let mut check = Box::into_pin(Box::write(Box::new_uninit(), check(call, arrived)));
        let _inside = self.runtime.enter();
        let mut context = Context::from_waker(noop_waker_ref());
        match fair_share::as_guest(|| check.as_mut().poll(&mut context)) {
            Poll::Ready(finished) => Begun::Ended(finished),
            Poll::Pending => Begun::Waits(Check(check)),
        }
    }
}

async fn check(call: Call<Kept>, arrived: Box<Arrived>) -> Finished {
    let admitted = match call.admit() {
        Ok(admitted) => admitted,
        Err(denial) => {
            let verdict = call.refuse(denial);
            return Finished(Ended::Unread(call, verdict));
        }
    };
    let request = arrived.request();
    let verdict = admitted.check(&request).await;
    if let Some(capture) = &call.gate().0.capture {
        let (digest, header) = (&call.active().digest, call.active().certificate_header());
        capture.take(&verdict, digest, header, || to_check_request(&request, header).into());
    }
    drop(request);
    Finished(Ended::Read(Judged { call, arrived, verdict }))
}

impl Finished {
    /// A check that has failed in a way that left no verdict. The request is denied.
    pub const fn failed() -> Self {
        Self(Ended::Failed)
    }

    /// What the proxy must do with the request.
    pub fn decision(&self) -> Decision<'_> {
        match &self.0 {
            Ended::Read(Judged { call, arrived, verdict }) => {
                call.answer(verdict, Some(&arrived.request())).into()
            }
            Ended::Unread(call, verdict) => call.answer(verdict, None).into(),
            Ended::Failed => Decision::internal(),
        }
    }

    /// What the request opens, if its token may be revoked while that is open.
    pub fn opens(&self) -> Option<Open> {
        match &self.0 {
            Ended::Read(Judged { call, verdict, .. }) => {
                Open::by(&call.gate().0.gate, verdict.facts.token.as_ref()?)
            }
            Ended::Unread(..) | Ended::Failed => None,
        }
    }
}

impl Check {
    /// Its end. A panic is a denial.
    pub async fn end(self) -> Finished {
        let ended = AssertUnwindSafe(self.0).catch_unwind().await;
        ended.unwrap_or_else(|_| {
            tracing::error!("a check that waited has panicked");
            Finished::failed()
        })
    }
}

impl fmt::Debug for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Check").finish_non_exhaustive()
    }
}

impl<'a> Told<'a> {
    /// What the proxy tells beside the headers, as far as a configuration with this `source` asks.
    fn by(peer: &'a impl Peer, policy: Option<&'a str>, source: &Source) -> Self {
        let digest = match source {
            Source::Peer | Source::Xfcc { .. } => peer.certificate_digest(),
            Source::Header { .. } => None,
        };
        let principal = match source {
            Source::Xfcc { .. } => peer.principal(),
            Source::Peer | Source::Header { .. } => b"",
        };
        Self { policy, digest, principal }
    }
}
