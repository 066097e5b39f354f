//! TLS on the listeners: rustls with aws-lc-rs, and mutual TLS when the configuration names a
//! client CA.

use crate::config::{EventsListener, Tls};
use crate::proxy_names::{self, ProxyName};
use crate::telemetry::certificates::Certificate;
use arc_swap::ArcSwap;
use keybound_core::client_certificate::Validity;
use std::fmt;
use std::sync::Arc;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::client::danger::HandshakeSignatureValid;
use tokio_rustls::rustls::crypto::aws_lc_rs;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use tokio_rustls::rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, RootCertStore,
    ServerConfig, SignatureScheme,
};

/// The TLS configuration cannot be used.
#[derive(Debug)]
pub struct BadTls(String);

/// The present TLS configuration. Open connections keep the one that they started with.
#[derive(Debug)]
pub struct Spoken {
    protocol: &'static [u8],
    present: ArcSwap<ServerConfig>,
}

impl Spoken {
    /// A TLS configuration from `tls`, for the ALPN protocol `protocol` (RFC 7301 §6).
    pub fn new(tls: &Tls, protocol: &'static [u8]) -> Result<Self, BadTls> {
        let present = ArcSwap::new(server(tls, protocol)?);
        Ok(Self { protocol, present })
    }

    /// The acceptor for the next connection.
    pub fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(self.present.load_full())
    }

    /// The configuration for `tls`, without applying it.
    pub fn with(&self, tls: &Tls) -> Result<Arc<ServerConfig>, BadTls> {
        server(tls, self.protocol)
    }

    /// Applies `config` from the next connection on.
    pub fn replace(&self, config: Arc<ServerConfig>) {
        self.present.store(config);
    }
}

/// The validity periods of the certificates that are shown to proxies under `own` and at the listener for
/// `events`, and of the authorities of clients.
pub fn validities(own: Option<&Tls>, events: Option<&EventsListener>) -> Vec<Certificate> {
    let own = own.into_iter().flat_map(|it| of(it, ["certificate_file", "client_ca_file"]));
    let names = ["events.certificate_file", "events.client_ca_file"];
    let events = events.and_then(|it| it.tls.as_ref());
    own.chain(events.into_iter().flat_map(|it| of(it, names))).collect()
}

/// Those in the files of `tls`, which the configuration names so.
fn of(tls: &Tls, [shown, authorities]: [&'static str; 2]) -> Vec<Certificate> {
    let files = [(shown, Some(&tls.certificate)), (authorities, tls.client_ca.as_ref())];
    let in_file = |(file, pem): (&'static str, Option<&Vec<u8>>)| {
        let certificates = pem.and_then(|it| certificates(it, file).ok()).unwrap_or_default();
        let numbered = (1_usize..).zip(certificates);
        numbered.filter_map(move |(position, der)| {
            Some(Certificate { file, position, validity: Validity::of(&der)? })
        })
    };
    files.into_iter().flat_map(in_file).collect()
}

fn server(tls: &Tls, protocol: &[u8]) -> Result<Arc<ServerConfig>, BadTls> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|it| BadTls(it.to_string()))?;
    let builder = match &tls.client_ca {
        Some(pem) => {
            let roots = Arc::new(roots(pem)?);
            let verifier: Arc<dyn ClientCertVerifier> =
                WebPkiClientVerifier::builder_with_provider(roots, provider)
                    .build()
                    .map_err(|it| BadTls(format!("client_ca_file: {it}")))?;
            let names = tls.client_names.clone();
            builder.with_client_cert_verifier(match &*names {
                [] => verifier,
                [_, ..] => Arc::new(OfProxies { verifier, names }),
            })
        }
        None => builder.with_no_client_auth(),
    };
    let key =
        PrivateKeyDer::from_pem_slice(&tls.key).map_err(|it| BadTls(format!("key_file: {it}")))?;
    let mut config = builder
        .with_single_cert(certificates(&tls.certificate, "certificate_file")?, key)
        .map_err(|it| BadTls(format!("certificate_file and key_file: {it}")))?;
    config.alpn_protocols = vec![protocol.to_vec()];
    Ok(Arc::new(config))
}

/// A verifier that also requires one of these names in a valid certificate.
#[derive(Debug)]
struct OfProxies {
    verifier: Arc<dyn ClientCertVerifier>,
    names: Vec<ProxyName>,
}

impl ClientCertVerifier for OfProxies {
    fn verify_client_cert(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.verifier.verify_client_cert(certificate, intermediates, now)?;
        match proxy_names::is_named(certificate, &self.names) {
            Ok(()) => Ok(verified),
            Err(error) => {
                Err(Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(error)))))
            }
        }
    }

    fn offer_client_auth(&self) -> bool {
        self.verifier.offer_client_auth()
    }

    fn client_auth_mandatory(&self) -> bool {
        self.verifier.client_auth_mandatory()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.verifier.root_hint_subjects()
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verifier.verify_tls12_signature(message, certificate, signed)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verifier.verify_tls13_signature(message, certificate, signed)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.verifier.supported_verify_schemes()
    }
}

fn roots(pem: &[u8]) -> Result<RootCertStore, BadTls> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(pem, "client_ca_file")? {
        roots.add(certificate).map_err(|it| BadTls(format!("client_ca_file: {it}")))?;
    }
    Ok(roots)
}

fn certificates(pem: &[u8], field: &str) -> Result<Vec<CertificateDer<'static>>, BadTls> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        Ok(_) => Err(BadTls(format!("{field}: no certificate in it"))),
        Err(error) => Err(BadTls(format!("{field}: {error}"))),
    }
}

impl fmt::Display for BadTls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "listen.tls: {}", self.0)
    }
}

impl std::error::Error for BadTls {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_offers_what_a_fips_module_approves_alone_where_it_was_built_with_one() {
        assert_eq!(aws_lc_rs::default_provider().fips(), cfg!(feature = "fips"));
    }
}
