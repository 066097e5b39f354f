//! Protection against pages of other origins. The admin listener has no authentication, so a page
//! in the browser of somebody who can reach it must not be able to read from it.

use http::header::{ACCEPT_LANGUAGE, COOKIE, HOST, HeaderMap, ORIGIN, REFERER};
use http::uri::Authority;
use std::net::IpAddr;

/// Why something is not shown.
pub(super) const BY_ADDRESS: &str = "use an IP address or localhost as the host";

/// Whether the request was sent to an IP address or `localhost`. Any other name may be controlled
/// by the author of a page in the browser, which then counts as same-origin (DNS rebinding).
pub(super) fn is_by_address(headers: &HeaderMap) -> bool {
    only(headers, HOST.as_str()).is_some_and(is_nobodys)
}

/// Whether a request for the metrics may be answered. They are scraped under any name the service
/// has, so only browsers are refused, and only for names that anybody could control.
pub(super) fn may_collect(headers: &HeaderMap) -> bool {
    is_by_address(headers) || !is_of_a_browser(headers)
}

/// Every browser sends its preferred languages, and no page can suppress that (Fetch §4.6,
/// HTTP-network-or-cache fetch). Some send the other headers.
fn is_of_a_browser(headers: &HeaderMap) -> bool {
    let said = [ACCEPT_LANGUAGE.as_str(), ORIGIN.as_str(), REFERER.as_str(), COOKIE.as_str()];
    let fetched = ["sec-fetch-site", "sec-fetch-mode", "sec-fetch-dest"];
    said.iter().chain(&fetched).any(|it| headers.contains_key(*it))
}

/// The value of a header that occurs once.
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
