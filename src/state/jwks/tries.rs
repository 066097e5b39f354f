//! A limit on signature verifications for tokens without a `kid`. Each candidate key costs one, and
//! anybody can send a token that none of them signed.

use arc_swap::ArcSwapOption;
use keybound_core::jose::Thumbprint;
use keybound_core::jose::VerifyingKey;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The number of failed verifications per second beyond the first of each token: about a tenth of a
/// core.
const IN_VAIN: u64 = 1000;

/// Failed verifications in the present second, and the most likely key.
#[derive(Debug, Default)]
pub(super) struct Tries {
    /// The present second, counted from an arbitrary start.
    second: AtomicU64,
    spent: AtomicU64,
    /// The key that verified the last token without a `kid`.
    likeliest: ArcSwapOption<Thumbprint>,
}

impl Tries {
    /// The candidates, the most likely first.
    pub(super) fn in_order<'k>(&self, mut keys: Vec<&'k VerifyingKey>) -> Vec<&'k VerifyingKey> {
        if let Some(likeliest) = &*self.likeliest.load() {
            keys.sort_by_key(|it| it.id() != **likeliest);
        }
        keys
    }

    /// Whether `tries` more may fail at the time `passed`. They are counted unless given back.
    pub(super) fn spend(&self, tries: u64, passed: Duration) -> bool {
        let second = passed.as_secs();
        if self.second.swap(second, Ordering::Relaxed) != second {
            self.spent.store(0, Ordering::Relaxed);
        }
        let spent = self.spent.fetch_add(tries, Ordering::Relaxed);
        let may = spent.saturating_add(tries) <= IN_VAIN;
        if !may {
            self.give_back(tries);
        }
        may
    }

    fn give_back(&self, tries: u64) {
        let less = |it: u64| Some(it.saturating_sub(tries));
        // This cannot fail, since the closure always returns a value.
        let _before = self.spent.fetch_update(Ordering::Relaxed, Ordering::Relaxed, less);
    }

    /// `key` verified a token without a `kid`, for which `tries` were counted.
    pub(super) fn succeeded(&self, key: &Arc<Thumbprint>, tries: u64) {
        self.give_back(tries);
        if self.likeliest.load().as_ref() != Some(key) {
            self.likeliest.store(Some(Arc::clone(key)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tries_in_vain_are_bounded_in_each_second_and_others_are_given_back() {
        let tries = Tries::default();
        let at = Duration::from_millis;
        assert!(tries.spend(IN_VAIN - 1, at(0)));
        assert!(!tries.spend(2, at(999)));
        assert!(tries.spend(1, at(999)));
        assert!(!tries.spend(1, at(999)));
        tries.succeeded(&Arc::new(Thumbprint::of(b"key")), 1);
        assert!(tries.spend(1, at(999)));
        assert!(!tries.spend(1, at(999)));
        assert!(tries.spend(IN_VAIN, at(1000)));
        assert!(!tries.spend(IN_VAIN + 1, at(2000)), "more than a second has");
    }
}
