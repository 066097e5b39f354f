//! Decoding of a `CheckRequest` in a single pass that borrows from the bytes.
//!
//! Envoy sends every field once. Where protobuf would merge repetitions or keep the last, the
//! message is refused, so that no two parsers can disagree about it.

use super::protobuf::{Fields, Malformed, Payload, entry, only, text};
use super::route;
use crate::front::headers::{Headers, Names};
use keybound_core::policy::ReservedHeaders;
use keybound_core::{PeerCertificate, Refusal, Request, Rules};

/// Decodes the parts of an `envoy.service.auth.v3.CheckRequest` that `rules` use.
///
/// # Errors
///
/// As [`read`].
pub fn read_for<'a>(message: &'a [u8], rules: &Rules) -> Result<Request<'a>, Refusal> {
    let certificate_header = rules.policies.client_certificate.header();
    let mut request = read(message, certificate_header, Some(rules.reserved_headers()))?;
    if rules.heeds_routes() {
        request.annotated = route::annotation(message)?;
    }
    Ok(request)
}

/// Decodes an `envoy.service.auth.v3.CheckRequest`.
///
/// `certificate_header` is the header that carries the client certificate, if there is one, and
/// `reserved` are the names whose aliases to find. Header names are case-insensitive. Fields that are not used are skipped without parsing them; the
/// annotations of the route are left to [`route::annotation`].
///
/// # Errors
///
/// `request_malformed`: the bytes are not such a message, or hold no HTTP request.
pub fn read<'a>(
    message: &'a [u8],
    certificate_header: Option<&str>,
    reserved: Option<&ReservedHeaders>,
) -> Result<Request<'a>, Refusal> {
    Ok(check_request(message, Names { certificate_header, reserved })?)
}

fn check_request<'a>(message: &'a [u8], names: Names<'_>) -> Result<Request<'a>, Malformed> {
    let attributes = only(1, message)?;
    attribute_context(attributes.ok_or(Malformed::NoHttpRequest)?, names)
}

fn attribute_context<'a>(message: &'a [u8], names: Names<'_>) -> Result<Request<'a>, Malformed> {
    let (mut source, mut request, mut policy) = (None, None, None);
    for field in Fields::of(message) {
        match field? {
            (1, it) => it.once(&mut source)?,
            (4, it) => it.once(&mut request)?,
            (10, it) => {
                if let (b"policy", name) = entry(it.bytes()?)? {
                    Payload::Bytes(name).once(&mut policy)?;
                }
            }
            _ => (),
        }
    }
    let http = only(2, request.ok_or(Malformed::NoHttpRequest)?)?;
    let mut found = http_request(http.ok_or(Malformed::NoHttpRequest)?, names)?;
    found.policy = policy.map(text).transpose()?;
    peer(source.unwrap_or_default(), &mut found)?;
    Ok(found)
}

fn peer<'a>(message: &'a [u8], found: &mut Request<'a>) -> Result<(), Malformed> {
    let (mut principal, mut certificate) = (None, None);
    for field in Fields::of(message) {
        match field? {
            (4, it) => it.once(&mut principal)?,
            (5, it) => it.once(&mut certificate)?,
            _ => (),
        }
    }
    found.evidence.peer_principal = principal.unwrap_or_default();
    found.evidence.peer_certificate =
        PeerCertificate::url_encoded_pem(certificate.unwrap_or_default());
    Ok(())
}

fn http_request<'a>(message: &'a [u8], names: Names<'_>) -> Result<Request<'a>, Malformed> {
    let (mut method, mut path, mut host, mut scheme, mut header_map) =
        (None, None, None, None, None);
    let mut headers = Headers::under(names);
    for field in Fields::of(message) {
        match field? {
            (2, it) => it.once(&mut method)?,
            (3, it) => add(&mut headers, entry(it.bytes()?)?)?,
            (4, it) => it.once(&mut path)?,
            (5, it) => it.once(&mut host)?,
            (6, it) => it.once(&mut scheme)?,
            (13, it) => it.once(&mut header_map)?,
            _ => (),
        }
    }
    for field in Fields::of(header_map.unwrap_or_default()) {
        if let (1, it) = field? {
            add(&mut headers, header_value(it.bytes()?)?)?;
        }
    }
    let mut found = headers.into_request();
    found.target.method = text(method.filter(|it| !it.is_empty()).ok_or(Malformed::NoMethod)?)?;
    found.target.path = text(path.unwrap_or_default())?;
    found.target.authority = text(host.unwrap_or_default())?;
    found.target.scheme = text(scheme.unwrap_or_default())?;
    Ok(found)
}

fn add<'a>(
    headers: &mut Headers<'a, '_>,
    (name, value): (&'a [u8], &'a [u8]),
) -> Result<(), Malformed> {
    headers.add(name, value).or(Err(Malformed::Unwanted))
}

/// The key and value of a `HeaderValue`.
fn header_value(message: &[u8]) -> Result<(&[u8], &[u8]), Malformed> {
    let (mut key, mut value, mut raw_value) = (None, None, None);
    for field in Fields::of(message) {
        match field? {
            (1, it) => it.once(&mut key)?,
            (2, it) => it.once(&mut value)?,
            (3, it) => it.once(&mut raw_value)?,
            _ => (),
        }
    }
    // Envoy documents that only one of the two is set.
    match (value.unwrap_or_default(), raw_value.unwrap_or_default()) {
        (value, []) | ([], value) => Ok((key.unwrap_or_default(), value)),
        _ => Err(Malformed::Repeated),
    }
}
