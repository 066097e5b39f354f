//! A cache of verified tokens, keyed by their tags (`token_tag`). Proofs and decisions are never cached.
//!
//! Only tokens with a valid signature are inserted, so that a flood of forged ones evicts nothing.
//! After a hit the caller still checks the token's times and that its key is still accepted.
//!
//! Beside them it remembers for which client tokens are bound to a certificate. That costs nothing where
//! a token is found in the cache: it is written when one enters, and read when one is refused.

use super::token_tag::{Tag, TagKey};
use crate::invariant;
use crate::randomness::NoRandomness;
use keybound_core::VerifiedToken;
use keybound_core::facts::shortened;
use keybound_core::jose::Thumbprint;
use keybound_core::oauth::Token;
use quick_cache::sync::{Cache, DefaultLifecycle};
use quick_cache::{OptionsBuilder, UnitWeighter, Weighter};
use std::fmt;
use std::hash::{BuildHasher, Hash, Hasher, RandomState};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The limits of the cache. Whichever is reached first applies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TokenCacheLimits {
    /// The maximum number of tokens.
    pub entries: usize,
    /// The approximate maximum size in bytes.
    pub bytes: usize,
}

impl Default for TokenCacheLimits {
    fn default() -> Self {
        Self { entries: 100_000, bytes: 64 << 20 }
    }
}

/// Verified tokens, bounded by number and by bytes.
pub struct TokenCache {
    entries: Cache<Tag, VerifiedToken, Cost, Seeded>,
    key: Arc<TagKey>,
    counts: Arc<Counts>,
    clients: Arc<Clients>,
}

/// The clients of certificates, by thumbprint.
type Clients = Cache<Digest, Arc<str>, UnitWeighter, Seeded>;

/// Lookups so far, in this cache and in those that it replaced.
#[derive(Debug, Default)]
struct Counts {
    hits: AtomicU64,
    misses: AtomicU64,
}

/// The SHA-256 of a token, which identifies it and reveals nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Digest(Thumbprint);

impl From<Thumbprint> for Digest {
    /// From the SHA-256 of a token as received.
    fn from(hash: Thumbprint) -> Self {
        Self(hash)
    }
}

impl TokenCache {
    /// An empty cache within `limits`.
    ///
    /// # Errors
    ///
    /// The system has no randomness for the key of the tags.
    pub fn new(limits: TokenCacheLimits) -> Result<Self, NoRandomness> {
        let clients = Cache::with(
            CLIENTS,
            CLIENTS.try_into().unwrap_or(u64::MAX),
            UnitWeighter,
            <_>::default(),
            DefaultLifecycle::default(),
        );
        let (key, clients) = (Arc::new(TagKey::draw()?), Arc::new(clients));
        Ok(Self { entries: entries(limits), key, counts: Arc::default(), clients })
    }

    /// A cache with other `limits` that keeps the counters and the clients, and as many of the entries as
    /// fit.
    #[must_use]
    pub fn under(&self, limits: TokenCacheLimits) -> Self {
        let (key, counts) = (Arc::clone(&self.key), Arc::clone(&self.counts));
        let clients = Arc::clone(&self.clients);
        let new = Self { entries: entries(limits), key, counts, clients };
        self.entries.iter().for_each(|(tag, entry)| new.insert_at(tag, entry));
        new
    }

    /// What is cached of this token.
    pub fn get(&self, token: Token<'_>) -> Option<VerifiedToken> {
        let found = self.tag(token).and_then(|it| self.entries.get(&it));
        let counter = if found.is_some() { &self.counts.hits } else { &self.counts.misses };
        counter.fetch_add(1, Ordering::Relaxed);
        found
    }

    /// Inserts what was verified of a token, and remembers for which client its certificate is.
    pub fn insert(&self, token: Token<'_>, entry: VerifiedToken) {
        if let Some(tag) = self.tag(token) {
            self.insert_at(tag, entry);
        }
    }

    fn tag(&self, token: Token<'_>) -> Option<Tag> {
        let tag = self.key.tag(token.as_bytes());
        if tag.is_none() {
            invariant::broken("each token has a tag");
        }
        tag
    }

    fn insert_at(&self, tag: Tag, entry: VerifiedToken) {
        let client_id = entry.token.claims.text("client_id");
        if let (Some(bound_to), Some(client_id)) = (entry.token.confirmation.x5t_s256, client_id) {
            self.is_for(bound_to.into(), shortened(client_id));
        }
        self.entries.insert(tag, entry);
    }

    /// The client for which a token was bound to this certificate most recently, among those remembered.
    pub fn client_of(&self, certificate: Thumbprint) -> Option<Arc<str>> {
        self.clients.get(&Digest::from(certificate))
    }

    fn is_for(&self, certificate: Digest, client_id: &str) {
        if self.clients.get(&certificate).is_none_or(|it| *it != *client_id) {
            self.clients.insert(certificate, client_id.into());
        }
    }

    /// The number of cached tokens.
    pub fn entries(&self) -> usize {
        self.entries.len()
    }

    /// The number of lookups that found a token.
    pub fn hits(&self) -> u64 {
        self.counts.hits.load(Ordering::Relaxed)
    }

    /// The number of lookups that found none.
    pub fn misses(&self) -> u64 {
        self.counts.misses.load(Ordering::Relaxed)
    }
}

impl fmt::Debug for TokenCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenCache").field("entries", &self.entries()).finish_non_exhaustive()
    }
}

/// An empty cache within `limits`.
fn entries(limits: TokenCacheLimits) -> Cache<Tag, VerifiedToken, Cost, Seeded> {
    let entries = u64::try_from(limits.entries).unwrap_or(u64::MAX).max(1);
    let bytes = u64::try_from(limits.bytes).unwrap_or(u64::MAX).max(1);
    // An entry weighs at least its share of the bytes, so that one bound enforces both limits.
    let cost = Cost { share: bytes.div_ceil(entries) };
    let cache = OptionsBuilder::new()
        .estimated_items_capacity(limits.entries.min(EXPECTED))
        .weight_capacity(bytes)
        .shards(SHARDS)
        .build()
        .map(|it| Cache::with_options(it, cost, <_>::default(), DefaultLifecycle::default()));
    cache.unwrap_or_else(|_| {
        Cache::with(EXPECTED, bytes, cost, <_>::default(), DefaultLifecycle::default())
    })
}

/// The most certificates whose clients are remembered, with some 200 bytes each.
const CLIENTS: usize = 4096;

/// Initial capacity in entries; the cache grows as needed.
const EXPECTED: usize = 10_000;

/// Each shard has a lock. A few per core avoid contention; more would split the capacity into parts
/// too small for large entries.
const SHARDS: usize = 16;

/// The size of an entry in bytes.
#[derive(Clone, Copy)]
struct Cost {
    share: u64,
}

impl Weighter<Tag, VerifiedToken> for Cost {
    fn weight(&self, _: &Tag, entry: &VerifiedToken) -> u64 {
        u64::try_from(entry.token.bytes()).unwrap_or(u64::MAX).max(self.share)
    }
}

/// A seeded hash of digests. Without the seed, an attacker could search for tokens whose digests
/// agree in some bits, and so make them all collide.
#[derive(Clone, Debug)]
pub(super) struct Seeded([u64; 2]);

/// The hash of one digest.
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

    /// One multiplication in which every bit depends on the seeds, which is enough since a digest
    /// is already uniform.
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

/// The lower and the upper word.
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
    fn a_certificate_is_that_of_its_last_client_whatever_the_limits_of_tokens_are() {
        let cache = TokenCache::new(TokenCacheLimits::default()).unwrap();
        let certificate = Thumbprint::of(b"certificate");
        assert_eq!(cache.client_of(certificate), None);
        for client in ["a", "a", "b"] {
            cache.is_for(certificate.into(), client);
            assert_eq!(cache.client_of(certificate).as_deref(), Some(client));
        }
        let smaller = cache.under(TokenCacheLimits { entries: 1, bytes: 1 });
        assert_eq!(smaller.client_of(certificate).as_deref(), Some("b"));
        assert_eq!(smaller.client_of(Thumbprint::of(b"other")), None);
    }

    #[test]
    fn no_more_certificates_are_remembered_than_there_is_room_for() {
        let cache = TokenCache::new(TokenCacheLimits::default()).unwrap();
        for number in 0..2 * CLIENTS {
            cache.is_for(Thumbprint::of(&number.to_le_bytes()).into(), "client");
        }
        assert!(cache.clients.len() <= CLIENTS, "{}", cache.clients.len());
    }

    #[test]
    fn no_two_tables_place_a_digest_alike() {
        let digest = Digest::from(Thumbprint::of(b"token"));
        let places: HashSet<_> = (0..10).map(|_| Seeded::default().hash_one(digest)).collect();
        assert_eq!(places.len(), 10);
    }
}
