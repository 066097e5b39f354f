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

/// The claims of which something is always asked.
pub const ALWAYS_SELECTED: &[&str] = &["sub", "client_id", "scope"];

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
fn time(claim: &Value, round: fn(f64) -> f64) -> Result<UnixTime, Denial> {
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
