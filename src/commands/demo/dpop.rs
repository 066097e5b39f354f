//! DPoP proofs of the demo's clients (RFC 9449 §4).

use super::Failure;
use super::issuer::SigningKey;
use super::site::Site;
use crate::clock::{Clock, SystemClock};
use crate::randomness;
use bytes::Bytes;
use http_body_util::Full;
use keybound_core::UnixTime;
use keybound_core::jose::Thumbprint;
use keybound_core::jose::base64url;
use serde_json::json;
use std::sync::Arc;

/// A caller's DPoP key.
#[derive(Clone, Debug)]
pub struct DpopKey(Arc<SigningKey>);

impl DpopKey {
    /// A new key.
    pub fn generate() -> Result<Self, Failure> {
        SigningKey::generate("dpop").map(Arc::new).map(Self)
    }

    /// The `cnf.jkt` of a token bound to this key (RFC 7638).
    pub fn thumbprint(&self) -> Thumbprint {
        let jwk = self.0.public();
        let member = |name: &str| jwk.get(name).and_then(|it| it.as_str()).unwrap_or_default();
        let (crv, kty, x, y) = (member("crv"), member("kty"), member("x"), member("y"));
        // In alphabetical order and without spaces (RFC 7638 §3).
        let members = format!(r#"{{"crv":"{crv}","kty":"{kty}","x":"{x}","y":"{y}"}}"#);
        Thumbprint::of(members.as_bytes())
    }

    /// A new proof, made at `now`, for a GET of `url` with `token` (RFC 9449 §4.2).
    pub fn prove(&self, url: &str, token: &str, now: UnixTime) -> Result<String, Failure> {
        let mut jti = [0; 16];
        let failure = |cause| Failure::new("drawing a jti", cause);
        randomness::fill(&mut jti).map_err(failure)?;
        let header = json!({"typ": "dpop+jwt", "alg": "ES256", "jwk": self.0.public()});
        let claims = json!({
            "jti": base64url::encode(&jti),
            "htm": "GET",
            "htu": url,
            "iat": now.as_secs(),
            "ath": Thumbprint::of(token.as_bytes()).to_base64url(),
        });
        self.0.sign_under(&header, &claims)
    }
}

/// A site that returns a new proof for a GET of `url` with `token`: for curl, which cannot make
/// one.
pub fn site(key: DpopKey, url: String, token: String) -> Site {
    Site::new(move |_| {
        let proof = key.prove(&url, &token, SystemClock.now()).unwrap_or_default();
        hyper::Response::new(Full::new(Bytes::from(proof)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use keybound_core::jose;

    #[test]
    fn its_thumbprint_is_the_one_that_the_service_computes() {
        let key = DpopKey::generate().unwrap();
        let jwk = key.0.public();
        assert_eq!(jose::thumbprint(jwk.as_object().unwrap()).unwrap(), key.thumbprint());
    }
}
