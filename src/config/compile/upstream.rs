//! Knows what may be done to the headers that the upstream sees.

use super::policies::{BAD_CLAIM_PATH, is_claim_path};
use crate::config::file::{self, Authorization};
use crate::config::problem::{Findings, Path, quoted};
use crate::policy::{Upstream, UpstreamAuthorization};
use http::HeaderName;
use std::collections::BTreeMap;
use std::sync::Arc;

pub(super) fn compile(given: file::Upstream, root: &Path, findings: &mut Findings) -> Upstream {
    let at = root.key("upstream");
    let headers = match given.headers {
        Some(headers) => identity(headers, &at.key("headers"), findings),
        None => DEFAULT.iter().map(|(name, path)| ((*name).into(), (*path).to_owned())).collect(),
    };
    let remove = removed(&given.remove.unwrap_or_default(), &at.key("remove"), &headers, findings);
    Upstream { authorization: given.authorization.unwrap_or_default().into(), headers, remove }
}

/// Who the caller is, in the order of the names.
const DEFAULT: [(&str, &str); 4] = [
    ("x-auth-client-id", "client_id"),
    ("x-auth-issuer", "iss"),
    ("x-auth-scope", "scope"),
    ("x-auth-subject", "sub"),
];

fn identity(
    given: BTreeMap<String, String>,
    at: &Path,
    findings: &mut Findings,
) -> Vec<(Arc<str>, String)> {
    let mut headers: Vec<(Arc<str>, String)> = vec![];
    for (name, path) in given {
        let at = at.key(&name);
        if !is_claim_path(&path) {
            findings.problem(&at, BAD_CLAIM_PATH);
        }
        match header(&name) {
            Err(message) => findings.problem(&at, message),
            Ok(name) if MEANS_SOMETHING_ELSE.contains(&&*name) => {
                findings.problem(&at, format!("`{name}` means something else to the upstream"));
            }
            Ok(name) if headers.iter().any(|(it, _)| *it == name) => {
                findings.problem(&at, format!("`{name}` is there already: case does not count"));
            }
            Ok(name) => headers.push((name, path)),
        }
    }
    headers
}

fn removed(
    given: &[String],
    at: &Path,
    headers: &[(Arc<str>, String)],
    findings: &mut Findings,
) -> Vec<Arc<str>> {
    let mut remove = vec![];
    for (index, name) in given.iter().enumerate() {
        let at = at.index(index);
        match header(name) {
            Err(message) => findings.problem(&at, message),
            Ok(name) if matches!(&*name, "host" | "content-length" | "transfer-encoding") => {
                findings.problem(&at, format!("`{name}` is part of every request"));
            }
            Ok(name) if &*name == "authorization" => {
                findings.problem(&at, "write `authorization: remove` instead");
            }
            Ok(name) if headers.iter().any(|(it, _)| *it == name) => {
                let message = format!("`{name}` carries a claim, by `headers`: it cannot be both");
                findings.problem(&at, message);
            }
            Ok(name) if remove.contains(&name) => (),
            Ok(name) => remove.push(name),
        }
    }
    remove
}

/// A name of a header, in lower case.
fn header(name: &str) -> Result<Arc<str>, String> {
    if name.starts_with(':') {
        return Err(format!("{} is a pseudo-header, which is no header", quoted(name)));
    }
    match HeaderName::from_bytes(name.as_bytes()) {
        Ok(name) => Ok(name.as_str().into()),
        Err(_) => Err(format!("{} is no name of a header", quoted(name))),
    }
}

/// Headers of the connection (RFC 9110 §7.6.1), of the message's form, and of credentials.
const MEANS_SOMETHING_ELSE: [&str; 17] = [
    "authorization",
    "connection",
    "content-length",
    "content-type",
    "cookie",
    "dpop",
    "expect",
    "host",
    "keep-alive",
    "proxy-authenticate",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
    "x-forwarded-client-cert",
];

impl From<Authorization> for UpstreamAuthorization {
    fn from(authorization: Authorization) -> Self {
        match authorization {
            Authorization::Keep => Self::Keep,
            Authorization::Remove => Self::Remove,
            Authorization::Bearer => Self::Bearer,
        }
    }
}
