//! A denial as the answer to a gRPC call, which is a status and no body.
//!
//! Envoy makes one of a local reply, too, but a module cannot tell it the status: it would say OK.
//! The mapping is Envoy's (<https://github.com/grpc/grpc/blob/master/doc/http-grpc-status-mapping.md>).

use keybound::front::module::Pairs;
use std::fmt::Write;

/// Whether a request is a gRPC call, as Envoy tells it: by its content type.
pub(crate) fn is_call<'l>(lines: impl IntoIterator<Item = (&'l [u8], &'l [u8])>) -> bool {
    let mut types = lines.into_iter().filter(|(name, _)| *name == b"content-type");
    types.any(|(_, value)| {
        value.strip_prefix(b"application/grpc").is_some_and(|it| matches!(it, [] | [b'+', ..]))
    })
}

/// The headers of the answer: a status at once, without a message (`Trailers-Only` in the protocol).
pub(crate) fn answer(status: u16, to_client: &Pairs, body: &str) -> Pairs {
    let (code, message) = (code(status).to_string(), percent_encoded(body));
    let own = [
        (":status", "200"),
        ("content-type", "application/grpc"),
        ("grpc-status", &*code),
        ("grpc-message", &*message),
    ];
    own.into_iter().chain(to_client.iter().filter(|(name, _)| *name != "content-type")).collect()
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
        let headers = [("www-authenticate", "Bearer"), ("content-type", "application/json")];
        let found = answer(401, &headers.into_iter().collect(), "{\"a\":\"50 %\u{e9}\"}");
        assert_eq!(
            found.iter().collect::<Vec<_>>(),
            [
                (":status", "200"),
                ("content-type", "application/grpc"),
                ("grpc-status", "16"),
                ("grpc-message", "{\"a\":\"50 %25%C3%A9\"}"),
                ("www-authenticate", "Bearer"),
            ]
        );
    }
}
