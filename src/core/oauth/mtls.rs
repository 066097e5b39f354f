//! Certificate-bound access tokens: the client must present the certificate to which the token is
//! bound (RFC 8705 §3).

use crate::client_certificate::ClientCertificate;
use crate::denial::Denial;
use crate::jose::thumbprint::Thumbprint;

/// Compares the client's certificate with the one to which the token is bound.
///
/// Possession was proved in the TLS handshake. The comparison takes constant time.
pub(crate) fn verify(bound_to: Thumbprint, shown: ClientCertificate) -> Result<(), Denial> {
    match shown {
        ClientCertificate::Presented(shown) if shown == bound_to => Ok(()),
        ClientCertificate::Presented(_) => Err(Denial::CertificateMismatch),
        ClientCertificate::Absent => Err(Denial::CertificateMissing),
        ClientCertificate::Malformed => Err(Denial::CertificateMalformed),
        ClientCertificate::Conflict => Err(Denial::CertificateConflict),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_very_certificate_satisfies() {
        let (mine, other) = (Thumbprint::of(b"mine"), Thumbprint::of(b"other"));
        let check = |shown| verify(mine, shown);
        assert_eq!(check(ClientCertificate::Presented(mine)), Ok(()));
        let refused = [
            (ClientCertificate::Presented(other), Denial::CertificateMismatch),
            (ClientCertificate::Absent, Denial::CertificateMissing),
            (ClientCertificate::Malformed, Denial::CertificateMalformed),
            (ClientCertificate::Conflict, Denial::CertificateConflict),
        ];
        for (shown, denial) in refused {
            assert_eq!(check(shown), Err(denial));
        }
    }
}
