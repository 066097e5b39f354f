//! End to end behind nginx: a client with mutual TLS, Debian's nginx with the configuration that is
//! there to deploy, the real service, an upstream.

#![expect(clippy::unwrap_used, clippy::arithmetic_side_effects, reason = "a test may panic")]
#![expect(clippy::indexing_slicing, clippy::panic, reason = "a test may panic")]

#[path = "support/programs.rs"]
#[expect(unreachable_pub, reason = "shared between tests")]
mod programs;
#[path = "support/proofs.rs"]
#[expect(unreachable_pub, reason = "shared between tests")]
mod proofs;
#[path = "support/tokens.rs"]
#[expect(unreachable_pub, reason = "shared between tests")]
mod tokens;

use jsonwebtoken::Algorithm;
use keybound::clock::{Clock, SystemClock};
use keybound::commands::demo::pki::{Authority, Identity};
use keybound::commands::demo::service::Service;
use keybound::commands::demo::upstream;
use keybound::denial::Denial;
use keybound::jose::key::thumbprint;
use keybound::jose::thumbprint::Thumbprint;
use programs::provisioned;
use rcgen::KeyPair;
use reqwest::header::HeaderMap;
use reqwest::{Client, StatusCode, Version};
use serde_json::{Value, json};
use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tempfile::TempDir;
use tokens::{Signer, tampered};
use tokio::task::JoinSet;

const NGINX: &str = include_str!("../deploy/nginx/nginx.conf");
const KEYBOUND: &str = include_str!("../deploy/nginx/keybound.yaml");
const HOST: &str = "api.example.com";
const BOTH: [Version; 2] = [Version::HTTP_11, Version::HTTP_2];

/// How long an answer may take: whatever hangs, the test does not.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Policies in front of the deployed one: what is below `/admin` needs a scope that nobody has, and
/// below `/either` DPoP will do, with a nonce.
const MORE: &str = "\
dpop: {nonce: required}
policies:
  - name: admin
    match: {path_prefix: /admin}
    sender_constraint: certificate
    scopes: [admin]
  - name: either
    match: {path_prefix: /either}
    sender_constraint: either
";

struct Installation {
    authority: Authority,
    signer: Signer,
    service: Option<Service>,
    address: SocketAddr,
    nginx: Nginx,
    directory: TempDir,
    _upstream: JoinSet<()>,
}

struct Nginx(Child);

impl Drop for Nginx {
    fn drop(&mut self) {
        // Asked, not killed: its workers are to end with it. It fails only when it is gone already.
        drop(Command::new("kill").arg(self.0.id().to_string()).status());
        drop(self.0.wait());
    }
}

#[derive(Debug)]
struct Outcome {
    status: StatusCode,
    headers: HeaderMap,
    body: Value,
}

impl Installation {
    async fn start() -> Self {
        let directory = TempDir::new().unwrap();
        let at = |name: &str| directory.path().join(name);
        let authority = Authority::new("test authority").unwrap();
        let server = authority.server(&[HOST]).unwrap();
        fs::write(at("client-ca.crt"), authority.certificate_pem()).unwrap();
        fs::write(at("server.crt"), server.certificate_pem()).unwrap();
        fs::write(at("server.key"), server.key_pem()).unwrap();
        let signer = Signer::new(Algorithm::ES256, "test");
        fs::write(at("jwks.json"), json!({"keys": [signer.jwk()]}).to_string()).unwrap();
        let service = serve(directory.path(), "127.0.0.1:0").await;

        let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let upstream = listener.local_addr().unwrap();
        let mut sites = JoinSet::new();
        sites.spawn(upstream::echo().serve(listener));

        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let keybound = service.address("forward_auth").unwrap();
        let config = nginx_conf(directory.path(), address, keybound, upstream);
        let nginx = nginx(directory.path(), &config, listener);
        let service = Some(service);
        Self { authority, signer, service, address, nginx, directory, _upstream: sites }
    }

    /// A client of the authority, with a new P-256 key.
    fn client(&self) -> Identity {
        self.authority.client("client", KeyPair::generate().unwrap()).unwrap()
    }

    fn token(&self, identity: &Identity, edit: impl FnOnce(&mut Value)) -> String {
        let now = SystemClock.now().as_secs();
        let mut claims = json!({
            "iss": "https://as.example.com", "aud": "https://api.example.com", "sub": "alice",
            "client_id": "app", "scope": "payments", "iat": now, "exp": now + 300,
            "cnf": {"x5t#S256": identity.thumbprint().to_base64url()},
        });
        edit(&mut claims);
        format!("Bearer {}", self.signer.sign("at+jwt", &claims))
    }

    async fn call(
        &mut self,
        http: Version,
        identity: Option<&Identity>,
        path: &str,
        headers: &[(&str, &str)],
    ) -> Outcome {
        let url = format!("https://{HOST}:{}{path}", self.address.port());
        let client = self.https_client(http, identity);
        let request =
            headers.iter().fold(client.get(url), |it, (name, value)| it.header(*name, *value));
        let response = request.send().await.unwrap_or_else(|error| {
            let log = fs::read_to_string(self.directory.path().join("nginx.log"));
            panic!("{error:?}, nginx {:?}: {}", self.nginx.0.try_wait(), log.unwrap());
        });
        assert_eq!(response.version(), http);
        let (status, headers) = (response.status(), response.headers().clone());
        let body = serde_json::from_slice(&response.bytes().await.unwrap()).unwrap_or_default();
        Outcome { status, headers, body }
    }

    fn https_client(&self, http: Version, identity: Option<&Identity>) -> Client {
        let ca = self.authority.certificate_pem();
        let ca = reqwest::Certificate::from_pem(ca.as_bytes()).unwrap();
        let mut builder = Client::builder()
            .no_proxy()
            .timeout(TIMEOUT)
            .tls_certs_only([ca])
            .resolve(HOST, self.address);
        if http == Version::HTTP_11 {
            builder = builder.http1_only();
        }
        if let Some(identity) = identity {
            let pem = identity.certificate_pem() + &identity.key_pem();
            builder = builder.identity(reqwest::Identity::from_pem(pem.as_bytes()).unwrap());
        }
        builder.build().unwrap()
    }
}

impl Outcome {
    /// The header `name` as the upstream saw it; nothing when it did not.
    fn seen(&self, name: &str) -> Vec<&str> {
        let values = self.body["headers"][name].as_array().map(Vec::as_slice).unwrap_or_default();
        values.iter().map(|it| it.as_str().unwrap()).collect()
    }

    fn challenges(&self) -> Vec<&str> {
        self.headers.get_all("www-authenticate").iter().map(|it| it.to_str().unwrap()).collect()
    }
}

/// Replaces what is there once.
fn put(text: &str, there: &str, instead: &str) -> String {
    assert_eq!(text.matches(there).count(), 1, "{there}");
    text.replace(there, instead)
}

/// The deployed configuration of the service, with other addresses, with keys from a file and with
/// more policies.
async fn serve(directory: &Path, forward_auth: &str) -> Service {
    let audiences = "audiences: [https://api.example.com]\n";
    let keys = format!("{audiences}    keys: {{jwks_file: jwks.json}}\n");
    let listen = format!("ext_authz: 127.0.0.1:0\n  forward_auth: {forward_auth}");
    let text = put(KEYBOUND, "forward_auth: 127.0.0.1:9002", &listen);
    let text = put(&text, "127.0.0.1:9003", "127.0.0.1:0");
    let text = put(&put(&text, audiences, &keys), "policies:\n", MORE);
    let config = directory.join("keybound.yaml");
    fs::write(&config, text).unwrap();
    let mut service =
        Service::start(Path::new(env!("CARGO_BIN_EXE_keybound")), &config).await.unwrap();
    service.ready(&Client::builder().no_proxy().build().unwrap()).await.unwrap();
    service
}

/// The deployed configuration of nginx, with other addresses and file names.
fn nginx_conf(
    directory: &Path,
    listen: SocketAddr,
    keybound: &str,
    upstream: SocketAddr,
) -> String {
    let here = directory.display();
    let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|it| format!("{it}_temp_path {here}/{it};"))
        .join(" ");
    let text = put(NGINX, "listen 443 ssl", &format!("listen {listen} ssl"));
    let text = put(&text, "server 127.0.0.1:9002", &format!("server {keybound}"));
    let text = put(&text, "server 127.0.0.1:8080", &format!("server {upstream}"));
    let text = put(&text, "/run/nginx.pid", &format!("{here}/nginx.pid"));
    let text = put(&text, "http {\n", &format!("http {{ access_log off; {temporary}\n"));
    text.replace("/etc/nginx/", &format!("{here}/"))
}

/// nginx on a socket that listens already: it takes it for that of a former self, and no port is
/// guessed.
fn nginx(directory: &Path, config: &str, listener: TcpListener) -> Nginx {
    let file = directory.join("nginx.conf");
    fs::write(&file, config).unwrap();
    let log = directory.join("nginx.log");
    let child = Command::new(provisioned("nginx"))
        .args(["-g", "daemon off;", "-e", "stderr", "-c"])
        .arg(&file)
        .env("NGINX", "0;")
        .stdin(Stdio::from(OwnedFd::from(listener)))
        .stderr(fs::File::create(log).unwrap())
        .spawn();
    Nginx(child.unwrap())
}

#[tokio::test]
async fn a_token_is_good_with_the_certificate_that_it_is_bound_to_and_no_other() {
    let mut it = Installation::start().await;
    let (client, other) = (it.client(), it.client());
    let renewed = it.authority.renew(&client).unwrap();
    let token = it.token(&client, |_| {});
    for http in BOTH {
        let good = it.call(http, Some(&client), "/a?x=1", &[("authorization", &token)]).await;
        assert_eq!(good.status, 200, "{good:?}");
        for (name, value) in [
            ("x-auth-subject", "alice"),
            ("x-auth-client-id", "app"),
            ("x-auth-scope", "payments"),
            ("x-auth-issuer", "https://as.example.com"),
            ("authorization", &token),
        ] {
            assert_eq!(good.seen(name), [value], "{name}");
        }
        for (identity, denial) in [
            (Some(&other), Denial::CertificateMismatch),
            (Some(&renewed), Denial::CertificateMismatch),
            (None, Denial::CertificateMissing),
        ] {
            let outcome = it.call(http, identity, "/a?x=1", &[("authorization", &token)]).await;
            assert_eq!(outcome.status, 401, "{outcome:?}");
            let [challenge] = outcome.challenges()[..] else { panic!("{outcome:?}") };
            let begin = "Bearer realm=\"api\", error=\"invalid_token\"";
            assert!(challenge.starts_with(begin), "{challenge}");
            assert!(challenge.contains(denial.sentence()), "{challenge}");
        }
    }
}

#[tokio::test]
async fn a_client_cannot_vouch_for_itself() {
    let mut it = Installation::start().await;
    let (client, thief) = (it.client(), it.client());
    let token = it.token(&client, |it| drop(it.as_object_mut().unwrap().remove("client_id")));
    let pem = client.certificate_pem();
    let pem = pem.replace(' ', "%20").replace('\n', "%0A").replace('+', "%2B");
    let forged = [
        ("authorization", token.as_str()),
        ("x-ssl-client-cert", &pem),
        ("x-ssl-client-verify", "SUCCESS"),
        ("x-forwarded-client-cert", &format!("Hash={}", client.thumbprint().to_hex())),
        ("x-original-uri", "/"),
        ("x-original-method", "GET"),
        ("x-forwarded-uri", "/"),
        ("x-auth-subject", "root"),
        ("x-auth-client-id", "root"),
        ("x_auth_client_id", "root"),
    ];
    for http in BOTH {
        for identity in [Some(&thief), None] {
            assert_eq!(it.call(http, identity, "/", &forged).await.status, 401);
        }
        let good = it.call(http, Some(&client), "/", &forged).await;
        assert_eq!(good.status, 200, "{good:?}");
        assert_eq!(good.seen("x-auth-subject"), ["alice"], "replaced");
        assert_eq!(good.seen("x-auth-client-id"), [""; 0], "the token has no such claim");
        assert_eq!(good.seen("x_auth_client_id"), [""; 0], "nginx drops such names");

        // The scope that is needed below /admin is one that the token does not have.
        let admin = it.call(http, Some(&client), "/admin", &forged).await;
        assert_eq!(admin.status, 403, "{admin:?}");
        let [challenge] = admin.challenges()[..] else { panic!("{admin:?}") };
        assert!(challenge.contains("error=\"insufficient_scope\""), "{challenge}");
    }
}

#[tokio::test]
async fn a_client_hears_of_the_nonce_that_its_proof_needs() {
    let mut it = Installation::start().await;
    let client = it.client();
    let key = Signer::new(Algorithm::ES256, "client");
    let jkt = thumbprint(key.jwk().as_object().unwrap()).unwrap().to_base64url();
    let token = it.token(&client, |it| it["cnf"] = json!({"jkt": jkt}));
    let token = token.replace("Bearer ", "");
    let ath = Thumbprint::of(token.as_bytes()).to_base64url();
    let mut proof = json!({
        "jti": "1", "htm": "GET", "htu": format!("https://{HOST}:{}/either", it.address.port()),
        "iat": SystemClock.now().as_secs(), "ath": ath,
    });
    let authorization = format!("DPoP {token}");
    let call = async |it: &mut Installation, proof: &Value| {
        let proof = proofs::prove(&key, proof);
        let headers = [("authorization", authorization.as_str()), ("dpop", &proof)];
        it.call(Version::HTTP_2, None, "/either?x=1", &headers).await
    };
    let outcome = call(&mut it, &proof).await;
    assert_eq!(outcome.status, 401, "{outcome:?}");
    let [challenges] = outcome.challenges()[..] else { panic!("{outcome:?}") };
    assert!(challenges.starts_with("Bearer realm=\"either\", DPoP realm"), "{challenges}");
    assert!(challenges.contains("error=\"use_dpop_nonce\""), "{challenges}");

    proof["nonce"] = outcome.headers["dpop-nonce"].to_str().unwrap().into();
    let outcome = call(&mut it, &proof).await;
    assert_eq!(outcome.status, 200, "{outcome:?}");
    assert_eq!(outcome.seen("authorization"), [authorization.as_str()]);
    let outcome = call(&mut it, &proof).await;
    assert_eq!(outcome.status, 401, "used before: {outcome:?}");
}

#[tokio::test]
async fn nobody_gets_by_through_a_door_or_a_spelling() {
    let mut it = Installation::start().await;
    let client = it.client();
    let token = it.token(&client, |_| {});
    for (path, status) in
        [("/keybound", 404), ("/%61dmin", 403), ("//admin", 403), ("/x/%2e%2e/admin", 403)]
    {
        let headers = [("authorization", token.as_str())];
        let outcome = it.call(Version::HTTP_11, Some(&client), path, &headers).await;
        assert_eq!(outcome.status, status, "{path}");
    }
    let outcome = it.call(Version::HTTP_2, Some(&client), "/", &[]).await;
    assert_eq!(
        (outcome.status.as_u16(), outcome.challenges()),
        (401, vec!["Bearer realm=\"api\""])
    );
    let broken = tampered(&token);
    let headers = [("authorization", broken.as_str())];
    assert_eq!(it.call(Version::HTTP_2, Some(&client), "/", &headers).await.status, 401);
    let twice = [("authorization", token.as_str()), ("authorization", token.as_str())];
    let outcome = it.call(Version::HTTP_2, Some(&client), "/", &twice).await;
    assert!(matches!(outcome.status.as_u16(), 400 | 401), "{outcome:?}");
}

#[tokio::test]
async fn an_outage_lets_nothing_through_and_ends() {
    let mut it = Installation::start().await;
    let client = it.client();
    let token = it.token(&client, |_| {});
    let headers = [("authorization", token.as_str())];
    let address = it.service.as_ref().unwrap().address("forward_auth").unwrap().to_owned();
    assert_eq!(it.call(Version::HTTP_2, Some(&client), "/", &headers).await.status, 200);

    it.service = None;
    let outcome = it.call(Version::HTTP_2, Some(&client), "/", &headers).await;
    assert_eq!(outcome.status, 500);

    it.service = Some(serve(it.directory.path(), &address).await);
    assert_eq!(it.call(Version::HTTP_2, Some(&client), "/", &headers).await.status, 200);
}
