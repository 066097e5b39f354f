//! Knows the methods that gRPC clients may call here, and how a check is answered.

use super::companions::{AUTHORIZATION, Companions};
use super::grpc::{self, Fault, MESSAGE_BYTES, Reply};
use super::{encode, wire};
use crate::answer::Answer;
use crate::denial::{Denial, Refusal};
use crate::front::capture::Capture;
use crate::gate::{Gate, Passage};
use crate::telemetry::metrics::Front;
use bytes::Bytes;
use futures_util::FutureExt;
use http::{HeaderValue, Request, Response};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use std::panic::AssertUnwindSafe;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use tonic::{Code, Status};

/// The gRPC service, for any number of connections.
#[derive(Debug)]
pub struct Endpoint {
    gate: Arc<Gate>,
    companions: Companions,
    capture: Option<Arc<Capture>>,
}

impl Endpoint {
    /// A service that has requests checked at `gate`.
    pub fn new(gate: Arc<Gate>, companions: Companions) -> Self {
        Self { gate, companions, capture: None }
    }

    /// The same, and `capture` takes what is refused.
    #[must_use]
    pub fn capturing(self, capture: Option<Arc<Capture>>) -> Self {
        Self { capture, ..self }
    }

    /// Answers one call.
    pub async fn answer(&self, request: Request<Incoming>) -> Response<EndpointBody> {
        if is_check(request.uri().path()) {
            let traceparent = request.headers().get(TRACEPARENT).map(HeaderValue::as_bytes);
            let passage = self.gate.enter(Front::ExtAuthz).within(traceparent);
            return self.check(passage, request.into_body()).await.map(EndpointBody::Ours);
        }
        match self.companions.answer(request) {
            Some(answering) => answering.await.map(EndpointBody::Companion),
            None => grpc::error(Code::Unimplemented, "no such method").map(EndpointBody::Ours),
        }
    }

    /// Whatever goes wrong, the answer is a denial in a call that ends well: on a call that fails,
    /// the proxy may be told to let the request through.
    async fn check<B: Body<Data = Bytes>>(&self, passage: Passage<'_>, body: B) -> Response<Reply> {
        let capture = self.capture.as_deref();
        let checked = AssertUnwindSafe(check(&passage, body, capture)).catch_unwind().await;
        let message = checked.unwrap_or_else(|_| refusal(&passage, Denial::Internal));
        grpc::reply(message)
    }
}

/// A proxy that traces names its own span for the call here (W3C Trace Context §3.2).
const TRACEPARENT: &str = "traceparent";

fn is_check(path: &str) -> bool {
    let method = path.strip_prefix('/').and_then(|it| it.strip_prefix(AUTHORIZATION));
    method == Some("/Check")
}

async fn check<B: Body<Data = Bytes>>(
    passage: &Passage<'_>,
    body: B,
    capture: Option<&Capture>,
) -> Bytes {
    let message = match receive(passage, body).await {
        Ok(Ok(message)) => message,
        // Who breaks the stream has given up: there is nobody to deny anything to.
        Ok(Err(Fault::Broken)) => return encoded(&passage.answer(&passage.unheard(), None)),
        Ok(Err(fault)) => return refusal(passage, fault),
        Err(denial) => return refusal(passage, denial),
    };
    let read = wire::read_for(&message, &passage.standing().rules);
    let verdict = match &read {
        Ok(request) => passage.check(request).await,
        Err(refusal) => passage.refuse(*refusal),
    };
    let answer = passage.answer(&verdict, read.as_ref().ok());
    if let Some(capture) = capture {
        // A copy, for what was received may hold on to more than the message.
        let copy = || Bytes::copy_from_slice(&message);
        capture.take(&answer, passage.standing().certificate_header(), copy);
    }
    encoded(&answer)
}

async fn receive<B: Body<Data = Bytes>>(
    passage: &Passage<'_>,
    body: B,
) -> Result<Result<Bytes, Fault>, Denial> {
    passage.admit()?;
    passage.in_time(pin!(grpc::read_message(body, MESSAGE_BYTES))).await
}

fn refusal(passage: &Passage<'_>, why: impl Into<Refusal>) -> Bytes {
    encoded(&passage.answer(&passage.refuse(why), None))
}

fn encoded(answer: &Answer<'_>) -> Bytes {
    grpc::framed(|message| encode::response(answer, message))
}

/// The body of an answer: of a check, or of one of the companions.
#[derive(Debug)]
pub enum EndpointBody {
    /// Of a check.
    Ours(Reply),
    /// Of health or reflection.
    Companion(tonic::body::Body),
}

impl Body for EndpointBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        match self.get_mut() {
            Self::Ours(body) => Pin::new(body).poll_frame(context).map_err(|never| match never {}),
            Self::Companion(body) => Pin::new(body).poll_frame(context),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Ours(body) => body.is_end_stream(),
            Self::Companion(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Ours(body) => body.size_hint(),
            Self::Companion(body) => body.size_hint(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::{Checker, Rules};
    use crate::clock::SystemClock;
    use crate::front::ext_authz::pb::envoy::service::auth::v3::CheckResponse;
    use crate::state::token_cache::TokenCache;
    use crate::telemetry::metrics::Metrics;
    use crate::telemetry::samples::policy_set;
    use futures_util::stream;
    use http_body_util::{BodyExt, Full, StreamBody};
    use prost::Message;
    use std::convert::Infallible;

    fn endpoint() -> Endpoint {
        let policies = policy_set();
        let cache = Arc::new(TokenCache::new(policies.limits.token_cache));
        let rules = Rules::new(policies, vec![], vec![], cache, crate::telemetry::samples::dpop());
        let metrics = Arc::new(Metrics::new().unwrap());
        let gate = Gate::new(Checker::new(Arc::new(SystemClock)), rules, String::new(), metrics);
        Endpoint::new(Arc::new(gate), Companions::new().unwrap().0)
    }

    #[track_caller]
    fn assert_refused(endpoint: &Endpoint, body: &Bytes, reason: &str) {
        let response = CheckResponse::decode(&body[5..]).unwrap();
        assert_ne!(response.status.unwrap().code, 0);
        let text = endpoint.gate.metrics().exposition().unwrap();
        assert!(text.contains(&format!("reason=\"{reason}\"}} 1\n")), "{reason}\n{text}");
        assert_eq!(endpoint.gate.under_way(), 0);
    }

    async fn check<B: Body<Data = Bytes>>(body: B, reason: &str) {
        let endpoint = endpoint();
        let response = endpoint
            .check(endpoint.gate.enter(Front::ExtAuthz), body)
            .await
            .collect()
            .await
            .unwrap();
        let ok = response.trailers().unwrap().get("grpc-status").unwrap().clone();
        assert_eq!(ok, "0");
        assert_refused(&endpoint, &response.to_bytes(), reason);
    }

    #[tokio::test]
    async fn a_call_that_cannot_be_read_is_refused_in_a_call_that_ends_well() {
        check(Full::new(Bytes::new()), "request_malformed").await;
        check(Full::new(Bytes::from_static(b"\0\0\0\0\x01\xff")), "request_malformed").await;
        check(Full::new(Bytes::from_static(b"\0\xff\xff\xff\xff")), "request_malformed").await;
    }

    /// It is moved about several times for each check, which was a tenth of its cost at 4.4 KiB.
    #[test]
    fn a_check_under_way_is_small() {
        let endpoint = endpoint();
        let passage = endpoint.gate.enter(Front::ExtAuthz);
        let size = size_of_val(&endpoint.check(passage, Full::new(Bytes::new())));
        assert!(size <= 2048, "{size}");
    }

    #[tokio::test]
    async fn a_panic_refuses() {
        let fails = stream::poll_fn(|_| -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            panic!("as it should")
        });
        check(StreamBody::new(fails), "internal").await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_whose_message_does_not_come_in_time_is_refused() {
        let stalls = stream::pending::<Result<Frame<Bytes>, Infallible>>();
        check(StreamBody::new(stalls), "check_timed_out").await;
    }

    #[tokio::test]
    async fn more_than_there_is_room_for_are_refused_unread() {
        let endpoint = endpoint();
        let places = [(); 2].map(|()| endpoint.gate.enter(Front::ExtAuthz));
        let stalls = stream::pending::<Result<Frame<Bytes>, Infallible>>();
        let passage = endpoint.gate.enter(Front::ExtAuthz);
        let response = endpoint.check(passage, StreamBody::new(stalls)).await;
        drop(places);
        assert_refused(&endpoint, &response.collect().await.unwrap().to_bytes(), "overloaded");
    }

    #[tokio::test]
    async fn a_caller_that_gives_up_leaves_nothing_behind() {
        let endpoint = endpoint();
        let stalls = stream::pending::<Result<Frame<Bytes>, Infallible>>();
        let mut answering =
            Box::pin(endpoint.check(endpoint.gate.enter(Front::ExtAuthz), StreamBody::new(stalls)));
        assert!(answering.as_mut().now_or_never().is_none());
        assert_eq!(endpoint.gate.under_way(), 1);
        drop(answering);
        assert_eq!(endpoint.gate.under_way(), 0);
    }
}
