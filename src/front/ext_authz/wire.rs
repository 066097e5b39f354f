//! Decoding of a `CheckRequest` in a single pass that borrows from the bytes.
//!
//! Envoy sends every field once. Where protobuf would merge repetitions or keep the last, the
//! message is refused, so that no two parsers can disagree about it.

use super::protobuf::{Fields, Malformed, Payload, entry, only, text};
use super::route;
use keybound_core::policy::ReservedHeaders;
use keybound_core::{Field, Overrides, PeerCertificate, Refusal, Request, Rules};

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

/// The header names in the configuration.
#[derive(Clone, Copy, Default)]
struct Names<'n> {
    certificate_header: Option<&'n str>,
    /// The reserved names whose aliases to find, if any.
    reserved: Option<&'n ReservedHeaders>,
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
    let mut headers = Headers { names, ..Headers::default() };
    for field in Fields::of(message) {
        match field? {
            (2, it) => it.once(&mut method)?,
            (3, it) => headers.add(entry(it.bytes()?)?)?,
            (4, it) => it.once(&mut path)?,
            (5, it) => it.once(&mut host)?,
            (6, it) => it.once(&mut scheme)?,
            (13, it) => it.once(&mut header_map)?,
            _ => (),
        }
    }
    for field in Fields::of(header_map.unwrap_or_default()) {
        if let (1, it) = field? {
            headers.add(header_value(it.bytes()?)?)?;
        }
    }
    let mut found = headers.into_request();
    found.target.method = text(method.filter(|it| !it.is_empty()).ok_or(Malformed::NoMethod)?)?;
    found.target.path = text(path.unwrap_or_default())?;
    found.target.authority = text(host.unwrap_or_default())?;
    found.target.scheme = text(scheme.unwrap_or_default())?;
    Ok(found)
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

/// The headers that checks use, from either container.
#[derive(Default)]
struct Headers<'a, 'n> {
    overrides: Overrides<'a>,
    authorization: Field<'a>,
    proof: Field<'a>,
    xfcc: Field<'a>,
    traceparent: Field<'a>,
    request_id: Field<'a>,
    certificate: Field<'a>,
    unwanted: Vec<&'a str>,
    names: Names<'n>,
}

/// The most header lines of a request that are removed. Envoy accepts 100 headers by default.
const MOST_UNWANTED: usize = 256;

impl<'a> Headers<'a, '_> {
    fn add(&mut self, (name, value): (&'a [u8], &'a [u8])) -> Result<(), Malformed> {
        match self.field(name) {
            Some(field) => *field = field.and(value),
            None => self.overrides.add(name, value),
        }
        // Compared separately: it may be one of the headers below.
        let certificate_header = self.names.certificate_header;
        if certificate_header.is_some_and(|it| name.eq_ignore_ascii_case(it.as_bytes())) {
            self.certificate = self.certificate.and(value);
        }
        if self.names.reserved.is_some_and(|it| it.must_go(name)) {
            return self.add_unwanted(name);
        }
        Ok(())
    }

    #[cold]
    fn add_unwanted(&mut self, name: &'a [u8]) -> Result<(), Malformed> {
        // A header that cannot be named cannot be removed.
        let name = str::from_utf8(name).or(Err(Malformed::Unwanted))?;
        if self.unwanted.len() == MOST_UNWANTED {
            return Err(Malformed::Unwanted);
        }
        // The lines of one header are adjacent.
        if self.unwanted.last() != Some(&name) {
            self.unwanted.push(name);
        }
        Ok(())
    }

    /// Fast path: most headers differ in length from all of these.
    fn field(&mut self, name: &[u8]) -> Option<&mut Field<'a>> {
        let (known, field) = match name.len() {
            4 => ("dpop", &mut self.proof),
            11 => ("traceparent", &mut self.traceparent),
            12 => ("x-request-id", &mut self.request_id),
            13 => ("authorization", &mut self.authorization),
            23 => ("x-forwarded-client-cert", &mut self.xfcc),
            _ => return None,
        };
        name.eq_ignore_ascii_case(known.as_bytes()).then_some(field)
    }

    fn into_request(self) -> Request<'a> {
        let mut request = Request {
            overrides: self.overrides,
            authorization: self.authorization,
            proof: self.proof,
            traceparent: self.traceparent.sole(),
            request_id: self.request_id.sole(),
            unwanted: self.unwanted,
            ..Request::default()
        };
        request.evidence.xfcc = self.xfcc;
        request.evidence.header = self.certificate;
        request
    }
}
