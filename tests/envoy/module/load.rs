//! Many clients at once, while Envoy's listeners change.

use super::dpop_client;
use super::edge::{Answer, Edge, Listener, Site, inline, presenting, send, target};
use crate::dpop_client::DpopClient;
use futures_util::future::join_all;
use keybound::commands::demo::pki::Identity;
use reqwest::Client;
use serde_json::{Value, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::task::JoinSet;

/// What the clients do together, and how it went.
#[derive(Default)]
struct Tally {
    answers: AtomicUsize,
    /// Connections that ended without an answer, as those of a listener may that is drained.
    lost: AtomicUsize,
    over: AtomicUsize,
}

impl Tally {
    fn goes_on(&self) -> bool {
        self.over.load(Ordering::SeqCst) == 0
    }

    fn end(&self) {
        self.over.store(1, Ordering::SeqCst);
    }

    /// Holds an answer against the only one that is right. None, if there was no answer.
    fn check(&self, answer: Result<Answer, reqwest::Error>, expected: (u16, &str)) -> Option<()> {
        let Ok(answer) = answer else {
            self.lost.fetch_add(1, Ordering::SeqCst);
            return None;
        };
        assert_eq!(answer.is(), expected);
        self.answers.fetch_add(1, Ordering::SeqCst);
        Some(())
    }

    fn so_far(&self) -> usize {
        self.answers.load(Ordering::SeqCst)
    }
}

/// Uses each proof twice.
async fn proves(client: Client, url: String, dpop: DpopClient, tally: Arc<Tally>) {
    while tally.goes_on() {
        let proof = dpop.proof("GET", &target("/a"));
        let ask = || send(presenting(client.get(&url), &dpop.token, &proof));
        // Whether a proof has been used is not known if nobody answered.
        if tally.check(ask().await, (200, "allowed")).is_some() {
            tally.check(ask().await, (401, "proof_replayed"));
        }
    }
}

/// Shows tokens, of which one is another's.
async fn shows(client: Client, url: String, own: String, stolen: String, tally: Arc<Tally>) {
    while tally.goes_on() {
        for (token, expected) in [
            (&own, (200, "allowed")),
            (&stolen, (401, "certificate_mismatch")),
            (&"forged".to_owned(), (401, "token_malformed")),
        ] {
            let request = client.get(&url).header("authorization", format!("Bearer {token}"));
            tally.check(send(request).await, expected);
        }
    }
}

/// Many clients at the listeners `a`, with TLS, and `b`, without.
async fn crowd(site: &Site, edge: &Edge<'_>, tally: &Arc<Tally>) -> JoinSet<()> {
    let client: Identity = site.client("client");
    let (own, stolen) = (site.token_of(&client), site.token_of(&site.client("other")));
    let mut tasks = JoinSet::new();
    for reuse in [0, 1] {
        let connect = |identity| {
            let builder = site.client_builder(identity).http1_only().pool_max_idle_per_host(reuse);
            builder.timeout(Duration::from_secs(10)).build().unwrap()
        };
        let url = edge.url("a", "/certificate").await;
        let (own, stolen) = (own.clone(), stolen.clone());
        tasks.spawn(shows(connect(Some(&client)), url, own, stolen, Arc::clone(tally)));
        // A connection that is used again may be closed just then, and the request sent once more.
        if reuse == 0 {
            for _ in 0..3 {
                let url = edge.url("b", "/a").await;
                tasks.spawn(proves(connect(None), url, dpop_client(site), Arc::clone(tally)));
            }
        }
    }
    tasks
}

/// The listeners with a configuration that differs from one `round` to the next.
fn listeners(config: &Value, round: usize) -> [Listener; 2] {
    let mut config = config.clone();
    config["policies"].as_array_mut().unwrap().insert(
        0,
        json!({"name": format!("round-{}", round % 3), "match": {"path_prefix": "/none"}, "sender_constraint": "dpop"}),
    );
    [Listener::tls("a", inline(&config)), Listener::plain("b", inline(&config))]
}

#[tokio::test]
async fn under_load_listeners_change_and_no_decision_is_wrong() {
    let site = Site::new().await;
    let mut config = site.configuration();
    config["limits"]["check_deadline"] = json!("20s");
    let mut edge = Edge::start(&site, &listeners(&config, 0)).await;
    let dpop = dpop_client(&site);
    let used = dpop.proof("GET", &target("/a"));
    assert_eq!(edge.dpop("b", "/a", &dpop.token, &used).await.is(), (200, "allowed"));
    let tally = Arc::<Tally>::default();
    let mut tasks = crowd(&site, &edge, &tally).await;
    for round in 1..=12 {
        let before = tally.so_far();
        edge.update(&listeners(&config, round)).await;
        assert_eq!(edge.dpop("b", "/a", &dpop.token, &used).await.is(), (401, "proof_replayed"));
        super::edge::until("clients are answered after an update", async || {
            assert!(tasks.try_join_next().is_none(), "a decision was wrong");
            (before + 20 < tally.so_far()).then_some(())
        })
        .await;
        edge.still_runs();
    }
    edge.post("/drain_listeners?graceful").await;
    super::edge::until("nobody is let in any more", async || {
        (0 < tally.lost.load(Ordering::SeqCst)).then_some(())
    })
    .await;
    tally.end();
    tasks.join_all().await;
    edge.drained().await;
    let status = edge.ends().await;
    assert!(status.success(), "{status}: {}", site.log());
}

#[tokio::test]
async fn envoy_is_told_to_end_under_load_and_ends_well() {
    let site = Site::new().await;
    let config = site.configuration();
    let edge = Edge::start(&site, &listeners(&config, 0)).await;
    let tally = Arc::<Tally>::default();
    let tasks = crowd(&site, &edge, &tally).await;
    super::edge::until("clients are answered", async || (100 < tally.so_far()).then_some(())).await;
    let status = edge.ends().await;
    tally.end();
    assert!(status.success(), "{status}: {}", site.log());
    tasks.join_all().await;
}

#[tokio::test]
async fn proofs_that_come_all_at_once_are_each_accepted_once_and_hold_up_nobody() {
    let site = Site::new().await;
    let mut config = site.configuration();
    config["limits"]["check_deadline"] = json!("20s");
    let mut edge = Edge::start(&site, &[Listener::tls("a", inline(&config))]).await;
    let client = site.client("client");
    let bound = site.token_of(&client);
    let (proving, showing) = (edge.url("a", "/a").await, edge.url("a", "/certificate").await);
    // All on one connection, so that a worker finds many of them at a time.
    let one = site.client_builder(Some(&client)).build().unwrap();
    let authority = proving.trim_end_matches("/a").to_owned();
    let dpop = dpop_client(&site);
    let proofs: Vec<_> = (0..300).map(|_| dpop.proof("GET", &format!("{authority}/a"))).collect();
    let spent = edge.own_time();
    let ask = |proof: &String| presenting(one.get(&proving), &dpop.token, proof).send();
    let others = async {
        let mut seen = vec![];
        for _ in 0..20 {
            let request = one.get(&showing).header("authorization", format!("Bearer {bound}"));
            seen.push(request.send().await.unwrap().status().as_u16());
        }
        seen
    };
    let (first, seen) = tokio::join!(join_all(proofs.iter().map(ask)), others);
    assert_eq!(seen, [200; 20]);
    assert!(first.into_iter().all(|it| it.unwrap().status() == 200));
    let again = join_all(proofs.iter().map(ask)).await;
    assert!(again.into_iter().all(|it| it.unwrap().status() == 401));
    let moved = edge.own_time().saturating_sub(spent);
    assert!(Duration::from_millis(5) < moved, "some went on in our own thread: {moved:?}");
    assert_eq!(edge.status().await["replay"]["recorded"], 300);
    assert_eq!(edge.status().await["checks_under_way"], 0);
    edge.still_runs();
}
