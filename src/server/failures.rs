//! Connections that end before their first request, counted by cause and logged under a rate limit.

use super::advice;
use super::beginning::Beginning;
use crate::proxy_names::NotNamed;
use crate::rate_limit::{Allowance, RateLimit};
use crate::telemetry::connections::Cause;
use crate::telemetry::metrics::{Front, Metrics};
use prometheus::IntCounter;
use std::error::Error;
use std::fmt::Display;
use std::io;
use std::net::IpAddr;
use tokio::time::Instant;
use tokio_rustls::rustls::{CertificateError, Error as TlsError};

/// The failures of one listener.
#[derive(Debug)]
pub struct Failures {
    front: Front,
    of_causes: Vec<OfCause>,
}

/// The failures for one cause.
#[derive(Debug)]
struct OfCause {
    cause: Cause,
    counter: IntCounter,
    rate: RateLimit,
}

impl Failures {
    /// An empty count for the listener of `front`.
    pub fn new(front: Front, metrics: &Metrics) -> Self {
        let of_cause = |cause| {
            let counter = metrics.connections().failures(front.label(), cause);
            OfCause { cause, counter, rate: RateLimit::of(1) }
        };
        Self { front, of_causes: Cause::ALL.into_iter().map(of_cause).collect() }
    }

    /// Records one failure. `from` is the client's address; `None` over a Unix socket.
    pub fn add(&self, cause: Cause, from: Option<IpAddr>, error: &dyn Display) {
        let Some(of_cause) = self.of_causes.iter().find(|it| it.cause == cause) else { return };
        of_cause.counter.inc();
        let (listener, from) = (self.front.label(), from.map(tracing::field::display));
        // Load balancers probe the port like this.
        if cause == Cause::Closed {
            tracing::debug!(listener, from, %error, "connection closed before its first request");
        } else if let Allowance::Within { untold } = of_cause.rate.take(Instant::now()) {
            let advice = advice::on(cause, self.front);
            let cause = cause.label();
            tracing::warn!(listener, cause, from, %error, advice, untold, "connection failed");
        }
    }

    /// Why a connection that began like this failed before its first request.
    pub(super) fn of_http(&self, error: &hyper::Error, beginning: Option<Beginning>) -> Cause {
        let cause = of_http(error);
        let closer = beginning.and_then(|it| it.cause(self.front));
        closer.filter(|_| cause == Cause::NotHttp).unwrap_or(cause)
    }
}

/// Why a TLS handshake failed.
pub(super) fn of_handshake(error: &io::Error) -> Cause {
    match error.get_ref().and_then(|it| it.downcast_ref()) {
        Some(error) => of_tls(error),
        None => of_io(error, Cause::Other),
    }
}

#[expect(clippy::wildcard_enum_match_arm, reason = "the library may add more")]
fn of_tls(error: &TlsError) -> Cause {
    match error {
        TlsError::NoCertificatesPresented => Cause::CertificateMissing,
        TlsError::InvalidCertificate(why) => of_certificate(why),
        TlsError::InvalidMessage(_) | TlsError::InappropriateMessage { .. } => Cause::NotTls,
        TlsError::PeerIncompatible(_) | TlsError::NoApplicationProtocol => Cause::Incompatible,
        TlsError::AlertReceived(_) => Cause::RefusedByClient,
        _ => Cause::Other,
    }
}

/// The log text for a failed handshake.
pub(super) fn describe(error: &io::Error) -> String {
    match error.get_ref().and_then(|it| it.downcast_ref()) {
        Some(TlsError::InvalidCertificate(CertificateError::Other(why))) => why.to_string(),
        Some(_) | None => error.to_string(),
    }
}

#[expect(clippy::wildcard_enum_match_arm, reason = "the library may add more")]
fn of_certificate(why: &CertificateError) -> Cause {
    match why {
        CertificateError::Other(why) if why.0.is::<NotNamed>() => Cause::NameNotAllowed,
        CertificateError::Expired
        | CertificateError::ExpiredContext { .. }
        | CertificateError::NotValidYet
        | CertificateError::NotValidYetContext { .. } => Cause::CertificateExpired,
        _ => Cause::CertificateUntrusted,
    }
}

/// The same, by the error of the HTTP library.
fn of_http(error: &hyper::Error) -> Cause {
    let mut cause: Option<&(dyn Error + 'static)> = Some(error);
    while let Some(found) = cause {
        if let Some(error) = found.downcast_ref() {
            return of_io(error, Cause::NotHttp);
        }
        cause = found.source();
    }
    if error.is_timeout() {
        Cause::TimedOut
    } else if error.is_incomplete_message() || error.is_closed() {
        Cause::Closed
    } else {
        Cause::NotHttp
    }
}

#[expect(clippy::wildcard_enum_match_arm, reason = "there are many kinds")]
fn of_io(error: &io::Error, otherwise: Cause) -> Cause {
    match error.kind() {
        io::ErrorKind::TimedOut => Cause::TimedOut,
        io::ErrorKind::UnexpectedEof
        | io::ErrorKind::ConnectionReset
        | io::ErrorKind::ConnectionAborted
        | io::ErrorKind::BrokenPipe
        | io::ErrorKind::NotConnected => Cause::Closed,
        _ => otherwise,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio_rustls::rustls::{AlertDescription, InvalidMessage, PeerIncompatible};

    #[test]
    fn a_handshake_fails_for_one_of_a_few_causes() {
        let certificate = TlsError::InvalidCertificate;
        for (error, cause) in [
            (TlsError::NoCertificatesPresented, Cause::CertificateMissing),
            (certificate(CertificateError::Expired), Cause::CertificateExpired),
            (certificate(CertificateError::NotValidYet), Cause::CertificateExpired),
            (certificate(CertificateError::UnknownIssuer), Cause::CertificateUntrusted),
            (certificate(CertificateError::BadEncoding), Cause::CertificateUntrusted),
            (TlsError::InvalidMessage(InvalidMessage::InvalidContentType), Cause::NotTls),
            (
                TlsError::PeerIncompatible(PeerIncompatible::NoCipherSuitesInCommon),
                Cause::Incompatible,
            ),
            (TlsError::NoApplicationProtocol, Cause::Incompatible),
            (TlsError::AlertReceived(AlertDescription::UnknownCA), Cause::RefusedByClient),
            (TlsError::EncryptError, Cause::Other),
        ] {
            let error = io::Error::new(io::ErrorKind::InvalidData, error);
            assert_eq!(of_handshake(&error), cause, "{error}");
        }
        for (kind, cause) in [
            (io::ErrorKind::UnexpectedEof, Cause::Closed),
            (io::ErrorKind::ConnectionReset, Cause::Closed),
            (io::ErrorKind::TimedOut, Cause::TimedOut),
            (io::ErrorKind::InvalidData, Cause::Other),
        ] {
            assert_eq!(of_handshake(&kind.into()), cause, "{kind}");
        }
    }
}
