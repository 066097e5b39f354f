//! Percent-encoding (RFC 3986 §2.1).

use std::fmt::Write;

/// Decodes the triplets in `text`; none if a `%` does not start one.
///
/// A `+` is left unchanged: this is not form encoding.
pub fn decoded(text: &[u8]) -> Option<Vec<u8>> {
    let mut parts = text.split(|&it| it == b'%');
    let mut found = Vec::with_capacity(text.len());
    found.extend_from_slice(parts.next()?);
    for part in parts {
        let (octet, rest) = triplet(part)?;
        found.push(octet);
        found.extend_from_slice(rest);
    }
    Some(found)
}

/// Encodes everything but unreserved characters (RFC 3986 §2.3).
pub fn encoded(text: impl AsRef<[u8]>) -> String {
    text.as_ref().iter().fold(String::new(), |mut encoded, &byte| {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            // Writing to a string cannot fail.
            let _written = write!(encoded, "%{byte:02X}");
        }
        encoded
    })
}

/// Decodes the triplet whose `%` precedes `text`. Returns the octet and the rest.
pub fn triplet(text: &[u8]) -> Option<(u8, &[u8])> {
    let ([high, low], rest) = text.split_first_chunk()?;
    Some((nibble(*high)?.checked_mul(16)?.checked_add(nibble(*low)?)?, rest))
}

/// Decodes the `uXXXX` escape of old servers whose `%` precedes `text`. Returns the character and
/// the rest.
pub fn wide(text: &[u8]) -> Option<(char, &[u8])> {
    let digits = text.strip_prefix(b"u").or_else(|| text.strip_prefix(b"U"))?;
    let (high, rest) = triplet(digits)?;
    let (low, rest) = triplet(rest)?;
    char::from_u32(u32::from_be_bytes([0, 0, high, low])).map(|it| (it, rest))
}

fn nibble(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|it| u8::try_from(it).ok())
}

/// Whether an upstream may read the query parameter `name` as `other`, which is in lower case:
/// after decoding once or twice, in any case, and with the treatment of spaces, dots and brackets
/// in PHP, Rack and Express.
pub fn may_name(name: &str, other: &str) -> bool {
    // Fast path: almost all names differ in their length or first letter.
    let same = |it: &u8| {
        !it.is_ascii_alphanumeric()
            || other.as_bytes().first().is_some_and(|own| it.eq_ignore_ascii_case(own))
    };
    let may_be = name.as_bytes().first().is_some_and(same);
    if name.len() < other.len() || !may_be {
        return false;
    }
    let once = form_decoded(name);
    let twice = form_decoded(&once);
    [once, twice].iter().any(|it| is_read_as(it, other))
}

/// The same for a decoded name.
fn is_read_as(name: &str, other: &str) -> bool {
    // Upper case first, as ASP.NET compares: more letters become equal.
    let name = name.to_uppercase().to_lowercase();
    let name = name.split('\0').next().unwrap_or_default().trim().trim_start_matches(['[', ']']);
    let outside = name.split(['[', ']']).next().unwrap_or_default();
    [outside, name].iter().any(|it| it.replace(['.', ' ', '['], "_") == other)
}

/// Decodes a form-encoded name. Invalid triplets are left unchanged, as lenient decoders do.
fn form_decoded(name: &str) -> String {
    let mut parts = name.split('%');
    let mut found = parts.next().unwrap_or_default().replace('+', " ").into_bytes();
    for part in parts {
        let (octets, rest) = triplet(part.as_bytes())
            .map(|(octet, rest)| (vec![octet], rest))
            .or_else(|| {
                let (spelled, rest) = wide(part.as_bytes())?;
                Some((String::from(spelled).into_bytes(), rest))
            })
            .unwrap_or_else(|| (vec![b'%'], part.as_bytes()));
        found.extend(octets);
        found.extend(rest.iter().map(|it| if *it == b'+' { b' ' } else { *it }));
    }
    String::from_utf8_lossy(&found).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn triplets_are_decoded_once_and_plus_stays() {
        for (text, found) in [
            ("", &b""[..]),
            ("a+b", b"a+b"),
            ("%41", b"A"),
            ("a%2Bb%2bc", b"a+b+c"),
            ("%2541", b"%41"),
            ("%00%ff", b"\x00\xff"),
        ] {
            assert_eq!(decoded(text.as_bytes()).as_deref(), Some(found), "{text}");
        }
    }

    #[test]
    fn a_percent_sign_without_two_digits_is_refused() {
        for odd in ["%", "%4", "a%", "%4g", "%g4", "%%41", "%+4", "% 4", "%é"] {
            assert_eq!(decoded(odd.as_bytes()), None, "{odd}");
        }
    }
}
