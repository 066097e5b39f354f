//! The commands that record a proof in Redis.
//!
//! A record's name is `keybound:replay:{KEY}:JTI`, both in base64url and half a SHA-256 long. The
//! braces make all that belongs to one client's key lie in one slot of a cluster, so that one
//! script can test, count and record. Whether it is recorded by that script or by a plain `SET`,
//! the name is the same: replicas that differ in what they may do still see each other's records.

use keybound_core::jose::base64url;
use keybound_core::oauth::ProofId;
use redis::Cmd;
use std::time::Duration;

/// One proof, as it is recorded in Redis.
pub(super) struct Record {
    /// The key of the record in Redis.
    name: String,
    /// The name of the counters of its client key.
    counts: String,
    /// How long the record lives, in milliseconds.
    life: u64,
}

impl Record {
    /// The record of a proof.
    pub(super) fn of(proof: &ProofId, life: Duration) -> Self {
        let [key, jti] = [proof.key, proof.jti].map(|it| base64url::encode(half(&it)));
        Self::named(&key, &jti, life)
    }

    /// A record without a proof, for testing whether records can be made.
    pub(super) fn probe() -> Self {
        Self::named("probe", "1", Duration::from_secs(1))
    }

    fn named(key: &str, jti: &str, life: Duration) -> Self {
        Self {
            name: format!("{PREFIX}{{{key}}}:{jti}"),
            counts: format!("{PREFIX}{{{key}}}"),
            life: u64::try_from(life.as_millis()).unwrap_or(u64::MAX),
        }
    }

    /// `SET` without counting. Replies `OK`, or nil if the record exists.
    pub(super) fn set(&self) -> Cmd {
        let mut command = Cmd::new();
        command.arg("SET").arg(&self.name).arg(1).arg("NX").arg("PX").arg(self.life);
        command
    }

    /// Runs the cached script. Replies one of [`FIRST`], [`REPEAT`] and [`OVER_SHARE`], or an error
    /// if the script is not cached.
    pub(super) fn count(&self, share: usize) -> Cmd {
        self.script("EVALSHA", SCRIPT_NAME, share)
    }

    /// The same, and makes Redis cache the script.
    pub(super) fn count_anew(&self, share: usize) -> Cmd {
        self.script("EVAL", SCRIPT, share)
    }

    fn script(&self, how: &str, script: &str, share: usize) -> Cmd {
        let mut command = Cmd::new();
        command.arg(how).arg(script).arg(2).arg(&self.name).arg(&self.counts);
        command.arg(share).arg(self.life);
        command
    }
}

/// The record has been made.
pub(super) const FIRST: i64 = 1;

/// The record existed.
pub(super) const REPEAT: i64 = 0;

/// The record did not exist, and its key has reached the limit.
pub(super) const OVER_SHARE: i64 = -1;

/// Sets the record unless it exists or its key has reached the limit of live records.
///
/// Live records are counted in spans of ten seconds: each counter holds how many records expire
/// within its span, and a record counts until its span is over. So a key never exceeds its limit,
/// the number of counters is bounded by the spans of a record's life, and they expire by
/// themselves. All reads come before the first write, so that a script without the rights for all
/// of it does none of it. It needs only `GET`, `SET` and `TIME`.
const SCRIPT: &str = "\
local share, life, span = tonumber(ARGV[1]), tonumber(ARGV[2]), 10000
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local due = math.floor((now + life) / span) + 1
local live, last, counted, kept = 0, due, false, {}
for ends, count in string.gmatch(redis.call('GET', KEYS[2]) or '', '(%d+):(%d+)') do
  ends, count = tonumber(ends), tonumber(count)
  if now < ends * span then
    live = live + count
    last = math.max(last, ends)
    if ends == due then count, counted = count + 1, true end
    kept[#kept + 1] = string.format('%d:%d', ends, count)
  end
end
if redis.call('GET', KEYS[1]) then return 0 end
if share <= live then return -1 end
if not counted then kept[#kept + 1] = string.format('%d:1', due) end
redis.call('SET', KEYS[1], 1, 'PX', ARGV[2])
redis.call('SET', KEYS[2], table.concat(kept, ' '), 'PX', last * span - now)
return 1
";

/// The SHA-1 by which Redis knows the script. If it were wrong, each record would take two round
/// trips.
const SCRIPT_NAME: &str = "5dd53bc71d7b2b75d318bb2a2d001272044b14d6";

/// Half a SHA-256. A client that finds two `jti` with the same half has only its own proof refused,
/// and matching the half of another client's key takes 2^128 attempts.
fn half(digest: &[u8; 32]) -> &[u8; 16] {
    let (half, _) = digest.split_first_chunk().unwrap_or((&[0; 16], &[]));
    half
}

const PREFIX: &str = "keybound:replay:";

#[cfg(test)]
mod tests {
    use super::*;

    fn text(command: &Cmd) -> String {
        String::from_utf8(command.get_packed_command()).unwrap()
    }

    #[test]
    fn a_record_has_one_name_however_it_is_made_and_its_keys_share_a_slot() {
        let record = Record::of(&ProofId { key: [1; 32], jti: [2; 32] }, Duration::from_millis(7));
        let (key, name) = (
            "keybound:replay:{AQEBAQEBAQEBAQEBAQEBAQ}",
            "keybound:replay:{AQEBAQEBAQEBAQEBAQEBAQ}:AgICAgICAgICAgICAgICAg",
        );
        let (key, name) = (format!("\r\n{key}\r\n"), format!("\r\n{name}\r\n"));
        for command in [record.count(3), record.count_anew(3)] {
            let command = text(&command);
            assert!(command.contains(&name) && command.contains(&key), "{command}");
            assert!(command.ends_with("\r\n$1\r\n3\r\n$1\r\n7\r\n"), "{command}");
        }
        let set = text(&record.set());
        assert!(set.contains(&name) && set.ends_with("NX\r\n$2\r\nPX\r\n$1\r\n7\r\n"), "{set}");
    }
}
