//! What a new configuration takes over of the keys that are held: all of them, where it names the
//! same place for the keys of the same issuer.

use super::IssuerKeys;
use super::keeper::Order;
use super::source::{BadSource, Source};
use crate::clock::Clock;
use crate::policy::{Issuer, KeyRules};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::runtime::Handle;

/// The keys for a new configuration, before anything has changed for those who use the old one.
#[derive(Debug)]
pub struct Prepared {
    keys: Vec<Arc<IssuerKeys>>,
    changes: Vec<Change>,
    left_behind: Vec<String>,
}

/// Keys that are held, and how they are to be kept from now on.
#[derive(Debug)]
struct Change {
    keys: Arc<IssuerKeys>,
    rules: KeyRules,
    source: Source,
}

/// Prepares to keep the keys of all `issuers`, in their order. Those of `previous` that are of the
/// same issuer and from the same place are taken over with all that they hold.
pub fn prepare(
    issuers: &[Arc<Issuer>],
    previous: &[Arc<IssuerKeys>],
    clock: &Arc<dyn Clock>,
    runtime: &Handle,
) -> Result<Prepared, BadSource> {
    let mut prepared = Prepared { keys: vec![], changes: vec![], left_behind: vec![] };
    for issuer in issuers {
        let known = previous.iter().find(|it| it.issuer == issuer.name);
        let keys = match known {
            Some(keys) if keys.is_from(&issuer.keys) => {
                prepared.changes.extend(keys.change_to(issuer)?);
                Arc::clone(keys)
            }
            other_place => {
                if other_place.is_some_and(|it| it.current().is_some()) {
                    prepared.left_behind.push(issuer.name.to_string());
                }
                let previous = other_place.map(|it| &**it);
                let keys = IssuerKeys::start_after(previous, issuer, Arc::clone(clock), runtime)?;
                Arc::new(keys)
            }
        };
        prepared.keys.push(keys);
    }
    Ok(prepared)
}

/// Starts to keep the keys of all `issuers`, in their order, as [`prepare`] would.
pub fn start_all(
    issuers: &[Arc<Issuer>],
    previous: &[Arc<IssuerKeys>],
    clock: &Arc<dyn Clock>,
    runtime: &Handle,
) -> Result<Vec<Arc<IssuerKeys>>, BadSource> {
    prepare(issuers, previous, clock, runtime).map(Prepared::apply)
}

impl Prepared {
    /// The keys of each issuer.
    pub fn keys(&self) -> &[Arc<IssuerKeys>] {
        &self.keys
    }

    /// The issuers whose keys come from another place than before, so that those that were held
    /// no longer count.
    pub fn left_behind(&self) -> &[String] {
        &self.left_behind
    }

    /// Has the keys that were taken over kept as the new configuration says. It cannot fail.
    pub fn apply(self) -> Vec<Arc<IssuerKeys>> {
        for Change { keys, rules, source } in self.changes {
            keys.keep_by(rules, source);
        }
        self.keys
    }
}

impl IssuerKeys {
    /// Whether the keys are had from where `rules` say. With which authorities the place proves
    /// itself does not matter: it is asked again at once.
    fn is_from(&self, rules: &KeyRules) -> bool {
        self.rules.load().source == rules.source
    }

    /// What is to change so that the keys are kept as `issuer` demands.
    fn change_to(self: &Arc<Self>, issuer: &Issuer) -> Result<Option<Change>, BadSource> {
        if **self.rules.load() == issuer.keys {
            return Ok(None);
        }
        let source = Source::new(&issuer.name, &issuer.keys)?;
        Ok(Some(Change { keys: Arc::clone(self), rules: issuer.keys.clone(), source }))
    }

    /// Keeps what is held by new rules, and asks the issuer at once.
    fn keep_by(&self, rules: KeyRules, source: Source) {
        let upkeep = rules.upkeep.clone();
        self.ended_before.store(self.progress.borrow().ended, Ordering::Relaxed);
        self.rules.store(Arc::new(rules));
        self.shared.keep_by(&upkeep);
        // An error says that the keeper has gone with its runtime.
        drop(self.orders.send(Order { source, upkeep }));
    }
}
