//! A client behind a proxy, which connects again whenever the proxy has closed.

use super::super::corpus::{HEADERS, HOST};
use super::super::load::Failure;
use super::world::ALLOWED;
use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use keybound_core::Denial;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::ClientConfig;
use tokio_rustls::rustls::pki_types::ServerName;

/// A connection that is kept.
pub(super) struct Client {
    to: String,
    tls: TlsConnector,
    sender: Option<SendRequest<Empty<Bytes>>>,
}

/// Far more than any answer takes.
const PATIENCE: Duration = Duration::from_secs(10);

impl Client {
    pub(super) fn new(to: &str, tls: ClientConfig) -> Self {
        Self { to: to.to_owned(), tls: TlsConnector::from(Arc::new(tls)), sender: None }
    }

    /// The reason that the answer tells.
    pub(super) async fn ask(
        &mut self,
        token: Option<&str>,
        proof: Option<&str>,
    ) -> Result<String, Failure> {
        let mut request =
            http::Request::get("/accounts/22289?expand=balances").header("host", HOST);
        for (name, value) in HEADERS.iter().filter(|(name, _)| !name.starts_with(':')) {
            request = request.header(*name, *value);
        }
        if let Some(token) = token {
            let scheme = if proof.is_some() { "DPoP" } else { "Bearer" };
            request = request.header("authorization", format!("{scheme} {token}"));
        }
        if let Some(proof) = proof {
            request = request.header("dpop", proof);
        }
        let sent = timeout(PATIENCE, self.send(request.body(Empty::new())?)).await;
        let sent = sent.unwrap_or_else(|_| Err("no answer".into()));
        if sent.is_err() {
            self.sender = None;
        }
        let (status, body) = sent?;
        Ok(reason(status, &body))
    }

    async fn send(
        &mut self,
        request: http::Request<Empty<Bytes>>,
    ) -> Result<(u16, Bytes), Failure> {
        // Where it is closed since the last answer, nothing was sent yet.
        let open = match &mut self.sender {
            Some(sender) => sender.ready().await.is_ok(),
            None => false,
        };
        if !open {
            self.sender = Some(self.connect().await?);
        }
        let answer = self.sender.as_mut().unwrap().send_request(request).await?;
        let status = answer.status().as_u16();
        Ok((status, answer.into_body().collect().await?.to_bytes()))
    }

    async fn connect(&self) -> Result<SendRequest<Empty<Bytes>>, Failure> {
        let stream = TcpStream::connect(&self.to).await?;
        stream.set_nodelay(true)?;
        let stream = self.tls.connect(ServerName::try_from(HOST)?, stream).await?;
        let (sender, connection) = handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        Ok(sender)
    }
}

/// The label of keybound's reason; of an answer by anybody else, all of it.
fn reason(status: u16, body: &[u8]) -> String {
    let body = String::from_utf8_lossy(body);
    let said = |it: &&Denial| {
        it.status() == status
            && body.contains(&format!(r#""error_description":"{}""#, it.sentence()))
    };
    match Denial::ALL.iter().find(said) {
        None if status == 200 => ALLOWED.to_owned(),
        None => format!("{status} {body}"),
        Some(denial) => denial.label().to_owned(),
    }
}
