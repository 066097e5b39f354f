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
mod snapshot;
mod source;
mod status;
mod takeover;
mod timed;
mod tries;
mod withdrawn;

pub use rules::{KeyRules, KeySource, KeyUpkeep};
pub use source::BadSource;
pub use status::{LastError, Status};
pub use takeover::{Change, Prepared, prepare};
pub use timed::TimedKeys;

use crate::clock::Clock;
use crate::state::waits::after;
use crate::state::{discovery, http};
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
    /// How they are kept at present.
    rules: ArcSwap<KeyRules>,
    source: &'static str,
    clock: Arc<dyn Clock>,
    began: Instant,
    shared: Arc<Shared>,
    progress: watch::Receiver<Progress>,
    /// How many fetches had ended when the present rules came into force.
    ended_before: AtomicU64,
    /// One permit for each request that may wait for another set.
    waiting: Semaphore,
    /// What tokens that name no key may cost.
    tries: Tries,
    orders: mpsc::UnboundedSender<Order>,
    keeper: JoinHandle<()>,
}

/// What the keeper of the keys and their users have in common.
#[derive(Debug, Default)]
struct Shared {
    held: ArcSwapOption<Held>,
    /// Somebody wants another set.
    wanted: Notify,
    /// A key was withdrawn that counts on for a while.
    withdrew: Notify,
    report: Mutex<Report>,
}

/// A set of keys and where it stands in time. Replaced, never changed.
#[derive(Clone, Debug)]
struct Held {
    /// All that count.
    set: Arc<KeySet>,
    /// Those in the document.
    published: Arc<KeySet>,
    /// Those that were in an earlier one.
    withdrawn: Vec<Withdrawn>,
    document: Bytes,
    version: Option<Version>,
    /// When the document was read, by the monotonic clock. It may be older than the process.
    read_at: Instant,
    /// When the issuer last stood by it.
    heard_at: Instant,
    /// How long before `heard_at` that really was: not zero for a snapshot.
    age_then: Duration,
    usable_until: Instant,
    from_snapshot: bool,
}

/// Why keys were not had.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Failure {
    Discovery(discovery::Failure),
    /// The metadata names no place for keys.
    JwksUriMissing,
    Http(http::Failure),
    File(io::ErrorKind),
    /// Not a JWK Set.
    Malformed,
    /// A JWK Set without a key that can be used, and how many that cannot.
    Empty(usize),
    /// A fault of ours, which must not end the keeping of keys.
    Panicked,
}

impl IssuerKeys {
    /// Starts to fetch the keys of `issuer` as `rules` say, on `runtime`, and returns at once.
    ///
    /// `clock` dates the snapshot and errors. All spans are measured on the monotonic clock.
    pub fn start(
        issuer: &Arc<str>,
        rules: &KeyRules,
        clock: Arc<dyn Clock>,
        runtime: &Handle,
    ) -> Result<Self, BadSource> {
        Self::start_after(None, issuer, rules, clock, runtime)
    }

    /// The same. What is counted of `previous`, the keys of this issuer from another place, counts
    /// on; the keys themselves do not.
    fn start_after(
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

    /// Since when these keys are kept.
    pub const fn began(&self) -> Instant {
        self.began
    }

    /// The same keys, for whose changes nobody waits longer than `patience`.
    pub fn within(self: &Arc<Self>, patience: Duration) -> TimedKeys {
        TimedKeys::new(Arc::clone(self), patience)
    }

    /// The keys, when they may be used now. It takes no lock and does not wait. As long as it is the
    /// same set, no key has left.
    pub fn current(&self) -> Option<Arc<KeySet>> {
        let held = self.shared.held.load();
        let usable = held.as_deref().filter(|it| Instant::now() < it.usable_until);
        usable.map(|it| Arc::clone(&it.set))
    }

    /// The keys, when they may be used. Waits for the first fetch if that has not ended, however
    /// many wait with it. Otherwise it does not wait; but when the keys have become unusable, it
    /// hurries the next fetch as far as the cooldown allows.
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

    /// Another set than `seen`, in which the key of a token was looked for in vain.
    ///
    /// It waits for a fetch that is under way or causes one, unless the last one that was caused
    /// so is less than a cooldown ago: then it says so at once. A token whose key is known and
    /// whose signature is wrong is no reason to call this.
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
            // What was under way may have been answered before the token was signed.
            None if heard && !progress.under_way => Newer::None,
            None => self.unasked(),
        }
    }

    /// What there is to say of an issuer that may not be asked for another set, or did not answer.
    fn unasked(&self) -> Newer {
        Newer::Unasked { heard: self.heard(), ask_again: self.ask_again() }
    }

    /// When the issuer last stood by these keys; none: never.
    fn heard(&self) -> Option<UnixTime> {
        let held = self.shared.held.load();
        held.as_ref().map(|it| self.clock.now().saturating_sub(it.age(Instant::now())))
    }

    /// In how many seconds an unknown key may be asked about again.
    fn ask_again(&self) -> u64 {
        let cooldown = self.rules.load().upkeep.unknown_kid_cooldown;
        schedule::ask_again(self.progress.borrow().asked_at, cooldown, Instant::now())
    }

    fn may_ask(&self, progress: Progress) -> bool {
        let cooldown = self.rules.load().upkeep.unknown_kid_cooldown;
        schedule::may_ask(progress.asked_at, cooldown, Instant::now())
    }

    /// Waits until so many fetches have ended since the start, well or not.
    pub async fn ended(&self, fetches: u64) {
        let mut progress = self.progress.clone();
        // An error says that the keeper has gone with its runtime: there is nothing to wait for.
        drop(progress.wait_for(|it| fetches <= it.ended).await);
    }

    /// Waits until there are keys, or until the first fetch under the present rules has ended, well
    /// or not.
    pub async fn tried(&self) {
        let before = self.ended_before.load(Ordering::Relaxed);
        let mut progress = self.progress.clone();
        let tried = |it: &Progress| before < it.ended || self.current().is_some();
        // An error says that the keeper has gone with its runtime: there is nothing to wait for.
        drop(progress.wait_for(tried).await);
    }

    /// Whether there have ever been keys, fresh or from the snapshot. It never turns back: that the
    /// issuer is down later is no reason to take this replica out of service.
    pub fn is_ready(&self) -> bool {
        self.shared.held.load().is_some()
    }

    /// Waits until there have been keys.
    pub async fn ready(&self) {
        let mut progress = self.progress.clone();
        if progress.wait_for(|_| self.is_ready()).await.is_err() {
            // The keeper is gone, and with it every hope.
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
            skipped: held.as_ref().map_or(0, |it| it.set.skipped()),
            kids: usable.map_or_else(Vec::new, |it| it.set.kids().map(str::to_owned).collect()),
            age_seconds: held.as_ref().map(|it| it.age(now).as_secs()),
            usable_for_seconds: usable.map(|it| until(it.usable_until)),
            next_refresh_seconds: report.next.map(until),
            consecutive_failures: report.consecutive_failures,
            last_error: report.last_error.clone(),
            refreshes: report.refreshes.clone(),
        }
    }

    /// How many fetches ended in which way. The names come from a closed set.
    pub fn refreshes(&self) -> BTreeMap<&'static str, u64> {
        self.shared.report().refreshes.clone()
    }
}

impl Drop for IssuerKeys {
    fn drop(&mut self) {
        self.keeper.abort();
    }
}

/// Why a snapshot at `path` would not be used, as far as its folder is there to tell: a sentence.
pub fn snapshot_fault(path: &Path) -> Option<String> {
    snapshot::folder_fault(path).map(|it| it.to_string())
}

impl Shared {
    /// Has the keys that are held used for as long as `upkeep` says, withdrawn ones as well.
    fn keep_by(&self, upkeep: &KeyUpkeep) {
        let now = Instant::now();
        self.held.rcu(|held| {
            let held = held.as_ref().map(|it| Held::clone(it).kept_by(upkeep));
            held.map(|it| Arc::new(it.graced(upkeep.withdrawn_key_grace, now)))
        });
    }

    /// Puts `new` in the place of `old`, if that is what is held.
    fn replace(&self, old: &Arc<Held>, new: Held) {
        self.held.compare_and_swap(&Some(Arc::clone(old)), Some(Arc::new(new)));
    }

    fn report(&self) -> MutexGuard<'_, Report> {
        self.report.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Held {
    /// How long ago the issuer last stood by these keys.
    fn age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.heard_at).saturating_add(self.age_then)
    }

    /// The same keys, used for as long as `upkeep` says after the issuer was last heard.
    fn kept_by(self, upkeep: &KeyUpkeep) -> Self {
        let left = schedule::time_left(self.age_then, upkeep).unwrap_or_default();
        let usable_until = after(self.heard_at, left);
        Self { usable_until, ..self }
    }
}

impl Failure {
    const fn label(&self) -> &'static str {
        match self {
            Self::Discovery(failure) => failure.label(),
            Self::JwksUriMissing => "jwks_uri_missing",
            Self::Http(failure) => failure.label(),
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
            Self::JwksUriMissing => f.write_str("issuer metadata: there is no jwks_uri"),
            Self::Http(failure) => write!(f, "key set: {failure}"),
            Self::File(kind) => write!(f, "key set: the file cannot be read: {kind}"),
            Self::Malformed => f.write_str("key set: not a JWK Set"),
            Self::Empty(skipped) => {
                write!(f, "key set: none of its {skipped} members can be used")
            }
            Self::Panicked => f.write_str("key set: reading it failed in an unforeseen way"),
        }
    }
}

/// So many requests may wait for another set of keys. A flood of unknown keys beside a slow issuer
/// must leave most of the concurrent checks to others.
const MAX_WAITING: usize = 1000;
