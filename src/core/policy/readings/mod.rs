//! How else a request can be read: other spellings of its host and path, and headers that name
//! another method or URL. What all readers read alike is what is spelled plainly.

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

/// What trying the readings of one request may cost, in octets that are looked at: some milliseconds.
/// What is odd in seven ways at once is within, at the length of most paths.
const MOST: usize = 1_000_000;

/// What it costs to hold one reading of a path against one policy.
const TEST: usize = 4;

/// What of [`MOST`] is left.
#[derive(Debug)]
struct Budget(usize);

/// There are more ways to read a request than may be tried.
#[derive(Clone, Copy, Debug)]
struct TooMany;

impl Budget {
    fn spend(&mut self, cost: usize) -> Result<(), TooMany> {
        self.0 = self.0.checked_sub(cost).ok_or(TooMany)?;
        Ok(())
    }
}

/// A reading under which another policy applies, which asks for more.
#[derive(Debug)]
pub(super) struct Stricter {
    /// What of the request is read in another way.
    pub(super) detail: Detail,
    /// What is read in its place.
    pub(super) read_as: String,
    /// The place of that policy; none where no policy matches, so that the request is denied.
    pub(super) policy: Option<usize>,
}

/// What a request was found to be at first.
#[derive(Clone, Copy, Debug)]
pub(super) struct Found<'a> {
    /// The place of its policy.
    pub(super) policy: usize,
    /// Its host.
    pub(super) host: Host<'a>,
}

/// Whether everybody reads a path alike, but for the case of its letters.
pub(super) fn is_plain(path: &str) -> bool {
    let octets = path.as_bytes();
    let odd = octets.iter().fold(false, |odd, it| odd | is_odd(*it));
    let is_in_doubt = |slash: usize| {
        let beside = |place: Option<usize>| place.and_then(|it| octets.get(it));
        beside(slash.checked_sub(1)) == Some(&b'.')
            || matches!(beside(slash.checked_add(1)), Some(b'.' | b'/'))
    };
    !odd && octets.starts_with(b"/")
        && !octets.ends_with(b".")
        && !memchr_iter(b'/', octets).any(is_in_doubt)
}

/// Whether an octet may mean something to some readers.
const fn is_odd(octet: u8) -> bool {
    matches!(octet, b'%' | b';' | b'\\' | b'#' | 0..=b' ' | 0x7f..)
}

/// Whether something besides the request line names another method or URL.
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

/// A reading of `request` under which a policy applies that asks for more than the one found.
pub(super) fn stricter(
    policies: &Policies,
    request: &Request<'_>,
    found: Found<'_>,
) -> Option<Stricter> {
    let choice = policies.choice();
    let methods = if choice.by_method { methods(policies, request) } else { BTreeSet::new() };
    let hosts = match found.host {
        Host::Odd if choice.by_host => hosts(policies, request.target.authority),
        Host::Odd | Host::Plain(_) => BTreeSet::new(),
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
            // Nobody kept them: they may be any.
            Field::Many if choice.by_path => readings.any(Detail::UrlOverridden),
            Field::Absent | Field::One(_) | Field::Many => None,
        }
    })
}

/// The methods that somebody may find besides the request's own.
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
    // Nobody kept them: they may name any, also one that no policy names.
    if [overrides.method, overrides.url].contains(&Field::Many) {
        found.extend(policies.iter().flat_map(|it| it.matches.methods.clone()));
        found.insert("-".to_owned());
    }
    // Methods have case (RFC 9110 §9.1), and some servers take `post` for POST. Most answer HEAD by
    // what they have for GET (RFC 9110 §9.3.2).
    found.insert(own.to_owned());
    let mut found: BTreeSet<_> = found.iter().map(|it| it.to_ascii_uppercase()).collect();
    if found.contains(HEAD) {
        found.insert("GET".to_owned());
    }
    found.retain(|it| it != own && !it.is_empty());
    found
}

/// What is a query to somebody who gets `text` decoded, once or twice, or as it is.
fn queries(text: &[u8]) -> impl Iterator<Item = String> {
    let once = decoded(text, false);
    let twice = decoded(&once, false);
    [text.to_vec(), once, twice].into_iter().filter_map(|it| {
        let begin = memchr(b'?', &it)?.checked_add(1)?;
        Some(String::from_utf8_lossy(it.get(begin..)?).into_owned())
    })
}

/// The method that most servers answer by what they have for GET.
const HEAD: &str = "HEAD";

/// Whether a method may be read as another one.
pub(super) fn is_odd_method(method: &str) -> bool {
    method == HEAD || method.bytes().any(|it| it.is_ascii_lowercase())
}

/// The values of `_method` in a query, by which a form asks for a method that browsers cannot send.
/// A `#`, which some proxies hand on, ends a query.
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

/// The hosts that somebody may find in an authority that names none plainly.
fn hosts(policies: &Policies, authority: &str) -> BTreeSet<String> {
    let patterns = policies.iter().flat_map(|it| &it.matches.hosts);
    host::others(authority, patterns.map(HostPattern::example))
}

/// What a request may be read as, but for its path.
struct Readings<'a> {
    policies: &'a Policies,
    found: Found<'a>,
    own: &'a str,
    methods: BTreeSet<String>,
    hosts: BTreeSet<String>,
}

impl Readings<'_> {
    /// Whoever asks for more, where there are too many readings to try them.
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

    /// What makes a policy apply that asks for more to a path of these segments.
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

/// What makes another policy apply, besides the path.
struct Picked {
    method: Option<String>,
    host: Option<String>,
    policy: Option<usize>,
}
