//! Front ends: they translate between a proxy's protocol and a check, and never decide.

pub mod capture;
pub mod events;
pub mod ext_authz;
pub mod forward_auth;
pub mod headers;
pub mod module;
pub mod peer;
