//! Everything that is in force under one configuration: the rules of checks, and the state that
//! outlives a configuration, such as issuers' keys, verified tokens and used proofs.
//!
//! A new configuration makes a new installation beside the old one and takes over its state where
//! that still applies. State that cannot be taken over is logged.

mod checker;
mod dry_run;
mod issuer;
mod readiness;
mod rules;
#[cfg(test)]
pub(crate) mod samples;
mod sources;

pub use checker::Checker;
pub use dry_run::DryRun;
pub use issuer::{BadIssuer, LiveIssuer};
pub use rules::{DpopRules, InstallationRules, IssuerRules, Limits};

use crate::clock::Clock;
use crate::randomness::{self, NoRandomness};
use crate::state::certificates::Certificates;
use crate::state::replay::{ReplayRules, ReplayStore};
use crate::state::token_cache::TokenCache;
use keybound_core::Rules;
use keybound_core::oauth::NonceKeys;
use keybound_core::policy::{NonceDemand, PolicySet, ProofRules, ProofTime};
use std::fmt;
use std::sync::Arc;
use tokio::runtime::Handle;

/// Everything that is in force under one configuration.
#[derive(Debug)]
pub struct Installation {
    /// The rules of checks.
    pub rules: Rules,
    /// The issuers, in the order of [`PolicySet::issuers`].
    pub issuers: Vec<Arc<LiveIssuer>>,
    /// The limits of checks.
    pub limits: Limits,
    /// Verified tokens.
    pub cache: Arc<TokenCache>,
    /// Used proofs.
    pub replay: Arc<ReplayStore>,
    /// Parsed client certificates.
    certificates: Certificates,
    /// Whether the nonce secret was generated here, so that no other replica has it.
    nonces_drawn: bool,
}

/// A new installation, and what it could not take over from the previous one.
#[derive(Debug)]
pub struct Made {
    /// The installation.
    pub installation: Installation,
    /// State of the previous one that is lost: sentences for the operator.
    pub losses: Vec<String>,
}

/// Why an installation cannot be made.
#[derive(Debug)]
pub enum StartError {
    /// An issuer cannot be used as it is configured.
    Issuer(BadIssuer),
    /// The system has no randomness for a secret.
    NoRandomness(NoRandomness),
}

impl Installation {
    /// An installation of these parts.
    pub fn new(
        rules: Rules,
        issuers: Vec<Arc<LiveIssuer>>,
        limits: Limits,
        cache: Arc<TokenCache>,
        replay: Arc<ReplayStore>,
    ) -> Self {
        let certificates = Certificates::told_by(rules.policies.client_certificate.clone());
        Self { rules, issuers, limits, cache, replay, certificates, nonces_drawn: false }
    }

    /// Starts an installation under `rules` on `runtime`, and returns at once. State of `previous`
    /// is taken over where it still applies.
    pub fn start(
        rules: InstallationRules,
        previous: Option<&Self>,
        clock: &Arc<dyn Clock>,
        runtime: &Handle,
    ) -> Result<Made, StartError> {
        let known = previous.map_or(&[][..], |it| &it.issuers);
        let issuers = issuer::prepare(&rules, known, clock, runtime)?;
        let InstallationRules { policies, limits, ref dpop, .. } = rules;
        let mut losses = issuers.losses();
        let cache = match previous {
            Some(it) if it.limits.token_cache == limits.token_cache => Arc::clone(&it.cache),
            Some(it) => Arc::new(it.cache.under(limits.token_cache)),
            None => Arc::new(TokenCache::new(limits.token_cache)?),
        };
        let nonces_drawn = dpop.nonce_keys.is_none();
        let nonces = nonces(dpop, previous)?;
        losses.extend(previous.and_then(|it| proofs_left_behind(it, dpop)));
        let proofs = &policies.proofs;
        losses.extend(previous.and_then(|it| good_again(&it.policies().proofs, proofs)));
        let asked_for = policies.proofs.nonce != NonceDemand::Off;
        losses
            .extend(previous.filter(|_| asked_for).and_then(|it| nonces_lost(it, &nonces, clock)));
        // Last, since nothing may fail once a store or keys have new settings.
        let replay = replay(&dpop.replay, previous, runtime);
        let made = Self::new(Rules::new(policies, nonces), issuers.apply(), limits, cache, replay);
        Ok(Made { installation: Self { nonces_drawn, ..made }, losses })
    }

    /// Has issuers asked for their events. What comes is acknowledged, and so this must be in force.
    pub fn hear(&self) {
        let revocations = self.issuers.iter().filter_map(|it| it.revocation.as_ref());
        revocations.filter_map(|it| it.events()).for_each(|it| it.begin());
    }

    /// The policies.
    pub const fn policies(&self) -> &PolicySet {
        &self.rules.policies
    }
}

/// The nonce secrets: those of the configuration, or else those generated now or for the previous
/// installation.
fn nonces(
    dpop: &DpopRules,
    previous: Option<&Installation>,
) -> Result<Arc<NonceKeys>, NoRandomness> {
    match (&dpop.nonce_keys, previous.filter(|it| it.nonces_drawn)) {
        (Some(keys), _) => Ok(Arc::clone(keys)),
        (None, Some(previous)) => Ok(Arc::clone(&previous.rules.nonces)),
        (None, None) => {
            let mut octets = [0; 32];
            randomness::fill(&mut octets)?;
            Ok(Arc::new(NonceKeys::from_octets(&octets)))
        }
    }
}

/// The replay store: the previous one, if it can apply these rules.
fn replay(
    rules: &ReplayRules,
    previous: Option<&Installation>,
    runtime: &Handle,
) -> Arc<ReplayStore> {
    match previous.map(|it| &it.replay) {
        Some(store) if store.adopt(rules) => Arc::clone(store),
        Some(store) => Arc::new(ReplayStore::start(rules, runtime).after(store)),
        None => Arc::new(ReplayStore::start(rules, runtime)),
    }
}

fn proofs_left_behind(previous: &Installation, dpop: &DpopRules) -> Option<String> {
    (!previous.replay.is_where(&dpop.replay)).then(|| {
        "dpop.replay: used proofs are now recorded in another store: each can be replayed once"
            .to_owned()
    })
}

/// Says that used proofs may be good for longer than they are remembered, since they were recorded
/// under rules by which they ended earlier.
fn good_again(previous: &ProofRules, now: &ProofRules) -> Option<String> {
    let key = match (previous.time, now.time) {
        (ProofTime::Iat, ProofTime::Iat) if previous.window < now.window => "proof_window",
        (ProofTime::Iat, ProofTime::Nonce) | (ProofTime::Nonce, ProofTime::Iat) => "time",
        (ProofTime::Iat, ProofTime::Iat) | (ProofTime::Nonce, ProofTime::Nonce) => return None,
    };
    Some(format!(
        "dpop.{key}: used proofs are remembered for as long as they were good before: one that is \
         good for longer now can be replayed once"
    ))
}

fn nonces_lost(
    previous: &Installation,
    nonces: &NonceKeys,
    clock: &Arc<dyn Clock>,
) -> Option<String> {
    let now = clock.now();
    let nonce = previous.rules.nonces.issue(now);
    nonces.check(&nonce, now).is_none().then(|| {
        "dpop.nonce_secret_file: nonces made with the previous secret are no longer accepted: \
         clients get new ones"
            .to_owned()
    })
}

impl From<BadIssuer> for StartError {
    fn from(error: BadIssuer) -> Self {
        Self::Issuer(error)
    }
}

impl From<NoRandomness> for StartError {
    fn from(error: NoRandomness) -> Self {
        Self::NoRandomness(error)
    }
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Issuer(error) => error.fmt(f),
            Self::NoRandomness(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for StartError {}

#[cfg(test)]
mod tests {
    use super::samples::policy_set;
    use super::*;
    use crate::clock::FixedClock;
    use crate::state::replay::memory::MemoryLimits;
    use keybound_core::UnixTime;
    use std::time::Duration;

    const NOW: UnixTime = UnixTime::from_secs(1_800_000_000);

    fn start(
        capacity: usize,
        nonce_keys: Option<Arc<NonceKeys>>,
        previous: Option<&Installation>,
    ) -> Installation {
        let replay = ReplayRules::Memory(MemoryLimits { capacity, per_key: 10 });
        let clock: Arc<dyn Clock> = Arc::new(FixedClock(NOW));
        let rules = InstallationRules {
            policies: policy_set(),
            issuers: vec![],
            limits: Limits::default(),
            dpop: DpopRules { replay, nonce_keys },
        };
        let made = Installation::start(rules, previous, &clock, &Handle::current());
        made.unwrap().installation
    }

    fn keys(octet: u8) -> Arc<NonceKeys> {
        Arc::new(NonceKeys::from_octets(&[octet; 32]))
    }

    #[tokio::test]
    async fn used_proofs_outlive_a_change_of_limits() {
        let old = start(1000, None, None);
        let new = start(2000, None, Some(&old));
        assert!(Arc::ptr_eq(&old.replay, &new.replay));
    }

    #[test]
    fn it_is_told_when_a_proof_may_be_good_for_longer_than_it_is_remembered() {
        use ProofTime::{Iat, Nonce};
        let rules = |time, seconds| {
            let window = Duration::from_secs(seconds);
            ProofRules { time, window, ..ProofRules::default() }
        };
        for (before, now, key) in [
            (rules(Iat, 60), rules(Iat, 60), None),
            (rules(Iat, 60), rules(Iat, 59), None),
            (rules(Iat, 60), rules(Iat, 61), Some("dpop.proof_window: ")),
            (rules(Nonce, 60), rules(Nonce, 61), None),
            (rules(Iat, 300), rules(Nonce, 60), Some("dpop.time: ")),
            (rules(Nonce, 60), rules(Iat, 60), Some("dpop.time: ")),
        ] {
            let told = good_again(&before, &now);
            assert_eq!(told.is_some(), key.is_some(), "{before:?} {now:?}");
            assert!(told.unwrap_or_default().starts_with(key.unwrap_or_default()));
        }
    }

    #[tokio::test]
    async fn nonces_outlive_a_change_unless_their_secret_changes() {
        let lives = |old: Option<Arc<NonceKeys>>, new| {
            let old = start(1000, old, None);
            let nonce = old.rules.nonces.issue(NOW);
            let new = start(1000, new, Some(&old));
            new.rules.nonces.check(&nonce, NOW).is_some_and(|it| it.is_fresh)
        };
        assert!(lives(None, None));
        assert!(lives(Some(keys(1)), Some(keys(1))));
        assert!(!lives(Some(keys(1)), Some(keys(2))));
        assert!(!lives(None, Some(keys(2))));
        // A secret that was taken away may have been given away.
        assert!(!lives(Some(keys(1)), None));
    }
}
