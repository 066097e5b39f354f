//! The keys of an issuer as checks use them ([`Keys`]).

use super::IssuerKeys;
use crate::fair_share;
use keybound_core::jose::KeySet;
use keybound_core::jose::Thumbprint;
use keybound_core::jose::VerifyingKey;
use keybound_core::{Keys, Newer, Turns, Waiting};
use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;

/// The keys of an issuer with a limit on the wait for a newer set.
#[derive(Clone, Debug)]
pub struct TimedKeys {
    keys: Arc<IssuerKeys>,
    patience: Duration,
}

impl TimedKeys {
    pub(super) const fn new(keys: Arc<IssuerKeys>, patience: Duration) -> Self {
        Self { keys, patience }
    }

    /// The keys themselves.
    pub const fn shared(&self) -> &Arc<IssuerKeys> {
        &self.keys
    }
}

impl Deref for TimedKeys {
    type Target = IssuerKeys;

    fn deref(&self) -> &IssuerKeys {
        &self.keys
    }
}

impl Keys for TimedKeys {
    fn current(&self) -> Option<Arc<KeySet>> {
        self.keys.current()
    }

    fn available(&self) -> Waiting<'_, Option<Arc<KeySet>>> {
        Box::pin(self.keys.available())
    }

    fn newer_than<'a>(&'a self, seen: &'a Arc<KeySet>) -> Waiting<'a, Newer> {
        Box::pin(async move {
            let newer = timeout(self.patience, self.keys.newer_than(seen)).await;
            newer.unwrap_or_else(|_| self.keys.unasked())
        })
    }

    fn by_likelihood<'k>(&self, keys: Vec<&'k VerifyingKey>) -> Vec<&'k VerifyingKey> {
        self.keys.tries.in_order(keys)
    }

    fn may_try(&self, keys: u64) -> bool {
        self.keys.tries.spend(keys, self.keys.began.elapsed())
    }

    fn was_the_one(&self, key: &Arc<Thumbprint>, granted: u64) {
        self.keys.tries.succeeded(key, granted);
    }

    fn describe(&self) -> String {
        let status = self.keys.status();
        let had = match status.age_seconds {
            Some(age) => format!("keys: {}, {age}s old", status.keys),
            None => "none so far".to_owned(),
        };
        let error = status.last_error.map_or_else(String::new, |it| format!("; {}", it.what));
        let snapshot = if status.from_snapshot { ", from the snapshot" } else { "" };
        format!("{}: {had}{snapshot}{error}", status.source)
    }

    fn turns(&self) -> &dyn Turns {
        &fair_share::ThisThread
    }
}
