//! Conversion of a request from any front end into the `CheckRequest` that Envoy would have sent.

use crate::front::ext_authz::pb::envoy::config::core::v3::{HeaderMap, HeaderValue};
use crate::front::ext_authz::pb::envoy::service::auth::v3::attribute_context as pb;
use crate::front::ext_authz::pb::envoy::service::auth::v3::{AttributeContext, CheckRequest};
use keybound_core::{Evidence, Field, GRPC_TIMEOUT, Overrides, PeerCertificate, Request, Target};
use prost::Message;

/// The label of the peer that holds the digest of its certificate, where no more is known of it. Envoy
/// sets no label of a source, and checks read none.
const DIGEST: &str = "keybound.certificate_sha256";

/// The encoded `CheckRequest` that is parsed as `request`, without route annotations, which only
/// Envoy sends. `certificate_header` is the header that carries the client certificate, if there is
/// one. What is known of a certificate by its digest alone is not parsed, but found by
/// [`kept_digest`].
pub fn to_check_request(request: &Request<'_>, certificate_header: Option<&str>) -> Vec<u8> {
    let Target { method, scheme, authority, path } = request.target;
    let http = pb::HttpRequest {
        method: method.to_owned(),
        scheme: scheme.to_owned(),
        host: authority.to_owned(),
        path: path.to_owned(),
        header_map: Some(HeaderMap { headers: headers(request, certificate_header) }),
        ..pb::HttpRequest::default()
    };
    let Evidence { peer_certificate, peer_principal, .. } = request.evidence;
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    let source = pb::Peer {
        principal: text(peer_principal),
        certificate: text(peer_certificate.bytes()),
        labels: digest(peer_certificate).map(|it| (DIGEST.to_owned(), it)).into_iter().collect(),
        ..pb::Peer::default()
    };
    let policy = request.policy.iter().map(|it| ("policy".to_owned(), (*it).to_owned()));
    let attributes = AttributeContext {
        source: Some(source),
        request: Some(pb::Request { http: Some(http), ..pb::Request::default() }),
        context_extensions: policy.collect(),
        ..AttributeContext::default()
    };
    CheckRequest { attributes: Some(attributes) }.encode_to_vec()
}

/// The client's certificate, where a captured `CheckRequest` holds its digest alone. For explanations:
/// no decision may depend on it.
pub fn kept_digest(message: &[u8]) -> Option<PeerCertificate<'static>> {
    let source = CheckRequest::decode(message).ok()?.attributes?.source?;
    let digest = source.labels.get(DIGEST).filter(|_| source.certificate.is_empty())?;
    Some(PeerCertificate::sha256_in_hex(digest.as_bytes()))
}

/// The digest of a certificate of which there is nothing else, in hexadecimal; empty if it was none.
fn digest(certificate: PeerCertificate<'_>) -> Option<String> {
    match certificate {
        PeerCertificate::Sha256(thumbprint) => Some(thumbprint.to_hex()),
        PeerCertificate::Der(b"") => Some(String::new()),
        PeerCertificate::Absent
        | PeerCertificate::UrlEncodedPem(_)
        | PeerCertificate::Pem(_)
        | PeerCertificate::Der(_) => None,
    }
}

fn headers(request: &Request<'_>, certificate_header: Option<&str>) -> Vec<HeaderValue> {
    let Evidence { xfcc, header, .. } = request.evidence;
    let Overrides { method, url } = request.overrides;
    let sole = |it: Option<_>| it.map_or(Field::Absent, Field::One);
    let known = [
        ("authorization", request.authorization),
        ("dpop", request.proof),
        ("x-forwarded-client-cert", xfcc),
        ("traceparent", sole(request.traceparent)),
        ("x-request-id", sole(request.request_id)),
        (GRPC_TIMEOUT, request.grpc_timeout),
        ("x-http-method-override", method),
        ("x-original-url", url),
    ];
    let mut lines: Vec<_> = known.iter().flat_map(|(name, field)| written(name, *field)).collect();
    // Not again if it is one of the headers above.
    if let Some(name) = certificate_header.filter(|it| !lines.iter().any(|line| line.key == **it)) {
        lines.extend(written(name, header));
    }
    let unwanted = request.unwanted.iter();
    lines
        .extend(unwanted.map(|it| HeaderValue { key: (*it).to_owned(), ..HeaderValue::default() }));
    lines
}

/// The lines of a header. The values of a repeated header are not kept.
fn written(name: &str, field: Field<'_>) -> Vec<HeaderValue> {
    let line = |value: &[u8]| HeaderValue {
        key: name.to_owned(),
        raw_value: value.to_owned(),
        ..HeaderValue::default()
    };
    match field {
        Field::Absent => vec![],
        Field::One(value) => vec![line(value)],
        Field::Many => vec![line(b""), line(b"-")],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::front::capture::redacted;
    use crate::front::ext_authz::wire;
    use crate::telemetry::samples::policy_set;
    use keybound_core::jose::Thumbprint;
    use keybound_core::policy::ReservedHeaders;

    #[test]
    fn a_request_that_is_written_down_is_read_as_it_was() {
        let target = Target {
            method: "POST",
            scheme: "https",
            authority: "api.example.com",
            path: "/payments?a=1",
        };
        let evidence = Evidence {
            peer_certificate: PeerCertificate::UrlEncodedPem(b"-----BEGIN"),
            peer_principal: b"spiffe://client",
            xfcc: Field::One(b"Hash=00"),
            header: Field::One(b":AAAA:"),
        };
        let full = Request {
            policy: Some("payments"),
            target,
            authorization: Field::One(b"DPoP a.b.c"),
            proof: Field::One(b"d.e.f"),
            evidence,
            traceparent: Some(b"00-0-0-01"),
            request_id: Some(b"1234"),
            grpc_timeout: Field::One(b"5S"),
            ..Request::default()
        };
        let overridden = |method, url| Overrides { method, url };
        let many = Evidence { xfcc: Field::Many, header: Field::Many, ..evidence };
        for request in [
            full.clone(),
            Request { policy: None, traceparent: None, request_id: None, ..full.clone() },
            Request { authorization: Field::Absent, proof: Field::Absent, ..full.clone() },
            Request { authorization: Field::Many, proof: Field::Many, ..full.clone() },
            Request { authorization: Field::One(b"\xff"), proof: Field::One(b""), ..full.clone() },
            Request { evidence: Evidence::default(), ..full.clone() },
            Request { evidence: many, ..full.clone() },
            Request { grpc_timeout: Field::Absent, ..full.clone() },
            Request { grpc_timeout: Field::Many, ..full.clone() },
            Request { overrides: overridden(Field::One(b"PUT"), Field::Many), ..full.clone() },
            Request { overrides: overridden(Field::Many, Field::One(b"/a")), ..full.clone() },
            Request { target: Target { method: "GET", ..Target::default() }, ..Request::default() },
        ] {
            let message = to_check_request(&request, Some("client-cert"));
            assert_eq!(wire::read(&message, Some("client-cert"), None), Ok(request));
        }
        let reserved = ReservedHeaders::of(&policy_set());
        let unwanted = vec!["x_forwarded_client_cert"];
        let request = Request { unwanted, ..full.clone() };
        let lines = headers(&request, None);
        let found = lines.iter().filter(|it| reserved.must_go(it.key.as_bytes()));
        assert_eq!(found.map(|it| &*it.key).collect::<Vec<_>>(), request.unwanted);
        // The certificate may come in a header that is read anyway.
        let evidence = Evidence { header: evidence.xfcc, ..evidence };
        let request = Request { evidence, ..full };
        let message = to_check_request(&request, Some("x-forwarded-client-cert"));
        assert_eq!(wire::read(&message, Some("x-forwarded-client-cert"), None), Ok(request));
    }

    #[test]
    fn a_digest_is_kept_for_explanations_and_counts_for_no_check() {
        let digest = PeerCertificate::Sha256(Thumbprint::of(b"certificate"));
        let text = PeerCertificate::UrlEncodedPem(b"-----BEGIN");
        for (peer_certificate, checked, explained) in [
            (digest, PeerCertificate::Absent, Some(digest)),
            (PeerCertificate::Der(b""), PeerCertificate::Absent, Some(PeerCertificate::Der(b""))),
            (PeerCertificate::Absent, PeerCertificate::Absent, None),
            (text, text, None),
        ] {
            let target = Target { method: "GET", ..Target::default() };
            let evidence = Evidence { peer_certificate, ..Evidence::default() };
            let request = Request { target, evidence, ..Request::default() };
            let message = to_check_request(&request, None);
            let read = wire::read(&message, None, None).unwrap();
            assert_eq!(read.evidence.peer_certificate, checked);
            for message in [redacted(&message, None).unwrap(), message] {
                assert_eq!(kept_digest(&message), explained);
            }
        }
        for odd in [&b""[..], b"\xff"] {
            assert_eq!(kept_digest(odd), None);
        }
    }

    #[test]
    fn a_digest_beside_a_certificate_is_not_heeded() {
        let labels = [(DIGEST.to_owned(), Thumbprint::of(b"other").to_hex())].into();
        let certificate = "-----BEGIN".to_owned();
        let source = pb::Peer { labels, certificate, ..pb::Peer::default() };
        let attributes = AttributeContext { source: Some(source), ..AttributeContext::default() };
        let message = CheckRequest { attributes: Some(attributes) }.encode_to_vec();
        assert_eq!(kept_digest(&message), None);
    }
}
