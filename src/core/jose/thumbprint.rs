//! SHA-256 thumbprints of certificates (`x5t#S256`, RFC 8705 §3.1) and of keys (`jkt`, RFC 7638).

use super::base64url;
use aws_lc_rs::{constant_time, digest};
use std::fmt;

/// A SHA-256 digest that identifies a certificate or a key.
///
/// Comparison takes constant time.
#[derive(Clone, Copy, Eq)]
pub struct Thumbprint([u8; 32]);

impl Thumbprint {
    /// The digest of `bytes`: the DER of a certificate, or the canonical members of a JWK.
    pub fn of(bytes: &[u8]) -> Self {
        let digest = digest::digest(&digest::SHA256, bytes);
        let mut octets = [0; 32];
        octets.copy_from_slice(digest.as_ref());
        Self(octets)
    }

    /// A digest that was computed elsewhere.
    pub const fn from_octets(octets: [u8; 32]) -> Self {
        Self(octets)
    }

    /// Parses 43 characters of base64url: no padding, no other characters (RFC 8705 §3.1).
    pub fn from_base64url(text: &str) -> Option<Self> {
        base64url::decode(text.as_bytes()).ok()?.try_into().ok().map(Self)
    }

    /// Parses 64 hexadecimal digits, of either case.
    pub fn from_hex(text: &[u8]) -> Option<Self> {
        let (pairs, []) = text.as_chunks::<2>() else { return None };
        let octets: &[[u8; 2]; 32] = pairs.try_into().ok()?;
        let mut found = [0; 32];
        let mut all = 0;
        for (octet, [high, low]) in found.iter_mut().zip(octets) {
            let (high, low) = (nibble(*high), nibble(*low));
            *octet = high << 4 | low & 15;
            all |= high | low;
        }
        // No early exit, so that the loop has no branches.
        (all < 16).then_some(Self(found))
    }

    /// The 32 octets.
    pub const fn octets(&self) -> &[u8; 32] {
        &self.0
    }

    /// The 43 characters of base64url that a `cnf` claim contains.
    pub fn to_base64url(&self) -> String {
        base64url::encode(&self.0)
    }

    /// 64 lower-case hexadecimal digits, as in Envoy's `Hash` and OpenSSL's fingerprint.
    pub fn to_hex(&self) -> String {
        self.0.iter().fold(String::with_capacity(64), |mut text, octet| {
            for digit in [octet >> 4, octet & 15] {
                text.push(char::from_digit(digit.into(), 16).unwrap_or('?'));
            }
            text
        })
    }
}

/// The value of a hexadecimal digit; of anything else, more than any has.
const fn nibble(digit: u8) -> u8 {
    match digit {
        b'0'..=b'9' => digit & 15,
        b'a'..=b'f' | b'A'..=b'F' => (digit & 15).wrapping_add(9),
        _ => u8::MAX,
    }
}

impl PartialEq for Thumbprint {
    fn eq(&self, other: &Self) -> bool {
        constant_time::verify_slices_are_equal(&self.0, &other.0).is_ok()
    }
}

impl fmt::Debug for Thumbprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_base64url())
    }
}

impl fmt::Display for Thumbprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_base64url())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EMPTY_HEX: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    const EMPTY: &str = "47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU";

    #[test]
    fn base64url_and_hex_are_two_spellings_of_one_digest() {
        let found = Thumbprint::of(b"");
        assert_eq!(found.to_base64url(), EMPTY);
        assert_eq!(found.to_hex(), EMPTY_HEX);
        assert_eq!(Thumbprint::from_base64url(EMPTY), Some(found));
        assert_eq!(Thumbprint::from_hex(EMPTY_HEX.as_bytes()), Some(found));
        assert_eq!(Thumbprint::from_hex(EMPTY_HEX.to_uppercase().as_bytes()), Some(found));
    }

    #[test]
    fn nothing_but_the_exact_form_is_read() {
        for odd in
            ["", "47DE", EMPTY.get(..42).unwrap(), &format!("{EMPTY}="), &format!("{EMPTY}A")]
        {
            assert_eq!(Thumbprint::from_base64url(odd), None, "{odd}");
        }
        // The last character has two unused bits, which must be zero.
        assert_eq!(Thumbprint::from_base64url(&EMPTY.replace("uFU", "uFV")), None);
        assert_eq!(Thumbprint::from_base64url(&EMPTY.replace('-', "+")), None);
        for odd in [
            "",
            EMPTY_HEX.get(1..).unwrap(),
            EMPTY_HEX.get(2..).unwrap(),
            &EMPTY_HEX.replace('e', "g"),
        ] {
            assert_eq!(Thumbprint::from_hex(odd.as_bytes()), None, "{odd}");
        }
    }

    #[test]
    fn one_bit_makes_another_thumbprint() {
        let mut octets = *Thumbprint::of(b"").octets();
        octets[31] ^= 1;
        assert_ne!(Thumbprint::from_octets(octets), Thumbprint::of(b""));
    }
}
