//! Replicas that share one stream of security events through Redis: what one receives is in force at all.

use super::redis::Redis;
use super::tokens::Signer;
use jsonwebtoken::Algorithm;
use keybound::clock::{Clock, SystemClock};
use keybound::state::http::BearerToken;
use keybound::state::jwks::{self, IssuerKeys, KeyRules, KeySource};
use keybound::state::replay::redis::{RedisIdentity, RedisRules};
use keybound::state::revocation::events::{
    self, Bell, Delivery, EventRules, Events, NotTaken, Terms,
};
use keybound_core::UnixTime;
use keybound_core::oauth::{SubjectKeys, Transmitter};
use keybound_core::policy::Issuer;
use serde_json::json;
use std::fs;
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;
use tokio::runtime::Handle;
use tokio::time::{Instant, sleep, timeout};

const ISSUER: &str = "https://as.example.com";
const US: &str = "https://gateway.example.com";

/// An issuer, and what replicas need to receive its events.
pub(super) struct Stream {
    signer: Signer,
    keys: Arc<IssuerKeys>,
    rules: EventRules,
    _directory: TempDir,
}

impl Stream {
    async fn over(redis: &Redis) -> Self {
        let url = redis.url().as_bytes();
        Self::by(RedisRules::read(url, false, None, RedisRules::DEADLINE).unwrap()).await
    }

    pub(super) async fn by(redis: RedisRules) -> Self {
        let signer = Signer::new(Algorithm::ES256, "k");
        let directory = TempDir::new().unwrap();
        let jwks = directory.path().join("jwks.json");
        fs::write(&jwks, json!({"keys": [signer.jwk()]}).to_string()).unwrap();
        let keys = KeyRules::new(KeySource::File(jwks));
        let keys = jwks::prepare(&ISSUER.into(), &keys, None, &clock(), &Handle::current());
        let keys = keys.unwrap().keys;
        keys.tried().await;
        let rules = EventRules {
            transmitter: Transmitter {
                issuer: ISSUER.into(),
                audiences: vec![US.into()],
                stream: None,
            },
            delivery: Delivery::Push { bearer: BearerToken::new("theirs").unwrap() },
            keys: None,
            verification: None,
            keep: EventRules::KEEP,
            capacity: 1000,
            snapshot_file: None,
            shared: Some(redis),
            is_passive: false,
        };
        Self { signer, keys, rules, _directory: directory }
    }

    pub(super) fn replica(&self) -> Arc<Events> {
        let issuer = Arc::new(Issuer::new(ISSUER, "https://api.example.com"));
        let rules = &self.rules;
        let terms = Terms { issuer: &issuer, keys: &self.keys, rules, ca: None, allow_http: false };
        let (bell, runtime) = (Bell::default(), Handle::current());
        events::prepare(&terms, None, &bell, &clock(), &runtime).unwrap().events
    }

    /// A token that disables the account of `user`.
    fn disabled(&self, user: &str) -> String {
        let now = SystemClock.now().as_secs();
        let uri = "https://schemas.openid.net/secevent/risc/event-type/account-disabled";
        let claims = json!({
            "iss": ISSUER, "aud": US, "iat": now, "jti": user, "events": {uri: {}},
            "sub_id": {"format": "iss_sub", "iss": ISSUER, "sub": user},
        });
        self.signer.sign("secevent+jwt", &claims)
    }

    pub(super) async fn take(&self, replica: &Events, user: &str) -> Result<(), NotTaken> {
        replica.take(self.disabled(user).as_bytes()).await
    }
}

fn clock() -> Arc<dyn Clock> {
    Arc::new(SystemClock)
}

pub(super) fn is_revoked(events: &Events, user: &str) -> bool {
    let now = SystemClock.now();
    let issued = UnixTime::from_secs(now.as_secs() - 60);
    let subjects = SubjectKeys::from_claims(Some(user), None, None);
    events.find(subjects.iter(), issued, now).is_some()
}

/// Waits until it holds, and says how long that took.
pub(super) async fn until(holds: impl Fn() -> bool) -> Duration {
    let begun = Instant::now();
    let wait = async {
        while !holds() {
            sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(Duration::from_secs(20), wait).await.unwrap();
    begun.elapsed()
}

#[tokio::test]
#[expect(clippy::print_stdout, reason = "figures for who runs it")]
async fn what_one_replica_receives_is_in_force_at_all_and_at_those_that_start_later() {
    let redis = Redis::start();
    let stream = Stream::over(&redis).await;
    let (one, other) = (stream.replica(), stream.replica());
    assert!(one.is_unheard(), "until it has been read, nothing is known");
    until(|| !one.is_unheard() && !other.is_unheard()).await;
    assert_eq!(stream.take(&one, "alice").await, Ok(()));
    assert!(is_revoked(&one, "alice"));
    let took = until(|| is_revoked(&other, "alice")).await;
    println!("in force at the other replica after {took:?}");
    assert!(took < Duration::from_secs(2));
    assert!(!is_revoked(&other, "bob"));
    assert_eq!(stream.take(&other, "bob").await, Ok(()));
    let late = stream.replica();
    until(|| !late.is_unheard()).await;
    assert!(is_revoked(&late, "alice") && is_revoked(&late, "bob"));
}

#[tokio::test]
async fn without_redis_nothing_is_acknowledged_and_nothing_is_lost() {
    let mut redis = Redis::start();
    let stream = Stream::over(&redis).await;
    let (one, other) = (stream.replica(), stream.replica());
    until(|| !one.is_unheard() && !other.is_unheard()).await;
    assert_eq!(stream.take(&one, "alice").await, Ok(()));
    until(|| is_revoked(&other, "alice")).await;
    redis.kill();
    assert_eq!(stream.take(&one, "bob").await, Err(NotTaken::NotKept));
    assert!(is_revoked(&one, "bob") && is_revoked(&one, "alice") && is_revoked(&other, "alice"));
    assert!(!is_revoked(&other, "bob"));
    assert_eq!(one.status().refused["not_kept"], 1);
    let fresh = stream.replica();
    redis.resume();
    // It is written without being sent again, and sent again it is acknowledged.
    until(|| is_revoked(&other, "bob")).await;
    assert_eq!(stream.take(&one, "bob").await, Ok(()));
    until(|| !fresh.is_unheard() && is_revoked(&fresh, "bob")).await;
}

#[tokio::test]
async fn what_redis_has_lost_is_written_again_by_who_knows_it() {
    let mut redis = Redis::start();
    let stream = Stream::over(&redis).await;
    let one = stream.replica();
    until(|| !one.is_unheard()).await;
    assert_eq!(stream.take(&one, "alice").await, Ok(()));
    redis.ask("FLUSHALL");
    redis.kill();
    redis.resume();
    let late = stream.replica();
    until(|| is_revoked(&late, "alice")).await;
}

#[tokio::test]
async fn an_entry_that_cannot_be_read_refuses_all_tokens_until_it_is_deleted_and_stops_no_other() {
    let redis = Redis::start();
    let stream = Stream::over(&redis).await;
    let (one, other) = (stream.replica(), stream.replica());
    until(|| !one.is_unheard() && !other.is_unheard()).await;
    assert_eq!(stream.take(&one, "alice").await, Ok(()));
    let keys = redis.strings("KEYS *");
    let [key] = &*keys else { panic!("{keys:?}") };
    let add = |what: &str| redis.strings(&format!("XADD {key} * {what}")).remove(0);
    let odd = ["foo bar", "events nonsense"].map(add);
    until(|| one.is_unheard() && other.is_unheard()).await;
    // What comes behind it is taken, kept, and in force everywhere.
    assert_eq!(stream.take(&one, "bob").await, Ok(()));
    let late = stream.replica();
    for replica in [&one, &other, &late] {
        until(|| is_revoked(replica, "alice") && is_revoked(replica, "bob")).await;
        until(|| replica.status().unreadable == 2).await;
        assert!(replica.is_unheard());
    }
    for (place, id) in odd.iter().enumerate() {
        let order = format!("XDEL {key} {id}");
        let told = || late.status().last_error.is_some_and(|it| format!("{it:?}").contains(&order));
        until(told).await;
        assert_eq!((late.status().unreadable, late.is_unheard()), (2 - place, true));
        redis.ask(&order);
    }
    until(|| [&one, &other, &late].iter().all(|it| !it.is_unheard())).await;
    assert_eq!(late.status().unreadable, 0);
    assert!(is_revoked(&late, "alice") && is_revoked(&late, "bob"));
}

#[tokio::test]
async fn events_are_shared_through_a_redis_that_demands_client_certificates() {
    let redis = Redis::with_client_certificates();
    let [certificate, key] = redis.client(0);
    let (url, ca) = (redis.url().as_bytes(), Some(redis.ca()));
    let without = RedisRules::read(url, false, ca, RedisRules::DEADLINE).unwrap();
    let with = without.clone().with_identity(RedisIdentity { certificate, key }).unwrap();
    let refused = Stream::by(without).await.replica();
    let stream = Stream::by(with).await;
    let (one, other) = (stream.replica(), stream.replica());
    until(|| !one.is_unheard() && !other.is_unheard()).await;
    assert_eq!(stream.take(&one, "alice").await, Ok(()));
    until(|| is_revoked(&other, "alice")).await;
    until(|| format!("{:?}", refused.status()).contains("certificate_file")).await;
    assert!(refused.is_unheard());
}

#[tokio::test]
async fn a_redis_that_became_a_replica_is_neither_written_to_nor_read() {
    let redis = Redis::start();
    let stream = Stream::over(&redis).await;
    let one = stream.replica();
    until(|| !one.is_unheard()).await;
    redis.ask("REPLICAOF 127.0.0.1 1");
    until(|| format!("{:?}", one.status()).contains("is a replica")).await;
    assert_eq!(stream.take(&one, "alice").await, Err(NotTaken::NotKept));
    redis.ask("REPLICAOF NO ONE");
    let late = stream.replica();
    until(|| !late.is_unheard() && is_revoked(&late, "alice")).await;
}

#[tokio::test]
async fn redis_holds_no_names() {
    let redis = Redis::start();
    let stream = Stream::over(&redis).await;
    let one = stream.replica();
    until(|| !one.is_unheard()).await;
    assert_eq!(stream.take(&one, "alice").await, Ok(()));
    let keys = redis.strings("KEYS *");
    let [key] = &*keys else { panic!("{keys:?}") };
    assert!(key.starts_with("keybound:events:"), "{key}");
    let entries = redis.strings(&format!("XRANGE {key} - +"));
    assert!(entries.iter().any(|it| it.contains("account-disabled")), "{entries:?}");
    assert!(!entries.iter().any(|it| it.contains("alice") || it.contains("as.example.com")));
}
