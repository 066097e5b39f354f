//! Warnings about policies that a request can choose between by an attribute that the client
//! controls.

use crate::config::problem::{Findings, Path};
use crate::front::forward_auth::{Asker, Flavour};
use keybound_core::policy::{HostPattern, Match, Policies, Policy, SenderConstraint};

/// A host and a method that no configuration names.
const OTHER: &str = "other.invalid";

/// Warns of each policy that can be had by a Host, a suffix, or a header that we may not see, and of
/// proofs for whatever host the request names.
pub(super) fn warn(policies: &Policies, asker: Option<&Asker>, at: &Path, findings: &mut Findings) {
    for (place, policy) in policies.iter().enumerate() {
        let at = at.index(place);
        if let Some(above) = listed(&reached_by_host(policies, place)) {
            let message = format!(
                "is for any Host, and asks for less than {above}: whoever sends a Host that no \
                 policy names chooses it. Give it match.hosts"
            );
            findings.warning(&at, message);
        }
        if let Some(above) = listed(&reached_by_suffix(policies, place)) {
            let message = format!(
                "asks for less than {above}, and is for the same path with a suffix (.json), \
                 which some servers take for the path without. Ask for as much, or name the paths \
                 that it is for (match.path_prefix), so that all others are denied"
            );
            findings.warning(&at, message);
        }
        if takes_any_proof(policy) {
            let message = "accepts DPoP proofs for the host that the request itself names: one that \
                           was made for another server passes with that server's Host. Give it \
                           `origin` or match.hosts";
            findings.warning(&at, message);
        }
        let told = asker.is_some_and(|it| matches!(it.flavour, Flavour::Envoy { .. }));
        if told && may_be_overridden(policies, place) {
            let message = "a server may take the method from x-http-method-override, x-http-method or \
                           x-method-override, and Envoy sends only the headers in its \
                           allowed_headers: list them there";
            findings.warning(&at.key("match").key("methods"), message);
        }
    }
}

/// Names of policies, where there are any: the first few, and how many more there are.
fn listed(policies: &[&Policy]) -> Option<String> {
    const SHOWN: usize = 3;
    let names = policies.iter().take(SHOWN).map(|it| format!("`{}` above", it.name));
    let more = policies.len().checked_sub(SHOWN).filter(|it| *it != 0);
    let names: Vec<_> = names.chain(more.map(|it| format!("{it} more"))).collect();
    (!names.is_empty()).then(|| names.join(" and "))
}

/// The policies above that name hosts and ask for more where this one is for any other host.
fn reached_by_host(policies: &Policies, place: usize) -> Vec<&Policy> {
    let Some(policy) = policies.get(place).filter(|it| it.matches.hosts.is_empty()) else {
        return vec![];
    };
    let is_reached = |own: usize, it: &Policy| {
        let Some(path) = deeper(&it.matches.path_prefix, &policy.matches.path_prefix) else {
            return false;
        };
        let guards = |method: &str, host: &str| policies.first_for(method, host, path) == Some(own);
        !it.matches.hosts.is_empty()
            && !policy.asks_at_least(it)
            && methods(policies, &it.matches).iter().any(|method| {
                policies.first_for(method, OTHER, path) == Some(place)
                    && it.matches.hosts.iter().any(|host| guards(method, &host.example()))
            })
    };
    above(policies, place, is_reached)
}

/// The policies above that name a path and ask for more than this one, which is for that path with a
/// suffix.
fn reached_by_suffix(policies: &Policies, place: usize) -> Vec<&Policy> {
    let Some(policy) = policies.get(place) else { return vec![] };
    let is_reached = |own: usize, it: &Policy| {
        let path = &it.matches.path_prefix;
        let Some((last, parents)) = path.split_last() else { return false };
        let suffixed = [parents, &[[last, &b".json"[..]].concat()]].concat();
        let prefix = &policy.matches.path_prefix;
        // A prefix as long as the path is spelled with the suffix, on purpose.
        if path.len() <= prefix.len() || !suffixed.starts_with(prefix) || policy.asks_at_least(it) {
            return false;
        }
        methods(policies, &it.matches).iter().any(|method| {
            hosts(policies, &it.matches).iter().any(|host| {
                policies.first_for(method, host, &suffixed) == Some(place)
                    && policies.first_for(method, host, path) == Some(own)
            })
        })
    };
    above(policies, place, is_reached)
}

/// Whether another server's proof is good under it.
fn takes_any_proof(policy: &Policy) -> bool {
    let accepts = match policy.sender_constraint {
        SenderConstraint::Dpop | SenderConstraint::Either | SenderConstraint::IfBound => true,
        SenderConstraint::Certificate | SenderConstraint::None => false,
    };
    accepts && policy.origin.is_none() && policy.matches.hosts.is_empty()
}

/// Whether it is for some methods, and a request of another one for the same asks for less.
fn may_be_overridden(policies: &Policies, place: usize) -> bool {
    let Some(policy) = policies.get(place).filter(|it| !it.matches.methods.is_empty()) else {
        return false;
    };
    let path = &policy.matches.path_prefix;
    let first = |method: &str, host: &str| policies.first_for(method, host, path);
    let others = methods(policies, &Match::default());
    hosts(policies, &policy.matches).iter().any(|host| {
        let guards = |it: &String| first(it, host) == Some(place);
        let asks_less = |it: &String| {
            let other = first(it, host).and_then(|it| policies.get(it));
            other.is_some_and(|it| !it.asks_at_least(policy))
        };
        policy.matches.methods.iter().any(guards) && others.iter().any(asks_less)
    })
}

/// Those above the policy at `place` that `is_such` says, which is handed their places as well.
fn above(
    policies: &Policies,
    place: usize,
    is_such: impl Fn(usize, &Policy) -> bool,
) -> Vec<&Policy> {
    let above = policies.iter().enumerate().take(place);
    above.filter(|(own, it)| is_such(*own, it)).map(|(_, it)| &**it).collect()
}

/// The longer of two prefixes, if one of them is a prefix of the other.
fn deeper<'a>(one: &'a [Vec<u8>], other: &'a [Vec<u8>]) -> Option<&'a [Vec<u8>]> {
    let (long, short) = if one.len() < other.len() { (other, one) } else { (one, other) };
    long.starts_with(short).then_some(long)
}

/// The methods that a policy is for; if for all, those that any policy names, and another one.
fn methods(policies: &Policies, matches: &Match) -> Vec<String> {
    if !matches.methods.is_empty() {
        return matches.methods.clone();
    }
    let mut all: Vec<_> = policies.iter().flat_map(|it| it.matches.methods.clone()).collect();
    all.push(OTHER.to_owned());
    all.sort_unstable();
    all.dedup();
    all
}

/// The same of hosts.
fn hosts(policies: &Policies, matches: &Match) -> Vec<String> {
    if !matches.hosts.is_empty() {
        return matches.hosts.iter().map(HostPattern::example).collect();
    }
    let each = policies.iter().flat_map(|it| &it.matches.hosts).map(HostPattern::example);
    let mut all: Vec<_> = each.chain([OTHER.to_owned()]).collect();
    all.sort_unstable();
    all.dedup();
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_few_names_stand_for_many() {
        let policies = ["a", "b", "c", "d", "e"].map(|it| Policy::new(it, SenderConstraint::Dpop));
        let policies: Vec<_> = policies.iter().collect();
        for (count, expected) in [
            (0, None),
            (1, Some("`a` above")),
            (3, Some("`a` above and `b` above and `c` above")),
            (5, Some("`a` above and `b` above and `c` above and 2 more")),
        ] {
            assert_eq!(listed(&policies[..count]).as_deref(), expected);
        }
    }
}
