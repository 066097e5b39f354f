//! The log line of one check.

use super::check_event::CheckEvent;
use super::trace_context::{SpanId, TraceId};
use keybound_core::facts::{self, Known, LOG, Value};
use tracing::Level;
use tracing::field::Value as Field;

/// Logs a check: denials and `sampled` allowed checks at `info`, other allowed checks at `debug`.
///
/// The line carries `span`, or the parent span if the check has none of its own.
pub fn write(event: &CheckEvent<'_>, span: Option<(TraceId, SpanId)>, sampled: bool) {
    let loud = event.verdict.outcome.is_err() || sampled;
    let enabled =
        if loud { tracing::enabled!(Level::INFO) } else { tracing::enabled!(Level::DEBUG) };
    if enabled {
        write_line(event, span, loud);
    }
}

/// The field names, which a tracing event fixes at compile time. A fact without a value is not
/// written.
const NAMES: [&str; 24] = facts::names(LOG);

macro_rules! line {
    ($level:expr, $message:ident, $values:ident: $($place:literal)+) => {
        tracing::event!($level, $message, $({ NAMES[$place] } = $values[$place]),+)
    };
    ($level:expr, $message:ident, $values:ident) => {
        line!($level, $message, $values: 0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23)
    };
}

fn write_line(event: &CheckEvent<'_>, span: Option<(TraceId, SpanId)>, loud: bool) {
    let message = match event.verdict.outcome {
        Ok(()) if event.verdict.served().is_some() => "served",
        Ok(()) => "allowed",
        Err(_) if event.verdict.would_deny().is_some() => "would deny",
        Err(_) => "denied",
    };
    let (trace_id, span_id) = span
        .or_else(|| event.parent().map(|it| (it.trace, it.span)))
        .map(|(trace, span)| (trace.to_hex(), span.to_hex()))
        .unzip();
    let known =
        Known { trace_id: trace_id.as_deref(), span_id: span_id.as_deref(), ..event.known() };
    let mut found = [const { None }; NAMES.len()];
    for (place, (_, value)) in found.iter_mut().zip(facts::of(LOG, &known)) {
        *place = value.map(|it| it.shortened().written());
    }
    let values = found.each_ref().map(|it| it.as_ref().map(field));
    if loud {
        line!(Level::INFO, message, values);
    } else {
        line!(Level::DEBUG, message, values);
    }
}

fn field<'v>(value: &'v Value<'_>) -> &'v dyn Field {
    match value {
        Value::Label(it) | Value::Own(it) | Value::Given(it) => it,
        Value::Made(it) => it,
        // It is written before.
        Value::Print(_) => &"",
        Value::Flag(it) => it,
        Value::Number(it) => it,
        Value::Span(it) => it,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::log::{self, Format, Sink, subscriber};
    use crate::telemetry::metrics::Front;
    use crate::telemetry::samples::Out;
    use keybound_core::jose::Thumbprint;
    use keybound_core::policy::{Mode, Policy, SenderConstraint};
    use keybound_core::{Denial, Detail, Facts, Request, Verdict};
    use serde_json::json;
    use std::sync::Arc;
    use std::time::Duration;
    use tokio::time::Instant;

    /// The line about a check that ended so, without its time.
    fn line(outcome: Result<(), Denial>, mode: Mode, facts: Facts) -> serde_json::Value {
        let out = Out::default();
        let (sink, writer) = Sink::to(out.clone()).unwrap();
        let verdict = Verdict { outcome, facts, mode };
        let request = Request { request_id: Some(b"7"), ..Request::default() };
        let event = CheckEvent {
            front: Front::ExtAuthz,
            caller: None,
            request: Some(&request),
            verdict: &verdict,
            elapsed: Duration::from_micros(60),
            ended: Instant::now(),
        };
        tracing::subscriber::with_default(
            subscriber(Format::Json, log::Level::Debug, sink),
            || {
                write(&event, Some((TraceId([7; 16]), SpanId([9; 8]))), false);
            },
        );
        writer.finish();
        let mut line: serde_json::Value = serde_json::from_str(&out.text()).unwrap();
        line.as_object_mut().unwrap().remove("timestamp");
        line
    }

    #[test]
    fn a_line_has_each_fact_that_is_known_by_its_name() {
        let policy = Arc::new(Policy::new("payments", SenderConstraint::Certificate));
        let print = Thumbprint::of(b"certificate");
        let known = || Facts {
            policy: Some(Arc::clone(&policy)),
            detail: Some(Detail::MessageTooLarge),
            kid: Some("x".repeat(129).into()),
            certificate: Some(print),
            ..Facts::default()
        };
        let trace_id = "07".repeat(16);
        let span_id = "09".repeat(8);
        for (outcome, mode, level, message, reason) in [
            (Ok(()), Mode::Enforce, "DEBUG", "allowed", "allowed"),
            (Err(Denial::TokenExpired), Mode::Enforce, "INFO", "denied", "token_expired"),
            (Err(Denial::TokenExpired), Mode::Report, "INFO", "would deny", "token_expired"),
        ] {
            let mut expected = json!({
                "level": level, "target": "keybound::telemetry::check_log",
                "message": message, "reason": reason, "detail": "message_too_large",
                "front": "ext_authz", "policy": "payments", "method": "", "host": "", "path": "",
                "kid": "x".repeat(128),
                "certificate": print.to_base64url(), "proved": "none", "trace_id": trace_id,
                "span_id": span_id, "request_id": "7", "micros": 60,
            });
            if outcome.is_ok() {
                expected.as_object_mut().unwrap().remove("detail");
            }
            assert_eq!(line(outcome, mode, known()), expected);
        }
    }
}
