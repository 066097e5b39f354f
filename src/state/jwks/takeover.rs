//! What a new configuration takes over of the keys that are held: all of them, where it names the
//! same place for the keys of the same issuer.

use super::keeper::Order;
use super::source::{BadSource, Source};
use super::{IssuerKeys, KeyRules};
use crate::clock::Clock;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::runtime::Handle;

/// The keys of an issuer for a new configuration, before anything has changed for those who use the
/// old one.
#[derive(Debug)]
pub struct Prepared {
    /// The keys.
    pub keys: Arc<IssuerKeys>,
    /// What is to change of how they are kept.
    pub change: Option<Change>,
    /// Whether keys are held that come from another place, and no longer count.
    pub left_behind: bool,
}

/// Keys that are held, and how they are to be kept from now on.
#[derive(Debug)]
pub struct Change {
    keys: Arc<IssuerKeys>,
    rules: KeyRules,
    source: Source,
}

/// Prepares to keep the keys of `issuer` as `rules` say. If `previous` are of the same issuer and from the same place,
/// they are taken over with all that they hold.
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
    let keys = IssuerKeys::start_after(previous, issuer, rules, Arc::clone(clock), runtime)?;
    Ok(Prepared { keys: Arc::new(keys), change: None, left_behind })
}

impl Prepared {
    /// Has the keys kept as the new configuration says. It cannot fail.
    pub fn apply(self) -> Arc<IssuerKeys> {
        self.change.into_iter().for_each(Change::apply);
        self.keys
    }
}

impl Change {
    /// Has the keys kept as the new configuration says. It cannot fail.
    pub fn apply(self) {
        let Self { keys, rules, source } = self;
        keys.keep_by(rules, source);
    }
}

impl IssuerKeys {
    /// Whether the keys are had from where `rules` say. With which authorities the place proves
    /// itself does not matter: it is asked again at once.
    fn is_from(&self, rules: &KeyRules) -> bool {
        self.rules.load().source == rules.source
    }

    /// What is to change so that the keys are kept as `rules` say.
    fn change_to(self: &Arc<Self>, rules: &KeyRules) -> Result<Option<Change>, BadSource> {
        if **self.rules.load() == *rules {
            return Ok(None);
        }
        let source = Source::new(&self.issuer, rules)?;
        Ok(Some(Change { keys: Arc::clone(self), rules: rules.clone(), source }))
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
