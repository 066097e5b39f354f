//! What the proxy must do with a request.

use keybound_core::{Answer, Denial, Header, Metadata};
use std::borrow::Cow;
use std::time::Duration;

/// What the proxy must do with a request. Borrows from the finished check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision<'a> {
    /// The request goes on to the upstream.
    Allow {
        /// Request headers to set, each in place of all of the same name.
        set: Vec<Header<'a>>,
        /// Request headers to remove.
        remove: Vec<&'a str>,
        /// How long what it opens may last, where streams end with their token.
        left: Option<Duration>,
        /// Headers to set in the upstream's response.
        to_client: Vec<Header<'a>>,
        /// For the access log of the proxy.
        metadata: Metadata<'a>,
    },
    /// The client gets this response instead: a denial, or metadata of a resource.
    Deny {
        /// The HTTP status, 400 to 599; 200 to 299 for metadata.
        status: u16,
        /// The response headers; `www-authenticate` may occur twice.
        to_client: Vec<Header<'a>>,
        /// The body, in JSON.
        body: Cow<'a, str>,
        /// For the access log of the proxy.
        metadata: Metadata<'a>,
    },
}

impl<'a> From<Answer<'a>> for Decision<'a> {
    fn from(answer: Answer<'a>) -> Self {
        match answer {
            Answer::Allow { mut set, mut remove, left, to_client, metadata, unclear: _ } => {
                set.retain(|it| {
                    let sendable = it.is_sendable();
                    if !sendable {
                        // If it cannot be set, the client's own must not pass either.
                        remove.push(it.name);
                    }
                    sendable
                });
                Self::Allow { set, remove, left, to_client: sendable(to_client), metadata }
            }
            Answer::Deny { status, to_client, body, metadata } => Self::Deny {
                status: status.clamp(400, 599),
                to_client: sendable(to_client),
                body: body.into(),
                metadata,
            },
            Answer::Served { status, to_client, body, metadata } => Self::Deny {
                status: status.clamp(200, 299),
                to_client: sendable(to_client),
                body: body.into(),
                metadata,
            },
        }
    }
}

/// The headers whose values may be sent: a line break would start another header.
fn sendable(mut headers: Vec<Header<'_>>) -> Vec<Header<'_>> {
    headers.retain(Header::is_sendable);
    headers
}

impl Decision<'_> {
    /// The denial of a request whose check has failed in a way that left no answer.
    pub(super) fn internal() -> Self {
        let denial = Denial::Internal;
        let header = |name, value: &'static str| Header { name, value: value.into() };
        Self::Deny {
            status: denial.status(),
            to_client: vec![
                header("cache-control", "no-store"),
                header("content-type", "application/json"),
            ],
            body: format!("{{\"error_description\":\"{}\"}}", denial.sentence()).into(),
            metadata: vec![("decision", "deny"), ("reason", denial.label())],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::samples::policy_set;
    use keybound_core::Verdict;

    fn header(name: &'static str, value: &'static str) -> Header<'static> {
        Header { name, value: value.into() }
    }

    #[test]
    fn an_allowed_request_gets_what_the_answer_says_in_its_order() {
        let set = || vec![header("x-auth-subject", "alice"), header("x-auth-scope", "")];
        let remove = || vec!["dpop", "x-auth-client-id"];
        let to_client = || vec![header("dpop-nonce", "n")];
        let metadata = || vec![("policy", "payments"), ("decision", "allow")];
        let left = Some(Duration::from_secs(2));
        let answer = Answer::Allow {
            set: set(),
            remove: remove(),
            to_client: to_client(),
            metadata: metadata(),
            left,
            unclear: None,
        };
        let (set, remove, to_client, metadata) = (set(), remove(), to_client(), metadata());
        let expected = Decision::Allow { set, remove, left, to_client, metadata };
        assert_eq!(Decision::from(answer), expected);
    }

    #[test]
    fn a_header_with_a_control_character_is_removed_in_place_of_set() {
        let odd = || vec![header("x-auth-subject", "a\r\nb: c"), header("x-auth-scope", "ok")];
        let answer = Answer::Allow {
            set: odd(),
            remove: vec!["dpop"],
            to_client: odd(),
            metadata: vec![],
            left: None,
            unclear: None,
        };
        let Decision::Allow { set, remove, to_client, .. } = Decision::from(answer) else {
            panic!()
        };
        assert_eq!(set, [header("x-auth-scope", "ok")]);
        assert_eq!(remove, ["dpop", "x-auth-subject"]);
        assert_eq!(to_client, [header("x-auth-scope", "ok")]);
    }

    #[test]
    fn a_denial_never_looks_like_a_success() {
        for (told, sent) in [(200, 400), (401, 401), (599, 599), (999, 599)] {
            let (to_client, body) = (vec![header("a", "b\nc")], String::new());
            let answer = Answer::Deny { status: told, to_client, body, metadata: vec![] };
            let Decision::Deny { status, to_client, .. } = Decision::from(answer) else { panic!() };
            assert_eq!((status, to_client), (sent, vec![]));
        }
    }

    #[test]
    fn what_is_served_is_a_response_of_success() {
        for (told, sent) in [(200, 200), (0, 200), (401, 299)] {
            let to_client = || vec![header("cache-control", "public")];
            let served = Answer::Served {
                status: told,
                to_client: to_client(),
                body: "{}",
                metadata: vec![],
            };
            let (to_client, body, metadata) = (to_client(), "{}".into(), vec![]);
            let expected = Decision::Deny { status: sent, to_client, body, metadata };
            assert_eq!(Decision::from(served), expected);
        }
    }

    #[test]
    fn a_check_that_left_no_answer_is_refused_as_any_internal_error() {
        let policies = policy_set();
        let verdict = Verdict::refused(Denial::Internal.into(), &policies);
        let usual = Decision::from(Answer::of(&verdict, &policies, None));
        let (
            Decision::Deny { status, to_client, body, .. },
            Decision::Deny { status: same, to_client: same_headers, body: same_body, .. },
        ) = (usual, Decision::internal())
        else {
            panic!()
        };
        assert_eq!((status, to_client, body), (same, same_headers, same_body));
    }
}
