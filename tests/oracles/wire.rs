//! The bytes that Envoy sends: read in place, they say what they say to a full decoder.

use super::choices::Choices;
use envoy_types::pb::envoy::config::core::v3::{HeaderMap, HeaderValue, Metadata};
use envoy_types::pb::envoy::service::auth::v3::attribute_context::{HttpRequest, Peer, Request};
use envoy_types::pb::envoy::service::auth::v3::{AttributeContext, CheckRequest};
use envoy_types::pb::google::protobuf::value::Kind;
use envoy_types::pb::google::protobuf::{ListValue, Struct, Timestamp, Value};
use keybound::front::ext_authz::route::annotation;
use keybound::front::ext_authz::wire;
use keybound_core::{Annotation, Denial, Field};
use prost::Message;

fn read<'a>(
    message: &'a [u8],
    certificate_header: Option<&str>,
) -> Result<keybound_core::Request<'a>, keybound_core::Refusal> {
    wire::read(message, certificate_header, None)
}

/// Holds what is read of `message` against a full decoder: whatever both read, they read alike.
pub fn reads_as_the_full_decoder(message: &[u8], certificate_header: Option<&str>) -> &'static str {
    let full = CheckRequest::decode(message);
    match (annotation(message), &full) {
        (Err(refusal), _) => assert_eq!(refusal.denial, Denial::RequestMalformed),
        (Ok(_), Err(_)) => (),
        (Ok(ours), Ok(full)) => assert_eq!(ours, annotation_of(full), "{full:?}"),
    }
    match (read(message, certificate_header), full) {
        (Err(refusal), _) => {
            assert_eq!(refusal.denial, Denial::RequestMalformed);
            "refused"
        }
        // Fields that do not matter here are skipped, not looked into.
        (Ok(_), Err(_)) => "read by us alone",
        (Ok(ours), Ok(full)) => {
            agree(&ours, &full, certificate_header);
            "read by both"
        }
    }
}

/// Holds that a request as Envoy may send it is read, and as it was meant.
pub fn what_envoy_sends_is_read(choices: &mut Choices<'_>) -> &'static str {
    let certificate_header = certificate_header(choices);
    let request = request(choices);
    let message = request.encode_to_vec();
    let said = annotation(&message).unwrap();
    assert_eq!(said, annotation_of(&request), "{request:?}");
    agree(&read(&message, certificate_header).unwrap(), &request, certificate_header);
    match said {
        Annotation::Absent => "says nothing of its route",
        Annotation::Names(_) => "its route names a policy",
        Annotation::Unclear => "its route is unclear",
    }
}

/// Holds that edits of a request's bytes are refused, or read as a full decoder reads them.
pub fn a_mutation_is_refused_or_read_alike(
    choices: &mut Choices<'_>,
    original: &[u8],
) -> &'static str {
    let certificate_header = certificate_header(choices);
    let message = choices.mutation_of(original);
    reads_as_the_full_decoder(&message, certificate_header)
}

/// Holds that fields that come again, which no honest sender writes, are refused, or read as a full
/// decoder reads them, which merges some and takes the last of others.
pub fn a_repetition_is_refused_or_read_alike(choices: &mut Choices<'_>) -> &'static str {
    let certificate_header = certificate_header(choices);
    let message = repeated(choices);
    reads_as_the_full_decoder(&message, certificate_header)
}

#[track_caller]
fn agree(ours: &keybound_core::Request<'_>, full: &CheckRequest, certificate_header: Option<&str>) {
    let attributes = full.attributes.as_ref().unwrap();
    let http = attributes.request.as_ref().unwrap().http.as_ref().unwrap();
    let source = attributes.source.clone().unwrap_or_default();
    assert_eq!(ours.target.method, http.method, "{full:?}");
    assert_eq!(ours.target.path, http.path, "{full:?}");
    assert_eq!(ours.target.authority, http.host, "{full:?}");
    assert_eq!(ours.target.scheme, http.scheme, "{full:?}");
    let policy = attributes.context_extensions.get("policy");
    assert_eq!(ours.policy, policy.map(|it| &**it), "{full:?}");
    assert_eq!(ours.evidence.peer_certificate.bytes(), source.certificate.as_bytes(), "{full:?}");
    assert_eq!(ours.evidence.peer_principal, source.principal.as_bytes(), "{full:?}");
    for (found, name) in [
        (ours.authorization, "authorization"),
        (ours.proof, "dpop"),
        (ours.evidence.xfcc, "x-forwarded-client-cert"),
        (ours.evidence.header, certificate_header.unwrap_or("")),
    ] {
        match (found, &*lines(full, name)) {
            (Field::Absent, lines) => assert!(lines.is_empty() || name.is_empty(), "{full:?}"),
            (Field::One(value), lines) => assert_eq!(lines, [value], "{full:?}"),
            // A map keeps only the last of several entries with the same key.
            (Field::Many, lines) => assert!(!lines.is_empty(), "{full:?}"),
        }
    }
    for (found, name) in [(ours.traceparent, "traceparent"), (ours.request_id, "x-request-id")] {
        match (found, &*lines(full, name)) {
            (Some(value), lines) => assert_eq!(lines, [value], "{full:?}"),
            (None, lines) => assert!(lines.len() != 1 || !http.headers.is_empty(), "{full:?}"),
        }
    }
}

/// All lines of a header, from both containers.
fn lines<'a>(full: &'a CheckRequest, header: &str) -> Vec<&'a [u8]> {
    let attributes = full.attributes.as_ref().unwrap();
    let http = attributes.request.as_ref().unwrap().http.as_ref().unwrap();
    let mapped = http.headers.iter().map(|(name, value)| (name, value.as_bytes()));
    let raw = http.header_map.iter().flat_map(|it| &it.headers).map(|it| {
        (&it.key, if it.raw_value.is_empty() { it.value.as_bytes() } else { &*it.raw_value })
    });
    let ours = mapped.chain(raw).filter(|(name, _)| name.eq_ignore_ascii_case(header));
    ours.map(|(_, value)| value).collect()
}

/// What the annotations of a route say, by the full decoder and in the plainest way.
fn annotation_of(full: &CheckRequest) -> Annotation<'_> {
    let metadata = full.attributes.as_ref().and_then(|it| it.route_metadata_context.as_ref());
    let gateway = metadata.and_then(|it| it.filter_metadata.get("envoy-gateway"));
    let Some(resources) = gateway.and_then(|it| it.fields.get("resources")) else {
        return Annotation::Absent;
    };
    let Some(Kind::ListValue(resources)) = &resources.kind else { return Annotation::Unclear };
    resources.values.iter().map(annotation_of_resource).fold(Annotation::Absent, Annotation::and)
}

fn annotation_of_resource(resource: &Value) -> Annotation<'_> {
    // Whatever is of an unexpected kind is as good as a name that nobody can read.
    let Some(Kind::StructValue(resource)) = &resource.kind else { return Annotation::Unclear };
    let Some(annotations) = resource.fields.get("annotations") else {
        return Annotation::Absent;
    };
    let Some(Kind::StructValue(annotations)) = &annotations.kind else {
        return Annotation::Unclear;
    };
    match annotations.fields.get("keybound-policy").map(|it| &it.kind) {
        None => Annotation::Absent,
        Some(Some(Kind::StringValue(name))) => Annotation::Names(name),
        Some(_) => Annotation::Unclear,
    }
}

// Requests as Envoy sends them.

fn certificate_header(choices: &mut Choices<'_>) -> Option<&'static str> {
    choices.pick(&[None, Some("x-forwarded-proto"), Some("dpop"), Some("x-cert")])
}

/// Names of headers, those that are read among them.
const NAMES: &[&str] = &[
    "authorization",
    "Authorization",
    "dpop",
    "DPoP",
    "x-forwarded-client-cert",
    "traceparent",
    "x-request-id",
    "x-forwarded-proto",
    "X-Cert",
    "cookie",
    ":path",
    "",
];

/// What values are made of. Lengths of two bytes are among them.
const TEXT: &[&str] = &[
    "a",
    "/x?y=1",
    "Bearer a.b.c",
    "é",
    ",",
    "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
    "................................................................................................",
];

fn request(choices: &mut Choices<'_>) -> CheckRequest {
    let mut text = |most| choices.text(TEXT, most);
    let peer = Peer { principal: text(1), certificate: text(3), ..Peer::default() };
    let mut http = HttpRequest {
        id: text(1),
        method: format!("GET{}", text(1)),
        path: text(2),
        host: text(1),
        scheme: text(1),
        protocol: text(1),
        body: text(3),
        ..HttpRequest::default()
    };
    http.size = i64::try_from(choices.below(3)).unwrap() - 1;
    for _ in 0..choices.below(4) {
        http.headers.insert(choices.pick(NAMES).to_owned(), choices.text(TEXT, 2));
    }
    if !choices.one_in(4) {
        let headers = (0..choices.below(6)).map(|_| line(choices)).collect();
        http.header_map = Some(HeaderMap { headers });
    }
    let mut attributes = AttributeContext {
        request: Some(Request {
            time: choices.one_in(2).then_some(Timestamp { seconds: 1_800_000_000, nanos: 7 }),
            http: Some(http),
        }),
        source: (!choices.one_in(4)).then_some(peer),
        ..AttributeContext::default()
    };
    for _ in 0..choices.below(3) {
        let name = choices.pick(&["policy", "Policy", "other"]).to_owned();
        attributes.context_extensions.insert(name, choices.text(TEXT, 1));
    }
    attributes.route_metadata_context = choices.one_in(2).then(|| metadata(choices));
    attributes.metadata_context = choices.one_in(4).then(|| metadata(choices));
    CheckRequest { attributes: Some(attributes) }
}

/// As text or as bytes, which need not be UTF-8.
fn line(choices: &mut Choices<'_>) -> HeaderValue {
    let key = choices.pick(NAMES).to_owned();
    let value = choices.text(TEXT, 2);
    if choices.one_in(3) {
        return HeaderValue { key, value, ..HeaderValue::default() };
    }
    let mut raw_value = value.into_bytes();
    if choices.one_in(4) {
        raw_value.push(0xff);
    }
    HeaderValue { key, raw_value, ..HeaderValue::default() }
}

/// A request in which some field may come again, with something else in it.
fn repeated(choices: &mut Choices<'_>) -> Vec<u8> {
    let [mut one, mut other] = [(); 2].map(|()| request(choices).attributes.unwrap());
    let [http, other_http] =
        [&mut one, &mut other].map(|it| it.request.take().unwrap().http.unwrap());
    let mut http = http.encode_to_vec();
    let empty = HttpRequest::default;
    let HttpRequest { method, path, host, scheme, headers, header_map, .. } = other_http;
    let more = match choices.below(8) {
        0 => HttpRequest { method, ..empty() },
        1 => HttpRequest { path, ..empty() },
        2 => HttpRequest { host, ..empty() },
        3 => HttpRequest { scheme, ..empty() },
        4 => HttpRequest { headers, ..empty() },
        5 => HttpRequest { header_map, ..empty() },
        6 => {
            let both = HeaderValue { raw_value: b"raw".to_vec(), value: method, ..line(choices) };
            HttpRequest { header_map: Some(HeaderMap { headers: vec![both] }), ..empty() }
        }
        _ => empty(),
    };
    http.extend(more.encode_to_vec());
    let request = field(2, &http);
    let mut attributes = [one.encode_to_vec(), field(4, &request)].concat();
    let AttributeContext { source, context_extensions, route_metadata_context, .. } = other;
    attributes.extend(match choices.below(8) {
        0 => AttributeContext { source, ..AttributeContext::default() }.encode_to_vec(),
        1 => AttributeContext { context_extensions, ..AttributeContext::default() }.encode_to_vec(),
        2 => AttributeContext { route_metadata_context, ..AttributeContext::default() }
            .encode_to_vec(),
        3 => field(
            4,
            &field(2, &HttpRequest { method: choices.text(TEXT, 1), ..empty() }.encode_to_vec()),
        ),
        _ => vec![],
    });
    field(1, &attributes)
}

/// A field of bytes; its number has four bits.
fn field(number: u8, payload: &[u8]) -> Vec<u8> {
    let mut field = vec![number << 3 | 2];
    prost::encoding::encode_varint(payload.len().try_into().unwrap(), &mut field);
    [&field[..], payload].concat()
}

fn metadata(choices: &mut Choices<'_>) -> Metadata {
    let mut metadata = Metadata::default();
    for name in ["envoy-gateway", "envoy.lb"] {
        if !choices.one_in(4) {
            let resources = match choices.below(8) {
                0 => Kind::NullValue(0),
                1 => structure([("annotations", Kind::BoolValue(true))]),
                _ => {
                    let values = (0..choices.below(4)).map(|_| resource(choices)).collect();
                    Kind::ListValue(ListValue { values })
                }
            };
            let Kind::StructValue(fields) = structure([("resources", resources)]) else { panic!() };
            metadata.filter_metadata.insert(name.to_owned(), fields);
        }
    }
    metadata
}

fn resource(choices: &mut Choices<'_>) -> Value {
    let named = match choices.below(8) {
        0 => structure([("kind", text("HTTPRoute"))]),
        1 => structure([("keybound-policy", Kind::NumberValue(7.0))]),
        2 => structure([("keybound-policy", structure([]))]),
        _ => structure([
            ("other", text("y")),
            ("keybound-policy", text(choices.pick(&["a", "a", "a", "b", ""]))),
        ]),
    };
    let kind = match choices.below(8) {
        0 => text("keybound-policy"),
        1 => structure([("annotations", text("keybound-policy"))]),
        2 => structure([("name", text("api"))]),
        _ => structure([("name", text("api")), ("annotations", named)]),
    };
    Value { kind: (!choices.one_in(16)).then_some(kind) }
}

fn structure<const N: usize>(members: [(&str, Kind); N]) -> Kind {
    let fields = members.map(|(name, it)| (name.to_owned(), Value { kind: Some(it) }));
    Kind::StructValue(Struct { fields: fields.into() })
}

fn text(text: &str) -> Kind {
    Kind::StringValue(text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::choices::{CASES, outcomes};
    use std::fs;

    fn captured() -> Vec<Vec<u8>> {
        let mut files: Vec<_> = fs::read_dir("tests/vectors/envoy")
            .unwrap()
            .map(|it| it.unwrap().path())
            .filter(|it| it.extension().is_some_and(|it| it == "pb"))
            .collect();
        files.sort();
        files.into_iter().map(|it| fs::read(it).unwrap()).collect()
    }

    #[test]
    fn every_captured_request_reads_as_the_full_decoder_reads_it() {
        let captured = captured();
        assert_eq!(captured.len(), 290);
        for message in captured {
            for header in [None, Some("x-forwarded-proto"), Some("x-dup"), Some("dpop")] {
                assert_eq!(reads_as_the_full_decoder(&message, header), "read by both");
            }
        }
    }

    #[test]
    fn a_request_as_envoy_may_send_it_is_read_as_it_was_meant() {
        outcomes(CASES, what_envoy_sends_is_read).came_up(&[
            "says nothing of its route",
            "its route names a policy",
            "its route is unclear",
        ]);
    }

    #[test]
    fn a_field_that_comes_again_is_refused_or_read_as_the_full_decoder_reads_it() {
        outcomes(CASES, a_repetition_is_refused_or_read_alike)
            .came_up(&["refused", "read by both"]);
    }

    #[test]
    fn a_mutated_request_is_refused_or_reads_as_the_full_decoder_reads_it() {
        let captured = captured();
        let mutated = |choices: &mut Choices<'_>| {
            let original = if choices.one_in(2) {
                request(choices).encode_to_vec()
            } else {
                captured[choices.below(captured.len())].clone()
            };
            a_mutation_is_refused_or_read_alike(choices, &original)
        };
        outcomes(CASES, mutated).came_up(&["refused", "read by us alone", "read by both"]);
    }
}
