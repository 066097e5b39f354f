//! An Envoy with the module inside, whose listeners come from a file that changes while it runs.

use super::upstream;
use crate::installation::{AUDIENCE, ISSUER, module};
use crate::programs::provisioned;
use crate::tokens::Signer;
use jsonwebtoken::Algorithm;
use keybound::clock::{Clock, SystemClock};
use keybound::commands::demo::pki::{Authority, Identity};
use rcgen::KeyPair;
use reqwest::{Client, RequestBuilder};
use serde_json::{Value, json};
use std::fs::{self, File};
use std::net::SocketAddr;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

/// Whatever hangs, the test does not.
pub(super) const LONG: Duration = Duration::from_secs(30);

/// The name by which clients call the API, whatever the port.
pub(super) const HOST: &str = "api.example.com";

/// The cluster to whose upstream many requests share a connection.
pub(super) const MULTIPLEXED: &str = "multiplexed";

/// More than any test asks of an upstream at once.
const MANY: u32 = 100_000;

/// What is there before an Envoy runs: files, keys, an upstream.
pub(super) struct Site {
    pub(super) directory: TempDir,
    pub(super) signer: Signer,
    authority: Authority,
    upstream: SocketAddr,
    _upstream: JoinSet<()>,
}

/// An Envoy that runs.
pub(super) struct Edge<'s> {
    site: &'s Site,
    process: Child,
    admin: String,
    listeners: Vec<Value>,
    version: usize,
}

/// A listener of Envoy's.
#[derive(Clone)]
pub(super) struct Listener {
    pub(super) name: &'static str,
    /// `filter_config` of the module.
    pub(super) config: Value,
    /// Prefixes of paths, with `filter_config` of the module on their routes.
    pub(super) routes: Vec<(&'static str, Value)>,
    pub(super) tls: bool,
    /// The cluster to which requests go.
    pub(super) cluster: &'static str,
}

/// What came of a request.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) status: u16,
    /// The reason that the module told Envoy.
    pub(super) reason: String,
    pub(super) body: Value,
}

impl Answer {
    pub(super) fn is(&self) -> (u16, &str) {
        (self.status, &self.reason)
    }
}

/// What the result of `look` is, as soon as there is one.
pub(super) async fn until<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let began = Instant::now();
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(began.elapsed() < LONG, "not within {LONG:?}: {what}");
        sleep(Duration::from_millis(5)).await;
    }
}

/// A `Struct`, which is the configuration itself.
pub(super) fn inline(config: &Value) -> Value {
    json!({"@type": "type.googleapis.com/google.protobuf.Struct", "value": config})
}

/// A `StringValue`.
pub(super) fn string(text: &str) -> Value {
    json!({"@type": "type.googleapis.com/google.protobuf.StringValue", "value": text})
}

impl Listener {
    /// One without TLS.
    pub(super) fn plain(name: &'static str, config: Value) -> Self {
        Self { name, config, routes: vec![], tls: false, cluster: "upstream" }
    }

    /// One for clients with certificates, and without.
    pub(super) fn tls(name: &'static str, config: Value) -> Self {
        Self { tls: true, ..Self::plain(name, config) }
    }
}

impl Site {
    pub(super) async fn new() -> Self {
        let directory = TempDir::new().unwrap();
        let authority = Authority::new("test authority").unwrap();
        let server = authority.server(&["localhost", "127.0.0.1"]).unwrap();
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut tasks = JoinSet::new();
        tasks.spawn(upstream::serve(listener));
        let signer = Signer::new(Algorithm::ES256, "test");
        let site = Self { directory, signer, authority, upstream: address, _upstream: tasks };
        site.write("ca.pem", &site.authority.certificate_pem());
        site.write("edge.pem", &server.certificate_pem());
        site.write("edge.key", &server.key_pem());
        site.write("jwks.json", &json!({"keys": [site.signer.jwk()]}).to_string());
        symlink(module(), site.path("libkeybound_envoy.so")).unwrap();
        site
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Puts a file into its place in one step.
    pub(super) fn write(&self, name: &str, text: &str) -> PathBuf {
        let (path, beside) = (self.path(name), self.path(&format!("{name}.new")));
        fs::write(&beside, text).unwrap();
        fs::rename(beside, &path).unwrap();
        path
    }

    /// A configuration with the keys of the site in a file, and a policy for each kind of token.
    pub(super) fn configuration(&self) -> Value {
        json!({
            "listen": {"admin": "127.0.0.1:0"},
            "issuers": [{
                "issuer": ISSUER, "audiences": [AUDIENCE],
                "keys": {"jwks_file": self.path("jwks.json")},
            }],
            "client_certificate": {"source": "peer"},
            "policies": [
                {"name": "certificate", "match": {"path_prefix": "/certificate"}, "sender_constraint": "certificate"},
                {"name": "dpop", "sender_constraint": "dpop"},
            ],
            "limits": {"check_deadline": "900ms"},
        })
    }

    /// The same, with keys that are fetched from there.
    pub(super) fn fetching(&self, jwks_uri: &str) -> Value {
        let mut config = self.configuration();
        config["issuers"][0]["keys"] = json!({"jwks_uri": jwks_uri});
        config
    }

    /// A client of the authority.
    pub(super) fn client(&self, name: &str) -> Identity {
        self.authority.client(name, KeyPair::generate().unwrap()).unwrap()
    }

    /// A token that is in order, with this binding.
    pub(super) fn token(&self, cnf: &Value) -> String {
        let now = SystemClock.now().as_secs();
        self.signer.sign(
            "at+jwt",
            &json!({
                "iss": ISSUER, "aud": AUDIENCE, "sub": "alice", "client_id": "app", "scope": "read",
                "iat": now, "exp": now + 300, "cnf": cnf,
            }),
        )
    }

    /// A token that is in order and bound to `identity`.
    pub(super) fn token_of(&self, identity: &Identity) -> String {
        self.token(&json!({"x5t#S256": identity.thumbprint().to_base64url()}))
    }

    /// An HTTP client, which holds no connection longer than a request.
    pub(super) fn http_client(&self, identity: Option<&Identity>) -> Client {
        self.client_builder(identity).http1_only().pool_max_idle_per_host(0).build().unwrap()
    }

    pub(super) fn client_builder(&self, identity: Option<&Identity>) -> reqwest::ClientBuilder {
        let ca = self.authority.certificate_pem();
        let ca = reqwest::Certificate::from_pem(ca.as_bytes()).unwrap();
        let builder = Client::builder().no_proxy().timeout(LONG).tls_certs_only([ca]);
        let Some(identity) = identity else { return builder };
        let pem = identity.certificate_pem() + &identity.key_pem();
        builder.identity(reqwest::Identity::from_pem(pem.as_bytes()).unwrap())
    }

    fn bootstrap(&self) -> Value {
        let upstream = json!({"socket_address": {
            "address": self.upstream.ip(), "port_value": self.upstream.port(),
        }});
        let cluster = |name: &str| {
            json!({
                "name": name,
                "type": "STATIC",
                "connect_timeout": "5s",
                "circuit_breakers": {"thresholds": [{
                    "max_connections": MANY, "max_pending_requests": MANY, "max_requests": MANY,
                }]},
                "load_assignment": {
                    "cluster_name": name,
                    "endpoints": [{"lb_endpoints": [{"endpoint": {"address": upstream}}]}],
                },
            })
        };
        // Of thousands of streams, not each has a connection.
        let mut multiplexed = cluster(MULTIPLEXED);
        multiplexed["typed_extension_protocol_options"] = json!({
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                "explicit_http_config": {"http2_protocol_options": {"max_concurrent_streams": 100}},
            },
        });
        json!({
            "node": {"id": "edge", "cluster": "edge"},
            "admin": {"address": any_port()},
            "dynamic_resources": {
                "lds_config": {"path_config_source": {"path": self.path("listeners.json")}},
            },
            "static_resources": {"clusters": [cluster("upstream"), multiplexed]},
        })
    }

    /// An Envoy with these listeners and variables, which runs or has failed.
    fn run(&self, listeners: &[Value], environment: &[(&str, &Path)]) -> Child {
        self.write("listeners.json", &discovered("0", listeners));
        self.envoy(&self.bootstrap(), environment)
    }

    /// Has Envoy validate a bootstrap with these listeners: how it ended, and its log.
    pub(super) fn validate(&self, listeners: &[Listener]) -> (ExitStatus, String) {
        let mut bootstrap = self.bootstrap();
        bootstrap["dynamic_resources"] = json!({});
        bootstrap["static_resources"]["listeners"] =
            listeners.iter().map(|it| it.resource(self)).collect();
        let mut command = self.command(&bootstrap);
        let mut process = command.args(["--mode", "validate"]).spawn().unwrap();
        (process.wait().unwrap(), self.log())
    }

    fn envoy(&self, bootstrap: &Value, environment: &[(&str, &Path)]) -> Child {
        let mut command = self.command(bootstrap);
        command.envs(environment.iter().copied()).spawn().unwrap()
    }

    fn command(&self, bootstrap: &Value) -> Command {
        // One that ran before may have left it.
        drop(fs::remove_file(self.path("envoy-admin")));
        let config = self.write("envoy.json", &bootstrap.to_string());
        let log = File::create(self.path("envoy.log")).unwrap();
        let mut command = Command::new(provisioned("envoy"));
        command
            // Cargo's would lead to the module wherever it is.
            .env_remove("LD_LIBRARY_PATH")
            .env("ENVOY_DYNAMIC_MODULES_SEARCH_PATH", self.directory.path())
            .args(["--disable-hot-restart", "--concurrency", "2", "--log-level", "warning"])
            .args(["--drain-time-s", "1", "--drain-strategy", "immediate"])
            .arg("--admin-address-path")
            .arg(self.path("envoy-admin"))
            .arg("--config-path")
            .arg(config)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log);
        command
    }

    /// All that Envoy and the module have logged.
    pub(super) fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(self.path("envoy.log")).unwrap()).into_owned()
    }

    /// How an Envoy ends that cannot start with these listeners.
    pub(super) fn start_fails(&self, listener: &Listener) -> ExitStatus {
        let mut bootstrap = self.bootstrap();
        bootstrap["dynamic_resources"] = json!({});
        bootstrap["static_resources"]["listeners"] = json!([listener.resource(self)]);
        self.envoy(&bootstrap, &[]).wait().unwrap()
    }
}

impl<'s> Edge<'s> {
    pub(super) async fn start(site: &'s Site, listeners: &[Listener]) -> Self {
        Self::start_with(site, listeners, &[]).await
    }

    pub(super) async fn start_with(
        site: &'s Site,
        listeners: &[Listener],
        environment: &[(&str, &Path)],
    ) -> Self {
        let listeners: Vec<_> = listeners.iter().map(|it| it.resource(site)).collect();
        let process = site.run(&listeners, environment);
        let expected = listeners.len();
        let mut edge = Self { site, process, admin: String::new(), listeners, version: 0 };
        edge.admin = until("Envoy's admin address", async || {
            edge.still_runs();
            fs::read_to_string(edge.site.path("envoy-admin")).ok().filter(|it| !it.is_empty())
        })
        .await;
        until("Envoy is ready", async || {
            edge.still_runs();
            edge.try_asked("/ready").await.filter(|it| it.starts_with("LIVE"))
        })
        .await;
        edge.have_workers(0, expected).await;
        edge
    }

    /// Gives Envoy these listeners, and waits until all workers have them.
    pub(super) async fn update(&mut self, listeners: &[Listener]) {
        let listeners: Vec<_> = listeners.iter().map(|it| it.resource(self.site)).collect();
        let changed = listeners.iter().filter(|it| !self.listeners.contains(it)).count();
        let on_workers = self.stat(CREATED).await;
        let (taken, refused) = (self.stat(TAKEN).await, self.stat(REFUSED).await);
        self.give(&listeners);
        until("the update is taken", async || {
            assert_eq!(self.stat(REFUSED).await, refused, "{}", self.site.log());
            (taken < self.stat(TAKEN).await).then_some(())
        })
        .await;
        self.have_workers(on_workers, changed).await;
        self.listeners = listeners;
    }

    /// Gives Envoy these listeners, which it must refuse.
    pub(super) async fn refuses(&mut self, listeners: &[Listener]) {
        let listeners: Vec<_> = listeners.iter().map(|it| it.resource(self.site)).collect();
        let (taken, refused) = (self.stat(TAKEN).await, self.stat(REFUSED).await);
        self.give(&listeners);
        until("the update is refused", async || {
            assert_eq!(self.stat(TAKEN).await, taken, "it is taken");
            (refused < self.stat(REFUSED).await).then_some(())
        })
        .await;
    }

    fn give(&mut self, listeners: &[Value]) {
        self.version += 1;
        self.site.write("listeners.json", &discovered(&self.version.to_string(), listeners));
    }

    /// Waits until each worker has taken `changed` listeners more than `before` of them.
    async fn have_workers(&self, before: u64, changed: usize) {
        let all = before + 2 * u64::try_from(changed).unwrap();
        until("the workers have the listeners", async || {
            assert!(before != 0 || self.stat(REFUSED).await == 0, "{}", self.site.log());
            (all <= self.stat(CREATED).await).then_some(())
        })
        .await;
    }

    /// Waits until nothing is left of listeners that were removed or replaced.
    pub(super) async fn drained(&self) {
        until("the old listeners are gone", async || {
            (self.stat("listener_manager.total_listeners_draining").await == 0
                && self.stat("listener_manager.total_filter_chains_draining").await == 0)
                .then_some(())
        })
        .await;
    }

    /// A figure of Envoy's.
    pub(super) async fn stat(&self, name: &str) -> u64 {
        let all = self.try_asked(&format!("/stats?filter=^{name}$")).await.unwrap();
        let found = all.lines().find_map(|it| it.strip_prefix(name)?.strip_prefix(": "));
        found.map_or(0, |it| it.trim().parse().unwrap())
    }

    async fn try_asked(&self, path: &str) -> Option<String> {
        let url = format!("http://{}{path}", self.admin);
        let answer = self.site.http_client(None).get(url).send().await.ok()?;
        answer.text().await.ok()
    }

    /// Has Envoy's admin do something.
    pub(super) async fn post(&self, path: &str) {
        let url = format!("http://{}{path}", self.admin);
        let answer = self.site.http_client(None).post(url).send().await.unwrap();
        assert_eq!(answer.status(), 200);
    }

    /// Where a listener listens.
    pub(super) async fn address(&self, name: &str) -> SocketAddr {
        let all = self.try_asked("/listeners").await.unwrap();
        let found = all.lines().find_map(|it| it.strip_prefix(name)?.strip_prefix("::"));
        found.unwrap().parse().unwrap()
    }

    /// The URL of `path` behind a listener.
    pub(super) async fn url(&self, name: &str, path: &str) -> String {
        let tls = self
            .listeners
            .iter()
            .any(|it| it["name"] == name && !it["filter_chains"][0]["transport_socket"].is_null());
        let scheme = if tls { "https" } else { "http" };
        format!("{scheme}://{}{path}", self.address(name).await)
    }

    /// What comes of a request with this token.
    pub(super) async fn bearer(
        &self,
        listener: &str,
        path: &str,
        identity: Option<&Identity>,
        token: &str,
    ) -> Answer {
        let client = self.site.http_client(identity);
        let request = client.get(self.url(listener, path).await);
        send(request.header("authorization", format!("Bearer {token}"))).await.unwrap()
    }

    /// What comes of a request with this token and this proof.
    pub(super) async fn dpop(
        &self,
        listener: &str,
        path: &str,
        token: &str,
        proof: &str,
    ) -> Answer {
        let request = self.site.http_client(None).get(self.url(listener, path).await);
        send(presenting(request, token, proof)).await.unwrap()
    }

    /// Waits until the module or Envoy has logged this.
    pub(super) async fn logs(&self, words: &str) {
        until(words, async || self.site.log().contains(words).then_some(())).await;
    }

    /// Where the module's own admin listener is that was opened as the `nth`.
    pub(super) async fn own_admin(&self, nth: usize) -> String {
        until("the module's admin address", async || {
            let log = self.site.log();
            let lines = log.lines().filter_map(|it| serde_json::from_str::<Value>(it).ok());
            let mut listening = lines.filter_map(|it| {
                it["admin"].as_str().filter(|_| it["message"] == "listening").map(str::to_owned)
            });
            listening.nth(nth)
        })
        .await
    }

    /// What the module's own admin listener answers: the status and the text.
    pub(super) async fn own(&self, path: &str) -> (u16, String) {
        let url = format!("http://{}{path}", self.own_admin(0).await);
        let answer = self.site.http_client(None).get(url).send().await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    }

    /// `/status` of the module.
    pub(super) async fn status(&self) -> Value {
        serde_json::from_str(&self.own("/status").await.1).unwrap()
    }

    /// The time for which the module's own thread has run so far.
    pub(super) fn own_time(&self) -> Duration {
        let tasks = fs::read_dir(format!("/proc/{}/task", self.process.id())).unwrap();
        let mut own = tasks.map(|it| it.unwrap().path()).filter(|it| {
            fs::read_to_string(it.join("comm")).is_ok_and(|it| it.trim() == "keybound")
        });
        let text = fs::read_to_string(own.next().unwrap().join("schedstat")).unwrap();
        Duration::from_nanos(text.split(' ').next().unwrap().parse().unwrap())
    }

    /// The memory that Envoy has, in bytes.
    pub(super) fn memory(&self) -> u64 {
        let text = fs::read_to_string(format!("/proc/{}/status", self.process.id())).unwrap();
        let held = text.lines().find_map(|it| it.strip_prefix("VmRSS:")?.strip_suffix("kB"));
        1024 * held.unwrap().trim().parse::<u64>().unwrap()
    }

    /// Fails, with the log, if Envoy has ended.
    pub(super) fn still_runs(&mut self) {
        let ended = self.process.try_wait().unwrap();
        assert!(ended.is_none(), "Envoy has ended: {ended:?}: {}", self.site.log());
    }

    /// Tells Envoy to end, and how it ended.
    pub(super) async fn ends(mut self) -> ExitStatus {
        self.still_runs();
        let process = self.process.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &process]).status().unwrap().success());
        until("Envoy has ended", async || self.process.try_wait().unwrap()).await
    }
}

impl Drop for Edge<'_> {
    fn drop(&mut self) {
        // Both fail only if it has already ended.
        drop(self.process.kill());
        drop(self.process.wait());
    }
}

const TAKEN: &str = "listener_manager.lds.update_success";
const REFUSED: &str = "listener_manager.lds.update_rejected";
const CREATED: &str = "listener_manager.listener_create_success";

/// The request of a client with a DPoP key.
pub(super) fn presenting(request: RequestBuilder, token: &str, proof: &str) -> RequestBuilder {
    request.header("authorization", format!("DPoP {token}")).header("dpop", proof)
}

/// What comes of a request, by the name of the API; an error is one of the connection.
pub(super) async fn send(request: RequestBuilder) -> Result<Answer, reqwest::Error> {
    let response = request.header("host", HOST).send().await?;
    let header = |name| response.headers().get(name).map(|it| it.to_str().unwrap().to_owned());
    let (status, reason) = (response.status().as_u16(), header("x-reason").unwrap_or_default());
    let body = serde_json::from_slice(&response.bytes().await?).unwrap_or_default();
    Ok(Answer { status, reason, body })
}

/// The URL that a proof names.
pub(super) fn target(path: &str) -> String {
    format!("https://{HOST}{path}")
}

impl Listener {
    fn resource(&self, site: &Site) -> Value {
        let mut chain = json!({"filters": [{
            "name": "envoy.filters.network.http_connection_manager",
            "typed_config": self.connection_manager(),
        }]});
        if self.tls {
            let file = |name| json!({"filename": site.path(name)});
            chain["transport_socket"] = json!({"name": "envoy.transport_sockets.tls", "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
                "common_tls_context": {
                    "alpn_protocols": ["h2", "http/1.1"],
                    "tls_certificates": [
                        {"certificate_chain": file("edge.pem"), "private_key": file("edge.key")},
                    ],
                    "validation_context": {"trusted_ca": file("ca.pem")},
                },
            }});
        }
        json!({
            "name": self.name,
            "address": any_port(),
            "filter_chains": [chain],
        })
    }

    fn connection_manager(&self) -> Value {
        let module = json!({"name": "keybound_envoy", "do_not_close": true});
        let of = |name: &str| format!("type.googleapis.com/envoy.extensions.filters.http.{name}");
        // What a test opens stays open however long it takes.
        let action = json!({"cluster": self.cluster, "timeout": "0s"});
        let route = |prefix: &str| json!({"match": {"prefix": prefix}, "route": action});
        let named = self.routes.iter().map(|(prefix, config)| {
            let mut route = route(prefix);
            route["typed_per_filter_config"] = json!({"keybound": {
                "@type": of("dynamic_modules.v3.DynamicModuleFilterPerRoute"),
                "dynamic_module_config": module, "filter_name": "keybound", "filter_config": config,
            }});
            route
        });
        let reason = "%DYNAMIC_METADATA(envoy.filters.http.ext_authz:reason)%";
        json!({
            "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
            "stat_prefix": self.name,
            "scheme_header_transformation": {"scheme_to_overwrite": "https"},
            "upgrade_configs": [{"upgrade_type": "websocket"}],
            "http_filters": [
                {"name": "keybound", "typed_config": {
                    "@type": of("dynamic_modules.v3.DynamicModuleFilter"),
                    "dynamic_module_config": module, "filter_name": "keybound", "filter_config": self.config,
                }},
                {"name": "envoy.filters.http.router", "typed_config": {"@type": of("router.v3.Router")}},
            ],
            "route_config": {
                "response_headers_to_add": [{"header": {"key": "x-reason", "value": reason}}],
                "virtual_hosts": [{
                    "name": "all", "domains": ["*"],
                    "routes": named.chain([route("/")]).collect::<Value>(),
                }],
            },
        })
    }
}

/// What Envoy reads of listeners.
fn discovered(version: &str, listeners: &[Value]) -> String {
    let typed = listeners.iter().map(|it| {
        let mut resource = it.clone();
        resource["@type"] = json!("type.googleapis.com/envoy.config.listener.v3.Listener");
        resource
    });
    json!({"version_info": version, "resources": typed.collect::<Value>()}).to_string()
}

fn any_port() -> Value {
    json!({"socket_address": {"address": "127.0.0.1", "port_value": 0}})
}
