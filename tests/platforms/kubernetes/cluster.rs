//! A real API server of Kubernetes over a real etcd, shared by all tests. It judges, defaults and keeps objects;
//! nothing makes pods of them, or runs any.

use crate::at_hand;
use crate::program::Running;
use keybound::commands::demo::pki::Authority;
use rcgen::KeyPair;
use serde_json::{Value, json};
use socket2::{Domain, Socket, Type};
use std::fs::{self, Permissions};
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;
use tempfile::TempDir;
use tokio::sync::OnceCell;
use tokio::time::{Instant, sleep};

/// How long it may take to be ready once it has begun to listen.
const PATIENCE: Duration = Duration::from_secs(120);
const TOKEN: &str = "administrator";
/// Runs a program that has files in the folder, and takes them away afterwards.
const WITH_FOLDER: &str = r#"folder=$1; shift; "$@" &
it=$!; trap 'kill $it' TERM; wait $it; wait $it; rm -rf "$folder""#;

/// The API server, and those who talk to it.
pub(crate) struct Cluster {
    home: PathBuf,
    kubectl: PathBuf,
    helm: PathBuf,
    server: Running,
    _etcd: Running,
}

impl Cluster {
    /// The one that all tests share, with the kinds of Istio, Envoy Gateway, the Gateway API, cert-manager and the
    /// Prometheus operator; nothing, and a line that says why, where there is none.
    pub(crate) async fn shared() -> Option<&'static Self> {
        static SHARED: OnceCell<Option<Cluster>> = OnceCell::const_new();
        SHARED.get_or_init(Self::start).await.as_ref()
    }

    async fn start() -> Option<Self> {
        let kinds = at_hand("kubernetes-crds")?;
        let it = Self::without_kinds().await?;
        it.apply(&["--recursive", "-f", kinds.to_str().unwrap()], "").unwrap();
        it.knows_its_kinds().await;
        Some(it)
    }

    /// Waits until all kinds that it was told of are served. kubectl cannot wait for one that is so new that it
    /// has no conditions yet.
    pub(crate) async fn knows_its_kinds(&self) {
        let wait = ["wait", "--for=condition=Established", "crd", "--all", "--timeout=120s"];
        let deadline = Instant::now() + PATIENCE;
        while let Err(why) = self.kubectl(&wait, "") {
            assert!(Instant::now() < deadline, "{why}");
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// One of its own, with Kubernetes' own kinds alone, and the namespaces of Istio and keybound.
    pub(crate) async fn without_kinds() -> Option<Self> {
        let etcd = at_hand("etcd")?;
        let program = at_hand("kube-apiserver")?;
        let (kubectl, helm) = (at_hand("kubectl")?, at_hand("helm")?);
        let home = TempDir::new().unwrap().keep();
        let etcd = start_etcd(&etcd, &home).await;
        let server = start_server(&program, &home).await;
        let it = Self { home, kubectl, helm, server, _etcd: etcd };
        it.ready().await;
        // As its controller would.
        it.namespace("keybound", "privileged");
        it.namespace("istio-system", "privileged");
        it.account("default");
        Some(it)
    }

    /// The file by which programs find it, and are its administrator.
    pub(crate) fn kubeconfig(&self) -> PathBuf {
        self.home.join("kubeconfig")
    }

    async fn ready(&self) {
        let deadline = Instant::now() + PATIENCE;
        while self.kubectl(&["get", "--raw", "/readyz"], "").is_err() {
            assert!(Instant::now() < deadline, "it is not ready: {}", self.server.log());
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// A new namespace that admits pods of the standard `level`.
    pub(crate) fn namespace(&self, name: &str, level: &str) {
        let labels = ["enforce", "warn", "audit"]
            .map(|it| (format!("pod-security.kubernetes.io/{it}"), Value::from(level)));
        let namespace = json!({
            "apiVersion": "v1", "kind": "Namespace",
            "metadata": {"name": name, "labels": Value::from_iter(labels)},
        });
        self.create(&namespace).unwrap();
        self.account(name);
    }

    /// The account that a controller would make in each namespace.
    fn account(&self, namespace: &str) {
        let account = json!({
            "apiVersion": "v1", "kind": "ServiceAccount",
            "metadata": {"name": "default", "namespace": namespace},
        });
        self.create(&account).unwrap();
    }

    /// Creates an object.
    pub(crate) fn create(&self, object: &Value) -> Result<String, String> {
        self.kubectl(&["create", "--validate=strict", "-f", "-"], &object.to_string())
    }

    /// Applies what `arguments` name, or `input`.
    pub(crate) fn apply(&self, arguments: &[&str], input: &str) -> Result<String, String> {
        let apply = ["apply", "--server-side", "--force-conflicts", "--validate=strict"];
        self.kubectl(&[&apply, arguments].concat(), input)
    }

    /// What kubectl prints, or complains of: warnings are errors.
    pub(crate) fn kubectl(&self, arguments: &[&str], input: &str) -> Result<String, String> {
        self.run(&self.kubectl, &[&["--warnings-as-errors"], arguments].concat(), input)
    }

    /// The objects that kubectl gets by `arguments`.
    #[track_caller]
    pub(crate) fn objects(&self, arguments: &[&str], input: &str) -> Vec<Value> {
        let told = self.kubectl(&[&["get", "-o", "json"], arguments].concat(), input).unwrap();
        let mut told: Value = serde_json::from_str(&told).unwrap();
        match told.get_mut("items").map(Value::take) {
            Some(items) => serde_json::from_value(items).unwrap(),
            None => vec![told],
        }
    }

    /// What Helm prints, or complains of: warnings are errors.
    pub(crate) fn helm(&self, arguments: &[&str]) -> Result<String, String> {
        self.run(&self.helm, arguments, "")
    }

    fn run(&self, program: &Path, arguments: &[&str], input: &str) -> Result<String, String> {
        let mut child = Command::new(program)
            .args(arguments)
            .env_clear()
            .env("HOME", &self.home)
            .env("KUBECONFIG", self.kubeconfig())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // It may have failed before it reads.
        drop(child.stdin.take().unwrap().write_all(input.as_bytes()));
        let output = child.wait_with_output().unwrap();
        let complaints = String::from_utf8(output.stderr).unwrap();
        // Helm says so of the alerts and the dashboard, which the chart takes along.
        let harmless = |it: &&str| !it.contains("found symbolic link in path");
        let complaints = complaints.lines().filter(harmless).collect::<Vec<_>>().join("\n");
        if output.status.success() && complaints.is_empty() {
            return Ok(String::from_utf8(output.stdout).unwrap());
        }
        Err(format!("{arguments:?}: {complaints}"))
    }
}

async fn start_etcd(program: &Path, home: &Path) -> Running {
    let arguments = [
        format!("--data-dir={}", home.join("etcd").display()),
        format!("--listen-client-urls=unix://{}", home.join("etcd.sock").display()),
        // Nobody asks for it, and it has no peers.
        "--advertise-client-urls=http://127.0.0.1:0".to_owned(),
        "--listen-peer-urls=http://127.0.0.1:0".to_owned(),
        // What is kept ends with the tests.
        "--unsafe-no-fsync".to_owned(),
    ];
    let home = home.display().to_string();
    let program = program.display().to_string();
    let before = ["-c", WITH_FOLDER, "sh", &home, &program].map(str::to_owned);
    let arguments = [&before[..], &arguments].concat();
    let ready = |line: &str| line.contains("ready to serve client requests").then_some(());
    Running::start(Path::new("sh"), &arguments, &[], ready).await.0
}

async fn start_server(program: &Path, home: &Path) -> Running {
    let authority = Authority::new("test authority").unwrap();
    let server = authority.server(&["127.0.0.1"]).unwrap();
    let accounts = KeyPair::generate().unwrap();
    let file = |option: &str, name: &str, text: &str| {
        let path = home.join(name);
        fs::write(&path, text).unwrap();
        format!("--{option}={}", path.display())
    };
    // Kept for it: it cannot say which port it was given.
    let (held, address) = port();
    let arguments = [
        format!("--etcd-servers=unix://{}", home.join("etcd.sock").display()),
        "--bind-address=127.0.0.1".to_owned(),
        format!("--secure-port={}", address.port()),
        "--permit-port-sharing".to_owned(),
        file("tls-cert-file", "server.pem", &server.certificate_pem()),
        file("tls-private-key-file", "server.key", &server.key_pem()),
        file("token-auth-file", "tokens", &format!("{TOKEN},admin,1,system:masters\n")),
        "--authorization-mode=RBAC".to_owned(),
        "--service-cluster-ip-range=10.0.0.0/24".to_owned(),
        "--endpoint-reconciler-type=none".to_owned(),
        format!("--service-account-issuer=https://{address}"),
        file("service-account-key-file", "accounts.pem", &accounts.public_key_pem()),
        file("service-account-signing-key-file", "accounts.key", &accounts.serialize_pem()),
    ];
    let kubeconfig = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "test",
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
        "users": [{"name": "test", "user": {"token": TOKEN}}],
        "clusters": [{"name": "test", "cluster": {
            "server": format!("https://{address}"),
            "certificate-authority": home.join("ca.pem"),
        }}],
    });
    fs::write(home.join("ca.pem"), authority.certificate_pem()).unwrap();
    fs::write(home.join("kubeconfig"), kubeconfig.to_string()).unwrap();
    // Helm warns of one that others may read.
    fs::set_permissions(home.join("kubeconfig"), Permissions::from_mode(0o600)).unwrap();
    let listens = |line: &str| line.contains("Serving securely on").then_some(());
    let (running, ()) = Running::start(program, &arguments, &[], listens).await;
    drop(held);
    running
}

/// A port on loopback that only those get who share it.
fn port() -> (Socket, SocketAddr) {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_reuse_port(true).unwrap();
    socket.bind(&SocketAddr::from((Ipv4Addr::LOCALHOST, 0)).into()).unwrap();
    let address = socket.local_addr().unwrap().as_socket().unwrap();
    (socket, address)
}
