//! Knows how a proxy's question is answered.

use super::{Asker, read, write};
use crate::denial::{Denial, Refusal};
use crate::front::capture::{Capture, neutral};
use crate::gate::{Gate, Passage};
use crate::request::Field;
use crate::telemetry::metrics::Front;
use crate::telemetry::ration::{Ration, Share};
use bytes::Bytes;
use futures_util::FutureExt;
use http::{Request, Response};
use http_body::Body;
use http_body_util::{BodyExt, Full};
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::Arc;
use tokio::time::Instant;

/// The HTTP service, for any number of connections.
#[derive(Debug)]
pub struct Endpoint {
    gate: Arc<Gate>,
    asker: Asker,
    capture: Option<Arc<Capture>>,
    strangers: Ration,
}

/// How much of a question's body is read past, in bytes. It decides nothing, and behind a longer
/// one the connection is closed.
const BODY_BYTES: usize = 1024 * 1024;

impl Endpoint {
    /// A service that has the requests that `asker` asks about checked at `gate`.
    pub fn new(gate: Arc<Gate>, asker: Asker) -> Self {
        Self { gate, asker, strangers: Ration::of(1), capture: None }
    }

    /// The same, and `capture` takes what is refused.
    #[must_use]
    pub fn capturing(self, capture: Option<Arc<Capture>>) -> Self {
        Self { capture, ..self }
    }

    /// Answers one question.
    pub async fn answer<B: Body<Data = Bytes>>(
        &self,
        question: Request<B>,
    ) -> Response<Full<Bytes>> {
        let passage = self.gate.enter(Front::ForwardAuth);
        let checked = AssertUnwindSafe(self.check(&passage, question)).catch_unwind().await;
        checked.unwrap_or_else(|_| self.refused(&passage, Denial::Internal))
    }

    async fn check<B: Body<Data = Bytes>>(
        &self,
        passage: &Passage<'_>,
        question: Request<B>,
    ) -> Response<Full<Bytes>> {
        let (question, body) = question.into_parts();
        let received: Result<_, Refusal> = async {
            passage.admit()?;
            self.recognise(&question.headers)?;
            passage.in_time(pin!(read_past(body))).await?;
            let certificate_header = passage.standing().certificate_header();
            read::request(&question, &self.asker.flavour, certificate_header)
        }
        .await;
        match received {
            Ok(request) => {
                let verdict = passage.check(&request).await;
                let answer = passage.answer(&verdict, Some(&request));
                if let Some(capture) = &self.capture {
                    let header = passage.standing().certificate_header();
                    capture.take(&answer, header, || neutral::message(&request, header).into());
                }
                write::response(&answer, &self.asker.flavour, request.authorization)
            }
            Err(refusal) => self.refused(passage, refusal),
        }
    }

    fn refused(&self, passage: &Passage<'_>, why: impl Into<Refusal>) -> Response<Full<Bytes>> {
        let verdict = passage.refuse(why);
        let answer = passage.answer(&verdict, None);
        write::response(&answer, &self.asker.flavour, Field::Absent)
    }

    /// Refuses whoever is not the proxy. No policy is for what a stranger asks.
    fn recognise(&self, headers: &http::HeaderMap) -> Result<(), Denial> {
        match &self.asker.secret {
            Some(secret) if !secret.is_among(headers) => {
                if let Share::Told { untold } = self.strangers.take(Instant::now()) {
                    let listener = Front::ForwardAuth.label();
                    tracing::warn!(listener, untold, "the secret was not shown");
                }
                Err(Denial::PolicyUnknown)
            }
            Some(_) | None => Ok(()),
        }
    }
}

/// Reads past `body`, so that its connection can go on.
async fn read_past<B: Body<Data = Bytes>>(body: B) {
    let mut body = pin!(body);
    let mut read: usize = 0;
    while read <= BODY_BYTES {
        let Some(Ok(frame)) = body.frame().await else { return };
        read = read.saturating_add(frame.data_ref().map_or(0, Bytes::len));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::check::{Checker, Rules};
    use crate::clock::SystemClock;
    use crate::front::forward_auth::{Flavour, Secret};
    use crate::state::token_cache::TokenCache;
    use crate::telemetry::metrics::Metrics;
    use crate::telemetry::samples::policy_set;
    use futures_util::stream;
    use http::HeaderName;
    use http_body::Frame;
    use http_body_util::{Empty, StreamBody};
    use std::convert::Infallible;
    use std::task::Poll;

    fn endpoint(secret: Option<Secret>) -> Endpoint {
        let policies = policy_set();
        let cache = Arc::new(TokenCache::new(policies.limits.token_cache));
        let rules = Rules::new(policies, vec![], vec![], cache, crate::telemetry::samples::dpop());
        let metrics = Arc::new(Metrics::new().unwrap());
        let gate = Gate::new(Checker::new(Arc::new(SystemClock)), rules, String::new(), metrics);
        let flavour = Flavour::Envoy { path_prefix: String::new() };
        Endpoint::new(Arc::new(gate), Asker { flavour, secret })
    }

    fn question<B>(body: B) -> Request<B> {
        Request::builder().uri("/a").header("host", "api.test").body(body).unwrap()
    }

    #[track_caller]
    fn assert_refused(endpoint: &Endpoint, status: u16, reason: &str) {
        assert!((400..600).contains(&status), "{status}");
        let text = endpoint.gate.metrics().exposition().unwrap();
        let series = format!("front=\"forward_auth\",policy=\"\",reason=\"{reason}\"}} 1\n");
        assert!(text.contains(&series), "{reason}\n{text}");
        assert_eq!(endpoint.gate.under_way(), 0);
    }

    async fn check<B: Body<Data = Bytes>>(question: Request<B>, status: u16, reason: &str) {
        let endpoint = endpoint(None);
        let response = endpoint.answer(question).await;
        assert_eq!(response.status(), status);
        assert_refused(&endpoint, response.status().as_u16(), reason);
    }

    fn empty() -> Empty<Bytes> {
        Empty::new()
    }

    #[tokio::test]
    async fn a_question_that_cannot_be_read_is_refused() {
        check(Request::builder().uri("/a").body(empty()).unwrap(), 400, "request_malformed").await;
    }

    #[tokio::test]
    async fn a_panic_refuses() {
        let fails = stream::poll_fn(|_| -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            panic!("as it should")
        });
        check(question(StreamBody::new(fails)), 500, "internal").await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_does_not_end_in_time_is_refused() {
        let stalls = stream::pending::<Result<Frame<Bytes>, Infallible>>();
        check(question(StreamBody::new(stalls)), 503, "check_timed_out").await;
    }

    #[tokio::test]
    async fn a_body_decides_nothing_however_long_it_is() {
        let endless =
            stream::repeat_with(|| Ok::<_, Infallible>(Frame::data(vec![0; 65_536].into())));
        let answer = endpoint(None).answer(question(StreamBody::new(endless))).await;
        assert_eq!(answer.status(), 401);
        let broken = stream::iter([Err::<Frame<Bytes>, _>("reset")]);
        let answer = endpoint(None).answer(question(StreamBody::new(broken))).await;
        assert_eq!(answer.status(), 401);
    }

    #[tokio::test]
    async fn more_than_there_is_room_for_are_refused_unread() {
        let endpoint = endpoint(None);
        let places = [(); 2].map(|()| endpoint.gate.enter(Front::ForwardAuth));
        let stalls = stream::pending::<Result<Frame<Bytes>, Infallible>>();
        let response = endpoint.answer(question(StreamBody::new(stalls))).await;
        drop(places);
        assert_refused(&endpoint, response.status().as_u16(), "overloaded");
    }

    #[tokio::test]
    async fn whoever_does_not_show_the_secret_is_refused() {
        let header = HeaderName::from_static("x-keybound-secret");
        for (shown, status) in [(Some("right"), 401), (Some("wrong"), 403), (None, 403)] {
            let endpoint = endpoint(Some(Secret::new(header.clone(), b"right")));
            let mut question = question(empty());
            if let Some(shown) = shown {
                question.headers_mut().insert(header.clone(), shown.parse().unwrap());
            }
            let found = endpoint.answer(question).await.status();
            assert_eq!(found, status, "{shown:?}");
            if status == 403 {
                assert_refused(&endpoint, status, "policy_unknown");
            }
        }
    }
}
