//! Access tokens, verified by signature (RFC 9068) or by introspection (RFC 7662).

use super::inputs::Inputs;
use super::{Facts, describe, signature, standing};
use crate::denial::{Denial, Detail, Refusal};
use crate::explanation::Finding;
use crate::jose::jws::{Header, Unverified, Verified};
use crate::oauth::access_token::AccessToken;
use crate::oauth::confirmation::Confirmation;
use crate::oauth::credentials::Token;
use crate::policy::{ClaimsFrom, Introspection, Issuer, IssuerId};
use crate::sources::{Introspected, Keys, Sources, Unconfirmed, VerifiedToken};
use crate::time::UnixTime;
use serde_json::Value;
use std::sync::Arc;
use std::time::Duration;

/// The verified token: by signature if it is a JWT, else by introspection. What its issuer said of it is
/// good for the span beside it, if it was asked.
pub(super) async fn verified<S: Sources>(
    given: &Inputs<'_, S>,
    facts: &mut Facts,
) -> Result<(Arc<AccessToken>, Option<Duration>), Denial> {
    let token = given.credentials.token;
    let most = given.rules.policies.token_bytes;
    let short = token.as_bytes().len() <= most;
    facts.explanation.demand(short, Denial::TokenTooLarge, || describe::length(token, most))?;
    if let Some((token, kid)) = remembered(given) {
        facts.kid = kid;
        facts.explanation.note(|| Finding::new("token", "memory", "cached: verified before"));
        Ok((token, None))
    } else if token.looks_like_jwt() {
        Ok((Box::pin(signed(given, facts)).await?, None))
    } else {
        let said = introspected(given, facts).await?;
        Ok((said.token, Some(said.good_for)))
    }
}

/// A cached token and the `kid` of its key, if it was verified under the same rules by a key that
/// its issuer still publishes for that algorithm.
fn remembered<S: Sources>(given: &Inputs<'_, S>) -> Option<(Arc<AccessToken>, Option<Arc<str>>)> {
    let VerifiedToken { token, signed_by } = given.sources.remembered(given.credentials.token)?;
    let keys = given.sources.keys(issued_by(given, &token)?)?.current()?;
    let kid = keys.behind(&signed_by)?.kid().cloned();
    token.claims.are_selected_by(&given.rules.selection).then_some((token, kid))
}

/// The issuer of a cached token, if the policy accepts it and its rules are unchanged.
pub(super) fn issued_by<S>(given: &Inputs<'_, S>, token: &AccessToken) -> Option<IssuerId> {
    let issued = |id: &IssuerId| {
        let issuer = given.rules.policies.issuers.get(id.0);
        issuer.is_some_and(|it| Arc::ptr_eq(it, &token.issuer) || it.judges_like(&token.issuer))
    };
    given.policy.issuers.iter().copied().find(issued)
}

/// A JWT, once its signature and its claims are verified.
async fn signed<S: Sources>(
    given: &Inputs<'_, S>,
    facts: &mut Facts,
) -> Result<Arc<AccessToken>, Denial> {
    let Inputs { rules, sources, credentials, .. } = given;
    let jws = Unverified::parse(credentials.token.as_bytes()).or(Err(Denial::TokenMalformed));
    let explanation = &mut facts.explanation;
    let jws = explanation
        .record(jws, |it| describe::form(it.map(Unverified::header), credentials.token))?;
    let header = jws.header().clone();
    facts.kid = header.kid.as_deref().map(Into::into);
    // The issuer first, then its key, then the algorithm: a key is never looked up across issuers.
    let id = explanation.record(claimed_issuer(given, &jws), |_| issuers(given, &jws));
    let id = id.inspect_err(|_| facts.seen().issuer = text(jws.peek_issuer()))?;
    let issuer = rules.policies.issuers.get(id.0).ok_or(Denial::Internal)?;
    if facts.explanation.redacted().token {
        // It enters no cache.
        let verified = signature::taken_as_verified(jws, issuer, &mut facts.explanation)?;
        return read(given, &header, &verified, issuer, facts);
    }
    let keys = sources.keys(id).ok_or(Denial::Internal)?;
    let verified = signature::verify(keys, jws, issuer, &mut facts.explanation).await;
    let (verified, signed_by) = verified.map_err(|it| {
        (facts.detail, facts.retry_after) = (it.refusal.detail, it.retry_after);
        facts.seen().issuer = Some((&*issuer.name).into());
        it.refusal.denial
    })?;
    let token = read(given, &header, &verified, issuer, facts)?;
    let remembered = VerifiedToken { token: Arc::clone(&token), signed_by };
    sources.remember(credentials.token, remembered);
    Ok(token)
}

/// The token with these verified claims. If it is refused, who uses it is known all the same.
fn read<S>(
    given: &Inputs<'_, S>,
    header: &Header,
    verified: &Verified,
    issuer: &Arc<Issuer>,
    facts: &mut Facts,
) -> Result<Arc<AccessToken>, Denial> {
    let selection = &given.rules.selection;
    let explanation = &mut facts.explanation;
    let from = issuer.claims_from;
    let token = AccessToken::read(header, verified, issuer, from, selection, explanation);
    token.map(Arc::new).inspect_err(|denial| {
        let claims = verified.claims();
        if *denial == Denial::TokenMalformed && Confirmation::of(claims).is_err() {
            facts.detail = Some(Detail::ConfirmationMalformed);
        }
        let seen = facts.seen();
        seen.issuer = text(claims.get("iss"));
        seen.client_id = text(issuer.claim_names.find(claims, "client_id"));
        seen.is_verified = true;
    })
}

fn text(claim: Option<&Value>) -> Option<Box<str>> {
    claim.and_then(Value::as_str).map(Into::into)
}

/// Whether a token is valid at the time `now`. If it is not, the facts tell by how much.
#[inline]
pub(super) fn admit_time(
    token: &AccessToken,
    now: UnixTime,
    facts: &mut Facts,
) -> Result<(), Denial> {
    token.admit(now, &mut facts.explanation).inspect_err(|denial| {
        let time = if *denial == Denial::TokenExpired { token.expires() } else { token.begins() };
        facts.seen().skew = Some(now.seconds_after(time));
    })
}

/// The issuer named in the token, if the policy accepts it.
pub(super) fn claimed_issuer<S>(
    given: &Inputs<'_, S>,
    jws: &Unverified<'_>,
) -> Result<IssuerId, Denial> {
    let claimed = jws.peek_issuer().ok_or(Denial::TokenClaimMissing)?;
    let claimed = claimed.as_str().ok_or(Denial::TokenMalformed)?;
    let is_claimed = |it: &IssuerId| {
        given.rules.policies.issuers.get(it.0).is_some_and(|issuer| issuer.is_called(claimed))
    };
    let found = given.policy.issuers.iter().copied().find(is_claimed);
    found.ok_or(Denial::TokenIssuerUnknown)
}

/// The issuer named in the token, and the accepted ones.
fn issuers<S>(given: &Inputs<'_, S>, jws: &Unverified<'_>) -> Finding {
    let claimed = jws.peek_issuer().map_or_else(|| "absent".to_owned(), ToString::to_string);
    let names = given.policy.issuers.iter().filter_map(|it| given.rules.policies.issuers.get(it.0));
    let names: Vec<&str> = names.map(|it| &*it.name).collect();
    Finding::new("issuer", "iss", claimed).wanting(names.join(" or "))
}

/// An opaque token, once an issuer has said that it is active. Asks the issuers of the policy in
/// order until one knows the token. If one of them cannot be asked, it may be the one that knows
/// it.
async fn introspected<S: Sources>(
    given: &Inputs<'_, S>,
    facts: &mut Facts,
) -> Result<Introspected, Denial> {
    let Inputs { sources, policy, credentials, .. } = given;
    let mut refusal = Refusal::from(Denial::TokenMalformed);
    let somebody_asks = policy.issuers.iter().any(|it| introspecting(given, *it).is_some());
    facts.explanation.demand(somebody_asks, refusal.denial, || {
        Finding::new("token", "form", describe::opaque(credentials.token))
            .wanting("a JWT, or an issuer with `introspection`")
    })?;
    for id in policy.issuers.iter().copied() {
        let Some(issuer) = introspecting(given, id) else { continue };
        let asked = sources.introspects(id);
        let said = sources.introspect(id, credentials.token, credentials.token_hash()).await;
        facts.explanation.note(|| introspection(issuer, asked, said.as_ref().err()));
        let said = match said {
            Ok(introspected) => {
                facts.forward.clone_from(&introspected.forward);
                return Ok(introspected);
            }
            Err(said) => said.refusal,
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
    let nobody = || Finding::new("introspection", "token", "no issuer confirms it");
    facts.explanation.record_error(Err(refusal.denial), nobody)
}

/// An issuer to ask about opaque tokens.
fn introspecting<'a, S>(given: &Inputs<'a, S>, id: IssuerId) -> Option<&'a Issuer> {
    let issuer = given.rules.policies.issuers.get(id.0).map(|it| &**it);
    issuer.filter(|it| it.introspection != Introspection::Never)
}

/// Whether introspection of JWTs is configured for the issuer of this token.
pub(super) fn must_be_unrevoked(known: &AccessToken, token: Token<'_>) -> bool {
    known.issuer.introspection == Introspection::AllTokens
        && known.issuer.claims_from == ClaimsFrom::Token
        && token.looks_like_jwt()
}

/// Whether the claims of this token are complete only with those of the issuer's answer about it.
pub(super) fn is_completed_by_answer(known: &AccessToken, token: Token<'_>) -> bool {
    known.issuer.claims_from == ClaimsFrom::Answer && token.looks_like_jwt()
}

/// A JWT with what its issuer says about it, once it has called it active, and for how long that is good.
pub(super) async fn completed<S: Sources>(
    given: &Inputs<'_, S>,
    known: &AccessToken,
    facts: &mut Facts,
) -> Result<(Arc<AccessToken>, Option<Duration>), Denial> {
    let said = confirmed(given, known, facts).await?;
    let token = known.joined(&said.token, &mut facts.explanation)?;
    facts.forward = said.forward;
    Ok((Arc::new(token), Some(said.good_for)))
}

/// Asks the issuer whether a JWT is still active. The claims of the JWT remain in force, but the
/// issuer must not report another binding than the JWT has. Returns when it ends by what the issuer says.
pub(super) async fn admit_unrevoked<S: Sources>(
    given: &Inputs<'_, S>,
    known: &AccessToken,
    facts: &mut Facts,
) -> Result<Option<UnixTime>, Denial> {
    let said = confirmed(given, known, facts).await?.token;
    let explanation = &mut facts.explanation;
    said.admit(given.now, explanation)?;
    let same =
        said.confirmation == Confirmation::default() || said.confirmation == known.confirmation;
    explanation.demand(same, Denial::TokenMalformed, || {
        let found = if same { "none, or as in the token" } else { "another" };
        Finding::new("introspection", "cnf", found).wanting("the same keys as in the token")
    })?;
    // The answer may name what the token does not, such as the session.
    if let Some(known) = known.known_better(&said)
        && let Some(awaited) = standing::admit(given, &known, facts)?
    {
        standing::wait(given, awaited, facts).await?;
    }
    Ok(said.ends())
}

/// What the issuer of a JWT says about it, which it has called active.
async fn confirmed<S: Sources>(
    given: &Inputs<'_, S>,
    known: &AccessToken,
    facts: &mut Facts,
) -> Result<Introspected, Denial> {
    let Inputs { sources, credentials, .. } = given;
    let issuer = issued_by(given, known);
    let asked = issuer.is_some_and(|it| sources.introspects(it));
    let said = match issuer {
        Some(it) => sources.introspect(it, credentials.token, credentials.token_hash()).await,
        None => Err(Denial::IntrospectionUnavailable.into()),
    };
    facts.detail = said.as_ref().err().and_then(|it| it.refusal.detail);
    let explanation = &mut facts.explanation;
    let said = match said {
        Ok(said) => said,
        Err(unconfirmed) => {
            let revoked = |it| if it == Denial::TokenInactive { Denial::TokenRevoked } else { it };
            let denial = revoked(unconfirmed.refusal.denial);
            let why = || introspection(&known.issuer, asked, Some(&unconfirmed));
            return explanation.record_error(Err(denial), why);
        }
    };
    explanation.record(Ok(said), |_| introspection(&known.issuer, asked, None))
}

/// What an issuer said about a token, for the explanation.
fn introspection(issuer: &Issuer, asked: bool, unconfirmed: Option<&Unconfirmed>) -> Finding {
    let found = match unconfirmed {
        _ if !asked => "not asked".to_owned(),
        None => "active, and for this service".to_owned(),
        Some(unconfirmed) => unconfirmed.in_words(),
    };
    Finding::new("introspection", "answer", format!("{}: {found}", issuer.name)).wanting("active")
}

/// Denials after which the next issuer is asked: this one does not know the token, or has not
/// answered.
const MAYBE_ANOTHERS: [Denial; 3] =
    [Denial::TokenInactive, Denial::TokenIssuerUnknown, Denial::IntrospectionUnavailable];
