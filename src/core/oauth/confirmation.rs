//! The `cnf` claim: the keys to which a token is bound, and which of them must be proved (RFC 7800,
//! RFC 8705 §3.1, RFC 9449 §6.1 and §7).

use super::credentials::Scheme;
use crate::denial::Denial;
use crate::jose::json::Object;
use crate::jose::thumbprint::Thumbprint;
use crate::policy::SenderConstraint;
use serde_json::Value;

/// The keys to which a token is bound.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Confirmation {
    /// The client certificate (RFC 8705 §3.1).
    pub x5t_s256: Option<Thumbprint>,
    /// The DPoP key (RFC 9449 §6.1).
    pub jkt: Option<Thumbprint>,
    /// The `cnf` claim has no supported method.
    pub unknown_only: bool,
}

/// The keys of which the caller must prove possession.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ToProve {
    /// The client certificate.
    pub certificate: Option<Thumbprint>,
    /// The DPoP key.
    pub key: Option<Thumbprint>,
}

impl Confirmation {
    /// Reads the `cnf` claim. If it is not an object, or has an invalid thumbprint, the token is
    /// malformed: it must never be mistaken for an unbound one.
    pub fn of(claims: &Object) -> Result<Self, Denial> {
        let members = match claims.get("cnf") {
            None => return Ok(Self::default()),
            Some(cnf) => cnf.as_object().ok_or(Denial::TokenMalformed)?,
        };
        let thumbprint = |name| match members.get(name) {
            None => Ok(None),
            Some(Value::String(text)) => {
                Thumbprint::from_base64url(text).map(Some).ok_or(Denial::TokenMalformed)
            }
            Some(_) => Err(Denial::TokenMalformed),
        };
        let (x5t_s256, jkt) = (thumbprint("x5t#S256")?, thumbprint("jkt")?);
        Ok(Self { x5t_s256, jkt, unknown_only: x5t_s256.is_none() && jkt.is_none() })
    }

    /// The keys of both.
    ///
    /// # Errors
    ///
    /// They name different keys, which nobody can prove at once.
    pub fn joined(&self, other: &Self) -> Result<Self, Denial> {
        let one = |own: Option<Thumbprint>, other: Option<Thumbprint>, denial| {
            let agree = own.is_none() || other.is_none() || own == other;
            if agree { Ok(own.or(other)) } else { Err(denial) }
        };
        Ok(Self {
            x5t_s256: one(self.x5t_s256, other.x5t_s256, Denial::CertificateMismatch)?,
            jkt: one(self.jkt, other.jkt, Denial::ProofKeyMismatch)?,
            unknown_only: self.unknown_only || other.unknown_only,
        })
    }

    /// The keys to prove for a token sent with `scheme`, under a policy that requires `constraint`:
    /// all to which the token is bound, and no fewer than the policy requires.
    pub fn to_prove(
        &self,
        constraint: SenderConstraint,
        scheme: Scheme,
    ) -> Result<ToProve, Denial> {
        if constraint == SenderConstraint::None {
            // `MTLS_POP` claims a binding, which an upstream may believe when it reads the scheme.
            let is_honest = scheme != Scheme::MtlsPop || self.goes_with(scheme);
            return is_honest.then(ToProve::default).ok_or(Denial::SchemeMismatch);
        }
        if self.unknown_only {
            return Err(Denial::BindingUnsupported);
        }
        if !self.goes_with(scheme) {
            return Err(Denial::SchemeMismatch);
        }
        let satisfied = match constraint {
            SenderConstraint::Certificate => self.x5t_s256.is_some(),
            SenderConstraint::Dpop => self.jkt.is_some(),
            SenderConstraint::Either => self.x5t_s256.is_some() || self.jkt.is_some(),
            SenderConstraint::IfBound | SenderConstraint::None => true,
        };
        if !satisfied {
            return Err(Denial::BindingMissing);
        }
        Ok(ToProve { certificate: self.x5t_s256, key: self.jkt })
    }

    /// Whether a token with this confirmation may be sent with `scheme`: the DPoP scheme is for
    /// DPoP-bound tokens, and they require it (RFC 9449 §7.1, §7.2).
    const fn goes_with(&self, scheme: Scheme) -> bool {
        match scheme {
            Scheme::Bearer => self.jkt.is_none(),
            Scheme::Dpop => self.jkt.is_some(),
            Scheme::MtlsPop => self.jkt.is_none() && self.x5t_s256.is_some(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    const X5T: &str = "47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU";

    fn of(cnf: &Value) -> Result<Confirmation, Denial> {
        let Value::Object(claims) = json!({ "cnf": cnf }) else { panic!("an object") };
        Confirmation::of(&claims)
    }

    #[test]
    fn a_confirmation_that_cannot_be_read_is_not_a_missing_one() {
        for odd in [json!(null), json!("x"), json!([]), json!(1), json!(true)] {
            assert_eq!(of(&odd), Err(Denial::TokenMalformed), "{odd}");
        }
        let hex = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        for name in ["x5t#S256", "jkt"] {
            for odd in [json!(null), json!(1), json!([X5T]), json!(""), json!(hex)] {
                assert_eq!(of(&json!({ name: odd })), Err(Denial::TokenMalformed), "{name} {odd}");
            }
            assert_eq!(of(&json!({ name: format!("{X5T}=") })), Err(Denial::TokenMalformed));
        }
    }

    #[test]
    fn unknown_members_count_only_when_alone() {
        assert_eq!(Confirmation::of(&Object::new()), Ok(Confirmation::default()));
        for alone in [json!({}), json!({"jwk": {}}), json!({"x5t": X5T}), json!({"X5T#S256": X5T})]
        {
            assert!(of(&alone).unwrap().unknown_only, "{alone}");
        }
        let beside = of(&json!({"x5t#S256": X5T, "kid": "k"})).unwrap();
        assert!(!beside.unknown_only && beside.x5t_s256.is_some());
    }

    #[test]
    fn what_the_token_carries_must_be_proved_under_every_policy_but_none() {
        use Denial::SchemeMismatch as Mismatch;
        use Denial::{BindingMissing as Missing, BindingUnsupported as Unsupported};
        use Scheme::{Bearer, Dpop, MtlsPop};
        let unbound = Confirmation::default();
        let unknown = Confirmation { unknown_only: true, ..unbound };
        let certificate = of(&json!({ "x5t#S256": X5T })).unwrap();
        let key = of(&json!({ "jkt": X5T })).unwrap();
        let both = of(&json!({ "jkt": X5T, "x5t#S256": X5T })).unwrap();
        // Per row: certificate, dpop, either, if_bound. Proved: c, d or both.
        let table: &[(_, _, [Result<&str, Denial>; 4])] = &[
            (unbound, Bearer, [Err(Missing), Err(Missing), Err(Missing), Ok("")]),
            (unbound, Dpop, [Err(Mismatch); 4]),
            (unknown, Bearer, [Err(Unsupported); 4]),
            (unknown, Dpop, [Err(Unsupported); 4]),
            (certificate, Bearer, [Ok("c"), Err(Missing), Ok("c"), Ok("c")]),
            (certificate, Dpop, [Err(Mismatch); 4]),
            (key, Bearer, [Err(Mismatch); 4]),
            (key, Dpop, [Err(Missing), Ok("d"), Ok("d"), Ok("d")]),
            (both, Bearer, [Err(Mismatch); 4]),
            (both, Dpop, [Ok("cd"); 4]),
            (unbound, MtlsPop, [Err(Mismatch); 4]),
            (unknown, MtlsPop, [Err(Unsupported); 4]),
            (certificate, MtlsPop, [Ok("c"), Err(Missing), Ok("c"), Ok("c")]),
            (key, MtlsPop, [Err(Mismatch); 4]),
            (both, MtlsPop, [Err(Mismatch); 4]),
        ];
        for (confirmation, scheme, expected) in table {
            let constraints = [
                SenderConstraint::Certificate,
                SenderConstraint::Dpop,
                SenderConstraint::Either,
                SenderConstraint::IfBound,
            ];
            for (constraint, expected) in constraints.into_iter().zip(expected) {
                let found = confirmation.to_prove(constraint, *scheme).map(|it| {
                    format!("{}{}", it.certificate.map_or("", |_| "c"), it.key.map_or("", |_| "d"))
                });
                let expected = expected.map(str::to_owned);
                assert_eq!(found, expected, "{confirmation:?} {scheme:?} {constraint:?}");
            }
            let none = confirmation.to_prove(SenderConstraint::None, *scheme);
            let expected = match (*scheme, *confirmation == certificate) {
                (MtlsPop, false) => Err(Mismatch),
                (MtlsPop, true) | (Bearer | Dpop, _) => Ok(ToProve::default()),
            };
            assert_eq!(none, expected, "{confirmation:?} {scheme:?}");
        }
    }
}
