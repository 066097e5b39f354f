//! The service behind mutual TLS.

use super::service::{Service, folder, keybound};
use super::{AUTHORIZATION, health};
use hyper_util::rt::TokioIo;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use std::io::{self, Read};
use std::net::TcpStream as StdTcpStream;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::{PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};
use tonic::codegen::Service as TowerService;
use tonic::codegen::http::Uri;
use tonic::transport::{Channel, Endpoint};
use tonic_health::pb::health_check_response::ServingStatus;

pub(crate) type Authority = CertifiedIssuer<'static, KeyPair>;

pub(crate) fn authority() -> Authority {
    let mut params = CertificateParams::new(vec![]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

fn issue(authority: &Authority, name: &str) -> (rcgen::Certificate, KeyPair) {
    let key = KeyPair::generate().unwrap();
    let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
    (params.signed_by(&key, authority).unwrap(), key)
}

/// What the service needs: a certificate for `localhost`, its key, and the clients' authority.
pub(crate) fn tls_files(authority: &Authority) -> [(&'static str, String); 3] {
    let (certificate, key) = issue(authority, "localhost");
    [("tls.pem", certificate.pem()), ("key.pem", key.serialize_pem()), ("ca.pem", authority.pem())]
}

/// Writes what the service needs and makes the configuration name it.
pub(crate) fn with_tls(authority: &Authority) -> impl FnOnce(&Path, String) -> String {
    let files = tls_files(authority);
    move |folder, config| {
        for (name, content) in files {
            std::fs::write(folder.join(name), content).unwrap();
        }
        let tls = "tls: {certificate_file: tls.pem, key_file: key.pem, client_ca_file: ca.pem}";
        config.replacen("listen: {", &format!("listen: {{{tls}, "), 1)
    }
}

/// Connects by TLS, with a certificate of `signer` if there is one.
#[derive(Clone)]
pub(crate) struct Connector {
    address: String,
    config: Arc<ClientConfig>,
}

impl Connector {
    pub(crate) fn new(
        service: &Service,
        authority: &Authority,
        signer: Option<&Authority>,
    ) -> Self {
        let mut roots = RootCertStore::empty();
        roots.add(authority.der().clone()).unwrap();
        let provider = Arc::new(aws_lc_rs::default_provider());
        let builder = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        let mut config = match signer.map(|it| issue(it, "client")) {
            Some((certificate, key)) => {
                let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
                builder.with_client_auth_cert(vec![certificate.der().clone()], key).unwrap()
            }
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![b"h2".to_vec()];
        Self { address: service.ext_authz.clone(), config: Arc::new(config) }
    }

    pub(crate) async fn channel(self) -> Option<Channel> {
        Endpoint::from_static("http://localhost").connect_with_connector(self).await.ok()
    }

    /// The same for another listener, over HTTP/1.1.
    pub(crate) fn to(mut self, address: &str) -> Self {
        address.clone_into(&mut self.address);
        Arc::make_mut(&mut self.config).alpn_protocols = vec![b"http/1.1".to_vec()];
        self
    }

    /// A connection.
    pub(crate) async fn connect(self) -> io::Result<TlsStream<TcpStream>> {
        let stream = TcpStream::connect(self.address).await?;
        let name = ServerName::try_from("localhost").unwrap();
        TlsConnector::from(self.config).connect(name, stream).await
    }

    pub(crate) async fn health(self) -> Option<ServingStatus> {
        health(self.channel().await?, AUTHORIZATION).await.ok()
    }
}

impl TowerService<Uri> for Connector {
    type Response = TokioIo<TlsStream<TcpStream>>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let connecting = self.clone().connect();
        Box::pin(async { connecting.await.map(TokioIo::new) })
    }
}

#[tokio::test]
async fn only_clients_with_a_certificate_are_answered() {
    let authority = authority();
    let mut service = Service::start(with_tls(&authority), &["--shards", "1"]);
    service.wait_for("ready");
    // Somebody who never begins its handshake holds up nobody.
    let _idle = StdTcpStream::connect(&service.ext_authz).unwrap();
    let answered = Connector::new(&service, &authority, Some(&authority)).health().await;
    assert_eq!(answered, Some(ServingStatus::Serving));
    let other = self::authority();
    assert_eq!(Connector::new(&service, &authority, None).health().await, None);
    assert_eq!(Connector::new(&service, &authority, Some(&other)).health().await, None);
}

/// The same with names of clients, of which one may ask.
fn with_names(authority: &Authority, names: &str) -> impl FnOnce(&Path, String) -> String {
    let (with_tls, names) = (with_tls(authority), names.to_owned());
    move |folder, config| {
        let names = format!("client_ca_file: ca.pem, client_names: [{names}]");
        with_tls(folder, config).replacen("client_ca_file: ca.pem", &names, 1)
    }
}

#[tokio::test]
async fn only_clients_with_a_name_that_may_ask_are_answered() {
    let authority = authority();
    let names = "'spiffe://example.com/edge', client";
    let mut service = Service::start(with_names(&authority, names), &[]);
    service.wait_for("ready");
    let asks = async |service: &Service| {
        Connector::new(service, &authority, Some(&authority)).health().await
    };
    assert_eq!(asks(&service).await, Some(ServingStatus::Serving));

    service.rewrite(|it| it.replace("client]", "another]"));
    service.wait_for("configuration reloaded");
    for count in 1..4 {
        assert_eq!(asks(&service).await, None);
        let series = "keybound_handshake_failures_total{cause=\"name_not_allowed\",\
                      listener=\"ext_authz\"}";
        service.reaches_metric(series, f64::from(count));
    }
    let line = service.wait_for("connection failed");
    assert_eq!(line["cause"], "name_not_allowed");
    assert_eq!(line["from"], "127.0.0.1");
    assert!(line["error"].as_str().unwrap().ends_with(" shows \"client\""), "{line}");

    service.rewrite(|it| it.replace("another]", "client]"));
    service.wait_for("configuration reloaded");
    assert_eq!(asks(&service).await, Some(ServingStatus::Serving));
}

#[tokio::test]
async fn why_a_handshake_failed_is_counted() {
    let authority = authority();
    let mut service = Service::start(with_tls(&authority), &[]);
    service.wait_for("ready");
    let other = self::authority();
    assert_eq!(Connector::new(&service, &authority, None).health().await, None);
    assert_eq!(Connector::new(&service, &authority, Some(&other)).health().await, None);
    assert_eq!(Connector::new(&service, &other, Some(&authority)).health().await, None);
    let mut stream = StdTcpStream::connect(&service.ext_authz).unwrap();
    io::Write::write_all(&mut stream, b"GET / HTTP/1.1\r\n\r\n").unwrap();
    drop(stream.read_to_end(&mut Vec::new()));
    for cause in ["certificate_missing", "certificate_untrusted", "refused_by_client", "not_tls"] {
        let series = format!(
            "keybound_handshake_failures_total{{cause=\"{cause}\",listener=\"ext_authz\"}}"
        );
        service.reaches_metric(&series, 1.0);
    }
}

#[test]
fn when_certificates_expire_is_told_and_told_anew_when_they_are_renewed() {
    let authority = authority();
    let key = KeyPair::generate().unwrap();
    let expiring = |year| {
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        params.not_after = rcgen::date_time_ymd(year, 1, 1);
        params.signed_by(&key, &authority).unwrap().pem()
    };
    // The chain behind it counts, too.
    let chain = |year| format!("{}{}", expiring(year), authority.pem());
    let (first, secret) = (chain(2040), key.serialize_pem());
    let mut folder = None;
    let mut service = Service::start(
        |path, config| {
            let config = with_tls(&authority)(path, config);
            std::fs::write(path.join("tls.pem"), &first).unwrap();
            std::fs::write(path.join("key.pem"), &secret).unwrap();
            folder = Some(path.to_owned());
            config
        },
        &[],
    );
    service.wait_for("ready");
    let name = "keybound_tls_certificate_not_after_timestamp_seconds";
    let series = |file, position| format!("{name}{{file=\"{file}\",position=\"{position}\"}}");
    service.reaches_metric(&series("certificate_file", 1), 2_208_988_800.0);
    let of_authority = 67_090_118_400.0;
    service.reaches_metric(&series("certificate_file", 2), of_authority);
    service.reaches_metric(&series("client_ca_file", 1), of_authority);

    let (new, place) = (folder.unwrap().join("new.pem"), "tls.pem");
    std::fs::write(&new, chain(2041)).unwrap();
    std::fs::rename(&new, new.with_file_name(place)).unwrap();
    service.wait_for("configuration reloaded");
    service.reaches_metric(&series("certificate_file", 1), 2_240_611_200.0);
    service.reaches_metric(&series("certificate_file", 2), of_authority);
}

#[tokio::test]
async fn plain_text_is_not_answered() {
    let service = Service::start(with_tls(&authority()), &[]);
    let mut stream = StdTcpStream::connect(&service.ext_authz).unwrap();
    io::Write::write_all(&mut stream, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    // An alert at most.
    drop(stream.read_to_end(&mut answer));
    assert!(answer.len() < 16, "{answer:?}");
}

#[test]
fn a_key_that_is_not_the_certificates_is_told_in_a_line() {
    let (_folder, file) = folder(|folder, config| {
        let config = with_tls(&authority())(folder, config);
        let other = KeyPair::generate().unwrap().serialize_pem();
        std::fs::write(folder.join("key.pem"), other).unwrap();
        config
    });
    let ended = keybound().arg("serve").arg("--config").arg(&file).output().unwrap();
    assert_eq!(ended.status.code(), Some(1));
    assert_eq!(String::from_utf8(ended.stderr).unwrap().lines().count(), 1);
}
