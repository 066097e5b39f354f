//! Knows how the client's certificate reaches us: from Envoy itself, in
//! `x-forwarded-client-cert`, or in a header that the operator vouches for.

use crate::jose::thumbprint::Thumbprint;
use crate::request::Evidence;

/// Where the client certificate comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// The peer of the proxy's own connection.
    Peer,
    /// The `x-forwarded-client-cert` header.
    Xfcc {
        /// The identities of the proxies between the client's TLS and this one, nearest to the
        /// client first.
        behind: Vec<String>,
    },
    /// A header that the proxy sets, and strips when the client sends it.
    Header {
        /// Its name, in lower case.
        name: String,
        /// How it carries the certificate.
        format: HeaderFormat,
    },
}

/// How a header carries a certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeaderFormat {
    /// A structured-field byte sequence of the DER (RFC 9440 §2).
    Rfc9440,
    /// URL-encoded PEM (nginx `$ssl_client_escaped_cert`, AWS ALB).
    PemUrlencoded,
    /// Base64 of the PEM.
    PemBase64,
    /// Base64 of the DER (HAProxy; the body of a PEM without its markers).
    DerBase64,
    /// SHA-256 of the DER in hexadecimal.
    Sha256Hex,
    /// SHA-256 of the DER in base64url.
    Sha256Base64url,
}

/// The client's certificate, as far as it can be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientCertificate {
    /// There is none.
    Absent,
    /// There is this one.
    Presented(Thumbprint),
    /// There is something that is not a certificate, or more of it than there may be.
    Malformed,
    /// The sources contradict each other.
    Conflict,
}

impl ClientCertificate {
    /// Its thumbprint, when there is one.
    pub const fn thumbprint(self) -> Option<Thumbprint> {
        match self {
            Self::Presented(thumbprint) => Some(thumbprint),
            Self::Absent | Self::Malformed | Self::Conflict => None,
        }
    }
}

impl Source {
    /// What this source tells of the client's certificate.
    pub fn read(&self, _evidence: &Evidence<'_>) -> ClientCertificate {
        ClientCertificate::Absent
    }
}
