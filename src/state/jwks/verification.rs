//! How a JWT of an issuer is verified with the keys that the issuer has now (RFC 8725 §3.1).

use super::{IssuerKeys, Newer};
use crate::denial::{Denial, Detail, Refusal};
use crate::jose::algorithm::{self, Algorithm};
use crate::jose::jwk::{KeySet, SignedBy};
use crate::jose::jws::{BadSignature, Unverified, Verified};
use crate::jose::key::VerifyingKey;
use crate::oauth::access_token::time;
use crate::policy::Issuer;
use crate::trail::{Finding, Trail};
use crate::turn;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;

/// Why a JWT was not verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unverifiable {
    /// The reason.
    pub refusal: Refusal,
    /// In how many seconds it is worth coming again, where that is known.
    pub retry_after: Option<u64>,
}

impl IssuerKeys {
    /// The claims of a JWT that one of these keys signed with an algorithm that `issuer` may use,
    /// and which key and algorithm that were.
    ///
    /// Waits for the network only when there are no keys yet, or, no longer than `patience`, when
    /// none of them has the name that the JWT gives. A JWT whose key is unknown while its
    /// issuer cannot be asked is not known to be bad: its sender may come again, unless it claims
    /// to have been issued before the issuer was last heard. The claim is the sender's word, and
    /// decides about the sender's answer alone.
    pub async fn verify(
        &self,
        jws: Unverified<'_>,
        issuer: &Issuer,
        patience: Duration,
        trail: &mut Trail,
    ) -> Result<(Verified, SignedBy), Unverifiable> {
        let kid = jws.header().kid.clone();
        let kid = kid.as_deref();
        let named = jws.header().algorithm;
        let allowed = &issuer.algorithms;
        let algorithm = named.filter(|it| allowed.contains(it));
        let algorithm = algorithm.ok_or(Denial::TokenAlgorithmForbidden);
        let algorithm = trail.tell(algorithm, |_| {
            Finding::new("token", "alg", algorithm::named(named))
                .wanting(algorithm::one_of(allowed))
        })?;
        let set = self.available().await.ok_or(Denial::KeysUnavailable);
        let mut set = trail.tell(set, |_| self.set_finding())?;
        if !may_hold(&set, kid, algorithm) {
            match timeout(patience, self.newer_than(&set)).await {
                Ok(Newer::Set(newer)) => set = newer,
                Ok(Newer::None) => (),
                Ok(Newer::Unasked) | Err(_) if self.is_missing(&jws, issuer) => (),
                Ok(Newer::Unasked) | Err(_) => {
                    trail.fault(Err(self.not_known_yet()), || kid_finding(kid, &set, algorithm))?;
                }
            }
        }
        let mut candidates = set.candidates(kid, algorithm).peekable();
        let fit = if candidates.peek().is_some() {
            Ok(())
        } else if kid.is_some_and(|it| set.knows(it)) {
            Err(Denial::TokenAlgorithmForbidden)
        } else {
            Err(Denial::TokenKeyUnknown)
        };
        trail.tell(fit, |_| kid_finding(kid, &set, algorithm))?;
        let verified = match kid {
            Some(_) => turn::costly(|| jws.verify(algorithm, candidates)).await,
            None => self.verify_unnamed(jws, algorithm, candidates.collect(), trail).await?,
        };
        let verified = verified.or(Err(Denial::TokenSignatureInvalid));
        let (verified, key) = trail.tell(verified, |it| match it {
            Some((_, key)) => {
                Finding::new("key", "signature", format!("by the key {} (RFC 7638)", key.id()))
            }
            None => Finding::new("key", "signature", "not by any key of that name"),
        })?;
        Ok((verified, SignedBy { key: Arc::clone(key.shared_id()), algorithm }))
    }

    /// The claims of a JWT that names no key, and the key among `keys` that signed it: the likeliest
    /// is tried first, and the others while not too much was tried in vain.
    async fn verify_unnamed<'k>(
        &self,
        jws: Unverified<'_>,
        algorithm: Algorithm,
        keys: Vec<&'k VerifyingKey>,
        trail: &mut Trail,
    ) -> Result<Result<(Verified, &'k VerifyingKey), BadSignature>, Unverifiable> {
        let keys = self.tries.in_order(keys);
        let (likeliest, others) = keys.split_at(1.min(keys.len()));
        let first = || jws.verify_or_keep(algorithm, likeliest.iter().copied());
        let (verified, tries) = match turn::costly(first).await {
            Ok(verified) => (Ok(verified), 0),
            Err(jws) => {
                let tries = u64::try_from(others.len()).unwrap_or(u64::MAX);
                if !self.tries.spend(tries, self.began.elapsed()) {
                    let spent = Err(Unverifiable::from(Detail::KeyTriesSpent));
                    let finding = || Finding::new("key", "kid", "absent: not all keys are tried");
                    return trail.fault(spent, finding);
                }
                let rest = || jws.verify(algorithm, others.iter().copied());
                (turn::costly(rest).await, tries)
            }
        };
        if let Ok((_, key)) = &verified {
            self.tries.succeeded(key.shared_id(), tries);
        }
        Ok(verified)
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

    /// Whether the issuer was heard since it signed, by what the JWT claims.
    fn is_missing(&self, jws: &Unverified<'_>, issuer: &Issuer) -> bool {
        let signed = jws.peek_issued_at().and_then(|it| time(it, f64::ceil).ok());
        signed.is_some_and(|it| self.was_heard_since(it, issuer.clock_leeway))
    }

    fn not_known_yet(&self) -> Unverifiable {
        let retry_after = Some(self.ask_again());
        Unverifiable { refusal: Detail::KeyNotKnownYet.into(), retry_after }
    }
}

impl<T: Into<Refusal>> From<T> for Unverifiable {
    fn from(refusal: T) -> Self {
        Self { refusal: refusal.into(), retry_after: None }
    }
}

/// Whether the key of a JWT is among these, as far as it says which that is: by name, or else by
/// the algorithm.
fn may_hold(set: &KeySet, kid: Option<&str>, algorithm: Algorithm) -> bool {
    match kid {
        Some(kid) => set.knows(kid),
        None => set.candidates(None, algorithm).next().is_some(),
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
