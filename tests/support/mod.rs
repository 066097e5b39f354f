//! What several tests need.

pub mod identity_provider;
