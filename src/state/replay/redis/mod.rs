//! Used proofs in Redis or Valkey, for all replicas.
//!
//! One command for each proof is test, count and record at once: a script of ours, or, for a user
//! who may not run it, `SET NX PX`, which counts nothing (`record`). Redis drops the record by its
//! own clock; the span is the proof's remaining life and a margin, since the clocks of replicas
//! differ. While Redis is away, each proof is refused at once, nothing is queued, and a task of its
//! own looks for Redis until it is back.
//!
//! What this store cannot see is Redis losing what it had confirmed: a proof could then be used once
//! more. Redis replicates after it has answered, so a failover loses the last moments. `appendfsync
//! always` and `min-replicas-to-write` make that rarer. Redis must not evict either: with
//! `maxmemory-policy noeviction` a full Redis is an outage, as it should be. Nonces (RFC 9449 §9)
//! bound what a lost record is worth.
//!
//! An ACL needs `~keybound:replay:* +set`; `+get +time +eval +evalsha` for the share of a client;
//! `+info`, so that a Redis that evicts is noticed; and `+cluster|slots` in a cluster.

mod keeper;
mod link;
mod look;
mod record;
mod rules;

pub use rules::{BadRedis, RedisRules};

use super::{Unavailable, Use};
use ::redis::{ErrorKind, RedisError, RedisResult, Value};
use keeper::Keeper;
use keybound_core::UnixTime;
use keybound_core::oauth::ProofId;
use link::Link;
use record::Record;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
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
    /// The connection, or why there is none.
    link: watch::Sender<Result<Link, Unavailable>>,
    /// A command failed.
    suspect: Notify,
    /// How many live records one key may have.
    share: AtomicUsize,
    /// Whether the script can be run, so that the share holds.
    counts: AtomicBool,
    /// What is wrong with this Redis, though records can be made in it.
    concerns: Mutex<Concerns>,
}

/// What is wrong with a Redis in which records can be made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Concerns {
    /// Why the share of a client does not hold.
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

    /// The rules under which it was started; the share of a client may be another by now.
    pub const fn rules(&self) -> &RedisRules {
        &self.rules
    }

    /// Goes on under new rules, if they differ in nothing but the share of a client.
    pub fn adopt(&self, rules: &RedisRules) -> bool {
        let goes_on = self.rules.reach_alike(rules);
        if goes_on {
            self.shared.share.store(rules.share, Ordering::Relaxed);
        }
        goes_on
    }

    /// Records that `proof` is used, and says whether it was before. It answers within the
    /// deadline. When that passes, the record may have been made all the same.
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
            // Others wait for the same connection, and may well be answered: whether it is dead is
            // for the keeper to find out, who has more patience than a check.
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
        // It cannot fail: the sender lives as long as this.
        drop(self.shared.link.subscribe().wait_for(Result::is_ok).await);
    }

    /// What is wrong with this Redis, though it can be used: for the operator to mend.
    pub fn concerns(&self) -> Vec<String> {
        self.shared.concerns().told()
    }
}

impl Shared {
    /// Makes a record, and counts it where that can be done.
    async fn make(&self, link: &Link, record: &Record) -> RedisResult<Result<Use, Unavailable>> {
        if !self.counts() {
            return set(link, record).await.map(Ok);
        }
        match count(link, record, self.share.load(Ordering::Relaxed)).await {
            Err(failure) if runs_no_script(&failure) => {
                self.stop_counting(&failure);
                set(link, record).await.map(Ok)
            }
            // A slot is on its way to another server. One name at a time can be found even so.
            Err(failure) if failure.code() == Some("TRYAGAIN") => set(link, record).await.map(Ok),
            made => made,
        }
    }

    /// Whether the share of a client holds.
    fn counts(&self) -> bool {
        self.counts.load(Ordering::Relaxed)
    }

    /// From here on no share holds, until the keeper finds that the script runs. Said once.
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
                "the replay store cannot hold a client to its share: let this user +get +time \
                 +eval +evalsha",
            );
        }
    }

    /// The script runs: a share holds again.
    fn start_counting(&self) {
        self.counts.store(true, Ordering::Relaxed);
        let before = self.concerns().no_share.take();
        if before.is_some() {
            tracing::info!("the replay store holds clients to their share again");
        }
    }

    /// Takes note of what a look at Redis found. What is wrong is said once.
    fn found(&self, found: &look::Findings) {
        let before = std::mem::replace(&mut self.concerns().found, found.clone());
        if let Some(policy) = found.evicts.as_ref().filter(|_| found.evicts != before.evicts) {
            tracing::warn!(
                policy,
                "the replay store drops used proofs to make room: set maxmemory-policy to \
                 noeviction",
            );
        }
        if let Some(apart) = found.apart.filter(|_| before.apart.is_none()) {
            tracing::warn!(
                seconds = apart.as_secs(),
                "the clocks of the replay store and of this replica are apart: where those of \
                 replicas differ by more than {} seconds, a proof may pass twice",
                MARGIN.as_secs(),
            );
        }
    }

    fn concerns(&self) -> MutexGuard<'_, Concerns> {
        self.concerns.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has the connection looked at. One that is known to be dead is given up at once.
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
            format!("a client's share does not hold: its user may not run the script ({code})")
        });
        let evicts = self.found.evicts.as_ref().map(|policy| {
            format!("used proofs are dropped to make room: maxmemory-policy is {policy}")
        });
        let apart = self
            .found
            .apart
            .map(|it| format!("its clock and ours are {} seconds apart", it.as_secs()));
        [share, evicts, apart].into_iter().flatten().collect()
    }
}

impl Drop for RedisStore {
    fn drop(&mut self) {
        self.keeper.abort();
    }
}

/// Makes a record, and counts nothing.
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

/// Makes a record unless its key has its share.
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

/// Whether it is the script that Redis objects to, and not records: the user may not run it, or
/// there are no scripts, or none like ours.
fn runs_no_script(failure: &RedisError) -> bool {
    matches!(failure.code(), Some("ERR" | "NOPERM"))
}

impl Unavailable {
    /// What became of a record that could not be made.
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
            None if failure.kind() == ErrorKind::UnexpectedReturnType => Self::Refused,
            None => Self::Unreachable,
        }
    }
}

/// How far behind ours the clock of another replica may be, which accepts the proof for so much
/// longer. As much as an issuer's clock is allowed by default.
const MARGIN: Duration = Duration::from_secs(30);
