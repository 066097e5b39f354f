//! Policies: what is required of a request, and the issuers whose tokens are accepted. All defaults
//! are filled in.

mod demands;
pub(crate) mod effective;
#[cfg(test)]
pub(crate) mod examples;
mod policies;
mod readings;
pub(crate) mod reserved;
mod selection;
#[cfg(test)]
mod tests;

pub use effective::EffectivePolicy;
pub use policies::Policies;
pub use reserved::ReservedHeaders;

use crate::client_certificate::Source;
use crate::jose::algorithm::Algorithm;
use crate::uri::Origin;
use crate::words::words;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// Everything that decides about a request.
#[derive(Clone, Debug)]
pub struct PolicySet {
    /// The issuers. [`IssuerId`] is an index into them.
    pub issuers: Vec<Arc<Issuer>>,
    /// The policies, in the order in which they are matched.
    pub policies: Policies,
    /// Where the client certificate comes from.
    pub client_certificate: Source,
    /// The longest access token, in bytes.
    pub token_bytes: usize,
    /// What the upstream sees.
    pub upstream: Upstream,
    /// Which DPoP proofs are accepted.
    pub proofs: ProofRules,
}

/// With which tokens and proofs may be signed where nothing else is configured.
pub const USUAL_ALGORITHMS: [Algorithm; 3] = [Algorithm::ES256, Algorithm::PS256, Algorithm::EdDSA];

/// How long a token may be, in bytes, where nothing else is said.
pub const USUAL_TOKEN_BYTES: usize = 16_384;

impl PolicySet {
    /// These `policies`, which accept tokens of these `issuers`, and all else as is usual: the client
    /// certificate is that of the proxy's peer, and the upstream is told nothing.
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

/// Which DPoP proofs are accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProofRules {
    /// With which they may be signed. Never empty.
    pub algorithms: Vec<Algorithm>,
    /// How far `iat` may be from now, in both directions.
    pub window: Duration,
    /// Whether they need a nonce of this server.
    pub nonce: NonceDemand,
}

impl Default for ProofRules {
    fn default() -> Self {
        Self {
            algorithms: USUAL_ALGORITHMS.to_vec(),
            window: Duration::from_secs(60),
            nonce: NonceDemand::default(),
        }
    }
}

words! {
    /// Whether DPoP proofs need a nonce.
    #[default(Off)]
    pub enum NonceDemand as "Nonce" {
        /// They need none.
        Off = "off",
        /// They are given one and may use it.
        Offered = "offered",
        /// They need one.
        Required = "required",
    }
}

/// Which issuer, by its place in [`PolicySet::issuers`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct IssuerId(pub usize);

/// An authorization server whose tokens are accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issuer {
    /// The exact `iss`.
    pub name: Arc<str>,
    /// The token's `aud` must hold one of them. Never empty.
    pub audiences: Vec<String>,
    /// With which the tokens may be signed. Never empty.
    pub algorithms: Vec<Algorithm>,
    /// The accepted `typ` values, in lower case and without `application/`. Never empty.
    pub token_types: Vec<String>,
    /// How far this clock and the issuer's may be apart.
    pub clock_leeway: Duration,
    /// About which of its tokens it is asked.
    pub introspection: Introspection,
}

/// About which of its tokens an issuer is asked whether they are active (RFC 7662).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Introspection {
    /// About none: opaque tokens are refused.
    #[default]
    Never,
    /// About those that are no JWTs.
    OpaqueTokens,
    /// About JWTs as well, so that a revoked one is refused.
    AllTokens,
}

impl Issuer {
    /// The issuer `name` of JWT access tokens (RFC 9068) for one `audience`, signed with the usual
    /// algorithms, whose clock may be apart by 30 seconds. It is not introspected.
    pub fn new(name: &str, audience: &str) -> Self {
        Self {
            name: name.into(),
            audiences: vec![audience.to_owned()],
            algorithms: USUAL_ALGORITHMS.to_vec(),
            token_types: vec!["at+jwt".to_owned()],
            clock_leeway: Duration::from_secs(30),
            introspection: Introspection::Never,
        }
    }

    /// Whether a token of `other` that was verified would pass here as well: all that it was held
    /// to is the same.
    pub fn judges_like(&self, other: &Self) -> bool {
        self == other
    }
}

/// What one class of requests must show.
#[derive(Debug)]
pub struct Policy {
    /// Its name in the configuration, logs, metrics and metadata.
    pub name: Arc<str>,
    /// Which requests it is for.
    pub matches: Match,
    /// How the token must be bound.
    pub sender_constraint: SenderConstraint,
    /// Whose tokens are accepted. Never empty. Those of them that introspect are asked about an
    /// opaque token in this order, until one knows it.
    pub issuers: Vec<IssuerId>,
    /// The scopes that the token must have, all of them.
    pub scopes: Vec<String>,
    /// The claims that the token must have, all of them.
    pub claims: Vec<ClaimRule>,
    /// The public origin of the target of a DPoP proof; none: what the request says of itself.
    pub origin: Option<Origin>,
    /// Whether what it refuses is refused.
    pub mode: Mode,
    /// Whether the annotations of a route may name it.
    pub routes_may_name_it: bool,
    /// The `realm` of challenges.
    pub realm: String,
    /// The `resource_metadata` of challenges (RFC 9728 §5.1).
    pub resource_metadata: Option<String>,
}

words! {
    /// Whether a policy is enforced.
    #[default(Enforce)]
    pub enum Mode as "Mode" {
        /// It is.
        Enforce = "enforce",
        /// It lets through what would be denied, and tells.
        Report = "report",
    }
}

impl Policy {
    /// A policy for every request, without demands but for the binding, and without issuers.
    pub fn new(name: &str, sender_constraint: SenderConstraint) -> Self {
        Self {
            name: name.into(),
            matches: Match::default(),
            sender_constraint,
            issuers: vec![],
            scopes: vec![],
            claims: vec![],
            origin: None,
            mode: Mode::Enforce,
            routes_may_name_it: false,
            realm: name.to_owned(),
            resource_metadata: None,
        }
    }
}

/// The demand that a claim has one of some values.
#[derive(Clone, Debug, PartialEq)]
pub struct ClaimRule {
    /// The dotted path to the claim.
    pub path: String,
    /// The claim must equal, or hold, one of them. Never empty.
    pub values: Vec<serde_json::Value>,
}

words! {
    /// How the token must be bound to the client's key. What the token itself says about that must
    /// hold besides, except under `none`.
    pub enum SenderConstraint as "SenderConstraint" {
        /// To a client certificate (RFC 8705).
        Certificate = "certificate",
        /// To a DPoP key (RFC 9449).
        Dpop = "dpop",
        /// To one of the two.
        Either = "either",
        /// It may be unbound.
        IfBound = "if_bound",
        /// Nothing is proved.
        None = "none",
    }
}

/// Which requests a policy is for. All that is given must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Match {
    /// Host patterns; empty: every host.
    pub hosts: Vec<HostPattern>,
    /// Path prefix in whole segments, percent-decoded; empty: every path.
    pub path_prefix: Vec<Vec<u8>>,
    /// Methods; empty: every method.
    pub methods: Vec<String>,
}

/// A host, or all hosts below one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HostPattern {
    /// This host, in lower case without a trailing dot.
    Exact(String),
    /// `*.` and this: one or more labels in front of it.
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

/// What the upstream sees of an allowed request.
#[derive(Clone, Debug, Default)]
pub struct Upstream {
    /// What becomes of the `Authorization` header.
    pub authorization: UpstreamAuthorization,
    /// The headers that tell who the caller is.
    pub headers: Vec<IdentityHeader>,
    /// More request headers to strip, in lower case.
    pub remove: Vec<Arc<str>>,
    /// All request headers whose names begin so are stripped as well, but for identity headers. In
    /// lower case.
    pub remove_beginning: Vec<Arc<str>>,
    /// More request headers that the proxy writes and we rely on, in lower case.
    pub relied_on: Vec<Arc<str>>,
}

/// A header that tells the upstream a claim of the token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IdentityHeader {
    /// Its name, in lower case.
    pub name: Arc<str>,
    /// The dotted path of the claim.
    pub claim: String,
    /// How the claim is written.
    pub format: ClaimFormat,
}

impl IdentityHeader {
    /// The header `name` with the claim at the dotted path `claim`, plainly written.
    pub fn new(name: &str, claim: &str) -> Self {
        Self { name: name.into(), claim: claim.to_owned(), format: ClaimFormat::Plain }
    }
}

words! {
    /// How a claim is written into a header.
    #[default(Plain)]
    pub enum ClaimFormat as "ClaimFormat" {
        /// Strings as they are, lists of strings with a space between them, all else as JSON.
        Plain = "plain",
        /// As JSON on one line, in ASCII.
        Json = "json",
    }
}

words! {
    /// What becomes of the `Authorization` header.
    #[default(Keep)]
    pub enum UpstreamAuthorization as "Authorization" {
        /// It goes on as it came.
        Keep = "keep",
        /// It is removed.
        Remove = "remove",
        /// A `DPoP` token goes on as `Bearer`.
        Bearer = "bearer",
    }
}

impl PolicySet {
    /// Whether what is refused under `policy` is refused. What is refused before a policy is known
    /// is let through if and only if every policy reports: then nothing is refused.
    pub fn mode(&self, policy: Option<&Policy>) -> Mode {
        let reports = |it: &Policy| it.mode == Mode::Report;
        let only_reports =
            || !self.policies.is_empty() && self.policies.iter().all(|it| reports(it));
        if policy.map_or_else(only_reports, reports) { Mode::Report } else { Mode::Enforce }
    }

    /// Whether there is a policy that the annotations of a route may name. Otherwise they count
    /// for nothing.
    pub fn heeds_routes(&self) -> bool {
        self.policies.iter().any(|it| it.routes_may_name_it)
    }

    /// The dotted paths of all claims that somebody will ask for, each once.
    pub fn claims_asked_for(&self) -> Vec<String> {
        let headers = self.upstream.headers.iter().map(|it| it.claim.as_str());
        let demanded = self.policies.iter().flat_map(|it| &it.claims).map(|it| it.path.as_str());
        let mut paths: Vec<String> = Vec::new();
        for path in ALWAYS_ASKED_FOR.iter().copied().chain(headers).chain(demanded) {
            if !paths.iter().any(|it| it == path) {
                paths.push(path.to_owned());
            }
        }
        paths
    }
}

/// The claims that every check, log line and answer may ask for.
pub const ALWAYS_ASKED_FOR: &[&str] = &["sub", "client_id", "scope"];
