//! The mismatches of a refused request beside the first, which decides: gathered for an explanation.

use crate::denial::{Denial, Detail, Refusal};
use crate::explanation::{Explanation, Finding, Mark, Redacted};

/// A demand that a request does not meet, beside the one for which it is refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mismatch {
    /// The reason for which the request would be refused if this were all.
    pub denial: Denial,
    /// The detail for the operator.
    pub detail: Option<Detail>,
    /// What was found, and what was expected.
    pub finding: Finding,
    /// Whether it is told by the request itself or by claims whose signature was verified. If not,
    /// anybody may have written what was found.
    pub verified: bool,
}

/// Mismatches, each of them once.
#[derive(Debug)]
pub(crate) struct Mismatches {
    known: Vec<Finding>,
    found: Vec<Mismatch>,
    verified: bool,
    redacted: Redacted,
}

impl Mismatches {
    /// Gathers what is not among the failed steps of a check.
    pub(crate) fn beside(check: &Explanation) -> Self {
        let failed = check.steps().iter().filter(|it| it.mark == Mark::Failed);
        let known = failed.map(|it| it.finding.clone()).collect();
        Self { known, found: vec![], verified: true, redacted: check.redacted() }
    }

    /// What was redacted of the request.
    pub(crate) const fn redacted(&self) -> Redacted {
        self.redacted
    }

    /// What follows is told by claims whose signature was not verified.
    pub(crate) const fn by_anybody(&mut self) {
        self.verified = false;
    }

    /// Takes a step of the check, and keeps what it finds wanting.
    pub(crate) fn step<T, E: Into<Refusal>>(
        &mut self,
        step: impl FnOnce(&mut Explanation) -> Result<T, E>,
    ) -> Option<T> {
        let mut explanation = Explanation::of_redacted(self.redacted);
        let refusal: Refusal = match step(&mut explanation) {
            Ok(done) => return Some(done),
            Err(refusal) => refusal.into(),
        };
        let is_new = |it: &Finding| !self.known.iter().any(|known| is_same(known, it));
        if let Some(finding) = explanation.fault().cloned().filter(is_new) {
            self.known.push(finding.clone());
            let Refusal { denial, detail } = refusal;
            self.found.push(Mismatch { denial, detail, finding, verified: self.verified });
        }
        None
    }

    /// What was found.
    pub(crate) fn found(self) -> Vec<Mismatch> {
        self.found
    }
}

/// Whether the same was found: what is wanted of a time may be told a moment later.
fn is_same(one: &Finding, other: &Finding) -> bool {
    (one.part, &one.what, &one.found) == (other.part, &other.what, &other.found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(what: &'static str) -> Finding {
        Finding::new("token", what, "x")
    }

    #[test]
    fn each_mismatch_is_told_once_and_no_step_ends_the_walk() {
        let mut check = Explanation::kept();
        let decided = check.demand(false, Denial::TokenTypeWrong, || found("typ"));
        assert!(decided.is_err());
        let mut beside = Mismatches::beside(&check);
        for (what, holds) in [("typ", false), ("aud", false), ("exp", true), ("aud", false)] {
            let went_on =
                beside.step(|it| it.demand(holds, Denial::TokenClaimMissing, || found(what)));
            assert_eq!(went_on.is_some(), holds);
        }
        beside.by_anybody();
        beside.step(|it| it.demand(false, Denial::TokenExpired, || found("exp")));
        let told: Vec<_> =
            beside.found().into_iter().map(|it| (it.denial, it.finding, it.verified)).collect();
        let expected = [
            (Denial::TokenClaimMissing, found("aud"), true),
            (Denial::TokenExpired, found("exp"), false),
        ];
        assert_eq!(told, expected);
    }
}
