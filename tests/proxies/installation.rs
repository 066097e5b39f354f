//! A whole installation behind a proxy: clients, the proxy, the service, an upstream that
//! tells what it saw.

use super::tokens::Signer;
use super::verbatim::Verbatim;
use jsonwebtoken::Algorithm;
use keybound::clock::{Clock, SystemClock};
use keybound::commands::demo::pki::{Authority, Identity};
use keybound::commands::demo::service::Service;
use keybound::commands::demo::upstream;
use rcgen::KeyPair;
use reqwest::header::HeaderMap;
use reqwest::{Client, StatusCode, Version};
use serde_json::{Value, json};
use std::any::Any;
use std::fmt::Debug;
use std::fs;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpSocket};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

pub(crate) const HOST: &str = "api.example.com";
pub(crate) const BOTH: [Version; 2] = [Version::HTTP_11, Version::HTTP_2];

/// How long a proxy may take to start. Far more than any needs, for slow machines.
const PATIENCE: Duration = Duration::from_secs(30);

/// What is added to a deployed configuration. Policies in front of the deployed one: what is below
/// `/admin` needs a scope that nobody has, below `/either` DPoP will do, with or without a nonce, and
/// what is below `/report` is let through, below `/public` without a token, and of what is below `/told`
/// metadata are served. An issuer that is down when it is asked about opaque
/// tokens.
const MORE: &str = "\
policies:
  - name: admin
    match: {path_prefix: /admin}
    sender_constraint: certificate
    scopes: [admin]
  - name: either
    match: {path_prefix: /either}
    sender_constraint: either
  - name: report
    match: {path_prefix: /report}
    sender_constraint: certificate
    mode: report
  - name: public
    match: {path_prefix: /public}
    public: true
  - name: told
    match: {path_prefix: /told}
    sender_constraint: certificate
    origin: https://api.example.com
    resource: {name: Told}
";
const DOWN: &str = "    keys: {jwks_file: jwks.json}
    introspection:
      endpoint: https://127.0.0.1:1/introspect
      client_id: gateway
      client_secret_file: secret
";

/// A proxy, and what it needs of the world.
pub(crate) struct Proxy {
    pub(crate) name: &'static str,
    /// The deployed configuration of the service.
    pub(crate) keybound: &'static str,
    /// Starts it with its own.
    pub(crate) start: fn(&Site<'_>) -> Box<dyn Any + Send>,
    /// What its client gets when the service is in trouble, and when it is gone.
    pub(crate) outage: [u16; 2],
    /// What its client gets for a request that the service refuses with 400, with a challenge.
    pub(crate) malformed: u16,
    /// What its client gets for a request that the service cannot read.
    pub(crate) unreadable: u16,
    /// Whether it takes dot segments and doubled slashes out of a path before it asks.
    pub(crate) cleans_paths: bool,
    /// Whether a refusal reaches the client with its body.
    pub(crate) hands_on_bodies: bool,
    /// Whether a nonce that comes with an allow reaches the client.
    pub(crate) hands_on_nonces: bool,
}

/// Where requests go that were let through.
pub(crate) enum Upstream {
    /// What tells which headers reached it.
    Echo,
    /// What is there at this address.
    At(SocketAddr),
}

/// Where a proxy is to be, and between whom.
pub(crate) struct Site<'a> {
    /// Where `server.crt`, `server.key` and `client-ca.crt` are.
    pub(crate) directory: &'a Path,
    /// Kept for the proxy, which listens with `SO_REUSEPORT` or takes over the socket.
    pub(crate) address: SocketAddr,
    pub(crate) keybound: &'a str,
    pub(crate) upstream: SocketAddr,
    pub(crate) clients: Clients,
}

/// Which certificates of clients a proxy is to take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Clients {
    /// Those of the authority, as the deployed files have it.
    OfTheAuthority,
    /// All, as the pages beside the files say how.
    Any,
}

/// Everything that runs for one test, and ends with it.
pub(crate) struct Installation {
    pub(crate) proxy: &'static Proxy,
    pub(crate) address: SocketAddr,
    dpop: &'static str,
    authority: Authority,
    signer: Signer,
    service: Option<Service>,
    directory: TempDir,
    _running: (Box<dyn Any + Send>, TcpSocket, JoinSet<()>),
}

#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Value,
}

impl Installation {
    pub(crate) async fn start(proxy: &'static Proxy) -> Self {
        Self::start_with(proxy, "nonce: required").await
    }

    /// The same, for clients with certificates of their own making.
    pub(crate) async fn start_for_all(proxy: &'static Proxy) -> Self {
        Self::begin(proxy, "nonce: required", Clients::Any, Upstream::Echo).await
    }

    /// The same, with this in the service's `dpop`.
    pub(crate) async fn start_with(proxy: &'static Proxy, dpop: &'static str) -> Self {
        Self::begin(proxy, dpop, Clients::OfTheAuthority, Upstream::Echo).await
    }

    /// The same, in front of another upstream.
    pub(crate) async fn in_front_of(proxy: &'static Proxy, upstream: SocketAddr) -> Self {
        let upstream = Upstream::At(upstream);
        Self::begin(proxy, "nonce: required", Clients::OfTheAuthority, upstream).await
    }

    async fn begin(
        proxy: &'static Proxy,
        dpop: &'static str,
        clients: Clients,
        upstream: Upstream,
    ) -> Self {
        let directory = TempDir::new().unwrap();
        let at = |name: &str| directory.path().join(name);
        let authority = Authority::new("test authority").unwrap();
        let server = authority.server(&[HOST]).unwrap();
        fs::write(at("client-ca.crt"), authority.certificate_pem()).unwrap();
        fs::write(at("server.crt"), server.certificate_pem()).unwrap();
        fs::write(at("server.key"), server.key_pem()).unwrap();
        fs::write(at("secret"), "0123456789abcdef").unwrap();
        let signer = Signer::new(Algorithm::ES256, "test");
        fs::write(at("jwks.json"), json!({"keys": [signer.jwk()]}).to_string()).unwrap();
        let service = serve(directory.path(), proxy, dpop, "127.0.0.1:0").await;

        let mut sites = JoinSet::new();
        let upstream = match upstream {
            Upstream::At(address) => address,
            Upstream::Echo => {
                let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
                let address = listener.local_addr().unwrap();
                sites.spawn(upstream::echo().serve(listener));
                address
            }
        };

        // Bound and not listening: nobody else gets this port, and no port is guessed.
        let kept = TcpSocket::new_v4().unwrap();
        kept.set_reuseport(true).unwrap();
        kept.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = kept.local_addr().unwrap();
        let keybound = service.address("forward_auth").unwrap();
        let site = Site { directory: directory.path(), address, keybound, upstream, clients };
        let running = (proxy.start)(&site);
        let it = Self {
            proxy,
            address,
            dpop,
            authority,
            signer,
            service: Some(service),
            directory,
            _running: (running, kept, sites),
        };
        it.ready().await;
        it
    }

    /// Waits until a request without a token is refused: until the proxy has all its configuration.
    async fn ready(&self) {
        let client = self.https_client(Version::HTTP_11, None);
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            let answer = client.get("/", &[]).await;
            if answer.is_ok_and(|it| it.status() == StatusCode::UNAUTHORIZED) {
                return;
            }
            sleep(Duration::from_millis(10)).await;
        }
        panic!("{} is not ready: {}", self.proxy.name, self.log());
    }

    fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("proxy.log")).unwrap_or_default()
    }

    /// Stops the service, and gives its address.
    pub(crate) fn stop(&mut self) -> String {
        let service = self.service.take().unwrap();
        service.address("forward_auth").unwrap().to_owned()
    }

    /// Starts it again.
    pub(crate) async fn restart(&mut self, address: &str) {
        self.service = Some(serve(self.directory.path(), self.proxy, self.dpop, address).await);
    }

    /// A client of the authority, with a new P-256 key.
    pub(crate) fn client(&self) -> Identity {
        self.authority.client("client", KeyPair::generate().unwrap()).unwrap()
    }

    /// The same client and key, with a new certificate.
    pub(crate) fn renew(&self, identity: &Identity) -> Identity {
        self.authority.renew(identity).unwrap()
    }

    /// A token bound to `identity`, but for the edit.
    pub(crate) fn token(&self, identity: &Identity, edit: impl FnOnce(&mut Value)) -> String {
        let now = SystemClock.now().as_secs();
        let mut claims = json!({
            "iss": "https://as.example.com", "aud": "https://api.example.com", "sub": "alice",
            "client_id": "app", "scope": "payments", "iat": now, "exp": now + 300,
            "cnf": {"x5t#S256": identity.thumbprint().to_base64url()},
        });
        edit(&mut claims);
        self.signer.sign("at+jwt", &claims)
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("https://{HOST}:{}{path}", self.address.port())
    }

    pub(crate) async fn call(
        &self,
        http: Version,
        identity: Option<&Identity>,
        path: &str,
        headers: &[(&str, &str)],
    ) -> Outcome {
        let identity = identity.map(|it| it.certificate_pem() + &it.key_pem());
        self.call_as(http, identity, path, headers).await
    }

    /// The same by a client that sends the certificate of its authority, too.
    pub(crate) async fn call_with_chain(
        &self,
        identity: &Identity,
        path: &str,
        headers: &[(&str, &str)],
    ) -> Outcome {
        let chain = identity.certificate_pem() + &self.authority.certificate_pem();
        self.call_as(Version::HTTP_2, Some(chain + &identity.key_pem()), path, headers).await
    }

    /// All that comes back for a request over HTTP/1.1 that is written as it stands.
    pub(crate) async fn written(&self, identity: &Identity, request: &str) -> String {
        let identity = identity.certificate_pem() + &identity.key_pem();
        self.https_client(Version::HTTP_11, Some(identity)).written(request).await.unwrap()
    }

    async fn call_as(
        &self,
        http: Version,
        identity: Option<String>,
        path: &str,
        headers: &[(&str, &str)],
    ) -> Outcome {
        let client = self.https_client(http, identity);
        let answer = client.get(path, headers).await;
        let response =
            answer.unwrap_or_else(|it| panic!("{it:?}: {} {}", self.proxy.name, self.log()));
        assert_eq!(response.version(), http);
        let body = serde_json::from_slice(response.body()).unwrap_or_default();
        Outcome { status: response.status(), headers: response.headers().clone(), body }
    }

    fn https_client(&self, http: Version, identity: Option<String>) -> Verbatim<'_> {
        let (address, authority) = (self.address, self.authority.certificate_pem());
        Verbatim { http, address, host: HOST, authority, identity }
    }
}

impl Outcome {
    /// The header `name` as the upstream saw it; nothing when it did not, or saw it empty.
    pub(crate) fn seen(&self, name: &str) -> Vec<&str> {
        let values = self.body["headers"][name].as_array().map(Vec::as_slice).unwrap_or_default();
        values.iter().map(|it| it.as_str().unwrap()).filter(|it| !it.is_empty()).collect()
    }

    /// All challenges, as one list (RFC 9110 §11.6.1).
    pub(crate) fn challenge(&self) -> String {
        let lines = self.headers.get_all("www-authenticate").iter();
        lines.map(|it| it.to_str().unwrap()).collect::<Vec<_>>().join(", ")
    }
}

/// Replaces what is there once.
#[track_caller]
pub(crate) fn put(text: &str, there: &str, instead: &str) -> String {
    assert_eq!(text.matches(there).count(), 1, "{there}");
    text.replace(there, instead)
}

/// What a section of a page beside the deployed files shows.
pub(crate) fn shown(page: &'static str, section: &str) -> Vec<&'static str> {
    let section = page.split(&format!("\n## {section}\n")).nth(1).unwrap();
    let section = section.split("\n## ").next().unwrap();
    let blocks = section.split("```").skip(1).step_by(2);
    blocks.map(|it| it.split_once('\n').unwrap().1).collect()
}

/// Replaces what is there twice.
#[track_caller]
pub(crate) fn put_twice(text: &str, there: &str, instead: &str) -> String {
    assert_eq!(text.matches(there).count(), 2, "{there}");
    text.replace(there, instead)
}

/// The deployed configuration of the service, with other addresses, with keys from a file and with
/// more policies.
async fn serve(directory: &Path, proxy: &Proxy, dpop: &str, forward_auth: &str) -> Service {
    let audiences = "audiences: [https://api.example.com]\n";
    let listen = format!("ext_authz: 127.0.0.1:0\n  forward_auth: {forward_auth}");
    let text = put(proxy.keybound, "forward_auth: 127.0.0.1:9002", &listen);
    let text = put(&text, "127.0.0.1:9003", "127.0.0.1:0");
    let text = put(&put(&text, audiences, &(audiences.to_owned() + DOWN)), "policies:\n", MORE);
    let text = text + &format!("dpop: {{{dpop}}}\n");
    let config = directory.join("keybound.yaml");
    fs::write(&config, text).unwrap();
    let mut service =
        Service::start(Path::new(env!("CARGO_BIN_EXE_keybound")), &config).await.unwrap();
    service.ready(&Client::builder().no_proxy().build().unwrap()).await.unwrap();
    service
}
