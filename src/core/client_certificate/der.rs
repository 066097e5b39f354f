//! The outer structure of a DER certificate: exactly one SEQUENCE (X.690 §8.1.3, §10.1).
//!
//! The contents are hashed and never parsed: a certificate binding needs no more (RFC 8705 §3.1,
//! §7.4).

use crate::jose::thumbprint::Thumbprint;

const SEQUENCE: u8 = 0x30;

/// The thumbprint of `der`, if it is exactly one SEQUENCE with a minimally encoded length.
///
/// Lengths of more than two octets are not supported: see [`super::CARRIED_BYTES`].
pub(super) fn thumbprint(der: &[u8]) -> Option<Thumbprint> {
    let (length, contents) = match der {
        [SEQUENCE, length @ 0..=0x7f, contents @ ..]
        | [SEQUENCE, 0x81, length @ 0x80..=0xff, contents @ ..] => (u16::from(*length), contents),
        [SEQUENCE, 0x82, high @ 1..=0xff, low, contents @ ..] => {
            (u16::from_be_bytes([*high, *low]), contents)
        }
        _ => return None,
    };
    (contents.len() == usize::from(length)).then(|| Thumbprint::of(der))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn der(head: &[u8], contents: usize) -> Vec<u8> {
        [head, &vec![0; contents]].concat()
    }

    #[test]
    fn one_sequence_that_fills_the_input_is_hashed_whole() {
        for (head, contents) in [
            (&[0x30, 0x01][..], 1),
            (&[0x30, 0x7f], 0x7f),
            (&[0x30, 0x81, 0x80], 0x80),
            (&[0x30, 0x81, 0xff], 0xff),
            (&[0x30, 0x82, 0x01, 0x00], 0x100),
            (&[0x30, 0x82, 0xff, 0xff], 0xffff),
        ] {
            let der = der(head, contents);
            assert_eq!(thumbprint(&der), Some(Thumbprint::of(&der)), "{head:02x?}");
        }
    }

    #[test]
    fn everything_else_is_refused() {
        for (head, contents, what) in [
            (&[][..], 0, "nothing"),
            (&[0x30], 0, "no length"),
            (&[0x31, 0x01], 1, "a SET"),
            (&[0x30, 0x02], 1, "too little inside"),
            (&[0x30, 0x01], 2, "something behind"),
            (&[0x30, 0x80], 2, "an indefinite length"),
            (&[0x30, 0x81, 0x7f], 0x7f, "a length that needs one octet in two"),
            (&[0x30, 0x82, 0x00, 0xff], 0xff, "a length that needs two octets in three"),
            (&[0x30, 0x83, 0x00, 0x01, 0x00], 0x100, "a length of three octets"),
            (&[0x30, 0x82, 0x01, 0x00], 0xff, "a long one, one octet short"),
            (&[0x30, 0x82, 0x01, 0x00], 0x101, "a long one, one octet over"),
        ] {
            assert_eq!(thumbprint(&der(head, contents)), None, "{what}");
        }
    }
}
