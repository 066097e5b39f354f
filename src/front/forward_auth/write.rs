//! Encoding of an answer as an HTTP response for the proxy.
//!
//! Only 200 allows a request: Envoy compares the whole status, and the others its first digit.

use super::Flavour;
use bytes::Bytes;
use http::header::{
    AUTHORIZATION, CACHE_CONTROL, HeaderMap, HeaderName, HeaderValue, WWW_AUTHENTICATE,
};
use http::{Response, StatusCode};
use http_body_util::Full;
use keybound_core::{Answer, Field, Header};

/// The response with `answer` for a proxy of this flavour, to a request that came with
/// `authorization`. If the proxy forwards only some headers to us, the headers in the list `unseen`
/// are removed whether they are present or not.
///
/// A header whose value has control characters is never sent.
pub fn response(
    answer: &Answer<'_>,
    flavour: &Flavour,
    authorization: Field<'_>,
    unseen: &HeaderValue,
) -> Response<Full<Bytes>> {
    let mut response = match answer {
        Answer::Allow { set, remove, to_client, .. } => {
            let mut response = Response::new(Full::default());
            let headers = response.headers_mut();
            match flavour {
                Flavour::Envoy { .. } => list(headers, remove, set, unseen),
                Flavour::Nginx | Flavour::Traefik => empty(headers, remove, set, authorization),
            }
            put(headers, set);
            put(headers, to_client);
            response
        }
        Answer::Deny { status, to_client, body, .. } => match flavour {
            Flavour::Nginx => denied_by_nginx(*status, to_client),
            Flavour::Traefik | Flavour::Envoy { .. } => denied(*status, to_client, body),
        },
        // To a question, its status would be an allow.
        Answer::Served { .. } => denied(404, &[], ""),
    };
    // nginx caches answers if configured to, and each is for one request only.
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

/// The response to who asks for metadata of a resource, and not about a request. Only
/// [`Answer::Served`] is a success.
pub fn metadata(answer: Option<&Answer<'_>>) -> Response<Full<Bytes>> {
    let Some(Answer::Served { to_client, body, .. }) = answer else {
        let mut response = denied(404, &[], "");
        response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        return response;
    };
    let mut response = Response::new(Full::from((*body).to_owned()));
    put(response.headers_mut(), to_client);
    response
}

/// Lists the request headers to remove, on two lines. A header that cannot be set is removed, too.
fn list(headers: &mut HeaderMap, remove: &[&str], set: &[Header<'_>], unseen: &HeaderValue) {
    let names = removed(remove, set).collect::<Vec<_>>().join(",");
    let names = HeaderValue::try_from(names).ok().into_iter().chain([unseen.clone()]);
    for names in names.filter(|it| !it.is_empty()) {
        headers.append(TO_REMOVE, names);
    }
}

/// Sends the request headers to remove as empty ones. These proxies replace the client's headers
/// with those of the answer, for each header they are configured to copy, and an empty header
/// counts as none.
///
/// For the same reason, headers to keep must be sent as well: the proxies cannot be configured to
/// copy `authorization` only if it changes.
fn empty(headers: &mut HeaderMap, remove: &[&str], set: &[Header<'_>], authorization: Field<'_>) {
    if let Field::One(value) = authorization
        && let Ok(value) = HeaderValue::from_bytes(value)
    {
        headers.insert(AUTHORIZATION, value);
    }
    let names = removed(remove, set).filter_map(|it| HeaderName::try_from(it).ok());
    for name in names.filter(|it| !OF_THE_CONNECTION.contains(&it.as_str())) {
        headers.insert(name, HeaderValue::from_static(""));
    }
}

fn removed<'a>(remove: &'a [&str], set: &'a [Header<'_>]) -> impl Iterator<Item = &'a str> {
    let unsendable = set.iter().filter(|it| !it.is_sendable()).map(|it| it.name);
    remove.iter().copied().chain(unsendable)
}

const TO_REMOVE: HeaderName = HeaderName::from_static("x-envoy-auth-headers-to-remove");

/// These would apply to this connection (RFC 9110 §7.6.1).
const OF_THE_CONNECTION: [&str; 6] =
    ["connection", "keep-alive", "proxy-connection", "te", "trailer", "upgrade"];

fn denied(status: u16, to_client: &[Header<'_>], body: &str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(body.to_owned()));
    *response.status_mut() = denying(status);
    let headers = response.headers_mut();
    for (name, value) in to_client.iter().filter_map(line) {
        if name == WWW_AUTHENTICATE {
            headers.append(name, value);
        } else {
            headers.insert(name, value);
        }
    }
    response
}

/// nginx forwards 401 and 403, without the body, and only the first line of the challenge. For any
/// other status, its client gets a 500.
fn denied_by_nginx(status: u16, to_client: &[Header<'_>]) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::default());
    let headers = response.headers_mut();
    let (challenges, others): (Vec<&Header<'_>>, Vec<&Header<'_>>) =
        to_client.iter().filter(|it| it.is_sendable()).partition(|it| is_challenge(it));
    put(headers, others.into_iter().filter(|it| it.name != "content-type"));
    // RFC 9110 §11.6.1: challenges of several schemes may be combined in one list.
    let list = challenges.iter().map(|it| &*it.value).collect::<Vec<_>>().join(", ");
    let list = HeaderValue::try_from(list).ok().filter(|it| !it.is_empty());
    let status = match (denying(status), &list) {
        (StatusCode::BAD_REQUEST, Some(_)) => StatusCode::UNAUTHORIZED,
        (StatusCode::BAD_REQUEST, None) => StatusCode::FORBIDDEN,
        (status, _) => status,
    };
    if let Some(list) = list {
        headers.insert(WWW_AUTHENTICATE, list);
    }
    *response.status_mut() = status;
    response
}

/// A denial never has a successful status.
fn denying(status: u16) -> StatusCode {
    StatusCode::from_u16(status.clamp(400, 599)).unwrap_or(StatusCode::FORBIDDEN)
}

fn is_challenge(header: &Header<'_>) -> bool {
    header.name.eq_ignore_ascii_case(WWW_AUTHENTICATE.as_str())
}

fn put<'a>(headers: &mut HeaderMap, given: impl IntoIterator<Item = &'a Header<'a>>) {
    for (name, value) in given.into_iter().filter_map(line) {
        headers.insert(name, value);
    }
}

fn line(header: &Header<'_>) -> Option<(HeaderName, HeaderValue)> {
    let name = HeaderName::try_from(header.name).ok()?;
    let value = HeaderValue::from_bytes(header.value.as_bytes()).ok()?;
    header.is_sendable().then_some((name, value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::samples::policy_set;
    use keybound_core::{Denial, Verdict};

    const ENVOY: Flavour = Flavour::Envoy { path_prefix: String::new() };
    const UNSEEN: HeaderValue = HeaderValue::from_static("x_auth_a,x.auth.a");
    const FLAVOURS: [Flavour; 3] = [Flavour::Nginx, Flavour::Traefik, ENVOY];

    type Pairs = [(&'static str, &'static str)];

    fn headers(pairs: &Pairs) -> Vec<Header<'static>> {
        pairs.iter().map(|(name, value)| Header { name, value: (*value).into() }).collect()
    }

    fn deny(status: u16, to_client: &Pairs) -> Answer<'static> {
        let body = "{}".to_owned();
        Answer::Deny { status, to_client: headers(to_client), body, metadata: vec![] }
    }

    /// Status, headers in order and body of the response.
    fn told(answer: &Answer<'_>, flavour: &Flavour) -> (u16, Vec<String>, bool) {
        use http_body::Body;
        let response = response(answer, flavour, Field::One(b"Bearer a"), &UNSEEN);
        let mut lines: Vec<_> = response
            .headers()
            .iter()
            .map(|(name, value)| format!("{name}: {}", String::from_utf8_lossy(value.as_bytes())))
            .collect();
        lines.sort();
        (response.status().as_u16(), lines, !response.body().is_end_stream())
    }

    #[test]
    fn no_denial_is_read_as_an_allow() {
        let policies = policy_set();
        for flavour in FLAVOURS {
            for denial in Denial::ALL {
                let (status, ..) = told(
                    &Answer::of(&Verdict::refused((*denial).into(), &policies), &policies, None),
                    &flavour,
                );
                assert!((400..600).contains(&status), "{denial} {flavour:?}");
            }
            for status in [0, 200, 204, 302, 399, 600, u16::MAX] {
                let (status, ..) = told(&deny(status, &[]), &flavour);
                assert!((400..600).contains(&status), "{status} {flavour:?}");
            }
        }
    }

    #[test]
    fn nginx_gets_a_status_that_it_hands_on_or_that_is_its_fault() {
        let challenged = [("www-authenticate", "Bearer")];
        for (given, with_challenge, without) in
            [(400, 401, 403), (401, 401, 401), (403, 403, 403), (500, 500, 500), (503, 503, 503)]
        {
            let found = [&challenged[..], &[]].map(|it| told(&deny(given, it), &Flavour::Nginx).0);
            assert_eq!(found, [with_challenge, without], "{given}");
            for flavour in [Flavour::Traefik, ENVOY] {
                assert_eq!(told(&deny(given, &challenged), &flavour).0, given);
            }
        }
    }

    #[test]
    fn nginx_gets_its_challenges_in_one_line_and_no_body() {
        let answer = deny(
            401,
            &[
                ("www-authenticate", "Bearer realm=\"a\""),
                ("www-authenticate", "DPoP realm=\"a\""),
                ("dpop-nonce", "n"),
                ("content-type", "application/json"),
            ],
        );
        let (_, lines, has_body) = told(&answer, &Flavour::Nginx);
        let one = "www-authenticate: Bearer realm=\"a\", DPoP realm=\"a\"";
        assert_eq!(lines, ["cache-control: no-store", "dpop-nonce: n", one]);
        assert!(!has_body);
        for flavour in [Flavour::Traefik, ENVOY] {
            let (_, lines, has_body) = told(&answer, &flavour);
            let expected = [
                "cache-control: no-store",
                "content-type: application/json",
                "dpop-nonce: n",
                "www-authenticate: Bearer realm=\"a\"",
                "www-authenticate: DPoP realm=\"a\"",
            ];
            assert_eq!(lines, expected);
            assert!(has_body);
        }
    }

    fn allow(set: &Pairs, remove: &[&'static str]) -> Answer<'static> {
        Answer::Allow {
            set: headers(set),
            remove: remove.to_vec(),
            to_client: headers(&[("dpop-nonce", "n")]),
            metadata: vec![],
            left: None,
            unclear: None,
        }
    }

    #[test]
    fn what_has_no_value_is_told_so_that_the_clients_own_goes() {
        let answer = allow(&[("x-auth-subject", "alice")], &["x-auth-tenant", "dpop"]);
        for flavour in [Flavour::Nginx, Flavour::Traefik] {
            let (status, lines, _) = told(&answer, &flavour);
            let expected = [
                "authorization: Bearer a",
                "cache-control: no-store",
                "dpop-nonce: n",
                "dpop: ",
                "x-auth-subject: alice",
                "x-auth-tenant: ",
            ];
            assert_eq!((status, lines), (200, expected.map(str::to_owned).to_vec()));
        }
        let (status, lines, _) = told(&answer, &ENVOY);
        let expected = [
            "cache-control: no-store",
            "dpop-nonce: n",
            "x-auth-subject: alice",
            "x-envoy-auth-headers-to-remove: x-auth-tenant,dpop",
            "x-envoy-auth-headers-to-remove: x_auth_a,x.auth.a",
        ];
        assert_eq!((status, lines), (200, expected.map(str::to_owned).to_vec()));
        assert_eq!(told(&allow(&[], &[]), &ENVOY).1.len(), 3);
    }

    #[test]
    fn a_proxy_that_copies_can_always_copy_the_token() {
        for flavour in [Flavour::Nginx, Flavour::Traefik] {
            let token = |set: &Pairs, remove: &[&'static str]| {
                let lines = told(&allow(set, remove), &flavour).1;
                lines.into_iter().filter(|it| it.starts_with("authorization")).collect::<Vec<_>>()
            };
            assert_eq!(token(&[], &[]), ["authorization: Bearer a"]);
            assert_eq!(token(&[("authorization", "Bearer b")], &[]), ["authorization: Bearer b"]);
            assert_eq!(token(&[], &["authorization"]), ["authorization: "]);
        }
    }

    #[test]
    fn metadata_never_answer_a_question() {
        let served =
            Answer::Served { status: 200, to_client: vec![], body: "{}", metadata: vec![] };
        for flavour in FLAVOURS {
            assert_eq!(told(&served, &flavour).0, 404, "{flavour:?}");
        }
        assert_eq!(metadata(Some(&served)).status(), 200);
        for other in [None, Some(&allow(&[], &[])), Some(&deny(401, &[]))] {
            assert_eq!(metadata(other).status(), 404, "{other:?}");
        }
    }

    #[test]
    fn a_header_with_a_control_character_never_goes_out() {
        for value in ["a\r\nset-cookie: x", "a\nb", "\0", "a\tb", "\u{7f}", "\u{85}"] {
            let answer = allow(&[("x-auth-subject", value)], &[]);
            let lines = |flavour| told(&answer, &flavour).1;
            assert_eq!(lines(Flavour::Nginx)[3], "x-auth-subject: ", "{value:?}");
            assert_eq!(lines(ENVOY)[2], "x-envoy-auth-headers-to-remove: x-auth-subject");
            for flavour in FLAVOURS {
                let denied = told(&deny(401, &[("www-authenticate", value)]), &flavour);
                assert_eq!(denied.1, ["cache-control: no-store"], "{value:?}");
            }
        }
    }

    #[test]
    fn what_would_be_about_the_connection_is_left_out() {
        let (_, lines, _) = told(&allow(&[], &["connection", "upgrade", "x-a"]), &Flavour::Nginx);
        let left = ["authorization: Bearer a", "cache-control: no-store", "dpop-nonce: n", "x-a: "];
        assert_eq!(lines, left);
    }
}
