//! The counters of one set of policies, looked up once rather than per request.

use super::metrics::{Front, Metrics};
use crate::invariant;
use keybound_core::facts::{PUBLIC, RESOURCE_METADATA};
use keybound_core::oauth::Confirmation;
use keybound_core::policy::{Policy, PolicySet};
use keybound_core::{Denial, Detail, Verdict};
use prometheus::{Histogram, IntCounter, IntCounterVec};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// The counters labelled with the policies and issuers of one configuration.
#[derive(Debug)]
pub struct Meters {
    policies: Vec<PolicyMeters>,
    /// For requests to which no policy applies.
    unclaimed: PolicyMeters,
    issuers: Vec<IssuerMeters>,
    durations: [Histogram; Front::ALL.len()],
    checks: IntCounterVec,
    would_deny: IntCounterVec,
    details: IntCounterVec,
    revocations: IntCounterVec,
}

#[derive(Debug)]
struct PolicyMeters {
    policy: Option<Arc<Policy>>,
    by_front: [OutcomeMeters; Front::ALL.len()],
    would_deny: Cells,
}

#[derive(Debug)]
struct OutcomeMeters {
    allowed: OnceLock<IntCounter>,
    public: OnceLock<IntCounter>,
    served: OnceLock<IntCounter>,
    denied: Cells,
}

/// What becomes of a request.
#[derive(Clone, Copy)]
enum Decided {
    Allowed,
    Public,
    Served,
    Denied(Denial),
}

impl Decided {
    fn by(verdict: &Verdict) -> Self {
        match (verdict.served(), verdict.denied()) {
            (Some(_), _) => Self::Served,
            (None, Some(denial)) => Self::Denied(denial),
            (None, None) if verdict.is_public() => Self::Public,
            (None, None) => Self::Allowed,
        }
    }
}

/// One counter per reason, created on first use.
type Cells = [OnceLock<IntCounter>; Denial::ALL.len()];

#[derive(Debug)]
struct IssuerMeters {
    name: Arc<str>,
    bound: [IntCounter; BOUND.len()],
}

/// The label values for what a token is bound to, in the order of [`bound_index`].
const BOUND: [&str; 4] = ["unbound", "certificate", "dpop", "both"];

/// Policy names are never empty, so this cannot collide with one.
const NO_POLICY: &str = "";

impl Meters {
    /// The counters for `policies`.
    pub fn new(metrics: &Metrics, policies: &PolicySet) -> Self {
        let issuer = |name: &Arc<str>| IssuerMeters {
            name: Arc::clone(name),
            bound: BOUND.map(|bound| metrics.tokens.with_label_values(&[name, bound])),
        };
        let unclaimed = PolicyMeters::new(None);
        for front in Front::ALL {
            // An alert fires on the first one, and Prometheus sees no increase in a series that
            // starts at one. So it starts at zero.
            unclaimed.outcome(front, Decided::Denied(Denial::Internal), &metrics.checks);
        }
        for issuer in policies.issuers.iter().filter(|it| it.revokes) {
            for source in SOURCES {
                metrics.revocations.with_label_values(&[&*issuer.name, source]);
            }
        }
        Self {
            policies: policies.policies.iter().map(|it| PolicyMeters::new(Some(it))).collect(),
            unclaimed,
            issuers: policies.issuers.iter().map(|it| issuer(&it.name)).collect(),
            durations: Front::ALL.map(|it| metrics.duration(it)),
            checks: metrics.checks.clone(),
            would_deny: metrics.would_deny.clone(),
            details: metrics.details.clone(),
            revocations: metrics.revocations.clone(),
        }
    }

    /// Counts a check that came in by `front` and took `elapsed`.
    pub fn record(&self, front: Front, verdict: &Verdict, elapsed: Duration) {
        let policy = self.policy(verdict.facts.policy.as_ref());
        match policy.outcome(front, Decided::by(verdict), &self.checks) {
            Some(counter) => counter.inc(),
            None => invariant::broken("each outcome has a counter"),
        }
        if let Some(denial) = verdict.would_deny() {
            policy.count_would_deny(denial, &self.would_deny);
        }
        if let (Err(denial), Some(detail)) = (verdict.outcome, verdict.facts.detail) {
            self.details.with_label_values(&[denial.label(), detail.label()]).inc();
            if let (Some(source), Some(token)) = (revoked_by(detail), &verdict.facts.token) {
                self.revocations.with_label_values(&[&*token.issuer.name, source]).inc();
            }
        }
        if let Some(token) = verdict.facts.token.as_ref().filter(|_| verdict.facts.admitted)
            && let Some(issuer) = self.issuers.iter().find(|it| it.name == token.issuer.name)
            && let Some(counter) = issuer.bound.get(bound_index(&token.confirmation))
        {
            counter.inc();
        }
        match self.durations.get(place(front)) {
            Some(durations) => durations.observe(elapsed.as_secs_f64()),
            None => invariant::broken("each front has its durations"),
        }
    }

    /// A policy is one object, so comparing addresses avoids comparing names.
    fn policy(&self, policy: Option<&Arc<Policy>>) -> &PolicyMeters {
        let same = |it: &&PolicyMeters| match (&it.policy, policy) {
            (Some(one), Some(other)) => Arc::ptr_eq(one, other),
            (None, _) | (_, None) => false,
        };
        self.policies.iter().find(same).unwrap_or(&self.unclaimed)
    }
}

impl PolicyMeters {
    fn new(policy: Option<&Arc<Policy>>) -> Self {
        Self {
            policy: policy.cloned(),
            by_front: Front::ALL.map(|_| OutcomeMeters {
                allowed: OnceLock::new(),
                public: OnceLock::new(),
                served: OnceLock::new(),
                denied: cells(),
            }),
            would_deny: cells(),
        }
    }

    /// Counts a request that was allowed only because its policy is in report mode.
    fn count_would_deny(&self, denial: Denial, would_deny: &IntCounterVec) {
        let counter = || would_deny.with_label_values(&[self.name(), denial.label()]);
        match self.would_deny.get(row(denial)) {
            Some(cell) => cell.get_or_init(counter).inc(),
            None => invariant::broken("each reason has a counter"),
        }
    }

    fn name(&self) -> &str {
        self.policy.as_ref().map_or(NO_POLICY, |it| &it.name)
    }

    fn outcome(
        &self,
        front: Front,
        decided: Decided,
        checks: &IntCounterVec,
    ) -> Option<&IntCounter> {
        let meters = self.by_front.get(place(front))?;
        let (cell, decision, reason) = match decided {
            Decided::Allowed => (&meters.allowed, "allow", "allowed"),
            Decided::Public => (&meters.public, "allow", PUBLIC),
            Decided::Served => (&meters.served, "served", RESOURCE_METADATA),
            Decided::Denied(denial) => (meters.denied.get(row(denial))?, "deny", denial.label()),
        };
        let labels = [front.label(), self.name(), decision, reason];
        Some(cell.get_or_init(|| checks.with_label_values(&labels)))
    }
}

/// What revokes tokens, besides introspection, which has metrics of its own.
const SOURCES: [&str; 3] = [DENYLIST, STATUS_LIST, EVENT];

const DENYLIST: &str = "denylist";
const STATUS_LIST: &str = "status_list";
const EVENT: &str = "event";

/// The details of tokens that were revoked, and what has revoked them.
const REVOKED_BY: &[(Detail, &str)] = &[
    (Detail::Denylisted, DENYLIST),
    (Detail::StatusInvalid, STATUS_LIST),
    (Detail::StatusSuspended, STATUS_LIST),
    (Detail::StatusOther, STATUS_LIST),
    (Detail::EventReceived, EVENT),
];

/// What has revoked a token that is refused with this detail.
fn revoked_by(detail: Detail) -> Option<&'static str> {
    REVOKED_BY.iter().find(|(it, _)| *it == detail).map(|(_, source)| *source)
}

fn cells() -> Cells {
    std::array::from_fn(|_| OnceLock::new())
}

fn place(front: Front) -> usize {
    match front {
        Front::ExtAuthz => 0,
        Front::ForwardAuth => 1,
        Front::Envoy => 2,
    }
}

fn row(denial: Denial) -> usize {
    Denial::ALL.iter().position(|it| *it == denial).unwrap_or(usize::MAX)
}

fn bound_index(confirmation: &Confirmation) -> usize {
    match (confirmation.x5t_s256.is_some(), confirmation.jkt.is_some()) {
        (false, false) => 0,
        (true, false) => 1,
        (false, true) => 2,
        (true, true) => 3,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::installed::Installed;
    use crate::telemetry::samples::policy_set;
    use keybound_core::jose::Thumbprint;
    use keybound_core::policy::{Mode, SenderConstraint};
    use keybound_core::{Detail, Facts};

    const FOUND: Duration = Duration::from_micros(60);

    #[track_caller]
    fn check(tell: impl Fn(&Meters, &PolicySet), expected: &[&str], unexpected: &[&str]) {
        let metrics = Metrics::new().unwrap();
        let policies = policy_set();
        tell(&Meters::new(&metrics, &policies), &policies);
        let text = metrics.exposition(&Installed::default()).unwrap();
        for line in expected {
            assert!(text.contains(line), "{line}\n{text}");
        }
        for line in unexpected {
            assert!(!text.contains(line), "{line}\n{text}");
        }
    }

    fn verdict(policy: Option<&Arc<Policy>>, outcome: Result<(), Denial>) -> Verdict {
        let facts = Facts { policy: policy.cloned(), ..Facts::default() };
        Verdict::new(outcome, facts, &policy_set())
    }

    #[test]
    fn a_check_counts_for_its_policy_and_reason() {
        check(
            |meters, rules| {
                let payments = rules.policies.first();
                meters.record(Front::ExtAuthz, &verdict(payments, Ok(())), FOUND);
                let denied = verdict(payments, Err(Denial::TokenExpired));
                meters.record(Front::ExtAuthz, &denied, FOUND);
                meters.record(Front::ExtAuthz, &denied, FOUND);
                meters.record(Front::ForwardAuth, &denied, FOUND);
                meters.record(Front::ExtAuthz, &verdict(None, Err(Denial::PolicyUnknown)), FOUND);
            },
            &[
                "{decision=\"allow\",front=\"ext_authz\",policy=\"payments\",reason=\"allowed\"} 1\n",
                "{decision=\"deny\",front=\"ext_authz\",policy=\"payments\",reason=\"token_expired\"} 2\n",
                "{decision=\"deny\",front=\"forward_auth\",policy=\"payments\",reason=\"token_expired\"} 1\n",
                "{decision=\"deny\",front=\"ext_authz\",policy=\"\",reason=\"policy_unknown\"} 1\n",
                "{decision=\"deny\",front=\"ext_authz\",policy=\"\",reason=\"internal\"} 0\n",
                "keybound_check_duration_seconds_bucket{front=\"ext_authz\",le=\"0.00005\"} 0\n",
                "keybound_check_duration_seconds_bucket{front=\"ext_authz\",le=\"0.0001\"} 4\n",
            ],
            &["policy=\"payments\",reason=\"token_premature\""],
        );
    }

    #[test]
    fn every_reason_has_a_counter() {
        let series = |it: &Denial| format!("policy=\"payments\",reason=\"{it}\"}} 1\n");
        let of_payments: Vec<_> = Denial::ALL.iter().map(series).collect();
        check(
            |meters, rules| {
                for denial in Denial::ALL {
                    let found = verdict(rules.policies.first(), Err(*denial));
                    meters.record(Front::ExtAuthz, &found, FOUND);
                }
            },
            &of_payments.iter().map(String::as_str).collect::<Vec<_>>(),
            &[],
        );
    }

    #[test]
    fn a_policy_that_reports_counts_what_it_would_deny() {
        let metrics = Metrics::new().unwrap();
        let reporting =
            Policy { mode: Mode::Report, ..Policy::new("payments", SenderConstraint::Certificate) };
        let policies = PolicySet { policies: [Arc::new(reporting)].into(), ..policy_set() };
        let found = verdict(policies.policies.first(), Err(Denial::ProofMissing));
        Meters::new(&metrics, &policies).record(Front::ExtAuthz, &found, FOUND);
        let text = metrics.exposition(&Installed::default()).unwrap();
        for line in [
            "keybound_would_deny_total{policy=\"payments\",reason=\"proof_missing\"} 1\n",
            "{decision=\"allow\",front=\"ext_authz\",policy=\"payments\",reason=\"allowed\"} 1\n",
        ] {
            assert!(text.contains(line), "{line}\n{text}");
        }
    }

    #[test]
    fn what_needs_no_token_is_counted_apart() {
        let metrics = Metrics::new().unwrap();
        let policies =
            PolicySet { policies: [Arc::new(Policy::public("health"))].into(), ..policy_set() };
        let meters = Meters::new(&metrics, &policies);
        for outcome in [Ok(()), Ok(()), Err(Denial::CredentialsAmbiguous)] {
            let found = verdict(policies.policies.first(), outcome);
            meters.record(Front::Envoy, &found, FOUND);
        }
        let text = metrics.exposition(&Installed::default()).unwrap();
        for line in [
            "{decision=\"allow\",front=\"envoy\",policy=\"health\",reason=\"public\"} 2\n",
            "{decision=\"deny\",front=\"envoy\",policy=\"health\",reason=\"credentials_ambiguous\"} 1\n",
        ] {
            assert!(text.contains(line), "{line}\n{text}");
        }
    }

    #[test]
    fn what_lies_behind_a_reason_is_counted_whether_it_is_enforced_or_not() {
        check(
            |meters, rules| {
                for mode in [Mode::Enforce, Mode::Report] {
                    let facts = Facts { detail: Some(Detail::MessageTooLarge), ..Facts::default() };
                    let found = Verdict::new(Err(Denial::RequestMalformed), facts, rules);
                    meters.record(Front::ExtAuthz, &Verdict { mode, ..found }, FOUND);
                }
                meters.record(
                    Front::ExtAuthz,
                    &verdict(None, Err(Denial::RequestMalformed)),
                    FOUND,
                );
            },
            &[
                "keybound_denial_details_total{detail=\"message_too_large\",reason=\"request_malformed\"} 2\n",
            ],
            &[],
        );
    }

    #[test]
    fn a_token_counts_by_what_it_is_bound_to() {
        let print = Some(Thumbprint::of(b"key"));
        for (x5t_s256, jkt, label) in [
            (None, None, "unbound"),
            (print, None, "certificate"),
            (None, print, "dpop"),
            (print, print, "both"),
        ] {
            let confirmation = Confirmation { x5t_s256, jkt, ..Confirmation::default() };
            assert_eq!(BOUND[bound_index(&confirmation)], label);
        }
    }
}
