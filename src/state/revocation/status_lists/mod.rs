//! The status lists of an issuer: fetched when a token names one, and kept up to date from there on.
//!
//! The promises, for each issuer by itself:
//!
//! - Only a token whose signature was verified leads to a list, and only to where a `jwks_uri` in the
//!   issuer's metadata could lead.
//! - A check waits for a list only until its first fetch has ended, and within its patience. All that
//!   wait share the fetch, and there is one at a time for each list.
//! - A list is used for a time after the issuer was last heard, never past its `exp`, and not a moment
//!   longer. A status that cannot be told is not taken for a good one.
//! - A list is replaced by a verified one that was not issued before it, never by something broken.
//! - The number of lists and their memory are bounded. Those that no token names are dropped.

mod failure;
mod keeper;
mod kind;
mod list;
mod place;
mod saved;
mod schedule;
mod standing;
mod status;

pub use status::{StatusListStatus, StatusListsStatus};

use crate::clock::Clock;
use crate::state::http::{BadCredentials, Client, Credentials};
use crate::state::jwks::{IssuerKeys, KeyRules};
use crate::state::refreshes::Outcome;
use crate::state::revocation::Changes;
use arc_swap::ArcSwap;
use bytes::Bytes;
use keeper::Keeper;
use keybound_core::UnixTime;
use keybound_core::jose::Thumbprint;
use keybound_core::oauth::{Status, StatusList, StatusReference};
use keybound_core::policy::Issuer;
use list::{Held, List, Progress, Shared};
use place::Places;
use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasherDefault, Hasher};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, watch};
use tokio::time::{Instant, timeout};

/// The status lists of one issuer.
///
/// Each is fetched by a task of its own, and all end when this is dropped. All methods may be called
/// from any thread and any runtime.
#[derive(Debug)]
pub struct StatusLists {
    common: Arc<Common>,
    runtime: Handle,
    /// One permit per check that may wait for a list.
    waiting: Semaphore,
}

/// What the lists of an issuer are obtained by.
#[derive(Clone, Copy, Debug)]
pub struct StatusListTerms<'a> {
    /// The issuer.
    pub issuer: &'a Arc<Issuer>,
    /// Its keys.
    pub keys: &'a Arc<IssuerKeys>,
    /// How those are obtained, and so the lists.
    pub rules: &'a KeyRules,
}

/// Why the status of a token cannot be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Untold {
    /// Not yet: the list is unknown, or its first fetch has not ended.
    Awaited,
    /// The list could not be fetched, or is too old.
    Unavailable,
    /// The list was not there within the patience of a check.
    Late,
    /// The URI leads to where a list must not be fetched from.
    Forbidden,
    /// There are too many lists.
    Full,
    /// The place of the token is beyond the end of the list.
    BeyondEnd,
    /// The list speaks of the tokens of another tenant.
    OtherTenant,
}

/// What all lists of an issuer share with their keepers.
#[derive(Debug)]
struct Common {
    issuer: Arc<Issuer>,
    keys: Arc<IssuerKeys>,
    settings: Settings,
    client: Client,
    clock: Arc<dyn Clock>,
    lists: ArcSwap<Lists>,
    /// Held while the set of lists changes.
    changing: Mutex<()>,
    /// One permit per fetch of a list that was good when it was fetched last. The others have their own, so
    /// that places that never answer hold up no list by which tokens are judged.
    turns_of_good: Semaphore,
    /// One permit per fetch of any other list.
    turns_of_others: Semaphore,
    /// Those that have ended, by outcome. The labels come from a closed set.
    fetches: watch::Sender<BTreeMap<&'static str, u64>>,
    changes: Arc<Changes>,
}

/// How lists are obtained and kept.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Settings {
    places: Places,
    ca: Option<Vec<u8>>,
    allow_http: bool,
    /// How long a list may be used at most after it was last confirmed.
    max_stale: Duration,
    /// The snapshot of the issuer's keys, beside which those of its lists are.
    snapshot_file: Option<PathBuf>,
    /// How long the keys are not fetched again for an unknown one, nor a list for a place beyond its
    /// end.
    cooldown: Duration,
}

impl Settings {
    fn of(terms: StatusListTerms<'_>) -> Self {
        let StatusListTerms { issuer, rules, .. } = terms;
        Self {
            places: Places::of(&issuer.name, rules),
            ca: rules.ca.clone(),
            allow_http: rules.allow_http,
            max_stale: rules.upkeep.max_stale,
            snapshot_file: rules.upkeep.snapshot_file.clone(),
            cooldown: rules.upkeep.unknown_kid_cooldown,
        }
    }
}

type Lists = HashMap<[u8; 32], Arc<List>, BuildHasherDefault<FirstOctets>>;

/// Hashes a SHA-256 by its first octets.
#[derive(Clone, Copy, Debug, Default)]
struct FirstOctets(u64);

impl Hasher for FirstOctets {
    fn write(&mut self, octets: &[u8]) {
        if let Some(first) = octets.first_chunk() {
            self.0 = u64::from_le_bytes(*first);
        }
    }

    fn finish(&self) -> u64 {
        self.0
    }
}

impl StatusLists {
    /// The lists under `terms`, with those of `previous` if they are obtained and judged in the same
    /// way. `changes` are told when a status may have changed. Lists are fetched on `runtime`.
    pub fn start(
        terms: StatusListTerms<'_>,
        previous: Option<&Arc<Self>>,
        changes: &Arc<Changes>,
        clock: &Arc<dyn Clock>,
        runtime: &Handle,
    ) -> Result<Arc<Self>, BadCredentials> {
        let settings = Settings::of(terms);
        if let Some(previous) = previous.filter(|it| it.is_under(terms, &settings)) {
            return Ok(Arc::clone(previous));
        }
        let credentials = Credentials { ca: settings.ca.as_deref(), identity: None };
        let client = Client::new(credentials)?.allowing_http(settings.allow_http);
        let common = Common {
            issuer: Arc::clone(terms.issuer),
            keys: Arc::clone(terms.keys),
            settings,
            client,
            clock: Arc::clone(clock),
            lists: ArcSwap::default(),
            changing: Mutex::default(),
            turns_of_good: Semaphore::new(FETCHES),
            turns_of_others: Semaphore::new(FETCHES),
            fetches: watch::Sender::new(previous.map(|it| it.common.fetches()).unwrap_or_default()),
            changes: Arc::clone(changes),
        };
        Ok(Arc::new(Self {
            common: Arc::new(common),
            runtime: runtime.clone(),
            waiting: Semaphore::new(MAX_WAITING),
        }))
    }

    /// Whether lists under `terms` are obtained and judged as these are.
    fn is_under(&self, terms: StatusListTerms<'_>, settings: &Settings) -> bool {
        Arc::ptr_eq(&self.common.keys, terms.keys)
            && self.common.issuer.judges_like(terms.issuer)
            && self.common.settings == *settings
    }

    /// The status at `place`, for a token with this `iss`, at the time `time`. Lock-free and without
    /// waiting.
    ///
    /// # Errors
    ///
    /// Why it cannot be told. After [`Untold::Awaited`] and [`Untold::BeyondEnd`], [`Self::told`] may
    /// know more.
    pub fn look_up(
        &self,
        place: &StatusReference,
        iss: &str,
        time: UnixTime,
    ) -> Result<Status, Untold> {
        let lists = self.common.lists.load();
        let list = lists.get(place.list().octets()).ok_or(Untold::Awaited)?;
        list.shared.look_up(place.index(), iss, time)
    }

    /// The same, but waits up to `patience` for a list whose first fetch has not ended, and causes that
    /// fetch. For a place beyond the end of the list, which may have grown, it causes one fetch per
    /// cooldown.
    pub async fn told(
        &self,
        place: &StatusReference,
        iss: &str,
        time: UnixTime,
        patience: Duration,
    ) -> Result<Status, Untold> {
        let list = self.list(place)?;
        let look_up = || list.look_up(place.index(), iss, time);
        match look_up() {
            Err(Untold::Awaited) => (),
            Err(Untold::BeyondEnd) if self.common.may_ask(*list.progress.borrow()) => {
                list.wanted.notify_one();
            }
            told => return told,
        }
        let Ok(_place) = self.waiting.try_acquire() else { return Err(Untold::Late) };
        if timeout(patience, list.ended()).await.is_err() {
            return Err(Untold::Late);
        }
        match look_up() {
            Err(Untold::Awaited) => Err(Untold::Unavailable),
            told => told,
        }
    }

    /// What is known of the list of `place`, in words for the operator.
    pub fn describe(&self, place: &StatusReference) -> String {
        let lists = self.common.lists.load();
        let Some(list) = lists.get(place.list().octets()) else {
            return "never fetched".to_owned();
        };
        let held = match list.shared.held.load().as_deref() {
            None => "never fetched".to_owned(),
            Some(held) => format!(
                "{} places, confirmed {}s ago",
                held.list.len(),
                held.age(Instant::now()).as_secs()
            ),
        };
        match &list.shared.report().failures.last {
            Some(error) => format!("{held}; last error: {}", error.what),
            None => held,
        }
    }

    /// Waits until `fetches` fetches have ended since the start, successful or not.
    pub async fn ended(&self, fetches: u64) {
        let mut ended = self.common.fetches.subscribe();
        // There is no error: the sender is in this.
        drop(ended.wait_for(|it| fetches <= it.values().sum()).await);
    }

    /// The list of `place`, which is added if it is unknown.
    fn list(&self, place: &StatusReference) -> Result<Arc<Shared>, Untold> {
        let (common, id) = (&self.common, place.list());
        let known = || common.lists.load().get(id.octets()).map(|it| Arc::clone(&it.shared));
        if let Some(list) = known() {
            return Ok(list);
        }
        let url = common.settings.places.admit(place.uri()).ok_or(Untold::Forbidden)?;
        let _changing = common.changing();
        if let Some(list) = known() {
            return Ok(list);
        }
        let mut lists = Lists::clone(&common.lists.load());
        if MOST_LISTS <= lists.len() {
            let longest_unused = longest_unused(&lists).ok_or(Untold::Full)?;
            lists.remove(&longest_unused);
        }
        let shared = Arc::new(Shared::new(place.uri(), url));
        let keeper = Keeper { common: Arc::clone(common), list: Arc::clone(&shared), id: *id };
        let keeper = self.runtime.spawn(keeper.run()).abort_handle();
        lists.insert(*id.octets(), Arc::new(List { shared: Arc::clone(&shared), keeper }));
        common.lists.store(Arc::new(lists));
        Ok(shared)
    }
}

impl Drop for StatusLists {
    fn drop(&mut self) {
        // Each keeper holds on to what it shares, and so to all lists.
        self.common.lists.store(Arc::default());
    }
}

/// The list that was not used for the longest time, if that is long enough to give it up.
fn longest_unused(lists: &Lists) -> Option<[u8; 32]> {
    let now = Instant::now();
    let unused = lists.iter().map(|(id, it)| (it.shared.unused(now), *id));
    unused.filter(|(unused, _)| SPARED <= *unused).max().map(|(_, id)| id)
}

impl Shared {
    fn look_up(&self, index: u64, iss: &str, time: UnixTime) -> Result<Status, Untold> {
        let now = Instant::now();
        self.is_used(now);
        match self.held.load().as_deref().filter(|it| it.is_good(now, time)) {
            Some(held) if !held.list.speaks_of(iss) => Err(Untold::OtherTenant),
            Some(held) => held.list.status(index).ok_or(Untold::BeyondEnd),
            None if self.is_awaited() => Err(Untold::Awaited),
            None => Err(Untold::Unavailable),
        }
    }
}

impl Common {
    fn changing(&self) -> MutexGuard<'_, ()> {
        self.changing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A list that has just been verified. Its times are those of `now`.
    fn held(&self, list: StatusList, digest: Thumbprint, document: Bytes, now: Instant) -> Held {
        Held {
            list: Arc::new(list),
            digest,
            document: self.settings.snapshot_file.is_some().then_some(document),
            version: None,
            read_at: now,
            heard_at: now,
            age_then: Duration::ZERO,
            usable_until: now,
            from_snapshot: false,
        }
    }

    /// Whether a list may become `bytes` large.
    fn has_room_for(&self, list: &Arc<Shared>, bytes: usize) -> bool {
        let lists = self.lists.load();
        let others = lists.values().filter(|it| !Arc::ptr_eq(&it.shared, list));
        let all = others.map(|it| it.shared.bytes()).fold(bytes, usize::saturating_add);
        all <= MOST_BYTES
    }

    /// Whether a place beyond the end of a list may cause a fetch.
    fn may_ask(&self, progress: Progress) -> bool {
        let since = progress.asked_at.map(|it| it.elapsed());
        since.is_none_or(|it| self.settings.cooldown <= it)
    }

    fn forget(&self, id: Thumbprint, list: &Arc<Shared>) {
        let _changing = self.changing();
        let mut lists = Lists::clone(&self.lists.load());
        if lists.get(id.octets()).is_some_and(|it| Arc::ptr_eq(&it.shared, list)) {
            lists.remove(id.octets());
            self.lists.store(Arc::new(lists));
        }
    }

    fn count(&self, outcome: Outcome<'_>) {
        self.fetches.send_modify(|it| {
            let count = it.entry(outcome.label()).or_default();
            *count = count.saturating_add(1);
        });
    }

    fn fetches(&self) -> BTreeMap<&'static str, u64> {
        self.fetches.borrow().clone()
    }
}

/// The most lists of an issuer. It chooses where its tokens lead to, and each costs a task and fetches.
const MOST_LISTS: usize = 256;

/// The most memory for the lists of an issuer, in bytes: sixteen of the largest.
const MOST_BYTES: usize = 256 << 20;

/// A list that was used so recently is not given up for another one.
const SPARED: Duration = Duration::from_secs(60);

/// The most fetches of an issuer's lists at a time, of good ones and of others.
const FETCHES: usize = 4;

/// The most checks that wait for lists of an issuer.
const MAX_WAITING: usize = 1000;
