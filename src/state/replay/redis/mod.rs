//! Used proofs in Redis or Valkey, for all replicas.
//!
//! One command per proof tests, counts and records at once: a script of ours or, for a user who may
//! not run it, `SET NX PX`, which does not count (`record`). Redis drops the record by its own
//! clock, after the remaining life of the proof and a margin, since the clocks of replicas differ.
//! While Redis is down, proofs are denied at once, nothing is queued, and a task reconnects.
//!
//! This store cannot notice that Redis lost a confirmed record, whose proof could then be used once
//! more. Redis replicates after it has answered, so a failover loses the last moments. `appendfsync
//! always` and `min-replicas-to-write` make that rarer. Where sentinels name the master, they are
//! asked every second whether it still is: one that was replaced takes records for a while, and all
//! are lost (`link`, `sentinels`). Redis must not evict either: with
//! `maxmemory-policy noeviction` a full Redis is an outage, as it should be. Nonces (RFC 9449 §9)
//! limit what a lost record is worth.
//!
//! An ACL needs `~keybound:replay:* +set`; `+get +time +eval +evalsha` for the limit per client;
//! `+info` for detecting eviction; `+role` with sentinels; and `+cluster|slots` in a cluster.

mod keeper;
mod link;
mod look;
mod record;
mod refusal;
mod rules;
mod sentinels;

pub(in crate::state) use link::{CONNECT, Link};
pub(in crate::state) use refusal::told;
pub use rules::{BadRedis, RedisIdentity, RedisRules, SentinelUrls};

use super::{Unavailable, Use};
use ::redis::{ErrorKind, RedisError, RedisResult, Value};
use keeper::Keeper;
use keybound_core::UnixTime;
use keybound_core::oauth::ProofId;
use record::Record;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::{Notify, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// A replay store in Redis.
///
/// All threads share one connection, which a task on another runtime keeps alive. The task ends
/// when this is dropped.
#[derive(Debug)]
pub struct RedisStore {
    rules: RedisRules,
    shared: Arc<Shared>,
    keeper: JoinHandle<()>,
}

/// The state shared by the keeper and the users of the connection.
#[derive(Debug)]
struct Shared {
    /// The connection, or why there is none.
    link: watch::Sender<Result<Link, Unavailable>>,
    /// A command failed.
    suspect: Notify,
    /// The limit on live records per client key.
    share: AtomicUsize,
    /// Whether the script can run, so that the limit is enforced.
    counts: AtomicBool,
    /// Problems of this Redis that do not prevent records.
    concerns: Mutex<Concerns>,
}

/// Problems of a usable Redis.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Concerns {
    /// Why the limit per client is not enforced.
    no_share: Option<String>,
    found: look::Findings,
}

impl RedisStore {
    /// Starts to connect on `runtime`, and returns at once.
    pub fn start(rules: RedisRules, runtime: &Handle) -> Self {
        let shared = Arc::new(Shared {
            link: watch::Sender::new(Err(Unavailable::Unreachable)),
            suspect: Notify::new(),
            share: AtomicUsize::new(rules.share),
            counts: AtomicBool::new(false),
            concerns: Mutex::default(),
        });
        let keeper = Keeper::new(rules.clone(), Arc::clone(&shared));
        Self { rules, shared, keeper: runtime.spawn(keeper.run()) }
    }

    /// The rules that it was started with; the limit per client may have changed since.
    pub const fn rules(&self) -> &RedisRules {
        &self.rules
    }

    /// Applies new rules if they differ only in the limit per client.
    pub fn adopt(&self, rules: &RedisRules) -> bool {
        let goes_on = self.rules.reach_alike(rules);
        if goes_on {
            self.shared.share.store(rules.share, Ordering::Relaxed);
        }
        goes_on
    }

    /// Records `proof` as used, and returns whether it was used before. It returns within the
    /// deadline. After a timeout, the record may have been made all the same.
    pub async fn record(
        &self,
        proof: &ProofId,
        expires: UnixTime,
        now: UnixTime,
    ) -> Result<Use, Unavailable> {
        let link = self.shared.link.borrow().clone()?;
        let record = Record::of(proof, expires.since(now).saturating_add(MARGIN));
        match timeout(self.rules.deadline, self.shared.make(&link, &record)).await {
            Ok(Ok(made)) => made,
            Ok(Err(failure)) => {
                self.shared.doubt(&failure);
                Err(Unavailable::of(&failure))
            }
            // Other checks share the connection and may well be answered. The keeper finds out
            // whether it is dead, since it can wait longer than a check.
            Err(_) => {
                self.shared.suspect.notify_one();
                Err(Unavailable::Late)
            }
        }
    }

    /// Whether there is a connection.
    pub fn is_reachable(&self) -> bool {
        self.shared.link.borrow().is_ok()
    }

    /// Waits until there is a connection.
    pub async fn reachable(&self) {
        // This cannot fail, since `self` holds the sender.
        drop(self.shared.link.subscribe().wait_for(Result::is_ok).await);
    }

    /// Problems of this Redis that do not prevent records, for the operator to fix.
    pub fn concerns(&self) -> Vec<String> {
        self.shared.concerns().told()
    }
}

impl Shared {
    /// Makes a record, and enforces the limit per client if the script can run.
    async fn make(&self, link: &Link, record: &Record) -> RedisResult<Result<Use, Unavailable>> {
        if !self.counts() {
            return set(link, record).await.map(Ok);
        }
        match count(link, record, self.share.load(Ordering::Relaxed)).await {
            Err(failure) if runs_no_script(&failure) => {
                self.stop_counting(&failure);
                set(link, record).await.map(Ok)
            }
            // The slot is being moved. Commands with a single key still work.
            Err(failure) if failure.code() == Some("TRYAGAIN") => set(link, record).await.map(Ok),
            made => made,
        }
    }

    /// Whether the limit per client is enforced.
    fn counts(&self) -> bool {
        self.counts.load(Ordering::Relaxed)
    }

    /// Notes that the limit is no longer enforced, until the keeper finds that the script runs.
    /// Logged once.
    fn stop_counting(&self, failure: &RedisError) {
        self.counts.store(false, Ordering::Relaxed);
        let code = failure.code().unwrap_or("ERR");
        let is_new = {
            let mut concerns = self.concerns();
            let is_new = concerns.no_share.is_none();
            concerns.no_share.get_or_insert_with(|| code.to_owned());
            is_new
        };
        if is_new {
            tracing::warn!(
                error = %failure,
                "the replay store cannot enforce the limit per client: let this user +get +time \
                 +eval +evalsha",
            );
        }
    }

    /// Notes that the script runs and the limit is enforced again.
    fn start_counting(&self) {
        self.counts.store(true, Ordering::Relaxed);
        let before = self.concerns().no_share.take();
        if before.is_some() {
            tracing::info!("the replay store enforces the limit per client again");
        }
    }

    /// Records the result of an inspection. Each problem is logged once.
    fn found(&self, found: &look::Findings) {
        let before = std::mem::replace(&mut self.concerns().found, found.clone());
        if let Some(policy) = found.evicts.as_ref().filter(|_| found.evicts != before.evicts) {
            tracing::warn!(
                policy,
                "the replay store evicts used proofs: set maxmemory-policy to \
                 noeviction",
            );
        }
        if let Some(apart) = found.apart.filter(|_| before.apart.is_none()) {
            tracing::warn!(
                seconds = apart.as_secs(),
                "the clocks of the replay store and of this replica differ: where those of \
                 replicas differ by more than {} seconds, a proof may pass twice",
                MARGIN.as_secs(),
            );
        }
    }

    fn concerns(&self) -> MutexGuard<'_, Concerns> {
        self.concerns.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has the keeper test the connection. One that is known to be dead is dropped at once.
    fn doubt(&self, failure: &RedisError) {
        if failure.is_unrecoverable_error() {
            self.link.send_if_modified(|link| {
                let dead = link.as_ref().is_ok_and(|it| !it.heals());
                if dead {
                    *link = Err(Unavailable::of(failure));
                }
                dead
            });
        }
        self.suspect.notify_one();
    }
}

impl Concerns {
    fn told(&self) -> Vec<String> {
        let share = self.no_share.as_ref().map(|code| {
            format!(
                "the limit per client is not enforced: the Redis user may not run the script \
                     ({code})"
            )
        });
        let evicts = self
            .found
            .evicts
            .as_ref()
            .map(|policy| format!("Redis evicts used proofs: maxmemory-policy is {policy}"));
        let apart = self.found.apart.map(|it| {
            format!("the clocks of Redis and keybound differ by {} seconds", it.as_secs())
        });
        [share, evicts, apart].into_iter().flatten().collect()
    }
}

impl Drop for RedisStore {
    fn drop(&mut self) {
        self.keeper.abort();
    }
}

/// Makes a record without the limit per client.
async fn set(link: &Link, record: &Record) -> RedisResult<Use> {
    let answer = link.clone().send(&record.set()).await?;
    if answer == Value::Okay {
        Ok(Use::First)
    } else if answer == Value::Nil {
        Ok(Use::Repeat)
    } else {
        Err(odd())
    }
}

/// Makes a record unless its key has reached the limit.
async fn count(
    link: &Link,
    record: &Record,
    share: usize,
) -> RedisResult<Result<Use, Unavailable>> {
    let mut answer = link.clone().send(&record.count(share)).await;
    if answer.as_ref().is_err_and(|it| it.code() == Some("NOSCRIPT")) {
        answer = link.clone().send(&record.count_anew(share)).await;
    }
    let Value::Int(answer) = answer? else { return Err(odd()) };
    match answer {
        record::FIRST => Ok(Ok(Use::First)),
        record::REPEAT => Ok(Ok(Use::Repeat)),
        record::OVER_SHARE => Ok(Err(Unavailable::KeyFull)),
        _ => Err(odd()),
    }
}

fn odd() -> RedisError {
    RedisError::from((ErrorKind::UnexpectedReturnType, "odd answer"))
}

/// Whether the failure concerns the script rather than records: the user may not run it, or there
/// are no scripts, or none like ours.
fn runs_no_script(failure: &RedisError) -> bool {
    matches!(failure.code(), Some("ERR" | "NOPERM"))
}

impl Unavailable {
    /// The cause for a failed command.
    fn of(failure: &RedisError) -> Self {
        match failure.code() {
            Some("OOM") => Self::OutOfMemory,
            Some("NOPERM" | "NOAUTH" | "WRONGPASS") => Self::NotPermitted,
            Some("READONLY") => Self::ReadOnly,
            Some("MOVED" | "ASK" | "TRYAGAIN" | "CROSSSLOT" | "CLUSTERDOWN") => Self::Moved,
            Some("LOADING" | "BUSY" | "MASTERDOWN") => Self::NotReady,
            Some("MISCONF" | "NOREPLICAS") => Self::NotDurable,
            Some(_) => Self::Refused,
            None if failure.kind() == ErrorKind::AuthenticationFailed => Self::NotPermitted,
            None if refusal::of_certificate(failure) => Self::NotPermitted,
            None if failure.kind() == ErrorKind::UnexpectedReturnType => Self::Refused,
            None => Self::Unreachable,
        }
    }
}

/// How far another replica's clock may be behind ours: it would accept the proof for that much
/// longer. This is the default leeway for an issuer's clock.
const MARGIN: Duration = Duration::from_secs(30);
