//! Explanation of a single request, step by step, by the code that `serve` runs.

mod advice;
pub(crate) mod certificate;
mod configuration;
pub(crate) mod json;
mod kept;
mod metadata;
pub(crate) mod pasted;
pub(crate) mod request;
pub(crate) mod text;

use crate::clock::{Clock, FixedClock};
use crate::front::capture::{Kept, kept_digest};
use crate::front::ext_authz::{route, wire};
use crate::installation::Checker;
use advice::{Case, Setting};
use configuration::Told;
use kept::is_redacted;
use keybound_core::oauth::Credentials;
use keybound_core::policy::{Introspection, Issuer};
use keybound_core::{
    Annotation, Denial, Diagnosis, Facts, Mismatch, Redacted, Request, Rules, SeenJwt, Sources,
    UnixTime, Verdict, diagnose,
};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::timeout;

/// A check and everything to print about it.
pub(crate) struct Explained {
    /// Method and target; none if they could not be parsed.
    target: Option<String>,
    now: UnixTime,
    verdict: Verdict,
    /// Advice on the denial, if there is one.
    advice: Option<String>,
    /// What else is wrong with the request, each with advice.
    besides: Vec<(Mismatch, String)>,
    /// The issuer's configuration that would read such a token.
    configuration: Option<Told>,
    /// The decision.
    pub(crate) decision: Decision,
    /// Remarks beside the steps.
    remarks: Vec<String>,
    /// When and why it was kept, if `serve` kept it.
    kept: Option<kept::Case>,
    ways: &'static Ways,
}

/// The settings of an explanation.
pub(crate) struct Terms<'a, S> {
    /// The rules of the check.
    pub(crate) rules: &'a Rules,
    /// Its keys and stores.
    pub(crate) sources: &'a S,
    /// The digest of the configuration.
    pub(crate) digest: &'a str,
    /// Whether the time, the token or the proof is not that of the request.
    pub(crate) changed: bool,
    /// The clock for the time of the check.
    pub(crate) clock: Arc<dyn Clock>,
    /// The longest duration of the check; none: unlimited.
    pub(crate) deadline: Option<Duration>,
    /// Whether issuers are asked about tokens.
    pub(crate) online: bool,
    /// The remark about a proof that was accepted.
    pub(crate) accepted: &'static str,
    /// Remarks to print in any case.
    pub(crate) remarks: Vec<String>,
    /// What the user can do.
    pub(crate) ways: &'static Ways,
}

/// What the user can do about missing input, in terms of the user interface.
pub(crate) struct Ways {
    /// How to supply the token.
    pub(crate) token: &'static str,
    /// How to supply the proof.
    pub(crate) proof: &'static str,
    /// How to have issuers asked.
    pub(crate) online: &'static str,
}

/// The decision about the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    /// Allowed.
    Allowed,
    /// Allowed without a token.
    Public,
    /// Allowed by a policy in report mode, which would deny it for this reason.
    Reported(Denial),
    /// Neither: the client gets the metadata of a resource.
    Served,
    /// Denied for this reason.
    Denied(Denial),
    /// Undecided: `serve` would ask an issuer, and this explanation is offline.
    Open,
}

impl Decision {
    fn of(verdict: &Verdict, online: bool) -> Self {
        match verdict.outcome {
            Ok(()) if verdict.served().is_some() => Self::Served,
            Ok(()) if verdict.is_public() => Self::Public,
            Ok(()) => Self::Allowed,
            // The issuer was not asked, so the missing answer is not a failure.
            Err(Denial::IntrospectionUnavailable) if !online => Self::Open,
            Err(denial) if verdict.denied().is_none() => Self::Reported(denial),
            Err(denial) => Self::Denied(denial),
        }
    }
}

impl Explained {
    /// The outcome of the check, with its facts.
    pub(crate) const fn verdict(&self) -> &Verdict {
        &self.verdict
    }
}

/// Explains the `CheckRequest` in `message`.
pub(crate) async fn explain<S: Sources>(message: &[u8], terms: Terms<'_, S>) -> Explained {
    let Terms { rules, sources, digest, changed, clock, deadline, online, accepted, .. } = terms;
    let Terms { mut remarks, ways, .. } = terms;
    let now = clock.now();
    let checker = Checker::new(Arc::new(FixedClock(now)));
    let kept = Kept::of(message).map(|kept| {
        let same_configuration = kept.configuration == digest;
        kept::Case { kept, same_configuration, unchanged: !changed }
    });
    let decide = |verdict: &mut Verdict| kept.as_ref().and_then(|it| it.decide(verdict));
    let (target, verdict, diagnosis) = match wire::read_for(message, rules) {
        Ok(mut request) => {
            if let Some(certificate) = kept_digest(message) {
                request.evidence.peer_certificate = certificate;
            }
            let taken = kept.as_ref().map(|it| it.redacted(&request)).unwrap_or_default();
            remarks.extend(redacted(&request, taken, ways));
            remarks.extend(unheeded(message, rules));
            remarks.extend(removed(&request));
            let explained = checker.explain_kept(rules, sources, &request, taken, deadline);
            let mut verdict = explained.await;
            remarks.extend(decide(&mut verdict));
            let diagnosis = diagnose(rules, sources, &request, now, &verdict);
            let diagnosis = match deadline {
                None => diagnosis.await,
                Some(deadline) => timeout(deadline, diagnosis).await.unwrap_or_default(),
            };
            (Some(target(&request)), verdict, diagnosis)
        }
        Err(refusal) => {
            let mut verdict = Verdict::refused(refusal, &rules.policies);
            remarks.extend(decide(&mut verdict));
            (None, verdict, Diagnosis::default())
        }
    };
    if verdict.facts.proved.dpop {
        remarks.push(accepted.to_owned());
    }
    // A reason that was found when it was kept leaves nothing open.
    let is_known = kept.as_ref().is_some_and(kept::Case::stands);
    let decision = Decision::of(&verdict, online || is_known);
    let (advice, besides) = advised(&verdict, &diagnosis, rules);
    let configuration = read_by(&verdict, &diagnosis, rules);
    Explained {
        target,
        now,
        verdict,
        advice,
        besides,
        configuration,
        decision,
        remarks,
        kept,
        ways,
    }
}

/// Advice on a reason of which nothing else is known.
pub(crate) const fn usual_advice(denial: Denial) -> &'static str {
    advice::on_reason(denial)
}

/// Advice on the denial, and on what else is wrong.
fn advised(
    verdict: &Verdict,
    diagnosis: &Diagnosis,
    rules: &Rules,
) -> (Option<String>, Vec<(Mismatch, String)>) {
    let (facts, issuers) = (&verdict.facts, &*rules.policies.issuers);
    let steps = facts.explanation.steps();
    let answer = steps.iter().rfind(|it| it.finding.what == "answer");
    let setting = &Setting {
        source: &rules.policies.client_certificate,
        policy: facts.policy.as_deref(),
        issuer: issuer_of(facts, diagnosis.jwt.as_ref(), issuers),
        issuers,
        jwt: diagnosis.jwt.as_ref(),
        answer: answer.map(|it| &*it.finding.found),
    };
    let advice = verdict.outcome.err().map(|denial| {
        let (detail, finding) = (facts.detail, facts.explanation.fault());
        advice::on(&Case { denial, detail, finding, setting })
    });
    let besides = diagnosis.mismatches.iter().map(|it| {
        let Mismatch { denial, detail, finding, .. } = it;
        let case = Case { denial: *denial, detail: *detail, finding: Some(finding), setting };
        (it.clone(), advice::on(&case))
    });
    (advice, besides.collect())
}

/// The issuer's configuration that would read the token.
fn read_by(verdict: &Verdict, diagnosis: &Diagnosis, rules: &Rules) -> Option<Told> {
    let (facts, jwt) = (&verdict.facts, diagnosis.jwt.as_ref());
    let issuer = issuer_of(facts, jwt, &rules.policies.issuers)?;
    if let Some(jwt) = jwt {
        let lacks = Denial::ScopeInsufficient;
        let lacks_scope = verdict.outcome == Err(lacks)
            || diagnosis.mismatches.iter().any(|it| it.denial == lacks);
        return configuration::reading(issuer, jwt, lacks_scope);
    }
    let fault = facts.explanation.fault()?;
    let is_opaque = verdict.outcome == Err(Denial::TokenMalformed) && fault.what == "form";
    let asks = issuer.introspection != Introspection::Never;
    let is_whole = fault.wanted.contains("`introspection`");
    (is_opaque && is_whole && !asks).then(|| configuration::asking(issuer))
}

/// The issuer of the token, or the only one of the policy.
fn issuer_of<'a>(
    facts: &'a Facts,
    jwt: Option<&SeenJwt>,
    issuers: &'a [Arc<Issuer>],
) -> Option<&'a Issuer> {
    let seen = jwt.map(|it| it.issuer).and_then(|it| issuers.get(it.0));
    let read = facts.token.as_ref().map(|it| &it.issuer);
    let only = || match &*facts.policy.as_ref()?.issuers {
        [only] => issuers.get(only.0),
        _ => None,
    };
    seen.or(read).or_else(only).map(|it| &**it)
}

/// Parses the time of a check, or explains the format.
pub(crate) fn time(text: &str) -> Result<UnixTime, &'static str> {
    UnixTime::parse(text).ok_or("a time is expected: 2027-01-15T08:00:00Z, or seconds since 1970")
}

/// Without the query and user information, which may contain secrets.
fn target(request: &Request<'_>) -> String {
    let target = &request.target;
    let query = if target.query().is_some() { "?…" } else { "" };
    let (method, path) = (target.method, target.path_only());
    format!("{method} {}://{}{path}{query}", target.scheme, target.host_and_port())
}

/// A remark about a route annotation that has no effect.
fn unheeded(message: &[u8], rules: &Rules) -> Option<String> {
    let says = || !matches!(route::annotation(message), Ok(Annotation::Absent) | Err(_));
    (!rules.heeds_routes() && says()).then(|| UNHEEDED.to_owned())
}

const UNHEEDED: &str = "the policy that an annotation of the route names is ignored: no policy has \
                        allow_route_annotation";

/// A remark about headers that are removed for the upstream.
fn removed(request: &Request<'_>) -> Option<String> {
    let names: Vec<_> = request.unwanted.iter().map(|it| it.escape_default().to_string()).collect();
    let names = (!names.is_empty()).then(|| names.join(", "))?;
    Some(format!(
        "headers removed, because an upstream could confuse them with keybound's, or because \
         upstream.remove lists them: {names}"
    ))
}

/// When a request was kept, if `serve` kept it.
pub(crate) fn kept_at(message: &[u8]) -> Option<UnixTime> {
    Kept::of(message).map(|it| it.at)
}

/// Remarks about signatures that were redacted when the request was captured. Of those, `believed` count as
/// verified.
fn redacted(request: &Request<'_>, believed: Redacted, ways: &Ways) -> Vec<String> {
    let Ok(credentials) = Credentials::read(request) else { return vec![] };
    let token = is_redacted(credentials.token.as_bytes());
    let token = token.then_some(("token", believed.token, ways.token));
    let proof = credentials.proof.filter(|it| is_redacted(it.as_bytes()));
    let proof = proof.map(|_| ("proof", believed.proof, ways.proof));
    let tell = |(what, counts, way)| {
        let how = if counts { ", and is taken as verified" } else { "" };
        format!(
            "the signature of the {what} was redacted when it was captured{how}: {way} restores it"
        )
    };
    [token, proof].into_iter().flatten().map(tell).collect()
}
