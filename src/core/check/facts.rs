//! How a check ended, and what it found on the way.

use crate::denial::{Denial, Detail, Refusal};
use crate::explanation::Explanation;
use crate::jose::thumbprint::Thumbprint;
use crate::oauth::access_token::AccessToken;
use crate::oauth::credentials::Scheme;
use crate::oauth::introspection::Jwt;
use crate::policy::{Mode, Policy, PolicySet};
use std::sync::Arc;

/// How a check ended, and what was known by then.
#[derive(Debug)]
pub struct Verdict {
    /// Allowed, or why not.
    pub outcome: Result<(), Denial>,
    /// What was found on the way.
    pub facts: Facts,
    /// Whether what is refused is refused.
    pub mode: Mode,
}

/// What a check found, for the answer, the log, the metrics and the metadata. Nothing in the
/// check reads it.
#[derive(Debug, Default)]
pub struct Facts {
    /// The policy that applied.
    pub policy: Option<Arc<Policy>>,
    /// What lies behind the reason for which the request is refused.
    pub detail: Option<Detail>,
    /// In how many seconds the client may come again, where more is known than that it may.
    pub retry_after: Option<u64>,
    /// The authentication scheme of the token.
    pub scheme: Option<Scheme>,
    /// The `kid` that the token names; of a token that was verified before, that of the key that
    /// did. Input: it may hold anything.
    pub kid: Option<Arc<str>>,
    /// The token, once it was verified.
    pub token: Option<Arc<AccessToken>>,
    /// What goes upstream in place of an opaque token.
    pub forward: Option<Arc<Jwt>>,
    /// The client certificate that the request came with, once it was looked at.
    pub certificate: Option<Thumbprint>,
    /// What the caller proved.
    pub proved: Proved,
    /// The token was valid at the time of the check: its claims may be told to the upstream.
    pub admitted: bool,
    /// The proof's nonce will do for some time yet.
    pub nonce_is_fresh: bool,
    /// The nonce for the client's next proof.
    pub nonce: Option<String>,
    /// Each step, if somebody wants the check explained.
    pub explanation: Explanation,
}

/// Of which keys the caller proved possession.
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

    /// The verdict on a request of which nothing is known but why it is refused.
    pub fn refused(refusal: Refusal, policies: &PolicySet) -> Self {
        let facts = Facts { detail: refusal.detail, ..Facts::default() };
        let verdict = Self::new(Err(refusal.denial), facts, policies);
        match refusal.detail {
            // Where nothing is enforced, a client must not tell the upstream who it is either.
            Some(Detail::HeaderUnremovable) => Self { mode: Mode::Enforce, ..verdict },
            Some(_) | None => verdict,
        }
    }

    /// Why the request is refused, if it is: a policy may only report.
    pub fn denied(&self) -> Option<Denial> {
        self.outcome.err().filter(|_| self.mode == Mode::Enforce)
    }

    /// Why the request would be refused, if its policy did more than report.
    pub fn would_deny(&self) -> Option<Denial> {
        self.outcome.err().filter(|_| self.mode == Mode::Report)
    }
}

impl Proved {
    /// As metadata and logs name it.
    pub const fn label(self) -> &'static str {
        match (self.certificate, self.dpop) {
            (true, true) => "certificate+dpop",
            (true, false) => "certificate",
            (false, true) => "dpop",
            (false, false) => "none",
        }
    }
}
