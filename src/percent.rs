//! Knows percent-encoding (RFC 3986 §2.1).

/// What `text` spells once each triplet in it is decoded; none if a `%` begins no triplet.
///
/// A `+` stays what it is: this is not the encoding of forms.
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

/// The octet that a triplet spells, and what is behind it. `text` begins behind the `%`.
pub fn triplet(text: &[u8]) -> Option<(u8, &[u8])> {
    let ([high, low], rest) = text.split_first_chunk()?;
    Some((nibble(*high)?.checked_mul(16)?.checked_add(nibble(*low)?)?, rest))
}

fn nibble(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|it| u8::try_from(it).ok())
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
