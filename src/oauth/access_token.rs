//! Knows a verified access token (RFC 9068).

use super::confirmation::Confirmation;
use crate::clock::UnixTime;
use std::sync::Arc;

/// An access token whose signature and claims have been verified.
#[derive(Clone, Debug, PartialEq)]
pub struct AccessToken {
    /// Its issuer, as the configuration writes it.
    pub issuer: Arc<str>,
    /// The `sub` claim.
    pub subject: Option<Box<str>>,
    /// The `client_id` claim.
    pub client_id: Option<Box<str>>,
    /// The `exp` claim.
    pub expires: UnixTime,
    /// The keys to which it is bound.
    pub confirmation: Confirmation,
}
