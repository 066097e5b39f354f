//! What reaches the application behind a proxy, whatever a client writes: no header that it would take
//! for one of ours, and no connection on which nobody is asked any more.

use super::caddy::{BARE_CADDY, CADDY};
use super::installation::{BOTH, HOST, Installation, Outcome, Proxy};
use super::nginx::NGINX;
use super::switching::{HANDSHAKE, Switching};
use super::traefik::TRAEFIK;
use super::wsgi::{FORGED, Wsgi, is_fooled, spellings};
use reqwest::Version;

const PROXIES: [&Proxy; 4] = [&NGINX, &TRAEFIK, &CADDY, &BARE_CADDY];

/// Names that are set or removed, and that by which this proxy tells the certificate.
fn ours(proxy: &Proxy) -> Vec<String> {
    let certificate = match proxy.name {
        "nginx" => "x-ssl-client-cert",
        "traefik" => "x-forwarded-tls-client-cert",
        "caddy" => "x-client-cert-sha256",
        other => panic!("{other}"),
    };
    let set = ["x-auth-subject", "x-auth-client-id", "x-auth-scope", "x-auth-issuer"];
    let names = set.into_iter().chain(["x-forwarded-client-cert", certificate]);
    names.flat_map(spellings).collect()
}

/// Whether the application was asked, if it was not fooled.
#[track_caller]
fn is_asked(it: &Installation, outcome: &Outcome, what: &str) -> bool {
    let asked = outcome.status == 200;
    assert!(asked || outcome.status.is_client_error(), "{} {what} {outcome:?}", it.proxy.name);
    assert!(!asked || !is_fooled(&outcome.body), "{} {what} {outcome:?}", it.proxy.name);
    asked
}

#[tokio::test]
async fn an_application_never_takes_what_a_client_wrote_for_ours() {
    let wsgi = Wsgi::start();
    for proxy in PROXIES {
        let it = Installation::in_front_of(proxy, wsgi.address).await;
        let client = it.client();
        let whole = it.token(&client, |_| {});
        let bare = it.token(&client, |it| {
            it.as_object_mut().unwrap().retain(|name, _| name != "sub" && name != "client_id");
        });
        for token in [whole, bare].map(|it| format!("Bearer {it}")) {
            let plain = [("authorization", token.as_str())];
            let good = it.call(Version::HTTP_11, Some(&client), "/", &plain).await;
            assert!(is_asked(&it, &good, "nothing forged"), "{} {good:?}", proxy.name);
            assert_eq!(good.body["environ"]["HTTP_X_AUTH_SCOPE"], "payments", "{good:?}");
            for name in ours(proxy) {
                for http in BOTH {
                    // HTTP/2 has lower case alone.
                    let name = match http {
                        Version::HTTP_2 => name.to_ascii_lowercase(),
                        _ => name.clone(),
                    };
                    let headers = [plain[0], (name.as_str(), FORGED), (name.as_str(), FORGED)];
                    let outcome = it.call(http, Some(&client), "/", &headers).await;
                    is_asked(&it, &outcome, &name);
                }
            }
        }
    }
}

#[tokio::test]
async fn the_case_of_a_name_makes_no_difference() {
    let wsgi = Wsgi::start();
    for proxy in PROXIES {
        let it = Installation::in_front_of(proxy, wsgi.address).await;
        let client = it.client();
        let token = it.token(&client, |_| {});
        let host = format!("{HOST}:{}", it.address.port());
        for name in ours(proxy) {
            let name: String = name
                .chars()
                .enumerate()
                .map(|(index, it)| if index % 2 == 0 { it.to_ascii_uppercase() } else { it })
                .collect();
            let answer = it
                .written(
                    &client,
                    &format!(
                        "GET / HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {token}\r\n\
                         {name}: {FORGED}\r\nConnection: close\r\n\r\n"
                    ),
                )
                .await;
            let asked = answer.starts_with("HTTP/1.1 200");
            assert!(asked || answer.starts_with("HTTP/1.1 4"), "{} {name} {answer}", proxy.name);
            assert!(!answer.contains(FORGED), "{} {name} {answer}", proxy.name);
        }
    }
}

/// Each offer of another protocol, as lines of `upgrade`.
const OFFERS: [&[&str]; 8] = [
    &["h2c"],
    &["foo"],
    &["H2C, websocket"],
    &["websocket, h2c"],
    &["websocket", "h2c"],
    &["h2c", "websocket"],
    &["websocket2"],
    &["websocket/13"],
];

#[tokio::test]
async fn of_other_protocols_an_application_is_offered_websocket_alone() {
    let upstream = Switching::start().await;
    for proxy in PROXIES {
        let it = Installation::in_front_of(proxy, upstream.address).await;
        let client = it.client();
        let token = format!("Bearer {}", it.token(&client, |_| {}));
        let ask = async |connection, lines: &[&str]| {
            let mut headers = vec![("authorization", token.as_str()), ("connection", connection)];
            headers.extend(HANDSHAKE);
            headers.push(("http2-settings", "AAMAAABkAARAAAAAAAIAAAAA"));
            headers.extend(lines.iter().map(|it| ("upgrade", *it)));
            it.call(Version::HTTP_11, Some(&client), "/", &headers).await.status
        };
        for offer in OFFERS {
            for connection in ["Upgrade, HTTP2-Settings", "upgrade", "keep-alive, Upgrade"] {
                let status = ask(connection, offer).await;
                let (offered, _) = upstream.offered();
                assert!(offered.iter().all(|it| it == "websocket"), "{} {offer:?}", proxy.name);
                let switched = status == 101;
                assert!(!switched || offered == ["websocket"], "{} {offer:?}", proxy.name);
            }
        }
        for websocket in ["websocket", "WebSocket"] {
            assert_eq!(ask("Upgrade", &[websocket]).await, 101, "{} {websocket}", proxy.name);
            assert_eq!(upstream.offered().0, ["websocket"], "{}", proxy.name);
        }
        // Without a token nobody is offered anything.
        let headers = [("connection", "Upgrade"), ("upgrade", "websocket")];
        let outcome = it.call(Version::HTTP_11, Some(&client), "/", &headers).await;
        assert_eq!(outcome.status, 401, "{} {outcome:?}", proxy.name);
        assert_eq!(upstream.offered().1.len(), 0, "{}", proxy.name);
    }
}

#[tokio::test]
async fn nobody_gets_a_tunnel_in_which_nobody_is_asked() {
    let upstream = Switching::start().await;
    for proxy in PROXIES {
        let it = Installation::in_front_of(proxy, upstream.address).await;
        let client = it.client();
        let token = it.token(&client, |_| {});
        let host = format!("{HOST}:{}", it.address.port());
        let hidden = format!("GET /admin HTTP/1.1\r\nHost: {host}\r\nX-Auth-Subject: root\r\n\r\n");
        for target in ["/", &host] {
            for body in [
                format!(
                    "Transfer-Encoding: chunked\r\n\r\n{:x}\r\n{hidden}\r\n0\r\n\r\n",
                    hidden.len()
                ),
                format!("Content-Length: {}\r\n\r\n{hidden}", hidden.len()),
            ] {
                let head =
                    format!("Host: {host}\r\nAuthorization: Bearer {token}\r\nConnection: close");
                let request = format!("CONNECT {target} HTTP/1.1\r\n{head}\r\n{body}");
                let answer = it.written(&client, &request).await;
                let context = format!("{} {request} {answer}", proxy.name);
                // Traefik has no such method.
                let refused =
                    ["HTTP/1.1 4", "HTTP/1.1 501"].iter().any(|it| answer.starts_with(it));
                assert!(refused, "{context}");
                assert_eq!(upstream.offered().1, [""; 0], "{context}");
            }
        }
    }
}

#[tokio::test]
async fn a_host_that_is_not_ours_is_nobodys() {
    let upstream = Switching::start().await;
    for proxy in PROXIES {
        let it = Installation::in_front_of(proxy, upstream.address).await;
        let client = it.client();
        let token = it.token(&client, |_| {});
        let port = it.address.port();
        for (target, host) in [
            ("/".to_owned(), format!("evil.example:{port}")),
            ("/".to_owned(), "evil.example".to_owned()),
            ("/".to_owned(), format!("127.0.0.1:{port}")),
            ("https://evil.example/".to_owned(), format!("{HOST}:{port}")),
        ] {
            let head = format!("Authorization: Bearer {token}\r\nConnection: close\r\n\r\n");
            let request = format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n{head}");
            let answer = it.written(&client, &request).await;
            assert_eq!(upstream.offered().1, [""; 0], "{} {request} {answer}", proxy.name);
            if proxy.name == "nginx" {
                assert!(answer.starts_with("HTTP/1.1 421 "), "{request} {answer}");
            }
        }
    }
}
