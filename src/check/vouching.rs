//! Knows how an issuer vouches for a token: by its signature, or by its word.

use super::{Facts, Rules, steps};
use crate::denial::{Denial, Refusal};
use crate::invariant;
use crate::jose::jwk::SignedBy;
use crate::jose::jws::Unverified;
use crate::oauth::access_token::AccessToken;
use crate::oauth::confirmation::Confirmation;
use crate::oauth::credentials::{Credentials, Token};
use crate::policy::{Issuer, IssuerId, Policy};
use crate::state::introspection::Introspector;
use crate::state::token_cache::{Digest, Entry};
use crate::time::UnixTime;
use crate::trail::Finding;
use std::sync::Arc;

impl Rules {
    /// The token, once its issuer has vouched for it: by signature or by word.
    pub(super) async fn token(
        &self,
        policy: &Policy,
        credentials: &Credentials<'_>,
        facts: &mut Facts,
    ) -> Result<Arc<AccessToken>, Denial> {
        let token = credentials.token;
        let most = self.policies.limits.token_bytes;
        let short = token.as_bytes().len() <= most;
        facts.trail.demand(short, Denial::TokenTooLarge, || steps::length(token, most))?;
        let digest = Digest::from(credentials.token_hash());
        if let Some((token, kid)) = self.remembered(policy, &digest) {
            facts.kid = kid;
            facts.trail.note(|| Finding::new("token", "memory", "verified before"));
            Ok(token)
        } else if token.looks_like_jwt() {
            Box::pin(self.verified(policy, token, digest, facts)).await
        } else {
            Box::pin(self.introspected(policy, token, digest, facts)).await
        }
    }

    /// An opaque token, once an issuer called it active. The policy's issuers are asked in their
    /// order, until one knows the token. One that cannot be asked, or that nobody here asks, may be
    /// the one that knows.
    async fn introspected(
        &self,
        policy: &Policy,
        token: Token<'_>,
        digest: Digest,
        facts: &mut Facts,
    ) -> Result<Arc<AccessToken>, Denial> {
        let mut refusal = Refusal::from(Denial::TokenMalformed);
        let somebody_asks = policy.issuers.iter().any(|it| self.introspecting(*it).is_some());
        facts.trail.demand(somebody_asks, refusal.denial, || {
            Finding::new("token", "form", "opaque, with no three parts as a JWT has")
                .wanting("a JWT, or an issuer with `introspection`")
        })?;
        for id in &policy.issuers {
            let Some(issuer) = self.introspecting(*id) else { continue };
            let introspector = self.introspector(*id);
            let asked = introspector.is_some();
            let said = match introspector {
                Some(introspector) => introspector.introspect(token, digest).await,
                None => Err(Denial::IntrospectionUnavailable.into()),
            };
            facts.trail.note(|| introspection(issuer, asked, said.is_ok()));
            let said = match said {
                Ok(introspected) => {
                    facts.forward = introspected.forward;
                    return Ok(introspected.token);
                }
                Err(said) => said,
            };
            if !MAYBE_ANOTHERS.contains(&said.denial) {
                refusal = said;
                break;
            }
            if refusal.denial != Denial::IntrospectionUnavailable {
                refusal = said;
            }
        }
        facts.detail = refusal.detail;
        let nobody = || Finding::new("introspection", "token", "no issuer vouches for it");
        facts.trail.fault(Err(refusal.denial), nobody)
    }

    /// Whether the operator wants to know of a JWT whether its issuer still calls it active.
    pub(super) fn must_be_unrevoked(known: &AccessToken, token: Token<'_>) -> bool {
        let asked = known.issuer.introspection.as_ref().is_some_and(|it| it.always);
        asked && token.looks_like_jwt()
    }

    /// Whether the issuer of a JWT still calls it active. The claims of the JWT stay those that
    /// count; but the issuer must not say that it is bound to another key than the JWT says.
    pub(super) async fn admit_unrevoked(
        &self,
        policy: &Policy,
        known: &AccessToken,
        credentials: &Credentials<'_>,
        now: UnixTime,
        facts: &mut Facts,
    ) -> Result<(), Denial> {
        let introspector = self.issued_by(policy, known).and_then(|it| self.introspector(it));
        let said = match introspector {
            Some(it) => it.introspect(credentials.token, credentials.token_hash().into()).await,
            None => Err(Denial::IntrospectionUnavailable.into()),
        };
        facts.detail = said.as_ref().err().and_then(|it| it.detail);
        let (asked, trail) = (introspector.is_some(), &mut facts.trail);
        let said = said.map_err(|it| it.denial);
        let said = trail.tell(said, |it| introspection(&known.issuer, asked, it.is_some()));
        let revoked = |it| if it == Denial::TokenInactive { Denial::TokenRevoked } else { it };
        let said = said.map_err(revoked)?.token;
        said.admit(now, trail)?;
        let same =
            said.confirmation == Confirmation::default() || said.confirmation == known.confirmation;
        trail.demand(same, Denial::TokenMalformed, || {
            let found = if same { "none, or as in the token" } else { "another" };
            Finding::new("introspection", "cnf", found).wanting("the same keys as in the token")
        })
    }

    /// An issuer that is to be asked about opaque tokens.
    fn introspecting(&self, id: IssuerId) -> Option<&Issuer> {
        self.policies.issuers.get(id.0).map(|it| &**it).filter(|it| it.introspection.is_some())
    }

    fn introspector(&self, id: IssuerId) -> Option<&Introspector> {
        self.introspectors.get(id.0)?.as_deref()
    }

    /// Which of the policy's issuers the token is from, as long as that stands as it stood then.
    fn issued_by(&self, policy: &Policy, token: &AccessToken) -> Option<IssuerId> {
        let issued = |id: &IssuerId| {
            let issuer = self.policies.issuers.get(id.0);
            issuer.is_some_and(|it| Arc::ptr_eq(it, &token.issuer) || it.judges_like(&token.issuer))
        };
        policy.issuers.iter().copied().find(issued)
    }

    /// A JWT, once its signature and its claims have been verified.
    async fn verified(
        &self,
        policy: &Policy,
        token: Token<'_>,
        digest: Digest,
        facts: &mut Facts,
    ) -> Result<Arc<AccessToken>, Denial> {
        let (token, signed_by) = self.verify(policy, token, facts).await?;
        let token = Arc::new(token);
        self.cache.insert(digest, Entry { token: Arc::clone(&token), signed_by });
        Ok(token)
    }

    /// A token that was verified before, as long as it was under these very rules, by a key that
    /// its issuer still has for that algorithm; and what the issuer calls that key.
    fn remembered(
        &self,
        policy: &Policy,
        digest: &Digest,
    ) -> Option<(Arc<AccessToken>, Option<Arc<str>>)> {
        let Entry { token, signed_by } = self.cache.get(digest)?;
        let id = self.issued_by(policy, &token)?;
        let keys = self.keys.get(id.0)?.current()?;
        let kid = keys.behind(&signed_by)?.kid().cloned();
        token.claims.are_selected_by(&self.selection).then_some((token, kid))
    }

    /// The token, and which key verified it.
    async fn verify(
        &self,
        policy: &Policy,
        token: Token<'_>,
        facts: &mut Facts,
    ) -> Result<(AccessToken, SignedBy), Denial> {
        let jws = Unverified::parse(token.as_bytes()).or(Err(Denial::TokenMalformed));
        let trail = &mut facts.trail;
        let jws = trail.tell(jws, |it| steps::form(it.map(Unverified::header)))?;
        let header = jws.header().clone();
        facts.kid = header.kid.as_deref().map(Into::into);
        // The issuer first, then its key, then the algorithm: a key is never looked up across.
        let id = trail.tell(self.issuer(policy, &jws), |_| self.issuers(policy, &jws))?;
        let (Some(issuer), Some(keys)) = (self.policies.issuers.get(id.0), self.keys.get(id.0))
        else {
            invariant::broken("each issuer of a policy has its rules and keys");
            return Err(Denial::Internal);
        };
        let patience = self.policies.limits.patience();
        let verified = keys.verify(jws, issuer, patience, trail).await;
        let (verified, signed_by) = verified.map_err(|it| {
            (facts.detail, facts.retry_after) = (it.refusal.detail, it.retry_after);
            it.refusal.denial
        })?;
        let token =
            AccessToken::read(&header, &verified, issuer, &self.selection, &mut facts.trail)?;
        Ok((token, signed_by))
    }

    /// What the token claims, and what it may claim.
    fn issuers(&self, policy: &Policy, jws: &Unverified<'_>) -> Finding {
        let claimed = jws.peek_issuer().map_or_else(|| "absent".to_owned(), ToString::to_string);
        let names = policy.issuers.iter().filter_map(|it| self.policies.issuers.get(it.0));
        let names: Vec<&str> = names.map(|it| &*it.name).collect();
        Finding::new("issuer", "iss", claimed).wanting(names.join(" or "))
    }

    /// The issuer that the token claims, if the policy accepts it.
    fn issuer(&self, policy: &Policy, jws: &Unverified<'_>) -> Result<IssuerId, Denial> {
        let claimed = jws.peek_issuer().ok_or(Denial::TokenClaimMissing)?;
        let claimed = claimed.as_str().ok_or(Denial::TokenMalformed)?;
        let is_claimed = |it: &IssuerId| {
            self.policies.issuers.get(it.0).is_some_and(|issuer| *issuer.name == *claimed)
        };
        policy.issuers.iter().copied().find(is_claimed).ok_or(Denial::TokenIssuerUnknown)
    }
}

/// What an issuer says of a token.
fn introspection(issuer: &Issuer, asked: bool, active: bool) -> Finding {
    let found = match (asked, active) {
        (true, true) => "active, and for this service",
        (true, false) => "no active token for this service, or no answer",
        (false, _) => "not asked",
    };
    Finding::new("introspection", "answer", format!("{}: {found}", issuer.name)).wanting("active")
}

/// What an issuer says of a token that it does not know, or nothing at all.
const MAYBE_ANOTHERS: [Denial; 3] =
    [Denial::TokenInactive, Denial::TokenIssuerUnknown, Denial::IntrospectionUnavailable];
