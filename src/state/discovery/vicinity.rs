//! How near to this machine a URL points, judged by its host alone. Services nearby tend to trust
//! whoever can reach them.

use reqwest::Url;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// How near a host is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Vicinity {
    /// Anywhere: a name, or a public address. Names are not resolved; TLS proves whom they lead to.
    Anywhere,
    /// A private network (RFC 1918, RFC 4193, RFC 6598).
    Private,
    /// The same link (RFC 3927, RFC 4291 §2.5.6), where cloud providers serve a machine's
    /// credentials.
    Link,
    /// This machine.
    Loopback,
    /// No host.
    Nowhere,
}

/// Whether a document from `from` may point to `to`: only to hosts as near as its own, or farther
/// away.
pub(super) fn may_point(from: &Url, to: &Url) -> bool {
    match Vicinity::of(to) {
        Vicinity::Nowhere => false,
        Vicinity::Link => from.host_str() == to.host_str(),
        near @ (Vicinity::Anywhere | Vicinity::Private | Vicinity::Loopback) => {
            near <= Vicinity::of(from)
        }
    }
}

impl Vicinity {
    fn of(url: &Url) -> Self {
        let Some(host) = url.host_str() else { return Self::Nowhere };
        let address = host.trim_start_matches('[').trim_end_matches(']');
        match address.parse::<IpAddr>().map(|it| it.to_canonical()) {
            Ok(IpAddr::V4(address)) => Self::of_v4(address),
            Ok(IpAddr::V6(address)) => Self::of_v6(address),
            Err(_) => Self::of_name(host),
        }
    }

    /// RFC 6761 §6.3: such names lead to this machine.
    fn of_name(name: &str) -> Self {
        let name = name.trim_end_matches('.').to_ascii_lowercase();
        let here = ["localhost", "localhost.localdomain"].contains(&&*name);
        if here || name.ends_with(".localhost") { Self::Loopback } else { Self::Anywhere }
    }

    const fn of_v4(address: Ipv4Addr) -> Self {
        let [first, second, ..] = address.octets();
        if address.is_loopback() {
            Self::Loopback
        } else if first == 0 || address.is_broadcast() || address.is_multicast() {
            Self::Nowhere
        } else if address.is_link_local() {
            Self::Link
        } else if address.is_private() || (first == 100 && second & 0xc0 == 64) {
            Self::Private
        } else {
            Self::Anywhere
        }
    }

    fn of_v6(address: Ipv6Addr) -> Self {
        let [one, two, .., high, low] = address.segments();
        if (one, two) == (0x64, 0xff9b) {
            // RFC 6052 §2.1: an IPv4 address behind a translator.
            let ([a, b], [c, d]) = (high.to_be_bytes(), low.to_be_bytes());
            return Self::of_v4(Ipv4Addr::new(a, b, c, d));
        }
        if address.is_loopback() {
            Self::Loopback
        } else if address.is_unspecified() || address.is_multicast() {
            Self::Nowhere
        } else if address.is_unicast_link_local() {
            Self::Link
        } else if address.is_unique_local() {
            Self::Private
        } else {
            Self::Anywhere
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn url(host: &str) -> Url {
        Url::parse(&format!("https://{host}/jwks")).unwrap()
    }

    #[test]
    fn each_host_has_its_vicinity() {
        for (host, expected) in [
            ("as.example.com", Vicinity::Anywhere),
            ("localhost.example.com", Vicinity::Anywhere),
            ("93.184.216.34", Vicinity::Anywhere),
            ("172.15.0.1", Vicinity::Anywhere),
            ("100.128.0.1", Vicinity::Anywhere),
            ("[2001:db8::1]", Vicinity::Anywhere),
            ("10.0.0.1", Vicinity::Private),
            ("172.16.0.1", Vicinity::Private),
            ("192.168.1.1", Vicinity::Private),
            ("100.64.0.1", Vicinity::Private),
            ("[fd00::1]", Vicinity::Private),
            ("[::ffff:10.0.0.1]", Vicinity::Private),
            ("[64:ff9b::10.0.0.1]", Vicinity::Private),
            ("169.254.169.254", Vicinity::Link),
            ("[fe80::1]", Vicinity::Link),
            ("127.0.0.1", Vicinity::Loopback),
            ("127.1", Vicinity::Loopback),
            ("0x7f000001", Vicinity::Loopback),
            ("2130706433", Vicinity::Loopback),
            ("[::1]", Vicinity::Loopback),
            ("[::ffff:127.0.0.1]", Vicinity::Loopback),
            ("localhost", Vicinity::Loopback),
            ("LocalHost.", Vicinity::Loopback),
            ("as.localhost", Vicinity::Loopback),
            ("0.0.0.0", Vicinity::Nowhere),
            ("[::]", Vicinity::Nowhere),
            ("255.255.255.255", Vicinity::Nowhere),
            ("224.0.0.1", Vicinity::Nowhere),
            ("[ff02::1]", Vicinity::Nowhere),
        ] {
            assert_eq!(Vicinity::of(&url(host)), expected, "{host}");
        }
    }

    #[test]
    fn a_document_points_to_where_it_is_or_farther_away() {
        let [public, private, here] = ["as.example.com", "10.0.0.1", "127.0.0.1"].map(url);
        let link = url("169.254.169.254");
        for (from, expected) in [
            (&public, [true, false, false]),
            (&private, [true, true, false]),
            (&link, [true, true, false]),
            (&here, [true, true, true]),
        ] {
            let found = [&public, &private, &here].map(|to| may_point(from, to));
            assert_eq!(found, expected, "{from}");
        }
        assert!(may_point(&link, &link));
        for from in [&public, &private, &here] {
            assert!(!may_point(from, &link), "{from}");
            assert!(!may_point(from, &url("0.0.0.0")), "{from}");
        }
    }
}
