//! JWK Sets: the keys of an issuer (RFC 7517 §5).

use super::algorithm::Algorithm;
use super::json::{self, Object};
use super::key::{UnusableKey, VerifyingKey};
use super::thumbprint::Thumbprint;
use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;
use std::fmt;
use std::sync::Arc;

/// The keys of one issuer at one point in time.
///
/// Members that cannot be used are skipped, as RFC 7517 §5 requires: one unsupported key must not
/// make the others unusable. They are kept with the reason, since their absence looks like a fault of
/// the tokens that they signed.
#[derive(Clone, Debug, Default)]
pub struct KeySet {
    keys: Vec<VerifyingKey>,
    skipped: Vec<SkippedKey>,
    /// How many more were skipped than `skipped` holds.
    skipped_beyond: usize,
}

/// A member of a set that cannot be used. Its texts are the issuer's, and cut short.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SkippedKey {
    /// Its position in the set, from 1.
    pub position: usize,
    /// Its `kid`.
    pub kid: Option<Box<str>>,
    /// Its `kty`.
    pub kty: Option<Box<str>>,
    /// Its `crv`.
    pub crv: Option<Box<str>>,
    /// Its `alg`.
    pub alg: Option<Box<str>>,
    /// Why it cannot be used.
    pub reason: UnusableKey,
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

/// The most skipped members that are kept with their reasons; the others are counted.
const MAX_SKIPPED: usize = 100;

/// The most skipped members that are named in one line.
const MAX_NAMED: usize = 5;

/// The most characters of each text of a skipped member.
const SKIPPED_CHARS: usize = 64;

/// The most keys tried for one token. Each attempt costs up to 180 µs, and anybody can send tokens.
const MAX_CANDIDATES: usize = 8;

impl KeySet {
    /// Parses a set.
    pub fn parse(bytes: &[u8]) -> Result<Self, NotAKeySet> {
        let document: Document<'_> = json::object_of(bytes).or(Err(NotAKeySet))?;
        let mut set = Self::default();
        for (member, position) in document.keys.into_iter().zip(1..) {
            let jwk = json::object(member.get().as_bytes()).ok();
            let key = match &jwk {
                None => Err(UnusableKey::Malformed),
                Some(_) if MAX_KEYS <= set.keys.len() => Err(UnusableKey::Surplus),
                Some(jwk) => VerifyingKey::from_jwk(jwk),
            };
            match key {
                Ok(key) => set.keys.push(key),
                Err(reason) => set.skip(position, jwk.as_ref(), reason),
            }
        }
        Ok(set)
    }

    fn skip(&mut self, position: usize, jwk: Option<&Object>, reason: UnusableKey) {
        if MAX_SKIPPED <= self.skipped.len() {
            self.skipped_beyond = self.skipped_beyond.saturating_add(1);
            return;
        }
        let text = |name| {
            let text = jwk?.get(name).and_then(Value::as_str)?;
            Some(text.chars().take(SKIPPED_CHARS).collect::<String>().into())
        };
        let [kid, kty, crv, alg] = ["kid", "kty", "crv", "alg"].map(text);
        self.skipped.push(SkippedKey { position, kid, kty, crv, alg, reason });
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

    /// The algorithms of the keys with this `kid`.
    pub fn algorithms_of(&self, kid: &str) -> Vec<Algorithm> {
        let named = self.keys.iter().filter(|it| it.is_called(Some(kid)));
        named.flat_map(VerifyingKey::algorithms).collect()
    }

    /// The number of usable keys.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether there is no usable key.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Whether a member with this `kid` was skipped.
    pub fn skips(&self, kid: &str) -> bool {
        self.skipped.iter().any(|it| it.kid.as_deref() == Some(kid))
    }

    /// The members that were skipped, or the first of very many.
    pub fn skipped(&self) -> &[SkippedKey] {
        &self.skipped
    }

    /// How many members were skipped.
    pub const fn skipped_count(&self) -> usize {
        self.skipped.len().saturating_add(self.skipped_beyond)
    }

    /// The skipped members in words, as far as a line has room; empty if there are none.
    pub fn skipped_in_words(&self) -> String {
        let named = self.skipped.iter().take(MAX_NAMED).map(ToString::to_string);
        let mut words: Vec<_> = named.collect();
        let more = self.skipped_count().saturating_sub(words.len());
        if 0 < more {
            words.push(format!("and {more} more"));
        }
        words.join("; ")
    }

    /// The keys that are for none of `algorithms`, in words.
    pub fn unfit_in_words(&self, algorithms: &[Algorithm]) -> Vec<String> {
        let is_unfit = |it: &&VerifyingKey| !algorithms.iter().any(|own| it.serves(*own));
        let in_words = |it: &VerifyingKey| {
            let kid = it.kid().map_or("a key without kid", |it| it);
            let names: Vec<_> = it.algorithms().map(Algorithm::name).collect();
            format!("{kid} ({})", names.join(", "))
        };
        self.keys.iter().filter(is_unfit).map(in_words).collect()
    }

    /// The `kid` of each key that has one.
    pub fn kids(&self) -> impl Iterator<Item = &str> {
        self.keys.iter().filter_map(VerifyingKey::kid).map(AsRef::as_ref)
    }
}

impl fmt::Display for SkippedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.kid {
            Some(kid) => write!(f, "{kid:?}")?,
            None => write!(f, "key {} of the set, which has no kid", self.position)?,
        }
        let kind: Vec<_> = [&self.kty, &self.crv, &self.alg]
            .into_iter()
            .flatten()
            .map(|it| printable(it))
            .collect();
        if !kind.is_empty() {
            write!(f, " ({})", kind.join(", "))?;
        }
        write!(f, ": {}", self.reason)
    }
}

fn printable(text: &str) -> String {
    text.escape_debug().to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jose::base64url;
    use crate::words::Words;
    use serde_json::{Value, json};

    /// RFC 7515 Appendix A.3.
    const X: &str = "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU";
    const Y: &str = "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0";
    /// RFC 8037 Appendix A.2.
    const ED: &str = "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo";

    fn ec() -> Value {
        json!({"kty": "EC", "crv": "P-256", "x": X, "y": Y, "kid": "good"})
    }

    /// What could be an ML-DSA key of this length.
    fn lattice(length: usize) -> String {
        base64url::encode(&vec![1; length])
    }

    fn parse(keys: &Value) -> KeySet {
        KeySet::parse(json!({ "keys": keys }).to_string().as_bytes()).unwrap()
    }

    #[test]
    fn one_unusable_key_does_not_take_the_others_with_it() {
        let n_1024 = "A".repeat(170) + "E";
        let without_secret = [vec![1; 32], vec![0; 1280]].concat();
        let odd = [
            json!({"kty": "oct", "k": "AAAA", "kid": "oct"}),
            json!({"kty": "AKP", "alg": "ML-DSA-44", "pub": "AAAA"}),
            json!({"kty": "AKP", "alg": "ML-DSA-44", "pub": lattice(1311)}),
            json!({"kty": "AKP", "alg": "ML-DSA-44", "pub": lattice(1313)}),
            json!({"kty": "AKP", "alg": "ML-DSA-44", "pub": format!("{}==", lattice(1312))}),
            json!({"kty": "AKP", "alg": "ML-DSA-44", "pub": base64url::encode(&[0; 1312])}),
            json!({"kty": "AKP", "alg": "ML-DSA-44", "pub": base64url::encode(&without_secret)}),
            json!({"kty": "AKP", "alg": "ML-DSA-44"}),
            json!({"kty": "AKP", "alg": "ML-DSA-44", "pub": null}),
            json!({"kty": "AKP", "alg": "ML-DSA-44", "pub": lattice(1312), "priv": "AAAA"}),
            json!({"kty": "AKP", "alg": "ML-DSA-44", "pub": lattice(1312), "use": "enc"}),
            json!({"kty": "AKP", "alg": "ML-DSA-65", "pub": lattice(1312)}),
            json!({"kty": "AKP", "alg": "ml-dsa-44", "pub": lattice(1312)}),
            json!({"kty": "AKP", "alg": "ES256", "pub": lattice(1312)}),
            json!({"kty": "AKP", "alg": "HPKE-7", "pub": lattice(1312)}),
            json!({"kty": "AKP", "alg": null, "pub": lattice(1312)}),
            json!({"kty": "AKP", "pub": lattice(1312)}),
            json!({"kty": "akp", "alg": "ML-DSA-44", "pub": lattice(1312)}),
            json!({"kty": "EC", "crv": "P-256", "x": X, "y": Y, "alg": "ML-DSA-44"}),
            json!({"kty": "EC", "crv": "P-256", "x": X, "y": Y, "priv": "AAAA"}),
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
            json!({"kty": "EC", "crv": "P-256", "x": X, "y": Y, "use": "x509-svid"}),
            json!({"kty": "EC", "crv": "P-256", "x": X, "y": Y, "alg": ""}),
            json!({"kty": null, "crv": "P-256", "x": X, "y": Y}),
            json!({"kty": "EC", "crv": null, "x": X, "y": Y}),
            json!({"kty": "EC", "crv": "P-256", "x": X, "y": null}),
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
            assert_eq!((set.len(), set.skipped_count()), (1, 1), "{odd}");
            assert!(set.knows("good"));
        }
    }

    #[test]
    fn a_null_is_as_good_as_absent() {
        let mut key = ec();
        for name in ["alg", "use", "key_ops", "kid", "issuer", "x5c", "d", "k"] {
            key[name] = json!(null);
        }
        let set = parse(&json!([key]));
        assert_eq!((set.len(), set.skipped_count(), set.kids().count()), (1, 0, 0));
        let plain = parse(&json!([ec()]));
        assert_eq!(set.missing_from(&plain).count(), 0, "the same key");
        assert_eq!(set.candidates(None, Algorithm::ES256).count(), 1);
    }

    #[test]
    fn leading_zeros_are_dropped_before_use_and_before_the_thumbprint() {
        let zeros = |count: usize, octets: &[u8]| {
            base64url::encode(&[vec![0; count], octets.to_vec()].concat())
        };
        let (n, e) = ([0xff; 256], [1, 0, 1]);
        let (x, y) = (base64url::decode(X.as_bytes()).unwrap(), base64url::decode(Y.as_bytes()));
        let y = y.unwrap();
        let rsa = |more| json!({"kty": "RSA", "n": zeros(more, &n), "e": zeros(more, &e)});
        let ec =
            |more| json!({"kty": "EC", "crv": "P-256", "x": zeros(more, &x), "y": zeros(more, &y)});
        for (plain, padded) in [(rsa(0), [rsa(1), rsa(3)]), (ec(0), [ec(1), ec(3)])] {
            let plain = parse(&json!([plain]));
            for padded in padded {
                let found = parse(&json!([padded]));
                assert_eq!((found.len(), found.missing_from(&plain).count()), (1, 0), "{padded}");
            }
        }
        for (name, odd) in [
            // Not zeros alone in front of a coordinate, or less than the whole of it.
            ("x", base64url::encode(&[&[1], &x[..]].concat())),
            ("x", base64url::encode(&x[1..])),
            ("y", base64url::encode(&[0; 33])),
        ] {
            let mut key = ec(0);
            key[name] = odd.into();
            assert_eq!(parse(&json!([key])).len(), 0, "{key}");
        }
        for (name, odd) in [("n", vec![]), ("n", vec![0; 256]), ("e", vec![]), ("e", vec![0, 0, 1])]
        {
            let mut key = rsa(0);
            key[name] = base64url::encode(&odd).into();
            assert_eq!(parse(&json!([key])).len(), 0, "{key}");
        }
    }

    #[test]
    fn an_akp_key_serves_the_algorithm_that_it_names_and_no_other() {
        for (alg, length, only) in [
            ("ML-DSA-44", 1312, Algorithm::MlDsa44),
            ("ML-DSA-65", 1952, Algorithm::MlDsa65),
            ("ML-DSA-87", 2592, Algorithm::MlDsa87),
        ] {
            let set = parse(&json!([{"kty": "AKP", "alg": alg, "pub": lattice(length)}]));
            let serves = Algorithm::all().filter(|it| set.candidates(None, *it).count() == 1);
            assert_eq!(serves.collect::<Vec<_>>(), [only]);
        }
    }

    #[test]
    fn a_spiffe_bundle_holds_keys_for_signatures_and_authorities_that_are_none() {
        let with = |purpose: &str| {
            let mut key = ec();
            key["use"] = purpose.into();
            key
        };
        let set = parse(&json!([with("jwt-svid"), with("x509-svid")]));
        assert_eq!((set.len(), set.skipped()[0].reason), (1, UnusableKey::Use));
    }

    #[test]
    fn a_skipped_key_is_named_with_its_reason() {
        for (odd, words) in [
            (
                json!({"kty": "EC", "crv": "secp256k1", "x": X, "y": Y, "kid": "a", "alg": "ES256K"}),
                "\"a\" (EC, secp256k1, ES256K): its type or curve is not supported, or it is symmetric",
            ),
            (
                json!({"kty": "RSA", "n": "AQAB=", "e": "AQAB", "kid": "a\nb"}),
                "\"a\\nb\" (RSA): its `n` is missing, is not base64url without padding, or has a \
                 wrong length or value",
            ),
            (
                json!({"kty": "EC", "crv": "P-256", "x": X, "y": Y, "d": X}),
                "key 2 of the set, which has no kid (EC, P-256): it contains the private key, which \
                 must never be published",
            ),
            (
                json!({"kty": "AKP", "alg": "ML-DSA-44", "pub": lattice(1312), "priv": "AA"}),
                "key 2 of the set, which has no kid (AKP, ML-DSA-44): it contains the private key, \
                 which must never be published",
            ),
            (
                json!({"kty": "AKP", "alg": "ML-DSA-44", "pub": lattice(1952)}),
                "key 2 of the set, which has no kid (AKP, ML-DSA-44): its `pub` is missing, is not \
                 base64url without padding, or has a wrong length or value",
            ),
            (
                json!({"kty": "AKP", "pub": lattice(1312)}),
                "key 2 of the set, which has no kid (AKP): its `alg` is missing, or not a string",
            ),
            (
                json!({"kty": "EC", "crv": "P-256", "x": X, "y": Y, "kid": 7}),
                "key 2 of the set, which has no kid (EC, P-256): its `kid` is missing, or not a string",
            ),
            (
                json!("text"),
                "key 2 of the set, which has no kid: it is not a JSON object, or a name occurs twice \
                 in it",
            ),
        ] {
            let set = parse(&json!([ec(), odd]));
            assert_eq!(set.skipped_in_words(), words);
        }
        let long = parse(&json!([{"kid": "k".repeat(1000)}]));
        assert_eq!(long.skipped()[0].kid.as_ref().unwrap().len(), SKIPPED_CHARS);
        let many = parse(&json!(vec![json!({"kid": "k"}); MAX_SKIPPED + 1]));
        assert_eq!((many.skipped().len(), many.skipped_count()), (MAX_SKIPPED, MAX_SKIPPED + 1));
        let words = many.skipped_in_words();
        assert!(words.ends_with("; and 96 more"), "{words}");
        assert_eq!(parse(&json!([ec()])).skipped_in_words(), "");
    }

    #[test]
    fn a_duplicate_member_makes_one_key_unusable() {
        let twice = r#"{"kty":"EC","kty":"EC"}"#;
        let deep = format!("{}{}", "[".repeat(10_000), "]".repeat(10_000));
        for odd in [twice, &deep] {
            let text = format!(r#"{{"keys":[{odd},{}],"other":{{}}}}"#, ec());
            let set = KeySet::parse(text.as_bytes()).unwrap();
            assert_eq!((set.len(), set.skipped_count()), (1, 1));
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
        assert_eq!((set.len(), set.skipped_count()), (MAX_KEYS, 5));
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
