//! Knows how a request comes in and an answer goes out. A front end translates and never decides.

pub mod capture;
pub mod ext_authz;
pub mod forward_auth;
pub mod peer;
