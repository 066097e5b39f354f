//! What the service does, tried within one process: no other program is run, not even ours.
//!
//! The tests run at once and share what a process shares, so none of them changes it: the
//! environment, the current directory, the subscriber of `tracing`. A paused clock is that of a test's
//! own runtime.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    clippy::unchecked_time_subtraction,
    clippy::match_wildcard_for_single_variants,
    clippy::wildcard_enum_match_arm,
    reason = "a test may panic"
)]

mod captures;
mod checks;
mod client_certificate;
mod events;
mod grpc;
mod introspection;
mod jose;
mod jwks;
mod metadata;
mod observability;
mod providers;
mod reload;
mod revocation;
mod status_lists;
mod subrequests;
mod support;
mod wire;
