//! The metrics of connections: how many are open, and why some failed before their first request.

use super::register::Register;
use prometheus::{IntCounter, IntCounterVec, IntGaugeVec};

/// Why a connection ended before its first request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The client sent too little in time.
    TimedOut,
    /// The client closed the connection.
    Closed,
    /// The client did not send TLS.
    NotTls,
    /// The client sent TLS, and the listener has none.
    TlsUnexpected,
    /// No common TLS version, cipher suite or ALPN protocol.
    Incompatible,
    /// The client sent no certificate.
    CertificateMissing,
    /// Its certificate is not from a trusted authority, or not for clients.
    CertificateUntrusted,
    /// Its certificate is not yet valid, or expired.
    CertificateExpired,
    /// None of the names in its certificate is in `client_names`.
    NameNotAllowed,
    /// The client rejected our certificate.
    RefusedByClient,
    /// The client sent HTTP/1.1 to the gRPC listener, or HTTP/2 to the one for forward-auth.
    HttpVersion,
    /// The client did not send HTTP.
    NotHttp,
    /// Anything else.
    Other,
}

impl Cause {
    /// All of them.
    pub const ALL: [Self; 13] = [
        Self::TimedOut,
        Self::Closed,
        Self::NotTls,
        Self::TlsUnexpected,
        Self::Incompatible,
        Self::CertificateMissing,
        Self::CertificateUntrusted,
        Self::CertificateExpired,
        Self::NameNotAllowed,
        Self::RefusedByClient,
        Self::HttpVersion,
        Self::NotHttp,
        Self::Other,
    ];

    /// The label in metrics and logs.
    pub const fn label(self) -> &'static str {
        match self {
            Self::TimedOut => "timed_out",
            Self::Closed => "closed",
            Self::NotTls => "not_tls",
            Self::TlsUnexpected => "tls_unexpected",
            Self::Incompatible => "incompatible",
            Self::CertificateMissing => "certificate_missing",
            Self::CertificateUntrusted => "certificate_untrusted",
            Self::CertificateExpired => "certificate_expired",
            Self::NameNotAllowed => "name_not_allowed",
            Self::RefusedByClient => "refused_by_client",
            Self::HttpVersion => "http_version",
            Self::NotHttp => "not_http",
            Self::Other => "other",
        }
    }
}

/// Why a listener did not take a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotTaken {
    /// The limit on connections is reached.
    LimitReached,
    /// Too many files are open.
    FilesExhausted,
    /// Only the user of keybound can reach the socket. Counted once, when it is made: who cannot reach it
    /// leaves no trace.
    SocketClosed,
    /// Anything else.
    Other,
}

impl NotTaken {
    /// All of them.
    pub const ALL: [Self; 4] =
        [Self::LimitReached, Self::FilesExhausted, Self::SocketClosed, Self::Other];

    /// The label in metrics.
    pub const fn label(self) -> &'static str {
        match self {
            Self::LimitReached => "limit_reached",
            Self::FilesExhausted => "files_exhausted",
            Self::SocketClosed => "socket_closed",
            Self::Other => "other",
        }
    }
}

/// The metrics of connections.
#[derive(Debug)]
pub struct Connections {
    open: IntGaugeVec,
    failures: IntCounterVec,
    not_taken: IntCounterVec,
}

impl Connections {
    pub(super) fn new(new: &Register<'_>) -> prometheus::Result<Self> {
        Ok(Self {
            open: new.gauges(
                "keybound_connections",
                "Open connections of a listener.",
                &["listener"],
            )?,
            failures: new.counters(
                "keybound_handshake_failures_total",
                "Connections that failed before their first request.",
                &["listener", "cause"],
            )?,
            not_taken: new.counters(
                "keybound_connections_not_accepted_total",
                "Connections that a listener did not accept.",
                &["listener", "cause"],
            )?,
        })
    }

    /// Sets the number of open connections of a listener.
    pub fn set_open(&self, listener: &str, connections: usize) {
        let open = i64::try_from(connections).unwrap_or(i64::MAX);
        self.open.with_label_values(&[listener]).set(open);
    }

    /// The counter of connections that a listener did not take for a cause.
    pub fn not_taken(&self, listener: &str, cause: NotTaken) -> IntCounter {
        self.not_taken.with_label_values(&[listener, cause.label()])
    }

    /// The counter of failed connections for a listener and cause.
    pub fn failures(&self, listener: &str, cause: Cause) -> IntCounter {
        self.failures.with_label_values(&[listener, cause.label()])
    }
}
