//! A client that holds a DPoP key and a token that is bound to it (RFC 9449).

use super::proofs::prove;
use super::tokens::Signer;
use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::Algorithm;
use jsonwebtoken::jwk::{Jwk, ThumbprintHash};
use keybound::clock::{Clock, SystemClock};
use serde_json::{Value, json};
use std::sync::atomic::{AtomicU64, Ordering};

pub(crate) struct DpopClient {
    pub(crate) key: Signer,
    pub(crate) token: String,
}

impl DpopClient {
    /// A client with a new key, and the token that it is issued for this `cnf`.
    pub(crate) fn new(issue: impl FnOnce(Value) -> String) -> Self {
        let key = Signer::new(Algorithm::ES256, "dpop");
        let jwk: Jwk = serde_json::from_value(key.jwk().clone()).unwrap();
        let jkt = jwk.thumbprint(ThumbprintHash::SHA256).unwrap();
        Self { token: issue(json!({ "jkt": jkt })), key }
    }

    /// What a new proof for a request with the token says.
    pub(crate) fn claims(&self, method: &str, url: &str) -> Value {
        static MADE: AtomicU64 = AtomicU64::new(0);
        json!({
            "jti": MADE.fetch_add(1, Ordering::Relaxed).to_string(),
            "htm": method,
            "htu": url,
            "iat": SystemClock.now().as_secs(),
            "ath": URL_SAFE_NO_PAD.encode(digest(&SHA256, self.token.as_bytes())),
        })
    }

    /// A new proof for a request with the token.
    pub(crate) fn proof(&self, method: &str, url: &str) -> String {
        prove(&self.key, &self.claims(method, url))
    }
}
