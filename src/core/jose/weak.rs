//! Weak keys: what is formed like a public key, and yet anybody could sign under it, or nobody should
//! wait for it.

use super::key::UnusableKey;

/// RFC 7518 §3.3 requires 2048 bits or more; over 8192, one verification takes too long. The numbers
/// have no leading zeros.
pub(super) fn check_rsa(n: &[u8], e: &[u8]) -> Result<(), UnusableKey> {
    let (Some(first), Some(last)) = (n.first(), n.last()) else {
        return Err(UnusableKey::Member("n"));
    };
    if last % 2 == 0 {
        return Err(UnusableKey::Member("n"));
    }
    if e.is_empty() {
        return Err(UnusableKey::Member("e"));
    }
    let unused = usize::try_from(first.leading_zeros()).unwrap_or(0);
    let bits = n.len().saturating_mul(8).saturating_sub(unused);
    let exponent_is_odd = e.last().is_some_and(|it| it % 2 == 1);
    if !(2048..=8192).contains(&bits) || e == [1] || e.len() > 4 || !exponent_is_odd {
        return Err(UnusableKey::Weak);
    }
    Ok(())
}

/// RFC 8032 leaves points of small order to the verifier: anybody can forge signatures under such a
/// key.
pub(super) fn check_ed25519(x: &[u8]) -> Result<(), UnusableKey> {
    let mut y: [u8; 32] = x.try_into().or(Err(UnusableKey::Member("x")))?;
    y[31] &= 0x7f;
    if SMALL_ORDER.contains(&y) { Err(UnusableKey::Weak) } else { Ok(()) }
}

/// FIPS 204 lets every public key pass. One whose t1 is zero has no secret: anybody can sign with a
/// short vector of their own. `public` is the seed of the matrix and then t1 (§7.2, Algorithm 22).
pub(super) fn check_ml_dsa(public: &[u8]) -> Result<(), UnusableKey> {
    let t1_is_zero = public.iter().skip(SEED_BYTES).all(|it| *it == 0);
    if t1_is_zero { Err(UnusableKey::Weak) } else { Ok(()) }
}

/// The length of the seed of the matrix, rho.
const SEED_BYTES: usize = 32;

/// The y-coordinates of the points whose order divides eight, with their non-canonical encodings.
const SMALL_ORDER: &[[u8; 32]] = &[
    ends(0, 0, 0),
    ends(1, 0, 0),
    ends(0xec, 0xff, 0x7f),
    ends(0xed, 0xff, 0x7f),
    ends(0xee, 0xff, 0x7f),
    [
        0x26, 0xe8, 0x95, 0x8f, 0xc2, 0xb2, 0x27, 0xb0, 0x45, 0xc3, 0xf4, 0x89, 0xf2, 0xef, 0x98,
        0xf0, 0xd5, 0xdf, 0xac, 0x05, 0xd3, 0xc6, 0x33, 0x39, 0xb1, 0x38, 0x02, 0x88, 0x6d, 0x53,
        0xfc, 0x05,
    ],
    [
        0xc7, 0x17, 0x6a, 0x70, 0x3d, 0x4d, 0xd8, 0x4f, 0xba, 0x3c, 0x0b, 0x76, 0x0d, 0x10, 0x67,
        0x0f, 0x2a, 0x20, 0x53, 0xfa, 0x2c, 0x39, 0xcc, 0xc6, 0x4e, 0xc7, 0xfd, 0x77, 0x92, 0xac,
        0x03, 0x7a,
    ],
];

const fn ends(first: u8, middle: u8, last: u8) -> [u8; 32] {
    let mut octets = [middle; 32];
    octets[0] = first;
    octets[31] = last;
    octets
}
