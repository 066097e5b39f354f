//! Knows proxies that ask with an HTTP request of their own whether to let another one through:
//! nginx, Traefik, Caddy, and Envoy's and Istio's `http_service`.
//!
//! ```text
//!  read::request ──▶ Request … Answer ──▶ write::response
//! ```

pub mod endpoint;
pub mod read;
pub mod write;

use http::header::{HeaderMap, HeaderName};
use keybound_core::jose::Thumbprint;
use std::fmt;

/// The proxy that asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asker {
    /// How it asks.
    pub flavour: Flavour,
    /// What it shows to be the proxy; none: whoever reaches the listener is taken for it.
    pub secret: Option<Secret>,
}

/// How a proxy tells the request under check, and what it makes of the answer.
///
/// The operator says which, and no request can: a proxy that asks in one way hands on the client's
/// own headers of the others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Flavour {
    /// nginx `auth_request`: the request is in `X-Original-Method`, `X-Original-URI`,
    /// `X-Forwarded-Host` and `X-Forwarded-Proto`. Of answers, only 401 and 403 reach the client.
    Nginx,
    /// Traefik and Caddy: the request is in `X-Forwarded-Method`, `-Uri`, `-Host` and `-Proto`.
    Traefik,
    /// Envoy and Istio: the question has the method, the host and the path of the request.
    Envoy {
        /// What Envoy puts in front of the path; perhaps empty.
        path_prefix: String,
    },
}

impl Flavour {
    /// The headers in which such a proxy tells the request, besides those of every request.
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

/// A secret that only the proxy and this service know. Its digest is kept, not itself.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret {
    header: HeaderName,
    digest: Thumbprint,
}

impl Secret {
    /// The secret `value`, shown in `header`.
    pub fn new(header: HeaderName, value: &[u8]) -> Self {
        Self { header, digest: Thumbprint::of(value) }
    }

    /// Where it is shown.
    pub const fn header(&self) -> &HeaderName {
        &self.header
    }

    /// Whether the secret is among `headers`, once. In constant time, but for its length.
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
