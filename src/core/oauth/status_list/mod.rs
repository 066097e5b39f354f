//! Status lists: what an issuer has to say of its tokens after they were issued
//! (draft-ietf-oauth-status-list, as of its 21st draft).
//!
//! A token names a list and its place in it ([`StatusReference`]). The list is a signed JWT
//! ([`StatusList`]), and holds a few bits for each token.

mod bits;
mod reference;

pub use bits::{STATUS_LIST_BYTES, Status};
pub use reference::{MalformedStatus, StatusReference};

use super::access_token::{END, end, has_audience, start, time};
use crate::explanation::Explanation;
use crate::jose::base64url;
use crate::jose::json::{self, Object};
use crate::jose::jwk::{KeySet, SignedBy};
use crate::jose::jws::Signed;
use crate::jose::key::VerifyingKey;
use crate::policy::{AUDIENCE, Issuer, TENANT};
use crate::time::UnixTime;
use bits::{BadBits, Bits};
use serde_json::Value;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// The media type of a list, without `application/`.
pub const STATUS_LIST_TYPE: &str = "statuslist+jwt";

/// The longest list as it is published, in bytes: one of [`STATUS_LIST_BYTES`] that does not
/// compress at all, with room for its other claims.
pub const STATUS_LIST_TOKEN_BYTES: usize = 32 << 20;

/// A status list whose signature and claims were verified.
#[derive(Clone, Debug)]
pub struct StatusList {
    bits: Bits,
    signed_by: SignedBy,
    /// Its `iat`.
    dated: UnixTime,
    expires: UnixTime,
    leeway: Duration,
    ttl: Option<Duration>,
    /// Its `iss`, where the issuer has several tenants.
    of_tenant: Option<Box<str>>,
}

/// Why what was published is not the list that is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadStatusList {
    /// It is longer than [`STATUS_LIST_TOKEN_BYTES`].
    TooLarge,
    /// It is not a signed JWT.
    Malformed,
    /// Its `typ` is not [`STATUS_LIST_TYPE`].
    TypeWrong,
    /// It is signed with an algorithm that the issuer's tokens may not have.
    AlgorithmForbidden,
    /// The issuer has no key of that name for that algorithm.
    KeyUnknown,
    /// No key of the issuer verifies its signature.
    SignatureInvalid,
    /// A claim is missing.
    ClaimMissing(&'static str),
    /// A claim has a value that it cannot have.
    ClaimMalformed(&'static str),
    /// Its `sub` is not the URI that the token names.
    SubjectMismatch,
    /// It is another issuer's or tenant's.
    IssuerMismatch,
    /// It is for another audience.
    AudienceMismatch,
    /// Its `exp` has passed.
    Expired,
    /// Its `iat` or `nbf` has not come yet.
    Premature,
    /// Its statuses are not compressed as they should be.
    NotZlib,
    /// Its statuses are more than [`STATUS_LIST_BYTES`].
    TooLong,
}

impl StatusList {
    /// Verifies `token`, which was found at `uri`, as a status list of `issuer` at the time `now`. Its
    /// signature must be by one of `keys`, which are the issuer's, and with one of its algorithms.
    ///
    /// # Errors
    ///
    /// What is wrong. [`BadStatusList::KeyUnknown`] may be so because `keys` are not the newest.
    pub fn verify(
        token: &[u8],
        uri: &str,
        issuer: &Issuer,
        keys: &KeySet,
        now: UnixTime,
    ) -> Result<Self, BadStatusList> {
        if STATUS_LIST_TOKEN_BYTES < token.len() {
            return Err(BadStatusList::TooLarge);
        }
        let (payload, signed_by) = verified(token, issuer, keys)?;
        let owner = keys.behind(&signed_by).and_then(VerifyingKey::issuer);
        let mut claims = json::object(&payload).or(Err(BadStatusList::Malformed))?;
        // A list may be long, and is there several times over while it is read.
        drop(payload);
        let of_tenant = admit_issuer(&claims, owner, issuer)?;
        match claims.get("sub") {
            None => return Err(BadStatusList::ClaimMissing("sub")),
            Some(Value::String(sub)) if sub == uri => (),
            Some(Value::String(_)) => return Err(BadStatusList::SubjectMismatch),
            Some(_) => return Err(BadStatusList::ClaimMalformed("sub")),
        }
        has_audience(claims.get(AUDIENCE), false, &issuer.audiences)
            .or(Err(BadStatusList::AudienceMismatch))?;
        let leeway = issuer.clock_leeway;
        let (dated, expires) = admit_time(&claims, leeway, now)?;
        let ttl = claims.get("ttl").map(time_to_live).transpose()?;
        let bits = statuses(claims.remove("status_list"))?;
        Ok(Self { bits, signed_by, dated, expires, leeway, ttl, of_tenant })
    }

    /// The status at `index`; none beyond the end of the list.
    pub fn status(&self, index: u64) -> Option<Status> {
        self.bits.at(index)
    }

    /// Whether it is good at the time `now`: until its `exp`, and the leeway of the issuer.
    pub fn lives(&self, now: UnixTime) -> bool {
        self.expires == END || now < self.expires.saturating_add(self.leeway)
    }

    /// Whether it may speak of tokens with this `iss`, which is one of its issuer's.
    pub fn speaks_of(&self, iss: &str) -> bool {
        self.of_tenant.as_deref().is_none_or(|it| it == iss)
    }

    /// When it was issued.
    pub const fn issued(&self) -> UnixTime {
        self.dated
    }

    /// Its `exp`, if it has one.
    pub fn expires(&self) -> Option<UnixTime> {
        (self.expires != END).then_some(self.expires)
    }

    /// How long it may be used before a newer one should be fetched, if it says so.
    pub const fn ttl(&self) -> Option<Duration> {
        self.ttl
    }

    /// The key that signed it, and the algorithm.
    pub const fn signed_by(&self) -> &SignedBy {
        &self.signed_by
    }

    /// For how many tokens it has room.
    pub fn len(&self) -> usize {
        self.bits.len()
    }

    /// Whether it has room for no token.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The approximate memory use in bytes.
    pub fn bytes(&self) -> usize {
        size_of::<Self>().saturating_add(self.bits.bytes())
    }
}

/// The payload of `token`, once one of `keys` has verified its signature, and which it was.
fn verified(
    token: &[u8],
    issuer: &Issuer,
    keys: &KeySet,
) -> Result<(Vec<u8>, SignedBy), BadStatusList> {
    let signed = Signed::parse(token).or(Err(BadStatusList::Malformed))?;
    let header = signed.header();
    // Without this, another token of the issuer's could pass for a list (RFC 8725 §3.11).
    if !header.is_type(STATUS_LIST_TYPE) {
        return Err(BadStatusList::TypeWrong);
    }
    let algorithm = header.algorithm.filter(|it| issuer.algorithms.contains(it));
    let algorithm = algorithm.ok_or(BadStatusList::AlgorithmForbidden)?;
    let kid = header.kid.clone();
    let mut candidates = keys.candidates(kid.as_deref(), algorithm).peekable();
    if candidates.peek().is_none() {
        return Err(BadStatusList::KeyUnknown);
    }
    let verified = signed.verify(algorithm, candidates);
    let (payload, key) = verified.or(Err(BadStatusList::SignatureInvalid))?;
    Ok((payload, SignedBy { key: Arc::clone(key.shared_id()), algorithm }))
}

/// An `iss` must be the issuer's (RFC 3986 §6.2.1: as it is spelled). Where the issuer has tenants, the
/// list speaks of the one that it names, and a key that belongs to a tenant signs for no other.
fn admit_issuer(
    claims: &Object,
    owner: Option<&str>,
    issuer: &Issuer,
) -> Result<Option<Box<str>>, BadStatusList> {
    let iss = match claims.get("iss") {
        None => None,
        Some(Value::String(iss)) if issuer.is_called(iss) => Some(&**iss),
        Some(_) => return Err(BadStatusList::IssuerMismatch),
    };
    if !issuer.has_tenants() {
        return Ok(None);
    }
    let Some(iss) = iss else { return Err(BadStatusList::ClaimMissing("iss")) };
    let tenant = issuer.tenant_in(iss).ok_or(BadStatusList::IssuerMismatch)?;
    match owner {
        Some(owner) if owner.replace(TENANT, tenant) != iss => Err(BadStatusList::IssuerMismatch),
        _ => Ok(Some(iss.into())),
    }
}

/// The `iat` and the `exp`, if the list is good at the time `now`.
fn admit_time(
    claims: &Object,
    leeway: Duration,
    now: UnixTime,
) -> Result<(UnixTime, UnixTime), BadStatusList> {
    let none = &mut Explanation::default();
    let issued = claims.get("iat").ok_or(BadStatusList::ClaimMissing("iat"))?;
    let issued = time(issued, f64::ceil).or(Err(BadStatusList::ClaimMalformed("iat")))?;
    let begins = start("nbf", claims, none).or(Err(BadStatusList::ClaimMalformed("nbf")))?;
    let expires = end(claims, false, none).or(Err(BadStatusList::ClaimMalformed("exp")))?;
    if now.saturating_add(leeway) < issued.max(begins) {
        return Err(BadStatusList::Premature);
    }
    if expires != END && expires.saturating_add(leeway) <= now {
        return Err(BadStatusList::Expired);
    }
    Ok((issued, expires))
}

/// A positive number of seconds.
fn time_to_live(claim: &Value) -> Result<Duration, BadStatusList> {
    let seconds = claim.as_f64().filter(|it| 0.0 < *it);
    let seconds = seconds.ok_or(BadStatusList::ClaimMalformed("ttl"))?;
    Ok(Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX))
}

fn statuses(claim: Option<Value>) -> Result<Bits, BadStatusList> {
    let malformed = BadStatusList::ClaimMalformed("status_list");
    let claim = match claim {
        None => return Err(BadStatusList::ClaimMissing("status_list")),
        Some(Value::Object(claim)) => claim,
        Some(_) => return Err(malformed),
    };
    let (width, list) = (claim.get("bits").and_then(Value::as_u64), claim.get("lst"));
    let (Some(width), Some(list)) = (width, list.and_then(Value::as_str)) else {
        return Err(malformed);
    };
    let zlib = base64url::decode(list.as_bytes()).or(Err(BadStatusList::NotZlib))?;
    drop(claim);
    Bits::inflate(width, &zlib).map_err(|it| match it {
        BadBits::Width => malformed,
        BadBits::NotZlib => BadStatusList::NotZlib,
        BadBits::TooLong => BadStatusList::TooLong,
    })
}

impl BadStatusList {
    /// The label in metrics.
    pub const fn label(self) -> &'static str {
        match self {
            Self::TooLarge => "too_large",
            Self::Malformed => "malformed",
            Self::TypeWrong => "type_wrong",
            Self::AlgorithmForbidden => "algorithm_forbidden",
            Self::KeyUnknown => "key_unknown",
            Self::SignatureInvalid => "signature_invalid",
            Self::ClaimMissing(_) => "claim_missing",
            Self::ClaimMalformed(_) => "claim_malformed",
            Self::SubjectMismatch => "subject_mismatch",
            Self::IssuerMismatch => "issuer_mismatch",
            Self::AudienceMismatch => "audience_mismatch",
            Self::Expired => "expired",
            Self::Premature => "premature",
            Self::NotZlib => "not_zlib",
            Self::TooLong => "too_long",
        }
    }
}

impl fmt::Display for BadStatusList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLarge => f.write_str("it is longer than 32 MiB"),
            Self::Malformed => f.write_str("it is not a signed JWT"),
            Self::TypeWrong => write!(f, "its `typ` is not {STATUS_LIST_TYPE}"),
            Self::AlgorithmForbidden => f.write_str(
                "it is signed with an algorithm that the issuer has not in `algorithms`",
            ),
            Self::KeyUnknown => {
                f.write_str("it is signed with a key that the issuer does not publish")
            }
            Self::SignatureInvalid => f.write_str("no key of the issuer verifies its signature"),
            Self::ClaimMissing(name) => write!(f, "it has no `{name}`"),
            Self::ClaimMalformed(name) => write!(f, "its `{name}` has a value that it cannot have"),
            Self::SubjectMismatch => f.write_str("its `sub` is not the URI that the token names"),
            Self::IssuerMismatch => f.write_str("its `iss`, or the owner of its key, is another"),
            Self::AudienceMismatch => f.write_str("its `aud` has none of the issuer's `audiences`"),
            Self::Expired => f.write_str("its `exp` has passed"),
            Self::Premature => f.write_str("its `iat` or `nbf` has not come yet"),
            Self::NotZlib => f.write_str("its `lst` is not one zlib stream in base64url"),
            Self::TooLong => f.write_str("its statuses are more than 16 MiB"),
        }
    }
}

impl std::error::Error for BadStatusList {}

#[cfg(test)]
mod tests;
