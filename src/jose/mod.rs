//! JSON Object Signing and Encryption, the signing half of it: formats and signatures.
//!
//! Pure, and ignorant of OAuth: no clock, no I/O, no async.

pub mod algorithm;
pub mod base64url;
pub mod json;
pub mod jwk;
pub mod jws;
pub mod key;
pub mod thumbprint;
