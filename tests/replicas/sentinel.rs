//! Replicas that share a Redis which sentinels watch: proofs and events outlive its master.

use super::events::{Stream, is_revoked, until};
use super::watched::Watched;
use super::{LONG, Replicas};
use futures_util::future::join;
use keybound::state::replay::redis::RedisRules;
use keybound::state::revocation::events::NotTaken;
use keybound_core::Denial;
use serde_json::json;
use std::fs;
use std::time::Duration;
use tempfile::TempDir;
use tokio::time::timeout;

/// How long the master is silent before it is replaced.
const PATIENCE: Duration = Duration::from_secs(1);

#[tokio::test]
async fn when_the_master_dies_replicas_refuse_until_there_is_another_and_it_knows_used_proofs() {
    let mut redis = Watched::start(1, PATIENCE).await;
    let beside = TempDir::new().unwrap();
    fs::write(beside.path().join("master"), redis.url()).unwrap();
    fs::write(beside.path().join("sentinels"), redis.sentinel_urls()).unwrap();
    let master = &redis.servers[0];
    let it = Replicas::with([master, master], |_, it| {
        it["dpop"]["replay"]["url_file"] = json!(beside.path().join("master"));
        it["dpop"]["replay"]["sentinel_url_file"] = json!(beside.path().join("sentinels"));
    })
    .await;
    let used: Vec<_> = (0..20).map(|_| it.new_proof()).collect();
    for proof in &used {
        assert_eq!(it.check(0, proof).await, Ok(()));
    }
    redis.replicated().await;
    redis.servers[0].kill();
    for place in [0, 1] {
        assert_eq!(it.check(place, &it.new_proof()).await, Err(Denial::ReplayUnavailable));
    }
    let again = async {
        loop {
            for (count, proof) in used.iter().enumerate() {
                match it.check(count % 2, proof).await {
                    Err(Denial::ReplayUnavailable) => (),
                    found => {
                        assert_eq!(found, Err(Denial::ProofReplayed));
                        return;
                    }
                }
            }
        }
    };
    timeout(LONG, join(it.recovered(), again)).await.unwrap();
    for proof in &used {
        for place in [0, 1] {
            assert_eq!(it.check(place, proof).await, Err(Denial::ProofReplayed));
        }
    }
    it.accept_at_both().await;
}

#[tokio::test]
async fn events_outlive_the_master_that_held_them() {
    let mut redis = Watched::start(1, PATIENCE).await;
    let stream = Stream::by(redis.rules(RedisRules::DEADLINE)).await;
    let (one, other) = (stream.replica(), stream.replica());
    until(|| !one.is_unheard() && !other.is_unheard()).await;
    assert_eq!(stream.take(&one, "alice").await, Ok(()));
    until(|| is_revoked(&other, "alice")).await;
    redis.replicated().await;
    redis.servers[0].kill();
    assert_eq!(stream.take(&one, "bob").await, Err(NotTaken::NotKept));
    // The next master gets what could not be written.
    until(|| is_revoked(&other, "bob")).await;
    assert_eq!(stream.take(&other, "carol").await, Ok(()));
    until(|| is_revoked(&one, "carol")).await;
    let late = stream.replica();
    until(|| !late.is_unheard()).await;
    assert!(["alice", "bob", "carol"].iter().all(|it| is_revoked(&late, it)));
    assert_ne!(redis.servers[1].strings("KEYS keybound:events:*"), [""; 0]);
}
