//! Knows the line that is written about one check.

use super::metrics::Front;
use crate::check::Verdict;
use crate::request::Request;
use std::time::Duration;
use tracing::{debug, info};

/// How many characters of a value that the client chose go into a line.
const VALUE_CHARS: usize = 64;

/// Writes a line about a check: denials at `info`, allows at `debug`.
pub fn write(front: Front, request: Option<&Request<'_>>, verdict: &Verdict, elapsed: Duration) {
    match verdict.outcome {
        Err(_) if !tracing::enabled!(tracing::Level::INFO) => (),
        Ok(()) if !tracing::enabled!(tracing::Level::DEBUG) => (),
        Ok(()) | Err(_) => write_line(front, request, verdict, elapsed),
    }
}

fn write_line(front: Front, request: Option<&Request<'_>>, verdict: &Verdict, elapsed: Duration) {
    let facts = &verdict.facts;
    let token = facts.token.as_deref();
    let front = front.label();
    let policy = facts.policy.as_ref().map(|it| &*it.name);
    let issuer = token.map(|it| &*it.issuer.name);
    let kid = facts.kid.as_deref().map(shortened);
    let client_id = token.and_then(|it| it.claims.text("client_id")).map(shortened);
    let certificate = facts.certificate.map(|it| it.to_base64url());
    let proved = facts.proved.label();
    let trace_id = request.and_then(|it| trace_id(it.traceparent?));
    let request_id = request.and_then(|it| Some(shortened(str::from_utf8(it.request_id?).ok()?)));
    let micros = u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX);
    if let Err(denial) = verdict.outcome {
        let reason = denial.label();
        let message = if verdict.would_deny().is_some() { "would deny" } else { "denied" };
        info!(
            reason,
            front,
            policy,
            issuer,
            kid,
            client_id,
            certificate,
            proved,
            trace_id,
            request_id,
            micros,
            "{message}"
        );
    } else {
        debug!(
            reason = "allowed",
            front,
            policy,
            issuer,
            kid,
            client_id,
            certificate,
            proved,
            trace_id,
            request_id,
            micros,
            "allowed"
        );
    }
}

/// The beginning of a value of any length.
pub(super) fn shortened(value: &str) -> &str {
    value.char_indices().nth(VALUE_CHARS).and_then(|(end, _)| value.get(..end)).unwrap_or(value)
}

/// The trace id in a `traceparent` header (W3C Trace Context §3.2.2), if it is one.
pub(super) fn trace_id(traceparent: &[u8]) -> Option<&str> {
    let text = str::from_utf8(traceparent).ok()?;
    let mut parts = text.split('-');
    let (version, id, parent) = (parts.next()?, parts.next()?, parts.next()?);
    let hex = |it: &str, length: usize| {
        it.len() == length && it.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'))
    };
    let known = hex(version, 2) && version != "ff" && hex(id, 32) && hex(parent, 16);
    (known && id.bytes().any(|it| it != b'0')).then_some(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";

    #[test]
    fn a_trace_id_is_taken_only_from_a_traceparent() {
        let found = format!("00-{TRACE}-b7ad6b7169203331-01");
        assert_eq!(trace_id(found.as_bytes()), Some(TRACE));
        for odd in [
            "",
            TRACE,
            &found.replace("00-", "ff-"),
            &found.replace("0af7", "0AF7"),
            &found.replace("0af7", "0a\n7"),
            &found.replace("0af7", "0af"),
            &found.replace(TRACE, &"0".repeat(32)),
            &found.replace("b7ad", "b7a"),
        ] {
            assert_eq!(trace_id(odd.as_bytes()), None, "{odd}");
        }
    }

    #[test]
    fn a_long_value_is_cut_between_characters() {
        assert_eq!(shortened(&"é".repeat(64)), "é".repeat(64));
        assert_eq!(shortened(&"é".repeat(65)), "é".repeat(64));
    }
}
