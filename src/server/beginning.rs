//! The first bytes of a connection without TLS, which show what its client takes the listener for.

use crate::telemetry::connections::Cause;
use crate::telemetry::metrics::Front;

/// What a client speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Beginning {
    /// TLS.
    Tls,
    /// HTTP/1.1.
    Http1,
    /// HTTP/2.
    Http2,
    /// Something else.
    Other,
}

/// The content type of a TLS handshake, and the major version (RFC 8446 §5.1).
const HANDSHAKE: [u8; 2] = [22, 3];

/// The first line of the HTTP/2 preface (RFC 9113 §3.4), without the version.
const PREFACE: &[u8] = b"PRI * ";

impl Beginning {
    /// What the first piece of a connection shows.
    pub(super) fn of(bytes: &[u8]) -> Self {
        if bytes.starts_with(&HANDSHAKE) || bytes == [22] {
            Self::Tls
        } else if bytes.starts_with(PREFACE) {
            Self::Http2
        } else if is_a_request(bytes) {
            Self::Http1
        } else {
            Self::Other
        }
    }

    /// Why a client that begins like this fails on the listener of `front`, if it can be told.
    pub(super) const fn cause(self, front: Front) -> Option<Cause> {
        match (self, front) {
            (Self::Tls, _) => Some(Cause::TlsUnexpected),
            (Self::Http1, Front::ExtAuthz) | (Self::Http2, Front::ForwardAuth) => {
                Some(Cause::HttpVersion)
            }
            _ => None,
        }
    }
}

/// Whether the bytes begin with a method and a target (RFC 9112 §3). Methods in use are of capital
/// letters.
fn is_a_request(bytes: &[u8]) -> bool {
    let method = bytes.split(|it| *it == b' ').next().unwrap_or_default();
    let is_whole = method.len() < bytes.len();
    is_whole && !method.is_empty() && method.iter().all(u8::is_ascii_uppercase)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_bytes_tell_what_the_client_takes_the_listener_for() {
        for (bytes, expected) in [
            (&b"\x16\x03\x01\x02\x00\x01"[..], Beginning::Tls),
            (b"\x16", Beginning::Tls),
            (b"\x16\x02\x01", Beginning::Other),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Beginning::Http2),
            (b"POST /envoy.service.auth.v3.Authorization/Check HTTP/1.1\r\n", Beginning::Http1),
            (b"GET / HTTP/1.1\r\n\r\n", Beginning::Http1),
            (b"PRI / HTTP/1.1\r\n", Beginning::Http1),
            (b"get / HTTP/1.1", Beginning::Other),
            (b" GET /", Beginning::Other),
            (b"SSH-2.0-OpenSSH\r\n", Beginning::Other),
            (b"", Beginning::Other),
        ] {
            assert_eq!(Beginning::of(bytes), expected, "{bytes:?}");
        }
    }

    #[test]
    fn what_a_listener_is_for_is_no_cause_of_a_failure() {
        for (beginning, ext_authz, forward_auth) in [
            (Beginning::Tls, Some(Cause::TlsUnexpected), Some(Cause::TlsUnexpected)),
            (Beginning::Http1, Some(Cause::HttpVersion), None),
            (Beginning::Http2, None, Some(Cause::HttpVersion)),
            (Beginning::Other, None, None),
        ] {
            assert_eq!(beginning.cause(Front::ExtAuthz), ext_authz, "{beginning:?}");
            assert_eq!(beginning.cause(Front::ForwardAuth), forward_auth, "{beginning:?}");
        }
    }
}
