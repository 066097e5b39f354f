//! Streams that end with their token: what would keep the proxy from ending them.

use crate::config::problem::{Findings, Path};
use crate::front::forward_auth::{Asker, Flavour};
use crate::installation::IssuerRules;
use keybound_core::policy::{Policy, PolicySet, Streams};
use keybound_core::{GRPC_TIMEOUT, reads_as};
use std::time::Duration;

/// Finds what takes the header away again that tells the proxy when a stream ends, and warns of proxies
/// that do not heed it and of tokens whose streams would end at once.
pub(super) fn check(
    policies: &PolicySet,
    issuers: &[IssuerRules],
    asker: Option<&Asker>,
    root: &Path,
    findings: &mut Findings,
) {
    let ends = |it: &Policy| it.streams == Streams::EndWithToken;
    let first = policies.policies.iter().enumerate().find(|(_, it)| ends(it));
    let Some((index, _)) = first else { return };
    let at = root.key("policies").index(index).key("streams");
    let upstream = &policies.upstream;
    let begins = |it: &str| {
        let begun = GRPC_TIMEOUT.as_bytes().get(..it.len());
        begun.is_some_and(|begun| reads_as(begun, it.as_bytes()))
    };
    // To who strips `grpc_timeout`, this is another spelling of it.
    let is_one = |it: &str| reads_as(GRPC_TIMEOUT.as_bytes(), it.as_bytes());
    if upstream.remove.iter().any(|it| is_one(it))
        || upstream.remove_beginning.iter().any(|it| begins(it))
    {
        let message = format!(
            "the proxy ends streams by `{GRPC_TIMEOUT}`, which `upstream.remove` takes away: take it \
             off that list"
        );
        findings.problem(&at, message);
    }
    if asker.is_some_and(|it| matches!(it.flavour, Flavour::Nginx | Flavour::Traefik)) {
        let message = "nginx, Traefik and Caddy cannot end a stream: what is opened by way of \
                       `listen.forward_auth` goes on after the token's end, unless the upstream ends it";
        findings.warning(&at, message);
    }
    let uncached = |it: &IssuerRules| {
        it.introspection.as_ref().is_some_and(|it| it.upkeep.cache_ttl == Duration::ZERO)
    };
    for (issuer, _) in issuers.iter().enumerate().filter(|(_, it)| uncached(it)) {
        let message = "under `streams: end_with_token`, a token without `exp` counts as long as the \
                       answer about it may be cached: with 0s, each of its requests is ended after 1 ms";
        let at = root.key("issuers").index(issuer).key("introspection").key("cache_ttl");
        findings.warning(&at, message);
    }
}
