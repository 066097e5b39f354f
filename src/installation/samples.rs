//! Installations for tests.

use super::{Installation, Limits};
use crate::state::replay::ReplayStore;
use crate::state::replay::memory::MemoryLimits;
use crate::state::token_cache::TokenCache;
pub(crate) use crate::telemetry::samples::policy_set;
use keybound_core::Rules;
use keybound_core::oauth::NonceKeys;
use keybound_core::policy::PolicySet;
use std::sync::Arc;

/// An installation that demands what `policies` say, without issuers.
pub(crate) fn installation(policies: PolicySet) -> Installation {
    let limits = Limits { concurrent_checks: 2, ..Limits::default() };
    let cache = Arc::new(TokenCache::new(limits.token_cache).unwrap());
    let nonces = Arc::new(NonceKeys::from_octets(&[7; 32]));
    let replay = Arc::new(ReplayStore::in_memory(MemoryLimits::default()));
    Installation::new(Rules::new(policies, nonces), vec![], limits, cache, replay)
}
