//! Access tokens: the claims that a JWT must have to be accepted as one (RFC 9068 §4, RFC 8725 §3).

use super::claims::{Claim, Claims};
use super::confirmation::Confirmation;
use super::revocable::Revocable;
use crate::denial::Denial;
use crate::explanation::{Explanation, Finding};
use crate::jose::json::{Object, find};
use crate::jose::jws::{Header, Verified};
use crate::policy::{AUDIENCE, ClaimsFrom, Issuer, Must, TokenType, TypeClaim};
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
    /// By what it may be revoked, if its issuer revokes tokens.
    pub revocable: Option<Box<Revocable>>,
    pub(super) expires: UnixTime,
    pub(super) begins: UnixTime,
    /// It names an audience, one of which is ours.
    pub(super) has_audience: bool,
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

impl Audience {
    /// What is required of an answer about a token of an issuer whose claims come from `claims_from`.
    ///
    /// The audience of a JWT was checked by itself, unless the answer is what counts.
    pub fn in_answer(is_jwt: bool, claims_from: ClaimsFrom, allow_missing_audience: bool) -> Self {
        match (is_jwt, allow_missing_audience) {
            (true, _) if claims_from == ClaimsFrom::Answer => Self::IfSaid,
            (true, _) => Self::Ignored,
            (false, true) => Self::IfSaid,
            (false, false) => Self::Demanded,
        }
    }
}

/// The claims that are required. Those that are present must be valid in any case.
#[derive(Clone, Copy)]
pub(super) struct Demands {
    pub(super) issuer: bool,
    pub(super) audience: Audience,
    pub(super) expiry: bool,
}

impl Demands {
    /// Those of RFC 9068 §4, but for the audience where the operator says so.
    ///
    /// Where the answer of the issuer adds to a token, the token itself need not say everything.
    pub(super) fn of_jwt(issuer: &Issuer, claims_from: ClaimsFrom) -> Self {
        let is_whole = claims_from == ClaimsFrom::Token;
        let may_lack = issuer.allow_missing_audience || !is_whole;
        let audience = if may_lack { Audience::IfSaid } else { Audience::Demanded };
        Self { issuer: true, audience, expiry: is_whole }
    }
}

impl AccessToken {
    /// Reads verified claims as an access token of `issuer`, and keeps the claims in `selection`. By
    /// `claims_from`, the answer of the issuer will add to them.
    ///
    /// Use [`Self::admit`] to check its validity period.
    pub fn read(
        header: &Header,
        verified: &Verified,
        issuer: &Arc<Issuer>,
        claims_from: ClaimsFrom,
        selection: &Arc<[String]>,
        explanation: &mut Explanation,
    ) -> Result<Self, Denial> {
        admit_type(header, issuer, explanation)?;
        let claims = verified.claims();
        for it in &issuer.type_claims {
            admit_type_claim(*it, claims, issuer, explanation)?;
        }
        let demands = Demands::of_jwt(issuer, claims_from);
        Self::from_claims(claims, issuer, selection, demands, explanation)
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
        explanation: &mut Explanation,
    ) -> Result<Self, Denial> {
        admit_use(claims, issuer, explanation)?;
        let relaxed = audience == Audience::Demanded && issuer.allow_missing_audience;
        let audience = if relaxed { Audience::IfSaid } else { audience };
        let demands = Demands { issuer: false, audience, expiry: false };
        Self::from_claims(claims, issuer, selection, demands, explanation)
    }

    /// Reads claims that the issuer has vouched for.
    fn from_claims(
        claims: &Object,
        issuer: &Arc<Issuer>,
        selection: &Arc<[String]>,
        demands: Demands,
        explanation: &mut Explanation,
    ) -> Result<Self, Denial> {
        admit_issuer(claims, issuer, demands.issuer, explanation)?;
        let has_audience = admit_audience(claims, issuer, demands.audience, explanation)?;
        for path in TEXTS {
            admit_text(path, claims, issuer, explanation)?;
        }
        let expires = end(claims, demands.expiry, explanation)?;
        let mut begins = BEGINNING;
        for name in STARTS {
            begins = begins.max(start(name, claims, explanation)?);
        }
        let confirmation = confirmation(claims, explanation)?;
        let revocable = Revocable::of(claims, issuer);
        let claims = Claims::select(claims, selection, &issuer.claim_names);
        let issuer = Arc::clone(issuer);
        Ok(Self { issuer, confirmation, claims, revocable, expires, begins, has_audience })
    }

    /// Checks that the token is valid at `now`, within the issuer's leeway: before `exp`, and not
    /// before `nbf` and `iat` (RFC 7519 §4.1).
    pub fn admit(&self, now: UnixTime, explanation: &mut Explanation) -> Result<(), Denial> {
        self.admit_end(now, explanation)?;
        self.admit_start(now, explanation)
    }

    #[inline]
    pub(super) fn admit_end(
        &self,
        now: UnixTime,
        explanation: &mut Explanation,
    ) -> Result<(), Denial> {
        let leeway = self.issuer.clock_leeway;
        let lives = now < self.expires.saturating_add(leeway);
        explanation.demand(lives, Denial::TokenExpired, || {
            let (limit, absent) = (now.saturating_sub(leeway), self.expires == END);
            let found = if absent { "absent".to_owned() } else { self.expires.to_rfc3339() };
            let limit = limit.to_rfc3339();
            Finding::new("token", "exp", found)
                .wanting(format!("later than {limit}, which is now less {leeway:?} of leeway"))
        })
    }

    #[inline]
    pub(super) fn admit_start(
        &self,
        now: UnixTime,
        explanation: &mut Explanation,
    ) -> Result<(), Denial> {
        let leeway = self.issuer.clock_leeway;
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
        let has = |wanted: &String| self.claims.has_word("scope", wanted);
        explanation.demand(scopes.iter().all(has), Denial::ScopeInsufficient, || {
            let wanted = match scopes {
                [] => "nothing".to_owned(),
                scopes => format!("all of: {}", scopes.join(" ")),
            };
            let found = match self.claims.get("scope") {
                None | Some(Claim::Text("")) => "none".to_owned(),
                Some(Claim::Text(text)) => text.to_owned(),
                Some(Claim::Json(json)) => json.to_owned(),
            };
            Finding::new("token", "scope", found).wanting(wanted)
        })
    }

    /// The `iss`: the issuer's name, with the token's tenant where it has several.
    pub fn iss(&self) -> &str {
        let own = self.claims.text("iss").filter(|_| self.issuer.has_tenants());
        own.unwrap_or(&self.issuer.name)
    }

    /// The approximate memory use in bytes.
    pub fn bytes(&self) -> usize {
        let revocable = self.revocable.as_ref().map_or(0, |it| it.bytes());
        size_of::<Self>().saturating_add(self.claims.bytes()).saturating_add(revocable)
    }

    /// The `exp` claim, rounded down to a millisecond.
    pub const fn expires(&self) -> UnixTime {
        self.expires
    }

    /// When it is refused for its end; none if it has no `exp`, or one beyond all time.
    pub fn ends(&self) -> Option<UnixTime> {
        let has_end = self.expires != END;
        has_end.then(|| self.expires.saturating_add(self.issuer.clock_leeway))
    }

    /// The later of `nbf` and `iat`; the beginning of time if both are absent.
    pub const fn begins(&self) -> UnixTime {
        self.begins
    }
}

/// A claim of the token, for the explanation.
fn claim(name: &str, claims: &Object) -> Finding {
    let found = find(claims, name).map_or_else(|| "absent".to_owned(), ToString::to_string);
    Finding::new("token", name.to_owned(), found)
}

pub(super) fn one_of<T: ToString>(accepted: &[T]) -> String {
    let names: Vec<_> = accepted.iter().map(ToString::to_string).collect();
    match &*names {
        [only] => only.clone(),
        several => format!("one of: {}", several.join(", ")),
    }
}

const A_TIME: &str = "a number of seconds since 1970";

/// The `exp` of a token without one.
pub(super) const END: UnixTime = UnixTime::from_millis(i64::MAX);

/// The start of validity of a token without `nbf` and `iat`.
pub(super) const BEGINNING: UnixTime = UnixTime::from_millis(i64::MIN);

/// The claim; an error if it is `demanded` and absent.
fn member<'a>(claims: &'a Object, name: &str, demanded: bool) -> Result<Option<&'a Value>, Denial> {
    match claims.get(name) {
        None if demanded => Err(Denial::TokenClaimMissing),
        found => Ok(found),
    }
}

/// `iss` must be the issuer; where it has tenants, `tid` must be the tenant in `iss`.
pub(super) fn admit_issuer(
    claims: &Object,
    issuer: &Issuer,
    demanded: bool,
    explanation: &mut Explanation,
) -> Result<(), Denial> {
    let has_tenants = issuer.has_tenants();
    let Some(iss) = member(claims, "iss", demanded || has_tenants)? else { return Ok(()) };
    let iss = iss.as_str().filter(|it| issuer.is_called(it)).ok_or(Denial::TokenIssuerUnknown)?;
    if !has_tenants {
        return Ok(());
    }
    let tenant = issuer.tenant_in(iss);
    let same = tenant.is_some() && claims.get("tid").and_then(Value::as_str) == tenant;
    explanation.demand(same, Denial::TokenIssuerUnknown, || {
        claim("tid", claims).wanting(format!("the tenant in `iss`: {}", tenant.unwrap_or("none")))
    })
}

/// The claim for the audience must name one of ours, and so must an `aud` beside it (RFC 7519
/// §4.1.3). Returns whether that claim names an audience at all.
pub(super) fn admit_audience(
    claims: &Object,
    issuer: &Issuer,
    audience: Audience,
    explanation: &mut Explanation,
) -> Result<bool, Denial> {
    let demanded = match audience {
        Audience::Demanded => true,
        Audience::IfSaid => false,
        Audience::Ignored => return Ok(false),
    };
    let name = &*issuer.audience_claim;
    let mut admit = |name: &str, demanded| {
        let ours = has_audience(find(claims, name), demanded, &issuer.audiences);
        explanation.record(ours, |_| claim(name, claims).wanting(one_of(&issuer.audiences)))
    };
    let found = admit(name, demanded)?;
    if name != AUDIENCE {
        admit(AUDIENCE, false)?;
    }
    Ok(found)
}

/// An active token may still be none for an API: issuers call refresh and ID tokens active, too. The
/// answer must not say that it is one, neither as `issuer` says it of its tokens nor by the members
/// that servers commonly use.
fn admit_use(
    claims: &Object,
    issuer: &Issuer,
    explanation: &mut Explanation,
) -> Result<(), Denial> {
    // What an answer does not say of the token's kind, it need not.
    let own = issuer.type_claims.iter().filter_map(|it| match it.must {
        Must::Equal(values) => Some(TypeClaim { must: Must::EqualIfThere(values), ..*it }),
        Must::NotBe | Must::EqualIfThere(_) => Some(*it),
        Must::Be | Must::BeginWith(_) => None,
    });
    for it in own.chain([TOKEN_USE]) {
        admit_type_claim(it, claims, issuer, explanation)?;
    }
    let kind = claims.get("token_type").and_then(Value::as_str).unwrap_or_default();
    let is_other = OTHER_TYPES.iter().any(|it| kind.eq_ignore_ascii_case(it));
    let access = if is_other { Err(Denial::TokenTypeWrong) } else { Ok(()) };
    explanation.record_error(access, || claim("token_type", claims).wanting("an access token's"))
}

/// As Hydra and Cognito say it.
const TOKEN_USE: TypeClaim =
    TypeClaim { claim: "token_use", must: Must::EqualIfThere(&["access_token", "access"]) };

/// The `token_type` of other tokens, which is that of RFC 6749 §5.1 for access tokens.
const OTHER_TYPES: &[&str] = &["refresh_token", "refresh", "offline", "id_token", "id", "logout"];

/// Whether an audience, a string or an array of strings, is there; it must have one of ours. An empty
/// one says nothing, as if it were absent.
pub(super) fn has_audience(
    aud: Option<&Value>,
    demanded: bool,
    accepted: &[String],
) -> Result<bool, Denial> {
    let ours = |it: &str| accepted.iter().any(|audience| audience == it);
    let (said, found) = match aud {
        None | Some(Value::Null) if demanded => return Err(Denial::TokenClaimMissing),
        None | Some(Value::Null) => return Ok(false),
        Some(Value::String(audience)) => (!audience.is_empty(), ours(audience)),
        Some(Value::Array(members)) if members.iter().all(Value::is_string) => {
            (!members.is_empty(), members.iter().filter_map(Value::as_str).any(ours))
        }
        Some(Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_)) => {
            return Err(Denial::TokenMalformed);
        }
    };
    if found || !(said || demanded) { Ok(found) } else { Err(Denial::TokenAudienceMismatch) }
}

/// The claims that are strings.
pub(super) const TEXTS: [&str; 4] = ["sub", "client_id", "scope", "jti"];

/// A claim that is a string must be a string, and the scope may be a list of strings (RFC 9068 §2.2,
/// RFC 8693 §4.2). A null is absent.
pub(super) fn admit_text(
    path: &str,
    claims: &Object,
    issuer: &Issuer,
    explanation: &mut Explanation,
) -> Result<(), Denial> {
    let fits = issuer.claim_names.find(claims, path).is_none_or(|it| match it {
        Value::String(_) | Value::Null => true,
        Value::Array(members) => path == "scope" && members.iter().all(Value::is_string),
        Value::Bool(_) | Value::Number(_) | Value::Object(_) => false,
    });
    let fits = if fits { Ok(()) } else { Err(Denial::TokenMalformed) };
    explanation.record_error(fits, || {
        let wanted = if path == "scope" { "a string, or a list of strings" } else { "a string" };
        claim(issuer.claim_names.name(claims, path), claims).wanting(wanted)
    })
}

/// The `exp`; the end of time without one.
pub(super) fn end(
    claims: &Object,
    demanded: bool,
    explanation: &mut Explanation,
) -> Result<UnixTime, Denial> {
    let end = member(claims, "exp", demanded)
        .and_then(|it| it.map(|it| time(it, f64::floor)).transpose());
    let end = explanation.record_error(end, || claim("exp", claims).wanting(A_TIME))?;
    Ok(end.unwrap_or(END))
}

/// The claims that say when a token begins.
pub(super) const STARTS: [&str; 2] = ["nbf", "iat"];

/// The time in the claim `name`; the beginning of time without one.
pub(super) fn start(
    name: &str,
    claims: &Object,
    explanation: &mut Explanation,
) -> Result<UnixTime, Denial> {
    let Some(start) = claims.get(name) else { return Ok(BEGINNING) };
    explanation.record_error(time(start, f64::ceil), || claim(name, claims).wanting(A_TIME))
}

/// The keys to which the token is bound.
pub(super) fn confirmation(
    claims: &Object,
    explanation: &mut Explanation,
) -> Result<Confirmation, Denial> {
    explanation.record_error(Confirmation::of(claims), || {
        claim("cnf", claims).wanting("an object whose thumbprints are 43 characters of base64url")
    })
}

/// The `typ` in the header must be one that the issuer's access tokens have.
pub(super) fn admit_type(
    header: &Header,
    issuer: &Issuer,
    explanation: &mut Explanation,
) -> Result<(), Denial> {
    let typed = issuer.token_types.iter().any(|it| match it {
        TokenType::Named(name) => header.is_type(name),
        TokenType::Absent => header.typ.is_none(),
    });
    explanation.demand(typed, Denial::TokenTypeWrong, || {
        let found = header.typ.as_deref().unwrap_or("absent");
        Finding::new("token", "typ", found).wanting(one_of(&issuer.token_types))
    })
}

/// A claim that tells access tokens from others must say that this is one.
pub(super) fn admit_type_claim(
    it: TypeClaim,
    claims: &Object,
    issuer: &Issuer,
    explanation: &mut Explanation,
) -> Result<(), Denial> {
    let fits = it.fits(claims, &issuer.claim_names);
    let fits = if fits { Ok(()) } else { Err(Denial::TokenTypeWrong) };
    explanation.record_error(fits, || {
        claim(issuer.claim_names.name(claims, it.claim), claims).wanting(it.must.to_string())
    })
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
        let issuer = issuer();
        let demands = Demands::of_jwt(&issuer, issuer.claims_from);
        AccessToken::from_claims(claims, &issuer, &selection(), demands, explanation)
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
        check(|it| it["aud"] = json!(null), Err(Denial::TokenClaimMissing));
        for aud in [json!(7), json!({"api": 1}), json!(["api", 7])] {
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
            ("client_id", json!(["c"])),
            ("azp", json!(7)),
            ("scope", json!(["read", 7])),
            ("scope", json!({"read": true})),
            ("jti", json!(1)),
            ("cnf", json!("x")),
        ] {
            check(
                |it| {
                    it.as_object_mut().unwrap().remove("client_id");
                    it[name] = odd;
                },
                Err(Denial::TokenMalformed),
            );
        }
        for (name, absent) in
            [("sub", json!(null)), ("client_id", json!(null)), ("jti", json!(null))]
        {
            check(|it| it[name] = absent, Ok(()));
        }
        check(|it| it["scope"] = json!(null), Ok(()));
        check(|it| it["azp"] = json!(7), Ok(()));
    }

    /// The outcome for a good token after one edit, under an issuer after one edit.
    #[track_caller]
    fn check_under(
        rules: impl FnOnce(&mut Issuer),
        edit: impl FnOnce(&mut Value),
        expected: Result<(), Denial>,
    ) {
        let mut issuer = Issuer::clone(&issuer());
        rules(&mut issuer);
        let mut claims = claims();
        edit(&mut claims);
        let claims = claims.as_object().unwrap();
        let demands = Demands::of_jwt(&issuer, issuer.claims_from);
        let explanation = &mut Explanation::kept();
        let issuer = Arc::new(issuer);
        let found = AccessToken::from_claims(claims, &issuer, &selection(), demands, explanation);
        assert_eq!(found.map(drop), expected, "{claims:?}");
    }

    fn without(name: &'static str) -> impl Fn(&mut Value) {
        move |it| drop(it.as_object_mut().unwrap().remove(name))
    }

    #[test]
    fn a_token_may_name_no_audience_only_where_the_operator_says_so() {
        for nothing in [json!(null), json!(""), json!([])] {
            let edit = |it: &mut Value| it["aud"] = nothing.clone();
            check_under(|it| it.allow_missing_audience = true, edit, Ok(()));
        }
        check_under(|it| it.allow_missing_audience = true, without("aud"), Ok(()));
        check_under(|_| {}, without("aud"), Err(Denial::TokenClaimMissing));
        for (other, denial) in [
            (json!("other"), Denial::TokenAudienceMismatch),
            (json!(["other"]), Denial::TokenAudienceMismatch),
            (json!([""]), Denial::TokenAudienceMismatch),
            (json!([null]), Denial::TokenMalformed),
            (json!(false), Denial::TokenMalformed),
        ] {
            let edit = |it: &mut Value| it["aud"] = other;
            check_under(|it| it.allow_missing_audience = true, edit, Err(denial));
        }
    }

    #[test]
    fn another_claim_may_name_the_audience_and_aud_must_not_contradict_it() {
        let client = |it: &mut Issuer| {
            it.audience_claim = "client_id".to_owned();
            it.audiences = vec!["app".to_owned()];
        };
        let with = |client: Value, aud: Value| {
            move |it: &mut Value| {
                it["client_id"] = client;
                it["aud"] = aud;
            }
        };
        let none = json!(null);
        check_under(client, with(json!("app"), none.clone()), Ok(()));
        check_under(client, with(json!("app"), json!("app")), Ok(()));
        check_under(client, with(json!("app"), json!(["x", "app"])), Ok(()));
        let mismatch = Err(Denial::TokenAudienceMismatch);
        check_under(client, with(json!("app"), json!("other")), mismatch);
        check_under(client, with(json!("other"), json!("app")), mismatch);
        check_under(client, with(json!("other"), none.clone()), mismatch);
        check_under(client, with(none, json!("app")), Err(Denial::TokenClaimMissing));
        let nested = |it: &mut Issuer| it.audience_claim = "ext.aud".to_owned();
        check_under(
            nested,
            |it| {
                it["ext"] = json!({"aud": ["api"]});
                it["aud"] = json!([]);
            },
            Ok(()),
        );
    }

    #[test]
    fn a_tenant_must_be_listed_and_be_that_of_the_token() {
        let name = "https://login.example/{tenantid}/v2.0";
        let tenants = |it: &mut Issuer| {
            it.name = name.into();
            it.tenants = vec!["a".to_owned(), "b".to_owned()];
        };
        let of = |iss: &str, tid: Value| {
            let iss = format!("https://login.example/{iss}/v2.0");
            move |it: &mut Value| {
                it["iss"] = json!(iss);
                it["tid"] = tid;
            }
        };
        check_under(tenants, of("a", json!("a")), Ok(()));
        check_under(tenants, of("b", json!("b")), Ok(()));
        let unknown = Err(Denial::TokenIssuerUnknown);
        check_under(tenants, of("a", json!("b")), unknown);
        check_under(tenants, of("c", json!("c")), unknown);
        check_under(tenants, of("a", json!(null)), unknown);
        check_under(tenants, of("a", json!(["a"])), unknown);
        check_under(tenants, of("{tenantid}", json!("{tenantid}")), unknown);
    }

    #[test]
    fn the_scope_is_words_or_a_list_of_words() {
        let has = |names: &[&str], claims: Value, word: &str| {
            let mut issuer = Issuer::clone(&issuer());
            issuer.claim_names.scope = names.iter().map(|it| (*it).to_owned()).collect();
            let mut all = self::claims();
            all.as_object_mut().unwrap().remove("scope");
            all.as_object_mut().unwrap().extend(claims.as_object().unwrap().clone());
            let all = all.as_object().unwrap();
            let (demands, issuer) =
                (Demands::of_jwt(&issuer, issuer.claims_from), Arc::new(issuer));
            let none = &mut Explanation::default();
            let token =
                AccessToken::from_claims(all, &issuer, &selection(), demands, none).unwrap();
            token.admit_scopes(&[word.to_owned()], none).is_ok()
        };
        let both: &[&str] = &["scope", "scp"];
        assert!(has(both, json!({"scope": "a b"}), "b"));
        assert!(has(both, json!({"scope": ["a", "b"]}), "b"));
        assert!(has(both, json!({"scp": "a b"}), "b"));
        assert!(has(both, json!({"scp": ["a", "b"]}), "b"));
        assert!(has(both, json!({"scope": null, "scp": ["b"]}), "b"));
        assert!(!has(both, json!({"scope": "a", "scp": ["b"]}), "b"), "the first counts");
        assert!(!has(both, json!({"scope": "", "scp": ["b"]}), "b"), "an empty one is there");
        assert!(!has(both, json!({"scope": ["a b"]}), "b"), "a member is one word");
        assert!(!has(both, json!({"scope": ["a b"]}), "a"));
        assert!(!has(both, json!({"scope": []}), "b"));
        assert!(!has(both, json!({"scope": ["ab"]}), "b"));
        assert!(!has(&["scope"], json!({"scp": ["b"]}), "b"), "not named");
    }

    #[test]
    fn the_client_stands_in_the_first_claim_that_is_there() {
        let client = |claims: Value| {
            let claims = claims.as_object().unwrap();
            let token = from_claims(claims, &mut Explanation::default()).unwrap();
            token.claims.text("client_id").map(str::to_owned)
        };
        let with = |edit: fn(&mut Value)| {
            let mut claims = claims();
            edit(&mut claims);
            client(claims)
        };
        assert_eq!(with(|it| it["azp"] = json!("other")).as_deref(), Some("c"));
        let azp = with(|it| {
            it["client_id"] = json!(null);
            it["azp"] = json!("app");
        });
        assert_eq!(azp.as_deref(), Some("app"));
        assert_eq!(with(|it| it["client_id"] = json!(null)), None);
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
        let none = &mut Explanation::default();
        let token = AccessToken::introspected(claims, &issuer(), &selection(), audience, none);
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
            ("client_id", json!(["c"]), Denial::TokenMalformed),
            ("scope", json!(["read", null]), Denial::TokenMalformed),
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
            (json!(null), Denial::TokenClaimMissing),
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
