//! The sinks for finished checks, besides the metrics: the log and trace spans.

use super::check_event::CheckEvent;
use super::check_log;
use super::sample::{self, Sample};
use super::spans::Spans;
use crate::rate_limit::{Allowance, RateLimit};

/// The log and, if traces are exported, the spans.
#[derive(Debug)]
pub struct Sinks {
    spans: Option<Spans>,
    allows: Sample,
    denials: RateLimit,
}

/// The most denials logged per second. Writing a line costs more than denying a forged token, so a
/// flood of them must not cause a line each. The metrics count them all.
const DENIALS_A_SECOND: u32 = 1000;

impl Sinks {
    /// Logs denials and a share of the allowed checks, and sends sampled checks to `spans`, if any.
    pub fn new(spans: Option<Spans>, allows: sample::Share) -> Self {
        Self { spans, allows: Sample::new(allows), denials: RateLimit::of(DENIALS_A_SECOND) }
    }

    /// Records a finished check. Returns false if its denial was over the rate limit.
    pub fn record(&self, event: &CheckEvent<'_>) -> bool {
        let span = self.spans.as_ref().and_then(|spans| {
            let parent_decides = event.caller.is_some();
            let parent = event.parent();
            spans.take(parent.as_ref(), parent_decides, event.front, event.verdict, event.elapsed)
        });
        let allowed = event.verdict.outcome.is_ok();
        let share = if allowed { Allowance::UNLIMITED } else { self.denials.take(event.ended) };
        let Allowance::Within { untold } = share else { return false };
        if untold > 0 {
            tracing::warn!(untold, "denials not logged: the rate limit was exceeded");
        }
        check_log::write(event, span, allowed && self.allows.takes());
        true
    }
}

impl Default for Sinks {
    fn default() -> Self {
        Self::new(None, sample::Share::NONE)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::log::{Format, Level, Sink, subscriber};
    use crate::telemetry::metrics::Front;
    use crate::telemetry::samples::{Out, policy_set};
    use crate::telemetry::trace_context::TraceParent;
    use keybound_core::{Denial, Facts, Request, Verdict};
    use serde_json::Value;
    use std::time::Duration;
    use tokio::time::Instant;

    const CALL: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    const HEADER: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    /// The lines that `sinks` logs for checks with these outcomes.
    fn lines(sinks: &Sinks, caller: Option<&str>, outcomes: &[Result<(), Denial>]) -> Vec<Value> {
        let out = Out::default();
        let (sink, writer) = Sink::to(out.clone()).unwrap();
        let request = Request { traceparent: Some(HEADER.as_bytes()), ..Request::default() };
        let caller = caller.and_then(|it| TraceParent::read(it.as_bytes()));
        tracing::subscriber::with_default(subscriber(Format::Json, Level::Info, sink), || {
            for outcome in outcomes {
                let verdict = Verdict::new(*outcome, Facts::default(), &policy_set());
                sinks.record(&CheckEvent {
                    front: Front::ExtAuthz,
                    caller,
                    request: Some(&request),
                    verdict: &verdict,
                    elapsed: Duration::from_micros(60),
                    ended: Instant::now(),
                });
            }
        });
        writer.finish();
        out.text().lines().map(|it| serde_json::from_str(it).unwrap()).collect()
    }

    #[test]
    fn each_denial_has_a_line_and_of_the_allows_a_share() {
        let sinks = Sinks::new(None, sample::Share::of(0.5).unwrap());
        let outcomes = [Ok(()), Ok(()), Err(Denial::TokenExpired), Ok(()), Ok(())];
        let logged: Vec<_> = lines(&sinks, None, &outcomes)
            .into_iter()
            .map(|it| (it["message"].clone(), it["reason"].clone()))
            .collect();
        let (allowed, denied) = (("allowed", "allowed"), ("denied", "token_expired"));
        let expected = [allowed, denied, allowed].map(|(it, why)| (it.into(), why.into()));
        assert_eq!(logged, expected);
        assert_eq!(lines(&Sinks::default(), None, &[Ok(()); 9]).len(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_flood_of_denials_is_logged_in_part_and_then_counted() {
        let sinks = Sinks::default();
        let most = usize::try_from(DENIALS_A_SECOND).unwrap();
        let flood = vec![Err(Denial::TokenExpired); most + 7];
        assert_eq!(lines(&sinks, None, &flood).len(), most);
        assert_eq!(lines(&sinks, None, &flood[..1]).len(), 0);
        tokio::time::advance(Duration::from_secs(1)).await;
        let logged = lines(&sinks, None, &flood[..1]);
        assert_eq!((logged.len(), &logged[0]["untold"]), (2, &Value::from(8)));
        assert_eq!(logged[1]["reason"], "token_expired");
    }

    #[test]
    fn a_line_names_what_caused_the_check() {
        for (caller, expected) in [(None, HEADER), (Some("odd"), HEADER), (Some(CALL), CALL)] {
            let logged = lines(&Sinks::default(), caller, &[Err(Denial::TokenExpired)]);
            let named = format!(
                "00-{}-{}-01",
                logged[0]["trace_id"].as_str().unwrap(),
                logged[0]["span_id"].as_str().unwrap()
            );
            assert_eq!(named, expected);
        }
    }
}
