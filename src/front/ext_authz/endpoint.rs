//! The gRPC endpoint: dispatch of methods, and the answer to a check.

use super::grpc::{self, Fault, MESSAGE_BYTES, Message, Reply};
use super::health_and_reflection::{AUTHORIZATION, HealthAndReflection, ServiceBody};
use super::{encode, wire};
use crate::front::capture::Capture;
use crate::front::peer::{Peer, Untaken};
use crate::gate::{Admitted, Call, Gate};
use crate::telemetry::metrics::Front;
use bytes::Bytes;
use futures_util::FutureExt;
use http::{HeaderValue, Request, Response};
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use keybound_core::{Answer, Denial, Refusal};
use std::panic::AssertUnwindSafe;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use tonic::Status;

/// The gRPC service, shared by all connections.
#[derive(Debug)]
pub struct Endpoint {
    gate: Arc<Gate>,
    health_and_reflection: HealthAndReflection,
    capture: Option<Arc<Capture>>,
}

impl Endpoint {
    /// A service that checks requests at `gate`.
    pub fn new(gate: Arc<Gate>, health_and_reflection: HealthAndReflection) -> Self {
        Self { gate, health_and_reflection, capture: None }
    }

    /// The same service, capturing denied requests with `capture`.
    #[must_use]
    pub fn capturing(self, capture: Option<Arc<Capture>>) -> Self {
        Self { capture, ..self }
    }

    /// Answers one call of `peer`.
    pub async fn answer(
        &self,
        request: Request<Incoming>,
        peer: Arc<Peer>,
    ) -> Response<EndpointBody> {
        let open = peer.call();
        let answer = if is_check(request.uri().path()) {
            let traceparent = request.headers().get(TRACEPARENT).map(HeaderValue::as_bytes);
            let call = self.gate.enter(Front::ExtAuthz).within(traceparent);
            self.check(call, request.into_body(), &peer).await.map(Kind::Check)
        } else {
            match Box::pin(self.health_and_reflection.answer(request, &peer)).await {
                Ok(answer) => answer.map(Kind::Service),
                Err((code, message)) => grpc::error(code, message).map(Kind::Check),
            }
        };
        drop(open);
        answer.map(|kind| EndpointBody { kind, peer })
    }

    /// Whatever fails, the answer is a denial in a successful call: on a failed call, the proxy may
    /// be configured to allow the request.
    async fn check<B: Body<Data = Bytes>>(
        &self,
        call: Call<&Gate>,
        body: B,
        peer: &Arc<Peer>,
    ) -> Response<Reply> {
        let capture = self.capture.as_deref();
        let checked = AssertUnwindSafe(check(&call, body, peer, capture)).catch_unwind().await;
        let message = checked.unwrap_or_else(|_| refusal(&call, Denial::Internal));
        grpc::reply(message)
    }
}

/// A proxy that traces sends its own span for this call (W3C Trace Context §3.2).
const TRACEPARENT: &str = "traceparent";

fn is_check(path: &str) -> bool {
    let method = path.strip_prefix('/').and_then(|it| it.strip_prefix(AUTHORIZATION));
    method == Some("/Check")
}

async fn check<B: Body<Data = Bytes>>(
    call: &Call<&Gate>,
    body: B,
    peer: &Arc<Peer>,
    capture: Option<&Capture>,
) -> Bytes {
    let (admitted, message) = match receive(call, body, peer).await {
        Ok((admitted, Ok(message))) => (admitted, message),
        // The client broke off the call, so nobody receives the denial.
        Ok((_, Err(Fault::Broken))) => {
            return encoded(&call.answer(&call.refuse_unrecorded(), None));
        }
        Ok((_, Err(fault))) => return refusal(call, fault),
        Err(denial) => return refusal(call, denial),
    };
    let read = wire::read_for(&message.bytes, call.active().rules());
    let verdict = match &read {
        Ok(request) => admitted.check(request).await,
        Err(refusal) => call.refuse_unread(*refusal),
    };
    let answer = call.answer(&verdict, read.as_ref().ok());
    if let Some(capture) = capture {
        // Copied, because the received buffer may keep more alive than the message.
        let copy = || Bytes::copy_from_slice(&message.bytes);
        let active = call.active();
        capture.take(&verdict, &active.digest, active.certificate_header(), copy);
    }
    encoded(&answer)
}

async fn receive<'c, B: Body<Data = Bytes>>(
    call: &'c Call<&'c Gate>,
    body: B,
    peer: &Arc<Peer>,
) -> Result<(Admitted<'c, &'c Gate>, Result<Message, Fault>), Denial> {
    let admitted = call.admit()?;
    let read = pin!(grpc::read_message(body, MESSAGE_BYTES, peer));
    let message = admitted.in_time(read).await?;
    Ok((admitted, message))
}

fn refusal(call: &Call<&Gate>, why: impl Into<Refusal>) -> Bytes {
    encoded(&call.answer(&call.refuse_unread(why), None))
}

fn encoded(answer: &Answer<'_>) -> Bytes {
    grpc::framed(|message| encode::response(answer, message))
}

/// The body of an answer. Its bytes count as untaken until they are written to the connection.
#[derive(Debug)]
pub struct EndpointBody {
    kind: Kind,
    peer: Arc<Peer>,
}

#[derive(Debug)]
enum Kind {
    /// The answer to a check.
    Check(Reply),
    /// The answer of health or reflection.
    Service(ServiceBody),
}

impl Body for EndpointBody {
    type Data = Untaken;
    type Error = Status;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Untaken>, Status>>> {
        let Self { kind, peer } = self.get_mut();
        let polled = match kind {
            Kind::Check(body) => Pin::new(body).poll_frame(context).map_err(|never| match never {}),
            Kind::Service(body) => Pin::new(body).poll_frame(context),
        };
        polled.map_ok(|frame| frame.map_data(|it| peer.answer(it)))
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Check(body) => body.is_end_stream(),
            Kind::Service(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Check(body) => body.size_hint(),
            Kind::Service(body) => body.size_hint(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::SystemClock;
    use crate::front::ext_authz::pb::envoy::service::auth::v3::CheckResponse;
    use crate::front::peer::Resource;
    use crate::installation::Checker;
    use crate::installation::samples::installation;
    use crate::telemetry::installed::Installed;
    use crate::telemetry::metrics::Metrics;
    use crate::telemetry::samples::policy_set;
    use futures_util::stream::{self, StreamExt};
    use http_body_util::{BodyExt, Full, StreamBody};
    use prost::Message;
    use std::convert::Infallible;

    fn endpoint() -> Endpoint {
        let policies = policy_set();
        let installation = installation(policies);
        let metrics = Arc::new(Metrics::new().unwrap());
        let gate =
            Gate::new(Checker::new(Arc::new(SystemClock)), installation, String::new(), metrics);
        Endpoint::new(Arc::new(gate), HealthAndReflection::new().unwrap().0)
    }

    fn peer() -> Arc<Peer> {
        Peer::new(Arc::default())
    }

    #[track_caller]
    fn assert_refused(endpoint: &Endpoint, body: &Bytes, reason: &str) {
        let response = CheckResponse::decode(&body[5..]).unwrap();
        assert_ne!(response.status.unwrap().code, 0);
        let text = endpoint.gate.metrics().exposition(&Installed::default()).unwrap();
        assert!(text.contains(&format!("reason=\"{reason}\"}} 1\n")), "{reason}\n{text}");
        assert_eq!(endpoint.gate.under_way(), 0);
    }

    async fn check<B: Body<Data = Bytes>>(body: B, reason: &str) {
        let endpoint = endpoint();
        let response = endpoint
            .check(endpoint.gate.enter(Front::ExtAuthz), body, &peer())
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

    /// The future is moved several times for each check, which was a tenth of its cost at 4.4 KiB.
    #[test]
    fn a_check_under_way_is_small() {
        let endpoint = endpoint();
        let call = endpoint.gate.enter(Front::ExtAuthz);
        let peer = peer();
        let size = size_of_val(&endpoint.check(call, Full::new(Bytes::new()), &peer));
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
        let call = endpoint.gate.enter(Front::ExtAuthz);
        let response = endpoint.check(call, StreamBody::new(stalls), &peer()).await;
        drop(places);
        assert_refused(&endpoint, &response.collect().await.unwrap().to_bytes(), "overloaded");
    }

    #[tokio::test]
    async fn a_check_without_room_for_its_message_is_refused_and_one_that_needs_none_is_not() {
        let endpoint = endpoint();
        let peer = peer();
        let _full = peer.take(Resource::MessageBytes, 16 * 1024 * 1024).unwrap();
        let begun = || Ok::<_, Infallible>(Frame::data(Bytes::from_static(b"\0\0\0\0\x09abc")));
        let unfinished = StreamBody::new(stream::iter([begun()]).chain(stream::pending()));
        let call = endpoint.gate.enter(Front::ExtAuthz);
        let response = endpoint.check(call, unfinished, &peer).await;
        assert_refused(&endpoint, &response.collect().await.unwrap().to_bytes(), "overloaded");
        let whole = Full::new(Bytes::from_static(b"\0\0\0\0\x01\xff"));
        let response = endpoint.check(endpoint.gate.enter(Front::ExtAuthz), whole, &peer).await;
        let body = response.collect().await.unwrap().to_bytes();
        assert_refused(&endpoint, &body, "request_malformed");
    }

    #[tokio::test]
    async fn a_caller_that_gives_up_leaves_nothing_behind() {
        let endpoint = endpoint();
        let stalls = stream::pending::<Result<Frame<Bytes>, Infallible>>();
        let (peer, call) = (peer(), endpoint.gate.enter(Front::ExtAuthz));
        let mut answering = Box::pin(endpoint.check(call, StreamBody::new(stalls), &peer));
        assert!(answering.as_mut().now_or_never().is_none());
        assert_eq!(endpoint.gate.under_way(), 1);
        drop(answering);
        assert_eq!(endpoint.gate.under_way(), 0);
    }
}
