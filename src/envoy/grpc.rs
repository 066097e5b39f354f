//! A denial as the answer to a gRPC call, which is a status and no body.
//!
//! Envoy makes one of a local reply, too, but a module cannot tell it the status: it would say OK.
//! The mapping is Envoy's (<https://github.com/grpc/grpc/blob/master/doc/http-grpc-status-mapping.md>).

use keybound_core::Header;
use std::borrow::Cow;
use std::fmt::Write;

/// Whether a request is a gRPC call, as Envoy tells it: by its content type.
pub(crate) fn is_call<'l>(lines: impl IntoIterator<Item = (&'l [u8], &'l [u8])>) -> bool {
    let mut types = lines.into_iter().filter(|(name, _)| *name == b"content-type");
    types.any(|(_, value)| {
        value.strip_prefix(b"application/grpc").is_some_and(|it| matches!(it, [] | [b'+', ..]))
    })
}

/// The headers of the answer: a status at once, without a message (`Trailers-Only` in the protocol).
pub(crate) fn answer<'a>(status: u16, to_client: &[Header<'a>], body: &str) -> Vec<Header<'a>> {
    let header = |name, value: Cow<'a, str>| Header { name, value };
    let own = [
        header(":status", "200".into()),
        header("content-type", "application/grpc".into()),
        header("grpc-status", code(status).to_string().into()),
        header("grpc-message", percent_encoded(body).into()),
    ];
    let theirs = to_client.iter().filter(|it| it.name != "content-type").cloned();
    own.into_iter().chain(theirs).collect()
}

/// Never 0, which is OK.
const fn code(status: u16) -> u8 {
    match status {
        400 => 13,
        401 => 16,
        403 => 7,
        404 => 12,
        429 | 502 | 503 | 504 => 14,
        _ => 2,
    }
}

/// `Percent-Encoded` in the protocol: all but the printable characters of ASCII, and `%`.
fn percent_encoded(text: &str) -> String {
    text.bytes().fold(String::with_capacity(text.len()), |mut encoded, byte| {
        match byte {
            b'%' | ..b' ' | 0x7f.. => drop(write!(encoded, "%{byte:02X}")),
            _ => encoded.push(char::from(byte)),
        }
        encoded
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_told_by_its_content_type() {
        for (value, expected) in [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("application/grpc-web", false),
            ("application/grpcs", false),
            ("application/json", false),
            ("", false),
        ] {
            let lines: [(&[u8], &[u8]); 2] =
                [(b":path", b"application/grpc"), (b"content-type", value.as_bytes())];
            assert_eq!(is_call(lines), expected, "{value}");
        }
        assert!(!is_call([]));
    }

    #[test]
    fn no_denial_is_a_success() {
        for status in 100..=999 {
            assert_ne!(code(status), 0, "{status}");
        }
        assert_eq!([400, 401, 403, 503, 500].map(code), [13, 16, 7, 14, 2]);
    }

    #[test]
    fn the_answer_holds_the_headers_of_the_denial_but_the_type_of_its_body() {
        let header = |name, value: &'static str| Header { name, value: value.into() };
        let headers =
            [header("www-authenticate", "Bearer"), header("content-type", "application/json")];
        assert_eq!(
            answer(401, &headers, "{\"a\":\"50 %\u{e9}\"}"),
            [
                header(":status", "200"),
                header("content-type", "application/grpc"),
                header("grpc-status", "16"),
                header("grpc-message", "{\"a\":\"50 %25%C3%A9\"}"),
                header("www-authenticate", "Bearer"),
            ]
        );
    }
}
