//! Two replicas of the real service and the real Redis that they share: a proof that was used at one
//! is used at both, whatever becomes of Redis. And two regions, which share no Redis: a proof of one
//! is no good in the other.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test may panic")]
#![expect(clippy::indexing_slicing, clippy::arithmetic_side_effects, reason = "a test may panic")]

#[path = "support/dpop_client.rs"]
mod dpop_client;
#[path = "replicas/events.rs"]
mod events;
#[path = "replicas/lost_events.rs"]
mod lost_events;
#[path = "support/clock.rs"]
mod manual_clock;
#[path = "support/program.rs"]
#[expect(dead_code, reason = "shared between tests")]
mod program;
#[path = "support/programs.rs"]
mod programs;
#[path = "support/proofs.rs"]
mod proofs;
#[path = "support/redis.rs"]
#[expect(dead_code, reason = "shared between tests")]
mod redis;
#[path = "support/redis_proxy.rs"]
#[expect(dead_code, reason = "shared between tests")]
mod redis_proxy;
#[path = "replicas/sentinel.rs"]
mod sentinel;
#[path = "support/tokens.rs"]
#[expect(dead_code, reason = "shared between tests")]
mod tokens;
#[path = "support/valkey.rs"]
mod valkey;
#[path = "support/watched.rs"]
#[expect(dead_code, reason = "shared between tests")]
mod watched;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use dpop_client::DpopClient;
use envoy_types::pb::envoy::service::auth::v3::attribute_context::{HttpRequest, Request};
use envoy_types::pb::envoy::service::auth::v3::authorization_client::AuthorizationClient;
use envoy_types::pb::envoy::service::auth::v3::check_response::HttpResponse;
use envoy_types::pb::envoy::service::auth::v3::{CheckRequest, CheckResponse};
use envoy_types::pb::google::protobuf::value::Kind;
use futures_util::future::{join, join_all};
use jsonwebtoken::Algorithm;
use keybound::clock::{Clock, SystemClock};
use keybound::commands::demo::service::Service;
use keybound_core::Denial;
use proofs::prove;
use redis::Redis;
use redis_proxy::Proxy;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::time::Duration;
use tempfile::TempDir;
use tokens::Signer;
use tokio::sync::watch;
use tokio::time::timeout;
use tonic::transport::{Channel, Endpoint};

type Outcome = Result<(), Denial>;

#[test]
fn replicas_that_share_a_valkey_do_what_they_do_with_redis() {
    valkey::all_hold_with_valkey("replicas_that_share_a_valkey_do_what_they_do_with_redis", 12);
}

#[tokio::test]
async fn of_many_checks_of_one_proof_at_both_replicas_exactly_one_passes() {
    let redis = Redis::start();
    let it = Replicas::start(&redis).await;
    for _ in 0..5 {
        let proof = it.new_proof();
        let outcomes = join_all((0..50).map(|place| it.check(place % 2, &proof))).await;
        assert_eq!(outcomes.iter().filter(|it| it.is_ok()).count(), 1, "{outcomes:?}");
        let repeats = outcomes.iter().filter(|it| **it == Err(Denial::ProofReplayed));
        assert_eq!(repeats.count(), 49, "{outcomes:?}");
    }
}

#[tokio::test]
async fn a_crash_of_redis_under_load_refuses_proofs_and_lets_none_pass_twice() {
    let mut redis = Redis::start();
    let it = Replicas::start(&redis).await;
    let mut shown: HashMap<String, Vec<Outcome>> = HashMap::new();

    let load = async {
        let refused = |wave: &[(String, Outcome)]| {
            wave.iter().any(|(_, outcome)| *outcome == Err(Denial::ReplayUnavailable))
        };
        loop {
            let wave = it.show_new_proofs_at_both().await;
            let ended = refused(&wave);
            for (proof, outcome) in wave {
                shown.entry(proof).or_default().push(outcome);
            }
            if ended {
                return;
            }
        }
    };
    let begun = *it.answers.borrow();
    let crash = async {
        // In the middle of the second wave.
        drop(it.answers.subscribe().wait_for(|it| begun + 150 <= *it).await.unwrap());
        redis.kill();
    };
    join(load, crash).await;
    let passed_before = passed(&shown);
    assert!(50 <= passed_before.len(), "{}", passed_before.len());
    for (_, outcome) in it.show_new_proofs_at_both().await {
        assert_eq!(outcome, Err(Denial::ReplayUnavailable));
    }

    redis.resume();
    it.recovered().await;
    for proof in shown.keys().cloned().collect::<Vec<_>>() {
        for place in [0, 1] {
            let outcome = it.check(place, &proof).await;
            shown.entry(proof.clone()).or_default().push(outcome);
        }
    }
    for (proof, outcomes) in &shown {
        let (before, after) = outcomes.split_at(2);
        let passes = outcomes.iter().filter(|it| it.is_ok()).count();
        assert!(passes <= 1, "{outcomes:?}");
        assert!(after.iter().all(|it| matches!(it, Ok(()) | Err(Denial::ProofReplayed))));
        if passed_before.contains(proof) {
            assert_eq!(after, [Err(Denial::ProofReplayed); 2], "{before:?}");
        }
    }
}

#[tokio::test]
async fn a_new_way_to_redis_is_taken_once_it_leads_there() {
    let redis = Redis::start();
    let it = Replicas::start(&redis).await;
    let used = it.new_proof();
    assert_eq!(it.check(0, &used).await, Ok(()));
    let proxy = Proxy::start(redis.socket()).await;
    proxy.hold();
    it.lead_to(&proxy.url());
    while proxy.connections() < 2 {
        it.accept_at_both().await;
    }
    for _ in 0..20 {
        it.accept_at_both().await;
    }
    assert!(!it.have_reloaded(), "nothing came back yet");
    proxy.release();
    while !it.have_reloaded() {
        it.accept_at_both().await;
    }
    it.accept_at_both().await;
    assert_eq!(it.check(1, &used).await, Err(Denial::ProofReplayed));
}

#[tokio::test]
async fn a_client_certificate_for_redis_is_replaced_while_proofs_come_in() {
    let redis = Redis::with_client_certificates();
    let beside = TempDir::new().unwrap();
    let at = |name: &str| beside.path().join(name);
    let write = |name: &str, pem: &[u8]| {
        fs::write(at("new"), pem).unwrap();
        fs::rename(at("new"), at(name)).unwrap();
    };
    let [certificate, key] = redis.client(0);
    write("ca", &redis.ca());
    write("certificate", &certificate);
    write("key", &key);
    let it = Replicas::with([&redis, &redis], |_, it| {
        it["dpop"]["replay"]["ca_file"] = json!(at("ca"));
        it["dpop"]["replay"]["certificate_file"] = json!(at("certificate"));
        it["dpop"]["replay"]["key_file"] = json!(at("key"));
    })
    .await;
    let used = it.new_proof();
    assert_eq!(it.check(0, &used).await, Ok(()));
    let [certificate, key] = redis.client(1);
    write("certificate", &certificate);
    let replaced = async {
        while !it.services.iter().all(|it| it.log().contains("configuration rejected")) {
            it.accept_at_both().await;
        }
        assert!(!it.have_reloaded(), "this key is not that of the new certificate");
        write("key", &key);
        while !it.have_reloaded() {
            it.accept_at_both().await;
        }
    };
    timeout(LONG, replaced).await.unwrap();
    it.accept_at_both().await;
    assert_eq!(it.check(1, &used).await, Err(Denial::ProofReplayed));
}

/// One of a client whose clock is wrong, so that the time in it says nothing.
#[tokio::test]
async fn a_proof_that_was_used_at_one_replica_is_remembered_for_as_long_as_its_nonce_lives() {
    let redis = Redis::start();
    let it = Replicas::with([&redis, &redis], |_, it| {
        it["dpop"]["nonce_secret_file"] = json!("nonce-0");
        it["dpop"]["nonce"] = json!("required");
        it["dpop"]["time"] = json!("nonce");
    })
    .await;
    for skew in [-3600, 3600] {
        let nonce = it.nonce(0).await;
        assert_eq!(redis.ask("FLUSHALL"), "+OK");
        let proof = it.proof(|it| {
            it["nonce"] = json!(nonce);
            it["iat"] = json!(SystemClock.now().as_secs() + skew);
        });
        assert_eq!(it.check(0, &proof).await, Ok(()), "{skew}");
        for place in [1, 0] {
            assert_eq!(it.check(place, &proof).await, Err(Denial::ProofReplayed), "{skew}");
        }
        let records = redis.strings("KEYS keybound:replay:*:*");
        assert_eq!(records.len(), 1, "{records:?}");
        let left = redis.ask(&format!("PTTL {}", records[0]));
        let left: i64 = left.trim_start_matches(':').parse().unwrap();
        let forgotten = SystemClock.now().as_millis() + left;
        // 30 seconds for the clocks of replicas, and a little that passes meanwhile.
        let beyond = forgotten - end_of_life(&nonce);
        assert!((29_990..50_000).contains(&beyond), "{skew} {beyond}");
    }
}

#[tokio::test]
async fn a_proof_of_one_region_is_no_good_in_the_other() {
    let redis = [Redis::start(), Redis::start()];
    for time in ["iat", "nonce"] {
        let it = Replicas::in_regions(&redis, time).await;
        let there = it.nonce(1).await;
        let nonce = it.nonce(0).await;
        assert_ne!(nonce, there);
        let [used, unused] = [0, 1].map(|_| it.proof(|it| it["nonce"] = json!(nonce)));
        assert_eq!(it.check(0, &used).await, Ok(()));
        for proof in [&used, &unused] {
            let answer = it.ask(1, proof).await;
            assert_eq!(outcome(&answer), Err(Denial::NonceRequired), "{time}");
            let challenges = header(&answer, "www-authenticate");
            assert!(challenges[0].contains("error=\"use_dpop_nonce\""), "{challenges:?}");
            assert_eq!(header(&answer, "dpop-nonce").len(), 1, "{answer:?}");
        }
        assert_eq!(it.check(0, &used).await, Err(Denial::ProofReplayed), "{time}");
        assert_eq!(it.check(0, &unused).await, Ok(()), "the other region has not used it up");
    }
}

#[tokio::test]
async fn a_failover_to_another_region_costs_a_client_one_round_trip() {
    let redis = [Redis::start(), Redis::start()];
    let it = Replicas::in_regions(&redis, "iat").await;
    let mut nonce = it.nonce(0).await;
    // As a client does it: it keeps the newest nonce of the origin, and tries again with that.
    let mut trips = Vec::new();
    for place in [0, 0, 1, 1, 1, 0, 0] {
        let mut asked = 0;
        loop {
            asked += 1;
            let answer = it.ask(place, &it.proof(|it| it["nonce"] = json!(nonce))).await;
            nonce = header(&answer, "dpop-nonce").pop().unwrap_or(nonce);
            match outcome(&answer) {
                Ok(()) => break,
                Err(denial) => assert_eq!(denial, Denial::NonceRequired),
            }
        }
        trips.push(asked);
    }
    assert_eq!(trips, [1, 1, 2, 1, 1, 2, 1]);
}

/// What the secrets of their own are for.
#[tokio::test]
async fn regions_with_one_secret_and_no_common_redis_accept_a_proof_twice() {
    let redis = [Redis::start(), Redis::start()];
    let it = Replicas::with([&redis[0], &redis[1]], |_, it| {
        it["dpop"]["nonce"] = json!("required");
        it["dpop"]["nonce_secret_file"] = json!("nonce-0");
    })
    .await;
    let nonce = it.nonce(0).await;
    let proof = it.proof(|it| it["nonce"] = json!(nonce));
    for place in [0, 1] {
        assert_eq!(it.check(place, &proof).await, Ok(()));
        assert_eq!(it.check(place, &proof).await, Err(Denial::ProofReplayed));
    }
}

/// The last moment at which a nonce is accepted, in milliseconds: the end of the minute after its own.
fn end_of_life(nonce: &str) -> i64 {
    let octets = URL_SAFE_NO_PAD.decode(nonce).unwrap();
    let minute = i64::from_be_bytes(octets[..8].try_into().unwrap());
    (minute + 2) * 60_000 - 1
}

fn passed(shown: &HashMap<String, Vec<Outcome>>) -> Vec<String> {
    let passed = shown.iter().filter(|(_, outcomes)| outcomes.contains(&Ok(())));
    passed.map(|(proof, _)| proof.clone()).collect()
}

/// Two replicas, and a client of theirs.
struct Replicas {
    channels: [Channel; 2],
    client: DpopClient,
    /// How many checks were answered.
    answers: watch::Sender<usize>,
    services: [Service; 2],
    directory: TempDir,
}

impl Replicas {
    /// Starts them, and waits until they are in touch with `redis`.
    async fn start(redis: &Redis) -> Self {
        Self::with([redis, redis], |_, _| ()).await
    }

    /// Starts one in each of two regions: each has a Redis and a nonce secret of its own.
    async fn in_regions(redis: &[Redis; 2], time: &str) -> Self {
        Self::with(redis.each_ref(), |place, it| {
            it["dpop"]["nonce"] = json!("required");
            it["dpop"]["nonce_secret_file"] = json!(format!("nonce-{place}"));
            it["dpop"]["time"] = json!(time);
        })
        .await
    }

    /// Starts them with an edit of the configuration of each, and waits until they are in touch with
    /// their `redis`.
    async fn with(redis: [&Redis; 2], edit: impl Fn(usize, &mut Value)) -> Self {
        let directory = TempDir::new().unwrap();
        let signer = Signer::new(Algorithm::ES256, "test");
        let jwks = json!({"keys": [signer.jwk()]}).to_string();
        fs::write(directory.path().join("jwks.json"), jwks).unwrap();
        let start = async |place: usize| {
            let at = |name: &str| directory.path().join(format!("{name}-{place}"));
            fs::write(at("redis"), redis[place].url()).unwrap();
            fs::write(at("nonce"), place.to_string().repeat(32)).unwrap();
            let mut configuration = configuration(place);
            edit(place, &mut configuration);
            fs::write(at("configuration"), configuration.to_string()).unwrap();
            let program = Path::new(env!("CARGO_BIN_EXE_keybound"));
            Service::start(program, &at("configuration")).await.unwrap()
        };
        let services = [start(0).await, start(1).await];
        let channels = [0, 1].map(|place: usize| {
            let address = services[place].address("ext_authz").unwrap();
            Endpoint::from_shared(format!("http://{address}")).unwrap().connect_lazy()
        });
        let now = SystemClock.now().as_secs();
        let client = DpopClient::new(|cnf| {
            let claims = json!({
                "iss": ISSUER, "aud": AUDIENCE, "sub": "alice", "client_id": "app",
                "iat": now, "exp": now + 3600, "cnf": cnf,
            });
            signer.sign("at+jwt", &claims)
        });
        let answers = watch::Sender::new(0);
        let replicas = Self { channels, client, answers, services, directory };
        replicas.recovered().await;
        replicas
    }

    fn new_proof(&self) -> String {
        self.client.proof("GET", &format!("{AUDIENCE}{PATH}"))
    }

    /// A new proof that has had one edit.
    fn proof(&self, edit: impl FnOnce(&mut Value)) -> String {
        let mut claims = self.client.claims("GET", &format!("{AUDIENCE}{PATH}"));
        edit(&mut claims);
        prove(&self.client.key, &claims)
    }

    /// The nonce that a replica demands.
    async fn nonce(&self, place: usize) -> String {
        header(&self.ask(place, &self.new_proof()).await, "dpop-nonce").remove(0)
    }

    /// Checks a request with `proof` at a replica.
    async fn check(&self, place: usize, proof: &str) -> Outcome {
        outcome(&self.ask(place, proof).await)
    }

    /// What a replica answers to a request with `proof`.
    async fn ask(&self, place: usize, proof: &str) -> CheckResponse {
        let mut request = CheckRequest::default();
        let attributes = request.attributes.get_or_insert_default();
        let headers = [("authorization", format!("DPoP {}", self.client.token))];
        let headers = headers.into_iter().chain([("dpop", proof.to_owned())]);
        let http = HttpRequest {
            method: "GET".to_owned(),
            scheme: "https".to_owned(),
            host: AUDIENCE.trim_start_matches("https://").to_owned(),
            path: PATH.to_owned(),
            headers: headers.map(|(name, value)| (name.to_owned(), value)).collect(),
            ..HttpRequest::default()
        };
        attributes.request = Some(Request { http: Some(http), ..Request::default() });
        let mut replica = AuthorizationClient::new(self.channels[place].clone());
        let answer = timeout(LONG, Box::pin(replica.check(request))).await.unwrap().unwrap();
        self.answers.send_modify(|it| *it = it.saturating_add(1));
        answer.into_inner()
    }

    /// Shows fifty new proofs to both replicas, all at once, and tells what came of each.
    async fn show_new_proofs_at_both(&self) -> Vec<(String, Outcome)> {
        let proofs: Vec<String> = (0..50).map(|_| self.new_proof()).collect();
        let checks = proofs.iter().flat_map(|proof| [0, 1].map(|place| (place, proof)));
        let checks = checks.map(async |(place, it)| (it.clone(), self.check(place, it).await));
        join_all(checks).await
    }

    /// New proofs are accepted, by whichever connection.
    async fn accept_at_both(&self) {
        for place in [0, 1] {
            assert_eq!(self.check(place, &self.new_proof()).await, Ok(()));
        }
    }

    /// From here on their configuration leads to the Redis at `url`.
    fn lead_to(&self, url: &str) {
        for name in ["redis-0", "redis-1"] {
            let beside = self.directory.path().join("beside");
            fs::write(&beside, url).unwrap();
            fs::rename(beside, self.directory.path().join(name)).unwrap();
        }
    }

    /// Whether both have taken up another configuration.
    fn have_reloaded(&self) -> bool {
        self.services.iter().all(|it| it.log().contains("configuration reloaded"))
    }

    /// Waits until both accept proofs.
    async fn recovered(&self) {
        let accepting = async |place| {
            let mut nonce = None;
            loop {
                let proof = self.proof(|it| {
                    if let Some(nonce) = &nonce {
                        it["nonce"] = json!(nonce);
                    }
                });
                let answer = self.ask(place, &proof).await;
                match outcome(&answer) {
                    Ok(()) => return,
                    Err(Denial::NonceRequired) => nonce = header(&answer, "dpop-nonce").pop(),
                    Err(denial) => assert_eq!(denial, Denial::ReplayUnavailable),
                }
            }
        };
        timeout(LONG, join(accepting(0), accepting(1))).await.unwrap();
    }
}

/// The values of a header to the client.
fn header(answer: &CheckResponse, name: &str) -> Vec<String> {
    let headers = match &answer.http_response {
        Some(HttpResponse::OkResponse(allowed)) => &allowed.response_headers_to_add,
        Some(HttpResponse::DeniedResponse(denied)) => &denied.headers,
        other => panic!("{other:?}"),
    };
    let headers = headers.iter().filter_map(|it| it.header.as_ref());
    headers.filter(|it| it.key == name).map(|it| it.value.clone()).collect()
}

fn outcome(answer: &CheckResponse) -> Outcome {
    let metadata = &answer.dynamic_metadata.as_ref().unwrap().fields;
    let Some(Kind::StringValue(reason)) = &metadata["reason"].kind else { panic!("{metadata:?}") };
    match &answer.http_response {
        Some(HttpResponse::OkResponse(_)) => {
            let code = answer.status.as_ref().unwrap().code;
            assert_eq!((code, reason.as_str()), (0, "allowed"));
            Ok(())
        }
        Some(HttpResponse::DeniedResponse(denied)) => {
            let denial = *Denial::ALL.iter().find(|it| it.label() == reason).unwrap();
            let status = denied.status.as_ref().unwrap();
            assert_eq!(status.code, i32::from(denial.status()));
            Err(denial)
        }
        other => panic!("{other:?}"),
    }
}

/// One whose deadlines no busy machine will miss: what is refused is refused because Redis is away.
fn configuration(place: usize) -> Value {
    let url_file = format!("redis-{place}");
    json!({
        "listen": {"ext_authz": "127.0.0.1:0", "admin": "127.0.0.1:0"},
        "issuers": [
            {"issuer": ISSUER, "audiences": [AUDIENCE], "keys": {"jwks_file": "jwks.json"}},
        ],
        "dpop": {
            "proof_window": "5m",
            "replay": {"store": "redis", "url_file": url_file, "timeout": "10s"},
        },
        "policies": [{"name": "all", "sender_constraint": "dpop"}],
        "limits": {"check_deadline": "20s"},
    })
}

const ISSUER: &str = "https://as.example.com";
const AUDIENCE: &str = "https://api.example.com";
const PATH: &str = "/things";

/// Longer than whatever does not hang.
const LONG: Duration = Duration::from_secs(60);
