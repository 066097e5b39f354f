//! Policies: what is required of a request, and the issuers whose tokens are accepted. All defaults
//! are filled in.

mod authentication;
pub(crate) mod claim;
mod demands;
pub(crate) mod effective;
#[cfg(test)]
pub(crate) mod examples;
mod issuer;
mod policies;
mod readings;
pub(crate) mod reserved;
mod resource;
mod selection;
mod status;
mod streams;
#[cfg(test)]
mod tests;

pub use authentication::Authentication;
pub use claim::{ClaimRule, ClaimValues};
pub use effective::EffectivePolicy;
pub use issuer::{
    AUDIENCE, ClaimNames, ClaimsFrom, Introspection, Issuer, IssuerId, Must, TENANT, TokenType,
    TypeClaim, USUAL_TYPE_CLAIMS,
};
pub use policies::Policies;
pub use reserved::ReservedHeaders;
pub use resource::{Resource, WELL_KNOWN_PATH};
pub use status::StatusDemand;
pub use streams::Streams;

use crate::client_certificate::Source;
use crate::jose::algorithm::Algorithm;
use crate::uri::Origin;
use crate::words::words;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// Everything that a decision depends on.
#[derive(Clone, Debug)]
pub struct PolicySet {
    /// The issuers. [`IssuerId`] is an index into them.
    pub issuers: Vec<Arc<Issuer>>,
    /// The policies, in matching order.
    pub policies: Policies,
    /// The source of the client certificate.
    pub client_certificate: Source,
    /// The maximum length of an access token, in bytes.
    pub token_bytes: usize,
    /// What the upstream receives.
    pub upstream: Upstream,
    /// Requirements on DPoP proofs.
    pub proofs: ProofRules,
}

/// The default algorithms for tokens and proofs: those of FAPI 2.0, and RS256, which every issuer of
/// JWT access tokens supports (RFC 9068 §2.1).
pub const USUAL_ALGORITHMS: [Algorithm; 5] =
    [Algorithm::ES256, Algorithm::PS256, Algorithm::RS256, Algorithm::EdDSA, Algorithm::Ed25519];

/// The default maximum length of a token, in bytes.
pub const USUAL_TOKEN_BYTES: usize = 16_384;

impl PolicySet {
    /// A set with these `policies` and these `issuers`, and defaults for everything else: the
    /// client certificate is that of the proxy's peer, and no identity headers are set.
    pub fn new(
        issuers: impl IntoIterator<Item = Issuer>,
        policies: impl IntoIterator<Item = Policy>,
    ) -> Self {
        Self {
            issuers: issuers.into_iter().map(Arc::new).collect(),
            policies: policies.into_iter().map(Arc::new).collect(),
            client_certificate: Source::Peer,
            token_bytes: USUAL_TOKEN_BYTES,
            upstream: Upstream::default(),
            proofs: ProofRules::default(),
        }
    }
}

/// Requirements on DPoP proofs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProofRules {
    /// The allowed signature algorithms. Never empty.
    pub algorithms: Vec<Algorithm>,
    /// The time that counts.
    pub time: ProofTime,
    /// The maximum difference between `iat` and now, in either direction, where that counts.
    pub window: Duration,
    /// Whether a nonce of this server is required.
    pub nonce: NonceDemand,
}

impl Default for ProofRules {
    fn default() -> Self {
        Self {
            algorithms: USUAL_ALGORITHMS.to_vec(),
            time: ProofTime::default(),
            window: Duration::from_secs(60),
            nonce: NonceDemand::default(),
        }
    }
}

words! {
    /// Which time of a DPoP proof counts (RFC 9449 §4.3, check 11).
    #[default(Iat)]
    pub enum ProofTime as "ProofTime" {
        /// Its `iat`, and its `exp` and `nbf` if it has them.
        Iat = "iat",
        /// That of its nonce, whatever the client's clock says. A proof without a nonce is refused.
        Nonce = "nonce",
    }
}

words! {
    /// Whether DPoP proofs need a nonce of this server (RFC 9449 §9).
    #[default(Off)]
    pub enum NonceDemand as "Nonce" {
        /// No nonce is needed, and none is given.
        Off = "off",
        /// A nonce is given, and optional.
        Offered = "offered",
        /// A nonce is required.
        Required = "required",
    }
}

/// The requirements on one class of requests.
#[derive(Debug)]
pub struct Policy {
    /// The name in the configuration, logs, metrics and metadata.
    pub name: Arc<str>,
    /// The requests that it applies to.
    pub matches: Match,
    /// Whether no token is asked for. It counts only if nothing is demanded of a token either: see
    /// [`is_public`](Self::is_public).
    pub public: bool,
    /// How the token must be bound.
    pub sender_constraint: SenderConstraint,
    /// The issuers whose tokens are accepted. Never empty, unless no token is asked for. Those with
    /// introspection are asked about an opaque token in this order, until one knows it.
    pub issuers: Vec<IssuerId>,
    /// The required scopes.
    pub scopes: Vec<String>,
    /// The required claims.
    pub claims: Vec<ClaimRule>,
    /// How and how recently the user must have logged in.
    pub authentication: Authentication,
    /// The public origin that DPoP proofs must name; none: that of the request itself.
    pub origin: Option<Origin>,
    /// What becomes of open streams when the token ends.
    pub streams: Streams,
    /// Whether denials are enforced.
    pub mode: Mode,
    /// Whether an annotation of a route may select it.
    pub routes_may_name_it: bool,
    /// The `realm` in challenges.
    pub realm: String,
    /// The resource whose metadata are served (RFC 9728); none: they are not. Needs an origin.
    pub resource: Option<Resource>,
    /// The `resource_metadata` in challenges (RFC 9728 §5.1), if it is not that of
    /// [`resource`](Self::resource).
    pub resource_metadata: Option<String>,
}

words! {
    /// Whether denials are enforced.
    #[default(Enforce)]
    pub enum Mode as "Mode" {
        /// Denials are enforced.
        Enforce = "enforce",
        /// Requests that would be denied are allowed, logged and counted.
        Report = "report",
    }
}

impl Policy {
    /// A policy for every request, which requires only the binding, and accepts no issuers yet.
    pub fn new(name: &str, sender_constraint: SenderConstraint) -> Self {
        Self {
            name: name.into(),
            matches: Match::default(),
            public: false,
            sender_constraint,
            issuers: vec![],
            scopes: vec![],
            claims: vec![],
            authentication: Authentication::default(),
            origin: None,
            streams: Streams::default(),
            mode: Mode::Enforce,
            routes_may_name_it: false,
            realm: name.to_owned(),
            resource: None,
            resource_metadata: None,
        }
    }

    /// A policy that asks for no token, for every request.
    pub fn public(name: &str) -> Self {
        Self { public: true, ..Self::new(name, SenderConstraint::None) }
    }

    /// Whether requests are let through without a token. One that says so and demands something of a
    /// token all the same is not public.
    #[inline]
    pub const fn is_public(&self) -> bool {
        self.public && self.demands_nothing()
    }

    const fn demands_nothing(&self) -> bool {
        matches!(self.sender_constraint, SenderConstraint::None)
            && matches!(self.streams, Streams::Ignore)
            && self.scopes.is_empty()
            && self.claims.is_empty()
            && self.authentication.is_any()
    }
}

words! {
    /// How the token must be bound to the client's key. A binding in the token itself must be
    /// proved as well, except under `none`.
    pub enum SenderConstraint as "SenderConstraint" {
        /// To a client certificate (RFC 8705).
        Certificate = "certificate",
        /// To a DPoP key (RFC 9449).
        Dpop = "dpop",
        /// To either of the two.
        Either = "either",
        /// An unbound token is accepted.
        IfBound = "if_bound",
        /// No binding is checked.
        None = "none",
    }
}

/// The requests that a policy applies to. All given conditions must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Match {
    /// Host patterns; empty: every host.
    pub hosts: Vec<HostPattern>,
    /// Path prefix in whole segments, percent-decoded; empty: every path.
    pub path_prefix: Vec<Vec<u8>>,
    /// Methods; empty: every method.
    pub methods: Vec<String>,
}

/// A host, or all its subdomains.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostPattern {
    /// This host, in lower case without a trailing dot.
    Exact(String),
    /// `*.` and this host: one or more labels in front of it.
    Below(String),
}

impl fmt::Display for HostPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(host) => f.write_str(host),
            Self::Below(host) => write!(f, "*.{host}"),
        }
    }
}

/// What the upstream receives for an allowed request.
#[derive(Clone, Debug, Default)]
pub struct Upstream {
    /// The treatment of the `Authorization` header.
    pub authorization: UpstreamAuthorization,
    /// Headers with claims about the caller.
    pub headers: Vec<IdentityHeader>,
    /// Further request headers to remove, in lower case.
    pub remove: Vec<Arc<str>>,
    /// Prefixes, in lower case, of further request headers to remove. Identity headers are exempt.
    pub remove_beginning: Vec<Arc<str>>,
    /// Further request headers that the proxy sets and keybound relies on, in lower case.
    pub relied_on: Vec<Arc<str>>,
}

/// A header that carries a claim of the token to the upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdentityHeader {
    /// The name, in lower case.
    pub name: Arc<str>,
    /// The dotted path to the claim.
    pub claim: String,
    /// The encoding of the claim.
    pub format: ClaimFormat,
}

impl IdentityHeader {
    /// The header `name` with the claim at the dotted path `claim`, in plain text.
    pub fn new(name: &str, claim: &str) -> Self {
        Self { name: name.into(), claim: claim.to_owned(), format: ClaimFormat::Plain }
    }
}

words! {
    /// How a claim is encoded in a header.
    #[default(Plain)]
    pub enum ClaimFormat as "ClaimFormat" {
        /// Strings unchanged, lists of strings joined by spaces, everything else as JSON.
        Plain = "plain",
        /// As JSON on one line, in ASCII.
        Json = "json",
    }
}

words! {
    /// The treatment of the `Authorization` header.
    #[default(Keep)]
    pub enum UpstreamAuthorization as "Authorization" {
        /// It is forwarded unchanged.
        Keep = "keep",
        /// It is removed.
        Remove = "remove",
        /// A `DPoP` token is forwarded as `Bearer`.
        Bearer = "bearer",
    }
}

impl PolicySet {
    /// Whether denials under `policy` are enforced. Before a policy is selected, they are enforced
    /// unless every policy is in report mode.
    pub fn mode(&self, policy: Option<&Policy>) -> Mode {
        let reports = |it: &Policy| it.mode == Mode::Report;
        let only_reports =
            || !self.policies.is_empty() && self.policies.iter().all(|it| reports(it));
        if policy.map_or_else(only_reports, reports) { Mode::Report } else { Mode::Enforce }
    }

    /// Whether any policy may be selected by an annotation of a route. Otherwise annotations are
    /// ignored.
    pub fn heeds_routes(&self) -> bool {
        self.policies.iter().any(|it| it.routes_may_name_it)
    }

    /// The dotted paths of all claims that are used, each once.
    pub fn claims_asked_for(&self) -> Vec<String> {
        let headers = self.upstream.headers.iter().map(|it| it.claim.as_str());
        let demanded = self.policies.iter().flat_map(|it| &it.claims).map(|it| it.path.as_str());
        let mut paths: Vec<String> = Vec::new();
        // Elsewhere the issuer is known by its name.
        let of_tenants = self.issuers.iter().any(|it| it.has_tenants()).then_some("iss");
        let of_logins = self.policies.iter().any(|it| !it.authentication.is_any());
        let of_logins = Authentication::CLAIMS.iter().copied().filter(|_| of_logins);
        let always = ALWAYS_ASKED_FOR.iter().copied().chain(of_tenants).chain(of_logins);
        for path in always.chain(headers).chain(demanded) {
            if !paths.iter().any(|it| it == path) {
                paths.push(path.to_owned());
            }
        }
        paths
    }
}

/// The claims that checks, logs and answers always use.
pub const ALWAYS_ASKED_FOR: &[&str] = &["sub", "client_id", "scope"];
