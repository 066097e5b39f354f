//! The part of the configuration that selects requests by host, path and method.

use super::is_token;
use crate::config::file;
use crate::config::problem::{Findings, Path, quoted};
use keybound_core::percent::decoded;
use keybound_core::policy::{HostPattern, Match};
use std::net::Ipv6Addr;

pub(super) fn compile(given: file::Match, at: &Path, findings: &mut Findings) -> Match {
    let hosts = list(given.hosts, &at.key("hosts"), "host", host, findings);
    let methods = list(given.methods, &at.key("methods"), "method", method, findings);
    let path_prefix = match given.path_prefix.as_deref().map(segments) {
        None => vec![],
        Some(Ok(segments)) => segments,
        Some(Err(message)) => {
            findings.problem(&at.key("path_prefix"), message);
            vec![]
        }
    };
    Match { hosts, path_prefix, methods }
}

fn list<T>(
    given: Option<Vec<String>>,
    at: &Path,
    what: &str,
    read: fn(&str) -> Result<T, String>,
    findings: &mut Findings,
) -> Vec<T> {
    let Some(given) = given else { return vec![] };
    if given.is_empty() {
        findings.problem(at, format!("must not be empty: leave it out to match every {what}"));
    }
    let mut found = vec![];
    for (index, given) in given.iter().enumerate() {
        match read(given) {
            Ok(one) => found.push(one),
            Err(message) => findings.problem(&at.index(index), message),
        }
    }
    found
}

fn host(given: &str) -> Result<HostPattern, String> {
    let lower = given.to_ascii_lowercase();
    let host = lower.strip_suffix('.').unwrap_or(&lower);
    let wrong = |what: &str| Err(format!("{} {what}", quoted(given)));
    if let Some(address) = host.strip_prefix('[').and_then(|it| it.strip_suffix(']')) {
        return match address.parse::<Ipv6Addr>() {
            Ok(_) => Ok(HostPattern::Exact(host.to_owned())),
            Err(_) => wrong("is no IPv6 address"),
        };
    }
    if host == "*" {
        return wrong("is every host: leave `hosts` out for that");
    }
    if host.contains(':') {
        return wrong("has a port or a scheme: write the host alone");
    }
    let (below, name) = match host.strip_prefix("*.") {
        Some(name) => (true, name),
        None => (false, host),
    };
    if name.contains('*') {
        return wrong("has a wildcard inside: only a leading `*.` is allowed");
    }
    if !is_host_name(name) {
        return wrong("is not a host name: write it like api.example.com or *.example.com");
    }
    let name = name.to_owned();
    Ok(if below { HostPattern::Below(name) } else { HostPattern::Exact(name) })
}

fn is_host_name(name: &str) -> bool {
    let allowed = |it: u8| it.is_ascii_alphanumeric() || it == b'-' || it == b'_';
    let label = |it: &str| (1..=63).contains(&it.len()) && it.bytes().all(allowed);
    name.len() <= 253 && name.split('.').all(label)
}

fn method(given: &str) -> Result<String, String> {
    let upper = given.to_ascii_uppercase();
    if !is_token(given) {
        Err(format!("{} is not a method: write it like GET", quoted(given)))
    } else if upper != given {
        Err(format!("methods are case-sensitive: write {upper}"))
    } else {
        Ok(upper)
    }
}

/// The segments of a path prefix, percent-decoded. `/` has none.
fn segments(given: &str) -> Result<Vec<Vec<u8>>, String> {
    let wrong = |what: &str| format!("{} {what}", quoted(given));
    let path = given.strip_prefix('/').ok_or_else(|| wrong("must begin with `/`"))?;
    if path.is_empty() {
        return Ok(vec![]);
    }
    if path.contains(['*', '{', '}']) {
        return Err(wrong(
            "is not a pattern: it matches each path that begins with its whole segments, as \
             `/users` matches /users/7. For the literal characters write %2A, %7B, %7D",
        ));
    }
    if path.contains(['?', '#', ' ']) {
        return Err(wrong("has a query, a fragment or a space: only the path is matched"));
    }
    let mut found = vec![];
    for segment in path.split('/') {
        let segment =
            decoded(segment.as_bytes()).ok_or_else(|| wrong("has a `%` without two digits"))?;
        match segment.as_slice() {
            b"" => return Err(wrong("has an empty segment: remove a `/`, also at the end")),
            b"." | b".." => return Err(wrong("has a dot segment: write the path without it")),
            odd if odd.iter().any(|it| b"/\\;".contains(it) || it.is_ascii_control()) => {
                return Err(wrong("has a character that is not allowed in a path to match"));
            }
            _ => found.push(segment),
        }
    }
    Ok(found)
}

/// Splits a match into parts with one host and one method each, which other matches may cover one
/// by one.
pub(super) fn parts(whole: &Match) -> impl Iterator<Item = Match> {
    each(&whole.hosts).flat_map(move |hosts| {
        each(&whole.methods).map(move |methods| {
            let (hosts, methods) = (hosts.to_vec(), methods.to_vec());
            Match { hosts, methods, path_prefix: whole.path_prefix.clone() }
        })
    })
}

/// Each item on its own. An empty list stands for all, and is one part.
fn each<T>(items: &[T]) -> impl Iterator<Item = &[T]> {
    let all = items.is_empty().then_some(items);
    all.into_iter().chain(items.chunks(1))
}

/// Whether `one` matches every request that `other` matches.
pub(super) fn covers(one: &Match, other: &Match) -> bool {
    let all_hosts = one.hosts.is_empty()
        || !other.hosts.is_empty()
            && other.hosts.iter().all(|it| one.hosts.iter().any(|cover| covers_host(cover, it)));
    let all_methods = one.methods.is_empty()
        || !other.methods.is_empty() && other.methods.iter().all(|it| one.methods.contains(it));
    all_hosts && all_methods && other.path_prefix.starts_with(&one.path_prefix)
}

fn covers_host(one: &HostPattern, other: &HostPattern) -> bool {
    let is_below =
        |host: &str, suffix: &str| host.strip_suffix(suffix).is_some_and(|it| it.ends_with('.'));
    match (one, other) {
        (HostPattern::Exact(one), HostPattern::Exact(other)) => one == other,
        (HostPattern::Exact(_), HostPattern::Below(_)) => false,
        (HostPattern::Below(one), HostPattern::Exact(other)) => is_below(other, one),
        (HostPattern::Below(one), HostPattern::Below(other)) => {
            one == other || is_below(other, one)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_a_name_or_all_names_below_one() {
        for (text, expected) in [
            ("API.Example.com", Some(HostPattern::Exact("api.example.com".to_owned()))),
            ("api.example.com.", Some(HostPattern::Exact("api.example.com".to_owned()))),
            ("*.Example.com", Some(HostPattern::Below("example.com".to_owned()))),
            ("localhost", Some(HostPattern::Exact("localhost".to_owned()))),
            ("10.0.0.1", Some(HostPattern::Exact("10.0.0.1".to_owned()))),
            ("[2001:DB8::1]", Some(HostPattern::Exact("[2001:db8::1]".to_owned()))),
            ("", None),
            (".", None),
            ("*", None),
            ("*.", None),
            ("*example.com", None),
            ("a.*.com", None),
            ("*.*.com", None),
            ("api.example.com:443", None),
            ("https://api.example.com", None),
            ("api..example.com", None),
            (".example.com", None),
            ("api.example.com..", None),
            ("api.example.com/x", None),
            ("bücher.example", None),
            ("a b", None),
            ("::1", None),
            ("[::1", None),
            ("[::1]:80", None),
        ] {
            assert_eq!(host(text).ok(), expected, "{text}");
        }
    }

    #[test]
    fn a_path_prefix_is_whole_segments() {
        for (text, expected) in [
            ("/", Some(vec![])),
            ("/pay", Some(vec!["pay"])),
            ("/pay/v1", Some(vec!["pay", "v1"])),
            ("/p%61y/b%C3%bcro", Some(vec!["pay", "büro"])),
            ("/büro", Some(vec!["büro"])),
            ("/...", Some(vec!["..."])),
            ("/a%25b", Some(vec!["a%b"])),
            ("", None),
            ("pay", None),
            ("*", None),
            ("//", None),
            ("/pay/", None),
            ("/pay//v1", None),
            ("/pay/..", None),
            ("/./pay", None),
            ("/pay/%2e%2E", None),
            ("/pay%2fv1", None),
            ("/pay%5cv1", None),
            ("/pay\\v1", None),
            ("/pay%00", None),
            ("/pay?x", None),
            ("/pay#x", None),
            ("/pay%3Fx", Some(vec!["pay?x"])),
            ("/pay x", None),
            ("/pay%20x", Some(vec!["pay x"])),
            ("/pay;x", None),
            ("/pay%3bx", None),
            ("/pay%", None),
            ("/pay%4", None),
            ("/pay%zz", None),
            ("/pay%+1", None),
            ("/pay/*", None),
            ("/pay*", None),
            ("/**", None),
            ("/users/{id}", None),
            ("/users/}", None),
            ("/pay/%2A", Some(vec!["pay", "*"])),
            ("/users/%7Bid%7d", Some(vec!["users", "{id}"])),
            ("/pay/:id", Some(vec!["pay", ":id"])),
        ] {
            let expected = expected.map(|it: Vec<&str>| {
                it.into_iter().map(|it| it.as_bytes().to_vec()).collect::<Vec<_>>()
            });
            assert_eq!(segments(text).ok(), expected, "{text}");
        }
    }

    #[test]
    fn a_wider_match_covers_a_narrower_one() {
        let of = |hosts: &[&str], path: &str, methods: &[&str]| Match {
            hosts: hosts.iter().map(|it| host(it).unwrap()).collect(),
            path_prefix: segments(path).unwrap(),
            methods: methods.iter().map(|it| method(it).unwrap()).collect(),
        };
        let narrow = of(&["a.example.com"], "/pay/v1", &["GET"]);
        for (wide, expected) in [
            (of(&[], "/", &[]), true),
            (of(&["a.example.com"], "/pay/v1", &["GET"]), true),
            (of(&["*.example.com"], "/pay", &["GET", "POST"]), true),
            (of(&["*.com"], "/", &[]), true),
            (of(&["*.a.example.com"], "/", &[]), false),
            (of(&["b.example.com"], "/", &[]), false),
            (of(&["*.ple.com"], "/", &[]), false),
            (of(&[], "/pa", &[]), false),
            (of(&[], "/pay/v1/x", &[]), false),
            (of(&[], "/", &["POST"]), false),
        ] {
            assert_eq!(covers(&wide, &narrow), expected, "{wide:?}");
        }
        assert!(!covers(&narrow, &of(&[], "/pay/v1", &["GET"])));
        assert!(!covers(&narrow, &of(&["a.example.com"], "/pay/v1", &[])));
        assert!(covers(&of(&["*.b.c"], "/", &[]), &of(&["*.a.b.c"], "/", &[])));
        assert!(!covers(&of(&["*.a.b.c"], "/", &[]), &of(&["*.b.c"], "/", &[])));
    }
}
