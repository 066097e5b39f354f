//! The check at the sidecar of the API, behind the gateway; and keybound behind a sidecar of its own.

use super::mesh::{HOST, Mesh, Plan, istio};
use super::proxy::Workload;
use crate::dpop_client::DpopClient;
use crate::verbatim::Verbatim;
use http::Version;
use keybound_core::Denial;
use std::net::SocketAddr;

/// A workload of the mesh that talks to another one without any proxy.
fn workload(it: &Mesh, address: SocketAddr, spiffe: &str) -> Verbatim<'static> {
    let (certificate, key) = it.workloads.certificate(spiffe);
    let authority = it.workloads.certificate_pem();
    let identity = Some(certificate + &key);
    Verbatim { http: Version::HTTP_2, address, host: HOST, authority, identity }
}

#[tokio::test]
async fn behind_istios_gateway_the_client_is_the_one_that_the_gateway_tells_of() {
    let Some(it) = Plan::at_the_sidecar().start().await else { return };
    let [client, thief] = ["client", "thief"].map(|name| it.client(name));
    let token = it.bearer(&client, "");
    let forged = format!("Hash={}", client.thumbprint().to_hex());
    let headers = [("authorization", token.as_str()), ("x-forwarded-client-cert", &forged)];
    let seen = it.passes(&client, "/", &headers).await;
    let elements = seen["x-forwarded-client-cert"][0].as_str().unwrap();
    let hops: Vec<_> = elements.split(',').collect();
    assert_eq!(hops.len(), 2, "{elements}");
    assert!(hops[0].contains(&client.thumbprint().to_hex()), "{elements}");
    assert!(hops[1].contains(&Workload::Gateway.spiffe()), "{elements}");
    it.refuses(Denial::CertificateMismatch, &thief, "/", &headers).await;
    it.refuses(Denial::CredentialsMissing, &client, "/", &[]).await;
}

#[tokio::test]
async fn at_istios_sidecar_no_other_workload_tells_of_a_client() {
    let Some(it) = Plan::at_the_sidecar().start().await else { return };
    let client = it.client("client");
    let token = it.bearer(&client, "");
    let told = format!("Hash={}", client.thumbprint().to_hex());
    let headers = [("authorization", token.as_str()), ("x-forwarded-client-cert", &told)];
    let other = workload(&it, it.api, "spiffe://cluster.local/ns/default/sa/other");
    for headers in [&headers[..], &headers[..1]] {
        let answer = other.get("/", headers).await.unwrap();
        let body = String::from_utf8_lossy(answer.body()).into_owned();
        assert_eq!(answer.status(), 401, "{body}");
        assert!(body.contains(Denial::CertificateConflict.sentence()), "{body}");
    }
    let gateway = workload(&it, it.api, &Workload::Gateway.spiffe());
    assert_eq!(gateway.get("/", &headers).await.unwrap().status(), 200);
    let anybody = Verbatim { identity: None, ..gateway };
    assert!(anybody.get("/", &headers).await.is_err(), "as the PeerAuthentication says");
}

#[tokio::test]
async fn where_istios_gateway_asks_no_certificate_the_sidecar_does_not_take_the_gateway_for_the_client()
 {
    let plan = Plan::at_the_sidecar().with(|it| {
        it.object("Gateway")["spec"]["servers"][0]["tls"]["mode"] = "SIMPLE".into();
    });
    let Some(it) = plan.start().await else { return };
    let client = it.client("client");
    let token = it.bearer(&client, "");
    let told = format!("Hash={}", client.thumbprint().to_hex());
    let headers = [("authorization", token.as_str()), ("x-forwarded-client-cert", &told)];
    it.refuses(Denial::CertificateConflict, &client, "/", &headers).await;
}

#[tokio::test]
async fn a_proof_that_is_checked_at_istios_gateway_and_at_the_sidecar_is_a_repeat() {
    let twice = |it: &mut Plan| {
        it.keybound["policies"][0]["sender_constraint"] = "dpop".into();
    };
    for (both, plan) in [
        (false, Plan::at_the_sidecar().with(twice)),
        (true, Plan::at_the_sidecar().and(&istio("gateway.yaml")).with(twice)),
    ] {
        let Some(it) = plan.start().await else { return };
        let client = it.client("client");
        let bound = DpopClient::new(|cnf| it.issue(&cnf, ""));
        let proof = bound.proof("GET", &format!("https://{HOST}:{}/", it.address.port()));
        let token = format!("DPoP {}", bound.token);
        let headers = [("authorization", token.as_str()), ("dpop", &proof)];
        if both {
            it.refuses(Denial::ProofReplayed, &client, "/", &headers).await;
        } else {
            it.passes(&client, "/", &headers).await;
        }
    }
}

#[tokio::test]
async fn in_istios_mesh_nobody_but_the_gateway_may_ask_keybound() {
    let plan = Plan::at_the_gateway()
        .and(&istio("keybound-access.yaml"))
        .with(|it| it.sidecars.push(Workload::Keybound));
    let Some(it) = plan.start().await else { return };
    let client = it.client("client");
    let token = it.bearer(&client, "payments");
    it.passes(&client, "/docs", &[("authorization", token.as_str())]).await;
    let check = "/envoy.service.auth.v3.Authorization/Check";
    let gateway = workload(&it, it.keybound, &Workload::Gateway.spiffe());
    let other = workload(&it, it.keybound, "spiffe://cluster.local/ns/istio-system/sa/other");
    // PERMISSION_DENIED is 7.
    for (who, denied) in [(&gateway, false), (&other, true)] {
        let headers = [("content-type", "application/grpc"), ("te", "trailers")];
        let answer = who.ask("POST", check, &headers).await.unwrap();
        let status = answer.headers().get("grpc-status").map(|it| it.to_str().unwrap());
        assert_eq!(status == Some("7"), denied, "{answer:?}\n{}", it.told());
    }
    let anybody = Verbatim { identity: None, ..gateway };
    assert!(anybody.ask("POST", check, &[]).await.is_err(), "as the PeerAuthentication says");
}
