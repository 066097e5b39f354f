//! The rules that an installation is built from.

use crate::state::introspection::IntrospectionRules;
use crate::state::jwks::KeyRules;
use crate::state::replay::ReplayRules;
use crate::state::revocation::RevocationRules;
use crate::state::token_cache::TokenCacheLimits;
use keybound_core::oauth::NonceKeys;
use keybound_core::policy::{Issuer, PolicySet};
use std::sync::Arc;
use std::time::Duration;

/// The rules of an installation.
#[derive(Clone, Debug)]
pub struct InstallationRules {
    /// The policies.
    pub policies: PolicySet,
    /// The issuers, in the order of [`PolicySet::issuers`].
    pub issuers: Vec<IssuerRules>,
    /// The limits of checks.
    pub limits: Limits,
    /// DPoP settings that are not part of the policies.
    pub dpop: DpopRules,
}

/// An issuer, and how it is reached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IssuerRules {
    /// The rules for its tokens.
    pub issuer: Arc<Issuer>,
    /// The source of its keys.
    pub keys: KeyRules,
    /// Its introspection, if configured.
    pub introspection: Option<IntrospectionRules>,
    /// How its tokens may be revoked, if configured.
    pub revocation: Option<RevocationRules>,
}

/// DPoP settings that are not part of the policies.
#[derive(Clone, Debug, Default)]
pub struct DpopRules {
    /// The replay store.
    pub replay: ReplayRules,
    /// The nonce secrets; `None` to generate one at start.
    pub nonce_keys: Option<Arc<NonceKeys>>,
}

/// The limits of checks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The maximum duration of a check.
    pub check_deadline: Duration,
    /// The maximum number of concurrent checks.
    pub concurrent_checks: usize,
    /// The limits of the token cache.
    pub token_cache: TokenCacheLimits,
}

impl Limits {
    /// How long a check waits for anything outside: less than its deadline, so that it ends with
    /// the reason for the wait.
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
