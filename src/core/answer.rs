//! The answer to a check, which front ends encode as a response (RFC 6750 §3, RFC 9449 §7.1).

use crate::check::{Facts, Verdict};
use crate::denial::{Denial, Fault, OAuthError};
use crate::facts::{self, Known, METADATA, Value};
use crate::grpc_timeout::{GRPC_TIMEOUT, SHORTEST, bounded};
use crate::oauth::claims::{Ambiguous, Claim};
use crate::oauth::credentials::{Credentials, Scheme};
use crate::oauth::introspection::Jwt;
use crate::policy::{
    Authentication, IdentityHeader, Policy, PolicySet, SenderConstraint, UpstreamAuthorization,
};
use crate::request::{Field, Request};
use crate::resource::{METHODS, ResourceMetadata};
use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

/// A header of the answer.
#[derive(Clone, PartialEq, Eq)]
pub struct Header<'a> {
    /// The name, in lower case.
    pub name: &'a str,
    /// The value.
    pub value: Cow<'a, str>,
}

impl Header<'_> {
    /// Whether the value may be sent. Control characters would be written unescaped, and a line
    /// break would start another header.
    pub fn is_sendable(&self) -> bool {
        // No early exit, so that the loop vectorises.
        let printable = self.value.bytes().fold(true, |all, it| all & matches!(it, b' '..=b'~'));
        printable || !self.value.chars().any(char::is_control)
    }
}

/// Dynamic metadata about the decision, for the proxy.
pub type Metadata<'a> = Vec<(&'static str, &'a str)>;

/// The answer to one check. Borrows from the verdict and the rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer<'a> {
    /// The request is forwarded to the upstream.
    Allow {
        /// Request headers to set, replacing those of the client.
        set: Vec<Header<'a>>,
        /// Request headers to remove.
        remove: Vec<&'a str>,
        /// How long what it opens may last, where streams end with their token: at least 1 ms. It is
        /// among the headers to set as well, as `grpc-timeout`.
        left: Option<Duration>,
        /// Headers to add to the upstream's response.
        to_client: Vec<Header<'a>>,
        /// For the access log of the proxy.
        metadata: Metadata<'a>,
        /// An identity header that is removed because the value of its claim would be ambiguous.
        unclear: Option<&'a IdentityHeader>,
    },
    /// The client gets this response instead.
    Deny {
        /// The HTTP status, 400 to 599.
        status: u16,
        /// The response headers; `www-authenticate` may occur twice.
        to_client: Vec<Header<'a>>,
        /// The body, in JSON.
        body: String,
        /// For the access log of the proxy.
        metadata: Metadata<'a>,
    },
    /// The client gets this response instead: the metadata of a resource. The request is not
    /// forwarded.
    Served {
        /// The HTTP status, 200.
        status: u16,
        /// The response headers.
        to_client: Vec<Header<'a>>,
        /// The body, in JSON; whoever sends it leaves it out where the method is HEAD.
        body: &'a str,
        /// For the access log of the proxy.
        metadata: Metadata<'a>,
    },
}

impl<'a> Answer<'a> {
    /// The answer to the check of `request`, which ended with `verdict` under `rules`.
    ///
    /// There is no request only if none could be read. Under a policy that reports, it is allowed all
    /// the same; then the caller removes every spelling of
    /// [`Rules::reserved_headers`](crate::Rules::reserved_headers), as none is known to be absent.
    pub fn of(verdict: &'a Verdict, rules: &'a PolicySet, request: Option<&Request<'a>>) -> Self {
        if let Some(resource) = verdict.served() {
            return served(resource, verdict, request);
        }
        match verdict.denied() {
            None => allow(verdict, rules, request),
            Some(denial) => deny(denial, verdict, rules),
        }
    }
}

/// Sets each identity header to its claim, or removes it: a client can never supply one.
fn allow<'a>(
    verdict: &'a Verdict,
    rules: &'a PolicySet,
    request: Option<&Request<'a>>,
) -> Answer<'a> {
    let (facts, upstream) = (&verdict.facts, &rules.upstream);
    let mut set = Vec::with_capacity(upstream.headers.len());
    let mut remove: Vec<&str> = upstream.remove.iter().map(|it| &**it).collect();
    let mut unclear = None;
    for header in &upstream.headers {
        match identity(facts, header) {
            Ok(Some(value)) => set.push(Header { name: &header.name, value }),
            Ok(None) => remove.push(&header.name),
            Err(Ambiguous) => {
                remove.push(&header.name);
                unclear = Some(header);
            }
        }
    }
    remove.extend(request.iter().flat_map(|it| &it.unwanted));
    // What nobody has checked does not go on.
    let authorization =
        if verdict.is_public() { UpstreamAuthorization::Remove } else { upstream.authorization };
    match authorization {
        // A JWT that stands in for an opaque token is forwarded as `Bearer`, whatever scheme the
        // client used.
        UpstreamAuthorization::Keep => set.extend(forwarded(facts)),
        UpstreamAuthorization::Remove => remove.extend(["authorization", "dpop"]),
        UpstreamAuthorization::Bearer => {
            let token = forwarded(facts).or_else(|| as_bearer(facts, request));
            if token.is_none() && request.is_none() {
                remove.push("authorization");
            }
            set.extend(token);
            // A `DPoP` header has no meaning beside a `Bearer` token.
            remove.push("dpop");
        }
    }
    let left = facts.left.filter(|_| verdict.outcome.is_ok()).map(|it| it.max(SHORTEST));
    if let Some(left) = left {
        let own = request.map_or(Field::Absent, |it| it.grpc_timeout);
        set.push(header(GRPC_TIMEOUT, bounded(left, own)));
    }
    let (to_client, metadata) = (nonce(facts).collect(), metadata(verdict));
    Answer::Allow { set, remove, left, to_client, metadata, unclear }
}

/// The JWT that an issuer returned for an opaque token.
fn forwarded(facts: &Facts) -> Option<Header<'static>> {
    facts.forward.as_ref().filter(|_| facts.admitted).map(|it| bearer(it))
}

/// The token itself, if it did not come as `Bearer`.
fn as_bearer(facts: &Facts, request: Option<&Request<'_>>) -> Option<Header<'static>> {
    if !matches!(facts.scheme, Some(Scheme::Dpop | Scheme::MtlsPop)) {
        return None;
    }
    let token = Credentials::read(request?).ok()?.token.as_bytes();
    Some(header("authorization", format!("Bearer {}", str::from_utf8(token).ok()?)))
}

/// The nonce for the client's next proof (RFC 9449 §8.2).
fn nonce(facts: &Facts) -> impl Iterator<Item = Header<'_>> {
    facts.nonce.as_deref().map(|it| header("dpop-nonce", it)).into_iter()
}

fn bearer(jwt: &Jwt) -> Header<'static> {
    header("authorization", format!("Bearer {}", jwt.as_str()))
}

/// The value of an identity header: a claim of a token that was valid when checked.
fn identity<'a>(
    facts: &'a Facts,
    header: &IdentityHeader,
) -> Result<Option<Cow<'a, str>>, Ambiguous> {
    let Some(token) = facts.token.as_ref().filter(|_| facts.admitted) else { return Ok(None) };
    let claim = if header.claim == "iss" {
        Some(Claim::Text(token.iss()))
    } else {
        token.claims.get(&header.claim)
    };
    claim.map_or(Ok(None), |it| it.header_value(header.format))
}

fn deny<'a>(denial: Denial, verdict: &'a Verdict, rules: &'a PolicySet) -> Answer<'a> {
    let facts = &verdict.facts;
    let mut to_client = Vec::new();
    // Who needs no token is not told how to come with one.
    if let Some(policy) = facts.policy.as_ref().filter(|it| !it.is_public()) {
        to_client.extend(challenges(denial, policy, facts, rules));
    }
    to_client.extend(nonce(facts));
    if denial.status() == UNAVAILABLE {
        let seconds = facts.retry_after.map(|it| Cow::Owned(it.to_string()));
        to_client.push(header("retry-after", seconds.unwrap_or(Cow::Borrowed(RETRY_AFTER))));
    }
    to_client.push(header("cache-control", "no-store"));
    to_client.push(header("content-type", "application/json"));
    Answer::Deny {
        status: denial.status(),
        to_client,
        body: body(denial),
        metadata: metadata(verdict),
    }
}

/// The metadata, for pages of every origin (RFC 9728 §3, Fetch Standard §3.2).
fn served<'a>(
    resource: &'a ResourceMetadata,
    verdict: &'a Verdict,
    request: Option<&Request<'a>>,
) -> Answer<'a> {
    let is_preflight = request.is_some_and(|it| it.target.method == "OPTIONS");
    let mut to_client = vec![
        header("access-control-allow-origin", "*"),
        header("cache-control", "public, max-age=300"),
    ];
    let mut body = resource.document();
    if is_preflight {
        let methods = METHODS.join(", ");
        to_client.push(header("access-control-allow-methods", methods.clone()));
        to_client.push(header("access-control-allow-headers", "*"));
        to_client.push(header("access-control-max-age", "86400"));
        to_client.push(header("allow", methods));
        body = "";
    } else {
        to_client.push(header("content-type", "application/json"));
    }
    Answer::Served { status: 200, to_client, body, metadata: metadata(verdict) }
}

/// A dependency of the check is unavailable (RFC 9110 §15.6.4).
const UNAVAILABLE: u16 = 503;

/// Seconds until the client should retry (RFC 9110 §10.2.3). By then an overload may have passed,
/// or a failed dependency recovered.
const RETRY_AFTER: &str = "1";

/// JSON. Neither labels nor sentences contain anything that needs escaping.
fn body(denial: Denial) -> String {
    let mut text = String::with_capacity(160);
    text.push('{');
    if let Some(error) = denial.error() {
        text.extend([r#""error":""#, error.code(), r#"","#]);
    }
    text.extend([r#""error_description":""#, denial.sentence(), r#""}"#]);
    text
}

/// One challenge for each accepted scheme, `MTLS_POP` only if it was used. The error goes with the
/// scheme that was used (RFC 9449 §7.2), or with all of them if that is unknown.
fn challenges<'a>(
    denial: Denial,
    policy: &'a Policy,
    facts: &'a Facts,
    rules: &'a PolicySet,
) -> impl Iterator<Item = Header<'a>> {
    let ours = denial.fault() != Fault::Client;
    // A policy that requires only a certificate also accepts a token that is bound to both, sent as
    // `DPoP`.
    let bound = facts.token.as_ref().is_some_and(|it| it.confirmation.jkt.is_some());
    let enforced = policy.sender_constraint != SenderConstraint::None;
    let will_do = move |scheme| {
        policy.sender_constraint.accepts(scheme) || (scheme == Scheme::Dpop && bound && enforced)
    };
    let tried = facts.scheme.filter(|it| will_do(*it));
    let schemes = [Scheme::Bearer, Scheme::Dpop].into_iter();
    let schemes = schemes.chain(tried.filter(|it| *it == Scheme::MtlsPop));
    schemes.filter(move |it| !ours && will_do(*it)).map(move |scheme| {
        let error = denial.error().filter(|error| match error {
            OAuthError::InvalidDpopProof | OAuthError::UseDpopNonce => scheme == Scheme::Dpop,
            OAuthError::InvalidRequest
            | OAuthError::InvalidToken
            | OAuthError::InsufficientScope
            | OAuthError::InsufficientUserAuthentication => tried.is_none_or(|it| it == scheme),
        });
        header("www-authenticate", challenge(scheme, denial, error, policy, rules))
    })
}

fn challenge(
    scheme: Scheme,
    denial: Denial,
    error: Option<OAuthError>,
    policy: &Policy,
    rules: &PolicySet,
) -> String {
    // RFC 6750 §3: at least one parameter follows the scheme. The quoted values contain nothing
    // that needs escaping, by construction.
    let mut text = String::with_capacity(256);
    text.extend([scheme.name(), " realm=\"", &policy.realm, "\""]);
    let mut parameter = |name, value: &str| text.extend([", ", name, "=\"", value, "\""]);
    if scheme == Scheme::Dpop {
        let names: Vec<_> = rules.proofs.algorithms.iter().map(|it| it.name()).collect();
        parameter("algs", &names.join(" "));
    }
    if let Some(error) = error {
        parameter("error", error.code());
        parameter("error_description", denial.sentence());
        if error == OAuthError::InsufficientUserAuthentication {
            let Authentication { acr, max_age_seconds } = &policy.authentication;
            if !acr.is_empty() {
                parameter("acr_values", &acr.join(" "));
            }
            if let Some(seconds) = max_age_seconds {
                parameter("max_age", &seconds.to_string());
            }
        }
    }
    // RFC 6750 §3: what the resource needs, so that a client without a token asks for enough at once.
    if !policy.scopes.is_empty() {
        parameter("scope", &policy.scopes.join(" "));
    }
    if let Some(url) = &policy.metadata_url().or_else(|| policy.resource_metadata.clone()) {
        parameter("resource_metadata", url);
    }
    text
}

fn header<'a>(name: &'static str, value: impl Into<Cow<'a, str>>) -> Header<'a> {
    Header { name, value: value.into() }
}

/// Redacted: a token that is forwarded is a secret.
impl fmt::Debug for Header<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let value = if self.name == "authorization" { "(hidden)" } else { &*self.value };
        write!(f, "{}: {value:?}", self.name)
    }
}

fn metadata(verdict: &Verdict) -> Metadata<'_> {
    let mut metadata = Vec::with_capacity(8);
    for (name, value) in facts::of(METADATA, &Known::by(verdict)) {
        metadata.extend(value.and_then(Value::borrowed).map(|it| (name, it)));
    }
    metadata
}
