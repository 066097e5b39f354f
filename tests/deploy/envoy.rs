//! The files for Envoy, with the real Envoy, the real service, and requests.

use crate::built_module::module;
use crate::collector::{Collector, Span, TAKEN, spans};
use crate::programs::provisioned;
use crate::tokens::Signer;
use crate::verbatim::{Failure, Verbatim};
use crate::{deploy, replaced, succeeds};
use jsonwebtoken::Algorithm;
use keybound::clock::{Clock, SystemClock};
use keybound::commands::demo::envoy::Envoy;
use keybound::commands::demo::pki::{Authority, Identity};
use keybound::commands::demo::service::Service;
use keybound::commands::demo::upstream;
use keybound_core::Denial;
use rcgen::KeyPair;
use reqwest::{Client, Version};
use serde_json::{Value, json};
use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::task::{JoinSet, yield_now};
use tokio::time::timeout;

/// Whatever hangs, the test does not.
const PATIENCE: Duration = Duration::from_secs(20);

/// Where the module is inside Envoy, which then asks nobody.
pub(crate) const INSIDE: &str = "../envoy-module";

/// Files of a folder of `deploy/envoy`, at work.
pub(crate) struct Deployed {
    authority: Authority,
    signer: Signer,
    address: SocketAddr,
    service: Option<Service>,
    _running: (Envoy, JoinSet<()>),
    files: TempDir,
}

impl Deployed {
    async fn start(folder: &str) -> Self {
        Self::start_with(folder, str::to_owned, str::to_owned).await
    }

    /// The same, with one more edit of each file.
    pub(crate) async fn start_with(
        folder: &str,
        edit_keybound: impl Fn(&str) -> String,
        edit_envoy: impl Fn(&str) -> String,
    ) -> Self {
        let source = deploy("envoy").join(folder);
        let read = |name| fs::read_to_string(source.join(name)).unwrap();
        let config = edit_keybound(&read("keybound.yaml"));
        let bootstrap = edit_envoy(&read("envoy.yaml"));
        let front = (folder != INSIDE).then_some("ext_authz");
        Self::run(|files| keybound(&config, files), &bootstrap, front).await
    }

    /// Runs Envoy with `bootstrap`, and the service with `config`, which may name files of a folder, if
    /// Envoy asks it, at this `front`.
    pub(crate) async fn run(
        config: impl FnOnce(&Path) -> String,
        bootstrap: &str,
        front: Option<&str>,
    ) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let upstream = listener.local_addr().unwrap();
        let mut sites = JoinSet::new();
        sites.spawn(upstream::echo().serve(listener));
        Self::run_before(upstream, sites, config, bootstrap, front).await
    }

    /// The same, in front of another upstream, which runs as long as `sites` does or by itself.
    pub(crate) async fn run_before(
        upstream: SocketAddr,
        sites: JoinSet<()>,
        config: impl FnOnce(&Path) -> String,
        bootstrap: &str,
        front: Option<&str>,
    ) -> Self {
        let files = TempDir::new().unwrap();
        let authority = Authority::new("test authority").unwrap();
        let server = authority.server(&["localhost", "127.0.0.1", "api.example.com"]).unwrap();
        let signer = Signer::new(Algorithm::ES256, "test");
        let jwks = json!({"keys": [signer.jwk()]}).to_string();
        for (name, text) in [
            ("client-ca.crt", authority.certificate_pem()),
            ("server.crt", server.certificate_pem()),
            ("server.key", server.key_pem()),
            ("jwks.json", jwks),
        ] {
            fs::write(files.path().join(name), text).unwrap();
        }
        let config = place(&files, "keybound.yaml", &config(files.path()));
        let client = Client::builder().no_proxy().timeout(PATIENCE).build().unwrap();
        let mut service = None;
        if front.is_some() {
            service = Some(serve(&config, &client).await);
        } else {
            symlink(module(), files.path().join("libkeybound_envoy.so")).unwrap();
        }

        let binary = provisioned("envoy");
        let as_it_stands = place(&files, "envoy.yaml", bootstrap);
        let mut validate = Command::new(&binary);
        validate.current_dir(files.path()).env("ENVOY_DYNAMIC_MODULES_SEARCH_PATH", files.path());
        validate.args(["--mode", "validate", "--log-level", "warning"]);
        succeeds(validate.arg("-c").arg(&as_it_stands));
        let authorizer = service.as_ref().zip(front).map(|(it, front)| it.address(front).unwrap());
        let here = envoy(bootstrap, files.path(), authorizer, upstream);
        let bootstrap = place(&files, "envoy.yaml", &here);
        let envoy = Envoy::run(&binary, &bootstrap, &client).await.unwrap();
        let address = envoy.address("https").unwrap();
        Self { authority, signer, address, service, _running: (envoy, sites), files }
    }

    pub(crate) fn client(&self, name: &str) -> Identity {
        self.authority.client(name, KeyPair::generate().unwrap()).unwrap()
    }

    /// A token bound to `identity`, with these scopes.
    pub(crate) fn token(&self, identity: &Identity, scope: &str) -> String {
        self.token_with(identity, scope, |_| {})
    }

    /// The same, but for the edit.
    pub(crate) fn token_with(
        &self,
        identity: &Identity,
        scope: &str,
        edit: impl FnOnce(&mut Value),
    ) -> String {
        let now = SystemClock.now().as_secs();
        let mut claims = json!({
            "iss": "https://as.example.com", "aud": "https://api.example.com", "sub": "alice",
            "client_id": "app", "scope": scope, "iat": now, "exp": now.saturating_add(300),
            "cnf": {"x5t#S256": identity.thumbprint().to_base64url()},
        });
        edit(&mut claims);
        format!("Bearer {}", self.signer.sign("at+jwt", &claims))
    }

    /// The status and the body, over mutual TLS as `identity`.
    pub(crate) async fn get(
        &self,
        identity: Option<&Identity>,
        path: &str,
        headers: &[(&str, &str)],
    ) -> Result<(u16, Value), Failure> {
        self.get_by(Version::HTTP_2, identity, path, headers).await
    }

    /// The same by this version of HTTP.
    pub(crate) async fn get_by(
        &self,
        http: Version,
        identity: Option<&Identity>,
        path: &str,
        headers: &[(&str, &str)],
    ) -> Result<(u16, Value), Failure> {
        self.get_from("api.example.com", http, identity, path, headers).await
    }

    /// The same of this host.
    async fn get_from(
        &self,
        host: &str,
        http: Version,
        identity: Option<&Identity>,
        path: &str,
        headers: &[(&str, &str)],
    ) -> Result<(u16, Value), Failure> {
        let client = Verbatim {
            http,
            address: self.address,
            host,
            authority: self.authority.certificate_pem(),
            identity: identity.map(|it| it.certificate_pem() + &it.key_pem()),
        };
        let response = client.get(path, headers).await?;
        let body = serde_json::from_slice(response.body()).unwrap_or_default();
        Ok((response.status().as_u16(), body))
    }

    /// Stops the service.
    pub(crate) fn stop(&mut self) {
        self.service = None;
    }

    /// The first line with this message in the log of the service.
    pub(crate) async fn logged(&self, message: &str) -> Value {
        let file = self.files.path().join("keybound.log");
        let find = || {
            let log = fs::read_to_string(&file).unwrap();
            let mut lines = log.lines().filter_map(|it| serde_json::from_str::<Value>(it).ok());
            lines.find(|it| it["message"] == message)
        };
        timeout(PATIENCE, async {
            loop {
                match find() {
                    Some(line) => return line,
                    None => yield_now().await,
                }
            }
        })
        .await
        .unwrap()
    }

    pub(crate) async fn passes_nothing_without_an_answer(&mut self) {
        let edge = self.client("edge");
        assert_eq!(self.get(Some(&edge), "/", &[]).await.unwrap().0, 401);
        self.stop();
        assert_eq!(self.get(Some(&edge), "/", &[]).await.unwrap().0, 503);
    }

    pub(crate) async fn refuses(
        &self,
        denial: Denial,
        identity: &Identity,
        path: &str,
        headers: &[(&str, &str)],
    ) {
        let (status, body) = self.get(Some(identity), path, headers).await.unwrap();
        let found = (status, body["error_description"].as_str().unwrap_or_default());
        assert_eq!(found, (denial.status(), denial.sentence()), "{path}");
    }
}

async fn serve(config: &Path, client: &Client) -> Service {
    let program = Path::new(env!("CARGO_BIN_EXE_keybound"));
    let mut service = Service::start(program, config).await.unwrap();
    service.ready(client).await.unwrap();
    service
}

/// Puts a file among `files`.
fn place(files: &TempDir, name: &str, text: &str) -> PathBuf {
    let path = files.path().join(name);
    fs::write(&path, text).unwrap();
    path
}

/// The configuration with addresses and files of this test, and patience for a busy machine.
pub(crate) fn keybound(text: &str, files: &Path) -> String {
    let audiences = "    audiences: [https://api.example.com]\n";
    let keys = format!("{audiences}    keys: {{jwks_file: jwks.json}}\n");
    let text = replaced(text, audiences, &keys) + "\nlimits: {check_deadline: 10s}\n";
    text.replace("/run/keybound/", &format!("{}/", files.display()))
        .replace("127.0.0.1:9001", "127.0.0.1:0")
        .replace("127.0.0.1:9003", "127.0.0.1:0")
        .replace("spiffe://example.com/edge", "spiffe://demo.test/clients/edge")
}

/// The same for the bootstrap.
fn envoy(text: &str, files: &Path, authorizer: Option<&str>, upstream: SocketAddr) -> String {
    let folder = format!("{}/", files.display());
    let mut text = replaced(text, "address: 0.0.0.0, port_value: 8443", ANY_PORT);
    for name in ["server.crt", "server.key"] {
        text = replaced(&text, &format!("filename: {name}"), &format!("filename: {folder}{name}"));
    }
    text = text.replace("filename: client-ca.crt", &format!("filename: {folder}client-ca.crt"));
    text = replaced(&text, "port_value: 8080", &format!("port_value: {}", upstream.port()));
    text = match authorizer {
        Some(address) => {
            asking(&replaced(&text, "timeout: 0.25s", "timeout: 15s"), &folder, address)
        }
        None => replaced(&text, "value: keybound.yaml", &format!("value: {folder}keybound.yaml")),
    };
    text = text.replace("spiffe://example.com/edge", "spiffe://demo.test/clients/edge");
    format!("{text}admin: {{address: {{socket_address: {{{ANY_PORT}}}}}}}\n")
}

fn asking(text: &str, folder: &str, authorizer: &str) -> String {
    match authorizer.rsplit_once(':') {
        Some(("unix", _)) => replaced(text, "/run/keybound/", folder),
        Some((_, port)) => replaced(text, "port_value: 9001", &format!("port_value: {port}")),
        None => panic!("{authorizer}"),
    }
}

const ANY_PORT: &str = "address: 127.0.0.1, port_value: 0";

#[tokio::test]
async fn at_the_edge_a_token_is_good_with_its_certificate_alone() {
    let it = Deployed::start(".").await;
    let [client, thief] = ["client", "thief"].map(|name| it.client(name));
    let token = it.token(&client, "payments");
    let bearer = [("authorization", token.as_str())];
    let (status, body) = it.get(Some(&client), "/", &bearer).await.unwrap();
    assert_eq!((status, &body["headers"]["x-auth-subject"]), (200, &json!(["alice"])));
    it.refuses(Denial::CertificateMismatch, &thief, "/", &bearer).await;
    it.refuses(Denial::CredentialsMissing, &client, "/", &[]).await;
    assert!(it.get(None, "/", &bearer).await.is_err(), "no certificate, no connection");
}

#[tokio::test]
async fn without_an_authority_a_certificate_of_the_clients_own_making_is_as_good() {
    let authority = "trusted_ca: {filename: client-ca.crt}";
    let any = "trust_chain_verification: ACCEPT_UNTRUSTED";
    let it = Deployed::start_with(".", str::to_owned, |it| replaced(it, authority, any)).await;
    let [client, thief] =
        [(); 2].map(|()| Identity::self_signed("self", KeyPair::generate().unwrap()).unwrap());
    let token = it.token(&client, "payments");
    let bearer = [("authorization", token.as_str())];
    assert_eq!(it.get(Some(&client), "/", &bearer).await.unwrap().0, 200);
    it.refuses(Denial::CertificateMismatch, &thief, "/", &bearer).await;
    // Envoy lets it in, whatever `require_client_certificate` says.
    let (status, body) = it.get(None, "/", &bearer).await.unwrap();
    let found = (status, body["error_description"].as_str());
    assert_eq!(found, (401, Some(Denial::CertificateMissing.sentence())));
}

#[tokio::test]
async fn at_the_edge_over_a_socket_routes_name_policies() {
    routes_name_policies("edge-uds").await;
}

#[tokio::test]
async fn inside_envoy_routes_name_policies() {
    routes_name_policies(INSIDE).await;
}

async fn routes_name_policies(folder: &str) {
    let it = Deployed::start(folder).await;
    let [client, thief] = ["client", "thief"].map(|name| it.client(name));
    let [reader, payer] = ["read", "payments"].map(|scope| it.token(&client, scope));
    let reader = [("authorization", reader.as_str())];
    let payer = [("authorization", payer.as_str())];
    assert_eq!(it.get(Some(&client), "/", &reader).await.unwrap().0, 200);
    assert_eq!(it.get(Some(&client), "/payments/1", &payer).await.unwrap().0, 200);
    it.refuses(Denial::ScopeInsufficient, &client, "/payments/1", &reader).await;
    for path in ["/x/../payments", "/x/%2e%2e/payments", "/x/%2E.//payments", "//payments"] {
        it.refuses(Denial::ScopeInsufficient, &client, path, &reader).await;
        assert_eq!(it.get(Some(&client), path, &payer).await.unwrap().0, 200, "{path}");
    }
    it.refuses(Denial::CertificateMismatch, &thief, "/", &reader).await;
    assert_eq!(it.get(Some(&thief), "/healthz", &[]).await.unwrap().0, 200);
    it.refuses(Denial::CredentialsMissing, &thief, "/healthz/x", &[]).await;
}

#[tokio::test]
async fn at_the_edge_over_a_socket_no_spelling_gets_the_weaker_route() {
    no_spelling_gets_the_weaker_route("edge-uds").await;
}

#[tokio::test]
async fn inside_envoy_no_spelling_gets_the_weaker_route() {
    no_spelling_gets_the_weaker_route(INSIDE).await;
}

async fn no_spelling_gets_the_weaker_route(folder: &str) {
    let it = Deployed::start(folder).await;
    let client = it.client("client");
    let [reader, payer] = ["read", "payments"].map(|scope| it.token(&client, scope));
    let reader = [("authorization", reader.as_str())];
    let payer = [("authorization", payer.as_str())];
    for path in [
        "/payments",
        "/Payments/7",
        "/PAYMENTS",
        "/payments;v=1/7",
        "/payments%3bv=1/7",
        "/payments.json",
        "/payments.",
        "/payments%20",
        "/%70ayments/7",
        // Envoy takes it for a dot segment.
        "/x/..;/payments",
    ] {
        it.refuses(Denial::ScopeInsufficient, &client, path, &reader).await;
        assert_eq!(it.get(Some(&client), path, &payer).await.unwrap().0, 200, "{path}");
    }
    for path in [
        "/;x/payments/7",
        "/;/payments",
        "/x/..%3b/payments",
        "/%2570ayments",
        "/x/%252e%252e/payments",
        "/x/%c0%ae%c0%ae/payments",
        "/x/%e0%80%ae./payments",
        "/x/%f0%80%80%ae./payments",
        "/%u0070ayments",
        "/x%23/payments",
        "/payments%00",
        "/x%00/payments",
        "/x%0a/payments",
        "/x%5cpayments",
        "/x%2fpayments",
    ] {
        let (status, body) = it.get(Some(&client), path, &payer).await.unwrap();
        assert_eq!((status, body), (400, Value::Null), "{path}");
    }
    for path in
        ["/paymentsx", "/payments-old", "/a%20b", "/caf%C3%A9", "/x.json", "/%E4%B8%AD%F0%9F%98%80"]
    {
        assert_eq!(it.get(Some(&client), path, &reader).await.unwrap().0, 200, "{path}");
    }
    for name in ["x-original-url", "x-rewrite-url"] {
        let headers = [reader[0], (name, "/payments")];
        let (status, body) = it.get(Some(&client), "/", &headers).await.unwrap();
        assert_eq!((status, body["headers"].get(name)), (200, None));
    }
}

#[tokio::test]
async fn at_the_edge_a_host_that_is_not_ours_is_nobodys() {
    for folder in [".", "edge-uds", INSIDE] {
        let it = Deployed::start(folder).await;
        let client = it.client("client");
        let token = it.token(&client, "payments");
        let bearer = [("authorization", token.as_str())];
        for (host, expected) in [("api.example.com", 200), ("127.0.0.1", 404), ("localhost", 404)] {
            let found = it.get_from(host, Version::HTTP_2, Some(&client), "/", &bearer).await;
            assert_eq!(found.unwrap().0, expected, "{folder} {host}");
        }
    }
}

#[tokio::test]
async fn at_the_edge_over_a_socket_a_certificate_may_have_a_key_for_eddsa() {
    let it = Deployed::start("edge-uds").await;
    let key = KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
    let client = it.authority.client("client", key).unwrap();
    let token = it.token(&client, "read");
    let bearer = [("authorization", token.as_str())];
    assert_eq!(it.get(Some(&client), "/", &bearer).await.unwrap().0, 200);
    it.refuses(Denial::CertificateMismatch, &it.client("other"), "/", &bearer).await;
}

#[tokio::test]
async fn at_a_sidecar_the_client_is_the_one_that_the_edge_tells_of() {
    let it = Deployed::start("sidecar").await;
    let [edge, client, thief] = ["edge", "client", "thief"].map(|name| it.client(name));
    let token = it.token(&client, "read");
    let [of_client, of_thief] =
        [&client, &thief].map(|it| format!("Hash={}", it.thumbprint().to_hex()));
    let told = |xfcc| [("authorization", token.as_str()), ("x-forwarded-client-cert", xfcc)];

    let (status, body) = it.get(Some(&edge), "/", &told(&of_client)).await.unwrap();
    assert_eq!((status, body["headers"].get("x-forwarded-client-cert")), (200, None));
    it.refuses(Denial::CertificateMismatch, &edge, "/", &told(&of_thief)).await;
    let longer = format!("{of_client},{of_thief}");
    it.refuses(Denial::CertificateConflict, &edge, "/", &told(&longer)).await;
    let untold = [("authorization", token.as_str())];
    it.refuses(Denial::CertificateConflict, &edge, "/", &untold).await;
    assert!(it.get(Some(&thief), "/", &told(&of_client)).await.is_err(), "it is not the edge");
}

#[tokio::test]
async fn what_is_checked_and_what_the_upstream_sees_is_one_path() {
    for folder in [".", "edge-uds", "sidecar", INSIDE] {
        let it = Deployed::start(folder).await;
        let edge = it.client("edge");
        let token = it.token(&edge, "read payments");
        let certificate = format!("Hash={}", edge.thumbprint().to_hex());
        let headers =
            [("authorization", token.as_str()), ("x-forwarded-client-cert", &certificate)];
        for (path, seen) in [
            ("/a/b?x=/../y", "/a/b?x=/../y"),
            ("/x/../a", "/a"),
            ("/x/%2e%2e/a", "/a"),
            ("/x/./a", "/x/a"),
            ("//a", "/a"),
        ] {
            let (status, body) = it.get(Some(&edge), path, &headers).await.unwrap();
            assert_eq!((status, &body["path"]), (200, &json!(seen)), "{folder} {path}");
        }
        for path in ["/x/..%2fa", "/x%5c..%5ca"] {
            let (status, body) = it.get(Some(&edge), path, &headers).await.unwrap();
            assert_eq!((status, body), (400, Value::Null), "{folder} {path}");
        }
    }
}

#[tokio::test]
async fn without_an_answer_nothing_passes() {
    for folder in [".", "edge-uds", "sidecar"] {
        Deployed::start(folder).await.passes_nothing_without_an_answer().await;
    }
}

/// A route as Envoy Gateway makes it of an `HTTPRoute` for this path with this annotation.
fn annotated(path: &str, policy: &str) -> String {
    let resource = format!(
        "{{kind: HTTPRoute, name: r, namespace: default, annotations: {{keybound-policy: {policy}}}}}"
    );
    let metadata = format!("{{filter_metadata: {{envoy-gateway: {{resources: [{resource}]}}}}}}");
    format!(
        "              - match: {{prefix: {path}}}\n                route: {{cluster: api}}\n                \
         metadata: {metadata}\n"
    )
}

#[tokio::test]
async fn behind_envoy_gateway_a_route_chooses_among_the_policies_that_it_may() {
    let reading = "  - name: reading\n    sender_constraint: certificate\n    scopes: [read]\n";
    let allowed = format!("{reading}    allow_route_annotation: true\n");
    let plain = "              - match: {prefix: /}\n                route: {cluster: api}\n";
    let routes = [("/read", "reading"), ("/wild", "api"), ("/odd", "'re ading'"), ("/number", "7")];
    let routes: String = routes.iter().map(|(path, name)| annotated(path, name)).collect();
    let sent = "include_peer_certificate: true";
    let sent = format!("{sent}\n              route_metadata_context_namespaces: [envoy-gateway]");
    let with_routes = |it: &str| {
        let it = replaced(it, plain, &(routes.clone() + plain));
        replaced(&it, "include_peer_certificate: true", &sent)
    };
    for (policies, heeds) in [(&allowed, true), (&reading.to_owned(), false)] {
        let it = Deployed::start_with(".", |it| it.to_owned() + policies, with_routes).await;
        let [client, thief] = ["client", "thief"].map(|name| it.client(name));
        let [reader, payer] = ["read", "payments"].map(|scope| it.token(&client, scope));
        let reader = [("authorization", reader.as_str())];
        let payer = [("authorization", payer.as_str())];
        assert_eq!(it.get(Some(&client), "/", &payer).await.unwrap().0, 200);
        it.refuses(Denial::ScopeInsufficient, &client, "/", &reader).await;
        if heeds {
            assert_eq!(it.get(Some(&client), "/read", &reader).await.unwrap().0, 200);
            it.refuses(Denial::ScopeInsufficient, &client, "/read", &payer).await;
            it.refuses(Denial::CertificateMismatch, &thief, "/read", &reader).await;
            for path in ["/wild", "/odd", "/number"] {
                it.refuses(Denial::PolicyUnknown, &client, path, &payer).await;
            }
        } else {
            // Then all of them are for the first that matches.
            for path in ["/read", "/wild", "/odd", "/number"] {
                assert_eq!(it.get(Some(&client), path, &payer).await.unwrap().0, 200);
                it.refuses(Denial::ScopeInsufficient, &client, path, &reader).await;
            }
        }
    }
}

/// Envoy's tracing, with a collector of OpenTelemetry on this port.
fn traced(bootstrap: &str, endpoint: &str) -> String {
    let (_, port) = endpoint.trim_end_matches("/v1/traces").rsplit_once(':').unwrap();
    let provider = format!(
        "{{name: envoy.tracers.opentelemetry, typed_config: {{\"@type\": \
         type.googleapis.com/envoy.config.trace.v3.OpenTelemetryConfig, service_name: edge, \
         http_service: {{http_uri: {{uri: \"{endpoint}\", cluster: collector, timeout: 5s}}}}}}}}"
    );
    let prefix = "          stat_prefix: https\n";
    let tracing = format!("{prefix}          tracing: {{provider: {provider}}}\n");
    let collector = format!(
        "  clusters:\n  - name: collector\n    type: STATIC\n    load_assignment:\n      \
         cluster_name: collector\n      endpoints: [{{lb_endpoints: [{{endpoint: {{address: \
         {{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}}}}}]}}]\n"
    );
    let at_once = "layered_runtime: {layers: [{name: test, static_layer: \
                   {tracing.opentelemetry.min_flush_spans: 1}}]}\n";
    let text = replaced(bootstrap, prefix, &tracing);
    replaced(&text, "  clusters:\n", &collector) + at_once
}

#[tokio::test]
async fn a_check_is_told_as_a_part_of_envoys_own_span() {
    let collector = Collector::start(TAKEN);
    let endpoint = collector.endpoint.clone();
    // Whatever is sampled, Envoy samples.
    let telemetry = format!("telemetry: {{otlp: {{endpoint: '{endpoint}', sample_ratio: 0}}}}\n");
    let with_telemetry = |it: &str| it.to_owned() + &telemetry;
    let it = Deployed::start_with(".", with_telemetry, |it| traced(it, &endpoint)).await;
    let client = it.client("client");
    it.refuses(Denial::CredentialsMissing, &client, "/", &[]).await;

    let mut told: Vec<Span> = vec![];
    let (ours, asking) = loop {
        let (_, body) = collector.requests.recv_timeout(PATIENCE).unwrap();
        told.extend(spans(&body));
        let ours = told.iter().find(|it| it.name == "keybound check");
        let asking = ours.and_then(|ours| told.iter().find(|it| it.span_id == ours.parent_span_id));
        if let Some((ours, asking)) = ours.zip(asking) {
            break (ours, asking);
        }
    };
    assert_eq!(ours.trace_id, asking.trace_id);
    let root = told.iter().find(|it| it.span_id == asking.parent_span_id);
    let names = (asking.name.as_str(), root.map(|it| it.name.as_str()));
    assert_eq!(names, ("async envoy.service.auth.v3.Authorization.Check egress", Some("ingress")));
}
