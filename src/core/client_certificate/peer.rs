//! Knows what Envoy itself says of its peer: `source.certificate`, the leaf in URL-encoded PEM
//! (with `include_peer_certificate`), and `source.principal`.

use super::{CARRIED_BYTES, Unusable, pem};
use crate::jose::thumbprint::Thumbprint;

/// The thumbprint of the peer's certificate; none if it presented none, or Envoy does not tell.
pub(super) fn read(certificate: &[u8]) -> Result<Option<Thumbprint>, Unusable> {
    match certificate.len() {
        0 => Ok(None),
        1..=CARRIED_BYTES => {
            pem::thumbprint_of_urlencoded(certificate).map(Some).ok_or(Unusable::Malformed)
        }
        _ => Err(Unusable::Malformed),
    }
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

    #[test]
    fn what_envoy_writes_is_read() {
        let found = read(envoy(RFC8705.pem).as_bytes()).unwrap().unwrap();
        assert_eq!(found.to_base64url(), RFC8705.x5t_s256);
    }

    #[test]
    fn no_certificate_is_none_and_no_error() {
        assert_eq!(read(b""), Ok(None));
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
            assert_eq!(read(odd.as_bytes()), Err(Unusable::Malformed), "{odd}");
        }
    }

    #[test]
    fn more_than_a_certificate_can_be_is_not_even_decoded() {
        let one = envoy(RFC8705.pem);
        let longest = one.clone() + &"%0A".repeat((CARRIED_BYTES - one.len()) / 3);
        assert!((CARRIED_BYTES - 2..=CARRIED_BYTES).contains(&longest.len()));
        assert!(read(longest.as_bytes()).is_ok());
        assert_eq!(read((longest + "%0A").as_bytes()), Err(Unusable::Malformed));
    }
}
