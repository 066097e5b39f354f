//! A real SPIRE, one for each test: a server, an agent, and the identities that workloads get of it.

use crate::at_hand;
use crate::program::Running;
use keybound::commands::demo::pki::Authority;
use keybound_core::jose::Thumbprint;
use reqwest::{Certificate, Client};
use serde_json::Value;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;
use tempfile::TempDir;
use tokio::time::{Instant, sleep};
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::pki_types::pem::PemObject;

/// How long an identity may be on its way from the server to the workload.
const PATIENCE: Duration = Duration::from_secs(120);
/// The identity of the agent, which is the parent of all others.
const AGENT: &str = "spiffe://example.org/agent";

/// SPIRE. It ends with this.
pub(crate) struct Spire {
    /// The folder of its programs.
    programs: PathBuf,
    /// Where its keys are published, which is what JWT-SVIDs have as their issuer.
    pub(crate) issuer: String,
    running: Vec<Running>,
    directory: TempDir,
}

/// An X.509-SVID with its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Svid {
    /// The certificate and the key.
    pub(crate) pem: String,
}

impl Svid {
    /// What a token that is bound to it has in `x5t#S256`.
    pub(crate) fn thumbprint(&self) -> Thumbprint {
        Thumbprint::of(&CertificateDer::from_pem_slice(self.pem.as_bytes()).unwrap())
    }
}

impl Spire {
    /// A new one; nothing, and a line that says why, where it is not to be had.
    pub(crate) async fn start() -> Option<Self> {
        let programs = at_hand("spire-server")?.parent().unwrap().to_owned();
        let directory = TempDir::new().unwrap();
        let [server, discovery] = [free_address(), free_address()];
        let issuer = format!("https://{discovery}");
        let mut it = Self { programs, issuer, running: vec![], directory };
        let config = it.write("server.conf", &server_config(&it, server));
        it.run("spire-server", &["run", "-config", &config], "Starting Server APIs", 2).await;
        let token = it.server(&["token", "generate", "-spiffeID", AGENT, "-output", "json"]);
        let token: Value = serde_json::from_str(&token).unwrap();
        let config = it.write("agent.conf", &agent_config(&it, server));
        let arguments = ["run", "-config", &config, "-joinToken", token["value"].as_str().unwrap()];
        it.run("spire-agent", &arguments, "Starting Workload and SDS APIs", 1).await;
        Some(it)
    }

    /// Starts a program of it, and waits until it has said `sign` so many times.
    async fn run(&mut self, program: &str, arguments: &[&str], sign: &'static str, times: usize) {
        let seen = AtomicU8::new(0);
        let look = move |line: &str| {
            let seen = line.contains(sign).then(|| seen.fetch_add(1, Ordering::Relaxed));
            seen.filter(|it| usize::from(*it) + 1 == times)
        };
        let program = self.programs.join(program);
        let (running, _) = Running::start(&program, arguments, &[], look).await;
        self.running.push(running);
    }

    /// Publishes its keys at [`Self::issuer`], with a certificate of this authority.
    pub(crate) async fn publish(&mut self, authority: &Authority) {
        let address = self.issuer.trim_start_matches("https://").to_owned();
        let host = address.split(':').next().unwrap();
        let server = authority.server(&[host]).unwrap();
        let certificate = self.write("discovery.crt", &server.certificate_pem());
        let key = self.write("discovery.key", &server.key_pem());
        let config = format!(
            r#"
            log_level = "info"
            domains = ["{host}"]
            jwt_issuer = "{issuer}"
            jwks_uri = "{issuer}/keys"
            serving_cert_file {{
                addr = "{address}"
                cert_file_path = "{certificate}"
                key_file_path = "{key}"
            }}
            server_api {{ address = "unix://{socket}" }}
            "#,
            issuer = self.issuer,
            socket = self.server_socket().display(),
        );
        let config = self.write("discovery.conf", &config);
        self.run("oidc-discovery-provider", &["-config", &config], "Serving HTTPS", 1).await;
        let authority = Certificate::from_pem(authority.certificate_pem().as_bytes()).unwrap();
        let client = Client::builder().no_proxy().tls_certs_only([authority]).build().unwrap();
        let deadline = Instant::now() + PATIENCE;
        let keys = format!("{}/keys", self.issuer);
        while !client.get(&keys).send().await.is_ok_and(|it| it.status().is_success()) {
            assert!(Instant::now() < deadline, "there are no keys at {keys}");
            sleep(Duration::from_millis(100)).await;
        }
    }

    /// Gives the workload that is this program the identity `id`, for so many seconds at a time.
    pub(crate) fn give(&self, id: &str, program: &Path, lasts: u32, names: &[&str]) {
        let selector = format!("unix:path:{}", program.canonicalize().unwrap().display());
        let lasts = lasts.to_string();
        let mut arguments = vec!["entry", "create", "-parentID", AGENT, "-spiffeID", id];
        arguments.extend(["-selector", &selector, "-x509SVIDTTL", &lasts]);
        for name in names {
            arguments.extend(["-dns", name]);
        }
        self.server(&arguments);
    }

    /// The program with which a client asks the agent for its identity.
    pub(crate) fn client(&self) -> PathBuf {
        self.programs.join("spire-agent")
    }

    /// The X.509-SVID that the client has by now, once it has one that is not `former`.
    pub(crate) async fn svid(&self, former: Option<&Svid>) -> Svid {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let folder = TempDir::new().unwrap();
            let written = folder.path().display().to_string();
            let fetched = self.ask_agent(&["api", "fetch", "x509", "-write", &written]);
            let read = |name| fs::read_to_string(folder.path().join(name)).unwrap();
            if fetched.is_ok() {
                let found = Svid { pem: read("svid.0.pem") + &read("svid.0.key") };
                if Some(&found) != former {
                    return found;
                }
            }
            assert!(Instant::now() < deadline, "there is no new X.509-SVID: {fetched:?}");
            sleep(Duration::from_millis(100)).await;
        }
    }

    /// An X.509-SVID for `id` from the server itself, which nobody renews.
    pub(crate) fn minted(&self, id: &str) -> Svid {
        let folder = TempDir::new().unwrap();
        let written = folder.path().display().to_string();
        self.server(&["x509", "mint", "-spiffeID", id, "-write", &written]);
        let read = |name| fs::read_to_string(folder.path().join(name)).unwrap();
        Svid { pem: read("svid.pem") + &read("key.pem") }
    }

    /// A JWT-SVID of the client for this audience.
    pub(crate) fn jwt_svid(&self, audience: &str) -> String {
        let fetch = ["api", "fetch", "jwt", "-audience", audience, "-output", "json"];
        let told: Value = serde_json::from_str(&self.ask_agent(&fetch).unwrap()).unwrap();
        told[0]["svids"][0]["svid"].as_str().unwrap().to_owned()
    }

    /// The authorities and the keys of the trust domain, as SPIFFE has them: a set of JWKs.
    pub(crate) fn bundle(&self) -> String {
        self.server(&["bundle", "show", "-format", "spiffe"])
    }

    /// The authorities of the trust domain, in PEM.
    pub(crate) fn authorities(&self) -> String {
        self.server(&["bundle", "show", "-format", "pem"])
    }

    pub(crate) fn agent_socket(&self) -> PathBuf {
        self.directory.path().join("agent.sock")
    }

    fn server_socket(&self) -> PathBuf {
        self.directory.path().join("server.sock")
    }

    /// What the server answers to a command.
    fn server(&self, arguments: &[&str]) -> String {
        answer(&self.programs.join("spire-server"), arguments, &self.server_socket()).unwrap()
    }

    fn ask_agent(&self, arguments: &[&str]) -> Result<String, String> {
        answer(&self.client(), arguments, &self.agent_socket())
    }

    /// Writes a file of its own, and says where it is.
    fn write(&self, name: &str, text: &str) -> String {
        let path = self.directory.path().join(name);
        fs::write(&path, text).unwrap();
        path.display().to_string()
    }
}

fn answer(program: &Path, arguments: &[&str], socket: &Path) -> Result<String, String> {
    let mut command = Command::new(program);
    let output = command.args(arguments).arg("-socketPath").arg(socket).output().unwrap();
    let told = String::from_utf8(output.stdout).unwrap();
    let failed = || format!("{arguments:?}: {told}{}", String::from_utf8_lossy(&output.stderr));
    if output.status.success() { Ok(told) } else { Err(failed()) }
}

/// An address that nobody else takes before the one who needs it: another of loopback for each process.
fn free_address() -> SocketAddr {
    let [.., high, low] = std::process::id().to_be_bytes();
    TcpListener::bind((Ipv4Addr::new(127, 78, high, low), 0)).unwrap().local_addr().unwrap()
}

fn server_config(it: &Spire, at: SocketAddr) -> String {
    format!(
        r#"
        server {{
            bind_address = "{address}"
            bind_port = "{port}"
            socket_path = "{socket}"
            trust_domain = "example.org"
            data_dir = "{directory}"
            jwt_issuer = "{issuer}"
        }}
        plugins {{
            DataStore "sql" {{
                plugin_data {{
                    database_type = "sqlite3"
                    connection_string = "{directory}/entries.sqlite3"
                }}
            }}
            NodeAttestor "join_token" {{ plugin_data {{}} }}
            KeyManager "memory" {{ plugin_data {{}} }}
        }}
        "#,
        address = at.ip(),
        port = at.port(),
        socket = it.server_socket().display(),
        directory = it.directory.path().display(),
        issuer = it.issuer,
    )
}

fn agent_config(it: &Spire, server: SocketAddr) -> String {
    format!(
        r#"
        agent {{
            server_address = "{address}"
            server_port = "{port}"
            socket_path = "{socket}"
            trust_domain = "example.org"
            data_dir = "{directory}/agent"
            insecure_bootstrap = true
        }}
        plugins {{
            NodeAttestor "join_token" {{ plugin_data {{}} }}
            KeyManager "memory" {{ plugin_data {{}} }}
            WorkloadAttestor "unix" {{ plugin_data {{ discover_workload_path = true }} }}
        }}
        "#,
        address = server.ip(),
        port = server.port(),
        socket = it.agent_socket().display(),
        directory = it.directory.path().display(),
    )
}
