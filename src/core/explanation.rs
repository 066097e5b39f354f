//! Knows what a check found on its way, step by step, for whoever wants it explained.

/// The steps of one check, in order. Nobody keeps any unless they were asked for: what is told to
/// it is a closure, which is then not even called.
#[derive(Debug, Default)]
pub struct Trail(Option<Vec<Step>>);

/// One step of a check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Step {
    /// How it went.
    pub mark: Mark,
    /// What it found.
    pub finding: Finding,
}

/// How a step went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// What it asks for is there.
    Passed,
    /// It refuses the request.
    Failed,
    /// It says something, and decides nothing.
    Noted,
}

/// What a step found, and what it asks for. It may hold input, but never a token or a proof.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What it is about: `policy`, `token`, `proof` and so on.
    pub part: &'static str,
    /// What of it: the name of a claim, say.
    pub what: &'static str,
    /// What is there.
    pub found: String,
    /// What must be there; empty where that goes without saying.
    pub wanted: String,
}

impl Finding {
    /// A finding that is not held against anything.
    pub fn new(part: &'static str, what: &'static str, found: impl Into<String>) -> Self {
        Self { part, what, found: found.into(), wanted: String::new() }
    }

    /// The same, and what must be there.
    #[must_use]
    pub fn wanting(self, wanted: impl Into<String>) -> Self {
        Self { wanted: wanted.into(), ..self }
    }
}

impl Trail {
    /// A trail that keeps what it is told.
    pub const fn kept() -> Self {
        Self(Some(Vec::new()))
    }

    /// The steps so far.
    pub fn steps(&self) -> &[Step] {
        self.0.as_deref().unwrap_or_default()
    }

    /// Keeps something that decides nothing.
    pub fn note(&mut self, finding: impl FnOnce() -> Finding) {
        self.push(Mark::Noted, finding);
    }

    /// Ends with `otherwise` unless `holds`, and keeps which of the two it was.
    pub fn demand<E>(
        &mut self,
        holds: bool,
        otherwise: E,
        finding: impl FnOnce() -> Finding,
    ) -> Result<(), E> {
        self.push(if holds { Mark::Passed } else { Mark::Failed }, finding);
        if holds { Ok(()) } else { Err(otherwise) }
    }

    /// Hands `outcome` on, and keeps how it was.
    pub fn tell<T, E>(
        &mut self,
        outcome: Result<T, E>,
        finding: impl FnOnce(Option<&T>) -> Finding,
    ) -> Result<T, E> {
        let mark = if outcome.is_ok() { Mark::Passed } else { Mark::Failed };
        self.push(mark, || finding(outcome.as_ref().ok()));
        outcome
    }

    /// Hands `outcome` on, and keeps it if it is an error.
    pub fn fault<T, E>(
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
        if let Some(steps) = &mut self.0 {
            steps.push(Step { mark, finding: finding() });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trail_that_nobody_asked_for_costs_no_closure_and_decides_alike() {
        for (mut trail, kept) in [(Trail::default(), 0), (Trail::kept(), 5)] {
            let mut calls = 0;
            let mut finding = || {
                calls += 1;
                Finding::new("token", "exp", "")
            };
            trail.note(&mut finding);
            assert_eq!(trail.demand(true, "no", &mut finding), Ok(()));
            assert_eq!(trail.demand(false, "no", &mut finding), Err("no"));
            assert_eq!(trail.tell(Ok::<_, ()>(7), |_| finding()), Ok(7));
            assert_eq!(trail.fault(Ok::<_, ()>(7), &mut finding), Ok(7));
            assert_eq!(trail.fault(Err::<(), _>(7), &mut finding), Err(7));
            assert_eq!((calls, trail.steps().len()), (kept, kept));
        }
    }
}
