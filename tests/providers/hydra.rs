//! A real Ory Hydra, one for each test, and what its clients ask of it.

use super::DOOR;
use super::http::{form, json, success};
use super::installation::{AUDIENCE, Installation};
use super::program::{Running, provisioned};
use reqwest::Client;
use serde_json::{Value, json};
use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;
use tempfile::TempDir;
use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, UnixStream};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

const SECRET: &str = "secret";
/// How long it may take to answer once it has begun to listen.
const PATIENCE: Duration = Duration::from_secs(30);

/// Hydra. It ends with this.
pub(crate) struct Hydra {
    /// The origin of its endpoints, which is the issuer.
    pub(crate) issuer: String,
    administration: String,
    running: Running,
    _relays: JoinSet<()>,
    _directory: TempDir,
}

/// A client that gets tokens for itself.
pub(crate) struct HydraClient<'a> {
    pub(crate) id: &'a str,
    /// `opaque` or `jwt`.
    pub(crate) tokens: &'a str,
    pub(crate) audience: &'a str,
}

impl Hydra {
    /// A new one; nothing, and a line that says why, where it is not to be had.
    pub(crate) async fn start() -> Option<Self> {
        let program = provisioned("hydra")?;
        let directory = TempDir::new().unwrap();
        let [public, admin] = ["public", "admin"].map(|it| directory.path().join(it));
        // It cannot say which port it was given, so it listens on sockets.
        let mut relays = JoinSet::new();
        let issuer = format!("http://{}", relay(&mut relays, public.clone()).await);
        let administration = format!("http://{}", relay(&mut relays, admin.clone()).await);
        let config = json!({
            "dsn": "memory",
            "secrets": {"system": ["0123456789abcdef"]},
            "serve": {
                "public": {"host": format!("unix:{}", public.display())},
                "admin": {"host": format!("unix:{}", admin.display())},
            },
            "urls": {"self": {"issuer": issuer}},
        });
        let file = directory.path().join("hydra.json");
        fs::write(&file, config.to_string()).unwrap();
        let file = file.display().to_string();
        let arguments = ["serve", "all", "--dev", "--sqa-opt-out", "--config", &file];
        let listens = |line: &str| line.contains("Setting up http server").then_some(());
        let (running, ()) = Running::start(&program, &arguments, &[], listens).await;
        let it = Self { issuer, administration, running, _relays: relays, _directory: directory };
        it.ready().await;
        Some(it)
    }

    async fn ready(&self) {
        let deadline = Instant::now() + PATIENCE;
        for url in [&self.issuer, &self.administration] {
            let url = format!("{url}/health/ready");
            while !client().get(&url).send().await.is_ok_and(|it| it.status().is_success()) {
                assert!(Instant::now() < deadline, "it is not ready: {}", self.running.log());
                sleep(Duration::from_millis(10)).await;
            }
        }
    }

    /// Has it know `asking`, and gets a token with the scope `read`.
    pub(crate) async fn token(&self, asking: &HydraClient<'_>) -> String {
        let body = json!({
            "client_id": asking.id, "client_secret": SECRET,
            "token_endpoint_auth_method": "client_secret_post",
            "grant_types": ["client_credentials"], "scope": "read",
            "audience": [asking.audience], "access_token_strategy": asking.tokens,
        });
        let url = format!("{}/admin/clients", self.administration);
        success(json(client().post(url), &body)).await;
        let fields = [("grant_type", "client_credentials"), ("audience", asking.audience)];
        let answer =
            self.post(asking, "token", &[&fields[..], &[("scope", "read")]].concat()).await;
        answer["access_token"].as_str().unwrap().to_owned()
    }

    /// Takes back a token (RFC 7009).
    pub(crate) async fn revoke(&self, asking: &HydraClient<'_>, token: &str) {
        self.post(asking, "revoke", &[("token", token)]).await;
    }

    async fn post(&self, by: &HydraClient<'_>, path: &str, more: &[(&str, &str)]) -> Value {
        let fields = [&[("client_id", by.id), ("client_secret", SECRET)], more].concat();
        success(form(client().post(format!("{}/oauth2/{path}", self.issuer)), &fields)).await
    }

    /// An Envoy and a service that takes tokens of this issuer, and asks about opaque ones each time.
    pub(crate) async fn installation(&self) -> Installation {
        Installation::start_with(&[DOOR], |_, config| {
            config["issuers"] = json!([{
                "issuer": self.issuer, "provider": "hydra", "audiences": [AUDIENCE],
                "introspection": {
                    "endpoint": format!("{}/admin/oauth2/introspect", self.administration),
                    "authentication": "none", "cache_ttl": "0s", "negative_ttl": "0s",
                },
            }]);
            config["policies"] = json!([
                {"name": "any", "match": {"path_prefix": "/any"}, "sender_constraint": "if_bound",
                    "scopes": ["read"]},
                {"name": "write", "match": {"path_prefix": "/write"},
                    "sender_constraint": "if_bound", "scopes": ["read", "write"]},
                {"name": "rest", "sender_constraint": "certificate"},
            ]);
        })
        .await
    }
}

/// Carries connections to a port on loopback over to the socket `to`.
async fn relay(relays: &mut JoinSet<()>, to: PathBuf) -> SocketAddr {
    let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let address = listener.local_addr().unwrap();
    relays.spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((mut from, _)) = listener.accept().await {
            let to = to.clone();
            connections.spawn(async move {
                if let Ok(mut to) = UnixStream::connect(to).await {
                    drop(copy_bidirectional(&mut from, &mut to).await);
                }
            });
        }
    });
    address
}

fn client() -> Client {
    Client::builder().no_proxy().timeout(PATIENCE).build().unwrap()
}
