//! DPoP nonces provided by the resource server (RFC 9449 §8 and §9).
//!
//! A nonce is a time slot and a MAC over it. No state is kept: every replica with the secret
//! accepts the nonces of the others. A nonce is not tied to a client and may be reused, since it
//! only shows when a proof was made; replay is detected by the replay store.

use crate::jose::base64url;
use crate::time::UnixTime;
use aws_lc_rs::{constant_time, hmac};
use std::fmt;
use std::time::Duration;

/// The secrets from which nonces are made.
pub struct NonceKeys {
    current: hmac::Key,
    previous: Option<hmac::Key>,
}

/// A nonce that is accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LiveNonce {
    /// The last moment at which it is accepted.
    pub until: UnixTime,
    /// Whether it will do for some time yet. If not, the client should be given a new one.
    pub is_fresh: bool,
}

/// Why a secrets file is not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadSecret {
    /// There is no secret, or there are more than two.
    Lines,
    /// A secret has fewer than 32 or more than 1024 characters.
    Length,
    /// A secret has characters that are not visible ASCII.
    Characters,
}

impl NonceKeys {
    /// Parses a file of secrets, one per line, each of 32 to 1024 visible ASCII characters, as
    /// `openssl rand -base64 32` prints. Empty lines are ignored.
    ///
    /// Nonces are made with the first secret, and accepted with either. To rotate without refusals,
    /// first append the new secret on all replicas, then move it to the front.
    pub fn parse(file: &[u8]) -> Result<Self, BadSecret> {
        let lines = file.split(|it| *it == b'\n').map(<[u8]>::trim_ascii);
        let mut secrets = lines.filter(|it| !it.is_empty()).map(secret);
        let current = secrets.next().ok_or(BadSecret::Lines)??;
        let previous = secrets.next().transpose()?;
        if secrets.next().is_some() {
            return Err(BadSecret::Lines);
        }
        Ok(Self { current, previous })
    }

    /// Creates the secrets from random octets.
    pub fn from_octets(secret: &[u8; 32]) -> Self {
        Self { current: key(secret), previous: None }
    }

    /// The nonce for proofs made at `now`: 32 characters of base64url.
    pub fn issue(&self, now: UnixTime) -> String {
        let slot = slot_of(now).to_be_bytes();
        let mac = mac(&self.current, slot);
        let mac = half(&mac).map_or(&[][..], |it| it);
        base64url::encode(&[&slot[..], mac].concat())
    }

    /// Reads `nonce` at `now`; none if it has expired, or was never issued here.
    ///
    /// It is accepted in the slot it was issued in and in the next: for at least one and at most
    /// two minutes. It is also accepted one slot early, since the clocks of replicas differ.
    pub fn check(&self, nonce: &str, now: UnixTime) -> Option<LiveNonce> {
        let octets = base64url::decode(nonce.as_bytes()).unwrap_or_default();
        let (slot, shown) = octets.split_first_chunk()?;
        let made_with = |it: &hmac::Key| {
            let mac = mac(it, *slot);
            half(&mac).is_some_and(|it| constant_time::verify_slices_are_equal(it, shown).is_ok())
        };
        let current = made_with(&self.current);
        if !current && !self.previous.as_ref().is_some_and(made_with) {
            return None;
        }
        let (slot, here) = (i64::from_be_bytes(*slot), slot_of(now));
        let is_near = here.saturating_sub(1) <= slot && slot <= here.saturating_add(1);
        is_near.then(|| LiveNonce { until: end_of_life(slot), is_fresh: here <= slot && current })
    }
}

impl fmt::Debug for NonceKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NonceKeys").finish_non_exhaustive()
    }
}

fn secret(line: &[u8]) -> Result<hmac::Key, BadSecret> {
    if !line.iter().all(u8::is_ascii_graphic) {
        return Err(BadSecret::Characters);
    }
    if !(MIN_SECRET..=MAX_SECRET).contains(&line.len()) {
        return Err(BadSecret::Length);
    }
    Ok(key(line))
}

fn key(secret: &[u8]) -> hmac::Key {
    hmac::Key::new(hmac::HMAC_SHA256, secret)
}

/// The number of the slot that contains `now`.
fn slot_of(now: UnixTime) -> i64 {
    now.as_secs().div_euclid(SLOT_SECONDS)
}

/// The last moment at which a nonce of this slot is accepted.
fn end_of_life(slot: i64) -> UnixTime {
    let beyond = slot.saturating_add(2).saturating_mul(SLOT_SECONDS);
    UnixTime::from_secs(beyond).saturating_sub(Duration::from_millis(1))
}

fn mac(key: &hmac::Key, slot: [u8; 8]) -> hmac::Tag {
    // The slot length is part of the input: another release may use a different one.
    let input = [PURPOSE, &SLOT_SECONDS.to_be_bytes(), &slot].concat();
    hmac::sign(key, &input)
}

/// Half of an HMAC-SHA-256, which is as hard to guess (RFC 2104 §5). If that fails, there is no
/// MAC, and no nonce is accepted.
fn half(mac: &hmac::Tag) -> Option<&[u8; 16]> {
    mac.as_ref().first_chunk()
}

impl fmt::Display for BadSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Lines => "must hold one secret, or two, each in a line of its own",
            Self::Length => "must hold secrets of 32 to 1024 characters",
            Self::Characters => "must hold secrets of visible ASCII characters, such as base64",
        })
    }
}

impl std::error::Error for BadSecret {}

/// Long enough for a client to use a nonce more than once, short enough that proofs made in advance
/// soon become worthless (RFC 9449 §11.2).
const SLOT_SECONDS: i64 = 60;

/// Domain separation: if the secret ever has another use, its MACs are not valid nonces.
const PURPOSE: &[u8] = b"keybound dpop nonce 1";

/// 32 hexadecimal digits hold 128 bits, the length of the MAC.
const MIN_SECRET: usize = 32;
const MAX_SECRET: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    /// The start of a slot.
    const NOW: i64 = 1_700_000_040;
    const OLD: &[u8] = b"0123456789abcdef0123456789abcdef";
    const NEW: &[u8] = b"fedcba9876543210fedcba9876543210";

    fn at(millis: i64) -> UnixTime {
        UnixTime::from_millis(millis.saturating_add(NOW * 1000))
    }

    const FRESH: Option<bool> = Some(true);
    const AGING: Option<bool> = Some(false);
    const STALE: Option<bool> = None;

    /// Whether a nonce is fresh, if it is accepted.
    fn freshness(keys: &NonceKeys, nonce: &str, now: UnixTime) -> Option<bool> {
        keys.check(nonce, now).map(|it| it.is_fresh)
    }

    fn keys(lines: &[&[u8]]) -> NonceKeys {
        NonceKeys::parse(&lines.join(&b'\n')).unwrap()
    }

    #[test]
    fn a_nonce_counts_in_its_slot_and_in_the_next_and_one_slot_early() {
        let keys = keys(&[OLD]);
        for issued in [0, 59_999] {
            let nonce = keys.issue(at(issued));
            for (now, expected) in [
                (-60_001, STALE),
                (-60_000, FRESH),
                (-1, FRESH),
                (0, FRESH),
                (59_999, FRESH),
                (60_000, AGING),
                (119_999, AGING),
                (120_000, STALE),
            ] {
                assert_eq!(freshness(&keys, &nonce, at(now)), expected, "{issued} {now}");
            }
        }
    }

    #[test]
    fn a_nonce_says_until_when_it_counts() {
        let rotated = keys(&[NEW, OLD]);
        for issued in [0, 1, 59_999] {
            let nonce = keys(&[OLD]).issue(at(issued));
            for keys in [&keys(&[OLD]), &rotated] {
                let until = keys.check(&nonce, at(issued)).unwrap().until;
                for now in [-60_000, 0, 60_000] {
                    assert_eq!(keys.check(&nonce, at(now)).unwrap().until, until, "{now}");
                }
                assert!(keys.check(&nonce, until).is_some());
                let later = until.saturating_add(Duration::from_millis(1));
                assert_eq!(keys.check(&nonce, later), None);
            }
        }
    }

    #[test]
    fn times_at_the_ends_of_the_world_do_not_panic() {
        let keys = keys(&[OLD]);
        for millis in [i64::MIN, -1, 0, i64::MAX] {
            let now = UnixTime::from_millis(millis);
            assert_eq!(freshness(&keys, &keys.issue(now), now), FRESH, "{millis}");
        }
    }

    #[test]
    fn a_nonce_of_another_secret_is_stale() {
        let (ours, theirs) = (keys(&[OLD]), keys(&[NEW]));
        assert_eq!(freshness(&ours, &theirs.issue(at(0)), at(0)), STALE);
    }

    #[test]
    fn replicas_with_the_same_secret_accept_each_others_nonces() {
        let nonce = keys(&[OLD, b""]).issue(at(0));
        assert_eq!(freshness(&keys(&[b"", OLD]), &nonce, at(1)), FRESH);
    }

    #[test]
    fn a_secret_is_rotated_in_two_steps_without_a_refusal() {
        let steps = [keys(&[OLD]), keys(&[OLD, NEW]), keys(&[NEW, OLD]), keys(&[NEW])];
        for [before, after] in steps.windows(2).map(|it| [&it[0], &it[1]]) {
            // During a rotation, some replicas have the new file and some do not.
            assert_ne!(freshness(before, &after.issue(at(0)), at(0)), STALE);
            assert_ne!(freshness(after, &before.issue(at(0)), at(0)), STALE);
        }
    }

    #[test]
    fn a_nonce_of_the_second_secret_is_aging_for_as_long_as_it_counts() {
        let nonce = keys(&[OLD]).issue(at(0));
        let rotated = keys(&[NEW, OLD]);
        for (now, expected) in [(0, AGING), (119_999, AGING), (120_000, STALE)] {
            assert_eq!(freshness(&rotated, &nonce, at(now)), expected, "{now}");
        }
    }

    #[test]
    fn a_nonce_with_one_bit_changed_is_stale() {
        let keys = keys(&[OLD]);
        let nonce = base64url::decode(keys.issue(at(0)).as_bytes()).unwrap();
        for bit in 0..nonce.len() * 8 {
            let mut tampered = nonce.clone();
            tampered[bit / 8] ^= 1 << (bit % 8);
            let tampered = base64url::encode(&tampered);
            assert_eq!(freshness(&keys, &tampered, at(0)), STALE, "bit {bit}");
        }
    }

    #[test]
    fn whatever_is_not_exactly_a_nonce_is_stale() {
        let keys = keys(&[OLD]);
        let nonce = keys.issue(at(0));
        let cut: String = nonce.chars().take(31).collect();
        let slot_only = base64url::encode(&slot_of(at(0)).to_be_bytes());
        for odd in ["", "A", " ", "é", &cut, &slot_only, &format!("{nonce}="), &"A".repeat(10_000)]
        {
            assert_eq!(freshness(&keys, odd, at(0)), STALE, "{odd}");
        }
        for longer in [format!("{nonce}AAAA"), format!(" {nonce}"), format!("AAAA{nonce}")] {
            assert_eq!(freshness(&keys, &longer, at(0)), STALE, "{longer}");
        }
    }

    #[test]
    fn a_nonce_holds_only_characters_that_rfc_9449_allows() {
        // RFC 9449 §8.1: 1*NQCHAR, %x21 / %x23-5B / %x5D-7E (RFC 6749, appendix A).
        for minute in 0..1000 {
            let nonce = keys(&[OLD]).issue(at(minute * 60_000));
            let allowed = |it: u8| matches!(it, 0x21 | 0x23..=0x5b | 0x5d..=0x7e);
            assert!(nonce.len() == 32 && nonce.bytes().all(allowed), "{nonce}");
        }
    }

    #[test]
    fn nonces_of_different_slots_differ() {
        let keys = keys(&[OLD]);
        assert_eq!(keys.issue(at(0)), keys.issue(at(59_999)));
        assert_ne!(keys.issue(at(0)), keys.issue(at(60_000)));
    }

    #[test]
    fn a_file_of_secrets_is_read_strictly() {
        let (short, least) = ("x".repeat(31), "x".repeat(32));
        let (most, long) = ("x".repeat(1024), "x".repeat(1025));
        for (file, expected) in [
            (String::new(), Err(BadSecret::Lines)),
            ("\n \r\n".to_owned(), Err(BadSecret::Lines)),
            (short.clone(), Err(BadSecret::Length)),
            (least.clone(), Ok(())),
            (most.clone(), Ok(())),
            (long, Err(BadSecret::Length)),
            (format!("{least}\n"), Ok(())),
            (format!("\r\n {least}\r\n{most}\r\n\r\n"), Ok(())),
            (format!("{least}\n{short}"), Err(BadSecret::Length)),
            (format!("{least}\n{least}\n{least}"), Err(BadSecret::Lines)),
            (format!("{least} {least}"), Err(BadSecret::Characters)),
            (format!("{least}\0"), Err(BadSecret::Characters)),
            (format!("{least}é"), Err(BadSecret::Characters)),
        ] {
            assert_eq!(NonceKeys::parse(file.as_bytes()).map(|_| ()), expected, "{file:?}");
        }
    }

    #[test]
    fn drawn_secrets_serve_as_well() {
        let (mine, other) = (NonceKeys::from_octets(&[1; 32]), NonceKeys::from_octets(&[2; 32]));
        assert_eq!(freshness(&mine, &mine.issue(at(0)), at(0)), FRESH);
        assert_eq!(freshness(&other, &mine.issue(at(0)), at(0)), STALE);
    }

    #[test]
    fn debug_gives_nothing_away() {
        assert_eq!(format!("{:?}", keys(&[OLD, NEW])), "NonceKeys { .. }");
    }
}
