//! Client certificates as proxies other than Envoy write them into headers (RFC 9440 §2, and
//! formats older than it).

use super::{CARRIED_BYTES, Unusable, der, pem};
use crate::jose::thumbprint::Thumbprint;
use crate::percent;
use crate::request::Field;
use crate::words::words;
use base64::Engine;
use base64::alphabet;
use base64::engine::general_purpose::STANDARD;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use std::borrow::Cow;

words! {
    /// How a header carries a certificate.
    #[default(Rfc9440)]
    pub enum HeaderFormat as "CertificateFormat" {
        /// A byte sequence of the DER (RFC 9440), as of Cloudflare, Google Cloud and Caddy.
        Rfc9440 = "rfc9440",
        /// URL-encoded PEM, as of nginx and of AWS for the leaf alone.
        PemUrlencoded = "pem-urlencoded",
        /// The same, and behind it those of the issuers, as of AWS's `X-Amzn-Mtls-Clientcert`. Only
        /// for a proxy that never adds to what the client wrote: the first is believed.
        PemUrlencodedChain = "pem-urlencoded-chain",
        /// PEM in one line, with blanks for the line breaks, as of Apache, or without any, as of F5.
        PemFlat = "pem-flat",
        /// Base64 of the PEM.
        PemBase64 = "pem-base64",
        /// Base64 of the DER, as of `HAProxy`.
        DerBase64 = "der-base64",
        /// The same, and behind it those of the issuers, after commas, as of Traefik. Only for a proxy
        /// that never adds to what the client wrote: the first is believed.
        DerBase64Chain = "der-base64-chain",
        /// SHA-256 of the DER in hexadecimal, also with a colon after each octet but the last.
        Sha256Hex = "sha256-hex",
        /// SHA-256 of the DER in base64, with or without padding.
        Sha256Base64 = "sha256-base64",
        /// SHA-256 of the DER in base64url.
        Sha256Base64url = "sha256-base64url",
    }
}

impl HeaderFormat {
    /// The thumbprint of the certificate in `field`; none if it is absent, empty, or `(null)`, as
    /// nginx and Apache leave it for a client without a certificate.
    ///
    /// There must be one certificate on one line. A second one, after a comma or on a line of its own,
    /// is refused, because the client could have added one of the two. In a chain, the certificates of
    /// the issuers may follow.
    pub(super) fn read(self, field: Field<'_>) -> Result<Option<Thumbprint>, Unusable> {
        match field {
            Field::Absent | Field::One(b"" | b"(null)") => Ok(None),
            Field::One(value) if value.len() <= CARRIED_BYTES => {
                self.thumbprint(value).map(Some).ok_or(Unusable::Malformed)
            }
            Field::One(_) | Field::Many => Err(Unusable::Malformed),
        }
    }

    fn thumbprint(self, value: &[u8]) -> Option<Thumbprint> {
        match self {
            Self::Rfc9440 => der::thumbprint(&byte_sequence(value)?),
            Self::PemUrlencoded => pem::thumbprint_of_urlencoded(value),
            Self::PemUrlencodedChain => pem::first_of_chain(&percent::decoded(value)?),
            Self::PemFlat => pem::thumbprint_of_flat(value),
            Self::PemBase64 => pem::thumbprint(&STANDARD.decode(value).ok()?),
            // Decoding is harmless for plain base64, which contains no percent sign; Traefik has
            // written `%2B`.
            Self::DerBase64 => der::thumbprint(&STANDARD.decode(percent::decoded(value)?).ok()?),
            Self::DerBase64Chain => first_of_chain(&percent::decoded(value)?),
            Self::Sha256Hex => Thumbprint::from_hex(&without_colons(value)?),
            Self::Sha256Base64 => {
                FINGERPRINT.decode(value).ok()?.try_into().ok().map(Thumbprint::from_octets)
            }
            Self::Sha256Base64url => Thumbprint::from_base64url(str::from_utf8(value).ok()?),
        }
    }

    /// The value of a header that carries the certificate with this DER.
    pub fn write(self, der: &[u8]) -> String {
        match self {
            Self::Rfc9440 => format!(":{}:", STANDARD.encode(der)),
            Self::PemUrlencoded | Self::PemUrlencodedChain => percent::encoded(pem::write(der)),
            Self::PemFlat => pem::write(der).trim_ascii_end().replace('\n', " "),
            Self::PemBase64 => STANDARD.encode(pem::write(der)),
            Self::DerBase64 | Self::DerBase64Chain => STANDARD.encode(der),
            Self::Sha256Hex => Thumbprint::of(der).to_hex(),
            Self::Sha256Base64 => STANDARD.encode(Thumbprint::of(der).octets()),
            Self::Sha256Base64url => Thumbprint::of(der).to_base64url(),
        }
    }

    /// Whether the header holds a certificate, which is expensive to decode, rather than its digest.
    pub(super) const fn holds_a_certificate(self) -> bool {
        !matches!(self, Self::Sha256Hex | Self::Sha256Base64 | Self::Sha256Base64url)
    }
}

/// The client's own certificate, which comes first in the handshake (RFC 8446 §4.4.2). The rest of
/// the chain is ignored, but must consist of certificates: a proxy writes nothing else.
fn first_of_chain(value: &[u8]) -> Option<Thumbprint> {
    let mut chain = value.split(|it| *it == b',');
    let certificate = |it| der::thumbprint(&STANDARD.decode(it).ok()?);
    let first = certificate(chain.next()?)?;
    chain.all(|it| certificate(it).is_some()).then_some(first)
}

/// Hexadecimal digits as they are, or in pairs that colons separate: as OpenSSL writes a fingerprint.
fn without_colons(value: &[u8]) -> Option<Cow<'_, [u8]>> {
    if !value.contains(&b':') {
        return Some(Cow::Borrowed(value));
    }
    let pairs = value.split(|it| *it == b':').map(|it| <[u8; 2]>::try_from(it).ok());
    Some(Cow::Owned(pairs.collect::<Option<Vec<_>>>()?.concat()))
}

/// A structured field item that is a byte sequence (RFC 9651 §4.2, §4.2.7). Parameters are refused:
/// RFC 9440 defines none.
fn byte_sequence(value: &[u8]) -> Option<Vec<u8>> {
    STRUCTURED.decode(value.strip_prefix(b":")?.strip_suffix(b":")?).ok()
}

/// Base64 as RFC 9651 §4.2.7 requires it to be parsed: padding is optional, and its bits may be
/// set.
const STRUCTURED: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true),
);

/// Base64 of a digest. Proxies differ in whether they pad it; its spare bits must be zero.
const FINGERPRINT: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

#[cfg(test)]
mod tests {
    use super::HeaderFormat::*;
    use super::*;
    use crate::client_certificate::examples::{RFC8705, RFC9440};
    use crate::words::Words;

    /// The certificate of RFC 9440 in every format.
    fn spelled(format: HeaderFormat) -> String {
        let body = RFC9440.pem.lines().filter(|it| !it.starts_with('-')).collect::<String>();
        let thumbprint = Thumbprint::from_base64url(RFC9440.x5t_s256).unwrap();
        match format {
            Rfc9440 => format!(":{body}:"),
            PemUrlencoded | PemUrlencodedChain => {
                RFC9440.pem.replace(' ', "%20").replace('\n', "%0A")
            }
            PemFlat => RFC9440.pem.trim_end().replace('\n', " "),
            PemBase64 => STANDARD.encode(RFC9440.pem),
            DerBase64 | DerBase64Chain => body,
            Sha256Hex => thumbprint.to_hex(),
            Sha256Base64 => STANDARD.encode(thumbprint.octets()),
            Sha256Base64url => thumbprint.to_base64url(),
        }
    }

    fn one(value: &str, format: HeaderFormat) -> Result<Option<String>, Unusable> {
        let found = format.read(Field::One(value.as_bytes()))?;
        Ok(found.map(|it| it.to_base64url()))
    }

    #[track_caller]
    fn is_read(format: HeaderFormat, edit: impl Fn(String) -> String) {
        let value = edit(spelled(format));
        assert_eq!(one(&value, format), Ok(Some(RFC9440.x5t_s256.to_owned())), "{value}");
    }

    #[track_caller]
    fn is_refused(format: HeaderFormat, edit: impl Fn(String) -> String) {
        let value = edit(spelled(format));
        assert_ne!(value, spelled(format), "the edit must change something");
        assert_eq!(one(&value, format), Err(Unusable::Malformed), "{value}");
    }

    #[test]
    fn every_format_carries_the_same_certificate() {
        for format in HeaderFormat::all() {
            is_read(format, |it| it);
        }
    }

    #[test]
    fn no_line_an_empty_line_and_apaches_null_are_no_certificate() {
        for format in HeaderFormat::all() {
            assert_eq!(format.read(Field::One(b"(null)")), Ok(None), "{format:?}");
            for odd in ["(Null)", "null", "(null", "(null) ", "-", "none", "(null),(null)"] {
                assert_eq!(one(odd, format), Err(Unusable::Malformed), "{format:?} {odd}");
            }
            assert_eq!(format.read(Field::Absent), Ok(None), "{format:?}");
            assert_eq!(format.read(Field::One(b"")), Ok(None), "{format:?}");
        }
    }

    #[test]
    fn no_format_but_a_chain_carries_more_than_one_certificate() {
        for format in HeaderFormat::all() {
            assert_eq!(format.read(Field::Many), Err(Unusable::Malformed), "{format:?}");
            if format != DerBase64Chain {
                is_refused(format, |it| format!("{it},{it}"));
            }
            is_refused(format, |it| format!("{it}, {it}"));
            if format != PemUrlencodedChain {
                is_refused(format, |it| format!("{it}{it}"));
            }
        }
    }

    #[test]
    fn nothing_may_stand_around_the_certificate() {
        for format in HeaderFormat::all() {
            is_refused(format, |it| format!(" {it}"));
            if format != PemFlat {
                is_refused(format, |it| format!("{it} "));
            }
            is_refused(format, |it| format!("{it}x"));
            is_refused(format, |it| format!("{it};x=1"));
            is_refused(format, |it| format!("\"{it}\""));
        }
    }

    #[test]
    fn each_format_is_read_as_itself_only() {
        for format in HeaderFormat::all() {
            let same = |it: HeaderFormat| spelled(it) == spelled(format);
            for other in HeaderFormat::all().filter(|it| !same(*it)) {
                assert_eq!(one(&spelled(other), format), Err(Unusable::Malformed), "{other:?}");
            }
        }
    }

    #[test]
    fn rfc_9440_is_a_byte_sequence_of_structured_fields() {
        let leaf = STANDARD.encode(b"\x30\x01\x00");
        assert_eq!(leaf, "MAEA");
        let padded = STANDARD.encode(b"\x30\x02\x00\x00");
        assert_eq!(padded, "MAIAAA==");
        let is = |value: &str, der: &[u8]| {
            let found = one(value, Rfc9440).unwrap();
            assert_eq!(found, Some(Thumbprint::of(der).to_base64url()), "{value}");
        };
        is(":MAEA:", b"\x30\x01\x00");
        is(":MAIAAA==:", b"\x30\x02\x00\x00");
        // RFC 9651 §4.2.7: a parser should not fail over padding.
        is(":MAIAAA:", b"\x30\x02\x00\x00");
        is(":MAIAAB==:", b"\x30\x02\x00\x00");
        for odd in [
            ":",
            "::",
            ":MAEA",
            "MAEA:",
            "MAEA",
            ":MAEA:;a",
            ":MAEA:;a=1",
            ":MAEA::MAEA:",
            "(:MAEA:)",
            ":MA EA:",
            ":MA\tEA:",
            ":M-EA:",
            ":=:",
            "?1",
        ] {
            assert_eq!(one(odd, Rfc9440), Err(Unusable::Malformed), "{odd}");
        }
    }

    #[test]
    fn urlencoded_pem_may_leave_plus_slash_and_equals_as_they_are() {
        assert!(spelled(PemUrlencoded).contains('+'));
        is_read(PemUrlencoded, |it| it.replace('+', "%2B").replace('/', "%2f").replace('=', "%3D"));
        is_refused(PemUrlencoded, |it| it.replace("%20", "+"));
        is_refused(PemUrlencoded, |it| it.replace('+', "%20"));
    }

    #[test]
    fn base64_of_der_may_be_url_encoded_but_not_base64url() {
        is_read(DerBase64, |it| it.replace('+', "%2B").replace('/', "%2F").replace('=', "%3D"));
        is_refused(DerBase64, |it| it.replace('+', "-").replace('/', "_"));
        is_refused(DerBase64, |it| it.replace('=', ""));
        is_refused(DerBase64, |it| format!("{it}%2C{it}"));
    }

    #[test]
    fn of_a_chain_the_first_certificate_is_the_clients() {
        let issuer = RFC8705.pem.lines().filter(|it| !it.starts_with('-')).collect::<String>();
        is_read(DerBase64Chain, |it| it);
        is_read(DerBase64Chain, |it| format!("{it},{issuer}"));
        is_read(DerBase64Chain, |it| format!("{it},{issuer},{issuer}"));
        is_read(DerBase64Chain, |it| format!("{it},{issuer}").replace(',', "%2C"));
        for odd in ["", " ", "x", "AAAA", " AAAA", "=", ":"] {
            is_refused(DerBase64Chain, |it| format!("{it},{odd}"));
            is_refused(DerBase64Chain, |it| format!("{it},{odd},{issuer}"));
            is_refused(DerBase64Chain, |it| format!("{odd},{it}"));
        }
        is_refused(DerBase64Chain, |it| format!("{it};{issuer}"));
        let last = one(&format!("{issuer},{}", spelled(DerBase64)), DerBase64Chain);
        assert_eq!(last, Ok(Some(RFC8705.x5t_s256.to_owned())));
    }

    #[test]
    fn of_a_chain_in_pem_the_first_certificate_is_the_clients() {
        let issuer = percent::encoded(RFC8705.pem);
        is_read(PemUrlencodedChain, |it| format!("{it}{issuer}"));
        is_read(PemUrlencodedChain, |it| format!("{it}{issuer}{issuer}"));
        is_read(PemUrlencodedChain, |it| format!("{it}%0A{issuer}"));
        is_read(PemUrlencodedChain, |it| format!("{it}{issuer}").replace("%0A", "%0D%0A"));
        for odd in ["x", "%00", ",", "subject%3A%20a%0A"] {
            is_refused(PemUrlencodedChain, |it| format!("{odd}{it}"));
            is_refused(PemUrlencodedChain, |it| format!("{it}{odd}"));
            is_refused(PemUrlencodedChain, |it| format!("{it}{odd}{issuer}"));
        }
        is_refused(PemUrlencodedChain, |it| format!("{it},{issuer}"));
        is_refused(PemUrlencodedChain, |it| format!("{it}{}", issuer.replace("MIIB", "MIIC")));
        is_refused(PemUrlencodedChain, |it| format!("{it}{}", issuer.split_at(99).0));
        is_refused(PemUrlencoded, |it| format!("{it}{issuer}"));
        let last = one(&format!("{issuer}{}", spelled(PemUrlencoded)), PemUrlencodedChain);
        assert_eq!(last, Ok(Some(RFC8705.x5t_s256.to_owned())));
    }

    #[test]
    fn pem_in_one_line_has_blanks_for_line_breaks_or_nothing() {
        let body = |it: &str| it.split("-----").nth(2).unwrap().replace(' ', "");
        let flat =
            |it: &str| format!("-----BEGIN CERTIFICATE-----{}-----END CERTIFICATE-----", body(it));
        is_read(PemFlat, |it| flat(&it));
        is_read(PemFlat, |it| format!("{it} "));
        is_read(PemFlat, |it| format!("{it}  "));
        is_read(PemFlat, |it| it.replace("----- ", "-----\t").replace(" M", "\tM"));
        is_refused(PemFlat, |it| format!("{it} {it}"));
        is_refused(PemFlat, |it| format!("{it}{it}"));
        is_refused(PemFlat, |it| it.replace("BEGIN CERTIFICATE", "BEGIN  CERTIFICATE"));
        is_refused(PemFlat, |it| it.replace("BEGIN CERTIFICATE", "BEGINCERTIFICATE"));
        is_refused(PemFlat, |it| it.replace("CERTIFICATE", "TRUSTED CERTIFICATE"));
        is_refused(PemFlat, |it| it.replace("-----END CERTIFICATE-----", ""));
        is_refused(PemFlat, |it| it.replace("-----END", "=-----END"));
        is_refused(PemFlat, |it| it.replace(' ', "%20"));
        is_refused(PemFlat, |it| it.replace("----- M", "-----\nM"));
    }

    #[test]
    fn a_hash_is_exactly_one_hash() {
        is_read(Sha256Hex, |it| it.to_uppercase());
        is_refused(Sha256Hex, |it| it.split_at(1).1.to_owned());
        is_refused(Sha256Hex, |it| it.split_at(2).1.to_owned());
        let colons = |it: &str| {
            it.as_bytes()
                .chunks(2)
                .map(|it| str::from_utf8(it).unwrap())
                .collect::<Vec<_>>()
                .join(":")
        };
        is_read(Sha256Hex, |it| colons(&it));
        is_read(Sha256Hex, |it| colons(&it).to_uppercase());
        is_read(Sha256Hex, |it| it.replacen(':', "", 1));
        is_refused(Sha256Hex, |it| colons(&it).replacen(':', "", 1));
        is_refused(Sha256Hex, |it| colons(&it).replacen(':', "::", 1));
        is_refused(Sha256Hex, |it| colons(&it).replacen(':', "-", 1));
        is_refused(Sha256Hex, |it| format!("{}:", colons(&it)));
        is_refused(Sha256Hex, |it| format!(":{}", colons(&it)));
        is_refused(Sha256Hex, |it| format!("{}:00", colons(&it)));
        is_refused(Sha256Hex, |it| format!("0x{it}"));
        is_read(Sha256Base64, |it| it.trim_end_matches('=').to_owned());
        is_refused(Sha256Base64, |it| format!("{it}="));
        is_refused(Sha256Base64, |it| it.replace('/', "_"));
        is_refused(Sha256Base64, |it| it.split_at(1).1.to_owned());
        is_refused(Sha256Base64, |it| it.replace("s=", "t="));
        is_refused(Sha256Base64url, |it| it.split_at(1).1.to_owned());
        is_refused(Sha256Base64url, |it| format!("{it}="));
        is_refused(Sha256Base64url, |it| it.replace('_', "/"));
    }

    #[test]
    fn a_value_that_no_certificate_fills_is_refused_unread() {
        for format in HeaderFormat::all() {
            let long = vec![b'A'; CARRIED_BYTES + 1];
            assert_eq!(format.read(Field::One(&long)), Err(Unusable::Malformed), "{format:?}");
        }
    }

    #[test]
    fn an_expired_certificate_is_a_certificate() {
        // RFC 8705 §6.2, §6.3: the hash is what binds; validity is for the proxy to check.
        let der = RFC8705.pem.lines().filter(|it| !it.starts_with('-')).collect::<String>();
        assert_eq!(one(&der, DerBase64), Ok(Some(RFC8705.x5t_s256.to_owned())));
    }
}
