//! Random octets from the operating system.

use std::fmt;

/// Fills `octets` with unpredictable values.
pub fn fill(octets: &mut [u8]) -> Result<(), NoRandomness> {
    if cfg!(feature = "fips") {
        return aws_lc_rs::rand::fill(octets).or(Err(NoRandomness));
    }
    // The system comes first, since aws-lc spends 30 ms on gathering entropy. aws-lc is for static
    // programs, which do not find glibc's call at run time and may have no random device.
    getrandom::fill(octets).or_else(|_| aws_lc_rs::rand::fill(octets)).or(Err(NoRandomness))
}

/// A random octet for jitter, so that replicas that started together drift apart. It is 0 when the
/// system has no randomness: replicas then stay in step, which is merely inconvenient.
pub fn jitter() -> u8 {
    let mut octet = [0];
    fill(&mut octet).map_or(0, |()| octet[0])
}

/// The system provides no randomness.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoRandomness;

impl fmt::Display for NoRandomness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the machine gives no random octets")
    }
}

impl std::error::Error for NoRandomness {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_are_those_of_a_fips_module_in_its_approved_mode_where_it_was_built_with_one() {
        assert_eq!(aws_lc_rs::try_fips_mode().is_ok(), cfg!(feature = "fips"));
    }

    #[test]
    fn all_octets_are_drawn_and_anew_each_time() {
        let drawn = [(); 2].map(|()| {
            let mut octets = [0; 64];
            fill(&mut octets).unwrap();
            octets
        });
        assert_ne!(drawn[0], drawn[1]);
        for half in drawn.iter().flat_map(|it| [&it[..32], &it[32..]]) {
            assert_ne!(half, [0; 32]);
        }
        assert_eq!(fill(&mut []), Ok(()));
    }
}
