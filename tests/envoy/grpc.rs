//! gRPC calls, by a client and to a server that are not ours.

use super::OPTIONAL;
use super::dpop::{client_of, demand_dpop};
use super::installation::{Installation, Upstream};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use http::Uri;
use hyper_util::rt::TokioIo;
use keybound::commands::demo::pki::Authority;
use keybound_core::Denial;
use serde_json::json;
use std::io;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::crypto::aws_lc_rs::default_provider;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Code, Request, Response, Status};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

const METHOD: &str = "/grpc.health.v1.Health/Check";

#[tokio::test]
async fn a_call_needs_a_proof_for_its_method_and_a_refusal_is_a_grpc_status() {
    let more = json!({});
    let edit = |_: &_, config: &mut _| demand_dpop(config, &more);
    let it = Installation::in_front_of(health_server().await, &[OPTIONAL], edit).await;
    let channel = connect(&it.url("optional", ""), &it.authority).await;
    let client = client_of(&it);
    let authorization = format!("DPoP {}", client.token);
    let url = it.url("optional", METHOD);
    let ask = async |proof: Option<String>| {
        let mut headers = vec![("authorization", authorization.clone())];
        headers.extend(proof.map(|it| ("dpop", it)));
        health(&channel, &headers).await
    };

    let proof = client.proof("POST", &url);
    let answer = ask(Some(proof.clone())).await.unwrap().into_inner();
    assert_eq!(answer.status(), ServingStatus::Serving);
    refused(ask(Some(proof)).await, Denial::ProofReplayed);
    refused(ask(None).await, Denial::ProofMissing);
    refused(ask(Some(client.proof("GET", &url))).await, Denial::ProofMethodMismatch);
    let elsewhere = it.url("optional", "/grpc.health.v1.Health/Watch");
    refused(ask(Some(client.proof("POST", &elsewhere))).await, Denial::ProofTargetMismatch);
    refused(health(&channel, &[]).await, Denial::CredentialsMissing);
}

#[track_caller]
fn refused(outcome: Result<Response<HealthCheckResponse>, Status>, denial: Denial) {
    let status = outcome.unwrap_err();
    assert_eq!(status.code(), Code::Unauthenticated, "{status:?}");
    assert!(status.message().contains(denial.sentence()), "{status:?}");
    let challenge = status.metadata().get("www-authenticate").unwrap().to_str().unwrap();
    assert!(challenge.starts_with("DPoP "), "{challenge}");
    if let Some(error) = denial.error() {
        assert!(challenge.contains(error.code()), "{challenge}");
    }
}

async fn health(
    channel: &Channel,
    headers: &[(&'static str, String)],
) -> Result<Response<HealthCheckResponse>, Status> {
    let mut request = Request::new(HealthCheckRequest::default());
    for (name, value) in headers {
        request.metadata_mut().insert(*name, value.parse().unwrap());
    }
    HealthClient::new(channel.clone()).check(request).await
}

/// A server that says of itself that it is well.
async fn health_server() -> Upstream {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (_, health) = tonic_health::server::health_reporter();
    let mut tasks = JoinSet::new();
    tasks.spawn(async {
        Server::builder().serve_with_incoming(health, TcpIncoming::from(listener)).await.unwrap();
    });
    Upstream { address, http2: true, tasks }
}

async fn connect(origin: &str, authority: &Authority) -> Channel {
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
