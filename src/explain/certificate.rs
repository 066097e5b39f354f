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
            Source::Xfcc { behind } => {
                let client = format!("Hash={}", Thumbprint::of(&self.0).to_hex());
                let elements = std::iter::once(client).chain(behind.iter().map(|it| element(it)));
                let value = elements.collect::<Vec<_>>().join(",");
                (Some("x-forwarded-client-cert".to_owned()), value)
            }
            Source::Header { name, format } => (Some(name.clone()), format.write(&self.0)),
        }
    }
}

/// What a proxy says of the proxy before it, which has this identity.
fn element(identity: &str) -> String {
    match Thumbprint::from_hex(identity.as_bytes()) {
        Some(hash) => format!("Hash={}", hash.to_hex()),
        // The identity is a name, so that any certificate may be behind it.
        None => format!("Hash={};URI={identity}", Thumbprint::of(identity.as_bytes()).to_hex()),
    }
}

/// The peer that the proxy next to us would report, where it is a proxy as well.
pub(super) fn principal(source: &Source) -> &str {
    match source {
        Source::Xfcc { behind } => behind.last().map_or("", String::as_str),
        Source::Peer | Source::Header { .. } => "",
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
        let xfcc = |behind: &[&str]| {
            let behind = behind.iter().map(|it| (*it).to_owned()).collect();
            Source::Xfcc { behind }
        };
        let (edge, hash) = ("spiffe://example.com/edge", "0f".repeat(32));
        let sources =
            [Source::Peer, xfcc(&[]), xfcc(&[edge]), xfcc(&[&hash, edge]), xfcc(&[edge, &hash])];
        for source in sources.into_iter().chain(HeaderFormat::all().map(header)) {
            let (name, value) = certificate.carried(&source);
            let peer_principal = principal(&source).as_bytes();
            let mut evidence = Evidence { peer_principal, ..Evidence::default() };
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
