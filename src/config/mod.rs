//! The configuration: one YAML file is compiled into [`InstallationRules`] and listeners, or
//! rejected with all of its problems at once.

mod compile;
mod file;
mod outline;
mod problem;
pub(crate) mod provider;
pub(crate) mod recognition;
mod schema;
pub(crate) mod token_kinds;
mod tree;
mod usual;
mod values;
pub mod watch;
pub(crate) mod written;
mod yaml;

pub use outline::Outline;
pub use problem::Problem;
pub use schema::schema;
pub(crate) use schema::schema_of;
pub use values::Address;
pub(crate) use values::Span;

use crate::front::forward_auth::Asker;
use crate::installation::{InstallationRules, IssuerRules};
use crate::proxy_names::ProxyName;
use crate::state::jwks::KeySource;
use crate::telemetry::collector::Collector;
use crate::telemetry::sample::Share;
use compile::Files;
use file::File;
use keybound_core::jose::Thumbprint;
use problem::Findings;
use serde::de::DeserializeOwned;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A valid configuration.
#[derive(Debug)]
pub struct Config {
    /// The listeners.
    pub listen: Listen,
    /// The rules of the installation.
    pub rules: InstallationRules,
    /// The telemetry settings.
    pub telemetry: Telemetry,
    /// Warnings, in the order of the file.
    pub warnings: Vec<Problem>,
    /// SHA-256 of the file, in lower-case hexadecimal.
    pub digest: String,
    /// What the file says, to be compared with another.
    pub outline: Outline,
    /// The line of each issuer, where it is known.
    issuer_lines: Vec<Option<usize>>,
}

impl Config {
    /// A problem with `key` of the issuer at `index`, which shows only when the issuer is asked.
    pub(crate) fn problem_of_issuer(&self, index: usize, key: &str, message: &str) -> Problem {
        Problem::of_issuer(index, key, &self.issuer_lines, message)
    }
}

/// The listeners.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listen {
    /// gRPC for Envoy.
    pub ext_authz: Address,
    /// The forward-auth listener, if any.
    pub forward_auth: Option<ForwardAuth>,
    /// Health, metrics and status.
    pub admin: Address,
    /// The listener for security events by push, if any.
    pub events: Option<EventsListener>,
    /// TLS on `ext_authz` and `forward_auth`; `None` for no encryption.
    pub tls: Option<Tls>,
    /// The keys in the file that say how proxies connect, which means nothing inside a proxy.
    pub for_proxies: Vec<&'static str>,
}

/// The listener for security events by push.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventsListener {
    /// Where it listens.
    pub address: Address,
    /// Its own TLS; `None` for no encryption.
    pub tls: Option<Tls>,
}

/// Telemetry of checks, besides the metrics and a log line for each denial. Like the listeners, it
/// changes only with a restart.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Telemetry {
    /// The collector of spans; `None` for no traces.
    pub collector: Option<Collector>,
    /// The share of allowed requests that are logged at level `info`.
    pub log_allows: Share,
}

/// The forward-auth listener.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ForwardAuth {
    /// Its address.
    pub address: Address,
    /// The proxy that uses it.
    pub asker: Asker,
}

/// The TLS settings of listeners. The key matches the certificate.
#[derive(Clone, PartialEq, Eq)]
pub struct Tls {
    /// PEM of the certificate and its chain.
    pub certificate: Vec<u8>,
    /// PEM of the private key.
    pub key: Vec<u8>,
    /// PEM of the authorities for client certificates; `None` if clients need none.
    pub client_ca: Option<Vec<u8>>,
    /// The names of which a client's certificate must contain one; empty for any.
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

/// Where a configuration stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Origin {
    /// In a file.
    File(PathBuf),
    /// In the configuration of the proxy. Files that it names are relative to the working directory.
    Inline(Arc<str>),
}

impl Origin {
    /// Reads the configuration, and returns which files were read.
    pub fn attempt(&self) -> Attempt {
        match self {
            Self::File(path) => attempt(path),
            Self::Inline(text) => {
                let files = Files::below(Path::new(""));
                let outcome = from_text(text, &files);
                Attempt::of(outcome, files.into_source_files())
            }
        }
    }
}

/// The result of reading a configuration file.
#[derive(Debug)]
pub struct Attempt {
    /// The configuration, or all of its problems in the order of the file.
    pub outcome: Result<Config, Vec<Problem>>,
    /// The files that it was read from, on which the outcome depends. The first is the
    /// configuration file. Key files and denylists in use are not included, since
    /// [`crate::state`] reads them again by itself.
    pub source_files: Vec<SourceFile>,
}

impl Attempt {
    fn of(outcome: Result<Config, Vec<Problem>>, mut source_files: Vec<SourceFile>) -> Self {
        if let Ok(config) = &outcome {
            let is_followed = |it: &SourceFile| {
                config.rules.issuers.iter().any(|issuer| is_followed_by(issuer, &it.path))
            };
            source_files.retain(|it| !is_followed(it));
        }
        Self { outcome, source_files }
    }
}

/// Whether an issuer reads the file at `path` again by itself.
fn is_followed_by(issuer: &IssuerRules, path: &Path) -> bool {
    let of_keys = issuer.keys.source == KeySource::File(path.to_owned());
    let revocation = issuer.revocation.as_ref();
    of_keys || revocation.and_then(|it| it.denylist.as_ref()).is_some_and(|it| it.path() == path)
}

/// A file that a configuration was read from, as it was then.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceFile {
    /// Its address.
    pub path: PathBuf,
    /// SHA-256 of its content; `None` if it could not be read.
    pub content: Option<Thumbprint>,
}

/// Reads the configuration file at `path`. Files that it names are relative to its folder.
///
/// The errors are all of its problems, in the order of the file.
pub fn load(path: &Path) -> Result<Config, Vec<Problem>> {
    attempt(path).outcome
}

/// Reads the configuration file at `path`, and returns which files were read.
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
    Attempt::of(outcome, source_files)
}

/// Reads a configuration that is in no file. Files that it names are relative to `folder`.
pub fn read(bytes: &[u8], folder: &Path) -> Result<Config, Vec<Problem>> {
    from_bytes(bytes, &Files::below(folder))
}

/// Reads a configuration for what it decides alone. It must be whole, but the files that it names need
/// not be there.
pub(crate) fn read_to_decide(bytes: &[u8]) -> Result<Config, Vec<Problem>> {
    let text = text_in(bytes)?;
    compiled(text, &Files::below(Path::new("")), File::deciding)
}

/// Reads another file in the notation of configurations, with the lines of the members of its list `key`
/// and mappings at the places `mappings`.
///
/// The errors are all of its problems, in the order of the file.
pub(crate) fn table<T: DeserializeOwned>(
    bytes: &[u8],
    key: &str,
    mappings: &[&str],
) -> Result<(T, Vec<Option<usize>>), Vec<Problem>> {
    let mut findings = Findings::default();
    let tree = yaml::read(text_in(bytes)?, &mut findings);
    let list = tree.as_ref().and_then(|it| it.get(key)?.as_array());
    let count = list.map_or(0, Vec::len);
    let at = problem::Path::default().key(key);
    let lines = (0..count).map(|it| findings.line_of(&at.index(it))).collect();
    let found = tree.and_then(|it| tree::read(it, mappings, &mut findings));
    let (problems, _) = findings.finish();
    match found {
        Some(found) if problems.is_empty() => Ok((found, lines)),
        Some(_) | None => Err(problems),
    }
}

/// The configuration that `text` spells, with the files that it names relative to `folder`.
#[cfg(test)]
fn from_str(text: &str, folder: &Path) -> Result<Config, Vec<Problem>> {
    from_text(text, &Files::below(folder))
}

fn from_bytes(bytes: &[u8], files: &Files) -> Result<Config, Vec<Problem>> {
    from_text(text_in(bytes)?, files)
}

fn text_in(bytes: &[u8]) -> Result<&str, Vec<Problem>> {
    str::from_utf8(bytes).map_err(|error| {
        let good = bytes.get(..error.valid_up_to()).unwrap_or_default();
        let line = good.split(|it| *it == b'\n').count();
        let problem = Problem::of_file("the file is not UTF-8".to_owned());
        vec![Problem { line: Some(line), ..problem }]
    })
}

fn from_text(text: &str, files: &Files) -> Result<Config, Vec<Problem>> {
    compiled(text, files, |it| it)
}

/// The configuration that `text` spells, of which `part` is compiled.
fn compiled(
    text: &str,
    files: &Files,
    part: impl FnOnce(File) -> File,
) -> Result<Config, Vec<Problem>> {
    let mut findings = Findings::default();
    let mut outline = Outline::default();
    let compiled = yaml::read(text, &mut findings).and_then(|tree| {
        outline = Outline::of(&tree);
        let file = tree::read(tree, tree::MAPPINGS, &mut findings)?;
        compile::compile(part(file), files, &mut findings)
    });
    let count = compiled.as_ref().map_or(0, |(_, rules, _)| rules.issuers.len());
    let issuers = problem::Path::default().key("issuers");
    let issuer_lines = (0..count).map(|it| findings.line_of(&issuers.index(it))).collect();
    let (problems, warnings) = findings.finish();
    match compiled {
        Some((listen, rules, telemetry)) if problems.is_empty() => {
            let digest = Thumbprint::of(text.as_bytes()).to_hex();
            Ok(Config { listen, rules, telemetry, warnings, digest, outline, issuer_lines })
        }
        // An empty list of problems must not be mistaken for success.
        None if problems.is_empty() => {
            Err(vec![Problem::of_file("cannot be compiled, for an unknown reason".to_owned())])
        }
        Some(_) | None => Err(problems),
    }
}
