//! A browser behind a proxy: HTTP/1.1 over mutual TLS, on connections that are kept.

use super::load::{self, Asker, Failure};
use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use std::sync::Arc;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;

/// Brings the tokens of a file in turn.
struct Browser {
    sender: SendRequest<Empty<Bytes>>,
    tokens: Arc<[String]>,
}

impl Asker for Browser {
    async fn ask(&mut self, number: usize) -> Result<String, Failure> {
        self.sender.ready().await?;
        let mut request = http::Request::get("/accounts/22289?expand=balances");
        for (name, value) in
            super::corpus::HEADERS.iter().filter(|(name, _)| !name.starts_with(':'))
        {
            request = request.header(*name, *value);
        }
        let token = &self.tokens[number % self.tokens.len()];
        let request = request
            .header("host", super::corpus::HOST)
            .header("authorization", format!("Bearer {token}"))
            .body(Empty::new())?;
        let answer = self.sender.send_request(request).await?;
        let status = answer.status().as_u16().to_string();
        answer.into_body().collect().await?;
        Ok(status)
    }
}

/// `options.file` is the folder that [`super::corpus`] filled.
pub(super) async fn run(options: &load::Options) {
    let folder = &options.file;
    let tokens = std::fs::read_to_string(folder.join("tokens.txt")).unwrap();
    let tokens: Arc<[_]> = tokens.lines().map(str::to_owned).collect();
    let tls = TlsConnector::from(Arc::new(super::corpus::tls_client(folder, "client")));
    let mut askers = vec![];
    for _ in 0..options.shape.connections {
        let stream = TcpStream::connect(&options.to).await.unwrap();
        stream.set_nodelay(true).unwrap();
        let name = ServerName::try_from(super::corpus::HOST).unwrap();
        let stream = tls.connect(name, stream).await.unwrap();
        let (sender, connection) = handshake(TokioIo::new(stream)).await.unwrap();
        tokio::spawn(connection);
        askers.push(Browser { sender, tokens: Arc::clone(&tokens) });
    }
    load::run(&options.shape, askers).await;
}
