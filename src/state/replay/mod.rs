//! Knows which DPoP proofs have been used (RFC 9449 §11.1).
//!
//! The one operation tests and records in one step. There is no `contains`: of two calls that both
//! look before either writes, both would be told [`Use::First`]. A store that cannot tell refuses:
//! it never lets a proof pass, and never forgets one early to make room.
//!
//! To explain a check there are onlookers, which only look. No check goes by what they say.

pub mod memory;
pub mod redis;

use crate::clock::UnixTime;
use crate::denial::Denial;
use crate::oauth::dpop::ProofId;
use memory::{MemoryLimits, MemoryStore};
use redis::{RedisRules, RedisStore};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::runtime::Handle;

/// What is known of a proof that has just been recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// It is used for the first time.
    First,
    /// It has been used before.
    Repeat,
}

/// Why a proof could not be recorded. It must not be accepted then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unavailable {
    /// The store holds as many live records as it may.
    Full,
    /// The store holds as many live records of this key as it may.
    KeyFull,
    /// The clock went back to a time of which records have been dropped.
    Forgotten,
    /// The store does not answer, or not in time.
    Unreachable,
}

/// Where used proofs are recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReplayRules {
    /// In this process: right for one replica, or where the route keeps a client at one.
    Memory(MemoryLimits),
    /// In Redis or Valkey, for all replicas.
    Redis(RedisRules),
}

/// The proofs that have been used.
#[derive(Debug)]
pub struct ReplayStore {
    backend: Backend,
    recorded: AtomicU64,
    repeats: AtomicU64,
}

#[derive(Debug)]
enum Backend {
    Memory(Arc<MemoryStore>),
    Redis(RedisStore),
    Onlooker(Arc<MemoryStore>),
}

impl ReplayStore {
    /// An empty store, or one that is reached from `runtime`. Returns at once, reached or not.
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

    /// A store that says of each proof what this one knows, and records nothing. None for Redis:
    /// whom it lets do no more than it must may not look.
    pub fn onlooker(&self) -> Option<Self> {
        match &self.backend {
            Backend::Memory(store) | Backend::Onlooker(store) => {
                Some(Self::of(Backend::Onlooker(Arc::clone(store))))
            }
            Backend::Redis(_) => None,
        }
    }

    const fn of(backend: Backend) -> Self {
        Self { backend, recorded: AtomicU64::new(0), repeats: AtomicU64::new(0) }
    }

    /// Goes on under new rules, if this store can: otherwise another must be started. What memory
    /// holds is never given up for a change of its limits.
    pub fn adopt(&self, rules: &ReplayRules) -> bool {
        match (&self.backend, rules) {
            (Backend::Memory(store), ReplayRules::Memory(limits)) => {
                store.set_limits(*limits);
                true
            }
            (Backend::Redis(store), ReplayRules::Redis(rules)) => store.rules() == rules,
            (Backend::Memory(_), ReplayRules::Redis(_))
            | (Backend::Redis(_), ReplayRules::Memory(_))
            | (Backend::Onlooker(_), _) => false,
        }
    }

    /// Whether what is recorded here would be found by a store under `rules`, too: the same memory, or
    /// the same Redis, whoever comes there.
    pub fn is_where(&self, rules: &ReplayRules) -> bool {
        match (&self.backend, rules) {
            (Backend::Memory(_), ReplayRules::Memory(_)) => true,
            (Backend::Redis(store), ReplayRules::Redis(rules)) => store.rules().is_where(rules),
            (Backend::Memory(_), ReplayRules::Redis(_))
            | (Backend::Redis(_), ReplayRules::Memory(_))
            | (Backend::Onlooker(_), _) => false,
        }
    }

    /// Records that `proof` is used, and says whether it was before.
    ///
    /// `expires` is the last moment at which the proof would be accepted otherwise: the record
    /// lives through it. A caller that gives up waiting cannot know whether it was made.
    pub async fn record(
        &self,
        proof: &ProofId,
        expires: UnixTime,
        now: UnixTime,
    ) -> Result<Use, Unavailable> {
        let recorded = match &self.backend {
            Backend::Memory(store) => store.record(proof, expires, now),
            Backend::Redis(store) => store.record(proof, expires, now).await,
            Backend::Onlooker(store) => store.look(proof, expires, now),
        };
        match recorded {
            Ok(Use::First) => self.recorded.fetch_add(1, Ordering::Relaxed),
            Ok(Use::Repeat) => self.repeats.fetch_add(1, Ordering::Relaxed),
            Err(_) => 0,
        };
        recorded
    }

    /// How many proofs this process has recorded.
    pub fn recorded(&self) -> u64 {
        self.recorded.load(Ordering::Relaxed)
    }

    /// How many proofs this process has seen that had been used before.
    pub fn repeats(&self) -> u64 {
        self.repeats.load(Ordering::Relaxed)
    }

    /// How many records the store holds, expired ones that have not been dropped yet included;
    /// none when they are not held here.
    pub fn entries(&self) -> Option<usize> {
        match &self.backend {
            Backend::Memory(store) | Backend::Onlooker(store) => Some(store.len()),
            Backend::Redis(_) => None,
        }
    }

    /// Whether the store can be used right now, as far as this process knows.
    pub fn is_reachable(&self) -> bool {
        match &self.backend {
            Backend::Memory(_) | Backend::Onlooker(_) => true,
            Backend::Redis(store) => store.is_reachable(),
        }
    }

    /// Waits until the store can be used.
    pub async fn reachable(&self) {
        match &self.backend {
            Backend::Memory(_) | Backend::Onlooker(_) => (),
            Backend::Redis(store) => store.reachable().await,
        }
    }

    /// As the configuration names it.
    pub const fn label(&self) -> &'static str {
        match self.backend {
            Backend::Memory(_) | Backend::Onlooker(_) => "memory",
            Backend::Redis(_) => "redis",
        }
    }
}

impl Default for ReplayRules {
    fn default() -> Self {
        Self::Memory(MemoryLimits::default())
    }
}

impl From<Unavailable> for Denial {
    fn from(_: Unavailable) -> Self {
        Self::ReplayUnavailable
    }
}

impl fmt::Display for Unavailable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Full => "the replay store is full",
            Self::KeyFull => "the replay store holds too many proofs of one key",
            Self::Forgotten => "the clock went back behind what the replay store remembers",
            Self::Unreachable => "the replay store does not answer",
        })
    }
}

impl std::error::Error for Unavailable {}
