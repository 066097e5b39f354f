//! Knows the line that is written about one check.

use super::outlets::Told;
use super::trace_context::{SpanId, TraceId};
use crate::denial::Detail;
use tracing::{debug, info};

/// How many characters of a value that the client chose go into a line.
const VALUE_CHARS: usize = 64;

/// Writes a line about a check: denials and `sampled` allows at `info`, other allows at `debug`.
///
/// It names `span`, or what caused the check when that has no span of its own.
pub fn write(told: &Told<'_>, span: Option<(TraceId, SpanId)>, sampled: bool) {
    let loud = told.verdict.outcome.is_err() || sampled;
    let enabled = if loud {
        tracing::enabled!(tracing::Level::INFO)
    } else {
        tracing::enabled!(tracing::Level::DEBUG)
    };
    if enabled {
        write_line(told, span, loud);
    }
}

fn write_line(told: &Told<'_>, span: Option<(TraceId, SpanId)>, loud: bool) {
    let (message, reason) = match told.verdict.outcome {
        Ok(()) => ("allowed", "allowed"),
        Err(denial) if told.verdict.would_deny().is_some() => ("would deny", denial.label()),
        Err(denial) => ("denied", denial.label()),
    };
    let facts = &told.verdict.facts;
    let token = facts.token.as_deref();
    let front = told.front.label();
    let policy = facts.policy.as_ref().map(|it| &*it.name);
    let issuer = token.map(|it| &*it.issuer.name);
    let kid = facts.kid.as_deref().map(shortened);
    let client_id = token.and_then(|it| it.claims.text("client_id")).map(shortened);
    let certificate = facts.certificate.map(|it| it.to_base64url());
    let proved = facts.proved.label();
    let (trace_id, span_id) = span
        .or_else(|| told.parent().map(|it| (it.trace, it.span)))
        .map(|(trace, span)| (trace.to_hex(), span.to_hex()))
        .unzip();
    let request_id =
        told.request.and_then(|it| Some(shortened(str::from_utf8(it.request_id?).ok()?)));
    let detail = facts.detail.filter(|_| told.verdict.outcome.is_err()).map(Detail::label);
    let micros = u64::try_from(told.elapsed.as_micros()).unwrap_or(u64::MAX);
    if loud {
        info!(
            message,
            reason,
            detail,
            front,
            policy,
            issuer,
            kid,
            client_id,
            certificate,
            proved,
            trace_id,
            span_id,
            request_id,
            micros,
        );
    } else {
        debug!(
            message,
            reason,
            detail,
            front,
            policy,
            issuer,
            kid,
            client_id,
            certificate,
            proved,
            trace_id,
            span_id,
            request_id,
            micros,
        );
    }
}

/// The beginning of a value of any length.
pub(super) fn shortened(value: &str) -> &str {
    value.char_indices().nth(VALUE_CHARS).and_then(|(end, _)| value.get(..end)).unwrap_or(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_value_is_cut_between_characters() {
        assert_eq!(shortened(&"é".repeat(64)), "é".repeat(64));
        assert_eq!(shortened(&"é".repeat(65)), "é".repeat(64));
    }
}
