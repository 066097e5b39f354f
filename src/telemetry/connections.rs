//! The metrics of connections: how many are open, and why some failed before their first request.

use super::metrics::Register;
use prometheus::{IntCounter, IntCounterVec, IntGaugeVec};

/// Why a connection ended before its first request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The client said nothing, or too little, for too long.
    TimedOut,
    /// The client went away.
    Closed,
    /// What came is not TLS.
    NotTls,
    /// There is no version, cipher or protocol of TLS that both sides have.
    Incompatible,
    /// The client showed no certificate.
    CertificateMissing,
    /// Its certificate is not of an authority that counts here, or is not for a client.
    CertificateUntrusted,
    /// Its certificate is not valid yet, or no longer.
    CertificateExpired,
    /// None of the names in its certificate may ask.
    NameNotAllowed,
    /// The client does not accept our certificate.
    RefusedByClient,
    /// What came is not HTTP of the right version.
    NotHttp,
    /// Anything else.
    Other,
}

impl Cause {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::TimedOut,
        Self::Closed,
        Self::NotTls,
        Self::Incompatible,
        Self::CertificateMissing,
        Self::CertificateUntrusted,
        Self::CertificateExpired,
        Self::NameNotAllowed,
        Self::RefusedByClient,
        Self::NotHttp,
        Self::Other,
    ];

    /// The label in metrics and logs.
    pub const fn label(self) -> &'static str {
        match self {
            Self::TimedOut => "timed_out",
            Self::Closed => "closed",
            Self::NotTls => "not_tls",
            Self::Incompatible => "incompatible",
            Self::CertificateMissing => "certificate_missing",
            Self::CertificateUntrusted => "certificate_untrusted",
            Self::CertificateExpired => "certificate_expired",
            Self::NameNotAllowed => "name_not_allowed",
            Self::RefusedByClient => "refused_by_client",
            Self::NotHttp => "not_http",
            Self::Other => "other",
        }
    }
}

/// The metrics of connections.
#[derive(Debug)]
pub struct Connections {
    open: IntGaugeVec,
    failures: IntCounterVec,
}

impl Connections {
    pub(super) fn new(new: &Register<'_>) -> prometheus::Result<Self> {
        Ok(Self {
            open: new.gauges(
                "keybound_connections",
                "Connections that are open at a listener.",
                &["listener"],
            )?,
            failures: new.counters(
                "keybound_handshake_failures_total",
                "Connections that ended before their first request.",
                &["listener", "cause"],
            )?,
        })
    }

    /// Sets how many are open at a listener.
    pub fn set_open(&self, listener: &str, connections: usize) {
        let open = i64::try_from(connections).unwrap_or(i64::MAX);
        self.open.with_label_values(&[listener]).set(open);
    }

    /// The connections at a listener that failed for this cause.
    pub fn failures(&self, listener: &str, cause: Cause) -> IntCounter {
        self.failures.with_label_values(&[listener, cause.label()])
    }
}
