//! Keys that sign tokens and proofs, always the same ones.

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair,
};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use keybound_core::jose::thumbprint;
use serde_json::{Value, json};

/// A key pair.
#[derive(Debug)]
pub enum Signer {
    /// On P-256.
    Ec(Box<EcdsaKeyPair>),
    /// On Curve25519.
    Ed(Box<Ed25519KeyPair>),
}

impl Signer {
    /// The key of RFC 7515 Appendix A.3.
    pub fn ec() -> Self {
        let point = [&[4], &*octets(X), &*octets(Y)].concat();
        let (algorithm, private) = (&ECDSA_P256_SHA256_FIXED_SIGNING, octets(D));
        let pair = EcdsaKeyPair::from_private_key_and_public_key(algorithm, &private, &point);
        Self::Ec(Box::new(pair.unwrap()))
    }

    /// The Ed25519 key of this number.
    pub fn ed(number: u8) -> Self {
        Self::Ed(Box::new(Ed25519KeyPair::from_seed_unchecked(&[number; 32]).unwrap()))
    }

    /// The public key (RFC 7517).
    pub fn jwk(&self) -> Value {
        match self {
            Self::Ec(_) => json!({"kty": "EC", "crv": "P-256", "x": X, "y": Y}),
            Self::Ed(pair) => {
                let x = URL_SAFE_NO_PAD.encode(pair.public_key());
                json!({"kty": "OKP", "crv": "Ed25519", "x": x})
            }
        }
    }

    /// The thumbprint of the public key (RFC 7638).
    pub fn jkt(&self) -> String {
        thumbprint(self.jwk().as_object().unwrap()).unwrap().to_base64url()
    }

    /// The algorithm with which it signs.
    pub const fn algorithm(&self) -> &'static str {
        match self {
            Self::Ec(_) => "ES256",
            Self::Ed(_) => "EdDSA",
        }
    }

    /// A JWT of these two JSON texts (RFC 7515 §7.1).
    pub fn jwt(&self, header: &str, claims: &str) -> String {
        let signed = [header, claims].map(|it| URL_SAFE_NO_PAD.encode(it)).join(".");
        let signature = match self {
            Self::Ec(pair) => {
                pair.sign(&SystemRandom::new(), signed.as_bytes()).unwrap().as_ref().to_vec()
            }
            Self::Ed(pair) => pair.sign(signed.as_bytes()).as_ref().to_vec(),
        };
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    }
}

fn octets(text: &str) -> Vec<u8> {
    URL_SAFE_NO_PAD.decode(text).unwrap()
}

const X: &str = "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU";
const Y: &str = "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0";
const D: &str = "jpsQnnGQmL-YBIffH1136cspYG6-0iY7X1fCE9-E9LI";
