//! An MCP client, a real Envoy and the service by the files that docs/mcp.md shows, an MCP server, and an
//! authorization server.

use super::node::{Client, Node};
use super::program::{Running, provisioned};
use super::programs;
use keybound::commands::demo::envoy::Envoy;
use keybound::commands::demo::pki::Authority;
use keybound::commands::demo::service::Service;
use reqwest::Certificate;
use serde_json::Value;
use std::ffi::OsString;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tempfile::TempDir;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::process::Command;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

const PAGE: &str = include_str!("../../docs/mcp.md");

/// The origin and the host in the files of the page.
const ORIGIN: &str = "https://mcp.example.com";
const HOST: &str = "mcp.example.com";

const SCOPES: &str = "mcp:tools mcp:write mcp:admin";

/// A client that the authorization server knows.
pub(crate) const KNOWN_CLIENT: &str = "desktop";

/// For how long tokens are good.
const LIFE: Duration = Duration::from_secs(3600);

const ANY_PORT: &str = "address: 127.0.0.1, port_value: 0";

/// How long an answer may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// Everything between the client and the tools. It ends with this.
pub(crate) struct World {
    /// Where clients find the servers.
    pub(crate) origin: String,
    pub(crate) issuer: String,
    authority: Authority,
    config: String,
    node: Node,
    folder: TempDir,
    _running: ([Running; 2], Service, Envoy, JoinSet<()>),
}

impl World {
    /// Nothing, and a line that says why, where a part of it cannot be had.
    pub(crate) async fn start() -> Option<Self> {
        Self::with_tokens_for(LIFE).await
    }

    /// The same, with tokens that are good for so long.
    pub(crate) async fn with_tokens_for(life: Duration) -> Option<Self> {
        Self::with(life, str::to_owned).await
    }

    /// The same, for clients whose clocks are wrong: by nonces.
    pub(crate) async fn with_nonces() -> Option<Self> {
        let by_nonces = "{nonce: required, time: nonce}\n";
        Self::with(LIFE, |it| replaced(it, "\n  proof_window: 5m", &format!(" {by_nonces}  ")))
            .await
    }

    async fn with(life: Duration, edit: impl Fn(&str) -> String) -> Option<Self> {
        let node = Node::provisioned()?;
        let python = provisioned("python-mcp")?;
        // Clients name the port, so it is known first.
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let origin = format!("https://{host}");

        let program = node.path("authorization_server.mjs").into_os_string();
        let life = life.as_secs().to_string().into();
        let arguments = [program, SCOPES.into(), KNOWN_CLIENT.into(), life];
        let (issuer, authorization) = says(&node.program, &arguments, "issuer").await;
        let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients/mcp_server.py");
        let arguments = [program.into_os_string(), OsString::from(host)];
        let (server, tools) = says(&python, &arguments, "address").await;

        let folder = TempDir::new().unwrap();
        let authority = Authority::new("test authority").unwrap();
        let certificate = authority.server(&["127.0.0.1"]).unwrap();
        for (name, text) in [
            ("ca.crt", authority.certificate_pem()),
            ("server.crt", certificate.certificate_pem()),
            ("server.key", certificate.key_pem()),
        ] {
            fs::write(folder.path().join(name), text).unwrap();
        }
        let config = edit(&keybound(&issuer, &origin));
        let service = serve(&config, folder.path()).await;
        let bootstrap = bootstrap(&service, server.parse().unwrap(), folder.path());
        let envoy = proxy(&bootstrap, folder.path()).await;
        let tasks = carry(listener, envoy.address("https").unwrap());
        let running = ([authorization, tools], service, envoy, tasks);
        Some(Self { origin, issuer, authority, config, node, folder, _running: running })
    }

    /// A client, which is known to the authorization server by `id`, or registers there.
    pub(crate) fn client(&self, id: Option<&str>) -> Client {
        self.start_client(Command::new(&self.node.program), id)
    }

    /// The same, with a clock that is off by `skew` seconds, by this program.
    pub(crate) fn client_off_by(&self, skew: i64, faketime: &Path) -> Client {
        let mut command = Command::new(faketime);
        command.env("FAKETIME", format!("{skew:+}")).arg(&self.node.program);
        self.start_client(command, None)
    }

    fn start_client(&self, mut command: Command, id: Option<&str>) -> Client {
        command.arg(self.node.path("mcp_client.mjs")).args(id);
        command.env("NODE_EXTRA_CA_CERTS", self.folder.path().join("ca.crt"));
        Client::start(command, self.folder.path().join("client.log"))
    }

    /// Has the policy ask for these scopes, and waits until it does.
    pub(crate) async fn ask_for(&self, scopes: &[&str]) {
        let from = "scopes: [mcp:tools]\n";
        let config = replaced(&self.config, from, &format!("scopes: [{}]\n", scopes.join(", ")));
        // In one step: it is read at any time.
        let next = place(self.folder.path(), "next.yaml", &config);
        fs::rename(next, self.folder.path().join("keybound.yaml")).unwrap();
        let deadline = Instant::now() + PATIENCE;
        let wanted = format!("scope=\"{}\"", scopes.join(" "));
        while !self.challenge().await.contains(&wanted) {
            assert!(Instant::now() < deadline, "it is not reloaded");
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// What a request without a token gets.
    async fn challenge(&self) -> String {
        let response = self.http().post(format!("{}/mcp", self.origin)).send().await.unwrap();
        response.headers()["www-authenticate"].to_str().unwrap().to_owned()
    }

    /// A client of HTTP that trusts Envoy.
    pub(crate) fn http(&self) -> reqwest::Client {
        let authority = self.authority.certificate_pem();
        let authority = Certificate::from_pem(authority.as_bytes()).unwrap();
        let client = reqwest::Client::builder().no_proxy().timeout(PATIENCE);
        client.tls_certs_only([authority]).build().unwrap()
    }
}

/// Starts a program, and waits until it says what `name` is.
async fn says(program: &Path, arguments: &[OsString], name: &'static str) -> (String, Running) {
    let look = move |line: &str| {
        let said: Value = serde_json::from_str(line).ok()?;
        said[name].as_str().map(str::to_owned)
    };
    let (running, said) = Running::start(program, arguments, &[], look).await;
    (said, running)
}

/// The YAML of the page that holds `mark`.
pub(crate) fn shown(mark: &str) -> &'static str {
    let blocks = PAGE.split("```yaml\n").skip(1).map(|it| it.split("```").next().unwrap());
    let found: Vec<_> = blocks.filter(|it| it.contains(mark)).collect();
    let [only] = &*found else { panic!("{mark}: {found:?}") };
    only
}

/// The configuration of the page, with the addresses of this test, where all have one clock, and patience for
/// a busy machine.
fn keybound(issuer: &str, origin: &str) -> String {
    let text = replaced(shown("policies:"), "https://as.example.com", issuer);
    let text = replaced(&replaced(&text, ORIGIN, origin), HOST, "127.0.0.1");
    let text =
        text.replace("127.0.0.1:9001", "127.0.0.1:0").replace("127.0.0.1:9003", "127.0.0.1:0");
    let text = replaced(&text, "    audiences:", "    clock_leeway: 0s\n    audiences:");
    text + "\nlimits: {check_deadline: 10s}\n"
}

async fn serve(config: &str, folder: &Path) -> Service {
    let path = place(folder, "keybound.yaml", config);
    let program = Path::new(env!("CARGO_BIN_EXE_keybound"));
    let mut service = Service::start(program, &path).await.unwrap();
    service.ready(&patient()).await.unwrap();
    service
}

/// The same for Envoy's.
fn bootstrap(service: &Service, server: SocketAddr, folder: &Path) -> String {
    let authorizer = service.address("ext_authz").unwrap().parse::<SocketAddr>().unwrap();
    let folder = folder.display();
    let text = shown("static_resources:").to_owned();
    let text = replaced(&text, "address: 0.0.0.0, port_value: 8443", ANY_PORT);
    let text = replaced(&text, HOST, "127.0.0.1");
    let text = replaced(&text, "port_value: 9001", &format!("port_value: {}", authorizer.port()));
    let text = replaced(&text, "port_value: 8080", &format!("port_value: {}", server.port()));
    let text = replaced(&text, "filename: ", &format!("filename: {folder}/"));
    let text = replaced(&text, "                timeout: 0.25s", "                timeout: 15s");
    format!("{text}admin: {{address: {{socket_address: {{{ANY_PORT}}}}}}}\n")
}

async fn proxy(bootstrap: &str, folder: &Path) -> Envoy {
    let path = place(folder, "envoy.yaml", bootstrap);
    Envoy::run(&programs::provisioned("envoy"), &path, &patient()).await.unwrap()
}

fn patient() -> reqwest::Client {
    reqwest::Client::builder().no_proxy().timeout(PATIENCE).build().unwrap()
}

fn place(folder: &Path, name: &str, text: &str) -> PathBuf {
    let path = folder.join(name);
    fs::write(&path, text).unwrap();
    path
}

fn replaced(text: &str, from: &str, to: &str) -> String {
    assert!(text.contains(from), "{from} is not in\n{text}");
    text.replace(from, to)
}

/// Carries connections to `from` over to `to`.
fn carry(from: TcpListener, to: SocketAddr) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((mut from, _)) = from.accept().await {
            connections.spawn(async move {
                if let Ok(mut to) = TcpStream::connect(to).await {
                    drop(copy_bidirectional(&mut from, &mut to).await);
                }
            });
        }
    });
    tasks
}
