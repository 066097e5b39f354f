//! Knows what the operator writes, and turns it into what is demanded: one YAML file in, a
//! [`PolicySet`] and the listeners out, or every problem with it at once.

mod compile;
mod file;
mod problem;
mod schema;
mod tree;
mod values;
mod yaml;

pub use compile::Dpop;
pub use problem::Problem;
pub use schema::schema;
pub use values::Address;

use crate::front::forward_auth::Asker;
use crate::jose::thumbprint::Thumbprint;
use crate::policy::PolicySet;
use crate::telemetry::collector::Collector;
use crate::telemetry::sample::Share;
use compile::Files;
use problem::Findings;
use std::fmt;
use std::path::Path;

/// A configuration that can be put into effect.
#[derive(Debug)]
pub struct Config {
    /// Where to listen.
    pub listen: Listen,
    /// What is demanded.
    pub policies: PolicySet,
    /// What DPoP needs besides the policies.
    pub dpop: Dpop,
    /// What is told about checks.
    pub telemetry: Telemetry,
    /// What is allowed and yet worth a second look, in the order of the file.
    pub warnings: Vec<Problem>,
    /// SHA-256 of the file, in lower-case hexadecimal.
    pub digest: String,
}

/// Where the service listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listen {
    /// gRPC for Envoy.
    pub ext_authz: Address,
    /// HTTP for proxies that ask by a subrequest; none: they cannot.
    pub forward_auth: Option<ForwardAuth>,
    /// Health, metrics and status.
    pub admin: Address,
    /// TLS on `ext_authz` and `forward_auth`; none: plain text.
    pub tls: Option<Tls>,
}

/// What is told about checks, besides the metrics and a log line for each denial. It takes effect
/// at the start of the process, as the listeners do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Telemetry {
    /// Where spans go; none: there are no traces.
    pub collector: Option<Collector>,
    /// How many allowed requests get a log line at level `info`.
    pub log_allows: Share,
}

/// The listener for proxies that ask by a subrequest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForwardAuth {
    /// Where it is.
    pub address: Address,
    /// Who asks there.
    pub asker: Asker,
}

/// What a TLS listener needs. Its key belongs to its certificate.
#[derive(Clone, PartialEq, Eq)]
pub struct Tls {
    /// PEM of the certificate and its chain.
    pub certificate: Vec<u8>,
    /// PEM of the private key.
    pub key: Vec<u8>,
    /// PEM of the authorities of which clients need a certificate; none: they need none.
    pub client_ca: Option<Vec<u8>>,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls")
            .field("certificate", &format_args!("{} bytes", self.certificate.len()))
            .field("key", &format_args!("redacted"))
            .field("client_ca", &self.client_ca.as_ref().map(Vec::len))
            .finish()
    }
}

/// The configuration in the file at `path`, with the files that it names relative to its folder.
///
/// The errors are all of its problems, in the order of the file.
pub fn load(path: &Path) -> Result<Config, Vec<Problem>> {
    let folder = path.parent().unwrap_or_else(|| Path::new(""));
    let bytes = compile::read_file(path).map_err(|message| vec![Problem::of_file(message)])?;
    match str::from_utf8(&bytes) {
        Ok(text) => from_str(text, folder),
        Err(error) => {
            let good = bytes.get(..error.valid_up_to()).unwrap_or_default();
            let line = good.split(|it| *it == b'\n').count();
            let problem = Problem::of_file("the file is not UTF-8".to_owned());
            Err(vec![Problem { line: Some(line), ..problem }])
        }
    }
}

/// The configuration that `text` spells, with the files that it names relative to `folder`.
///
/// The errors are all of its problems, in the order of the text.
pub fn from_str(text: &str, folder: &Path) -> Result<Config, Vec<Problem>> {
    let mut findings = Findings::default();
    let compiled = yaml::read(text, &mut findings).and_then(|tree| {
        let file = tree::read(tree, &mut findings)?;
        compile::compile(file, &Files::below(folder), &mut findings)
    });
    let (problems, warnings) = findings.finish();
    match compiled {
        Some((listen, policies, dpop, telemetry)) if problems.is_empty() => {
            let digest = Thumbprint::of(text.as_bytes()).to_hex();
            Ok(Config { listen, policies, dpop, telemetry, warnings, digest })
        }
        // Nobody may take an empty list for the absence of problems.
        None if problems.is_empty() => {
            Err(vec![Problem::of_file("cannot be compiled, for no known reason".to_owned())])
        }
        Some(_) | None => Err(problems),
    }
}
