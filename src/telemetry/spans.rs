//! Checks as trace spans, kept in a bounded queue until they are exported.

use super::metrics::{Front, Metrics, SpanFate};
use super::sample::{Sample, Share};
use super::trace_context::{SpanId, TraceId, TraceParent};
use crate::clock::Clock;
use crate::randomness;
use keybound_core::facts::{self, Known, SPAN, Value};
use keybound_core::{Denial, Verdict};
use prometheus::IntCounter;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc::{Receiver, Sender, channel};

/// A queue of spans of sampled checks. It never blocks.
#[derive(Debug)]
pub struct Spans {
    queue: Sender<Span>,
    roots: Sample,
    clock: Arc<dyn Clock>,
    dropped: IntCounter,
}

/// One check as a span. Its values come from closed sets or from the configuration.
#[derive(Clone, Debug)]
pub struct Span {
    /// Its trace.
    pub trace: TraceId,
    /// Its id in the trace.
    pub id: SpanId,
    /// The parent span; `None` for a root span.
    pub parent: Option<SpanId>,
    /// When the request came, in nanoseconds since the epoch.
    pub start: u64,
    /// When the answer was known, in nanoseconds since the epoch.
    pub end: u64,
    /// Why the request was denied, if it was.
    pub denied: Option<Denial>,
    /// Its attributes.
    pub facts: Vec<(&'static str, Value<'static>)>,
}

/// The length of the queue, which an exporter that keeps up never fills.
pub const QUEUE: usize = 2048;

impl Spans {
    /// A queue and its receiver. Without a deciding proxy, the share `roots` is sampled.
    pub fn new(roots: Share, clock: Arc<dyn Clock>, metrics: &Metrics) -> (Self, Receiver<Span>) {
        let (queue, spans) = channel(QUEUE);
        let dropped = metrics.spans(SpanFate::Dropped);
        (Self { queue, roots: Sample::new(roots), clock, dropped }, spans)
    }

    /// Queues a span for a check that has just ended, if it is sampled. The flag of `parent`
    /// decides if `parent_decides`, which is for the proxy and not for its clients; otherwise the
    /// share decides.
    pub fn take(
        &self,
        parent: Option<&TraceParent>,
        parent_decides: bool,
        front: Front,
        verdict: &Verdict,
        elapsed: Duration,
    ) -> Option<(TraceId, SpanId)> {
        let deciding = parent.filter(|_| parent_decides);
        if !deciding.map_or_else(|| self.roots.takes(), |it| it.sampled) {
            return None;
        }
        let trace = match parent {
            Some(parent) => parent.trace,
            None => TraceId(drawn()?),
        };
        let id = SpanId(drawn()?);
        let end = self.clock.unix_nanos();
        let known = Known { front: Some(front.label()), ..Known::by(verdict) };
        let span = Span {
            trace,
            id,
            parent: parent.map(|it| it.span),
            start: end.saturating_sub(u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX)),
            end,
            denied: verdict.denied(),
            facts: facts::of(SPAN, &known)
                .filter_map(|(name, it)| Some((name, own(it?)?)))
                .collect(),
        };
        if self.queue.try_send(span).is_err() {
            self.dropped.inc();
        }
        Some((trace, id))
    }
}

/// The value, unless it comes from the request.
fn own(value: Value<'_>) -> Option<Value<'static>> {
    if let Value::Given(_) = value { None } else { Some(value.kept()) }
}

/// A random id.
fn drawn<const BYTES: usize>() -> Option<[u8; BYTES]> {
    let mut bytes = [0; BYTES];
    randomness::fill(&mut bytes).ok()?;
    (bytes != [0; BYTES]).then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::FixedClock;
    use crate::telemetry::samples::policy_set;
    use keybound_core::{Facts, UnixTime};

    const PARENT: TraceParent =
        TraceParent { trace: TraceId([7; 16]), span: SpanId([9; 8]), sampled: true };

    fn spans(roots: f64) -> (Spans, Receiver<Span>, Metrics) {
        let metrics = Metrics::new().unwrap();
        let clock = Arc::new(FixedClock(UnixTime::from_secs(100)));
        let (spans, taken) = Spans::new(Share::of(roots).unwrap(), clock, &metrics);
        (spans, taken, metrics)
    }

    fn take(spans: &Spans, parent: Option<&TraceParent>) -> Option<(TraceId, SpanId)> {
        let verdict = Verdict::new(Ok(()), Facts::default(), &policy_set());
        spans.take(parent, true, Front::ExtAuthz, &verdict, Duration::from_micros(60))
    }

    #[test]
    fn a_span_joins_the_trace_of_its_parent() {
        let (spans, mut taken, _) = spans(0.0);
        let (trace, id) = take(&spans, Some(&PARENT)).unwrap();
        let span = taken.try_recv().unwrap();
        assert_eq!((span.trace, span.id, span.parent), (trace, id, Some(PARENT.span)));
        assert_eq!((trace, id == PARENT.span), (PARENT.trace, false));
        assert_eq!((span.start, span.end), (99_999_940_000, 100_000_000_000));
    }

    #[test]
    fn a_span_holds_nothing_that_the_client_chose() {
        assert_eq!(own(Value::Given("x")), None);
        assert_eq!(own(Value::Own("x")), Some(Value::Made("x".to_owned())));
        let (spans, mut taken, _) = spans(0.0);
        take(&spans, Some(&PARENT));
        let labels = [
            ("decision", "allow"),
            ("reason", "allowed"),
            ("front", "ext_authz"),
            ("sender_constraint", "none"),
        ];
        assert_eq!(
            taken.try_recv().unwrap().facts,
            labels.map(|(name, it)| (name, Value::Label(it)))
        );
    }

    #[test]
    fn a_parent_that_is_not_sampled_has_no_children() {
        let (spans, mut taken, _) = spans(1.0);
        assert_eq!(take(&spans, Some(&TraceParent { sampled: false, ..PARENT })), None);
        assert!(taken.try_recv().is_err());
    }

    #[test]
    fn a_check_without_a_parent_begins_a_trace_now_and_then() {
        let (spans, mut taken, _) = spans(0.5);
        let (first, second) = (take(&spans, None), take(&spans, None));
        assert_eq!(first, None);
        let span = taken.try_recv().unwrap();
        assert_eq!((Some((span.trace, span.id)), span.parent), (second, None));
    }

    #[test]
    fn a_parent_that_may_not_decide_lends_its_trace_alone() {
        for sampled in [false, true] {
            let parent = TraceParent { sampled, ..PARENT };
            let verdict = || Verdict::new(Ok(()), Facts::default(), &policy_set());
            let elapsed = Duration::from_micros(60);
            for (roots, taken) in [(0.0, false), (1.0, true)] {
                let (spans, mut queue, _) = spans(roots);
                let told = spans.take(Some(&parent), false, Front::ExtAuthz, &verdict(), elapsed);
                assert_eq!(told.map(|it| it.0), taken.then_some(PARENT.trace), "{roots} {sampled}");
                let parent = queue.try_recv().ok().and_then(|it| it.parent);
                assert_eq!(parent, taken.then_some(PARENT.span), "{roots} {sampled}");
            }
        }
    }

    #[test]
    fn what_does_not_fit_is_dropped_and_counted() {
        let (spans, mut taken, metrics) = spans(0.0);
        for _ in 0..QUEUE.saturating_add(3) {
            take(&spans, Some(&PARENT));
        }
        assert_eq!(metrics.spans(SpanFate::Dropped).get(), 3);
        assert_eq!(std::iter::from_fn(|| taken.try_recv().ok()).count(), QUEUE);
    }
}
