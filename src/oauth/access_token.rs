//! Knows what makes a signed JWT an access token that counts here (RFC 9068 §4, RFC 8725 §3).

use super::claims::Claims;
use super::confirmation::Confirmation;
use crate::clock::UnixTime;
use crate::denial::Denial;
use crate::jose::json::Object;
use crate::jose::jws::{Header, Verified};
use crate::policy::Issuer;
use serde_json::Value;
use std::sync::Arc;

/// An access token whose signature and claims have been verified.
#[derive(Clone, Debug)]
pub struct AccessToken {
    /// Its issuer.
    pub issuer: Arc<Issuer>,
    /// The keys to which it is bound.
    pub confirmation: Confirmation,
    /// The claims that somebody will ask for, `sub`, `client_id` and `scope` among them.
    pub claims: Claims,
    expires: UnixTime,
    begins: UnixTime,
}

impl AccessToken {
    /// Reads verified claims as an access token of `issuer`. Keeps the claims at `selection`.
    ///
    /// Whether it is valid at this time is for [`Self::admit`].
    pub fn read(
        header: &Header,
        verified: &Verified,
        issuer: &Arc<Issuer>,
        selection: &Arc<[String]>,
    ) -> Result<Self, Denial> {
        if !issuer.token_types.iter().any(|it| header.is_type(it)) {
            return Err(Denial::TokenTypeWrong);
        }
        Self::from_claims(verified.claims(), issuer, selection)
    }

    /// Reads claims that the issuer vouches for.
    fn from_claims(
        claims: &Object,
        issuer: &Arc<Issuer>,
        selection: &Arc<[String]>,
    ) -> Result<Self, Denial> {
        if required(claims, "iss")?.as_str() != Some(&issuer.name) {
            return Err(Denial::TokenIssuerUnknown);
        }
        admit_audience(required(claims, "aud")?, &issuer.audiences)?;
        for name in TEXTS {
            if claims.get(*name).is_some_and(|it| !it.is_string()) {
                return Err(Denial::TokenMalformed);
            }
        }
        let expires = time(required(claims, "exp")?, f64::floor)?;
        let mut begins = UnixTime::from_millis(i64::MIN);
        for name in ["nbf", "iat"] {
            if let Some(claim) = claims.get(name) {
                begins = begins.max(time(claim, f64::ceil)?);
            }
        }
        Ok(Self {
            issuer: Arc::clone(issuer),
            confirmation: Confirmation::of(claims)?,
            claims: Claims::select(claims, selection),
            expires,
            begins,
        })
    }

    /// Whether it is valid at `now`, give or take the issuer's leeway: `now` must be before `exp`
    /// and not before `nbf` and `iat` (RFC 7519 §4.1).
    pub fn admit(&self, now: UnixTime) -> Result<(), Denial> {
        let leeway = self.issuer.clock_leeway;
        if self.expires.saturating_add(leeway) <= now {
            return Err(Denial::TokenExpired);
        }
        if now.saturating_add(leeway) < self.begins {
            return Err(Denial::TokenPremature);
        }
        Ok(())
    }

    /// Whether it has all of `scopes` (RFC 6749 §3.3: they have case and stand between spaces).
    pub fn admit_scopes(&self, scopes: &[String]) -> Result<(), Denial> {
        let has = |wanted: &String| {
            self.claims.text("scope").unwrap_or_default().split(' ').any(|it| it == wanted)
        };
        if scopes.iter().all(has) { Ok(()) } else { Err(Denial::ScopeInsufficient) }
    }

    /// About how much memory it takes, in bytes.
    pub fn bytes(&self) -> usize {
        size_of::<Self>().saturating_add(self.claims.bytes())
    }

    /// The `exp` claim, rounded down to a millisecond.
    pub const fn expires(&self) -> UnixTime {
        self.expires
    }

    /// The later of `nbf` and `iat`; the beginning of time without either.
    pub const fn begins(&self) -> UnixTime {
        self.begins
    }
}

/// Claims that are strings wherever they stand (RFC 9068 §2.2, RFC 8693 §4.2).
const TEXTS: &[&str] = &["sub", "client_id", "scope", "jti"];

fn required<'a>(claims: &'a Object, name: &str) -> Result<&'a Value, Denial> {
    claims.get(name).ok_or(Denial::TokenClaimMissing)
}

/// `aud` is a string or an array of strings, and one of them must be ours (RFC 7519 §4.1.3).
fn admit_audience(aud: &Value, accepted: &[String]) -> Result<(), Denial> {
    let ours = |it: &str| accepted.iter().any(|audience| audience == it);
    let found = match aud {
        Value::String(audience) => ours(audience),
        Value::Array(members) if members.iter().all(Value::is_string) => {
            members.iter().filter_map(Value::as_str).any(ours)
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => {
            return Err(Denial::TokenMalformed);
        }
    };
    if found { Ok(()) } else { Err(Denial::TokenAudienceMismatch) }
}

/// A `NumericDate` (RFC 7519 §2), which may have a fraction, rounded to the strict side.
pub(super) fn time(claim: &Value, round: fn(f64) -> f64) -> Result<UnixTime, Denial> {
    let Value::Number(number) = claim else { return Err(Denial::TokenMalformed) };
    if let Some(seconds) = number.as_i64() {
        return Ok(UnixTime::from_secs(seconds));
    }
    let seconds = number.as_f64().ok_or(Denial::TokenMalformed)?;
    #[expect(
        clippy::as_conversions,
        clippy::cast_possible_truncation,
        reason = "saturates: what is out of range is far in the past or the future"
    )]
    let millis = round(seconds * 1000.0) as i64;
    Ok(UnixTime::from_millis(millis))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jose::algorithm::Algorithm;
    use crate::policy::{ALWAYS_ASKED_FOR, KeyRules, KeySource, KeyUpkeep};
    use serde_json::json;
    use std::time::Duration;

    const NOW: i64 = 1_800_000_000;
    const LEEWAY: i64 = 30;

    fn issuer() -> Arc<Issuer> {
        Arc::new(Issuer {
            name: "https://as.example.com".into(),
            audiences: vec!["https://api.example.com".to_owned(), "api".to_owned()],
            algorithms: vec![Algorithm::ES256],
            token_types: vec!["at+jwt".to_owned()],
            clock_leeway: Duration::from_secs(30),
            keys: KeyRules { source: KeySource::Discovery, ca: None, upkeep: KeyUpkeep::default() },
        })
    }

    fn claims() -> Value {
        json!({
            "iss": "https://as.example.com", "aud": "https://api.example.com",
            "exp": NOW + 60, "iat": NOW, "sub": "s", "client_id": "c", "scope": "read write",
        })
    }

    /// What becomes of a good token after one edit.
    #[track_caller]
    fn check(edit: impl FnOnce(&mut Value), expected: Result<(), Denial>) {
        let mut claims = claims();
        edit(&mut claims);
        let selection: Arc<[String]> = ALWAYS_ASKED_FOR.iter().map(ToString::to_string).collect();
        let token = AccessToken::from_claims(claims.as_object().unwrap(), &issuer(), &selection);
        let found = token.and_then(|it| it.admit(UnixTime::from_secs(NOW)));
        assert_eq!(found, expected, "{claims}");
    }

    #[test]
    fn a_good_token_is_admitted() {
        check(|_| {}, Ok(()));
        check(|it| it["aud"] = json!(["other", "api"]), Ok(()));
        for optional in ["iat", "sub", "client_id", "scope"] {
            check(|it| drop(it.as_object_mut().unwrap().remove(optional)), Ok(()));
        }
    }

    #[test]
    fn the_issuer_must_match_exactly() {
        check(|it| it["iss"] = json!("https://as.example.com/"), Err(Denial::TokenIssuerUnknown));
        check(|it| it["iss"] = json!(["https://as.example.com"]), Err(Denial::TokenIssuerUnknown));
    }

    #[test]
    fn the_audience_must_hold_one_of_ours() {
        let other = Err(Denial::TokenAudienceMismatch);
        for aud in [json!("other"), json!(""), json!([]), json!(["x", "API"]), json!("api ")] {
            check(|it| it["aud"] = aud, other);
        }
        for aud in [json!(null), json!(7), json!({"api": 1}), json!(["api", 7])] {
            check(|it| it["aud"] = aud, Err(Denial::TokenMalformed));
        }
    }

    #[test]
    fn what_is_needed_must_be_there() {
        for name in ["iss", "aud", "exp"] {
            let missing = Err(Denial::TokenClaimMissing);
            check(|it| drop(it.as_object_mut().unwrap().remove(name)), missing);
        }
    }

    #[test]
    fn a_claim_of_a_wrong_type_makes_the_token_malformed() {
        for (name, odd) in [
            ("exp", json!("1900000000")),
            ("exp", json!(null)),
            ("exp", json!(true)),
            ("nbf", json!("0")),
            ("iat", json!(null)),
            ("iat", json!([0])),
            ("sub", json!(7)),
            ("client_id", json!(null)),
            ("scope", json!(["read"])),
            ("jti", json!(1)),
            ("cnf", json!("x")),
        ] {
            check(|it| it[name] = odd, Err(Denial::TokenMalformed));
        }
    }

    #[test]
    fn it_ends_with_exp_and_the_leeway() {
        check(|it| it["exp"] = json!(NOW - LEEWAY + 1), Ok(()));
        check(|it| it["exp"] = json!(NOW - LEEWAY), Err(Denial::TokenExpired));
        check(|it| it["exp"] = json!(f64::from(1_799_999_970_u32) + 0.002), Ok(()));
        check(|it| it["exp"] = json!(f64::from(1_799_999_970_u32)), Err(Denial::TokenExpired));
        for never in [json!(0), json!(-1), json!(-1e300)] {
            check(|it| it["exp"] = never, Err(Denial::TokenExpired));
        }
        for ever in [json!(1e300), json!(u64::MAX), json!(i64::MAX)] {
            check(|it| it["exp"] = ever, Ok(()));
        }
    }

    #[test]
    fn it_begins_with_nbf_and_iat_and_the_leeway() {
        for name in ["nbf", "iat"] {
            check(|it| it[name] = json!(NOW + LEEWAY), Ok(()));
            check(|it| it[name] = json!(NOW + LEEWAY + 1), Err(Denial::TokenPremature));
            check(|it| it[name] = json!(1e300), Err(Denial::TokenPremature));
            check(|it| it[name] = json!(-1e300), Ok(()));
        }
    }

    #[test]
    fn scopes_are_whole_words_and_all_of_them_are_needed() {
        let selection: Arc<[String]> = ALWAYS_ASKED_FOR.iter().map(ToString::to_string).collect();
        let with = |scope: Value, wanted: &[&str]| {
            let mut claims = claims();
            claims["scope"] = scope;
            let claims = claims.as_object().unwrap();
            let token = AccessToken::from_claims(claims, &issuer(), &selection).unwrap();
            let wanted: Vec<String> = wanted.iter().map(ToString::to_string).collect();
            token.admit_scopes(&wanted).is_ok()
        };
        assert!(with(json!("read write"), &[]));
        assert!(with(json!(""), &[]));
        assert!(with(json!("read write"), &["write", "read"]));
        assert!(!with(json!("read write"), &["read", "admin"]));
        assert!(!with(json!("reader"), &["read"]));
        assert!(!with(json!("READ"), &["read"]));
        assert!(!with(json!("read\twrite"), &["read"]));
        assert!(!with(json!(""), &["read"]));
    }
}
