//! Pages of another origin, as the pages beside the deployed files say: preflights are answered before anybody is
//! asked, and what is refused can be read.

use super::caddy::CADDY_FOR_PAGES;
use super::installation::{BOTH, Installation, Outcome, Proxy};
use super::nginx::NGINX_FOR_PAGES;
use super::traefik::TRAEFIK_FOR_PAGES;

const PROXIES: [&Proxy; 3] = [&NGINX_FOR_PAGES, &TRAEFIK_FOR_PAGES, &CADDY_FOR_PAGES];
const ORIGIN: &str = "https://app.example.com";

/// The only value of a header, if it is there.
#[track_caller]
fn one<'a>(outcome: &'a Outcome, name: &str) -> Option<&'a str> {
    let mut lines = outcome.headers.get_all(name).iter();
    let found = lines.next().map(|it| it.to_str().unwrap());
    assert_eq!(lines.next(), None, "{name} {outcome:?}");
    found.filter(|it| !it.is_empty())
}

#[tokio::test]
async fn a_page_hears_why_it_is_refused_and_the_nonce_to_come_with() {
    for proxy in PROXIES {
        let it = Installation::start(proxy).await;
        for http in BOTH {
            let from = |origin| [("origin", origin)];
            let refused = it.call(http, None, "/either", &from(ORIGIN)).await;
            assert_eq!(refused.status, 401, "{} {refused:?}", proxy.name);
            assert_eq!(
                one(&refused, "access-control-allow-origin"),
                Some(ORIGIN),
                "{}",
                proxy.name
            );
            let exposed = one(&refused, "access-control-expose-headers").unwrap();
            let exposed = exposed.to_ascii_lowercase();
            assert!(exposed.contains("www-authenticate"), "{} {exposed}", proxy.name);
            assert!(exposed.contains("dpop-nonce"), "{} {exposed}", proxy.name);
            assert!(one(&refused, "dpop-nonce").is_some(), "{} {refused:?}", proxy.name);
            let stranger = it.call(http, None, "/either", &from("https://a.example")).await;
            let allowed = one(&stranger, "access-control-allow-origin");
            assert_ne!(allowed, Some("https://a.example"), "{}", proxy.name);
            assert_ne!(allowed, Some("*"), "{}", proxy.name);
        }
    }
}

#[tokio::test]
async fn a_preflight_is_answered_before_anybody_is_asked() {
    for proxy in PROXIES {
        let it = Installation::start(proxy).await;
        let asks = |path: &str| {
            format!(
                "OPTIONS {path} HTTP/1.1\r\nhost: api.example.com\r\norigin: {ORIGIN}\r\n\
                 access-control-request-method: GET\r\n\
                 access-control-request-headers: authorization,dpop\r\nconnection: close\r\n\r\n"
            )
        };
        let answer = it.written(&it.client(), &asks("/either")).await.to_ascii_lowercase();
        let status = answer.split(' ').nth(1).unwrap();
        assert!(["200", "204"].contains(&status), "{} {answer}", proxy.name);
        let allowed = answer.lines().find(|it| it.starts_with("access-control-allow-headers: "));
        let allowed = allowed.unwrap_or_else(|| panic!("{} {answer}", proxy.name));
        assert!(allowed.contains("authorization") && allowed.contains("dpop"), "{allowed}");
        let origin = format!("access-control-allow-origin: {ORIGIN}");
        assert_eq!(answer.matches(&*origin).count(), 1, "{} {answer}", proxy.name);
        // keybound answers for these itself, and once.
        let path = "/.well-known/oauth-protected-resource/told";
        let served = it.call(reqwest::Version::HTTP_2, None, path, &[("origin", ORIGIN)]).await;
        assert_eq!(one(&served, "access-control-allow-origin"), Some("*"), "{}", proxy.name);
        let preflight = it.written(&it.client(), &asks(path)).await.to_ascii_lowercase();
        assert!(preflight.contains("access-control-allow-origin: *"), "{} {preflight}", proxy.name);
    }
}
