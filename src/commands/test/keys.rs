//! Keys that sign tokens, made on the spot, for each algorithm that an issuer may use.

use crate::commands::demo::Failure;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    self, EcdsaKeyPair, EcdsaSigningAlgorithm, Ed25519KeyPair, KeyPair, PqdsaKeyPair,
    PqdsaSigningAlgorithm, RsaEncoding, RsaKeyPair,
};
use keybound_core::jose::json::Object;
use keybound_core::jose::{Algorithm, base64url};
use serde_json::Value;

/// A key for one algorithm.
#[derive(Debug)]
pub(super) struct Key {
    algorithm: Algorithm,
    pair: Pair,
}

#[derive(Debug)]
enum Pair {
    Ecdsa(EcdsaKeyPair, &'static str),
    Ed25519(Ed25519KeyPair),
    Rsa(RsaKeyPair, &'static dyn RsaEncoding),
    MlDsa(PqdsaKeyPair),
}

/// How an algorithm signs.
enum Way {
    /// On a curve, with its name.
    Ecdsa(&'static EcdsaSigningAlgorithm, &'static str),
    Ed25519,
    Rsa(&'static dyn RsaEncoding),
    MlDsa(&'static PqdsaSigningAlgorithm),
}

/// The algorithms that keys can be made for, the fastest first.
pub(super) const KNOWN: [Algorithm; 14] = [
    Algorithm::ES256,
    Algorithm::EdDSA,
    Algorithm::Ed25519,
    Algorithm::ES384,
    Algorithm::ES512,
    Algorithm::RS256,
    Algorithm::PS256,
    Algorithm::RS384,
    Algorithm::PS384,
    Algorithm::RS512,
    Algorithm::PS512,
    Algorithm::MlDsa44,
    Algorithm::MlDsa65,
    Algorithm::MlDsa87,
];

impl Key {
    /// A new key for `algorithm`.
    pub(super) fn generate(algorithm: Algorithm) -> Result<Self, Failure> {
        let failure = |cause| Failure::new("making a signing key", cause);
        let pair = match way(algorithm) {
            Way::Ecdsa(algorithm, curve) => {
                Pair::Ecdsa(EcdsaKeyPair::generate(algorithm).map_err(failure)?, curve)
            }
            Way::Ed25519 => Pair::Ed25519(Ed25519KeyPair::generate().map_err(failure)?),
            Way::Rsa(padding) => {
                Pair::Rsa(RsaKeyPair::generate(KeySize::Rsa2048).map_err(failure)?, padding)
            }
            Way::MlDsa(algorithm) => {
                Pair::MlDsa(PqdsaKeyPair::generate(algorithm).map_err(failure)?)
            }
        };
        Ok(Self { algorithm, pair })
    }

    /// The name of the key: that of its algorithm.
    pub(super) fn kid(&self) -> &'static str {
        self.algorithm.name()
    }

    /// The public key as a JWK that says nothing else (RFC 7517).
    pub(super) fn jwk(&self) -> Object {
        let members = match &self.pair {
            Pair::Ecdsa(pair, curve) => {
                // An uncompressed point: 4, then the two coordinates (SEC 1 §2.3.3).
                let point = pair.public_key().as_ref();
                let point = point.strip_prefix(&[4]).unwrap_or(point);
                let half = point.len().checked_div(2).unwrap_or_default();
                let (x, y) = point.split_at_checked(half).unwrap_or((point, &[]));
                let (x, y) = (base64url::encode(x), base64url::encode(y));
                vec![("kty", "EC".to_owned()), ("crv", (*curve).to_owned()), ("x", x), ("y", y)]
            }
            Pair::Ed25519(pair) => {
                let x = base64url::encode(pair.public_key().as_ref());
                vec![("kty", "OKP".to_owned()), ("crv", "Ed25519".to_owned()), ("x", x)]
            }
            Pair::Rsa(pair, _) => {
                let (n, e) = numbers(pair.public_key().as_ref()).unwrap_or_default();
                let (n, e) = (base64url::encode(n), base64url::encode(e));
                vec![("kty", "RSA".to_owned()), ("n", n), ("e", e)]
            }
            // The type AKP is for one algorithm (RFC 9964).
            Pair::MlDsa(pair) => {
                let key = base64url::encode(pair.public_key().as_ref());
                vec![("kty", "AKP".to_owned()), ("alg", self.kid().to_owned()), ("pub", key)]
            }
        };
        members.into_iter().map(|(name, value)| (name.to_owned(), value.into())).collect()
    }

    /// A JWT with this header and these claims (RFC 7515).
    pub(super) fn sign(&self, header: &Object, claims: &Object) -> Result<String, Failure> {
        let part =
            |it: &Object| base64url::encode(Value::Object(it.clone()).to_string().as_bytes());
        let input = format!("{}.{}", part(header), part(claims));
        let failure = |cause| Failure::new("signing a token", cause);
        let random = SystemRandom::new();
        let signature = match &self.pair {
            Pair::Ecdsa(pair, _) => {
                pair.sign(&random, input.as_bytes()).map_err(failure)?.as_ref().to_vec()
            }
            Pair::Ed25519(pair) => pair.sign(input.as_bytes()).as_ref().to_vec(),
            Pair::Rsa(pair, padding) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(*padding, &random, input.as_bytes(), &mut signature).map_err(failure)?;
                signature
            }
            Pair::MlDsa(pair) => {
                let mut signature = vec![0; pair.algorithm().signature_len()];
                pair.sign(input.as_bytes(), &mut signature).map_err(failure)?;
                signature
            }
        };
        Ok(format!("{input}.{}", base64url::encode(&signature)))
    }
}

/// Modulus and exponent in the DER of an `RSAPublicKey` (RFC 8017 §A.1.1).
fn numbers(der: &[u8]) -> Option<(&[u8], &[u8])> {
    let (sequence, _) = content(der)?;
    let (modulus, rest) = content(sequence)?;
    let (exponent, _) = content(rest)?;
    // A leading zero keeps a number positive, and has no place in a JWK.
    Some((modulus.strip_prefix(&[0]).unwrap_or(modulus), exponent))
}

/// The content of the element at the start of `der`, and what is behind it.
fn content(der: &[u8]) -> Option<(&[u8], &[u8])> {
    let (_tag, rest) = der.split_first()?;
    let (length, rest) = match rest.split_first()? {
        (0x82, rest) => {
            let (length, rest) = rest.split_first_chunk::<2>()?;
            (u16::from_be_bytes(*length), rest)
        }
        (0x81, rest) => rest.split_first().map(|(length, rest)| (u16::from(*length), rest))?,
        (length, rest) => (u16::from(*length), rest),
    };
    rest.split_at_checked(length.into())
}

/// How `algorithm` signs.
fn way(algorithm: Algorithm) -> Way {
    match algorithm {
        Algorithm::ES256 => Way::Ecdsa(&signature::ECDSA_P256_SHA256_FIXED_SIGNING, "P-256"),
        Algorithm::ES384 => Way::Ecdsa(&signature::ECDSA_P384_SHA384_FIXED_SIGNING, "P-384"),
        Algorithm::ES512 => Way::Ecdsa(&signature::ECDSA_P521_SHA512_FIXED_SIGNING, "P-521"),
        Algorithm::EdDSA | Algorithm::Ed25519 => Way::Ed25519,
        Algorithm::RS256 => Way::Rsa(&signature::RSA_PKCS1_SHA256),
        Algorithm::RS384 => Way::Rsa(&signature::RSA_PKCS1_SHA384),
        Algorithm::RS512 => Way::Rsa(&signature::RSA_PKCS1_SHA512),
        Algorithm::PS256 => Way::Rsa(&signature::RSA_PSS_SHA256),
        Algorithm::PS384 => Way::Rsa(&signature::RSA_PSS_SHA384),
        Algorithm::PS512 => Way::Rsa(&signature::RSA_PSS_SHA512),
        Algorithm::MlDsa44 => Way::MlDsa(&signature::ML_DSA_44_SIGNING),
        Algorithm::MlDsa65 => Way::MlDsa(&signature::ML_DSA_65_SIGNING),
        Algorithm::MlDsa87 => Way::MlDsa(&signature::ML_DSA_87_SIGNING),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use keybound_core::jose::KeySet;
    use serde_json::json;

    #[test]
    fn each_key_is_one_that_checks_can_use() {
        for algorithm in KNOWN {
            let key = Key::generate(algorithm).unwrap();
            let mut jwk = key.jwk();
            jwk.insert("alg".to_owned(), algorithm.name().into());
            let set = KeySet::parse(json!({"keys": [jwk]}).to_string().as_bytes()).unwrap();
            assert_eq!(set.len(), 1, "{algorithm:?}: {}", set.skipped_in_words());
        }
    }
}
