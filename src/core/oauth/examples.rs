//! Shared fixtures for the tests of this folder.

use crate::jose::algorithm::Algorithm;
use crate::policy::{ALWAYS_ASKED_FOR, Introspection, Issuer};
use std::sync::Arc;
use std::time::Duration;

pub(super) fn issuer() -> Arc<Issuer> {
    Arc::new(Issuer {
        name: "https://as.example.com".into(),
        audiences: vec!["https://api.example.com".to_owned(), "api".to_owned()],
        algorithms: vec![Algorithm::ES256],
        token_types: vec!["at+jwt".to_owned()],
        clock_leeway: Duration::from_secs(30),
        introspection: Introspection::Never,
    })
}

pub(super) fn selection() -> Arc<[String]> {
    ALWAYS_ASKED_FOR.iter().map(ToString::to_string).collect()
}
