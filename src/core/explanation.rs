//! The steps of a check and what each one found, recorded only on request.

use std::borrow::Cow;
use std::fmt;

/// The steps of one check, in order.
///
/// The default records nothing. Findings are passed as closures, which are then never called.
#[derive(Debug, Default)]
pub struct Explanation(Option<Recorded>);

#[derive(Debug)]
struct Recorded {
    steps: Vec<Step>,
    redacted: Redacted,
}

/// What was redacted of a request when it was kept, and is therefore taken as right when the request is
/// explained. By default nothing is, and no other check takes anything as right.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Redacted {
    /// The signature of the token.
    pub token: bool,
    /// The signature of the proof.
    pub proof: bool,
    /// The token itself, whose hash the proof names (`ath`).
    pub token_hash: bool,
}

/// One step of a check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// The outcome.
    pub mark: Mark,
    /// What was found, and what was expected.
    pub finding: Finding,
}

/// The outcome of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// The requirement is met.
    Passed,
    /// The requirement is not met, and the request is refused.
    Failed,
    /// Information that decides nothing.
    Noted,
}

/// What a step found, and what it expected. May hold input, but never a token or a proof.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The part of the check: `policy`, `token`, `proof` and so on.
    pub part: &'static str,
    /// The item within that part, such as the name of a claim.
    pub what: Cow<'static, str>,
    /// The value that was found.
    pub found: String,
    /// The value that was expected; empty where it is obvious.
    pub wanted: String,
}

impl Finding {
    /// A finding without an expected value.
    pub fn new(
        part: &'static str,
        what: impl Into<Cow<'static, str>>,
        found: impl Into<String>,
    ) -> Self {
        Self { part, what: what.into(), found: found.into(), wanted: String::new() }
    }

    /// The same finding, with the expected value.
    #[must_use]
    pub fn wanting(self, wanted: impl Into<String>) -> Self {
        Self { wanted: wanted.into(), ..self }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.what, self.found)?;
        if self.wanted.is_empty() { Ok(()) } else { write!(f, " (wanted: {})", self.wanted) }
    }
}

impl Explanation {
    /// An explanation that records every step.
    pub const fn kept() -> Self {
        Self::of_redacted(Redacted { token: false, proof: false, token_hash: false })
    }

    /// The same, of a request of which this was redacted when it was kept.
    pub const fn of_redacted(redacted: Redacted) -> Self {
        Self(Some(Recorded { steps: Vec::new(), redacted }))
    }

    /// What was redacted of the request. Nothing but for an explanation.
    pub(crate) fn redacted(&self) -> Redacted {
        self.0.as_ref().map(|it| it.redacted).unwrap_or_default()
    }

    /// The steps so far.
    pub fn steps(&self) -> &[Step] {
        self.0.as_ref().map(|it| &*it.steps).unwrap_or_default()
    }

    /// What did not hold; none if all did.
    pub fn fault(&self) -> Option<&Finding> {
        self.steps().iter().rfind(|it| it.mark == Mark::Failed).map(|it| &it.finding)
    }

    /// Records information that decides nothing.
    pub fn note(&mut self, finding: impl FnOnce() -> Finding) {
        self.push(Mark::Noted, finding);
    }

    /// Records whether `holds`, and fails with `otherwise` if it does not.
    pub fn demand<E>(
        &mut self,
        holds: bool,
        otherwise: E,
        finding: impl FnOnce() -> Finding,
    ) -> Result<(), E> {
        self.push(if holds { Mark::Passed } else { Mark::Failed }, finding);
        if holds { Ok(()) } else { Err(otherwise) }
    }

    /// Records `outcome`, and returns it unchanged.
    pub fn record<T, E>(
        &mut self,
        outcome: Result<T, E>,
        finding: impl FnOnce(Option<&T>) -> Finding,
    ) -> Result<T, E> {
        let mark = if outcome.is_ok() { Mark::Passed } else { Mark::Failed };
        self.push(mark, || finding(outcome.as_ref().ok()));
        outcome
    }

    /// Records `outcome` if it is an error, and returns it unchanged.
    pub fn record_error<T, E>(
        &mut self,
        outcome: Result<T, E>,
        finding: impl FnOnce() -> Finding,
    ) -> Result<T, E> {
        if outcome.is_err() {
            self.push(Mark::Failed, finding);
        }
        outcome
    }

    fn push(&mut self, mark: Mark, finding: impl FnOnce() -> Finding) {
        if let Some(recorded) = &mut self.0 {
            recorded.steps.push(Step { mark, finding: finding() });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_recording_no_closure_is_called_and_the_decision_is_the_same() {
        for (mut explanation, kept) in [(Explanation::default(), 0), (Explanation::kept(), 5)] {
            let mut calls = 0;
            let mut finding = || {
                calls += 1;
                Finding::new("token", "exp", "")
            };
            explanation.note(&mut finding);
            assert_eq!(explanation.demand(true, "no", &mut finding), Ok(()));
            assert_eq!(explanation.demand(false, "no", &mut finding), Err("no"));
            assert_eq!(explanation.record(Ok::<_, ()>(7), |_| finding()), Ok(7));
            assert_eq!(explanation.record_error(Ok::<_, ()>(7), &mut finding), Ok(7));
            assert_eq!(explanation.record_error(Err::<(), _>(7), &mut finding), Err(7));
            assert_eq!((calls, explanation.steps().len()), (kept, kept));
        }
    }
}
