//! Knows where it is told how one check went, besides the metrics: a line in the log, a span.

use super::check_log;
use super::metrics::Front;
use super::rate_limit::{RateLimit, Allowance};
use super::sample::{self, Sample};
use super::spans::Spans;
use super::trace_context::TraceParent;
use keybound_core::facts::Known;
use keybound_core::{Request, Verdict};
use std::time::Duration;
use tokio::time::Instant;

/// Where checks are told.
#[derive(Debug)]
pub struct Outlets {
    spans: Option<Spans>,
    allows: Sample,
    denials: RateLimit,
}

/// So many denials are told in a second. Whoever floods a service with forged tokens must not make
/// it write a line for each: that costs more than to refuse them. The metrics count them all.
const DENIALS_A_SECOND: u32 = 1000;

/// A check that has ended.
#[derive(Debug)]
pub struct Told<'a> {
    /// How the request came in.
    pub front: Front,
    /// The span in which the proxy made the call, when it said so.
    pub caller: Option<TraceParent>,
    /// The request, unless it could not even be read.
    pub request: Option<&'a Request<'a>>,
    /// How the check ended.
    pub verdict: &'a Verdict,
    /// How long it took.
    pub elapsed: Duration,
    /// When it ended.
    pub ended: Instant,
}

impl Outlets {
    /// Denials are lines, and of the allows this share; sampled checks go to `spans`, if there is
    /// such a thing.
    pub fn new(spans: Option<Spans>, allows: sample::Share) -> Self {
        Self { spans, allows: Sample::new(allows), denials: RateLimit::of(DENIALS_A_SECOND) }
    }

    /// Tells about a check. Whether it did: a denial may be one too many.
    pub fn tell(&self, told: &Told<'_>) -> bool {
        let span = self.spans.as_ref().and_then(|spans| {
            let parent_decides = told.caller.is_some();
            let parent = told.parent();
            spans.take(parent.as_ref(), parent_decides, told.front, told.verdict, told.elapsed)
        });
        let allowed = told.verdict.outcome.is_ok();
        let share = if allowed { Allowance::UNLIMITED } else { self.denials.take(told.ended) };
        let Allowance::Within { untold } = share else { return false };
        if untold > 0 {
            tracing::warn!(untold, "denials that had no line: too many in a second");
        }
        check_log::write(told, span, allowed && self.allows.takes());
        true
    }
}

impl Default for Outlets {
    fn default() -> Self {
        Self::new(None, sample::Share::NONE)
    }
}

impl<'a> Told<'a> {
    /// What is known of it, but for its trace.
    pub fn known(&self) -> Known<'a> {
        let front = Some(self.front.label());
        let elapsed = Some(self.elapsed);
        Known { request: self.request, front, elapsed, ..Known::by(self.verdict) }
    }

    /// What caused the check. The proxy's own span for the call is nearer than what the request
    /// itself carries, which may come from the client.
    pub fn parent(&self) -> Option<TraceParent> {
        let header = || TraceParent::read(self.request?.traceparent?);
        self.caller.or_else(header)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::log::{Format, Level, Sink, subscriber};
    use crate::telemetry::samples::{Out, policy_set};
    use keybound_core::{Denial, Facts};
    use serde_json::Value;

    const CALL: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    const HEADER: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

    /// The lines that `outlets` writes about checks with these outcomes.
    fn lines(
        outlets: &Outlets,
        caller: Option<&str>,
        outcomes: &[Result<(), Denial>],
    ) -> Vec<Value> {
        let out = Out::default();
        let (sink, writer) = Sink::to(out.clone()).unwrap();
        let request = Request { traceparent: Some(HEADER.as_bytes()), ..Request::default() };
        let caller = caller.and_then(|it| TraceParent::read(it.as_bytes()));
        tracing::subscriber::with_default(subscriber(Format::Json, Level::Info, sink), || {
            for outcome in outcomes {
                let verdict = Verdict::new(*outcome, Facts::default(), &policy_set());
                outlets.tell(&Told {
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
        let outlets = Outlets::new(None, sample::Share::of(0.5).unwrap());
        let outcomes = [Ok(()), Ok(()), Err(Denial::TokenExpired), Ok(()), Ok(())];
        let told: Vec<_> = lines(&outlets, None, &outcomes)
            .into_iter()
            .map(|it| (it["message"].clone(), it["reason"].clone()))
            .collect();
        let (allowed, denied) = (("allowed", "allowed"), ("denied", "token_expired"));
        let expected = [allowed, denied, allowed].map(|(it, why)| (it.into(), why.into()));
        assert_eq!(told, expected);
        assert_eq!(lines(&Outlets::default(), None, &[Ok(()); 9]).len(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_flood_of_denials_is_told_in_part_and_then_counted() {
        let outlets = Outlets::default();
        let most = usize::try_from(DENIALS_A_SECOND).unwrap();
        let flood = vec![Err(Denial::TokenExpired); most + 7];
        assert_eq!(lines(&outlets, None, &flood).len(), most);
        // A denial is told late, never an allow too few.
        assert_eq!(lines(&outlets, None, &flood[..1]).len(), 0);
        tokio::time::advance(Duration::from_secs(1)).await;
        let told = lines(&outlets, None, &flood[..1]);
        assert_eq!((told.len(), &told[0]["untold"]), (2, &Value::from(8)));
        assert_eq!(told[1]["reason"], "token_expired");
    }

    #[test]
    fn a_line_names_what_caused_the_check() {
        for (caller, expected) in [(None, HEADER), (Some("odd"), HEADER), (Some(CALL), CALL)] {
            let told = lines(&Outlets::default(), caller, &[Err(Denial::TokenExpired)]);
            let named = format!(
                "00-{}-{}-01",
                told[0]["trace_id"].as_str().unwrap(),
                told[0]["span_id"].as_str().unwrap()
            );
            assert_eq!(named, expected);
        }
    }
}
