//! Proof of possession of the keys to which a token is bound (RFC 8705, RFC 9449).

use super::inputs::Inputs;
use super::{Facts, describe};
use crate::denial::Denial;
use crate::explanation::{Explanation, Finding};
use crate::jose::thumbprint::Thumbprint;
use crate::mismatches::Mismatches;
use crate::oauth::confirmation::ToProve;
use crate::oauth::credentials::{Credentials, Proof, Scheme};
use crate::oauth::dpop::{self, Expected, VerifiedProof};
use crate::oauth::mtls;
use crate::oauth::nonce::{LiveNonce, NonceKeys};
use crate::policy::{NonceDemand, Policy};
use crate::request::Request;
use crate::sources::{NotRecorded, Sources, Use, in_turn};
use crate::time::UnixTime;
use crate::uri::{HttpUri, Origin};

/// Verifies the caller's certificate and proof against the token. A DPoP proof that is returned
/// must still be recorded as used ([`use_up`]).
pub(super) async fn verify<S: Sources>(
    given: &Inputs<'_, S>,
    to_prove: ToProve,
    facts: &mut Facts,
) -> Result<Option<VerifiedProof>, Denial> {
    if let Some(bound_to) = to_prove.certificate {
        verify_certificate(given, bound_to, facts)?;
        facts.proved.certificate = true;
    }
    let Some(bound_to) = to_prove.key else { return Ok(None) };
    in_turn(given.sources.turns(), || verify_proof(given, bound_to, facts)).await.map(Some)
}

pub(super) fn verify_certificate<S: Sources>(
    given: &Inputs<'_, S>,
    bound_to: Thumbprint,
    facts: &mut Facts,
) -> Result<(), Denial> {
    let source = &given.rules.policies.client_certificate;
    let shown = given.sources.certificate(source, &given.request.evidence);
    facts.certificate = shown.thumbprint();
    facts.explanation.note(|| describe::evidence(source, &given.request.evidence));
    let same = mtls::verify(bound_to, shown);
    if let (Err(Denial::CertificateMismatch), Some(shown)) = (same, shown.thumbprint())
        && let Some(client) = given.sources.client_of(shown)
    {
        facts.seen().certificate_client = Some(client);
    }
    facts.explanation.record(same, |_| describe::certificate(shown, bound_to))
}

fn verify_proof<S>(
    given: &Inputs<'_, S>,
    bound_to: Thumbprint,
    facts: &mut Facts,
) -> Result<VerifiedProof, Denial> {
    let Inputs { rules, policy, request, credentials, now, .. } = *given;
    let Facts { explanation, nonce_is_fresh, .. } = facts;
    let proof = sent_proof(credentials, explanation)?;
    let target = provable_target(policy, request, explanation)?;
    let expected = Expected {
        method: request.target.method,
        target: &target,
        ath: credentials.token_hash(),
        bound_to,
    };
    let proofs = &rules.policies.proofs;
    let admit_nonce = |nonce: Option<&str>| {
        let live = admit_nonce(proofs.nonce, &rules.nonces, nonce, now)?;
        *nonce_is_fresh = live.is_some_and(|it| it.is_fresh);
        Ok(live.map(|it| it.until))
    };
    dpop::verify(proof, &expected, proofs, now, admit_nonce, explanation).inspect_err(|denial| {
        if *denial == Denial::ProofKeyMismatch {
            facts.seen().proof_key = dpop::Shown::by(proof).key;
        } else if *denial == Denial::ProofStale {
            let made = dpop::Shown::by(proof).issued_at;
            facts.seen().skew = made.map(|it| now.seconds_after(it));
        }
    })
}

/// Every demand on the proof, each on its own, for an explanation of its refusal.
pub(super) fn read_on<S>(given: &Inputs<'_, S>, bound_to: Thumbprint, beside: &mut Mismatches) {
    let Inputs { rules, policy, request, credentials, now, .. } = *given;
    let proof = beside.step(|it| sent_proof(credentials, it));
    let target = beside.step(|it| provable_target(policy, request, it));
    let (Some(proof), Some(target)) = (proof, target) else { return };
    let (method, target) = (request.target.method, &target);
    let expected = Expected { method, target, ath: credentials.token_hash(), bound_to };
    let proofs = &rules.policies.proofs;
    let nonce = |it: Option<&str>| {
        let live = admit_nonce(proofs.nonce, &rules.nonces, it, now)?;
        Ok(live.map(|it| it.until))
    };
    dpop::read_on(proof, &expected, proofs, now, nonce, beside);
}

fn sent_proof<'a>(
    credentials: &Credentials<'a>,
    explanation: &mut Explanation,
) -> Result<Proof<'a>, Denial> {
    explanation.record_error(credentials.proof.ok_or(Denial::ProofMissing), || {
        Finding::new("proof", "1 number", "none").wanting("one DPoP header")
    })
}

fn provable_target(
    policy: &Policy,
    request: &Request<'_>,
    explanation: &mut Explanation,
) -> Result<HttpUri, Denial> {
    explanation.record_error(target(policy, request).ok_or(Denial::ProofTargetMismatch), || {
        Finding::new("proof", "9 htu", "the target of this request is not a valid URI")
    })
}

/// The nonce of a proof, if it is accepted, and none if it does not matter.
fn admit_nonce(
    demand: NonceDemand,
    nonces: &NonceKeys,
    nonce: Option<&str>,
    now: UnixTime,
) -> Result<Option<LiveNonce>, Denial> {
    match (demand, nonce) {
        (NonceDemand::Off, _) | (NonceDemand::Offered, None) => Ok(None),
        (NonceDemand::Required, None) => Err(Denial::NonceRequired),
        (NonceDemand::Offered | NonceDemand::Required, Some(nonce)) => {
            nonces.check(nonce, now).map(Some).ok_or(Denial::NonceRequired)
        }
    }
}

/// Records that a proof is used, and refuses it if it was used before.
pub(super) async fn use_up<S: Sources>(
    given: &Inputs<'_, S>,
    proof: &VerifiedProof,
    facts: &mut Facts,
) -> Result<(), Denial> {
    let sources = given.sources;
    let recorded = match sources.record(&proof.id, proof.until, given.now).await {
        Ok(recorded) => recorded,
        Err(NotRecorded(detail)) => {
            facts.detail = Some(detail);
            return facts.explanation.record_error(Err(detail.denial()), || {
                Finding::new("proof", "replay", format!("not recorded: {}", detail.sentence()))
            });
        }
    };
    facts.explanation.demand(recorded == Use::First, Denial::ProofReplayed, || {
        let found = if recorded == Use::First { "not used before" } else { "used before" };
        let found = format!("{found}, by the record in {}", sources.record_label());
        Finding::new("proof", "replay", found).wanting("used for the first time")
    })
}

/// Whether the answer carries a nonce: if the client may send a proof, and has no nonce that
/// remains valid for some time (RFC 9449 §8.2, §9).
pub(super) fn sends_nonce(outcome: Result<(), Denial>, facts: &Facts, demand: NonceDemand) -> bool {
    let Some(policy) = &facts.policy else { return false };
    let may_come = match outcome {
        Ok(()) => facts.proved.dpop && !facts.nonce_is_fresh,
        Err(denial) => {
            denial.status() < 500
                && (policy.sender_constraint.accepts(Scheme::Dpop)
                    || facts.scheme == Some(Scheme::Dpop))
        }
    };
    may_come && demand != NonceDemand::Off
}

/// The target that a proof must name: at the policy's origin if it has one, else at the host of the
/// request. Other headers never count, because clients write them.
fn target(policy: &Policy, request: &Request<'_>) -> Option<HttpUri> {
    let target = &request.target;
    match &policy.origin {
        Some(origin) => HttpUri::new(origin, target.path),
        None => Origin::new(target.scheme, target.authority)
            .and_then(|origin| HttpUri::new(&origin, target.path)),
    }
    .ok()
}
