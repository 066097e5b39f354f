//! What several tests need, here and in the tests that run other programs.

#[path = "../support/clock.rs"]
pub(crate) mod clock;
#[path = "../support/configured.rs"]
pub(crate) mod configured;
#[path = "../support/identity_provider.rs"]
pub(crate) mod identity_provider;
#[path = "../support/inside.rs"]
pub(crate) mod inside;
#[path = "../support/introspection_endpoint.rs"]
pub(crate) mod introspection_endpoint;
#[path = "../support/proofs.rs"]
pub(crate) mod proofs;
#[path = "../support/shared.rs"]
pub(crate) mod shared;
#[path = "../support/subrequest.rs"]
pub(crate) mod subrequest;
#[path = "../support/tokens.rs"]
pub(crate) mod tokens;
#[path = "../support/transmitter.rs"]
pub(crate) mod transmitter;
