//! Knows tokens that were verified before, by their SHA-256. Never proofs, never decisions.
//!
//! Only tokens whose signature verified come in, so that a flood of forged ones displaces
//! nothing. Whoever takes one out checks its time again, and that its key still counts.

use crate::jose::jwk::SignedBy;
use crate::jose::thumbprint::Thumbprint;
use crate::oauth::access_token::AccessToken;
use crate::policy::TokenCacheLimits;
use quick_cache::sync::{Cache, DefaultLifecycle};
use quick_cache::{OptionsBuilder, Weighter};
use std::fmt;
use std::hash::{BuildHasherDefault, Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// A token that was verified.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The token.
    pub token: Arc<AccessToken>,
    /// The key that verified it.
    pub signed_by: SignedBy,
}

/// Verified tokens, bounded by number and by bytes.
pub struct TokenCache {
    entries: Cache<Digest, Entry, Cost, BuildHasherDefault<Prefix>>,
    hits: AtomicU64,
    misses: AtomicU64,
}

/// The SHA-256 of a token, which identifies it and gives nothing of it away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Digest(Thumbprint);

impl From<Thumbprint> for Digest {
    /// From the SHA-256 of a token as it came.
    fn from(hash: Thumbprint) -> Self {
        Self(hash)
    }
}

impl TokenCache {
    /// An empty cache that holds no more than `limits` allow.
    pub fn new(limits: TokenCacheLimits) -> Self {
        let entries = u64::try_from(limits.entries).unwrap_or(u64::MAX).max(1);
        let bytes = u64::try_from(limits.bytes).unwrap_or(u64::MAX).max(1);
        // An entry weighs at least its share, so that the one bound keeps the other too.
        let cost = Cost { share: bytes.div_ceil(entries) };
        let cache = OptionsBuilder::new()
            .estimated_items_capacity(limits.entries.min(EXPECTED))
            .weight_capacity(bytes)
            .shards(SHARDS)
            .build()
            .map(|it| Cache::with_options(it, cost, <_>::default(), DefaultLifecycle::default()));
        let entries = cache.unwrap_or_else(|_| {
            Cache::with(EXPECTED, bytes, cost, <_>::default(), DefaultLifecycle::default())
        });
        Self { entries, hits: AtomicU64::new(0), misses: AtomicU64::new(0) }
    }

    /// The token with this digest, if it was verified before.
    pub fn get(&self, digest: &Digest) -> Option<Entry> {
        let found = self.entries.get(digest);
        let counter = if found.is_some() { &self.hits } else { &self.misses };
        counter.fetch_add(1, Ordering::Relaxed);
        found
    }

    /// Remembers a token.
    pub fn insert(&self, digest: Digest, entry: Entry) {
        self.entries.insert(digest, entry);
    }

    /// Forgets a token.
    pub fn remove(&self, digest: &Digest) {
        drop(self.entries.remove(digest));
    }

    /// How many tokens are remembered.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// How many look-ups found a token.
    pub fn hits(&self) -> u64 {
        self.hits.load(Ordering::Relaxed)
    }

    /// How many look-ups did not.
    pub fn misses(&self) -> u64 {
        self.misses.load(Ordering::Relaxed)
    }
}

impl fmt::Debug for TokenCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenCache").field("entries", &self.len()).finish_non_exhaustive()
    }
}

/// Room that is made at the start; more is made as tokens come.
const EXPECTED: usize = 10_000;

/// Each shard has a lock. A few for each core keep readers out of each other's way; more would
/// cut the capacity into pieces too small to hold what they should.
const SHARDS: usize = 16;

/// The memory that an entry takes.
#[derive(Clone, Copy)]
struct Cost {
    share: u64,
}

impl Weighter<Digest, Entry> for Cost {
    fn weight(&self, _: &Digest, entry: &Entry) -> u64 {
        u64::try_from(entry.token.bytes()).unwrap_or(u64::MAX).max(self.share)
    }
}

/// Hashes a digest by taking its first octets, which are as good as random.
#[derive(Default)]
pub(super) struct Prefix(u64);

impl Hash for Digest {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let prefix = self.0.octets().first_chunk().copied().unwrap_or_default();
        state.write_u64(u64::from_le_bytes(prefix));
    }
}

impl Hasher for Prefix {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u64(&mut self, prefix: u64) {
        self.0 = prefix;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}
