//! The input of `explain`: a `CheckRequest` from Envoy or in JSON, or a request described as for
//! curl.

use super::certificate::{self, Certificate};
use super::metadata;
use crate::front::ext_authz::pb::envoy::config::core::v3::{HeaderMap, HeaderValue, Metadata};
use crate::front::ext_authz::pb::envoy::service::auth::v3::attribute_context as pb;
use crate::front::ext_authz::pb::envoy::service::auth::v3::{AttributeContext, CheckRequest};
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use base64::{DecodeError, Engine};
use keybound_core::client_certificate::Source;
use keybound_core::jose::json::{self, ObjectOf};
use prost::Message;
use serde::Deserialize;
use std::collections::HashMap;

/// A request described as for curl.
pub(crate) struct Described<'a> {
    /// The method.
    pub(crate) method: &'a str,
    /// The URL, with a scheme.
    pub(crate) url: &'a str,
    /// The names and values of the headers.
    pub(crate) headers: Vec<(&'a str, &'a str)>,
    /// The client's certificate.
    pub(crate) certificate: Option<Certificate>,
    /// The policy that the proxy's configuration names for the route.
    pub(crate) policy: Option<&'a str>,
    /// The policy that the annotation of the route names.
    pub(crate) annotation: Option<&'a str>,
}

/// The name and value in a header line.
pub(crate) fn header(line: &str) -> Option<(&str, &str)> {
    let (name, value) = line.split_once(':')?;
    Some((name.trim(), value.trim()))
}

impl Described<'_> {
    /// The `CheckRequest` that Envoy would send, with the certificate where `source` reads it.
    pub(crate) fn message(&self, source: &Source) -> Result<Vec<u8>, String> {
        let (scheme, rest) = self.url.split_once("://").ok_or("the URL has no scheme")?;
        let rest = rest.split('#').next().unwrap_or_default();
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (host, path) = rest.split_at_checked(end).unwrap_or((rest, ""));
        let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
        let headers = self.headers.iter();
        let headers = headers.map(|(name, value)| entry(name.to_ascii_lowercase(), *value));
        let mut headers: Vec<_> = headers.collect();
        let mut peer = pb::Peer::default();
        if let Some(certificate) = &self.certificate {
            certificate::principal(source).clone_into(&mut peer.principal);
            match certificate.carried(source) {
                (None, value) => peer.certificate = value,
                (Some(name), value) => headers.push(entry(name, value)),
            }
        }
        let http = pb::HttpRequest {
            method: self.method.to_owned(),
            scheme: scheme.to_ascii_lowercase(),
            host: host.to_owned(),
            path,
            header_map: Some(HeaderMap { headers }),
            ..pb::HttpRequest::default()
        };
        let policy = self.policy.iter().map(|it| ("policy".to_owned(), (*it).to_owned())).collect();
        Ok(message(peer, http, policy, self.annotation.map(metadata::naming)))
    }
}

fn entry(key: String, value: impl Into<String>) -> HeaderValue {
    HeaderValue { key, value: value.into(), ..HeaderValue::default() }
}

fn message(
    source: pb::Peer,
    http: pb::HttpRequest,
    context_extensions: HashMap<String, String>,
    route_metadata_context: Option<Metadata>,
) -> Vec<u8> {
    let request = pb::Request { http: Some(http), ..pb::Request::default() };
    let attributes = AttributeContext {
        source: Some(source),
        request: Some(request),
        context_extensions,
        route_metadata_context,
        ..AttributeContext::default()
    };
    CheckRequest { attributes: Some(attributes) }.encode_to_vec()
}

/// The encoded `CheckRequest` in `bytes`, which contain one as Envoy sends it, or in JSON.
///
/// Anything that is not JSON is returned unchanged, for the check to judge.
pub(crate) fn encoded(bytes: Vec<u8>) -> Result<Vec<u8>, String> {
    let first = bytes.iter().find(|it| !it.is_ascii_whitespace());
    if first != Some(&b'{') {
        return Ok(bytes);
    }
    match json::object_of::<Written>(&bytes) {
        Ok(written) => written.message(),
        Err(error) if error.is_data() => Err(error.to_string()),
        // A message from Envoy may start with a length that looks like a brace.
        Err(_) if CheckRequest::decode(&*bytes).is_ok() => Ok(bytes),
        Err(error) => Err(format!("neither protobuf nor JSON: {error}")),
    }
}

/// The same request with this token.
pub(crate) fn with_token(message: &[u8], token: &str) -> Result<Vec<u8>, String> {
    with_header(message, "authorization", |value| {
        let scheme = value.split(' ').next().unwrap_or_default();
        format!("{scheme} {token}")
    })
}

/// The same request with this proof.
pub(crate) fn with_proof(message: &[u8], proof: &str) -> Result<Vec<u8>, String> {
    with_header(message, "dpop", |_| proof.to_owned())
}

fn with_header(
    message: &[u8],
    name: &str,
    edit: impl Fn(&str) -> String,
) -> Result<Vec<u8>, String> {
    let unreadable = |error| format!("the request is malformed: {error}");
    let mut request = CheckRequest::decode(message).map_err(unreadable)?;
    let attributes = request.attributes.as_mut();
    let http = attributes.and_then(|it| it.request.as_mut()?.http.as_mut());
    let http = http.ok_or("the message contains no HTTP request")?;
    let mut edited = false;
    for (_, value) in http.headers.iter_mut().filter(|(it, _)| it.eq_ignore_ascii_case(name)) {
        *value = edit(value);
        edited = true;
    }
    let lines = http.header_map.iter_mut().flat_map(|it| &mut it.headers);
    for line in lines.filter(|it| it.key.eq_ignore_ascii_case(name)) {
        let raw = std::mem::take(&mut line.raw_value);
        let old = if raw.is_empty() { &line.value } else { &*String::from_utf8_lossy(&raw) };
        line.value = edit(old);
        edited = true;
    }
    if edited { Ok(request.encode_to_vec()) } else { Err(format!("the request has no {name}")) }
}

/// The parts of a `CheckRequest` in JSON that checks use, with the names of protobuf or in camel
/// case (<https://protobuf.dev/programming-guides/json/>). The others are skipped.
#[derive(Deserialize)]
struct Written {
    attributes: Option<ObjectOf<Attributes>>,
}

#[derive(Deserialize)]
struct Attributes {
    source: Option<ObjectOf<Peer>>,
    request: Option<ObjectOf<Requested>>,
    #[serde(alias = "contextExtensions")]
    context_extensions: Option<HashMap<String, String>>,
    #[serde(alias = "routeMetadataContext")]
    route_metadata_context: Option<ObjectOf<metadata::Written>>,
}

#[derive(Default, Deserialize)]
struct Peer {
    principal: Option<String>,
    certificate: Option<String>,
    labels: Option<HashMap<String, String>>,
}

#[derive(Deserialize)]
struct Requested {
    http: Option<ObjectOf<Http>>,
}

#[derive(Deserialize)]
struct Http {
    method: Option<String>,
    path: Option<String>,
    host: Option<String>,
    scheme: Option<String>,
    headers: Option<HashMap<String, String>>,
    #[serde(alias = "headerMap")]
    header_map: Option<ObjectOf<Lines>>,
}

#[derive(Deserialize)]
struct Lines {
    headers: Option<Vec<ObjectOf<Line>>>,
}

#[derive(Deserialize)]
struct Line {
    key: Option<String>,
    value: Option<String>,
    #[serde(alias = "rawValue")]
    raw_value: Option<String>,
}

impl Written {
    fn message(self) -> Result<Vec<u8>, String> {
        let ObjectOf(attributes) = self.attributes.ok_or("there are no `attributes`")?;
        let http = attributes.request.and_then(|it| it.0.http);
        let ObjectOf(http) = http.ok_or("there is no `attributes.request.http`")?;
        let ObjectOf(peer) = attributes.source.unwrap_or_default();
        let peer = pb::Peer {
            principal: peer.principal.unwrap_or_default(),
            certificate: peer.certificate.unwrap_or_default(),
            labels: peer.labels.unwrap_or_default(),
            ..pb::Peer::default()
        };
        let lines = http.header_map.and_then(|it| it.0.headers).unwrap_or_default();
        let headers = lines.into_iter().map(|it| it.0.header()).collect::<Result<_, _>>()?;
        let http = pb::HttpRequest {
            method: http.method.unwrap_or_default(),
            path: http.path.unwrap_or_default(),
            host: http.host.unwrap_or_default(),
            scheme: http.scheme.unwrap_or_default(),
            headers: http.headers.unwrap_or_default(),
            header_map: Some(HeaderMap { headers }),
            ..pb::HttpRequest::default()
        };
        let extensions = attributes.context_extensions.unwrap_or_default();
        let metadata = attributes.route_metadata_context.map(|it| it.0.metadata());
        Ok(message(peer, http, extensions, metadata))
    }
}

impl Line {
    fn header(self) -> Result<HeaderValue, String> {
        let raw = self.raw_value.unwrap_or_default();
        let raw_value = base64(&raw).map_err(|error| format!("rawValue: {error}"))?;
        let (key, value) = (self.key.unwrap_or_default(), self.value.unwrap_or_default());
        Ok(HeaderValue { key, value, raw_value })
    }
}

/// Octets in either alphabet of base64.
pub(super) fn base64(text: &str) -> Result<Vec<u8>, DecodeError> {
    EITHER.decode(text.replace('-', "+").replace('_', "/"))
}

/// Padding is optional: protobuf's JSON format allows both.
const EITHER: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::front::ext_authz::{route, wire};
    use keybound_core::{Annotation, Field};

    #[test]
    fn json_is_read_in_both_spellings_and_what_is_unknown_is_skipped() {
        for text in [
            r#"{"attributes": {"source": {"certificate": "c", "address": {"x": 1}}, "request":
                {"time": "2027-01-15T08:00:00Z", "http": {"method": "GET", "size": "-1",
                "headerMap": {"headers": [{"key": "authorization", "rawValue": "QmVhcmVyIHg="}]}}},
                "contextExtensions": {"policy": "p"}, "more": [null]}}"#,
            r#"{"attributes": {"source": {"certificate": "c", "principal": null}, "request":
                {"http": {"method": "GET", "protocol": "HTTP/2", "headers": {},
                "header_map": {"headers": [{"key": "authorization", "raw_value": "QmVhcmVyIHg"}]}}},
                "context_extensions": {"policy": "p"}}}"#,
        ] {
            let message = encoded(text.as_bytes().to_vec()).unwrap();
            let request = wire::read(&message, None, None).unwrap();
            assert_eq!(request.authorization, Field::One(b"Bearer x"));
            assert_eq!(request.evidence.peer_certificate.bytes(), b"c");
            assert_eq!((request.target.method, request.policy), ("GET", Some("p")));
        }
    }

    #[test]
    fn the_metadata_of_a_route_is_read_as_envoy_gateway_writes_it() {
        for names in
            ["routeMetadataContext filterMetadata", "route_metadata_context filter_metadata"]
        {
            let (outer, inner) = names.split_once(' ').unwrap();
            for (resources, said) in [
                (
                    r#"[{"kind": "HTTPRoute", "annotations": {"x": "y", "keybound-policy": "p"}}]"#,
                    Annotation::Names("p"),
                ),
                (r#"[{"kind": "HTTPRoute", "section": [1, true, null]}]"#, Annotation::Absent),
                (r#"[{"annotations": {"keybound-policy": 7}}]"#, Annotation::Unclear),
            ] {
                let text = format!(
                    r#"{{"attributes": {{"request": {{"http": {{"method": "GET"}}}}, "{outer}":
                    {{"{inner}": {{"envoy-gateway": {{"resources": {resources}}}}}}}}}}}"#
                );
                let message = encoded(text.into_bytes()).unwrap();
                assert_eq!(route::annotation(&message), Ok(said), "{names} {resources}");
            }
        }
    }

    #[test]
    fn what_is_json_and_no_request_is_told() {
        for (text, told) in [
            ("{}", "there are no `attributes`"),
            (r#"{"attributes": {}}"#, "there is no `attributes.request.http`"),
            (r#"{"attributes": 7}"#, "invalid type"),
            (r#"{"attributes": "#, "neither protobuf nor JSON"),
            (r#"{"attributes": {"context_extensions": {}, "contextExtensions": {}}}"#, "duplicate"),
        ] {
            let found = encoded(text.as_bytes().to_vec()).unwrap_err();
            assert!(found.contains(told), "{text}: {found}");
        }
    }

    #[test]
    fn binary_goes_on_as_it_is() {
        let request = pb::HttpRequest { method: "GET".to_owned(), ..pb::HttpRequest::default() };
        let binary = message(pb::Peer::default(), request, HashMap::new(), None);
        assert_eq!(encoded(binary.clone()).unwrap(), binary);
        // The second byte is a length, and may be a digit, a quote, a bracket or a brace.
        for length in 0..200 {
            let path = format!("/{}", "x".repeat(length));
            let method = "GET".to_owned();
            let request = pb::HttpRequest { method, path, ..pb::HttpRequest::default() };
            let binary = message(pb::Peer::default(), request, HashMap::new(), None);
            assert_eq!(encoded(binary.clone()), Ok(binary), "{length}");
        }
        assert_eq!(encoded(b"\xff".to_vec()).unwrap(), b"\xff");
        assert_eq!(encoded(vec![]).unwrap(), b"");
    }
}
