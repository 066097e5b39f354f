//! The servers that the service is held against: tonic's own, which answer OK to whatever
//! they are asked.

use bytes::{Buf, Bytes};
use clap::{Args, ValueEnum};
use envoy_types::pb::envoy::config::core::v3::{HeaderValue, HeaderValueOption};
use envoy_types::pb::envoy::service::auth::v3 as auth;
use envoy_types::pb::google::rpc;
use keybound::front::ext_authz::wire;
use std::convert::Infallible;
use std::future::{Ready, ready};
use std::hint::black_box;
use std::marker::PhantomData;
use std::pin::Pin;
use std::task::{Context, Poll};
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::server::{Grpc, NamedService, UnaryService};
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};

#[derive(Args)]
pub(super) struct Options {
    #[arg(long)]
    listen: std::net::SocketAddr,
    #[arg(long)]
    decode: Decode,
}

#[derive(Clone, Copy, ValueEnum)]
enum Decode {
    /// All of a request into maps and strings, as `envoy-types` does.
    Full,
    /// One walk over its bytes, without copies.
    Walk,
}

pub(super) async fn serve(options: &Options) {
    let incoming = TcpIncoming::bind(options.listen).unwrap().with_nodelay(Some(true));
    let server = match options.decode {
        Decode::Full => Server::builder().add_service(Service::<Full>::default()),
        Decode::Walk => Server::builder().add_service(Service::<Walk>::default()),
    };
    server.serve_with_incoming(incoming).await.unwrap();
}

/// How a request is read.
trait Reading: Clone + Default + Send + Sync + 'static {
    type Read: Send + 'static;
    fn read(bytes: &mut DecodeBuf<'_>) -> Result<Self::Read, Status>;
}

#[derive(Clone, Default)]
struct Full;

impl Reading for Full {
    type Read = auth::CheckRequest;

    fn read(bytes: &mut DecodeBuf<'_>) -> Result<Self::Read, Status> {
        prost::Message::decode(bytes).map_err(|it| Status::internal(it.to_string()))
    }
}

#[derive(Clone, Default)]
struct Walk;

impl Reading for Walk {
    type Read = Bytes;

    fn read(bytes: &mut DecodeBuf<'_>) -> Result<Self::Read, Status> {
        let bytes = bytes.copy_to_bytes(bytes.remaining());
        black_box(wire::read(&bytes, None, None).is_ok());
        Ok(bytes)
    }
}

#[derive(Clone, Default)]
struct Service<R>(PhantomData<R>);

impl<R> NamedService for Service<R> {
    const NAME: &'static str = "envoy.service.auth.v3.Authorization";
}

impl<R: Reading> tower_service::Service<http::Request<tonic::body::Body>> for Service<R> {
    type Response = http::Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<tonic::body::Body>) -> Self::Future {
        Box::pin(async move {
            let mut grpc = Grpc::new(Reader::<R>(PhantomData));
            Ok(grpc.unary(Allow, request).await)
        })
    }
}

struct Allow;

impl<M> UnaryService<M> for Allow {
    type Response = auth::CheckResponse;
    type Future = Ready<Result<Response<auth::CheckResponse>, Status>>;

    fn call(&mut self, request: Request<M>) -> Self::Future {
        drop(black_box(request));
        ready(Ok(Response::new(ok())))
    }
}

/// An OK that sets one header.
fn ok() -> auth::CheckResponse {
    let header = HeaderValue {
        key: "x-auth-subject".into(),
        value: "2f6c8a7e-6d0b-4c39-a0b6-3d1d0a8c1c77".into(),
        ..HeaderValue::default()
    };
    let option = HeaderValueOption { header: Some(header), ..HeaderValueOption::default() };
    let ok = auth::OkHttpResponse { headers: vec![option], ..auth::OkHttpResponse::default() };
    auth::CheckResponse {
        status: Some(rpc::Status::default()),
        http_response: Some(auth::check_response::HttpResponse::OkResponse(ok)),
        ..auth::CheckResponse::default()
    }
}

struct Reader<R>(PhantomData<R>);

impl<R: Reading> Codec for Reader<R> {
    type Encode = auth::CheckResponse;
    type Decode = R::Read;
    type Encoder = Writer;
    type Decoder = Self;

    fn encoder(&mut self) -> Writer {
        Writer
    }

    fn decoder(&mut self) -> Self {
        Self(PhantomData)
    }
}

impl<R: Reading> Decoder for Reader<R> {
    type Item = R::Read;
    type Error = Status;

    fn decode(&mut self, bytes: &mut DecodeBuf<'_>) -> Result<Option<R::Read>, Status> {
        R::read(bytes).map(Some)
    }
}

struct Writer;

impl Encoder for Writer {
    type Item = auth::CheckResponse;
    type Error = Status;

    fn encode(
        &mut self,
        answer: auth::CheckResponse,
        bytes: &mut EncodeBuf<'_>,
    ) -> Result<(), Status> {
        prost::Message::encode(&answer, bytes).map_err(|it| Status::internal(it.to_string()))
    }
}
