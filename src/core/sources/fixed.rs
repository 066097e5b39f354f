//! Ready-made [`Sources`]: keys that do not change, and a record of used proofs in memory.

use super::{Keys, NotRecorded, Sources, Use, Waiting};
use crate::denial::Detail;
use crate::jose::jwk::KeySet;
use crate::oauth::dpop::ProofId;
use crate::policy::IssuerId;
use crate::time::UnixTime;
use std::collections::HashMap;
use std::future::ready;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// Keys that do not change, and a record of used proofs in memory: for tests, for command lines, and
/// for whoever replaces the whole when keys change.
///
/// Nothing waits: each check ends at its first poll. Opaque tokens are refused.
#[derive(Debug, Default)]
pub struct Fixed {
    keys: Vec<Arc<KeySet>>,
    used: Mutex<Used>,
}

/// The proofs that have been used.
#[derive(Debug, Default)]
struct Used {
    /// By proof, until when the record must live.
    until: HashMap<ProofId, UnixTime>,
    /// Records that ended before this moment are gone.
    dropped_before: UnixTime,
}

/// So many proofs are recorded at most. One more is refused.
const MOST: usize = 100_000;

/// How often a full record is swept at most.
const SWEPT_EVERY: Duration = Duration::from_secs(1);

impl Fixed {
    /// The keys of each issuer, in the order of
    /// [`PolicySet::issuers`](crate::policy::PolicySet::issuers).
    pub fn new(keys: impl IntoIterator<Item = Arc<KeySet>>) -> Self {
        Self { keys: keys.into_iter().collect(), used: Mutex::default() }
    }
}

impl Sources for Fixed {
    type Keys = Arc<KeySet>;

    fn keys(&self, issuer: IssuerId) -> Option<&Arc<KeySet>> {
        self.keys.get(issuer.0)
    }

    fn record<'a>(
        &'a self,
        proof: &'a ProofId,
        expires: UnixTime,
        now: UnixTime,
    ) -> Waiting<'a, Result<Use, NotRecorded>> {
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        Box::pin(ready(used.record(*proof, expires, now)))
    }
}

impl Keys for Arc<KeySet> {
    fn current(&self) -> Option<Arc<KeySet>> {
        Some(Self::clone(self))
    }
}

impl Used {
    fn record(
        &mut self,
        proof: ProofId,
        expires: UnixTime,
        now: UnixTime,
    ) -> Result<Use, NotRecorded> {
        if expires < self.dropped_before {
            return Err(NotRecorded(Detail::ClockWentBack));
        }
        if self.until.contains_key(&proof) {
            return Ok(Use::Repeat);
        }
        // Once a second at most, so that a full record costs a look and no sweep.
        let is_due = self.dropped_before.saturating_add(SWEPT_EVERY) <= now;
        if MOST <= self.until.len() && is_due {
            self.until.retain(|_, until| now <= *until);
            self.dropped_before = now;
        }
        if MOST <= self.until.len() {
            return Err(NotRecorded(Detail::StoreFull));
        }
        self.until.insert(proof, expires);
        Ok(Use::First)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proof(number: usize) -> ProofId {
        let mut jti = [0; 32];
        jti[..8].copy_from_slice(&number.to_le_bytes());
        ProofId { key: [1; 32], jti }
    }

    fn at(seconds: u64) -> UnixTime {
        UnixTime::from_secs(1_800_000_000).saturating_add(Duration::from_secs(seconds))
    }

    #[test]
    fn a_proof_is_used_once() {
        let mut used = Used::default();
        for (number, expected) in [(1, Use::First), (1, Use::Repeat), (2, Use::First)] {
            assert_eq!(used.record(proof(number), at(60), at(0)), Ok(expected));
        }
    }

    #[test]
    fn a_full_record_refuses_until_records_end_and_forgets_none_before() {
        let mut used = Used::default();
        for number in 0..MOST {
            let expires = if number == 0 { at(10) } else { at(60) };
            assert_eq!(used.record(proof(number), expires, at(0)), Ok(Use::First));
        }
        let one_more = |used: &mut Used, now: u64| used.record(proof(MOST), at(60), at(now));
        assert_eq!(one_more(&mut used, 10), Err(NotRecorded(Detail::StoreFull)));
        assert_eq!(used.record(proof(0), at(10), at(10)), Ok(Use::Repeat));
        assert_eq!(one_more(&mut used, 11), Ok(Use::First));
        let went_back = used.record(proof(0), at(10), at(9));
        assert_eq!(went_back, Err(NotRecorded(Detail::ClockWentBack)));
    }
}
