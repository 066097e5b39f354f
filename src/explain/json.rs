//! An explanation as JSON, for programs.

use super::kept::Case;
use super::{Decision, Explained, Told};
use crate::front::capture::Kept;
use keybound_core::facts::{self, EXPLANATION, Known};
use keybound_core::{Denial, Detail, Finding, Mark, Mismatch, OAuthError, Step};
use serde_json::{Map, Value, json};

/// The explanation as JSON.
pub(crate) fn of(explanation: &Explained) -> Value {
    let Explained {
        target,
        now,
        verdict,
        advice,
        besides,
        configuration,
        decision,
        remarks,
        kept,
        ways: _,
    } = explanation;
    let (refused, denial) = match decision {
        Decision::Allowed | Decision::Public | Decision::Served | Decision::Open => (None, None),
        Decision::Reported(denial) => (None, Some(*denial)),
        Decision::Denied(denial) => (Some(*denial), Some(*denial)),
    };
    let mut told: Map<String, Value> = facts::of(EXPLANATION, &Known::by(verdict))
        .map(|(name, it)| (name.to_owned(), json!(it)))
        .collect();
    if *decision == Decision::Open {
        let open = [("decision", json!("open")), ("reason", json!(null)), ("detail", json!(null))];
        told.extend(open.map(named));
    }
    let (written, unwritten) = match configuration {
        None => (None, None),
        Some(Told::Write(text)) => (Some(text), None),
        Some(Told::Nothing(why)) => (None, Some(why)),
    };
    let more = [
        ("request", json!(target)),
        ("at", json!(now.to_rfc3339())),
        ("steps", verdict.facts.explanation.steps().iter().map(step).collect()),
        ("besides", besides.iter().map(mismatch).collect()),
        ("notes", json!(remarks)),
        ("configuration", json!(written)),
        ("no_configuration", json!(unwritten)),
        ("status", json!(refused.map(Denial::status))),
        ("error", json!(denial.and_then(Denial::error).map(OAuthError::code))),
        ("error_description", json!(denial.map(Denial::sentence))),
        ("advice", json!(denial.and(advice.as_ref()))),
        ("kept", kept.as_ref().map_or(Value::Null, why_kept)),
    ];
    told.extend(more.map(named));
    told.into()
}

/// When and why a request was kept.
fn why_kept(it: &Case) -> Value {
    let Case { kept: Kept { at, reason, detail, configuration }, same_configuration, .. } = it;
    json!({
        "at": at.to_rfc3339_millis(), "reason": reason.label(), "detail": detail.map(Detail::label),
        "configuration": configuration, "same_configuration": same_configuration,
    })
}

fn named((name, value): (&str, Value)) -> (String, Value) {
    (name.to_owned(), value)
}

/// What is wrong beside the reason for the denial.
fn mismatch((it, advice): &(Mismatch, String)) -> Value {
    let Mismatch { denial, detail, finding, verified } = it;
    let Finding { part, what, found, wanted } = finding;
    json!({
        "part": part, "what": what, "result": "failed", "found": found, "wanted": wanted,
        "verified": verified, "reason": denial.label(),
        "detail": detail.map(Detail::label), "advice": advice,
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
