//! The names in a client certificate that identify a proxy (RFC 5280 §4.2.1.6).

use std::fmt;
use tokio_rustls::rustls::pki_types::{CertificateDer, DnsName};
use webpki::EndEntityCert;

/// A name that identifies a proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProxyName {
    /// A URI, such as a SPIFFE ID, compared exactly.
    Uri(String),
    /// A host name in lower case, since case does not matter (RFC 5280 §7.2).
    Dns(String),
}

/// The names in a certificate, none of which is allowed.
#[derive(Debug)]
pub struct NotNamed(Vec<ProxyName>);

/// How many names of a certificate are reported.
const TOLD: usize = 4;

/// How many characters of each are reported.
const TOLD_LENGTH: usize = 200;

impl ProxyName {
    /// Parses a name as an operator writes it. The error says what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, &'static str> {
        if text.contains('*') {
            return Err("must be one name: `*` stands for nothing here");
        }
        if let Some((scheme, rest)) = text.split_once(':') {
            let mut scheme = scheme.bytes();
            let is_scheme = scheme.next().is_some_and(|it| it.is_ascii_alphabetic())
                && scheme.all(|it| it.is_ascii_alphanumeric() || b"+-.".contains(&it));
            // A port can only follow a host.
            let is_port = rest.bytes().all(|it| it.is_ascii_digit());
            let is_uri = is_scheme && !is_port && text.bytes().all(|it| it.is_ascii_graphic());
            return if is_uri { Ok(Self::Uri(text.to_owned())) } else { Err(NO_NAME) };
        }
        match DnsName::try_from(text) {
            Ok(_) if !text.ends_with('.') => Ok(Self::Dns(text.to_ascii_lowercase())),
            Ok(_) | Err(_) => Err(NO_NAME),
        }
    }

    /// The names in the certificate `der`; empty if it cannot be parsed.
    fn all_in(der: &CertificateDer<'_>) -> Vec<Self> {
        let Ok(certificate) = EndEntityCert::try_from(der) else { return vec![] };
        let hosts = certificate.valid_dns_names().map(|it| Self::Dns(it.to_ascii_lowercase()));
        certificate.valid_uri_names().map(|it| Self::Uri(it.to_owned())).chain(hosts).collect()
    }
}

const NO_NAME: &str = "must be a URI or the name of a host, as in the proxy's certificate";

/// Whether one of `names` is in the certificate `der`, which must have been verified.
///
/// # Errors
///
/// [`NotNamed`]: the certificate shows none of `names`.
pub fn is_named(der: &CertificateDer<'_>, names: &[ProxyName]) -> Result<(), NotNamed> {
    let shown = ProxyName::all_in(der);
    if shown.iter().any(|it| names.contains(it)) { Ok(()) } else { Err(NotNamed(shown)) }
}

impl fmt::Display for ProxyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Uri(name) | Self::Dns(name) => f.write_str(name),
        }
    }
}

impl fmt::Display for NotNamed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("`client_names` holds no name of its certificate, which shows")?;
        if self.0.is_empty() {
            f.write_str(" none")?;
        }
        for name in self.0.iter().take(TOLD) {
            // The holder of a certificate may have chosen its names.
            let told: String = name.to_string().chars().take(TOLD_LENGTH).collect();
            write!(f, " {told:?}")?;
        }
        if TOLD < self.0.len() {
            f.write_str(" and others")?;
        }
        Ok(())
    }
}

impl std::error::Error for NotNamed {}

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{CertificateParams, KeyPair, SanType};

    fn certificate(names: &[SanType]) -> CertificateDer<'static> {
        let mut params = CertificateParams::default();
        params.subject_alt_names = names.to_vec();
        params.self_signed(&KeyPair::generate().unwrap()).unwrap().der().clone()
    }

    fn uri(name: &str) -> SanType {
        SanType::URI(name.try_into().unwrap())
    }

    fn dns(name: &str) -> SanType {
        SanType::DnsName(name.try_into().unwrap())
    }

    const SPIFFE: &str = "spiffe://cluster.local/ns/edge/sa/envoy";

    #[test]
    fn a_name_is_a_uri_or_a_host() {
        for (text, expected) in [
            (SPIFFE, Some(ProxyName::Uri(SPIFFE.to_owned()))),
            ("urn:example:edge", Some(ProxyName::Uri("urn:example:edge".to_owned()))),
            ("envoy.example.com", Some(ProxyName::Dns("envoy.example.com".to_owned()))),
            ("Envoy.Example.COM", Some(ProxyName::Dns("envoy.example.com".to_owned()))),
            ("envoy", Some(ProxyName::Dns("envoy".to_owned()))),
            ("", None),
            ("*.example.com", None),
            ("spiffe://cluster.local/ns/*/sa/envoy", None),
            ("envoy.example.com.", None),
            ("envoy example.com", None),
            ("spiffe://a b", None),
            ("://x", None),
            ("1x:y", None),
            ("spiffe:", None),
            ("10.0.0.1", None),
            ("envoy.example.com:443", None),
            ("[::1]", None),
        ] {
            assert_eq!(ProxyName::parse(text).ok(), expected, "{text}");
        }
    }

    #[test]
    fn one_name_of_several_is_enough_and_it_must_be_the_same() {
        let shown = [uri(SPIFFE), dns("Envoy.example.com"), dns("*.wild.example.com")];
        let shown = certificate(&shown);
        for (name, expected) in [
            (SPIFFE, true),
            ("envoy.example.com", true),
            ("ENVOY.EXAMPLE.COM", true),
            ("spiffe://cluster.local/ns/edge/sa/Envoy", false),
            ("SPIFFE://cluster.local/ns/edge/sa/envoy", false),
            ("spiffe://cluster.local/ns/edge/sa/envoy/", false),
            ("spiffe://cluster.local/ns/edge/sa/env", false),
            ("example.com", false),
            ("a.envoy.example.com", false),
            ("a.wild.example.com", false),
        ] {
            let names = ["elsewhere.example", name].map(|it| ProxyName::parse(it).unwrap());
            assert_eq!(is_named(&shown, &names).is_ok(), expected, "{name}");
        }
        assert!(is_named(&shown, &[]).is_err());
    }

    #[test]
    fn a_uri_is_no_host_and_a_host_no_uri() {
        let shown = certificate(&[uri("urn:a"), dns("urn")]);
        assert!(is_named(&shown, &[ProxyName::Dns("urn:a".to_owned())]).is_err());
        assert!(is_named(&shown, &[ProxyName::Uri("urn".to_owned())]).is_err());
    }

    #[test]
    fn what_is_shown_instead_is_told() {
        let told = |names: &[SanType]| is_named(&certificate(names), &[]).unwrap_err().to_string();
        assert!(told(&[]).ends_with(" shows none"), "{}", told(&[]));
        assert!(told(&[uri("urn:a"), dns("b")]).ends_with(" shows \"urn:a\" \"b\""));
        let long = told(&[const { "x" }; 9].map(|it| uri(&format!("urn:{}", it.repeat(300)))));
        assert!(long.ends_with(" and others") && long.len() < 1000, "{long}");
        let odd = told(&[uri("urn:a\nb")]);
        assert!(!odd.contains('\n'), "{odd}");
        let broken = CertificateDer::from_slice(b"no certificate");
        assert!(is_named(&broken, &[]).is_err());
    }
}
