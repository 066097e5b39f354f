//! The most recent denials, for operators who look at a problem now.
//!
//! They hold facts only, cut to a maximum length. A path is kept without its query, and never a
//! token or a proof.

use super::check_event::CheckEvent;
use keybound_core::facts::{self, Known, LAST_DENIALS, Value};
use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::time::Instant;

/// How many denials are kept.
const KEPT: usize = 100;

/// The last denials.
#[derive(Debug, Default)]
pub struct Denials(Mutex<VecDeque<Arc<Noted>>>);

#[derive(Debug)]
struct Noted {
    at: Instant,
    facts: Facts,
}

/// A denial in `/status`.
#[derive(Clone, Debug)]
pub struct Status {
    /// Its age in seconds.
    age_seconds: u64,
    noted: Arc<Noted>,
}

/// The names of the facts; after the last one they are empty.
const NAMES: [&str; 16] = facts::names(LAST_DENIALS);

/// In the order of [`NAMES`].
type Facts = [Option<Value<'static>>; NAMES.len()];

impl Denials {
    /// Records a check if it was denied, or would be in enforce mode. Does not block: if the lock
    /// is taken, the denial is only logged.
    pub fn note(&self, event: &CheckEvent<'_>) {
        if event.verdict.outcome.is_ok() {
            return;
        }
        let facts = facts_of(event);
        let noted = Arc::new(Noted { at: Instant::now(), facts });
        let Ok(mut kept) = self.0.try_lock() else { return };
        let oldest = if kept.len() < KEPT { None } else { kept.pop_front() };
        kept.push_back(noted);
        drop(kept);
        // Dropped outside the lock, since this may free memory.
        drop(oldest);
    }

    /// The denials at `now`, most recent first.
    pub fn status(&self, now: Instant) -> Vec<Status> {
        let kept: Vec<_> = {
            let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            kept.iter().rev().map(Arc::clone).collect()
        };
        let status = |it: &Arc<Noted>| Status {
            age_seconds: now.saturating_duration_since(it.at).as_secs(),
            noted: Arc::clone(it),
        };
        kept.iter().map(status).collect()
    }
}

fn facts_of(event: &CheckEvent<'_>) -> Facts {
    let trace_id = event.parent().map(|it| it.trace.to_hex());
    let known = Known { trace_id: trace_id.as_deref(), ..event.known() };
    let mut found = [const { None }; NAMES.len()];
    for (place, (_, value)) in found.iter_mut().zip(facts::of(LAST_DENIALS, &known)) {
        *place = value.map(|it| it.shortened().kept());
    }
    found
}

impl Serialize for Status {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut members = serializer.serialize_map(None)?;
        members.serialize_entry("age_seconds", &self.age_seconds)?;
        let named = NAMES.iter().zip(&self.noted.facts);
        for (name, value) in named.filter(|(name, _)| !name.is_empty()) {
            members.serialize_entry(name, value)?;
        }
        members.end()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::metrics::Front;
    use keybound_core::policy::Mode;
    use keybound_core::{Denial, Facts as Found, Field, Request, Target, Verdict};
    use serde_json::json;
    use std::time::Duration;

    fn note(denials: &Denials, request: Option<&Request<'_>>, verdict: &Verdict) {
        let (front, elapsed) = (Front::ExtAuthz, Duration::ZERO);
        denials.note(&CheckEvent {
            front,
            caller: None,
            request,
            verdict,
            elapsed,
            ended: Instant::now(),
        });
    }

    fn told(denials: &Denials) -> serde_json::Value {
        serde_json::to_value(denials.status(Instant::now())).unwrap()
    }

    fn denied(kid: &str) -> Verdict {
        let facts = Found { kid: Some(kid.into()), ..Found::default() };
        Verdict { outcome: Err(Denial::TokenKeyUnknown), facts, mode: Mode::Enforce }
    }

    #[test]
    fn a_denial_is_told_by_its_facts_and_without_its_secrets() {
        let denials = Denials::default();
        let target = Target {
            method: "GET",
            scheme: "https",
            authority: "hidden:hidden@api.example.com",
            path: "/payments?access_token=hidden",
        };
        let authorization = Field::One(b"Bearer hidden");
        let proof = Field::One(b"hidden");
        let request_id = Some(&b"7"[..]);
        let request = Request { target, authorization, proof, request_id, ..Request::default() };
        note(&denials, Some(&request), &denied("<img src=x>"));
        let told = told(&denials);
        assert_eq!(
            told,
            json!([{
                "age_seconds": 0, "reason": "token_key_unknown", "detail": null, "let_through": false,
                "front": "ext_authz", "policy": null, "method": "GET", "host": "api.example.com", "path": "/payments",
                "issuer": null, "kid": "<img src=x>", "client_id": null, "certificate": null,
                "proved": "none", "request_id": "7", "trace_id": null,
            }])
        );
    }

    #[test]
    fn what_is_allowed_is_not_told() {
        let denials = Denials::default();
        let allowed = Verdict { outcome: Ok(()), facts: Found::default(), mode: Mode::Enforce };
        note(&denials, None, &allowed);
        assert_eq!(told(&denials), json!([]));
    }

    #[test]
    fn only_the_last_are_kept_and_cut_to_a_length() {
        let denials = Denials::default();
        for number in 0..=KEPT {
            note(&denials, None, &denied(&number.to_string()));
        }
        let all = told(&denials);
        let all = all.as_array().unwrap();
        assert_eq!(all.len(), KEPT);
        assert_eq!(all[0]["kid"], KEPT.to_string());
        assert_eq!(all[KEPT - 1]["kid"], "1");
        note(&denials, None, &denied(&"x".repeat(1000)));
        assert_eq!(told(&denials)[0]["kid"], "x".repeat(64));
    }

    #[test]
    fn a_check_does_not_wait_for_those_who_read() {
        let denials = Denials::default();
        let reading = denials.0.lock().unwrap();
        note(&denials, None, &denied("1"));
        drop(reading);
        assert_eq!(told(&denials), json!([]));
    }
}
