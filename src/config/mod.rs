//! Knows what the operator writes.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;

/// Where to listen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// An address and a port.
    Tcp(SocketAddr),
    /// The file of a Unix socket.
    Unix(PathBuf),
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// The listeners.
#[derive(Clone, Debug)]
pub struct Listen {
    /// Envoy's gRPC service.
    pub ext_authz: Address,
    /// Health, metrics, status.
    pub admin: Address,
    /// TLS on `ext_authz`.
    pub tls: Option<Tls>,
}

/// PEM of what TLS takes.
#[derive(Clone)]
pub struct Tls {
    /// The chain of the server's certificate.
    pub certificate: Vec<u8>,
    /// Its key.
    pub key: Vec<u8>,
    /// The certification authorities of clients.
    pub client_ca: Option<Vec<u8>>,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tls")
    }
}

/// What the file says, compiled.
#[derive(Debug)]
pub struct Config {
    /// The listeners.
    pub listen: Listen,
    /// What decides.
    pub policies: crate::policy::PolicySet,
    /// SHA-256 of the file, in hexadecimal.
    pub digest: String,
}

/// Loads the file.
pub fn load(path: &std::path::Path) -> Result<Config, Vec<String>> {
    Err(vec![format!("{}: not supported yet", path.display())])
}
