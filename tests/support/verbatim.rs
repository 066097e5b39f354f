//! Requests for a path as it is written: other clients resolve dot segments before they send.

use bytes::Bytes;
use http::{Request, Response, Version};
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

/// Whatever hangs, the test does not.
const TIMEOUT: Duration = Duration::from_secs(20);

pub(crate) type Failure = Box<dyn std::error::Error + Send + Sync>;

/// A client over TLS, with a connection for each request.
pub(crate) struct Verbatim<'a> {
    pub(crate) http: Version,
    pub(crate) address: SocketAddr,
    /// Who the server is.
    pub(crate) host: &'a str,
    /// Who signed for it, in PEM.
    pub(crate) authority: String,
    /// The client's own certificates and key, in PEM.
    pub(crate) identity: Option<String>,
}

impl Verbatim<'_> {
    /// The answer to a GET. An error is one of the connection: there was none.
    pub(crate) async fn get(
        &self,
        path: &str,
        headers: &[(&str, &str)],
    ) -> Result<Response<Bytes>, Failure> {
        self.ask("GET", path, headers).await
    }

    /// The same by another method.
    pub(crate) async fn ask(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
    ) -> Result<Response<Bytes>, Failure> {
        tokio::time::timeout(TIMEOUT, self.answer(method, path, headers)).await?
    }

    /// All that comes back for a request that is written as it stands, until the connection ends.
    pub(crate) async fn written(&self, request: &str) -> Result<String, Failure> {
        let exchange = async {
            let mut stream = self.connect().await?;
            stream.write_all(request.as_bytes()).await?;
            let mut answer = vec![];
            // A server need not end TLS before it ends the connection.
            drop(stream.read_to_end(&mut answer).await);
            Ok(String::from_utf8_lossy(&answer).into_owned())
        };
        tokio::time::timeout(TIMEOUT, exchange).await?
    }

    async fn connect(&self) -> Result<TlsStream<TcpStream>, Failure> {
        let stream = TcpStream::connect(self.address).await?;
        let tls = TlsConnector::from(Arc::new(self.tls()?));
        Ok(tls.connect(ServerName::try_from(self.host.to_owned())?, stream).await?)
    }

    async fn answer(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
    ) -> Result<Response<Bytes>, Failure> {
        let request = self.request(method, path, headers)?;
        let stream = TokioIo::new(self.connect().await?);
        let mut connection = JoinSet::new();
        let response = if self.http == Version::HTTP_2 {
            let (mut sender, driver) = http2::handshake(TokioExecutor::new(), stream).await?;
            connection.spawn(driver);
            sender.send_request(request).await?
        } else {
            let (mut sender, driver) = http1::handshake(stream).await?;
            connection.spawn(driver);
            sender.send_request(request).await?
        };
        let (head, body) = response.into_parts();
        Ok(Response::from_parts(head, body.collect().await?.to_bytes()))
    }

    fn request(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
    ) -> Result<Request<Empty<Bytes>>, http::Error> {
        let authority = format!("{}:{}", self.host, self.address.port());
        let request = if self.http == Version::HTTP_2 {
            Request::builder().uri(format!("https://{authority}{path}")).version(self.http)
        } else {
            Request::builder().uri(path).header("host", authority)
        };
        let request = request.method(method);
        let add =
            |it: http::request::Builder, (name, value): &(&str, &str)| it.header(*name, *value);
        headers.iter().fold(request, add).body(Empty::new())
    }

    fn tls(&self) -> Result<ClientConfig, Failure> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.authority.as_bytes())?)?;
        let builder = ClientConfig::builder().with_root_certificates(roots);
        let mut tls = match &self.identity {
            Some(pem) => {
                let chain =
                    CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<_, _>>()?;
                builder
                    .with_client_auth_cert(chain, PrivateKeyDer::from_pem_slice(pem.as_bytes())?)?
            }
            None => builder.with_no_client_auth(),
        };
        let protocol = if self.http == Version::HTTP_2 { "h2" } else { "http/1.1" };
        tls.alpn_protocols = vec![protocol.into()];
        Ok(tls)
    }
}
