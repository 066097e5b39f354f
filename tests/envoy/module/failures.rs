//! What happens when what a check needs fails, or a client does not wait for it.

use super::dpop_client;
use super::edge::{Edge, HOST, Listener, Site, inline, presenting, send, target, until};
use crate::identity_provider::IdentityProvider;
use crate::introspection_endpoint::{IntrospectionEndpoint, Reply};
use crate::redis::Redis;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::runtime::Handle;
use tokio::time::Instant;

/// How much longer than its deadline an answer may take, on a busy machine.
const SLACK: Duration = Duration::from_secs(5);

#[tokio::test]
async fn proofs_are_recorded_in_redis_and_without_it_none_is_accepted() {
    let site = Site::new().await;
    let redis = Redis::start();
    let url = site.write("redis-url", redis.url());
    let mut config = site.configuration();
    config["dpop"] = json!({"replay": {"store": "redis", "url_file": url}});
    config["limits"]["check_deadline"] = json!("3s");
    let edge = Edge::start(&site, &[Listener::tls("a", inline(&config))]).await;
    let (client, dpop) = (site.client("client"), dpop_client(&site));
    let bound = site.token_of(&client);
    let prove = || dpop.proof("GET", &target("/a"));
    until("Redis is reached", async || {
        (edge.dpop("a", "/a", &dpop.token, &prove()).await.status == 200).then_some(())
    })
    .await;
    let used = prove();
    assert_eq!(edge.dpop("a", "/a", &dpop.token, &used).await.is(), (200, "allowed"));
    assert_eq!(edge.dpop("a", "/a", &dpop.token, &used).await.is(), (401, "proof_replayed"));

    let others = site.client_builder(Some(&client)).http1_only().build().unwrap();
    let url = edge.url("a", "/certificate").await;
    let show = async || {
        send(others.get(&url).header("authorization", format!("Bearer {bound}"))).await.unwrap()
    };
    assert_eq!(show().await.is(), (200, "allowed"));
    redis.signal("-STOP");
    let request = site.http_client(None).get(edge.url("a", "/a").await);
    let began = Instant::now();
    let waits = Handle::current().spawn(send(presenting(request, &dpop.token, &prove())));
    let mut meanwhile = 0;
    while !waits.is_finished() {
        assert_eq!(show().await.is(), (200, "allowed"));
        meanwhile += 1;
    }
    // The last may have come after it.
    assert!(1 < meanwhile, "others are answered while it waits");
    let answer = waits.await.unwrap().unwrap();
    assert_eq!(answer.is(), (503, "replay_unavailable"));
    assert!(began.elapsed() < Duration::from_secs(3) + SLACK, "{:?}", began.elapsed());

    redis.signal("-CONT");
    until("Redis is reached again", async || {
        (edge.dpop("a", "/a", &dpop.token, &prove()).await.status == 200).then_some(())
    })
    .await;
    assert_eq!(edge.dpop("a", "/a", &dpop.token, &used).await.is(), (401, "proof_replayed"));
    assert!(edge.ends().await.success());
}

#[tokio::test]
async fn an_issuer_that_is_down_at_the_start_is_found_once_it_is_up() {
    let site = Site::new().await;
    let idp = IdentityProvider::start(&[site.signer.jwk().clone()]).await;
    idp.go_down().await;
    let config = site.fetching(&idp.jwks_uri());
    let edge = Edge::start(&site, &[Listener::tls("a", inline(&config))]).await;
    let client = site.client("client");
    let token = site.token_of(&client);
    let ask = async || edge.bearer("a", "/certificate", Some(&client), &token).await;
    let began = Instant::now();
    assert_eq!(ask().await.is(), (503, "keys_unavailable"));
    assert!(began.elapsed() < Duration::from_millis(900) + SLACK);
    assert_eq!(edge.own("/readyz").await.0, 503);
    idp.come_up().await;
    until("the keys are there", async || {
        let answer = ask().await;
        assert!(matches!(answer.is(), (503, "keys_unavailable") | (200, "allowed")), "{answer:?}");
        (answer.status == 200).then_some(())
    })
    .await;
    until("it is ready", async || (edge.own("/readyz").await.0 == 200).then_some(())).await;
}

/// A configuration whose issuer is asked about opaque tokens, and with how much patience.
fn asking(site: &Site, endpoint: &IntrospectionEndpoint, patience: &str, deadline: &str) -> Value {
    let secret = site.write("secret", "secret");
    let mut config = site.configuration();
    config["issuers"][0]["introspection"] = json!({
        "endpoint": endpoint.url(), "client_id": "gateway", "client_secret_file": secret,
        "cache_ttl": "0s", "negative_ttl": "0s", "timeout": patience,
    });
    config["limits"]["check_deadline"] = json!(deadline);
    config
}

/// What an endpoint says of a token that is in order and bound to this certificate.
fn active(identity: &keybound::commands::demo::pki::Identity) -> Reply {
    Reply::json(&json!({
        "active": true, "iss": crate::installation::ISSUER, "aud": crate::installation::AUDIENCE,
        "sub": "alice", "client_id": "app",
        "cnf": {"x5t#S256": identity.thumbprint().to_base64url()},
    }))
}

#[tokio::test]
async fn an_endpoint_that_says_nothing_costs_its_time_and_no_more() {
    let site = Site::new().await;
    let client = site.client("client");
    let endpoint = IntrospectionEndpoint::start(active(&client)).await;
    let config = asking(&site, &endpoint, "600ms", "900ms");
    let edge = Edge::start(&site, &[Listener::tls("a", inline(&config))]).await;
    let ask = async || edge.bearer("a", "/certificate", Some(&client), "opaque").await;
    assert_eq!(ask().await.is(), (200, "allowed"));
    endpoint.hold();
    let began = Instant::now();
    assert_eq!(ask().await.is(), (503, "introspection_unavailable"));
    assert!(began.elapsed() < Duration::from_millis(900) + SLACK);
    endpoint.release();
    until("it is asked again", async || (ask().await.status == 200).then_some(())).await;
}

/// A request with an opaque token of its own, which nobody waits for.
async fn ask(address: SocketAddr, token: &str) -> TcpStream {
    let mut connection = TcpStream::connect(address).await.unwrap();
    let request = format!(
        "GET /certificate HTTP/1.1\r\nhost: {HOST}\r\nauthorization: Bearer {token}\r\n\r\n"
    );
    connection.write_all(request.as_bytes()).await.unwrap();
    connection
}

async fn under_way(edge: &Edge<'_>, expected: u64) {
    until("so many checks wait", async || {
        (edge.status().await["checks_under_way"] == expected).then_some(())
    })
    .await;
}

const CLIENTS: u64 = 100;

async fn all_ask(address: SocketAddr, round: u64) -> Vec<TcpStream> {
    let mut connections = vec![];
    for client in 0..CLIENTS {
        connections.push(ask(address, &format!("opaque-{round}-{client}")).await);
    }
    connections
}

#[tokio::test]
async fn nothing_is_left_of_clients_that_hang_up_while_a_check_waits() {
    let site = Site::new().await;
    let client = site.client("client");
    let endpoint = IntrospectionEndpoint::start(active(&client)).await;
    let config = inline(&asking(&site, &endpoint, "20s", "25s"));
    let listeners = [Listener::plain("a", config.clone()), Listener::tls("b", config)];
    let mut edge = Edge::start(&site, &listeners).await;
    endpoint.hold();
    let address = edge.address("a").await;
    let connections = all_ask(address, 0).await;
    under_way(&edge, CLIENTS).await;
    drop(connections);
    under_way(&edge, 0).await;
    edge.still_runs();
    endpoint.release();
    let answer = edge.bearer("b", "/certificate", Some(&client), "opaque").await;
    assert_eq!(answer.is(), (200, "allowed"));
    assert!(edge.ends().await.success());
}

#[tokio::test]
async fn clients_that_hang_up_just_when_their_checks_end_harm_nobody() {
    let site = Site::new().await;
    let client = site.client("client");
    let endpoint = IntrospectionEndpoint::start(active(&client)).await;
    let config = inline(&asking(&site, &endpoint, "20s", "25s"));
    let mut edge = Edge::start(&site, &[Listener::plain("a", config)]).await;
    let address = edge.address("a").await;
    for round in 0..8 {
        endpoint.hold();
        let connections = all_ask(address, round).await;
        under_way(&edge, CLIENTS).await;
        endpoint.release();
        // Some are answered already, some not yet.
        for connection in connections {
            drop(connection);
            tokio::task::yield_now().await;
        }
        under_way(&edge, 0).await;
        edge.still_runs();
    }
    assert!(edge.ends().await.success());
}

#[tokio::test]
async fn an_envoy_that_ends_while_checks_wait_ends_well() {
    let site = Site::new().await;
    let endpoint = IntrospectionEndpoint::start(Reply::json(&json!({"active": false}))).await;
    let config = inline(&asking(&site, &endpoint, "20s", "25s"));
    for round in 0..3 {
        let edge = Edge::start(&site, &[Listener::plain("a", config.clone())]).await;
        endpoint.hold();
        let connections = all_ask(edge.address("a").await, round).await;
        under_way(&edge, CLIENTS).await;
        let ends = edge.ends();
        // Their ends come while it ends.
        endpoint.release();
        let status = ends.await;
        assert!(status.success(), "{status}: {}", site.log());
        drop(connections);
    }
}
