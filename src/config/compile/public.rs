//! Policies that ask for no token: they can demand nothing of one.

use crate::config::file;
use crate::config::problem::{Findings, Path};
use keybound_core::policy::{Match, Policy, Streams};
use std::sync::Arc;

/// Whether `given` asks for no token. Finds what it would demand of one all the same, and what has no
/// effect without one.
pub(super) fn compile(given: &file::Policy, at: &Path, findings: &mut Findings) -> bool {
    if given.public != Some(true) {
        return false;
    }
    let ends_streams = given.streams.as_ref().is_some_and(|it| it.0 == Streams::EndWithToken);
    for (key, demands) in [
        ("sender_constraint", given.sender_constraint.is_some()),
        ("scopes", given.scopes.is_some()),
        ("claims", given.claims.is_some()),
        ("authentication", given.authentication.is_some()),
        ("streams", ends_streams),
    ] {
        if demands {
            let message = format!(
                "demands something of a token, and `public: true` asks for none: leave out `{key}` to \
                 let everybody through, or `public` to ask for a token"
            );
            findings.problem(&at.key(key), message);
        }
    }
    for (key, is_there) in [
        ("issuers", given.issuers.is_some()),
        ("origin", given.origin.is_some()),
        ("realm", given.realm.is_some()),
        ("resource", given.resource.is_some()),
        ("resource_metadata", given.resource_metadata.is_some()),
    ] {
        if is_there {
            let message =
                "has no effect: `public: true` asks for no token. Leave out one of the two";
            findings.problem(&at.key(key), message);
        }
    }
    true
}

/// Warns of a policy that lets through whatever none above it is for.
pub(super) fn warn(policies: &[Arc<Policy>], at: &Path, findings: &mut Findings) {
    let is_for_all = |it: &Policy| it.is_public() && it.matches == Match::default();
    for (index, _) in policies.iter().enumerate().filter(|(_, it)| is_for_all(it)) {
        let message = "every request that no policy above is for passes without a token: give it \
                       `match`";
        findings.warning(&at.index(index).key("public"), message);
    }
}
