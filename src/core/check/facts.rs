//! The outcome of a check and the facts it established.

use crate::denial::{Denial, Detail, Refusal};
use crate::explanation::Explanation;
use crate::jose::thumbprint::Thumbprint;
use crate::oauth::access_token::AccessToken;
use crate::oauth::credentials::Scheme;
use crate::oauth::introspection::Jwt;
use crate::policy::{Mode, Policy, PolicySet};
use crate::resource::ResourceMetadata;
use std::sync::Arc;
use std::time::Duration;

/// The outcome of a check, with the facts known by then.
#[derive(Debug)]
pub struct Verdict {
    /// Allowed, or the reason for the denial.
    pub outcome: Result<(), Denial>,
    /// The facts that were established.
    pub facts: Facts,
    /// Whether a denial is enforced or only reported.
    pub mode: Mode,
}

/// Facts that a check established, for the answer, the log, the metrics and the metadata. No step
/// of the check reads them.
#[derive(Debug, Default)]
pub struct Facts {
    /// The policy that applied.
    pub policy: Option<Arc<Policy>>,
    /// The detail behind the reason for a denial.
    pub detail: Option<Detail>,
    /// Seconds until the client should retry, if known.
    pub retry_after: Option<u64>,
    /// The authentication scheme of the token.
    pub scheme: Option<Scheme>,
    /// The `kid` in the token; for a cached token, that of the key that verified it. Untrusted
    /// input: may hold anything.
    pub kid: Option<Arc<str>>,
    /// The token, once it is verified.
    pub token: Option<Arc<AccessToken>>,
    /// The JWT to forward in place of an opaque token.
    pub forward: Option<Arc<Jwt>>,
    /// The client certificate of the request, once it was looked at.
    pub certificate: Option<Thumbprint>,
    /// What was seen of a token or proof that is refused.
    pub seen: Option<Box<Seen>>,
    /// What the caller proved.
    pub proved: Proved,
    /// The token was valid at the time of the check, so its claims may be forwarded.
    pub admitted: bool,
    /// How long a stream that the request opens may last, where it ends with the token.
    pub left: Option<Duration>,
    /// The metadata that are sent in place of a check.
    pub resource: Option<Arc<ResourceMetadata>>,
    /// The nonce of the proof does not need to be replaced yet.
    pub nonce_is_fresh: bool,
    /// The nonce for the client's next proof.
    pub nonce: Option<String>,
    /// Each step, if an explanation was requested.
    pub explanation: Explanation,
}

/// What was seen of a refused token or proof, so that operators can tell whose it is and what is wrong
/// with it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// The issuer that the token names, where the token as a whole could not be read.
    pub issuer: Option<Box<str>>,
    /// The client that it names; only if its signature was verified.
    pub client_id: Option<Box<str>>,
    /// The signature of the token was verified. Without, anybody may have written the name of the issuer.
    pub is_verified: bool,
    /// The client for which tokens are bound to the certificate of the request, where the token of this
    /// request is bound to another one.
    pub certificate_client: Option<Arc<str>>,
    /// The key of the proof, where it is not the one that the token is bound to.
    pub proof_key: Option<Thumbprint>,
    /// How many seconds lie between the time in the token or the proof and the time of the check. Negative
    /// if that time is still to come.
    pub skew: Option<i64>,
}

/// The keys of which the caller proved possession.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Proved {
    /// The token's client certificate.
    pub certificate: bool,
    /// The token's DPoP key.
    pub dpop: bool,
}

impl Verdict {
    /// The verdict of a check under `policies`.
    pub fn new(outcome: Result<(), Denial>, facts: Facts, policies: &PolicySet) -> Self {
        let mode = policies.mode(facts.policy.as_deref());
        Self { outcome, facts, mode }
    }

    /// The verdict on a request that is refused before a check, for `refusal`.
    pub fn refused(refusal: Refusal, policies: &PolicySet) -> Self {
        let facts = Facts { detail: refusal.detail, ..Facts::default() };
        let verdict = Self::new(Err(refusal.denial), facts, policies);
        match refusal.detail {
            // Enforced even in report mode: otherwise the client could set identity headers of the
            // upstream.
            Some(Detail::HeaderUnremovable) => Self { mode: Mode::Enforce, ..verdict },
            Some(_) | None => verdict,
        }
    }

    /// The verdict on a request for `resource`, whose metadata are sent in place of a check. It is neither
    /// an allow nor a denial, and the request goes to no upstream.
    pub fn serving(resource: &Arc<ResourceMetadata>) -> Self {
        let (policy, resource) = (Arc::clone(resource.policy()), Arc::clone(resource));
        let facts = Facts { policy: Some(policy), resource: Some(resource), ..Facts::default() };
        Self { outcome: Ok(()), facts, mode: Mode::Enforce }
    }

    /// The metadata that are sent, if this is no verdict on a check.
    pub fn served(&self) -> Option<&ResourceMetadata> {
        self.facts.resource.as_deref()
    }

    /// Whether the request was let through without a token, because its policy asks for none.
    pub fn is_public(&self) -> bool {
        let public = || self.facts.policy.as_ref().is_some_and(|it| it.is_public());
        self.denied().is_none() && public()
    }

    /// The reason for the denial, if it is enforced.
    pub fn denied(&self) -> Option<Denial> {
        self.outcome.err().filter(|_| self.mode == Mode::Enforce)
    }

    /// The reason for the denial, if it is only reported.
    pub fn would_deny(&self) -> Option<Denial> {
        self.outcome.err().filter(|_| self.mode == Mode::Report)
    }
}

impl Facts {
    /// What was seen of a refused token or proof, for more to be added.
    pub(super) fn seen(&mut self) -> &mut Seen {
        self.seen.get_or_insert_default()
    }
}

impl Proved {
    /// The label in metadata and logs.
    pub const fn label(self) -> &'static str {
        match (self.certificate, self.dpop) {
            (true, true) => "certificate+dpop",
            (true, false) => "certificate",
            (false, true) => "dpop",
            (false, false) => "none",
        }
    }
}
