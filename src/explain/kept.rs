//! Requests that `serve` kept: what was redacted is taken as it was found then, and so is what no file
//! holds.

use crate::front::capture::Kept;
use keybound_core::oauth::Credentials;
use keybound_core::policy::Mode;
use keybound_core::{Denial, Detail, Finding, Redacted, Request, Verdict};

/// A kept request, beside what explains it.
#[derive(Clone, Debug)]
pub(super) struct Case {
    /// What is written in it.
    pub(super) kept: Kept,
    /// Whether the configuration is the one by which it was checked.
    pub(super) same_configuration: bool,
    /// Whether it is explained as it was kept, and not with another time, token or proof.
    pub(super) unchanged: bool,
}

impl Case {
    /// What is taken as right, because it was redacted.
    pub(super) fn redacted(&self, request: &Request<'_>) -> Redacted {
        let Ok(credentials) = Credentials::read(request) else { return Redacted::default() };
        let reason = self.kept.reason;
        let has_token = !is_redacted(credentials.token.as_bytes());
        let has_proof = credentials.proof.is_none_or(|it| !is_redacted(it.as_bytes()));
        Redacted {
            token: !has_token && !BY_KEYS.contains(&reason),
            proof: !has_proof && reason != Denial::ProofSignatureInvalid,
            token_hash: !has_token && reason != Denial::ProofTokenMismatch,
        }
    }

    /// Whether it must be decided as it was when it was kept.
    pub(super) const fn stands(&self) -> bool {
        self.same_configuration && self.unchanged
    }

    /// The verdict of then, where the one of now differs although nothing has changed that the file or the
    /// configuration tells: the keys of the issuer, what it says, a store, or the load.
    ///
    /// Returns a remark if it was put in place of the other.
    pub(super) fn decide(&self, verdict: &mut Verdict) -> Option<String> {
        let Kept { reason, detail, .. } = self.kept;
        if !self.stands() || verdict.outcome == Err(reason) {
            return None;
        }
        let now = match verdict.outcome {
            Ok(()) => "it would be allowed".to_owned(),
            Err(denial) => format!("the reason would be {denial}"),
        };
        verdict.outcome = verdict.facts.explanation.record_error(Err(reason), || {
            let found = format!("{}: found so when the request was kept", reason.sentence());
            Finding::new("kept", "reason", found)
        });
        verdict.facts.detail = detail;
        verdict.facts.resource = None;
        if detail == Some(Detail::HeaderUnremovable) {
            verdict.mode = Mode::Enforce;
        }
        Some(format!(
            "the file does not hold all that {reason} depends on; by what is known here, {now}"
        ))
    }

    /// When and why the request was kept.
    pub(super) fn in_words(&self) -> String {
        let Kept { at, reason, configuration, .. } = &self.kept;
        let which = if self.same_configuration {
            "this configuration".to_owned()
        } else {
            let digest: String = configuration.chars().take(DIGEST_CHARS).collect();
            format!("another configuration (digest {digest})")
        };
        format!("kept at {}, under {which}, for: {reason}", at.to_rfc3339_millis())
    }
}

/// Reasons that depend on the keys of the issuer, so that its keys are asked about the token.
const BY_KEYS: [Denial; 5] = [
    Denial::TokenSignatureInvalid,
    Denial::TokenKeyUnknown,
    Denial::TokenAlgorithmForbidden,
    Denial::KeysUnavailable,
    Denial::Overloaded,
];

/// As much of a digest as the page shows.
const DIGEST_CHARS: usize = 12;

/// Whether the signature of a JWT, or an opaque token, was redacted.
pub(super) fn is_redacted(token: &[u8]) -> bool {
    let signature = token.rsplit(|it| *it == b'.').next().unwrap_or_default();
    !signature.is_empty() && signature.iter().all(|it| matches!(it, b'A' | b'!'))
}
