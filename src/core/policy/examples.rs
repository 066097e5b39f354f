//! Policy sets for tests, written as tables.

use super::{HostPattern, Match, Policy, PolicySet, ProofRules, SenderConstraint};
use super::{Mode, Upstream};
use std::sync::Arc;

/// Parses policies from `name host-pattern path-prefix methods demands`; `*` matches all. Demands
/// are scopes separated by commas, or `report`.
pub(crate) fn policies(rows: &[&str]) -> Vec<Arc<Policy>> {
    rows.iter().map(|row| Arc::new(policy(row))).collect()
}

fn policy(row: &str) -> Policy {
    let mut columns = row.split(' ');
    let name = columns.next().unwrap();
    let mut column = || columns.next().filter(|it| *it != "*");
    let hosts = column().map(|it| match it.strip_prefix("*.") {
        Some(parent) => HostPattern::Below(parent.to_owned()),
        None => HostPattern::Exact(it.to_owned()),
    });
    let path = column().unwrap_or_default().split('/').skip(1);
    let path_prefix = path.map(|it| it.as_bytes().to_vec()).collect();
    let list = |it: Option<&str>| -> Vec<String> {
        it.into_iter().flat_map(|it| it.split(',')).map(str::to_owned).collect()
    };
    let methods = list(column());
    let demands = list(column());
    let reports = demands.iter().any(|it| it == "report");
    Policy {
        matches: Match { hosts: hosts.into_iter().collect(), path_prefix, methods },
        mode: if reports { Mode::Report } else { Mode::Enforce },
        scopes: demands,
        ..Policy::new(name, SenderConstraint::Certificate)
    }
}

/// The set of these policies.
pub(crate) fn set(rows: &[&str]) -> PolicySet {
    set_of(policies(rows))
}

/// The same of policies.
pub(crate) fn set_of(policies: Vec<Arc<Policy>>) -> PolicySet {
    PolicySet {
        issuers: vec![],
        policies: policies.into(),
        client_certificate: crate::client_certificate::Source::Peer,
        token_bytes: 1,
        upstream: Upstream::default(),
        proofs: ProofRules::default(),
    }
}
