//! DPoP proofs.

use super::tokens::Signer;
use jsonwebtoken::{Algorithm, Header};
use serde_json::Value;

/// A proof by `key` with these claims (RFC 9449 §4.2).
pub(crate) fn prove(key: &Signer, claims: &Value) -> String {
    let mut jwk = key.jwk().clone();
    jwk.as_object_mut().unwrap().remove("kid");
    let jwk = Some(serde_json::from_value(jwk).unwrap());
    key.sign_as("dpop+jwt", Header { jwk, ..Header::new(Algorithm::ES256) }, claims)
}
