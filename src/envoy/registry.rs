//! All configurations of the process, and the state that passes from one to the next.
//!
//! Envoy makes a filter for each listener and at each update, and the old one ends only afterwards, or
//! before a new one comes. So a configuration is found here by where it stands, and what was verified,
//! fetched or used under one is known to the next.

use crate::instance::{Candidate, Instance};
use crate::process::{self, Process};
use arc_swap::ArcSwap;
use keybound::admin::{self, Admin};
use keybound::config::{Address, Origin};
use keybound::front::module::Endpoint;
use keybound::gate::Active;
use keybound::installation::InstallationRules;
use keybound::listener::Listener;
use keybound::listener::places::Places;
use keybound::state::replay::ReplayStore;
use std::mem;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::task::AbortHandle;
use tokio::time::sleep;

/// The configurations in force, the oldest first.
#[derive(Debug, Default)]
struct Registry {
    entries: Vec<Entry>,
    desks: Vec<Desk>,
}

#[derive(Debug)]
struct Entry {
    instance: Arc<Instance>,
    /// The filters of Envoy's that use it.
    users: usize,
}

/// An admin listener, and the configuration that it tells of: the newest in use that names its address.
#[derive(Debug)]
struct Desk {
    address: Address,
    places: Arc<Places>,
    shown: Arc<ArcSwap<Admin>>,
    task: AbortHandle,
}

/// The use of a configuration by a filter of Envoy's.
#[derive(Debug)]
pub(crate) struct Lease(Arc<Instance>);

static REGISTRY: Mutex<Registry> = Mutex::new(Registry { entries: vec![], desks: vec![] });

fn registry() -> MutexGuard<'static, Registry> {
    REGISTRY.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How long until an admin address that is in use is tried again.
const TRY_AGAIN: Duration = Duration::from_secs(2);

/// The configuration at `origin`, which is started unless it is in force.
///
/// # Errors
///
/// Sentences for the operator. Nothing has changed then.
pub(crate) fn lease(origin: &Origin) -> Result<Lease, Vec<String>> {
    let process = process::get().map_err(|it| vec![it.to_owned()])?;
    let candidate = Candidate::read(origin)?;
    let mut registry = registry();
    if let Some(entry) = registry.entries.iter_mut().find(|it| it.instance.origin == *origin) {
        if entry.instance.gate().active().digest != candidate.digest() {
            entry.instance.reload();
        }
        entry.users = entry.users.saturating_add(1);
        return Ok(Lease(Arc::clone(&entry.instance)));
    }
    let previous = registry.forerunner(candidate.rules());
    let previous = previous.as_ref().map(|it| &it.installation);
    let instance = Arc::new(Instance::start(candidate, previous, process)?);
    registry.entries.push(Entry { instance: Arc::clone(&instance), users: 1 });
    registry.settle(process);
    process.runtime.spawn(forget_series(Arc::downgrade(&instance), process));
    Ok(Lease(instance))
}

impl Lease {
    /// What checks requests under the configuration.
    pub(crate) fn endpoint(&self) -> &Arc<Endpoint> {
        self.0.endpoint()
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut registry = registry();
        let own = |it: &&mut Entry| Arc::ptr_eq(&it.instance, &self.0);
        if let Some(entry) = registry.entries.iter_mut().find(own) {
            entry.users = entry.users.saturating_sub(1);
        }
        if let Ok(process) = process::get() {
            registry.settle(process);
        }
    }
}

impl Registry {
    /// The configuration whose state a new one takes over: with the same store of used proofs, and the most
    /// issuers in common; of several, the newest.
    fn forerunner(&self, rules: &InstallationRules) -> Option<Arc<Active>> {
        let known = |active: &Active| {
            let issuers = &active.installation.issuers;
            let is_known = |name: &str| issuers.iter().any(|it| it.name() == name);
            rules.issuers.iter().filter(|it| is_known(&it.issuer.name)).count()
        };
        let all = self.entries.iter().map(|it| it.instance.gate().active());
        all.max_by_key(|it| (it.installation.replay.is_where(&rules.dpop.replay), known(it)))
    }

    /// Ends what nobody uses, and has the admin listeners tell of what is in force.
    fn settle(&mut self, process: &'static Process) {
        self.end_unused();
        let named = |address: &Address| self.entries.iter().any(|it| it.instance.admin == *address);
        for desk in self.desks.extract_if(.., |it| !named(&it.address)) {
            desk.task.abort();
        }
        // What comes last is shown: the newest of those in use.
        let (used, unused): (Vec<_>, Vec<_>) = self.entries.iter().partition(|it| 0 < it.users);
        for entry in unused.into_iter().chain(used) {
            let instance = &entry.instance;
            match self.desks.iter().find(|it| it.address == instance.admin) {
                Some(desk) => desk.shown.store(Arc::new(instance.page(process, &desk.places))),
                None => self.desks.push(Desk::open(instance, process)),
            }
        }
        self.retain_series(process);
    }

    /// Ends what nobody uses. A file may be named again, and what was used at a listener that is gone must be
    /// known when it comes back: of those that share their used proofs, one stays.
    fn end_unused(&mut self) {
        let stays = |it: &Entry| 0 < it.users || matches!(it.instance.origin, Origin::File(_));
        let used = self.entries.iter().filter(|it| stays(it));
        let mut known: Vec<_> = used.map(Entry::replay).collect();
        let mut kept = vec![];
        for entry in mem::take(&mut self.entries).into_iter().rev() {
            let store = entry.replay();
            let has_more = match store.entries() {
                Some(_) => !known.iter().any(|it| Arc::ptr_eq(it, &store)),
                // Another one finds them where they are.
                None => known.is_empty(),
            };
            if has_more {
                known.push(store);
            }
            if has_more || stays(&entry) {
                kept.push(entry);
            }
        }
        kept.reverse();
        self.entries = kept;
    }

    /// Drops the series of policies and issuers that no configuration has.
    fn retain_series(&self, process: &Process) {
        let active: Vec<_> = self.entries.iter().map(|it| it.instance.gate().active()).collect();
        let policies = active.iter().map(|it| it.policies());
        let policy =
            |name: &str| policies.clone().any(|it| it.policies.iter().any(|it| *it.name == *name));
        process.metrics.retain_policies(policy);
        let issuer =
            |name: &str| policies.clone().any(|it| it.issuers.iter().any(|it| *it.name == *name));
        process.metrics.retain_issuers(issuer);
    }
}

/// Drops the series that no configuration has any more, after each reload of an instance.
async fn forget_series(instance: std::sync::Weak<Instance>, process: &'static Process) {
    let Some(mut replaced) = instance.upgrade().map(|it| it.gate().replacements()) else { return };
    // An error means that the instance is gone.
    while replaced.changed().await.is_ok() {
        registry().retain_series(process);
    }
}

impl Entry {
    /// The proofs that were used under it.
    fn replay(&self) -> Arc<ReplayStore> {
        Arc::clone(&self.instance.gate().active().installation.replay)
    }
}

impl Desk {
    fn open(instance: &Instance, process: &Process) -> Self {
        let places = Places::new("admin", admin::PLACES, Arc::default());
        let shown = Arc::new(ArcSwap::from_pointee(instance.page(process, &places)));
        let address = instance.admin.clone();
        let task = serve(address.clone(), Arc::clone(&places), Arc::clone(&shown));
        let task = process.runtime.spawn(task).abort_handle();
        Self { address, places, shown, task }
    }
}

/// Serves `shown` as soon as the address is to be had: another process may have it, as the one before a hot
/// restart has.
async fn serve(address: Address, places: Arc<Places>, shown: Arc<ArcSwap<Admin>>) {
    let mut told = false;
    loop {
        match Listener::bind(&address, Arc::clone(&places)) {
            Ok(listener) => {
                tracing::info!(admin = %listener.bound(), "listening");
                return Admin::serve(shown, listener).await;
            }
            Err(error) => {
                if !mem::replace(&mut told, true) {
                    tracing::warn!(%error, "the admin address is tried again until it is free");
                }
                sleep(TRY_AGAIN).await;
            }
        }
    }
}
