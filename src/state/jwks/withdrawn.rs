//! Keys that an issuer no longer publishes, and that go on to count for a while where its
//! operator knows that its replicas publish different sets.

use super::{Held, Shared};
use keybound_core::jose::KeySet;
use keybound_core::jose::VerifyingKey;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep_until};

/// A key that was in the issuer's set.
#[derive(Clone, Debug)]
pub(super) struct Withdrawn {
    key: VerifyingKey,
    /// When the set came in which it was missing.
    since: Instant,
}

impl Withdrawn {
    fn counts(&self, grace: Duration, now: Instant) -> bool {
        now.saturating_duration_since(self.since) < grace
    }
}

/// The keys that count on after `published` came in place of what is `held`.
pub(super) fn withdrawn(
    held: Option<&Held>,
    published: &KeySet,
    grace: Duration,
    now: Instant,
) -> Vec<Withdrawn> {
    // What had become unusable is not brought back.
    let Some(held) = held.filter(|it| now < it.usable_until) else { return vec![] };
    let new = held.published.missing_from(published).cloned();
    let new = new.map(|key| Withdrawn { key, since: now });
    let old = held.withdrawn.iter().filter(|it| !published.holds(it.key.id())).cloned();
    new.chain(old).filter(|it| it.counts(grace, now)).collect()
}

/// All keys that count.
pub(super) fn all(published: &Arc<KeySet>, withdrawn: &[Withdrawn]) -> Arc<KeySet> {
    if withdrawn.is_empty() {
        return Arc::clone(published);
    }
    Arc::new(published.with(withdrawn.iter().map(|it| it.key.clone())))
}

impl Held {
    /// The same without those withdrawn keys whose grace is over: another set, if there are such.
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
    /// Drops each withdrawn key when its grace is over, for ever.
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
