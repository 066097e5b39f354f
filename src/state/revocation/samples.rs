//! Tokens for tests.

use keybound_core::Explanation;
use keybound_core::oauth::{AccessToken, Audience};
use keybound_core::policy::Issuer;
use serde_json::Value;
use std::sync::Arc;

/// A token with these claims, of an issuer that revokes some.
pub(super) fn token(claims: &Value) -> AccessToken {
    let issuer = Arc::new(Issuer { revokes: true, ..Issuer::new("https://as.example.com", "api") });
    let (claims, none) = (claims.as_object().unwrap(), &mut Explanation::default());
    AccessToken::introspected(claims, &issuer, &[].into(), Audience::IfSaid, none).unwrap()
}
