//! The statuses themselves: one, two, four or eight bits for each token, compressed where they are
//! published (draft-ietf-oauth-status-list §4).

use miniz_oxide::inflate::stream::{InflateState, inflate};
use miniz_oxide::{DataFormat, MZFlush, MZStatus};
use std::fmt;

/// The most octets that a list may have once it is inflated: 16,777,216 tokens of eight bits each.
pub const STATUS_LIST_BYTES: usize = 16 << 20;

/// The status of a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// 0: it is valid.
    Valid,
    /// 1: it was revoked, for good.
    Invalid,
    /// 2: it is suspended, and may become valid again.
    Suspended,
    /// Another one, which means what the issuer says.
    Other(u8),
}

/// The statuses of a list.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Bits {
    /// Bits for each status: 1, 2, 4 or 8.
    width: u8,
    octets: Box<[u8]>,
}

/// Why statuses cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum BadBits {
    /// The width is none of the four.
    Width,
    /// It is not one whole zlib stream (RFC 1950).
    NotZlib,
    /// It inflates to more than [`STATUS_LIST_BYTES`].
    TooLong,
}

impl Bits {
    /// The statuses of `width` bits each in `zlib`.
    pub(super) fn inflate(width: u64, zlib: &[u8]) -> Result<Self, BadBits> {
        let is_width = |it: &u8| matches!(it, 1 | 2 | 4 | 8);
        let width = u8::try_from(width).ok().filter(is_width).ok_or(BadBits::Width)?;
        Ok(Self { width, octets: inflated(zlib)?.into() })
    }

    /// The status at `index`; none beyond the end.
    pub(super) fn at(&self, index: u64) -> Option<Status> {
        // The width divides eight, so no status spans two octets.
        let first = index.checked_mul(u64::from(self.width))?;
        let octet = *self.octets.get(usize::try_from(first / 8).ok()?)?;
        let rest = octet.checked_shr(u32::try_from(first % 8).ok()?)?;
        let mask = u8::MAX.checked_shr(8_u32.checked_sub(self.width.into())?)?;
        Some(Status::of(rest & mask))
    }

    /// For how many tokens there is room.
    pub(super) fn len(&self) -> usize {
        let in_octet = 8_usize.checked_div(self.width.into()).unwrap_or_default();
        self.octets.len().saturating_mul(in_octet)
    }

    /// The memory use in bytes.
    pub(super) const fn bytes(&self) -> usize {
        self.octets.len()
    }
}

/// Inflates one whole zlib stream. What it holds is counted as it comes, so that a small stream that
/// inflates to much costs no more than the limit.
fn inflated(zlib: &[u8]) -> Result<Vec<u8>, BadBits> {
    let mut state = InflateState::new_boxed(DataFormat::Zlib);
    let (mut found, mut piece, mut rest) = (vec![], vec![0; PIECE], zlib);
    loop {
        let step = inflate(&mut state, rest, &mut piece, MZFlush::None);
        rest = rest.get(step.bytes_consumed..).unwrap_or_default();
        let new = piece.get(..step.bytes_written).unwrap_or_default();
        if STATUS_LIST_BYTES < found.len().saturating_add(new.len()) {
            return Err(BadBits::TooLong);
        }
        found.extend_from_slice(new);
        let moved = 0 < step.bytes_consumed || 0 < step.bytes_written;
        match step.status {
            Ok(MZStatus::StreamEnd) if rest.is_empty() => return Ok(found),
            Ok(MZStatus::Ok) if moved => (),
            Ok(_) | Err(_) => return Err(BadBits::NotZlib),
        }
    }
}

/// Octets that are inflated at a time.
const PIECE: usize = 64 << 10;

impl Status {
    const fn of(value: u8) -> Self {
        match value {
            0 => Self::Valid,
            1 => Self::Invalid,
            2 => Self::Suspended,
            other => Self::Other(other),
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Valid => f.write_str("valid"),
            Self::Invalid => f.write_str("invalid"),
            Self::Suspended => f.write_str("suspended"),
            Self::Other(value) => write!(f, "0x{value:02x}"),
        }
    }
}

/// Omits the statuses, of which there may be millions.
impl fmt::Debug for Bits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { width, octets } = self;
        f.debug_struct("Bits").field("width", width).field("octets", &octets.len()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::jose::base64url;
    use miniz_oxide::deflate::compress_to_vec_zlib;

    fn bits(width: u64, octets: &[u8]) -> Bits {
        Bits::inflate(width, &compress_to_vec_zlib(octets, 9)).unwrap()
    }

    fn all(bits: &Bits) -> Vec<Status> {
        (0..).map_while(|it| bits.at(it)).collect()
    }

    #[test]
    fn the_lowest_bit_comes_first_as_in_the_examples_of_the_draft() {
        let one = Bits::inflate(1, &base64url::decode(b"eNrbuRgAAhcBXQ").unwrap()).unwrap();
        let expected = [1, 0, 0, 1, 1, 1, 0, 1, 1, 1, 0, 0, 0, 1, 0, 1].map(Status::of);
        assert_eq!(all(&one), expected);
        let two = Bits::inflate(2, &base64url::decode(b"eNo76fITAAPfAgc").unwrap()).unwrap();
        let expected = [1, 2, 0, 3, 0, 1, 0, 1, 1, 2, 3, 3].map(Status::of);
        assert_eq!(all(&two), expected);
    }

    #[test]
    fn a_status_has_its_own_bits_and_none_of_its_neighbours() {
        for (width, set) in [(1, 1), (2, 3), (4, 15), (8, 255)] {
            for index in 0..24_usize {
                let mut octets = vec![0; 24];
                let first = index * usize::try_from(width).unwrap();
                octets[first / 8] = set << (first % 8);
                let bits = bits(width, &octets);
                let found = all(&bits);
                let others = found.iter().enumerate().filter(|(at, _)| *at != index);
                assert!(others.clone().all(|(_, it)| *it == Status::Valid), "{width} {index}");
                assert_eq!(found[index], Status::of(set), "{width} {index}");
                assert_eq!((found.len(), others.count()), (bits.len(), bits.len() - 1));
            }
        }
    }

    #[test]
    fn beyond_the_end_there_is_nothing() {
        for (width, entries) in [(1, 16), (2, 8), (4, 4), (8, 2)] {
            let bits = bits(width, &[0, 0]);
            assert_eq!(bits.len(), usize::try_from(entries).unwrap());
            assert_eq!(bits.at(entries - 1), Some(Status::Valid), "{width}");
            assert_eq!(bits.at(entries), None, "{width}");
            assert_eq!(bits.at(u64::MAX), None, "{width}");
            assert_eq!(bits.at(u64::MAX / width), None, "{width}");
        }
        assert_eq!(bits(1, &[]).at(0), None);
    }

    #[test]
    fn each_value_has_its_meaning() {
        let values = [0, 1, 2, 3, 11, 255].map(|it| Status::of(it).to_string());
        assert_eq!(values, ["valid", "invalid", "suspended", "0x03", "0x0b", "0xff"]);
    }

    #[test]
    fn a_width_is_one_of_four() {
        for odd in [0, 3, 5, 6, 7, 9, 16, 256, 257, u64::MAX] {
            let found = Bits::inflate(odd, &compress_to_vec_zlib(&[0], 9));
            assert_eq!(found, Err(BadBits::Width), "{odd}");
        }
    }

    #[test]
    fn what_is_not_one_whole_zlib_stream_is_refused() {
        let good = compress_to_vec_zlib(&[0x5a; 1000], 9);
        assert!(Bits::inflate(1, &good).is_ok());
        let mut checksum = good.clone();
        *checksum.last_mut().unwrap() ^= 1;
        let raw = miniz_oxide::deflate::compress_to_vec(&[0x5a; 1000], 9);
        let more = [&good[..], b"\0"].concat();
        let cut = &good[..good.len() - 1];
        for odd in [&[][..], b"x", &checksum, &raw, &more, cut, b"\x1f\x8b\x08\0"] {
            assert_eq!(Bits::inflate(1, odd), Err(BadBits::NotZlib), "{odd:x?}");
        }
        for length in 0..good.len() {
            assert_eq!(Bits::inflate(1, &good[..length]), Err(BadBits::NotZlib), "{length}");
        }
    }

    #[test]
    fn sixteen_million_statuses_are_held_and_one_octet_more_is_refused() {
        let most = vec![0xff; STATUS_LIST_BYTES];
        let held = bits(8, &most);
        assert_eq!((held.len(), held.bytes()), (16 << 20, 16 << 20));
        assert_eq!(held.at((16 << 20) - 1), Some(Status::Other(255)));
        let bomb = compress_to_vec_zlib(&vec![0; STATUS_LIST_BYTES + 1], 9);
        assert!(bomb.len() < 20_000, "a thousandth of what it inflates to");
        assert_eq!(Bits::inflate(1, &bomb), Err(BadBits::TooLong));
    }
}
