//! Security events that are pushed to the listener which the module opens.

use super::edge::{Edge, LONG, Listener, MULTIPLEXED, Site, inline, send, until};
use crate::installation::{AUDIENCE, ISSUER};
use futures_util::future::join_all;
use keybound::clock::{Clock, SystemClock};
use keybound::commands::demo::pki::Authority;
use reqwest::{Certificate, Client, Response, StatusCode};
use serde_json::{Value, json};
use std::env;
use std::time::{Duration, Instant};
use tokio::time::timeout;

const GATEWAY: &str = "https://gateway.example.com";

/// How many streams are open, half of which are to end, unless `KEYBOUND_STREAMS` says otherwise.
const STREAMS: usize = 2000;

/// Longer than all of them are open.
const TEN_MINUTES: Duration = Duration::from_secs(600);

/// How many a client has on its connection.
const OF_EACH: usize = 50;

/// A configuration whose issuer pushes events, to a listener with the certificate in `events.pem`.
fn hearing(site: &Site, authority: &Authority) -> Value {
    show(site, authority);
    let mut config = site.configuration();
    let (certificate, key) = (site.path("events.pem"), site.path("events.key"));
    config["listen"]["events"] = json!({
        "address": "127.0.0.1:0", "tls": {"certificate_file": certificate, "key_file": key},
    });
    config["issuers"][0]["revocation"] = json!({"events": {
        "delivery": "push", "bearer_token_file": site.write("pushes", "the-secret-of-theirs"), "audience": GATEWAY,
    }});
    let policy =
        json!({"name": "open", "sender_constraint": "if_bound", "streams": "end_with_token"});
    config["policies"] = json!([policy]);
    config
}

/// Gives the listener a certificate of this authority.
fn show(site: &Site, authority: &Authority) {
    let server = authority.server(&["127.0.0.1"]).unwrap();
    site.write("events.key", &server.key_pem());
    site.write("events.pem", &server.certificate_pem());
}

/// A transmitter that trusts this authority alone.
fn transmitter(authority: &Authority) -> Client {
    let ca = Certificate::from_pem(authority.certificate_pem().as_bytes()).unwrap();
    Client::builder().no_proxy().tls_certs_only([ca]).pool_max_idle_per_host(0).build().unwrap()
}

/// Where the module listens for events.
async fn endpoint(edge: &Edge<'_>, site: &Site) -> String {
    edge.logs("\"events\":").await;
    let log = site.log();
    let lines = log.lines().filter_map(|it| serde_json::from_str::<Value>(it).ok());
    let mut addresses = lines.filter_map(|it| it["events"].as_str().map(str::to_owned));
    format!("https://{}/events", addresses.next().unwrap())
}

/// Pushes that the session `sid` of alice has ended, and returns the answer's status.
async fn push(
    site: &Site,
    from: &Client,
    to: &str,
    sid: &str,
) -> Result<StatusCode, reqwest::Error> {
    let uri = "https://schemas.openid.net/secevent/caep/event-type/session-revoked";
    let now = SystemClock.now().as_secs();
    let claims = json!({
        "iss": ISSUER, "aud": GATEWAY, "iat": now, "jti": sid,
        "sub_id": {"format": "complex",
            "user": {"format": "iss_sub", "iss": ISSUER, "sub": "alice"},
            "session": {"format": "opaque", "id": sid}},
        "events": {uri: {"event_timestamp": now}},
    });
    let request = from.post(to).bearer_auth("the-secret-of-theirs");
    let request = request.header("content-type", "application/secevent+jwt");
    let answer = request.body(site.signer.sign("secevent+jwt", &claims)).send().await?;
    Ok(answer.status())
}

/// A token of alice's session `sid`.
fn token(site: &Site, sid: &str) -> String {
    let now = SystemClock.now().as_secs();
    let claims = json!({
        "iss": ISSUER, "aud": AUDIENCE, "sub": "alice", "client_id": "app", "sid": sid, "iat": now,
        "exp": now + 600,
    });
    site.signer.sign("at+jwt", &claims)
}

/// Opens events, and waits for the first.
async fn open(client: &Client, url: &str, token: &str) -> Response {
    let mut response = client.get(url).bearer_auth(token).send().await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    assert!(response.chunk().await.unwrap().is_some());
    response
}

/// Waits until Envoy has as many requests that go on.
async fn open_in_envoy(edge: &Edge<'_>, expected: usize) {
    let expected = u64::try_from(expected).unwrap();
    until("Envoy has so many streams", async || {
        (edge.stat("http.a.downstream_rq_active").await == expected).then_some(())
    })
    .await;
}

#[expect(clippy::print_stdout, reason = "figures for who runs it")]
#[expect(
    clippy::disallowed_methods,
    reason = "not configuration: it says how many streams to test"
)]
#[tokio::test]
async fn an_event_that_is_pushed_to_envoy_revokes_what_it_names_and_ends_what_that_has_opened() {
    let (site, authority) = (Site::new().await, Authority::new("of events").unwrap());
    let listener = Listener::plain("a", inline(&hearing(&site, &authority)));
    let edge = Edge::start(&site, &[Listener { cluster: MULTIPLEXED, ..listener }]).await;
    let [mine, others] = ["mine", "others"].map(|it| token(&site, it));
    let asked = async |token: &str| {
        let request = site.http_client(None).get(edge.url("a", "/").await).bearer_auth(token);
        send(request).await.unwrap()
    };
    for token in [&mine, &others] {
        assert_eq!(asked(token).await.is(), (200, "allowed"));
    }
    let url = edge.url("a", "/open").await;
    let streams = env::var("KEYBOUND_STREAMS").map_or(STREAMS, |it| it.parse().unwrap());
    let client = || site.client_builder(None).timeout(TEN_MINUTES).http2_prior_knowledge();
    let clients = (0..streams.div_ceil(OF_EACH)).map(|_| client().build().unwrap());
    let clients: Vec<_> = clients.collect();
    let before = edge.memory();
    let opened = (0..streams).map(|it| {
        let token = if it % 2 == 0 { &mine } else { &others };
        open(&clients[it / OF_EACH], &url, token)
    });
    let (mut ends, mut stays) = (vec![], vec![]);
    for (place, stream) in join_all(opened).await.into_iter().enumerate() {
        if place % 2 == 0 { ends.push(stream) } else { stays.push(stream) }
    }
    let grown = (edge.memory() - before) / u64::try_from(streams).unwrap();
    open_in_envoy(&edge, streams).await;

    let (to, began) = (endpoint(&edge, &site).await, Instant::now());
    let answer = push(&site, &transmitter(&authority), &to, "mine").await.unwrap();
    assert_eq!(answer, StatusCode::ACCEPTED);
    let acknowledged = began.elapsed();
    assert_eq!(asked(&mine).await.is(), (401, "token_revoked"), "as soon as it is acknowledged");
    let over = join_all(ends.iter_mut().map(async |it| {
        while let Ok(Some(_)) = it.chunk().await {}
        began.elapsed()
    }));
    let over = timeout(LONG, over).await.unwrap();
    let last = over.iter().max().unwrap();
    println!(
        "{} of {streams} streams: acknowledged after {acknowledged:?}, the last ended after {last:?}; \
         Envoy grew by {grown} bytes for each stream",
        over.len()
    );
    assert!(*last < Duration::from_secs(5), "{last:?}");
    assert_eq!(asked(&others).await.is(), (200, "allowed"));
    for stream in &mut stays {
        let more = timeout(Duration::ZERO, stream.chunk()).await;
        assert!(more.is_err(), "those of another session go on: {more:?}");
    }
    open_in_envoy(&edge, stays.len()).await;
}

#[tokio::test]
async fn a_new_certificate_of_the_listener_for_events_counts_while_the_filter_stays() {
    let site = Site::new().await;
    let [old, new] = ["old", "new"].map(|it| Authority::new(it).unwrap());
    let listener = Listener::plain("a", inline(&hearing(&site, &old)));
    let edge = Edge::start(&site, &[listener]).await;
    let to = endpoint(&edge, &site).await;
    assert_eq!(push(&site, &transmitter(&old), &to, "1").await.unwrap(), StatusCode::ACCEPTED);
    assert!(push(&site, &transmitter(&new), &to, "2").await.is_err());
    show(&site, &new);
    edge.logs("TLS certificate of the listener for events replaced").await;
    assert_eq!(push(&site, &transmitter(&new), &to, "2").await.unwrap(), StatusCode::ACCEPTED);
    assert!(push(&site, &transmitter(&old), &to, "3").await.is_err());
    let (_, metrics) = edge.own("/metrics").await;
    let series =
        "keybound_tls_certificate_not_after_timestamp_seconds{file=\"events.certificate_file\"";
    assert!(metrics.contains(series), "{metrics}");
}

#[tokio::test]
async fn a_listener_for_events_without_a_certificate_is_refused_as_any_mistake() {
    let (site, authority) = (Site::new().await, Authority::new("of events").unwrap());
    let good = Listener::plain("a", inline(&hearing(&site, &authority)));
    let mut edge = Edge::start(&site, std::slice::from_ref(&good)).await;
    site.write("no.pem", "no certificate");
    let mut config = hearing(&site, &authority);
    config["listen"]["events"]["tls"]["certificate_file"] = json!(site.path("no.pem"));
    edge.refuses(&[Listener { config: inline(&config), ..good }]).await;
    edge.logs("no.pem holds no certificate in PEM").await;
    until("the old listener goes on", async || {
        let to = endpoint(&edge, &site).await;
        push(&site, &transmitter(&authority), &to, "1").await.ok()
    })
    .await;
}
