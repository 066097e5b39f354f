//! Knows how a JWT of an issuer is verified with the keys that the issuer has now (RFC 8725 §3.1).

use super::IssuerKeys;
use crate::denial::Denial;
use crate::jose::algorithm::{self, Algorithm};
use crate::jose::jwk::{KeySet, SignedBy};
use crate::jose::jws::{Unverified, Verified};
use crate::trail::{Finding, Trail};
use crate::turn;
use std::sync::Arc;

impl IssuerKeys {
    /// The claims of a JWT that one of these keys signed with one of the `allowed` algorithms, and
    /// which key and algorithm that were.
    ///
    /// Waits for the network only when there are no keys yet, or when none of them has the name
    /// that the JWT gives.
    pub async fn verify(
        &self,
        jws: Unverified<'_>,
        allowed: &[Algorithm],
        trail: &mut Trail,
    ) -> Result<(Verified, SignedBy), Denial> {
        let kid = jws.header().kid.clone();
        let kid = kid.as_deref();
        let named = jws.header().algorithm;
        let algorithm = named.filter(|it| allowed.contains(it));
        let algorithm = algorithm.ok_or(Denial::TokenAlgorithmForbidden);
        let algorithm = trail.tell(algorithm, |_| {
            Finding::new("token", "alg", algorithm::named(named))
                .wanting(algorithm::one_of(allowed))
        })?;
        let set = trail.tell(self.set_for(kid).await, |_| self.set_finding())?;
        let mut candidates = set.candidates(kid, algorithm).peekable();
        let fit = if candidates.peek().is_some() {
            Ok(())
        } else if kid.is_some_and(|it| set.knows(it)) {
            Err(Denial::TokenAlgorithmForbidden)
        } else {
            Err(Denial::TokenKeyUnknown)
        };
        trail.tell(fit, |_| kid_finding(kid, &set, algorithm))?;
        let verified = turn::costly(|| jws.verify(algorithm, candidates)).await;
        let verified = verified.or(Err(Denial::TokenSignatureInvalid));
        let (verified, key) = trail.tell(verified, |it| match it {
            Some((_, key)) => {
                Finding::new("key", "signature", format!("by the key {} (RFC 7638)", key.id()))
            }
            None => Finding::new("key", "signature", "not by any key of that name"),
        })?;
        Ok((verified, SignedBy { key: Arc::clone(key.shared_id()), algorithm }))
    }

    /// Which keys there are.
    fn set_finding(&self) -> Finding {
        let status = self.status();
        let had = match status.age_seconds {
            Some(age) => format!("keys: {}, {age}s old", status.keys),
            None => "none so far".to_owned(),
        };
        let error = status.last_error.map_or_else(String::new, |it| format!("; {}", it.what));
        let snapshot = if status.from_snapshot { ", from the snapshot" } else { "" };
        Finding::new("key", "set", format!("{}: {had}{snapshot}{error}", status.source))
    }

    async fn set_for(&self, kid: Option<&str>) -> Result<Arc<KeySet>, Denial> {
        let set = self.available().await.ok_or(Denial::KeysUnavailable)?;
        if kid.is_none_or(|it| set.knows(it)) {
            return Ok(set);
        }
        Ok(self.newer_than(&set).await.unwrap_or(set))
    }
}

/// Whether a key has the name that the token gives, and is fit for its algorithm.
fn kid_finding(kid: Option<&str>, set: &KeySet, algorithm: Algorithm) -> Finding {
    let named = kid.map_or_else(|| "absent".to_owned(), |it| format!("{it:?}"));
    let known: Vec<_> = set.kids().collect();
    Finding::new("key", "kid", named).wanting(format!(
        "a key for {} among: {}",
        algorithm.name(),
        known.join(", ")
    ))
}
