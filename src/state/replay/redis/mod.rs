//! Knows the proofs that were used at any replica, through Redis or Valkey.
//!
//! One `SET NX PX` for each proof is test and record at once. Redis drops the record by its own
//! clock; the span is the proof's remaining life and a margin, since the clocks of replicas differ.
//! While Redis is away, each proof is refused at once, nothing is queued, and a task of its own
//! looks for Redis until it is back.
//!
//! What this store cannot see is Redis losing what it had confirmed: a proof of the last minute
//! could then be used once more. Redis replicates after it has answered, so a failover loses the
//! last moments. `appendfsync always` and `min-replicas-to-write` make that rarer. Redis must not
//! evict either: with `maxmemory-policy noeviction` a full Redis is an outage, as it should be.
//! Nonces (RFC 9449 §9) bound what a lost record is worth.
//!
//! A record's name is `keybound:replay:` and the base64url of a SHA-256. An ACL needs
//! `~keybound:replay:* +set`, and `+cluster|slots` in a cluster.

mod keeper;
mod link;
mod rules;

pub use rules::{BadRedis, RedisRules};

use super::{Unavailable, Use};
use crate::clock::UnixTime;
use crate::jose::thumbprint::Thumbprint;
use crate::oauth::dpop::ProofId;
use ::redis::{Cmd, ErrorKind, RedisError, Value};
use keeper::Keeper;
use link::Link;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// Records in Redis.
///
/// It is reached through one connection, which all threads share and which a task on a runtime of
/// its choice keeps up. The task ends when this is dropped.
#[derive(Debug)]
pub struct RedisStore {
    rules: RedisRules,
    shared: Arc<Shared>,
    keeper: JoinHandle<()>,
}

/// What the keeper of the connection and its users have in common.
#[derive(Debug)]
struct Shared {
    /// None while Redis is away.
    link: watch::Sender<Option<Link>>,
    /// A command failed.
    suspect: Notify,
}

impl RedisStore {
    /// Starts to connect on `runtime`, and returns at once.
    pub fn start(rules: RedisRules, runtime: &Handle) -> Self {
        let shared = Arc::new(Shared { link: watch::Sender::new(None), suspect: Notify::new() });
        let keeper = Keeper::new(rules.clone(), Arc::clone(&shared));
        Self { rules, shared, keeper: runtime.spawn(keeper.run()) }
    }

    /// The rules under which it runs.
    pub const fn rules(&self) -> &RedisRules {
        &self.rules
    }

    /// Records that `proof` is used, and says whether it was before. It answers within the
    /// deadline. When that passes, the record may have been made all the same.
    pub async fn record(
        &self,
        proof: &ProofId,
        expires: UnixTime,
        now: UnixTime,
    ) -> Result<Use, Unavailable> {
        let link = self.shared.link.borrow().clone().ok_or(Unavailable::Unreachable)?;
        let command = set(proof, expires.since(now));
        let failure = match timeout(self.rules.deadline, link.send(&command)).await {
            Ok(Ok(Value::Okay)) => return Ok(Use::First),
            Ok(Ok(Value::Nil)) => return Ok(Use::Repeat),
            Ok(Ok(_)) => RedisError::from((ErrorKind::UnexpectedReturnType, "odd answer")),
            Ok(Err(error)) => error,
            Err(_) => RedisError::from((ErrorKind::Io, "late answer")),
        };
        self.shared.doubt(&failure);
        Err(Unavailable::Unreachable)
    }

    /// Whether there is a connection.
    pub fn is_reachable(&self) -> bool {
        self.shared.link.borrow().is_some()
    }

    /// Waits until there is a connection.
    pub async fn reachable(&self) {
        // It cannot fail: the sender lives as long as this.
        drop(self.shared.link.subscribe().wait_for(Option::is_some).await);
    }
}

impl Shared {
    /// Has the connection looked at. One that is known to be dead is given up at once.
    fn doubt(&self, failure: &RedisError) {
        if failure.is_unrecoverable_error() {
            self.link.send_if_modified(|it| it.take_if(|it| !it.heals()).is_some());
        }
        self.suspect.notify_one();
    }
}

impl Drop for RedisStore {
    fn drop(&mut self) {
        self.keeper.abort();
    }
}

fn set(proof: &ProofId, life: Duration) -> Cmd {
    let name = Thumbprint::of(&[proof.key, proof.jti].concat()).to_base64url();
    let life = life.saturating_add(MARGIN).as_millis();
    let mut command = Cmd::new();
    command.arg("SET").arg(format!("{PREFIX}{name}")).arg(1);
    command.arg("NX").arg("PX").arg(u64::try_from(life).unwrap_or(u64::MAX));
    command
}

const PREFIX: &str = "keybound:replay:";

/// How far behind ours the clock of another replica may be, which accepts the proof for so much
/// longer. As much as an issuer's clock is allowed by default.
const MARGIN: Duration = Duration::from_secs(30);
