//! Who may read what: this listener knows nobody, so that a page from elsewhere, open in the browser of
//! somebody who can reach it, must get nothing out of it.

use http::header::{ACCEPT_LANGUAGE, COOKIE, HOST, HeaderMap, ORIGIN, REFERER};
use http::uri::Authority;
use std::net::IpAddr;

/// Why something is not shown.
pub(super) const BY_ADDRESS: &str = "ask by an IP address or as localhost";

/// Whether a request was sent to a host that nobody can make point here: another name may belong to
/// whoever wrote the page in the browser, and then all that the browser says of itself is that it is
/// at home (DNS rebinding).
pub(super) fn is_by_address(headers: &HeaderMap) -> bool {
    only(headers, HOST.as_str()).is_some_and(is_nobodys)
}

/// Whether a request for the metrics may be answered. They are collected by whatever name the service
/// has, so that they are kept from browsers alone, and only where the name may be anybody's.
pub(super) fn may_collect(headers: &HeaderMap) -> bool {
    is_by_address(headers) || !is_of_a_browser(headers)
}

/// Every browser says which languages it prefers, and no page can have it say nothing (Fetch §4.6,
/// HTTP-network-or-cache fetch). The others are said by some.
fn is_of_a_browser(headers: &HeaderMap) -> bool {
    let said = [ACCEPT_LANGUAGE.as_str(), ORIGIN.as_str(), REFERER.as_str(), COOKIE.as_str()];
    let fetched = ["sec-fetch-site", "sec-fetch-mode", "sec-fetch-dest"];
    said.iter().chain(&fetched).any(|it| headers.contains_key(*it))
}

/// The value of a header that is there once.
pub(super) fn only<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?.to_str().ok()?;
    values.next().is_none().then_some(value)
}

fn is_nobodys(host: &str) -> bool {
    let Ok(authority) = host.parse::<Authority>() else { return false };
    let name = authority.host();
    let address = name.strip_prefix('[').and_then(|it| it.strip_suffix(']')).unwrap_or(name);
    name.eq_ignore_ascii_case("localhost") || address.parse::<IpAddr>().is_ok()
}
