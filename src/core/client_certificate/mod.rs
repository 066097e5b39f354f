//! The client's certificate: from the proxy itself, in `x-forwarded-client-cert`, or in a header that
//! the operator vouches for (RFC 9440).

mod der;
#[cfg(test)]
mod examples;
mod file;
mod format;
mod peer;
mod pem;
mod validity;
mod xfcc;

pub use file::{NoCertificate, der_in};
pub use format::HeaderFormat;
pub use validity::Validity;

use crate::jose::thumbprint::Thumbprint;
use crate::request::{Evidence, Field, PeerCertificate};

/// Where the client certificate comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// The peer of the proxy's own connection.
    Peer,
    /// The `x-forwarded-client-cert` header.
    Xfcc {
        /// The identities of the proxies between the client's TLS and this one, nearest to the
        /// client first: of each the first URI SAN, or the SHA-256 of its certificate as 64
        /// hexadecimal digits.
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

impl Source {
    /// The header that the operator named as the carrier of the certificate, if one is.
    pub fn header(&self) -> Option<&str> {
        match self {
            Self::Header { name, .. } => Some(name),
            Self::Peer | Self::Xfcc { .. } => None,
        }
    }
}

/// The client's certificate, as far as it can be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientCertificate {
    /// There is none.
    Absent,
    /// There is this one.
    Presented(Thumbprint),
    /// There is something that cannot be read as one certificate.
    Malformed,
    /// The sources contradict each other, or the chain of proxies is not the configured one.
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
    /// What this source tells of the client's certificate. What other sources tell can make it a
    /// [`ClientCertificate::Conflict`], but is never taken instead.
    pub fn read(&self, evidence: &Evidence<'_>) -> ClientCertificate {
        let found = match self {
            Self::Peer => peer::read(evidence.peer_certificate),
            Self::Xfcc { behind } => xfcc::read(evidence, behind),
            Self::Header { format, .. } => format.read(evidence.header),
        };
        match found {
            Ok(None) => ClientCertificate::Absent,
            Ok(Some(thumbprint)) => ClientCertificate::Presented(thumbprint),
            Err(Unusable::Malformed) => ClientCertificate::Malformed,
            Err(Unusable::Conflict) => ClientCertificate::Conflict,
        }
    }
}

impl Source {
    /// Whether there is anything in the place that this source reads.
    pub fn is_carried(&self, evidence: &Evidence<'_>) -> bool {
        let is_filled = |it: Field<'_>| !matches!(it, Field::Absent | Field::One(b"" | b"(null)"));
        match self {
            Self::Peer => match evidence.peer_certificate {
                PeerCertificate::Absent => false,
                PeerCertificate::UrlEncodedPem(text) | PeerCertificate::Pem(text) => {
                    !text.is_empty()
                }
                PeerCertificate::Der(der) => !der.is_empty(),
                PeerCertificate::Sha256(_) => true,
            },
            Self::Xfcc { .. } => is_filled(evidence.xfcc),
            Self::Header { .. } => is_filled(evidence.header),
        }
    }

    /// The text that alone determines the certificate, if parsing it is expensive: a key for a cache.
    pub fn sole_carrier<'a>(&self, evidence: &Evidence<'a>) -> Option<&'a [u8]> {
        match (self, evidence.header) {
            (Self::Peer, _) => match evidence.peer_certificate {
                PeerCertificate::UrlEncodedPem(text) => Some(text),
                PeerCertificate::Absent
                | PeerCertificate::Pem(_)
                | PeerCertificate::Der(_)
                | PeerCertificate::Sha256(_) => None,
            },
            (Self::Header { format, .. }, Field::One(text)) => {
                format.holds_a_certificate().then_some(text)
            }
            (Self::Header { .. }, Field::Absent | Field::Many) | (Self::Xfcc { .. }, _) => None,
        }
    }
}

/// The thumbprint of a certificate in DER; none if it is not one, by its outer form.
pub fn thumbprint_of_der(der: &[u8]) -> Option<Thumbprint> {
    der::thumbprint(der)
}

/// Why what is there is of no use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unusable {
    Malformed,
    Conflict,
}

/// The most that is read of one carrier, in bytes. A certificate takes 1 to 2 KiB as text, one
/// with a post-quantum key below 20; Envoy takes 60 KiB of headers altogether, unless told
/// otherwise. What is longer is refused before any of it is decoded.
const CARRIED_BYTES: usize = 64 * 1024;
