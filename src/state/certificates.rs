//! A cache of parsed client certificates, keyed by the header text that carried them.
//!
//! A client sends the same certificate with every request, and decoding and hashing it costs more
//! than the rest of a check whose token is cached. Keys are compared as a whole, never by hash
//! alone. Text that cannot be parsed is not cached, so that a flood of garbage evicts nothing.

use keybound_core::Evidence;
use keybound_core::client_certificate::{ClientCertificate, Source};
use keybound_core::jose::Thumbprint;
use quick_cache::sync::{Cache, DefaultLifecycle};
use quick_cache::{DefaultHashBuilder, OptionsBuilder, Weighter};
use std::fmt;

/// The parsed certificates of one source, bounded by bytes.
pub struct Certificates {
    source: Source,
    known: Cache<Box<[u8]>, Thumbprint, Bytes>,
}

impl Certificates {
    /// An empty cache for the certificates of `source`.
    pub fn told_by(source: Source) -> Self {
        let options =
            OptionsBuilder::new().estimated_items_capacity(EXPECTED).weight_capacity(MOST).build();
        let (hasher, lifecycle) = (DefaultHashBuilder::default(), DefaultLifecycle::default());
        let known = match options {
            Ok(options) => Cache::with_options(options, Bytes, hasher, lifecycle),
            Err(_) => Cache::with(EXPECTED, MOST, Bytes, hasher, lifecycle),
        };
        Self { source, known }
    }

    /// The client's certificate: the same as [`Source::read`].
    pub fn read(&self, evidence: &Evidence<'_>) -> ClientCertificate {
        let Some(text) = self.source.sole_carrier(evidence) else {
            return self.source.read(evidence);
        };
        if let Some(thumbprint) = self.known.get(text) {
            return ClientCertificate::Presented(thumbprint);
        }
        let found = self.source.read(evidence);
        if let ClientCertificate::Presented(thumbprint) = found {
            self.known.insert(text.into(), thumbprint);
        }
        found
    }
}

impl fmt::Debug for Certificates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificates").field("known", &self.known.len()).finish_non_exhaustive()
    }
}

/// Initial capacity in entries; the cache grows as needed.
const EXPECTED: usize = 256;

/// Maximum size in bytes, enough for some thousands of certificates.
const MOST: u64 = 8 << 20;

/// The size of an entry in bytes.
#[derive(Clone, Copy)]
struct Bytes;

impl Weighter<Box<[u8]>, Thumbprint> for Bytes {
    fn weight(&self, text: &Box<[u8]>, _: &Thumbprint) -> u64 {
        /// Approximate overhead of the table and the heap.
        const OVERHEAD: u64 = 128;
        u64::try_from(text.len()).unwrap_or(u64::MAX).saturating_add(OVERHEAD)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use keybound_core::Field;
    use keybound_core::PeerCertificate;
    use keybound_core::client_certificate::HeaderFormat;

    const HASH: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

    /// A DER of so many octets behind its length, as a Client-Cert header has it (RFC 9440 §2).
    fn client_cert(octet: u8, length: u8) -> String {
        use base64::Engine;
        let der = [vec![0x30, length], vec![octet; length.into()]].concat();
        format!(":{}:", base64::engine::general_purpose::STANDARD.encode(der))
    }

    fn rfc9440() -> Source {
        Source::Header { name: "client-cert".to_owned(), format: HeaderFormat::Rfc9440 }
    }

    fn carried(value: &str) -> Evidence<'_> {
        Evidence { header: Field::One(value.as_bytes()), ..Evidence::default() }
    }

    #[test]
    fn what_was_read_before_reads_the_same() {
        let certificates = Certificates::told_by(rfc9440());
        for _ in 0..3 {
            for value in [client_cert(1, 9), client_cert(2, 9), "garbage".into(), "::".into()] {
                let evidence = carried(&value);
                assert_eq!(certificates.read(&evidence), rfc9440().read(&evidence), "{value}");
            }
        }
        assert_eq!(certificates.known.len(), 2);
    }

    #[test]
    fn a_certificate_does_not_outlive_its_request() {
        let certificates = Certificates::told_by(rfc9440());
        let value = client_cert(1, 9);
        assert!(certificates.read(&carried(&value)).thumbprint().is_some());
        for evidence in
            [Evidence::default(), Evidence { header: Field::Many, ..Evidence::default() }, {
                let peer_certificate = PeerCertificate::UrlEncodedPem(value.as_bytes());
                Evidence { peer_certificate, ..Evidence::default() }
            }]
        {
            assert_eq!(certificates.read(&evidence).thumbprint(), None, "{evidence:?}");
        }
    }

    #[test]
    fn what_several_texts_tell_together_is_read_each_time() {
        let certificates = Certificates::told_by(Source::Xfcc { behind: vec![] });
        let xfcc = format!("Hash={HASH}");
        let evidence = Evidence { xfcc: Field::One(xfcc.as_bytes()), ..Evidence::default() };
        assert!(certificates.read(&evidence).thumbprint().is_some());
        assert_eq!(certificates.known.len(), 0);
    }

    #[test]
    fn a_flood_of_certificates_stays_within_bounds() {
        let certificates = Certificates::told_by(rfc9440());
        for index in 0_u32..100_000 {
            use base64::Engine;
            let der = [vec![0x30, 0x82, 0x01, 0x00], index.to_le_bytes().repeat(64)].concat();
            let text = format!(":{}:", base64::engine::general_purpose::STANDARD.encode(der));
            assert!(certificates.read(&carried(&text)).thumbprint().is_some());
        }
        assert!(certificates.known.weight() <= MOST);
        assert!(certificates.known.len() > 1000);
    }
}
