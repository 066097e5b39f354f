//! Explanation of a pasted request, for the admin page or a local program, but not for pages of
//! other origins in the same browser.
//!
//! It has no side effects: no proof is recorded as used, and nothing is cached, counted or logged.

use super::origin::{BY_ADDRESS, is_by_address, only};
use super::{Admin, document, text};
use crate::clock::{Clock, FixedClock};
use crate::explain::{Terms, Ways, explain, kept_at, pasted, request, text as told, time};
use crate::installation::DryRun;
use bytes::{Bytes, BytesMut};
use http::header::{ALLOW, CONTENT_TYPE, HOST, HeaderMap, HeaderValue, ORIGIN};
use http::{Method, Request, Response, StatusCode};
use http_body::Body;
use http_body_util::{BodyExt, Full};
use keybound_core::jose::json;
use serde::Deserialize;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;

/// The number of requests explained at once. Further ones are refused.
const AT_ONCE: usize = 2;

/// The longest body accepted, in bytes: more than the headers that Envoy accepts.
const BODY_BYTES: usize = 256 * 1024;

/// How much of a longer body is read and discarded, so that the client still gets the response.
const PAST_BYTES: usize = 8 * BODY_BYTES;

/// The longest duration of a check, whatever the limits say: the connection does not last longer.
const DEADLINE: Duration = Duration::from_secs(8);

/// Permits for explanations: the number of concurrent ones is bounded.
#[derive(Debug)]
pub struct Permits(Semaphore);

impl Default for Permits {
    fn default() -> Self {
        Self(Semaphore::new(AT_ONCE))
    }
}

/// The contents of the form. Contains secrets, so it has no `Debug`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Question {
    /// The request ([`pasted::message`]).
    request: String,
    /// A token that replaces the one in the request.
    token: Option<String>,
    /// A proof that replaces the one in the request.
    proof: Option<String>,
    /// The time of the check; none: now.
    at: Option<String>,
    /// Whether issuers are asked about tokens.
    #[serde(default)]
    online: bool,
}

/// Why a question is not answered: the status and the body.
#[derive(Debug, PartialEq, Eq)]
struct Refusal(StatusCode, String);

/// The response to `question`: the explanation as text, or a sentence that says why there is none.
pub(super) async fn answer<B: Body<Data = Bytes>>(
    admin: &Admin,
    question: Request<B>,
) -> Response<Full<Bytes>> {
    let (question, body) = question.into_parts();
    if question.method != Method::POST {
        let mut answer = text(StatusCode::METHOD_NOT_ALLOWED, "only POST\n");
        answer.headers_mut().insert(ALLOW, HeaderValue::from_static("POST"));
        return answer;
    }
    let explained = async {
        admit(&question.headers)?;
        let question = read(body).await?;
        let _permit = admin.explaining.0.try_acquire().or(Err(busy()))?;
        explanation(admin, question).await
    };
    let (status, told) = match explained.await {
        Ok(told) => (StatusCode::OK, told),
        Err(Refusal(status, why)) => (status, why + "\n"),
    };
    document(status, "text/plain; charset=utf-8", told)
}

fn busy() -> Refusal {
    Refusal(
        StatusCode::SERVICE_UNAVAILABLE,
        "too many explanations in progress: try again".to_owned(),
    )
}

/// Checks the origin of a question ([`super::origin`]).
fn admit(headers: &HeaderMap) -> Result<(), Refusal> {
    let refuse = |status, why: &str| Err(Refusal(status, why.to_owned()));
    // A page of another origin cannot send this type without a CORS preflight, and none is allowed
    // (Fetch §2.2.2, CORS-safelisted request-header).
    if only(headers, CONTENT_TYPE.as_str()).is_none_or(|it| !is_json(it)) {
        return refuse(StatusCode::UNSUPPORTED_MEDIA_TYPE, "send `content-type: application/json`");
    }
    let Some(host) = only(headers, HOST.as_str()).filter(|_| is_by_address(headers)) else {
        return refuse(StatusCode::FORBIDDEN, BY_ADDRESS);
    };
    let is_own = |it: &str| it.split_once("://").is_some_and(|(_, it)| it == host);
    let site = |it: &str| ["same-origin", "none"].contains(&it);
    if !is(headers, "sec-fetch-site", site) || !is(headers, ORIGIN.as_str(), is_own) {
        return refuse(StatusCode::FORBIDDEN, "cross-origin requests are refused");
    }
    Ok(())
}

/// Whether a header is absent, or occurs once with the expected value.
fn is(headers: &HeaderMap, name: &str, expected: impl Fn(&str) -> bool) -> bool {
    !headers.contains_key(name) || only(headers, name).is_some_and(expected)
}

fn is_json(content_type: &str) -> bool {
    let essence = content_type.split(';').next().unwrap_or_default();
    essence.trim().eq_ignore_ascii_case("application/json")
}

async fn read<B: Body<Data = Bytes>>(body: B) -> Result<Question, Refusal> {
    let mut body = pin!(body);
    let mut whole = BytesMut::new();
    let mut length: usize = 0;
    while let Some(Ok(frame)) = body.frame().await {
        let data = frame.into_data().unwrap_or_default();
        length = length.saturating_add(data.len());
        if length <= BODY_BYTES {
            whole.extend_from_slice(&data);
        } else if PAST_BYTES < length {
            break;
        }
    }
    if BODY_BYTES < length {
        let why = format!("more than {BODY_BYTES} bytes");
        return Err(Refusal(StatusCode::PAYLOAD_TOO_LARGE, why));
    }
    json::object_of(&whole).map_err(|error| bad(error.to_string()))
}

fn bad(why: impl Into<String>) -> Refusal {
    Refusal(StatusCode::BAD_REQUEST, why.into())
}

async fn explanation(admin: &Admin, question: Question) -> Result<String, Refusal> {
    let active = admin.gate.active();
    let policies = active.policies();
    let Question { request: pasted, token, proof, at, online } = question;
    let mut message = pasted::message(&pasted, &policies.client_certificate).map_err(bad)?;
    if let Some(token) = filled(token.as_deref()) {
        message = request::with_token(&message, token).map_err(bad)?;
    }
    if let Some(proof) = filled(proof.as_deref()) {
        message = request::with_proof(&message, proof).map_err(bad)?;
    }
    let given = filled(at.as_deref()).map(time).transpose().map_err(bad)?;
    let [token, proof] = [token, proof].map(|it| filled(it.as_deref()).is_some());
    let changed = given.is_some() || token || proof;
    let kept = kept_at(&message);
    // The token of a kept request is not there: nobody can say anything of it.
    let online = online && (kept.is_none() || token);
    let at = given.or(kept);
    let sources = &DryRun::new(&active.installation, at.is_none(), online);
    let accepted = if sources.looks_up() { LOOKED_UP } else { NOT_LOOKED_UP };
    let clock: Arc<dyn Clock> = match at {
        Some(time) => Arc::new(FixedClock(time)),
        None => Arc::clone(admin.gate.clock()),
    };
    let deadline = Some(active.installation.limits.check_deadline.min(DEADLINE));
    let (rules, remarks, ways) = (active.rules(), vec![], &FIELDS);
    let digest = &active.digest;
    let terms =
        Terms { rules, sources, digest, changed, clock, deadline, online, accepted, remarks, ways };
    Ok(told::of(&explain(&message, terms).await))
}

/// The value of a field, if it is not blank.
fn filled(field: Option<&str>) -> Option<&str> {
    field.map(str::trim).filter(|it| !it.is_empty())
}

const FIELDS: Ways = Ways {
    token: "the field for the token",
    proof: "the field for the proof",
    online: "this form with its box checked",
};

const LOOKED_UP: &str =
    "the proof was only looked up, and not recorded as used: it can still be used";

const NOT_LOOKED_UP: &str = "replay was checked against an empty store: whether the proof has been \
                             used before is not known";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::front::capture::{Kept, kept_as, to_check_request};
    use crate::gate::Gate;
    use crate::installation::Checker;
    use crate::installation::samples::installation;
    use crate::telemetry::history::History;
    use crate::telemetry::metrics::Metrics;
    use crate::telemetry::samples::policy_set;
    use base64::Engine;
    use base64::engine::general_purpose::STANDARD;
    use futures_util::stream;
    use http::HeaderName;
    use http_body::Frame;
    use http_body_util::StreamBody;
    use keybound_core::{Denial, Target, UnixTime};
    use serde_json::{Value, json};
    use tokio::time::Instant;

    fn admin() -> Admin {
        let policies = policy_set();
        let installation = installation(policies);
        let clock = Arc::new(FixedClock(UnixTime::from_secs(1_800_000_000)));
        let metrics = Arc::new(Metrics::new().unwrap());
        let gate = Arc::new(Gate::new(Checker::new(clock), installation, String::new(), metrics));
        Admin {
            gate,
            health: Arc::default(),
            started: Instant::now(),
            connections: Arc::default(),
            places: vec![],
            reloads: Arc::default(),
            history: Arc::new(History::since(Instant::now())),
            explaining: Permits::default(),
        }
    }

    /// A question as the page sends it.
    fn question(body: impl Into<Bytes>) -> Request<Full<Bytes>> {
        Request::post("/explain")
            .header("host", "127.0.0.1:9003")
            .header("content-type", "application/json")
            .header("origin", "http://127.0.0.1:9003")
            .header("sec-fetch-site", "same-origin")
            .body(Full::new(body.into()))
            .unwrap()
    }

    async fn ask(admin: &Admin, question: Request<Full<Bytes>>) -> (u16, String) {
        let answer = answer(admin, question).await;
        let status = answer.status().as_u16();
        assert_eq!(answer.headers()["cache-control"], "no-store");
        assert_eq!(answer.headers()["x-content-type-options"], "nosniff");
        assert_eq!(answer.headers()["content-type"], "text/plain; charset=utf-8");
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    const PASTED: &str = "GET /payments HTTP/1.1\nHost: api.example.com\n";

    fn pasted() -> Value {
        json!({"request": PASTED})
    }

    /// The status of a question with these headers set or removed.
    async fn with_headers(edits: &[(&'static str, Option<&str>)]) -> u16 {
        let mut question = question(pasted().to_string());
        let headers = question.headers_mut();
        for &(name, value) in edits {
            let name = HeaderName::from_static(name);
            match value {
                Some(value) => drop(headers.insert(name, HeaderValue::from_str(value).unwrap())),
                None => drop(headers.remove(name)),
            }
        }
        ask(&admin(), question).await.0
    }

    #[tokio::test]
    async fn what_was_kept_is_explained_for_the_reason_for_which_it_was_kept() {
        let admin = admin();
        let target = Target { method: "GET", path: "/payments", ..Target::default() };
        let message =
            to_check_request(&keybound_core::Request { target, ..Default::default() }, None);
        let at = UnixTime::from_secs(1_700_000_000);
        for reason in Denial::ALL {
            let configuration = admin.gate.active().digest.clone();
            let kept = Kept { at, reason: *reason, detail: None, configuration };
            let file = STANDARD.encode(kept_as(&kept, &message));
            let asked = question(json!({"request": file}).to_string());
            let (status, told) = ask(&admin, asked).await;
            assert_eq!(status, 200, "{told}");
            assert!(told.contains("as checked at 2023-11-14T22:13:20Z\n"), "{told}");
            let denied = format!("✗ denied with status {}: {reason}\n", reason.status());
            assert!(told.contains(&denied), "{told}");
            assert!(
                told.ends_with(&format!(", under this configuration, for: {reason}\n")),
                "{told}"
            );
        }
    }

    #[tokio::test]
    async fn our_page_and_programs_of_this_machine_may_ask() {
        let from = |host, origin| [("host", Some(host)), ("origin", origin)];
        for edits in [
            &[][..],
            &from("localhost:9003", Some("http://localhost:9003")),
            &from("LOCALHOST", None),
            &from("[::1]:9003", Some("http://[::1]:9003")),
            &from("10.0.0.1", Some("https://10.0.0.1")),
            &[("sec-fetch-site", Some("none"))],
            &[("origin", None), ("sec-fetch-site", None)],
            &[("content-type", Some("Application/JSON ; charset=utf-8"))],
        ] {
            assert_eq!(with_headers(edits).await, 200, "{edits:?}");
        }
    }

    #[tokio::test]
    async fn a_page_from_elsewhere_gets_no_answer() {
        let rebound = [
            ("host", Some("attacker.example:9003")),
            ("origin", Some("http://attacker.example:9003")),
            ("sec-fetch-site", Some("same-origin")),
        ];
        for (edits, status) in [
            (&[("content-type", None)][..], 415),
            (&[("content-type", Some("text/plain"))], 415),
            (&[("content-type", Some("application/x-www-form-urlencoded"))], 415),
            (&[("content-type", Some("multipart/form-data; boundary=application/json"))], 415),
            (&[("content-type", Some("application/jsonp"))], 415),
            (&[("sec-fetch-site", Some("cross-site"))], 403),
            (&[("sec-fetch-site", Some("same-site"))], 403),
            (&[("sec-fetch-site", Some(""))], 403),
            (&[("origin", Some("http://attacker.example"))], 403),
            (&[("origin", Some("http://127.0.0.1:9004"))], 403),
            (&[("origin", Some("http://127.0.0.1"))], 403),
            (&[("origin", Some("127.0.0.1:9003"))], 403),
            (&[("origin", Some("null"))], 403),
            (&[("origin", Some(""))], 403),
            (&rebound, 403),
            (&[("host", None), ("origin", None)], 403),
            (&[("host", Some("127.0.0.1.attacker.example")), ("origin", None)], 403),
            (&[("host", Some("localhost.attacker.example")), ("origin", None)], 403),
            (&[("host", Some("x.localhost")), ("origin", None)], 403),
            (&[("host", Some("")), ("origin", None)], 403),
        ] {
            assert_eq!(with_headers(edits).await, status, "{edits:?}");
        }
    }

    #[tokio::test]
    async fn a_header_that_comes_twice_says_nothing() {
        for (name, value, status) in [
            ("host", "127.0.0.1:9003", 403),
            ("origin", "http://127.0.0.1:9003", 403),
            ("sec-fetch-site", "same-origin", 403),
            ("content-type", "application/json", 415),
        ] {
            let mut question = question(pasted().to_string());
            question.headers_mut().append(name, HeaderValue::from_static(value));
            assert_eq!(ask(&admin(), question).await.0, status, "{name}");
        }
    }

    #[tokio::test]
    async fn a_question_is_posted() {
        for method in [Method::GET, Method::HEAD, Method::PUT, Method::OPTIONS] {
            let mut question = question(pasted().to_string());
            *question.method_mut() = method.clone();
            let answer = answer(&admin(), question).await;
            assert_eq!(answer.status(), StatusCode::METHOD_NOT_ALLOWED, "{method}");
            assert_eq!(answer.headers()[ALLOW], "POST");
            assert!(!answer.headers().contains_key("access-control-allow-origin"), "{method}");
        }
    }

    #[tokio::test]
    async fn a_question_that_cannot_be_read_is_told_why() {
        let with = |name: &str, value: Value| {
            let mut question = pasted();
            question[name] = value;
            question.to_string()
        };
        for (body, told) in [
            (String::new(), "EOF"),
            ("request=GET".to_owned(), "expected value"),
            ("{}".to_owned(), "missing field `request`"),
            (json!([PASTED, null, null, null, false]).to_string(), "expected an object"),
            (with("tokens", json!("x")), "unknown field `tokens`"),
            (with("request", json!(7)), "invalid type"),
            (with("request", json!("hello")), "neither an HTTP request nor"),
            (with("online", json!("yes")), "invalid type"),
            (with("at", json!("noon")), "a time is expected"),
            (with("token", json!("x")), "the request has no authorization"),
            (with("proof", json!("x")), "the request has no dpop"),
        ] {
            let (status, found) = ask(&admin(), question(body.clone())).await;
            assert_eq!(status, 400, "{body}");
            assert!(found.contains(told) && found.ends_with('\n'), "{body}: {found}");
        }
    }

    #[tokio::test]
    async fn what_is_left_empty_counts_as_absent() {
        let empty = json!({"request": PASTED, "token": "", "proof": " ", "at": "\n"});
        let (status, told) = ask(&admin(), question(empty.to_string())).await;
        assert_eq!(status, 200, "{told}");
        assert!(told.contains("as checked at 2027-01-15T08:00:00Z\n"), "{told}");
        assert!(told.ends_with("denied with status 401: credentials_missing\n"), "{told}");
    }

    #[tokio::test]
    async fn the_length_of_a_question_is_bounded() {
        let whole = pasted().to_string();
        for (length, status) in
            [(BODY_BYTES, 200), (BODY_BYTES + 1, 413), (PAST_BYTES, 413), (PAST_BYTES + 1, 413)]
        {
            let padded = whole.clone() + &" ".repeat(length - whole.len());
            assert_eq!(ask(&admin(), question(padded)).await.0, status, "{length}");
        }
    }

    #[tokio::test]
    async fn what_never_ends_is_not_read_to_the_end() {
        let piece = || Ok::<_, std::convert::Infallible>(Frame::data(Bytes::from(vec![0; 4096])));
        let endless = StreamBody::new(stream::repeat_with(piece));
        let (parts, _) = question("").into_parts();
        let answer = answer(&admin(), Request::from_parts(parts, endless)).await;
        assert_eq!(answer.status(), StatusCode::PAYLOAD_TOO_LARGE);
    }

    #[tokio::test]
    async fn a_few_are_explained_at_once() {
        let admin = admin();
        let others = admin.explaining.0.try_acquire_many(1).unwrap();
        assert_eq!(ask(&admin, question(pasted().to_string())).await.0, 200);
        let last = admin.explaining.0.try_acquire().unwrap();
        assert_eq!(ask(&admin, question(pasted().to_string())).await.0, 503);
        drop((others, last));
        assert_eq!(ask(&admin, question(pasted().to_string())).await.0, 200);
    }
}
