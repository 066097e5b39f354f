//! Reading of the request under check from a proxy's question.
//!
//! Most proxies copy the client's headers into the question. So the request is read only from
//! headers that the proxy of this flavour overwrites, and is refused if one of them is missing or
//! repeated.

use super::Flavour;
use super::flaw::Flaw;
use http::Method;
use http::header::{HeaderMap, UPGRADE};
use http::request::Parts;
use keybound_core::{Annotation, Evidence, Field, GRPC_TIMEOUT, Overrides, Request, Target};

/// Reads the request that a proxy of this flavour asks about.
///
/// `certificate_header` is the header that carries the client certificate, if there is one.
///
/// # Errors
///
/// The question does not describe exactly one request, or describes one that upgrades to a protocol
/// other than WebSocket.
pub fn request<'a>(
    question: &'a Parts,
    flavour: &Flavour,
    certificate_header: Option<&str>,
) -> Result<Request<'a>, Flaw> {
    let headers = &question.headers;
    if switches(headers) {
        return Err(Flaw::Upgrade);
    }
    let policy = match flavour {
        Flavour::Nginx | Flavour::Traefik => policy(question.uri.path())?,
        // The path is the client's: it does not name a policy.
        Flavour::Envoy { .. } => None,
    };
    let target = match flavour {
        Flavour::Nginx => told(headers, scheme, "x-original-method", "x-original-uri")?,
        Flavour::Traefik => told(headers, transport, "x-forwarded-method", "x-forwarded-uri")?,
        Flavour::Envoy { path_prefix } => own(question, path_prefix)?,
    };
    Ok(Request {
        policy,
        annotated: Annotation::Absent,
        target,
        overrides: overrides(headers),
        authorization: field(headers, "authorization"),
        proof: field(headers, "dpop"),
        evidence: evidence(headers, flavour, certificate_header)?,
        traceparent: field(headers, "traceparent").sole(),
        request_id: field(headers, "x-request-id").sole(),
        grpc_timeout: field(headers, GRPC_TIMEOUT),
        unwanted: vec![],
    })
}

/// The path of the resource whose metadata a proxy sends a client here for, if this is no question:
/// what stands behind `/resource-metadata`.
///
/// The path of a question of Envoy is the client's own behind a prefix. Without a prefix each path may be
/// that of a question, which an answer with 200 would allow.
pub fn metadata_asked_for<'a>(question: &'a Parts, flavour: &Flavour) -> Option<&'a str> {
    let path = question.uri.path();
    let may_be_asked = match flavour {
        Flavour::Nginx | Flavour::Traefik => false,
        Flavour::Envoy { path_prefix } => path.starts_with(path_prefix),
    };
    let resource = path.strip_prefix(METADATA_PATH).filter(|_| !may_be_asked)?;
    (resource.is_empty() || resource.starts_with('/')).then_some(resource)
}

/// Behind it are the paths of resources whose metadata are asked for.
pub const METADATA_PATH: &str = "/resource-metadata";

/// Whether the client asks to upgrade to a protocol other than WebSocket. Caddy, the only proxy
/// that forwards this here, would connect client and upstream if the latter agrees, and requests
/// within `h2c` are never checked (RFC 9113 §3.1 has deprecated it).
fn switches(headers: &HeaderMap) -> bool {
    match field(headers, UPGRADE.as_str()) {
        Field::Absent => false,
        Field::One(protocol) => !protocol.eq_ignore_ascii_case(b"websocket"),
        Field::Many => true,
    }
}

/// The policy in the path of the question, which the operator sets in the proxy's configuration:
/// `/check` for none, `/check/NAME` for that one.
fn policy(path: &str) -> Result<Option<&str>, Flaw> {
    match path.strip_prefix("/check").map(|it| it.split_at_checked(1)) {
        Some(None) => Ok(None),
        Some(Some(("/", name))) if !name.is_empty() => Ok(Some(name)),
        Some(Some(_)) | None => Err(Flaw::Target),
    }
}

/// A target that is described by headers.
fn told<'a>(
    headers: &'a HeaderMap,
    scheme: impl Fn(&'a str) -> Option<&'a str>,
    method: &'static str,
    uri: &'static str,
) -> Result<Target<'a>, Flaw> {
    let proto = one(headers, PROTO)?;
    let target = Target {
        method: one(headers, method)?,
        scheme: scheme(proto).ok_or(Flaw::Unusable(PROTO))?,
        authority: one(headers, "x-forwarded-host")?,
        path: one(headers, uri)?,
    };
    if !is_method(target.method) {
        return Err(Flaw::Unusable(method));
    }
    if !target.path.starts_with('/') {
        return Err(Flaw::Unusable(uri));
    }
    Ok(target)
}

const PROTO: &str = "x-forwarded-proto";

/// The target of the question itself.
fn own<'a>(question: &'a Parts, path_prefix: &str) -> Result<Target<'a>, Flaw> {
    let headers = &question.headers;
    // Envoy sends none of these unless configured to; nginx and the others always do. With a proxy
    // of another flavour, every request would be checked as one for the same path.
    let other = ["x-original-method", "x-original-uri", "x-forwarded-method", "x-forwarded-uri"];
    if let Some(other) = other.into_iter().find(|it| headers.contains_key(*it)) {
        return Err(Flaw::Foreign(other));
    }
    let scheme = match field(headers, PROTO) {
        Field::Absent => "",
        Field::One(value) => {
            str::from_utf8(value).ok().and_then(scheme).ok_or(Flaw::Unusable(PROTO))?
        }
        Field::Many => return Err(Flaw::Repeated(PROTO)),
    };
    let authority = one(headers, "host")?;
    let path = question.uri.path_and_query().filter(|_| question.uri.authority().is_none());
    let path = path.and_then(|it| it.as_str().strip_prefix(path_prefix));
    let path = path.filter(|it| it.starts_with('/')).ok_or(Flaw::Target)?;
    let method = question.method.as_str();
    if !is_method(method) {
        return Err(Flaw::Target);
    }
    Ok(Target { method, scheme, authority, path })
}

/// Whether the method is a token (RFC 9110 §9.1).
///
/// CONNECT is refused: a successful answer turns the connection into a tunnel. The bytes after its
/// head are not its content (RFC 9110 §9.3.6), so an upstream behind a proxy that forwards them may
/// read them as another request.
fn is_method(method: &str) -> bool {
    Method::from_bytes(method.as_bytes()).is_ok_and(|it| it != Method::CONNECT)
}

fn scheme(text: &str) -> Option<&str> {
    matches!(text, "http" | "https").then_some(text)
}

/// The scheme of a request. Traefik sends `ws` or `wss` for a WebSocket handshake, which is an HTTP
/// request all the same (RFC 6455 §4.1).
fn transport(text: &str) -> Option<&str> {
    match text {
        "wss" => Some("https"),
        "ws" => Some("http"),
        text => scheme(text),
    }
}

fn evidence<'a>(
    headers: &'a HeaderMap,
    flavour: &Flavour,
    certificate_header: Option<&str>,
) -> Result<Evidence<'a>, Flaw> {
    let header = certificate_header.map_or(Field::Absent, |it| field(headers, it));
    Ok(match flavour {
        Flavour::Nginx if has_no_certificate(headers)? => Evidence::default(),
        Flavour::Nginx | Flavour::Traefik => Evidence { header, ..Evidence::default() },
        // Only Envoy writes this header. The others forward what the client sent.
        Flavour::Envoy { .. } => {
            let xfcc = field(headers, "x-forwarded-client-cert");
            Evidence { xfcc, header, ..Evidence::default() }
        }
    })
}

/// Whether nginx says (`$ssl_client_verify`) that the client presented no certificate. A header
/// with a certificate was then sent by the client itself.
///
/// A certificate that nginx could not validate is accepted: a token is bound by possession of the
/// key, which the handshake proved (RFC 8705 §2.2, §6.2).
fn has_no_certificate(headers: &HeaderMap) -> Result<bool, Flaw> {
    const VERIFY: &str = "x-ssl-client-verify";
    match field(headers, VERIFY) {
        Field::Absent | Field::One(b"SUCCESS") => Ok(false),
        Field::One(b"NONE") => Ok(true),
        Field::One(other) if other.starts_with(b"FAILED") => Ok(false),
        Field::One(_) => Err(Flaw::Unusable(VERIFY)),
        Field::Many => Err(Flaw::Repeated(VERIFY)),
    }
}

/// Headers, including the client's, that override the target. The proxy describes the target in
/// other headers.
fn overrides(headers: &HeaderMap) -> Overrides<'_> {
    let mut found = Overrides::default();
    for (name, value) in headers {
        found.add(name.as_str().as_bytes(), value.as_bytes());
    }
    found
}

/// The value of a header that must occur once and not be empty.
fn one<'a>(headers: &'a HeaderMap, name: &'static str) -> Result<&'a str, Flaw> {
    match field(headers, name) {
        Field::Absent | Field::One(b"") => Err(Flaw::Missing(name)),
        Field::One(value) => str::from_utf8(value).or(Err(Flaw::Unusable(name))),
        Field::Many => Err(Flaw::Repeated(name)),
    }
}

/// The header `name`.
pub fn field<'a>(headers: &'a HeaderMap, name: &str) -> Field<'a> {
    headers.get_all(name).iter().fold(Field::Absent, |field, it| field.and(it.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use keybound_core::{Denial, Refusal};

    const ENVOY: Flavour = Flavour::Envoy { path_prefix: String::new() };

    /// The question of each flavour about `POST https://api.test/a?x=1`, after a client sent the
    /// headers of all the others.
    fn question(flavour: &Flavour) -> http::request::Builder {
        let question = http::Request::builder();
        match flavour {
            Flavour::Nginx => question
                .uri("/check")
                .header("x-original-method", "POST")
                .header("x-original-uri", "/a?x=1")
                .header("x-forwarded-host", "api.test")
                .header("x-forwarded-proto", "https")
                .header("x-forwarded-method", "PUT")
                .header("x-forwarded-uri", "/forged")
                .header("x-forwarded-client-cert", "forged"),
            Flavour::Traefik => question
                .uri("/check")
                .header("x-forwarded-method", "POST")
                .header("x-forwarded-uri", "/a?x=1")
                .header("x-forwarded-host", "api.test")
                .header("x-forwarded-proto", "https")
                .header("x-original-method", "PUT")
                .header("x-original-uri", "/forged")
                .header("x-forwarded-client-cert", "forged"),
            Flavour::Envoy { path_prefix } => question
                .method("POST")
                .uri(format!("{path_prefix}/a?x=1"))
                .header("host", "api.test")
                .header("x-forwarded-host", "forged.test")
                .header("x-forwarded-proto", "https"),
        }
    }

    fn flavours() -> [Flavour; 4] {
        [
            Flavour::Nginx,
            Flavour::Traefik,
            ENVOY,
            Flavour::Envoy { path_prefix: "/check".to_owned() },
        ]
    }

    type Edit<'e> = &'e dyn Fn(&mut http::Request<()>);

    #[track_caller]
    fn with<T>(
        flavour: &Flavour,
        edit: Edit<'_>,
        look: impl FnOnce(Request<'_>) -> T,
    ) -> Option<T> {
        let mut question = question(flavour).body(()).unwrap();
        edit(&mut question);
        let (parts, ()) = question.into_parts();
        let found = request(&parts, flavour, Some("x-ssl-client-cert"));
        if let Err(flaw) = found {
            assert_eq!(Refusal::from(flaw).denial, Denial::RequestMalformed);
        }
        found.ok().map(look)
    }

    #[track_caller]
    fn refuses(flavour: &Flavour, edit: Edit<'_>) {
        assert_eq!(with(flavour, edit, |it| format!("{it:?}")), None, "{flavour:?}");
    }

    #[track_caller]
    fn finds(flavour: &Flavour, edit: Edit<'_>, flaw: Flaw) {
        let mut question = question(flavour).body(()).unwrap();
        edit(&mut question);
        let (parts, ()) = question.into_parts();
        let found = request(&parts, flavour, Some("x-ssl-client-cert"));
        assert_eq!(found.map(|it| format!("{it:?}")), Err(flaw), "{flavour:?}");
    }

    fn set(name: &'static str, value: &'static str) -> impl Fn(&mut http::Request<()>) {
        move |it| drop(it.headers_mut().insert(name, value.parse().unwrap()))
    }

    fn add(name: &'static str, value: &'static str) -> impl Fn(&mut http::Request<()>) {
        move |it| {
            it.headers_mut().append(name, value.parse().unwrap());
        }
    }

    fn drop_header(name: &'static str) -> impl Fn(&mut http::Request<()>) {
        move |it| drop(it.headers_mut().remove(name))
    }

    fn uri(text: &'static str) -> impl Fn(&mut http::Request<()>) {
        move |it| *it.uri_mut() = text.parse().unwrap()
    }

    #[test]
    fn every_proxy_tells_the_same_target() {
        for flavour in flavours() {
            let target = with(&flavour, &|_| (), |it| {
                assert_eq!(it.policy, None);
                format!("{:?}", it.target)
            });
            let expected =
                Target { method: "POST", scheme: "https", authority: "api.test", path: "/a?x=1" };
            assert_eq!(target, Some(format!("{expected:?}")), "{flavour:?}");
        }
    }

    #[test]
    fn what_the_proxy_should_tell_and_does_not_is_not_taken_from_elsewhere() {
        let [nginx, traefik, envoy, prefixed] = &flavours();
        let rows = [
            (nginx, &["x-original-method", "x-original-uri"]),
            (nginx, &["x-forwarded-host", "x-forwarded-proto"]),
            (traefik, &["x-forwarded-method", "x-forwarded-uri"]),
            (traefik, &["x-forwarded-host", "x-forwarded-proto"]),
            (envoy, &["host", "host"]),
        ];
        for (flavour, names) in rows {
            for name in *names {
                finds(flavour, &drop_header(name), Flaw::Missing(name));
                finds(flavour, &set(name, ""), Flaw::Missing(name));
                finds(flavour, &add(name, "again"), Flaw::Repeated(name));
            }
        }
        finds(envoy, &add("x-forwarded-proto", "https"), Flaw::Repeated("x-forwarded-proto"));
        finds(prefixed, &uri("/other/a"), Flaw::Target);
        finds(prefixed, &uri("/checkout"), Flaw::Target);
    }

    #[test]
    fn envoy_need_not_tell_the_scheme() {
        let scheme = with(&ENVOY, &drop_header("x-forwarded-proto"), |it| it.target.scheme.len());
        assert_eq!(scheme, Some(0));
    }

    #[test]
    fn a_request_to_speak_websocket_is_one_over_http() {
        for (told, scheme) in [("wss", "https"), ("ws", "http")] {
            let told = set("x-forwarded-proto", told);
            let found = with(&Flavour::Traefik, &told, |it| it.target.scheme.to_owned());
            assert_eq!(found.as_deref(), Some(scheme));
            for flavour in [Flavour::Nginx, ENVOY] {
                refuses(&flavour, &told);
            }
        }
    }

    #[test]
    fn nobody_switches_to_another_protocol_than_websocket() {
        for flavour in flavours() {
            for good in ["websocket", "WebSocket"] {
                assert!(with(&flavour, &set("upgrade", good), |_| ()).is_some(), "{flavour:?}");
            }
            for odd in ["h2c", "H2C", "foo", "websocket, h2c", "websocket/13", ""] {
                refuses(&flavour, &set("upgrade", odd));
            }
            refuses(&flavour, &|it| {
                add("upgrade", "websocket")(it);
                add("upgrade", "websocket")(it);
            });
        }
    }

    #[test]
    fn a_target_has_one_form() {
        for (flavour, name) in
            [(Flavour::Nginx, "x-original-uri"), (Flavour::Traefik, "x-forwarded-uri")]
        {
            for odd in ["*", "a", "https://api.test/a", "?x", " /a"] {
                finds(&flavour, &set(name, odd), Flaw::Unusable(name));
            }
            // Refused if policies match by path; else it makes no difference to the decision.
            let raw = with(&flavour, &set(name, "//a/../b#c"), |it| it.target.path.to_owned());
            assert_eq!(raw.as_deref(), Some("//a/../b#c"));
        }
        for odd in ["HTTPS", "WSS", "https,http", "wss,https", "ftp"] {
            for flavour in flavours() {
                let name = "x-forwarded-proto";
                finds(&flavour, &set(name, odd), Flaw::Unusable(name));
            }
        }
        for odd in ["GE T", "GET,PUT", "\u{e9}", "CONNECT"] {
            refuses(&Flavour::Nginx, &set("x-original-method", odd));
            refuses(&Flavour::Traefik, &set("x-forwarded-method", odd));
        }
        refuses(&ENVOY, &uri("https://api.test/a"));
        refuses(&ENVOY, &|it| *it.method_mut() = Method::CONNECT);
    }

    #[test]
    fn a_proxy_of_another_flavour_than_envoy_is_not_taken_for_envoy() {
        for name in ["x-original-method", "x-original-uri", "x-forwarded-method", "x-forwarded-uri"]
        {
            finds(&ENVOY, &set(name, "GET"), Flaw::Foreign(name));
        }
    }

    #[test]
    fn the_path_of_the_question_names_the_policy_unless_it_is_the_clients() {
        for flavour in [Flavour::Nginx, Flavour::Traefik] {
            let named = |path| with(&flavour, &uri(path), |it| it.policy.map(str::to_owned));
            assert_eq!(named("/check"), Some(None));
            assert_eq!(named("/check?x=/y"), Some(None));
            assert_eq!(named("/check/payments"), Some(Some("payments".to_owned())));
            for odd in ["/", "/check/", "/checks", "/Check", "/auth", "//check"] {
                assert_eq!(named(odd), None, "{odd}");
            }
        }
        assert_eq!(with(&ENVOY, &uri("/check/payments"), |it| it.policy.is_none()), Some(true));
    }

    #[test]
    fn credentials_that_come_twice_are_seen_twice() {
        for flavour in flavours() {
            let seen = |edit: Edit<'_>| {
                with(&flavour, edit, |it| [it.authorization, it.proof].map(|it| format!("{it:?}")))
                    .unwrap()
            };
            assert_eq!(seen(&|_| ()), ["Absent", "Absent"]);
            assert_eq!(seen(&set("authorization", "Bearer a")), ["One(8 bytes)", "Absent"]);
            let twice = |it: &mut _| {
                add("authorization", "Bearer a")(it);
                add("authorization", "Bearer a")(it);
                add("dpop", "p")(it);
            };
            assert_eq!(seen(&twice), ["Many", "One(1 bytes)"]);
            let proofs = |it: &mut _| {
                add("dpop", "p")(it);
                add("dpop", "q")(it);
            };
            assert_eq!(seen(&proofs), ["Absent", "Many"]);
        }
    }

    #[test]
    fn what_a_header_says_in_place_of_the_target_is_seen_and_the_proxys_own_headers_are_not_such() {
        for flavour in flavours() {
            let seen = |edit: Edit<'_>| with(&flavour, edit, |it| format!("{:?}", it.overrides));
            let none = Some("Overrides { method: Absent, url: Absent }".to_owned());
            assert_eq!(seen(&|_| ()), none, "{flavour:?}");
            let both = seen(&|it: &mut _| {
                set("x-http-method-override", "PUT")(it);
                set("x-original-url", "/a")(it);
            });
            assert_eq!(both.unwrap(), "Overrides { method: One(3 bytes), url: One(2 bytes) }");
        }
    }

    #[test]
    fn only_envoy_is_believed_about_forwarded_client_certificates() {
        for flavour in flavours() {
            let xfcc = with(&flavour, &set("x-forwarded-client-cert", "Hash=00"), |it| {
                it.evidence.xfcc == Field::One(b"Hash=00")
            });
            assert_eq!(xfcc, Some(matches!(flavour, Flavour::Envoy { .. })), "{flavour:?}");
        }
    }

    #[test]
    fn where_nginx_says_that_there_is_no_certificate_there_is_none() {
        let carried = |verify: &'static str| {
            let edit = move |it: &mut _| {
                set("x-ssl-client-cert", "pem")(it);
                set("x-ssl-client-verify", verify)(it);
            };
            with(&Flavour::Nginx, &edit, |it| it.evidence.header == Field::One(b"pem"))
        };
        assert_eq!(carried("SUCCESS"), Some(true));
        assert_eq!(carried("FAILED:self signed certificate"), Some(true));
        assert_eq!(carried("NONE"), Some(false));
        for odd in ["", "none", "SUCCESS,NONE", "OK"] {
            assert_eq!(carried(odd), None, "{odd}");
        }
        refuses(&Flavour::Nginx, &|it| {
            add("x-ssl-client-verify", "NONE")(it);
            add("x-ssl-client-verify", "SUCCESS")(it);
        });
        let unasked = with(&Flavour::Nginx, &set("x-ssl-client-cert", "pem"), |it| {
            it.evidence.header == Field::One(b"pem")
        });
        assert_eq!(unasked, Some(true));
    }
}
