//! Connections of gRPC clients, over TLS.

use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use http::Uri;
use hyper_util::rt::TokioIo;
use keybound::commands::demo::pki::Authority;
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::crypto::aws_lc_rs::default_provider;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};
use tonic::transport::{Channel, Endpoint};

/// A connection to `origin`, whose certificate is from this authority.
pub(super) async fn connect(origin: &str, authority: &Authority) -> Channel {
    let mut roots = RootCertStore::empty();
    let ca = CertificateDer::from_pem_slice(authority.certificate_pem().as_bytes()).unwrap();
    roots.add(ca).unwrap();
    let mut config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let connector = Tls(TlsConnector::from(Arc::new(config)));
    let endpoint = Endpoint::from_shared(origin.to_owned()).unwrap();
    endpoint.connect_with_connector(connector).await.unwrap()
}

/// Connects over TLS, to addresses.
struct Tls(TlsConnector);

impl tower_service::Service<Uri> for Tls {
    type Response = TokioIo<TlsStream<TcpStream>>;
    type Error = io::Error;
    type Future = BoxFuture<'static, io::Result<Self::Response>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, to: Uri) -> Self::Future {
        let tls = self.0.clone();
        async move {
            let stream = TcpStream::connect(to.authority().unwrap().as_str()).await?;
            let name = ServerName::try_from(to.host().unwrap().to_owned()).unwrap();
            Ok(TokioIo::new(tls.connect(name, stream).await?))
        }
        .boxed()
    }
}
