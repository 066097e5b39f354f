//! Lenient percent-decoding: invalid escapes are left unchanged, as many servers do.

use crate::percent::{triplet, wide};

/// Decodes the escapes in `text`; with `obsolete`, obsolete forms as well.
pub(super) fn decoded(text: &[u8], obsolete: bool) -> Vec<u8> {
    let mut found = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((&first, behind)) = rest.split_first() {
        let (octet, behind) = escape(rest, obsolete).unwrap_or((first, behind));
        found.push(octet);
        rest = behind;
    }
    found
}

/// Decodes the escape at the start of `text`. Returns the octet and the rest.
pub(super) fn escape(text: &[u8], obsolete: bool) -> Option<(u8, &[u8])> {
    let behind = text.strip_prefix(b"%")?;
    let old = if obsolete { overlong(text).or_else(|| unicode(text)) } else { None };
    old.or_else(|| triplet(behind))
}

/// Whether `text` starts with an escape in an obsolete form.
pub(super) fn is_obsolete_escape(text: &[u8]) -> bool {
    overlong(text).is_some() || unicode(text).is_some()
}

/// `segment` with the octets percent-encoded for which `is_encoded` holds.
pub(super) fn encoded(segment: &[u8], is_encoded: impl Fn(u8) -> bool) -> Vec<u8> {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |it: u8| DIGITS.get(usize::from(it & 0xf)).copied().unwrap_or_default();
    let mut found = Vec::with_capacity(segment.len());
    for it in segment {
        if is_encoded(*it) {
            found.extend([b'%', digit(it >> 4), digit(*it)]);
        } else {
            found.push(*it);
        }
    }
    found
}

/// An ASCII character in an overlong UTF-8 sequence of two to six octets, which is invalid (RFC
/// 3629 §3).
fn overlong(text: &[u8]) -> Option<(u8, &[u8])> {
    let (first, mut rest) = triplet(text.strip_prefix(b"%")?)?;
    let (mut value, more) = match first {
        0xc0 | 0xc1 => (u32::from(first & 1), 1),
        0xe0 => (0, 2),
        0xf0 => (0, 3),
        0xf8 => (0, 4),
        0xfc => (0, 5),
        _ => return None,
    };
    for _ in 0..more {
        let (next, behind) = triplet(rest.strip_prefix(b"%")?)?;
        if next & 0xc0 != 0x80 {
            return None;
        }
        value = value.checked_shl(6)? | u32::from(next & 0x3f);
        rest = behind;
    }
    u8::try_from(value).ok().filter(u8::is_ascii).map(|it| (it, rest))
}

/// `%u` and four digits, if they encode an ASCII character.
fn unicode(text: &[u8]) -> Option<(u8, &[u8])> {
    let (spelled, rest) = wide(text.strip_prefix(b"%")?)?;
    u8::try_from(spelled).ok().filter(u8::is_ascii).map(|it| (it, rest))
}
