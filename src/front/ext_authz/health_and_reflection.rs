//! The gRPC health and reflection services. Calls are bounded in time, size and number, since only
//! operators depend on them.

use super::grpc::{self, Fault};
use super::pb;
use crate::front::peer::{Peer, Resource, Share};
use crate::health::Phase;
use bytes::Bytes;
use http::{HeaderValue, Request, Response};
use http_body::{Body, Frame, SizeHint};
use http_body_util::Full;
use std::convert::Infallible;
use std::fmt;
use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Sleep, sleep, timeout};
use tonic::{Code, Status};
use tonic_health::ServingStatus;
use tonic_health::server::{HealthReporter, health_reporter};
use tonic_reflection::server::{Builder, Error};
use tower_service::Service;

/// The health and reflection services.
pub struct HealthAndReflection {
    health: GrpcService,
    reflection: GrpcService,
    reflection_alpha: GrpcService,
}

type GrpcService = Box<dyn Fn(Request<tonic::body::Body>) -> Answering + Send + Sync>;

/// The future of an answer.
type Answering = Pin<Box<dyn Future<Output = Response<tonic::body::Body>> + Send>>;

/// The body of an answer, with its share of a bounded [`Resource`].
#[derive(Debug)]
pub struct ServiceBody {
    body: tonic::body::Body,
    _share: Option<Share>,
}

/// Why a call is refused: its gRPC status.
type Declined = (Code, &'static str);

/// How many messages a method receives and sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Method {
    /// One request, one response.
    Once,
    /// One request, and responses until the client cancels.
    Watch,
    /// A bidirectional stream.
    Reflect,
}

/// The full name of the authorization service.
pub const AUTHORIZATION: &str = "envoy.service.auth.v3.Authorization";

/// The services whose health is reported; the empty name is the whole process.
const SERVICES: [&str; 2] = ["", AUTHORIZATION];

/// The longest health request, in bytes: the name of a service.
const QUESTION_BYTES: usize = 1024;

/// The time a client has to send it.
const QUESTION: Duration = Duration::from_secs(5);

/// The most bytes of all requests in one reflection call.
const REFLECTION_BYTES: usize = 64 * 1024;

/// The longest duration of a reflection call: tools ask what they need and disconnect.
const REFLECTION: Duration = Duration::from_secs(30);

impl HealthAndReflection {
    /// Both services, and the reporter that sets the health they serve.
    pub fn new() -> Result<(Self, HealthReporter), Error> {
        let (reporter, health) = health_reporter();
        let reflect = || {
            Builder::configure()
                .register_encoded_file_descriptor_set(pb::DESCRIPTORS)
                .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
        };
        let services = Self {
            health: grpc_service(health),
            reflection: grpc_service(reflect().build_v1()?),
            reflection_alpha: grpc_service(reflect().build_v1alpha()?),
        };
        Ok((services, reporter))
    }

    /// Answers `request` of `peer`.
    pub async fn answer<B>(
        &self,
        request: Request<B>,
        peer: &Arc<Peer>,
    ) -> Result<Response<ServiceBody>, Declined>
    where
        B: Body<Data = Bytes> + Send + Unpin + 'static,
    {
        let path = request.uri().path().to_owned();
        let (service, method) =
            path.strip_prefix('/').and_then(|it| it.split_once('/')).ok_or(UNKNOWN)?;
        let (service, method) = match (service, method) {
            ("grpc.health.v1.Health", "Watch") => (&self.health, Method::Watch),
            ("grpc.health.v1.Health", _) => (&self.health, Method::Once),
            ("grpc.reflection.v1.ServerReflection", _) => (&self.reflection, Method::Reflect),
            ("grpc.reflection.v1alpha.ServerReflection", _) => {
                (&self.reflection_alpha, Method::Reflect)
            }
            _ => return Err(UNKNOWN),
        };
        let (body, share) = match method {
            Method::Once => (question(request.into_body(), peer).await?, None),
            Method::Watch => {
                let body = question(request.into_body(), peer).await?;
                (body, Some(peer.take(Resource::Watches, 1).ok_or(TOO_MANY)?))
            }
            Method::Reflect => {
                let share = peer.take(Resource::Reflections, 1).ok_or(TOO_MANY)?;
                (tonic::body::Body::new(Bounded::new(request.into_body())), Some(share))
            }
        };
        // The other headers of the request are dropped.
        let mut asked = Request::post(path).body(body).or(Err(UNKNOWN))?;
        let content_type = HeaderValue::from_static("application/grpc");
        asked.headers_mut().insert(http::header::CONTENT_TYPE, content_type);
        let answer = service(asked).await;
        Ok(answer.map(|body| ServiceBody { body, _share: share }))
    }
}

const UNKNOWN: Declined = (Code::Unimplemented, "no such method");
const TOO_MANY: Declined = (Code::ResourceExhausted, "too many such calls at once");

/// The only request of a call. If it does not arrive at once, it is awaited, for a bounded number
/// of calls.
async fn question<B>(body: B, peer: &Arc<Peer>) -> Result<tonic::body::Body, Declined>
where
    B: Body<Data = Bytes>,
{
    let mut reading = pin!(grpc::read_message(body, QUESTION_BYTES, peer));
    let read = match poll_fn(|it| Poll::Ready(reading.as_mut().poll(it))).await {
        Poll::Ready(read) => read,
        Poll::Pending => {
            let _unfinished = peer.take(Resource::UnfinishedCalls, 1).ok_or(TOO_MANY)?;
            timeout(QUESTION, reading)
                .await
                .or(Err((Code::DeadlineExceeded, "the message did not come in time")))?
        }
    };
    let message = read.map_err(declined)?;
    let framed = grpc::framed(|it| it.extend_from_slice(&message.bytes));
    Ok(tonic::body::Body::new(Full::new(framed)))
}

const fn declined(fault: Fault) -> Declined {
    match fault {
        Fault::TooLarge => (Code::ResourceExhausted, "the message is too large"),
        Fault::NoRoom => TOO_MANY,
        Fault::Compressed => (Code::Unimplemented, "compression is not supported"),
        Fault::Truncated | Fault::Excess | Fault::Broken => {
            (Code::InvalidArgument, "not one message")
        }
    }
}

/// A body that ends once it exceeds its limit in bytes or time.
struct Bounded<B> {
    inner: B,
    left: usize,
    end: Pin<Box<Sleep>>,
}

impl<B> Bounded<B> {
    fn new(inner: B) -> Self {
        Self { inner, left: REFLECTION_BYTES, end: Box::pin(sleep(REFLECTION)) }
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for Bounded<B> {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let broken = |_| Status::cancelled("the stream broke");
        if let Poll::Ready(frame) = Pin::new(&mut self.inner).poll_frame(context) {
            let frame = frame.map(|it| it.map_err(broken));
            let Some(Ok(found)) = &frame else { return Poll::Ready(frame) };
            let bytes = found.data_ref().map_or(0, Bytes::len);
            let Some(left) = self.left.checked_sub(bytes) else {
                return Poll::Ready(Some(Err(Status::resource_exhausted("too many bytes"))));
            };
            self.left = left;
            return Poll::Ready(frame);
        }
        let late = || Some(Err(Status::deadline_exceeded("the call has lasted too long")));
        self.end.as_mut().poll(context).map(|()| late())
    }
}

impl Body for ServiceBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl fmt::Debug for HealthAndReflection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HealthAndReflection").finish_non_exhaustive()
    }
}

fn grpc_service<S>(service: S) -> GrpcService
where
    S: Service<
            Request<tonic::body::Body>,
            Response = Response<tonic::body::Body>,
            Error = Infallible,
        >,
    S: Clone + Send + Sync + 'static,
    S::Future: Send,
{
    Box::new(move |request| {
        let mut service = service.clone();
        Box::pin(async move {
            match service.call(request).await {
                Ok(response) => response,
                Err(never) => match never {},
            }
        })
    })
}

/// Reports each phase as a health status, until the process drains.
pub async fn report(mut reporter: HealthReporter, mut phases: watch::Receiver<Phase>) {
    loop {
        let phase = *phases.borrow_and_update();
        for service in SERVICES {
            match phase {
                Phase::Ready => reporter.set_service_status(service, ServingStatus::Serving).await,
                Phase::Starting | Phase::Leaving => {
                    reporter.set_service_status(service, ServingStatus::NotServing).await;
                }
                // Ends open watches, which would keep their connections from draining.
                Phase::Draining => reporter.clear_service_status(service).await,
            }
        }
        if phase == Phase::Draining || phases.changed().await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;
    use futures_util::stream::{self, StreamExt};
    use http_body_util::{BodyExt, StreamBody};
    use tokio::time::{Instant, advance};

    const HEALTH: &str = "/grpc.health.v1.Health/Check";
    const WATCH: &str = "/grpc.health.v1.Health/Watch";
    const REFLECT: &str = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";

    fn peer() -> Arc<Peer> {
        Peer::new(Arc::default())
    }

    /// A body that starts with `bytes` and never ends.
    fn begun(bytes: &[u8]) -> impl Body<Data = Bytes, Error = Infallible> + Send + Unpin + 'static {
        let first = Ok(Frame::data(Bytes::copy_from_slice(bytes)));
        StreamBody::new(stream::iter([first]).chain(stream::pending()))
    }

    fn asked<B>(path: &str, body: B) -> Request<B> {
        Request::post(path).body(body).unwrap()
    }

    fn whole() -> Full<Bytes> {
        Full::new(Bytes::from_static(b"\0\0\0\0\0"))
    }

    fn services() -> HealthAndReflection {
        HealthAndReflection::new().unwrap().0
    }

    #[track_caller]
    fn code<T>(answer: Result<T, Declined>) -> Code {
        answer.map(drop).unwrap_err().0
    }

    #[tokio::test(start_paused = true)]
    async fn a_question_that_does_not_come_in_time_is_given_up() {
        let (services, peer) = (services(), peer());
        for path in [HEALTH, WATCH] {
            let began = Instant::now();
            let answer = services.answer(asked(path, begun(b"\0\0\0")), &peer).await;
            assert_eq!((code(answer), began.elapsed()), (Code::DeadlineExceeded, QUESTION));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn few_questions_are_waited_for_at_a_time_and_the_others_are_answered() {
        let (services, peer) = (services(), peer());
        let mut waiting = vec![];
        for _ in 0..16 {
            let body = begun(b"\0\0\0\0\x01");
            let mut answer = Box::pin(services.answer(asked(HEALTH, body), &peer));
            assert!(answer.as_mut().now_or_never().is_none());
            waiting.push(answer);
        }
        let refused = services.answer(asked(HEALTH, begun(b"")), &peer).await;
        assert_eq!(code(refused), Code::ResourceExhausted);
        assert!(services.answer(asked(HEALTH, whole()), &peer).await.is_ok());
        assert!(services.answer(asked(HEALTH, begun(b"")), &self::peer()).now_or_never().is_none());
        drop(waiting);
        assert!(services.answer(asked(HEALTH, begun(b"")), &peer).now_or_never().is_none());
    }

    #[tokio::test]
    async fn a_long_question_is_not_waited_for() {
        let services = services();
        for (length, longer) in [(QUESTION_BYTES, false), (QUESTION_BYTES + 1, true)] {
            let announced = [&[0][..], &u32::try_from(length).unwrap().to_be_bytes()].concat();
            let mut answer =
                Box::pin(services.answer(asked(HEALTH, begun(&announced)), &peer())).now_or_never();
            assert_eq!(answer.take().map(code), longer.then_some(Code::ResourceExhausted));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn so_many_may_watch_and_for_as_long_as_they_like() {
        let (services, peer) = (services(), peer());
        let mut watching = vec![];
        for _ in 0..16 {
            watching.push(services.answer(asked(WATCH, whole()), &peer).await.unwrap());
        }
        let refused = services.answer(asked(WATCH, whole()), &peer).await;
        assert_eq!(code(refused), Code::ResourceExhausted);
        let mut body = watching.pop().unwrap().into_body();
        assert!(body.frame().await.unwrap().unwrap().is_data());
        advance(Duration::from_secs(86_400)).await;
        assert!(body.frame().now_or_never().is_none(), "nothing has changed");
        drop(body);
        assert!(services.answer(asked(WATCH, whole()), &peer).await.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn reflection_ends_in_time() {
        let (services, peer) = (services(), peer());
        let answer = services.answer(asked(REFLECT, begun(b"\0\0\0\0\x09")), &peer).await;
        let began = Instant::now();
        answer.unwrap().into_body().collect().await.unwrap();
        assert_eq!(began.elapsed(), REFLECTION);
        assert!(peer.take(Resource::Reflections, 4).is_some(), "its place is given back");
    }

    #[tokio::test(start_paused = true)]
    async fn reflection_is_asked_no_more_than_so_much() {
        let (services, peer) = (services(), peer());
        // `list_services`, repeated.
        let question = b"\0\0\0\0\x02\x3a\0";
        let fit = REFLECTION_BYTES / question.len();
        for (count, lasts) in [(fit, true), (fit + 1, false)] {
            let began = Instant::now();
            let body = begun(&question.repeat(count));
            let answer = services.answer(asked(REFLECT, body), &peer).await.unwrap();
            let answers = answer.into_body().collect().await.unwrap().to_bytes();
            assert_eq!(began.elapsed() == REFLECTION, lasts, "{}", answers.len());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn few_may_reflect_at_once() {
        let (services, peer) = (services(), peer());
        let mut held = vec![];
        for _ in 0..4 {
            held.push(services.answer(asked(REFLECT, begun(b"")), &peer).await.unwrap());
        }
        let refused = services.answer(asked(REFLECT, begun(b"")), &peer).await;
        assert_eq!(code(refused), Code::ResourceExhausted);
    }
}
