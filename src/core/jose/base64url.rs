//! Base64url as JOSE defines it: no padding, no line breaks, no other characters, and one encoding
//! for each value (RFC 7515 §2, §5.2).

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// The text is not base64url.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotBase64Url;

/// Decodes `text`.
pub fn decode(text: &[u8]) -> Result<Vec<u8>, NotBase64Url> {
    URL_SAFE_NO_PAD.decode(text).or(Err(NotBase64Url))
}

/// Encodes `octets`.
pub fn encode(octets: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(octets)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_it_writes() {
        for octets in [&b""[..], b"f", b"fo", b"foo", b"\xff\xfe\xfd"] {
            assert_eq!(decode(encode(octets).as_bytes()).as_deref(), Ok(octets));
        }
    }

    #[test]
    fn refuses_every_other_spelling() {
        for odd in
            ["Zg==", "Zg=", "Zm9v\n", " Zm9v", "Zm9v ", "Zm+v", "Zm/v", "Z", "Zh", "Zm9", "é"]
        {
            assert_eq!(decode(odd.as_bytes()), Err(NotBase64Url), "{odd}");
        }
    }
}
