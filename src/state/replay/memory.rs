//! A replay store in memory. Each record is dropped once its proof would be stale.
//!
//! The store is bounded as a whole and per client key, and a proof that does not fit is refused: a
//! client that floods the store must not evict another client's records. A restart loses all
//! records.
//!
//! If the clock goes back, records are kept until their expiry comes again. A proof whose record
//! may have been dropped already cannot be told from a new one and is refused. This ends by itself
//! once proofs expire later than all dropped records.

use super::{Unavailable, Use};
use keybound_core::UnixTime;
use keybound_core::oauth::ProofId;
use std::collections::BTreeMap;
use std::collections::hash_map::{Entry, HashMap};
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// The limits on live records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MemoryLimits {
    /// In all. A record takes 70 to 190 bytes.
    pub capacity: usize,
    /// Per client key.
    pub per_key: usize,
}

/// Records in memory.
pub struct MemoryStore {
    capacity: AtomicUsize,
    per_key: AtomicUsize,
    /// Records in all shards, and reservations for records about to be made.
    held: AtomicUsize,
    shards: Box<[Mutex<Shard>]>,
}

/// A shard: all records of some of the keys.
#[derive(Default)]
struct Shard {
    /// Records with their expiry. The standard hasher is seeded, which matters since clients choose
    /// the digested values.
    records: HashMap<Name, UnixTime>,
    /// The number of records per key.
    keys: HashMap<Digest, usize>,
    /// Records by expiry. There are at most a few hundred different ones, since they are whole
    /// seconds.
    due: BTreeMap<UnixTime, Vec<Name>>,
    /// The latest expiry of a record that was dropped.
    forgotten: Option<UnixTime>,
}

/// A compact identifier of a proof.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
struct Name {
    key: Digest,
    jti: Digest,
}

/// Half a SHA-256. A client that finds two `jti` with the same half has only its own proof refused,
/// and matching the half of another client's key takes 2^128 attempts.
type Digest = [u8; 16];

impl MemoryLimits {
    /// The default capacity.
    pub const CAPACITY: usize = 1_000_000;

    /// The default limit per key for a capacity: one twentieth of it, but at least 1000.
    ///
    /// A key can be used `per_key / proof_window` times per second: 833 times with the defaults. Where
    /// the time of a proof is that of its nonce, a record lives for at most three minutes.
    pub const fn share_of(capacity: usize) -> usize {
        match capacity.checked_div(20) {
            Some(share) if 1000 < share => share,
            Some(_) | None => 1000,
        }
    }
}

impl Default for MemoryLimits {
    fn default() -> Self {
        Self { capacity: Self::CAPACITY, per_key: Self::share_of(Self::CAPACITY) }
    }
}

impl MemoryStore {
    /// An empty store. Memory is allocated as records are made.
    pub fn new(limits: MemoryLimits) -> Self {
        Self {
            capacity: AtomicUsize::new(limits.capacity),
            per_key: AtomicUsize::new(limits.per_key),
            held: AtomicUsize::new(0),
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
        }
    }

    /// Changes the limits. Existing records stay.
    pub fn set_limits(&self, limits: MemoryLimits) {
        self.capacity.store(limits.capacity, Ordering::Relaxed);
        self.per_key.store(limits.per_key, Ordering::Relaxed);
    }

    /// Records `proof` as used, and returns whether it was used before. The record lives through
    /// `expires`, rounded up to the second.
    pub fn record(
        &self,
        proof: &ProofId,
        expires: UnixTime,
        now: UnixTime,
    ) -> Result<Use, Unavailable> {
        let expires = rounded_up(expires);
        let has_place = self.take_place() || (self.drop_expired(now) && self.take_place());
        let name = Name { key: half(&proof.key), jti: half(&proof.jti) };
        let per_key = self.per_key.load(Ordering::Relaxed);

        let mut shard = self.shard(&proof.key);
        let before = shard.records.len();
        shard.forget_expired(now, AT_ONCE);
        let recorded = shard.record(name, expires, now, has_place, per_key);
        let after = shard.records.len();
        drop(shard);

        // The reservation is already included.
        let free = before.saturating_add(usize::from(has_place)).saturating_sub(after);
        self.held.fetch_sub(free, Ordering::Relaxed);
        recorded
    }

    /// What [`Self::record`] would say of `proof` if there were room for it. Records nothing.
    pub fn look(
        &self,
        proof: &ProofId,
        expires: UnixTime,
        now: UnixTime,
    ) -> Result<Use, Unavailable> {
        let name = Name { key: half(&proof.key), jti: half(&proof.jti) };
        self.shard(&proof.key).look(name, rounded_up(expires), now)
    }

    /// The number of records, including expired ones that have not been dropped yet.
    pub fn entries(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }

    fn take_place(&self) -> bool {
        let capacity = self.capacity.load(Ordering::Relaxed);
        let taken = |held: usize| held.checked_add(1).filter(|it| *it <= capacity);
        self.held.fetch_update(Ordering::Relaxed, Ordering::Relaxed, taken).is_ok()
    }

    /// Drops the expired records of the first shard that has any. Returns whether one had.
    fn drop_expired(&self, now: UnixTime) -> bool {
        self.shards.iter().any(|shard| {
            let mut shard = lock(shard);
            let before = shard.records.len();
            shard.forget_expired(now, usize::MAX);
            let dropped = before.saturating_sub(shard.records.len());
            self.held.fetch_sub(dropped, Ordering::Relaxed);
            0 < dropped
        })
    }

    /// Chosen by the key, so that one lock guards everything that must agree.
    fn shard(&self, key: &[u8; 32]) -> MutexGuard<'_, Shard> {
        let [.., last] = *key;
        let index = usize::from(last).checked_rem(SHARDS).unwrap_or_default();
        #[expect(clippy::indexing_slicing, reason = "there are as many as the index may be")]
        lock(&self.shards[index])
    }
}

impl Shard {
    fn record(
        &mut self,
        name: Name,
        expires: UnixTime,
        now: UnixTime,
        has_place: bool,
        per_key: usize,
    ) -> Result<Use, Unavailable> {
        match self.records.get(&name).copied() {
            Some(known) if now <= known => return Ok(Use::Repeat),
            Some(past) => self.forget(name, past),
            None => (),
        }
        if self.forgotten.is_some_and(|it| expires <= it) {
            return Err(Unavailable::Forgotten);
        }
        if per_key <= self.live(name.key, per_key, now) {
            return Err(Unavailable::KeyFull);
        }
        if !has_place {
            return Err(Unavailable::Full);
        }
        self.insert(name, expires);
        Ok(Use::First)
    }

    fn look(&self, name: Name, expires: UnixTime, now: UnixTime) -> Result<Use, Unavailable> {
        match self.records.get(&name).copied() {
            Some(known) if now <= known => Ok(Use::Repeat),
            // An expired record would be dropped first.
            past if self.forgotten.max(past).is_some_and(|it| expires <= it) => {
                Err(Unavailable::Forgotten)
            }
            Some(_) | None => Ok(Use::First),
        }
    }

    /// The number of live records of a key. Expired ones are dropped first only if the key would
    /// exceed its limit.
    fn live(&mut self, key: Digest, limit: usize, now: UnixTime) -> usize {
        let count = |shard: &Self| shard.keys.get(&key).copied().unwrap_or_default();
        if limit <= count(self) {
            self.forget_expired(now, usize::MAX);
        }
        count(self)
    }

    fn insert(&mut self, name: Name, expires: UnixTime) {
        let count = self.keys.entry(name.key).or_default();
        *count = count.saturating_add(1);
        self.due.entry(expires).or_default().push(name);
        self.records.insert(name, expires);
    }

    /// Drops at most `at_most` expired records.
    fn forget_expired(&mut self, now: UnixTime, at_most: usize) {
        for _ in 0..at_most {
            let Some(mut earliest) = self.due.first_entry() else { return };
            let expired = *earliest.key();
            if now <= expired {
                return;
            }
            let name = earliest.get_mut().pop();
            if earliest.get().is_empty() {
                earliest.remove();
            }
            if let Some(name) = name {
                self.forget(name, expired);
            }
        }
    }

    /// Drops a record, unless it was made again since.
    fn forget(&mut self, name: Name, expired: UnixTime) {
        match self.records.entry(name) {
            Entry::Occupied(record) if *record.get() == expired => drop(record.remove()),
            Entry::Occupied(_) | Entry::Vacant(_) => return,
        }
        self.forgotten = self.forgotten.max(Some(expired));
        if let Entry::Occupied(mut count) = self.keys.entry(name.key) {
            match count.get().checked_sub(1) {
                Some(0) | None => drop(count.remove()),
                Some(rest) => *count.get_mut() = rest,
            }
        }
    }
}

impl fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryStore").field("held", &self.entries()).finish_non_exhaustive()
    }
}

/// Only a failed allocation can panic while the lock is held, and the records are consistent then.
fn lock(shard: &Mutex<Shard>) -> MutexGuard<'_, Shard> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

fn rounded_up(expires: UnixTime) -> UnixTime {
    UnixTime::from_secs(expires.saturating_add(ALMOST_A_SECOND).as_secs())
}

fn half(digest: &[u8; 32]) -> Digest {
    digest.first_chunk().copied().unwrap_or_default()
}

/// A table is locked while it grows, so tables are kept small.
const SHARDS: usize = 64;

/// More than each call adds, so that expired records are soon gone; few enough to hold the lock for
/// microseconds only.
const AT_ONCE: usize = 64;

const ALMOST_A_SECOND: Duration = Duration::from_millis(999);

#[cfg(test)]
mod tests {
    use super::*;
    use Unavailable::{Forgotten, Full, KeyFull};
    use Use::{First, Repeat};
    use keybound_core::jose::Thumbprint;
    use std::sync::Barrier;

    fn at(millis: i64) -> UnixTime {
        UnixTime::from_millis(millis.saturating_add(1_700_000_000_000))
    }

    fn store(capacity: usize, per_key: usize) -> MemoryStore {
        MemoryStore::new(MemoryLimits { capacity, per_key })
    }

    /// The proof with this `jti`, by the key with this name.
    fn proof(key: &str, jti: u32) -> ProofId {
        let digest = |bytes| *Thumbprint::of(bytes).octets();
        ProofId { key: digest(key.as_bytes()), jti: digest(&jti.to_be_bytes()) }
    }

    /// Key, jti, expires, now, and what must come out.
    type Step = (&'static str, u32, i64, i64, Result<Use, Unavailable>);

    #[track_caller]
    fn check(store: &MemoryStore, steps: &[Step]) {
        for (step, &(key, jti, expires, now, expected)) in steps.iter().enumerate() {
            let found = store.record(&proof(key, jti), at(expires), at(now));
            assert_eq!(found, expected, "step {step}");
        }
    }

    #[test]
    fn a_record_lives_through_the_moment_at_which_the_proof_expires() {
        for now in [0, 59_999, 60_000] {
            check(
                &store(10, 10),
                &[("a", 1, 60_000, 0, Ok(First)), ("a", 1, 60_000, now, Ok(Repeat))],
            );
        }
        check(
            &store(10, 10),
            &[("a", 1, 60_000, 0, Ok(First)), ("a", 1, 120_000, 60_001, Ok(First))],
        );
    }

    #[test]
    fn a_record_never_dies_early_for_being_rounded() {
        check(
            &store(10, 10),
            &[
                ("a", 1, 59_001, 0, Ok(First)),
                ("a", 1, 120_000, 60_000, Ok(Repeat)),
                ("a", 1, 120_000, 60_001, Ok(First)),
            ],
        );
    }

    #[test]
    fn who_looks_is_told_the_same_and_leaves_no_mark() {
        let store = store(10, 10);
        let look = |key, jti, expires, now| store.look(&proof(key, jti), at(expires), at(now));
        assert_eq!(look("a", 1, 60_000, 0), Ok(First));
        assert_eq!(look("a", 1, 60_000, 0), Ok(First));
        assert_eq!(store.entries(), 0);
        check(&store, &[("a", 1, 59_001, 0, Ok(First))]);
        for (key, jti, expires, now, expected) in [
            ("a", 1, 59_001, 0, Ok(Repeat)),
            ("a", 1, 120_000, 60_000, Ok(Repeat)),
            ("a", 1, 120_000, 60_001, Ok(First)),
            ("a", 1, 60_000, 60_001, Err(Forgotten)),
            ("a", 1, 60_001, 60_001, Ok(First)),
            ("a", 2, 60_000, 0, Ok(First)),
            ("b", 1, 60_000, 0, Ok(First)),
        ] {
            assert_eq!(look(key, jti, expires, now), expected, "{key} {jti} {expires} {now}");
        }
        check(&store, &[("a", 1, 120_000, 60_000, Ok(Repeat)), ("a", 2, 60_000, 0, Ok(First))]);
        check(&store, &[("a", 3, 180_000, 120_000, Ok(First))]);
        // By now the records are gone, and the clock goes back.
        assert_eq!(look("a", 1, 60_000, 0), Err(Forgotten));
        assert_eq!(look("a", 2, 60_001, 0), Ok(First));
    }

    #[test]
    fn a_full_store_refuses_what_is_new_and_remembers_what_it_has() {
        check(
            &store(2, 2),
            &[
                ("a", 1, 60_000, 0, Ok(First)),
                ("b", 1, 60_000, 0, Ok(First)),
                ("c", 1, 60_000, 60_000, Err(Full)),
                ("a", 1, 60_000, 60_000, Ok(Repeat)),
                ("b", 1, 60_000, 60_000, Ok(Repeat)),
                ("c", 1, 120_000, 60_001, Ok(First)),
                ("d", 1, 120_000, 60_001, Ok(First)),
                ("e", 1, 120_000, 60_001, Err(Full)),
            ],
        );
    }

    #[test]
    fn a_key_that_has_its_share_is_refused_and_no_other_is() {
        check(
            &store(10, 2),
            &[
                ("a", 1, 60_000, 0, Ok(First)),
                ("a", 2, 60_000, 0, Ok(First)),
                ("a", 3, 60_000, 60_000, Err(KeyFull)),
                ("a", 1, 60_000, 60_000, Ok(Repeat)),
                ("b", 1, 60_000, 60_000, Ok(First)),
                ("a", 3, 120_000, 60_001, Ok(First)),
                ("a", 4, 120_000, 60_001, Ok(First)),
                ("a", 5, 120_000, 60_001, Err(KeyFull)),
            ],
        );
    }

    #[test]
    fn a_key_gets_its_whole_share_back_at_once_when_its_records_expire() {
        let store = store(1000, 500);
        for jti in 0..500 {
            assert_eq!(store.record(&proof("a", jti), at(60_000), at(0)), Ok(First));
        }
        assert_eq!(store.record(&proof("a", 500), at(60_000), at(0)), Err(KeyFull));
        for jti in 0..500 {
            assert_eq!(store.record(&proof("a", jti), at(120_000), at(60_001)), Ok(First));
        }
        assert_eq!(store.record(&proof("a", 500), at(120_000), at(60_001)), Err(KeyFull));
    }

    #[test]
    fn refused_and_repeated_proofs_take_no_place() {
        let store = store(2, 1);
        for expected in [First, Repeat, Repeat] {
            check(&store, &[("a", 1, 60_000, 0, Ok(expected)), ("a", 2, 60_000, 0, Err(KeyFull))]);
        }
        assert_eq!(store.entries(), 1);
        check(&store, &[("b", 1, 60_000, 0, Ok(First)), ("c", 1, 60_000, 0, Err(Full))]);
        assert_eq!(store.entries(), 2);
    }

    #[test]
    fn expired_records_leave_the_store_as_others_come() {
        let store = store(10_000, 10_000);
        for jti in 0..1000 {
            assert_eq!(store.record(&proof("a", jti), at(60_000), at(0)), Ok(First));
        }
        for jti in 0..20 {
            assert_eq!(store.record(&proof("a", jti), at(120_000), at(60_001)), Ok(First));
        }
        assert_eq!(store.entries(), 20);
        for jti in 0..20 {
            assert_eq!(store.record(&proof("a", jti), at(120_000), at(120_000)), Ok(Repeat));
        }
    }

    #[test]
    fn a_clock_that_goes_back_makes_nothing_forgotten() {
        let hour = 3_600_000;
        check(
            &store(10, 10),
            &[
                ("a", 1, 60_000, 0, Ok(First)),
                // One hour back: other proofs are recorded as ever, and expire as ever.
                ("a", 2, 60_000 - hour, -hour, Ok(First)),
                ("a", 2, 60_000 - hour, 60_000 - hour, Ok(Repeat)),
                ("a", 3, 120_000 - hour, 60_001 - hour, Ok(First)),
                // And when the time comes again, the first proof is still known.
                ("a", 1, 60_000, 60_000, Ok(Repeat)),
            ],
        );
    }

    #[test]
    fn a_proof_whose_record_may_have_been_dropped_is_refused() {
        let hour = 3_600_000;
        check(
            &store(10, 10),
            &[
                ("a", 1, 60_000, 0, Ok(First)),
                // One hour ahead by mistake: the record goes.
                ("a", 2, hour + 60_000, hour, Ok(First)),
                // And back: that proof cannot be told from one that is new.
                ("a", 1, 60_000, 1000, Err(Forgotten)),
                ("a", 3, 60_000, 1000, Err(Forgotten)),
                // What expires later than all that was dropped is new for certain.
                ("a", 3, 60_001, 1000, Ok(First)),
                ("a", 2, hour + 60_000, hour, Ok(Repeat)),
            ],
        );
    }

    #[test]
    fn times_at_the_ends_of_the_world_do_not_panic() {
        let store = store(10, 10);
        let ends = [i64::MIN, -1, 0, i64::MAX].map(UnixTime::from_millis);
        for (expires, now) in ends.iter().flat_map(|it| ends.map(|now| (*it, now))) {
            assert_ne!(store.record(&proof("a", 1), expires, now), Err(Full));
        }
    }

    #[test]
    fn of_many_who_show_one_proof_at_once_one_is_first() {
        let (store, barrier) = (store(1000, 1000), Barrier::new(50));
        for round in 0..20 {
            let proof = proof("a", round);
            let show = || {
                barrier.wait();
                store.record(&proof, at(60_000), at(0))
            };
            let found: Vec<_> = std::thread::scope(|scope| {
                let threads: Vec<_> = (0..50).map(|_| scope.spawn(show)).collect();
                threads.into_iter().map(|it| it.join().unwrap()).collect()
            });
            assert_eq!(found.iter().filter(|it| **it == Ok(First)).count(), 1);
            assert_eq!(found.iter().filter(|it| **it == Ok(Repeat)).count(), 49);
        }
        assert_eq!(store.entries(), 20);
    }

    #[test]
    fn threads_that_compete_for_the_last_places_never_exceed_the_capacity() {
        let store = store(100, 100);
        let firsts: usize = std::thread::scope(|scope| {
            let flood = |thread: u32| {
                let proofs = (0..50).map(move |jti| proof(&format!("{thread} {jti}"), jti));
                proofs.filter(|it| store.record(it, at(60_000), at(0)) == Ok(First)).count()
            };
            let threads: Vec<_> = (0..8).map(|it| scope.spawn(move || flood(it))).collect();
            threads.into_iter().map(|it| it.join().unwrap()).sum()
        });
        assert_eq!((firsts, store.entries()), (100, 100));
    }

    #[test]
    fn the_share_of_a_key_is_a_twentieth_but_never_tiny() {
        for (capacity, share) in
            [(0, 1000), (20_000, 1000), (20_019, 1000), (20_020, 1001), (1_000_000, 50_000)]
        {
            assert_eq!(MemoryLimits::share_of(capacity), share);
        }
    }

    #[test]
    fn raised_limits_hold_at_once_and_lowered_ones_drop_nothing() {
        let store = store(1, 1);
        check(&store, &[("a", 1, 60_000, 0, Ok(First)), ("b", 1, 60_000, 0, Err(Full))]);
        store.set_limits(MemoryLimits { capacity: 2, per_key: 1 });
        check(&store, &[("b", 1, 60_000, 0, Ok(First))]);
        store.set_limits(MemoryLimits { capacity: 1, per_key: 1 });
        check(&store, &[("a", 1, 60_000, 0, Ok(Repeat)), ("b", 1, 60_000, 0, Ok(Repeat))]);
        check(&store, &[("c", 1, 60_000, 0, Err(Full))]);
    }
}
