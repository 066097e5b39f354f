//! Health checks of Redis, as far as our ACL allows them: whether it evicts records, and whether
//! its clock agrees with ours.

use super::link::Link;
use keybound_core::UnixTime;
use redis::{Cmd, RedisError, RedisResult, Value};
use std::borrow::Cow;
use std::time::Duration;

/// The result.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Findings {
    /// The `maxmemory-policy` of a server that has a limit and drops records to keep it.
    pub(super) evicts: Option<String>,
    /// How far its clock and ours differ, if that is too far.
    pub(super) apart: Option<Duration>,
}

/// Inspects Redis. What our ACL hides is treated as absent; other failures are returned.
pub(super) async fn at(link: &Link, now: impl FnOnce() -> UnixTime) -> RedisResult<Findings> {
    let memory = match allowed(ask(link, &["INFO", "memory"]).await)? {
        Some(answer) => Some(answer),
        None => allowed(ask(link, &["CONFIG", "GET", "maxmemory*"]).await)?,
    };
    if memory.is_none() {
        tracing::debug!("the ACL hides whether the replay store evicts");
    }
    let time = allowed(ask(link, &["TIME"]).await)?;
    let apart = time.as_ref().and_then(moment).map(|theirs| {
        let ours = now();
        ours.since(theirs).max(theirs.since(ours))
    });
    Ok(Findings {
        evicts: memory.iter().flat_map(servers).find_map(|it| evicting(&it)),
        apart: apart.filter(|it| super::MARGIN < *it),
    })
}

async fn ask(link: &Link, words: &[&str]) -> RedisResult<Value> {
    let mut command = Cmd::new();
    for word in words {
        command.arg(*word);
    }
    link.clone().send(&command).await
}

/// `None` if our ACL forbids the command, or Redis does not know it.
fn allowed(answer: RedisResult<Value>) -> Result<Option<Value>, RedisError> {
    match answer {
        Ok(answer) => Ok(Some(answer)),
        Err(error) if error.code().is_some() => Ok(None),
        Err(error) => Err(error),
    }
}

/// The settings of each server, as `name:value` lines. A cluster returns those of all servers.
fn servers(answer: &Value) -> Vec<String> {
    if let Some(text) = text(answer) {
        return vec![text.into_owned()];
    }
    if let Value::Array(words) = answer {
        let words: Vec<_> = words.iter().filter_map(text).collect();
        return vec![words.chunks(2).map(|it| it.join(":")).collect::<Vec<_>>().join("\n")];
    }
    let Value::Map(pairs) = answer else { return Vec::new() };
    let is_server = |it: &(Value, Value)| text(&it.1).is_some_and(|it| it.contains(':'));
    if pairs.iter().any(is_server) {
        return pairs.iter().flat_map(|(_, it)| servers(it)).collect();
    }
    let line = |(name, value): &(Value, Value)| Some([text(name)?, text(value)?].join(":"));
    vec![pairs.iter().filter_map(line).collect::<Vec<_>>().join("\n")]
}

fn text(answer: &Value) -> Option<Cow<'_, str>> {
    if let Value::VerbatimString { text, .. } = answer {
        return Some(text.into());
    }
    let Value::BulkString(text) = answer else { return None };
    Some(String::from_utf8_lossy(text))
}

/// The eviction policy of a server with a memory limit, if it evicts.
fn evicting(settings: &str) -> Option<String> {
    let setting = |name: &str| {
        settings.lines().find_map(|line| {
            let (found, value) = line.split_once(':')?;
            (found.replace('-', "_") == name).then_some(value.trim())
        })
    };
    let limit = setting("maxmemory")?;
    let policy = setting("maxmemory_policy")?;
    let is_word = policy.len() <= 32 && policy.bytes().all(|it| matches!(it, b'a'..=b'z' | b'-'));
    (limit != "0" && policy != "noeviction")
        .then(|| if is_word { policy.to_owned() } else { "an unknown one".to_owned() })
}

/// The answer to `TIME`: seconds, and microseconds.
fn moment(answer: &Value) -> Option<UnixTime> {
    let Value::Array(parts) = answer else { return None };
    let [seconds, micros] = parts.as_slice() else { return None };
    let number = |it: &Value| text(it)?.parse::<i64>().ok();
    let millis = number(micros)?.checked_div(1000)?;
    Some(UnixTime::from_millis(number(seconds)?.checked_mul(1000)?.checked_add(millis)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bulk(text: &str) -> Value {
        Value::BulkString(text.as_bytes().to_vec())
    }

    fn info(limit: &str, policy: &str) -> Value {
        bulk(&format!(
            "# Memory\r\nused_memory:1\r\nmaxmemory:{limit}\r\nmaxmemory_human:x\r\n\
             maxmemory_policy:{policy}\r\n"
        ))
    }

    fn policy(answer: &Value) -> Option<String> {
        servers(answer).iter().find_map(|it| evicting(it))
    }

    #[test]
    fn a_redis_evicts_that_has_a_limit_and_a_policy_other_than_noeviction() {
        for (limit, named, found) in [
            ("0", "allkeys-lru", None),
            ("1", "noeviction", None),
            ("1", "allkeys-lru", Some("allkeys-lru")),
            ("3000000", "volatile-ttl", Some("volatile-ttl")),
            ("1", "\u{1b}[31mx", Some("an unknown one")),
        ] {
            assert_eq!(policy(&info(limit, named)).as_deref(), found, "{limit} {named}");
            for pairs in [
                [("maxmemory", limit), ("maxmemory-policy", named)],
                [("maxmemory-policy", named), ("maxmemory", limit)],
            ] {
                let flat = pairs.iter().flat_map(|(name, it)| [bulk(name), bulk(it)]).collect();
                assert_eq!(policy(&Value::Array(flat)).as_deref(), found, "{limit} {named}");
                let map = pairs.iter().map(|(name, it)| (bulk(name), bulk(it))).collect();
                assert_eq!(policy(&Value::Map(map)).as_deref(), found, "{limit} {named}");
            }
        }
        for odd in [Value::Nil, bulk(""), bulk("maxmemory:1"), bulk("maxmemory_policy:x")] {
            assert_eq!(policy(&odd), None);
        }
    }

    #[test]
    fn of_a_cluster_each_server_counts() {
        let nodes = |second| {
            Value::Map(vec![
                (bulk("127.0.0.1:1"), info("1", "noeviction")),
                (bulk("127.0.0.1:2"), info("1", second)),
            ])
        };
        assert_eq!(policy(&nodes("noeviction")), None);
        assert_eq!(policy(&nodes("volatile-lru")).as_deref(), Some("volatile-lru"));
    }

    #[test]
    fn the_time_is_read_to_the_millisecond() {
        let time =
            |parts: &[&str]| moment(&Value::Array(parts.iter().map(|it| bulk(it)).collect()));
        assert_eq!(time(&["12", "345678"]), Some(UnixTime::from_millis(12_345)));
        for odd in [&["12"][..], &["x", "1"], &["9223372036854775807", "0"], &["1", "2", "3"]] {
            assert_eq!(time(odd), None);
        }
    }
}
