//! A decision that borrows nothing, for the proxy to carry out when it is ready to.

use keybound_core::{Answer, Denial, Header};
use std::time::Duration;

/// What the proxy must do with a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decision {
    /// The request goes on to the upstream.
    Allow {
        /// Request headers to set, each in place of all of the same name.
        set: Pairs,
        /// Request headers to remove; their values are empty.
        remove: Pairs,
        /// How long what it opens may last, where streams end with their token.
        left: Option<Duration>,
        /// Headers to set in the upstream's response.
        to_client: Pairs,
        /// For the access log of the proxy.
        metadata: Pairs,
    },
    /// The client gets this response instead: a denial, or metadata of a resource.
    Deny {
        /// The HTTP status, 400 to 599; 200 to 299 for metadata.
        status: u16,
        /// The response headers; `www-authenticate` may occur twice.
        to_client: Pairs,
        /// The body, in JSON.
        body: String,
        /// For the access log of the proxy.
        metadata: Pairs,
    },
}

/// Names and values, in one piece of memory.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Pairs {
    text: String,
    /// Where each name and its value end.
    ends: Vec<(usize, usize)>,
}

impl<'p> FromIterator<(&'p str, &'p str)> for Pairs {
    fn from_iter<I: IntoIterator<Item = (&'p str, &'p str)>>(pairs: I) -> Self {
        let pairs: Vec<_> = pairs.into_iter().collect();
        Self::of(pairs.iter().copied())
    }
}

impl Pairs {
    fn of<'p>(pairs: impl Iterator<Item = (&'p str, &'p str)> + Clone) -> Self {
        let (mut bytes, mut count) = (0_usize, 0_usize);
        for (name, value) in pairs.clone() {
            bytes = bytes.saturating_add(name.len()).saturating_add(value.len());
            count = count.saturating_add(1);
        }
        let mut found =
            Self { text: String::with_capacity(bytes), ends: Vec::with_capacity(count) };
        for (name, value) in pairs {
            found.text.push_str(name);
            let name_ends = found.text.len();
            found.text.push_str(value);
            found.ends.push((name_ends, found.text.len()));
        }
        found
    }

    /// Each name with its value.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        let starts = std::iter::once(0).chain(self.ends.iter().map(|(_, end)| *end));
        starts.zip(&self.ends).map(|(start, (name_ends, end))| {
            let part = |range| self.text.get(range).unwrap_or_default();
            (part(start..*name_ends), part(*name_ends..*end))
        })
    }

    /// Their number.
    pub const fn len(&self) -> usize {
        self.ends.len()
    }

    /// Whether there are none.
    pub const fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// The headers whose values may be sent: a line break would start another header.
    fn sendable(headers: &[Header<'_>]) -> Self {
        let sendable = headers.iter().filter(|it| it.is_sendable());
        Self::of(sendable.map(|it| (it.name, &*it.value)))
    }
}

impl From<&Answer<'_>> for Decision {
    fn from(answer: &Answer<'_>) -> Self {
        match answer {
            Answer::Allow { set, remove, left, to_client, metadata, unclear: _ } => {
                // If it cannot be set, the client's own must not pass either.
                let unsendable = set.iter().filter(|it| !it.is_sendable()).map(|it| it.name);
                Self::Allow {
                    remove: Pairs::of(remove.iter().copied().chain(unsendable).map(|it| (it, ""))),
                    set: Pairs::sendable(set),
                    left: *left,
                    to_client: Pairs::sendable(to_client),
                    metadata: Pairs::of(metadata.iter().copied()),
                }
            }
            Answer::Deny { status, to_client, body, metadata } => Self::Deny {
                status: (*status).clamp(400, 599),
                to_client: Pairs::sendable(to_client),
                body: body.clone(),
                metadata: Pairs::of(metadata.iter().copied()),
            },
            Answer::Served { status, to_client, body, metadata } => Self::Deny {
                status: (*status).clamp(200, 299),
                to_client: Pairs::sendable(to_client),
                body: (*body).to_owned(),
                metadata: Pairs::of(metadata.iter().copied()),
            },
        }
    }
}

impl Decision {
    /// The denial of a request whose check has failed in a way that left no answer.
    pub fn internal() -> Self {
        let denial = Denial::Internal;
        let pairs = |pairs: &[(&'static str, &'static str)]| Pairs::of(pairs.iter().copied());
        Self::Deny {
            status: denial.status(),
            to_client: pairs(&[
                ("cache-control", "no-store"),
                ("content-type", "application/json"),
            ]),
            body: format!("{{\"error_description\":\"{}\"}}", denial.sentence()),
            metadata: pairs(&[("decision", "deny"), ("reason", denial.label())]),
        }
    }
}

/// Redacted: a token that is forwarded is a secret.
impl std::fmt::Debug for Pairs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.iter().map(|(name, _)| name)).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::samples::policy_set;
    use keybound_core::{Header, Verdict};

    fn header(name: &'static str, value: &'static str) -> Header<'static> {
        Header { name, value: value.into() }
    }

    fn all(pairs: &Pairs) -> Vec<(&str, &str)> {
        pairs.iter().collect()
    }

    #[test]
    fn an_answer_is_copied_in_its_order() {
        let answer = Answer::Allow {
            set: vec![header("x-auth-subject", "alice"), header("x-auth-scope", "")],
            remove: vec!["dpop", "x-auth-client-id"],
            to_client: vec![header("dpop-nonce", "n")],
            metadata: vec![("policy", "payments"), ("decision", "allow")],
            left: Some(Duration::from_secs(2)),
            unclear: None,
        };
        let Decision::Allow { set, remove, left, to_client, metadata } = Decision::from(&answer)
        else {
            panic!()
        };
        assert_eq!(all(&set), [("x-auth-subject", "alice"), ("x-auth-scope", "")]);
        assert_eq!(all(&remove), [("dpop", ""), ("x-auth-client-id", "")]);
        assert_eq!(left, Some(Duration::from_secs(2)));
        assert_eq!(all(&to_client), [("dpop-nonce", "n")]);
        assert_eq!(all(&metadata), [("policy", "payments"), ("decision", "allow")]);
        assert_eq!((metadata.len(), Pairs::default().is_empty()), (2, true));
    }

    #[test]
    fn a_header_with_a_control_character_is_removed_in_place_of_set() {
        let odd = || vec![header("x-auth-subject", "a\r\nb: c"), header("x-auth-scope", "ok")];
        let answer = Answer::Allow {
            set: odd(),
            remove: vec![],
            to_client: odd(),
            metadata: vec![],
            left: None,
            unclear: None,
        };
        let Decision::Allow { set, remove, to_client, .. } = Decision::from(&answer) else {
            panic!()
        };
        assert_eq!(all(&set), [("x-auth-scope", "ok")]);
        assert_eq!(all(&remove), [("x-auth-subject", "")]);
        assert_eq!(all(&to_client), [("x-auth-scope", "ok")]);
    }

    #[test]
    fn a_denial_never_looks_like_a_success() {
        for (told, sent) in [(200, 400), (401, 401), (599, 599), (999, 599)] {
            let (to_client, body) = (vec![], String::new());
            let answer = Answer::Deny { status: told, to_client, body, metadata: vec![] };
            let Decision::Deny { status, .. } = Decision::from(&answer) else { panic!() };
            assert_eq!(status, sent);
        }
    }

    #[test]
    fn what_is_served_is_a_response_of_success() {
        for (told, sent) in [(200, 200), (0, 200), (401, 299)] {
            let (to_client, body) = (vec![header("cache-control", "public")], "{}");
            let answer = Answer::Served { status: told, to_client, body, metadata: vec![] };
            let Decision::Deny { status, to_client, body, .. } = Decision::from(&answer) else {
                panic!()
            };
            assert_eq!(
                (status, all(&to_client), &*body),
                (sent, vec![("cache-control", "public")], "{}")
            );
        }
    }

    #[test]
    fn a_check_that_left_no_answer_is_refused_as_any_internal_error() {
        let policies = policy_set();
        let verdict = Verdict::refused(Denial::Internal.into(), &policies);
        let usual = Decision::from(&Answer::of(&verdict, &policies, None));
        let (
            Decision::Deny { status, to_client, body, .. },
            Decision::Deny { status: same, to_client: same_headers, body: same_body, .. },
        ) = (usual, Decision::internal())
        else {
            panic!()
        };
        assert_eq!((status, all(&to_client), body), (same, all(&same_headers), same_body));
    }

    #[test]
    fn a_forwarded_token_is_not_shown() {
        let shown = format!("{:?}", Pairs::of([("authorization", "Bearer secret")].into_iter()));
        assert!(!shown.contains("secret"), "{shown}");
    }
}
