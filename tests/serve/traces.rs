//! Checks as spans, as a collector of OpenTelemetry gets them.

use super::collector::{Attribute, Collector, Export, Span, TAKEN, hex, spans};
use super::service::{Service, request};
use super::{block_on, forged_token};
use envoy_types::pb::envoy::service::auth::v3::CheckRequest;
use envoy_types::pb::envoy::service::auth::v3::authorization_client::AuthorizationClient;
use prost::Message;
use std::net::TcpListener;
use std::path::Path;
use tonic::Request;
use tonic::metadata::MetadataValue;

const CALL: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
const HEADER: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

/// A service that tells it about checks.
fn told_by(collector: &Collector, more: &str) -> Service {
    let mut service = start(&collector.endpoint, more);
    service.wait_for("ready");
    service
}

/// What the collector was told, once the service has ended.
fn spans_of(collector: &Collector, mut service: Service) -> Vec<Span> {
    service.signal("TERM");
    assert_eq!(service.end(), Some(0));
    collector.requests.try_iter().flat_map(|(_, body)| spans(&body)).collect()
}

/// `partial_success {rejected_spans: 1}`.
const REJECTED: &[u8] =
    b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 4\r\n\r\n\x0a\x02\x08\x01";

fn start(endpoint: &str, more: &str) -> Service {
    let edit = |_: &Path, config: String| {
        config + &format!("telemetry: {{otlp: {{endpoint: '{endpoint}', {more}}}}}\n")
    };
    Service::start(edit, &["--drain-delay", "0s"])
}

/// A check of a forged token, in the span that the call names and with that in its header.
fn check(service: &Service, call: Option<&str>, header: Option<&str>) {
    let mut message: CheckRequest = request(&format!("Bearer {}", forged_token()), "");
    if let Some(header) = header {
        let http = message.attributes.as_mut().unwrap().request.as_mut().unwrap();
        let headers = &mut http.http.as_mut().unwrap().headers;
        headers.insert("traceparent".to_owned(), header.to_owned());
    }
    let mut call_with = Request::new(message);
    if let Some(call) = call {
        let value = MetadataValue::try_from(call).unwrap();
        call_with.metadata_mut().insert("traceparent", value);
    }
    block_on(async {
        let mut client = AuthorizationClient::new(service.channel().await);
        let answer = client.check(call_with).await.unwrap().into_inner();
        assert_ne!(answer.status.unwrap().code, 0);
    });
}

#[test]
fn a_check_is_a_span_in_the_trace_of_the_call() {
    let collector = Collector::start(TAKEN);
    let mut service = told_by(&collector, "service_name: edge");
    check(&service, Some(CALL), Some(HEADER));
    let line = service.wait_for("denied");
    service.signal("TERM");
    assert_eq!(service.end(), Some(0));

    let (head, body) = collector.requests.try_recv().unwrap();
    assert!(head.starts_with("post /v1/traces http/1.1"), "{head}");
    assert!(head.contains("content-type: application/x-protobuf"), "{head}");
    for part in forged_token().split('.') {
        assert!(!body.windows(part.len()).any(|it| it == part.as_bytes()), "{part}");
    }
    let told = Export::decode(&*body).unwrap();
    let service_name = &told.resource_spans[0].resource.as_ref().unwrap().attributes[0];
    assert_eq!(service_name.text(), ("service.name", "edge"));
    let [span] = &*spans(&body) else { panic!("{told:?}") };
    assert_eq!(hex(&span.trace_id), "0af7651916cd43dd8448eb211c80319c");
    assert_eq!(hex(&span.parent_span_id), "b7ad6b7169203331");
    assert_eq!(line["trace_id"], hex(&span.trace_id));
    assert_eq!(line["span_id"], hex(&span.span_id));
    assert_eq!((&*span.name, span.kind, span.flags), ("keybound check", 2, 1));
    assert!(0 < span.start && span.start <= span.end, "{span:?}");
    assert_eq!(span.status, None, "a denial is no failure");
    let told: Vec<_> = span.attributes.iter().map(Attribute::text).collect();
    for expected in [
        ("keybound.front", "ext_authz"),
        ("keybound.policy", "payments"),
        ("keybound.decision", "deny"),
        ("keybound.reason", "token_signature_invalid"),
        ("keybound.sender_constraint", "none"),
    ] {
        assert!(told.contains(&expected), "{expected:?} {told:?}");
    }
}

#[test]
fn a_call_without_a_trace_joins_that_of_the_request() {
    let collector = Collector::start(TAKEN);
    let service = told_by(&collector, "sample_ratio: 1");
    check(&service, None, Some(HEADER));
    check(&service, Some("odd"), Some(HEADER));
    let parents = spans_of(&collector, service).into_iter().map(|it| hex(&it.parent_span_id));
    assert_eq!(parents.collect::<Vec<_>>(), ["00f067aa0ba902b7"; 2]);
}

#[test]
fn a_client_does_not_decide_what_is_told() {
    let collector = Collector::start(TAKEN);
    let service = told_by(&collector, "sample_ratio: 0");
    check(&service, None, Some(HEADER));
    check(&service, Some("odd"), Some(HEADER));
    check(&service, Some(CALL), Some(HEADER));
    let parents = spans_of(&collector, service).into_iter().map(|it| hex(&it.parent_span_id));
    assert_eq!(parents.collect::<Vec<_>>(), ["b7ad6b7169203331"], "the proxy does");
}

#[test]
fn what_the_proxy_does_not_sample_is_not_told() {
    let collector = Collector::start(TAKEN);
    let service = told_by(&collector, "sample_ratio: 1");
    check(&service, Some(&CALL.replace("-01", "-00")), Some(HEADER));
    check(&service, None, Some(&HEADER.replace("-01", "-00")));
    check(&service, None, None);
    let spans = spans_of(&collector, service);
    let parents: Vec<_> = spans.iter().map(|it| hex(&it.parent_span_id)).collect();
    assert_eq!(parents, ["00f067aa0ba902b7", ""], "the request's, and a root");
    assert_eq!(spans[1].trace_id.len(), 16);
}

#[test]
fn a_collector_that_is_gone_harms_nobody() {
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let mut service = start(&format!("http://{closed}/v1/traces"), "");
    service.wait_for("ready");
    check(&service, Some(CALL), None);
    let line = service.wait_for("spans cannot be exported");
    assert_eq!(line["level"], "WARN");
    check(&service, Some(CALL), None);
    let (_, metrics) = service.page("GET", "/metrics");
    assert!(metrics.contains("keybound_spans_total{outcome=\"failed\"} 1\n"), "{metrics}");
    service.signal("TERM");
    assert_eq!(service.end(), Some(0));
}

#[test]
fn a_collector_that_hangs_does_not_hold_up_the_end() {
    let hangs = TcpListener::bind("127.0.0.1:0").unwrap();
    let mut service = start(&format!("http://{}/x", hangs.local_addr().unwrap()), "");
    service.wait_for("ready");
    check(&service, Some(CALL), None);
    service.signal("TERM");
    service.wait_for("spans lost at shutdown");
    assert_eq!(service.end(), Some(0));
}

#[test]
fn what_the_collector_rejects_is_counted() {
    let collector = Collector::start(REJECTED);
    let service = told_by(&collector, "");
    check(&service, Some(CALL), None);
    drop(collector.requests.recv().unwrap());
    let rejected = "keybound_spans_total{outcome=\"failed\"} 1\n";
    while !service.page("GET", "/metrics").1.contains(rejected) {}
}
