//! The policies in the order in which they are matched, with what the choice among them needs
//! worked out beforehand.

use super::{HostPattern, Match, Mode, Policy};
use std::net::Ipv6Addr;
use std::ops::Deref;
use std::sync::Arc;

/// The policies, in the order in which they are matched.
#[derive(Clone, Debug)]
pub struct Policies {
    all: Vec<Arc<Policy>>,
    /// By policy, its path prefix as text, and its place in `demands`.
    rows: Vec<Row>,
    demands: Vec<Demands>,
    choice: Choice,
}

/// By what requests are told apart.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Choice {
    pub(super) by_host: bool,
    pub(super) by_path: bool,
    pub(super) by_method: bool,
    pub(super) letters: Letters,
}

/// What letters path prefixes have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Letters {
    /// None, or those of ASCII in lower case.
    #[default]
    Lower,
    /// Those of ASCII, in any case.
    Ascii,
    /// Those of other scripts as well, with rules of their own for their case.
    Any,
}

#[derive(Clone, Debug)]
struct Row {
    /// The prefix as a path that needs no decoding would begin; empty: every path.
    prefix: Vec<u8>,
    /// The place of its demands.
    demands: usize,
}

/// What policies ask for that ask for the same. There are few of them, however many policies there
/// are.
#[derive(Clone, Debug)]
struct Demands {
    /// By other demands, whether they ask for more in some respect. The last are those of no policy
    /// at all: what none matches is denied.
    more: Vec<bool>,
    /// Whether one of them does.
    tops: bool,
}

impl Policies {
    /// The place of the first that matches a request of which there is one reading: its method, its
    /// host, and the segments of its path, decoded.
    pub fn first_for(&self, method: &str, host: &str, path: &[Vec<u8>]) -> Option<usize> {
        self.first(method, Some(host), |it, _| path.starts_with(&it.path_prefix))
    }

    /// The place of the first that is for this method, for this host (none: an authority that names no
    /// host), and for a path of which `is_below` says whether it is below a prefix; the prefix is
    /// handed to it as text as well.
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

    /// What tells requests apart.
    pub(super) const fn choice(&self) -> Choice {
        self.choice
    }

    /// Each policy with its place, and its path prefix as text.
    pub(super) fn each(&self) -> impl Iterator<Item = (usize, &Policy, &[u8])> {
        let rows = self.all.iter().zip(&self.rows).enumerate();
        rows.map(|(place, (policy, row))| (place, &**policy, &*row.prefix))
    }

    /// Whether a request under the policy at `place` could be read as one under another that asks
    /// for more.
    pub(super) fn may_be_topped(&self, place: usize) -> bool {
        self.demands(place).is_none_or(|it| it.tops)
    }

    /// Whether the policy at `other` asks for more in some respect than that at `place`. None is
    /// that no policy matches.
    pub(super) fn asks_more(&self, other: Option<usize>, place: usize) -> bool {
        let more = || {
            let more = &self.demands(place)?.more;
            match other {
                Some(other) => more.get(self.rows.get(other)?.demands),
                None => more.last(),
            }
        };
        // What is not in the table is not taken for the weaker.
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
        // Where all of them report, nothing is refused.
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
    /// What of a request it is not for, first; none where it is for all of it.
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

    /// Whether it is for this method.
    fn holds_method(&self, method: &str) -> bool {
        self.methods.is_empty() || self.methods.iter().any(|it| it == method)
    }

    /// Whether it is for this host; none is an authority that names no host.
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

    /// A host that it holds.
    pub fn example(&self) -> String {
        match self {
            Self::Exact(host) => host.clone(),
            Self::Below(parent) => format!("any.{parent}"),
        }
    }
}

/// Whether both are the same IPv6 address, which has many spellings (RFC 5952).
fn is_same_address(one: &str, other: &str) -> bool {
    let address =
        |it: &str| -> Option<Ipv6Addr> { it.strip_prefix('[')?.strip_suffix(']')?.parse().ok() };
    address(other).is_some_and(|it| address(one) == Some(it))
}
