//! Events that Redis loses while replicas are connected: evicted, flushed, deleted.

use super::events::{Stream, is_revoked, until};
use super::redis::Redis;
use keybound::state::replay::redis::RedisRules;

#[tokio::test]
async fn what_redis_loses_while_it_is_read_is_written_again_by_who_knows_it() {
    let redis = Redis::start();
    let rules = RedisRules::read(redis.url().as_bytes(), false, None, RedisRules::DEADLINE);
    let stream = Stream::by(rules.unwrap()).await;
    let (one, other) = (stream.replica(), stream.replica());
    until(|| !one.is_unheard() && !other.is_unheard()).await;
    assert_eq!(stream.take(&one, "alice").await, Ok(()));
    until(|| is_revoked(&other, "alice")).await;
    let keys = redis.strings("KEYS *");
    let [key] = &*keys else { panic!("{keys:?}") };
    for lose in ["FLUSHALL".to_owned(), format!("DEL {key}"), format!("XTRIM {key} MAXLEN 0")] {
        redis.ask(&lose);
        let late = stream.replica();
        until(|| is_revoked(&late, "alice")).await;
        assert!(!late.is_unheard() && !is_revoked(&late, "bob"), "{lose}");
    }
    // What comes next is read by all.
    assert_eq!(stream.take(&other, "bob").await, Ok(()));
    until(|| is_revoked(&one, "bob")).await;
}
