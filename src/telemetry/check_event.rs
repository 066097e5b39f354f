//! A finished check, as the log, traces and the list of last denials receive it.

use super::metrics::Front;
use super::trace_context::TraceParent;
use keybound_core::facts::Known;
use keybound_core::{Request, Verdict};
use std::time::Duration;
use tokio::time::Instant;

/// A check that has ended.
#[derive(Debug)]
pub struct CheckEvent<'a> {
    /// How the request came in.
    pub front: Front,
    /// The proxy's span for the call, if it sent one.
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

impl<'a> CheckEvent<'a> {
    /// The facts of the check, except for its trace.
    pub fn known(&self) -> Known<'a> {
        let front = Some(self.front.label());
        let elapsed = Some(self.elapsed);
        Known { request: self.request, front, elapsed, ..Known::by(self.verdict) }
    }

    /// The parent span. The proxy's own span for the call comes before that of the request's
    /// header, which the client may have written.
    pub fn parent(&self) -> Option<TraceParent> {
        let header = || TraceParent::read(self.request?.traceparent?);
        self.caller.or_else(header)
    }
}
