//! JWK Sets: the keys of an issuer (RFC 7517 §5).

use super::algorithm::Algorithm;
use super::json;
use super::key::{UnusableKey, VerifyingKey};
use super::thumbprint::Thumbprint;
use serde::Deserialize;
use serde_json::value::RawValue;
use std::sync::Arc;

/// The keys of one issuer at one point in time.
///
/// Members that cannot be used are skipped and counted, as RFC 7517 §5 requires: one unsupported
/// key must not make the others unusable.
#[derive(Clone, Debug, Default)]
pub struct KeySet {
    keys: Vec<VerifyingKey>,
    skipped: Vec<UnusableKey>,
}

/// The set, with its members unparsed. Each is parsed separately, so that a fault in one, such as a
/// duplicate name, does not reject the set.
#[derive(Deserialize)]
struct Document<'a> {
    #[serde(borrow)]
    keys: Vec<&'a RawValue>,
}

/// The key and algorithm that verified a signature.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedBy {
    /// The thumbprint of the key, shared by all tokens it signed.
    pub key: Arc<Thumbprint>,
    /// The algorithm.
    pub algorithm: Algorithm,
}

/// The bytes are not a JWK Set.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotAKeySet;

/// The most keys that are parsed of a set; the rest are skipped. Real sets are small, and each key
/// costs memory and time.
const MAX_KEYS: usize = 100;

/// The most keys tried for one token. Each attempt costs up to 180 µs, and anybody can send tokens.
const MAX_CANDIDATES: usize = 8;

impl KeySet {
    /// Parses a set.
    pub fn parse(bytes: &[u8]) -> Result<Self, NotAKeySet> {
        let document: Document<'_> = json::object_of(bytes).or(Err(NotAKeySet))?;
        let mut set = Self::default();
        for member in document.keys {
            let key = if set.keys.len() < MAX_KEYS {
                let jwk = json::object(member.get().as_bytes()).or(Err(UnusableKey::Malformed));
                jwk.and_then(|it| VerifyingKey::from_jwk(&it))
            } else {
                Err(UnusableKey::Surplus)
            };
            match key {
                Ok(key) => set.keys.push(key),
                Err(unusable) => set.skipped.push(unusable),
            }
        }
        Ok(set)
    }

    /// The same set with the keys of `more` appended, as far as the limit allows.
    #[must_use]
    pub fn with(&self, more: impl IntoIterator<Item = VerifyingKey>) -> Self {
        let mut set = self.clone();
        let room = MAX_KEYS.saturating_sub(set.keys.len());
        set.keys.extend(more.into_iter().take(room));
        set
    }

    /// The keys that are not in `other`, compared by thumbprint and not by `kid`.
    pub fn missing_from<'a>(&'a self, other: &'a Self) -> impl Iterator<Item = &'a VerifyingKey> {
        self.keys.iter().filter(|it| !other.holds(it.id()))
    }

    /// Whether the set has the key with this thumbprint.
    pub fn holds(&self, id: Thumbprint) -> bool {
        self.keys.iter().any(|it| it.id() == id)
    }

    /// The keys that may have signed a token: those that support the algorithm and, if the token
    /// has a `kid`, have that. Several keys may share one `kid` (FAPI 2.0 Security Profile §5.4.3).
    pub fn candidates<'a>(
        &'a self,
        kid: Option<&'a str>,
        algorithm: Algorithm,
    ) -> impl Iterator<Item = &'a VerifyingKey> {
        self.keys
            .iter()
            .filter(move |it| kid.is_none() || it.is_called(kid))
            .filter(move |it| it.serves(algorithm))
            .take(MAX_CANDIDATES)
    }

    /// Whether a key has this `kid`, for any algorithm.
    pub fn knows(&self, kid: &str) -> bool {
        self.keys.iter().any(|it| it.is_called(Some(kid)))
    }

    /// The key that verified a signature, if it is still in the set and supports the algorithm: it
    /// may have been published again for another one only (RFC 8725 §3.1).
    pub fn behind(&self, signature: &SignedBy) -> Option<&VerifyingKey> {
        let is_it = |it: &&VerifyingKey| it.id() == *signature.key;
        self.keys.iter().filter(is_it).find(|it| it.serves(signature.algorithm))
    }

    /// The number of usable keys.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether there is no usable key.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// The number of members that were skipped.
    pub fn skipped(&self) -> usize {
        self.skipped.len()
    }

    /// The `kid` of each key that has one.
    pub fn kids(&self) -> impl Iterator<Item = &str> {
        self.keys.iter().filter_map(VerifyingKey::kid).map(AsRef::as_ref)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jose::base64url;
    use serde_json::{Value, json};

    /// RFC 7515 Appendix A.3.
    const X: &str = "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU";
    const Y: &str = "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0";
    /// RFC 8037 Appendix A.2.
    const ED: &str = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo";

    fn ec() -> Value {
        json!({"kty": "EC", "crv": "P-256", "x": X, "y": Y, "kid": "good"})
    }

    fn parse(keys: &Value) -> KeySet {
        KeySet::parse(json!({ "keys": keys }).to_string().as_bytes()).unwrap()
    }

    #[test]
    fn one_unusable_key_does_not_take_the_others_with_it() {
        let n_1024 = "A".repeat(170) + "E";
        let odd = [
            json!({"kty": "oct", "k": "AAAA", "kid": "oct"}),
            json!({"kty": "AKP", "alg": "ML-DSA-44", "pub": "AAAA"}),
            json!({"kty": "EC", "crv": "secp256k1", "x": X, "y": Y}),
            json!({"kty": "EC", "crv": "P-384", "x": X, "y": Y}),
            json!({"kty": "EC", "crv": "P-256", "x": X}),
            json!({"kty": "EC", "crv": "P-256", "x": X, "y": X}),
            json!({"kty": "EC", "crv": "P-256", "x": format!("{X}="), "y": Y}),
            json!({"kty": "EC", "crv": "P-256", "x": X, "y": Y, "use": "enc"}),
            json!({"kty": "EC", "crv": "P-256", "x": X, "y": Y, "use": 1}),
            json!({"kty": "EC", "crv": "P-256", "x": X, "y": Y, "key_ops": ["sign"]}),
            json!({"kty": "EC", "crv": "P-256", "x": X, "y": Y, "key_ops": "verify"}),
            json!({"kty": "EC", "crv": "P-256", "x": X, "y": Y, "alg": "ECDH-ES"}),
            json!({"kty": "EC", "crv": "P-256", "x": X, "y": Y, "alg": "ES384"}),
            json!({"kty": "EC", "crv": "P-256", "x": X, "y": Y, "alg": null}),
            json!({"kty": "EC", "crv": "P-256", "x": X, "y": Y, "kid": 7}),
            json!({"kty": "EC", "crv": "P-256", "x": X, "y": Y, "d": X}),
            json!({"kty": "OKP", "crv": "X25519", "x": ED}),
            json!({"kty": "OKP", "crv": "Ed25519", "x": "AAAA"}),
            json!({"kty": "OKP", "crv": "Ed25519", "x": "A".repeat(43)}),
            json!({"kty": "RSA", "n": n_1024, "e": "AQAB"}),
            json!({"kty": "RSA", "e": "AQAB"}),
            json!({"kty": 1}),
            json!({}),
            json!("text"),
            json!(null),
        ];
        for odd in &odd {
            let set = parse(&json!([odd, ec()]));
            assert_eq!((set.len(), set.skipped()), (1, 1), "{odd}");
            assert!(set.knows("good"));
        }
    }

    #[test]
    fn a_duplicate_member_makes_one_key_unusable() {
        let twice = r#"{"kty":"EC","kty":"EC"}"#;
        let deep = format!("{}{}", "[".repeat(10_000), "]".repeat(10_000));
        for odd in [twice, &deep] {
            let text = format!(r#"{{"keys":[{odd},{}],"other":{{}}}}"#, ec());
            let set = KeySet::parse(text.as_bytes()).unwrap();
            assert_eq!((set.len(), set.skipped()), (1, 1));
        }
    }

    #[test]
    fn what_is_no_key_set_is_an_error() {
        for odd in [
            "",
            "{}",
            "[]",
            "null",
            r#"{"keys":null}"#,
            r#"{"keys":{}}"#,
            "<html>",
            "{\"keys\":[",
            "[[]]",
        ] {
            assert_eq!(KeySet::parse(odd.as_bytes()).err(), Some(NotAKeySet), "{odd}");
        }
        assert!(parse(&json!([])).is_empty(), "an empty set is one");
    }

    #[test]
    fn a_key_is_found_by_name_and_fitness() {
        let set = parse(&json!([
            ec(),
            {"kty": "OKP", "crv": "Ed25519", "x": ED, "kid": "good"},
            {"kty": "OKP", "crv": "Ed25519", "x": ED, "alg": "EdDSA", "use": "sig"},
        ]));
        let count = |kid, algorithm| set.candidates(kid, algorithm).count();
        assert_eq!(count(Some("good"), Algorithm::ES256), 1, "one name for two keys");
        assert_eq!(count(Some("good"), Algorithm::EdDSA), 1);
        assert_eq!(count(Some("good"), Algorithm::ES384), 0);
        assert_eq!(count(Some("good"), Algorithm::RS256), 0);
        assert_eq!(count(Some("GOOD"), Algorithm::ES256), 0);
        assert_eq!(count(None, Algorithm::EdDSA), 2);
        assert_eq!(set.kids().collect::<Vec<_>>(), ["good", "good"]);
    }

    #[test]
    fn more_keys_come_behind_those_of_the_set() {
        let (one, two) =
            (parse(&json!([ec()])), parse(&json!([{"kty": "OKP", "crv": "Ed25519", "x": ED}])));
        assert_eq!(one.missing_from(&two).count(), 1);
        let both = one.with(two.missing_from(&one).cloned());
        assert_eq!((both.len(), both.missing_from(&two).count()), (2, 1));
        assert_eq!(both.kids().collect::<Vec<_>>(), ["good"]);
        let many: Vec<Value> = (0..MAX_KEYS).map(|_| ec()).collect();
        assert_eq!(parse(&json!(many)).with(two.missing_from(&one).cloned()).len(), MAX_KEYS);
    }

    #[test]
    fn keys_and_candidates_are_bounded() {
        let many: Vec<Value> = (0..MAX_KEYS + 5).map(|_| ec()).collect();
        let set = parse(&json!(many));
        assert_eq!((set.len(), set.skipped()), (MAX_KEYS, 5));
        assert_eq!(set.candidates(Some("good"), Algorithm::ES256).count(), MAX_CANDIDATES);
    }

    #[test]
    fn a_signature_counts_while_its_key_is_there_for_its_algorithm() {
        let n = base64url::encode(&[0xff; 256]);
        let rsa = |alg: Option<&str>| {
            let mut jwk = json!({"kty": "RSA", "n": n, "e": "AQAB"});
            if let Some(alg) = alg {
                jwk["alg"] = alg.into();
            }
            jwk
        };
        let set = parse(&json!([rsa(None)]));
        let key = set.candidates(None, Algorithm::RS256).next().unwrap().shared_id();
        for (keys, expected) in [
            (json!([rsa(None)]), [true, true]),
            (json!([ec(), rsa(Some("RS256"))]), [true, false]),
            (json!([rsa(Some("PS256")), ec()]), [false, true]),
            (json!([rsa(Some("RS384")), rsa(Some("PS256")), rsa(Some("RS256"))]), [true, true]),
            (json!([ec()]), [false, false]),
            (json!([]), [false, false]),
        ] {
            let set = parse(&keys);
            let found = [Algorithm::RS256, Algorithm::PS256].map(|algorithm| {
                set.behind(&SignedBy { key: Arc::clone(key), algorithm }).is_some()
            });
            assert_eq!(found, expected, "{keys}");
        }
    }
}
