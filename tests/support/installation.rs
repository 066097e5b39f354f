//! A whole installation: clients, a real Envoy, the real service, an upstream that tells what
//! it saw.

#[path = "built_module.rs"]
mod built_module;

use super::programs::provisioned;
use super::tokens::Signer;
pub(crate) use built_module::module;
use jsonwebtoken::Algorithm;
use keybound::clock::{Clock, SystemClock};
use keybound::commands::demo::envoy::{Authorizer, Edge, Envoy, Listener};
use keybound::commands::demo::pki::{Authority, Identity};
use keybound::commands::demo::service::Service;
use keybound::commands::demo::upstream;
use rcgen::KeyPair;
use reqwest::header::HeaderMap;
use reqwest::{Client, StatusCode, Version};
use serde_json::{Value, json};
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

/// The URI in the certificate of the client `proxy`.
pub(crate) const PROXY: &str = "spiffe://demo.test/clients/proxy";

pub(crate) const ISSUER: &str = "https://as.example.com";
pub(crate) const AUDIENCE: &str = "https://api.example.com";

/// How long an answer may take: whatever hangs, the test does not.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Everything that runs for one test, and ends with it.
pub(crate) struct Installation {
    pub(crate) authority: Arc<Authority>,
    pub(crate) signer: Signer,
    pub(crate) services: Vec<Option<Service>>,
    envoy: Envoy,
    calls: usize,
    directory: TempDir,
    _upstream: JoinSet<()>,
}

/// Where requests go that were let through.
pub(crate) struct Upstream {
    pub(crate) address: SocketAddr,
    /// Whether it speaks HTTP/2.
    pub(crate) http2: bool,
    /// What runs it. It ends with this.
    pub(crate) tasks: JoinSet<()>,
}

/// A listener of Envoy's, and the service that it asks.
pub(crate) struct Door {
    pub(crate) name: &'static str,
    /// `client_certificate` of the service's configuration.
    pub(crate) source: &'static str,
    /// Envoy's `forward_client_cert_details`.
    pub(crate) forward_client_cert: &'static str,
    pub(crate) certificate_required: bool,
    /// How Envoy asks.
    pub(crate) way: Way,
}

/// How Envoy asks about a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// A service over gRPC.
    Grpc,
    /// A service over HTTP.
    Http,
    /// The module inside it; this is the name of the Envoy among the provisioned programs.
    Inside(&'static str),
}

/// A request to Envoy.
pub(crate) struct Call<'a> {
    pub(crate) door: &'a str,
    pub(crate) http: Version,
    pub(crate) identity: Option<&'a Identity>,
    pub(crate) path: &'a str,
    pub(crate) headers: Vec<(&'a str, String)>,
}

/// What came of it.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Value,
    /// The entry of Envoy's access log.
    pub(crate) logged: Value,
}

impl Installation {
    /// Starts all of it, with a service for each door.
    pub(crate) async fn start(doors: &[Door]) -> Self {
        Self::start_with(doors, |_, _| {}).await
    }

    /// The same, with services whose configuration is edited. The files that it names are for the
    /// edit to write, into the directory that it gets.
    pub(crate) async fn start_with(doors: &[Door], edit: impl Fn(&Path, &mut Value)) -> Self {
        Self::of(new_authority(), doors, edit).await
    }

    /// The same, for clients with certificates of this authority.
    pub(crate) async fn of(
        authority: Arc<Authority>,
        doors: &[Door],
        edit: impl Fn(&Path, &mut Value),
    ) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut tasks = JoinSet::new();
        tasks.spawn(upstream::echo().serve(listener));
        let upstream = Upstream { address, http2: false, tasks };
        Self::begin(authority, upstream, doors, edit).await
    }

    /// The same, with another upstream than the one that tells what it saw.
    pub(crate) async fn in_front_of(
        upstream: Upstream,
        doors: &[Door],
        edit: impl Fn(&Path, &mut Value),
    ) -> Self {
        Self::begin(new_authority(), upstream, doors, edit).await
    }

    async fn begin(
        authority: Arc<Authority>,
        upstream: Upstream,
        doors: &[Door],
        edit: impl Fn(&Path, &mut Value),
    ) -> Self {
        let directory = TempDir::new().unwrap();
        let write = |name: &str, text: &str| {
            let path = directory.path().join(name);
            fs::write(&path, text).unwrap();
            path
        };
        let server = authority.server(&["localhost", "127.0.0.1"]).unwrap();
        write("ca.pem", &authority.certificate_pem());
        write("edge.pem", &server.certificate_pem());
        write("edge.key", &server.key_pem());
        let signer = Signer::new(Algorithm::ES256, "test");
        let jwks = write("jwks.json", &json!({"keys": [signer.jwk()]}).to_string());

        let mut services = vec![];
        let mut listeners = vec![];
        for door in doors {
            let socket = directory.path().join(format!("{}.sock", door.name));
            let mut config = configuration(&socket, &jwks, door.source);
            edit(directory.path(), &mut config);
            let config = write(&format!("{}.yaml", door.name), &config.to_string());
            let service = match door.way {
                Way::Grpc | Way::Http => Some(serve(&config).await),
                Way::Inside(_) => None,
            };
            let address = |name| service.as_ref().unwrap().address(name).unwrap().parse().unwrap();
            let authorizer = match door.way {
                Way::Grpc => Authorizer::Unix(socket),
                Way::Http => Authorizer::Http(address("forward_auth")),
                Way::Inside(_) => Authorizer::Module(config),
            };
            services.push(service);
            listeners.push(Listener {
                name: door.name,
                authorizer,
                forward_client_cert: door.forward_client_cert,
                certificate_required: door.certificate_required,
            });
        }
        let inside = doors.iter().find_map(|it| match it.way {
            Way::Inside(envoy) => Some(envoy),
            Way::Grpc | Way::Http => None,
        });
        let edge = Edge {
            listeners,
            module: inside.map(|_| module()),
            upstream: upstream.address,
            upstream_http2: upstream.http2,
            directory: directory.path().to_owned(),
        };
        let binary = provisioned(inside.unwrap_or("envoy"));
        let envoy = Envoy::start(&binary, &edge, &plain_client()).await.unwrap();
        Self { authority, signer, services, envoy, calls: 0, directory, _upstream: upstream.tasks }
    }

    /// Stops the service behind the door `index`, at once.
    pub(crate) fn stop(&mut self, index: usize) {
        self.services[index] = None;
    }

    /// Starts it again.
    pub(crate) async fn restart(&mut self, index: usize, door: &Door) {
        self.restart_by(Path::new(env!("CARGO_BIN_EXE_keybound")), index, door).await;
    }

    /// Starts it again, by a program that starts it.
    pub(crate) async fn restart_by(&mut self, program: &Path, index: usize, door: &Door) {
        self.stop(index);
        let config = self.directory.path().join(format!("{}.yaml", door.name));
        self.services[index] = Some(serve_by(program, &config).await);
    }

    /// A client of the authority, with a new P-256 key.
    pub(crate) fn client(&self, name: &str) -> Identity {
        self.authority.client(name, KeyPair::generate().unwrap()).unwrap()
    }

    /// A token that is in order and bound to `identity`.
    pub(crate) fn token(&self, identity: &Identity) -> String {
        self.signer.sign("at+jwt", &claims(identity))
    }

    /// The URL of `path` behind a door.
    pub(crate) fn url(&self, door: &str, path: &str) -> String {
        format!("https://{}{path}", self.envoy.address(door).unwrap())
    }

    /// Makes `call`. An error is one of the connection: there was no answer.
    pub(crate) async fn call(&mut self, call: &Call<'_>) -> Result<Outcome, reqwest::Error> {
        self.calls += 1;
        let scenario = self.calls.to_string();
        let url = self.url(call.door, call.path);
        let mut request = self.https_client(call).get(url).header("x-scenario", &scenario);
        for (name, value) in &call.headers {
            request = request.header(*name, value);
        }
        let response = request.send().await?;
        assert_eq!(response.version(), call.http);
        let status = response.status();
        let headers = response.headers().clone();
        let body = serde_json::from_slice(&response.bytes().await?).unwrap_or_default();
        let logged = self.envoy.access(&scenario).await.unwrap();
        Ok(Outcome { status, headers, body, logged })
    }

    pub(crate) fn https_client(&self, call: &Call<'_>) -> Client {
        let ca = self.authority.certificate_pem();
        let ca = reqwest::Certificate::from_pem(ca.as_bytes()).unwrap();
        let mut builder = Client::builder().no_proxy().timeout(TIMEOUT).tls_certs_only([ca]);
        if call.http == Version::HTTP_11 {
            builder = builder.http1_only();
        }
        if let Some(identity) = call.identity {
            let pem = identity.certificate_pem() + &identity.key_pem();
            builder = builder.identity(reqwest::Identity::from_pem(pem.as_bytes()).unwrap());
        }
        builder.build().unwrap()
    }
}

impl Outcome {
    /// The reason that the service gave to Envoy.
    pub(crate) fn reason(&self) -> &str {
        self.logged["reason"].as_str().unwrap_or_default()
    }

    /// The header `name` as the upstream saw it; nothing when it did not.
    pub(crate) fn seen(&self, name: &str) -> Vec<&str> {
        let values = self.body["headers"][name].as_array().map(Vec::as_slice).unwrap_or_default();
        values.iter().map(|it| it.as_str().unwrap()).collect()
    }
}

/// Claims that are in order, for a token that is bound to `identity`.
pub(crate) fn claims(identity: &Identity) -> Value {
    let now = SystemClock.now().as_secs();
    json!({
        "iss": ISSUER, "aud": AUDIENCE, "sub": "alice", "client_id": "app", "scope": "read write",
        "iat": now, "exp": now + 300,
        "cnf": {"x5t#S256": identity.thumbprint().to_base64url()},
    })
}

fn new_authority() -> Arc<Authority> {
    Arc::new(Authority::new("test authority").unwrap())
}

async fn serve(config: &Path) -> Service {
    serve_by(Path::new(env!("CARGO_BIN_EXE_keybound")), config).await
}

async fn serve_by(program: &Path, config: &Path) -> Service {
    let mut service = Service::start(program, config).await.unwrap();
    service.ready(&plain_client()).await.unwrap();
    service
}

fn plain_client() -> Client {
    Client::builder().no_proxy().timeout(TIMEOUT).build().unwrap()
}

fn configuration(socket: &Path, jwks: &Path, source: &str) -> Value {
    let client_certificate = match source {
        "xfcc" => json!({"source": "xfcc", "xfcc": {"behind": []}}),
        "behind" => json!({"source": "xfcc", "xfcc": {"behind": [PROXY]}}),
        source => json!({"source": source}),
    };
    json!({
        "listen": {
            "ext_authz": format!("unix:{}", socket.display()),
            "forward_auth": "127.0.0.1:0",
            "admin": "127.0.0.1:0",
        },
        "forward_auth": {"flavour": "envoy", "path_prefix": "/check"},
        "issuers": [{"issuer": ISSUER, "audiences": [AUDIENCE], "keys": {"jwks_file": jwks}}],
        "client_certificate": client_certificate,
        "policies": [
            {
                "name": "admin", "match": {"path_prefix": "/admin"},
                "sender_constraint": "certificate", "scopes": ["admin"],
            },
            {"name": "rest", "sender_constraint": "certificate"},
        ],
        "limits": {"check_deadline": "900ms"},
        "upstream": {"headers": {
            "x-auth-subject": "sub", "x-auth-client-id": "client_id", "x-auth-tenant": "tenant",
        }},
    })
}
