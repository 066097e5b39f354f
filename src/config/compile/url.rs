//! The URLs that a configuration may name for fetching: `https`, and `http` to loopback, or to other
//! machines for an issuer with `allow_http`.

use crate::config::problem::quoted;
use http::Uri;
use http::uri::Authority;
use std::net::{IpAddr, Ipv6Addr};

/// How a URL is fetched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fetched {
    /// Over TLS.
    Https,
    /// Without encryption, from this machine.
    Locally,
    /// Without encryption, from another machine.
    Plainly,
}

/// Whether other machines may be asked without encryption.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum PlainHttp {
    /// The issuer has `allow_http: true`.
    Allowed,
    /// The issuer could have it.
    Refused,
    /// Nothing would allow it.
    Never,
}

impl PlainHttp {
    pub(super) const fn of(allow_http: bool) -> Self {
        if allow_http { Self::Allowed } else { Self::Refused }
    }
}

/// How `text` is fetched, if it may be. The error is a sentence.
pub(super) fn fetched(text: &str, plain: PlainHttp) -> Result<Fetched, String> {
    let wrong = |what: &str| Err(format!("{} {what}", quoted(text)));
    // The parser drops a fragment silently.
    if text.contains('#') {
        return wrong("has a fragment: remove it");
    }
    let Ok(uri) = text.parse::<Uri>() else { return wrong("is not a URL") };
    let Some(authority) = uri.authority() else {
        return wrong("is not a URL with a host: write https://HOST/PATH");
    };
    if authority.as_str().contains('@') {
        return wrong("has credentials in it: remove them");
    }
    if !is_complete(authority) {
        return wrong("has no proper host and port");
    }
    match uri.scheme_str() {
        Some("https") => Ok(Fetched::Https),
        Some("http") if is_loopback(authority.host()) => Ok(Fetched::Locally),
        Some("http") => match plain {
            PlainHttp::Allowed => Ok(Fetched::Plainly),
            PlainHttp::Refused => wrong(
                "would be fetched without encryption: it must be https, unless the network protects \
                 it, and the issuer has `allow_http: true`",
            ),
            PlainHttp::Never => wrong("would be fetched without encryption: it must be https"),
        },
        Some(_) | None => wrong("must begin with https://"),
    }
}

/// How the metadata of `issuer` is fetched, if it may be (RFC 8414 §2).
pub(super) fn fetched_metadata(issuer: &str, plain: PlainHttp) -> Result<Fetched, String> {
    if issuer.contains('?') {
        return Err(format!("{} has a query: such an issuer has no metadata", quoted(issuer)));
    }
    fetched(issuer, plain)
}

fn is_complete(authority: &Authority) -> bool {
    let host = authority.host();
    let rest = authority.as_str().strip_prefix(host).unwrap_or_default();
    let port = rest.strip_prefix(':');
    !host.is_empty() && (rest.is_empty() || port.is_some_and(|it| it.parse::<u16>().is_ok()))
}

pub(super) fn is_loopback(host: &str) -> bool {
    let address = host.strip_prefix('[').and_then(|it| it.strip_suffix(']'));
    let address = match address {
        Some(address) => address.parse::<Ipv6Addr>().map(IpAddr::V6).ok(),
        None => host.parse::<IpAddr>().ok(),
    };
    host.eq_ignore_ascii_case("localhost") || address.is_some_and(|it| it.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn https_everywhere_and_http_only_here() {
        for (text, expected) in [
            ("https://as.example.com", Some(Fetched::Https)),
            ("https://as.example.com:8443/a/b?c=d", Some(Fetched::Https)),
            ("https://[2001:db8::1]/jwks", Some(Fetched::Https)),
            ("http://127.0.0.1:8080/jwks", Some(Fetched::Locally)),
            ("http://127.9.9.9/jwks", Some(Fetched::Locally)),
            ("http://[::1]:8080", Some(Fetched::Locally)),
            ("http://localhost/", Some(Fetched::Locally)),
            ("http://localhost.example.com/", None),
            ("http://127.0.0.1.example.com/", None),
            ("http://128.0.0.1/", None),
            ("http://[::2]/", None),
            ("http://as.example.com", None),
            ("ftp://as.example.com", None),
            ("as.example.com", None),
            ("as.example.com:443", None),
            ("/jwks", None),
            ("", None),
            ("https://", None),
            ("https:///jwks", None),
            ("https://:443/", None),
            ("https://a:b/", None),
            ("https://a:65536/", None),
            ("https://a:/", None),
            ("https://user@as.example.com", None),
            ("http://127.0.0.1@as.example.com", None),
            ("http://localhost@as.example.com", None),
            ("https://as.example.com/#x", None),
            ("https://as.example.com/a b", None),
            (" https://as.example.com", None),
            ("https://as.example.com\\@evil.example", None),
        ] {
            for plain in [PlainHttp::Refused, PlainHttp::Never] {
                assert_eq!(fetched(text, plain).ok(), expected, "{text}");
            }
            let bare = text.starts_with("http://") && !text.contains('@');
            let expected = expected.or_else(|| bare.then_some(Fetched::Plainly));
            assert_eq!(fetched(text, PlainHttp::Allowed).ok(), expected, "{text}");
        }
    }

    #[test]
    fn who_could_allow_it_is_told_how() {
        let told = |plain| fetched("http://as.example.com", plain).unwrap_err();
        assert!(told(PlainHttp::Refused).contains("allow_http: true"));
        assert!(!told(PlainHttp::Never).contains("allow_http"));
    }

    #[test]
    fn metadata_is_found_from_an_issuer_without_a_query() {
        let metadata = |issuer| fetched_metadata(issuer, PlainHttp::Refused);
        assert_eq!(metadata("https://as.example.com/t"), Ok(Fetched::Https));
        assert!(metadata("https://as.example.com/t?x").is_err());
    }
}
