//! JSON Object Signing and Encryption: the signature half, with its formats.
//!
//! Pure and independent of OAuth: no clock, no I/O, no async.

pub(crate) mod algorithm;
pub mod base64url;
pub(crate) mod fault;
pub mod json;
pub(crate) mod jwk;
pub(crate) mod jws;
pub(crate) mod key;
pub(crate) mod thumbprint;
mod weak;

pub use algorithm::Algorithm;
pub use jwk::{KeySet, NotAKeySet, SignedBy, SkippedKey};
pub use jws::{BadSignature, Header, Malformed, Signed, Unverified, Verified};
pub use key::{PublicJwk, UnusableKey, VerifyingKey, thumbprint};
pub use thumbprint::Thumbprint;
