//! Redaction of requests before they are captured.

use super::kept::Kept;
use crate::front::ext_authz::pb::envoy::config::core::v3::Metadata;
use crate::front::ext_authz::pb::envoy::service::auth::v3::CheckRequest;
use crate::front::ext_authz::pb::envoy::service::auth::v3::attribute_context::HttpRequest;
use crate::front::ext_authz::route::{ANNOTATIONS, KEY, NAMESPACE, RESOURCES};
use keybound_core::jose::{base64url, json};
use keybound_core::oauth::{Scheme, is_access_token};
use keybound_core::{Field, Overrides};
use prost::Message;
use prost_types::value::Kind;
use prost_types::{Struct, Value};

/// Redacts an encoded request: no signatures, no opaque token, no values in the query, no body, and
/// only the names of other headers and of other route metadata. Returns nothing if the request
/// cannot be parsed, since it may then contain anything.
pub fn redacted(message: &[u8], certificate_header: Option<&str>) -> Option<Vec<u8>> {
    Some(without_secrets(message, certificate_header)?.encode_to_vec())
}

/// The same, with what is to be known when it is explained.
pub(super) fn redacted_as(
    kept: &Kept,
    message: &[u8],
    certificate_header: Option<&str>,
) -> Option<Vec<u8>> {
    let mut request = without_secrets(message, certificate_header)?;
    kept.write_into(request.attributes.as_mut()?);
    Some(request.encode_to_vec())
}

fn without_secrets(message: &[u8], certificate_header: Option<&str>) -> Option<CheckRequest> {
    let mut request = CheckRequest::decode(message).ok()?;
    let attributes = request.attributes.as_mut()?;
    attributes.metadata_context = None;
    attributes.route_metadata_context = attributes.route_metadata_context.take().map(annotation);
    for (name, value) in &mut attributes.context_extensions {
        if name != "policy" {
            value.clear();
        }
    }
    if let Some(http) = attributes.request.as_mut().and_then(|it| it.http.as_mut()) {
        redact(http, certificate_header);
    }
    Some(request)
}

fn redact(http: &mut HttpRequest, certificate_header: Option<&str>) {
    http.body.clear();
    http.raw_body.clear();
    http.query.clear();
    http.fragment.clear();
    if let Some((user, host)) = http.host.rsplit_once('@') {
        http.host = format!("{}@{host}", filled(user));
    }
    http.path = without_values(&http.path);
    for (name, value) in &mut http.headers {
        *value = header_value(name, value, certificate_header);
    }
    for line in http.header_map.iter_mut().flat_map(|it| &mut it.headers) {
        line.value = header_value(&line.key, &line.value, certificate_header);
        // Bytes that are not UTF-8 do not affect the check of any of these headers.
        let raw = String::from_utf8_lossy(&line.raw_value);
        line.raw_value = header_value(&line.key, &raw, certificate_header).into_bytes();
    }
}

/// Headers that checks use and whose values are not secret.
const TELLING: [&str; 3] = ["x-forwarded-client-cert", "x-request-id", "traceparent"];

fn header_value(name: &str, value: &str, certificate_header: Option<&str>) -> String {
    let name = name.to_ascii_lowercase();
    match name.as_str() {
        "authorization" => authorization(value),
        "dpop" => without_signature(value),
        it if TELLING.contains(&it) || certificate_header == Some(it) => value.to_owned(),
        it => overriding(it, value),
    }
}

/// A method or URL that overrides the target's own, since checks use it; anything else is emptied.
fn overriding(name: &str, value: &str) -> String {
    let mut found = Overrides::default();
    found.add(name.as_bytes(), value.as_bytes());
    if found.method != Field::Absent {
        return method(value);
    }
    if found.url == Field::Absent {
        return String::new();
    }
    // A server that reads a whole URL uses its path.
    let behind =
        value.split_once("://").map(|(_, rest)| rest.find('/').map(|it| rest.split_at(it).1));
    without_values(behind.map_or(value, Option::unwrap_or_default))
}

/// A short text unchanged; one longer than any method is emptied.
fn method(value: &str) -> String {
    if value.len() <= METHOD_CHARS { value.to_owned() } else { filled(value) }
}

/// No common method has a longer name.
const METHOD_CHARS: usize = 16;

/// The scheme unchanged, and each further word redacted, since it may be a token. Spaces around
/// them are ignored when parsing. A sole word is kept only if it is a known scheme.
fn authorization(value: &str) -> String {
    let begin = value.len().saturating_sub(value.trim_ascii_start().len());
    let (blanks, value) = value.split_at_checked(begin).unwrap_or(("", value));
    let (scheme, rest) = match value.split_once(' ') {
        Some(found) => found,
        None if is_known(value.trim_ascii_end()) => return format!("{blanks}{value}"),
        None => ("", value),
    };
    let is_scheme = is_known(scheme)
        || scheme.len() <= SCHEME_CHARS && scheme.bytes().all(|it| it.is_ascii_alphabetic());
    let piece = |it| if is_known(scheme) { without_signature(it) } else { filled(it) };
    let rest: Vec<_> = rest.split(' ').map(piece).collect();
    let scheme = if is_scheme { scheme.to_owned() } else { filled(scheme) };
    let between = if value.contains(' ') { " " } else { "" };
    format!("{blanks}{scheme}{between}{}", rest.join(" "))
}

fn is_known(scheme: &str) -> bool {
    Scheme::named(scheme.as_bytes()).is_some()
}

/// No scheme has a longer name, but many secrets are longer.
const SCHEME_CHARS: usize = 16;

/// A JWT with its signature zeroed. Anything else keeps only its shape: an opaque token may contain
/// dots too, with the secret anywhere between them.
fn without_signature(jwt: &str) -> String {
    match jwt.split('.').collect::<Vec<_>>()[..] {
        [header, payload, signature] if is_object(header) && !jwt.contains(',') => {
            format!("{header}.{payload}.{}", filled(signature))
        }
        _ => filled(jwt).chars().map(|it| if is_odd(it) { '!' } else { it }).collect(),
    }
}

/// Whether an opaque token may contain this character although RFC 6750 does not allow it.
fn is_odd(it: char) -> bool {
    it.is_ascii_punctuation() && !"-._~+/\"',;\\=".contains(it)
}

fn is_object(part: &str) -> bool {
    base64url::decode(part.as_bytes()).is_ok_and(|it| json::object(&it).is_ok())
}

/// Replaces each character that a token may contain with `A`, and keeps the others.
fn filled(text: &str) -> String {
    let fill = |it: char| if it.is_alphanumeric() || "-_~+/".contains(it) { 'A' } else { it };
    text.chars().map(fill).collect()
}

/// A path whose query has names but no values. A name without a value may itself be one, and so may
/// what follows a `;`, which ends a value for some parsers and is part of it for others.
fn without_values(path: &str) -> String {
    let Some((path, query)) = path.split_once('?') else { return path.to_owned() };
    let parts = query.split('&').map(|part| {
        let mut pieces = part.split(';');
        let first = pieces.next().map(without_value);
        let others = pieces.map(|it| token_name(it).unwrap_or_else(|| filled(it)));
        first.into_iter().chain(others).collect::<Vec<_>>().join(";")
    });
    format!("{path}?{}", parts.collect::<Vec<_>>().join("&"))
}

fn without_value(parameter: &str) -> String {
    token_name(parameter).unwrap_or_else(|| match parameter.split_once('=') {
        // Servers may use it as the method.
        Some((name @ "_method", value)) => format!("{name}={}", method(value)),
        Some((name, value)) if !value.trim_matches('=').is_empty() => format!("{name}="),
        Some(_) | None => filled(parameter),
    })
}

/// The exact name that checks look for, in place of any spelling of it: another could carry
/// more than the name.
fn token_name(parameter: &str) -> Option<String> {
    let (name, equals) = parameter.split_once('=').map_or((parameter, ""), |(name, _)| (name, "="));
    is_access_token(name).then(|| format!("access_token{equals}"))
}

/// Reduces the metadata of a route to the annotations that name its policy.
fn annotation(metadata: Metadata) -> Metadata {
    let mut ours = metadata.filter_metadata;
    ours.retain(|name, _| name == NAMESPACE);
    for gateway in ours.values_mut() {
        gateway.fields.retain(|name, _| name == RESOURCES);
        for resources in gateway.fields.values_mut() {
            resources_in(resources);
        }
    }
    Metadata { filter_metadata: ours, ..Metadata::default() }
}

fn resources_in(list: &mut Value) {
    let Some(Kind::ListValue(list)) = &mut list.kind else { return *list = nothing() };
    for resource in &mut list.values {
        match &mut resource.kind {
            Some(Kind::StructValue(resource)) => named_in(resource),
            _ => *resource = nothing(),
        }
    }
}

fn named_in(resource: &mut Struct) {
    resource.fields.retain(|name, _| name == ANNOTATIONS);
    for annotations in resource.fields.values_mut() {
        let Some(Kind::StructValue(annotations)) = &mut annotations.kind else {
            return *annotations = nothing();
        };
        annotations.fields.retain(|name, _| name == KEY);
        for name in annotations.fields.values_mut() {
            if !matches!(name.kind, Some(Kind::StringValue(_))) {
                *name = nothing();
            }
        }
    }
}

/// As unclear to a check as any other unexpected value.
const fn nothing() -> Value {
    Value { kind: Some(Kind::NullValue(0)) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::front::ext_authz::pb::envoy::config::core::v3::{HeaderMap, HeaderValue};
    use crate::front::ext_authz::pb::envoy::service::auth::v3::AttributeContext;
    use crate::front::ext_authz::pb::envoy::service::auth::v3::attribute_context::Request;
    use crate::front::ext_authz::{route, wire};
    use keybound_core::Annotation;
    use prost_types::ListValue;

    #[test]
    fn nothing_is_left_of_a_credential_but_what_cannot_be_used() {
        for (value, left) in [
            ("Bearer e30.bb.c-_9", "Bearer e30.bb.AAAA"),
            ("Bearer", "Bearer"),
            ("dPoP", "dPoP"),
            ("Bearer ", "Bearer "),
            (" \tBearer\t", " \tBearer\t"),
            (" Bearer e30.bb.cc", " Bearer e30.bb.AA"),
            ("  secret", "  AAAAAA"),
            ("Bearer\tsecret", "AAAAAA\tAAAAAA"),
            ("Basic", "AAAAA"),
            ("DPoP eyJhIjoxfQ.bb.cc", "DPoP eyJhIjoxfQ.bb.AA"),
            ("MTLS_POP e30.bb.cc", "MTLS_POP e30.bb.AA"),
            ("mtls_pop", "mtls_pop"),
            ("MTLS_POP opaque-7", "MTLS_POP AAAAAAAA"),
            ("MTLS_POPS e30.bb.cc", "AAAAAAAAA AAA.AA.AA"),
            ("bearer  e30.bb.cc", "bearer  e30.bb.AA"),
            ("Bearer glpat-c2VjcmV0.01.x7", "Bearer AAAAAAAAAAAAAA.AA.AA"),
            ("Bearer 00D5g!AQ*1|$x:y.b=", "Bearer AAAAA!AA!A!!A!A.A="),
            ("Bearer a;b=c", "Bearer A;A=A"),
            ("Bearer WzFd.bb.cc", "Bearer AAAA.AA.AA"),
            ("Bearer opaque-7", "Bearer AAAAAAAA"),
            ("Bearer a.b", "Bearer A.A"),
            ("Bearer e30.b", "Bearer AAA.A"),
            ("Bearer e30.b.c.d", "Bearer AAA.A.A.A"),
            ("Bearer e30.b.cc,Bearer e30.b.cc", "Bearer AAA.A.AA,AAAAAA e30.b.AA"),
            ("Basic dXNlcjpwYXNz", "Basic AAAAAAAAAAAA"),
            ("aa.bb.cc", "AA.AA.AA"),
            ("c2VjcmV0c2VjcmV0c2VjcmV0 x", "AAAAAAAAAAAAAAAAAAAAAAAA A"),
            ("SecretSecretSecr x", "SecretSecretSecr A"),
            ("SecretSecretSecre x", "AAAAAAAAAAAAAAAAA A"),
            ("", ""),
        ] {
            assert_eq!(header_value("Authorization", value, None), left, "{value}");
        }
        assert_eq!(header_value("dpop", "e30.bb.cc", None), "e30.bb.AA");
        assert_eq!(header_value("dpop", "aa.bb.cc", None), "AA.AA.AA");
        assert_eq!(header_value("dpop", "secret", None), "AAAAAA");
        assert_eq!(header_value("cookie", "session=1", None), "");
        assert_eq!(header_value("X-Cert", "c", Some("x-cert")), "c");
        assert_eq!(header_value("X-Cert", "c", None), "");
        for (name, value, left) in [
            ("X-HTTP-Method-Override", "DELETE", "DELETE"),
            ("x_http_method", "c2VjcmV0c2VjcmV0c2V", "AAAAAAAAAAAAAAAAAAA"),
            ("x-original-url", "/a?b=secret", "/a?b="),
            ("x-rewrite-url", "https://user:secret@api.test/a?b=secret", "/a?b="),
            ("x-rewrite-url", "https://user:secret@api.test", ""),
            ("x-original-urls", "/a", ""),
        ] {
            assert_eq!(header_value(name, value, None), left, "{name}");
        }
    }

    #[test]
    fn nothing_is_left_of_a_query_but_the_names_of_its_values() {
        for (path, left) in [
            ("/a", "/a"),
            ("/a?", "/a?"),
            ("/a?x=1&access_token=t&y=2#z", "/a?x=&access_token=&y="),
            ("/a?access_token", "/a?access_token"),
            ("/a?access_token=", "/a?access_token="),
            ("/a?x=1;access_token=t", "/a?x=;access_token="),
            ("/a?x=1;c2VjcmV0=1;y", "/a?x=;AAAAAAAA=A;A"),
            ("/a?access%5ftoken=t", "/a?access_token="),
            ("/a?access_token[secret]", "/a?access_token"),
            ("/a?ACCESS.TOKEN%00secret=t", "/a?access_token="),
            ("/a?%61ccess_token", "/a?access_token"),
            ("/a?c2VjcmV0", "/a?AAAAAAAA"),
            ("/a?c2VjcmV0==", "/a?AAAAAAAA=="),
            ("/a?x=1&c2VjcmV0=", "/a?x=&AAAAAAAA="),
            ("/a?x=1&_method=PUT", "/a?x=&_method=PUT"),
            ("/a?_method=c2VjcmV0c2VjcmV0c2V", "/a?_method=AAAAAAAAAAAAAAAAAAA"),
        ] {
            assert_eq!(without_values(path), left);
        }
    }

    fn attributes() -> AttributeContext {
        let line = |key: &str, value: &str| HeaderValue {
            key: key.to_owned(),
            raw_value: value.as_bytes().to_vec(),
            ..HeaderValue::default()
        };
        let mut cookie = line("cookie", "secret");
        cookie.value = "secret".to_owned();
        let headers = vec![line("authorization", "Bearer e30.bb.secret"), cookie];
        let http = HttpRequest {
            method: "GET".to_owned(),
            host: "secret:secret@api.test:443".to_owned(),
            path: "/a?b=secret".to_owned(),
            query: "b=secret".to_owned(),
            fragment: "secret".to_owned(),
            body: "secret".to_owned(),
            raw_body: b"secret".to_vec(),
            headers: [("dpop".to_owned(), "e30.bb.secret".to_owned())].into(),
            header_map: Some(HeaderMap { headers }),
            ..HttpRequest::default()
        };
        let extensions = [("policy", "payments"), ("key", "secret")];
        AttributeContext {
            request: Some(Request { http: Some(http), ..Request::default() }),
            context_extensions: extensions.map(|(it, value)| (it.into(), value.into())).into(),
            ..AttributeContext::default()
        }
    }

    fn left_of(attributes: AttributeContext) -> Vec<u8> {
        let message = CheckRequest { attributes: Some(attributes) }.encode_to_vec();
        let kept = redacted(&message, None).unwrap();
        assert!(!String::from_utf8_lossy(&kept).contains("secret"));
        kept
    }

    #[test]
    fn what_is_kept_can_be_checked_and_holds_no_secret() {
        let kept = left_of(attributes());
        let request = wire::read(&kept, None, None).unwrap();
        assert_eq!(request.policy, Some("payments"));
        assert_eq!(request.authorization, Field::One(b"Bearer e30.bb.AAAAAA"));
        assert_eq!(request.proof, Field::One(b"e30.bb.AAAAAA"));
        assert_eq!(request.target.authority, "AAAAAA:AAAAAA@api.test:443");
        assert_eq!(request.target.path, "/a?b=");
        assert_eq!(redacted(b"\xff", None), None);
        assert_eq!(redacted(b"", None), None);
    }

    fn text(text: &str) -> Value {
        Value { kind: Some(Kind::StringValue(text.to_owned())) }
    }

    fn list(values: Vec<Value>) -> Value {
        Value { kind: Some(Kind::ListValue(ListValue { values })) }
    }

    fn structure(members: impl IntoIterator<Item = (&'static str, Value)>) -> Value {
        let fields = members.into_iter().map(|(name, it)| (name.to_owned(), it)).collect();
        Value { kind: Some(Kind::StructValue(Struct { fields })) }
    }

    /// Route metadata with this policy annotation, and more.
    fn resource(name: Value) -> Value {
        let annotations = structure([(KEY, name), ("other", text("secret"))]);
        structure([(ANNOTATIONS, annotations), ("name", text("secret"))])
    }

    #[test]
    fn what_a_route_says_of_its_policy_is_kept_and_nothing_else() {
        for (resources, said) in [
            (list(vec![resource(text("a"))]), Annotation::Names("a")),
            (list(vec![resource(text("a")), resource(text("b"))]), Annotation::Unclear),
            (list(vec![structure([("name", text("secret"))])]), Annotation::Absent),
            (list(vec![]), Annotation::Absent),
            (list(vec![resource(list(vec![text("secret")]))]), Annotation::Unclear),
            (list(vec![structure([(ANNOTATIONS, text("secret"))])]), Annotation::Unclear),
            (list(vec![text("secret")]), Annotation::Unclear),
            (text("secret"), Annotation::Unclear),
        ] {
            let gateway = [(RESOURCES.to_owned(), resources), ("more".to_owned(), text("secret"))];
            let other = Struct { fields: [("x".to_owned(), text("secret"))].into() };
            let names = [NAMESPACE, "other"].map(ToOwned::to_owned);
            let values = [Struct { fields: gateway.into() }, other];
            let filter_metadata = names.into_iter().zip(values).collect();
            let metadata = Metadata { filter_metadata, ..Metadata::default() };
            let attributes = AttributeContext {
                metadata_context: Some(metadata.clone()),
                route_metadata_context: Some(metadata),
                ..attributes()
            };
            assert_eq!(route::annotation(&left_of(attributes)), Ok(said));
        }
    }
}
