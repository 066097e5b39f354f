//! Conversion of a certificate into the form in which a proxy would forward it.

use keybound_core::client_certificate::{self, HeaderFormat, Source};
use keybound_core::jose::Thumbprint;

/// The DER of a certificate.
pub(crate) struct Certificate(Vec<u8>);

impl Certificate {
    /// The first certificate in PEM or DER.
    pub(crate) fn read(bytes: &[u8]) -> Result<Self, String> {
        client_certificate::der_in(bytes).map(Self).map_err(|it| it.to_string())
    }

    /// The header and value that carry the certificate to `source`; no header if Envoy sends it
    /// outside the headers.
    pub(super) fn carried(&self, source: &Source) -> (Option<String>, String) {
        match source {
            Source::Peer => (None, HeaderFormat::PemUrlencoded.write(&self.0)),
            Source::Xfcc { .. } => {
                let hash = Thumbprint::of(&self.0).to_hex();
                (Some("x-forwarded-client-cert".to_owned()), format!("Hash={hash}"))
            }
            Source::Header { name, format } => (Some(name.clone()), format.write(&self.0)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use keybound_core::client_certificate::ClientCertificate;
    use keybound_core::words::Words;
    use keybound_core::{Evidence, Field, PeerCertificate};

    const FILE: &[u8] = include_bytes!("../../tests/vectors/envoy/certs/p256.crt");

    #[test]
    fn every_source_reads_the_certificate_that_was_carried_to_it() {
        let certificate = Certificate::read(FILE).unwrap();
        let expected = ClientCertificate::Presented(Thumbprint::of(&certificate.0));
        let header = |format| Source::Header { name: "client-cert".to_owned(), format };
        let sources = [Source::Peer, Source::Xfcc { behind: vec![] }];
        for source in sources.into_iter().chain(HeaderFormat::all().map(header)) {
            let (name, value) = certificate.carried(&source);
            let mut evidence = Evidence::default();
            match name.as_deref() {
                None => {
                    evidence.peer_certificate = PeerCertificate::UrlEncodedPem(value.as_bytes());
                }
                Some("client-cert") => evidence.header = Field::One(value.as_bytes()),
                Some(_) => evidence.xfcc = Field::One(value.as_bytes()),
            }
            assert_eq!(source.read(&evidence), expected, "{source:?}");
        }
    }
}
