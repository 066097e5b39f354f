//! [`Sources`] without side effects, for explaining a check: the proof it shows is not recorded.

use super::Installation;
use crate::fair_share;
use crate::state::jwks::TimedKeys;
use crate::state::replay::ReplayStore;
use crate::state::replay::memory::MemoryLimits;
use keybound_core::client_certificate::{ClientCertificate, Source};
use keybound_core::jose::Thumbprint;
use keybound_core::oauth::{AccessToken, ProofId, Token};
use keybound_core::policy::IssuerId;
use keybound_core::{
    Denial, Evidence, Introspected, NotRecorded, Sources, Standing, Turns, Unconfirmed, UnixTime,
    Use, Waiting,
};
use std::future::ready;

/// A view of an installation without side effects: its own token cache, proofs that are only looked
/// up, and the same keys.
#[derive(Debug)]
pub struct DryRun<'a> {
    installation: &'a Installation,
    replay: ReplayStore,
    looks_up: bool,
    online: bool,
}

impl<'a> DryRun<'a> {
    /// A dry run now, or at another time, for which recorded proofs mean nothing. Tokens are
    /// introspected only if it is `online`, by the installation's own introspectors.
    pub fn new(installation: &'a Installation, at_present: bool, online: bool) -> Self {
        let read_only = installation.replay.read_only().filter(|_| at_present);
        let looks_up = read_only.is_some();
        let replay = read_only.unwrap_or_else(|| ReplayStore::in_memory(MemoryLimits::default()));
        Self { installation, replay, looks_up, online }
    }

    /// Whether proofs are looked up in the store that checks use.
    pub const fn looks_up(&self) -> bool {
        self.looks_up
    }
}

impl Sources for DryRun<'_> {
    type Keys = TimedKeys;

    fn keys(&self, issuer: IssuerId) -> Option<&TimedKeys> {
        self.installation.keys(issuer)
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

    fn introspects(&self, issuer: IssuerId) -> bool {
        self.online && self.installation.introspects(issuer)
    }

    fn introspect<'a>(
        &'a self,
        issuer: IssuerId,
        token: Token<'a>,
        hash: Thumbprint,
    ) -> Waiting<'a, Result<Introspected, Unconfirmed>> {
        if !self.online {
            return Box::pin(ready(Err(Denial::IntrospectionUnavailable.into())));
        }
        self.installation.introspect(issuer, token, hash)
    }

    fn standing<'a>(
        &'a self,
        issuer: IssuerId,
        token: &'a AccessToken,
        now: UnixTime,
    ) -> Standing<'a> {
        self.installation.standing(issuer, token, now)
    }

    fn describe_standing(&self, issuer: IssuerId) -> String {
        self.installation.describe_standing(issuer)
    }

    fn certificate(&self, source: &Source, evidence: &Evidence<'_>) -> ClientCertificate {
        source.read(evidence)
    }

    fn turns(&self) -> &dyn Turns {
        &fair_share::ThisThread
    }
}
