//! The demo's authorization server: one signing key, its metadata, and tokens on request (RFC 8414,
//! RFC 9068).

use super::Failure;
use super::site::{self, Site};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use keybound_core::jose::base64url;
use serde_json::{Value, json};

/// A key that signs tokens with ES256.
#[derive(Debug)]
pub struct SigningKey {
    kid: String,
    pair: EcdsaKeyPair,
}

impl SigningKey {
    /// A new key with the id `kid`.
    pub fn generate(kid: &str) -> Result<Self, Failure> {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING)
            .map_err(|cause| Failure::new("making a signing key", cause))?;
        Ok(Self { kid: kid.to_owned(), pair })
    }

    /// The public key as a JWK (RFC 7517), as an issuer publishes it.
    pub fn jwk(&self) -> Value {
        let mut jwk = self.public();
        if let Some(members) = jwk.as_object_mut() {
            for (name, value) in [("alg", "ES256"), ("use", "sig"), ("kid", &self.kid)] {
                members.insert(name.to_owned(), value.into());
            }
        }
        jwk
    }

    /// The public key as a JWK that says nothing else.
    pub fn public(&self) -> Value {
        // An uncompressed point: 4, then the two coordinates (SEC 1 §2.3.3).
        let point = self.pair.public_key().as_ref();
        let (x, y) = point.split_at_checked(33).unwrap_or((point, &[]));
        json!({
            "kty": "EC", "crv": "P-256",
            "x": base64url::encode(x.strip_prefix(&[4]).unwrap_or(x)),
            "y": base64url::encode(y),
        })
    }

    /// A JWT of type `typ` with these claims (RFC 7519).
    pub fn sign(&self, typ: &str, claims: &Value) -> Result<String, Failure> {
        self.sign_under(&json!({"alg": "ES256", "kid": self.kid, "typ": typ}), claims)
    }

    /// A JWT with this header, which must say that it is signed with ES256, and these claims.
    pub fn sign_under(&self, header: &Value, claims: &Value) -> Result<String, Failure> {
        let part = |it: &Value| base64url::encode(it.to_string().as_bytes());
        let input = format!("{}.{}", part(header), part(claims));
        let signature = self
            .pair
            .sign(&SystemRandom::new(), input.as_bytes())
            .map_err(|cause| Failure::new("signing a JWT", cause))?;
        Ok(format!("{input}.{}", base64url::encode(signature.as_ref())))
    }
}

/// The site of the issuer at `url`: its metadata at both well-known locations, and its keys.
pub fn site(url: &str, key: &SigningKey) -> Site {
    let metadata = json!({
        "issuer": url,
        "jwks_uri": format!("{url}/jwks"),
        "token_endpoint": format!("{url}/token"),
        "response_types_supported": ["none"],
        "tls_client_certificate_bound_access_tokens": true,
        "dpop_signing_alg_values_supported": ["ES256"],
    });
    let keys = json!({"keys": [key.jwk()]});
    Site::new(move |request| match request.uri().path() {
        "/.well-known/oauth-authorization-server" | "/.well-known/openid-configuration" => {
            site::json(&metadata)
        }
        "/jwks" => site::json(&keys),
        _ => site::not_found(),
    })
}
