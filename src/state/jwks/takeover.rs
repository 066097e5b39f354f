//! Keys that a new configuration takes over from the old one: all of them, if it names the same
//! source for the same issuer.

use super::keeper::Order;
use super::source::{BadSource, Source};
use super::{IssuerKeys, KeyRules};
use crate::clock::Clock;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::runtime::Handle;

/// The keys of an issuer prepared for a new configuration, before the old one is affected.
#[derive(Debug)]
pub struct Prepared {
    /// The keys.
    pub keys: Arc<IssuerKeys>,
    /// Settings to change when the configuration takes effect.
    pub change: Option<Change>,
    /// Whether the old keys came from another source and are dropped.
    pub left_behind: bool,
}

/// Existing keys and their new settings.
#[derive(Debug)]
pub struct Change {
    keys: Arc<IssuerKeys>,
    rules: KeyRules,
    source: Source,
}

/// Prepares the keys of `issuer` under `rules`. If `previous` has the same issuer and source, its
/// keys are taken over.
pub fn prepare(
    issuer: &Arc<str>,
    rules: &KeyRules,
    previous: Option<&Arc<IssuerKeys>>,
    clock: &Arc<dyn Clock>,
    runtime: &Handle,
) -> Result<Prepared, BadSource> {
    let previous = previous.filter(|it| it.issuer == *issuer);
    if let Some(keys) = previous.filter(|it| it.is_from(rules)) {
        let (keys, change) = (Arc::clone(keys), keys.change_to(rules)?);
        return Ok(Prepared { keys, change, left_behind: false });
    }
    let left_behind = previous.is_some_and(|it| it.current().is_some());
    let previous = previous.map(|it| &**it);
    let keys = IssuerKeys::start(previous, issuer, rules, Arc::clone(clock), runtime)?;
    Ok(Prepared { keys: Arc::new(keys), change: None, left_behind })
}

impl Change {
    /// Applies the new settings. It cannot fail.
    pub fn apply(self) {
        let Self { keys, rules, source } = self;
        keys.keep_by(rules, source);
    }
}

impl IssuerKeys {
    /// Whether the source is the one in `rules`. The authorities that it is verified with may
    /// differ: it is fetched again at once. Keys that may have come over plain http are not kept by
    /// rules that forbid it.
    fn is_from(&self, rules: &KeyRules) -> bool {
        let own = self.rules.load();
        own.source == rules.source && (rules.allow_http || !own.allow_http)
    }

    /// The change that makes the keys follow `rules`.
    fn change_to(self: &Arc<Self>, rules: &KeyRules) -> Result<Option<Change>, BadSource> {
        if **self.rules.load() == *rules {
            return Ok(None);
        }
        let source = Source::new(&self.issuer, rules)?;
        Ok(Some(Change { keys: Arc::clone(self), rules: rules.clone(), source }))
    }

    /// Applies new rules to the present keys, and fetches at once.
    fn keep_by(&self, rules: KeyRules, source: Source) {
        let upkeep = rules.upkeep.clone();
        self.ended_before.store(self.progress.borrow().ended, Ordering::Relaxed);
        self.rules.store(Arc::new(rules));
        self.shared.keep_by(&upkeep);
        // An error means that the keeper ended with its runtime.
        drop(self.orders.send(Order { source, upkeep }));
    }
}
