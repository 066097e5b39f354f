//! Diagnosis of a refused request: what else is wrong with it, beside the reason for the refusal.
//!
//! It runs after the verdict, for an explanation alone, and decides nothing.

use super::facts::{Facts, Verdict};
use super::inputs::Inputs;
use super::{Rules, admit_claim, describe, possession, signature, token};
use crate::denial::Denial;
use crate::explanation::Explanation;
use crate::jose::json::Object;
use crate::jose::jwk::KeySet;
use crate::jose::jws::{Header, Unverified};
use crate::mismatches::{Mismatch, Mismatches};
use crate::oauth::access_token::AccessToken;
use crate::oauth::credentials::{Credentials, Scheme};
use crate::policy::{ClaimsFrom, Issuer, IssuerId, SenderConstraint};
use crate::request::Request;
use crate::sources::{Keys, Sources};
use crate::time::UnixTime;
use std::sync::Arc;

/// What else is wrong with a refused request.
#[derive(Debug, Default)]
pub struct Diagnosis {
    /// The mismatches beside the one that decides.
    pub mismatches: Vec<Mismatch>,
    /// The token, if it is a JWT of an issuer of the policy.
    pub jwt: Option<SeenJwt>,
}

/// A JWT as it was looked at for an explanation. Nothing may be allowed by it.
#[derive(Debug)]
pub struct SeenJwt {
    /// The issuer that it names.
    pub issuer: IssuerId,
    /// Its header.
    pub header: Header,
    /// Its claims.
    pub claims: Object,
    /// Whether a key of the issuer verifies it, by whatever algorithm. If not, anybody may have written
    /// header and claims.
    pub verified: bool,
    /// Whether the issuer publishes a key for its algorithm, and of its `kid` if it names one.
    pub has_key: bool,
}

/// What else is wrong with `request`, which was refused by `verdict`.
///
/// It waits only for the first keys of an issuer, if the check did not get to them, and records nothing.
pub async fn diagnose<S: Sources>(
    rules: &Rules,
    sources: &S,
    request: &Request<'_>,
    now: UnixTime,
    verdict: &Verdict,
) -> Diagnosis {
    let (Err(_), Some(policy)) = (verdict.outcome, &verdict.facts.policy) else {
        return Diagnosis::default();
    };
    let Ok(credentials) = &Credentials::read(request) else { return Diagnosis::default() };
    let given = &Inputs { rules, sources, policy, request, credentials, now };
    let beside = &mut Mismatches::beside(&verdict.facts.explanation);
    let waits = verdict.outcome != Err(Denial::KeysUnavailable);
    let jwt = seen(given, waits, beside).await;
    let judged = verdict.facts.token.clone();
    let token = match &jwt {
        None => judged,
        Some(jwt) => read_on(given, jwt, beside).and_then(|it| match it.issuer.claims_from {
            ClaimsFrom::Token => Some(it),
            // What the token does not say, the answer may: it counts once that was there.
            ClaimsFrom::Answer => judged.filter(|_| verdict.facts.admitted),
        }),
    };
    if let Some(token) = token {
        go_on(given, &token, beside);
    }
    let mismatches = std::mem::replace(beside, Mismatches::beside(&Explanation::default())).found();
    Diagnosis { mismatches, jwt }
}

/// The JWT, and whether it is signed by its issuer with an algorithm of the list.
async fn seen<S: Sources>(
    given: &Inputs<'_, S>,
    waits: bool,
    beside: &mut Mismatches,
) -> Option<SeenJwt> {
    let jws = Unverified::parse(given.credentials.token.as_bytes()).ok()?;
    let id = token::claimed_issuer(given, &jws).ok()?;
    let issuer = given.rules.policies.issuers.get(id.0)?;
    let header = jws.header().clone();
    beside.step(|it| signature::admit_algorithm(&header, issuer, it));
    if beside.redacted().token {
        let claims = jws.claims_of_anybody();
        return Some(SeenJwt { issuer: id, header, claims, verified: true, has_key: true });
    }
    let keys = given.sources.keys(id)?;
    let set = if waits { keys.available().await } else { keys.current() };
    let (claims, has_key, verified) = signed_by(set.as_deref(), jws, issuer, beside);
    Some(SeenJwt { issuer: id, header, claims, verified, has_key })
}

/// The claims; whether the set has a key for them, and whether that verifies them.
fn signed_by(
    set: Option<&KeySet>,
    jws: Unverified<'_>,
    issuer: &Issuer,
    beside: &mut Mismatches,
) -> (Object, bool, bool) {
    let header = jws.header().clone();
    let kid = header.kid.as_deref();
    let (Some(set), Some(algorithm)) = (set, header.algorithm) else {
        return (jws.claims_of_anybody(), false, false);
    };
    let fit = set.candidates(kid, algorithm).next().ok_or_else(|| signature::unfit(kid, set));
    let key = || signature::kid_finding(kid, set, algorithm);
    if beside.step(|it| it.record(fit, |_| key())).is_none() {
        return (jws.claims_of_anybody(), false, false);
    }
    match jws.verify_or_keep(algorithm, set.candidates(kid, algorithm)) {
        Ok((verified, key)) => {
            beside.step(|it| signature::admit_key(key, &verified, issuer, it));
            (verified.claims().clone(), true, true)
        }
        Err(jws) => {
            let unverified = || Err::<(), _>(Denial::TokenSignatureInvalid);
            beside.step(|it| it.record_error(unverified(), signature::not_by_any_key));
            (jws.claims_of_anybody(), true, false)
        }
    }
}

fn read_on<S>(
    given: &Inputs<'_, S>,
    jwt: &SeenJwt,
    beside: &mut Mismatches,
) -> Option<Arc<AccessToken>> {
    let issuer = given.rules.policies.issuers.get(jwt.issuer.0)?;
    if !jwt.verified {
        beside.by_anybody();
    }
    let parts = (&jwt.header, &jwt.claims);
    AccessToken::read_on(parts, issuer, &given.rules.selection, beside).map(Arc::new)
}

/// The demands beyond the reading of the token: of the time, of the policy, and on its sender.
fn go_on<S: Sources>(given: &Inputs<'_, S>, token: &AccessToken, beside: &mut Mismatches) {
    let Inputs { policy, credentials, .. } = given;
    token.admit_on(given.now, beside);
    beside.step(|it| token.admit_acr(&policy.authentication, it));
    beside.step(|it| token.admit_auth_time(&policy.authentication, given.now, it));
    beside.step(|it| token.admit_scopes(&policy.scopes, it));
    for rule in &policy.claims {
        beside.step(|it| admit_claim(token, rule, it));
    }
    let (constraint, scheme) = (policy.sender_constraint, credentials.scheme);
    let fitting = if token.confirmation.jkt.is_some() { Scheme::Dpop } else { Scheme::Bearer };
    // With another scheme, the binding may still be one that the policy does not accept.
    for scheme in [scheme, fitting] {
        let to_prove = token.confirmation.to_prove(constraint, scheme);
        let binding = || describe::binding(&token.confirmation, constraint, scheme);
        beside.step(|it| it.record(to_prove, |_| binding()));
    }
    if constraint == SenderConstraint::None {
        return;
    }
    if let Some(bound_to) = token.confirmation.x5t_s256 {
        beside.step(|it| apart(it, |facts| possession::verify_certificate(given, bound_to, facts)));
    }
    if let Some(bound_to) = token.confirmation.jkt {
        possession::read_on(given, bound_to, beside);
    }
}

/// Takes a step that notes facts, and keeps its explanation alone.
fn apart<T>(explanation: &mut Explanation, step: impl FnOnce(&mut Facts) -> T) -> T {
    let mut facts = Facts { explanation: std::mem::take(explanation), ..Facts::default() };
    let done = step(&mut facts);
    *explanation = facts.explanation;
    done
}

impl SeenJwt {
    /// What `issuer` would find wanting in it, whether or not it is signed well.
    pub fn mismatches_under(&self, issuer: &Issuer) -> Vec<Mismatch> {
        let mut beside = Mismatches::beside(&Explanation::default());
        let issuer = Arc::new(issuer.clone());
        beside.step(|it| signature::admit_algorithm(&self.header, &issuer, it));
        let parts = (&self.header, &self.claims);
        let _token = AccessToken::read_on(parts, &issuer, &[].into(), &mut beside);
        beside.found()
    }
}
