//! Knows signed tokens in the compact serialization (RFC 7515 §3.1, §5.2, RFC 8725).

use super::algorithm::Algorithm;
use super::base64url;
use super::json::{self, Object};
use super::key::VerifyingKey;
use serde_json::Value;
use std::fmt;

/// A signed token whose signature has not been looked at. Its claims cannot be read.
pub struct Unverified<'a> {
    header: Header,
    signing_input: &'a [u8],
    signature: Vec<u8>,
    claims: Object,
}

/// The protected header of a token. All of it is the sender's word.
#[derive(Clone, Debug, PartialEq)]
pub struct Header {
    /// The `alg`, when it is one that may ever be used.
    pub algorithm: Option<Algorithm>,
    /// The `kid`.
    pub kid: Option<String>,
    /// The `typ`.
    pub typ: Option<String>,
    /// The `jwk` member, of which only DPoP proofs make use.
    pub jwk: Option<Value>,
}

/// Claims whose signature has verified. They have no other constructor than
/// [`Unverified::verify`].
#[derive(Debug)]
pub struct Verified(Object);

/// The token is not a well-formed JWS with claims, or it has a header that must be understood and
/// is not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

/// No key verifies the signature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadSignature;

impl<'a> Unverified<'a> {
    /// Takes a compact JWS apart. Work is linear in its length, which the caller bounds.
    pub fn parse(token: &'a [u8]) -> Result<Self, Malformed> {
        let mut parts = token.split(|it| *it == b'.');
        let (Some(header), Some(payload), Some(signature), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(Malformed);
        };
        let signed = token.len().saturating_sub(signature.len()).saturating_sub(1);
        Ok(Self {
            header: Header::parse(&decode(header)?)?,
            signing_input: token.get(..signed).ok_or(Malformed)?,
            signature: decode(signature)?,
            claims: json::object(&decode(payload)?).or(Err(Malformed))?,
        })
    }

    /// The header.
    pub const fn header(&self) -> &Header {
        &self.header
    }

    /// The `iss` that the token claims. Good for nothing but the choice of the issuer whose keys
    /// are tried.
    pub fn peek_issuer(&self) -> Option<&Value> {
        self.claims.get("iss")
    }

    /// The claims, once one of `keys` has verified the signature.
    pub fn verify<'k>(
        self,
        algorithm: Algorithm,
        keys: impl IntoIterator<Item = &'k VerifyingKey>,
    ) -> Result<(Verified, &'k VerifyingKey), BadSignature> {
        // The key decides the algorithm; the header may only agree (RFC 8725 §3.1).
        if self.header.algorithm != Some(algorithm) {
            return Err(BadSignature);
        }
        let key = keys
            .into_iter()
            .find(|it| it.verifies(algorithm, self.signing_input, &self.signature))
            .ok_or(BadSignature)?;
        Ok((Verified(self.claims), key))
    }
}

/// The claims are left out: nobody has verified them.
impl fmt::Debug for Unverified<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Unverified").field("header", &self.header).finish_non_exhaustive()
    }
}

impl Header {
    fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut members = json::object(bytes).or(Err(Malformed))?;
        // RFC 7515 §4.1.11: no extension is understood here, so none may be critical; an empty
        // list is not allowed either. RFC 7797 §7: `b64` is not for JWTs.
        if members.contains_key("crit") || members.contains_key("b64") {
            return Err(Malformed);
        }
        let mut text = |name| match members.remove(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(Malformed),
        };
        let (alg, kid, typ) = (text("alg")?.ok_or(Malformed)?, text("kid")?, text("typ")?);
        Ok(Self { algorithm: Algorithm::named(&alg), kid, typ, jwk: members.remove("jwk") })
    }

    /// Whether `typ` is this media type: without regard to case, and with or without
    /// `application/` (RFC 7515 §4.1.9). `expected` is in lower case and without it.
    pub fn is_type(&self, expected: &str) -> bool {
        self.typ.as_deref().is_some_and(|typ| {
            let short = match typ.split_at_checked(APPLICATION.len()) {
                Some((prefix, rest)) if prefix.eq_ignore_ascii_case(APPLICATION) => rest,
                _ => typ,
            };
            short.eq_ignore_ascii_case(expected)
        })
    }
}

const APPLICATION: &str = "application/";

fn decode(part: &[u8]) -> Result<Vec<u8>, Malformed> {
    base64url::decode(part).or(Err(Malformed))
}

impl Verified {
    /// The claims.
    pub const fn claims(&self) -> &Object {
        &self.0
    }

    /// The claims, to keep.
    pub fn into_claims(self) -> Object {
        self.0
    }
}
