//! The bytes that Envoy sends: what is found in them, and what is refused.

use envoy_types::pb::envoy::service::auth::v3::CheckRequest;
use envoy_types::pb::google::protobuf::value::Kind;
use envoy_types::pb::google::protobuf::{ListValue, Struct, Value};
use keybound::front::ext_authz::pb::DESCRIPTORS;
use keybound::front::ext_authz::pb::envoy::service::auth::v3 as pb;
use keybound::front::ext_authz::route::annotation;
use keybound::front::ext_authz::wire;
use keybound_core::{Annotation, Denial, Detail, Field, Refusal, Request};
use prost::Message;
use prost_types::{FileDescriptorProto, FileDescriptorSet};
use std::fs;

fn read<'a>(message: &'a [u8], certificate_header: Option<&str>) -> Result<Request<'a>, Refusal> {
    wire::read(message, certificate_header, None)
}

/// So that what is held against a full decoder (`oracles/wire.rs`) is not nothing.
#[test]
fn the_captured_requests_hold_all_that_is_read() {
    let captured = captured();
    let requests: Vec<_> =
        captured.iter().map(|(_, it)| read(it, Some("x-forwarded-proto")).unwrap()).collect();
    let some = |holds: fn(&Request<'_>) -> bool| requests.iter().any(holds);
    assert!(some(|it| it.policy.is_some()));
    assert!(some(|it| it.target.method == "CONNECT" && it.target.path.is_empty()));
    assert!(some(|it| it.target.scheme == "https" && it.target.authority == "api.lab.test"));
    assert!(some(|it| matches!(it.authorization, Field::One(_))));
    assert!(some(|it| it.authorization == Field::Absent));
    assert!(some(|it| matches!(it.proof, Field::One(_))));
    assert!(some(|it| it.proof == Field::Many));
    assert!(some(|it| matches!(it.evidence.xfcc, Field::One(_))));
    assert!(some(|it| matches!(it.evidence.header, Field::One(_))));
    assert!(some(|it| !it.evidence.peer_certificate.bytes().is_empty()));
    assert!(some(|it| !it.evidence.peer_principal.is_empty()));
    assert!(some(|it| it.traceparent.is_some()));
    assert!(some(|it| it.request_id.is_some()));
}

#[test]
fn our_definitions_lose_nothing_that_envoy_sends() {
    for (name, message) in captured() {
        let again = pb::CheckRequest::decode(&*message).unwrap().encode_to_vec();
        let full = CheckRequest::decode(&*message).unwrap();
        assert_eq!(CheckRequest::decode(&*again).unwrap(), full, "{name}");
    }
}

#[test]
fn the_descriptors_serve_reflection() {
    let reflection = tonic_reflection::server::Builder::configure();
    assert!(reflection.register_encoded_file_descriptor_set(DESCRIPTORS).build_v1().is_ok());
    let files = FileDescriptorSet::decode(DESCRIPTORS).unwrap().file;
    let mut services = files.iter().flat_map(|it| it.service.iter().map(move |of| (it, of)));
    let (file, service) = services.next().unwrap();
    assert_eq!((file.package(), service.name()), ("envoy.service.auth.v3", "Authorization"));
    assert!(matches!(&*service.method, [check] if check.name() == "Check"));
    let names: Vec<_> = files.iter().map(FileDescriptorProto::name).collect();
    for import in files.iter().flat_map(|it| &it.dependency) {
        assert!(names.contains(&&**import), "{import}");
    }
}

// What is found.

#[test]
fn all_that_matters_is_found() {
    let message = Parts::typical().message();
    let found = read(&message, Some("client-cert")).unwrap();
    assert_eq!(found.policy, Some("payments"));
    assert_eq!(found.target.method, "GET");
    assert_eq!(found.target.scheme, "https");
    assert_eq!(found.target.authority, "api.example.com");
    assert_eq!(found.target.path, "//host/x?y=1");
    assert_eq!(found.authorization, Field::One(b"DPoP a.b.c"));
    assert_eq!(found.proof, Field::One(b"d.e.f"));
    assert_eq!(found.evidence.peer_certificate.bytes(), b"-----BEGIN");
    assert_eq!(found.evidence.peer_principal, b"spiffe://client");
    assert_eq!(found.evidence.xfcc, Field::One(b"Hash=00"));
    assert_eq!(found.evidence.header, Field::One(b":AAAA:"));
    assert_eq!(found.traceparent, Some(&b"00-0-0-01"[..]));
    assert_eq!(found.request_id, Some(&b"1234"[..]));
}

#[test]
fn a_request_of_nothing_but_a_method_is_read() {
    let mut parts = Parts::default();
    parts.http.extend(bytes(2, b"GET"));
    let message = parts.message();
    let found = read(&message, Some("client-cert")).unwrap();
    assert_eq!((found.policy, found.target.path, found.target.authority), (None, "", ""));
    assert_eq!((found.authorization, found.evidence.header), (Field::Absent, Field::Absent));
}

#[test]
fn a_header_name_has_no_case() {
    for name in ["dpop", "DPoP", "DPOP"] {
        proof(|it| it.header_map.extend(raw(name, b"x")), Field::One(b"x"));
        proof(|it| it.http.extend(map(name, b"x")), Field::One(b"x"));
    }
    let mut parts = Parts::typical();
    parts.header_map.extend(raw("Client-CERT", b":BBBB:"));
    assert_eq!(read(&parts.message(), Some("client-cert")).unwrap().evidence.header, Field::Many);
}

#[test]
fn a_header_that_comes_twice_is_many_wherever_it_comes_from() {
    let in_map = |it: &mut Parts| it.http.extend(map("dpop", b"x"));
    let as_bytes = |it: &mut Parts| it.header_map.extend(raw("dpop", b"x"));
    let as_text = |it: &mut Parts| it.header_map.extend(value("dpop", b"x"));
    let ways: [&dyn Fn(&mut Parts); 3] = [&in_map, &as_bytes, &as_text];
    for first in ways {
        proof(first, Field::One(b"x"));
        for second in ways {
            let both = |it: &mut Parts| {
                first(it);
                second(it);
            };
            proof(both, Field::Many);
        }
    }
}

#[test]
fn a_header_without_a_value_is_there() {
    proof(|it| it.header_map.extend(raw("dpop", b"")), Field::One(b""));
    let only_a_name = bytes(1, &bytes(1, b"dpop"));
    proof(|it| it.header_map.extend(&only_a_name), Field::One(b""));
}

#[test]
fn a_header_of_a_similar_name_is_another() {
    for name in ["dpo", "dpop ", "xdpop", "", ":dpop", "dp\u{f6}p"] {
        proof(|it| it.http.extend(map(name, b"x")), Field::Absent);
    }
}

#[test]
fn the_certificate_header_may_be_one_that_is_read_anyway() {
    let message = Parts::typical().message();
    let found = read(&message, Some("x-forwarded-client-cert")).unwrap();
    assert_eq!(found.evidence.header, Field::One(b"Hash=00"));
    assert_eq!(found.evidence.xfcc, Field::One(b"Hash=00"));
}

#[test]
fn a_repeated_trace_header_counts_as_none() {
    let mut parts = Parts::typical();
    parts.header_map.extend(raw("traceparent", b"00-0-0-00"));
    assert_eq!(read(&parts.message(), None).unwrap().traceparent, None);
}

#[test]
fn header_values_need_not_be_text() {
    proof(|it| it.header_map.extend(raw("dpop", b"\xff\0")), Field::One(b"\xff\0"));
}

#[test]
fn unknown_fields_are_skipped() {
    let unknown =
        [&bytes(15, b"\xff\xff")[..], b"\x70\x01", b"\x75\0\0\0\0", b"\x71\0\0\0\0\0\0\0\0"];
    for field in unknown {
        let mut parts = Parts::typical();
        for part in parts.all() {
            part.extend(field);
        }
        assert_eq!(read(&parts.message(), None).unwrap().policy, Some("payments"));
    }
}

#[test]
fn the_order_of_fields_does_not_matter() {
    let mut parts = Parts::typical();
    let http = std::mem::take(&mut parts.http);
    parts.http = map("x-request-id", b"5");
    parts.http.extend(http);
    assert_eq!(read(&parts.message(), None).unwrap().target.method, "GET");
}

#[test]
fn ten_thousand_headers_are_read_in_one_go() {
    let mut parts = Parts::typical();
    for index in 0..5_000 {
        parts.http.extend(map(&format!("x-{index}"), b"x"));
        parts.header_map.extend(raw(&format!("y-{index}"), b"y"));
    }
    assert_eq!(read(&parts.message(), None).unwrap().proof, Field::One(b"d.e.f"));
    for _ in 0..10_000 {
        parts.header_map.extend(raw("dpop", b"x"));
    }
    assert_eq!(read(&parts.message(), None).unwrap().proof, Field::Many);
}

#[test]
fn a_value_of_several_mebibytes_is_borrowed() {
    let long = vec![b'x'; 5 << 20];
    let mut parts = Parts::default();
    parts.http.extend(bytes(2, b"GET"));
    parts.header_map.extend(raw("authorization", &long));
    let message = parts.message();
    let Field::One(found) = read(&message, None).unwrap().authorization else { panic!() };
    assert_eq!(found.len(), long.len());
    assert!(message.as_ptr_range().contains(&found.as_ptr()));
}

#[test]
fn a_route_names_its_policy_in_the_namespace_of_envoy_gateway_alone() {
    let mut request = routed(&[("keybound-policy", text("payments"))]);
    let said = |request: &CheckRequest| {
        let message = request.encode_to_vec();
        annotation(&message).map(|it| format!("{it:?}"))
    };
    assert_eq!(said(&request).unwrap(), "Names(\"payments\")");
    // It is not looked into unless somebody asks.
    assert_eq!(read(&request.encode_to_vec(), None).unwrap().annotated, Annotation::Absent);
    let attributes = request.attributes.as_mut().unwrap();
    let metadata = attributes.route_metadata_context.take().unwrap();
    // What clients can influence is elsewhere: metadata of the request, and of other filters.
    attributes.metadata_context = Some(metadata.clone());
    assert_eq!(said(&request).unwrap(), "Absent");
    let mut other = metadata;
    let ours = other.filter_metadata.remove("envoy-gateway").unwrap();
    other.filter_metadata.insert("envoy.lb".to_owned(), ours);
    request.attributes.as_mut().unwrap().route_metadata_context = Some(other);
    assert_eq!(said(&request).unwrap(), "Absent");
    assert_eq!(annotation(b""), Ok(Annotation::Absent));
}

#[test]
fn several_resources_of_a_route_must_name_the_same_policy() {
    let named = |name: &str| resource(&routed(&[("keybound-policy", text(name))]));
    let (silent, odd) = (resource(&routed(&[])), Value { kind: Some(text("payments")) });
    for (resources, said) in [
        (vec![], Annotation::Absent),
        (vec![silent.clone()], Annotation::Absent),
        (vec![silent.clone(), named("a"), silent], Annotation::Names("a")),
        (vec![named("a"), named("a")], Annotation::Names("a")),
        (vec![named("a"), named("b")], Annotation::Unclear),
        (vec![named("a"), odd], Annotation::Unclear),
        (vec![Value { kind: None }], Annotation::Unclear),
    ] {
        let mut request = routed(&[]);
        let list = Kind::ListValue(ListValue { values: resources });
        *ours(&mut request) = Value { kind: Some(list) };
        assert_eq!(annotation(&request.encode_to_vec()), Ok(said));
    }
}

/// A request on a route with these annotations, as Envoy Gateway tells them.
fn routed(annotations: &[(&str, Kind)]) -> CheckRequest {
    let annotations = annotations.iter().cloned();
    let mut request = CheckRequest::decode(&*Parts::typical().message()).unwrap();
    let resource = structure([
        ("kind".to_owned(), text("HTTPRoute")),
        ("name".to_owned(), text("api")),
        ("namespace".to_owned(), text("default")),
        ("annotations".to_owned(), structure(annotations.map(|(name, it)| (name.to_owned(), it)))),
    ]);
    let resources = Kind::ListValue(ListValue { values: vec![Value { kind: Some(resource) }] });
    let Kind::StructValue(ours) = structure([("resources".to_owned(), resources)]) else {
        panic!()
    };
    let metadata =
        request.attributes.get_or_insert_default().route_metadata_context.get_or_insert_default();
    metadata.filter_metadata.insert("envoy-gateway".to_owned(), ours);
    request
}

fn structure(members: impl IntoIterator<Item = (String, Kind)>) -> Kind {
    let fields = members.into_iter().map(|(name, it)| (name, Value { kind: Some(it) }));
    Kind::StructValue(Struct { fields: fields.collect() })
}

fn text(text: &str) -> Kind {
    Kind::StringValue(text.into())
}

/// The list of resources in what Envoy Gateway tells of a route.
fn ours(request: &mut CheckRequest) -> &mut Value {
    let metadata = request.attributes.as_mut().unwrap().route_metadata_context.as_mut().unwrap();
    let gateway = metadata.filter_metadata.get_mut("envoy-gateway").unwrap();
    gateway.fields.get_mut("resources").unwrap()
}

fn resource(request: &CheckRequest) -> Value {
    let Some(Kind::ListValue(list)) = ours(&mut request.clone()).kind.clone() else { panic!() };
    list.values[0].clone()
}

#[test]
fn what_protobuf_takes_the_last_of_is_refused_when_a_route_says_it_twice() {
    // A member twice, and a value of two kinds.
    let member = |value: &[u8]| bytes(1, &[bytes(1, b"keybound-policy"), value.to_vec()].concat());
    let name = bytes(3, b"payments");
    let once = member(&bytes(2, &name));
    for (annotations, said) in [
        (once.clone(), Ok(Annotation::Names("payments"))),
        ([once.clone(), once].concat(), Err(malformed(Detail::FieldRepeated))),
        (
            member(&bytes(2, &[name.clone(), name.clone()].concat())),
            Err(malformed(Detail::FieldRepeated)),
        ),
        (
            member(&bytes(2, &[name.clone(), bytes(5, b"")].concat())),
            Err(malformed(Detail::FieldRepeated)),
        ),
        (
            member(&[bytes(2, &name), bytes(2, &name)].concat()),
            Err(malformed(Detail::FieldRepeated)),
        ),
        (member(&bytes(2, &bytes(3, b"\xff"))), Err(malformed(Detail::TextNotUtf8))),
        (member(&bytes(2, b"")), Ok(Annotation::Unclear)),
        (member(b""), Ok(Annotation::Unclear)),
    ] {
        let value = |kind, it: &[u8]| bytes(2, &bytes(kind, it));
        let resource = bytes(1, &[bytes(1, b"annotations"), value(5, &annotations)].concat());
        let list = bytes(1, &bytes(5, &resource));
        let gateway = bytes(1, &[bytes(1, b"resources"), value(6, &list)].concat());
        let metadata = bytes(1, &[bytes(1, b"envoy-gateway"), bytes(2, &gateway)].concat());
        let mut parts = Parts::typical();
        parts.attributes.extend(bytes(13, &metadata));
        assert_eq!(annotation(&parts.message()), said, "{annotations:?}");
        // One who does not ask does not mind.
        assert!(read(&parts.message(), None).is_ok());
        parts.attributes.extend(bytes(13, b""));
        assert_eq!(annotation(&parts.message()), Err(malformed(Detail::FieldRepeated)));
    }
}

/// The `DPoP` header of a request that has only what `edit` adds.
#[track_caller]
fn proof(edit: impl FnOnce(&mut Parts), expected: Field<'_>) {
    let mut parts = Parts::default();
    parts.http.extend(bytes(2, b"GET"));
    edit(&mut parts);
    assert_eq!(read(&parts.message(), None).unwrap().proof, expected);
}

// What is refused.

#[test]
fn a_message_without_an_http_request_is_refused() {
    let without = [
        (vec![], Detail::HttpRequestMissing),
        (bytes(1, b""), Detail::HttpRequestMissing),
        (bytes(1, &bytes(4, b"")), Detail::HttpRequestMissing),
        (bytes(1, &bytes(4, &bytes(2, b""))), Detail::MethodMissing),
        (bytes(1, &bytes(4, &bytes(2, &bytes(4, b"/")))), Detail::MethodMissing),
        (bytes(1, &bytes(4, &bytes(2, &bytes(2, b"")))), Detail::MethodMissing),
    ];
    for (message, detail) in without {
        assert_eq!(read(&message, None).unwrap_err(), malformed(detail), "{message:?}");
    }
    assert!(read(&bytes(1, &bytes(4, &bytes(2, &bytes(2, b"M")))), None).is_ok());
}

#[test]
fn a_message_cut_at_any_byte_is_refused() {
    // All of it is in one field, so that no cut leaves a shorter message behind.
    for message in [Parts::typical().message(), captured_as("cert-p256-h2")] {
        assert!(read(&message, None).is_ok());
        for end in 0..message.len() {
            assert_eq!(
                read(&message[..end], None).unwrap_err().denial,
                Denial::RequestMalformed,
                "{end}"
            );
        }
    }
}

#[test]
fn what_protobuf_takes_the_last_of_is_refused_when_it_comes_twice() {
    refused(|it| it.outermost.extend(bytes(1, b"")));
    refused(|it| it.attributes.extend(bytes(1, b"")));
    refused(|it| it.attributes.extend(bytes(4, b"")));
    refused(|it| it.attributes.extend(bytes(10, &pair("policy", b"other"))));
    refused(|it| it.attributes.extend(bytes(10, &pair("policy", b"payments"))));
    refused(|it| it.source.extend(bytes(4, b"spiffe://other")));
    refused(|it| it.source.extend(bytes(5, b"")));
    refused(|it| it.request.extend(bytes(2, b"")));
    for number in [2, 4, 5, 6, 13] {
        refused(|it| it.http.extend(bytes(number, b"")));
    }
    for number in [1, 2] {
        let pair = [pair("authorization", b"x"), bytes(number, b"dpop")].concat();
        refused(|it| it.http.extend(bytes(3, &pair)));
        refused(|it| it.header_map.extend(bytes(1, &pair)));
        refused(|it| it.attributes.extend(bytes(10, &pair)));
    }
}

#[test]
fn a_header_with_two_different_values_is_refused() {
    refused(|it| {
        let both = [bytes(1, b"dpop"), bytes(2, b"x"), bytes(3, b"y")].concat();
        it.header_map.extend(bytes(1, &both));
    });
    let one_empty = [bytes(1, b"dpop"), bytes(2, b"x"), bytes(3, b"")].concat();
    proof(|it| it.header_map.extend(bytes(1, &one_empty)), Field::One(b"x"));
}

#[test]
fn a_known_field_of_another_wire_type_is_refused() {
    for (wire_type, length) in [(0, 1), (1, 8), (5, 4)] {
        let field = |number: u8| [vec![number << 3 | wire_type], vec![0; length]].concat();
        refused(|it| it.outermost = field(1));
        for number in [1, 4, 10] {
            refused(|it| it.attributes.extend(field(number)));
        }
        refused(|it| it.source = field(4));
        refused(|it| it.source = field(5));
        refused(|it| it.request = field(2));
        for number in [2, 3, 4, 5, 6, 13] {
            refused(|it| it.http.extend(field(number)));
        }
        for number in [1, 2, 3] {
            refused(|it| it.header_map.extend(bytes(1, &field(number))));
        }
        refused(|it| it.header_map.extend(field(1)));
    }
}

#[test]
fn what_is_no_field_is_refused_at_every_depth() {
    let no_fields: [(&str, &[u8]); 10] = [
        ("a key alone", b"\x7a"),
        ("a length beyond the end", b"\x7a\x05abcd"),
        ("a length of 2^64 - 1", b"\x7a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"),
        ("a length of 2^64", b"\x7a\x80\x80\x80\x80\x80\x80\x80\x80\x80\x02"),
        ("a varint of eleven bytes", b"\x78\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x00"),
        ("a varint without an end", b"\x78\x80\x80"),
        ("a group", b"\x7b\x7c"),
        ("an unassigned wire type", b"\x7e"),
        ("field number 0", b"\x02\x00"),
        ("a field number of 30 bits", b"\xfa\xff\xff\xff\x1f\x00"),
    ];
    for (what, no_field) in no_fields {
        for depth in 0..Parts::default().all().len() {
            let mut parts = Parts::typical();
            parts.all()[depth].extend(no_field);
            let found = read(&parts.message(), None).map(|_| ());
            assert_eq!(found, Err(malformed(Detail::MessageUnreadable)), "{what} at depth {depth}");
        }
        refused(|it| it.http.extend(bytes(3, no_field)));
        refused(|it| it.header_map.extend(bytes(1, no_field)));
        refused(|it| it.attributes.extend(bytes(10, no_field)));
    }
}

#[test]
fn text_that_is_not_utf8_is_refused_where_it_is_used() {
    let mut parts = Parts::default();
    parts.http.extend(bytes(2, b"\xff"));
    assert_eq!(read(&parts.message(), None), Err(malformed(Detail::TextNotUtf8)));
    for number in [4, 5, 6] {
        let mut parts = Parts::default();
        parts.http.extend([bytes(2, b"GET"), bytes(number, b"\xc3")].concat());
        assert!(read(&parts.message(), None).is_err());
        *parts.http.last_mut().unwrap() = b'c';
        assert!(read(&parts.message(), None).is_ok());
    }
    let mut parts = Parts::default();
    parts.http.extend(bytes(2, b"GET"));
    parts.attributes.extend(bytes(10, &pair("policy", b"\xff")));
    assert!(read(&parts.message(), None).is_err());
}

fn malformed(detail: Detail) -> Refusal {
    assert_eq!(detail.denial(), Denial::RequestMalformed);
    detail.into()
}

#[track_caller]
fn refused(edit: impl FnOnce(&mut Parts)) {
    let mut parts = Parts::typical();
    edit(&mut parts);
    assert_eq!(read(&parts.message(), None).unwrap_err().denial, Denial::RequestMalformed);
}

// Messages by hand: the full decoder's encoder would not write most of them.

/// A `CheckRequest` in encoded parts, each without those that are listed below it.
#[derive(Default)]
struct Parts {
    outermost: Vec<u8>,
    attributes: Vec<u8>,
    source: Vec<u8>,
    request: Vec<u8>,
    http: Vec<u8>,
    header_map: Vec<u8>,
}

impl Parts {
    fn typical() -> Self {
        Self {
            attributes: bytes(10, &pair("policy", b"payments")),
            source: [bytes(4, b"spiffe://client"), bytes(5, b"-----BEGIN")].concat(),
            http: [
                bytes(2, b"GET"),
                bytes(4, b"//host/x?y=1"),
                bytes(5, b"api.example.com"),
                bytes(6, b"https"),
                map("x-request-id", b"1234"),
                map("traceparent", b"00-0-0-01"),
            ]
            .concat(),
            header_map: [
                raw(":path", b"/elsewhere"),
                raw("authorization", b"DPoP a.b.c"),
                value("dpop", b"d.e.f"),
                raw("x-forwarded-client-cert", b"Hash=00"),
                raw("client-cert", b":AAAA:"),
            ]
            .concat(),
            ..Self::default()
        }
    }

    fn message(&self) -> Vec<u8> {
        let http = [&self.http[..], &bytes(13, &self.header_map)].concat();
        let request = [&self.request[..], &bytes(2, &http)].concat();
        let attributes =
            [&self.attributes[..], &bytes(1, &self.source), &bytes(4, &request)].concat();
        [&self.outermost[..], &bytes(1, &attributes)].concat()
    }

    fn all(&mut self) -> [&mut Vec<u8>; 6] {
        let Self { outermost, attributes, source, request, http, header_map } = self;
        [outermost, attributes, source, request, http, header_map]
    }
}

/// A field of bytes; its number has four bits.
fn bytes(number: u8, payload: &[u8]) -> Vec<u8> {
    let mut field = vec![number << 3 | 2];
    prost::encoding::encode_varint(payload.len().try_into().unwrap(), &mut field);
    [&field[..], payload].concat()
}

fn pair(key: &str, value: &[u8]) -> Vec<u8> {
    [bytes(1, key.as_bytes()), bytes(2, value)].concat()
}

/// An entry of `headers`.
fn map(key: &str, value: &[u8]) -> Vec<u8> {
    bytes(3, &pair(key, value))
}

/// A line of `header_map`, as text.
fn value(key: &str, value: &[u8]) -> Vec<u8> {
    bytes(1, &pair(key, value))
}

/// A line of `header_map`, as bytes.
fn raw(key: &str, value: &[u8]) -> Vec<u8> {
    bytes(1, &[bytes(1, key.as_bytes()), bytes(3, value)].concat())
}

fn captured() -> Vec<(String, Vec<u8>)> {
    let files = fs::read_dir(VECTORS).unwrap().map(|it| it.unwrap().path());
    let mut messages: Vec<_> = files
        .filter(|it| it.extension().is_some_and(|it| it == "pb"))
        .map(|it| (it.file_stem().unwrap().to_string_lossy().into_owned(), fs::read(it).unwrap()))
        .collect();
    messages.sort();
    messages
}

fn captured_as(name: &str) -> Vec<u8> {
    fs::read(format!("{VECTORS}/{name}.pb")).unwrap()
}

const VECTORS: &str = "tests/vectors/envoy";
