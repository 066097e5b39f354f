//! Access tokens: the claims that a JWT must have to be accepted as one (RFC 9068 §4, RFC 8725 §3).

use super::claims::Claims;
use super::confirmation::Confirmation;
use crate::denial::Denial;
use crate::explanation::{Explanation, Finding};
use crate::jose::json::Object;
use crate::jose::jws::{Header, Verified};
use crate::policy::Issuer;
use crate::time::UnixTime;
use serde_json::Value;
use std::sync::Arc;

/// An access token whose signature and claims have been verified.
#[derive(Clone, Debug)]
pub struct AccessToken {
    /// The issuer.
    pub issuer: Arc<Issuer>,
    /// The keys to which it is bound.
    pub confirmation: Confirmation,
    /// The selected claims, `sub`, `client_id` and `scope` among them.
    pub claims: Claims,
    expires: UnixTime,
    begins: UnixTime,
}

/// The requirement on the audience of an introspected token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Audience {
    /// Required, and must contain one of ours.
    Demanded,
    /// If present, must contain one of ours. Null, an empty string and an empty list say nothing of
    /// the audience, and count as absent.
    IfSaid,
    /// Nothing: the audience of the token itself was checked.
    Ignored,
}

/// The claims that are required. Those that are present must be valid in any case.
#[derive(Clone, Copy)]
struct Demands {
    issuer: bool,
    audience: Audience,
    expiry: bool,
}

impl Demands {
    /// RFC 9068 §4.
    const RFC_9068: Self = Self { issuer: true, audience: Audience::Demanded, expiry: true };
}

impl AccessToken {
    /// Reads verified claims as an access token of `issuer`, and keeps the claims in `selection`.
    ///
    /// Use [`Self::admit`] to check its validity period.
    pub fn read(
        header: &Header,
        verified: &Verified,
        issuer: &Arc<Issuer>,
        selection: &Arc<[String]>,
        explanation: &mut Explanation,
    ) -> Result<Self, Denial> {
        let typed = issuer.token_types.iter().any(|it| header.is_type(it));
        explanation.demand(typed, Denial::TokenTypeWrong, || {
            let found = header.typ.as_deref().unwrap_or("absent");
            Finding::new("token", "typ", found).wanting(one_of(&issuer.token_types))
        })?;
        Self::from_claims(verified.claims(), issuer, selection, Demands::RFC_9068, explanation)
    }

    /// Reads the introspection response for an active token as an access token of `issuer` (RFC
    /// 7662 §2.2). The same rules apply as for the claims of a JWT, except that `iss` and `exp` may
    /// be absent: by calling the token active, the issuer says that it is its own and has not
    /// expired.
    pub fn introspected(
        claims: &Object,
        issuer: &Arc<Issuer>,
        selection: &Arc<[String]>,
        audience: Audience,
    ) -> Result<Self, Denial> {
        let demands = Demands { issuer: false, audience, expiry: false };
        Self::from_claims(claims, issuer, selection, demands, &mut Explanation::default())
    }

    /// Reads claims that the issuer has vouched for.
    fn from_claims(
        claims: &Object,
        issuer: &Arc<Issuer>,
        selection: &Arc<[String]>,
        demands: Demands,
        explanation: &mut Explanation,
    ) -> Result<Self, Denial> {
        if let Some(iss) = member(claims, "iss", demands.issuer)?
            && iss.as_str() != Some(&issuer.name)
        {
            return Err(Denial::TokenIssuerUnknown);
        }
        if demands.audience != Audience::Ignored {
            let demanded = demands.audience == Audience::Demanded;
            let ours = member(claims, "aud", demanded).and_then(|it| match it {
                Some(aud) if demanded || names_one(aud) => admit_audience(aud, &issuer.audiences),
                Some(_) | None => Ok(()),
            });
            explanation
                .record(ours, |_| claim("aud", claims).wanting(one_of(&issuer.audiences)))?;
        }
        for name in TEXTS {
            let text = claims.get(*name).is_none_or(Value::is_string);
            let text = if text { Ok(()) } else { Err(Denial::TokenMalformed) };
            explanation.record_error(text, || claim(name, claims).wanting("a string"))?;
        }
        let expiry = member(claims, "exp", demands.expiry)
            .and_then(|it| it.map(|it| time(it, f64::floor)).transpose());
        let expiry = explanation.record_error(expiry, || claim("exp", claims).wanting(A_TIME))?;
        let mut begins = BEGINNING;
        for name in ["nbf", "iat"] {
            if let Some(start) = claims.get(name) {
                let start = time(start, f64::ceil);
                let start =
                    explanation.record_error(start, || claim(name, claims).wanting(A_TIME))?;
                begins = begins.max(start);
            }
        }
        let confirmation = explanation.record_error(Confirmation::of(claims), || {
            claim("cnf", claims)
                .wanting("an object whose thumbprints are 43 characters of base64url")
        })?;
        Ok(Self {
            issuer: Arc::clone(issuer),
            confirmation,
            claims: Claims::select(claims, selection),
            expires: expiry.unwrap_or(END),
            begins,
        })
    }

    /// Checks that the token is valid at `now`, within the issuer's leeway: before `exp`, and not
    /// before `nbf` and `iat` (RFC 7519 §4.1).
    pub fn admit(&self, now: UnixTime, explanation: &mut Explanation) -> Result<(), Denial> {
        let leeway = self.issuer.clock_leeway;
        let lives = now < self.expires.saturating_add(leeway);
        explanation.demand(lives, Denial::TokenExpired, || {
            let (limit, absent) = (now.saturating_sub(leeway), self.expires == END);
            let found = if absent { "absent".to_owned() } else { self.expires.to_rfc3339() };
            let limit = limit.to_rfc3339();
            Finding::new("token", "exp", found)
                .wanting(format!("later than {limit}, which is now less {leeway:?} of leeway"))
        })?;
        let begun = self.begins <= now.saturating_add(leeway);
        explanation.demand(begun, Denial::TokenPremature, || {
            let (limit, absent) = (now.saturating_add(leeway), self.begins == BEGINNING);
            let found = if absent { "absent".to_owned() } else { self.begins.to_rfc3339() };
            let limit = limit.to_rfc3339();
            Finding::new("token", "nbf, iat", found)
                .wanting(format!("not later than {limit}, which is now and {leeway:?} of leeway"))
        })
    }

    /// Checks that the token has all of `scopes` (RFC 6749 §3.3: case-sensitive, separated by
    /// spaces).
    pub fn admit_scopes(
        &self,
        scopes: &[String],
        explanation: &mut Explanation,
    ) -> Result<(), Denial> {
        let had = self.claims.text("scope").unwrap_or_default();
        let has = |wanted: &String| had.split(' ').any(|it| it == wanted);
        explanation.demand(scopes.iter().all(has), Denial::ScopeInsufficient, || {
            let wanted = match scopes {
                [] => "nothing".to_owned(),
                scopes => format!("all of: {}", scopes.join(" ")),
            };
            Finding::new("token", "scope", if had.is_empty() { "none" } else { had })
                .wanting(wanted)
        })
    }

    /// The approximate memory use in bytes.
    pub fn bytes(&self) -> usize {
        size_of::<Self>().saturating_add(self.claims.bytes())
    }

    /// The `exp` claim, rounded down to a millisecond.
    pub const fn expires(&self) -> UnixTime {
        self.expires
    }

    /// The later of `nbf` and `iat`; the beginning of time if both are absent.
    pub const fn begins(&self) -> UnixTime {
        self.begins
    }
}

/// A claim of the token, for the explanation.
fn claim(name: &'static str, claims: &Object) -> Finding {
    let found = claims.get(name).map_or_else(|| "absent".to_owned(), ToString::to_string);
    Finding::new("token", name, found)
}

fn one_of(accepted: &[String]) -> String {
    match accepted {
        [only] => only.clone(),
        several => format!("one of: {}", several.join(", ")),
    }
}

const A_TIME: &str = "a number of seconds since 1970";

/// The `exp` of a token without one.
const END: UnixTime = UnixTime::from_millis(i64::MAX);

/// The start of validity of a token without `nbf` and `iat`.
const BEGINNING: UnixTime = UnixTime::from_millis(i64::MIN);

/// Claims that must be strings if present (RFC 9068 §2.2, RFC 8693 §4.2).
const TEXTS: &[&str] = &["sub", "client_id", "scope", "jti"];

/// The claim; an error if it is `demanded` and absent.
fn member<'a>(claims: &'a Object, name: &str, demanded: bool) -> Result<Option<&'a Value>, Denial> {
    match claims.get(name) {
        None if demanded => Err(Denial::TokenClaimMissing),
        found => Ok(found),
    }
}

/// Whether `aud` says anything of the audience.
fn names_one(aud: &Value) -> bool {
    match aud {
        Value::Null => false,
        Value::String(audience) => !audience.is_empty(),
        Value::Array(members) => !members.is_empty(),
        Value::Bool(_) | Value::Number(_) | Value::Object(_) => true,
    }
}

/// `aud` is a string or an array of strings, one of which must be ours (RFC 7519 §4.1.3).
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

/// A `NumericDate` (RFC 7519 §2), possibly with a fraction, rounded to the strict side.
pub(crate) fn time(claim: &Value, round: fn(f64) -> f64) -> Result<UnixTime, Denial> {
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
    use crate::oauth::examples::{issuer, selection};
    use serde_json::json;

    const NOW: i64 = 1_800_000_000;
    const LEEWAY: i64 = 30;

    fn claims() -> Value {
        json!({
            "iss": "https://as.example.com", "aud": "https://api.example.com",
            "exp": NOW + 60, "iat": NOW, "sub": "s", "client_id": "c", "scope": "read write",
        })
    }

    fn from_claims(claims: &Object, explanation: &mut Explanation) -> Result<AccessToken, Denial> {
        AccessToken::from_claims(claims, &issuer(), &selection(), Demands::RFC_9068, explanation)
    }

    /// The outcome for a good token after one edit.
    #[track_caller]
    fn check(edit: impl FnOnce(&mut Value), expected: Result<(), Denial>) {
        let mut claims = claims();
        edit(&mut claims);
        let claims = claims.as_object().unwrap();
        for mut explanation in [Explanation::default(), Explanation::kept()] {
            let token = from_claims(claims, &mut explanation);
            let found = token.and_then(|it| it.admit(UnixTime::from_secs(NOW), &mut explanation));
            assert_eq!(found, expected, "{claims:?}");
        }
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
        // A fraction below the clock's resolution counts against the token.
        let finer = json!(f64::from(1_799_999_970_u32) + 0.000_5);
        check(|it| it["exp"] = finer, Err(Denial::TokenExpired));
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
            let finer = json!(f64::from(1_800_000_030_u32) + 0.000_5);
            check(|it| it[name] = finer, Err(Denial::TokenPremature));
            check(|it| it[name] = json!(1e300), Err(Denial::TokenPremature));
            check(|it| it[name] = json!(-1e300), Ok(()));
        }
    }

    #[test]
    fn scopes_are_whole_words_and_all_of_them_are_needed() {
        let with = |scope: Value, wanted: &[&str]| {
            let mut claims = claims();
            claims["scope"] = scope;
            let claims = claims.as_object().unwrap();
            let token = from_claims(claims, &mut Explanation::default()).unwrap();
            let wanted: Vec<String> = wanted.iter().map(ToString::to_string).collect();
            token.admit_scopes(&wanted, &mut Explanation::default()).is_ok()
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

    /// The outcome for an introspection response after one edit.
    #[track_caller]
    fn check_answer(
        audience: Audience,
        edit: impl FnOnce(&mut Value),
        expected: Result<(), Denial>,
    ) {
        let mut claims = json!({"active": true, "aud": "api"});
        edit(&mut claims);
        let claims = claims.as_object().unwrap();
        let token = AccessToken::introspected(claims, &issuer(), &selection(), audience);
        let found =
            token.and_then(|it| it.admit(UnixTime::from_secs(NOW), &mut Explanation::default()));
        assert_eq!(found, expected, "{claims:?}");
    }

    #[test]
    fn an_answer_may_leave_out_what_being_active_says() {
        check_answer(Audience::Demanded, |_| {}, Ok(()));
        for (name, odd, denial) in [
            ("iss", json!("https://other.example.com"), Denial::TokenIssuerUnknown),
            ("iss", json!(null), Denial::TokenIssuerUnknown),
            ("exp", json!(NOW - LEEWAY), Denial::TokenExpired),
            ("exp", json!("never"), Denial::TokenMalformed),
            ("nbf", json!(NOW + LEEWAY + 1), Denial::TokenPremature),
            ("iat", json!("now"), Denial::TokenMalformed),
            ("sub", json!(7), Denial::TokenMalformed),
            ("client_id", json!(null), Denial::TokenMalformed),
            ("scope", json!(["read"]), Denial::TokenMalformed),
            ("jti", json!(1), Denial::TokenMalformed),
            ("cnf", json!("x"), Denial::TokenMalformed),
            ("cnf", json!({"x5t#S256": ""}), Denial::TokenMalformed),
        ] {
            check_answer(Audience::Demanded, |it| it[name] = odd, Err(denial));
        }
        check_answer(Audience::Demanded, |it| it["iss"] = json!("https://as.example.com"), Ok(()));
        check_answer(Audience::Demanded, |it| it["exp"] = json!(NOW - LEEWAY + 1), Ok(()));
    }

    #[test]
    fn an_answer_leaves_out_the_audience_only_where_the_operator_says_so() {
        let without = |it: &mut Value| drop(it.as_object_mut().unwrap().remove("aud"));
        let other = |it: &mut Value| it["aud"] = json!("other");
        check_answer(Audience::Demanded, without, Err(Denial::TokenClaimMissing));
        check_answer(Audience::Demanded, other, Err(Denial::TokenAudienceMismatch));
        check_answer(Audience::IfSaid, without, Ok(()));
        for (nothing, denial) in [
            (json!([]), Denial::TokenAudienceMismatch),
            (json!(""), Denial::TokenAudienceMismatch),
            (json!(null), Denial::TokenMalformed),
        ] {
            check_answer(Audience::IfSaid, |it| it["aud"] = nothing.clone(), Ok(()));
            check_answer(Audience::Demanded, |it| it["aud"] = nothing.clone(), Err(denial));
        }
        for (odd, denial) in [
            (json!([""]), Denial::TokenAudienceMismatch),
            (json!([null]), Denial::TokenMalformed),
            (json!([[]]), Denial::TokenMalformed),
            (json!({}), Denial::TokenMalformed),
            (json!(false), Denial::TokenMalformed),
        ] {
            check_answer(Audience::IfSaid, |it| it["aud"] = odd, Err(denial));
        }
        check_answer(Audience::IfSaid, other, Err(Denial::TokenAudienceMismatch));
        check_answer(Audience::Ignored, other, Ok(()));
    }
}
