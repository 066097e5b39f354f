//! The rules that an installation is built from.

use crate::state::introspection::IntrospectionRules;
use crate::state::jwks::KeyRules;
use crate::state::replay::ReplayRules;
use crate::state::token_cache::TokenCacheLimits;
use keybound_core::oauth::NonceKeys;
use keybound_core::policy::{Issuer, PolicySet};
use std::sync::Arc;
use std::time::Duration;

/// What an installation is made from.
#[derive(Clone, Debug)]
pub struct InstallationRules {
    /// What is demanded.
    pub policies: PolicySet,
    /// How its issuers are reached, in the order of [`PolicySet::issuers`].
    pub issuers: Vec<IssuerRules>,
    /// What checks may cost.
    pub limits: Limits,
    /// What DPoP needs besides the policies.
    pub dpop: DpopRules,
}

/// An issuer, and how it is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IssuerRules {
    /// What its tokens are held to.
    pub issuer: Arc<Issuer>,
    /// Where its keys come from.
    pub keys: KeyRules,
    /// How it is asked about its tokens; none: it is not.
    pub introspection: Option<IntrospectionRules>,
}

/// What DPoP needs besides the policies.
#[derive(Clone, Debug, Default)]
pub struct DpopRules {
    /// Where used proofs are recorded.
    pub replay: ReplayRules,
    /// The secrets that nonces are made with; none: drawn at start.
    pub nonce_keys: Option<Arc<NonceKeys>>,
}

/// What checks may cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The longest that a check may take.
    pub check_deadline: Duration,
    /// How many checks may be under way at once.
    pub concurrent_checks: usize,
    /// How much of verified tokens is remembered.
    pub token_cache: TokenCacheLimits,
}

impl Limits {
    /// For how long a check waits for anything but its turn: less than it may take, so that it ends
    /// with the reason why it waited in vain.
    pub fn patience(&self) -> Duration {
        self.check_deadline.saturating_mul(4).checked_div(5).unwrap_or(self.check_deadline)
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            // Envoy gives up after 200 ms.
            check_deadline: Duration::from_millis(150),
            concurrent_checks: 10_000,
            token_cache: TokenCacheLimits::default(),
        }
    }
}
