//! Knows what is sent back: the one thing that front ends turn into bytes (RFC 6750 §3,
//! RFC 9449 §7.1).

use crate::check::{Facts, Verdict};
use crate::denial::{Denial, OAuthError};
use crate::oauth::claims;
use crate::oauth::credentials::{Credentials, Scheme};
use crate::oauth::introspection::Jwt;
use crate::policy::{Policy, PolicySet, SenderConstraint, UpstreamAuthorization};
use crate::request::Request;
use serde_json::json;
use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

/// A header that the answer carries.
#[derive(Clone, PartialEq, Eq)]
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
    /// The answer to the check of `request` that ended with `verdict` under `rules`.
    pub fn of(verdict: &Verdict, rules: &PolicySet, request: Option<&Request<'_>>) -> Self {
        match verdict.denied() {
            None => allow(verdict, rules, request),
            Some(denial) => deny(denial, &verdict.facts, rules),
        }
    }

    /// The answer to a request of which nothing is known but why it is refused.
    pub fn refused(denial: Denial, rules: &PolicySet) -> Self {
        deny(denial, &Facts::default(), rules)
    }
}

/// Identity headers get their claim, or go: a client can never supply one.
fn allow(verdict: &Verdict, rules: &PolicySet, request: Option<&Request<'_>>) -> Answer {
    let (facts, upstream) = (&verdict.facts, &rules.upstream);
    let mut set = Vec::with_capacity(upstream.headers.len());
    let mut remove = upstream.remove.clone();
    for (name, path) in &upstream.headers {
        match identity(facts, path) {
            Some(value) => set.push(Header { name: Arc::clone(name), value }),
            None => remove.push(Arc::clone(name)),
        }
    }
    match upstream.authorization {
        // A token that stands for another goes as what it is, whatever the other came as.
        UpstreamAuthorization::Keep => set.extend(forwarded(facts)),
        UpstreamAuthorization::Remove => remove.extend(["authorization", "dpop"].map(Into::into)),
        UpstreamAuthorization::Bearer => {
            set.extend(forwarded(facts).or_else(|| as_bearer(facts, request)));
            // It says nothing about a token that comes as `Bearer`.
            remove.push("dpop".into());
        }
    }
    let mut metadata = metadata("allow", "allowed", facts);
    metadata.extend(verdict.would_deny().map(|it| ("would_deny", it.label().into())));
    Answer::Allow { set, remove, to_client: nonce(facts).collect(), metadata }
}

/// The JWT that an issuer gave for an opaque token.
fn forwarded(facts: &Facts) -> Option<Header> {
    facts.forward.as_ref().filter(|_| facts.admitted).map(|it| bearer(it))
}

/// The very token that came as `DPoP`.
fn as_bearer(facts: &Facts, request: Option<&Request<'_>>) -> Option<Header> {
    if facts.scheme != Some(Scheme::Dpop) {
        return None;
    }
    let token = Credentials::read(request?).ok()?.token.as_bytes();
    Some(header("authorization", &format!("Bearer {}", str::from_utf8(token).ok()?)))
}

/// The nonce for the client's next proof (RFC 9449 §8.2).
fn nonce(facts: &Facts) -> impl Iterator<Item = Header> {
    facts.nonce.as_deref().map(|it| header("dpop-nonce", it)).into_iter()
}

fn bearer(jwt: &Jwt) -> Header {
    header("authorization", &format!("Bearer {}", jwt.as_str()))
}

/// The value of an identity header: a claim of a token that was valid when it was checked.
fn identity(facts: &Facts, path: &str) -> Option<String> {
    let token = facts.token.as_ref().filter(|_| facts.admitted)?;
    if path == "iss" {
        return Some(token.issuer.name.as_ref().to_owned());
    }
    token.claims.get(path).and_then(claims::header_value)
}

fn deny(denial: Denial, facts: &Facts, rules: &PolicySet) -> Answer {
    let mut to_client = Vec::new();
    if let Some(policy) = &facts.policy {
        to_client.extend(challenges(denial, policy, facts, rules));
    }
    to_client.extend(nonce(facts));
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

/// One challenge for each scheme that will do. The error stands with the scheme that was tried
/// (RFC 9449 §7.2), or with all when it is not known which that was.
fn challenges(
    denial: Denial,
    policy: &Policy,
    facts: &Facts,
    rules: &PolicySet,
) -> impl Iterator<Item = Header> {
    let ours = denial.status() >= 500;
    // A policy that asks for a certificate alone takes a token that is bound to both, as `DPoP`.
    let bound = facts.token.as_ref().is_some_and(|it| it.confirmation.jkt.is_some());
    let enforced = policy.sender_constraint != SenderConstraint::None;
    let will_do = move |scheme| {
        policy.sender_constraint.accepts(scheme) || (scheme == Scheme::Dpop && bound && enforced)
    };
    let tried = facts.scheme.filter(|it| will_do(*it));
    let schemes = [Scheme::Bearer, Scheme::Dpop].into_iter();
    schemes.filter(move |it| !ours && will_do(*it)).map(move |scheme| {
        let error = denial.error().filter(|error| match error {
            OAuthError::InvalidDpopProof | OAuthError::UseDpopNonce => scheme == Scheme::Dpop,
            OAuthError::InvalidRequest
            | OAuthError::InvalidToken
            | OAuthError::InsufficientScope => tried.is_none_or(|it| it == scheme),
        });
        header("www-authenticate", &challenge(scheme, denial, error, policy, rules))
    })
}

fn challenge(
    scheme: Scheme,
    denial: Denial,
    error: Option<OAuthError>,
    policy: &Policy,
    rules: &PolicySet,
) -> String {
    // RFC 6750 §3: the scheme is followed by at least one parameter. What stands in quotes here
    // holds nothing that would need escaping, by construction.
    let mut text = format!("{} realm=\"{}\"", scheme.name(), policy.realm);
    let mut parameter = |name, value: &str| {
        for part in [", ", name, "=\"", value, "\""] {
            text.push_str(part);
        }
    };
    if scheme == Scheme::Dpop {
        let names: Vec<_> = rules.proofs.algorithms.iter().map(|it| it.name()).collect();
        parameter("algs", &names.join(" "));
    }
    if let Some(error) = error {
        parameter("error", error.code());
        parameter("error_description", denial.sentence());
        if error == OAuthError::InsufficientScope {
            parameter("scope", &policy.scopes.join(" "));
        }
    }
    if let Some(url) = &policy.resource_metadata {
        parameter("resource_metadata", url);
    }
    text
}

fn header(name: &str, value: &str) -> Header {
    Header { name: name.into(), value: value.to_owned() }
}

/// A token that goes upstream is a secret, and is not shown.
impl fmt::Debug for Header {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let secret = *self.name == *"authorization";
        let value = if secret { "(hidden)" } else { self.value.as_str() };
        write!(f, "{}: {value:?}", self.name)
    }
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
