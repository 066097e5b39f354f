//! A real Envoy in front of an upstream: its bootstrap, its process and its access log.
//!
//! What the bootstrap sets, and why, is what an operator should set too.

use super::Failure;
use super::process::Process;
use serde_json::{Value, json};
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The address of the authorizer.
#[derive(Clone, Debug)]
pub enum Authorizer {
    /// On TCP.
    Tcp(SocketAddr),
    /// On a Unix domain socket.
    Unix(PathBuf),
    /// On TCP, over HTTP in place of gRPC.
    Http(SocketAddr),
    /// Inside Envoy: [`Edge::module`], with the configuration in this file.
    Module(PathBuf),
}

/// A listener with mutual TLS that asks an authorizer about every request.
#[derive(Clone, Debug)]
pub struct Listener {
    /// Its name, for [`Envoy::address`].
    pub name: &'static str,
    /// Its authorizer.
    pub authorizer: Authorizer,
    /// The handling of `x-forwarded-client-cert`: Envoy's `ForwardClientCertDetails`.
    pub forward_client_cert: &'static str,
    /// Whether the handshake fails for clients without a certificate.
    pub certificate_required: bool,
}

/// The setup of an Envoy.
#[derive(Clone, Debug)]
pub struct Edge {
    /// Its listeners.
    pub listeners: Vec<Listener>,
    /// The dynamic module, where a listener has its authorizer inside Envoy.
    pub module: Option<PathBuf>,
    /// The upstream.
    pub upstream: SocketAddr,
    /// Whether the upstream uses HTTP/2, as gRPC must.
    pub upstream_http2: bool,
    /// Holds `edge.pem` and `edge.key`, with which it serves, and `ca.pem`, which its clients'
    /// certificates must come from. Its own files go there as well.
    pub directory: PathBuf,
}

/// An Envoy, running.
#[derive(Debug)]
pub struct Envoy {
    process: Process,
    access_log: PathBuf,
    listeners: Value,
}

impl Envoy {
    /// Starts `binary` and waits until it serves.
    pub async fn start(
        binary: &Path,
        edge: &Edge,
        client: &reqwest::Client,
    ) -> Result<Self, Failure> {
        let config = edge.directory.join("envoy.json");
        fs::write(&config, format!("{:#}\n", edge.bootstrap()))
            .map_err(|cause| Failure::new("writing Envoy's bootstrap", cause))?;
        if let Some(module) = &edge.module {
            link(module, &edge.directory)?;
        }
        Self::run(binary, &config, client).await
    }

    /// Starts `binary` with the bootstrap `config`, which must have an `admin` listener, and waits
    /// until it serves. Its own files go beside `config`.
    pub async fn run(
        binary: &Path,
        config: &Path,
        client: &reqwest::Client,
    ) -> Result<Self, Failure> {
        let directory = config.parent().unwrap_or_else(|| Path::new("/"));
        let admin_address = directory.join("envoy-admin");
        let mut command = Command::new(binary);
        command
            .env("ENVOY_DYNAMIC_MODULES_SEARCH_PATH", directory)
            .args(["--disable-hot-restart", "--concurrency", "1", "--log-level", "warning"])
            .args(["--file-flush-interval-msec", "20"])
            .arg("--admin-address-path")
            .arg(&admin_address)
            .arg("--config-path")
            .arg(config);
        let mut process = Process::start("envoy", &mut command, &directory.join("envoy.log"))?;
        let listeners = process
            .until("live", async |_| {
                let admin = fs::read_to_string(&admin_address).ok()?;
                let ready = client.get(format!("http://{admin}/ready")).send().await.ok()?;
                ready.error_for_status().ok()?;
                let listeners = client.get(format!("http://{admin}/listeners?format=json"));
                serde_json::from_slice(&listeners.send().await.ok()?.bytes().await.ok()?).ok()
            })
            .await?;
        Ok(Self { process, access_log: access_log_below(directory), listeners })
    }

    /// The bound address of the listener `name`.
    pub fn address(&self, name: &str) -> Result<SocketAddr, Failure> {
        let all = self.listeners.get("listener_statuses").and_then(Value::as_array);
        let found = all.into_iter().flatten().find(|it| it.get("name") == Some(&name.into()));
        let socket = found.and_then(|it| it.pointer("/local_address/socket_address"));
        let address = socket.and_then(|it| {
            let ip: IpAddr = it.get("address")?.as_str()?.parse().ok()?;
            let port = it.get("port_value")?.as_u64()?.try_into().ok()?;
            Some(SocketAddr::new(ip, port))
        });
        address.ok_or_else(|| Failure::new("asking Envoy for its listeners", &self.listeners))
    }

    /// The access log's entry about the request that came with `x-scenario: {scenario}`.
    pub async fn access(&mut self, scenario: &str) -> Result<Value, Failure> {
        let log = self.access_log.clone();
        self.process
            .until("logging a request", async |_| {
                let entries = fs::read_to_string(&log).ok()?;
                let entries = entries.lines().filter_map(|it| serde_json::from_str(it).ok());
                entries.into_iter().find(|it: &Value| it.get("scenario") == Some(&scenario.into()))
            })
            .await
    }

    /// Its whole log.
    pub fn log(&self) -> String {
        self.process.words()
    }

    /// An error with the end of its log if it has exited.
    pub fn check(&mut self) -> Result<(), Failure> {
        self.process.check()
    }
}

impl Edge {
    fn bootstrap(&self) -> Value {
        let address = |it: SocketAddr| json!({"address": it.ip(), "port_value": it.port()});
        let upstream = json!({"socket_address": address(self.upstream)});
        // gRPC is HTTP/2, which Envoy must be configured for.
        let h2 = json!({"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
            "explicit_http_config": {"http2_protocol_options": {}},
        }});
        let usual = json!({});
        let protocol = if self.upstream_http2 { &h2 } else { &usual };
        let mut clusters = vec![cluster("upstream", &upstream, protocol)];
        for listener in &self.listeners {
            let (authorizer, protocol) = match &listener.authorizer {
                Authorizer::Tcp(it) => (json!({"socket_address": address(*it)}), &h2),
                Authorizer::Http(it) => (json!({"socket_address": address(*it)}), &usual),
                Authorizer::Unix(path) => (json!({"pipe": {"path": path}}), &h2),
                Authorizer::Module(_) => continue,
            };
            clusters.push(cluster(&listener.cluster(), &authorizer, protocol));
        }
        json!({
            "admin": {"address": any_port()},
            "static_resources": {
                "listeners": self.listeners.iter().map(|it| it.config(self)).collect::<Value>(),
                "clusters": clusters,
            },
        })
    }
}

impl Listener {
    fn cluster(&self) -> String {
        format!("authorizer-{}", self.name)
    }

    fn config(&self, edge: &Edge) -> Value {
        json!({
            "name": self.name,
            "address": any_port(),
            "filter_chains": [{"transport_socket": self.tls(edge), "filters": [{
                "name": "envoy.filters.network.http_connection_manager",
                "typed_config": self.connection_manager(edge),
            }]}],
        })
    }

    fn tls(&self, edge: &Edge) -> Value {
        let file = |name| json!({"filename": edge.directory.join(name)});
        json!({"name": "envoy.transport_sockets.tls", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
            "require_client_certificate": self.certificate_required,
            "common_tls_context": {
                "alpn_protocols": ["h2", "http/1.1"],
                // Ed25519 is not in Envoy's default list, and a client with such a certificate
                // would silently send none.
                "tls_params": {"signature_algorithms": [
                    "ecdsa_secp256r1_sha256", "rsa_pss_rsae_sha256", "ecdsa_secp384r1_sha384",
                    "rsa_pss_rsae_sha384", "rsa_pss_rsae_sha512", "rsa_pkcs1_sha256", "ed25519",
                ]},
                "tls_certificates": [
                    {"certificate_chain": file("edge.pem"), "private_key": file("edge.key")},
                ],
                "validation_context": {"trusted_ca": file("ca.pem")},
            },
        }})
    }

    fn connection_manager(&self, edge: &Edge) -> Value {
        json!({
            "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
            "stat_prefix": self.name,
            // The checked request must be the one that the upstream sees: the scheme comes from
            // Envoy, not from the client, and a path has one spelling.
            "use_remote_address": true,
            "scheme_header_transformation": {"scheme_to_overwrite": "https"},
            "normalize_path": true,
            "merge_slashes": true,
            "path_with_escaped_slashes_action": "REJECT_REQUEST",
            "strip_trailing_host_dot": true,
            "common_http_protocol_options": {"headers_with_underscores_action": "REJECT_REQUEST"},
            "forward_client_cert_details": self.forward_client_cert,
            "set_current_client_cert_details": {"cert": true, "uri": true},
            "access_log": [access_log(edge)],
            "upgrade_configs": [{"upgrade_type": "websocket"}],
            "http_filters": [self.authorization(), {
                "name": "envoy.filters.http.router",
                "typed_config": {"@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router"},
            }],
            "route_config": {"virtual_hosts": [{
                "name": "all",
                "domains": ["*"],
                "routes": [{"match": {"prefix": "/"}, "route": self.route()}],
            }]},
        })
    }

    /// Where streams end with their token, the authorizer says when by `grpc-timeout`; the module ends them
    /// itself.
    fn route(&self) -> Value {
        let mut route = json!({"cluster": "upstream"});
        if !matches!(self.authorizer, Authorizer::Module(_))
            && let Some(route) = route.as_object_mut()
        {
            let limit = json!({"grpc_timeout_header_max": "0s"});
            route.extend([("max_stream_duration".to_owned(), limit)]);
        }
        route
    }

    fn authorization(&self) -> Value {
        match &self.authorizer {
            Authorizer::Tcp(_) | Authorizer::Unix(_) => self.ext_authz_over_grpc(),
            Authorizer::Http(_) => self.ext_authz_over_http(),
            Authorizer::Module(config) => module(config),
        }
    }

    fn ext_authz_over_http(&self) -> Value {
        let named = |names: &[&str]| {
            let patterns = names.iter().map(|it| json!({"exact": it})).collect::<Value>();
            json!({"patterns": patterns})
        };
        json!({"name": "envoy.filters.http.ext_authz", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthz",
            "transport_api_version": "V3",
            "http_service": {
                "server_uri": {"uri": "http://keybound", "cluster": self.cluster(), "timeout": "1s"},
                "path_prefix": "/check",
                "authorization_response": {
                    "allowed_upstream_headers":
                        {"patterns": [{"prefix": "x-auth-"}, {"exact": "grpc-timeout"}]},
                    "allowed_client_headers": named(&[
                        "www-authenticate", "dpop-nonce", "retry-after", "cache-control",
                        "content-type",
                    ]),
                    "allowed_client_headers_on_success": named(&["dpop-nonce"]),
                },
            },
            // The certificate travels in a header, which Envoy itself writes.
            "allowed_headers": named(&[
                "authorization", "dpop", "grpc-timeout", "x-forwarded-client-cert",
                "x-forwarded-proto",
            ]),
            // The route then has its time limit from the headers that were set.
            "clear_route_cache": true,
            "failure_mode_allow": false,
            "status_on_error": {"code": "ServiceUnavailable"},
        }})
    }

    fn ext_authz_over_grpc(&self) -> Value {
        json!({"name": "envoy.filters.http.ext_authz", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.ext_authz.v3.ExtAuthz",
            "transport_api_version": "V3",
            "grpc_service": {
                "envoy_grpc": {"cluster_name": self.cluster()},
                // Generous, for a busy machine; longer than the authorizer's own deadline.
                "timeout": "1s",
                // Only attempts that the authorizer cannot have seen: a second check of the same
                // DPoP proof would be a replay.
                "retry_policy": {"retry_on": "connect-failure,refused-stream", "num_retries": 1},
            },
            "failure_mode_allow": false,
            // Otherwise clients see a 403 during an outage.
            "status_on_error": {"code": "ServiceUnavailable"},
            "include_peer_certificate": true,
            // A repeated header must be seen as repeated.
            "encode_raw_headers": true,
            "validate_mutations": true,
            // The route then has its time limit from the headers that were set.
            "clear_route_cache": true,
            "decoder_header_mutation_rules": {
                "disallow_all": true,
                "allow_expression": {
                    "regex": "^(x-auth-[a-z0-9-]+|authorization|dpop|grpc-timeout)$",
                },
            },
        }})
    }
}

/// The filter inside Envoy, with the configuration in this file.
fn module(config: &Path) -> Value {
    json!({"name": "keybound", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.filters.http.dynamic_modules.v3.DynamicModuleFilter",
        "dynamic_module_config": {"name": MODULE, "do_not_close": true},
        "filter_name": "keybound",
        "filter_config": {
            "@type": "type.googleapis.com/google.protobuf.StringValue",
            "value": config,
        },
    }})
}

/// The name by which Envoy looks for the module, in a file `lib….so`.
const MODULE: &str = "keybound_envoy";

/// Puts the module into `directory` under the name by which Envoy looks for it.
fn link(module: &Path, directory: &Path) -> Result<(), Failure> {
    let failure =
        |cause| Failure::new(format_args!("finding the module {}", module.display()), cause);
    let module = module.canonicalize().map_err(failure)?;
    std::os::unix::fs::symlink(module, directory.join(format!("lib{MODULE}.so"))).map_err(failure)
}

fn cluster(name: &str, address: &Value, options: &Value) -> Value {
    json!({
        "name": name,
        "type": "STATIC",
        "connect_timeout": "0.25s",
        "typed_extension_protocol_options": options,
        "load_assignment": {
            "cluster_name": name,
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address}}]}],
        },
    })
}

fn access_log_below(directory: &Path) -> PathBuf {
    directory.join("access.log")
}

fn access_log(edge: &Edge) -> Value {
    json!({"name": "envoy.access_loggers.file", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog",
        "path": access_log_below(&edge.directory),
        "log_format": {"json_format": {
            "scenario": "%REQ(X-SCENARIO)%",
            "protocol": "%PROTOCOL%",
            "code": "%RESPONSE_CODE%",
            "details": "%RESPONSE_CODE_DETAILS%",
            "decision": "%DYNAMIC_METADATA(envoy.filters.http.ext_authz:decision)%",
            "reason": "%DYNAMIC_METADATA(envoy.filters.http.ext_authz:reason)%",
            "policy": "%DYNAMIC_METADATA(envoy.filters.http.ext_authz:policy)%",
            "sender_constraint": "%DYNAMIC_METADATA(envoy.filters.http.ext_authz:sender_constraint)%",
        }},
    }})
}

fn any_port() -> Value {
    json!({"socket_address": {"address": "127.0.0.1", "port_value": 0}})
}
