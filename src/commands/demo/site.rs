//! A small HTTP/1.1 server whose answers come from one function, with or without TLS.

use super::Failure;
use super::pki::Identity;
use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use std::convert::Infallible;
use std::fmt;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio_rustls::rustls::{ConfigBuilder, ServerConfig};

/// A response of a site.
pub type Response = hyper::Response<Full<Bytes>>;

type Answering = dyn Fn(&hyper::Request<Incoming>) -> Response + Send + Sync;

/// A site on a listener of its own.
#[derive(Clone)]
pub struct Site {
    answer: Arc<Answering>,
    tls: Option<TlsAcceptor>,
}

impl Site {
    /// A site that answers every request with `answer`.
    pub fn new(
        answer: impl Fn(&hyper::Request<Incoming>) -> Response + Send + Sync + 'static,
    ) -> Self {
        Self { answer: Arc::new(answer), tls: None }
    }

    /// The site with TLS, as `server`.
    pub fn with_tls(self, server: &Identity) -> Result<Self, Failure> {
        let chain = vec![CertificateDer::from(server.certificate_der().to_vec())];
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(server.key_der().to_vec()));
        let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .map(ConfigBuilder::<ServerConfig, _>::with_no_client_auth)
            .and_then(|it| it.with_single_cert(chain, key))
            .map_err(|cause| Failure::new("setting up TLS", cause))?;
        Ok(Self { tls: Some(TlsAcceptor::from(Arc::new(config))), ..self })
    }

    /// Serves connections on `listener` while it is polled.
    pub async fn serve(self, listener: TcpListener) {
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                Ok((stream, _)) = listener.accept() => {
                    connections.spawn(self.clone().connection(stream));
                }
                Some(_) = connections.join_next() => (),
                else => return,
            }
        }
    }

    async fn connection(self, stream: tokio::net::TcpStream) {
        match &self.tls {
            Some(tls) => {
                if let Ok(stream) = tls.accept(stream).await {
                    self.requests(stream).await;
                }
            }
            None => self.requests(stream).await,
        }
    }

    async fn requests(&self, stream: impl AsyncRead + AsyncWrite + Unpin) {
        let service = service_fn(async |request| Ok::<_, Infallible>((self.answer)(&request)));
        // Broken connections are ignored here, since the client reports them.
        drop(http1::Builder::new().serve_connection(TokioIo::new(stream), service).await);
    }
}

impl fmt::Debug for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Site").field("tls", &self.tls.is_some()).finish_non_exhaustive()
    }
}

/// A JSON document as an answer.
pub fn json(document: &serde_json::Value) -> Response {
    let mut response = Response::new(Full::new(Bytes::from(document.to_string())));
    response.headers_mut().insert(
        hyper::header::CONTENT_TYPE,
        hyper::header::HeaderValue::from_static("application/json"),
    );
    response
}

/// A 404.
pub fn not_found() -> Response {
    let mut response = Response::default();
    *response.status_mut() = hyper::StatusCode::NOT_FOUND;
    response
}
