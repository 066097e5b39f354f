//! gRPC calls, by a client and to a server that are not ours.

use super::OPTIONAL;
use super::channel::connect;
use super::dpop::{client_of, demand_dpop};
use super::installation::{Installation, Upstream};
use keybound_core::Denial;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{Channel, Server};
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
