//! A mesh: a control plane, of istiod's own generators or istiod itself, what it drives, and who asks.

use super::istiod::Istiod;
use super::objects::{secret, service_entry, sidecar};
use super::proxy::{Proxy, Workload};
use super::workloads::Workloads;
use crate::at_hand;
use crate::built_module::module;
use crate::program::Running;
use crate::tokens::Signer;
use crate::verbatim::{Failure, Verbatim};
use crate::{deploy, documents};
use bytes::Bytes;
use http::{Response, Version};
use jsonwebtoken::Algorithm;
use keybound::clock::{Clock, SystemClock};
use keybound::commands::demo::pki::{Authority, Identity};
use keybound::commands::demo::service::Service;
use keybound::commands::demo::upstream;
use keybound_core::Denial;
use rcgen::KeyPair;
use serde_json::{Value, json};
use socket2::{Domain, SockAddr, Socket, Type};
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

/// What istiod's features must be for an Envoy without Istio's own filters.
pub(crate) const FEATURES: [(&str, &str); 3] = [
    ("PILOT_ENABLE_METADATA_EXCHANGE", "false"),
    ("PILOT_ENABLE_ALPN_FILTER", "false"),
    ("PILOT_DISABLE_MX_ALPN", "true"),
];
/// How its generators believe proxies who they are.
const BELIEF: [(&str, &str); 2] =
    [("XDS_AUTH_PLAINTEXT", "true"), ("TRUSTED_GATEWAY_CIDR", "127.0.0.0/8")];

/// How long istiod may take to tell the gateway of all that it has.
const PATIENCE: Duration = Duration::from_secs(120);
pub(crate) const HOST: &str = "api.example.com";

/// What is applied to a mesh: the files of `deploy/istio`, and what a test changes of them.
pub(crate) struct Plan {
    /// keybound's own configuration.
    pub(crate) keybound: Value,
    /// What is below `meshConfig`.
    pub(crate) mesh: Value,
    /// Objects of Istio's kinds.
    pub(crate) objects: Vec<Value>,
    /// The proxies besides the gateway: of the API, and of keybound.
    pub(crate) sidecars: Vec<Workload>,
    /// Whether keybound is inside the gateway, by the module, and no service.
    pub(crate) inside: bool,
    /// What istiod's webhook says to one of the objects, where it refuses it and is not there.
    pub(crate) refused: Option<&'static str>,
}

/// All that runs.
pub(crate) struct Mesh {
    pub(crate) authority: Authority,
    pub(crate) signer: Signer,
    pub(crate) workloads: Workloads,
    /// The gateway first.
    pub(crate) proxies: Vec<Proxy>,
    /// Where the gateway listens, the sidecar of the API, and that of keybound.
    pub(crate) address: SocketAddr,
    pub(crate) api: SocketAddr,
    pub(crate) keybound: SocketAddr,
    pub(crate) service: Option<Service>,
    control: Control,
    _upstream: JoinSet<()>,
    _reserved: [Reserved; 4],
    _files: TempDir,
}

/// What configures the proxies.
enum Control {
    Generators(Running),
    /// Beside what hands out the certificates of workloads.
    Istiod(&'static Istiod, #[expect(dead_code, reason = "it ends with this")] Running),
}

impl Control {
    fn log(&self) -> String {
        match self {
            Self::Generators(it) => it.log(),
            Self::Istiod(it, _) => it.log(),
        }
    }
}

/// A port that nobody else gets. Envoy does, since it lets others share its ports.
struct Reserved {
    address: SocketAddr,
    _socket: Socket,
}

impl Reserved {
    fn any() -> Self {
        Self::at(([127, 0, 0, 1], 0).into()).unwrap()
    }

    /// This port of some address of the machine: rules name it.
    fn port(port: u16) -> Self {
        let addresses = (0..=u8::MAX).flat_map(|a| (1..u8::MAX).map(move |b| [127, 9, a, b]));
        addresses.map(|it| (it, port).into()).find_map(Self::at).unwrap()
    }

    fn at(address: SocketAddr) -> Option<Self> {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
        // Where a number is wanted, two of the tests must not share it.
        socket.set_reuse_port(true).unwrap();
        socket.bind(&SockAddr::from(address)).ok()?;
        let address = socket.local_addr().unwrap().as_socket().unwrap();
        Some(Self { address, _socket: socket })
    }
}

impl Plan {
    /// The check is at the ingress gateway, which asks over gRPC.
    pub(crate) fn at_the_gateway() -> Self {
        Self::of("keybound-values.yaml", "istiod-values.yaml", &["gateway.yaml"])
    }

    /// The same over HTTP.
    pub(crate) fn over_http() -> Self {
        Self::of(
            "over-http/keybound-values.yaml",
            "over-http/istiod-values.yaml",
            &["gateway.yaml"],
        )
    }

    /// The check is at the sidecar of the API, behind the gateway.
    pub(crate) fn at_the_sidecar() -> Self {
        let files = ["gateway.yaml", "sidecar/authorization.yaml"];
        let mut plan = Self::of("sidecar/keybound-values.yaml", "istiod-values.yaml", &files);
        // In place of that policy.
        plan.objects.retain(|it| {
            it["kind"] != "AuthorizationPolicy" || it["metadata"]["namespace"] != "istio-system"
        });
        plan.sidecars.push(Workload::Api);
        plan
    }

    fn of(values: &str, mesh: &str, objects: &[&str]) -> Self {
        let [values, mesh] = [values, mesh].map(|it| documents(&istio(it)).remove(0));
        let mut mesh = mesh["meshConfig"].clone();
        let provider = mesh["extensionProviders"][0].as_object_mut().unwrap();
        let (_, provider) = provider.iter_mut().find(|(name, _)| *name != "name").unwrap();
        // Patience for a busy machine.
        assert_eq!(provider["timeout"], "0.25s");
        provider["timeout"] = "15s".into();
        let objects = objects.iter().flat_map(|it| documents(&istio(it))).collect();
        let keybound = values["config"].clone();
        Self { keybound, mesh, objects, sidecars: vec![], inside: false, refused: None }
    }

    /// The same, with an edit.
    pub(crate) fn with(mut self, edit: impl FnOnce(&mut Self)) -> Self {
        edit(&mut self);
        self
    }

    /// The same, with the objects of another file of `deploy/istio` in place of those of the same kind and name.
    pub(crate) fn and(mut self, file: &Path) -> Self {
        for object in documents(file) {
            let key = |it: &Value| (it["kind"].clone(), it["metadata"].clone());
            self.objects.retain(|it| key(it) != key(&object));
            self.objects.push(object);
        }
        self
    }

    /// The first object of this kind.
    pub(crate) fn object(&mut self, kind: &str) -> &mut Value {
        self.objects.iter_mut().find(|it| it["kind"] == kind).unwrap()
    }

    /// Whom the proxies ask: the one provider there is.
    pub(crate) fn provider(&mut self) -> &mut Value {
        let provider = self.mesh["extensionProviders"][0].as_object_mut().unwrap();
        provider.iter_mut().find(|(name, _)| *name != "name").unwrap().1
    }

    /// Starts all of it; nothing, and a line that says why, where istiod is not to be had.
    pub(crate) async fn start(self) -> Option<Mesh> {
        let program = at_hand("istio")?;
        Some(
            self.run(async |plan, files, secret| plan.generators(&program, files, secret).await)
                .await,
        )
    }

    /// The same by istiod itself, which has it from the API server of Kubernetes.
    pub(crate) async fn start_by(self, istiod: &'static Istiod) -> Option<Mesh> {
        let program = at_hand("istio")?;
        let control = async |plan: &Self, files: &TempDir, secret: &Value| {
            let (agent, mut listens) = server(&program, "secrets", files).await;
            let more = istiod.apply(&plan.mesh, &plan.objects, secret);
            listens.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            (Control::Istiod(istiod, agent), listens)
        };
        let mesh = self.run(control).await;
        // It may have told the gateway of less before it heard of all.
        let deadline = Instant::now() + PATIENCE;
        while let Err(why) = TcpStream::connect(mesh.address).await {
            assert!(Instant::now() < deadline, "{}: {why}\n{}", mesh.address, mesh.told());
            sleep(Duration::from_millis(50)).await;
        }
        Some(mesh)
    }

    /// `control` is what configures the proxies by the plan and the Secret of the gateway, and where it listens.
    async fn run(
        mut self,
        control: impl AsyncFnOnce(&Self, &TempDir, &Value) -> (Control, Value),
    ) -> Mesh {
        let files = TempDir::new().unwrap();
        let authority = Authority::new("clients").unwrap();
        let signer = Signer::new(Algorithm::ES256, "test");
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let api = listener.local_addr().unwrap();
        let mut upstream = JoinSet::new();
        upstream.spawn(upstream::echo().serve(listener));

        let config = place(&files, "keybound.yaml", &self.configured(&files, &signer));
        let binary = Path::new(env!("CARGO_BIN_EXE_keybound"));
        let service = Service::start(binary, &config).await.unwrap();
        if self.inside {
            self.load(&config);
        }

        let reserved = [Reserved::any(), Reserved::any(), Reserved::port(9001), Reserved::any()];
        let [gateway, of_api, of_keybound, outbound] = [0, 1, 2, 3].map(|it| reserved[it].address);
        self.bind(gateway);
        let address = |name| service.address(name).map(|it| it.parse().unwrap());
        let behind = |workload, direct: SocketAddr, sidecar| {
            if self.sidecars.contains(&workload) { (sidecar, true) } else { (direct, false) }
        };
        let asked = address("ext_authz").unwrap();
        let (api_at, api_in_mesh) = behind(Workload::Api, api, of_api);
        let (asked_at, keybound_in_mesh) = behind(Workload::Keybound, asked, of_keybound);
        let at = [Some((80, "http", api_at)), None];
        self.objects.push(service_entry(Workload::Api, &at, api_in_mesh));
        let over_http = address("forward_auth").map(|it| (9002, "http", it));
        let at = [Some((9001, "grpc", asked_at)), over_http];
        self.objects.push(service_entry(Workload::Keybound, &at, keybound_in_mesh));
        for (workload, inbound, to) in
            [(Workload::Api, of_api, api), (Workload::Keybound, of_keybound, asked)]
        {
            if self.sidecars.contains(&workload) {
                self.objects.push(sidecar(workload, inbound, to, outbound));
            }
        }

        let workloads = Workloads::new(&files.path().join("identities"));
        let server = authority.server(&[HOST, "127.0.0.1"]).unwrap();
        let (control, listens) = control(&self, &files, &secret(&authority, &server)).await;

        let mut proxies = vec![];
        for workload in [vec![Workload::Gateway], self.sidecars.clone()].concat() {
            let started = Proxy::start(workload, &listens, files.path()).await;
            proxies.push(
                started.unwrap_or_else(|why| panic!("{workload:?}: {why}\n{}", control.log())),
            );
        }
        Mesh {
            authority,
            signer,
            workloads,
            proxies,
            address: gateway,
            api: of_api,
            keybound: of_keybound,
            service: (!self.inside).then_some(service),
            control,
            _upstream: upstream,
            _reserved: reserved,
            _files: files,
        }
    }

    /// Istiod's generators, after its webhook has judged the objects.
    async fn generators(
        &self,
        program: &Path,
        files: &TempDir,
        secret: &Value,
    ) -> (Control, Value) {
        place(files, "mesh.yaml", &self.mesh.to_string());
        let objects: Vec<_> = self.objects.iter().map(Value::to_string).collect();
        place(files, "istio.yaml", &objects.join("\n---\n"));
        place(files, "kubernetes.yaml", &secret.to_string());
        let judged = Command::new(program).arg("admit").arg(files.path()).output().unwrap();
        let told = String::from_utf8_lossy(&judged.stderr);
        assert_eq!(judged.status.success(), self.refused.is_none(), "{told}");
        assert!(told.contains(self.refused.unwrap_or_default()), "{told}");
        let (control, listens) = server(program, "serve", files).await;
        (Control::Generators(control), listens)
    }

    /// keybound's configuration, with addresses and keys of this test.
    fn configured(&self, files: &TempDir, signer: &Signer) -> String {
        let any = "127.0.0.1:0";
        let mut config = self.keybound.clone();
        config["listen"] = json!({"ext_authz": any, "admin": any});
        if config.get("forward_auth").is_some() {
            config["listen"]["forward_auth"] = any.into();
        }
        config["limits"] = json!({"check_deadline": "10s"});
        let jwks = json!({"keys": [signer.jwk()]}).to_string();
        let jwks = place(files, "jwks.json", &jwks);
        config["issuers"][0]["keys"] = json!({ "jwks_file": jwks });
        config.to_string()
    }

    /// Has the gateway load the module of these sources, with this configuration.
    fn load(&mut self, config: &Path) {
        let filters = self.objects.iter_mut().filter(|it| it["metadata"]["name"] == "keybound");
        for it in filters {
            let loaded = &mut it["spec"]["configPatches"][0]["patch"]["value"]["typed_config"];
            loaded["dynamic_module_config"]["module"]["local"]["filename"] =
                module().to_str().unwrap().into();
            loaded["filter_config"]["value"] = config.to_str().unwrap().into();
        }
    }

    /// Has the gateway listen there.
    fn bind(&mut self, address: SocketAddr) {
        for gateway in self.objects.iter_mut().filter(|it| it["kind"] == "Gateway") {
            let server = &mut gateway["spec"]["servers"][0];
            assert_eq!(server["port"]["number"], 443);
            server["port"]["number"] = address.port().into();
            server["bind"] = address.ip().to_string().into();
        }
    }
}

/// A server of our program, and where it listens.
async fn server(program: &Path, command: &str, files: &TempDir) -> (Running, Value) {
    let arguments = [Path::new(command), files.path()];
    let listens = |line: &str| serde_json::from_str(line).ok().filter(|it: &Value| it.is_object());
    let features = [&FEATURES[..], &BELIEF].concat();
    Running::start(program, &arguments, &features, listens).await
}

/// A file of `deploy/istio`.
pub(crate) fn istio(name: &str) -> PathBuf {
    deploy("istio").join(name)
}

fn place(files: &TempDir, name: &str, text: &str) -> PathBuf {
    let path = files.path().join(name);
    fs::write(&path, text).unwrap();
    path
}

impl Mesh {
    pub(crate) fn client(&self, name: &str) -> Identity {
        self.authority.client(name, KeyPair::generate().unwrap()).unwrap()
    }

    /// A token that is bound like this.
    pub(crate) fn issue(&self, cnf: &Value, scope: &str) -> String {
        let now = SystemClock.now().as_secs();
        let claims = json!({
            "iss": "https://as.example.com", "aud": "https://api.example.com", "sub": "alice",
            "client_id": "app", "scope": scope, "iat": now, "exp": now.saturating_add(300),
            "cnf": cnf,
        });
        self.signer.sign("at+jwt", &claims)
    }

    /// The header with a token that is bound to the certificate of `identity`.
    pub(crate) fn bearer(&self, identity: &Identity, scope: &str) -> String {
        let cnf = json!({"x5t#S256": identity.thumbprint().to_base64url()});
        format!("Bearer {}", self.issue(&cnf, scope))
    }

    /// The answer of the gateway to a GET over mutual TLS. An error is one of the connection.
    pub(crate) async fn answer(
        &self,
        identity: Option<&Identity>,
        path: &str,
        headers: &[(&str, &str)],
    ) -> Result<Response<Bytes>, Failure> {
        self.verbatim(identity).get(path, headers).await
    }

    pub(crate) fn verbatim(&self, identity: Option<&Identity>) -> Verbatim<'_> {
        Verbatim {
            http: Version::HTTP_2,
            address: self.address,
            host: HOST,
            authority: self.authority.certificate_pem(),
            identity: identity.map(|it| it.certificate_pem() + &it.key_pem()),
        }
    }

    /// The status and the body of that answer.
    #[track_caller]
    pub(crate) fn get(
        &self,
        identity: &Identity,
        path: &str,
        headers: &[(&str, &str)],
    ) -> impl Future<Output = (u16, Value)> {
        let from = std::panic::Location::caller();
        async move {
            let answer = self.answer(Some(identity), path, headers).await;
            let answer = answer.unwrap_or_else(|why| panic!("{from}: {why}\n{}", self.told()));
            let text = String::from_utf8_lossy(answer.body());
            let body = serde_json::from_str(&text).unwrap_or_else(|_| text.into());
            (answer.status().as_u16(), body)
        }
    }

    /// Holds that keybound refuses for this reason, and nobody else.
    pub(crate) async fn refuses(
        &self,
        denial: Denial,
        identity: &Identity,
        path: &str,
        headers: &[(&str, &str)],
    ) {
        let (status, body) = self.get(identity, path, headers).await;
        let found = (status, body["error_description"].as_str().unwrap_or_default());
        assert_eq!(found, (denial.status(), denial.sentence()), "{path}: {body}\n{}", self.told());
    }

    /// Holds that it goes through, and returns the headers that reach the API.
    pub(crate) async fn passes(
        &self,
        identity: &Identity,
        path: &str,
        headers: &[(&str, &str)],
    ) -> Value {
        let (status, body) = self.get(identity, path, headers).await;
        assert_eq!(status, 200, "{path}: {body}\n{}", self.told());
        body["headers"].clone()
    }

    /// What the service and the proxies have said.
    pub(crate) fn told(&self) -> String {
        let service = self.service.as_ref().map(Service::log).unwrap_or_default();
        let last = |text: &str| {
            let lines: Vec<_> = text.lines().collect();
            lines.get(lines.len().saturating_sub(40)..).unwrap_or_default().join("\n")
        };
        let proxies: Vec<_> = self.proxies.iter().map(|it| last(&it.log())).collect();
        format!("{}\n{}\n{}", last(&service), proxies.join("\n"), last(&self.control.log()))
    }
}
