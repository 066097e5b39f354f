//! Replicas that share one stream of security events through Redis: what one receives is in force at all.

use super::manual_clock::ManualClock;
use super::redis::Redis;
use super::tokens::Signer;
use jsonwebtoken::Algorithm;
use keybound::clock::{Clock, SystemClock};
use keybound::state::http::BearerToken;
use keybound::state::jwks::{self, IssuerKeys, KeyRules, KeySource};
use keybound::state::replay::redis::{RedisIdentity, RedisRules};
use keybound::state::revocation::events::{
    self, Bell, Delivery, EventRules, Events, NotTaken, Terms, Verification,
};
use keybound_core::UnixTime;
use keybound_core::jose::Thumbprint;
use keybound_core::oauth::{SubjectKeys, Transmitter};
use keybound_core::policy::Issuer;
use serde_json::{Value, json};
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
    bell: Bell,
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
        Self { signer, keys, rules, bell: Bell::default(), _directory: directory }
    }

    pub(super) fn replica(&self) -> Arc<Events> {
        self.replica_after(None, &clock())
    }

    /// One whose configuration, by this clock, takes the place of that of `before`.
    fn replica_after(&self, before: Option<&Arc<Events>>, clock: &Arc<dyn Clock>) -> Arc<Events> {
        let issuer = Arc::new(Issuer::new(ISSUER, "https://api.example.com"));
        let rules = &self.rules;
        let terms = Terms { issuer: &issuer, keys: &self.keys, rules, ca: None, allow_http: false };
        events::prepare(&terms, before, &self.bell, clock, &Handle::current()).unwrap().events
    }

    /// A token that disables the account of `user`.
    fn disabled(&self, user: &str) -> String {
        let uri = "https://schemas.openid.net/secevent/risc/event-type/account-disabled";
        self.event(uri, &json!({"format": "iss_sub", "iss": ISSUER, "sub": user}))
    }

    fn event(&self, uri: &str, subject: &Value) -> String {
        let claims = json!({
            "iss": ISSUER, "aud": US, "iat": SystemClock.now().as_secs(), "jti": "1", "events": {uri: {}},
            "sub_id": subject,
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

/// Where the events are.
fn key() -> String {
    format!("keybound:events:{}", Thumbprint::of(ISSUER.as_bytes()).to_base64url())
}

/// Lets `span` pass at once.
async fn jump(span: Duration) {
    tokio::time::pause();
    tokio::time::advance(span).await;
    tokio::time::resume();
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
    let key = key();
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
async fn an_entry_that_cannot_be_read_refuses_all_tokens_also_while_redis_is_away() {
    let mut redis = Redis::start();
    let stream = Stream::over(&redis).await;
    let one = stream.replica();
    until(|| !one.is_unheard()).await;
    let (key, told) =
        (key(), |what: &str| one.status().last_error.is_some_and(|it| it.what.contains(what)));
    let rung = stream.bell.heard();
    let odd = redis.strings(&format!("XADD {key} * foo bar")).remove(0);
    until(|| told("XDEL") && one.is_unheard()).await;
    assert!(rung.has_changed().unwrap(), "what is open is judged again");
    redis.kill();
    until(|| !told("XDEL")).await;
    assert!(one.is_unheard());
    redis.resume();
    until(|| told("XDEL")).await;
    assert!(one.is_unheard());
    redis.ask(&format!("XDEL {key} {odd}"));
    until(|| !one.is_unheard()).await;
}

#[tokio::test]
async fn a_replica_that_could_not_read_for_a_minute_refuses_all_tokens_until_it_can() {
    let mut redis = Redis::start();
    let stream = Stream::over(&redis).await;
    let time = Arc::new(ManualClock::at(SystemClock.now()));
    let clock: Arc<dyn Clock> = Arc::<ManualClock>::clone(&time);
    let one = stream.replica_after(None, &clock);
    until(|| !one.is_unheard()).await;
    redis.kill();
    let rung = stream.bell.heard();
    for (span, unheard) in [(0, false), (50, false), (10, true)] {
        jump(Duration::from_secs(span)).await;
        // Each attempt fails, and this is the time of one that began since.
        time.advance(Duration::from_secs(1));
        let now = time.now().as_secs();
        until(|| one.status().last_error.is_some_and(|it| it.at == now)).await;
        until(|| one.is_unheard() == unheard).await;
        // What is open is judged again.
        assert_eq!(rung.has_changed().unwrap(), unheard, "{span}");
    }
    redis.resume();
    until(|| !one.is_unheard()).await;
}

#[tokio::test]
async fn what_redis_did_not_take_is_written_once_it_does_without_being_sent_again() {
    let redis = Redis::start();
    let mut stream = Stream::over(&redis).await;
    stream.rules.capacity = 2;
    let (one, other) = (stream.replica(), stream.replica());
    until(|| !one.is_unheard() && !other.is_unheard()).await;
    // Alice and bob have room, carol has none.
    for (user, new) in [("alice", 1), ("bob", 2), ("carol", 2)] {
        redis.ask("CONFIG SET maxmemory 1");
        assert_eq!(stream.take(&one, user).await, Err(NotTaken::NotKept), "{user}");
        assert!(is_revoked(&one, user) && !is_revoked(&other, user), "{user}");
        redis.ask("CONFIG SET maxmemory 0");
        until(|| is_revoked(&other, user)).await;
        assert_eq!(other.status().entries, new);
        assert_eq!(stream.take(&one, user).await, Ok(()));
    }
}

#[tokio::test]
async fn where_one_replica_had_no_room_all_refuse_what_was_issued_until_then() {
    let mut redis = Redis::start();
    let mut stream = Stream::over(&redis).await;
    stream.rules.capacity = 1;
    let (one, other) = (stream.replica(), stream.replica());
    until(|| !one.is_unheard() && !other.is_unheard()).await;
    for user in ["alice", "bob"] {
        assert!(!is_revoked(&other, user));
        assert_eq!(stream.take(&one, user).await, Ok(()));
        until(|| is_revoked(&other, user)).await;
    }
    assert!(is_revoked(&other, "anybody"));
    // Also where Redis has lost it.
    redis.ask("FLUSHALL");
    redis.kill();
    redis.resume();
    let late = stream.replica();
    until(|| is_revoked(&late, "bob")).await;
}

#[tokio::test]
async fn the_stream_loses_what_counts_no_more_and_nothing_else() {
    let redis = Redis::start();
    let stream = Stream::over(&redis).await;
    let key = key();
    for number in 1..=300 {
        redis.ask(&format!("XADD {key} {number}-1 events \"\""));
    }
    let one = stream.replica();
    until(|| !one.is_unheard()).await;
    let users: Vec<_> = (0..250).map(|it| it.to_string()).collect();
    for user in &users {
        assert_eq!(stream.take(&one, user).await, Ok(()));
    }
    // Redis drops a hundred at a time.
    let left = redis.ask(&format!("XLEN {key}"));
    let left: usize = left.trim_start_matches(':').parse().unwrap();
    assert!((250..350).contains(&left), "{left}");
    let late = stream.replica();
    until(|| !late.is_unheard()).await;
    assert!(users.iter().all(|it| is_revoked(&late, it)));
}

#[tokio::test]
async fn a_new_configuration_knows_at_once_what_the_one_before_has_read() {
    let redis = Redis::start();
    let mut stream = Stream::over(&redis).await;
    let one = stream.replica();
    until(|| !one.is_unheard()).await;
    assert_eq!(stream.take(&one, "alice").await, Ok(()));
    stream.rules.capacity = 7;
    let next = stream.replica_after(Some(&one), &clock());
    assert!(!Arc::ptr_eq(&next, &one));
    assert!(!next.is_unheard() && is_revoked(&next, "alice"));
}

#[tokio::test]
async fn a_stream_that_one_replica_hears_is_silent_at_none() {
    let redis = Redis::start();
    let mut stream = Stream::over(&redis).await;
    let endpoint = "https://as.example.com/verify".to_owned();
    stream.rules.verification = Some(Verification { endpoint, bearer: None });
    let (one, other) = (stream.replica(), stream.replica());
    until(|| !one.is_unheard() && !other.is_unheard()).await;
    jump(Duration::from_secs(600)).await;
    assert!(other.status().lag_seconds.is_some_and(|it| 600 <= it));
    let uri = "https://schemas.openid.net/secevent/ssf/event-type/verification";
    let verification = stream.event(uri, &json!({"format": "opaque", "id": "stream"}));
    until(|| !one.is_unheard()).await;
    assert_eq!(one.take(verification.as_bytes()).await, Ok(()));
    until(|| other.status().lag_seconds.is_some_and(|it| it < 60)).await;
}

#[tokio::test]
async fn what_another_replica_received_is_in_the_file_of_each_within_a_minute() {
    let redis = Redis::start();
    let mut stream = Stream::over(&redis).await;
    let one = stream.replica();
    let folder = TempDir::new().unwrap();
    stream.rules.snapshot_file = Some(folder.path().join("events"));
    let other = stream.replica();
    until(|| !one.is_unheard() && !other.is_unheard()).await;
    assert_eq!(stream.take(&one, "alice").await, Ok(()));
    until(|| is_revoked(&other, "alice")).await;
    jump(Duration::from_secs(60)).await;
    // What the file alone tells.
    (stream.rules.shared, stream.rules.is_passive) = (None, true);
    until(|| is_revoked(&stream.replica(), "alice")).await;
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
