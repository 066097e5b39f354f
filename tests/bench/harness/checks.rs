//! A client that asks for checks over HTTP/2, as Envoy does.

use super::load::{self, Asker, Failure};
use bytes::Bytes;
use envoy_types::pb::envoy::service::auth::v3 as auth;
use h2::client::SendRequest;
use prost::Message;
use std::future::poll_fn;
use std::sync::Arc;

/// Asks requests of a file in turn.
struct Checks {
    sender: SendRequest<Bytes>,
    requests: Arc<[Bytes]>,
}

impl Asker for Checks {
    async fn ask(&mut self, number: usize) -> Result<String, Failure> {
        let message = self.requests[number % self.requests.len()].clone();
        ask(&mut self.sender, message).await
    }
}

pub(super) async fn run(options: &load::Options) {
    let requests: Arc<[_]> = frames(std::fs::read(&options.file).unwrap().into()).into();
    let mut askers = vec![];
    for _ in 0..options.shape.connections {
        let sender = connect(&options.to).await;
        let asker = || Checks { sender: sender.clone(), requests: Arc::clone(&requests) };
        askers.extend((0..options.shape.in_flight).map(|_| asker()));
    }
    load::run(&options.shape, askers).await;
}

/// The requests in a file: gRPC frames, one behind the other.
fn frames(mut file: Bytes) -> Vec<Bytes> {
    let mut found = vec![];
    while let Some((&[_, length @ ..], _)) = file.split_first_chunk::<5>() {
        found.push(file.split_to(5 + u32::from_be_bytes(length) as usize));
    }
    assert!(!found.is_empty() && file.is_empty());
    found
}

pub(super) async fn connect(to: &str) -> SendRequest<Bytes> {
    let stream = tokio::net::TcpStream::connect(to).await.unwrap();
    stream.set_nodelay(true).unwrap();
    let mut builder = h2::client::Builder::new();
    builder.initial_window_size(1 << 20).initial_connection_window_size(1 << 24);
    let (sender, connection) = builder.handshake(stream).await.unwrap();
    tokio::spawn(connection);
    sender
}

pub(super) async fn ask(
    sender: &mut SendRequest<Bytes>,
    message: Bytes,
) -> Result<String, Failure> {
    let head = http::Request::post("http://ext-authz/envoy.service.auth.v3.Authorization/Check")
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("grpc-timeout", "1000m")
        .body(())
        .unwrap();
    poll_fn(|context| sender.poll_ready(context)).await?;
    let (answer, mut body) = sender.send_request(head, false)?;
    body.send_data(message, true)?;
    let answer = answer.await?;
    let mut status = answer.headers().get("grpc-status").cloned();
    let mut body = answer.into_body();
    let mut read = Vec::new();
    while let Some(piece) = body.data().await {
        let piece = piece?;
        body.flow_control().release_capacity(piece.len())?;
        read.extend_from_slice(&piece);
    }
    if let Some(trailers) = body.trailers().await? {
        status = trailers.get("grpc-status").cloned();
    }
    Ok(match status {
        Some(status) if status == "0" => verdict(read.get(5..).unwrap_or_default()),
        status => format!("grpc-status {status:?}"),
    })
}

/// `ok`, or the status of the denial.
fn verdict(answer: &[u8]) -> String {
    // The usual answer begins with a status of zero: two bytes, which need no decoding.
    if answer.starts_with(&[0x0a, 0x00, 0x1a]) {
        return "ok".to_owned();
    }
    let answer = auth::CheckResponse::decode(answer).unwrap();
    match (answer.status.map(|it| it.code), answer.http_response) {
        (Some(1..), Some(auth::check_response::HttpResponse::DeniedResponse(denied))) => {
            format!("denied {}", denied.status.map_or(0, |it| it.code))
        }
        (None | Some(0), _) => "ok".to_owned(),
        odd => format!("{odd:?}"),
    }
}
