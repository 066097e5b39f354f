//! Shared fixtures for the tests of this folder.

use crate::jose::algorithm::Algorithm;
use crate::policy::{ALWAYS_ASKED_FOR, Issuer};
use std::sync::Arc;

pub(super) fn issuer() -> Arc<Issuer> {
    Arc::new(Issuer {
        audiences: vec!["https://api.example.com".to_owned(), "api".to_owned()],
        algorithms: vec![Algorithm::ES256],
        ..Issuer::new("https://as.example.com", "")
    })
}

pub(super) fn selection() -> Arc<[String]> {
    ALWAYS_ASKED_FOR.iter().map(ToString::to_string).collect()
}
