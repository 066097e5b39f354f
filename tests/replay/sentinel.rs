//! The store in a Redis that sentinels watch: it is found through them, also after a failover, and no
//! other server is written to.

use super::redis::Redis;
use super::watched::{FOREVER, NAME, Watched, rules, urls, watching};
use super::{PATIENT, SHORT, at, half, holds_a_client_to_its_share, keeps_the_contract, proof};
use keybound::state::replay::redis::RedisRules;
use keybound::state::replay::{ReplayRules, ReplayStore, Unavailable};
use keybound_core::Use;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::task::yield_now;
use tokio::time::timeout;

/// A failover takes some seconds, on a busy machine more.
const LONG: Duration = Duration::from_secs(60);

fn started(rules: RedisRules) -> ReplayStore {
    ReplayStore::start(&ReplayRules::Redis(rules), &Handle::current())
}

async fn reached(rules: RedisRules) -> ReplayStore {
    let store = started(rules);
    timeout(LONG, store.reachable()).await.unwrap();
    store
}

async fn record(store: &ReplayStore, jti: &str) -> Result<Use, Unavailable> {
    store.record(&proof(jti, jti), at(60), at(0)).await
}

/// Whether `server` holds the record of a proof.
fn holds(server: &Redis, jti: &str) -> bool {
    let [key, jti] = [proof(jti, jti).key, proof(jti, jti).jti].map(|it| half(&it));
    server.ask(&format!("EXISTS keybound:replay:{{{key}}}:{jti}")) == ":1"
}

/// Uses new proofs until `enough`, and says whether each was recorded. All that time, those that
/// were `used` do not pass.
async fn go_on(store: &ReplayStore, used: &[&str], enough: impl Fn(&str) -> bool) -> Vec<bool> {
    let mut recorded = Vec::new();
    let proofs = async {
        for count in 0.. {
            let jti = format!("{used:?} {count}");
            for used in used {
                assert_ne!(record(store, used).await, Ok(Use::First), "{used}");
            }
            let found = record(store, &jti).await;
            assert_ne!(found, Ok(Use::Repeat));
            recorded.push(found.is_ok());
            if found.is_ok() && enough(&jti) {
                return;
            }
            yield_now().await;
        }
    };
    timeout(LONG, proofs).await.unwrap();
    recorded
}

#[tokio::test]
async fn the_master_that_sentinels_name_keeps_the_contract() {
    let redis = Watched::start(1, FOREVER).await;
    let store = reached(redis.rules(PATIENT)).await;
    keeps_the_contract(&store).await;
    assert_eq!(redis.servers[0].ask("FLUSHALL"), "+OK");
    let store = reached(redis.rules(PATIENT).with_share(3)).await;
    holds_a_client_to_its_share(&store).await;
    assert_eq!(store.concerns(), [""; 0]);
}

#[tokio::test]
async fn sentinels_and_servers_over_tls_have_passwords_of_their_own() {
    let redis = Watched::over_tls().await;
    keeps_the_contract(&reached(redis.rules(PATIENT)).await).await;
    let (url, sentinels) = (redis.url(), redis.sentinel_urls());
    let forbidden = Unavailable::NotPermitted;
    let other = Redis::with_tls().ca();
    for (url, sentinels, ca, cause) in [
        (url.replace("of-servers", "x"), sentinels.clone(), redis.ca(), forbidden),
        (url.clone(), sentinels.replace("of-sentinels", "of-servers"), redis.ca(), forbidden),
        (url, sentinels, Some(other), Unavailable::Unreachable),
    ] {
        let store = started(rules(&url, &sentinels, ca, PATIENT));
        assert!(timeout(SHORT, store.reachable()).await.is_err());
        let told = async {
            while record(&store, "1").await != Err(cause) {
                yield_now().await;
            }
        };
        timeout(LONG, told).await.unwrap();
        assert!(!store.is_reachable());
    }
}

/// As one that is asked for leaves the old master to take records for seconds, all of them to be lost.
#[tokio::test]
async fn during_a_failover_no_replicated_proof_passes_again_and_then_proofs_go_to_the_new_master() {
    let redis = Watched::start(3, FOREVER).await;
    let store = reached(redis.rules(PATIENT)).await;
    assert_eq!(record(&store, "1").await, Ok(Use::First));
    redis.replicated().await;
    assert_eq!(redis.sentinels[0].ask(&format!("SENTINEL FAILOVER {NAME}")), "+OK");
    let [old, new] = &redis.servers;
    let is = |it: &Redis, role: &str| it.strings("ROLE").iter().any(|it| it == role);
    // What is recorded there and not here did not come by replication.
    let is_elsewhere = |jti: &str| !holds(old, jti) || is(old, "slave");
    go_on(&store, &["1"], |jti| is(new, "master") && holds(new, jti) && is_elsewhere(jti)).await;
    redis.failed_over().await;
    assert_eq!(record(&store, "2").await, Ok(Use::First));
    assert!(holds(new, "2"));
    assert_eq!(record(&store, "1").await, Ok(Use::Repeat));
}

#[tokio::test]
async fn a_master_that_is_killed_is_replaced_and_what_was_replicated_is_known() {
    let mut redis = Watched::start(3, Duration::from_secs(1)).await;
    let store = reached(redis.rules(PATIENT)).await;
    assert_eq!(record(&store, "1").await, Ok(Use::First));
    redis.replicated().await;
    redis.servers[0].kill();
    let refused = record(&store, "2").await;
    assert_eq!(refused, Err(Unavailable::Unreachable));
    let recorded = go_on(&store, &["1"], |jti| holds(&redis.servers[1], jti)).await;
    assert!(!recorded[0], "{recorded:?}");
    assert_eq!(record(&store, "1").await, Ok(Use::Repeat));

    // It comes back as a master, which it is until a sentinel tells it otherwise.
    redis.failed_over().await;
    redis.servers[0].resume();
    let [old, new] = &redis.servers;
    let is_replica = || old.strings("ROLE").contains(&"slave".to_owned());
    go_on(&store, &["1"], |jti| holds(new, jti) && is_replica()).await;
    let calls = old.strings("INFO commandstats");
    assert!(!calls.iter().any(|it| it.starts_with("cmdstat_eval")), "{calls:?}");
}

#[tokio::test]
async fn a_master_that_sentinels_have_replaced_is_left_though_it_takes_records_still() {
    let redis = Watched::start(1, FOREVER).await;
    let store = reached(redis.rules(PATIENT)).await;
    assert_eq!(record(&store, "1").await, Ok(Use::First));
    redis.replicated().await;
    let [old, new] = &redis.servers;
    // The sentinel cannot reach the old one any more, and nothing tells it that it is no master.
    assert_eq!(new.ask("REPLICAOF NO ONE"), "+OK");
    let sentinel = &redis.sentinels[0];
    assert_eq!(sentinel.ask(&format!("SENTINEL REMOVE {NAME}")), "+OK");
    let address = new.url().replace(':', " ");
    assert_eq!(sentinel.ask(&format!("SENTINEL MONITOR {NAME} {address} 1")), "+OK");
    go_on(&store, &["1"], |jti| holds(new, jti)).await;
    assert!(old.strings("ROLE").contains(&"master".to_owned()));
    for jti in ["2", "3"] {
        assert_eq!(record(&store, jti).await, Ok(Use::First));
        assert!(holds(new, jti) && !holds(old, jti));
    }
}

#[tokio::test]
async fn a_sentinel_that_names_a_replica_leads_nowhere() {
    let redis = Watched::start(1, FOREVER).await;
    let lying = [watching(&redis.servers[1], 1, FOREVER, "", None)];
    let store = started(rules(&redis.url(), &urls(&lying, "redis://"), None, PATIENT));
    let told = async {
        while record(&store, "1").await != Err(Unavailable::ReadOnly) {
            yield_now().await;
        }
    };
    timeout(LONG, told).await.unwrap();
    assert!(timeout(SHORT, store.reachable()).await.is_err());
    // A replica that takes what others write does not count either.
    let replica = &redis.servers[1];
    assert_eq!(replica.ask("CONFIG SET replica-read-only no"), "+OK");
    assert!(timeout(SHORT, store.reachable()).await.is_err());
    assert!(!holds(replica, "1"));
}

#[tokio::test]
async fn a_sentinel_that_names_another_server_is_outvoted_by_two_and_not_by_one() {
    let redis = Watched::start(2, FOREVER).await;
    let stray = Redis::replicating(&[], None);
    let lying = [watching(&stray, 1, FOREVER, "", None)];
    let lying = urls(&lying, "redis://");
    let told = redis.sentinel_urls();
    let store = reached(rules(&redis.url(), &format!("{lying}{told}"), None, PATIENT)).await;
    assert_eq!(record(&store, "1").await, Ok(Use::First));
    assert!(holds(&redis.servers[0], "1"));
    let one = told.lines().next().unwrap();
    let store = started(rules(&redis.url(), &format!("{lying}{one}"), None, PATIENT));
    assert!(timeout(SHORT, store.reachable()).await.is_err());
    assert_eq!(record(&store, "2").await, Err(Unavailable::Unreachable));
    assert_eq!(stray.ask("DBSIZE"), ":0");
}

#[tokio::test]
async fn a_name_that_no_sentinel_knows_leads_nowhere() {
    let redis = Watched::start(1, FOREVER).await;
    let url = redis.url().replace(NAME, "other");
    let store = started(rules(&url, &redis.sentinel_urls(), None, PATIENT));
    assert!(timeout(SHORT, store.reachable()).await.is_err());
    assert_eq!(record(&store, "1").await, Err(Unavailable::Unreachable));
}

#[tokio::test]
async fn without_sentinels_the_master_that_they_named_is_used_and_none_is_found_anew() {
    let mut redis = Watched::start(2, FOREVER).await;
    let store = reached(redis.rules(PATIENT)).await;
    // One of two is enough.
    redis.sentinels[1].kill();
    let also = reached(redis.rules(PATIENT)).await;
    redis.sentinels[0].kill();
    let master = &redis.servers[0];
    // Each asks the sentinels, then the master for its role, and both every second.
    let roles = || {
        let calls = master.strings("INFO commandstats");
        let calls = calls.iter().find_map(|it| it.strip_prefix("cmdstat_role:calls="));
        calls.unwrap().split(',').next().unwrap().parse::<usize>().unwrap()
    };
    let begun = roles();
    let mut count = 0;
    while roles() < begun.saturating_add(6) {
        count = i32::saturating_add(count, 1);
        for (place, store) in [&store, &also].into_iter().enumerate() {
            assert_eq!(record(store, &format!("{place} {count}")).await, Ok(Use::First));
        }
    }
    master.ask("CLIENT KILL TYPE normal");
    let lost = async {
        while record(&store, "x").await != Err(Unavailable::Unreachable) {
            yield_now().await;
        }
    };
    timeout(LONG, lost).await.unwrap();
    assert!(timeout(SHORT, store.reachable()).await.is_err());
    redis.sentinels[0].resume();
    timeout(LONG, store.reachable()).await.unwrap();
    assert_eq!(record(&store, "y").await, Ok(Use::First));
}

/// What bounds the loss in a failover: docs/dpop.md.
#[tokio::test]
async fn a_master_that_must_have_a_replica_takes_no_proof_once_it_has_lost_it() {
    let redis = Watched::start(1, FOREVER).await;
    let [master, replica] = &redis.servers;
    assert_eq!(master.ask("CONFIG SET min-replicas-to-write 1"), "+OK");
    let store = reached(redis.rules(PATIENT)).await;
    assert_eq!(record(&store, "1").await, Ok(Use::First));
    assert_eq!(replica.ask("REPLICAOF NO ONE"), "+OK");
    let refused = async {
        for count in 0.. {
            if let Err(cause) = record(&store, &format!("2 {count}")).await {
                return cause;
            }
        }
        unreachable!("it is refused some time, or the time is over")
    };
    assert_eq!(timeout(LONG, refused).await, Ok(Unavailable::NotDurable));
    assert_eq!(record(&store, "3").await, Err(Unavailable::NotDurable));
    assert!(!holds(master, "3"));
}
