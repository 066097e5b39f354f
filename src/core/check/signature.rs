//! Verification of a JWT with the current keys of its issuer (RFC 8725 §3.1).

use crate::denial::{Denial, Detail, Refusal};
use crate::explanation::{Explanation, Finding};
use crate::jose::algorithm::{self, Algorithm};
use crate::jose::jwk::{KeySet, SignedBy};
use crate::jose::jws::{BadSignature, Header, Unverified, Verified};
use crate::jose::key::VerifyingKey;
use crate::oauth::access_token::time;
use crate::oauth::dpop::REDACTED;
use crate::policy::{Issuer, TENANT};
use crate::sources::{Keys, Newer, in_turn};
use crate::time::UnixTime;
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;

/// Why a JWT was not verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unverifiable {
    /// The reason.
    pub refusal: Refusal,
    /// Seconds until it is worth retrying, if known.
    pub retry_after: Option<u64>,
}

/// Verifies a JWT with one of `keys`, using an algorithm that `issuer` allows. Returns its claims,
/// and the key and algorithm that verified it.
///
/// Waits only while there are no keys, or none has the `kid` of the JWT. If the `kid` is unknown
/// and the issuer cannot be reached, the JWT may still be good, so the sender is asked to retry;
/// unless it claims to be older than the last successful fetch. That claim is not verified, and
/// affects only the answer to its sender.
pub async fn verify<K: Keys>(
    keys: &K,
    jws: Unverified<'_>,
    issuer: &Issuer,
    explanation: &mut Explanation,
) -> Result<(Verified, SignedBy), Unverifiable> {
    let kid = jws.header().kid.clone();
    let kid = kid.as_deref();
    let algorithm = admit_algorithm(jws.header(), issuer, explanation)?;
    let set = match keys.current() {
        Some(set) => Some(set),
        None => keys.available().await,
    };
    let set = set.ok_or(Denial::KeysUnavailable);
    let mut set = explanation.record(set, |_| Finding::new("key", "set", keys.describe()))?;
    if !may_hold(&set, kid, algorithm) {
        match keys.newer_than(&set).await {
            Newer::Set(newer) => set = newer,
            Newer::None => (),
            Newer::Unasked { heard, .. } if was_heard_since(heard, &jws, issuer) => (),
            Newer::Unasked { ask_again, .. } => {
                let not_known_yet = Unverifiable {
                    refusal: Detail::KeyNotKnownYet.into(),
                    retry_after: Some(ask_again),
                };
                note_skipped(&set, explanation);
                explanation
                    .record_error(Err(not_known_yet), || kid_finding(kid, &set, algorithm))?;
            }
        }
    }
    let mut candidates = set.candidates(kid, algorithm).peekable();
    let fit = if candidates.peek().is_some() {
        Ok(())
    } else {
        note_skipped(&set, explanation);
        Err(unfit(kid, &set))
    };
    explanation.record(fit, |_| kid_finding(kid, &set, algorithm))?;
    let verified = match kid {
        Some(_) => in_turn(keys.turns(), || jws.verify(algorithm, candidates)).await,
        None => verify_unnamed(keys, jws, algorithm, candidates.collect(), explanation).await?,
    };
    let verified = verified.or(Err(Denial::TokenSignatureInvalid));
    let (verified, key) = explanation.record(verified, |it| match it {
        Some((_, key)) => {
            Finding::new("key", "signature", format!("by the key {} (RFC 7638)", key.id()))
        }
        None => not_by_any_key(),
    })?;
    admit_key(key, &verified, issuer, explanation)?;
    Ok((verified, SignedBy { key: Arc::clone(key.shared_id()), algorithm }))
}

/// The claims of a JWT whose signature was redacted when its request was kept.
pub(super) fn taken_as_verified(
    jws: Unverified<'_>,
    issuer: &Issuer,
    explanation: &mut Explanation,
) -> Result<Verified, Denial> {
    admit_algorithm(jws.header(), issuer, explanation)?;
    explanation.note(|| Finding::new("key", "signature", REDACTED));
    Ok(jws.taken_as_verified())
}

/// The algorithm of a JWT, which must be one of the issuer's.
pub(super) fn admit_algorithm(
    header: &Header,
    issuer: &Issuer,
    explanation: &mut Explanation,
) -> Result<Algorithm, Denial> {
    let allowed = &issuer.algorithms;
    let algorithm = header.algorithm.filter(|it| allowed.contains(it));
    explanation.record(algorithm.ok_or(Denial::TokenAlgorithmForbidden), |_| {
        Finding::new("token", "alg", header.alg()).wanting(algorithm::one_of(allowed))
    })
}

/// Where several tenants share a key set, a key may belong to one of them: it may not sign for others.
pub(super) fn admit_key(
    key: &VerifyingKey,
    verified: &Verified,
    issuer: &Issuer,
    explanation: &mut Explanation,
) -> Result<(), Denial> {
    let Some(owner) = key.issuer().filter(|_| issuer.has_tenants()) else { return Ok(()) };
    let iss = verified.claims().get("iss").and_then(Value::as_str).unwrap_or_default();
    let fits = issuer.tenant_in(iss).is_some_and(|it| owner.replace(TENANT, it) == iss);
    explanation.demand(fits, Denial::TokenIssuerUnknown, || {
        Finding::new("key", "issuer", owner).wanting(iss)
    })
}

/// Verifies a JWT without a `kid`. Tries the most likely of `candidates` first, and the others as
/// long as the budget for failed attempts lasts.
async fn verify_unnamed<'k, K: Keys>(
    keys: &K,
    jws: Unverified<'_>,
    algorithm: Algorithm,
    candidates: Vec<&'k VerifyingKey>,
    explanation: &mut Explanation,
) -> Result<Result<(Verified, &'k VerifyingKey), BadSignature>, Unverifiable> {
    let candidates = keys.by_likelihood(candidates);
    let (likeliest, others) = candidates.split_at(1.min(candidates.len()));
    let first = || jws.verify_or_keep(algorithm, likeliest.iter().copied());
    let (verified, granted) = match in_turn(keys.turns(), first).await {
        Ok(verified) => (Ok(verified), 0),
        Err(jws) => {
            let more = u64::try_from(others.len()).unwrap_or(u64::MAX);
            if !keys.may_try(more) {
                let spent = Err(Unverifiable::from(Detail::KeyTriesSpent));
                let finding = || Finding::new("key", "kid", "absent: not all keys are tried");
                return explanation.record_error(spent, finding);
            }
            let rest = || jws.verify(algorithm, others.iter().copied());
            (in_turn(keys.turns(), rest).await, more)
        }
    };
    if let Ok((_, key)) = &verified {
        keys.was_the_one(key.shared_id(), granted);
    }
    Ok(verified)
}

/// Whether keys were fetched at `heard`, and the JWT claims to be so old that its key would have
/// been among them.
fn was_heard_since(heard: Option<UnixTime>, jws: &Unverified<'_>, issuer: &Issuer) -> bool {
    let signed = jws.peek_issued_at().and_then(|it| time(it, f64::ceil).ok());
    let (Some(heard), Some(signed)) = (heard, signed) else { return false };
    was_published_without(signed, issuer.clock_leeway, heard)
}

/// Whether a token issued at `issued` has a key that its issuer does not publish: keys were fetched
/// so much later that its key would have been among them.
fn was_published_without(issued: UnixTime, leeway: Duration, heard: UnixTime) -> bool {
    issued.saturating_add(leeway) < heard
}

impl<T: Into<Refusal>> From<T> for Unverifiable {
    fn from(refusal: T) -> Self {
        Self { refusal: refusal.into(), retry_after: None }
    }
}

/// Why no key of the set is for a JWT.
pub(super) fn unfit(kid: Option<&str>, set: &KeySet) -> Refusal {
    match kid {
        Some(kid) if set.knows(kid) => Detail::KeyForbidsAlgorithm.into(),
        Some(kid) if set.skips(kid) => Detail::KeyUnusable.into(),
        Some(_) | None => Denial::TokenKeyUnknown.into(),
    }
}

pub(super) fn not_by_any_key() -> Finding {
    Finding::new("key", "signature", "not by any key of that name")
}

/// Whether the key of a JWT is in the set, as far as its header identifies the key: by `kid`, else
/// by algorithm.
fn may_hold(set: &KeySet, kid: Option<&str>, algorithm: Algorithm) -> bool {
    match kid {
        Some(kid) => set.knows(kid),
        None => set.candidates(None, algorithm).next().is_some(),
    }
}

/// Notes the members of the set that cannot be used: the key that is missing may be one of them.
fn note_skipped(set: &KeySet, explanation: &mut Explanation) {
    for skipped in set.skipped().iter().take(NOTED) {
        explanation.note(|| Finding::new("key", "skipped", skipped.to_string()));
    }
}

/// The most skipped keys that are noted.
const NOTED: usize = 10;

/// The `kid` of the JWT, and the keys it could have meant.
pub(super) fn kid_finding(kid: Option<&str>, set: &KeySet, algorithm: Algorithm) -> Finding {
    let mut found = kid.map_or_else(|| "absent".to_owned(), |it| format!("{it:?}"));
    let of_that_name = kid.map(|it| set.algorithms_of(it)).unwrap_or_default();
    if !of_that_name.is_empty() && !of_that_name.contains(&algorithm) {
        found.push_str(", whose key is only for ");
        found.push_str(&algorithm::one_of(&of_that_name));
    }
    let known: Vec<_> = set.kids().collect();
    Finding::new("key", "kid", found).wanting(format!(
        "a key for {} among: {}",
        algorithm.name(),
        known.join(", ")
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_missing_when_the_issuer_was_heard_after_it_signed() {
        let at = |it: i64| UnixTime::from_secs(1_800_000_000 + it);
        for (issued, expected) in [(-31, true), (-30, false), (0, false), (1, false)] {
            assert_eq!(
                was_published_without(at(issued), Duration::from_secs(30), at(0)),
                expected,
                "{issued} s"
            );
        }
    }
}
