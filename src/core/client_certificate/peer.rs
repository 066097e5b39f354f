//! The certificate of the peer of the proxy's own connection, as the proxy itself has it. Envoy writes
//! the leaf in URL-encoded PEM into `source.certificate` (with `include_peer_certificate`).

use super::{CARRIED_BYTES, Unusable, der, pem};
use crate::jose::thumbprint::Thumbprint;
use crate::request::PeerCertificate;

/// The thumbprint of the peer's certificate; none if it presented none, or the proxy does not say.
pub(super) fn read(certificate: PeerCertificate<'_>) -> Result<Option<Thumbprint>, Unusable> {
    if CARRIED_BYTES < certificate.bytes().len() {
        return Err(Unusable::Malformed);
    }
    let thumbprint = match certificate {
        PeerCertificate::Absent => return Ok(None),
        PeerCertificate::UrlEncodedPem(text) => pem::thumbprint_of_urlencoded(text),
        PeerCertificate::Pem(text) => pem::thumbprint(text),
        PeerCertificate::Der(der) => der::thumbprint(der),
        PeerCertificate::Sha256(thumbprint) => Some(thumbprint),
    };
    thumbprint.map(Some).ok_or(Unusable::Malformed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client_certificate::examples::RFC8705;

    fn envoy(pem: &str) -> String {
        pem.replace('+', "%2B")
            .replace('/', "%2F")
            .replace('=', "%3D")
            .replace('\n', "%0A")
            .replace(' ', "%20")
    }

    fn encoded(text: &str) -> Result<Option<Thumbprint>, Unusable> {
        read(PeerCertificate::url_encoded_pem(text.as_bytes()))
    }

    #[test]
    fn what_envoy_writes_is_read() {
        let found = encoded(&envoy(RFC8705.pem)).unwrap().unwrap();
        assert_eq!(found.to_base64url(), RFC8705.x5t_s256);
    }

    #[test]
    fn a_certificate_is_the_same_in_any_form() {
        let der = crate::client_certificate::der_in(RFC8705.pem.as_bytes()).unwrap();
        let digest = Thumbprint::of(&der);
        for form in [
            PeerCertificate::Pem(RFC8705.pem.as_bytes()),
            PeerCertificate::Der(&der),
            PeerCertificate::Sha256(digest),
        ] {
            assert_eq!(read(form), Ok(Some(digest)), "{form:?}");
        }
        for odd in [
            PeerCertificate::Pem(envoy(RFC8705.pem).as_bytes()),
            PeerCertificate::Pem(b""),
            PeerCertificate::Der(RFC8705.pem.as_bytes()),
            PeerCertificate::Der(b""),
            PeerCertificate::UrlEncodedPem(&der),
        ] {
            assert_eq!(read(odd), Err(Unusable::Malformed), "{odd:?}");
        }
    }

    #[test]
    fn no_certificate_is_none_and_no_error() {
        assert_eq!(encoded(""), Ok(None));
    }

    #[test]
    fn anything_else_is_malformed() {
        let one = envoy(RFC8705.pem);
        for odd in [
            " ",
            "%",
            &envoy(&RFC8705.pem.repeat(2)),
            &one.replace("%20", "+"),
            &one.replace("%2B", "%20"),
            &one.replace("%2B", "%2"),
            &one.replace('%', "%25"),
            RFC8705.x5t_s256,
        ] {
            assert_eq!(encoded(odd), Err(Unusable::Malformed), "{odd}");
        }
    }

    #[test]
    fn more_than_a_certificate_can_be_is_not_even_decoded() {
        let one = envoy(RFC8705.pem);
        let longest = one.clone() + &"%0A".repeat((CARRIED_BYTES - one.len()) / 3);
        assert!((CARRIED_BYTES - 2..=CARRIED_BYTES).contains(&longest.len()));
        assert!(encoded(&longest).is_ok());
        assert_eq!(encoded(&(longest + "%0A")), Err(Unusable::Malformed));
    }
}
