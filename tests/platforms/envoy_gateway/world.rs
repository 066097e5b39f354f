//! A real Envoy Gateway in its standalone mode, with the files of deploy/envoy-gateway: the real Envoy that it starts,
//! the real service, and an API. For a network of its own: it listens everywhere.

use crate::at_hand;
use crate::program::Running;
use crate::programs::provisioned;
use crate::replaced;
use crate::tokens::Signer;
use crate::verbatim::Verbatim;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jsonwebtoken::Algorithm;
use keybound::clock::{Clock, SystemClock};
use keybound::commands::demo::pki::{Authority, Identity};
use keybound::commands::demo::service::Service;
use keybound::commands::demo::upstream;
use keybound_core::Denial;
use rcgen::KeyPair;
use reqwest::{Client, Version};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

/// How long a change may be on its way from a file to Envoy.
const PATIENCE: Duration = Duration::from_secs(60);
const HOST: &str = "api.example.com";
/// Where the Gateway listens.
pub(crate) const HTTPS: u16 = 443;
/// The addresses of what are Services in a cluster.
const KEYBOUND: &str = "127.0.0.11";
const API: ([u8; 4], u16) = ([127, 0, 0, 12], 80);

/// The resources that Envoy Gateway has: names of files, and what is in them.
pub(crate) type Resources = BTreeMap<String, String>;

/// All of it, which ends with this.
pub(crate) struct World {
    pub(crate) authority: Authority,
    signer: Signer,
    gateway: Running,
    service: Option<Service>,
    directory: TempDir,
    _sites: JoinSet<()>,
}

/// A GET.
#[derive(Clone, Copy)]
pub(crate) struct Ask<'a> {
    pub(crate) port: u16,
    pub(crate) identity: Option<&'a Identity>,
    pub(crate) path: &'a str,
    pub(crate) headers: &'a [(&'a str, &'a str)],
}

impl fmt::Debug for Ask<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", self.port, self.path)
    }
}

/// An answer to it.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: http::HeaderMap,
    pub(crate) body: Value,
}

impl Answer {
    #[track_caller]
    pub(crate) fn must_be(self, expected: Result<(), Denial>, ask: &Ask<'_>) -> Self {
        let told = self.body["error_description"].as_str().unwrap_or_default();
        let (status, sentence) = match expected {
            Ok(()) => (200, ""),
            Err(denial) => (denial.status(), denial.sentence()),
        };
        assert_eq!((self.status, told), (status, sentence), "{ask:?}: {self:?}");
        self
    }
}

impl World {
    /// All of it, with these files of `deploy/` as they are edited, and the service with this configuration, if there
    /// is one. `edit` gets the resources and the folder for files.
    pub(crate) async fn start(
        files: &[&str],
        config: Option<&str>,
        edit: impl FnOnce(&mut Resources, &Path),
    ) -> Self {
        let program = at_hand("envoy-gateway").unwrap();
        let directory = TempDir::new().unwrap();
        let authority = Authority::new("test authority").unwrap();
        let signer = Signer::new(Algorithm::ES256, "test");
        let [api, keybound] =
            [HOST, "keybound.keybound.svc"].map(|it| authority.server(&[it]).unwrap());
        for (name, text) in [
            ("jwks.json", json!({"keys": [signer.jwk()]}).to_string()),
            ("tls.crt", keybound.certificate_pem()),
            ("tls.key", keybound.key_pem()),
        ] {
            fs::write(directory.path().join(name), text).unwrap();
        }
        let listener = TcpListener::bind(SocketAddr::from(API)).await.unwrap();
        let mut sites = JoinSet::new();
        sites.spawn(upstream::echo().serve(listener));

        let mut resources: Resources =
            files.iter().map(|it| (it.replace('/', "-"), deployed(it))).collect();
        resources.insert("cluster.yaml".to_owned(), cluster(&authority, &api));
        edit(&mut resources, directory.path());
        let mut service = None;
        if let Some(config) = config {
            let file = directory.path().join("keybound.yaml");
            fs::write(&file, configuration(config, directory.path())).unwrap();
            service = Some(serve(&file).await);
        }
        let it = directory.path().join("resources");
        fs::create_dir(&it).unwrap();
        for (name, text) in &resources {
            fs::write(it.join(name), text).unwrap();
        }
        let envoy = directory.path().join("data/envoy-versions").join(ENVOY).join("bin");
        fs::create_dir_all(&envoy).unwrap();
        symlink(provisioned("envoy"), envoy.join("envoy")).unwrap();
        let home = directory.path().join("config");
        let mut certificates = Command::new(&program);
        certificates.args(["certgen", "--local", "--config-home"]).arg(home);
        let made = certificates.output().unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let config = directory.path().join("envoy-gateway.yaml");
        fs::write(&config, standalone(directory.path())).unwrap();
        let config = config.display().to_string();
        let arguments = ["server", "--config-path", &config];
        let began = |line: &str| line.contains("Watching path added").then_some(());
        let (gateway, ()) = Running::start(&program, &arguments, &[], began).await;
        Self { authority, signer, gateway, service, directory, _sites: sites }
    }

    /// Stops the service.
    pub(crate) fn stop(&mut self) {
        self.service = None;
    }

    /// A client of the authority.
    pub(crate) fn client(&self, name: &str) -> Identity {
        self.authority.client(name, KeyPair::generate().unwrap()).unwrap()
    }

    /// A token with this scope and `cnf`.
    pub(crate) fn token(&self, scope: &str, cnf: &Value) -> String {
        let now = SystemClock.now().as_secs();
        let claims = json!({
            "iss": "https://as.example.com", "aud": "https://api.example.com", "sub": "alice",
            "client_id": "app", "scope": scope, "iat": now, "exp": now.saturating_add(300), "cnf": cnf,
        });
        self.signer.sign("at+jwt", &claims)
    }

    /// `authorization` with a token with this scope, bound to the certificate of `identity`.
    pub(crate) fn bound(&self, identity: &Identity, scope: &str) -> String {
        let cnf = json!({"x5t#S256": identity.thumbprint().to_base64url()});
        format!("Bearer {}", self.token(scope, &cnf))
    }

    /// The answer, or nothing where there is no connection.
    pub(crate) async fn get(&self, ask: &Ask<'_>) -> Option<Answer> {
        let client = Verbatim {
            http: Version::HTTP_2,
            address: (Ipv4Addr::LOCALHOST, ask.port).into(),
            host: HOST,
            authority: self.authority.certificate_pem(),
            identity: ask.identity.map(|it| it.certificate_pem() + &it.key_pem()),
        };
        let answer = client.get(ask.path, ask.headers).await.ok()?;
        let (head, body) = answer.into_parts();
        let body = serde_json::from_slice(&body).unwrap_or_default();
        Some(Answer { status: head.status.as_u16(), headers: head.headers, body })
    }

    /// The same without TLS.
    pub(crate) async fn get_in_the_clear(&self, ask: &Ask<'_>) -> Answer {
        let address = (Ipv4Addr::LOCALHOST, ask.port).into();
        let client = Client::builder().no_proxy().timeout(PATIENCE).resolve(HOST, address);
        let url = format!("http://{HOST}:{}{}", ask.port, ask.path);
        let mut request = client.build().unwrap().get(url);
        for (name, value) in ask.headers {
            request = request.header(*name, *value);
        }
        let answer = request.send().await.unwrap();
        let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
        let body = serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap_or_default();
        Answer { status, headers, body }
    }

    /// Waits until it is answered so, as it is once Envoy has what is in the files.
    pub(crate) async fn until_status(&self, status: u16, ask: &Ask<'_>) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let answer = self.get(ask).await;
            if answer.as_ref().is_some_and(|it| it.status == status) {
                return;
            }
            let late =
                || format!("{ask:?} is never {status}, but {answer:?}: {}", self.gateway.log());
            assert!(Instant::now() < deadline, "{}", late());
            sleep(Duration::from_millis(50)).await;
        }
    }

    /// What comes of it must be this.
    pub(crate) async fn expect(&self, expected: Result<(), Denial>, ask: &Ask<'_>) -> Answer {
        let it = self.get(ask).await.unwrap_or_else(|| panic!("no connection: {ask:?}"));
        it.must_be(expected, ask)
    }

    /// What Envoy runs with.
    pub(crate) async fn envoy_has(&self) -> Value {
        let address = fs::read_to_string(find(self.directory.path(), "admin-address.txt").unwrap());
        let url = format!("http://{}/config_dump?include_eds", address.unwrap());
        let answer = plain_client().get(url).send().await.unwrap();
        serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap()
    }
}

/// The file of this name below `folder`.
fn find(folder: &Path, name: &str) -> Option<PathBuf> {
    fs::read_dir(folder).unwrap().find_map(|entry| {
        let path = entry.unwrap().path();
        if path.is_dir() { find(&path, name) } else { path.ends_with(name).then_some(path) }
    })
}

/// The version as which Envoy Gateway looks for Envoy.
const ENVOY: &str = "1.40.0";

/// What is not there without a cluster, and what stands in its place. Of files, Envoy Gateway takes no Services, and no
/// `ReferenceGrant` for a policy.
const IN_PLACE: &[(&str, &str)] = &[
    ("timeout: 250ms", "timeout: 10s"),
    (
        "{controllerName: gateway.envoyproxy.io/gatewayclass-controller}",
        "{controllerName: gateway.envoyproxy.io/gatewayclass-controller, parametersRef: {group: \
         gateway.envoyproxy.io, kind: EnvoyProxy, name: standalone, namespace: default}}",
    ),
    ("{name: api, port: 80}", "{group: gateway.envoyproxy.io, kind: Backend, name: api}"),
    ("{name: keybound, namespace: keybound, port: 9001}", GRPC_BACKEND),
    (
        "{name: keybound, namespace: keybound, port: 9002}",
        "{group: gateway.envoyproxy.io, kind: Backend, name: keybound-http}",
    ),
    (
        "metadata: {name: keybound, namespace: keybound}",
        "metadata: {name: keybound, namespace: default}",
    ),
    (
        "{group: \"\", kind: Service, name: keybound, sectionName: grpc-ext-authz}",
        "{group: gateway.envoyproxy.io, kind: Backend, name: keybound}",
    ),
    (
        "{group: \"\", kind: Service, name: keybound, sectionName: http-forward-auth}",
        "{group: gateway.envoyproxy.io, kind: Backend, name: keybound-http}",
    ),
];
const GRPC_BACKEND: &str = "{group: gateway.envoyproxy.io, kind: Backend, name: keybound}";

/// A file of `deploy/`, for this network.
fn deployed(path: &str) -> String {
    let deploy = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy");
    let text = fs::read_to_string(deploy.join(path)).unwrap();
    standing_in(&text)
}

/// The same of any object.
pub(crate) fn standing_in(text: &str) -> String {
    IN_PLACE.iter().fold(text.to_owned(), |text, (from, to)| text.replace(from, to))
}

/// The configuration of the service out of the values of the chart.
pub(crate) fn config_of(values: &str) -> String {
    let lines = values.lines().skip_while(|it| *it != "config:").skip(1);
    let config: Vec<_> = lines
        .map_while(|it| it.strip_prefix("  ").or_else(|| it.is_empty().then_some("")))
        .collect();
    assert!(!config.is_empty(), "{values}");
    config.join("\n") + "\n"
}

/// The same with addresses and files of this test, and patience for a busy machine.
pub(crate) fn configuration(text: &str, files: &Path) -> String {
    let audiences = "    audiences: [https://api.example.com]\n";
    let text =
        replaced(text, audiences, &format!("{audiences}    keys: {{jwks_file: jwks.json}}\n"));
    let text = text.replace("check_deadline: 150ms", "check_deadline: 5s");
    text.replace("/etc/keybound/secrets/keybound-tls/", &format!("{}/", files.display()))
}

/// `listen` with the addresses of keybound.
pub(crate) fn listening(config: &str, fronts: &[(&str, u16)]) -> String {
    let fronts = fronts.iter().map(|(name, port)| format!("  {name}: {KEYBOUND}:{port}\n"));
    let listen = format!("listen:\n{}  admin: {KEYBOUND}:9003\n", fronts.collect::<String>());
    replaced(config, "listen:\n", &listen)
}

async fn serve(config: &Path) -> Service {
    let program = Path::new(env!("CARGO_BIN_EXE_keybound"));
    let mut service = Service::start(program, config).await.unwrap();
    service.ready(&plain_client()).await.unwrap();
    service
}

fn plain_client() -> Client {
    Client::builder().no_proxy().timeout(PATIENCE).build().unwrap()
}

/// How Envoy Gateway runs without a cluster.
fn standalone(directory: &Path) -> String {
    format!(
        r#"
apiVersion: gateway.envoyproxy.io/v1alpha1
kind: EnvoyGateway
gateway: {{controllerName: gateway.envoyproxy.io/gatewayclass-controller}}
provider:
  type: Custom
  custom:
    resource: {{type: File, file: {{paths: ["{0}/resources"]}}}}
    infrastructure:
      type: Host
      host: {{configHome: "{0}/config", dataHome: "{0}/data", stateHome: "{0}/state", runtimeDir: "{0}/run"}}
extensionApis: {{enableBackend: true, enableEnvoyPatchPolicy: true}}
"#,
        directory.display()
    )
}

/// What a cluster has besides the files of `deploy/`.
fn cluster(authority: &Authority, api: &Identity) -> String {
    let mut objects = vec![
        json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "default"}}),
        json!({
            "apiVersion": "gateway.envoyproxy.io/v1alpha1", "kind": "EnvoyProxy",
            "metadata": {"name": "standalone", "namespace": "default"},
            "spec": {"provider": {"type": "Host", "host": {"envoyVersion": ENVOY}}},
        }),
        backend("api", &Ipv4Addr::from(API.0).to_string(), API.1),
        backend("keybound", KEYBOUND, 9001),
        backend("keybound-http", KEYBOUND, 9002),
        json!({
            "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls",
            "metadata": {"name": "api-tls", "namespace": "default"},
            "data": {
                "tls.crt": STANDARD.encode(api.certificate_pem()),
                "tls.key": STANDARD.encode(api.key_pem()),
            },
        }),
    ];
    for name in ["client-ca", "keybound-ca"] {
        objects.push(json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": name, "namespace": "default"},
            "data": {"ca.crt": authority.certificate_pem()},
        }));
    }
    let objects: Vec<_> = objects.iter().map(Value::to_string).collect();
    objects.join("\n---\n")
}

fn backend(name: &str, address: &str, port: u16) -> Value {
    json!({
        "apiVersion": "gateway.envoyproxy.io/v1alpha1", "kind": "Backend",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"endpoints": [{"ip": {"address": address, "port": port}}]},
    })
}
