//! The DPoP proofs that have been used (RFC 9449 §11.1).
//!
//! The one operation tests and records in one step. There is no `contains`: of two calls that both
//! look before either writes, both would be told [`Use::First`]. A store that cannot tell refuses:
//! it never lets a proof pass, and never forgets one early to make room.
//!
//! A read-only store serves to explain a check. No decision depends on it.

pub mod memory;
pub mod redis;

use keybound_core::oauth::ProofId;
use keybound_core::{Detail, UnixTime, Use};
use memory::{MemoryLimits, MemoryStore};
use redis::{RedisRules, RedisStore};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::runtime::Handle;

/// Why a proof could not be recorded. It must then not be accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unavailable {
    /// The store is full of live records.
    Full,
    /// The limit on live records of this key is reached.
    KeyFull,
    /// The clock went back to a time whose records have been dropped.
    Forgotten,
    /// There is no connection to the store.
    Unreachable,
    /// The store does not answer in time.
    Late,
    /// The store is out of memory, and must not evict.
    OutOfMemory,
    /// The store's ACL does not let this user write.
    NotPermitted,
    /// The store is a replica, which only reads.
    ReadOnly,
    /// Another server of the cluster has the record, or none.
    Moved,
    /// The store is loading, or busy with something else.
    NotReady,
    /// The store cannot persist or replicate what it records.
    NotDurable,
    /// The store refused for another reason, or sent an unexpected response.
    Refused,
}

/// Where used proofs are recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReplayRules {
    /// In this process: for one replica, or where routing keeps each client on one.
    Memory(MemoryLimits),
    /// In Redis or Valkey, for all replicas.
    Redis(RedisRules),
}

/// A store of used proofs.
#[derive(Debug)]
pub struct ReplayStore {
    backend: Backend,
    counts: Arc<Counts>,
}

/// Outcomes so far, in this store and in those that it replaced.
#[derive(Debug, Default)]
struct Counts {
    recorded: AtomicU64,
    repeats: AtomicU64,
    /// In the order of [`Unavailable::ALL`].
    unavailable: [AtomicU64; Unavailable::ALL.len()],
}

#[derive(Debug)]
enum Backend {
    Memory(Arc<MemoryStore>),
    Redis(RedisStore),
    ReadOnly(Arc<MemoryStore>),
}

impl ReplayStore {
    /// Starts a store. Connections are made on `runtime`; it returns at once, connected or not.
    pub fn start(rules: &ReplayRules, runtime: &Handle) -> Self {
        let backend = match rules {
            ReplayRules::Memory(limits) => return Self::in_memory(*limits),
            ReplayRules::Redis(rules) => Backend::Redis(RedisStore::start(rules.clone(), runtime)),
        };
        Self::of(backend)
    }

    /// An empty store in memory.
    pub fn in_memory(limits: MemoryLimits) -> Self {
        Self::of(Backend::Memory(Arc::new(MemoryStore::new(limits))))
    }

    /// A read-only view of this store: it finds what was recorded and records nothing. None for
    /// Redis, since the ACL that we ask for grants only `SET`, and so we cannot read.
    pub fn read_only(&self) -> Option<Self> {
        match &self.backend {
            Backend::Memory(store) | Backend::ReadOnly(store) => {
                Some(Self::of(Backend::ReadOnly(Arc::clone(store))))
            }
            Backend::Redis(_) => None,
        }
    }

    fn of(backend: Backend) -> Self {
        Self { backend, counts: Arc::default() }
    }

    /// The same store with the counters of `previous`, which it replaces.
    #[must_use]
    pub fn after(self, previous: &Self) -> Self {
        Self { counts: Arc::clone(&previous.counts), ..self }
    }

    /// Applies new rules, if this store can; otherwise another must be started. A changed limit
    /// never drops records in memory.
    pub fn adopt(&self, rules: &ReplayRules) -> bool {
        match (&self.backend, rules) {
            (Backend::Memory(store), ReplayRules::Memory(limits)) => {
                store.set_limits(*limits);
                true
            }
            (Backend::Redis(store), ReplayRules::Redis(rules)) => store.adopt(rules),
            (Backend::Memory(_), ReplayRules::Redis(_))
            | (Backend::Redis(_), ReplayRules::Memory(_))
            | (Backend::ReadOnly(_), _) => false,
        }
    }

    /// Whether a store under `rules` would find these records: the same memory, or the same Redis,
    /// whatever the user.
    pub fn is_where(&self, rules: &ReplayRules) -> bool {
        match (&self.backend, rules) {
            (Backend::Memory(_), ReplayRules::Memory(_)) => true,
            (Backend::Redis(store), ReplayRules::Redis(rules)) => store.rules().is_where(rules),
            (Backend::Memory(_), ReplayRules::Redis(_))
            | (Backend::Redis(_), ReplayRules::Memory(_))
            | (Backend::ReadOnly(_), _) => false,
        }
    }

    /// Records `proof` as used, and returns whether it was used before.
    ///
    /// `expires` is the last moment at which the proof would otherwise be accepted; the record
    /// lives through it. A caller that stops waiting cannot know whether the record was made.
    pub async fn record(
        &self,
        proof: &ProofId,
        expires: UnixTime,
        now: UnixTime,
    ) -> Result<Use, Unavailable> {
        let recorded = match &self.backend {
            Backend::Memory(store) => store.record(proof, expires, now),
            Backend::Redis(store) => store.record(proof, expires, now).await,
            Backend::ReadOnly(store) => store.look(proof, expires, now),
        };
        match recorded {
            Ok(Use::First) => self.counts.recorded.fetch_add(1, Ordering::Relaxed),
            Ok(Use::Repeat) => self.counts.repeats.fetch_add(1, Ordering::Relaxed),
            Err(cause) => self.failed(cause).map_or(0, |it| it.fetch_add(1, Ordering::Relaxed)),
        };
        recorded
    }

    /// How often recording failed, by cause.
    pub fn unavailable(&self) -> impl Iterator<Item = (Unavailable, u64)> {
        let totals = self.counts.unavailable.iter().map(|it| it.load(Ordering::Relaxed));
        Unavailable::ALL.iter().copied().zip(totals)
    }

    fn failed(&self, cause: Unavailable) -> Option<&AtomicU64> {
        let position = Unavailable::ALL.iter().position(|it| *it == cause)?;
        self.counts.unavailable.get(position)
    }

    /// Problems of a usable store, for the operator to fix.
    pub fn concerns(&self) -> Vec<String> {
        match &self.backend {
            Backend::Memory(_) | Backend::ReadOnly(_) => Vec::new(),
            Backend::Redis(store) => store.concerns(),
        }
    }

    /// The number of proofs recorded by this process.
    pub fn recorded(&self) -> u64 {
        self.counts.recorded.load(Ordering::Relaxed)
    }

    /// The number of replayed proofs seen by this process.
    pub fn repeats(&self) -> u64 {
        self.counts.repeats.load(Ordering::Relaxed)
    }

    /// The number of records, including expired ones that have not been dropped yet; `None` if they
    /// are not in this process.
    pub fn entries(&self) -> Option<usize> {
        match &self.backend {
            Backend::Memory(store) | Backend::ReadOnly(store) => Some(store.entries()),
            Backend::Redis(_) => None,
        }
    }

    /// Whether the store can be used right now, as far as this process knows.
    pub fn is_reachable(&self) -> bool {
        match &self.backend {
            Backend::Memory(_) | Backend::ReadOnly(_) => true,
            Backend::Redis(store) => store.is_reachable(),
        }
    }

    /// Waits until the store can be used.
    pub async fn reachable(&self) {
        match &self.backend {
            Backend::Memory(_) | Backend::ReadOnly(_) => (),
            Backend::Redis(store) => store.reachable().await,
        }
    }

    /// Its name in the configuration.
    pub const fn label(&self) -> &'static str {
        match self.backend {
            Backend::Memory(_) | Backend::ReadOnly(_) => "memory",
            Backend::Redis(_) => "redis",
        }
    }
}

impl Default for ReplayRules {
    fn default() -> Self {
        Self::Memory(MemoryLimits::default())
    }
}

impl Unavailable {
    /// Every cause, in the order of the documentation.
    pub const ALL: &[Self] = &[
        Self::Full,
        Self::KeyFull,
        Self::Forgotten,
        Self::Unreachable,
        Self::Late,
        Self::OutOfMemory,
        Self::NotPermitted,
        Self::ReadOnly,
        Self::Moved,
        Self::NotReady,
        Self::NotDurable,
        Self::Refused,
    ];

    /// The detail of the denial, for the operator.
    pub const fn detail(self) -> Detail {
        match self {
            Self::Full => Detail::StoreFull,
            Self::KeyFull => Detail::ClientOverShare,
            Self::Forgotten => Detail::ClockWentBack,
            Self::Unreachable => Detail::StoreUnreachable,
            Self::Late => Detail::StoreLate,
            Self::OutOfMemory => Detail::StoreOutOfMemory,
            Self::NotPermitted => Detail::StoreNotPermitted,
            Self::ReadOnly => Detail::StoreReadOnly,
            Self::Moved => Detail::StoreMoved,
            Self::NotReady => Detail::StoreNotReady,
            Self::NotDurable => Detail::StoreNotDurable,
            Self::Refused => Detail::StoreRefuses,
        }
    }
}

impl fmt::Display for Unavailable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.detail().sentence())
    }
}

impl std::error::Error for Unavailable {}

#[cfg(test)]
mod tests {
    use super::*;
    use keybound_core::Denial;
    use std::collections::HashSet;

    #[test]
    fn every_cause_is_told_apart() {
        let details: HashSet<_> = Unavailable::ALL.iter().map(|it| it.detail()).collect();
        assert_eq!(details.len(), Unavailable::ALL.len());
        assert!(details.iter().all(|it| it.denial() == Denial::ReplayUnavailable));
        let known = Detail::ALL.iter().filter(|it| it.denial() == Denial::ReplayUnavailable);
        assert_eq!(known.count(), details.len());
    }

    #[tokio::test]
    async fn what_could_not_be_recorded_is_counted_by_its_cause() {
        let store = ReplayStore::in_memory(MemoryLimits { capacity: 1, per_key: 1 });
        let now = UnixTime::from_secs(1_800_000_000);
        for (key, jti) in [(1, 1), (1, 2), (1, 3), (2, 1)] {
            let proof = ProofId { key: [key; 32], jti: [jti; 32] };
            let recorded = store.record(&proof, now, now).await;
            assert_eq!(recorded.is_ok(), jti == 1 && key == 1);
        }
        let found: Vec<_> = store.unavailable().filter(|(_, total)| *total != 0).collect();
        assert_eq!(found, [(Unavailable::Full, 1), (Unavailable::KeyFull, 2)]);
    }
}
