//! The keys of the issuers, kept through rotations, floods, outages and new configurations.
//!
//! The promises, for each issuer by itself:
//!
//! - A check never waits for the network while there are keys, except for a token whose key is
//!   unknown, and then one fetch serves all.
//! - However many unknown keys are named, they cause one fetch per cooldown.
//! - Keys are used for `max_stale` after the issuer was last heard, and not a moment longer.
//! - A set is replaced by a set of keys only, never by nothing or by something broken.
//! - A key that the issuer withdraws is gone with the next fetch, unless the operator grants a grace.
//! - A new configuration that names the same place for the keys of the same issuer begins with the
//!   keys that are held, whatever else it changes.

mod keeper;
mod rules;
mod schedule;
mod source;
mod status;
mod survey;
mod takeover;
mod timed;
mod tries;
mod withdrawn;

pub use rules::{KeyRules, KeySource, KeyUpkeep};
pub use source::BadSource;
pub use status::{SkippedKey, Status};
pub use survey::{Survey, survey};
pub use takeover::{Change, Prepared, prepare};
pub use timed::TimedKeys;

use crate::clock::Clock;
use crate::state::refreshes::Failed;
use crate::state::waits::after;
use crate::state::{discovery, http, snapshot};
use arc_swap::{ArcSwap, ArcSwapOption};
use bytes::Bytes;
use keeper::{Keeper, Order, Progress};
use keybound_core::jose::KeySet;
use keybound_core::{Newer, UnixTime};
use source::{Source, Version};
use status::Report;
use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::{Notify, Semaphore, mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tries::Tries;
use withdrawn::Withdrawn;

/// The keys of one issuer.
///
/// They are fetched and refreshed by a task of their own, which ends when this is dropped. All
/// methods may be called from any thread and any runtime.
#[derive(Debug)]
pub struct IssuerKeys {
    issuer: Arc<str>,
    /// The rules in force.
    rules: ArcSwap<KeyRules>,
    source: &'static str,
    clock: Arc<dyn Clock>,
    began: Instant,
    shared: Arc<Shared>,
    progress: watch::Receiver<Progress>,
    /// The number of fetches that had ended when the present rules came into force.
    ended_before: AtomicU64,
    /// One permit per request that may wait for a newer set.
    waiting: Semaphore,
    /// The limit for tokens without a `kid`.
    tries: Tries,
    orders: mpsc::UnboundedSender<Order>,
    keeper: JoinHandle<()>,
}

/// The state shared by the keeper and the users of the keys.
#[derive(Debug, Default)]
struct Shared {
    held: ArcSwapOption<Held>,
    /// A check wants a newer set.
    wanted: Notify,
    /// A key was withdrawn and has a grace period.
    withdrew: Notify,
    report: Mutex<Report>,
}

/// An immutable set of keys with its times.
#[derive(Clone, Debug)]
struct Held {
    /// All accepted keys.
    set: Arc<KeySet>,
    /// The keys in the document.
    published: Arc<KeySet>,
    /// Keys of earlier documents that are still accepted.
    withdrawn: Vec<Withdrawn>,
    document: Bytes,
    version: Option<Version>,
    /// When the document was read, by the monotonic clock. It may be older than the process.
    read_at: Instant,
    /// When the issuer last confirmed it.
    heard_at: Instant,
    /// The age of the confirmation at `heard_at`: not zero for a snapshot.
    age_then: Duration,
    usable_until: Instant,
    from_snapshot: bool,
}

/// Why keys could not be obtained.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Failure {
    Discovery(discovery::Failure),
    /// The metadata at this place have no `jwks_uri`.
    JwksUriMissing(String),
    /// The key set could not be fetched from this URL.
    Fetch(String, http::Failure),
    /// The same, where the bearer token was not sent to.
    BearerWithheld(String, http::Failure),
    Http(http::Failure),
    File(io::ErrorKind),
    /// Not a JWK Set.
    Malformed,
    /// A JWK Set without a usable key, and its unusable ones in words.
    Empty(String),
    /// A bug of ours, which must not stop the refreshing of keys.
    Panicked,
}

impl IssuerKeys {
    /// Starts to fetch the keys of `issuer` on `runtime`, and returns at once. The counters of
    /// `previous`, this issuer's keys from another source, are kept; the keys themselves are not.
    ///
    /// `clock` dates the snapshot and errors. All durations are measured on the monotonic clock.
    fn start(
        previous: Option<&Self>,
        issuer: &Arc<str>,
        rules: &KeyRules,
        clock: Arc<dyn Clock>,
        runtime: &Handle,
    ) -> Result<Self, BadSource> {
        let source = Source::new(issuer, rules)?;
        let label = source.label();
        let refreshes = previous.map(Self::refreshes).unwrap_or_default();
        let report = Mutex::new(Report { refreshes, ..Report::default() });
        let shared = Arc::new(Shared { report, ..Shared::default() });
        let (tell, progress) = watch::channel(Progress::default());
        let (orders, ordered) = mpsc::unbounded_channel();
        let keeper = Keeper {
            issuer: Arc::clone(issuer),
            upkeep: rules.upkeep.clone(),
            source,
            clock: Arc::clone(&clock),
            shared: Arc::clone(&shared),
            progress: tell,
            unsaved: false,
        };
        Ok(Self {
            issuer: Arc::clone(issuer),
            rules: ArcSwap::from_pointee(rules.clone()),
            source: label,
            clock,
            began: Instant::now(),
            shared,
            progress,
            ended_before: AtomicU64::new(0),
            waiting: Semaphore::new(MAX_WAITING),
            tries: Tries::default(),
            orders,
            keeper: runtime.spawn(keeper.run(ordered)),
        })
    }

    /// The issuer.
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// When this was started.
    pub const fn began(&self) -> Instant {
        self.began
    }

    /// The same keys, with `patience` as the longest wait for a newer set.
    pub fn within(self: &Arc<Self>, patience: Duration) -> TimedKeys {
        TimedKeys::new(Arc::clone(self), patience)
    }

    /// The keys, if they may be used now. Lock-free and without waiting. While it returns the same
    /// set, no key was removed.
    pub fn current(&self) -> Option<Arc<KeySet>> {
        let held = self.shared.held.load();
        let usable = held.as_deref().filter(|it| Instant::now() < it.usable_until);
        usable.map(|it| Arc::clone(&it.set))
    }

    /// The keys, if they may be used. Waits for the first fetch if that has not ended yet. Later it
    /// does not wait; if the keys have become unusable, it requests a fetch as soon as the cooldown
    /// allows.
    pub async fn available(&self) -> Option<Arc<KeySet>> {
        if let Some(set) = self.current() {
            return Some(set);
        }
        let progress = *self.progress.borrow();
        if progress.ended == 0 {
            self.ended(1).await;
            return self.current();
        }
        if !progress.under_way && self.may_ask(progress) {
            self.shared.wanted.notify_one();
        }
        None
    }

    /// A set newer than `seen`, which lacked the key of a token.
    ///
    /// It waits for a fetch in progress or causes one, unless the last one of this kind is less
    /// than a cooldown ago: then it returns at once. Do not call it for a token whose key is known
    /// and whose signature is wrong.
    pub async fn newer_than(&self, seen: &Arc<KeySet>) -> Newer {
        let newer = || self.current().filter(|it| !Arc::ptr_eq(it, seen));
        if let Some(set) = newer() {
            return Newer::Set(set);
        }
        let progress = *self.progress.borrow();
        if !progress.under_way && !self.may_ask(progress) {
            return self.unasked();
        }
        let Ok(_place) = self.waiting.try_acquire() else { return self.unasked() };
        if !progress.under_way {
            self.shared.wanted.notify_one();
        }
        let came = Instant::now();
        self.ended(progress.ended.saturating_add(1)).await;
        let heard = self.shared.held.load().as_ref().is_some_and(|it| came <= it.heard_at);
        match newer() {
            Some(set) => Newer::Set(set),
            // A fetch in progress may have been answered before the token was signed.
            None if heard && !progress.under_way => Newer::None,
            None => self.unasked(),
        }
    }

    /// The result for an issuer that may not be asked now, or did not answer.
    fn unasked(&self) -> Newer {
        Newer::Unasked { heard: self.heard(), ask_again: self.ask_again() }
    }

    /// When the issuer last confirmed these keys; `None` if never.
    fn heard(&self) -> Option<UnixTime> {
        let held = self.shared.held.load();
        held.as_ref().map(|it| self.clock.now().saturating_sub(it.age(Instant::now())))
    }

    /// Seconds until an unknown key may cause a fetch again.
    fn ask_again(&self) -> u64 {
        let cooldown = self.rules.load().upkeep.unknown_kid_cooldown;
        schedule::ask_again(self.progress.borrow().asked_at, cooldown, Instant::now())
    }

    fn may_ask(&self, progress: Progress) -> bool {
        let cooldown = self.rules.load().upkeep.unknown_kid_cooldown;
        schedule::may_ask(progress.asked_at, cooldown, Instant::now())
    }

    /// Waits until `fetches` fetches have ended since the start, successful or not.
    pub async fn ended(&self, fetches: u64) {
        let mut progress = self.progress.clone();
        // An error means that the keeper ended with its runtime: there is nothing to wait for.
        drop(progress.wait_for(|it| fetches <= it.ended).await);
    }

    /// Waits until there are keys, or until the first fetch under the present rules has ended,
    /// successful or not.
    pub async fn tried(&self) {
        let before = self.ended_before.load(Ordering::Relaxed);
        let mut progress = self.progress.clone();
        let tried = |it: &Progress| before < it.ended || self.current().is_some();
        // An error means that the keeper ended with its runtime: there is nothing to wait for.
        drop(progress.wait_for(tried).await);
    }

    /// Whether there have ever been keys, fetched or from the snapshot. It stays true: a later
    /// outage of the issuer is no reason to take this replica out of service.
    pub fn is_ready(&self) -> bool {
        self.shared.held.load().is_some()
    }

    /// Waits until there have been keys.
    pub async fn ready(&self) {
        let mut progress = self.progress.clone();
        if progress.wait_for(|_| self.is_ready()).await.is_err() {
            // The keeper has ended, so there will be no keys.
            std::future::pending::<()>().await;
        }
    }

    /// The state of these keys.
    pub fn status(&self) -> Status {
        let now = Instant::now();
        let held = self.shared.held.load_full();
        let usable = held.as_ref().filter(|it| now < it.usable_until);
        let report = self.shared.report();
        let until = |it: Instant| it.saturating_duration_since(now).as_secs();
        Status {
            issuer: self.issuer.to_string(),
            source: self.source,
            usable: usable.is_some(),
            from_snapshot: held.as_ref().is_some_and(|it| it.from_snapshot),
            keys: usable.map_or(0, |it| it.set.len()),
            withdrawn: usable.map_or(0, |it| it.withdrawn.len()),
            skipped: report.skipped.count(),
            skipped_keys: report.skipped.keys().collect(),
            kids: usable.map_or_else(Vec::new, |it| it.set.kids().map(str::to_owned).collect()),
            age_seconds: held.as_ref().map(|it| it.age(now).as_secs()),
            usable_for_seconds: usable.map(|it| until(it.usable_until)),
            next_refresh_seconds: report.next.map(until),
            consecutive_failures: report.failures.in_a_row,
            last_error: report.failures.last.clone(),
            refreshes: report.refreshes.clone(),
        }
    }

    /// Fetches by outcome. The labels come from a closed set.
    pub fn refreshes(&self) -> BTreeMap<&'static str, u64> {
        self.shared.report().refreshes.clone()
    }
}

impl Drop for IssuerKeys {
    fn drop(&mut self) {
        self.keeper.abort();
    }
}

/// Why a snapshot at `path` would be ignored, as far as its folder shows: a sentence.
pub fn snapshot_fault(path: &Path) -> Option<String> {
    snapshot::folder_fault(path).map(|it| it.to_string())
}

impl Shared {
    /// Applies the durations of `upkeep` to the present keys, withdrawn ones included.
    fn keep_by(&self, upkeep: &KeyUpkeep) {
        let now = Instant::now();
        self.held.rcu(|held| {
            let held = held.as_ref().map(|it| Held::clone(it).kept_by(upkeep));
            held.map(|it| Arc::new(it.graced(upkeep.withdrawn_key_grace, now)))
        });
    }

    /// Replaces `old` by `new`, unless it was replaced meanwhile.
    fn replace(&self, old: &Arc<Held>, new: Held) {
        self.held.compare_and_swap(&Some(Arc::clone(old)), Some(Arc::new(new)));
    }

    fn report(&self) -> MutexGuard<'_, Report> {
        self.report.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Held {
    /// The time since the issuer last confirmed these keys.
    fn age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.heard_at).saturating_add(self.age_then)
    }

    /// The same keys with the durations of `upkeep`.
    fn kept_by(self, upkeep: &KeyUpkeep) -> Self {
        let left = schedule::time_left(self.age_then, upkeep).unwrap_or_default();
        let usable_until = after(self.heard_at, left);
        Self { usable_until, ..self }
    }
}

impl Failed for Failure {
    fn label(&self) -> &'static str {
        match self {
            Self::Discovery(failure) => failure.label(),
            Self::JwksUriMissing(_) => "jwks_uri_missing",
            Self::Fetch(_, failure) | Self::BearerWithheld(_, failure) | Self::Http(failure) => {
                failure.label()
            }
            Self::File(_) => "file_unreadable",
            Self::Malformed => "malformed",
            Self::Empty(_) => "empty",
            Self::Panicked => "internal",
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Discovery(failure) => write!(f, "issuer metadata: {failure}"),
            Self::JwksUriMissing(at) => write!(f, "issuer metadata: {at}: there is no jwks_uri"),
            Self::Fetch(url, failure) => write!(f, "key set at {url}: {failure}"),
            Self::BearerWithheld(url, failure) => write!(
                f,
                "key set at {url}: {failure}; keys.bearer_token_file was not sent there, since only \
                 the metadata name that server: if it is the right one, name the URL as keys.jwks_uri"
            ),
            Self::Http(failure) => write!(f, "key set: {failure}"),
            Self::File(kind) => write!(f, "key set: the file cannot be read: {kind}"),
            Self::Malformed => f.write_str("key set: not a JWK Set"),
            Self::Empty(skipped) if skipped.is_empty() => f.write_str("key set: it is empty"),
            Self::Empty(skipped) => {
                write!(f, "key set: none of its members can be used: {skipped}")
            }
            Self::Panicked => f.write_str("key set: reading it failed in an unforeseen way"),
        }
    }
}

/// The maximum number of requests that wait for a newer set. Unknown keys combined with a slow
/// issuer must leave most of the concurrent checks to others.
const MAX_WAITING: usize = 1000;
