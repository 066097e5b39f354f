//! Alternative readings of a request: other spellings of its host and path, and headers that name
//! another method or URL. A plain request has only one reading.

mod escapes;
mod habits;
mod host;
mod path;
mod segments;

pub(super) use host::Host;

use super::HostPattern;
use super::policies::Policies;
use crate::denial::Detail;
use crate::percent;
use crate::request::{Field, Request};
use escapes::decoded;
use memchr::{memchr, memchr_iter};
use segments::Segments;
use std::collections::BTreeSet;

/// The budget for trying the readings of one request, in octets that are examined: some
/// milliseconds. Enough for seven ambiguities at once in a path of usual length.
const MOST: usize = 1_000_000;

/// The cost of matching one reading of a path against one policy.
const TEST: usize = 4;

/// The remaining part of [`MOST`].
#[derive(Debug)]
struct Budget(usize);

/// The request has more readings than the budget allows.
#[derive(Clone, Copy, Debug)]
struct TooMany;

impl Budget {
    fn spend(&mut self, cost: usize) -> Result<(), TooMany> {
        self.0 = self.0.checked_sub(cost).ok_or(TooMany)?;
        Ok(())
    }
}

/// A reading under which a stricter policy applies.
#[derive(Debug)]
pub(super) struct Stricter {
    /// The part of the request that is read differently.
    pub(super) detail: Detail,
    /// The alternative reading of it.
    pub(super) read_as: String,
    /// The index of that policy; none if no policy matches, so that the request is denied.
    pub(super) policy: Option<usize>,
}

/// The plain reading of a request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Found<'a> {
    /// The index of its policy.
    pub(super) policy: usize,
    /// Its host.
    pub(super) host: Host<'a>,
}

/// Whether a path has only one reading, apart from the case of its letters.
pub(super) fn is_plain(path: &str) -> bool {
    let octets = path.as_bytes();
    let special = octets.iter().fold(false, |special, it| special | is_special(*it));
    let is_in_doubt = |slash: usize| {
        let beside = |place: Option<usize>| place.and_then(|it| octets.get(it));
        beside(slash.checked_sub(1)) == Some(&b'.')
            || matches!(beside(slash.checked_add(1)), Some(b'.' | b'/'))
    };
    !special
        && octets.starts_with(b"/")
        && !octets.ends_with(b".")
        && !memchr_iter(b'/', octets).any(is_in_doubt)
}

/// Whether some server treats this octet specially.
const fn is_special(octet: u8) -> bool {
    matches!(octet, b'%' | b';' | b'\\' | b'#' | 0..=b' ' | 0x7f..)
}

/// Whether a header or parameter names another method or URL.
pub(super) fn is_overridden(request: &Request<'_>, policies: &Policies) -> bool {
    let choice = policies.choice();
    let names_one = |query: &str| parameters(query).next().is_some();
    let in_query = || request.target.query().is_some_and(names_one);
    let path = request.target.path_only().as_bytes();
    let in_path = || memchr(b'%', path).is_some() && queries(path).any(|it| names_one(&it));
    let overridden = || request.overrides.method != Field::Absent || in_query() || in_path();
    (choice.by_method && overridden())
        || ((choice.by_path || choice.by_method) && request.overrides.url != Field::Absent)
}

/// A reading of `request` under which a policy applies that is stricter than the one found.
pub(super) fn stricter(
    policies: &Policies,
    request: &Request<'_>,
    found: Found<'_>,
) -> Option<Stricter> {
    let choice = policies.choice();
    let methods = if choice.by_method { methods(policies, request) } else { BTreeSet::new() };
    let hosts = match found.host {
        Host::Unclear if choice.by_host => hosts(policies, request.target.authority),
        Host::Unclear | Host::Plain(_) => BTreeSet::new(),
    };
    let readings = Readings { policies, found, own: request.target.method, methods, hosts };
    let path = if choice.by_path { request.target.path_only() } else { "" };
    let spelled = policies.get(found.policy).map(|it| &*it.matches.path_prefix);
    let spelled = spelled.unwrap_or_default();
    let mut budget = Budget(MOST);
    readings.of_path(path, spelled, Detail::PathAmbiguous, &mut budget).or_else(|| {
        match request.overrides.url {
            Field::One(url) if choice.by_path => {
                let url = String::from_utf8_lossy(url);
                let path = url.split('?').next().unwrap_or_default();
                readings.of_path(path, &[], Detail::UrlOverridden, &mut budget)
            }
            // The values of repeated headers are not kept, so any is possible.
            Field::Many if choice.by_path => readings.any(Detail::UrlOverridden),
            Field::Absent | Field::One(_) | Field::Many => None,
        }
    })
}

/// The methods that a server may use instead of the request's own.
fn methods(policies: &Policies, request: &Request<'_>) -> BTreeSet<String> {
    let Request { target, overrides, .. } = request;
    let own = target.method;
    let hidden =
        |it: &[u8]| queries(it).flat_map(|it| parameters(&it).collect::<Vec<_>>()).collect();
    let mut found: BTreeSet<String> = target.query().into_iter().flat_map(parameters).collect();
    found.append(&mut hidden(target.path_only().as_bytes()));
    if let Field::One(url) = overrides.url {
        found.append(&mut hidden(url));
    }
    if let Field::One(value) = overrides.method {
        let value = String::from_utf8_lossy(value);
        found.extend(value.split(',').map(|it| it.trim().to_owned()));
    }
    // The values of repeated headers are not kept: they may name any method, even one that no
    // policy names.
    if [overrides.method, overrides.url].contains(&Field::Many) {
        found.extend(policies.iter().flat_map(|it| it.matches.methods.clone()));
        found.insert("-".to_owned());
    }
    // Methods are case-sensitive (RFC 9110 §9.1), but some servers accept `post` for POST. Most
    // answer HEAD with the handler for GET (RFC 9110 §9.3.2).
    found.insert(own.to_owned());
    let mut found: BTreeSet<_> = found.iter().map(|it| it.to_ascii_uppercase()).collect();
    if found.contains(HEAD) {
        found.insert("GET".to_owned());
    }
    found.retain(|it| it != own && !it.is_empty());
    found
}

/// The query of `text` when it is decoded once, twice or not at all.
fn queries(text: &[u8]) -> impl Iterator<Item = String> {
    let once = decoded(text, false);
    let twice = decoded(&once, false);
    [text.to_vec(), once, twice].into_iter().filter_map(|it| {
        let begin = memchr(b'?', &it)?.checked_add(1)?;
        Some(String::from_utf8_lossy(it.get(begin..)?).into_owned())
    })
}

/// The method that most servers answer with the handler for GET.
const HEAD: &str = "HEAD";

/// Whether a method may be read as another one.
pub(super) fn is_unusual_method(method: &str) -> bool {
    method == HEAD || method.bytes().any(|it| it.is_ascii_lowercase())
}

/// The values of `_method` in a query, with which HTML forms request methods that browsers cannot
/// send. The query ends at a `#`, which some proxies forward.
fn parameters(query: &str) -> impl Iterator<Item = String> {
    let text = |it: &str| {
        let text = decoded(it.replace('+', " ").as_bytes(), false);
        String::from_utf8_lossy(&text).trim().to_owned()
    };
    query.split(['&', ';', '#']).filter_map(move |pair| {
        let (name, value) = pair.split_once('=')?;
        percent::may_name(name, "_method").then(|| text(value))
    })
}

/// The hosts that a server may find in an authority that is not plain.
fn hosts(policies: &Policies, authority: &str) -> BTreeSet<String> {
    let patterns = policies.iter().flat_map(|it| &it.matches.hosts);
    host::others(authority, patterns.map(HostPattern::example))
}

/// The readings of a request, apart from its path.
struct Readings<'a> {
    policies: &'a Policies,
    found: Found<'a>,
    own: &'a str,
    methods: BTreeSet<String>,
    hosts: BTreeSet<String>,
}

impl Readings<'_> {
    /// A stricter policy, for a request with too many readings to try.
    fn any(&self, detail: Detail) -> Option<Stricter> {
        let mut all = (0..self.policies.len()).map(Some).chain([None]);
        let policy = all.find(|it| self.policies.asks_more(*it, self.found.policy))?;
        Some(Stricter { detail, read_as: "anything".to_owned(), policy })
    }

    fn of_path(
        &self,
        path: &str,
        spelled: &[Vec<u8>],
        detail: Detail,
        budget: &mut Budget,
    ) -> Option<Stricter> {
        let others = self.methods.len().saturating_add(1);
        let others = others.saturating_mul(self.hosts.len().saturating_add(1));
        let tests = others.saturating_mul(self.policies.len()).saturating_mul(TEST);
        let mut picked = None;
        let segments = path::find(path, spelled, budget, |segments, budget| {
            budget.spend(tests)?;
            picked = self.pick(segments, spelled);
            Ok(picked.is_some())
        });
        let Ok(segments) = segments else { return self.any(detail) };
        let segments = segments?;
        let Picked { method, host, policy } = picked?;
        let (detail, read_as) = match (method, host) {
            (Some(method), _) => (Detail::MethodAmbiguous, method),
            (None, Some(host)) => (Detail::HostAmbiguous, host),
            (None, None) => {
                let text = |it: &[u8]| format!("/{}", it.escape_ascii());
                (detail, segments.iter().map(text).collect())
            }
        };
        Some(Stricter { detail, read_as, policy })
    }

    /// The method and host with which a stricter policy applies to a path of these segments.
    fn pick(&self, segments: &Segments, spelled: &[Vec<u8>]) -> Option<Picked> {
        let methods = || std::iter::once(None).chain(self.methods.iter().map(Some));
        let hosts = || std::iter::once(None).chain(self.hosts.iter().map(Some));
        let each = methods().flat_map(|method| hosts().map(move |host| (method, host)));
        let mut each =
            each.flat_map(|(method, host)| [false, true].map(|any_case| (method, host, any_case)));
        each.find_map(|(method, host, any_case)| {
            let own = (self.own, self.found.host.plain());
            let method_read = method.map_or(own.0, String::as_str);
            let host_read = host.map(String::as_str).or(own.1);
            let policy = self.policies.first(method_read, host_read, |it, _| {
                segments.begin_with(&it.path_prefix, any_case, spelled)
            });
            let more = self.policies.asks_more(policy, self.found.policy);
            more.then(|| Picked { method: method.cloned(), host: host.cloned(), policy })
        })
    }
}

/// The method and host, if they differ from the request's own, and the policy that then applies.
struct Picked {
    method: Option<String>,
    host: Option<String>,
    policy: Option<usize>,
}
