//! What a test has for the control plane besides the files of `deploy/istio`.

use super::proxy::Workload;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use keybound::commands::demo::pki::{Authority, Identity};
use serde_json::{Value, json};
use std::net::SocketAddr;

/// The service of a workload on this machine, with its ports, their protocols and where they lead.
pub(crate) fn service_entry(
    workload: Workload,
    at: &[Option<(u16, &str, SocketAddr)>],
    in_mesh: bool,
) -> Value {
    let (name, namespace) = (workload.name(), workload.namespace());
    let at = || at.iter().flatten();
    let ports = at().map(|(number, name, _)| {
        json!({"number": number, "name": name, "protocol": name.to_uppercase()})
    });
    let leads: serde_json::Map<_, _> =
        at().map(|(_, name, to)| ((*name).to_owned(), to.port().into())).collect();
    let address = at().map(|(.., to)| to.ip().to_string()).next();
    let mut endpoint = json!({"address": address, "ports": leads});
    if in_mesh {
        endpoint["labels"] = json!({"security.istio.io/tlsMode": "istio"});
        endpoint["serviceAccount"] = workload.account().into();
    }
    json!({
        "apiVersion": "networking.istio.io/v1", "kind": "ServiceEntry",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {
            "hosts": [format!("{name}.{namespace}.svc.cluster.local")],
            "location": "MESH_INTERNAL", "resolution": "STATIC",
            "ports": ports.collect::<Vec<_>>(), "endpoints": [endpoint],
        },
    })
}

/// Where the proxy of a workload listens, since nothing diverts connections to it here.
pub(crate) fn sidecar(
    workload: Workload,
    inbound: SocketAddr,
    to: SocketAddr,
    outbound: SocketAddr,
) -> Value {
    let protocol = if workload == Workload::Keybound { "GRPC" } else { "HTTP" };
    json!({
        "apiVersion": "networking.istio.io/v1", "kind": "Sidecar",
        "metadata": {"name": workload.name(), "namespace": workload.namespace()},
        "spec": {
            "workloadSelector": {"labels": workload.labels()},
            "ingress": [{
                "port": {"number": inbound.port(), "name": "inbound", "protocol": protocol},
                "bind": inbound.ip().to_string(), "defaultEndpoint": to.to_string(),
            }],
            "egress": [{
                "port": {"number": outbound.port(), "name": "outbound", "protocol": "HTTP_PROXY"},
                "bind": outbound.ip().to_string(), "hosts": ["keybound/*"],
            }],
        },
    })
}

/// The Secret that gateway.yaml names.
pub(crate) fn secret(authority: &Authority, server: &Identity) -> Value {
    let encoded = |it: String| STANDARD.encode(it);
    json!({
        "apiVersion": "v1", "kind": "Secret",
        "metadata": {"name": "api-tls", "namespace": "istio-system"},
        "data": {
            "tls.crt": encoded(server.certificate_pem()), "tls.key": encoded(server.key_pem()),
            "ca.crt": encoded(authority.certificate_pem()),
        },
    })
}
