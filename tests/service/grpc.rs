//! Calls as Envoy makes them, over a real HTTP/2 connection, by a gRPC client that is not ours.

use envoy_types::pb::envoy::service::auth::v3::authorization_client::AuthorizationClient;
use envoy_types::pb::envoy::service::auth::v3::check_response::HttpResponse;
use envoy_types::pb::envoy::service::auth::v3::{CheckRequest, CheckResponse};
use http::{Request, Response, Uri};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use keybound::front::ext_authz::grpc::{self, MESSAGE_BYTES, Reply};
use keybound::front::ext_authz::{encode, wire};
use keybound::front::peer::Peer;
use keybound_core::{Answer, Refusal};
use prost::Message;
use std::convert::Infallible;
use std::future::{Ready, ready};
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::io::DuplexStream;
use tonic::Code;
use tonic::transport::{Channel, Endpoint};

#[tokio::test]
async fn a_captured_request_gets_its_answer() {
    let message = std::fs::read("tests/vectors/envoy/cert-p256-h2.pb").unwrap();
    let request = CheckRequest::decode(&*message).unwrap();
    let answer = check(request).await.unwrap();
    assert_eq!(answer.status.unwrap().code, 0);
}

#[tokio::test]
async fn a_message_within_the_limit_is_read() {
    let answer = check(with_a_header_of(MESSAGE_BYTES - 100)).await.unwrap();
    assert_eq!(answer.status.unwrap().code, 0);
}

/// A gRPC error would let the request through where the proxy is told to fail open.
#[tokio::test]
async fn a_message_beyond_the_limit_is_denied_and_is_no_grpc_error() {
    let answer = check(with_a_header_of(MESSAGE_BYTES)).await.unwrap();
    assert_eq!(answer.status.unwrap().code, 3);
    let Some(HttpResponse::DeniedResponse(denied)) = answer.http_response else { panic!() };
    assert_eq!(denied.status.unwrap().code, 400);
}

#[tokio::test]
async fn an_unknown_method_is_unimplemented() {
    let call = async |channel| {
        let mut client = tonic::client::Grpc::<Channel>::new(channel);
        client.ready().await.unwrap();
        let path = "/envoy.service.auth.v2.Authorization/Check".parse().unwrap();
        let codec = tonic_prost::ProstCodec::<CheckRequest, CheckResponse>::default();
        client.unary(tonic::Request::new(CheckRequest::default()), path, codec).await
    };
    let error = served(call).await.unwrap_err();
    assert_eq!((error.code(), error.message()), (Code::Unimplemented, "no such method"));
}

fn with_a_header_of(bytes: usize) -> CheckRequest {
    let mut request = CheckRequest::default();
    let attributes = request.attributes.get_or_insert_default();
    let http = attributes.request.get_or_insert_default().http.get_or_insert_default();
    http.method = "GET".into();
    http.headers.insert("x-large".into(), "x".repeat(bytes));
    request
}

async fn check(request: CheckRequest) -> Result<CheckResponse, tonic::Status> {
    let call = async |channel| {
        let mut client = AuthorizationClient::new(channel);
        client.check(request).await.map(tonic::Response::into_inner)
    };
    served(call).await
}

/// What `call` comes to on a connection to a server of one method.
async fn served<T>(call: impl AsyncFnOnce(Channel) -> T) -> T {
    let (near, far) = tokio::io::duplex(64 * 1024);
    let channel = Endpoint::from_static("http://authorizer.test")
        .connect_with_connector_lazy(InMemory(Some(near)));
    let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
        .serve_connection(TokioIo::new(far), service_fn(serve));
    tokio::select! {
        found = call(channel) => found,
        ended = server => panic!("the connection ended first: {ended:?}"),
    }
}

async fn serve(request: Request<Incoming>) -> Result<Response<Reply>, Infallible> {
    if request.uri().path() != "/envoy.service.auth.v3.Authorization/Check" {
        return Ok(grpc::error(Code::Unimplemented, "no such method"));
    }
    let peer = Peer::new(Arc::default());
    let read = grpc::read_message(request.into_body(), MESSAGE_BYTES, &peer).await;
    let read = read.map(|it| it.bytes);
    let answer =
        match read.map_err(Refusal::from).and_then(|it| wire::read(&it, None, None).map(|_| ())) {
            Ok(()) => Answer::Allow {
                set: vec![],
                remove: vec![],
                to_client: vec![],
                metadata: vec![],
                left: None,
                unclear: None,
            },
            Err(Refusal { denial, .. }) => Answer::Deny {
                status: denial.status(),
                to_client: vec![],
                body: String::new(),
                metadata: vec![],
            },
        };
    Ok(grpc::reply(grpc::framed(|it| encode::response(&answer, it))))
}

/// Connects once, to the other end of a pipe.
struct InMemory(Option<DuplexStream>);

impl tower_service::Service<Uri> for InMemory {
    type Response = TokioIo<DuplexStream>;
    type Error = io::Error;
    type Future = Ready<io::Result<Self::Response>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let stream = self.0.take().map(TokioIo::new);
        ready(stream.ok_or_else(|| io::Error::other("connected already")))
    }
}
