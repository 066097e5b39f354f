//! The whole service on one page: what is checked of a request, in order.

use crate::clock::Clock;
use crate::denial::Denial;
use crate::jose::jws::Unverified;
use crate::jose::thumbprint::Thumbprint;
use crate::oauth::access_token::AccessToken;
use crate::oauth::claims;
use crate::oauth::credentials::{Credentials, Scheme, Token};
use crate::oauth::mtls;
use crate::policy::{IssuerId, Policy, PolicySet};
use crate::request::Request;
use crate::state::jwks::IssuerKeys;
use crate::state::token_cache::{Digest, Entry, TokenCache};
use std::sync::Arc;

/// What decides, swapped as a whole when the configuration changes.
#[derive(Debug)]
pub struct Rules {
    /// What is demanded.
    pub policies: PolicySet,
    /// The keys of each issuer, in the order of [`PolicySet::issuers`].
    pub keys: Vec<Arc<IssuerKeys>>,
    /// The tokens that were verified before.
    pub cache: Arc<TokenCache>,
    /// The claims that somebody will ask for.
    selection: Arc<[String]>,
}

/// Checks requests.
#[derive(Debug)]
pub struct Checker {
    clock: Arc<dyn Clock>,
}

/// How a check ended, and what was known by then.
#[derive(Debug)]
pub struct Verdict {
    /// Allowed, or why not.
    pub outcome: Result<(), Denial>,
    /// What was found on the way.
    pub facts: Facts,
}

/// What a check found, for the answer, the log, the metrics and the metadata. Nothing in the
/// check reads it.
#[derive(Debug, Default)]
pub struct Facts {
    /// The policy that applied.
    pub policy: Option<Arc<Policy>>,
    /// The authentication scheme of the token.
    pub scheme: Option<Scheme>,
    /// The `kid` that the token names. Input: it may hold anything.
    pub kid: Option<String>,
    /// The token, once it was verified.
    pub token: Option<Arc<AccessToken>>,
    /// The client certificate that the request came with, once it was looked at.
    pub certificate: Option<Thumbprint>,
    /// What the caller proved.
    pub proved: Proved,
}

/// Of which keys the caller proved possession.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Proved {
    /// The token's client certificate.
    pub certificate: bool,
    /// The token's DPoP key.
    pub dpop: bool,
}

impl Checker {
    /// A checker that reads the time from `clock`.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock }
    }

    /// Checks one request under `rules`.
    pub async fn check(&self, rules: &Rules, request: &Request<'_>) -> Verdict {
        let mut facts = Facts::default();
        let outcome = self.decide(rules, request, &mut facts).await;
        Verdict { outcome, facts }
    }

    async fn decide(
        &self,
        rules: &Rules,
        request: &Request<'_>,
        facts: &mut Facts,
    ) -> Result<(), Denial> {
        let now = self.clock.now();
        let policy = rules.policies.policy(request)?;
        facts.policy = Some(Arc::clone(policy));
        let credentials = Credentials::read(request)?;
        facts.scheme = Some(credentials.scheme);

        let token = rules.verified(policy, credentials.token, facts).await?;
        facts.token = Some(Arc::clone(&token));
        token.admit(now)?;
        token.admit_scopes(&policy.scopes)?;
        admit_claims(&token, policy)?;

        let to_prove = token.confirmation.to_prove(policy.sender_constraint, credentials.scheme)?;
        if let Some(bound_to) = to_prove.certificate {
            let shown = rules.policies.client_certificate.read(&request.evidence);
            facts.certificate = shown.thumbprint();
            mtls::verify(bound_to, shown)?;
            facts.proved.certificate = true;
        }
        if to_prove.key.is_some() {
            return Err(Denial::BindingUnsupported);
        }
        Ok(())
    }
}

/// Whether the token has every claim that the policy demands.
fn admit_claims(token: &AccessToken, policy: &Policy) -> Result<(), Denial> {
    let has = |path: &str, values: &[serde_json::Value]| {
        let claim = token.claims.get(path);
        claim.is_some_and(|claim| values.iter().any(|it| claims::holds(claim, it)))
    };
    if policy.claims.iter().all(|it| has(&it.path, &it.values)) {
        Ok(())
    } else {
        Err(Denial::ClaimInsufficient)
    }
}

impl Rules {
    /// Rules that demand what `policies` say and verify with `keys`, one for each issuer.
    pub fn new(policies: PolicySet, keys: Vec<Arc<IssuerKeys>>, cache: Arc<TokenCache>) -> Self {
        let selection = policies.claims_asked_for().into();
        Self { policies, keys, cache, selection }
    }

    /// The token, once its signature and its claims have been verified, now or before.
    async fn verified(
        &self,
        policy: &Policy,
        token: Token<'_>,
        facts: &mut Facts,
    ) -> Result<Arc<AccessToken>, Denial> {
        if token.as_bytes().len() > self.policies.limits.token_bytes {
            return Err(Denial::TokenTooLarge);
        }
        let digest = Digest::of(token.as_bytes());
        if let Some(token) = self.remembered(policy, &digest) {
            return Ok(token);
        }
        let (token, key) = self.verify(policy, token, facts).await?;
        let token = Arc::new(token);
        self.cache.insert(digest, Entry { token: Arc::clone(&token), key });
        Ok(token)
    }

    /// A token that was verified before, as long as it was under these very rules, by a key that
    /// its issuer still has.
    fn remembered(&self, policy: &Policy, digest: &Digest) -> Option<Arc<AccessToken>> {
        let Entry { token, key } = self.cache.get(digest)?;
        let issued = |id: &IssuerId| {
            let issuer = self.policies.issuers.get(id.0);
            issuer.is_some_and(|it| Arc::ptr_eq(it, &token.issuer) || *it == token.issuer)
        };
        let id = policy.issuers.iter().find(|it| issued(it))?;
        let keys = self.keys.get(id.0)?.current()?;
        let counts = keys.contains(key) && token.claims.are_selected_by(&self.selection);
        counts.then_some(token)
    }

    /// The token and the thumbprint of the key that verified it.
    async fn verify(
        &self,
        policy: &Policy,
        token: Token<'_>,
        facts: &mut Facts,
    ) -> Result<(AccessToken, Thumbprint), Denial> {
        let jws = Unverified::parse(token.as_bytes()).or(Err(Denial::TokenMalformed))?;
        let header = jws.header().clone();
        facts.kid.clone_from(&header.kid);
        // The issuer first, then its key, then the algorithm: a key is never looked up across.
        let id = self.issuer(policy, &jws)?;
        let (Some(issuer), Some(keys)) = (self.policies.issuers.get(id.0), self.keys.get(id.0))
        else {
            return Err(Denial::Internal);
        };
        let (verified, key) = keys.verify(jws, &issuer.algorithms).await?;
        let token = AccessToken::read(&header, &verified, issuer, &self.selection)?;
        Ok((token, key))
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

impl Proved {
    /// As metadata and logs name it.
    pub const fn label(self) -> &'static str {
        match (self.certificate, self.dpop) {
            (true, true) => "certificate+dpop",
            (true, false) => "certificate",
            (false, true) => "dpop",
            (false, false) => "none",
        }
    }
}
