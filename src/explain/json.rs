//! Knows how a check is explained to machines.

use super::{Decision, Explanation, advice};
use crate::denial::{Denial, Detail, OAuthError};
use crate::trail::{Finding, Mark, Step};
use serde_json::{Value, json};

/// The explanation as JSON.
pub(crate) fn of(explanation: &Explanation) -> Value {
    let Explanation { target, now, verdict, decision, remarks, ways: _ } = explanation;
    let (decision, denial) = match decision {
        Decision::Allowed => ("allow", None),
        Decision::Reported(denial) => ("allow", Some(*denial)),
        Decision::Denied(denial) => ("deny", Some(*denial)),
        Decision::Open => ("open", None),
    };
    let refused = denial.filter(|_| decision == "deny");
    // As the metadata, the log and the metrics call it.
    let allowed = (decision == "allow").then_some("allowed");
    json!({
        "request": target,
        "at": now.to_rfc3339(),
        "policy": verdict.facts.policy.as_ref().map(|it| &*it.name),
        "steps": verdict.facts.trail.steps().iter().map(step).collect::<Vec<_>>(),
        "notes": remarks,
        "sender_constraint": verdict.facts.proved.label(),
        "decision": decision,
        "reason": refused.map(Denial::label).or(allowed),
        "would_deny": verdict.would_deny().map(Denial::label),
        "detail": denial.and(verdict.facts.detail).map(Detail::label),
        "status": refused.map(Denial::status),
        "error": denial.and_then(Denial::error).map(OAuthError::code),
        "error_description": denial.map(Denial::sentence),
        "advice": denial.map(advice::on),
    })
}

fn step(step: &Step) -> Value {
    let Step { mark, finding: Finding { part, what, found, wanted } } = step;
    let result = match mark {
        Mark::Passed => "passed",
        Mark::Failed => "failed",
        Mark::Noted => "noted",
    };
    json!({"part": part, "what": what, "result": result, "found": found, "wanted": wanted})
}
