//! Encoding of an answer as a `CheckResponse` that all versions of Envoy read the same way.

use super::protobuf::Writer;
use keybound_core::{Answer, Header, Metadata};

/// Appends the encoded `envoy.service.auth.v3.CheckResponse` to `to`, without the gRPC frame.
///
/// Envoy allows a request on `status.code` alone, whatever `http_response` contains, so both are
/// written in the same arm. A header whose value has control characters is never sent: Envoy would
/// write a line break into the client's response unescaped.
pub fn response(answer: &Answer<'_>, to: &mut Vec<u8>) {
    let mut response = Writer::to(to);
    match answer {
        Answer::Allow { set, remove, to_client, metadata, left: _, unclear: _ } => {
            code(&mut response, OK);
            response.message(3, |it| allowed(it, set, remove, to_client));
            dynamic_metadata(&mut response, metadata);
        }
        Answer::Deny { status, to_client, body, metadata } => {
            let status = (*status).clamp(400, 599);
            code(&mut response, code_of(status));
            response.message(2, |it| denied(it, status, to_client, body));
            dynamic_metadata(&mut response, metadata);
        }
        // To Envoy a denial, whose response happens to be a success: the request goes nowhere.
        Answer::Served { status, to_client, body, metadata } => {
            let status = (*status).clamp(200, 299);
            code(&mut response, PERMISSION_DENIED);
            response.message(2, |it| denied(it, status, to_client, body));
            dynamic_metadata(&mut response, metadata);
        }
    }
}

/// `CheckResponse.status`, a `google.rpc.Status`.
fn code(response: &mut Writer<'_>, code: u32) {
    response.message(1, |it| it.number(1, code));
}

/// The gRPC code for a denial, for clients other than Envoy. Never [`OK`].
fn code_of(status: u16) -> u32 {
    match status {
        400 => INVALID_ARGUMENT,
        401 => UNAUTHENTICATED,
        500 => INTERNAL,
        503 => UNAVAILABLE,
        _ => PERMISSION_DENIED,
    }
}

const OK: u32 = 0;
const INVALID_ARGUMENT: u32 = 3;
const PERMISSION_DENIED: u32 = 7;
const INTERNAL: u32 = 13;
const UNAVAILABLE: u32 = 14;
const UNAUTHENTICATED: u32 = 16;

/// `OkHttpResponse`.
fn allowed(ok: &mut Writer<'_>, set: &[Header<'_>], remove: &[&str], to_client: &[Header<'_>]) {
    for header in set {
        if header.is_sendable() {
            ok.message(2, |it| to_upstream(it, header));
        } else {
            // If it cannot be set, the client's own must not pass either.
            ok.text(5, header.name);
        }
    }
    for name in remove {
        ok.text(5, name);
    }
    for header in to_client.iter().filter(|it| it.is_sendable()) {
        ok.message(6, |it| sole(it, header));
    }
}

/// `DeniedHttpResponse`.
fn denied(denied: &mut Writer<'_>, status: u16, to_client: &[Header<'_>], body: &str) {
    denied.message(1, |it| it.number(1, status.into()));
    for header in to_client.iter().filter(|it| it.is_sendable()) {
        denied.message(2, |it| to_denied_client(it, header));
    }
    denied.text(3, body);
}

/// A request header that replaces all of the same name. Some versions of Envoy use only `append`,
/// others only `append_action`: both say to overwrite.
fn to_upstream(option: &mut Writer<'_>, header: &Header<'_>) {
    sole(option, header);
    // `append`, a `BoolValue` of false.
    option.message(2, |_| ());
}

fn to_denied_client(option: &mut Writer<'_>, header: &Header<'_>) {
    if header.name.eq_ignore_ascii_case("www-authenticate") {
        // One line for each challenge.
        value(option, header, APPEND_IF_EXISTS_OR_ADD);
    } else {
        sole(option, header);
    }
}

/// A response header that replaces one of the same name. Envoy drops headers of a denial that have
/// `append` set, so it stays unset.
fn sole(option: &mut Writer<'_>, header: &Header<'_>) {
    value(option, header, OVERWRITE_IF_EXISTS_OR_ADD);
}

/// `HeaderAppendAction`.
const APPEND_IF_EXISTS_OR_ADD: u32 = 0;
const OVERWRITE_IF_EXISTS_OR_ADD: u32 = 2;

/// `HeaderValueOption`. Envoy ignores `raw_value` in a response, and would send an empty header.
fn value(option: &mut Writer<'_>, header: &Header<'_>, append_action: u32) {
    option.message(1, |it| {
        it.text(1, header.name);
        it.text(2, &header.value);
    });
    option.number(3, append_action);
}

/// `CheckResponse.dynamic_metadata`, a `Struct` of strings.
fn dynamic_metadata(response: &mut Writer<'_>, metadata: &Metadata<'_>) {
    if metadata.is_empty() {
        return;
    }
    response.message(4, |fields| {
        for (name, text) in metadata {
            fields.message(1, |entry| {
                entry.text(1, name);
                entry.message(2, |value| value.text_even_if_empty(3, text));
            });
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use envoy_types::pb::envoy::config::core::v3::HeaderValueOption as Seen;
    use envoy_types::pb::envoy::service::auth::v3::check_response::HttpResponse as SeenResponse;
    use envoy_types::pb::envoy::service::auth::v3::{self as seen, CheckResponse as SeenAnswer};
    use envoy_types::pb::google::protobuf::value::Kind as SeenKind;
    use keybound_core::Denial;
    use prost::Message;

    #[test]
    fn no_denial_is_read_as_an_allow() {
        for denial in Denial::ALL {
            let (code, denied) = denied(&deny(denial.status(), &[]));
            assert_ne!(code, 0, "{denial}");
            assert_eq!(denied.status.unwrap().code, i32::from(denial.status()), "{denial}");
        }
    }

    #[test]
    fn no_status_makes_a_denial_look_like_a_success() {
        let status_and_code = [
            (0, 400, 3),
            (200, 400, 3),
            (399, 400, 3),
            (400, 400, 3),
            (401, 401, 16),
            (403, 403, 7),
            (404, 404, 7),
            (429, 429, 7),
            (500, 500, 13),
            (502, 502, 7),
            (503, 503, 14),
            (599, 599, 7),
            (600, 599, 7),
            (u16::MAX, 599, 7),
        ];
        for (given, status, code) in status_and_code {
            let (found, denied) = denied(&deny(given, &[]));
            assert_eq!((denied.status.unwrap().code, found), (status, code), "{given}");
        }
        assert!((0..=u16::MAX).all(|it| code_of(it) != OK));
    }

    #[test]
    fn what_is_served_is_a_denial_with_a_status_of_success() {
        for (given, status) in [(200, 200), (204, 204), (0, 200), (401, 299), (u16::MAX, 299)] {
            let (body, to_client) = ("{}", headers(&[("cache-control", "public")]));
            let metadata = vec![("policy", "payments")];
            let served = Answer::Served { status: given, to_client, body, metadata };
            let (code, found) = denied(&served);
            assert_eq!((code, found.status.unwrap().code), (7, status));
            assert_eq!(found.headers, [line("cache-control", "public", None, OVERWRITE)]);
            assert_eq!(found.body, "{}");
        }
    }

    #[test]
    fn an_allow_is_explicit_even_when_it_changes_nothing() {
        let answer = Answer::Allow {
            set: vec![],
            remove: vec![],
            to_client: vec![],
            metadata: vec![],
            left: None,
            unclear: None,
        };
        let found = decoded(&answer);
        assert_eq!(found.status.unwrap().code, 0);
        assert_eq!(
            found.http_response,
            Some(SeenResponse::OkResponse(seen::OkHttpResponse::default()))
        );
        assert_eq!(found.dynamic_metadata, None);
    }

    #[test]
    fn an_identity_header_overwrites_by_either_field() {
        let found = allowed(&allow(&[("x-auth-subject", "alice")], &[]));
        assert_eq!(found.headers, [line("x-auth-subject", "alice", Some(false), OVERWRITE)]);
        assert_eq!(found.headers_to_remove, ["dpop"]);
    }

    #[test]
    fn a_header_of_the_response_overwrites_without_append() {
        let found = allowed(&allow(&[], &[("dpop-nonce", "n")]));
        assert_eq!(found.response_headers_to_add, [line("dpop-nonce", "n", None, OVERWRITE)]);
    }

    #[test]
    fn each_challenge_is_a_line_of_its_own_and_nothing_else_is_repeated() {
        let headers = [
            ("www-authenticate", "Bearer"),
            ("WWW-Authenticate", "DPoP algs=\"ES256\""),
            ("content-type", "application/json"),
        ];
        let (_, found) = denied(&deny(401, &headers));
        let expected = [
            line("www-authenticate", "Bearer", None, ADD),
            line("WWW-Authenticate", "DPoP algs=\"ES256\"", None, ADD),
            line("content-type", "application/json", None, OVERWRITE),
        ];
        assert_eq!(found.headers, expected);
        assert_eq!(found.body, "{}");
    }

    #[test]
    fn a_header_with_a_control_character_never_goes_out() {
        for value in ["a\r\nset-cookie: x", "a\nb", "a\rb", "\0", "a\tb", "\u{7f}", "\u{85}"] {
            let bad = [("x-auth-subject", value)];
            let found = allowed(&allow(&bad, &bad));
            assert!(found.headers.is_empty() && found.response_headers_to_add.is_empty());
            assert_eq!(found.headers_to_remove, ["x-auth-subject", "dpop"], "{value:?}");
            assert!(denied(&deny(401, &bad)).1.headers.is_empty(), "{value:?}");
        }
        let (_, found) = denied(&deny(401, &[("x", "d\u{e9}j\u{e0} vu ~")]));
        assert_eq!(found.headers.len(), 1);
    }

    #[test]
    fn metadata_is_a_struct_of_strings() {
        for answer in [allow(&[], &[]), deny(401, &[])] {
            let fields = decoded(&answer).dynamic_metadata.unwrap().fields;
            assert_eq!(fields.len(), 1);
            assert_eq!(fields["policy"].kind, Some(SeenKind::StringValue("payments".into())));
        }
    }

    const ADD: i32 = 0;
    const OVERWRITE: i32 = 2;

    fn line(key: &str, value: &str, append: Option<bool>, append_action: i32) -> Seen {
        let header = envoy_types::pb::envoy::config::core::v3::HeaderValue {
            key: key.into(),
            value: value.into(),
            raw_value: vec![],
        };
        #[expect(deprecated, reason = "Envoy's name for a field that counts more than its heir")]
        Seen {
            header: Some(header),
            append: append.map(|value| envoy_types::pb::google::protobuf::BoolValue { value }),
            append_action,
            keep_empty_value: false,
        }
    }

    type Pairs = [(&'static str, &'static str)];

    fn headers(pairs: &Pairs) -> Vec<Header<'static>> {
        pairs.iter().map(|(name, value)| Header { name, value: (*value).into() }).collect()
    }

    fn allow(set: &Pairs, to_client: &Pairs) -> Answer<'static> {
        Answer::Allow {
            set: headers(set),
            remove: vec!["dpop"],
            to_client: headers(to_client),
            metadata: vec![("policy", "payments")],
            left: None,
            unclear: None,
        }
    }

    fn deny(status: u16, to_client: &Pairs) -> Answer<'static> {
        Answer::Deny {
            status,
            to_client: headers(to_client),
            body: "{}".into(),
            metadata: vec![("policy", "payments")],
        }
    }

    fn decoded(answer: &Answer<'_>) -> SeenAnswer {
        let mut message = vec![];
        response(answer, &mut message);
        SeenAnswer::decode(&*message).unwrap()
    }

    #[track_caller]
    fn allowed(answer: &Answer<'_>) -> seen::OkHttpResponse {
        let found = decoded(answer);
        assert_eq!(found.status.unwrap().code, 0);
        match found.http_response {
            Some(SeenResponse::OkResponse(it)) => it,
            other => panic!("{other:?}"),
        }
    }

    #[track_caller]
    fn denied(answer: &Answer<'_>) -> (i32, seen::DeniedHttpResponse) {
        let found = decoded(answer);
        match found.http_response {
            Some(SeenResponse::DeniedResponse(it)) => (found.status.unwrap().code, it),
            other => panic!("{other:?}"),
        }
    }
}
