//! The whole service on one page: what is checked of a request, in order.

mod possession;
mod steps;
mod vouching;

pub use possession::Dpop;

use crate::clock::Clock;
use crate::denial::{Denial, Detail, Refusal};
use crate::jose::thumbprint::Thumbprint;
use crate::oauth::access_token::AccessToken;
use crate::oauth::credentials::{Credentials, Scheme};
use crate::oauth::introspection::Jwt;
use crate::policy::reserved::ReservedHeaders;
use crate::policy::{Mode, Policy, PolicySet};
use crate::request::Request;
use crate::state::certificates::Certificates;
use crate::state::introspection::Introspector;
use crate::state::jwks::IssuerKeys;
use crate::state::token_cache::TokenCache;
use crate::time::UnixTime;
use crate::trail::Trail;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;

/// What decides, swapped as a whole when the configuration changes.
#[derive(Debug)]
pub struct Rules {
    /// What is demanded.
    pub policies: PolicySet,
    /// The keys of each issuer, in the order of [`PolicySet::issuers`].
    pub keys: Vec<Arc<IssuerKeys>>,
    /// Who asks each issuer about its tokens, in the same order; none where nobody does.
    pub introspectors: Vec<Option<Arc<Introspector>>>,
    /// The tokens that were verified before.
    pub cache: Arc<TokenCache>,
    /// What DPoP needs besides the proof.
    pub dpop: Dpop,
    /// The client certificates that were read before.
    certificates: Certificates,
    /// The claims that somebody will ask for.
    selection: Arc<[String]>,
    reserved: ReservedHeaders,
    heeds_routes: bool,
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
    /// Whether what is refused is refused.
    pub mode: Mode,
}

/// What a check found, for the answer, the log, the metrics and the metadata. Nothing in the
/// check reads it.
#[derive(Debug, Default)]
pub struct Facts {
    /// The policy that applied.
    pub policy: Option<Arc<Policy>>,
    /// What lies behind the reason for which the request is refused.
    pub detail: Option<Detail>,
    /// In how many seconds the client may come again, where more is known than that it may.
    pub retry_after: Option<u64>,
    /// The authentication scheme of the token.
    pub scheme: Option<Scheme>,
    /// The `kid` that the token names; of a token that was verified before, that of the key that
    /// did. Input: it may hold anything.
    pub kid: Option<Arc<str>>,
    /// The token, once it was verified.
    pub token: Option<Arc<AccessToken>>,
    /// What goes upstream in place of an opaque token.
    pub forward: Option<Arc<Jwt>>,
    /// The client certificate that the request came with, once it was looked at.
    pub certificate: Option<Thumbprint>,
    /// What the caller proved.
    pub proved: Proved,
    /// The token was valid at the time of the check: its claims may be told to the upstream.
    pub admitted: bool,
    /// The proof's nonce will do for some time yet.
    pub nonce_is_fresh: bool,
    /// The nonce for the client's next proof.
    pub nonce: Option<String>,
    /// Each step, if somebody wants the check explained.
    pub trail: Trail,
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
        let outcome = self.check_into(&mut facts, rules, request).await;
        Verdict::new(outcome, facts, &rules.policies)
    }

    /// The same check. What it finds goes into `facts`, and stays there when the check is dropped
    /// before its end.
    pub async fn check_into(
        &self,
        facts: &mut Facts,
        rules: &Rules,
        request: &Request<'_>,
    ) -> Result<(), Denial> {
        let now = self.clock.now();
        let outcome = decide(rules, request, now, facts).await;
        facts.nonce = rules.nonce_to_send(outcome, facts, now);
        outcome
    }

    /// The same check, with each step kept in [`Facts::trail`].
    pub async fn explain(&self, rules: &Rules, request: &Request<'_>) -> Verdict {
        let mut facts = Facts { trail: Trail::kept(), ..Facts::default() };
        let outcome = self.check_into(&mut facts, rules, request).await;
        Verdict::new(outcome, facts, &rules.policies)
    }

    /// The same, ended after `deadline` as the gate ends a check, with the steps until then.
    pub async fn explain_within(
        &self,
        deadline: Duration,
        rules: &Rules,
        request: &Request<'_>,
    ) -> Verdict {
        let mut facts = Facts { trail: Trail::kept(), ..Facts::default() };
        let decided = timeout(deadline, self.check_into(&mut facts, rules, request)).await;
        let late = |_| facts.trail.fault(Err(Denial::CheckTimedOut), || steps::late(deadline));
        let outcome = decided.unwrap_or_else(late);
        Verdict::new(outcome, facts, &rules.policies)
    }

    /// The clock by which it checks.
    pub const fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }
}

/// What most checks do without is boxed: a check is as large as its largest part, and it is moved
/// about several times.
async fn decide(
    rules: &Rules,
    request: &Request<'_>,
    now: UnixTime,
    facts: &mut Facts,
) -> Result<(), Denial> {
    let policy = rules.policies.select(request, &mut facts.trail).map_err(|it| {
        facts.detail = it.detail;
        it.denial
    })?;
    facts.policy = Some(Arc::clone(policy));
    let credentials = Credentials::read(request);
    let credentials = facts.trail.tell(credentials, |it| steps::credentials(it, request))?;
    facts.scheme = Some(credentials.scheme);

    let token = rules.token(policy, &credentials, facts).await?;
    facts.token = Some(Arc::clone(&token));
    token.admit(now, &mut facts.trail)?;
    facts.admitted = true;
    token.admit_scopes(&policy.scopes, &mut facts.trail)?;
    admit_claims(&token, policy, &mut facts.trail)?;

    let constraint = policy.sender_constraint;
    let to_prove = token.confirmation.to_prove(constraint, credentials.scheme);
    let binding = || steps::binding(&token.confirmation, constraint, credentials.scheme);
    let to_prove = facts.trail.tell(to_prove, |_| binding())?;
    let proof =
        rules.verify_possession(to_prove, policy, request, &credentials, now, facts).await?;
    // The issuer is not asked for the sake of somebody who cannot use the token.
    if Rules::must_be_unrevoked(&token, credentials.token) {
        Box::pin(rules.admit_unrevoked(policy, &token, &credentials, now, facts)).await?;
    }
    // Last, for it is the only step that leaves a mark: a request that is refused for another
    // reason must not use up its proof.
    if let Some(proof) = proof {
        Box::pin(rules.use_up(&proof, now, facts)).await?;
        facts.proved.dpop = true;
    }
    Ok(())
}

/// Whether the token has every claim that the policy demands.
fn admit_claims(token: &AccessToken, policy: &Policy, trail: &mut Trail) -> Result<(), Denial> {
    policy.claims.iter().try_for_each(|rule| {
        let claim = token.claims.get(&rule.path);
        let has = claim.is_some_and(|it| it.holds_any(&rule.values));
        trail.demand(has, Denial::ClaimInsufficient, || steps::claim(token, rule))
    })
}

impl Rules {
    /// Rules that demand what `policies` say, verify with `keys` and ask `introspectors`
    /// ([`crate::state::introspection::start_all`]), one of each for each issuer.
    pub fn new(
        policies: PolicySet,
        keys: Vec<Arc<IssuerKeys>>,
        introspectors: Vec<Option<Arc<Introspector>>>,
        cache: Arc<TokenCache>,
        dpop: Dpop,
    ) -> Self {
        let selection = policies.claims_asked_for().into();
        let heeds_routes = policies.heeds_routes();
        let certificates = Certificates::told_by(policies.client_certificate.clone());
        let reserved = ReservedHeaders::of(&policies);
        Self {
            policies,
            keys,
            introspectors,
            cache,
            dpop,
            certificates,
            selection,
            reserved,
            heeds_routes,
        }
    }

    /// The names of request headers that no client may use in another spelling.
    pub const fn reserved_headers(&self) -> &ReservedHeaders {
        &self.reserved
    }

    /// Whether what the annotations of a route say counts.
    pub const fn heeds_routes(&self) -> bool {
        self.heeds_routes
    }
}

impl Verdict {
    /// The verdict of a check under `policies`.
    pub fn new(outcome: Result<(), Denial>, facts: Facts, policies: &PolicySet) -> Self {
        let mode = policies.mode(facts.policy.as_deref());
        Self { outcome, facts, mode }
    }

    /// The verdict on a request of which nothing is known but why it is refused.
    pub fn refused(refusal: Refusal, policies: &PolicySet) -> Self {
        let facts = Facts { detail: refusal.detail, ..Facts::default() };
        let verdict = Self::new(Err(refusal.denial), facts, policies);
        match refusal.detail {
            // Where nothing is enforced, a client must not tell the upstream who it is either.
            Some(Detail::HeaderUnremovable) => Self { mode: Mode::Enforce, ..verdict },
            Some(_) | None => verdict,
        }
    }

    /// Why the request is refused, if it is: a policy may only report.
    pub fn denied(&self) -> Option<Denial> {
        self.outcome.err().filter(|_| self.mode == Mode::Enforce)
    }

    /// Why the request would be refused, if its policy did more than report.
    pub fn would_deny(&self) -> Option<Denial> {
        self.outcome.err().filter(|_| self.mode == Mode::Report)
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
