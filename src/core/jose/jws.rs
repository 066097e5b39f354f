//! Signed tokens in the compact serialization (RFC 7515 §3.1, §5.2, RFC 8725).

use super::algorithm::Algorithm;
use super::base64url;
use super::json::{self, Object};
use super::key::VerifyingKey;
use crate::words::Words;
use memchr::memchr;
use serde_json::Value;
use std::fmt;

/// A compact JWS whose signature is not verified yet. Its payload is not accessible.
pub struct Signed<'a> {
    header: Header,
    signing_input: &'a [u8],
    payload: Vec<u8>,
    signature: Vec<u8>,
}

/// A signed JWT whose signature is not verified yet. Its claims are not accessible.
pub struct Unverified<'a> {
    signed: Signed<'a>,
    claims: Object,
}

/// The protected header of a token. All of it is untrusted input.
#[derive(Clone, Debug, PartialEq)]
pub struct Header {
    /// The `alg`, if it is supported.
    pub algorithm: Option<Algorithm>,
    /// The `alg`, if it is not.
    pub unsupported: Option<String>,
    /// The `kid`.
    pub kid: Option<String>,
    /// The `typ`.
    pub typ: Option<String>,
    /// The `jwk` member, which only DPoP proofs use.
    pub jwk: Option<Value>,
}

/// Claims whose signature is verified, by [`Unverified::verify`]. Only an explanation of a kept request has
/// others, whose signature was redacted.
#[derive(Debug)]
pub struct Verified(Object);

/// The token is not a well-formed JWS with claims, or has a critical header that is not supported.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Malformed;

/// No key verifies the signature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BadSignature;

impl<'a> Signed<'a> {
    /// Parses a compact JWS, in time linear in its length, which the caller bounds.
    pub fn parse(token: &'a [u8]) -> Result<Self, Malformed> {
        let (header, rest) = split_at_dot(token)?;
        // A further dot is refused below: base64url has none.
        let (payload, signature) = split_at_dot(rest)?;
        let signed = token.len().saturating_sub(signature.len()).saturating_sub(1);
        Ok(Self {
            header: Header::parse(&decode(header)?)?,
            signing_input: token.get(..signed).ok_or(Malformed)?,
            payload: decode(payload)?,
            signature: decode(signature)?,
        })
    }

    /// The header.
    pub const fn header(&self) -> &Header {
        &self.header
    }

    /// The payload, if one of `keys` verifies the signature.
    pub fn verify<'k>(
        self,
        algorithm: Algorithm,
        keys: impl IntoIterator<Item = &'k VerifyingKey>,
    ) -> Result<(Vec<u8>, &'k VerifyingKey), BadSignature> {
        let key = self.verified_by(algorithm, keys)?;
        Ok((self.payload, key))
    }

    fn verified_by<'k>(
        &self,
        algorithm: Algorithm,
        keys: impl IntoIterator<Item = &'k VerifyingKey>,
    ) -> Result<&'k VerifyingKey, BadSignature> {
        // The key decides the algorithm; the header may only agree (RFC 8725 §3.1).
        if self.header.algorithm != Some(algorithm) {
            return Err(BadSignature);
        }
        keys.into_iter()
            .find(|it| it.verifies(algorithm, self.signing_input, &self.signature))
            .ok_or(BadSignature)
    }
}

impl<'a> Unverified<'a> {
    /// Parses a signed JWT.
    pub fn parse(token: &'a [u8]) -> Result<Self, Malformed> {
        let signed = Signed::parse(token)?;
        let claims = json::object(&signed.payload).or(Err(Malformed))?;
        Ok(Self { signed, claims })
    }

    /// The header.
    pub const fn header(&self) -> &Header {
        &self.signed.header
    }

    /// The unverified `iss`. Use it only to select the issuer whose keys are tried, and to tell which is
    /// unknown.
    pub fn peek_issuer(&self) -> Option<&Value> {
        self.claims.get("iss")
    }

    /// The unverified `iat`. Use it only to decide whether the sender should retry, and to tell why a proof was
    /// refused.
    pub fn peek_issued_at(&self) -> Option<&Value> {
        self.claims.get("iat")
    }

    /// The claims, which anybody may have written. Only for telling why a token was refused.
    pub(crate) fn claims_of_anybody(self) -> Object {
        self.claims
    }

    /// The claims of a JWT whose signature was redacted when its request was kept. Only for explaining
    /// that request.
    pub(crate) fn taken_as_verified(self) -> Verified {
        Verified(self.claims)
    }

    /// The claims, if one of `keys` verifies the signature.
    pub fn verify<'k>(
        self,
        algorithm: Algorithm,
        keys: impl IntoIterator<Item = &'k VerifyingKey>,
    ) -> Result<(Verified, &'k VerifyingKey), BadSignature> {
        let key = self.signed.verified_by(algorithm, keys)?;
        Ok((Verified(self.claims), key))
    }

    /// The same, but returns the JWT on failure so that other keys can be tried.
    pub fn verify_or_keep<'k>(
        self,
        algorithm: Algorithm,
        keys: impl IntoIterator<Item = &'k VerifyingKey>,
    ) -> Result<(Verified, &'k VerifyingKey), Box<Self>> {
        match self.signed.verified_by(algorithm, keys) {
            Ok(key) => Ok((Verified(self.claims), key)),
            Err(BadSignature) => Err(Box::new(self)),
        }
    }
}

/// Omits the payload, which is not verified.
impl fmt::Debug for Signed<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signed").field("header", &self.header).finish_non_exhaustive()
    }
}

/// Omits the claims, which are not verified.
impl fmt::Debug for Unverified<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Unverified").field("header", self.header()).finish_non_exhaustive()
    }
}

impl Header {
    fn parse(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut members = json::object(bytes).or(Err(Malformed))?;
        // RFC 7515 §4.1.11: no extension is supported, so none may be critical, and an empty list
        // is invalid. RFC 7797 §7: `b64` is not allowed in JWTs.
        if members.contains_key("crit") || members.contains_key("b64") {
            return Err(Malformed);
        }
        let mut text = |name| match members.remove(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(Malformed),
        };
        let (alg, kid, typ) = (text("alg")?.ok_or(Malformed)?, text("kid")?, text("typ")?);
        let algorithm = Algorithm::named(&alg);
        let unsupported = algorithm.is_none().then_some(alg);
        Ok(Self { algorithm, unsupported, kid, typ, jwk: members.remove("jwk") })
    }

    /// The `alg` in words.
    pub fn alg(&self) -> String {
        match (self.algorithm, &self.unsupported) {
            (Some(known), _) => known.name().to_owned(),
            (None, Some(name)) => format!("{name:?}, which is not supported"),
            (None, None) => "absent".to_owned(),
        }
    }

    /// Whether `typ` is this media type: case-insensitive, with or without `application/` (RFC 7515
    /// §4.1.9). `expected` is in lower case and without it.
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

fn split_at_dot(text: &[u8]) -> Result<(&[u8], &[u8]), Malformed> {
    let dot = memchr(b'.', text).ok_or(Malformed)?;
    Ok((text.get(..dot).ok_or(Malformed)?, text.get(dot.saturating_add(1)..).ok_or(Malformed)?))
}

fn decode(part: &[u8]) -> Result<Vec<u8>, Malformed> {
    base64url::decode(part).or(Err(Malformed))
}

impl Verified {
    /// The claims.
    pub const fn claims(&self) -> &Object {
        &self.0
    }

    /// The claims, owned.
    pub fn into_claims(self) -> Object {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jose::key::VerifyingKey;
    use serde_json::json;

    fn token(header: &Value, payload: &str, signature: &[u8]) -> String {
        [header.to_string().as_bytes(), payload.as_bytes(), signature]
            .map(base64url::encode)
            .join(".")
    }

    #[track_caller]
    fn check(token: &str, expected: bool) {
        assert_eq!(Unverified::parse(token.as_bytes()).is_ok(), expected, "{token}");
    }

    #[test]
    fn a_token_has_three_strict_parts() {
        let good = token(&json!({"alg": "ES256"}), "{}", b"s");
        check(&good, true);
        check("", false);
        check("a.b", false);
        check(&format!("{good}."), false);
        check(&format!("{good}.e30"), false);
        check(&format!("{good}="), false);
        check(&good.replacen('.', " .", 1), false);
        check(&format!("{good}\n"), false);
        check(&token(&json!({"alg": "ES256"}), "[]", b"s"), false);
        check(&token(&json!({"alg": "ES256"}), "{\"a\":1,\"a\":2}", b"s"), false);
        check(&token(&json!({"alg": "ES256"}), "", b"s"), false);
        check(&token(&json!("ES256"), "{}", b"s"), false);
    }

    #[test]
    fn a_header_that_must_be_understood_and_is_not_makes_it_malformed() {
        for header in [
            json!({}),
            json!({"alg": 1}),
            json!({"alg": null}),
            json!({"alg": "ES256", "kid": 1}),
            json!({"alg": "ES256", "typ": ["at+jwt"]}),
            json!({"alg": "ES256", "crit": []}),
            json!({"alg": "ES256", "crit": ["exp"], "exp": 1}),
            json!({"alg": "ES256", "crit": null}),
            json!({"alg": "ES256", "b64": false}),
        ] {
            check(&token(&header, "{}", b"s"), false);
        }
        // Headers that name keys elsewhere are not followed, and do no harm (RFC 8725 §3.10).
        let elsewhere =
            json!({"alg": "ES256", "jku": "https://evil.example", "x5u": "x", "x5c": []});
        check(&token(&elsewhere, "{}", b"s"), true);
    }

    #[test]
    fn an_algorithm_without_a_name_verifies_nothing() {
        let jwk = json!({"kty": "OKP", "crv": "Ed25519",
            "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"});
        let key = VerifyingKey::from_jwk(jwk.as_object().unwrap()).unwrap();
        for alg in ["none", "HS256", "eddsa"] {
            let token = token(&json!({ "alg": alg }), "{}", b"");
            let unverified = Unverified::parse(token.as_bytes()).unwrap();
            assert_eq!(unverified.header().algorithm, None, "{alg}");
            assert!(unverified.verify(Algorithm::EdDSA, [&key]).is_err(), "{alg}");
        }
    }

    #[test]
    fn the_type_compares_as_a_media_type() {
        let with = |typ: Value| {
            let token = token(&json!({"alg": "ES256", "typ": typ}), "{}", b"s");
            Unverified::parse(token.as_bytes()).unwrap().header().is_type("at+jwt")
        };
        for same in ["at+jwt", "AT+JWT", "application/at+jwt", "Application/At+Jwt"] {
            assert!(with(json!(same)), "{same}");
        }
        for other in ["", "JWT", "at+jwt ", "x/at+jwt", "application/", "at", "applicationat+jwt"] {
            assert!(!with(json!(other)), "{other}");
        }
        let none = token(&json!({"alg": "ES256"}), "{}", b"s");
        assert!(!Unverified::parse(none.as_bytes()).unwrap().header().is_type("at+jwt"));
    }

    #[test]
    fn claims_are_not_printed_before_they_are_verified() {
        let token = token(&json!({"alg": "ES256"}), "{\"sub\":\"somebody\"}", b"s");
        let unverified = Unverified::parse(token.as_bytes()).unwrap();
        assert!(!format!("{unverified:?}").contains("somebody"));
    }
}
