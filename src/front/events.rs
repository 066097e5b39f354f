//! Security events by push (RFC 8935): `POST /events` with one signed token.
//!
//! Who sends is told by the `Authorization`, before the body is read. A body is nothing but a token whose
//! signature is verified before a claim of it is.

use crate::gate::Gate;
use crate::installation::LiveIssuer;
use crate::rate_limit::{Allowance, RateLimit};
use crate::state::revocation::events::{Events, NotTaken};
use bytes::Bytes;
use http::header::{
    ALLOW, AUTHORIZATION, CACHE_CONTROL, CONNECTION, CONTENT_LANGUAGE, CONTENT_TYPE, HeaderMap,
    HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE,
};
use http::request::Parts;
use http::{Method, Request, Response, StatusCode};
use http_body::Body;
use http_body_util::{BodyExt, Full, Limited};
use keybound_core::oauth::EVENT_BYTES;
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, timeout};

/// The HTTP service, shared by all connections.
#[derive(Debug)]
pub struct Endpoint {
    gate: Arc<Gate>,
    /// The rate limit of warnings about who is not recognised.
    strangers: RateLimit,
}

/// Where events are pushed to.
pub const PATH: &str = "/events";

/// How long the body of a request may take.
const BODY: Duration = Duration::from_secs(10);

/// The media type of a token (RFC 8417 §2.3).
const MEDIA_TYPE: &[u8] = b"application/secevent+jwt";

/// Why a request is answered otherwise than with 202.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flaw {
    Path,
    Method,
    Unauthenticated,
    MediaType,
    Body,
    NotTaken(NotTaken),
}

impl Endpoint {
    /// A service for the issuers whose events are pushed under the configuration in force at `gate`.
    pub fn new(gate: Arc<Gate>) -> Self {
        Self { gate, strangers: RateLimit::of(1) }
    }

    /// Answers one request.
    pub async fn answer<B>(&self, request: Request<B>) -> Response<Full<Bytes>>
    where
        B: Body<Data = Bytes>,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        match self.take(request).await {
            Ok(()) => empty(StatusCode::ACCEPTED),
            Err(flaw) => flaw.answer(),
        }
    }

    async fn take<B>(&self, request: Request<B>) -> Result<(), Flaw>
    where
        B: Body<Data = Bytes>,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let (head, body) = request.into_parts();
        let elsewhere = Flaw::of_target(&head);
        let active = self.gate.active();
        let pushed = || active.installation.issuers.iter().filter_map(|it| pushed_to(it));
        let Some(events) = recognised(pushed(), &head.headers) else {
            // Who is at the wrong place need not mean us: it may be a probe.
            let Some(flaw) = elsewhere else {
                pushed().for_each(Events::count_unauthenticated);
                self.warn_of_stranger();
                return Err(Flaw::Unauthenticated);
            };
            return Err(flaw);
        };
        let told = |flaw: Flaw| {
            events.refuse_unread(flaw.sentence());
            flaw
        };
        if let Some(flaw) = elsewhere {
            return Err(told(flaw));
        }
        if !is_token(&head.headers) {
            return Err(told(Flaw::MediaType));
        }
        let token = timeout(BODY, Limited::new(body, EVENT_BYTES).collect()).await;
        let token = token.ok().and_then(Result::ok).ok_or_else(|| told(Flaw::Body))?;
        events.take(&token.to_bytes()).await.map_err(Flaw::NotTaken)
    }

    fn warn_of_stranger(&self) {
        if let Allowance::Within { untold } = self.strangers.take(Instant::now()) {
            tracing::warn!(
                untold,
                "events pushed without the expected Authorization: refused unread; it is the one in \
                 revocation.events.bearer_token_file"
            );
        }
    }
}

/// The events of an issuer, if they come by push.
fn pushed_to(issuer: &LiveIssuer) -> Option<&Events> {
    issuer.revocation.as_ref()?.events().map(|it| &**it).filter(|it| it.is_pushed())
}

/// Those that the one `Authorization` is for. All are looked at, so that the time tells nothing.
fn recognised<'a>(
    mut pushed: impl Iterator<Item = &'a Events>,
    headers: &HeaderMap,
) -> Option<&'a Events> {
    let mut lines = headers.get_all(AUTHORIZATION).iter();
    let (Some(authorization), None) = (lines.next(), lines.next()) else { return None };
    pushed.by_ref().fold(None, |found, it| {
        if it.is_pushed_with(authorization) { found.or(Some(it)) } else { found }
    })
}

/// Whether the one `Content-Type` is that of a token, whatever its parameters.
fn is_token(headers: &HeaderMap) -> bool {
    let mut lines = headers.get_all(CONTENT_TYPE).iter();
    let (Some(line), None) = (lines.next(), lines.next()) else { return false };
    let essence = line.as_bytes().split(|it| *it == b';').next().unwrap_or_default();
    essence.trim_ascii().eq_ignore_ascii_case(MEDIA_TYPE)
}

impl Flaw {
    /// What is wrong with where a request goes, and how.
    fn of_target(head: &Parts) -> Option<Self> {
        if head.uri.path() != PATH {
            return Some(Self::Path);
        }
        (head.method != Method::POST).then_some(Self::Method)
    }

    fn answer(self) -> Response<Full<Bytes>> {
        let (status, code) = match self {
            Self::Path => return last(empty(StatusCode::NOT_FOUND)),
            Self::Method => {
                let mut answer = empty(StatusCode::METHOD_NOT_ALLOWED);
                answer.headers_mut().insert(ALLOW, HeaderValue::from_static("POST"));
                return last(answer);
            }
            Self::Unauthenticated => (StatusCode::UNAUTHORIZED, "authentication_failed"),
            Self::MediaType | Self::Body => (StatusCode::BAD_REQUEST, "invalid_request"),
            Self::NotTaken(NotTaken::Refused(bad)) if !bad.is_passing() => {
                (StatusCode::BAD_REQUEST, bad.code())
            }
            Self::NotTaken(_) => return later(self.sentence()),
        };
        let mut answer = refusal(status, code, self.sentence());
        if self == Self::Unauthenticated {
            let scheme = HeaderValue::from_static("Bearer");
            answer.headers_mut().insert(WWW_AUTHENTICATE, scheme);
        }
        // What was not read of the body is not read later either.
        if matches!(self, Self::NotTaken(_)) { answer } else { last(answer) }
    }

    /// What is wrong, for the transmitter and for the log.
    const fn sentence(self) -> &'static str {
        match self {
            Self::Path => "the path is not /events",
            Self::Method => "the method is not POST",
            Self::Unauthenticated => "the Authorization is not the one that is expected",
            Self::MediaType => "the Content-Type is not application/secevent+jwt",
            Self::Body => "the body is too long, or did not come in time",
            Self::NotTaken(NotTaken::Refused(bad)) => bad.sentence(),
            Self::NotTaken(NotTaken::NotKept) => "it could not be kept: send it again",
        }
    }
}

/// RFC 8935 §2.3.
fn refusal(status: StatusCode, code: &str, what: &str) -> Response<Full<Bytes>> {
    let body = json!({"err": code, "description": what}).to_string();
    let mut answer = Response::new(Full::new(Bytes::from(body)));
    *answer.status_mut() = status;
    let headers = answer.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(CONTENT_LANGUAGE, HeaderValue::from_static("en"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}

/// What is not the fault of the transmitter, which should try again.
fn later(what: &str) -> Response<Full<Bytes>> {
    let mut answer = refusal(StatusCode::SERVICE_UNAVAILABLE, "not_available", what);
    answer.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("5"));
    answer
}

fn empty(status: StatusCode) -> Response<Full<Bytes>> {
    let mut answer = Response::new(Full::default());
    *answer.status_mut() = status;
    answer.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    answer
}

/// The last answer on its connection.
fn last(mut answer: Response<Full<Bytes>>) -> Response<Full<Bytes>> {
    answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_told_by_its_one_content_type() {
        let with = |lines: &[&'static str]| {
            let mut headers = HeaderMap::new();
            for line in lines {
                headers.append(CONTENT_TYPE, HeaderValue::from_static(line));
            }
            is_token(&headers)
        };
        assert!(with(&["application/secevent+jwt"]));
        assert!(with(&["Application/SecEvent+JWT; charset=UTF-8"]));
        for other in [
            &[][..],
            &["application/jwt"],
            &["application/secevent+jwt2"],
            &["application/json; application/secevent+jwt"],
            &["application/secevent+jwt", "application/secevent+jwt"],
        ] {
            assert!(!with(other), "{other:?}");
        }
    }
}
