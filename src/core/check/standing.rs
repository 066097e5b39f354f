//! Tokens that were revoked before they expire.

use super::inputs::Inputs;
use super::{Facts, token};
use crate::denial::Denial;
use crate::explanation::Finding;
use crate::oauth::access_token::AccessToken;
use crate::policy::IssuerId;
use crate::sources::{Sources, Standing, Unconfirmed, Waiting};

/// What is still to be waited for before it is known whether a token was revoked.
pub(super) type Awaited<'a> = (IssuerId, Waiting<'a, Result<(), Unconfirmed>>);

/// Refuses a token that was revoked. Nearly always this is known at once; if not, what is to be waited
/// for is returned.
#[inline]
pub(super) fn admit<'a, S: Sources>(
    given: &Inputs<'a, S>,
    token: &'a AccessToken,
    facts: &mut Facts,
) -> Result<Option<Awaited<'a>>, Denial> {
    if token.revocable.is_none() {
        return Ok(None);
    }
    // Its issuer is one of the policy's, or it would not have been verified.
    let id = token::issued_by(given, token).ok_or(Denial::RevocationUnavailable)?;
    match given.sources.standing(id, token, given.now) {
        Standing::Good => settle(given, id, Ok(()), facts).map(|()| None),
        Standing::Refused(it) => settle(given, id, Err(it), facts).map(|()| None),
        Standing::Waits(waiting) => Ok(Some((id, waiting))),
    }
}

/// The same, once what was to be waited for has come.
pub(super) async fn wait<S: Sources>(
    given: &Inputs<'_, S>,
    (id, waiting): Awaited<'_>,
    facts: &mut Facts,
) -> Result<(), Denial> {
    let outcome = waiting.await;
    settle(given, id, outcome, facts)
}

fn settle<S: Sources>(
    given: &Inputs<'_, S>,
    id: IssuerId,
    outcome: Result<(), Unconfirmed>,
    facts: &mut Facts,
) -> Result<(), Denial> {
    let (outcome, why) = match outcome {
        Ok(()) => (Ok(()), String::new()),
        Err(it) => {
            facts.detail = it.refusal.detail;
            (Err(it.refusal.denial), it.in_words())
        }
    };
    facts.explanation.record(outcome, |good| {
        let found = if good.is_some() { "not revoked".to_owned() } else { why };
        let asked = given.sources.describe_standing(id);
        Finding::new("token", "revocation", found).wanting(format!("nothing against it in {asked}"))
    })
}
