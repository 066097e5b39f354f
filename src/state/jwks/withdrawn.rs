//! Keys that the issuer no longer publishes, accepted for a grace period. This is for issuers whose
//! replicas are known to publish different sets.

use super::{Held, Shared};
use keybound_core::jose::KeySet;
use keybound_core::jose::VerifyingKey;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep_until};

/// A key that was published earlier.
#[derive(Clone, Debug)]
pub(super) struct Withdrawn {
    key: VerifyingKey,
    /// When the first set without it was fetched.
    since: Instant,
}

impl Withdrawn {
    fn counts(&self, grace: Duration, now: Instant) -> bool {
        now.saturating_duration_since(self.since) < grace
    }
}

/// The keys that stay accepted when `published` replaces `held`.
pub(super) fn withdrawn(
    held: Option<&Held>,
    published: &KeySet,
    grace: Duration,
    now: Instant,
) -> Vec<Withdrawn> {
    // Keys that were too old to use stay dropped.
    let Some(held) = held.filter(|it| now < it.usable_until) else { return vec![] };
    let new = held.published.missing_from(published).cloned();
    let new = new.map(|key| Withdrawn { key, since: now });
    let old = held.withdrawn.iter().filter(|it| !published.holds(it.key.id())).cloned();
    new.chain(old).filter(|it| it.counts(grace, now)).collect()
}

/// All accepted keys.
pub(super) fn all(published: &Arc<KeySet>, withdrawn: &[Withdrawn]) -> Arc<KeySet> {
    if withdrawn.is_empty() {
        return Arc::clone(published);
    }
    Arc::new(published.with(withdrawn.iter().map(|it| it.key.clone())))
}

impl Held {
    /// The same without withdrawn keys whose grace period is over; the set is replaced if there are
    /// any.
    pub(super) fn graced(mut self, grace: Duration, now: Instant) -> Self {
        let before = self.withdrawn.len();
        self.withdrawn.retain(|it| it.counts(grace, now));
        if self.withdrawn.len() == before {
            return self;
        }
        let set = all(&self.published, &self.withdrawn);
        Self { set, ..self }
    }
}

impl Shared {
    /// Drops withdrawn keys at the end of their grace period. It never returns.
    pub(super) async fn drop_withdrawn(self: Arc<Self>, grace: Duration) -> Infallible {
        loop {
            let now = Instant::now();
            if let Some(held) = self.held.load_full()
                && held.withdrawn.iter().any(|it| !it.counts(grace, now))
            {
                self.replace(&held, Held::clone(&held).graced(grace, now));
                continue;
            }
            let ends = self.held.load_full();
            let ends = ends.iter().flat_map(|it| &it.withdrawn);
            match ends.filter_map(|it| it.since.checked_add(grace)).min() {
                None => self.withdrew.notified().await,
                Some(end) => {
                    tokio::select! {
                        () = sleep_until(end) => (),
                        () = self.withdrew.notified() => (),
                    }
                }
            }
        }
    }
}
