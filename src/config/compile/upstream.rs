//! The part of the configuration about the headers that the upstream receives.

use super::policies::{BAD_CLAIM_PATH, is_claim_path};
use crate::config::file::upstream::{self as file, HeaderClaim};
use crate::config::problem::{Findings, Path, quoted};
use crate::config::usual;
use crate::front::forward_auth::{Asker, Flavour};
use http::HeaderName;
use keybound_core::policy::ReservedHeaders;
use keybound_core::policy::{
    ClaimFormat, IdentityHeader, PolicySet, Upstream, UpstreamAuthorization,
};
use keybound_core::reads_as;
use std::collections::BTreeMap;
use std::sync::Arc;

/// `asker` is the forward-auth proxy, if any, and `certificate` the configured header for the
/// client certificate.
pub(super) fn compile(
    given: file::Upstream,
    asker: Option<&Asker>,
    certificate: Option<&str>,
    root: &Path,
    findings: &mut Findings,
) -> Upstream {
    let at = root.key("upstream");
    let usual = || {
        let each = usual::IDENTITY_HEADERS.iter();
        each.map(|(name, claim)| IdentityHeader::new(name, claim)).collect()
    };
    let headers = given.headers.map_or_else(usual, |it| identity(it, &at.key("headers"), findings));
    let authorization = given.authorization.map_or_else(UpstreamAuthorization::default, |it| it.0);
    let relied_on = asker.map(|it| relied_on(it, certificate)).unwrap_or_default();
    let mut upstream =
        Upstream { authorization, headers, relied_on, remove: vec![], remove_beginning: vec![] };
    let at = at.key("remove");
    for (index, given) in given.remove.unwrap_or_default().iter().enumerate() {
        let at = at.index(index);
        let removed = match given.strip_suffix('*') {
            Some(beginning) => strip_beginning(beginning, asker, &mut upstream, &at, findings),
            None => strip(given, &mut upstream),
        };
        if let Err(message) = removed {
            findings.problem(&at, message);
        }
    }
    upstream
}

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
        let same = |it: &&str| reads_as(name.as_bytes(), it.as_bytes());
        if let Some(other) = MEANS_SOMETHING_ELSE.iter().find(|it| same(it)) {
            findings.problem(
                &at,
                format!("`{other}` means something else to the upstream: choose another name"),
            );
        } else if let Some(other) = headers.iter().find(|it| same(&&*it.name)) {
            let message =
                format!("to upstreams it is the same as `{}`: remove one of the two", other.name);
            findings.problem(&at, message);
        } else {
            let format = given.format.map_or_else(ClaimFormat::default, |it| it.0);
            headers.push(IdentityHeader { name, claim: given.claim.unwrap_or_default(), format });
        }
    }
    headers
}

/// Strips one header.
fn strip(given: &str, upstream: &mut Upstream) -> Result<(), String> {
    let name = header(given)?;
    if PART_OF_EVERY_REQUEST.contains(&&*name) {
        return Err(format!("`{name}` is part of every request: take it off the list"));
    }
    if &*name == "authorization" {
        return Err(BY_ANOTHER_KEY.to_owned());
    }
    if upstream.headers.iter().any(|it| it.name == name) {
        return Err(format!("`{name}` carries a claim, by `headers`: remove it here or there"));
    }
    if !upstream.remove.contains(&name) {
        upstream.remove.push(name);
    }
    Ok(())
}

/// Strips all headers with a prefix.
fn strip_beginning(
    beginning: &str,
    asker: Option<&Asker>,
    upstream: &mut Upstream,
    at: &Path,
    findings: &mut Findings,
) -> Result<(), String> {
    if beginning.is_empty() {
        return Err("`*` would strip every header: write how they begin, as in x-auth-*".to_owned());
    }
    let beginning = header(beginning)?;
    let hits = |name: &&str| {
        let it = name.as_bytes().get(..beginning.len());
        it.is_some_and(|it| reads_as(it, beginning.as_bytes()))
    };
    if let Some(name) = PART_OF_EVERY_REQUEST.iter().find(|it| hits(it)) {
        return Err(format!(
            "`{beginning}*` would strip `{name}`, which is part of every request: write more of \
             how the names begin"
        ));
    }
    if hits(&"authorization") {
        return Err(format!("`{beginning}*` would strip `authorization`: {BY_ANOTHER_KEY}"));
    }
    match asker.map(|it| &it.flavour) {
        Some(Flavour::Nginx | Flavour::Traefik) => {
            // A header that cannot be removed denies the request, and the proxy sends these with
            // every request.
            if let Some(name) = upstream.relied_on.iter().find(|it| hits(&&***it)) {
                return Err(format!(
                    "`{beginning}*` would refuse every request of `listen.forward_auth`, for the \
                     proxy itself writes `{name}`: strip these headers in the proxy"
                ));
            }
        }
        Some(Flavour::Envoy { .. }) => findings.warning(
            at,
            format!(
                "over HTTP keybound can remove what it sees and nothing else: let Envoy send all \
                 headers that begin with `{beginning}` (`allowed_headers`; in Istio \
                 `includeRequestHeadersInCheck: [{beginning}*]`)"
            ),
        ),
        None => (),
    }
    if !upstream.remove_beginning.contains(&beginning) {
        upstream.remove_beginning.push(beginning);
    }
    Ok(())
}

const BY_ANOTHER_KEY: &str = "write `authorization: remove` instead";

const PART_OF_EVERY_REQUEST: [&str; 3] = ["host", "content-length", "transfer-encoding"];

/// A header name in lower case. HTTP allows `*` in names, but no upstream uses it.
fn header(name: &str) -> Result<Arc<str>, String> {
    if name.starts_with(':') {
        return Err(format!("{} is a pseudo-header: only headers can be named", quoted(name)));
    }
    if name.contains('*') {
        return Err(format!("{}: `*` stands for the rest of a name, at its end", quoted(name)));
    }
    match HeaderName::from_bytes(name.as_bytes()) {
        Ok(name) => Ok(name.as_str().into()),
        Err(_) => Err(format!(
            "{} is not a header name: write letters, digits and dashes (RFC 9110 §5.1)",
            quoted(name)
        )),
    }
}

/// Headers of the connection (RFC 9110 §7.6.1), of the message's form, and of credentials.
const MEANS_SOMETHING_ELSE: [&str; 18] = [
    "authorization",
    "connection",
    "content-length",
    "content-type",
    "cookie",
    "dpop",
    "expect",
    "grpc-timeout",
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

/// The headers that a proxy writes into its subrequest.
fn relied_on(asker: &Asker, certificate: Option<&str>) -> Vec<Arc<str>> {
    let secret = asker.secret.as_ref().map(|it| it.header().as_str());
    let names = asker.flavour.headers().iter().copied();
    names.chain(secret).chain(certificate).map(Arc::from).collect()
}

/// Rejects names with too many aliases to list for Envoy, where it does not show us a request's
/// headers.
pub(super) fn keep_listed(
    policies: &PolicySet,
    asker: Option<&Asker>,
    at: &Path,
    findings: &mut Findings,
) {
    let is_envoy = asker.is_some_and(|it| matches!(it.flavour, Flavour::Envoy { .. }));
    if is_envoy && !ReservedHeaders::of(policies).are_all_listed() {
        findings.problem(
            at,
            "names with so many dashes can be spelled in too many ways to have them all removed, \
             as `forward_auth.flavour: envoy` needs: use fewer or shorter names, or ask by gRPC",
        );
    }
}
