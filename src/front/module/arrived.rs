//! A request as the proxy holds it, and a copy of what a check reads of it.

use crate::front::headers::{Headers, Names};
use keybound_core::{
    Annotation, Detail, Evidence, Field, Overrides, PeerCertificate, Refusal, Request, Rules,
    Target,
};

/// What a proxy tells of a request beside its headers.
#[derive(Clone, Copy, Debug, Default)]
pub struct Told<'a> {
    /// The policy that its configuration of the route names.
    pub policy: Option<&'a str>,
    /// The SHA-256 of the client's certificate, in hexadecimal.
    pub digest: Option<&'a [u8]>,
    /// The name of the client's certificate.
    pub principal: &'a [u8],
}

/// Reads the parts of a request that `rules` use. Pseudo-headers (RFC 9113 §8.3.1) are among `lines`.
///
/// # Errors
///
/// `request_malformed`: it has no method, a part of its target is not UTF-8, or a header must be
/// removed and cannot be.
pub(super) fn read<'a>(
    lines: impl IntoIterator<Item = (&'a [u8], &'a [u8])>,
    told: Told<'a>,
    rules: &Rules,
) -> Result<Request<'a>, Refusal> {
    let certificate_header = rules.policies.client_certificate.header();
    let reserved = Some(rules.reserved_headers());
    let mut headers = Headers::under(Names { certificate_header, reserved });
    let mut target = Target::default();
    for (name, value) in lines {
        let part = match name {
            b":method" => &mut target.method,
            b":scheme" => &mut target.scheme,
            b":authority" => &mut target.authority,
            b":path" => &mut target.path,
            _ => {
                headers.add(name, value)?;
                continue;
            }
        };
        *part = str::from_utf8(value).or(Err(Detail::TextNotUtf8))?;
    }
    if target.method.is_empty() {
        return Err(Detail::MethodMissing.into());
    }
    let mut request = headers.into_request();
    request.target = target;
    request.policy = told.policy;
    request.evidence.peer_principal = told.principal;
    let certificate = told.digest.map(PeerCertificate::sha256_in_hex);
    request.evidence.peer_certificate = certificate.unwrap_or_default();
    Ok(request)
}

/// A copy of a request: the proxy's own memory may be gone while a check waits.
#[derive(Debug)]
pub(super) struct Arrived {
    text: String,
    policy: Option<Place>,
    target: [Place; 4],
    bytes: Vec<u8>,
    fields: [Kept; 7],
    sole: [Option<Place>; 2],
    principal: Place,
    certificate: PeerCertificate<'static>,
    unwanted: Vec<String>,
}

/// Where a part of the request lies in what is copied of it.
#[derive(Clone, Copy, Debug)]
struct Place {
    start: usize,
    end: usize,
}

/// A [`Field`] whose value is elsewhere.
#[derive(Clone, Copy, Debug)]
enum Kept {
    Absent,
    One(Place),
    Many,
}

impl From<&Request<'_>> for Arrived {
    fn from(request: &Request<'_>) -> Self {
        let Target { method, scheme, authority, path } = request.target;
        let Evidence { peer_certificate, peer_principal, xfcc, header } = request.evidence;
        let Overrides { method: override_method, url } = request.overrides;
        let mut text = String::with_capacity(
            [method, scheme, authority, path, request.policy.unwrap_or_default()]
                .iter()
                .fold(0, |sum, it| it.len().saturating_add(sum)),
        );
        let mut say = |it: &str| {
            let start = text.len();
            text.push_str(it);
            Place { start, end: text.len() }
        };
        let target = [method, scheme, authority, path].map(&mut say);
        let policy = request.policy.map(say);
        let Request { authorization, proof, grpc_timeout, .. } = *request;
        let fields = [authorization, proof, xfcc, header, override_method, url, grpc_timeout];
        let mut bytes = Vec::with_capacity(
            fields.iter().fold(256, |sum, it| it.sole().map_or(0, <[u8]>::len).saturating_add(sum)),
        );
        let mut keep = |it: &[u8]| {
            let start = bytes.len();
            bytes.extend_from_slice(it);
            Place { start, end: bytes.len() }
        };
        let fields = fields.map(|it| match it {
            Field::Absent => Kept::Absent,
            Field::One(value) => Kept::One(keep(value)),
            Field::Many => Kept::Many,
        });
        let sole = [request.traceparent, request.request_id].map(|it| it.map(&mut keep));
        let principal = keep(peer_principal);
        let certificate = match peer_certificate {
            PeerCertificate::Sha256(thumbprint) => PeerCertificate::Sha256(thumbprint),
            PeerCertificate::Absent => PeerCertificate::Absent,
            PeerCertificate::UrlEncodedPem(_)
            | PeerCertificate::Pem(_)
            | PeerCertificate::Der(_) => PeerCertificate::Der(b""),
        };
        let unwanted = request.unwanted.iter().map(|it| (*it).to_owned()).collect();
        Self { text, policy, target, bytes, fields, sole, principal, certificate, unwanted }
    }
}

impl Arrived {
    /// The request.
    pub(super) fn request(&self) -> Request<'_> {
        let say = |it: Place| self.text.get(it.start..it.end).unwrap_or_default();
        let bytes = |it: Place| self.bytes.get(it.start..it.end).unwrap_or_default();
        let field = |it: Kept| match it {
            Kept::Absent => Field::Absent,
            Kept::One(place) => Field::One(bytes(place)),
            Kept::Many => Field::Many,
        };
        // One by one: `map` of an array is no loop that is unrolled where code is built small.
        let [method, scheme, authority, path] = self.target;
        let [authorization, proof, xfcc, header, override_method, url, grpc_timeout] = self.fields;
        let [traceparent, request_id] = self.sole;
        Request {
            policy: self.policy.map(say),
            annotated: Annotation::Absent,
            target: Target {
                method: say(method),
                scheme: say(scheme),
                authority: say(authority),
                path: say(path),
            },
            overrides: Overrides { method: field(override_method), url: field(url) },
            authorization: field(authorization),
            proof: field(proof),
            evidence: Evidence {
                peer_certificate: self.certificate,
                peer_principal: bytes(self.principal),
                xfcc: field(xfcc),
                header: field(header),
            },
            traceparent: traceparent.map(bytes),
            request_id: request_id.map(bytes),
            grpc_timeout: field(grpc_timeout),
            unwanted: self.unwanted.iter().map(String::as_str).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::samples::policy_set;
    use keybound_core::Denial;
    use keybound_core::client_certificate::{HeaderFormat, Source};
    use keybound_core::jose::Thumbprint;
    use keybound_core::oauth::NonceKeys;
    use std::sync::Arc;

    fn rules() -> Rules {
        let name = "client-cert".to_owned();
        let format = HeaderFormat::Rfc9440;
        let policies = keybound_core::policy::PolicySet {
            client_certificate: Source::Header { name, format },
            ..policy_set()
        };
        Rules::new(policies, Arc::new(NonceKeys::from_octets(&[0; 32])))
    }

    const LINES: [(&str, &str); 13] = [
        (":method", "POST"),
        (":scheme", "https"),
        (":authority", "api.test"),
        (":path", "/a?x=1"),
        (":protocol", "websocket"),
        ("authorization", "DPoP a.b.c"),
        ("dpop", "d.e.f"),
        ("x-forwarded-client-cert", "Hash=00"),
        ("client-cert", ":AAAA:"),
        ("traceparent", "00-0-0-01"),
        ("x-request-id", "1234"),
        ("grpc-timeout", "5S"),
        ("x-http-method-override", "PUT"),
    ];

    #[track_caller]
    fn assert_read(lines: &[(&str, &str)], check: impl FnOnce(Result<Request<'_>, Refusal>)) {
        let lines = lines.iter().map(|(name, value)| (name.as_bytes(), value.as_bytes()));
        let told = Told { policy: Some("payments"), digest: None, principal: b"spiffe://client" };
        check(read(lines, told, &rules()));
    }

    #[test]
    fn every_part_of_a_request_is_read_and_copied() {
        assert_read(&LINES, |found| {
            let found = found.unwrap();
            let expected = Request {
                policy: Some("payments"),
                target: Target {
                    method: "POST",
                    scheme: "https",
                    authority: "api.test",
                    path: "/a?x=1",
                },
                overrides: Overrides { method: Field::One(b"PUT"), url: Field::Absent },
                authorization: Field::One(b"DPoP a.b.c"),
                proof: Field::One(b"d.e.f"),
                evidence: Evidence {
                    peer_principal: b"spiffe://client",
                    xfcc: Field::One(b"Hash=00"),
                    header: Field::One(b":AAAA:"),
                    ..Evidence::default()
                },
                traceparent: Some(b"00-0-0-01"),
                request_id: Some(b"1234"),
                grpc_timeout: Field::One(b"5S"),
                ..Request::default()
            };
            assert_eq!(found, expected);
            assert_eq!(Arrived::from(&found).request(), expected);
        });
    }

    #[test]
    fn a_header_that_comes_twice_is_there_many_times_and_one_that_must_go_is_named() {
        let more =
            ["authorization", "dpop", "client-cert", "Grpc-Timeout", "x_forwarded_client_cert"];
        let lines = [&LINES[..], &more.map(|it| (it, "again"))].concat();
        assert_read(&lines, |found| {
            let found = found.unwrap();
            let fields = [found.authorization, found.proof, found.grpc_timeout];
            assert_eq!(fields, [Field::Many; 3]);
            assert_eq!(found.evidence.header, Field::Many);
            assert_eq!(found.unwanted, ["x_forwarded_client_cert"]);
            assert_eq!(Arrived::from(&found).request(), found);
        });
    }

    #[test]
    fn nothing_is_made_up() {
        assert_read(&LINES[..1], |found| {
            let found = found.unwrap();
            assert_eq!(found.target, Target { method: "POST", ..Target::default() });
            assert_eq!(Arrived::from(&found).request(), found);
        });
    }

    #[test]
    fn a_request_without_a_method_or_whose_target_is_no_text_is_refused() {
        let malformed = |found: Result<Request<'_>, Refusal>| {
            assert_eq!(found.map_err(|it| it.denial).err(), Some(Denial::RequestMalformed));
        };
        assert_read(&LINES[1..], malformed);
        let odd: [(&[u8], &[u8]); 2] = [(b":method", b"GET"), (b":path", b"/\xff")];
        malformed(read(odd, Told::default(), &rules()));
    }

    #[test]
    fn a_digest_that_is_none_is_no_missing_certificate() {
        let digest = Thumbprint::of(b"certificate");
        for (told, expected) in [
            (None, PeerCertificate::Absent),
            (Some(digest.to_hex()), PeerCertificate::Sha256(digest)),
            (Some(String::new()), PeerCertificate::Der(b"")),
            (Some("00".to_owned()), PeerCertificate::Der(b"")),
        ] {
            let told = Told { digest: told.as_deref().map(str::as_bytes), ..Told::default() };
            let request = read([(&b":method"[..], &b"GET"[..])], told, &rules()).unwrap();
            assert_eq!(request.evidence.peer_certificate, expected);
            assert_eq!(Arrived::from(&request).request(), request);
        }
    }
}
