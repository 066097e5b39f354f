mod events;
mod introspection;
mod issuers;
mod listeners;
mod policies;
mod proofs;
mod resources;
mod telemetry;
mod whole;

use crate::config::{Address, Config, Problem, from_str};
use crate::front::forward_auth::{Asker, Flavour, Secret};
use crate::proxy_names::ProxyName;
use crate::state::introspection::{ClientAuthentication, IntrospectionUpkeep};
use crate::state::jwks::{KeySource, KeyUpkeep};
use crate::state::replay::ReplayRules;
use crate::telemetry::sample::Share;
use http::HeaderName;
use keybound_core::client_certificate::{HeaderFormat, Source};
use keybound_core::jose::Algorithm;
use keybound_core::policy::ReservedHeaders;
use keybound_core::policy::{
    Authentication, ClaimFormat, HostPattern, IdentityHeader, IssuerId, NonceDemand, ProofRules,
    ProofTime, SenderConstraint, Streams, UpstreamAuthorization,
};
use serde_json::json;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

const MINIMAL: &str = "\
listen: {}
issuers:
- issuer: https://as.example.com
  audiences: [https://api.example.com]
client_certificate: {}
policies:
- name: payments
  sender_constraint: certificate
limits: {}
upstream: {}
telemetry: {}
";

/// The minimal configuration with `edit` for the one line that begins as it does.
fn edited(edit: &str) -> String {
    let key = |line: &str| line.split(':').next().unwrap_or_default().to_owned();
    assert_eq!(MINIMAL.lines().filter(|it| key(it) == key(edit)).count(), 1, "{edit}");
    let line = |it| if key(it) == key(edit) { edit } else { it };
    MINIMAL.lines().map(|it| line(it).to_owned() + "\n").collect()
}

/// A folder that keeps others from the secrets in it.
fn private_folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o700)).unwrap();
    folder
}

fn read(text: &str) -> Result<Config, Vec<Problem>> {
    from_str(text, Path::new("."))
}

#[track_caller]
fn config(text: &str) -> Config {
    read(text).unwrap_or_else(|problems| panic!("{text}{problems:#?}"))
}

#[track_caller]
fn one(problems: &[Problem], text: &str, expected: (&str, usize, &str)) {
    let [problem] = problems else { panic!("{text}{problems:#?}") };
    let (path, line, message) = expected;
    assert_eq!((problem.path.as_str(), problem.line), (path, Some(line)), "{problem}");
    assert!(problem.message.contains(message), "{problem}");
}

/// The edit makes one problem, at this path and line, whose message holds these words.
#[track_caller]
fn refuses(edit: &str, path: &str, line: usize, message: &str) {
    let text = edited(edit);
    one(&read(&text).unwrap_err(), &text, (path, line, message));
}

/// The edit is fine, but for one warning.
#[track_caller]
fn warns(edit: &str, path: &str, line: usize, message: &str) {
    let text = edited(edit);
    one(&config(&text).warnings, &text, (path, line, message));
}

/// The edit is fine.
#[track_caller]
fn takes(edit: &str) -> Config {
    let config = config(&edited(edit));
    assert_eq!(config.warnings, [], "{edit}");
    config
}

/// What becomes of a configuration with these lines at `dpop` or `introspection`, in a folder with
/// files of every kind.
fn with_files(edit: &str) -> Result<Config, Vec<String>> {
    among_files(&edited(edit))
}

fn among_files(text: &str) -> Result<Config, Vec<String>> {
    let folder = private_folder();
    let made = rcgen::generate_simple_self_signed(["gateway".to_owned()]).unwrap();
    for (name, text) in [
        ("secret", "0123456789abcdef0123456789abcdef\n".to_owned()),
        ("short", "0123".to_owned()),
        ("empty", "\n".to_owned()),
        ("lines", "a\nb".to_owned()),
        ("redis", "redis://127.0.0.1:6379/0\n".to_owned()),
        ("rediss", "rediss://127.0.0.1:6379/0\n".to_owned()),
        ("master", "redis://user:password@mymaster/0\n".to_owned()),
        ("other-port", "redis://mymaster:6380/0\n".to_owned()),
        ("sentinels", "redis://127.0.0.1:26379\nredis://127.0.0.1:26380\n".to_owned()),
        ("http", "http://127.0.0.1:6379\n".to_owned()),
        ("ca.pem", made.cert.pem()),
        ("key.pem", made.signing_key.serialize_pem()),
        ("other.pem", rcgen::KeyPair::generate().unwrap().serialize_pem()),
    ] {
        fs::write(folder.path().join(name), text).unwrap();
    }
    from_str(text, folder.path()).map_err(|it| it.iter().map(ToString::to_string).collect())
}

#[track_caller]
fn takes_with_files(edit: &str) -> Config {
    with_files(edit).unwrap()
}

#[track_caller]
fn refuses_with_files(edit: &str, path: &str, message: &str) {
    let found = with_files(edit).unwrap_err();
    let told = found.len() == 1 && found[0].contains(&format!(": {path}: "));
    assert!(told && found[0].contains(message), "{edit}\n{found:#?}");
}
