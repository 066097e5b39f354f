//! An issuer, and the program that is run against it.

use super::identity_provider::IdentityProvider;
use super::tokens::Signer;
use jsonwebtoken::Algorithm;
use keybound::clock::{Clock, SystemClock};
use rcgen::{BasicConstraints, CertificateParams, IsCa};
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use tempfile::TempDir;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::PrivateKeyDer;

/// The thumbprint of a certificate that is empty.
pub(crate) const X5T: &str = "47DEQpj8HBSa-_TImW-5JCeuQeRkm5NMpJWZG3hSuFU";

/// An issuer with one key, and a folder for files.
pub(crate) struct World {
    pub(crate) provider: IdentityProvider,
    pub(crate) signer: Signer,
    pub(crate) folder: TempDir,
}

/// How a command ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl World {
    /// An issuer over plain HTTP, whose key serves RS256.
    pub(crate) async fn new() -> Self {
        let signer = Signer::new(Algorithm::RS256, "1");
        let provider = IdentityProvider::start(&[signer.jwk().clone()]).await;
        Self { provider, signer, folder: folder() }
    }

    /// An issuer over TLS, whose authority is in `ca.pem`.
    pub(crate) async fn over_tls() -> Self {
        let signer = Signer::new(Algorithm::RS256, "1");
        let folder = folder();
        let server = server(&folder.path().join("ca.pem"));
        let provider = IdentityProvider::start_tls(server, &[signer.jwk().clone()]).await;
        Self { provider, signer, folder }
    }

    /// A file in the folder.
    pub(crate) fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        fs::write(&path, text).unwrap();
        path
    }

    /// Runs the program in the folder.
    pub(crate) async fn run(&self, arguments: &[&str]) -> Ended {
        self.pipe("", arguments).await
    }

    /// The same with `input` on standard input.
    pub(crate) async fn pipe(&self, input: &str, arguments: &[&str]) -> Ended {
        let mut command = Command::new(env!("CARGO_BIN_EXE_keybound"));
        command.args(arguments).current_dir(&self.folder);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        // A command that reads no input may have ended before it is written.
        drop(child.stdin.take().unwrap().write_all(input.as_bytes()).await);
        let output = child.wait_with_output().await.unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Ended {
            code: output.status.code().unwrap(),
            stdout: text(output.stdout),
            stderr: text(output.stderr),
        }
    }
}

/// The claims of an access token of `issuer` that lives, with those of `more`; nulls are left out.
pub(crate) fn claims_of(issuer: &str, more: &Value) -> Value {
    let mut claims = json!({
        "iss": issuer, "aud": "https://api.example.com", "sub": "alice", "client_id": "app",
        "iat": now(), "exp": now() + 300, "jti": "1",
    });
    let members = claims.as_object_mut().unwrap();
    for (name, value) in more.as_object().unwrap() {
        members.insert(name.clone(), value.clone());
    }
    members.retain(|_, it| !it.is_null());
    claims
}

/// Seconds since 1970.
pub(crate) fn now() -> i64 {
    SystemClock.now().as_millis() / 1000
}

fn folder() -> TempDir {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o700)).unwrap();
    folder
}

/// A server of 127.0.0.1, whose authority is written to `authority`.
fn server(authority: &Path) -> ServerConfig {
    let key = rcgen::KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    fs::write(authority, params.self_signed(&key).unwrap().pem()).unwrap();
    let issuer = rcgen::Issuer::new(params, key);
    let key = rcgen::KeyPair::generate().unwrap();
    let certificate = CertificateParams::new(["127.0.0.1".to_owned()]).unwrap();
    let chain = vec![certificate.signed_by(&key, &issuer).unwrap().der().clone()];
    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let provider = Arc::new(tokio_rustls::rustls::crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider);
    let config = config.with_safe_default_protocol_versions().unwrap().with_no_client_auth();
    config.with_single_cert(chain, key).unwrap()
}
