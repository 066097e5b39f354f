//! Requests as pasted text: in HTTP/1.1, or a captured or written `CheckRequest`.

use super::certificate::Certificate;
use super::request::{self, Described};
use crate::front::ext_authz::pb::envoy::service::auth::v3::CheckRequest;
use keybound_core::client_certificate::Source;
use prost::Message;

/// The encoded `CheckRequest` in `text`, with an optional pasted certificate where `source` reads
/// it.
///
/// The format is detected from the start: JSON has a brace, a request line has a space, and base64
/// has neither.
pub(crate) fn message(text: &str, source: &Source) -> Result<Vec<u8>, String> {
    let text = text.trim();
    let first = text.lines().next().unwrap_or_default();
    if text.starts_with('{') {
        request::encoded(text.as_bytes().to_vec())
    } else if first.contains(' ') {
        http(text, source)
    } else {
        kept(text).ok_or_else(|| NEITHER.to_owned())
    }
}

const NEITHER: &str = "neither an HTTP request nor a CheckRequest, in JSON or in base64";

/// A file of `serve --capture`, in base64.
fn kept(text: &str) -> Option<Vec<u8>> {
    let message = request::base64(&text.split_ascii_whitespace().collect::<String>()).ok()?;
    CheckRequest::decode(&*message).is_ok_and(|it| it.attributes.is_some()).then_some(message)
}

/// A request in HTTP/1.1 format (RFC 9112 §2.1). The body is skipped: no check uses it.
fn http(text: &str, source: &Source) -> Result<Vec<u8>, String> {
    let pem = text.find(BEGIN).unwrap_or(text.len());
    let (text, pem) = text.split_at_checked(pem).unwrap_or((text, ""));
    // The format of `curl -v` for what it sends.
    let mut lines = text.lines().map(|it| it.trim_start_matches('>').trim());
    let (method, target) = request_line(lines.next().unwrap_or_default()).ok_or(REQUEST_LINE)?;
    let lines = lines.take_while(|it| !it.is_empty());
    let headers = lines.map(|it| request::header(it).ok_or(HEADER)).collect::<Result<Vec<_>, _>>();
    let (hosts, headers): (Vec<_>, Vec<_>) =
        headers?.into_iter().partition(|(name, _)| name.eq_ignore_ascii_case("host"));
    let url = match *hosts {
        // The absolute form contains the host, and the `Host` header is ignored (§3.2.2).
        _ if !target.starts_with('/') => target.to_owned(),
        [(_, host)] => format!("https://{host}{target}"),
        _ => return Err(HOST.to_owned()),
    };
    let certificate = (!pem.is_empty()).then(|| Certificate::read(pem.as_bytes()));
    let certificate = certificate.transpose()?;
    Described { method, url: &url, headers, certificate, policy: None, annotation: None }
        .message(source)
}

/// The first line of a certificate in PEM (RFC 7468 §5.1).
const BEGIN: &str = "-----BEGIN CERTIFICATE-----";
const REQUEST_LINE: &str = "the first line must look like `GET /path HTTP/1.1`";
const HEADER: &str = "each line after the first must look like `Name: value`, up to an empty line";
const HOST: &str = "there must be one line `Host: name`";

fn request_line(line: &str) -> Option<(&str, &str)> {
    let mut words = line.split_ascii_whitespace();
    let (method, target) = (words.next()?, words.next()?);
    let is_version = words.next().is_none_or(|it| it.starts_with("HTTP/"));
    (is_version && words.next().is_none()).then_some((method, target))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::front::ext_authz::wire;
    use base64::Engine;
    use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
    use keybound_core::{Evidence, Field, PeerCertificate, Request, Target};

    const PEM: &str = include_str!("../../tests/vectors/envoy/certs/p256.crt");

    #[track_caller]
    fn check(text: &str, expected: &Request<'_>) {
        let message = message(text, &Source::Peer).unwrap();
        assert_eq!(wire::read(&message, None, None).unwrap(), *expected, "{text}");
    }

    fn expected() -> Request<'static> {
        let target = Target {
            method: "POST",
            scheme: "https",
            authority: "api.example.com",
            path: "/payments?a=1",
        };
        Request { target, authorization: Field::One(b"Bearer x"), ..Request::default() }
    }

    #[test]
    fn an_http_request_is_read_as_clients_send_it_and_as_curl_shows_it() {
        for text in [
            "POST /payments?a=1 HTTP/1.1\r\nHost: api.example.com\r\nAuthorization: Bearer x\r\n\r\n",
            "POST /payments?a=1\nhost:api.example.com\nauthorization:Bearer x",
            "\n POST /payments?a=1 HTTP/2\nHost: api.example.com\nAuthorization: Bearer x\n\nbody: 7",
            "> POST /payments?a=1 HTTP/2\n> Host: api.example.com\n> authorization: Bearer x\n>\n",
            "POST https://api.example.com/payments?a=1 HTTP/1.1\nAuthorization: Bearer x",
            "POST https://api.example.com/payments?a=1 HTTP/1.1\nHost: b\nAuthorization: Bearer x",
        ] {
            check(text, &expected());
        }
    }

    #[test]
    fn headers_that_come_twice_stay_two() {
        let text = "POST /payments?a=1\nHost: api.example.com\nAuthorization: Bearer x\nDPoP: a\n\
                    DPoP: b\nAuthorization: Bearer y";
        let twice = Request { authorization: Field::Many, proof: Field::Many, ..expected() };
        check(text, &twice);
    }

    #[test]
    fn a_certificate_is_pasted_below_with_or_without_a_line_between() {
        let head = "POST /payments?a=1\nHost: api.example.com\nAuthorization: Bearer x\n";
        let certificate = Certificate::read(PEM.as_bytes()).unwrap();
        let (_, value) = certificate.carried(&Source::Peer);
        let peer_certificate = PeerCertificate::UrlEncodedPem(value.as_bytes());
        let evidence = Evidence { peer_certificate, ..expected().evidence };
        for text in
            [format!("{head}\n{PEM}"), format!("{head}{PEM}"), format!("{head}\nx=1\n{PEM}")]
        {
            check(&text, &Request { evidence, ..expected() });
        }
        let xfcc = message(&format!("{head}{PEM}"), &Source::Xfcc { behind: vec![] }).unwrap();
        assert!(matches!(wire::read(&xfcc, None, None).unwrap().evidence.xfcc, Field::One(_)));
    }

    const JSON: &str = r#" {"attributes": {"request": {"http": {"method": "POST", "scheme": "https",
        "host": "api.example.com", "path": "/payments?a=1",
        "headers": {"authorization": "Bearer x"}}}}}"#;

    #[test]
    fn a_check_request_is_read_in_json_and_in_base64() {
        check(JSON, &expected());
        let kept = message(JSON, &Source::Peer).unwrap();
        let base64 = STANDARD.encode(&kept);
        let (one, other) = base64.split_at(20);
        for text in [base64.clone(), format!("{one}\r\n{other}\n"), URL_SAFE_NO_PAD.encode(&kept)] {
            check(&text, &expected());
        }
    }

    #[test]
    fn what_is_no_request_is_told() {
        for (text, told) in [
            ("", NEITHER),
            ("hello", NEITHER),
            ("hell", NEITHER),
            ("{}", "there are no `attributes`"),
            ("GET /a b HTTP/1.1\nHost: x", REQUEST_LINE),
            ("GET /a HTTP/1.1 x\nHost: x", REQUEST_LINE),
            ("GET /a 1.1\nHost: x", REQUEST_LINE),
            ("> GET\nHost: x", REQUEST_LINE),
            ("GET /a HTTP/1.1\nHost: x\nno header", HEADER),
            ("GET /a HTTP/1.1\nAuthorization: Bearer x", HOST),
            ("GET /a HTTP/1.1\nHost: x\nHost: y", HOST),
            ("GET * HTTP/1.1\nHost: x", "scheme"),
            ("GET /a HTTP/1.1\nHost: x\n-----BEGIN CERTIFICATE-----\n", "cannot be decoded"),
            (
                "GET /a\nHost: x\n-----BEGIN CERTIFICATE-----\n?\n-----END CERTIFICATE-----",
                "cannot be decoded",
            ),
        ] {
            let found = message(text, &Source::Peer).unwrap_err();
            assert!(found.contains(told), "{text}: {found}");
        }
    }
}
