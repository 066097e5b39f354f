//! Knows which policy a request falls under: the one that the proxy names, else the one that the
//! annotations of its route name, else the first that matches, top to bottom.
//!
//! What two readers could read differently is refused where the choice hangs on it, so that
//! nobody picks a weaker policy by spelling.

use super::{HostPattern, Match, Policy, PolicySet};
use crate::denial::Denial;
use crate::request::{Annotation, Request, Target};
use crate::trail::{Finding, Trail};
use std::sync::Arc;

impl PolicySet {
    /// The policy for a request.
    pub fn policy(&self, request: &Request<'_>) -> Result<&Arc<Policy>, Denial> {
        self.select(request, &mut Trail::default())
    }

    /// The same. Tells `trail` why it is this one.
    pub fn select(&self, request: &Request<'_>, trail: &mut Trail) -> Result<&Arc<Policy>, Denial> {
        if let Some(name) = request.policy {
            let named = self.policies.iter().find(|it| *it.name == *name);
            return trail.tell(named.ok_or(Denial::PolicyUnknown), |_| {
                let wanted = "one of that name: the proxy's context_extensions say so";
                Finding::new("policy", "named", name).wanting(wanted)
            });
        }
        if request.annotated != Annotation::Absent {
            return self.named_by_route(request.annotated, trail);
        }
        let found = self.first_match(&request.target, trail);
        let found = trail.fault(found, || {
            let wanted = "a method, a host and a path that everybody reads alike";
            Finding::new("policy", "target", "ambiguous").wanting(wanted)
        })?;
        trail.tell(found.ok_or(Denial::PolicyUnknown), |it| match it {
            Some(policy) => Finding::new("policy", "match", format!("{}, the first", policy.name)),
            None => Finding::new("policy", "match", "none"),
        })
    }

    /// Who may write a route need not be who writes policies: it has what it was given to choose
    /// from.
    fn named_by_route(
        &self,
        annotated: Annotation<'_>,
        trail: &mut Trail,
    ) -> Result<&Arc<Policy>, Denial> {
        let (named, found) = match annotated {
            Annotation::Names(name) => {
                (self.policies.iter().find(|it| *it.name == *name), name.to_owned())
            }
            Annotation::Absent => (None, "nothing".to_owned()),
            Annotation::Unclear => (None, "several names, or something that is none".to_owned()),
        };
        let named = named.filter(|it| it.routes_may_name_it);
        trail.tell(named.ok_or(Denial::PolicyUnknown), |_| {
            let wanted =
                "one of that name with allow_route_annotation: the route's annotation says so";
            Finding::new("policy", "annotated", found).wanting(wanted)
        })
    }

    fn first_match(
        &self,
        target: &Target<'_>,
        trail: &mut Trail,
    ) -> Result<Option<&Arc<Policy>>, Denial> {
        let by_host = self.policies.iter().any(|it| !it.matches.hosts.is_empty());
        let by_path = self.policies.iter().any(|it| !it.matches.path_prefix.is_empty());
        let host = if by_host { host_of(target.authority)? } else { None };
        let path = if by_path { Path::read(target.path_only())? } else { Path::NONE };
        let first = |method: &str, reading, trail: &mut Trail| {
            self.policies.iter().find(|policy| {
                let miss = policy.matches.miss(method, host, path, reading);
                if let Some(miss) = miss {
                    trail.note(|| {
                        let found = format!("not {}: it is for another {miss}", policy.name);
                        Finding::new("policy", "match", found)
                    });
                }
                miss.is_none()
            })
        };
        let found = first(target.method, Reading::Whole, trail);
        // Some servers cut `;parameters` off a segment, others do not. Methods have case (RFC 9110
        // §9.1), but some servers take `post` for POST. All of them must end up here.
        let upper = if found.is_some() { in_upper_case(target.method) } else { None };
        if upper.is_some() || path.has_parameters {
            let methods = [Some(target.method), upper.as_deref()];
            let cut = path.has_parameters.then_some(Reading::WithoutParameters);
            let readings = [Some(Reading::Whole), cut];
            let agrees =
                |method: &str, reading| same(found, first(method, reading, &mut Trail::default()));
            let all_agree = methods.into_iter().flatten().all(|method| {
                readings.into_iter().flatten().all(|reading| agrees(method, reading))
            });
            if !all_agree {
                return Err(Denial::RequestMalformed);
            }
        }
        Ok(found)
    }
}

/// A method in upper case, unless it is.
fn in_upper_case(method: &str) -> Option<String> {
    let lower = method.bytes().any(|it| it.is_ascii_lowercase());
    lower.then(|| method.to_ascii_uppercase())
}

fn same(a: Option<&Arc<Policy>>, b: Option<&Arc<Policy>>) -> bool {
    match (a, b) {
        (Some(a), Some(b)) => Arc::ptr_eq(a, b),
        (None, None) => true,
        (Some(_), None) | (None, Some(_)) => false,
    }
}

impl Match {
    /// What of a request it is not for; nothing when it is for the request.
    fn miss(
        &self,
        method: &str,
        host: Option<&str>,
        path: Path<'_>,
        reading: Reading,
    ) -> Option<&'static str> {
        let any_host = |host| self.hosts.iter().any(|it| it.holds(host));
        if !self.methods.is_empty() && !self.methods.iter().any(|it| it == method) {
            Some("method")
        } else if !self.hosts.is_empty() && !host.is_some_and(any_host) {
            Some("host")
        } else if !path.begins_with(&self.path_prefix, reading) {
            Some("path")
        } else {
            None
        }
    }
}

impl HostPattern {
    fn holds(&self, host: &str) -> bool {
        match self {
            Self::Exact(exact) => host.eq_ignore_ascii_case(exact),
            Self::Below(parent) => host
                .len()
                .checked_sub(parent.len())
                .and_then(|it| host.split_at_checked(it))
                .is_some_and(|(labels, rest)| {
                    rest.eq_ignore_ascii_case(parent) && labels.len() > 1 && labels.ends_with('.')
                }),
        }
    }
}

/// The host of an authority, without port and trailing dot; none when it is empty.
///
/// Anything but a plain host and port (user information, a list, an odd character) is refused.
fn host_of(authority: &str) -> Result<Option<&str>, Denial> {
    let (host, port) =
        if authority.starts_with('[') { split_literal(authority) } else { split_name(authority) }
            .ok_or(Denial::RequestMalformed)?;
    let is_port = |it: &str| it.bytes().all(|it| it.is_ascii_digit());
    if !port.is_empty() && !port.strip_prefix(':').is_some_and(is_port) {
        return Err(Denial::RequestMalformed);
    }
    Ok(Some(host).filter(|it| !it.is_empty()))
}

/// `[address]` and what follows.
fn split_literal(authority: &str) -> Option<(&str, &str)> {
    let (literal, port) = authority.split_at_checked(authority.find(']')?.checked_add(1)?)?;
    let address = literal.strip_prefix('[')?.strip_suffix(']')?;
    let allowed = |it: u8| it.is_ascii_hexdigit() || it == b':' || it == b'.';
    (!address.is_empty() && address.bytes().all(allowed)).then_some((literal, port))
}

/// A name without its trailing dot, and what follows.
fn split_name(authority: &str) -> Option<(&str, &str)> {
    let (name, port) =
        authority.split_at_checked(authority.find(':').unwrap_or(authority.len()))?;
    let name = name.strip_suffix('.').unwrap_or(name);
    let allowed = |it: u8| it.is_ascii_alphanumeric() || matches!(it, b'-' | b'.' | b'_');
    let labels = !name.starts_with('.') && !name.ends_with('.') && !name.contains("..");
    (labels && name.bytes().all(allowed)).then_some((name, port))
}

/// How a segment of a path is read.
#[derive(Clone, Copy)]
enum Reading {
    Whole,
    WithoutParameters,
}

/// A path of which there is one reading, but for parameters.
#[derive(Clone, Copy)]
struct Path<'a> {
    path: &'a str,
    has_parameters: bool,
}

impl<'a> Path<'a> {
    /// For a request that has none (CONNECT), or where no policy asks.
    const NONE: Self = Self { path: "", has_parameters: false };

    fn read(path: &'a str) -> Result<Self, Denial> {
        if path.is_empty() {
            return Ok(Self::NONE);
        }
        let segments = path.strip_prefix('/').ok_or(Denial::RequestMalformed)?;
        let mut segments = segments.split('/').peekable();
        while let Some(segment) = segments.next() {
            let last = segments.peek().is_none();
            if !is_plain(segment) || (segment.is_empty() && !last) {
                return Err(Denial::RequestMalformed);
            }
        }
        Ok(Self { path, has_parameters: has_parameters(path) })
    }

    fn begins_with(self, prefix: &[Vec<u8>], reading: Reading) -> bool {
        if prefix.is_empty() {
            return true;
        }
        let Some(rest) = self.path.strip_prefix('/') else { return false };
        let mut segments = rest.split('/');
        prefix.iter().all(|wanted| {
            segments.next().is_some_and(|it| decoded(it, reading).eq(wanted.iter().copied()))
        })
    }
}

fn has_parameters(path: &str) -> bool {
    [";", "%3b", "%3B"].iter().any(|it| path.contains(it))
}

/// Whether everybody reads a segment alike: no dot segment, no separator or NUL in disguise,
/// nothing that is not a well-formed escape.
fn is_plain(segment: &str) -> bool {
    let raw = segment.bytes().any(|it| it.is_ascii_control() || it == b'#');
    let escapes_are_whole = segment.split('%').skip(1).all(|it| escaped(it.as_bytes()).is_some());
    let mut before = 0;
    let separated = decoded(segment, Reading::Whole).any(|it| {
        let overlong = begins_overlong(std::mem::replace(&mut before, it), it);
        overlong || matches!(it, b'/' | b'\\' | 0)
    });
    let mut name = decoded(segment, Reading::WithoutParameters);
    let dots =
        matches!((name.next(), name.next(), name.next()), (Some(b'.'), None | Some(b'.'), None));
    !raw && escapes_are_whole && !separated && !dots
}

/// Whether two octets in a row begin a character that is written longer than it need be, which is
/// not UTF-8 (RFC 3629 §3). Some readers take `%c0%af` for a slash all the same, and those of
/// RFC 2279 what has five octets and six.
const fn begins_overlong(octet: u8, next: u8) -> bool {
    matches!(
        (octet, next),
        (_, 0xc0 | 0xc1)
            | (0xe0, 0x80..0xa0)
            | (0xf0, 0x80..0x90)
            | (0xf8, 0x80..0x88)
            | (0xfc, 0x80..0x84)
    )
}

/// The octet that two hexadecimal digits at the beginning of `text` spell.
fn escaped(text: &[u8]) -> Option<u8> {
    let digits = text.get(..2).filter(|it| it.iter().all(u8::is_ascii_hexdigit))?;
    u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

/// The octets of a segment, its percent-encoding undone.
fn decoded(segment: &str, reading: Reading) -> impl Iterator<Item = u8> {
    let mut rest = segment.as_bytes();
    std::iter::from_fn(move || {
        let (first, behind) = rest.split_first()?;
        let escape = if *first == b'%' { escaped(behind) } else { None };
        rest = if escape.is_some() { behind.get(2..).unwrap_or_default() } else { behind };
        Some(escape.unwrap_or(*first))
    })
    .take_while(move |it| match reading {
        Reading::Whole => true,
        Reading::WithoutParameters => *it != b';',
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::SenderConstraint;

    /// Policies from `name host-pattern path-prefix method`, `*` where all match.
    fn policies(rows: &[&str]) -> Vec<Arc<Policy>> {
        let read = |row: &&str| {
            let columns: Vec<&str> = row.split(' ').collect();
            let host = |it: &str| match it.strip_prefix("*.") {
                Some(parent) => HostPattern::Below(parent.to_owned()),
                None => HostPattern::Exact(it.to_owned()),
            };
            let some = |it: &&str| *it != "*";
            Arc::new(Policy {
                matches: Match {
                    hosts: columns.get(1).copied().filter(some).map(host).into_iter().collect(),
                    path_prefix: columns.get(2).copied().filter(some).map_or(vec![], |it| {
                        it.split('/').skip(1).map(|it| it.as_bytes().to_vec()).collect()
                    }),
                    methods: columns.get(3).map(|it| (*it).to_owned()).into_iter().collect(),
                },
                ..Policy::new(columns[0], SenderConstraint::Certificate)
            })
        };
        rows.iter().map(read).collect()
    }

    fn set(rows: &[&str]) -> PolicySet {
        PolicySet {
            issuers: vec![],
            policies: policies(rows),
            client_certificate: crate::client_certificate::Source::Peer,
            limits: crate::policy::Limits {
                token_bytes: 1,
                check_deadline: std::time::Duration::ZERO,
                concurrent_checks: 1,
                token_cache: crate::policy::TokenCacheLimits::default(),
            },
            upstream: crate::policy::Upstream::default(),
            proofs: crate::policy::ProofRules::default(),
        }
    }

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

    /// Each way of choosing beside each other one. `pick` and `other` are for routes to choose.
    #[test]
    fn the_proxy_comes_before_the_route_and_the_route_before_the_first_match() {
        let mut set = set(&[
            "exact api.example.com",
            "below *.example.com",
            "read * /docs GET",
            "docs * /docs",
            "pick nowhere.test",
            "other nowhere.test",
            "guarded nowhere.test",
        ]);
        for policy in &mut set.policies {
            let policy = Arc::get_mut(policy).unwrap();
            policy.routes_may_name_it = ["pick", "other"].contains(&&*policy.name);
        }
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
            let mut trail = Trail::kept();
            assert_eq!(set.select(&request, &mut trail).is_ok(), expected.is_some());
            let last = &trail.steps().last().unwrap().finding;
            let way = match (named, annotated) {
                (Some(_), _) => "named",
                (None, Annotation::Absent) => "match",
                (None, Annotation::Names(_) | Annotation::Unclear) => "annotated",
            };
            assert_eq!((last.part, last.what), ("policy", way), "{request:?}");
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
        for path in ["/", "/pay", "/paymentsx", "/Payments", "/x/payments", "/x?/payments", ""] {
            check(&set, "x", path, Err(Denial::PolicyUnknown));
        }
    }

    #[test]
    fn a_path_with_two_readings_is_refused_where_policies_choose_by_path() {
        let (by_path, by_host) = (set(&["strict * /payments", "rest"]), set(&["all example.com"]));
        for path in [
            "/x/../payments",
            "/./payments",
            "/x/%2e%2e/payments",
            "/x/.%2E/payments",
            "/..",
            "/x/.",
            "//payments",
            "/x//y",
            "/x%2fpayments",
            "/x%2Fpayments",
            "/x%5cpayments",
            "/x\\payments",
            "/payments%00",
            "/payments\0",
            "/payments#x",
            "/x/..;/payments",
            "/x/..;a=b/payments",
            "/x/..%3b/payments",
            "/%",
            "/%7",
            "/%zz",
            "/%+1",
            "/x/%c0%ae%c0%ae/payments",
            "/x%C0%AFpayments",
            "/x%e0%80%afpayments",
            "/x/%c1%9c",
            "/x/%e0%9f%bf",
            "/x%f0%80%80%afpayments",
            "/x/%f0%8f%bf%bf",
            "/x%f8%80%80%80%afpayments",
            "/x/%f8%87%bf%bf%bf",
            "/x%fc%80%80%80%80%afpayments",
            "/x/%fc%83%bf%bf%bf%bf",
            "payments",
            "*",
            "https://x/payments",
        ] {
            check(&by_path, "x", path, Err(Denial::RequestMalformed));
            check(&by_host, "example.com", path, Ok("all"));
        }
        for path in [
            "/x/...",
            "/x/..a",
            "/x/a..",
            "/x%20y",
            "/x%25",
            "/x+y",
            "/é",
            "/%c3%a9",
            "/%c2%80",
            "/%e0%a0%80",
            "/%f0%90%80%80",
            "/%f8%88%80%80%80",
            "/%fc%84%80%80%80%80",
        ] {
            check(&by_path, "x", path, Ok("rest"));
        }
    }

    #[test]
    fn parameters_of_a_segment_may_not_change_the_policy() {
        let set = set(&["strict * /payments", "rest"]);
        check(&set, "x", "/payments;v=1/x", Err(Denial::RequestMalformed));
        check(&set, "x", "/payments%3Bv=1", Err(Denial::RequestMalformed));
        check(&set, "x", "/payments/x;v=1", Ok("strict"));
        check(&set, "x", "/other;v=1", Ok("rest"));
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
    fn an_authority_that_is_no_host_is_refused_where_policies_choose_by_host() {
        let (by_host, by_path) = (set(&["one api.example.com", "rest"]), set(&["rest"]));
        for odd in [
            "api.example.com,other.example.com",
            "user@api.example.com",
            "api.example.com:44x",
            "api.example.com:443:1",
            "api%2eexample.com",
            "api.example.com/x",
            ".example.com",
            "api..example.com",
            "api.example.com..",
            "..",
            "[::1",
            "[::1]x",
            "[::1]443",
            "[x]",
            "bücher.example",
            "a b",
        ] {
            check(&by_host, odd, "/", Err(Denial::RequestMalformed));
            check(&by_path, odd, "/", Ok("rest"));
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

    #[test]
    fn the_case_of_a_method_may_not_change_the_policy() {
        let with = |rows: &[&str], method| choose(rows, method, "/");
        let by_method = ["strict * * POST", "rest"];
        assert_eq!(with(&by_method, "POST"), Ok("strict".to_owned()));
        assert_eq!(with(&by_method, "PUT"), Ok("rest".to_owned()));
        assert_eq!(with(&by_method, "put"), Ok("rest".to_owned()));
        assert_eq!(with(&by_method, "post"), Err(Denial::RequestMalformed));
        assert_eq!(with(&by_method, "Post"), Err(Denial::RequestMalformed));
        assert_eq!(with(&["rest", "late * * POST"], "post"), Ok("rest".to_owned()));
    }

    fn choose(rows: &[&str], method: &str, path: &str) -> Result<String, Denial> {
        let target = Target { method, path, ..Target::default() };
        let request = Request { target, ..Request::default() };
        set(rows).policy(&request).map(|it| it.name.to_string())
    }

    /// An upstream may read both ways at once.
    #[test]
    fn nor_may_the_case_of_a_method_together_with_parameters() {
        let both = ["strict * /payments POST", "rest"];
        for (method, path, expected) in [
            ("POST", "/payments", Ok("strict")),
            ("post", "/payments", Err(Denial::RequestMalformed)),
            ("POST", "/payments;x", Err(Denial::RequestMalformed)),
            ("post", "/payments;x", Err(Denial::RequestMalformed)),
            ("POST", "/payments/7;x", Ok("strict")),
            ("post", "/payments/7;x", Err(Denial::RequestMalformed)),
            ("get", "/payments;x", Ok("rest")),
            ("post", "/other;x", Ok("rest")),
        ] {
            let found = choose(&both, method, path);
            assert_eq!(found, expected.map(str::to_owned), "{method} {path}");
        }
    }
}
