//! Certificates in files that people hand over, PEM or DER, told apart from what else is in such files
//! (RFC 7468, RFC 5280 §4.1).
//!
//! Each of the other structures is a SEQUENCE as well, and a digest of it would look like a
//! thumbprint. Certificates that proxies forward are not looked into: they come from TLS.

use super::der;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use std::fmt;

/// What a file holds that holds no certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoCertificate {
    /// A private key.
    PrivateKey,
    /// A public key.
    PublicKey,
    /// A certificate request (RFC 2986).
    Request,
    /// A list of revoked certificates (RFC 5280 §5.1).
    RevocationList,
    /// A PKCS #12 file (RFC 7292).
    Pkcs12,
    /// A PKCS #7 file (RFC 5652).
    Pkcs7,
    /// A certificate with OpenSSL's additions.
    Trusted,
    /// PEM that cannot be decoded.
    BrokenPem,
    /// Something else.
    Unknown,
}

/// The DER of the certificate in what a person hands over, PEM or DER. Of a chain the first counts:
/// it is the one that a client proves (RFC 8446 §4.4.2).
pub fn der_in(file: &[u8]) -> Result<Vec<u8>, NoCertificate> {
    let der = match CertificateDer::pem_slice_iter(file).next() {
        Some(first) => first.or(Err(NoCertificate::BrokenPem))?.to_vec(),
        None => match labelled(file) {
            Some(found) => return Err(found),
            None => file.to_vec(),
        },
    };
    match kind(&der) {
        None => der::thumbprint(&der).map(|_| der).ok_or(NoCertificate::Unknown),
        Some(other) => Err(other),
    }
}

/// What the first section of PEM holds by its label, if there is one.
fn labelled(file: &[u8]) -> Option<NoCertificate> {
    let mut lines = file.split(|it| *it == b'\n').map(<[u8]>::trim_ascii);
    let label = lines.find_map(|it| it.strip_prefix(b"-----BEGIN "))?;
    let holds = |word: &str| label.windows(word.len()).any(|it| it == word.as_bytes());
    let known = LABELS.iter().find(|(word, _)| holds(word));
    Some(known.map_or(NoCertificate::Unknown, |(_, found)| *found))
}

/// Words in labels, the longer ones first (RFC 7468 §4).
const LABELS: &[(&str, NoCertificate)] = &[
    ("PRIVATE KEY", NoCertificate::PrivateKey),
    ("PUBLIC KEY", NoCertificate::PublicKey),
    ("CERTIFICATE REQUEST", NoCertificate::Request),
    ("X509 CRL", NoCertificate::RevocationList),
    ("PKCS7", NoCertificate::Pkcs7),
    ("CMS", NoCertificate::Pkcs7),
    ("PKCS12", NoCertificate::Pkcs12),
    ("TRUSTED CERTIFICATE", NoCertificate::Trusted),
    ("X509 CERTIFICATE", NoCertificate::Trusted),
];

/// What the DER is by its structure, if not a certificate.
fn kind(der: &[u8]) -> Option<NoCertificate> {
    let Some((SEQUENCE, contents, [])) = element(der) else {
        return Some(NoCertificate::Unknown);
    };
    let Some(parts) = elements(contents) else { return Some(NoCertificate::Unknown) };
    let tags: Vec<u8> = parts.iter().map(|(tag, _)| *tag).collect();
    match (&*tags, &*parts) {
        ([SEQUENCE, SEQUENCE, BIT_STRING], [(_, signed), ..]) => kind_of_signed(signed),
        // Its version is 3; the structure alone is that of no other one here.
        ([INTEGER, SEQUENCE] | [INTEGER, SEQUENCE, SEQUENCE], [(_, [3]), ..]) => {
            Some(NoCertificate::Pkcs12)
        }
        // PKCS #8 (RFC 5958), also encrypted; SEC 1 (RFC 5915); PKCS #1 (RFC 8017 A.1.2).
        (
            [INTEGER, SEQUENCE, OCTET_STRING, ..]
            | [SEQUENCE, OCTET_STRING]
            | [INTEGER, OCTET_STRING, ..]
            | [INTEGER, INTEGER, INTEGER, ..],
            _,
        ) => Some(NoCertificate::PrivateKey),
        ([SEQUENCE, BIT_STRING] | [INTEGER, INTEGER], _) => Some(NoCertificate::PublicKey),
        ([OBJECT_IDENTIFIER, CONTEXT_0], _) => Some(NoCertificate::Pkcs7),
        _ => Some(NoCertificate::Unknown),
    }
}

/// What is signed, if not the contents of a certificate. Requests and lists of revoked certificates
/// have the outer structure of certificates.
fn kind_of_signed(contents: &[u8]) -> Option<NoCertificate> {
    let Some(parts) = elements(contents) else { return Some(NoCertificate::Unknown) };
    let tags: Vec<u8> = parts.iter().map(|(tag, _)| *tag).collect();
    match tags.strip_prefix(&[CONTEXT_0]).unwrap_or(&tags) {
        // The serial number; algorithm, issuer, validity, subject and public key.
        [INTEGER, SEQUENCE, SEQUENCE, SEQUENCE, SEQUENCE, SEQUENCE, ..] => None,
        // The version; subject and public key; attributes.
        [INTEGER, SEQUENCE, SEQUENCE] | [INTEGER, SEQUENCE, SEQUENCE, CONTEXT_0] => {
            Some(NoCertificate::Request)
        }
        // The version, if any; algorithm and issuer; the time of this update.
        [INTEGER, SEQUENCE, SEQUENCE, UTC_TIME | GENERALIZED_TIME, ..]
        | [SEQUENCE, SEQUENCE, UTC_TIME | GENERALIZED_TIME, ..] => {
            Some(NoCertificate::RevocationList)
        }
        _ => Some(NoCertificate::Unknown),
    }
}

pub(super) type Element<'a> = (u8, &'a [u8]);

/// The elements that follow each other in `contents`, if nothing else does.
pub(super) fn elements(mut contents: &[u8]) -> Option<Vec<Element<'_>>> {
    let mut found = vec![];
    while !contents.is_empty() {
        let (tag, inner, rest) = element(contents)?;
        found.push((tag, inner));
        contents = rest;
    }
    Some(found)
}

/// The first element of `input`: its tag, its contents, and what follows it.
pub(super) fn element(input: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (tag, rest) = input.split_first()?;
    let (first, rest) = rest.split_first()?;
    let (length, rest) = if *first < 0x80 {
        (usize::from(*first), rest)
    } else {
        let (octets, rest) = rest.split_at_checked(usize::from(first & 0x7f))?;
        if !(1..=4).contains(&octets.len()) {
            return None;
        }
        let add = |sum: usize, it: &u8| sum.checked_mul(256)?.checked_add(usize::from(*it));
        (octets.iter().try_fold(0, add)?, rest)
    };
    let (contents, rest) = rest.split_at_checked(length)?;
    Some((*tag, contents, rest))
}

pub(super) const INTEGER: u8 = 0x02;
const BIT_STRING: u8 = 0x03;
const OCTET_STRING: u8 = 0x04;
const OBJECT_IDENTIFIER: u8 = 0x06;
pub(super) const UTC_TIME: u8 = 0x17;
pub(super) const GENERALIZED_TIME: u8 = 0x18;
pub(super) const SEQUENCE: u8 = 0x30;
pub(super) const CONTEXT_0: u8 = 0xa0;

/// A clause about "it", the file.
impl fmt::Display for NoCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::PrivateKey => "it is a private key",
            Self::PublicKey => "it is a public key",
            Self::Request => {
                "it is a certificate request (CSR): the certificate is what the authority makes of it"
            }
            Self::RevocationList => "it is a list of revoked certificates (CRL)",
            Self::Pkcs12 => {
                "it is a PKCS #12 file: `openssl pkcs12 -clcerts -nokeys` takes the certificate out"
            }
            Self::Pkcs7 => {
                "it is a PKCS #7 file: `openssl pkcs7 -print_certs` takes the certificates out"
            }
            Self::Trusted => {
                "it is a certificate in OpenSSL's own format: `openssl x509` makes a plain one of it"
            }
            Self::BrokenPem => "there is no certificate in it, for its PEM cannot be decoded",
            Self::Unknown => "there is no certificate in it",
        })
    }
}

impl std::error::Error for NoCertificate {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client_certificate::examples::{RFC8705, RFC9440};
    use crate::client_certificate::pem;

    fn tlv(tag: u8, contents: &[u8]) -> Vec<u8> {
        let length = contents.len();
        let head = match u8::try_from(length) {
            Ok(short @ 0..=0x7f) => vec![tag, short],
            _ => [vec![tag, 0x83], length.to_be_bytes()[5..].to_vec()].concat(),
        };
        [&head, contents].concat()
    }

    const S: u8 = SEQUENCE;

    /// A SEQUENCE of empty elements with these tags.
    fn sequence(tags: &[u8]) -> Vec<u8> {
        let parts: Vec<_> = tags.iter().map(|it| tlv(*it, &[])).collect();
        tlv(SEQUENCE, &parts.concat())
    }

    /// The structure of what is signed by an authority, around contents with these tags.
    fn signed(tags: &[u8]) -> Vec<u8> {
        let end = [tlv(SEQUENCE, &[]), tlv(BIT_STRING, &[])].concat();
        tlv(SEQUENCE, &[sequence(tags), end].concat())
    }

    #[test]
    fn certificates_are_found_in_pem_and_der() {
        for example in [RFC8705.pem, RFC9440.pem] {
            let der = der_in(example.as_bytes()).unwrap();
            assert_eq!(der_in(&der).as_ref(), Ok(&der));
            let bundle = format!("{}{example}", example.replace("CERTIFICATE", "PRIVATE KEY"));
            assert_eq!(der_in(bundle.as_bytes()), Ok(der), "the key comes first");
        }
        for tags in [
            &[CONTEXT_0, INTEGER, S, S, S, S, S][..],
            &[CONTEXT_0, INTEGER, S, S, S, S, S, 0x81, 0x82, 0xa3],
            // Version 1.
            &[INTEGER, S, S, S, S, S],
        ] {
            assert!(der_in(&signed(tags)).is_ok(), "{tags:02x?}");
        }
    }

    #[test]
    fn what_is_none_is_told_apart_by_its_structure_however_it_is_labelled() {
        use NoCertificate as N;
        let version = |it: u8, rest: &[u8]| {
            let rest: Vec<_> = rest.iter().flat_map(|it| tlv(*it, &[])).collect();
            tlv(SEQUENCE, &[tlv(INTEGER, &[it]), rest].concat())
        };
        let mut long = tlv(SEQUENCE, &vec![0; 0x1_0000]);
        for (der, expected) in [
            (version(3, &[S, S]), N::Pkcs12),
            (version(3, &[S]), N::Pkcs12),
            (version(0, &[S, OCTET_STRING]), N::PrivateKey),
            (version(1, &[S, OCTET_STRING, 0xa0, 0x81]), N::PrivateKey),
            (version(1, &[OCTET_STRING, 0xa0, 0xa1]), N::PrivateKey),
            (version(0, &[INTEGER; 8]), N::PrivateKey),
            (sequence(&[S, OCTET_STRING]), N::PrivateKey),
            (sequence(&[S, BIT_STRING]), N::PublicKey),
            (sequence(&[INTEGER, INTEGER]), N::PublicKey),
            (sequence(&[OBJECT_IDENTIFIER, CONTEXT_0]), N::Pkcs7),
            (signed(&[INTEGER, S, S, CONTEXT_0]), N::Request),
            (signed(&[INTEGER, S, S]), N::Request),
            (signed(&[INTEGER, S, S, UTC_TIME, UTC_TIME, S, CONTEXT_0]), N::RevocationList),
            (signed(&[S, S, GENERALIZED_TIME]), N::RevocationList),
            (signed(&[INTEGER, S, S, S, S]), N::Unknown),
            (signed(&[]), N::Unknown),
            (sequence(&[]), N::Unknown),
            (version(2, &[S, S]), N::Unknown),
            ([sequence(&[S, BIT_STRING]), vec![0]].concat(), N::Unknown),
            (tlv(0x31, &[]), N::Unknown),
            (vec![S, 0x80, 0, 0], N::Unknown),
            (vec![S, 0x85, 0, 0, 0, 0, 0], N::Unknown),
            (vec![S, 0x84, 0xff, 0xff, 0xff, 0xff], N::Unknown),
            (vec![S], N::Unknown),
            (vec![], N::Unknown),
            (std::mem::take(&mut long), N::Unknown),
        ] {
            assert_eq!(der_in(&der), Err(expected), "{der:02x?}");
            let labelled = pem::write(&der);
            assert_eq!(der_in(labelled.as_bytes()), Err(expected), "{labelled}");
        }
    }

    #[test]
    fn a_label_says_what_it_is() {
        use NoCertificate as N;
        for (label, expected) in [
            ("PRIVATE KEY", N::PrivateKey),
            ("ENCRYPTED PRIVATE KEY", N::PrivateKey),
            ("RSA PRIVATE KEY", N::PrivateKey),
            ("EC PRIVATE KEY", N::PrivateKey),
            ("OPENSSH PRIVATE KEY", N::PrivateKey),
            ("PUBLIC KEY", N::PublicKey),
            ("RSA PUBLIC KEY", N::PublicKey),
            ("CERTIFICATE REQUEST", N::Request),
            ("NEW CERTIFICATE REQUEST", N::Request),
            ("X509 CRL", N::RevocationList),
            ("PKCS7", N::Pkcs7),
            ("CMS", N::Pkcs7),
            ("TRUSTED CERTIFICATE", N::Trusted),
            ("EC PARAMETERS", N::Unknown),
        ] {
            let file =
                format!("# text\r\n-----BEGIN {label}-----\r\nMAA=\r\n-----END {label}-----\r\n");
            assert_eq!(der_in(file.as_bytes()), Err(expected), "{label}");
        }
        let broken = RFC8705.pem.replace("MIIB", "MI?B");
        assert_eq!(der_in(broken.as_bytes()), Err(N::BrokenPem));
        assert_eq!(der_in(b"text"), Err(N::Unknown));
    }
}
