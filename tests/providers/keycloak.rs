//! A real Keycloak, shared by all tests, and what its clients ask of it.

use super::DOOR;
use super::http::{answer, client, form, json, success};
use super::installation::{AUDIENCE, Installation};
use super::program::{Running, provisioned};
use super::proofs::prove;
use super::realm::{GATEWAY, SECRET, UNBOUND_CLIENT, USER, realm};
use super::tokens::Signer;
use keybound::clock::{Clock, SystemClock};
use keybound::commands::demo::pki::{Authority, Identity};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use std::fs;
use std::path::Path;
use std::sync::Arc;
use tempfile::TempDir;
use tokio::sync::OnceCell;

const ADMINISTRATOR: &str = "admin";
/// The realm of the tests.
const REALM: &str = "api";

/// Keycloak, with the realm of the tests.
pub(crate) struct Keycloak {
    /// Who made its certificate, and those of the clients.
    pub(crate) authority: Arc<Authority>,
    origin: String,
    running: Running,
}

/// How a client asks for tokens.
#[derive(Clone, Copy)]
pub(crate) struct Asking<'a> {
    realm: &'a str,
    client: &'a str,
    /// Whether they are for the user, with an ID token and a refresh token.
    for_user: bool,
    scope: Option<&'a str>,
    identity: Option<&'a Identity>,
    /// The key of the proof that comes along.
    key: Option<&'a Signer>,
}

impl<'a> Asking<'a> {
    /// For itself.
    pub(crate) const fn by(client: &'a str) -> Self {
        Self { realm: REALM, client, for_user: false, scope: None, identity: None, key: None }
    }

    /// In another realm than that of the tests.
    pub(crate) const fn of(self, realm: &'a str) -> Self {
        Self { realm, ..self }
    }

    /// For the user.
    pub(crate) const fn for_user(self) -> Self {
        Self { for_user: true, ..self }
    }

    /// With these scopes.
    pub(crate) const fn scoped(self, scope: &'a str) -> Self {
        Self { scope: Some(scope), ..self }
    }

    /// On a connection with the certificate of `identity`.
    pub(crate) const fn with(self, identity: &'a Identity) -> Self {
        Self { identity: Some(identity), ..self }
    }

    /// With a proof by `key`.
    pub(crate) const fn proving(self, key: &'a Signer) -> Self {
        Self { key: Some(key), ..self }
    }
}

impl Keycloak {
    /// The one that all tests share; nothing, and a line that says why, where there is none.
    pub(crate) async fn shared() -> Option<&'static Self> {
        static SHARED: OnceCell<Option<Keycloak>> = OnceCell::const_new();
        let started = async {
            match provisioned("keycloak") {
                Some(program) => Some(Self::start(&program).await),
                None => None,
            }
        };
        SHARED.get_or_init(|| started).await.as_ref()
    }

    async fn start(program: &Path) -> Self {
        let authority = Arc::new(Authority::new("test authority").unwrap());
        let server = authority.server(&["localhost", "127.0.0.1"]).unwrap();
        let directory = TempDir::new().unwrap();
        let file = |option: &str, name: &str, text: &str| {
            let path = directory.path().join(name);
            fs::write(&path, text).unwrap();
            format!("--{option}={}", path.display())
        };
        let arguments = [
            "start".to_owned(),
            // What it is built for.
            "--db=dev-mem".to_owned(),
            "--https-client-auth=request".to_owned(),
            "--features=ssf".to_owned(),
            // Events are pushed to loopback, and at once.
            "--spi-ssf-transmitter--default--allow-insecure-push-targets=true".to_owned(),
            "--spi-ssf-transmitter--default--outbox-drainer-interval=1s".to_owned(),
            // On its own, on loopback, on a port that is free.
            "--cache=local".to_owned(),
            "--http-host=127.0.0.1".to_owned(),
            "--https-port=0".to_owned(),
            "--hostname-strict=false".to_owned(),
            file("https-certificate-file", "server.pem", &server.certificate_pem()),
            file("https-certificate-key-file", "server.key", &server.key_pem()),
            file("https-trust-store-file", "ca.pem", &authority.certificate_pem()),
        ];
        let administrator = [
            ("KC_BOOTSTRAP_ADMIN_USERNAME", ADMINISTRATOR),
            ("KC_BOOTSTRAP_ADMIN_PASSWORD", SECRET),
        ];
        let listens = |line: &str| Some(line.split_once("Listening on: ")?.1.trim().to_owned());
        let (running, origin) = Running::start(program, &arguments, &administrator, listens).await;
        let it = Self { authority, origin, running };
        it.make_realm(REALM).await;
        it.warm_up().await;
        it
    }

    /// Its first answers are slow, and are not what is tested.
    async fn warm_up(&self) {
        let tokens = self.tokens(Asking::by(UNBOUND_CLIENT)).await;
        let told = self.introspect(GATEWAY, tokens["access_token"].as_str().unwrap()).await;
        assert_eq!(told["active"], true, "{told} {}", self.running.log());
    }

    /// Makes another realm like that of the tests.
    pub(crate) async fn make_realm(&self, name: &str) {
        self.administer("/admin/realms", &realm(name)).await;
    }

    /// Makes what `body` says, as an administrator.
    pub(crate) async fn administer(&self, path: &str, body: &Value) {
        self.administer_by(Method::POST, path, body).await;
    }

    /// The same by another method.
    pub(crate) async fn administer_by(&self, method: Method, path: &str, body: &Value) {
        let token = self.administrator_token().await;
        let url = format!("{}{path}", self.origin);
        let request = client(&self.authority, None).request(method, url).bearer_auth(token);
        success(json(request, body)).await;
    }

    /// A token that administers Keycloak, which is of another issuer than those of the realm.
    pub(crate) async fn administrator_token(&self) -> String {
        let fields = [
            ("grant_type", "password"),
            ("client_id", "admin-cli"),
            ("username", ADMINISTRATOR),
            ("password", SECRET),
        ];
        let request = client(&self.authority, None).post(self.endpoint_of("master", "token"));
        access_token(&success(form(request, &fields)).await)
    }

    /// The issuer of the realm of the tests.
    pub(crate) fn issuer(&self) -> String {
        self.issuer_of(REALM)
    }

    /// The issuer of another realm.
    pub(crate) fn issuer_of(&self, realm: &str) -> String {
        format!("{}/realms/{realm}", self.origin)
    }

    fn endpoint_of(&self, realm: &str, path: &str) -> String {
        format!("{}/protocol/openid-connect/{path}", self.issuer_of(realm))
    }

    /// The answer with the tokens.
    pub(crate) async fn tokens(&self, asking: Asking<'_>) -> Value {
        let (status, body) = self.ask(asking).await;
        assert_eq!(status, StatusCode::OK, "{}: {body}", asking.client);
        body
    }

    /// The access token alone.
    pub(crate) async fn token(&self, asking: Asking<'_>) -> String {
        access_token(&self.tokens(asking).await)
    }

    /// The answer of the token endpoint, whatever it is.
    pub(crate) async fn ask(&self, asking: Asking<'_>) -> (StatusCode, Value) {
        let url = self.endpoint_of(asking.realm, "token");
        let mut fields = vec![("client_id", asking.client), ("client_secret", SECRET)];
        if asking.for_user {
            fields.extend([("grant_type", "password"), ("scope", "openid")]);
            fields.extend([("username", USER), ("password", SECRET)]);
        } else {
            fields.push(("grant_type", "client_credentials"));
            fields.extend(asking.scope.map(|it| ("scope", it)));
        }
        let mut request = client(&self.authority, asking.identity).post(&url);
        if let Some(key) = asking.key {
            request = request.header("dpop", proof(key, &url));
        }
        answer(form(request, &fields)).await
    }

    /// What it tells the client `caller` of `token` (RFC 7662).
    pub(crate) async fn introspect(&self, caller: &str, token: &str) -> Value {
        self.post(Asking::by(caller), "token/introspect", ("token", token)).await
    }

    /// Takes back an access token (RFC 7009).
    pub(crate) async fn revoke(&self, by: Asking<'_>, token: &str) {
        self.post(by, "revoke", ("token", token)).await;
    }

    /// Ends the session of a refresh token.
    pub(crate) async fn log_out(&self, by: Asking<'_>, refresh_token: &str) {
        self.post(by, "logout", ("refresh_token", refresh_token)).await;
    }

    async fn post(&self, by: Asking<'_>, path: &str, field: (&str, &str)) -> Value {
        let fields = [("client_id", by.client), ("client_secret", SECRET), field];
        let request = client(&self.authority, by.identity).post(self.endpoint_of(by.realm, path));
        success(form(request, &fields)).await
    }

    /// An Envoy and a service that takes tokens of this issuer, with `more` in its configuration of
    /// the issuer.
    pub(crate) async fn installation(&self, more: &Value) -> Installation {
        self.begin(REALM, &[], more).await
    }

    /// The same with files beside the configuration.
    pub(crate) async fn installation_with(
        &self,
        files: &[(&str, String)],
        more: &Value,
    ) -> Installation {
        self.begin(REALM, files, more).await
    }

    /// The same for another realm.
    pub(crate) async fn installation_of(&self, realm: &str) -> Installation {
        self.begin(realm, &[], &json!({})).await
    }

    /// The same with all of these.
    pub(crate) async fn begin(
        &self,
        realm: &str,
        files: &[(&str, String)],
        more: &Value,
    ) -> Installation {
        Installation::of(Arc::clone(&self.authority), &[DOOR], |directory, config| {
            fs::write(directory.join("secret"), SECRET).unwrap();
            for (name, text) in files {
                fs::write(directory.join(name), text).unwrap();
            }
            let mut read = json!({
                "issuer": self.issuer_of(realm), "provider": "keycloak", "audiences": [AUDIENCE],
                "ca_file": "ca.pem",
            });
            for (name, value) in more.as_object().unwrap() {
                read[name] = value.clone();
            }
            config["issuers"] = json!([read]);
            if more["revocation"]["events"]["delivery"] == "push" {
                config["listen"]["events"] = json!({"address": "127.0.0.1:0"});
            }
            config["policies"] = json!([
                {"name": "dpop", "match": {"path_prefix": "/dpop"}, "sender_constraint": "dpop"},
                {"name": "any", "match": {"path_prefix": "/any"}, "sender_constraint": "if_bound"},
                {"name": "rest", "sender_constraint": "certificate"},
            ]);
        })
        .await
    }
}

/// The access token of an answer.
pub(crate) fn access_token(answer: &Value) -> String {
    answer["access_token"].as_str().unwrap().to_owned()
}

/// A proof for the token endpoint at `url` (RFC 9449 §5).
fn proof(key: &Signer, url: &str) -> String {
    let mut once = [0; 16];
    aws_lc_rs::rand::fill(&mut once).unwrap();
    let jti = format!("{:x}", u128::from_be_bytes(once));
    prove(key, &json!({"jti": jti, "htm": "POST", "htu": url, "iat": SystemClock.now().as_secs()}))
}
