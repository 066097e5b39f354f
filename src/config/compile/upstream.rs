//! What may be done to the headers that the upstream sees.

use super::policies::{BAD_CLAIM_PATH, is_claim_path};
use crate::config::file::upstream::{self as file, Authorization, HeaderClaim};
use crate::config::problem::{Findings, Path, quoted};
use crate::policy::{ClaimFormat, IdentityHeader, Upstream, UpstreamAuthorization};
use http::HeaderName;
use std::collections::BTreeMap;
use std::sync::Arc;

pub(super) fn compile(given: file::Upstream, root: &Path, findings: &mut Findings) -> Upstream {
    let at = root.key("upstream");
    let headers = match given.headers {
        Some(headers) => identity(headers, &at.key("headers"), findings),
        None => DEFAULT.iter().map(|(name, claim)| IdentityHeader::new(name, claim)).collect(),
    };
    let authorization = given.authorization.unwrap_or_default().into();
    let mut upstream = Upstream { authorization, headers, remove: vec![] };
    let at = at.key("remove");
    for (index, given) in given.remove.unwrap_or_default().iter().enumerate() {
        if let Err(message) = strip(given, &mut upstream) {
            findings.problem(&at.index(index), message);
        }
    }
    upstream
}

/// Who the caller is, in the order of the names.
const DEFAULT: [(&str, &str); 4] = [
    ("x-auth-client-id", "client_id"),
    ("x-auth-issuer", "iss"),
    ("x-auth-scope", "scope"),
    ("x-auth-subject", "sub"),
];

fn identity(
    given: BTreeMap<String, HeaderClaim>,
    at: &Path,
    findings: &mut Findings,
) -> Vec<IdentityHeader> {
    let mut headers: Vec<IdentityHeader> = vec![];
    for (name, HeaderClaim(given)) in given {
        let at = at.key(&name);
        match &given.claim {
            Some(claim) if is_claim_path(claim) => (),
            Some(_) => findings.problem(&at, BAD_CLAIM_PATH),
            None if findings.is_incomplete(&at) => (),
            None => findings.problem(&at, "`claim` must say which claim it carries"),
        }
        let name = match header(&name) {
            Err(message) => {
                findings.problem(&at, message);
                continue;
            }
            Ok(name) => name,
        };
        if MEANS_SOMETHING_ELSE.contains(&&*name) {
            findings.problem(&at, format!("`{name}` means something else to the upstream"));
        } else if headers.iter().any(|it| it.name == name) {
            findings.problem(&at, format!("`{name}` is there already: case does not count"));
        } else {
            let format = given.format.unwrap_or_default().into();
            headers.push(IdentityHeader { name, claim: given.claim.unwrap_or_default(), format });
        }
    }
    headers
}

/// Strips one header.
fn strip(given: &str, upstream: &mut Upstream) -> Result<(), String> {
    let name = header(given)?;
    if PART_OF_EVERY_REQUEST.contains(&&*name) {
        return Err(format!("`{name}` is part of every request"));
    }
    if &*name == "authorization" {
        return Err(BY_ANOTHER_KEY.to_owned());
    }
    if upstream.headers.iter().any(|it| it.name == name) {
        return Err(format!("`{name}` carries a claim, by `headers`: it cannot be both"));
    }
    if !upstream.remove.contains(&name) {
        upstream.remove.push(name);
    }
    Ok(())
}

const BY_ANOTHER_KEY: &str = "write `authorization: remove` instead";

const PART_OF_EVERY_REQUEST: [&str; 3] = ["host", "content-length", "transfer-encoding"];

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

impl From<file::ClaimFormat> for ClaimFormat {
    fn from(format: file::ClaimFormat) -> Self {
        match format {
            file::ClaimFormat::Plain => Self::Plain,
            file::ClaimFormat::Json => Self::Json,
        }
    }
}
