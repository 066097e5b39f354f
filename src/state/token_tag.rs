//! What the cache of verified tokens knows a token by: 128 bits, under a key that nobody has.
//!
//! A cached token stands for a verified signature, so no other token may ever be taken for it. The tag of a
//! token is its GMAC (NIST SP 800-38D), by a key that is drawn at random when a process starts. For whoever
//! does not know that key, two tokens of at most n blocks of 16 octets have the same tag with a probability of
//! at most (n + 1) / 2^128, however both were chosen, so that there is nothing to compute in advance, and each
//! try is a request. A million tries a second for a century, each against ten million cached tokens of 1 MiB
//! (the largest limits that can be configured), succeed with a probability below 2^-36.
//!
//! The bound counts on tags that nobody sees. A tag is never written, sent, logged or handed out; all that
//! can be told from outside is whether a token was found. That is also why the nonce may be the same for all
//! of them: it makes a pad that hides the hash of a tag that is sent, and none is. Who could read tags could
//! find the key of the hash from two of them, and could as well read the key.
//!
//! A module for FIPS 140-3 makes the nonces of what it encrypts itself, and must not be asked for this. There the
//! tag is half of an HMAC-SHA-256 of the token (RFC 2104 §5): nobody who does not know the key can tell it
//! from 128 bits drawn at random.
//!
//! SHA-256 needs no secret and takes four times as long as GMAC. It remains where a digest leaves the process
//! or has to be that of RFC 9449 (`ath`).

use crate::randomness::{self, NoRandomness};
use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::hmac;
use std::fmt;
use std::hash::{Hash, Hasher};

/// The key of the tags, and what makes them.
pub(super) enum TagKey {
    Gmac(LessSafeKey),
    Hmac(Box<hmac::Key>),
}

/// The tag of a token.
///
/// Comparison is that of one number, whose time tells nothing of it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) struct Tag(u128);

impl TagKey {
    /// A new key.
    ///
    /// # Errors
    ///
    /// The system has no randomness.
    pub(super) fn draw() -> Result<Self, NoRandomness> {
        let mut secret = [0; 32];
        randomness::fill(&mut secret)?;
        if cfg!(feature = "fips") { Ok(Self::hmac(&secret)) } else { Self::gmac(&secret) }
    }

    fn gmac(secret: &[u8; 32]) -> Result<Self, NoRandomness> {
        let key = UnboundKey::new(&AES_256_GCM, secret).or(Err(NoRandomness))?;
        Ok(Self::Gmac(LessSafeKey::new(key)))
    }

    fn hmac(secret: &[u8; 32]) -> Self {
        Self::Hmac(Box::new(hmac::Key::new(hmac::HMAC_SHA256, secret)))
    }

    /// The tag of a token; none if the library computes none, which it does for any that fits in memory.
    pub(super) fn tag(&self, token: &[u8]) -> Option<Tag> {
        let octets = match self {
            Self::Gmac(key) => {
                let nonce = Nonce::assume_unique_for_key([0; 12]);
                let tag = key.seal_in_place_separate_tag(nonce, Aad::from(token), &mut []).ok()?;
                tag.as_ref().try_into().ok()?
            }
            Self::Hmac(key) => *hmac::sign(key, token).as_ref().first_chunk()?,
        };
        Some(Tag(u128::from_le_bytes(octets)))
    }
}

impl Hash for Tag {
    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_u128(self.0);
    }
}

/// Redacted.
impl fmt::Debug for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tag")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    /// A key of each kind, anew each time.
    fn keys() -> [TagKey; 2] {
        let secret = || {
            let mut secret = [0; 32];
            randomness::fill(&mut secret).unwrap();
            secret
        };
        [TagKey::gmac(&secret()).unwrap(), TagKey::hmac(&secret())]
    }

    #[test]
    fn a_module_for_fips_is_asked_for_no_tag_with_a_nonce_of_ours() {
        let is_hmac = matches!(TagKey::draw().unwrap(), TagKey::Hmac(_));
        assert_eq!(is_hmac, cfg!(feature = "fips"));
    }

    #[test]
    fn a_token_has_one_tag_under_a_key_and_another_under_another_key() {
        let drawn = [(); 2].map(|()| TagKey::draw().unwrap());
        let keys = drawn.into_iter().chain(keys()).chain(keys());
        let tags: HashSet<_> = keys
            .map(|key| {
                let [tag, again] = [(); 2].map(|()| key.tag(b"token").unwrap());
                assert_eq!(tag, again);
                tag
            })
            .collect();
        assert_eq!(tags.len(), 6);
    }

    #[test]
    fn a_token_of_another_length_or_with_another_bit_has_another_tag() {
        for key in keys() {
            let token = [b'a'; 70];
            let mut tags: HashSet<_> = (0..=token.len()).map(|it| key.tag(&token[..it])).collect();
            for place in 0..token.len() {
                for bit in 0..8 {
                    let mut other = token;
                    other[place] ^= 1 << bit;
                    tags.insert(key.tag(&other));
                }
            }
            // Zeros are what the last block is filled up with.
            tags.extend((1..=32).map(|it| key.tag(&[0; 32][..it])));
            assert!(!tags.contains(&None));
            assert_eq!(tags.len(), 71 + 70 * 8 + 32);
        }
    }

    #[test]
    fn a_tag_is_not_written_anywhere() {
        let tag = TagKey::draw().unwrap().tag(b"token").unwrap();
        assert_eq!(format!("{tag:?}"), "Tag");
    }
}
