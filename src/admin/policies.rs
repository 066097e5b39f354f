//! Knows what is told about the policies: whom they are for, and what they demand.

use crate::policy::{HostPattern, Match, Policy, PolicySet};
use serde::Serialize;
use serde_json::Value;
use std::collections::BTreeMap;

/// A policy as `/status` tells it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Status {
    name: String,
    hosts: Vec<String>,
    path_prefix: Option<String>,
    methods: Vec<String>,
    allow_route_annotation: bool,
    mode: &'static str,
    sender_constraint: &'static str,
    origin: Option<String>,
    issuers: Vec<String>,
    scopes: Vec<String>,
    claims: BTreeMap<String, Vec<Value>>,
}

/// All policies, in the order in which they are matched.
pub(super) fn of(set: &PolicySet) -> Vec<Status> {
    set.policies.iter().map(|it| status(it, set)).collect()
}

fn status(policy: &Policy, set: &PolicySet) -> Status {
    let Match { hosts, path_prefix, methods } = &policy.matches;
    let issuers = policy.issuers.iter().filter_map(|it| set.issuers.get(it.0));
    let claims = policy.claims.iter().map(|it| (it.path.clone(), it.values.clone()));
    Status {
        name: policy.name.to_string(),
        hosts: hosts.iter().map(host).collect(),
        path_prefix: path(path_prefix),
        methods: methods.clone(),
        allow_route_annotation: policy.routes_may_name_it,
        sender_constraint: policy.sender_constraint.name(),
        mode: policy.mode.name(),
        origin: policy.origin.as_ref().map(|it| it.as_str().to_owned()),
        issuers: issuers.map(|it| it.name.to_string()).collect(),
        scopes: policy.scopes.clone(),
        claims: claims.collect(),
    }
}

fn host(pattern: &HostPattern) -> String {
    match pattern {
        HostPattern::Exact(host) => host.clone(),
        HostPattern::Below(host) => format!("*.{host}"),
    }
}

/// Decoded, as it is compared; none when it is every path.
fn path(segments: &[Vec<u8>]) -> Option<String> {
    let text = |it: &Vec<u8>| format!("/{}", String::from_utf8_lossy(it));
    (!segments.is_empty()).then(|| segments.iter().map(text).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::{ClaimRule, SenderConstraint};
    use crate::telemetry::samples::policy_set;
    use serde_json::json;
    use std::sync::Arc;

    #[test]
    fn a_policy_is_told_as_it_is_written() {
        let mut set = policy_set();
        let mut policy = Policy {
            issuers: set.policies[0].issuers.clone(),
            ..Policy::new("payments", SenderConstraint::Certificate)
        };
        let below = HostPattern::Below("example.com".to_owned());
        policy.matches.hosts = vec![HostPattern::Exact("a.example.com".to_owned()), below];
        policy.matches.path_prefix = vec![b"v1".to_vec(), b"pay ments".to_vec()];
        policy.scopes = vec!["pay".to_owned()];
        policy.routes_may_name_it = true;
        policy.claims = vec![ClaimRule { path: "acr".to_owned(), values: vec![json!("loa3")] }];
        set.policies = [Arc::new(policy)].into();
        let expected = json!([{
            "name": "payments",
            "hosts": ["a.example.com", "*.example.com"],
            "path_prefix": "/v1/pay ments",
            "methods": [],
            "allow_route_annotation": true,
            "mode": "enforce",
            "sender_constraint": "certificate",
            "origin": null,
            "issuers": ["https://as.example.com"],
            "scopes": ["pay"],
            "claims": {"acr": ["loa3"]},
        }]);
        assert_eq!(serde_json::to_value(of(&set)).unwrap(), expected);
    }

    #[test]
    fn every_path_is_none_and_no_route_may_choose() {
        let status = &of(&policy_set())[0];
        assert_eq!((&status.path_prefix, status.allow_route_annotation), (&None, false));
    }
}
