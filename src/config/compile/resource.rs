//! The resource of a policy, whose metadata are served (RFC 9728).

use super::url::{self, PlainHttp};
use crate::config::file;
use crate::config::problem::{Findings, Path};
use crate::front::forward_auth::read::METADATA_PATH;
use crate::front::forward_auth::{Asker, Flavour};
use keybound_core::policy::{Policies, Policy, Resource};
use std::collections::HashMap;
use std::sync::Arc;

/// What a policy says of its resource, beside its `origin` and its `resource_metadata`.
pub(super) fn compile(
    given: Option<file::Resource>,
    origin: Option<&str>,
    points_elsewhere: bool,
    at: &Path,
    findings: &mut Findings,
) -> Option<Resource> {
    let file::Resource { name, documentation } = given?;
    match origin {
        None => findings.problem(
            at,
            "needs `origin`, the public address of the resource: clients compare it with theirs",
        ),
        // One that cannot be fetched, or only without encryption, has no metadata (RFC 9728 §1.2).
        Some(origin) => {
            if let Err(message) = url::fetched(origin, PlainHttp::Never) {
                findings.problem(at, format!("is at `origin`, and {message}"));
            }
        }
    }
    if points_elsewhere {
        let message = "serves the metadata, and `resource_metadata` says that they are elsewhere: \
                       leave out one of the two";
        findings.problem(at, message);
    }
    if name.as_ref().is_some_and(|it| it.trim().is_empty()) {
        findings.problem(&at.key("name"), "must not be empty: leave it out for none");
    }
    if let Some(Err(message)) = documentation.as_ref().map(|it| url::fetched(it, PlainHttp::Never))
    {
        findings.problem(&at.key("documentation"), message);
    }
    Some(Resource { name, documentation })
}

/// Finds resources that would have their metadata in one place. Ports do not count there.
pub(super) fn keep_apart(policies: &[Arc<Policy>], at: &Path, findings: &mut Findings) {
    let mut seen = HashMap::new();
    for (index, policy) in policies.iter().enumerate() {
        let Some(place) = policy.resource_place() else { continue };
        if let Some(other) = seen.insert(place, &policy.name) {
            let message = format!(
                "`{other}` above has the same origin and path: one of the two can have the metadata \
                 there. Leave `resource` out here, and name them with `resource_metadata` if you like"
            );
            findings.problem(&at.index(index).key("resource"), message);
        }
    }
}

/// Methods of requests that a resource is asked by.
const USUAL: [&str; 5] = ["GET", "POST", "PUT", "PATCH", "DELETE"];

/// Warns of metadata that promise what another policy decides: a client would bring what is not asked
/// for, or think itself protected where it is not.
pub(super) fn warn_of_promises(policies: &Policies, at: &Path, findings: &mut Findings) {
    for (index, policy) in policies.iter().enumerate() {
        let Some((host, path)) = policy.resource_place() else { continue };
        let decided = USUAL.map(|method| (method, policies.first_for(method, &host, path)));
        let keeps = |place: Option<usize>| {
            let other = place.and_then(|it| policies.get(it));
            other.is_some_and(|it| !it.public && it.sender_constraint == policy.sender_constraint)
        };
        let Some((method, place)) = decided.into_iter().find(|(_, place)| !keeps(*place)) else {
            continue;
        };
        let other = place.and_then(|it| policies.get(it));
        let other = other.map_or_else(|| "no policy".to_owned(), |it| format!("`{}`", it.name));
        let message = format!(
            "the metadata would say what this policy demands, and {other} decides about {method} at \
             this address (host {host}): have `match` hold what `origin` says, or leave `resource` out"
        );
        findings.warning(&at.index(index).key("resource"), message);
    }
}

/// Warns of metadata that are not served over forward-auth: where Envoy asks at the client's own path,
/// each path may be that of a question.
pub(super) fn warn_of_questions(
    policies: &Policies,
    asker: Option<&Asker>,
    root: &Path,
    findings: &mut Findings,
) {
    let asks_anywhere = |it: &Asker| match &it.flavour {
        Flavour::Envoy { path_prefix } => {
            path_prefix.is_empty() || METADATA_PATH.starts_with(path_prefix.as_str())
        }
        Flavour::Nginx | Flavour::Traefik => false,
    };
    if asker.is_some_and(asks_anywhere) && policies.iter().any(|it| it.resource.is_some()) {
        let message = "over forward_auth, the metadata of a `resource` are served only where \
                       questions have a prefix of their own: write one, such as /check";
        findings.warning(&root.key("forward_auth").key("path_prefix"), message);
    }
}
