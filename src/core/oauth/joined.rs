//! A JWT together with what its issuer says about it (RFC 7662): lightweight and wrapped tokens.

use super::access_token::{AccessToken, one_of};
use super::claims::Claim;
use super::revocable::Revocable;
use crate::denial::Denial;
use crate::explanation::{Explanation, Finding};
use std::sync::Arc;

impl AccessToken {
    /// This token with what its issuer `said` about it: every key of either must be proved, the
    /// earlier end and the later beginning count, and a claim of the token before one of the answer.
    ///
    /// # Errors
    ///
    /// They disagree about the issuer, the subject, the client or a key, or neither names an audience.
    pub fn joined(&self, said: &Self, explanation: &mut Explanation) -> Result<Self, Denial> {
        for name in ["iss", "sub", "client_id"] {
            let [own, other] = [self, said].map(|it| it.claims.get(name).filter(is_said));
            let agree = own.is_none() || other.is_none() || own == other;
            explanation.demand(agree, Denial::TokenMalformed, || {
                let shown =
                    |it: Option<Claim<'_>>| it.map_or_else(String::new, |it| it.to_string());
                Finding::new("introspection", name, shown(other)).wanting(shown(own))
            })?;
        }
        let confirmation = self.confirmation.joined(&said.confirmation);
        let confirmation = explanation.record(confirmation, |_| {
            Finding::new("introspection", "cnf", "other keys").wanting("the keys of the token")
        })?;
        let has_audience = self.has_audience || said.has_audience;
        let enough = has_audience || self.issuer.allow_missing_audience;
        explanation.demand(enough, Denial::TokenClaimMissing, || {
            let name = self.issuer.audience_claim.clone();
            Finding::new("introspection", name, "neither in the token nor in the answer")
                .wanting(one_of(&self.issuer.audiences))
        })?;
        Ok(Self {
            issuer: Arc::clone(&self.issuer),
            confirmation,
            claims: self.claims.joined(&said.claims),
            revocable: Revocable::joined(self.revocable.as_deref(), said.revocable.as_deref()),
            expires: self.expires.min(said.expires),
            begins: self.begins.max(said.begins),
            has_audience,
        })
    }

    /// This token, with the identifiers that its issuer `said` it has; none if those are its own.
    pub(crate) fn known_better(&self, said: &Self) -> Option<Self> {
        let revocable = Revocable::joined(self.revocable.as_deref(), said.revocable.as_deref());
        let revocable = revocable.filter(|it| it.says_more())?;
        Some(Self { revocable: Some(revocable), ..self.clone() })
    }
}

/// Null says nothing.
pub(super) fn is_said(claim: &Claim<'_>) -> bool {
    *claim != Claim::Json("null")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::oauth::Confirmation;
    use crate::oauth::access_token::{Audience, BEGINNING, END};
    use crate::oauth::examples::{issuer, selection};
    use crate::policy::Issuer;
    use crate::time::UnixTime;
    use serde_json::{Value, json};
    use std::sync::Arc;

    const A: &str = "47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU";
    const B: &str = "n4bQgYhMfWWaL-qgxVrQFaO_TxsrC4Is0V1sFbDwCgg";

    fn token(claims: &Value, issuer: &Arc<Issuer>) -> AccessToken {
        let claims = claims.as_object().unwrap();
        let explanation = &mut Explanation::default();
        AccessToken::introspected(claims, issuer, &selection(), Audience::IfSaid, explanation)
            .unwrap()
    }

    fn completed(jwt: &Value, answer: &Value) -> Result<AccessToken, Denial> {
        let issuer = issuer();
        let [jwt, answer] = [jwt, answer].map(|it| token(it, &issuer));
        let found = jwt.joined(&answer, &mut Explanation::default());
        let kept = jwt.joined(&answer, &mut Explanation::kept());
        assert_eq!(found.as_ref().err(), kept.as_ref().err());
        found
    }

    #[test]
    fn the_answer_adds_what_the_token_does_not_say() {
        let jwt = json!({"client_id": "c", "scope": "read", "sub": null});
        let answer = json!({"aud": "api", "sub": "s", "scope": "read write", "client_id": "c"});
        let found = completed(&jwt, &answer).unwrap();
        for (name, expected) in [("client_id", "c"), ("scope", "read"), ("sub", "s")] {
            assert_eq!(found.claims.text(name), Some(expected), "{name}");
        }
    }

    #[test]
    fn one_of_them_names_the_audience() {
        let (named, silent) = (json!({"aud": "api"}), json!({"aud": []}));
        let missing = Some(Denial::TokenClaimMissing);
        for (jwt, answer, expected) in [
            (&named, &named, None),
            (&named, &silent, None),
            (&silent, &named, None),
            (&silent, &silent, missing),
        ] {
            assert_eq!(completed(jwt, answer).err(), expected, "{jwt} {answer}");
        }
        let claim = "client_id".to_owned();
        let by_client = Issuer { audience_claim: claim, ..(*issuer()).clone() };
        let by_client = Arc::new(Issuer { audiences: vec!["api".to_owned()], ..by_client });
        let [client, audience] = [json!({"client_id": "api"}), json!({"aud": "api"})];
        for (jwt, answer, expected) in [
            (&client, &audience, None),
            (&audience, &client, None),
            (&audience, &audience, missing),
        ] {
            let [jwt, answer] = [jwt, answer].map(|it| token(it, &by_client));
            let found = jwt.joined(&answer, &mut Explanation::default());
            assert_eq!(found.err(), expected, "the claim that names it must be there");
        }
        let lax = Arc::new(Issuer { allow_missing_audience: true, ..(*issuer()).clone() });
        let [jwt, answer] = [&silent, &silent].map(|it| token(it, &lax));
        assert!(jwt.joined(&answer, &mut Explanation::default()).is_ok());
    }

    #[test]
    fn the_first_end_and_the_last_begin_count() {
        let times = |it: &AccessToken| (it.expires(), it.begins());
        let (early, late) =
            (json!({"aud": "api", "exp": 7, "nbf": 1}), json!({"exp": 9, "iat": 3}));
        let expected = (UnixTime::from_secs(7), UnixTime::from_secs(3));
        assert_eq!(times(&completed(&early, &late).unwrap()), expected);
        assert_eq!(times(&completed(&late, &early).unwrap()), expected);
        let none = json!({"aud": "api"});
        assert_eq!(times(&completed(&none, &none).unwrap()), (END, BEGINNING));
    }

    #[test]
    fn who_it_is_about_is_one_and_the_same() {
        for name in ["sub", "client_id"] {
            let [one, other, silent] = [json!("x"), json!("y"), json!(null)].map(|value| {
                let mut claims = json!({"aud": "api"});
                claims[name] = value;
                claims
            });
            for (jwt, answer, expected) in [
                (&one, &one, None),
                (&one, &silent, None),
                (&silent, &one, None),
                (&one, &other, Some(Denial::TokenMalformed)),
            ] {
                assert_eq!(completed(jwt, answer).err(), expected, "{jwt} {answer}");
            }
        }
        let (azp, client_id) = (json!({"aud": "api", "azp": "x"}), json!({"client_id": "y"}));
        assert_eq!(completed(&azp, &client_id).err(), Some(Denial::TokenMalformed));
    }

    #[test]
    fn each_key_of_either_must_be_proved() {
        let bound = |cnf: &Value| json!({"aud": "api", "cnf": cnf});
        let (a, b) = (json!({"x5t#S256": A}), json!({"x5t#S256": B}));
        let (key, none, odd) = (json!({"jkt": B}), json!({"aud": "api"}), json!({"kid": "1"}));
        let keys = |jwt: &Value, answer: &Value| {
            let found = completed(jwt, answer)?.confirmation;
            let Confirmation { x5t_s256, jkt, unknown_only } = found;
            Ok::<_, Denial>((x5t_s256.is_some(), jkt.is_some(), unknown_only))
        };
        for (one, other, expected) in [
            (bound(&a), none.clone(), Ok((true, false, false))),
            (bound(&a), bound(&a), Ok((true, false, false))),
            (bound(&a), bound(&key), Ok((true, true, false))),
            (bound(&key), none.clone(), Ok((false, true, false))),
            (none.clone(), none.clone(), Ok((false, false, false))),
            (bound(&odd), none, Ok((false, false, true))),
            (bound(&odd), bound(&a), Ok((true, false, true))),
            (bound(&a), bound(&b), Err(Denial::CertificateMismatch)),
            (bound(&key), bound(&json!({"jkt": A})), Err(Denial::ProofKeyMismatch)),
        ] {
            assert_eq!(keys(&one, &other), expected, "{one} {other}");
            assert_eq!(keys(&other, &one), expected, "{other} {one}");
        }
    }
}
