//! The checks of a resource server on an access token and its proof of possession.
//!
//! Pure: no clock, no I/O, no async. The time is a parameter.

pub(crate) mod access_token;
mod authentication;
pub(crate) mod claims;
pub(crate) mod confirmation;
pub(crate) mod credentials;
pub(crate) mod dpop;
#[cfg(test)]
mod examples;
pub(crate) mod introspection;
mod joined;
pub(crate) mod mtls;
pub(crate) mod nonce;
mod read_on;
pub(crate) mod revocable;
pub(crate) mod security_event;
pub(crate) mod status_list;

pub use access_token::{AccessToken, Audience};
pub use claims::{Ambiguous, Claim, Claims};
pub use confirmation::{Confirmation, ToProve};
pub use credentials::{Credentials, Proof, Scheme, Token, is_access_token};
pub use dpop::ProofId;
pub use introspection::{BadAnswer, Form, Jwt, Statement};
pub use nonce::{BadSecret, LiveNonce, NonceKeys};
pub use revocable::{Identifier, Passed, Revocable};
pub use security_event::{
    BadEvents, EVENT_BYTES, Effect, EventKind, EventSubject, Partly, SecurityEvent, SecurityEvents,
    StreamStatus, SubjectKey, SubjectKeys, Transmitter,
};
pub use status_list::{
    BadStatusList, MalformedStatus, STATUS_LIST_BYTES, STATUS_LIST_TOKEN_BYTES, STATUS_LIST_TYPE,
    Status, StatusList, StatusReference,
};
