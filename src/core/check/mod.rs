//! The decision: every step of a check, in order.

mod describe;
mod diagnosis;
mod facts;
mod inputs;
mod possession;
mod rules;
pub mod signature;
mod standing;
mod token;

pub use diagnosis::{Diagnosis, SeenJwt, diagnose};
pub use facts::{Facts, Proved, Seen, Verdict};
pub use rules::Rules;

use crate::denial::Denial;
use crate::explanation::Explanation;
use crate::oauth::access_token::AccessToken;
use crate::oauth::credentials::{Credentials, holds_access_token};
use crate::policy::{ClaimRule, Policy, Streams};
use crate::request::Request;
use crate::sources::Sources;
use crate::time::UnixTime;
use inputs::Inputs;
use std::sync::Arc;
use std::time::Duration;

/// Checks `request` at the time `now` under `rules`, with the keys and stores of `sources`.
///
/// Cancel-safe: the future may be dropped before it completes, and may move between threads.
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

/// The same check, with the facts in `facts`, where they remain if the future is dropped.
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
    if policy.is_public() {
        return admit_public(request, &mut facts.explanation);
    }
    let credentials = Credentials::read(request);
    let credentials =
        &facts.explanation.record(credentials, |it| describe::credentials(it, request))?;
    facts.scheme = Some(credentials.scheme);
    let given = &Inputs { rules, sources, policy, request, credentials, now };

    let (mut token, mut good_for) = token::verified(given, facts).await?;
    facts.token = Some(Arc::clone(&token));
    token::admit_time(&token, now, facts)?;
    if token::is_completed_by_answer(&token, credentials.token) {
        (token, good_for) = Box::pin(token::completed(given, &token, facts)).await?;
        facts.token = Some(Arc::clone(&token));
        token::admit_time(&token, now, facts)?;
    }
    let awaited = standing::admit(given, &token, facts)?;
    let mut ends = token.ends();
    // A token is not good as long as that is not known.
    facts.admitted = awaited.is_none();
    token.admit_authentication(&policy.authentication, now, &mut facts.explanation)?;
    token.admit_scopes(&policy.scopes, &mut facts.explanation)?;
    admit_claims(&token, policy, &mut facts.explanation)?;

    let constraint = policy.sender_constraint;
    let to_prove = token.confirmation.to_prove(constraint, credentials.scheme);
    let binding = || describe::binding(&token.confirmation, constraint, credentials.scheme);
    let to_prove = facts.explanation.record(to_prove, |_| binding())?;
    let proof = possession::verify(given, to_prove, facts).await?;
    // Nobody is asked about a token that the sender cannot use anyway.
    if let Some(awaited) = awaited {
        Box::pin(standing::wait(given, awaited, facts)).await?;
        facts.admitted = true;
    }
    if token::must_be_unrevoked(&token, credentials.token) {
        let by_answer = Box::pin(token::admit_unrevoked(given, &token, facts)).await;
        facts.admitted = by_answer.is_ok();
        ends = ends.into_iter().chain(by_answer?).min();
    }
    // Last, because it is the only step with a side effect: a request that is refused for another
    // reason must not use up its proof.
    if let Some(proof) = proof {
        possession::use_up(given, &proof, facts).await?;
        facts.proved.dpop = true;
    }
    if policy.streams == Streams::EndWithToken {
        let login_ends = token.login_ends(&policy.authentication).map(|it| it.since(now));
        let left = login_ends.into_iter().fold(left(ends, good_for, now), Duration::min);
        facts.explanation.note(|| describe::left(left));
        facts.left = Some(left);
    }
    Ok(())
}

/// Admits a request that needs no token. Those that it has are removed, so one that cannot be is
/// refused: an upstream could take it for one that was checked.
#[cold]
fn admit_public(request: &Request<'_>, explanation: &mut Explanation) -> Result<(), Denial> {
    let removable = !request.target.query().is_some_and(holds_access_token);
    explanation.demand(removable, Denial::CredentialsAmbiguous, || describe::public(removable))
}

/// How long a new check would allow the same token: what its issuer said of one without an end counts as
/// long as it may be cached. A JWT has an end, if only one that no clock comes to.
fn left(ends: Option<UnixTime>, good_for: Option<Duration>, now: UnixTime) -> Duration {
    ends.map(|it| it.since(now)).or(good_for).unwrap_or(Duration::MAX)
}

/// Whether the token has every claim that the policy requires.
fn admit_claims(
    token: &AccessToken,
    policy: &Policy,
    explanation: &mut Explanation,
) -> Result<(), Denial> {
    policy.claims.iter().try_for_each(|rule| admit_claim(token, rule, explanation))
}

fn admit_claim(
    token: &AccessToken,
    rule: &ClaimRule,
    explanation: &mut Explanation,
) -> Result<(), Denial> {
    let claim = token.claims.get(&rule.path);
    let has = claim.is_some_and(|it| it.holds_any(rule.values.list()));
    explanation.demand(has, Denial::ClaimInsufficient, || describe::claim(token, rule))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jose::jwk::KeySet;
    use crate::jose::thumbprint::Thumbprint;
    use crate::oauth::access_token::Audience;
    use crate::oauth::credentials::Token;
    use crate::oauth::dpop::ProofId;
    use crate::oauth::nonce::NonceKeys;
    use crate::policy::{Introspection, Issuer, IssuerId, PolicySet, SenderConstraint};
    use crate::request::Field;
    use crate::sources::{Introspected, NotRecorded, Unconfirmed, Use, Waiting};
    use serde_json::json;
    use std::future::{poll_fn, ready};
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::task::{Context, Poll, Waker};

    /// An issuer that says what it says once it was told to.
    #[derive(Debug)]
    struct Slow {
        issuer: Arc<Issuer>,
        answers: AtomicBool,
    }

    impl Sources for Slow {
        type Keys = Arc<KeySet>;

        fn keys(&self, _issuer: IssuerId) -> Option<&Arc<KeySet>> {
            None
        }

        fn record<'a>(
            &'a self,
            _proof: &'a ProofId,
            _expires: UnixTime,
            _now: UnixTime,
        ) -> Waiting<'a, Result<Use, NotRecorded>> {
            Box::pin(ready(Ok(Use::Repeat)))
        }

        fn introspects(&self, _issuer: IssuerId) -> bool {
            true
        }

        fn introspect<'a>(
            &'a self,
            _issuer: IssuerId,
            _token: Token<'a>,
            _hash: Thumbprint,
        ) -> Waiting<'a, Result<Introspected, Unconfirmed>> {
            Box::pin(async move {
                poll_fn(|_| {
                    let answers = self.answers.load(Ordering::SeqCst);
                    if answers { Poll::Ready(()) } else { Poll::Pending }
                })
                .await;
                let claims = json!({"active": true, "aud": "https://api.example.com"});
                let claims = claims.as_object().unwrap();
                let (issuer, none) = (&self.issuer, &mut Explanation::default());
                let demanded = Audience::Demanded;
                let token = AccessToken::introspected(claims, issuer, &[].into(), demanded, none);
                let good_for = Duration::from_secs(60);
                Ok(Introspected { token: Arc::new(token?), forward: None, good_for })
            })
        }
    }

    fn asked() -> (Rules, Slow) {
        let mut issuer = Issuer::new("https://as.example.com", "https://api.example.com");
        issuer.introspection = Introspection::OpaqueTokens;
        let mut policy = Policy::new("any", SenderConstraint::IfBound);
        policy.issuers = vec![IssuerId(0)];
        let policies = PolicySet::new([issuer], [policy]);
        let issuer = Arc::clone(&policies.issuers[0]);
        let rules = Rules::new(policies, Arc::new(NonceKeys::from_octets(&[0; 32])));
        (rules, Slow { issuer, answers: AtomicBool::new(false) })
    }

    #[test]
    fn a_check_may_begin_on_one_thread_and_end_on_another() {
        let (rules, sources) = &asked();
        let request = Request { authorization: Field::One(b"Bearer opaque"), ..Request::default() };
        let mut check = Box::pin(check(rules, sources, &request, UnixTime::from_secs(0)));
        let context = || Context::from_waker(Waker::noop());
        assert!(check.as_mut().poll(&mut context()).is_pending());
        let ended = std::thread::scope(|scope| {
            let elsewhere = scope.spawn(|| {
                sources.answers.store(true, Ordering::SeqCst);
                check.as_mut().poll(&mut context()).map(|it| it.outcome)
            });
            elsewhere.join().unwrap()
        });
        assert_eq!(ended, Poll::Ready(Ok(())));
    }

    #[test]
    fn what_was_found_outlives_a_check_that_is_dropped() {
        let (rules, sources) = &asked();
        let request = Request { authorization: Field::One(b"Bearer opaque"), ..Request::default() };
        let mut facts = Facts::default();
        let now = UnixTime::from_secs(0);
        let mut check = Box::pin(check_into(&mut facts, rules, sources, &request, now));
        assert!(check.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        drop(check);
        assert_eq!(facts.policy.as_deref().map(|it| &*it.name), Some("any"));
        assert!(facts.scheme.is_some() && facts.token.is_none());
    }
}
