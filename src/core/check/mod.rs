//! The whole decision on one page: what is checked of a request, in order.

mod describe;
mod facts;
mod inputs;
mod possession;
mod rules;
pub mod signature;
mod token;

pub use facts::{Facts, Proved, Verdict};
pub use rules::Rules;

use crate::denial::Denial;
use crate::explanation::Explanation;
use crate::oauth::access_token::AccessToken;
use crate::oauth::credentials::Credentials;
use crate::policy::Policy;
use crate::request::Request;
use crate::sources::Sources;
use crate::time::UnixTime;
use inputs::Inputs;
use std::sync::Arc;

/// Checks `request` at the time `now` under `rules`, with what `sources` know.
///
/// The future may be dropped before its end, and may be polled on another thread than before.
pub async fn check<S: Sources>(
    rules: &Rules,
    sources: &S,
    request: &Request<'_>,
    now: UnixTime,
) -> Verdict {
    let mut facts = Facts::default();
    let outcome = check_into(&mut facts, rules, sources, request, now).await;
    Verdict::new(outcome, facts, &rules.policies)
}

/// The same check. What it finds goes into `facts`, and stays there when the check is dropped before
/// its end.
pub async fn check_into<S: Sources>(
    facts: &mut Facts,
    rules: &Rules,
    sources: &S,
    request: &Request<'_>,
    now: UnixTime,
) -> Result<(), Denial> {
    let outcome = decide(facts, rules, sources, request, now).await;
    let sends_nonce = possession::sends_nonce(outcome, facts, rules.policies.proofs.nonce);
    facts.nonce = sends_nonce.then(|| rules.nonces.issue(now));
    outcome
}

/// Rare branches are boxed to keep the future small: it is moved several times.
async fn decide<S: Sources>(
    facts: &mut Facts,
    rules: &Rules,
    sources: &S,
    request: &Request<'_>,
    now: UnixTime,
) -> Result<(), Denial> {
    let policy = rules.policies.select(request, &mut facts.explanation).map_err(|it| {
        facts.detail = it.detail;
        it.denial
    })?;
    facts.policy = Some(Arc::clone(policy));
    let credentials = Credentials::read(request);
    let credentials =
        &facts.explanation.record(credentials, |it| describe::credentials(it, request))?;
    facts.scheme = Some(credentials.scheme);
    let given = &Inputs { rules, sources, policy, request, credentials, now };

    let token = token::verified(given, facts).await?;
    facts.token = Some(Arc::clone(&token));
    token.admit(now, &mut facts.explanation)?;
    facts.admitted = true;
    token.admit_scopes(&policy.scopes, &mut facts.explanation)?;
    admit_claims(&token, policy, &mut facts.explanation)?;

    let constraint = policy.sender_constraint;
    let to_prove = token.confirmation.to_prove(constraint, credentials.scheme);
    let binding = || describe::binding(&token.confirmation, constraint, credentials.scheme);
    let to_prove = facts.explanation.record(to_prove, |_| binding())?;
    let proof = possession::verify(given, to_prove, facts).await?;
    // The issuer is not asked for the sake of somebody who cannot use the token.
    if token::must_be_unrevoked(&token, credentials.token) {
        Box::pin(token::admit_unrevoked(given, &token, facts)).await?;
    }
    // Last, for it is the only step that leaves a mark: a request that is refused for another
    // reason must not use up its proof.
    if let Some(proof) = proof {
        possession::use_up(given, &proof, facts).await?;
        facts.proved.dpop = true;
    }
    Ok(())
}

/// Whether the token has every claim that the policy demands.
fn admit_claims(
    token: &AccessToken,
    policy: &Policy,
    explanation: &mut Explanation,
) -> Result<(), Denial> {
    policy.claims.iter().try_for_each(|rule| {
        let claim = token.claims.get(&rule.path);
        let has = claim.is_some_and(|it| it.holds_any(&rule.values));
        explanation.demand(has, Denial::ClaimInsufficient, || describe::claim(token, rule))
    })
}
