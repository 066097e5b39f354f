//! An Envoy as a proxy of the mesh: its bootstrap is that of Istio's agent where that matters, and all else
//! comes from the control plane.

use crate::programs::provisioned;
use keybound::commands::demo::envoy::Envoy;
use reqwest::Client;
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};

/// Who has a proxy in the mesh.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Workload {
    Gateway,
    Api,
    Keybound,
}

impl Workload {
    /// Its name, and that of its service.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Gateway => "istio-ingressgateway",
            Self::Api => "api",
            Self::Keybound => "keybound",
        }
    }

    pub(crate) fn namespace(self) -> &'static str {
        match self {
            Self::Gateway => "istio-system",
            Self::Api => "default",
            Self::Keybound => "keybound",
        }
    }

    /// Its service account.
    pub(crate) fn account(self) -> &'static str {
        match self {
            Self::Gateway => "istio-ingressgateway-service-account",
            Self::Api | Self::Keybound => self.name(),
        }
    }

    pub(crate) fn labels(self) -> Value {
        match self {
            Self::Gateway => json!({"istio": "ingressgateway"}),
            Self::Api => json!({"app": "api"}),
            Self::Keybound => json!({"app.kubernetes.io/name": "keybound"}),
        }
    }

    pub(crate) fn spiffe(self) -> String {
        format!("spiffe://cluster.local/ns/{}/sa/{}", self.namespace(), self.account())
    }

    /// Its address, of which the control plane thinks that no service is there.
    fn address(self) -> &'static str {
        match self {
            Self::Gateway => "127.0.0.2",
            Self::Api => "127.0.0.3",
            Self::Keybound => "127.0.0.4",
        }
    }
}

/// A running proxy.
pub(crate) struct Proxy {
    envoy: Envoy,
    directory: PathBuf,
}

impl Proxy {
    /// Starts it, and waits until it has all that the control plane has for it, or says why it has not.
    pub(crate) async fn start(
        workload: Workload,
        listens: &Value,
        files: &Path,
    ) -> Result<Self, String> {
        let directory = files.join(workload.name());
        fs::create_dir(&directory).unwrap();
        let config = directory.join("envoy.json");
        fs::write(&config, bootstrap(workload, listens).to_string()).unwrap();
        let envoy = Envoy::run(&provisioned("envoy"), &config, &client()).await;
        let it = Self { envoy: envoy.map_err(|why| why.to_string())?, directory };
        let stats = it.admin("stats?filter=update_rejected").await;
        match stats.lines().find(|it| !it.ends_with(": 0")) {
            None => Ok(it),
            Some(rejected) => Err(format!("{rejected}\n{}", it.log())),
        }
    }

    /// What its administration interface answers.
    pub(crate) async fn admin(&self, path: &str) -> String {
        let admin = fs::read_to_string(self.directory.join("envoy-admin")).unwrap();
        let answer = client().get(format!("http://{admin}/{path}")).send().await.unwrap();
        answer.error_for_status().unwrap().text().await.unwrap()
    }

    /// All that it is configured with.
    pub(crate) async fn configuration(&self) -> Value {
        serde_json::from_str(&self.admin("config_dump?include_eds").await).unwrap()
    }

    pub(crate) fn log(&self) -> String {
        self.envoy.log()
    }
}

fn client() -> Client {
    Client::builder().no_proxy().build().unwrap()
}

fn bootstrap(workload: Workload, listens: &Value) -> Value {
    let (name, namespace) = (workload.name(), workload.namespace());
    let kind = if workload == Workload::Gateway { "router" } else { "sidecar" };
    let address = workload.address();
    let identity = match listens["token"].as_str() {
        Some(token) => json!({"key": "authorization", "value": format!("Bearer {token}")}),
        None => json!({
            "key": "x-forwarded-client-cert", "value": format!("By=agent;URI={}", workload.spiffe()),
        }),
    };
    json!({
        "node": {
            "id": format!("{kind}~{address}~{name}-1.{namespace}~{namespace}.svc.cluster.local"),
            "cluster": name,
            "metadata": {
                "NAMESPACE": namespace, "SERVICE_ACCOUNT": workload.account(), "CLUSTER_ID": "Kubernetes",
                "ISTIO_VERSION": "1.31.0", "INSTANCE_IPS": address, "LABELS": workload.labels(),
                "INTERCEPTION_MODE": "NONE",
            },
        },
        "dynamic_resources": {
            "ads_config": {
                "api_type": "GRPC", "transport_api_version": "V3", "set_node_on_first_message_only": true,
                "grpc_services": [{
                    "envoy_grpc": {"cluster_name": "xds-grpc"},
                    "initial_metadata": [identity],
                }],
            },
            "lds_config": {"ads": {}, "resource_api_version": "V3", "initial_fetch_timeout": "0s"},
            "cds_config": {"ads": {}, "resource_api_version": "V3", "initial_fetch_timeout": "0s"},
        },
        "static_resources": {
            "clusters": [discovery(listens), cluster("sds-grpc", &listens["secrets"])],
        },
        // As Istio's agent has it.
        "layered_runtime": {"layers": [{"name": "global config", "static_layer": {
            "re2.max_program_size.error_level": "32768",
            "envoy.deprecated_features:envoy.config.listener.v3.Listener.hidden_envoy_deprecated_use_original_dst": true,
            "envoy.reloadable_features.http_reject_path_with_fragment": false,
        }}]},
        "admin": {"address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}}},
    })
}

/// The control plane, which is asked over TLS where it has a certificate.
fn discovery(listens: &Value) -> Value {
    let mut cluster = cluster("xds-grpc", &listens["discovery"]);
    if let Some(root) = listens.get("root") {
        let name = "istiod.istio-system.svc";
        cluster["transport_socket"] = json!({
            "name": "envoy.transport_sockets.tls",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
                "sni": name,
                "common_tls_context": {"alpn_protocols": ["h2"], "validation_context": {
                    "trusted_ca": {"inline_string": root},
                    "match_typed_subject_alt_names": [{"san_type": "DNS", "matcher": {"exact": name}}],
                }},
            },
        });
    }
    cluster
}

/// A server of gRPC on this machine.
fn cluster(name: &str, at: &Value) -> Value {
    let (_, port) = at.as_str().unwrap().rsplit_once(':').unwrap();
    let port: u16 = port.parse().unwrap();
    let options = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
    json!({
        "name": name, "type": "STATIC", "connect_timeout": "5s",
        "typed_extension_protocol_options": {options: {
            "@type": format!("type.googleapis.com/{options}"),
            "explicit_http_config": {"http2_protocol_options": {}},
        }},
        "load_assignment": {"cluster_name": name, "endpoints": [{"lb_endpoints": [{"endpoint": {"address": {
            "socket_address": {"address": "127.0.0.1", "port_value": port},
        }}}]}]},
    })
}
