//! The command `thumbprint`: the `cnf` value that binds a token to a certificate or a key.

use super::complain;
use keybound_core::client_certificate;
use keybound_core::jose;
use keybound_core::jose::KeySet;
use keybound_core::jose::Thumbprint;
use keybound_core::jose::json;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// The arguments of `thumbprint`.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// A certificate (PEM or DER; of a chain, the first) or a JWK
    file: PathBuf,
}

/// Prints the thumbprint, in base64url and hex.
pub(super) fn run(arguments: &Arguments) -> ExitCode {
    let found = read(&arguments.file).and_then(|bytes| thumbprint(&bytes));
    match found {
        Ok((name, thumbprint)) => {
            let (base64url, hex) = (thumbprint.to_base64url(), thumbprint.to_hex());
            match write!(std::io::stdout().lock(), "{name}  {base64url}\nhex       {hex}\n") {
                Ok(()) => ExitCode::SUCCESS,
                Err(_) => ExitCode::FAILURE,
            }
        }
        Err(message) => {
            complain(&format!("{}: {message}", arguments.file.display()));
            ExitCode::FAILURE
        }
    }
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
    std::fs::read(path).map_err(|error| format!("cannot be read: {error}"))
}

/// The thumbprint of the certificate or key in `bytes`, and its name in a token's `cnf`.
fn thumbprint(bytes: &[u8]) -> Result<(&'static str, Thumbprint), String> {
    if let Ok(jwk) = json::object(bytes) {
        return match jose::thumbprint(&jwk) {
            Ok(thumbprint) => Ok(("jkt     ", thumbprint)),
            Err(_) if KeySet::parse(bytes).is_ok() => {
                Err("is a JWK Set: give one of its keys alone".to_owned())
            }
            Err(unusable) => Err(format!("is no JWK that can be used: {unusable}")),
        };
    }
    let der = client_certificate::der_in(bytes)
        .map_err(|found| format!("is neither a certificate (PEM or DER) nor a JWK: {found}"))?;
    Ok(("x5t#S256", Thumbprint::of(&der)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    use rcgen::PublicKeyData as _;

    const JWK: &str = r#"{"kty":"OKP","crv":"Ed25519",
        "x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}"#;
    /// Computed by another program, over `{"alg":"ML-DSA-44","kty":"AKP","pub":"AQEB…AQ"}`.
    const AKP_JKT: &str = "mGAsf_1ab4TAyanOJTfhJewD8tW_0D-A1f3pvFUXYD4";
    /// RFC 8037 Appendix A.3.
    const JKT: &str = "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k";

    #[test]
    fn a_certificate_and_a_key_are_told_apart() {
        let made = rcgen::generate_simple_self_signed(["client".to_owned()]).unwrap();
        let expected = Ok(("x5t#S256", Thumbprint::of(made.cert.der())));
        assert_eq!(thumbprint(made.cert.pem().as_bytes()), expected);
        assert_eq!(thumbprint(made.cert.der()), expected);
        let issuer = rcgen::generate_simple_self_signed(["ca".to_owned()]).unwrap();
        let chain = made.cert.pem() + &issuer.cert.pem();
        assert_eq!(thumbprint(chain.as_bytes()), expected, "the first of a chain");
        let with_key = made.signing_key.serialize_pem() + &made.cert.pem();
        assert_eq!(thumbprint(with_key.as_bytes()), expected);
        let jkt = Ok(("jkt     ", Thumbprint::from_base64url(JKT).unwrap()));
        assert_eq!(thumbprint(JWK.as_bytes()), jkt);
        let private = JWK.replace("\"kty\"", "\"d\":\"AA\",\"kty\"");
        assert_eq!(thumbprint(private.as_bytes()), jkt, "that of the public half");
        let akp = r#"{"kty":"AKP","alg":"ML-DSA-44","pub":""#.to_owned();
        let akp = akp + &URL_SAFE_NO_PAD.encode([1; 1312]) + r#"","priv":"AA"}"#;
        assert_eq!(thumbprint(akp.as_bytes()).unwrap().1.to_base64url(), AKP_JKT);
    }

    fn revocation_list() -> rcgen::CertificateRevocationList {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut parameters = rcgen::CertificateParams::new([]).unwrap();
        parameters.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        parameters.key_usages = vec![rcgen::KeyUsagePurpose::CrlSign];
        let (this_update, next_update) = (parameters.not_before, parameters.not_after);
        let list = rcgen::CertificateRevocationListParams {
            this_update,
            next_update,
            crl_number: rcgen::SerialNumber::from(1),
            issuing_distribution_point: None,
            revoked_certs: vec![],
            key_identifier_method: rcgen::KeyIdMethod::Sha256,
        };
        list.signed_by(&rcgen::Issuer::from_params(&parameters, &key)).unwrap()
    }

    #[test]
    fn anything_else_is_refused_with_a_reason() {
        let made = rcgen::generate_simple_self_signed(["client".to_owned()]).unwrap();
        let parameters = rcgen::CertificateParams::new(["client".to_owned()]).unwrap();
        let request = parameters.serialize_request(&made.signing_key).unwrap();
        let list = revocation_list();
        for (bytes, reason) in [
            (&b""[..], "neither"),
            (b"text", "neither"),
            (made.signing_key.serialize_pem().as_bytes(), "neither"),
            (made.signing_key.serialize_pem().as_bytes(), "private key"),
            (made.signing_key.serialized_der(), "private key"),
            (&made.signing_key.subject_public_key_info(), "public key"),
            (request.pem().unwrap().as_bytes(), "request"),
            (request.der(), "request"),
            (list.pem().unwrap().as_bytes(), "CRL"),
            (list.der(), "CRL"),
            (br#"{"keys":[]}"#, "JWK Set"),
            (br#"{"kty":"oct","k":"AA"}"#, "symmetric"),
            (b"{}", "missing"),
        ] {
            let found = thumbprint(bytes).unwrap_err();
            assert!(found.contains(reason), "{found}");
        }
    }
}
