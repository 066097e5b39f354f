//! Tokens, signed by another implementation than the one under test.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use rcgen::{
    KeyPair, PKCS_ECDSA_P256_SHA256, PKCS_ECDSA_P384_SHA384, PKCS_ED25519, PKCS_RSA_SHA256,
};
use serde_json::{Value, json};

/// A key of an issuer.
pub(crate) struct Signer {
    algorithm: Algorithm,
    kid: String,
    key: EncodingKey,
    public: Value,
}

impl Signer {
    /// A new key for `algorithm`, known as `kid`.
    #[expect(clippy::wildcard_enum_match_arm, reason = "the enum is not exhaustive")]
    pub(crate) fn new(algorithm: Algorithm, kid: &str) -> Self {
        let (key, mut public) = match algorithm {
            Algorithm::ES256 => ec(&KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).unwrap()),
            Algorithm::ES384 => ec(&KeyPair::generate_for(&PKCS_ECDSA_P384_SHA384).unwrap()),
            Algorithm::EdDSA => ed(&KeyPair::generate_for(&PKCS_ED25519).unwrap()),
            _ => rsa(algorithm),
        };
        public["kid"] = kid.into();
        Self { algorithm, kid: kid.to_owned(), key, public }
    }

    /// The public key (RFC 7517).
    pub(crate) fn jwk(&self) -> &Value {
        &self.public
    }

    /// A token of type `typ` with these claims (RFC 7515 §7.1).
    pub(crate) fn sign<'a>(&self, typ: impl Into<Option<&'a str>>, claims: &Value) -> String {
        let header = Header { kid: Some(self.kid.clone()), ..Header::new(self.algorithm) };
        self.sign_as(typ, header, claims)
    }

    /// The same, with more of a header.
    pub(crate) fn sign_as<'a>(
        &self,
        typ: impl Into<Option<&'a str>>,
        header: Header,
        claims: &Value,
    ) -> String {
        let typ = typ.into().map(str::to_owned);
        let header = Header { typ, alg: self.algorithm, ..header };
        jsonwebtoken::encode(&header, claims, &self.key).unwrap()
    }
}

/// `token` with one bit of its signature turned.
pub(crate) fn tampered(token: &str) -> String {
    let (signed, signature) = token.rsplit_once('.').unwrap();
    let mut octets = URL_SAFE_NO_PAD.decode(signature).unwrap();
    octets[0] ^= 1;
    format!("{signed}.{}", URL_SAFE_NO_PAD.encode(octets))
}

fn ec(pair: &KeyPair) -> (EncodingKey, Value) {
    // An uncompressed point: 4, then the two coordinates (SEC 1 §2.3.3).
    let (x, y) = pair.public_key_raw()[1..].split_at(pair.public_key_raw().len() / 2);
    let crv = if x.len() == 32 { "P-256" } else { "P-384" };
    let public = json!({
        "kty": "EC", "crv": crv, "x": URL_SAFE_NO_PAD.encode(x), "y": URL_SAFE_NO_PAD.encode(y),
    });
    (EncodingKey::from_ec_der(pair.serialized_der()), public)
}

fn ed(pair: &KeyPair) -> (EncodingKey, Value) {
    let x = URL_SAFE_NO_PAD.encode(pair.public_key_raw());
    let public = json!({"kty": "OKP", "crv": "Ed25519", "x": x});
    (EncodingKey::from_ed_der(pair.serialized_der()), public)
}

fn rsa(algorithm: Algorithm) -> (EncodingKey, Value) {
    let pair = KeyPair::generate_for(&PKCS_RSA_SHA256).unwrap();
    let key = EncodingKey::from_rsa_pem(pair.serialize_pem().as_bytes()).unwrap();
    let public = Jwk::from_encoding_key(&key, algorithm).unwrap();
    (key, serde_json::to_value(public).unwrap())
}
