//! Knows how the caller proves possession of the keys that its token names.

use super::{Facts, Rules, steps};
use crate::denial::Denial;
use crate::jose::thumbprint::Thumbprint;
use crate::oauth::confirmation::ToProve;
use crate::oauth::credentials::{Credentials, Scheme};
use crate::oauth::dpop::{self, Expected, Holding};
use crate::oauth::mtls;
use crate::oauth::nonce::{Freshness, NonceKeys};
use crate::policy::{NonceDemand, Policy};
use crate::randomness::{self, NoRandomness};
use crate::request::Request;
use crate::state::replay::{ReplayRules, ReplayStore, Use};
use crate::time::UnixTime;
use crate::trail::Finding;
use crate::turn;
use crate::uri::{HttpUri, Origin};
use std::sync::Arc;
use tokio::runtime::Handle;

/// What DPoP needs besides the proof.
#[derive(Clone, Debug)]
pub struct Dpop {
    /// The proofs that have been used.
    pub replay: Arc<ReplayStore>,
    /// The secrets behind the nonces.
    pub nonces: Arc<NonceKeys>,
    /// Whether that secret was drawn, and is nobody else's.
    drawn: bool,
}

impl Dpop {
    /// Proofs are recorded in `replay`, and nonces made with `nonces`.
    pub const fn new(replay: Arc<ReplayStore>, nonces: Arc<NonceKeys>) -> Self {
        Self { replay, nonces, drawn: false }
    }

    /// What DPoP needs, under `rules`. Nonces are made with `keys`, or else with a secret that is
    /// drawn now.
    pub fn start(
        rules: &ReplayRules,
        keys: Option<Arc<NonceKeys>>,
        runtime: &Handle,
    ) -> Result<Self, NoRandomness> {
        let drawn = keys.is_none();
        let nonces = match keys {
            Some(keys) => keys,
            None => Arc::new(NonceKeys::from_octets(&random()?)),
        };
        Ok(Self { replay: Arc::new(ReplayStore::start(rules, runtime)), nonces, drawn })
    }

    /// The same under new `rules` and with new `keys`. Used proofs and a secret that was drawn
    /// stay where they are, as long as the rules allow it.
    pub fn under(
        &self,
        rules: &ReplayRules,
        keys: Option<Arc<NonceKeys>>,
        runtime: &Handle,
    ) -> Result<Self, NoRandomness> {
        let drawn = keys.is_none();
        let nonces = match keys {
            Some(keys) => keys,
            None if self.drawn => Arc::clone(&self.nonces),
            None => Arc::new(NonceKeys::from_octets(&random()?)),
        };
        let replay = if self.replay.adopt(rules) {
            Arc::clone(&self.replay)
        } else {
            Arc::new(ReplayStore::start(rules, runtime).after(&self.replay))
        };
        Ok(Self { replay, nonces, drawn })
    }
}

fn random() -> Result<[u8; 32], NoRandomness> {
    let mut octets = [0; 32];
    randomness::fill(&mut octets)?;
    Ok(octets)
}

impl Rules {
    /// Holds the caller's proofs against the token. What comes back of a DPoP proof must still be
    /// used up ([`Self::use_up`]).
    pub(super) async fn verify_possession(
        &self,
        to_prove: ToProve,
        policy: &Policy,
        request: &Request<'_>,
        credentials: &Credentials<'_>,
        now: UnixTime,
        facts: &mut Facts,
    ) -> Result<Option<Holding>, Denial> {
        if let Some(bound_to) = to_prove.certificate {
            let shown = self.certificates.read(&request.evidence);
            facts.certificate = shown.thumbprint();
            let source = &self.policies.client_certificate;
            facts.trail.note(|| steps::evidence(source, &request.evidence));
            let same = mtls::verify(bound_to, shown);
            facts.trail.tell(same, |_| steps::certificate(shown, bound_to))?;
            facts.proved.certificate = true;
        }
        let Some(bound_to) = to_prove.key else { return Ok(None) };
        let verify = || self.verify_proof(bound_to, policy, request, credentials, now, facts);
        turn::costly(verify).await.map(Some)
    }

    fn verify_proof(
        &self,
        bound_to: Thumbprint,
        policy: &Policy,
        request: &Request<'_>,
        credentials: &Credentials<'_>,
        now: UnixTime,
        facts: &mut Facts,
    ) -> Result<Holding, Denial> {
        let Facts { trail, nonce_is_fresh, .. } = facts;
        let proof = credentials.proof.ok_or(Denial::ProofMissing);
        let absent = || Finding::new("proof", "1 number", "none").wanting("one DPoP header");
        let proof = trail.fault(proof, absent)?;
        let target = target(policy, request).ok_or(Denial::ProofTargetMismatch);
        let target = trail.fault(target, || {
            Finding::new("proof", "9 htu", "nothing that could name the target of this request")
        })?;
        let expected = Expected {
            method: request.target.method,
            target: &target,
            ath: credentials.token_hash(),
            bound_to,
        };
        let admit_nonce = |nonce: Option<&str>| {
            *nonce_is_fresh = self.admit_nonce(nonce, now)?;
            Ok(())
        };
        dpop::verify(proof, &expected, &self.policies.proofs, now, admit_nonce, trail)
    }

    /// Whether the nonce of a proof will do; if so, whether it will for some time yet.
    fn admit_nonce(&self, nonce: Option<&str>, now: UnixTime) -> Result<bool, Denial> {
        match (self.policies.proofs.nonce, nonce) {
            (NonceDemand::Off, _) | (NonceDemand::Offered, None) => Ok(false),
            (NonceDemand::Required, None) => Err(Denial::NonceRequired),
            (NonceDemand::Offered | NonceDemand::Required, Some(nonce)) => {
                match self.dpop.nonces.check(nonce, now) {
                    Freshness::Fresh => Ok(true),
                    Freshness::Aging => Ok(false),
                    Freshness::Stale => Err(Denial::NonceRequired),
                }
            }
        }
    }

    /// Records that a proof is used, and refuses it when it was before.
    pub(super) async fn use_up(
        &self,
        holding: &Holding,
        now: UnixTime,
        facts: &mut Facts,
    ) -> Result<(), Denial> {
        let store = &self.dpop.replay;
        let recorded = match store.record(&holding.id, holding.until, now).await {
            Ok(recorded) => recorded,
            Err(cause) => {
                facts.detail = Some(cause.detail());
                return facts.trail.fault(Err(cause.detail().denial()), || {
                    Finding::new("proof", "replay", format!("not recorded: {cause}"))
                });
            }
        };
        facts.trail.demand(recorded == Use::First, Denial::ProofReplayed, || {
            let found = if recorded == Use::First { "not used before" } else { "used before" };
            let found = format!("{found}, by the record in {}", store.label());
            Finding::new("proof", "replay", found).wanting("used for the first time")
        })
    }

    /// The nonce that goes out with the answer: to whoever may come with a proof and has none that
    /// will do for some time yet (RFC 9449 §8.2, §9).
    pub(super) fn nonce_to_send(
        &self,
        outcome: Result<(), Denial>,
        facts: &Facts,
        now: UnixTime,
    ) -> Option<String> {
        let policy = facts.policy.as_ref()?;
        let may_come = match outcome {
            Ok(()) => facts.proved.dpop && !facts.nonce_is_fresh,
            Err(denial) => {
                denial.status() < 500
                    && (policy.sender_constraint.accepts(Scheme::Dpop)
                        || facts.scheme == Some(Scheme::Dpop))
            }
        };
        let off = self.policies.proofs.nonce == NonceDemand::Off;
        (may_come && !off).then(|| self.dpop.nonces.issue(now))
    }
}

/// The target that a proof must name: at the policy's origin, or else where the request says that
/// it goes. What other headers say of that never counts: clients write them.
fn target(policy: &Policy, request: &Request<'_>) -> Option<HttpUri> {
    let target = &request.target;
    match &policy.origin {
        Some(origin) => HttpUri::new(origin, target.path),
        None => Origin::new(target.scheme, target.authority)
            .and_then(|origin| HttpUri::new(&origin, target.path)),
    }
    .ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::replay::memory::MemoryLimits;

    const NOW: UnixTime = UnixTime::from_secs(1_800_000_000);

    fn limits(capacity: usize) -> ReplayRules {
        ReplayRules::Memory(MemoryLimits { capacity, per_key: 10 })
    }

    fn keys(octet: u8) -> Arc<NonceKeys> {
        Arc::new(NonceKeys::from_octets(&[octet; 32]))
    }

    #[tokio::test]
    async fn used_proofs_outlive_a_change_of_limits() {
        let runtime = Handle::current();
        let old = Dpop::start(&limits(1000), None, &runtime).unwrap();
        let new = old.under(&limits(2000), None, &runtime).unwrap();
        assert!(Arc::ptr_eq(&old.replay, &new.replay));
    }

    #[tokio::test]
    async fn nonces_outlive_a_change_unless_their_secret_changes() {
        let runtime = Handle::current();
        let lives = |old: Option<Arc<NonceKeys>>, new| {
            let old = Dpop::start(&limits(1000), old, &runtime).unwrap();
            let nonce = old.nonces.issue(NOW);
            let new = old.under(&limits(1000), new, &runtime).unwrap();
            new.nonces.check(&nonce, NOW) == Freshness::Fresh
        };
        assert!(lives(None, None));
        assert!(lives(Some(keys(1)), Some(keys(1))));
        assert!(!lives(Some(keys(1)), Some(keys(2))));
        assert!(!lives(None, Some(keys(2))));
        // A secret that was taken away may have been given away.
        assert!(!lives(Some(keys(1)), None));
    }
}
