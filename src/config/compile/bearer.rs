//! The part of the configuration about the bearer token with which an issuer's keys are fetched.

use super::files::Files;
use crate::config::problem::{Findings, Path};
use crate::state::http::BearerToken;
use crate::state::jwks::KeySource;

/// The token in the file `name`. `source` is where the keys come from, as far as that is known.
pub(super) fn compile(
    name: &str,
    source: Option<&KeySource>,
    issuer: Option<&str>,
    at: &Path,
    files: &Files,
    findings: &mut Findings,
) -> Option<BearerToken> {
    let url = match source {
        Some(KeySource::File(_)) => {
            findings.warning(at, "has no effect: the keys are not fetched");
            None
        }
        Some(KeySource::Uri(url)) => Some(url.as_str()),
        Some(KeySource::Discovery) => issuer,
        None => None,
    };
    if url.is_some_and(|it| it.starts_with("http:")) {
        findings.warning(at, "is sent over plain http: whoever is on the way can use the token");
    }
    let token = files.read_secret(name).and_then(|bytes| {
        // No message quotes the file.
        let text = str::from_utf8(&bytes).unwrap_or_default().trim_end_matches(['\r', '\n']);
        let odd = || {
            format!(
                "{} must hold one bearer token (RFC 6750 §2.1), and nothing else",
                files.path(name).display()
            )
        };
        BearerToken::new(text).ok_or_else(odd)
    });
    token.map_err(|message| findings.problem(at, message)).ok()
}
