//! Alternative readings of the host of a request.

use std::collections::BTreeSet;
use std::net::Ipv6Addr;

/// The host in an authority.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::policy) enum Host<'a> {
    /// This host; none if there is no authority.
    Plain(Option<&'a str>),
    /// Not a plain host and port: user information, a list, or an unusual character.
    Unclear,
}

impl<'a> Host<'a> {
    /// The host of an authority, without port and trailing dot.
    pub(in crate::policy) fn of(authority: &'a str) -> Self {
        let split = if authority.starts_with('[') { literal(authority) } else { name(authority) };
        let is_port = |it: &str| it.bytes().all(|it| it.is_ascii_digit());
        match split {
            Some((host, port))
                if port.is_empty() || port.strip_prefix(':').is_some_and(is_port) =>
            {
                Self::Plain(Some(host).filter(|it| !it.is_empty()))
            }
            Some(_) | None => Self::Unclear,
        }
    }

    /// The host, if it is unambiguous.
    pub(in crate::policy) const fn plain(self) -> Option<&'a str> {
        match self {
            Self::Plain(host) => host,
            Self::Unclear => None,
        }
    }
}

/// `[address]` and the rest.
fn literal(authority: &str) -> Option<(&str, &str)> {
    let (literal, port) = authority.split_at_checked(authority.find(']')?.checked_add(1)?)?;
    let address = literal.strip_prefix('[')?.strip_suffix(']')?;
    let allowed = |it: u8| it.is_ascii_hexdigit() || it == b':' || it == b'.';
    (!address.is_empty() && address.bytes().all(allowed)).then_some((literal, port))
}

/// A name without its trailing dot, and the rest.
fn name(authority: &str) -> Option<(&str, &str)> {
    let (name, port) =
        authority.split_at_checked(authority.find(':').unwrap_or(authority.len()))?;
    let name = name.strip_suffix('.').unwrap_or(name);
    let allowed = |it: u8| it.is_ascii_alphanumeric() || matches!(it, b'-' | b'.' | b'_');
    let labels = !name.starts_with('.') && !name.ends_with('.') && !name.contains("..");
    (labels && name.bytes().all(allowed)).then_some((name, port))
}

/// The hosts that a server may find in `authority`, besides the plain one: any part of it, decoded
/// or not, and an address in any notation. If it contains a character that can be part of an
/// internationalised name, any of `all` is possible.
pub(super) fn others(authority: &str, all: impl Iterator<Item = String>) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    if !authority.is_ascii() {
        found.extend(all);
    }
    let decoded = crate::percent::decoded(authority.as_bytes());
    let decoded = decoded.map(|it| String::from_utf8_lossy(&it).into_owned());
    for text in [Some(authority), decoded.as_deref()].into_iter().flatten() {
        let is_part = |it: char| it.is_ascii_alphanumeric() || "-._".contains(it);
        found.extend(text.split(|it| !is_part(it)).map(without_dots));
        let literals = text.split('[').skip(1).filter_map(|it| it.split_once(']'));
        found.extend(literals.filter_map(|(it, _)| address(it)));
    }
    found.retain(|it| !it.is_empty());
    found
}

/// The address in the canonical form that patterns use (RFC 5952), in brackets.
fn address(text: &str) -> Option<String> {
    text.parse::<Ipv6Addr>().ok().map(|it| format!("[{it}]"))
}

fn without_dots(part: &str) -> String {
    let labels: Vec<_> = part.split('.').filter(|it| !it.is_empty()).collect();
    labels.join(".").to_ascii_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plain_host_is_a_name_or_an_address_and_perhaps_a_port() {
        for (authority, expected) in [
            ("", Host::Plain(None)),
            (":443", Host::Plain(None)),
            ("api.example.com", Host::Plain(Some("api.example.com"))),
            ("API.Example.COM:443", Host::Plain(Some("API.Example.COM"))),
            ("api.example.com.", Host::Plain(Some("api.example.com"))),
            ("api.example.com.:1", Host::Plain(Some("api.example.com"))),
            ("[::1]:443", Host::Plain(Some("[::1]"))),
        ] {
            assert_eq!(Host::of(authority), expected, "{authority}");
        }
    }

    #[test]
    fn of_an_odd_authority_each_part_may_be_the_host() {
        for (authority, expected) in [
            ("api.test,other.test", &["api.test", "other.test"][..]),
            ("user@api.test", &["api.test", "user"]),
            ("api.test:44x", &["44x", "api.test"]),
            ("api.test:443:1", &["1", "443", "api.test"]),
            ("api%2etest", &["2etest", "api", "api.test"]),
            ("api.test/x", &["api.test", "x"]),
            (".api.test", &["api.test"]),
            ("api..test", &["api.test"]),
            ("api.test..", &["api.test"]),
            ("..", &[]),
            ("[::1", &["1"]),
            ("[::1]x", &["1", "[::1]", "x"]),
            ("[0:0::1]443", &["0", "1", "443", "[::1]"]),
            ("API.test b", &["api.test", "b"]),
            ("api。test", &["all.test", "api", "test"]),
        ] {
            assert_eq!(Host::of(authority), Host::Unclear, "{authority}");
            let found = others(authority, ["all.test".to_owned()].into_iter());
            assert_eq!(
                found.iter().map(String::as_str).collect::<Vec<_>>(),
                expected,
                "{authority}"
            );
        }
    }
}
