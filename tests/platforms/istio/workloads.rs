//! The certificates of workloads, by the authority of the mesh.

use super::proxy::Workload;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, IsCa, KeyPair,
    KeyUsagePurpose, SanType,
};
use std::fs;
use std::path::Path;

/// The authority of the mesh. What is of it is in one folder.
pub(crate) struct Workloads(CertifiedIssuer<'static, KeyPair>);

impl Workloads {
    pub(crate) fn new(folder: &Path) -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let key = KeyPair::generate().unwrap();
        let it = Self(CertifiedIssuer::self_signed(params, key).unwrap());
        fs::create_dir(folder).unwrap();
        let write = |name: &str, text: &str| fs::write(folder.join(name), text).unwrap();
        write("root.crt", &it.certificate_pem());
        for workload in [Workload::Gateway, Workload::Api, Workload::Keybound] {
            let (certificate, key) = it.certificate(&workload.spiffe());
            let name = format!("{}.{}", workload.namespace(), workload.account());
            write(&format!("{name}.crt"), &certificate);
            write(&format!("{name}.key"), &key);
        }
        it
    }

    pub(crate) fn certificate_pem(&self) -> String {
        self.0.pem()
    }

    /// The certificate and the key of who has this identity, in PEM.
    pub(crate) fn certificate(&self, spiffe: &str) -> (String, String) {
        let key = KeyPair::generate().unwrap();
        // Beside it a name that clients of the tests know the server by.
        let mut params = CertificateParams::new(vec![super::mesh::HOST.to_owned()]).unwrap();
        // Else it has the authority's own name.
        params.distinguished_name = DistinguishedName::new();
        params.subject_alt_names.push(SanType::URI(spiffe.try_into().unwrap()));
        (params.signed_by(&key, &self.0).unwrap().pem(), key.serialize_pem())
    }
}
