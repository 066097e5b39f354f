//! A Redis that does not accept the client certificate, or wants one.

use redis::RedisError;
use std::error::Error;
use std::io;
use std::sync::Arc;
use tokio_rustls::rustls::{AlertDescription, Error as TlsError};

/// What the log says of a failure, with what to do about one that concerns the client certificate.
pub(in crate::state) fn told(failure: &RedisError) -> String {
    let hint = if of_certificate(failure) { HINT } else { "" };
    format!("{failure}{hint}")
}

/// Whether Redis refused the client certificate, or the lack of one. Redis need not say: over TLS 1.2
/// it calls a missing certificate a failed handshake.
pub(super) fn of_certificate(failure: &RedisError) -> bool {
    use AlertDescription as A;
    matches!(
        alert(failure),
        Some(
            A::CertificateRequired
                | A::BadCertificate
                | A::UnsupportedCertificate
                | A::CertificateRevoked
                | A::CertificateExpired
                | A::CertificateUnknown
                | A::UnknownCA
                | A::AccessDenied
                // What OpenSSL says where it trusts another authority of the same name.
                | A::DecryptError
        )
    )
}

/// The alert that the server ended the connection with.
fn alert(failure: &RedisError) -> Option<AlertDescription> {
    let cause: &Arc<dyn Error + Send + Sync> = failure.source()?.downcast_ref()?;
    let cause: &io::Error = cause.downcast_ref()?;
    let cause: &TlsError = cause.get_ref()?.downcast_ref()?;
    if let TlsError::AlertReceived(alert) = cause { Some(*alert) } else { None }
}

const HINT: &str = ": Redis does not accept the client certificate: `dpop.replay.certificate_file` and \
                    `key_file` must hold one of an authority that Redis trusts (tls-ca-cert-file)";

#[cfg(test)]
mod tests {
    use super::*;

    fn refused_with(alert: AlertDescription) -> RedisError {
        let cause = TlsError::AlertReceived(alert);
        io::Error::new(io::ErrorKind::InvalidData, cause).into()
    }

    #[test]
    fn a_refused_certificate_is_told_from_other_failures() {
        for alert in [
            AlertDescription::CertificateRequired,
            AlertDescription::UnknownCA,
            AlertDescription::CertificateExpired,
            AlertDescription::DecryptError,
        ] {
            let failure = refused_with(alert);
            let told = told(&failure);
            assert!(of_certificate(&failure) && told.contains("certificate_file"), "{told}");
        }
        for failure in [
            refused_with(AlertDescription::HandshakeFailure),
            refused_with(AlertDescription::ProtocolVersion),
            io::Error::from(io::ErrorKind::ConnectionRefused).into(),
        ] {
            assert!(!of_certificate(&failure), "{failure}");
            assert_eq!(told(&failure), failure.to_string());
        }
    }
}
