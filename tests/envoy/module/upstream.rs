//! An upstream that reads a whole request and tells of it, that says back what it hears over a
//! WebSocket, and that begins events at `/open` which never end.

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use http::{Request, Response, StatusCode, header};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Collected, Either, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::server::conn::{http1, http2};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Map, json};
use std::convert::Infallible;
use std::future::ready;
use tokio::io::{copy, split};
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::task::JoinSet;

pub(super) async fn serve(listener: TcpListener) {
    // Dropped with this task, and all connections with it.
    let mut connections = JoinSet::new();
    loop {
        let Ok((stream, _)) = listener.accept().await else { continue };
        connections.spawn(async move {
            let mut begins = [0; 3];
            drop(stream.peek(&mut begins).await);
            let (io, service) = (TokioIo::new(stream), service_fn(answer));
            // Envoy may hang up.
            if begins == *b"PRI" {
                let mut builder = http2::Builder::new(TokioExecutor::new());
                drop(builder.max_concurrent_streams(None).serve_connection(io, service).await);
            } else {
                drop(http1::Builder::new().serve_connection(io, service).with_upgrades().await);
            }
        });
    }
}

type Body = Either<Full<Bytes>, BoxBody<Bytes, Infallible>>;

async fn answer(request: Request<Incoming>) -> Result<Response<Body>, Infallible> {
    let mut response = Response::new(Either::Left(Full::default()));
    if request.uri().path() == "/open" {
        let event = Frame::data(Bytes::from_static(b"data: x\n\n"));
        let events = stream::once(ready(Ok(event))).chain(stream::pending());
        *response.body_mut() = Either::Right(BoxBody::new(StreamBody::new(events)));
        return Ok(response);
    }
    if request.headers().contains_key(header::UPGRADE) {
        Handle::current().spawn(async move {
            let (mut from, mut to) =
                split(TokioIo::new(hyper::upgrade::on(request).await.unwrap()));
            drop(copy(&mut from, &mut to).await);
        });
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = response.headers_mut();
        headers.insert(header::UPGRADE, "websocket".parse().unwrap());
        headers.insert(header::CONNECTION, "upgrade".parse().unwrap());
        return Ok(response);
    }
    let (head, body) = request.into_parts();
    let headers: Map<_, _> = head
        .headers
        .iter()
        .map(|(name, value)| (name.to_string(), value.to_str().unwrap().into()))
        .collect();
    let body = body.collect().await.map(Collected::to_bytes).unwrap_or_default();
    let sum: u64 = body.iter().zip(1..).map(|(byte, place)| u64::from(*byte) * place).sum();
    let told = json!({
        "method": head.method.as_str(), "path": head.uri.to_string(), "headers": headers,
        "bytes": body.len(), "sum": sum,
    });
    *response.body_mut() = Either::Left(Full::new(told.to_string().into()));
    Ok(response)
}
