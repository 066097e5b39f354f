//! Knows tokens that were verified before, by their SHA-256. Never proofs, never decisions.
//!
//! Only tokens whose signature verified come in, so that a flood of forged ones displaces
//! nothing. Whoever takes one out checks its time again, and that its key still counts.

use keybound_core::VerifiedToken;
use keybound_core::jose::Thumbprint;
use quick_cache::sync::{Cache, DefaultLifecycle};
use quick_cache::{OptionsBuilder, Weighter};
use std::fmt;
use std::hash::{BuildHasher, Hash, Hasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// How much of verified tokens is remembered. Whichever bound is met first counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TokenCacheLimits {
    /// At most so many tokens.
    pub entries: usize,
    /// At most about so many bytes.
    pub bytes: usize,
}

impl Default for TokenCacheLimits {
    fn default() -> Self {
        Self { entries: 100_000, bytes: 64 << 20 }
    }
}

/// Verified tokens, bounded by number and by bytes.
pub struct TokenCache {
    entries: Cache<Digest, VerifiedToken, Cost, Seeded>,
    counts: Arc<Counts>,
}

/// What was looked up so far, in this cache and in those whose place it took.
#[derive(Debug, Default)]
struct Counts {
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
        Self { entries, counts: Arc::default() }
    }

    /// A cache under other `limits`, with what this one holds as far as there is room, and which
    /// counts on.
    #[must_use]
    pub fn under(&self, limits: TokenCacheLimits) -> Self {
        let new = Self { counts: Arc::clone(&self.counts), ..Self::new(limits) };
        self.entries.iter().for_each(|(digest, entry)| new.insert(digest, entry));
        new
    }

    /// The token with this digest, if it was verified before.
    pub fn get(&self, digest: &Digest) -> Option<VerifiedToken> {
        let found = self.entries.get(digest);
        let counter = if found.is_some() { &self.counts.hits } else { &self.counts.misses };
        counter.fetch_add(1, Ordering::Relaxed);
        found
    }

    /// Remembers a token.
    pub fn insert(&self, digest: Digest, entry: VerifiedToken) {
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
        self.counts.hits.load(Ordering::Relaxed)
    }

    /// How many look-ups did not.
    pub fn misses(&self) -> u64 {
        self.counts.misses.load(Ordering::Relaxed)
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

impl Weighter<Digest, VerifiedToken> for Cost {
    fn weight(&self, _: &Digest, entry: &VerifiedToken) -> u64 {
        u64::try_from(entry.token.bytes()).unwrap_or(u64::MAX).max(self.share)
    }
}

/// Places digests in a table. Each table has a seed of its own: without it, whoever grinds tokens
/// until some bits of their digests agree could have them all meet in one place.
#[derive(Clone, Debug)]
pub(super) struct Seeded([u64; 2]);

/// The place of one digest.
pub(super) struct Place {
    seeds: [u64; 2],
    place: u64,
}

impl Default for Seeded {
    fn default() -> Self {
        let random = RandomState::new();
        Self([0, 1].map(|it| random.hash_one(it)))
    }
}

impl BuildHasher for Seeded {
    type Hasher = Place;

    fn build_hasher(&self) -> Place {
        Place { seeds: self.0, place: 0 }
    }
}

impl Hash for Digest {
    fn hash<H: Hasher>(&self, state: &mut H) {
        let half = self.0.octets().first_chunk().copied().unwrap_or_default();
        state.write_u128(u128::from_le_bytes(half));
    }
}

impl Hasher for Place {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            let next = self.place.rotate_left(8) ^ u64::from(*byte);
            self.write_u128(next.into());
        }
    }

    /// One multiplication, of which every bit depends on the seeds. The digest is as good as
    /// random already.
    fn write_u128(&mut self, half: u128) {
        let [low, high] = words(half);
        let [first, second] = self.seeds;
        let [low, high] = words(u128::from(low ^ first).wrapping_mul((high ^ second).into()));
        self.place = low ^ high;
    }

    fn finish(&self) -> u64 {
        self.place
    }
}

/// The lower word and the upper one.
fn words(double: u128) -> [u64; 2] {
    let mask = u128::from(u64::MAX);
    [double & mask, double >> 64].map(|it| u64::try_from(it).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn digests_that_were_ground_to_agree_do_not_meet() {
        // For each seed there are some that meet, which nobody can find without it: it stands still.
        let seeded = Seeded([0x243f_6a88_85a3_08d3, 0x1319_8a2e_0370_7344]);
        let place = |number: u16, at: usize| {
            let mut octets = [7; 32];
            octets[at..at + 2].copy_from_slice(&number.to_le_bytes());
            seeded.hash_one(Digest::from(Thumbprint::from_octets(octets)))
        };
        // All agree but for two octets: of the first half, so many bits can be had by grinding.
        for at in 0..15 {
            for bits in [0, 16, 48] {
                let places: HashSet<_> =
                    (0..1000).map(|it| place(it, at) >> bits & 0xffff).collect();
                assert!(900 < places.len(), "{} at octet {at}, bit {bits}", places.len());
            }
        }
    }

    #[test]
    fn no_two_tables_place_a_digest_alike() {
        let digest = Digest::from(Thumbprint::of(b"token"));
        let places: HashSet<_> = (0..10).map(|_| Seeded::default().hash_one(digest)).collect();
        assert_eq!(places.len(), 10);
    }
}
