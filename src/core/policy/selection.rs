//! Policy selection: the policy that the proxy names, else the one that an annotation of the route
//! names, else the first that matches, top to bottom.
//!
//! If the request itself decides, and could be read by another server as one under a stricter
//! policy, it is refused, so that clients cannot select a weaker policy by spelling.

use super::policies::Letters;
use super::readings::{self, Found, Host, Stricter};
use super::{Match, Policy, PolicySet};
use crate::denial::{Denial, Refusal};
use crate::explanation::{Explanation, Finding};
use crate::percent::triplet;
use crate::request::{Annotation, Request};
use memchr::memchr;
use std::sync::Arc;

impl PolicySet {
    /// The policy for a request.
    pub fn policy(&self, request: &Request<'_>) -> Result<&Arc<Policy>, Denial> {
        self.select(request, &mut Explanation::default()).map_err(|it| it.denial)
    }

    /// The same, with the detail behind a denial. Records the reason for the choice.
    pub fn select(
        &self,
        request: &Request<'_>,
        explanation: &mut Explanation,
    ) -> Result<&Arc<Policy>, Refusal> {
        if let Some(name) = request.policy {
            let named = self.policies.iter().find(|it| *it.name == *name);
            let named = explanation.record(named.ok_or(Denial::PolicyUnknown), |_| {
                let wanted = "one of that name: the proxy's context_extensions say so";
                Finding::new("policy", "named", name).wanting(wanted)
            });
            return Ok(named?);
        }
        if request.annotated != Annotation::Absent {
            return Ok(self.named_by_route(request.annotated, explanation)?);
        }
        let found = self.first_match(request, explanation);
        let policy = found.and_then(|it| self.policies.get(it.policy));
        let policy = explanation.record(policy.ok_or(Denial::PolicyUnknown), |it| match it {
            Some(policy) => Finding::new("policy", "match", format!("{}, the first", policy.name)),
            None => Finding::new("policy", "match", "none"),
        })?;
        let stricter = found.and_then(|it| self.stricter(request, it));
        stricter.map_or(Ok(policy), |it| {
            explanation.record_error(Err(it.detail.into()), || self.reading(&it))
        })
    }

    /// The author of a route is not necessarily the author of the policies, and may only choose
    /// among those that allow it.
    fn named_by_route(
        &self,
        annotated: Annotation<'_>,
        explanation: &mut Explanation,
    ) -> Result<&Arc<Policy>, Denial> {
        let (named, found) = match annotated {
            Annotation::Names(name) => {
                (self.policies.iter().find(|it| *it.name == *name), name.to_owned())
            }
            Annotation::Absent => (None, "nothing".to_owned()),
            Annotation::Unclear => (None, "several names, or something that is none".to_owned()),
        };
        let named = named.filter(|it| it.routes_may_name_it);
        explanation.record(named.ok_or(Denial::PolicyUnknown), |_| {
            let wanted =
                "one of that name with allow_route_annotation: the route's annotation says so";
            Finding::new("policy", "annotated", found).wanting(wanted)
        })
    }

    /// The first policy that matches the plain reading of the request.
    fn first_match<'a>(
        &self,
        request: &Request<'a>,
        explanation: &mut Explanation,
    ) -> Option<Found<'a>> {
        let (choice, target) = (self.policies.choice(), &request.target);
        let host = if choice.by_host { Host::of(target.authority) } else { Host::Plain(None) };
        let path = if choice.by_path { target.path_only().as_bytes() } else { b"" };
        let escaped = memchr(b'%', path).is_some();
        let first = self.policies.each().find(|(_, policy, prefix)| {
            let miss = policy.matches.miss(target.method, host.plain(), |it| {
                if escaped {
                    is_below_decoded(path, &it.path_prefix)
                } else {
                    is_below(path, prefix, <[u8]>::eq)
                }
            });
            if let Some(miss) = miss {
                explanation.note(|| {
                    let found = format!("not {}: it is for another {miss}", policy.name);
                    Finding::new("policy", "match", found)
                });
            }
            miss.is_none()
        });
        first.map(|(policy, _, _)| Found { policy, host })
    }

    /// A reading under which a policy applies that is stricter than the one found.
    fn stricter(&self, request: &Request<'_>, found: Found<'_>) -> Option<Stricter> {
        if !self.policies.may_be_topped(found.policy) || self.is_plain(request, found) {
            return None;
        }
        readings::stricter(&self.policies, request, found)
    }

    /// Whether the request has one reading, or no reading under which a stricter policy applies.
    fn is_plain(&self, request: &Request<'_>, found: Found<'_>) -> bool {
        let (choice, target) = (self.policies.choice(), &request.target);
        let path = if choice.by_path { target.path_only() } else { "/" };
        let has = |is_such: fn(&u8) -> bool, text: &str| text.as_bytes().iter().any(is_such);
        if choice.letters == Letters::Any
            || !readings::is_plain(path)
            || (choice.by_host && found.host == Host::Unclear)
            || (choice.by_method && readings::is_unusual_method(target.method))
            || readings::is_overridden(request, &self.policies)
        {
            return false;
        }
        let in_lower_case = choice.letters == Letters::Lower && !has(u8::is_ascii_uppercase, path);
        in_lower_case || !self.asks_more_in_another_case(request, path, found)
    }

    fn asks_more_in_another_case(
        &self,
        request: &Request<'_>,
        path: &str,
        found: Found<'_>,
    ) -> bool {
        let is_below = |_: &Match, prefix: &[u8]| {
            is_below(path.as_bytes(), prefix, <[u8]>::eq_ignore_ascii_case)
        };
        let first = self.policies.first(request.target.method, found.host.plain(), is_below);
        self.policies.asks_more(first, found.policy)
    }

    /// The text for a reading, for the explanation.
    fn reading(&self, stricter: &Stricter) -> Finding {
        let Stricter { detail, read_as, policy } = stricter;
        let policy = policy.and_then(|it| self.policies.get(it));
        let asks = policy.map_or_else(
            || "no policy matches, so that it is denied".to_owned(),
            |it| format!("{} matches, which is stricter", it.name),
        );
        let wanted =
            "a spelling that all servers read alike, or equally strict policies for all readings";
        Finding::new("policy", "reading", format!("{}, read as {read_as}: {asks}", detail.label()))
            .wanting(wanted)
    }
}

/// Whether a path starts with `prefix` in whole segments, compared by `are_same`.
fn is_below(path: &[u8], prefix: &[u8], are_same: fn(&[u8], &[u8]) -> bool) -> bool {
    path.split_at_checked(prefix.len()).is_some_and(|(begin, rest)| {
        are_same(begin, prefix) && (prefix.is_empty() || matches!(rest, [] | [b'/', ..]))
    })
}

/// The same for a path with escapes. Invalid escapes are left unchanged.
fn is_below_decoded(path: &[u8], prefix: &[Vec<u8>]) -> bool {
    let mut segments = path.split(|it| *it == b'/');
    prefix.is_empty()
        || segments.next().is_some_and(<[u8]>::is_empty)
            && prefix.iter().all(|wanted| {
                segments.next().is_some_and(|it| decoded(it).eq(wanted.iter().copied()))
            })
}

/// The percent-decoded octets of a segment.
fn decoded(segment: &[u8]) -> impl Iterator<Item = u8> {
    let mut rest = segment;
    std::iter::from_fn(move || {
        let (first, behind) = rest.split_first()?;
        let escape = if *first == b'%' { triplet(behind) } else { None };
        let (octet, behind) = escape.unwrap_or((*first, behind));
        rest = behind;
        Some(octet)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::examples::{policies, set, set_of};
    use crate::request::Target;

    fn find(set: &PolicySet, authority: &str, path: &str) -> Result<String, Denial> {
        let target = Target { method: "GET", scheme: "https", authority, path };
        let request = Request { target, ..Request::default() };
        set.policy(&request).map(|it| it.name.as_ref().to_owned())
    }

    #[track_caller]
    fn check(set: &PolicySet, authority: &str, path: &str, expected: Result<&str, Denial>) {
        let found = find(set, authority, path);
        assert_eq!(found, expected.map(str::to_owned), "{authority} {path}");
    }

    /// Each way to select a policy together with each other one. Routes may select `pick` and
    /// `other`.
    #[test]
    fn the_proxy_comes_before_the_route_and_the_route_before_the_first_match() {
        let mut policies = policies(&[
            "exact api.example.com",
            "below *.example.com",
            "read * /docs GET",
            "docs * /docs",
            "pick nowhere.test",
            "other nowhere.test",
            "guarded nowhere.test",
        ]);
        for policy in &mut policies {
            let policy = Arc::get_mut(policy).unwrap();
            policy.routes_may_name_it = ["pick", "other"].contains(&&*policy.name);
        }
        let set = set_of(policies);
        let one = Annotation::Names("pick");
        for (named, annotated, method, authority, path, expected) in [
            (None, Annotation::Absent, "GET", "api.example.com", "/", Some("exact")),
            (None, Annotation::Absent, "GET", "api.example.com", "/docs", Some("exact")),
            (None, Annotation::Absent, "GET", "www.example.com", "/docs", Some("below")),
            (None, Annotation::Absent, "GET", "example.com", "/docs/x", Some("read")),
            (None, Annotation::Absent, "POST", "example.com", "/docs/x", Some("docs")),
            (None, Annotation::Absent, "GET", "example.com", "/", None),
            (Some("guarded"), Annotation::Absent, "GET", "api.example.com", "/", Some("guarded")),
            (Some("guarded"), one, "GET", "api.example.com", "/", Some("guarded")),
            (Some("guarded"), Annotation::Unclear, "GET", "x", "/", Some("guarded")),
            (Some("unheard"), one, "GET", "api.example.com", "/", None),
            (None, one, "GET", "api.example.com", "/", Some("pick")),
            (None, one, "GET", "a,b", "/%2e%2e", Some("pick")),
            (None, Annotation::Names("other"), "POST", "example.com", "/docs", Some("other")),
            (None, Annotation::Names("guarded"), "GET", "api.example.com", "/", None),
            (None, Annotation::Names("exact"), "GET", "api.example.com", "/", None),
            (None, Annotation::Names("unheard"), "GET", "api.example.com", "/", None),
            (None, Annotation::Names("Pick"), "GET", "api.example.com", "/", None),
            (None, Annotation::Names(" pick"), "GET", "api.example.com", "/", None),
            (None, Annotation::Names(""), "GET", "api.example.com", "/", None),
            (None, Annotation::Unclear, "GET", "api.example.com", "/", None),
        ] {
            let target = Target { method, scheme: "https", authority, path };
            let request = Request { policy: named, annotated, target, ..Request::default() };
            let found = set.policy(&request).map(|it| &*it.name);
            assert_eq!(found, expected.ok_or(Denial::PolicyUnknown), "{request:?}");
            let mut explanation = Explanation::kept();
            assert_eq!(set.select(&request, &mut explanation).is_ok(), expected.is_some());
            let last = &explanation.steps().last().unwrap().finding;
            let way = match (named, annotated) {
                (Some(_), _) => "named",
                (None, Annotation::Absent) => "match",
                (None, Annotation::Names(_) | Annotation::Unclear) => "annotated",
            };
            assert_eq!((last.part, &*last.what), ("policy", way), "{request:?}");
            assert!(expected.is_none_or(|it| last.found.contains(it)), "{last:?}");
        }
    }

    #[test]
    fn the_policy_that_the_proxy_names_needs_no_match() {
        let set = set(&["strict api.example.com /payments", "other other.example.com"]);
        let named = |policy| {
            let target = Target { method: "GET", path: "/%2e%2e", ..Target::default() };
            let request = Request { policy: Some(policy), target, ..Request::default() };
            set.policy(&request).map(|it| it.name.as_ref().to_owned())
        };
        assert_eq!(named("strict"), Ok("strict".to_owned()));
        assert_eq!(named("other"), Ok("other".to_owned()));
        for unknown in ["", "Strict", "strict "] {
            assert_eq!(named(unknown), Err(Denial::PolicyUnknown), "{unknown}");
        }
    }

    #[test]
    fn the_first_that_matches_applies() {
        let set = set(&["a * /a", "ab * /a/b", "b * /b"]);
        check(&set, "x", "/a/b", Ok("a"));
        check(&set, "x", "/b", Ok("b"));
        check(&set, "x", "/c", Err(Denial::PolicyUnknown));
    }

    #[test]
    fn a_prefix_matches_whole_segments_before_the_query() {
        let set = set(&["strict * /payments"]);
        for path in ["/payments", "/payments/", "/payments/7", "/payments?x=/..", "/%70ayments"] {
            check(&set, "x", path, Ok("strict"));
        }
        for path in ["/", "/pay", "/paymentsx", "/Payments", "/x/payments", "/x?/payments", "", "*"]
        {
            check(&set, "x", path, Err(Denial::PolicyUnknown));
        }
    }

    #[test]
    fn hosts_compare_without_case_port_and_trailing_dot() {
        let set = set(&["one api.example.com", "below *.example.org", "six [::1]"]);
        for host in
            ["api.example.com", "API.Example.COM:443", "api.example.com.", "api.example.com.:1"]
        {
            check(&set, host, "/", Ok("one"));
        }
        for host in ["a.example.org", "a.b.example.org:8443", "A.EXAMPLE.ORG."] {
            check(&set, host, "/", Ok("below"));
        }
        check(&set, "[::1]:443", "/", Ok("six"));
        for host in ["example.com", "xapi.example.com", "example.org", "xexample.org", "", "[::2]"]
        {
            check(&set, host, "/", Err(Denial::PolicyUnknown));
        }
    }

    #[test]
    fn methods_have_case() {
        let set = set(&["read * * GET"]);
        let with = |method| {
            let target = Target { method, path: "/", ..Target::default() };
            set.policy(&Request { target, ..Request::default() }).map(|_| ())
        };
        assert_eq!(with("GET"), Ok(()));
        for method in ["get", "POST", "GETX", ""] {
            assert_eq!(with(method), Err(Denial::PolicyUnknown), "{method}");
        }
    }
}
