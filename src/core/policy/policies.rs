//! The policies in matching order, with precomputed facts for the choice among them.

use super::{HostPattern, Match, Mode, Policy};
use std::net::Ipv6Addr;
use std::ops::Deref;
use std::sync::Arc;

/// The policies, in matching order.
#[derive(Clone, Debug)]
pub struct Policies {
    all: Vec<Arc<Policy>>,
    /// One row for each policy.
    rows: Vec<Row>,
    demands: Vec<Demands>,
    choice: Choice,
}

/// The parts of a request that the choice depends on.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Choice {
    pub(super) by_host: bool,
    pub(super) by_path: bool,
    pub(super) by_method: bool,
    pub(super) letters: Letters,
}

/// The letters in path prefixes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Letters {
    /// None, or lower-case ASCII only.
    #[default]
    Lower,
    /// ASCII of both cases.
    Ascii,
    /// Letters beyond ASCII, whose case rules differ.
    Any,
}

#[derive(Clone, Debug)]
struct Row {
    /// The prefix as the start of a path without escapes; empty for every path.
    prefix: Vec<u8>,
    /// The index of its demands.
    demands: usize,
}

/// The demands of a group of equally strict policies. There are few groups, however many policies
/// there are.
#[derive(Clone, Debug)]
struct Demands {
    /// For each group, whether it is stricter in some respect. The last entry is for requests that
    /// no policy matches, which are denied.
    more: Vec<bool>,
    /// Whether any group is stricter in some respect.
    tops: bool,
}

impl Policies {
    /// The index of the first policy that matches an unambiguous request: its method, its host, and
    /// the decoded segments of its path.
    pub fn first_for(&self, method: &str, host: &str, path: &[Vec<u8>]) -> Option<usize> {
        self.first(method, Some(host), |it, _| path.starts_with(&it.path_prefix))
    }

    /// The index of the first policy for this method, for this host (none: the authority names no
    /// host), and for a path for which `is_below` holds, given the prefix also as text.
    pub(super) fn first(
        &self,
        method: &str,
        host: Option<&str>,
        is_below: impl Fn(&Match, &[u8]) -> bool,
    ) -> Option<usize> {
        let each = self.all.iter().map(|it| &it.matches).zip(&self.rows);
        let mut each =
            each.map(|(matches, row)| matches.miss(method, host, |it| is_below(it, &row.prefix)));
        each.position(|it| it.is_none())
    }

    /// The parts of a request that the choice depends on.
    pub(super) const fn choice(&self) -> Choice {
        self.choice
    }

    /// Each policy with its index and its path prefix as text.
    pub(super) fn each(&self) -> impl Iterator<Item = (usize, &Policy, &[u8])> {
        let rows = self.all.iter().zip(&self.rows).enumerate();
        rows.map(|(place, (policy, row))| (place, &**policy, &*row.prefix))
    }

    /// Whether some policy is stricter than the one at `place`, so that other readings of a request
    /// matter.
    pub(super) fn may_be_topped(&self, place: usize) -> bool {
        self.demands(place).is_none_or(|it| it.tops)
    }

    /// Whether the policy at `other` is stricter in some respect than the one at `place`. None
    /// means that no policy matches.
    pub(super) fn asks_more(&self, other: Option<usize>, place: usize) -> bool {
        let more = || {
            let more = &self.demands(place)?.more;
            match other {
                Some(other) => more.get(self.rows.get(other)?.demands),
                None => more.last(),
            }
        };
        // An index that is out of range counts as stricter, to be safe.
        more().is_none_or(|it| *it)
    }

    fn demands(&self, place: usize) -> Option<&Demands> {
        self.demands.get(self.rows.get(place)?.demands)
    }
}

impl From<Vec<Arc<Policy>>> for Policies {
    fn from(all: Vec<Arc<Policy>>) -> Self {
        let any = |has: fn(&Match) -> bool| all.iter().any(|it| has(&it.matches));
        let octets = || all.iter().flat_map(|it| &it.matches.path_prefix).flatten();
        let letters = match () {
            () if !octets().all(u8::is_ascii) => Letters::Any,
            () if octets().any(u8::is_ascii_uppercase) => Letters::Ascii,
            () => Letters::Lower,
        };
        let choice = Choice {
            by_host: any(|it| !it.hosts.is_empty()),
            by_path: any(|it| !it.path_prefix.is_empty()),
            by_method: any(|it| !it.methods.is_empty()),
            letters,
        };
        // If all policies are in report mode, nothing is refused.
        let enforced = all.iter().any(|it| it.mode == Mode::Enforce);
        let matched = all.iter().any(|it| it.matches == Match::default());
        let mut kinds: Vec<&Policy> = vec![];
        let rows = all.iter().map(|policy| {
            let same = |it: &&Policy| it.asks_at_least(policy) && policy.asks_at_least(it);
            let known = kinds.iter().position(same);
            let demands = known.unwrap_or(kinds.len());
            if known.is_none() {
                kinds.push(policy);
            }
            Row { prefix: text(&policy.matches), demands }
        });
        let rows = rows.collect();
        let demands = kinds.iter().map(|policy| {
            let others = kinds.iter().map(|it| !policy.asks_at_least(it));
            let more: Vec<_> = others.chain([enforced && !matched]).collect();
            Demands { tops: more.contains(&true), more }
        });
        Self { demands: demands.collect(), rows, choice, all }
    }
}

impl<const N: usize> From<[Arc<Policy>; N]> for Policies {
    fn from(all: [Arc<Policy>; N]) -> Self {
        Vec::from(all).into()
    }
}

impl FromIterator<Arc<Policy>> for Policies {
    fn from_iter<T: IntoIterator<Item = Arc<Policy>>>(all: T) -> Self {
        Vec::from_iter(all).into()
    }
}

impl Deref for Policies {
    type Target = [Arc<Policy>];

    fn deref(&self) -> &[Arc<Policy>] {
        &self.all
    }
}

impl<'a> IntoIterator for &'a Policies {
    type Item = &'a Arc<Policy>;
    type IntoIter = std::slice::Iter<'a, Arc<Policy>>;

    fn into_iter(self) -> Self::IntoIter {
        self.all.iter()
    }
}

fn text(matches: &Match) -> Vec<u8> {
    matches.path_prefix.iter().flat_map(|it| [b"/", &**it].concat()).collect()
}

impl Match {
    /// The first part of a request that does not match; none if all do.
    pub(super) fn miss(
        &self,
        method: &str,
        host: Option<&str>,
        is_below: impl FnOnce(&Self) -> bool,
    ) -> Option<&'static str> {
        match () {
            () if !self.holds_method(method) => Some("method"),
            () if !self.holds_host(host) => Some("host"),
            () if !is_below(self) => Some("path"),
            () => None,
        }
    }

    /// Whether it matches this method.
    fn holds_method(&self, method: &str) -> bool {
        self.methods.is_empty() || self.methods.iter().any(|it| it == method)
    }

    /// Whether it matches this host; none means that the authority names no host.
    fn holds_host(&self, host: Option<&str>) -> bool {
        let any = |host| self.hosts.iter().any(|it| it.holds(host));
        self.hosts.is_empty() || host.is_some_and(any)
    }
}

impl HostPattern {
    fn holds(&self, host: &str) -> bool {
        match self {
            Self::Exact(exact) => host.eq_ignore_ascii_case(exact) || is_same_address(host, exact),
            Self::Below(parent) => host
                .len()
                .checked_sub(parent.len())
                .and_then(|it| host.split_at_checked(it))
                .is_some_and(|(labels, rest)| {
                    rest.eq_ignore_ascii_case(parent) && labels.len() > 1 && labels.ends_with('.')
                }),
        }
    }

    /// A host that the pattern matches.
    pub fn example(&self) -> String {
        match self {
            Self::Exact(host) => host.clone(),
            Self::Below(parent) => format!("any.{parent}"),
        }
    }
}

/// Whether both are the same IPv6 address, which can be written in many ways (RFC 5952).
fn is_same_address(one: &str, other: &str) -> bool {
    let address =
        |it: &str| -> Option<Ipv6Addr> { it.strip_prefix('[')?.strip_suffix(']')?.parse().ok() };
    address(other).is_some_and(|it| address(one) == Some(it))
}
