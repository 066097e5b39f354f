//! Forward auth: proxies that ask with an HTTP request whether to allow another one. nginx,
//! Traefik, Caddy, and the `http_service` of Envoy and Istio.
//!
//! ```text
//!  read::request ──▶ Request … Answer ──▶ write::response
//! ```

pub mod endpoint;
pub mod flaw;
pub mod read;
pub mod write;

use http::header::{HeaderMap, HeaderName};
use keybound_core::jose::Thumbprint;
use std::fmt;

/// The proxy that sends the questions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asker {
    /// The dialect it uses.
    pub flavour: Flavour,
    /// How it authenticates; none: every client that can reach the listener is trusted.
    pub secret: Option<Secret>,
}

/// How a proxy describes the request under check, and how it uses the answer.
///
/// Configured by the operator, never detected from the request: a proxy of one flavour forwards the
/// client's own headers that mean something in another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Flavour {
    /// nginx `auth_request`: the request is in `X-Original-Method`, `X-Original-URI`,
    /// `X-Forwarded-Host` and `X-Forwarded-Proto`. Only 401 and 403 reach the client.
    Nginx,
    /// Traefik and Caddy: the request is in `X-Forwarded-Method`, `-Uri`, `-Host` and `-Proto`.
    Traefik,
    /// Envoy and Istio: the question has the method, host and path of the request.
    Envoy {
        /// The prefix that Envoy adds to the path; may be empty.
        path_prefix: String,
    },
}

impl Flavour {
    /// The headers in which this flavour describes the request, besides those of every request.
    pub const fn headers(&self) -> &'static [&'static str] {
        match self {
            Self::Nginx => &[
                "x-original-method",
                "x-original-uri",
                "x-forwarded-host",
                "x-forwarded-proto",
                "x-ssl-client-verify",
            ],
            Self::Traefik => {
                &["x-forwarded-method", "x-forwarded-uri", "x-forwarded-host", "x-forwarded-proto"]
            }
            Self::Envoy { .. } => &["x-forwarded-proto"],
        }
    }
}

/// A secret that the proxy shares with this service. Only its digest is kept.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret {
    header: HeaderName,
    digest: Thumbprint,
}

impl Secret {
    /// The secret `value`, sent in `header`.
    pub fn new(header: HeaderName, value: &[u8]) -> Self {
        Self { header, digest: Thumbprint::of(value) }
    }

    /// The header that carries it.
    pub const fn header(&self) -> &HeaderName {
        &self.header
    }

    /// Whether `headers` contain the secret, exactly once. Takes constant time, apart from its
    /// length.
    pub fn is_among(&self, headers: &HeaderMap) -> bool {
        let mut shown = headers.get_all(&self.header).iter();
        match (shown.next(), shown.next()) {
            (Some(shown), None) => Thumbprint::of(shown.as_bytes()) == self.digest,
            _ => false,
        }
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Secret").field("header", &self.header).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_shown_exactly_and_once() {
        let header = HeaderName::from_static("x-keybound-secret");
        let secret = Secret::new(header.clone(), b"correct horse");
        let among = |values: &[&str]| {
            let mut headers = HeaderMap::new();
            for value in values {
                headers.append(header.clone(), value.parse().unwrap());
            }
            secret.is_among(&headers)
        };
        assert!(among(&["correct horse"]));
        for wrong in
            [&[][..], &[""], &["correct"], &["Correct horse"], &["correct horse", "correct horse"]]
        {
            assert!(!among(wrong), "{wrong:?}");
        }
        assert!(!format!("{secret:?}").contains(&Thumbprint::of(b"correct horse").to_base64url()));
    }
}
