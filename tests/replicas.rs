//! Two replicas of the real service and the real Redis that they share: a proof that was used at one
//! is used at both, whatever becomes of Redis.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test may panic")]
#![expect(clippy::indexing_slicing, clippy::arithmetic_side_effects, reason = "a test may panic")]

#[path = "support/dpop_client.rs"]
mod dpop_client;
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
#[path = "support/tokens.rs"]
#[expect(dead_code, reason = "shared between tests")]
mod tokens;

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
        let directory = TempDir::new().unwrap();
        let signer = Signer::new(Algorithm::ES256, "test");
        let config = configuration(directory.path(), redis, &signer).to_string();
        let (one, two) = (directory.path().join("one.yaml"), directory.path().join("two.yaml"));
        let start = async |file: &Path| {
            fs::write(file, &config).unwrap();
            Service::start(Path::new(env!("CARGO_BIN_EXE_keybound")), file).await.unwrap()
        };
        let services = [start(&one).await, start(&two).await];
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

    /// Checks a request with `proof` at a replica.
    async fn check(&self, place: usize, proof: &str) -> Outcome {
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
        outcome(answer.into_inner())
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
        let beside = self.directory.path().join("beside");
        fs::write(&beside, url).unwrap();
        fs::rename(beside, self.directory.path().join("redis.url")).unwrap();
    }

    /// Whether both have taken up another configuration.
    fn have_reloaded(&self) -> bool {
        self.services.iter().all(|it| it.log().contains("configuration reloaded"))
    }

    /// Waits until both accept proofs.
    async fn recovered(&self) {
        let accepting = async |place| {
            loop {
                match self.check(place, &self.new_proof()).await {
                    Ok(()) => return,
                    Err(denial) => assert_eq!(denial, Denial::ReplayUnavailable),
                }
            }
        };
        timeout(LONG, join(accepting(0), accepting(1))).await.unwrap();
    }
}

fn outcome(answer: CheckResponse) -> Outcome {
    let metadata = answer.dynamic_metadata.unwrap().fields;
    let Some(Kind::StringValue(reason)) = &metadata["reason"].kind else { panic!("{metadata:?}") };
    match answer.http_response {
        Some(HttpResponse::OkResponse(_)) => {
            assert_eq!((answer.status.unwrap().code, reason.as_str()), (0, "allowed"));
            Ok(())
        }
        Some(HttpResponse::DeniedResponse(denied)) => {
            let denial = *Denial::ALL.iter().find(|it| it.label() == reason).unwrap();
            assert_eq!(denied.status.unwrap().code, i32::from(denial.status()));
            Err(denial)
        }
        other => panic!("{other:?}"),
    }
}

/// One whose deadlines no busy machine will miss: what is refused is refused because Redis is away.
fn configuration(directory: &Path, redis: &Redis, signer: &Signer) -> Value {
    fs::write(directory.join("redis.url"), redis.url()).unwrap();
    fs::write(directory.join("jwks.json"), json!({"keys": [signer.jwk()]}).to_string()).unwrap();
    json!({
        "listen": {"ext_authz": "127.0.0.1:0", "admin": "127.0.0.1:0"},
        "issuers": [
            {"issuer": ISSUER, "audiences": [AUDIENCE], "keys": {"jwks_file": "jwks.json"}},
        ],
        "dpop": {
            "proof_window": "5m",
            "replay": {"store": "redis", "url_file": "redis.url", "timeout": "10s"},
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
