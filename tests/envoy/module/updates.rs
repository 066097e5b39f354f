//! What outlives an update of Envoy's listeners.

use super::dpop_client;
use super::edge::{Edge, Listener, Site, inline, string, target};
use crate::identity_provider::IdentityProvider;
use crate::redis::Redis;
use serde_json::{Value, json};

const REPLAYED: (u16, &str) = (401, "proof_replayed");
const ALLOWED: (u16, &str) = (200, "allowed");

/// A configuration with one more policy, which changes nothing for the others.
fn changed(config: &Value, name: &str) -> Value {
    let mut config = config.clone();
    let policy = json!({"name": name, "match": {"path_prefix": "/none"}, "sender_constraint": "certificate"});
    config["policies"].as_array_mut().unwrap().insert(0, policy);
    config
}

/// What may not be forgotten: a used proof, a verified token, fetched keys.
struct Memory<'s> {
    client: crate::dpop_client::DpopClient,
    used: String,
    idp: &'s IdentityProvider,
}

impl<'s> Memory<'s> {
    /// Uses a proof at a listener.
    async fn begin(site: &Site, idp: &'s IdentityProvider, edge: &Edge<'_>, name: &str) -> Self {
        let client = dpop_client(site);
        let used = client.proof("GET", &target("/a"));
        assert_eq!(edge.dpop(name, "/a", &client.token, &used).await.is(), ALLOWED);
        assert_eq!(edge.dpop(name, "/a", &client.token, &used).await.is(), REPLAYED);
        assert_eq!(idp.fetches(), 1);
        Self { client, used, idp }
    }

    /// All of it is known at this listener.
    async fn is_kept(&self, edge: &Edge<'_>, name: &str) {
        let Self { client, used, idp } = self;
        let misses = verified(edge).await;
        assert_eq!(edge.dpop(name, "/a", &client.token, used).await.is(), REPLAYED);
        let proof = client.proof("GET", &target("/a"));
        assert_eq!(edge.dpop(name, "/a", &client.token, &proof).await.is(), ALLOWED);
        assert_eq!(verified(edge).await, misses, "the token is verified once");
        assert_eq!(idp.fetches(), 1, "the keys are fetched once");
    }
}

/// How many tokens were not known when they came.
async fn verified(edge: &Edge<'_>) -> u64 {
    edge.status().await["token_cache"]["misses"].as_u64().unwrap()
}

#[tokio::test]
async fn an_update_of_an_inline_configuration_forgets_nothing() {
    let (site, idp) = site().await;
    let config = site.fetching(&idp.jwks_uri());
    let mut edge = Edge::start(&site, &[Listener::plain("a", inline(&config))]).await;
    let memory = Memory::begin(&site, &idp, &edge, "a").await;
    for name in ["first", "second"] {
        edge.update(&[Listener::plain("a", inline(&changed(&config, name)))]).await;
        memory.is_kept(&edge, "a").await;
        edge.drained().await;
        memory.is_kept(&edge, "a").await;
        assert_eq!(edge.status().await["policies"][0]["name"], name, "the new one is in force");
    }
    assert!(edge.ends().await.success());
}

#[tokio::test]
async fn an_update_of_a_listener_whose_configuration_is_a_file_forgets_nothing() {
    let (site, idp) = site().await;
    let config = site.fetching(&idp.jwks_uri());
    let path = site.write("keybound.json", &config.to_string());
    let listener = Listener::plain("a", string(path.to_str().unwrap()));
    let mut edge = Edge::start(&site, std::slice::from_ref(&listener)).await;
    let memory = Memory::begin(&site, &idp, &edge, "a").await;
    site.write("keybound.json", &changed(&config, "more").to_string());
    let routes = vec![("/named", string("certificate"))];
    edge.update(&[Listener { routes, ..listener }]).await;
    memory.is_kept(&edge, "a").await;
    edge.drained().await;
    memory.is_kept(&edge, "a").await;
    assert_eq!(edge.bearer("a", "/named", None, "x").await.is(), (401, "token_malformed"));
}

#[tokio::test]
async fn a_listener_that_is_removed_and_comes_back_has_forgotten_nothing() {
    let (site, idp) = site().await;
    let config = site.fetching(&idp.jwks_uri());
    let path = site.write("keybound.json", &config.to_string());
    for filter_config in [inline(&config), string(path.to_str().unwrap())] {
        let listener = Listener::plain("a", filter_config);
        let mut edge = Edge::start(&site, std::slice::from_ref(&listener)).await;
        let client = dpop_client(&site);
        let used = client.proof("GET", &target("/a"));
        assert_eq!(edge.dpop("a", "/a", &client.token, &used).await.is(), ALLOWED);
        let fetched = idp.fetches();
        edge.update(&[]).await;
        edge.drained().await;
        edge.update(&[listener]).await;
        assert_eq!(edge.dpop("a", "/a", &client.token, &used).await.is(), REPLAYED);
        assert_eq!(idp.fetches(), fetched, "the keys are fetched once");
    }
}

#[tokio::test]
async fn listeners_with_other_configurations_know_what_was_used_at_one_of_them() {
    let (site, idp) = site().await;
    let config = site.fetching(&idp.jwks_uri());
    let other = Listener::plain("b", inline(&changed(&config, "other")));
    let both = [Listener::plain("a", inline(&config)), other.clone()];
    let mut edge = Edge::start(&site, &both).await;
    let memory = Memory::begin(&site, &idp, &edge, "a").await;
    memory.is_kept(&edge, "b").await;
    edge.update(&[Listener::plain("a", inline(&changed(&config, "more"))), other.clone()]).await;
    for name in ["a", "b"] {
        memory.is_kept(&edge, name).await;
    }
    edge.drained().await;
    edge.update(&[other]).await;
    edge.drained().await;
    memory.is_kept(&edge, "b").await;
    edge.update(&both).await;
    for name in ["a", "b"] {
        memory.is_kept(&edge, name).await;
    }
}

#[tokio::test]
async fn proofs_in_memory_are_known_although_only_a_listener_with_redis_was_left() {
    let (site, idp) = site().await;
    let redis = Redis::start();
    let in_memory = site.fetching(&idp.jwks_uri());
    let url = site.write("redis-url", redis.url());
    let mut in_redis = in_memory.clone();
    in_redis["dpop"] = json!({"replay": {"store": "redis", "url_file": url}});
    let listener = |name, config| Listener::plain(name, inline(config));
    let both = [listener("a", &in_memory), listener("b", &in_redis)];
    let mut edge = Edge::start(&site, &both).await;
    let memory = Memory::begin(&site, &idp, &edge, "a").await;
    edge.update(&both[1..]).await;
    edge.drained().await;
    // Another configuration is the newest when that one is gone.
    edge.update(&[listener("b", &changed(&in_redis, "more"))]).await;
    edge.drained().await;
    edge.update(&both).await;
    memory.is_kept(&edge, "a").await;
}

#[tokio::test]
async fn a_configuration_of_a_refused_listener_is_shown_nowhere() {
    let site = Site::new().await;
    let config = site.configuration();
    let listener = Listener::plain("a", inline(&config));
    let mut edge = Edge::start(&site, &[listener]).await;
    let digest = edge.status().await["config"]["digest"].clone();
    // The module has no fault to find with it; Envoy has.
    let config = inline(&changed(&config, "never-in-force"));
    edge.refuses(&[Listener { cluster: "nowhere", ..Listener::plain("a", config) }]).await;
    let status = edge.status().await;
    assert_eq!(status["config"]["digest"], digest, "{status}");
    assert!(!edge.own("/metrics").await.1.contains("never-in-force"));
}

async fn site() -> (Site, IdentityProvider) {
    let site = Site::new().await;
    let idp = IdentityProvider::start(&[site.signer.jwk().clone()]).await;
    (site, idp)
}
