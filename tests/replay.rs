//! Holds both replay stores to one contract, and the one in Redis to its conduct in outages.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test may panic")]

#[path = "support/program.rs"]
#[expect(dead_code, reason = "shared between tests")]
mod program;
#[path = "support/programs.rs"]
mod programs;
#[path = "support/redis.rs"]
mod redis;
#[path = "support/redis_proxy.rs"]
mod redis_proxy;
#[path = "replay/sentinel.rs"]
mod sentinel;
#[path = "support/valkey.rs"]
mod valkey;
#[path = "support/watched.rs"]
mod watched;

use futures_util::future::join_all;
use keybound::state::replay::memory::MemoryLimits;
use keybound::state::replay::redis::{RedisIdentity, RedisRules};
use keybound::state::replay::{ReplayRules, ReplayStore, Unavailable};
use keybound_core::jose::Thumbprint;
use keybound_core::oauth::ProofId;
use keybound_core::{UnixTime, Use};
use redis::Redis;
use redis_proxy::{Proxy, StillTime};
use std::process::Command;
use std::time::Duration;
use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;
use tokio::time::{Instant, advance, timeout};

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
async fn a_read_only_store_finds_what_was_recorded_and_records_nothing() {
    let store = ReplayStore::in_memory(MemoryLimits::default());
    let read_only = store.read_only().unwrap();
    let (used, unused) = (proof("a", "1"), proof("a", "2"));
    assert_eq!(store.record(&used, at(60), at(0)).await, Ok(Use::First));
    for _ in 0..2 {
        assert_eq!(read_only.record(&used, at(60), at(0)).await, Ok(Use::Repeat));
        assert_eq!(read_only.record(&unused, at(60), at(0)).await, Ok(Use::First));
    }
    assert_eq!((store.recorded(), store.repeats(), store.entries()), (1, 0, Some(1)));
    assert_eq!(store.record(&unused, at(60), at(0)).await, Ok(Use::First));
    assert!(!read_only.adopt(&ReplayRules::default()), "no check may go by it");
}

#[test]
fn what_holds_of_redis_holds_of_valkey() {
    valkey::all_hold_with_valkey("what_holds_of_redis_holds_of_valkey", 30);
}

/// Any Redis on `PATH` is taken, but in the pipeline it is that one.
#[test]
fn the_server_is_the_one_that_docs_platforms_names() {
    let redis = Redis::start();
    let told = redis.strings("INFO server");
    let told = |name: &str| told.iter().find_map(|it| it.strip_prefix(name));
    let (name, version) = match told("valkey_version:") {
        Some(version) => ("valkey", version),
        None => ("redis", told("redis_version:").unwrap()),
    };
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/provision.py");
    let output = Command::new(script).args(["--version", name]).output().unwrap();
    let pinned = String::from_utf8(output.stdout).unwrap();
    let may_differ = name == "redis" && std::env::var_os("CI").is_none_or(|it| it != "true");
    assert!(may_differ || version.starts_with(pinned.trim()), "{name} {version}, not {pinned}");
}

#[tokio::test]
async fn nobody_looks_on_at_redis() {
    let redis = Redis::start();
    assert!(reached(&redis, None).await.read_only().is_none());
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

/// What every store does that can hold a client to its share, which is three here.
async fn holds_a_client_to_its_share(store: &ReplayStore) {
    let record = async |key, jti| store.record(&proof(key, jti), at(60), at(0)).await;
    for jti in ["1", "2", "3"] {
        assert_eq!(record("a", jti).await, Ok(Use::First));
        assert_eq!(record("a", jti).await, Ok(Use::Repeat));
    }
    for _ in 0..2 {
        assert_eq!(record("a", "4").await, Err(Unavailable::KeyFull), "and no mark is left");
        assert_eq!(record("a", "1").await, Ok(Use::Repeat), "what was used is known even so");
    }
    assert_eq!(record("b", "1").await, Ok(Use::First), "another client");
    let at_once = ["2", "3", "4", "5", "6"].map(|jti| record("b", jti));
    let at_once = join_all(at_once).await;
    assert_eq!(at_once.iter().filter(|it| **it == Ok(Use::First)).count(), 2);
    assert_eq!(at_once.iter().filter(|it| **it == Err(Unavailable::KeyFull)).count(), 3);
}

#[tokio::test]
async fn memory_holds_a_client_to_its_share() {
    let limits = MemoryLimits { capacity: 100, per_key: 3 };
    holds_a_client_to_its_share(&ReplayStore::in_memory(limits)).await;
}

#[tokio::test]
async fn redis_holds_a_client_to_its_share() {
    let redis = Redis::start();
    let store = with_share(&redis, 3).await;
    holds_a_client_to_its_share(&store).await;
    assert_eq!(store.concerns(), [""; 0]);
}

#[tokio::test]
async fn a_cluster_holds_a_client_to_its_share() {
    let redis = Redis::with_cluster();
    let rules = RedisRules::read(redis.url().as_bytes(), true, None, PATIENT).unwrap();
    let rules = ReplayRules::Redis(rules.with_share(3));
    let store = ReplayStore::start(&rules, &Handle::current());
    timeout(LONG, store.reachable()).await.unwrap();
    holds_a_client_to_its_share(&store).await;
    assert_eq!(store.concerns(), [""; 0]);
}

#[tokio::test]
async fn a_share_needs_these_rights_and_no_other() {
    let rights = "~keybound:replay:* +set +get +time +eval +evalsha";
    let redis = Redis::with_user("keybound", "secret", rights);
    let store = with_share(&redis, 3).await;
    holds_a_client_to_its_share(&store).await;
    assert_eq!(store.concerns(), [""; 0]);
    keeps_the_contract(&reached(&redis, None).await).await;
}

#[tokio::test]
async fn without_one_of_these_rights_there_is_no_share_and_every_proof_is_recorded_all_the_same() {
    let rights = ["+set", "+get", "+time", "+eval", "+evalsha"];
    for (_, missing) in rights.iter().enumerate().filter(|(index, _)| *index != 0) {
        let others: Vec<_> = rights.iter().copied().filter(|it| it != missing).collect();
        let rights = format!("~keybound:replay:* {}", others.join(" "));
        let redis = Redis::with_user("keybound", "secret", &rights);
        let store = with_share(&redis, 1).await;
        for jti in ["1", "2", "3"] {
            assert_eq!(store.record(&proof("a", jti), at(60), at(0)).await, Ok(Use::First));
            assert_eq!(store.record(&proof("a", jti), at(60), at(0)).await, Ok(Use::Repeat));
        }
        let concerns = store.concerns();
        assert!(concerns[0].contains("limit per client"), "{missing}: {concerns:?}");
    }
}

#[tokio::test]
async fn rights_that_are_taken_away_or_given_while_connected_cost_no_proof() {
    let all = "~keybound:replay:* +set +get +time +eval +evalsha";
    let redis = Redis::with_user("keybound", "secret", all);
    let store = with_share(&redis, 1).await;
    assert_eq!(store.record(&proof("a", "1"), at(60), at(0)).await, Ok(Use::First));
    assert_eq!(store.record(&proof("a", "2"), at(60), at(0)).await, Err(Unavailable::KeyFull));
    assert_eq!(redis.ask("ACL SETUSER keybound -eval -evalsha"), "+OK");
    assert_eq!(store.record(&proof("a", "2"), at(60), at(0)).await, Ok(Use::First));
    for jti in ["1", "2"] {
        assert_eq!(store.record(&proof("a", jti), at(60), at(0)).await, Ok(Use::Repeat));
    }
    assert_eq!(store.concerns().len(), 1);
    assert_eq!(store.unavailable().map(|(_, total)| total).sum::<u64>(), 1);

    assert_eq!(redis.ask("ACL SETUSER keybound +eval +evalsha"), "+OK");
    let held_again = async {
        for jti in 3.. {
            match store.record(&proof("a", &jti.to_string()), at(60), at(0)).await {
                Ok(used) => assert_eq!(used, Use::First),
                refused => return refused,
            }
        }
        unreachable!("it is held to its share some time, or the time is over")
    };
    assert_eq!(timeout(LONG, held_again).await, Ok(Err(Unavailable::KeyFull)));
    assert_eq!(store.concerns(), [""; 0]);
}

#[tokio::test]
async fn replicas_with_different_rights_know_each_others_records() {
    let redis = Redis::with_user("keybound", "secret", "~keybound:replay:* +set");
    let few = reached(&redis, None).await;
    let socket = redis.url().split('?').next().unwrap().to_owned();
    let rules = RedisRules::read(socket.as_bytes(), false, None, PATIENT).unwrap();
    let many = ReplayStore::start(&ReplayRules::Redis(rules), &Handle::current());
    timeout(LONG, many.reachable()).await.unwrap();
    assert_eq!((few.concerns().len(), many.concerns().len()), (1, 0));
    for (jti, one, other) in [("1", &few, &many), ("2", &many, &few)] {
        assert_eq!(one.record(&proof("a", jti), at(60), at(0)).await, Ok(Use::First));
        assert_eq!(other.record(&proof("a", jti), at(60), at(0)).await, Ok(Use::Repeat));
    }
}

#[tokio::test]
async fn a_record_takes_one_round_trip() {
    let redis = Redis::start();
    let store = with_share(&redis, 100).await;
    assert_eq!(redis.ask("CONFIG RESETSTAT"), "+OK");
    for jti in 0..50 {
        let recorded = store.record(&proof("a", &jti.to_string()), at(60), at(0)).await;
        assert_eq!(recorded, Ok(Use::First));
    }
    let found = redis.strings("INFO commandstats");
    assert!(found.iter().any(|it| it.starts_with("cmdstat_evalsha:calls=50,")), "{found:?}");
    assert!(!found.iter().any(|it| it.starts_with("cmdstat_eval:")), "{found:?}");
}

#[tokio::test]
async fn a_redis_that_forgets_the_script_is_taught_it_again() {
    let redis = Redis::start();
    let store = with_share(&redis, 3).await;
    assert_eq!(redis.ask("SCRIPT FLUSH"), "+OK");
    holds_a_client_to_its_share(&store).await;
}

#[tokio::test]
async fn a_record_counts_until_it_expires_and_no_longer_than_ten_seconds_more() {
    let redis = Redis::start();
    let store = with_share(&redis, 3).await;
    let counts = format!("keybound:replay:{{{}}}", half(&proof("a", "1").key));
    let now: i64 = redis.strings("TIME")[0].parse().unwrap();
    let due = |seconds: i64| now.saturating_add(seconds).div_euclid(10);
    let set = |text: String| redis.ask(&format!("SET {counts} \"{text}\""));
    // What has expired is no hindrance, and is dropped.
    assert_eq!(set(format!("{}:3 {}:2", due(-20), due(20))), "+OK");
    assert_eq!(store.record(&proof("a", "1"), at(60), at(0)).await, Ok(Use::First));
    let kept = redis.strings(&format!("GET {counts}")).join("");
    assert!(kept.starts_with(&format!("{}:2 ", due(20))) && kept.ends_with(":1"), "{kept}");
    let left: i64 = redis.ask(&format!("PTTL {counts}")).trim_start_matches(':').parse().unwrap();
    assert!((85_000..=100_000).contains(&left), "{left}");
    assert_eq!(store.record(&proof("a", "2"), at(60), at(0)).await, Err(Unavailable::KeyFull));
    // A record that goes on for longer is counted where it ends.
    assert_eq!(set(format!("{}:2", due(200))), "+OK");
    assert_eq!(store.record(&proof("a", "3"), at(60), at(0)).await, Ok(Use::First));
    assert_eq!(store.record(&proof("a", "4"), at(60), at(0)).await, Err(Unavailable::KeyFull));
    let left: i64 = redis.ask(&format!("PTTL {counts}")).trim_start_matches(':').parse().unwrap();
    assert!((185_000..=200_000).contains(&left), "{left}");
}

#[tokio::test]
async fn a_redis_that_evicts_is_told_of_where_it_may_be_seen() {
    for (rights, limit, policy, evicts) in [
        ("+info", "100mb", "allkeys-lru", true),
        ("+info", "100mb", "volatile-ttl", true),
        ("+info", "100mb", "noeviction", false),
        ("+info", "0", "allkeys-lru", false),
        ("+config|get", "100mb", "allkeys-lfu", true),
        ("+config|get", "100mb", "noeviction", false),
        ("+get", "100mb", "allkeys-lru", false),
    ] {
        let rights = format!("~keybound:replay:* +set +eval {rights}");
        let redis = Redis::with_user("keybound", "secret", &rights);
        redis.ask(&format!("CONFIG SET maxmemory {limit}"));
        redis.ask(&format!("CONFIG SET maxmemory-policy {policy}"));
        let store = reached(&redis, None).await;
        // It looks behind the first record that it makes to see whether it can, and before the next.
        while !redis
            .strings("INFO commandstats")
            .iter()
            .any(|it| it.contains("cmdstat_set:calls=2,"))
        {
            tokio::task::yield_now().await;
        }
        let concerns = store.concerns();
        let found = concerns.iter().any(|it| it.contains(policy));
        assert_eq!(found, evicts, "{rights} {limit} {policy}: {concerns:?}");
    }
}

#[tokio::test]
async fn refusals_stay_at_the_share_of_the_time_that_redis_stands_still() {
    let redis = Redis::start();
    let proxy = Proxy::start(redis.socket()).await;
    let store = through(&proxy).await;
    let time = StillTime::begin();
    // For nine seconds there are two hundred proofs a second, and Redis is still for 60 ms in
    // every three seconds.
    let mut refused = Vec::new();
    for tick in 0..1800_u32 {
        let jti = tick.to_string();
        if tick.rem_euclid(600) == 0 {
            proxy.hold();
            let proofs: Vec<_> = (0..12).map(|it| proof("a", &format!("{tick} {it}"))).collect();
            let waiting = proofs.iter().zip(0_u32..).map(async |(proof, place)| {
                tokio::time::sleep(Duration::from_millis(5).saturating_mul(place)).await;
                store.record(proof, at(60), at(0)).await
            });
            let (found, ()) = tokio::join!(join_all(waiting), async {
                for _ in 0..12 {
                    proxy.settled().await;
                    advance(Duration::from_millis(5)).await;
                }
                proxy.settled().await;
                proxy.release();
            });
            assert!(found.iter().flatten().all(|it| *it == Use::First), "{found:?}");
            refused.extend(found.iter().copied().filter(Result::is_err));
            assert!(found.iter().flatten().count() >= 9, "{found:?}");
        } else if 12 <= tick.rem_euclid(600) {
            let found = store.record(&proof("a", &jti), at(60), at(0)).await;
            assert_eq!(found, Ok(Use::First), "{tick}");
            advance(Duration::from_millis(5)).await;
        }
    }
    drop(time);
    // Those that came in the first 10 ms of the 60: three in six hundred at most.
    assert!((1..=9).contains(&refused.len()), "{refused:?} of 1800");
    assert!(refused.iter().all(|it| *it == Err(Unavailable::Late)));
    assert_eq!(proxy.connections(), 1);
}

#[tokio::test]
async fn a_connection_is_given_up_when_it_stays_silent() {
    let redis = Redis::start();
    let proxy = Proxy::start(redis.socket()).await;
    let store = through(&proxy).await;
    let time = StillTime::begin();
    proxy.hold();
    let record = async |jti| {
        let proof = proof("a", jti);
        let (found, ()) = tokio::join!(store.record(&proof, at(60), at(0)), async {
            proxy.settled().await;
            advance(RedisRules::DEADLINE.saturating_add(A_MILLISECOND)).await;
        });
        found
    };
    assert_eq!(record("1").await, Err(Unavailable::Late));
    assert!(store.is_reachable());
    for passed in (0..500).step_by(100) {
        proxy.settled().await;
        assert!(store.is_reachable(), "{passed}");
        advance(Duration::from_millis(100)).await;
    }
    advance(A_MILLISECOND).await;
    proxy.settled().await;
    assert!(!store.is_reachable());
    assert_eq!(store.record(&proof("a", "2"), at(60), at(0)).await, Err(Unavailable::Unreachable));
    drop(time);
    proxy.release();
    timeout(LONG, store.reachable()).await.unwrap();
    recorded_in_time(&store, "a").await;
    assert_eq!(proxy.connections(), 2);
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
        let [key, jti] = [proof("a", "1").key, proof("a", "1").jti].map(|it| half(&it));
        let left = redis.ask(&format!("PTTL keybound:replay:{{{key}}}:{jti}"));
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
    assert_eq!(refused, Err(Unavailable::Late));
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
    let forbidden = Unavailable::NotPermitted;
    for (redis, cause) in [
        (read_only, forbidden),
        (elsewhere, forbidden),
        (full, Unavailable::OutOfMemory),
        (replica, Unavailable::ReadOnly),
    ] {
        let store = started(&redis, None);
        assert!(timeout(SHORT, store.reachable()).await.is_err());
        let refused = store.record(&proof("a", "1"), at(60), at(0)).await;
        assert_eq!(refused, Err(cause));
    }
}

#[tokio::test]
async fn a_redis_that_turns_into_a_replica_is_left() {
    let redis = Redis::start();
    let store = reached(&redis, None).await;
    redis.ask("REPLICAOF 127.0.0.1 1");
    let refused = store.record(&proof("a", "1"), at(60), at(0)).await;
    assert_eq!(refused, Err(Unavailable::ReadOnly));
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

#[tokio::test]
async fn a_redis_that_demands_client_certificates_keeps_the_contract() {
    let redis = Redis::with_client_certificates();
    let store = showing(&redis, Some(redis.client(0)));
    timeout(LONG, store.reachable()).await.unwrap();
    keeps_the_contract(&store).await;
}

#[tokio::test]
async fn without_a_client_certificate_that_redis_takes_no_proof_is_accepted() {
    let (redis, other) = (Redis::with_client_certificates(), Redis::with_client_certificates());
    for shown in [None, Some(other.client(0))] {
        let store = showing(&redis, shown);
        // Redis closes the connection as well, which may be seen first.
        let told = async {
            while store.record(&proof("a", "1"), at(60), at(0)).await
                != Err(Unavailable::NotPermitted)
            {
                assert!(!store.is_reachable());
                tokio::task::yield_now().await;
            }
        };
        timeout(LONG, told).await.unwrap();
    }
}

#[tokio::test]
async fn a_cluster_that_demands_client_certificates_keeps_the_contract() {
    let redis = Redis::with_cluster_and_client_certificates();
    let store = showing_to(&redis, true, Some(redis.client(0)));
    timeout(LONG, store.reachable()).await.unwrap();
    keeps_the_contract(&store).await;
    let store = showing_to(&redis, true, None);
    assert!(timeout(SHORT, store.reachable()).await.is_err());
    store.record(&proof("a", "1"), at(60), at(0)).await.unwrap_err();
}

/// A store that shows this certificate.
fn showing(redis: &Redis, client: Option<[Vec<u8>; 2]>) -> ReplayStore {
    showing_to(redis, false, client)
}

fn showing_to(redis: &Redis, cluster: bool, client: Option<[Vec<u8>; 2]>) -> ReplayStore {
    let url = redis.url().as_bytes();
    let rules = RedisRules::read(url, cluster, Some(redis.ca()), PATIENT).unwrap();
    let rules = match client {
        Some([certificate, key]) => {
            rules.with_identity(RedisIdentity { certificate, key }).unwrap()
        }
        None => rules,
    };
    ReplayStore::start(&ReplayRules::Redis(rules), &Handle::current())
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

#[tokio::test]
async fn a_new_share_holds_at_once_and_keeps_the_connection() {
    let redis = Redis::start();
    let store = with_share(&redis, 1).await;
    let record = async |jti| store.record(&proof("a", jti), at(60), at(0)).await;
    assert_eq!(record("1").await, Ok(Use::First));
    assert_eq!(record("2").await, Err(Unavailable::KeyFull));
    let rules = RedisRules::read(redis.url().as_bytes(), false, None, PATIENT).unwrap();
    assert!(store.adopt(&ReplayRules::Redis(rules.clone().with_share(2))));
    assert_eq!(record("2").await, Ok(Use::First));
    assert!(store.adopt(&ReplayRules::Redis(rules.with_share(1))));
    assert_eq!(record("3").await, Err(Unavailable::KeyFull));
    assert_eq!(record("2").await, Ok(Use::Repeat));
}

/// A store that holds a client to its share.
async fn with_share(redis: &Redis, share: usize) -> ReplayStore {
    let rules = RedisRules::read(redis.url().as_bytes(), false, None, PATIENT).unwrap();
    let rules = ReplayRules::Redis(rules.with_share(share));
    let store = ReplayStore::start(&rules, &Handle::current());
    timeout(LONG, store.reachable()).await.unwrap();
    store
}

/// A store that has the usual patience and reaches Redis through a proxy.
async fn through(proxy: &Proxy) -> ReplayStore {
    let rules =
        RedisRules::read(proxy.url().as_bytes(), false, None, RedisRules::DEADLINE).unwrap();
    let store = ReplayStore::start(&ReplayRules::Redis(rules), &Handle::current());
    timeout(LONG, store.reachable()).await.unwrap();
    // The keeper is done with its first look when it has made a record of its own behind it.
    for key in ["x", "y"] {
        recorded_in_time(&store, key).await;
        proxy.settled().await;
    }
    store
}

/// Makes a record within the usual deadline, which a busy machine may miss a few times.
async fn recorded_in_time(store: &ReplayStore, key: &str) {
    let recorded = async {
        for jti in 0.. {
            match store.record(&proof(key, &format!("in time {jti}")), at(60), at(0)).await {
                Err(late) => assert_eq!(late, Unavailable::Late),
                recorded => return recorded,
            }
        }
        unreachable!("it is recorded some time, or the time is over")
    };
    assert_eq!(timeout(LONG, recorded).await, Ok(Ok(Use::First)));
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

/// As the name of a record holds a digest.
fn half(digest: &[u8; 32]) -> String {
    keybound_core::jose::base64url::encode(&digest[..16])
}

fn proof(key: &str, jti: &str) -> ProofId {
    let digest = |text: &str| *Thumbprint::of(text.as_bytes()).octets();
    ProofId { key: digest(key), jti: digest(jti) }
}

fn at(seconds: i64) -> UnixTime {
    UnixTime::from_secs(seconds.saturating_add(1_700_000_000))
}

/// By which timers may be late.
const A_MILLISECOND: Duration = Duration::from_millis(1);

/// A deadline that also a busy machine keeps.
const PATIENT: Duration = Duration::from_secs(2);

/// After this, what was expected will never happen.
const LONG: Duration = Duration::from_secs(20);

/// Long enough for what must not happen to happen, were it to.
const SHORT: Duration = Duration::from_millis(300);
