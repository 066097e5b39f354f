//! The sources of a test: the keys of its issuers, what they say about tokens, and the proofs used in it.

use keybound_core::jose::json::Object;
use keybound_core::jose::{KeySet, Thumbprint};
use keybound_core::oauth::{AccessToken, Audience, ProofId, Token};
use keybound_core::policy::{Introspection, IssuerId, PolicySet};
use keybound_core::{
    Denial, Explanation, Fixed, Introspected, NotRecorded, Sources, Unconfirmed, UnixTime, Use,
    Waiting,
};
use std::future::ready;
use std::sync::Arc;
use std::time::Duration;

/// The sources of one test.
pub(super) struct TestSources<'a> {
    fixed: Fixed,
    policies: &'a PolicySet,
    selection: Arc<[String]>,
    answer: Option<Answer>,
}

/// What an issuer says about a token.
pub(super) struct Answer {
    /// The issuer that has issued it.
    pub(super) issuer: IssuerId,
    /// The token.
    pub(super) token: Thumbprint,
    /// Its claims; none if it is not active.
    pub(super) claims: Option<Object>,
    /// Whether the token is itself a JWT.
    pub(super) signed: bool,
    /// Whether the answer may say nothing of the audience.
    pub(super) allow_missing_audience: bool,
}

impl<'a> TestSources<'a> {
    /// With the keys of each issuer, and no proof used so far.
    pub(super) fn new(
        policies: &'a PolicySet,
        keys: &[Arc<KeySet>],
        answer: Option<Answer>,
    ) -> Self {
        let fixed = Fixed::new(keys.iter().cloned());
        Self { fixed, policies, selection: policies.claims_asked_for().into(), answer }
    }

    fn said(&self, issuer: IssuerId, hash: Thumbprint) -> Result<Introspected, Unconfirmed> {
        let rules = self.policies.issuers.get(issuer.0).ok_or(Denial::Internal)?;
        let known = self.answer.as_ref().filter(|it| it.issuer == issuer && it.token == hash);
        let answer = known.ok_or(Denial::TokenInactive)?;
        let claims = answer.claims.as_ref().ok_or(Denial::TokenInactive)?;
        let may_lack = answer.allow_missing_audience;
        let audience = Audience::in_answer(answer.signed, rules.claims_from, may_lack);
        let explanation = &mut Explanation::default();
        let token =
            AccessToken::introspected(claims, rules, &self.selection, audience, explanation)?;
        Ok(Introspected { token: Arc::new(token), forward: None, good_for: Duration::ZERO })
    }
}

impl Sources for TestSources<'_> {
    type Keys = Arc<KeySet>;

    fn keys(&self, issuer: IssuerId) -> Option<&Arc<KeySet>> {
        self.fixed.keys(issuer)
    }

    fn record<'a>(
        &'a self,
        proof: &'a ProofId,
        expires: UnixTime,
        now: UnixTime,
    ) -> Waiting<'a, Result<Use, NotRecorded>> {
        self.fixed.record(proof, expires, now)
    }

    fn introspects(&self, issuer: IssuerId) -> bool {
        let rules = self.policies.issuers.get(issuer.0);
        rules.is_some_and(|it| it.introspection != Introspection::Never)
    }

    fn introspect<'a>(
        &'a self,
        issuer: IssuerId,
        _token: Token<'a>,
        hash: Thumbprint,
    ) -> Waiting<'a, Result<Introspected, Unconfirmed>> {
        Box::pin(ready(self.said(issuer, hash)))
    }
}
