//! Knows how a JWT of an issuer is verified with the keys that the issuer has now (RFC 8725 §3.1).

use super::IssuerKeys;
use crate::denial::Denial;
use crate::jose::algorithm::Algorithm;
use crate::jose::jwk::KeySet;
use crate::jose::jws::{Unverified, Verified};
use crate::jose::thumbprint::Thumbprint;
use std::sync::Arc;

impl IssuerKeys {
    /// The claims of a JWT that one of these keys signed with one of the `allowed` algorithms, and
    /// the thumbprint of that key.
    ///
    /// Waits for the network only when there are no keys yet, or when none of them has the name
    /// that the JWT gives.
    pub async fn verify(
        &self,
        jws: Unverified<'_>,
        allowed: &[Algorithm],
    ) -> Result<(Verified, Thumbprint), Denial> {
        let kid = jws.header().kid.clone();
        let kid = kid.as_deref();
        let algorithm = jws
            .header()
            .algorithm
            .filter(|it| allowed.contains(it))
            .ok_or(Denial::TokenAlgorithmForbidden)?;
        let set = self.set_for(kid).await?;
        let mut candidates = set.candidates(kid, algorithm).peekable();
        if candidates.peek().is_none() {
            let named = kid.is_some_and(|it| set.knows(it));
            return Err(if named {
                Denial::TokenAlgorithmForbidden
            } else {
                Denial::TokenKeyUnknown
            });
        }
        let (verified, key) =
            jws.verify(algorithm, candidates).or(Err(Denial::TokenSignatureInvalid))?;
        Ok((verified, key.id()))
    }

    async fn set_for(&self, kid: Option<&str>) -> Result<Arc<KeySet>, Denial> {
        let set = self.available().await.ok_or(Denial::KeysUnavailable)?;
        if kid.is_none_or(|it| set.knows(it)) {
            return Ok(set);
        }
        Ok(self.newer_than(&set).await.unwrap_or(set))
    }
}
