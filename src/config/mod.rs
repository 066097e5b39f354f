//! The configuration: one YAML file is compiled into [`InstallationRules`] and listeners, or
//! rejected with all of its problems at once.

mod compile;
mod file;
mod problem;
mod schema;
mod tree;
mod usual;
mod values;
pub mod watch;
mod yaml;

pub use problem::Problem;
pub use schema::schema;
pub use values::Address;

use crate::front::forward_auth::Asker;
use crate::installation::{InstallationRules, IssuerRules};
use crate::proxy_names::ProxyName;
use crate::state::jwks::KeySource;
use crate::telemetry::collector::Collector;
use crate::telemetry::sample::Share;
use compile::Files;
use keybound_core::jose::Thumbprint;
use problem::Findings;
use std::fmt;
use std::path::{Path, PathBuf};

/// A configuration that can be put into effect.
#[derive(Debug)]
pub struct Config {
    /// Where to listen.
    pub listen: Listen,
    /// What is demanded, and what it takes to check it.
    pub rules: InstallationRules,
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
    /// The names of which a client's certificate must show one; none: it may show any.
    pub client_names: Vec<ProxyName>,
}

impl fmt::Debug for Tls {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tls")
            .field("certificate", &format_args!("{} bytes", self.certificate.len()))
            .field("key", &format_args!("redacted"))
            .field("client_ca", &self.client_ca.as_ref().map(Vec::len))
            .field("client_names", &self.client_names)
            .finish()
    }
}

/// An attempt to make a configuration of a file.
#[derive(Debug)]
pub struct Attempt {
    /// The configuration, or all of its problems in the order of the file.
    pub outcome: Result<Config, Vec<Problem>>,
    /// What it was made from: were one of these files another, the outcome might be, too. The
    /// first is the configuration file. Files of keys that are in use are not among them, for
    /// [`crate::state::jwks`] reads those anew by itself.
    pub source_files: Vec<SourceFile>,
}

/// A file that a configuration is made from, as it was when it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceFile {
    /// Where it is.
    pub path: PathBuf,
    /// SHA-256 of what was in it; none: it could not be read.
    pub content: Option<Thumbprint>,
}

/// The configuration in the file at `path`, with the files that it names relative to its folder.
///
/// The errors are all of its problems, in the order of the file.
pub fn load(path: &Path) -> Result<Config, Vec<Problem>> {
    attempt(path).outcome
}

/// Makes a configuration of the file at `path`, and says of what files it is made.
pub fn attempt(path: &Path) -> Attempt {
    let found = compile::read_file(path);
    let content = found.as_deref().ok().map(Thumbprint::of);
    let files = Files::beside(path);
    let outcome = match found {
        Ok(bytes) => from_bytes(&bytes, &files),
        Err(message) => Err(vec![Problem::of_file(message)]),
    };
    let mut source_files = vec![SourceFile { path: path.to_owned(), content }];
    source_files.extend(files.into_source_files());
    if let Ok(config) = &outcome {
        let is_of_keys = |it: &SourceFile| {
            let source =
                |issuer: &IssuerRules| issuer.keys.source == KeySource::File(it.path.clone());
            config.rules.issuers.iter().any(source)
        };
        source_files.retain(|it| !is_of_keys(it));
    }
    Attempt { outcome, source_files }
}

fn from_bytes(bytes: &[u8], files: &Files) -> Result<Config, Vec<Problem>> {
    match str::from_utf8(bytes) {
        Ok(text) => from_text(text, files),
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
    from_text(text, &Files::below(folder))
}

fn from_text(text: &str, files: &Files) -> Result<Config, Vec<Problem>> {
    let mut findings = Findings::default();
    let compiled = yaml::read(text, &mut findings).and_then(|tree| {
        let file = tree::read(tree, &mut findings)?;
        compile::compile(file, files, &mut findings)
    });
    let (problems, warnings) = findings.finish();
    match compiled {
        Some((listen, rules, telemetry)) if problems.is_empty() => {
            let digest = Thumbprint::of(text.as_bytes()).to_hex();
            Ok(Config { listen, rules, telemetry, warnings, digest })
        }
        // Nobody may take an empty list for the absence of problems.
        None if problems.is_empty() => {
            Err(vec![Problem::of_file("cannot be compiled, for an unknown reason".to_owned())])
        }
        Some(_) | None => Err(problems),
    }
}
