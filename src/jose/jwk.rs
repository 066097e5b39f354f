//! Knows JWK Sets: an issuer's keys (RFC 7517 §5).

use super::algorithm::Algorithm;
use super::json;
use super::key::{OddKey, VerifyingKey};
use super::thumbprint::Thumbprint;
use serde_json::Value;

/// The keys of one issuer at one time.
///
/// Odd members are skipped and counted, as RFC 7517 §5 asks: one key that nobody here understands
/// must not take the others with it.
#[derive(Debug, Default)]
pub struct KeySet {
    keys: Vec<VerifyingKey>,
    skipped: Vec<OddKey>,
}

/// The bytes are not a JWK Set at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotAKeySet;

/// So many keys are read of a set, and the rest are skipped: a set is a handful of keys, and each
/// costs memory and time.
const MAX_KEYS: usize = 100;

/// So many keys are tried for one token. Each try costs up to 180 µs, and anybody can send tokens.
const MAX_CANDIDATES: usize = 8;

impl KeySet {
    /// The set that `bytes` spell.
    pub fn parse(bytes: &[u8]) -> Result<Self, NotAKeySet> {
        let document = json::object(bytes).or(Err(NotAKeySet))?;
        let Some(Value::Array(members)) = document.get("keys") else { return Err(NotAKeySet) };
        let mut set = Self::default();
        for member in members {
            let key = if set.keys.len() < MAX_KEYS {
                member.as_object().ok_or(OddKey::Malformed).and_then(VerifyingKey::from_jwk)
            } else {
                Err(OddKey::Surplus)
            };
            match key {
                Ok(key) => set.keys.push(key),
                Err(odd) => set.skipped.push(odd),
            }
        }
        Ok(set)
    }

    /// The keys that may have signed a token: of this `kid`, when the token names one, and fit for
    /// the algorithm. One `kid` may stand for several keys (FAPI 2.0 Security Profile §5.4.3).
    pub fn candidates<'a>(
        &'a self,
        kid: Option<&'a str>,
        algorithm: Algorithm,
    ) -> impl Iterator<Item = &'a VerifyingKey> {
        self.keys
            .iter()
            .filter(move |it| kid.is_none() || it.kid() == kid)
            .filter(move |it| it.serves(algorithm))
            .take(MAX_CANDIDATES)
    }

    /// Whether a key has this name, whatever it is fit for.
    pub fn knows(&self, kid: &str) -> bool {
        self.keys.iter().any(|it| it.kid() == Some(kid))
    }

    /// Whether the key with this thumbprint is among them.
    pub fn contains(&self, id: Thumbprint) -> bool {
        self.keys.iter().any(|it| it.id() == id)
    }

    /// How many keys can be used.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether no key can be used.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// How many members were skipped.
    pub fn skipped(&self) -> usize {
        self.skipped.len()
    }

    /// The names of the keys, where they have one.
    pub fn kids(&self) -> impl Iterator<Item = &str> {
        self.keys.iter().filter_map(VerifyingKey::kid)
    }
}
