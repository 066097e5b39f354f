//! Denials, for operators who look at a problem now: the last ones, and whom they hit.
//!
//! They hold facts only, cut to a maximum length. A path is kept without its query, and never a
//! token or a proof.

mod clients;
mod last;

pub use clients::{ClientStatus, GroupStatus};

use super::check_event::CheckEvent;
use clients::{Clients, Named};
use keybound_core::Denial;
use keybound_core::facts::{self, Known, LAST_DENIALS, Value};
use last::Last;
use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use tokio::time::Instant;

/// The last denials, and whom they hit.
#[derive(Debug)]
pub struct Denials {
    kept: Mutex<Kept>,
    missed: AtomicU64,
}

#[derive(Debug)]
struct Kept {
    last: Last,
    clients: Clients,
}

#[derive(Debug)]
struct Noted {
    at: Instant,
    reason: Denial,
    facts: Facts,
}

/// A denial in `/status`.
#[derive(Clone, Debug)]
pub struct Status {
    /// Its age in seconds.
    age_seconds: u64,
    noted: Arc<Noted>,
}

/// The facts about a denial in `/status`.
#[derive(Clone, Debug)]
struct Serialized(Arc<Noted>);

/// The names of the facts; after the last one they are empty.
const NAMES: [&str; 24] = facts::names(LAST_DENIALS);

/// In the order of [`NAMES`].
type Facts = [Option<Value<'static>>; NAMES.len()];

impl Denials {
    /// Records a check if it was denied, or would be in enforce mode. Does not block: if the lock
    /// is taken, the denial is only counted as missed here.
    ///
    /// Of those that are too many to be logged, only some are kept, but all are counted.
    pub fn note(&self, event: &CheckEvent<'_>, is_logged: bool) {
        let Err(reason) = event.verdict.outcome else { return };
        let make = || Arc::new(Noted::of(event, reason));
        // Made outside the lock where it can be.
        let mut noted = is_logged.then(make);
        let Ok(mut kept) = self.kept.try_lock() else {
            self.missed.fetch_add(1, Ordering::Relaxed);
            return;
        };
        let now = event.ended;
        if noted.is_none() && kept.last.wants(reason, now) {
            noted = Some(make());
        }
        let known = &event.known();
        let policy = event.verdict.facts.policy.as_deref().map_or("", |it| &*it.name);
        kept.clients.count((policy, reason), Named::by(known), now, noted.as_ref(), make);
        let oldest = noted.and_then(|it| kept.last.take(it));
        drop(kept);
        // Dropped outside the lock, since this may free memory.
        drop(oldest);
    }

    /// The denials at `now`, most recent first.
    pub fn status(&self, now: Instant) -> Vec<Status> {
        let kept = self.kept().last.newest();
        let status = |it: &Arc<Noted>| Status {
            age_seconds: now.saturating_duration_since(it.at).as_secs(),
            noted: Arc::clone(it),
        };
        kept.iter().map(status).collect()
    }

    /// Whom denials hit in the hour before `now`.
    pub fn clients(&self, now: Instant) -> Vec<GroupStatus> {
        self.kept().clients.status(now)
    }

    /// The number of denials that are neither among the last ones nor counted by client, because there were
    /// too many at once.
    pub fn missed(&self) -> u64 {
        self.missed.load(Ordering::Relaxed)
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Denials {
    fn default() -> Self {
        let kept = Kept { last: Last::default(), clients: Clients::since(Instant::now()) };
        Self { kept: Mutex::new(kept), missed: AtomicU64::new(0) }
    }
}

impl Noted {
    fn of(event: &CheckEvent<'_>, reason: Denial) -> Self {
        Self { at: event.ended, reason, facts: facts_of(event) }
    }

    #[cfg(test)]
    const fn empty(reason: Denial, at: Instant) -> Self {
        Self { at, reason, facts: [const { None }; NAMES.len()] }
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
        serialize_into(&mut members, &self.noted)?;
        members.end()
    }
}

impl Serialize for Serialized {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut members = serializer.serialize_map(None)?;
        serialize_into(&mut members, &self.0)?;
        members.end()
    }
}

fn serialize_into<M: SerializeMap>(members: &mut M, noted: &Noted) -> Result<(), M::Error> {
    let named = NAMES.iter().zip(&noted.facts);
    named
        .filter(|(name, _)| !name.is_empty())
        .try_for_each(|(name, it)| members.serialize_entry(name, it))
}

#[cfg(test)]
mod tests {
    use super::last::KEPT;
    use super::*;
    use crate::telemetry::metrics::Front;
    use keybound_core::policy::Mode;
    use keybound_core::{Denial, Facts as Found, Field, Request, Target, Verdict};
    use serde_json::json;
    use std::time::Duration;

    fn note(denials: &Denials, request: Option<&Request<'_>>, verdict: &Verdict) {
        let (front, elapsed) = (Front::ExtAuthz, Duration::ZERO);
        let (caller, ended) = (None, Instant::now());
        denials.note(&CheckEvent { front, caller, request, verdict, elapsed, ended }, true);
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
                "issuer": null, "claimed_issuer": null, "kid": "<img src=x>", "client_id": null,
                "certificate": null, "certificate_client": null, "bound_certificate": null, "bound_key": null, "proof_key": null,
                "skew_seconds": null, "proved": "none", "request_id": "7", "trace_id": null,
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
        assert_eq!(told(&denials)[0]["kid"], "x".repeat(128));
    }

    fn refused(reason: Denial) -> Verdict {
        Verdict { outcome: Err(reason), facts: Found::default(), mode: Mode::Enforce }
    }

    /// The denials that are kept of each of these reasons.
    fn kept_of(denials: &Denials, reasons: &[Denial]) -> Vec<usize> {
        let told = told(denials);
        let told = told.as_array().unwrap();
        let of = |reason: &Denial| told.iter().filter(|it| it["reason"] == reason.label()).count();
        reasons.iter().map(of).collect()
    }

    #[test]
    fn a_loud_reason_drives_out_no_other() {
        let denials = Denials::default();
        let (rare, loud) = (Denial::TokenExpired, Denial::TokenKeyUnknown);
        for _ in 0..3 {
            note(&denials, None, &refused(rare));
        }
        for _ in 0..10 * KEPT {
            note(&denials, None, &refused(loud));
        }
        assert_eq!(kept_of(&denials, &[rare, loud]), [3, KEPT - 3]);
        // And the other way round, until they are even.
        for _ in 0..10 * KEPT {
            note(&denials, None, &refused(rare));
        }
        assert_eq!(kept_of(&denials, &[rare, loud]), [KEPT / 2, KEPT / 2]);
    }

    #[tokio::test(start_paused = true)]
    async fn in_a_flood_some_of_each_reason_are_kept_and_all_are_counted() {
        let denials = Denials::default();
        let (front, elapsed) = (Front::ExtAuthz, Duration::ZERO);
        let flood = |reason| {
            let verdict = &refused(reason);
            let (caller, request, ended) = (None, None, Instant::now());
            denials.note(&CheckEvent { front, caller, request, verdict, elapsed, ended }, false);
        };
        let (loud, other) = (Denial::TokenKeyUnknown, Denial::TokenExpired);
        for _ in 0..1000 {
            flood(loud);
        }
        flood(other);
        assert_eq!(kept_of(&denials, &[loud, other]), [5, 1]);
        tokio::time::advance(Duration::from_secs(1)).await;
        flood(loud);
        flood(loud);
        assert_eq!(kept_of(&denials, &[loud, other]), [6, 1]);
        let clients = serde_json::to_value(denials.clients(Instant::now())).unwrap();
        assert_eq!((&clients[0]["denials"], &clients[1]["denials"]), (&json!(1002), &json!(1)));
    }

    #[test]
    fn a_check_does_not_wait_for_those_who_read() {
        let denials = Denials::default();
        let reading = denials.kept.lock().unwrap();
        note(&denials, None, &denied("1"));
        drop(reading);
        assert_eq!((told(&denials), denials.missed()), (json!([]), 1));
    }
}
