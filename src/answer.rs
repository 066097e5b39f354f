//! Knows what is sent back: the one thing that front ends turn into bytes (RFC 6750 §3,
//! RFC 9449 §7.1).

use crate::check::{Facts, Verdict};
use crate::denial::{Denial, OAuthError};
use crate::oauth::claims;
use crate::oauth::credentials::Scheme;
use crate::policy::{Policy, PolicySet, SenderConstraint, UpstreamAuthorization};
use serde_json::json;
use std::borrow::Cow;
use std::sync::Arc;

/// A header that the answer carries.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    /// Its name, in lower case.
    pub name: Arc<str>,
    /// Its value.
    pub value: String,
}

impl Header {
    /// Whether it may go out. A control character would be written as it stands: a line break would
    /// begin another header.
    pub fn is_sendable(&self) -> bool {
        !self.value.chars().any(char::is_control)
    }
}

/// What is told to the proxy about the decision, as dynamic metadata.
pub type Metadata = Vec<(&'static str, Cow<'static, str>)>;

/// The answer to one check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// The request goes on to the upstream.
    Allow {
        /// Request headers that replace those of the client.
        set: Vec<Header>,
        /// Request headers that go.
        remove: Vec<Arc<str>>,
        /// Headers that are added to the upstream's response.
        to_client: Vec<Header>,
        /// For the proxy's log.
        metadata: Metadata,
    },
    /// The client gets this answer instead.
    Deny {
        /// The HTTP status, 400 to 599.
        status: u16,
        /// The headers of the answer; `www-authenticate` may be there twice.
        to_client: Vec<Header>,
        /// The body, JSON.
        body: String,
        /// For the proxy's log.
        metadata: Metadata,
    },
}

impl Answer {
    /// The answer to a check that ended with `verdict` under `rules`.
    pub fn of(verdict: &Verdict, rules: &PolicySet) -> Self {
        match verdict.outcome {
            Ok(()) => allow(&verdict.facts, rules),
            Err(denial) => deny(denial, &verdict.facts),
        }
    }

    /// The answer to a request of which nothing is known but why it is refused.
    pub fn refused(denial: Denial) -> Self {
        deny(denial, &Facts::default())
    }
}

/// Identity headers get their claim, or go: a client can never supply one.
fn allow(facts: &Facts, rules: &PolicySet) -> Answer {
    let upstream = &rules.upstream;
    let mut set = Vec::with_capacity(upstream.headers.len());
    let mut remove = upstream.remove.clone();
    for (name, path) in &upstream.headers {
        match identity(facts, path) {
            Some(value) => set.push(Header { name: Arc::clone(name), value }),
            None => remove.push(Arc::clone(name)),
        }
    }
    if upstream.authorization == UpstreamAuthorization::Remove {
        remove.push("authorization".into());
    }
    Answer::Allow { set, remove, to_client: vec![], metadata: metadata("allow", "allowed", facts) }
}

/// The value of an identity header: a claim of the verified token.
fn identity(facts: &Facts, path: &str) -> Option<String> {
    let token = facts.token.as_ref()?;
    if path == "iss" {
        return Some(token.issuer.name.as_ref().to_owned());
    }
    token.claims.get(path).and_then(claims::header_value)
}

fn deny(denial: Denial, facts: &Facts) -> Answer {
    let mut to_client = Vec::new();
    if let Some(policy) = &facts.policy {
        to_client.extend(challenges(denial, policy, facts.scheme));
    }
    to_client.push(header("cache-control", "no-store"));
    to_client.push(header("content-type", "application/json"));
    let body = match denial.error() {
        Some(error) => json!({"error": error.code(), "error_description": denial.sentence()}),
        None => json!({"error_description": denial.sentence()}),
    };
    Answer::Deny {
        status: denial.status(),
        to_client,
        body: body.to_string(),
        metadata: metadata("deny", denial.label(), facts),
    }
}

/// One challenge for each scheme that the policy accepts. The error stands with the scheme that
/// was tried (RFC 9449 §7.2), or with all when it is not known which that was.
fn challenges(denial: Denial, policy: &Policy, tried: Option<Scheme>) -> Vec<Header> {
    if denial.status() >= 500 {
        return vec![];
    }
    let schemes = accepted(policy.sender_constraint);
    let tried = tried.filter(|it| schemes.contains(it));
    schemes
        .iter()
        .map(|scheme| {
            let error = denial.error().filter(|error| match error {
                OAuthError::InvalidDpopProof | OAuthError::UseDpopNonce => *scheme == Scheme::Dpop,
                OAuthError::InvalidRequest
                | OAuthError::InvalidToken
                | OAuthError::InsufficientScope => tried.is_none_or(|it| it == *scheme),
            });
            header("www-authenticate", &challenge(*scheme, denial, error, policy))
        })
        .collect()
}

fn challenge(scheme: Scheme, denial: Denial, error: Option<OAuthError>, policy: &Policy) -> String {
    // RFC 6750 §3: the scheme is followed by at least one parameter. Names of policies and scopes
    // hold nothing that would need escaping, by construction.
    let mut text = format!("{} realm=\"{}\"", scheme.name(), policy.name);
    let mut parameter = |name, value: &str| {
        for part in [", ", name, "=\"", value, "\""] {
            text.push_str(part);
        }
    };
    if let Some(error) = error {
        parameter("error", error.code());
        parameter("error_description", denial.sentence());
    }
    if denial == Denial::ScopeInsufficient {
        parameter("scope", &policy.scopes.join(" "));
    }
    text
}

/// The schemes with which a token may come under a constraint.
const fn accepted(constraint: SenderConstraint) -> &'static [Scheme] {
    match constraint {
        SenderConstraint::Certificate | SenderConstraint::None => &[Scheme::Bearer],
        SenderConstraint::Dpop => &[Scheme::Dpop],
        SenderConstraint::Either | SenderConstraint::IfBound => &[Scheme::Bearer, Scheme::Dpop],
    }
}

fn header(name: &str, value: &str) -> Header {
    Header { name: name.into(), value: value.to_owned() }
}

fn metadata(decision: &'static str, reason: &'static str, facts: &Facts) -> Metadata {
    let mut metadata: Metadata = vec![("decision", decision.into()), ("reason", reason.into())];
    let mut tell = |name, value: Option<&str>| {
        if let Some(value) = value {
            metadata.push((name, value.to_owned().into()));
        }
    };
    tell("policy", facts.policy.as_ref().map(|it| &*it.name));
    if let Some(token) = &facts.token {
        tell("issuer", Some(&token.issuer.name));
        tell("subject", token.claims.text("sub"));
        tell("client_id", token.claims.text("client_id"));
    }
    metadata.push(("sender_constraint", facts.proved.label().into()));
    metadata
}
