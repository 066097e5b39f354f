//! The encoding of values in a form (`application/x-www-form-urlencoded`, RFC 6749 Appendix B).

/// `text` as a value in a form.
pub(super) fn encoded(text: &[u8]) -> String {
    let digit = |it: u8| char::from_digit(it.into(), 16).unwrap_or('0').to_ascii_uppercase();
    let mut encoded = String::with_capacity(text.len());
    for octet in text {
        match octet {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'*' => {
                encoded.push(char::from(*octet));
            }
            b' ' => encoded.push('+'),
            octet => encoded.extend(['%', digit(octet >> 4), digit(octet & 15)]),
        }
    }
    encoded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_encoded_as_the_standard_shows() {
        // RFC 6749 Appendix B.
        let text = " %&+£€".as_bytes();
        assert_eq!(encoded(text), "+%25%26%2B%C2%A3%E2%82%AC");
    }
}
