//! Keys and certificates made on the spot: an authority, servers, clients (RFC 5280).
//!
//! For the demo and for tests only: nothing can be revoked, and almost nothing expires.

use keybound_core::jose::Thumbprint;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, Error,
    ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose, SanType, SerialNumber,
};
use std::sync::Arc;

/// A certification authority.
#[derive(Debug)]
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A certificate and its key.
#[derive(Clone, Debug)]
pub struct Identity {
    name: String,
    certificate: rcgen::Certificate,
    key: Arc<KeyPair>,
}

impl Authority {
    /// An authority with a new P-256 key.
    pub fn new(name: &str) -> Result<Self, Error> {
        let mut params = named(name)?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        CertifiedIssuer::self_signed(params, KeyPair::generate()?).map(Self)
    }

    /// Its own certificate, in PEM.
    pub fn certificate_pem(&self) -> String {
        self.0.pem()
    }

    /// A server certificate for `names`: host names or IP addresses.
    pub fn server(&self, names: &[&str]) -> Result<Identity, Error> {
        let key = KeyPair::generate()?;
        let mut params = named("server")?;
        params.subject_alt_names =
            CertificateParams::new(names.iter().map(|&it| it.to_owned()).collect::<Vec<_>>())?
                .subject_alt_names;
        params.insert_extended_key_usage(ExtendedKeyUsagePurpose::ServerAuth);
        self.sign("server", &params, Arc::new(key))
    }

    /// A client certificate for `key`, of any algorithm.
    pub fn client(&self, name: &str, key: KeyPair) -> Result<Identity, Error> {
        self.sign(name, &client(name)?, Arc::new(key))
    }

    /// Another certificate for the key that `identity` has already.
    pub fn renew(&self, identity: &Identity) -> Result<Identity, Error> {
        self.sign(&identity.name, &client(&identity.name)?, Arc::clone(&identity.key))
    }

    fn sign(
        &self,
        name: &str,
        params: &CertificateParams,
        key: Arc<KeyPair>,
    ) -> Result<Identity, Error> {
        let certificate = params.signed_by(&*key, &self.0)?;
        Ok(Identity { name: name.to_owned(), certificate, key })
    }
}

impl Identity {
    /// A self-signed client certificate (RFC 8705 §2.2) for `key`.
    pub fn self_signed(name: &str, key: KeyPair) -> Result<Self, Error> {
        let certificate = client(name)?.self_signed(&key)?;
        Ok(Self { name: name.to_owned(), certificate, key: Arc::new(key) })
    }

    /// The certificate, in PEM.
    pub fn certificate_pem(&self) -> String {
        self.certificate.pem()
    }

    /// The certificate, in DER.
    pub fn certificate_der(&self) -> &[u8] {
        self.certificate.der()
    }

    /// The private key: PKCS #8, in PEM.
    pub fn key_pem(&self) -> String {
        self.key.serialize_pem()
    }

    /// The private key: PKCS #8, in DER.
    pub fn key_der(&self) -> &[u8] {
        self.key.serialized_der()
    }

    /// The thumbprint of the certificate: what a token's `cnf.x5t#S256` holds (RFC 8705 §3.1).
    pub fn thumbprint(&self) -> Thumbprint {
        Thumbprint::of(self.certificate.der())
    }
}

fn client(name: &str) -> Result<CertificateParams, Error> {
    let mut params = named(name)?;
    let uri = format!("spiffe://demo.test/clients/{name}");
    params.subject_alt_names = vec![SanType::URI(uri.try_into()?)];
    params.insert_extended_key_usage(ExtendedKeyUsagePurpose::ClientAuth);
    Ok(params)
}

fn named(name: &str) -> Result<CertificateParams, Error> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    // By default, rcgen derives the serial number from the key, and a renewed certificate would
    // repeat it.
    let mut serial = [0; 16];
    aws_lc_rs::rand::fill(&mut serial).or(Err(Error::RemoteKeyError))?;
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    Ok(params)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_renewed_certificate_has_the_same_key_and_another_thumbprint() {
        let authority = Authority::new("ca").unwrap();
        let client = authority.client("client", KeyPair::generate().unwrap()).unwrap();
        let renewed = authority.renew(&client).unwrap();
        assert_eq!(client.key_der(), renewed.key_der());
        assert_ne!(client.thumbprint(), renewed.thumbprint());
    }
}
