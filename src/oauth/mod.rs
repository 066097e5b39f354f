//! What a resource server must check of a token and of the proof that goes with it.
//!
//! Pure: no clock, no I/O, no async. The time comes in as a parameter.

pub mod access_token;
pub mod claims;
pub mod confirmation;
pub mod credentials;
pub mod dpop;
#[cfg(test)]
mod examples;
pub mod introspection;
pub mod mtls;
pub mod nonce;
