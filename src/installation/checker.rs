//! A checker that takes the present time from the clock and its rules from the installation.

use super::Installation;
use crate::clock::Clock;
use keybound_core::{
    Denial, Explanation, Facts, Finding, Redacted, Request, Rules, Sources, Verdict, check_into,
};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;

/// Checks requests at the time of a clock, which is read once per check.
#[derive(Debug)]
pub struct Checker {
    clock: Arc<dyn Clock>,
}

impl Checker {
    /// A checker that reads the time from `clock`.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock }
    }

    /// The clock.
    pub const fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }

    /// Checks one request. Its facts are written to `facts`, and remain there if the check is dropped
    /// early.
    pub async fn check_into(
        &self,
        facts: &mut Facts,
        installation: &Installation,
        request: &Request<'_>,
    ) -> Result<(), Denial> {
        check_into(facts, &installation.rules, installation, request, self.clock.now()).await
    }

    /// Checks one request and keeps each step in [`Facts::explanation`]. With a `deadline`, the check
    /// is ended then as by the gate, with the steps so far.
    pub async fn explain_with<S: Sources>(
        &self,
        rules: &Rules,
        sources: &S,
        request: &Request<'_>,
        deadline: Option<Duration>,
    ) -> Verdict {
        let redacted = Redacted::default();
        self.explain_kept(rules, sources, request, redacted, deadline).await
    }

    /// The same for a request that was kept. What was `redacted` of it counts as verified.
    pub async fn explain_kept<S: Sources>(
        &self,
        rules: &Rules,
        sources: &S,
        request: &Request<'_>,
        redacted: Redacted,
        deadline: Option<Duration>,
    ) -> Verdict {
        if let Some(resource) = rules.metadata_asked_for(request) {
            let mut verdict = Verdict::serving(resource);
            verdict.facts.explanation = Explanation::kept();
            verdict.facts.explanation.note(|| {
                let url = resource.policy().metadata_url().unwrap_or_default();
                Finding::new("policy", "resource", format!("{}: {url}", resource.policy().name))
            });
            return verdict;
        }
        let explanation = Explanation::of_redacted(redacted);
        let mut facts = Facts { explanation, ..Facts::default() };
        let outcome = {
            let check = check_into(&mut facts, rules, sources, request, self.clock.now());
            match deadline {
                None => Ok(check.await),
                Some(deadline) => timeout(deadline, check).await.or(Err(deadline)),
            }
        };
        let late = |deadline| {
            facts.explanation.record_error(Err(Denial::CheckTimedOut), || late(deadline))
        };
        let outcome = outcome.unwrap_or_else(late);
        Verdict::new(outcome, facts, &rules.policies)
    }
}

/// The finding for a check that timed out.
fn late(deadline: Duration) -> Finding {
    Finding::new("check", "deadline", "not ended, after the steps so far")
        .wanting(format!("an end within {deadline:?}"))
}
