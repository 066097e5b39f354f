//! Identities of a real SPIRE, which change while tokens live that are bound to them: by a real agent to a real
//! Envoy and to its clients, with the files of deploy/envoy/spire.

mod world;

use crate::programs::provisioned;
use crate::replaced;
use crate::tokens::Signer;
use jsonwebtoken::Algorithm;
use keybound::clock::{Clock, SystemClock};
use keybound::commands::demo::envoy::Envoy;
use keybound::commands::demo::pki::Authority;
use keybound::commands::demo::service::Service;
use keybound::commands::demo::upstream;
use keybound_core::Denial;
use keybound_core::jose::Thumbprint;
use rcgen::KeyPair;
use reqwest::{Certificate, Client, Identity};
use serde_json::{Value, json};
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use world::Spire;

/// Whatever hangs, the test does not.
const PATIENCE: Duration = Duration::from_secs(20);
const HOST: &str = "api.example.com";
const EDGE: &str = "spiffe://example.org/edge";
const APP: &str = "spiffe://example.org/clients/app";
/// In seconds: an X.509-SVID that is not renewed within the test, and one that is.
const AN_HOUR: u32 = 3600;
const SHORT: u32 = 60;

/// A client's X.509-SVID, an Envoy with one of its own, a service that it asks, and an upstream.
struct Edge {
    spire: Spire,
    signer: Signer,
    address: SocketAddr,
    _running: (Envoy, Service, JoinSet<()>),
    _files: TempDir,
}

/// Where keybound has the keys of the trust domain from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Keys {
    /// The discovery provider of SPIRE.
    Published,
    /// The bundle of the trust domain, in a file.
    Bundle,
}

impl Edge {
    /// All of it, where SPIRE is to be had, for clients whose X.509-SVIDs last so many seconds. `edit` gets the
    /// files for Envoy and for keybound.
    async fn start(
        lasts: u32,
        keys: Keys,
        edit: impl FnOnce(String, String) -> (String, String),
    ) -> Option<Self> {
        let mut spire = Spire::start().await?;
        let program = provisioned("envoy");
        spire.give(EDGE, &program, AN_HOUR, &[HOST]);
        spire.give(APP, &spire.client(), lasts, &[]);
        let authority = Authority::new("of the discovery provider").unwrap();
        if keys == Keys::Published {
            spire.publish(&authority).await;
        }

        let files = TempDir::new().unwrap();
        let signer = Signer::new(Algorithm::ES256, "test");
        for (name, text) in [
            ("jwks.json", json!({"keys": [signer.jwk()]}).to_string()),
            ("bundle.json", spire.bundle()),
            ("ca.pem", authority.certificate_pem()),
        ] {
            fs::write(files.path().join(name), text).unwrap();
        }
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let upstream = listener.local_addr().unwrap();
        let mut sites = JoinSet::new();
        sites.spawn(upstream::echo().serve(listener));

        let (bootstrap, config) = edit(deployed("envoy.yaml"), deployed("keybound.yaml"));
        let config = keybound(&config, &spire, keys);
        let file = files.path().join("keybound.yaml");
        fs::write(&file, config).unwrap();
        let client = Client::builder().no_proxy().timeout(PATIENCE).build().unwrap();
        let mut service =
            Service::start(Path::new(env!("CARGO_BIN_EXE_keybound")), &file).await.unwrap();
        service.ready(&client).await.unwrap();

        let bootstrap = envoy(&bootstrap, &spire, service.address("ext_authz").unwrap(), upstream);
        let file = files.path().join("envoy.yaml");
        fs::write(&file, bootstrap).unwrap();
        let envoy = Envoy::run(&program, &file, &client).await.unwrap();
        let address = envoy.address("https").unwrap();
        let it = Self { spire, signer, address, _running: (envoy, service, sites), _files: files };
        it.has_its_identity().await;
        Some(it)
    }

    /// Waits until Envoy has its certificate from the agent: until then it takes no connection.
    async fn has_its_identity(&self) {
        let client = self.client(&self.spire.minted(APP).pem);
        let deadline = Instant::now() + PATIENCE * 3;
        while self.get(&client, "/status", "", None).await.is_none() {
            assert!(Instant::now() < deadline, "Envoy takes no connection");
            sleep(Duration::from_millis(100)).await;
        }
    }

    /// A token that is in order, bound to the certificate with this thumbprint.
    fn token(&self, bound_to: Thumbprint) -> String {
        let now = SystemClock.now().as_secs();
        let claims = json!({
            "iss": "https://as.example.com", "aud": "https://api.example.com", "sub": "alice",
            "client_id": "app", "iat": now, "exp": now.saturating_add(300),
            "cnf": {"x5t#S256": bound_to.to_base64url()},
        });
        self.signer.sign("at+jwt", &claims)
    }

    /// A client that comes with the certificate and the key in `pem`, and keeps its connection.
    fn client(&self, pem: &str) -> Client {
        let authorities = Certificate::from_pem(self.spire.authorities().as_bytes()).unwrap();
        Client::builder()
            .no_proxy()
            .timeout(PATIENCE)
            .tls_certs_only([authorities])
            .identity(Identity::from_pem(pem.as_bytes()).unwrap())
            .resolve(HOST, self.address)
            .build()
            .unwrap()
    }

    /// The status and the body of an answer, or nothing where there is no connection.
    async fn get(
        &self,
        client: &Client,
        path: &str,
        token: &str,
        xfcc: Option<&str>,
    ) -> Option<(u16, Value)> {
        let url = format!("https://{HOST}:{}{path}", self.address.port());
        let mut request = client.get(url).bearer_auth(token);
        if let Some(xfcc) = xfcc {
            request = request.header("x-forwarded-client-cert", xfcc);
        }
        let answer = request.send().await.ok()?;
        let status = answer.status().as_u16();
        let body = serde_json::from_slice(&answer.bytes().await.unwrap()).unwrap_or_default();
        Some((status, body))
    }

    async fn passes(&self, client: &Client, path: &str, token: &str) -> Value {
        let (status, body) = self.get(client, path, token, None).await.unwrap();
        assert_eq!(status, 200, "{body}");
        body
    }

    async fn refuses(&self, denial: Denial, client: &Client, path: &str, token: &str) {
        let (status, body) = self.get(client, path, token, None).await.unwrap();
        let found = (status, body["error_description"].as_str().unwrap_or_default());
        assert_eq!(found, (denial.status(), denial.sentence()));
    }
}

fn deployed(name: &str) -> String {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy/envoy/spire");
    fs::read_to_string(folder.join(name)).unwrap()
}

fn as_it_stands(envoy: String, keybound: String) -> (String, String) {
    (envoy, keybound)
}

/// The configuration with addresses and files of this test, and patience for a busy machine.
fn keybound(text: &str, spire: &Spire, keys: Keys) -> String {
    let first = "  - issuer: https://as.example.com\n";
    let second = "  - issuer: https://oidc.example.org\n";
    let keys = match keys {
        Keys::Published => "ca_file: ca.pem",
        Keys::Bundle => "keys: {jwks_file: bundle.json}",
    };
    let text = replaced(text, first, &format!("{first}    keys: {{jwks_file: jwks.json}}\n"));
    let text = replaced(&text, second, &format!("  - issuer: {}\n    {keys}\n", spire.issuer));
    let text = replaced(&text, "127.0.0.1:9001", "127.0.0.1:0");
    replaced(&text, "127.0.0.1:9003", "127.0.0.1:0") + "\nlimits: {check_deadline: 10s}\n"
}

/// The same for the bootstrap.
fn envoy(text: &str, spire: &Spire, authorizer: &str, upstream: SocketAddr) -> String {
    let any_port = "address: 127.0.0.1, port_value: 0";
    let (_, authorizer) = authorizer.rsplit_once(':').unwrap();
    let mut text = replaced(text, "address: 0.0.0.0, port_value: 8443", any_port);
    for (from, to) in [
        ("port_value: 8080", format!("port_value: {}", upstream.port())),
        ("port_value: 9001", format!("port_value: {authorizer}")),
        ("timeout: 0.25s\n              failure", "timeout: 15s\n              failure".to_owned()),
        ("/run/spire/agent.sock", spire.agent_socket().display().to_string()),
    ] {
        text = replaced(&text, from, &to);
    }
    format!("{text}admin: {{address: {{socket_address: {{{any_port}}}}}}}\n")
}

#[tokio::test]
async fn a_token_is_good_until_the_x509_svid_changes_that_it_is_bound_to() {
    let Some(it) = Edge::start(SHORT, Keys::Bundle, as_it_stands).await else { return };
    let first = it.spire.svid(None).await;
    let token = it.token(first.thumbprint());
    let before = it.client(&first.pem);
    let body = it.passes(&before, "/payments", &token).await;
    assert_eq!(body["headers"]["authorization"], json!([format!("Bearer {token}")]));

    let second = it.spire.svid(Some(&first)).await;
    let after = it.client(&second.pem);
    it.refuses(Denial::CertificateMismatch, &after, "/payments", &token).await;
    let renewed = it.token(second.thumbprint());
    it.passes(&after, "/payments", &renewed).await;

    // A connection has the certificate with which it began, for as long as it lasts.
    it.passes(&before, "/payments", &token).await;
    it.refuses(Denial::CertificateMismatch, &before, "/payments", &renewed).await;

    // Who has no identity of this trust domain, or none that may come, gets no connection.
    let stranger = Authority::new("a stranger").unwrap();
    let stranger = stranger.client("app", KeyPair::generate().unwrap()).unwrap();
    let elsewhere = it.spire.minted("spiffe://example.org/servers/app");
    for pem in [stranger.certificate_pem() + &stranger.key_pem(), elsewhere.pem] {
        assert_eq!(it.get(&it.client(&pem), "/payments", &token, None).await, None);
    }
}

#[tokio::test]
async fn the_header_about_an_x509_svid_has_its_uri_and_no_common_name() {
    let start = Edge::start(AN_HOUR, Keys::Bundle, |envoy, keybound| {
        let forward = "forward_client_cert_details: SANITIZE_SET\n          \
                       set_current_client_cert_details: {subject: true, uri: true}";
        let route = "          route_config:";
        let envoy = replaced(&envoy, route, &format!("          {forward}\n{route}"));
        let envoy = replaced(&envoy, "include_peer_certificate: true", "");
        (envoy, keybound + "\nclient_certificate: {source: xfcc}\n")
    });
    let Some(it) = start.await else { return };
    let [own, other] = [it.spire.svid(None).await, it.spire.minted(APP)];
    let token = it.token(own.thumbprint());
    let body = it.passes(&it.client(&own.pem), "/payments", &token).await;
    let header = body["headers"]["x-forwarded-client-cert"][0].as_str().unwrap();
    let hash = own.thumbprint().to_hex();
    let expected = format!("By={EDGE};Hash={hash};Subject=\"O=SPIRE,C=US\";URI={APP}");
    assert_eq!(header, expected);
    // The same identity, but not the same certificate.
    it.refuses(Denial::CertificateMismatch, &it.client(&other.pem), "/payments", &token).await;
}

#[tokio::test]
async fn behind_a_proxy_with_an_svid_the_client_is_whom_that_proxy_names() {
    let start = Edge::start(AN_HOUR, Keys::Bundle, |envoy, keybound| {
        let forward = "forward_client_cert_details: APPEND_FORWARD\n          \
                       set_current_client_cert_details: {uri: true}";
        let route = "          route_config:";
        let envoy = replaced(&envoy, route, &format!("          {forward}\n{route}"));
        let behind = format!("client_certificate: {{source: xfcc, xfcc: {{behind: [\"{APP}\"]}}}}");
        (envoy, format!("{keybound}\n{behind}\n"))
    });
    let Some(it) = start.await else { return };
    let proxy = it.client(&it.spire.svid(None).await.pem);
    let behind = it.spire.minted("spiffe://example.org/clients/behind");
    let token = it.token(behind.thumbprint());
    let hash = behind.thumbprint().to_hex();
    let named = format!("By={APP};Hash={hash};URI=spiffe://example.org/clients/behind");
    let (status, _) = it.get(&proxy, "/payments", &token, Some(&named)).await.unwrap();
    assert_eq!(status, 200);
    // Another client that is no proxy, though of the same trust domain, names whom it likes.
    let thief = it.client(&it.spire.minted("spiffe://example.org/clients/thief").pem);
    let (status, _) = it.get(&thief, "/payments", &token, Some(&named)).await.unwrap();
    assert_eq!(status, 401);
}

#[tokio::test]
async fn a_jwt_svid_is_taken_where_no_binding_is_demanded_and_nowhere_else() {
    for keys in [Keys::Published, Keys::Bundle] {
        let Some(it) = Edge::start(AN_HOUR, keys, as_it_stands).await else { return };
        let client = it.client(&it.spire.svid(None).await.pem);
        let token = it.spire.jwt_svid("https://api.example.com");
        it.passes(&client, "/status", &token).await;
        it.refuses(Denial::BindingMissing, &client, "/payments", &token).await;
        let other = it.spire.jwt_svid("https://other.example.com");
        it.refuses(Denial::TokenAudienceMismatch, &client, "/status", &other).await;
    }
}
