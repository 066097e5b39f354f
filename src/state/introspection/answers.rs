//! Knows what issuers said about tokens not long ago, by the tokens' SHA-256. Bounded by number and
//! by bytes.

use crate::denial::Denial;
use crate::jose::jwk::SignedBy;
use crate::oauth::access_token::AccessToken;
use crate::oauth::introspection::Jwt;
use crate::policy::introspection::IntrospectionUpkeep;
use crate::state::token_cache::{Digest, Seeded};
use quick_cache::sync::{Cache, DefaultLifecycle};
use quick_cache::{OptionsBuilder, Weighter};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;

/// What an issuer says about a token, as far as it counts here.
#[derive(Clone, Debug)]
pub(super) enum Finding {
    /// It is active.
    Active(Introspected),
    /// It is not, or it is not for us.
    Refused(Denial),
}

/// A token that its issuer called active.
#[derive(Clone, Debug)]
pub struct Introspected {
    /// The token.
    pub token: Arc<AccessToken>,
    /// What goes upstream in its place.
    pub forward: Option<Arc<Jwt>>,
    /// The key with which the issuer signed the answer, if it did.
    pub(super) signed_by: Option<SignedBy>,
}

/// What was found, each for a time. Refusals have a place of their own, so that a flood of tokens
/// that are none displaces none that is one.
pub(super) struct Answers {
    active: Bounded<Introspected>,
    refused: Bounded<Denial>,
    upkeep: IntrospectionUpkeep,
}

type Bounded<T> = Cache<Digest, Kept<T>, Cost, Seeded>;

#[derive(Clone)]
pub(super) struct Kept<T> {
    what: T,
    until: Instant,
}

impl Answers {
    pub(super) fn new(upkeep: IntrospectionUpkeep) -> Self {
        let entries = upkeep.cache_entries;
        Self { active: bounded(entries), refused: bounded(entries), upkeep }
    }

    /// What was found of the token with this digest, while it counts.
    pub(super) fn get(&self, digest: &Digest) -> Option<Finding> {
        let now = Instant::now();
        if let Some(kept) = self.active.get(digest).filter(|it| now < it.until) {
            return Some(Finding::Active(kept.what));
        }
        let kept = self.refused.get(digest).filter(|it| now < it.until)?;
        Some(Finding::Refused(kept.what))
    }

    /// Remembers what was found of a token that ends after `lifetime`.
    pub(super) fn insert(&self, digest: Digest, finding: &Finding, lifetime: Duration) {
        let kept_for = match finding {
            Finding::Active(_) => self.upkeep.cache_ttl.min(lifetime),
            Finding::Refused(_) => self.upkeep.negative_ttl,
        };
        let now = Instant::now();
        let Some(until) = now.checked_add(kept_for).filter(|it| now < *it) else { return };
        // What was said before counts no more.
        match finding {
            Finding::Active(what) => {
                self.refused.remove(&digest);
                self.active.insert(digest, Kept { what: what.clone(), until });
            }
            Finding::Refused(what) => {
                self.active.remove(&digest);
                self.refused.insert(digest, Kept { what: *what, until });
            }
        }
    }

    /// How many tokens are remembered as active.
    pub(super) fn active(&self) -> usize {
        self.active.len()
    }

    /// How many tokens are remembered as refused.
    pub(super) fn refused(&self) -> usize {
        self.refused.len()
    }
}

impl fmt::Debug for Answers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (active, refused) = (self.active(), self.refused());
        f.debug_struct("Answers").field("active", &active).field("refused", &refused).finish()
    }
}

fn bounded<T: Clone>(entries: usize) -> Bounded<T>
where
    Cost: Weighter<Digest, Kept<T>>,
{
    let expected = entries.min(EXPECTED);
    // An entry weighs at least its share, so that the one bound keeps the other too.
    let cost = Cost { share: BYTES.div_ceil(u64::try_from(entries).unwrap_or(u64::MAX).max(1)) };
    let options = OptionsBuilder::new()
        .estimated_items_capacity(expected)
        .weight_capacity(BYTES)
        .shards(SHARDS)
        .build();
    let cache = options
        .map(|it| Cache::with_options(it, cost, <_>::default(), DefaultLifecycle::default()));
    cache.unwrap_or_else(|_| {
        Cache::with(expected, BYTES, cost, <_>::default(), DefaultLifecycle::default())
    })
}

/// Each shard has a lock.
const SHARDS: usize = 16;

/// Room that is made at the start; more is made as tokens come.
const EXPECTED: usize = 10_000;

/// What the tokens of one issuer may take. A JWT to forward has a kilobyte or two.
const BYTES: u64 = 64 << 20;

/// The memory that an entry takes.
#[derive(Clone, Copy)]
pub(super) struct Cost {
    share: u64,
}

impl Weighter<Digest, Kept<Introspected>> for Cost {
    fn weight(&self, _: &Digest, kept: &Kept<Introspected>) -> u64 {
        let forward = kept.what.forward.as_ref().map_or(0, |it| it.as_str().len());
        let bytes = kept.what.token.bytes().saturating_add(forward);
        u64::try_from(bytes).unwrap_or(u64::MAX).max(self.share)
    }
}

impl Weighter<Digest, Kept<Denial>> for Cost {
    fn weight(&self, _: &Digest, _: &Kept<Denial>) -> u64 {
        self.share
    }
}
