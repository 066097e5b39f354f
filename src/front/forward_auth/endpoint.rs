//! The HTTP endpoint for forward-auth questions.

use super::flaw::Flaw;
use super::{Asker, Flavour, Secret, read, write};
use crate::front::capture::{Capture, to_check_request};
use crate::gate::{Admitted, Call, Gate};
use crate::rate_limit::{Allowance, RateLimit};
use crate::telemetry::metrics::Front;
use arc_swap::ArcSwapOption;
use bytes::Bytes;
use futures_util::FutureExt;
use http::header::{CONNECTION, EXPECT, HOST, HeaderMap, HeaderName, HeaderValue};
use http::request::Parts;
use http::uri::Authority;
use http::{Request, Response};
use http_body::Body;
use http_body_util::Full;
use keybound_core::policy::{ReservedHeaders, WELL_KNOWN_PATH};
use keybound_core::{Answer, Denial, Detail, Field, Refusal, Target};
use std::future::poll_fn;
use std::panic::AssertUnwindSafe;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use tokio::task::yield_now;
use tokio::time::Instant;

/// The HTTP service, shared by all connections.
#[derive(Debug)]
pub struct Endpoint {
    gate: Arc<Gate>,
    asker: Asker,
    /// The current secret of the proxy, which replaces the one of `asker`.
    secret: Arc<ArcSwapOption<Secret>>,
    capture: Option<Arc<Capture>>,
    /// The rate limit of warnings about clients without the secret.
    strangers: RateLimit,
    /// The rate limit of warnings about headers that cannot be removed.
    aliases: RateLimit,
    /// The rate limit of warnings about questions that describe no request.
    flaws: RateLimit,
}

/// How much of a request body is read and discarded, in bytes. It has no influence on the decision;
/// after a longer one, the connection is closed.
const BODY_BYTES: usize = 64 * 1024;

/// How many times a body that is not ready is polled again. The HTTP library reads from the
/// connection in between.
const LOOKS: usize = 8;

impl Endpoint {
    /// A service that checks the requests `asker` asks about at `gate`.
    pub fn new(gate: Arc<Gate>, asker: Asker) -> Self {
        let [strangers, aliases, flaws] = [1, 1, 1].map(RateLimit::of);
        let secret = Arc::new(ArcSwapOption::from_pointee(asker.secret.clone()));
        Self { gate, asker, secret, strangers, aliases, flaws, capture: None }
    }

    /// The current secret of the proxy, for a reload to replace.
    pub const fn secret(&self) -> &Arc<ArcSwapOption<Secret>> {
        &self.secret
    }

    /// The same service, capturing denied requests with `capture`.
    #[must_use]
    pub fn capturing(self, capture: Option<Arc<Capture>>) -> Self {
        Self { capture, ..self }
    }

    /// Answers one question.
    pub async fn answer<B: Body<Data = Bytes>>(
        &self,
        question: Request<B>,
    ) -> Response<Full<Bytes>> {
        let (question, body) = question.into_parts();
        let call = self.gate.enter(Front::ForwardAuth);
        let checked = AssertUnwindSafe(self.check(&call, &question)).catch_unwind().await;
        let mut answer = checked.unwrap_or_else(|_| self.refused(&call, Denial::Internal));
        drop(call);
        let over = AssertUnwindSafe(is_over(&question.headers, body)).catch_unwind().await;
        if !over.unwrap_or(false) {
            answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        answer
    }

    async fn check(&self, call: &Call<&Gate>, question: &Parts) -> Response<Full<Bytes>> {
        if let Some(resource) = read::metadata_asked_for(question, &self.asker.flavour) {
            return served(call, question, resource);
        }
        let reserved = call.active().rules().reserved_headers();
        // First, because a header that cannot be removed is refused even in report mode.
        let unwanted = match self.unwanted(question, reserved) {
            Ok(unwanted) => unwanted,
            Err(refusal) => return self.refused(call, refusal),
        };
        match self.read(call, question) {
            Ok((admitted, request)) => {
                let request = keybound_core::Request { unwanted, ..request };
                let verdict = admitted.check(&request).await;
                let answer = call.answer(&verdict, Some(&request));
                if let Some(capture) = &self.capture {
                    let active = call.active();
                    let (digest, header) = (&active.digest, active.certificate_header());
                    let copy = || to_check_request(&request, header).into();
                    capture.take(&verdict, digest, header, copy);
                }
                self.written(&answer, request.authorization, &call.active().reserved_list)
            }
            Err(refusal) => {
                let verdict = call.refuse(refusal);
                // Even if the question describes no request, its headers are known.
                let request = keybound_core::Request { unwanted, ..Default::default() };
                let answer = call.answer(&verdict, Some(&request));
                // In report mode, a request that is allowed keeps its token.
                let authorization = read::field(&question.headers, "authorization");
                self.written(&answer, authorization, &call.active().reserved_list)
            }
        }
    }

    /// The request that `question` describes, and the permit to check it.
    fn read<'q>(
        &self,
        call: &'q Call<&'q Gate>,
        question: &'q Parts,
    ) -> Result<(Admitted<'q, &'q Gate>, keybound_core::Request<'q>), Refusal> {
        let admitted = call.admit()?;
        self.recognise(&question.headers)?;
        let certificate_header = call.active().certificate_header();
        match read::request(question, &self.asker.flavour, certificate_header) {
            Ok(request) => Ok((admitted, request)),
            Err(flaw) => {
                self.warn_of(flaw);
                Err(flaw.into())
            }
        }
    }

    /// Says what the proxy has to change. What clients alone can cause is no warning.
    fn warn_of(&self, flaw: Flaw) {
        if flaw == Flaw::Upgrade {
            return;
        }
        if let Allowance::Within { untold } = self.flaws.take(Instant::now()) {
            let (header, advice) = (flaw.header(), flaw.advice(&self.asker.flavour));
            let what = flaw.detail().sentence();
            tracing::warn!(header, advice, untold, "question of the proxy refused: {what}");
        }
    }

    fn refused(&self, call: &Call<&Gate>, why: impl Into<Refusal>) -> Response<Full<Bytes>> {
        let verdict = call.refuse_unread(why);
        let answer = call.answer(&verdict, None);
        self.written(&answer, Field::Absent, &call.active().reserved_list)
    }

    fn written(
        &self,
        answer: &Answer<'_>,
        authorization: Field<'_>,
        reserved_list: &HeaderValue,
    ) -> Response<Full<Bytes>> {
        write::response(answer, &self.asker.flavour, authorization, reserved_list)
    }

    /// The names of the headers in a question that must not reach the upstream.
    ///
    /// # Errors
    ///
    /// There are some, and this proxy cannot be told to remove them: it copies only headers that
    /// its own configuration names.
    fn unwanted<'q>(
        &self,
        question: &'q Parts,
        reserved: &ReservedHeaders,
    ) -> Result<Vec<&'q str>, Refusal> {
        let names = question.headers.keys().map(HeaderName::as_str);
        let unwanted: Vec<_> = names.filter(|it| reserved.must_go(it.as_bytes())).collect();
        match (&self.asker.flavour, unwanted.first()) {
            (Flavour::Envoy { .. }, _) | (Flavour::Nginx | Flavour::Traefik, None) => Ok(unwanted),
            (Flavour::Nginx | Flavour::Traefik, Some(header)) => {
                if let Allowance::Within { untold } = self.aliases.take(Instant::now()) {
                    let detail = Detail::HeaderUnremovable;
                    tracing::warn!(header, untold, "refused: {}", detail.sentence());
                }
                Err(Detail::HeaderUnremovable.into())
            }
        }
    }

    /// Refuses a client that is not the proxy. No policy applies to it.
    fn recognise(&self, headers: &HeaderMap) -> Result<(), Denial> {
        match &*self.secret.load() {
            Some(secret) if !secret.is_among(headers) => {
                if let Allowance::Within { untold } = self.strangers.take(Instant::now()) {
                    let listener = Front::ForwardAuth.label();
                    tracing::warn!(listener, untold, "the secret was not shown");
                }
                Err(Denial::PolicyUnknown)
            }
            Some(_) | None => Ok(()),
        }
    }
}

/// The metadata of a resource, for everybody: the proxy sends its clients here and asks about nothing, so
/// that it need not show the secret.
fn served(call: &Call<&Gate>, question: &Parts, resource: &str) -> Response<Full<Bytes>> {
    let authority = question.uri.authority().map(Authority::as_str);
    let host = || str::from_utf8(read::field(&question.headers, HOST.as_str()).sole()?).ok();
    let path = &format!("{WELL_KNOWN_PATH}{resource}");
    let method = question.method.as_str();
    let authority = authority.or_else(host).unwrap_or_default();
    let target = Target { method, scheme: "", authority, path };
    let request = keybound_core::Request { target, ..Default::default() };
    let verdict = call.serve(&request);
    let answer = verdict.as_ref().map(|it| call.answer(it, Some(&request)));
    write::metadata(answer.as_ref())
}

/// Whether `body` is complete. It is discarded so that the connection can be reused.
///
/// A body has no influence on the decision, so it is not waited for: nginx announces the client's
/// body and does not send it (`auth_request` with `proxy_pass_request_body off`).
async fn is_over<B: Body<Data = Bytes>>(headers: &HeaderMap, body: B) -> bool {
    if body.is_end_stream() {
        return true;
    }
    // Polling the body would send the client `100 Continue` (RFC 9110 §10.1.1).
    if headers.contains_key(EXPECT) {
        return false;
    }
    let mut body = pin!(body);
    let (mut read, mut looks): (usize, usize) = (0, 0);
    while read <= BODY_BYTES && looks < LOOKS {
        match poll_fn(|it| Poll::Ready(body.as_mut().poll_frame(it))).await {
            Poll::Ready(Some(Ok(frame))) => {
                read = read.saturating_add(frame.data_ref().map_or(0, Bytes::len));
            }
            Poll::Ready(Some(Err(_))) => return false,
            Poll::Ready(None) => return true,
            Poll::Pending => {
                looks = looks.saturating_add(1);
                yield_now().await;
            }
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{Clock, SystemClock};
    use crate::installation::Checker;
    use crate::installation::samples::installation;
    use crate::telemetry::installed::Installed;
    use crate::telemetry::metrics::Metrics;
    use crate::telemetry::samples::policy_set;
    use futures_util::stream::{self, StreamExt};
    use http_body::Frame;
    use http_body_util::{Empty, StreamBody};
    use keybound_core::UnixTime;
    use keybound_core::policy::{IdentityHeader, Mode, Policy, SenderConstraint};
    use std::convert::Infallible;
    use std::time::Duration;

    fn endpoint(secret: Option<Secret>) -> Endpoint {
        endpoint_by(Arc::new(SystemClock), secret)
    }

    fn endpoint_by(clock: Arc<dyn Clock>, secret: Option<Secret>) -> Endpoint {
        let policies = policy_set();
        let installation = installation(policies);
        let metrics = Arc::new(Metrics::new().unwrap());
        let gate = Gate::new(Checker::new(clock), installation, String::new(), metrics);
        let flavour = Flavour::Envoy { path_prefix: String::new() };
        Endpoint::new(Arc::new(gate), Asker { flavour, secret })
    }

    fn question<B>(body: B) -> Request<B> {
        Request::builder().uri("/a").header("host", "api.test").body(body).unwrap()
    }

    #[track_caller]
    fn assert_refused(endpoint: &Endpoint, status: u16, reason: &str) {
        assert!((400..600).contains(&status), "{status}");
        let text = endpoint.gate.metrics().exposition(&Installed::default()).unwrap();
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

    /// An endpoint for a proxy of this flavour, which must show a secret where there is metadata.
    fn serving(flavour: Flavour) -> Endpoint {
        let mut policies = policy_set();
        let mut policy = Policy::new("payments", SenderConstraint::Dpop);
        policy.origin = keybound_core::Origin::parse("https://api.test").ok();
        policy.matches.path_prefix = vec![b"payments".to_vec()];
        policy.resource = Some(keybound_core::policy::Resource::default());
        policies.policies = [Arc::new(policy)].into();
        let metrics = Arc::new(Metrics::new().unwrap());
        let checker = Checker::new(Arc::new(SystemClock));
        let gate = Gate::new(checker, installation(policies), String::new(), metrics);
        let secret = Some(Secret::new(HeaderName::from_static("x-secret"), b"0123456789abcdef"));
        Endpoint::new(Arc::new(gate), Asker { flavour, secret })
    }

    #[tokio::test]
    async fn metadata_are_for_everybody_at_a_path_where_nobody_asks_about_a_request() {
        let prefix = |it: &str| Flavour::Envoy { path_prefix: it.to_owned() };
        let payments = "/resource-metadata/payments";
        for (flavour, method, path, host, expected) in [
            (Flavour::Nginx, "GET", payments, "api.test", 200),
            (Flavour::Traefik, "HEAD", payments, "API.test:8443", 200),
            (Flavour::Nginx, "OPTIONS", payments, "api.test", 200),
            (prefix("/check"), "GET", payments, "api.test", 200),
            (Flavour::Nginx, "POST", payments, "api.test", 404),
            (Flavour::Nginx, "GET", payments, "other.test", 404),
            (Flavour::Nginx, "GET", "/resource-metadata", "api.test", 404),
            (Flavour::Nginx, "GET", "/resource-metadata/other", "api.test", 404),
            // These are questions, from somebody who does not show the secret.
            (Flavour::Nginx, "GET", "/resource-metadatas/payments", "api.test", 403),
            (prefix(""), "GET", payments, "api.test", 403),
            (prefix("/resource-metadata"), "GET", payments, "api.test", 403),
            (prefix("/r"), "GET", payments, "api.test", 403),
        ] {
            let endpoint = serving(flavour.clone());
            let question =
                Request::builder().method(method).uri(path).header("host", host).body(empty());
            let answer = endpoint.answer(question.unwrap()).await;
            assert_eq!(answer.status(), expected, "{flavour:?} {method} {path} {host}");
            let text = endpoint.gate.metrics().exposition(&Installed::default()).unwrap();
            let series = "keybound_checks_total{decision=\"served\",front=\"forward_auth\",\
                          policy=\"payments\",reason=\"resource_metadata\"} 1\n";
            assert_eq!(text.contains(series), expected == 200, "{text}");
            let header = |name: &str| answer.headers().get(name).and_then(|it| it.to_str().ok());
            if expected == 200 {
                assert_eq!(header("cache-control"), Some("public, max-age=300"));
                assert_eq!(header("access-control-allow-origin"), Some("*"));
            } else {
                assert_eq!(header("cache-control"), Some("no-store"));
            }
        }
    }

    #[tokio::test]
    async fn a_question_about_metadata_is_never_answered_with_success() {
        let endpoint = serving(Flavour::Nginx);
        let question = Request::builder()
            .uri("/check")
            .header("x-secret", "0123456789abcdef")
            .header("x-original-method", "GET")
            .header("x-original-uri", "/.well-known/oauth-protected-resource/payments")
            .header("x-forwarded-proto", "https")
            .header("x-forwarded-host", "api.test")
            .body(empty());
        assert_eq!(endpoint.answer(question.unwrap()).await.status(), 403);
        assert_refused(&endpoint, 403, "policy_unknown");
    }

    /// A clock that fails.
    #[derive(Debug)]
    struct Broken;

    impl Clock for Broken {
        fn now(&self) -> UnixTime {
            panic!("as it should")
        }
    }

    #[tokio::test]
    async fn a_panic_refuses() {
        let endpoint = endpoint_by(Arc::new(Broken), None);
        let mut question = question(empty());
        question.headers_mut().insert("authorization", HeaderValue::from_static("Bearer a.b.c"));
        let answer = endpoint.answer(question).await;
        assert_eq!(answer.status(), 500);
        let text = endpoint.gate.metrics().exposition(&Installed::default()).unwrap();
        assert!(text.contains("reason=\"internal\"} 1\n"), "{text}");
    }

    /// The status of the response to a question with this body, and whether the connection stays
    /// open.
    async fn answered<B: Body<Data = Bytes>>(question: Request<B>) -> (u16, bool) {
        let begun = Instant::now();
        let answer = endpoint(None).answer(question).await;
        assert_eq!(begun.elapsed(), Duration::ZERO, "nobody waits for a body");
        let closes = answer.headers().get("connection").is_some_and(|it| it == "close");
        (answer.status().as_u16(), !closes)
    }

    fn frames(
        sizes: &[usize],
    ) -> impl futures_util::Stream<Item = Result<Frame<Bytes>, Infallible>> {
        let frames = sizes.iter().map(|it| Ok(Frame::data(vec![0; *it].into())));
        stream::iter(frames.collect::<Vec<_>>())
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_is_there_is_read_past_and_the_connection_goes_on() {
        assert_eq!(answered(question(empty())).await, (401, true));
        for sizes in [&[][..], &[1], &[1, 2, 3], &[BODY_BYTES]] {
            let body = StreamBody::new(frames(sizes));
            assert_eq!(answered(question(body)).await, (401, true), "{sizes:?}");
        }
        // It arrives once the HTTP library has been polled.
        let mut first = true;
        let later = stream::poll_fn(move |context| {
            context.waker().wake_by_ref();
            let done = if first { Poll::Pending } else { Poll::Ready(None) };
            first = false;
            done
        });
        let later = later.map(|()| Ok::<_, Infallible>(Frame::data(Bytes::new())));
        assert_eq!(answered(question(StreamBody::new(later))).await, (401, true));
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_does_not_come_is_not_waited_for_and_the_connection_ends() {
        let stalls = || stream::pending::<Result<Frame<Bytes>, Infallible>>();
        assert_eq!(answered(question(StreamBody::new(stalls()))).await, (401, false));
        let begun = frames(&[1, 2]).chain(stalls());
        assert_eq!(answered(question(StreamBody::new(begun))).await, (401, false));
        let endless = stream::repeat_with(|| Ok::<_, Infallible>(Frame::data(vec![0; 99].into())));
        assert_eq!(answered(question(StreamBody::new(endless))).await, (401, false));
        let broken = stream::iter([Err::<Frame<Bytes>, _>("reset")]);
        assert_eq!(answered(question(StreamBody::new(broken))).await, (401, false));
        let fails = stream::poll_fn(|_| -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            panic!("as it should")
        });
        assert_eq!(answered(question(StreamBody::new(fails))).await, (401, false));
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_asks_whether_to_send_its_body_is_not_told_to() {
        let polled = stream::poll_fn(|_| -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            unreachable!("to ask for it is to say yes")
        });
        let mut question = question(StreamBody::new(polled));
        question.headers_mut().insert("expect", HeaderValue::from_static("100-continue"));
        assert_eq!(answered(question).await, (401, false));
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

    #[tokio::test]
    async fn a_secret_that_is_replaced_counts_no_longer() {
        let header = HeaderName::from_static("x-keybound-secret");
        let endpoint = endpoint(Some(Secret::new(header.clone(), b"old")));
        for (new, shown, status) in
            [(None, "old", 401), (Some("new"), "old", 403), (Some("new"), "new", 401)]
        {
            if let Some(new) = new {
                let new = Secret::new(header.clone(), new.as_bytes());
                endpoint.secret().store(Some(Arc::new(new)));
            }
            let mut question = question(empty());
            question.headers_mut().insert(header.clone(), shown.parse().unwrap());
            assert_eq!(endpoint.answer(question).await.status(), status, "{new:?} {shown}");
        }
    }

    /// An endpoint for a proxy of this flavour, with the identity header `x-auth-subject` and every
    /// policy in report mode.
    fn reporting(flavour: Flavour) -> Endpoint {
        let mut policies = policy_set();
        let policy = Policy::new("report", SenderConstraint::Certificate);
        policies.policies = [Arc::new(Policy { mode: Mode::Report, ..policy })].into();
        policies.upstream.headers = vec![IdentityHeader::new("x-auth-subject", "sub")];
        policies.upstream.remove_beginning = vec!["x-internal-".into()];
        let installation = installation(policies);
        let metrics = Arc::new(Metrics::new().unwrap());
        let gate =
            Gate::new(Checker::new(Arc::new(SystemClock)), installation, String::new(), metrics);
        Endpoint::new(Arc::new(gate), Asker { flavour, secret: None })
    }

    /// A question about `GET /a` with one additional header, for each flavour.
    fn about(header: &str) -> Request<Empty<Bytes>> {
        let name = HeaderName::try_from(header).unwrap();
        let question = Request::builder()
            .uri("/check")
            .header("x-original-method", "GET")
            .header("x-original-uri", "/a")
            .header("x-forwarded-method", "GET")
            .header("x-forwarded-uri", "/a")
            .header("x-forwarded-host", "api.test")
            .header("x-forwarded-proto", "https");
        question.header(name, "root").body(empty()).unwrap()
    }

    const GO: [&str; 5] = [
        "x_auth_subject",
        "X-Auth_Subject",
        "x.auth.subject",
        "x-internal-user",
        "X_Internal_User",
    ];
    const STAY: [&str; 4] = ["x-auth-subject", "x-auth-subjects", "x_other", "x-internal"];

    #[tokio::test]
    async fn what_cannot_be_removed_is_refused_even_where_nothing_else_is() {
        for flavour in [Flavour::Nginx, Flavour::Traefik] {
            for header in GO {
                let endpoint = reporting(flavour.clone());
                let status = endpoint.answer(about(header)).await.status().as_u16();
                assert_refused(&endpoint, status, "request_malformed");
                // Also for a call over the limit.
                let places = [(); 2].map(|()| endpoint.gate.enter(Front::ForwardAuth));
                assert_eq!(endpoint.answer(about(header)).await.status(), status, "{header}");
                drop(places);
            }
            for header in STAY {
                let answer = reporting(flavour.clone()).answer(about(header)).await;
                assert_eq!(answer.status(), 200, "{flavour:?} {header}");
            }
        }
    }

    #[tokio::test]
    async fn envoy_is_told_to_remove_what_is_seen_and_what_could_be() {
        let endpoint = reporting(Flavour::Envoy { path_prefix: String::new() });
        // One describes a request, the other does not.
        let question = |target: &str, header: &str| {
            let name = HeaderName::try_from(header).unwrap();
            Request::builder()
                .method("OPTIONS")
                .uri(target)
                .header("host", "a")
                .header(name, "x")
                .body(empty())
                .unwrap()
        };
        let removed = async |target, header| {
            let answer = endpoint.answer(question(target, header)).await;
            assert_eq!(answer.status(), 200);
            let lines = answer.headers().get_all("x-envoy-auth-headers-to-remove").iter();
            lines.map(|it| it.to_str().unwrap()).collect::<Vec<_>>().join(",")
        };
        let has = |list: &str, name: &str| list.split(',').any(|it| it.eq_ignore_ascii_case(name));
        for header in GO.into_iter().chain(["x!auth!subject"]) {
            for target in ["/a", "*"] {
                assert!(has(&removed(target, header).await, header), "{target} {header}");
            }
        }
        for header in STAY {
            let list = removed("/a", header).await;
            assert!(header == "x-auth-subject" || !has(&list, header), "{header} {list}");
            for unseen in ["x_auth_subject", "x-auth_subject", "x.auth_subject", "x_auth.subject"] {
                assert!(has(&list, unseen), "{unseen} {list}");
            }
            assert!(has(&list, "x_forwarded_client_cert"), "{list}");
        }
    }

    #[tokio::test]
    async fn what_is_let_through_unread_keeps_its_token() {
        let endpoint = reporting(Flavour::Traefik);
        let places = [(); 2].map(|()| endpoint.gate.enter(Front::ForwardAuth));
        let answer = endpoint.answer(about("authorization")).await;
        drop(places);
        assert_eq!(
            (answer.status().as_u16(), &answer.headers()["authorization"]),
            (200, &"root".parse().unwrap())
        );
    }
}
