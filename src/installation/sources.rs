//! The [`Sources`] of an installation: its issuers' keys, introspection and replay store.

use super::Installation;
use crate::fair_share;
use crate::invariant;
use crate::state::introspection::Introspector;
use crate::state::jwks::TimedKeys;
use crate::state::revocation::Revocation;
use keybound_core::client_certificate::{ClientCertificate, Source};
use keybound_core::jose::Thumbprint;
use keybound_core::oauth::{AccessToken, ProofId, Token};
use keybound_core::policy::IssuerId;
use keybound_core::{
    Denial, Evidence, Introspected, NotRecorded, Sources, Standing, Turns, Unconfirmed, UnixTime,
    Use, VerifiedToken, Waiting,
};
use std::sync::Arc;

impl Sources for Installation {
    type Keys = TimedKeys;

    fn keys(&self, issuer: IssuerId) -> Option<&TimedKeys> {
        let found = self.issuers.get(issuer.0);
        if found.is_none() {
            invariant::broken("each issuer of a policy is there with its keys");
        }
        found.map(|it| &it.keys)
    }

    fn record<'a>(
        &'a self,
        proof: &'a ProofId,
        expires: UnixTime,
        now: UnixTime,
    ) -> Waiting<'a, Result<Use, NotRecorded>> {
        Box::pin(async move {
            let recorded = self.replay.record(proof, expires, now).await;
            recorded.map_err(|it| NotRecorded(it.detail()))
        })
    }

    fn record_label(&self) -> &'static str {
        self.replay.label()
    }

    fn introspects(&self, issuer: IssuerId) -> bool {
        self.introspector(issuer).is_some()
    }

    fn introspect<'a>(
        &'a self,
        issuer: IssuerId,
        token: Token<'a>,
        hash: Thumbprint,
    ) -> Waiting<'a, Result<Introspected, Unconfirmed>> {
        Box::pin(async move {
            let introspector = self.introspector(issuer).ok_or(Denial::IntrospectionUnavailable)?;
            let said = introspector.introspect(token, hash.into(), self.limits.patience()).await?;
            let good_for = introspector.cache_ttl();
            Ok(Introspected { token: said.token, forward: said.forward, good_for })
        })
    }

    fn standing<'a>(
        &'a self,
        issuer: IssuerId,
        token: &'a AccessToken,
        now: UnixTime,
    ) -> Standing<'a> {
        match self.revocation(issuer) {
            Some(it) => it.standing(token, now),
            None => Standing::Refused(revokes_nothing()),
        }
    }

    fn describe_standing(&self, issuer: IssuerId) -> String {
        self.revocation(issuer).map_or_else(String::new, Revocation::describe)
    }

    fn remembered(&self, token: Token<'_>) -> Option<VerifiedToken> {
        self.cache.get(token)
    }

    fn remember(&self, token: Token<'_>, verified: VerifiedToken) {
        self.cache.insert(token, verified);
    }

    fn client_of(&self, certificate: Thumbprint) -> Option<Arc<str>> {
        self.cache.client_of(certificate)
    }

    fn certificate(&self, _source: &Source, evidence: &Evidence<'_>) -> ClientCertificate {
        self.certificates.read(evidence)
    }

    fn turns(&self) -> &dyn Turns {
        &fair_share::ThisThread
    }
}

impl Installation {
    fn introspector(&self, issuer: IssuerId) -> Option<&Introspector> {
        self.issuers.get(issuer.0)?.introspection.as_deref()
    }

    fn revocation(&self, issuer: IssuerId) -> Option<&Revocation> {
        self.issuers.get(issuer.0)?.revocation.as_deref()
    }
}

#[cold]
fn revokes_nothing() -> Unconfirmed {
    invariant::broken("an issuer that revokes tokens has what tells which");
    Denial::RevocationUnavailable.into()
}
