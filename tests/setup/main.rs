//! The commands that set keybound up for an issuer, as a shell sees them: `init` and `check-config --online`.

#![expect(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::arithmetic_side_effects,
    reason = "a test may panic"
)]

#[path = "../support/configured.rs"]
mod configured;
#[expect(dead_code, reason = "shared between tests")]
#[path = "../support/identity_provider.rs"]
mod identity_provider;
mod init;
mod online;
#[path = "../support/tokens.rs"]
mod tokens;
mod world;
