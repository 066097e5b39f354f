//! Client assertions: short-lived JWTs by which a client proves who it is (RFC 7523 §2.2, §3).

use crate::randomness;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair,
    RSA_PKCS1_SHA256, RSA_PSS_SHA256, RsaEncoding, RsaKeyPair,
};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use keybound_core::UnixTime;
use keybound_core::jose::Thumbprint;
use serde_json::json;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use tokio_rustls::rustls::pki_types::PrivatePkcs8KeyDer;
use tokio_rustls::rustls::pki_types::pem::PemObject;

/// The private key of a client, and the name under which the server knows it. `Debug` shows neither.
#[derive(Clone)]
pub struct AssertionKey {
    kid: Option<String>,
    /// Of the whole PKCS #8 document.
    id: Thumbprint,
    key: Arc<Key>,
}

/// What an assertion is about.
#[derive(Clone, Copy, Debug)]
pub(super) struct Claims<'a> {
    /// The client, which is its issuer and its subject.
    pub(super) client_id: &'a str,
    /// The server for which it is meant.
    pub(super) audience: &'a str,
    /// The present time.
    pub(super) now: UnixTime,
}

/// No assertion can be made: the system has no randomness, or the key does not sign.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct NotSigned;

enum Key {
    Rsa(RsaKeyPair),
    P256(EcdsaKeyPair),
    P384(EcdsaKeyPair),
    Ed25519(Ed25519KeyPair),
}

/// A way to sign, by its name in a header.
type Way = (&'static str, Signature);

#[derive(Clone, Copy)]
enum Signature {
    Rsa(&'static dyn RsaEncoding),
    /// The only one of its key.
    Own,
}

impl AssertionKey {
    /// The first PKCS #8 key in `pem`, which the server knows as `kid`. The error is a sentence for
    /// the operator and quotes nothing of the key.
    pub fn from_pem(pem: &[u8], kid: Option<String>) -> Result<Self, &'static str> {
        let der = PrivatePkcs8KeyDer::from_pem_slice(pem).or(Err(NOT_PKCS8))?;
        let der = der.secret_pkcs8_der();
        let key = Key::read(der).ok_or(NO_KEY_TYPE)?;
        Ok(Self { kid, id: Thumbprint::of(der), key: Arc::new(key) })
    }

    /// An assertion with these `claims`, for a server that accepts the algorithms `accepted`; empty
    /// where it does not say.
    pub(super) fn assertion(
        &self,
        claims: Claims<'_>,
        accepted: &[String],
    ) -> Result<String, NotSigned> {
        let (algorithm, signature) = self.key.way(accepted);
        let mut header = json!({"alg": algorithm, "typ": "JWT"});
        if let (Some(kid), Some(header)) = (&self.kid, header.as_object_mut()) {
            header.insert("kid".to_owned(), kid.as_str().into());
        }
        let mut jti = [0; 16];
        randomness::fill(&mut jti).or(Err(NotSigned))?;
        let (client_id, iat) = (claims.client_id, claims.now.as_secs());
        let claims = json!({
            "iss": client_id,
            "sub": client_id,
            "aud": claims.audience,
            "jti": URL_SAFE_NO_PAD.encode(jti),
            "iat": iat,
            "exp": claims.now.saturating_add(LIFETIME).as_secs(),
        });
        let part = |it: String| URL_SAFE_NO_PAD.encode(it);
        let input = format!("{}.{}", part(header.to_string()), part(claims.to_string()));
        let signature = self.key.sign(signature, input.as_bytes())?;
        Ok(format!("{input}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }
}

impl Key {
    fn read(der: &[u8]) -> Option<Self> {
        let p256 = || EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, der);
        let p384 = || EcdsaKeyPair::from_pkcs8(&ECDSA_P384_SHA384_FIXED_SIGNING, der);
        let rsa =
            RsaKeyPair::from_pkcs8(der).ok().filter(|it| LEAST_RSA <= it.public_modulus_len());
        rsa.map(Self::Rsa)
            .or_else(|| p256().ok().map(Self::P256))
            .or_else(|| p384().ok().map(Self::P384))
            .or_else(|| Ed25519KeyPair::from_pkcs8(der).ok().map(Self::Ed25519))
    }

    /// The first way that the server accepts, else the last: what most servers know.
    ///
    /// For RSA keys that is RS256, which each server must know (RFC 7523 §5). FAPI 2.0 forbids it
    /// and demands PS256, which such servers name in their metadata.
    fn way(&self, accepted: &[String]) -> Way {
        let (better, usual): (&[Way], Way) = match self {
            Self::Rsa(_) => (
                &[("PS256", Signature::Rsa(&RSA_PSS_SHA256))],
                ("RS256", Signature::Rsa(&RSA_PKCS1_SHA256)),
            ),
            Self::P256(_) => (&[], ("ES256", Signature::Own)),
            Self::P384(_) => (&[], ("ES384", Signature::Own)),
            // RFC 9864 gives EdDSA with this curve a name of its own.
            Self::Ed25519(_) => (&[("Ed25519", Signature::Own)], ("EdDSA", Signature::Own)),
        };
        let is_accepted = |it: &&Way| accepted.iter().any(|name| name == it.0);
        better.iter().find(is_accepted).copied().unwrap_or(usual)
    }

    fn sign(&self, signature: Signature, input: &[u8]) -> Result<Vec<u8>, NotSigned> {
        let random = SystemRandom::new();
        match (self, signature) {
            (Self::Rsa(key), Signature::Rsa(encoding)) => {
                let mut signed = vec![0; key.public_modulus_len()];
                key.sign(encoding, &random, input, &mut signed).or(Err(NotSigned))?;
                Ok(signed)
            }
            (Self::P256(key) | Self::P384(key), _) => {
                key.sign(&random, input).map(|it| it.as_ref().to_vec()).or(Err(NotSigned))
            }
            (Self::Ed25519(key), _) => Ok(key.sign(input).as_ref().to_vec()),
            (Self::Rsa(_), Signature::Own) => Err(NotSigned),
        }
    }
}

/// The same private key under the same name.
impl PartialEq for AssertionKey {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id && self.kid == other.kid
    }
}

impl Eq for AssertionKey {}

impl fmt::Debug for AssertionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AssertionKey")
    }
}

const NOT_PKCS8: &str = "holds no private key in PEM as PKCS #8 (`-----BEGIN PRIVATE KEY-----`): \
                         convert it with `openssl pkcs8 -topk8 -nocrypt`";

const NO_KEY_TYPE: &str =
    "holds a key of another type than RSA (of 2048 bits at least), P-256, P-384 and Ed25519";

/// In octets: 2048 bits (RFC 7518 §3.3).
const LEAST_RSA: usize = 256;

/// How long an assertion is valid. Each is used once and at once, so that this bridges no more than
/// a difference of clocks.
const LIFETIME: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;
    use jsonwebtoken::{Algorithm, DecodingKey, Validation, decode, decode_header};
    use rcgen::{KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519};
    use rcgen::{PKCS_RSA_SHA256, SignatureAlgorithm};
    use serde_json::Value;
    use std::collections::HashSet;

    const NOW: i64 = 1_800_000_000;

    const CLAIMS: Claims<'_> = Claims {
        client_id: "gate way",
        audience: "https://as.example.com",
        now: UnixTime::from_secs(NOW),
    };

    fn pair(algorithm: &'static SignatureAlgorithm) -> KeyPair {
        KeyPair::generate_for(algorithm).unwrap()
    }

    fn key(pair: &KeyPair) -> AssertionKey {
        let pem = pair.serialize_pem();
        AssertionKey::from_pem(pem.as_bytes(), Some("gateway-1".to_owned())).unwrap()
    }

    fn claims(jwt: &str, pair: &KeyPair, algorithm: Algorithm) -> Value {
        let public = pair.public_key_pem();
        let public = public.as_bytes();
        let verifier = DecodingKey::from_rsa_pem(public)
            .or_else(|_| DecodingKey::from_ed_pem(public))
            .or_else(|_| DecodingKey::from_ec_pem(public));
        let mut rules = Validation::new(algorithm);
        rules.validate_exp = false;
        rules.set_audience(&["https://as.example.com"]);
        decode::<Value>(jwt, &verifier.unwrap(), &rules).unwrap().claims
    }

    #[test]
    fn the_algorithm_is_that_of_the_key_and_one_that_the_server_accepts() {
        let table: [(_, &[&str], _); 8] = [
            (&PKCS_ECDSA_P256_SHA256, &[], Algorithm::ES256),
            (&PKCS_ECDSA_P256_SHA256, &["PS256"], Algorithm::ES256),
            (&PKCS_ECDSA_P384_SHA384, &[], Algorithm::ES384),
            (&PKCS_ED25519, &[], Algorithm::EdDSA),
            (&PKCS_ED25519, &["RS256", "EdDSA"], Algorithm::EdDSA),
            (&PKCS_RSA_SHA256, &[], Algorithm::RS256),
            (&PKCS_RSA_SHA256, &["RS256", "PS256"], Algorithm::PS256),
            (&PKCS_RSA_SHA256, &["RS256"], Algorithm::RS256),
        ];
        for (kind, accepted, expected) in table {
            let pair = pair(kind);
            let accepted: Vec<_> = accepted.iter().map(ToString::to_string).collect();
            let jwt = key(&pair).assertion(CLAIMS, &accepted).unwrap();
            let header = decode_header(&jwt).unwrap();
            assert_eq!((header.alg, header.kid.as_deref()), (expected, Some("gateway-1")));
            assert_eq!(claims(&jwt, &pair, expected)["sub"], "gate way", "{accepted:?}");
        }
        let jwt = key(&pair(&PKCS_ED25519)).assertion(CLAIMS, &["Ed25519".to_owned()]).unwrap();
        let header = URL_SAFE_NO_PAD.decode(jwt.split('.').next().unwrap()).unwrap();
        assert!(String::from_utf8(header).unwrap().contains(r#""alg":"Ed25519""#));
    }

    #[test]
    fn each_assertion_says_who_for_whom_and_for_a_minute_and_is_another_one() {
        let pair = pair(&PKCS_ECDSA_P256_SHA256);
        let key = key(&pair);
        let made: Vec<_> = (0..3)
            .map(|_| claims(&key.assertion(CLAIMS, &[]).unwrap(), &pair, Algorithm::ES256))
            .collect();
        for claims in &made {
            assert_eq!((&claims["iss"], &claims["sub"]), (&json!("gate way"), &json!("gate way")));
            assert_eq!(claims["aud"], "https://as.example.com");
            assert_eq!((&claims["iat"], &claims["exp"]), (&json!(NOW), &json!(NOW + 60)));
        }
        let ids: HashSet<_> = made.iter().map(|it| it["jti"].as_str().unwrap()).collect();
        assert_eq!(ids.len(), made.len());
        assert!(ids.iter().all(|it| it.len() == 22));
    }

    #[test]
    fn without_a_name_of_the_key_none_is_sent() {
        let pem = pair(&PKCS_ED25519).serialize_pem();
        let jwt = AssertionKey::from_pem(pem.as_bytes(), None).unwrap().assertion(CLAIMS, &[]);
        assert_eq!(decode_header(jwt.unwrap()).unwrap().kid, None);
    }

    #[test]
    fn a_file_without_a_key_that_signs_is_refused() {
        let certificate = rcgen::generate_simple_self_signed(["a".to_owned()]).unwrap().cert.pem();
        let sec1 = "-----BEGIN EC PRIVATE KEY-----\nAAAA\n-----END EC PRIVATE KEY-----\n";
        let odd = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
        for (pem, message) in [
            ("", "openssl pkcs8"),
            ("secret", "openssl pkcs8"),
            (&certificate, "openssl pkcs8"),
            (sec1, "openssl pkcs8"),
            (odd, "another type"),
        ] {
            let found = AssertionKey::from_pem(pem.as_bytes(), None).unwrap_err();
            assert!(found.contains(message), "{pem}: {found}");
        }
    }

    #[test]
    fn keys_are_the_same_by_what_they_sign_and_by_name() {
        let pems = [(); 2].map(|()| pair(&PKCS_ED25519).serialize_pem());
        let key = |pem: usize, kid: &str| {
            AssertionKey::from_pem(pems[pem].as_bytes(), Some(kid.to_owned())).unwrap()
        };
        assert_eq!(key(0, "a"), key(0, "a"));
        assert_ne!(key(0, "a"), key(0, "b"));
        assert_ne!(key(0, "a"), key(1, "a"));
        assert_eq!(format!("{:?}", key(0, "a")), "AssertionKey");
    }
}
