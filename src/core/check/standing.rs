//! Tokens that were revoked before they expire.

use super::inputs::Inputs;
use super::{Facts, token};
use crate::denial::{Denial, Detail, Refusal};
use crate::explanation::Finding;
use crate::oauth::access_token::AccessToken;
use crate::oauth::revocable::Revocable;
use crate::policy::{IssuerId, StatusDemand};
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
    let Some(revocable) = &token.revocable else { return Ok(None) };
    if token.issuer.status != StatusDemand::Off {
        admit_status(revocable, token.issuer.status, facts)?;
    }
    // Its issuer is one of the policy's, or it would not have been verified.
    let id = token::issued_by(given, token).ok_or(Denial::RevocationUnavailable)?;
    match given.sources.standing(id, token, given.now) {
        Standing::Good => settle(given, id, Ok(()), facts).map(|()| None),
        Standing::Refused(it) => settle(given, id, Err(it), facts).map(|()| None),
        // Nobody vouches for where such a token leads to.
        Standing::Waits(_) if facts.explanation.redacted().token => {
            facts.explanation.note(|| {
                Finding::new("token", "revocation", "not asked, since the signature is not known")
            });
            Ok(None)
        }
        Standing::Waits(waiting) => Ok(Some((id, waiting))),
    }
}

/// Refuses a token that does not say where its status stands, though it must.
fn admit_status(
    revocable: &Revocable,
    demand: StatusDemand,
    facts: &mut Facts,
) -> Result<(), Denial> {
    let (found, detail) = match revocable.places() {
        Err(_) => ("malformed", Detail::StatusMalformed),
        Ok([]) if demand == StatusDemand::Required => ("absent", Detail::StatusMissing),
        Ok(_) => return Ok(()),
    };
    facts.detail = Some(detail);
    let refused = Err(Refusal::from(detail).denial);
    facts.explanation.record_error(refused, || {
        Finding::new("token", "status.status_list", found)
            .wanting("an object with `idx`, a whole number from 0, and `uri`, the URI of a list")
    })
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::{Rules, check_into};
    use crate::denial::Detail;
    use crate::explanation::Explanation;
    use crate::jose::jwk::KeySet;
    use crate::jose::thumbprint::Thumbprint;
    use crate::oauth::access_token::Audience;
    use crate::oauth::credentials::Token;
    use crate::oauth::dpop::ProofId;
    use crate::oauth::nonce::NonceKeys;
    use crate::policy::{Introspection, Issuer, Policy, PolicySet, SenderConstraint};
    use crate::request::{Field, Request};
    use crate::sources::{Introspected, NotRecorded, Use};
    use crate::time::UnixTime;
    use serde_json::json;
    use std::future::ready;
    use std::pin::pin;
    use std::sync::Arc;
    use std::task::{Context, Poll, Waker};
    use std::time::Duration;

    /// What is said of a token, and how.
    #[derive(Clone, Copy, Debug)]
    enum Says {
        Good,
        Refuses(Detail),
        GoodLater,
        RefusesLater(Denial),
    }

    /// An issuer that calls each token active.
    struct Revoking {
        issuer: Arc<Issuer>,
        says: Says,
    }

    impl Sources for Revoking {
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
            Box::pin(ready(Ok(Use::First)))
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
            let claims = json!({"aud": "api", "jti": "opaque"});
            let (claims, none) = (claims.as_object().unwrap(), &mut Explanation::default());
            let (issuer, demanded) = (&self.issuer, Audience::Demanded);
            let token = AccessToken::introspected(claims, issuer, &[].into(), demanded, none);
            let (token, good_for) = (Arc::new(token.unwrap()), Duration::from_secs(60));
            Box::pin(ready(Ok(Introspected { token, forward: None, good_for })))
        }

        fn standing<'a>(
            &'a self,
            issuer: IssuerId,
            token: &'a AccessToken,
            _now: UnixTime,
        ) -> Standing<'a> {
            assert_eq!((issuer, &token.issuer), (IssuerId(0), &self.issuer));
            match self.says {
                Says::Good => Standing::Good,
                Says::Refuses(it) => Standing::Refused(it.into_unconfirmed()),
                Says::GoodLater => Standing::Waits(Box::pin(ready(Ok(())))),
                Says::RefusesLater(it) => Standing::Waits(Box::pin(ready(Err(it.into())))),
            }
        }

        fn describe_standing(&self, _issuer: IssuerId) -> String {
            "a list".to_owned()
        }
    }

    impl Detail {
        fn into_unconfirmed(self) -> Unconfirmed {
            Unconfirmed { refusal: self.into(), why: Some("line 7".into()) }
        }
    }

    /// The outcome of a check of an opaque token, its detail, and the step about its revocation.
    fn checked(says: Says, revokes: bool) -> (Result<(), Denial>, Option<Detail>, Option<String>) {
        let mut issuer = Issuer::new("https://as.example.com", "api");
        (issuer.introspection, issuer.revokes) = (Introspection::OpaqueTokens, revokes);
        let mut policy = Policy::new("any", SenderConstraint::IfBound);
        policy.issuers = vec![IssuerId(0)];
        let policies = PolicySet::new([issuer], [policy]);
        let sources = Revoking { issuer: Arc::clone(&policies.issuers[0]), says };
        let rules = Rules::new(policies, Arc::new(NonceKeys::from_octets(&[0; 32])));
        let request = Request { authorization: Field::One(b"Bearer opaque"), ..Request::default() };
        let mut facts = Facts { explanation: Explanation::kept(), ..Facts::default() };
        let now = UnixTime::from_secs(0);
        let outcome = {
            let check = pin!(check_into(&mut facts, &rules, &sources, &request, now));
            match check.poll(&mut Context::from_waker(Waker::noop())) {
                Poll::Ready(outcome) => outcome,
                Poll::Pending => panic!("nothing waits"),
            }
        };
        let steps = facts.explanation.steps().iter().map(|it| &it.finding);
        let step = steps.filter(|it| it.what == "revocation").map(ToString::to_string).next();
        (outcome, facts.detail, step)
    }

    #[test]
    fn a_token_is_asked_about_where_its_issuer_revokes_some_and_what_cannot_be_told_refuses() {
        let nothing = " (wanted: nothing against it in a list)";
        let good = format!("revocation: not revoked{nothing}");
        let named =
            format!("revocation: an entry of the denylist names the token; line 7{nothing}");
        let unknown = Denial::RevocationUnavailable;
        let sentence = unknown.sentence();
        for (says, outcome, detail, step) in [
            (Says::Good, Ok(()), None, good.clone()),
            (
                Says::Refuses(Detail::Denylisted),
                Err(Denial::TokenRevoked),
                Some(Detail::Denylisted),
                named,
            ),
            (Says::GoodLater, Ok(()), None, good),
            (
                Says::RefusesLater(unknown),
                Err(unknown),
                None,
                format!("revocation: {sentence}{nothing}"),
            ),
        ] {
            assert_eq!(checked(says, true), (outcome, detail, Some(step)), "{says:?}");
            assert_eq!(checked(says, false), (Ok(()), None, None), "{says:?}");
        }
    }
}
