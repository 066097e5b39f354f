//! Holds both replay stores to one contract, and the one in Redis to its conduct in outages.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

#[path = "support/programs.rs"]
#[expect(unreachable_pub, reason = "shared between tests")]
mod programs;
#[path = "support/redis.rs"]
#[expect(unreachable_pub, reason = "shared between tests")]
mod redis;

use futures_util::future::join_all;
use keybound::clock::UnixTime;
use keybound::jose::thumbprint::Thumbprint;
use keybound::oauth::dpop::ProofId;
use keybound::state::replay::memory::MemoryLimits;
use keybound::state::replay::redis::RedisRules;
use keybound::state::replay::{ReplayRules, ReplayStore, Unavailable, Use};
use redis::Redis;
use std::time::Duration;
use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout};

/// What every store does, whatever it is made of.
async fn keeps_the_contract(store: &ReplayStore) {
    // The store may be one that outlives the test.
    let mut salt = [0; 16];
    aws_lc_rs::rand::fill(&mut salt).unwrap();
    let record = async |key, jti, now| {
        let jti = format!("{jti} {salt:?}");
        store.record(&proof(key, &jti), at(60), at(now)).await
    };
    assert_eq!(record("a", "1", 0).await, Ok(Use::First));
    assert_eq!(record("a", "1", 0).await, Ok(Use::Repeat));
    assert_eq!(record("a", "1", 60).await, Ok(Use::Repeat), "it lives through its last moment");
    assert_eq!(record("a", "2", 0).await, Ok(Use::First), "another proof");
    assert_eq!(record("b", "1", 0).await, Ok(Use::First), "another key");

    let at_once = join_all((0..50).map(|_| record("a", "3", 0))).await;
    assert_eq!(at_once.iter().filter(|it| **it == Ok(Use::First)).count(), 1);
    assert_eq!(at_once.iter().filter(|it| **it == Ok(Use::Repeat)).count(), 49);

    assert_eq!((store.recorded(), store.repeats()), (4, 51));
}

#[tokio::test]
async fn memory_keeps_the_contract() {
    let store = ReplayStore::start(&ReplayRules::default(), &Handle::current());
    assert!(store.is_reachable());
    keeps_the_contract(&store).await;
    assert_eq!(store.entries(), Some(4));
}

#[tokio::test]
async fn an_onlooker_knows_what_the_store_knows_and_uses_nothing_up() {
    let store = ReplayStore::in_memory(MemoryLimits::default());
    let onlooker = store.onlooker().unwrap();
    let (used, unused) = (proof("a", "1"), proof("a", "2"));
    assert_eq!(store.record(&used, at(60), at(0)).await, Ok(Use::First));
    for _ in 0..2 {
        assert_eq!(onlooker.record(&used, at(60), at(0)).await, Ok(Use::Repeat));
        assert_eq!(onlooker.record(&unused, at(60), at(0)).await, Ok(Use::First));
    }
    assert_eq!((store.recorded(), store.repeats(), store.entries()), (1, 0, Some(1)));
    assert_eq!(store.record(&unused, at(60), at(0)).await, Ok(Use::First));
    assert!(!onlooker.adopt(&ReplayRules::default()), "no check may go by it");
}

#[tokio::test]
async fn nobody_looks_on_at_redis() {
    let redis = Redis::start();
    assert!(reached(&redis, None).await.onlooker().is_none());
}

#[tokio::test]
async fn redis_keeps_the_contract() {
    let redis = Redis::start();
    keeps_the_contract(&reached(&redis, None).await).await;
}

#[tokio::test]
#[expect(clippy::disallowed_methods, reason = "not configuration: it names another Redis to test")]
async fn the_redis_that_the_environment_names_keeps_the_contract() {
    let Ok(url) = std::env::var("REDIS_URL") else { return };
    let rules = RedisRules::read(url.as_bytes(), false, None, PATIENT).unwrap();
    let store = ReplayStore::start(&ReplayRules::Redis(rules), &Handle::current());
    timeout(LONG, store.reachable()).await.unwrap();
    keeps_the_contract(&store).await;
}

#[tokio::test]
async fn a_redis_behind_tls_keeps_the_contract() {
    let redis = Redis::with_tls();
    keeps_the_contract(&reached(&redis, Some(redis.ca())).await).await;
}

#[tokio::test]
async fn a_user_who_may_do_nothing_else_will_do() {
    let redis = Redis::with_user("keybound", "secret", "~keybound:replay:* +set");
    keeps_the_contract(&reached(&redis, None).await).await;
}

#[tokio::test]
async fn a_cluster_keeps_the_contract() {
    let redis = Redis::with_cluster();
    let rules = RedisRules::read(redis.url().as_bytes(), true, None, PATIENT).unwrap();
    let store = ReplayStore::start(&ReplayRules::Redis(rules), &Handle::current());
    timeout(LONG, store.reachable()).await.unwrap();
    keeps_the_contract(&store).await;
}

#[tokio::test]
async fn a_proof_used_at_one_replica_is_used_at_all() {
    let redis = Redis::start();
    let replicas = [reached(&redis, None).await, reached(&redis, None).await];
    let proof = proof("a", "1");
    let everywhere = (0..50).flat_map(|_| &replicas).map(|it| it.record(&proof, at(60), at(0)));
    let found = join_all(everywhere).await;
    assert_eq!(found.iter().filter(|it| **it == Ok(Use::First)).count(), 1);
    assert_eq!(found.iter().filter(|it| **it == Ok(Use::Repeat)).count(), 99);
}

#[tokio::test]
async fn redis_keeps_a_record_for_the_life_of_the_proof_and_a_margin() {
    for (expires, millis) in [(60, 90_000), (0, 30_000), (-1, 30_000)] {
        let redis = Redis::start();
        let store = reached(&redis, None).await;
        assert_eq!(store.record(&proof("a", "1"), at(expires), at(0)).await, Ok(Use::First));
        let name = Thumbprint::of(&[proof("a", "1").key, proof("a", "1").jti].concat());
        let left = redis.ask(&format!("PTTL keybound:replay:{}", name.to_base64url()));
        let left: i64 = left.trim_start_matches(':').parse().unwrap();
        assert!(
            (20_000..=millis).contains(&left) && millis < left.saturating_add(10_000),
            "{left}"
        );
    }
}

#[tokio::test]
async fn a_crash_of_redis_refuses_proofs_until_it_is_back_and_makes_it_forget_none() {
    let mut redis = Redis::start();
    let store = reached(&redis, None).await;
    assert_eq!(store.record(&proof("a", "1"), at(60), at(0)).await, Ok(Use::First));
    redis.kill();
    for jti in ["1", "2"] {
        let refused = store.record(&proof("a", jti), at(60), at(0)).await;
        assert_eq!(refused, Err(Unavailable::Unreachable));
    }
    assert!(!store.is_reachable());
    redis.resume();
    timeout(LONG, store.reachable()).await.unwrap();
    assert_eq!(store.record(&proof("a", "1"), at(60), at(0)).await, Ok(Use::Repeat));
    assert_eq!(store.record(&proof("a", "2"), at(60), at(0)).await, Ok(Use::First));
}

#[tokio::test]
async fn a_redis_that_stands_still_costs_one_deadline_and_then_nothing() {
    let redis = Redis::start();
    let store = reached(&redis, None).await;
    redis.signal("-STOP");
    let begin = Instant::now();
    let refused = store.record(&proof("a", "1"), at(60), at(0)).await;
    assert_eq!(refused, Err(Unavailable::Unreachable));
    assert!(PATIENT <= begin.elapsed());
    // It is given up for lost while checks still wait for it, each for no longer than its deadline.
    while store.is_reachable() {
        assert!(begin.elapsed() < LONG);
        store.record(&proof("a", "2"), at(60), at(0)).await.unwrap_err();
    }
    redis.signal("-CONT");
    timeout(LONG, store.reachable()).await.unwrap();
    assert_eq!(store.record(&proof("a", "3"), at(60), at(0)).await, Ok(Use::First));
}

#[tokio::test]
async fn an_idle_store_notices_by_itself_that_redis_has_gone() {
    let mut redis = Redis::start();
    let store = reached(&redis, None).await;
    redis.kill();
    let gone = async {
        while store.is_reachable() {
            tokio::task::yield_now().await;
        }
    };
    timeout(LONG, gone).await.unwrap();
}

#[tokio::test]
async fn proofs_are_refused_at_once_while_there_is_no_redis() {
    let mut redis = Redis::start();
    redis.kill();
    let store = started(&redis, None);
    let begin = Instant::now();
    for _ in 0..1000 {
        let refused = store.record(&proof("a", "1"), at(60), at(0)).await;
        assert_eq!(refused, Err(Unavailable::Unreachable));
    }
    assert!(begin.elapsed() < PATIENT);
    redis.resume();
    timeout(LONG, store.reachable()).await.unwrap();
    assert_eq!(store.record(&proof("a", "1"), at(60), at(0)).await, Ok(Use::First));
}

#[tokio::test]
async fn a_redis_in_which_no_record_can_be_made_is_not_reached() {
    let read_only = Redis::with_user("keybound", "secret", "~keybound:replay:* +@read");
    let elsewhere = Redis::with_user("keybound", "secret", "~other:* +set");
    let full = Redis::start();
    full.ask("CONFIG SET maxmemory 1");
    let replica = Redis::start();
    replica.ask("REPLICAOF 127.0.0.1 1");
    for redis in [read_only, elsewhere, full, replica] {
        let store = started(&redis, None);
        assert!(timeout(SHORT, store.reachable()).await.is_err());
        let refused = store.record(&proof("a", "1"), at(60), at(0)).await;
        assert_eq!(refused, Err(Unavailable::Unreachable));
    }
}

#[tokio::test]
async fn a_redis_that_turns_into_a_replica_is_left() {
    let redis = Redis::start();
    let store = reached(&redis, None).await;
    redis.ask("REPLICAOF 127.0.0.1 1");
    let refused = store.record(&proof("a", "1"), at(60), at(0)).await;
    assert_eq!(refused, Err(Unavailable::Unreachable));
    redis.ask("REPLICAOF NO ONE");
    timeout(LONG, store.reachable()).await.unwrap();
    let again = async {
        while store.record(&proof("a", "2"), at(60), at(0)).await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    timeout(LONG, again).await.unwrap();
}

#[tokio::test]
async fn tls_trusts_no_other_authority_than_the_one_that_was_named() {
    let (redis, other) = (Redis::with_tls(), Redis::with_tls());
    for ca in [None, Some(other.ca())] {
        let store = started(&redis, ca);
        assert!(timeout(SHORT, store.reachable()).await.is_err());
    }
}

#[test]
fn the_connection_serves_runtimes_other_than_the_one_that_keeps_it() {
    let redis = Redis::start();
    let background = Builder::new_current_thread().enable_all().build().unwrap();
    let store = started_on(&redis, None, background.handle());
    let (end, ended) = oneshot::channel::<()>();
    let background = std::thread::spawn(move || background.block_on(ended));
    let proof = proof("a", "1");
    let found: Vec<_> = std::thread::scope(|scope| {
        let shard = || {
            let runtime = Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                timeout(LONG, store.reachable()).await.unwrap();
                store.record(&proof, at(60), at(0)).await
            })
        };
        let shards: Vec<_> = (0..4).map(|_| scope.spawn(shard)).collect();
        shards.into_iter().map(|it| it.join().unwrap()).collect()
    });
    assert_eq!(found.iter().filter(|it| **it == Ok(Use::First)).count(), 1);
    assert_eq!(found.iter().filter(|it| **it == Ok(Use::Repeat)).count(), 3);
    end.send(()).unwrap();
    background.join().unwrap().unwrap();
}

#[tokio::test]
async fn a_store_goes_on_under_new_rules_where_that_loses_nothing() {
    let small = ReplayRules::Memory(MemoryLimits { capacity: 1, per_key: 1 });
    let redis =
        |url: &[u8]| ReplayRules::Redis(RedisRules::read(url, false, None, PATIENT).unwrap());
    let (one, other) = (redis(b"redis+unix:///nowhere"), redis(b"redis+unix:///elsewhere"));
    let here = Handle::current();

    let memory = ReplayStore::start(&ReplayRules::default(), &here);
    assert_eq!(memory.record(&proof("a", "1"), at(60), at(0)).await, Ok(Use::First));
    assert!(memory.adopt(&small) && !memory.adopt(&one));
    assert_eq!(memory.record(&proof("a", "1"), at(60), at(0)).await, Ok(Use::Repeat));
    assert_eq!(memory.record(&proof("b", "1"), at(60), at(0)).await, Err(Unavailable::Full));

    let shared = ReplayStore::start(&one, &here);
    assert!(shared.adopt(&one) && !shared.adopt(&other) && !shared.adopt(&small));
}

async fn reached(redis: &Redis, ca: Option<Vec<u8>>) -> ReplayStore {
    let store = started(redis, ca);
    timeout(LONG, store.reachable()).await.unwrap();
    store
}

fn started(redis: &Redis, ca: Option<Vec<u8>>) -> ReplayStore {
    started_on(redis, ca, &Handle::current())
}

fn started_on(redis: &Redis, ca: Option<Vec<u8>>, runtime: &Handle) -> ReplayStore {
    let rules = RedisRules::read(redis.url().as_bytes(), false, ca, PATIENT).unwrap();
    ReplayStore::start(&ReplayRules::Redis(rules), runtime)
}

fn proof(key: &str, jti: &str) -> ProofId {
    let digest = |text: &str| *Thumbprint::of(text.as_bytes()).octets();
    ProofId { key: digest(key), jti: digest(jti) }
}

fn at(seconds: i64) -> UnixTime {
    UnixTime::from_secs(seconds.saturating_add(1_700_000_000))
}

/// A deadline that also a busy machine keeps.
const PATIENT: Duration = Duration::from_secs(2);

/// After this, what was expected will never happen.
const LONG: Duration = Duration::from_secs(20);

/// Long enough for what must not happen to happen, were it to.
const SHORT: Duration = Duration::from_millis(300);
