//! The encoding of spans: the part of OTLP 1.x (protobuf) that is written here, and the collector's
//! response.

use super::metrics::VERSION;
use super::spans::Span;
use keybound_core::facts;
use keybound_core::{Denial, Fault};
use prost::Message;

/// The export request for `spans` of the service named `service`.
pub fn request(service: &str, spans: &[Span]) -> Vec<u8> {
    let version = VERSION;
    let resource = vec![text("service.name", service), text("service.version", version)];
    let scope = Scope { name: "keybound".to_owned(), version: version.to_owned() };
    let spans = spans.iter().map(WireSpan::of).collect();
    let scope_spans = vec![ScopeSpans { scope: Some(scope), spans }];
    let resource_spans =
        vec![ResourceSpans { resource: Some(Resource { attributes: resource }), scope_spans }];
    Request { resource_spans }.encode_to_vec()
}

/// The number of rejected spans in a successful response. A response that cannot be read counts as
/// none.
pub fn rejected(answer: &[u8]) -> u64 {
    let partial = Response::decode(answer).ok().and_then(|it| it.partial_success);
    partial.and_then(|it| u64::try_from(it.rejected_spans).ok()).unwrap_or(0)
}

#[derive(Clone, PartialEq, Message)]
struct Request {
    #[prost(message, repeated, tag = "1")]
    resource_spans: Vec<ResourceSpans>,
}

#[derive(Clone, PartialEq, Message)]
struct ResourceSpans {
    #[prost(message, optional, tag = "1")]
    resource: Option<Resource>,
    #[prost(message, repeated, tag = "2")]
    scope_spans: Vec<ScopeSpans>,
}

#[derive(Clone, PartialEq, Message)]
struct Resource {
    #[prost(message, repeated, tag = "1")]
    attributes: Vec<Attribute>,
}

#[derive(Clone, PartialEq, Message)]
struct ScopeSpans {
    #[prost(message, optional, tag = "1")]
    scope: Option<Scope>,
    #[prost(message, repeated, tag = "2")]
    spans: Vec<WireSpan>,
}

#[derive(Clone, PartialEq, Message)]
struct Scope {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    version: String,
}

#[derive(Clone, PartialEq, Message)]
struct WireSpan {
    #[prost(bytes = "vec", tag = "1")]
    trace_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "2")]
    span_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "4")]
    parent_span_id: Vec<u8>,
    #[prost(string, tag = "5")]
    name: String,
    #[prost(int32, tag = "6")]
    kind: i32,
    #[prost(fixed64, tag = "7")]
    start_time_unix_nano: u64,
    #[prost(fixed64, tag = "8")]
    end_time_unix_nano: u64,
    #[prost(message, repeated, tag = "9")]
    attributes: Vec<Attribute>,
    #[prost(message, optional, tag = "15")]
    status: Option<Status>,
    #[prost(fixed32, tag = "16")]
    flags: u32,
}

#[derive(Clone, PartialEq, Message)]
struct Attribute {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(message, optional, tag = "2")]
    value: Option<AnyValue>,
}

#[derive(Clone, PartialEq, Message)]
struct AnyValue {
    #[prost(oneof = "Value", tags = "1, 2, 3")]
    value: Option<Value>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
enum Value {
    #[prost(string, tag = "1")]
    Text(String),
    #[prost(bool, tag = "2")]
    Flag(bool),
    #[prost(int64, tag = "3")]
    Number(i64),
}

#[derive(Clone, PartialEq, Message)]
struct Status {
    #[prost(string, tag = "2")]
    message: String,
    #[prost(int32, tag = "3")]
    code: i32,
}

#[derive(Clone, PartialEq, Message)]
struct Response {
    #[prost(message, optional, tag = "1")]
    partial_success: Option<PartialSuccess>,
}

#[derive(Clone, PartialEq, Message)]
struct PartialSuccess {
    #[prost(int64, tag = "1")]
    rejected_spans: i64,
}

/// `SPAN_KIND_SERVER`.
const SERVER: i32 = 2;

/// `STATUS_CODE_ERROR`.
const ERROR: i32 = 2;

/// The flag of a span that is sampled.
const SAMPLED: u32 = 1;

impl WireSpan {
    fn of(span: &Span) -> Self {
        Self {
            trace_id: span.trace.0.to_vec(),
            span_id: span.id.0.to_vec(),
            parent_span_id: span.parent.map(|it| it.0.to_vec()).unwrap_or_default(),
            name: "keybound check".to_owned(),
            kind: SERVER,
            start_time_unix_nano: span.start,
            end_time_unix_nano: span.end,
            attributes: attributes(span),
            status: span.denied.and_then(failed),
            flags: SAMPLED,
        }
    }
}

fn attributes(span: &Span) -> Vec<Attribute> {
    let facts = span.facts.iter();
    let mut attributes: Vec<_> =
        facts.map(|(name, it)| attribute(format!("keybound.{name}"), Value::of(it))).collect();
    let status = span.denied.map(|it| Value::Number(it.status().into()));
    attributes.extend(status.map(|it| attribute("http.response.status_code".to_owned(), it)));
    attributes
}

impl Value {
    fn of(fact: &facts::Value<'_>) -> Self {
        use facts::Value as Fact;
        match fact {
            Fact::Label(it) | Fact::Own(it) | Fact::Given(it) => Self::Text((*it).to_owned()),
            Fact::Print(it) => Self::Text(it.to_base64url()),
            Fact::Made(it) => Self::Text(it.clone()),
            Fact::Flag(it) => Self::Flag(*it),
            Fact::Number(it) => Self::Number(i64::try_from(*it).unwrap_or(i64::MAX)),
            Fact::Span(it) => Self::Number(*it),
        }
    }
}

/// A denial is a successful check, unless it is not the client's fault.
fn failed(denial: Denial) -> Option<Status> {
    let message = denial.sentence().to_owned();
    (denial.fault() != Fault::Client).then_some(Status { message, code: ERROR })
}

fn text(key: &str, value: &str) -> Attribute {
    attribute(key.to_owned(), Value::Text(value.to_owned()))
}

fn attribute(key: String, value: Value) -> Attribute {
    Attribute { key, value: Some(AnyValue { value: Some(value) }) }
}
