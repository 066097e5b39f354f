//! Knows how one request is put through the very code that `serve` runs, and told step by step.

mod advice;
pub(crate) mod certificate;
pub(crate) mod json;
pub(crate) mod request;
pub(crate) mod text;

use crate::check::{Checker, Facts, Rules, Verdict};
use crate::client_certificate::Source;
use crate::clock::{Clock, UnixTime};
use crate::denial::Denial;
use crate::front::ext_authz::wire;
use crate::oauth::credentials::Credentials;
use crate::request::Request;
use std::sync::Arc;

/// One check, and all that is told of it.
pub(crate) struct Explanation {
    /// Method and target; none if they could not be read.
    target: Option<String>,
    now: UnixTime,
    verdict: Verdict,
    /// What became of the request.
    pub(crate) decision: Decision,
    /// What else there is to know.
    remarks: Vec<String>,
}

/// What became of the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    /// It is allowed.
    Allowed,
    /// The policy lets through what it would deny for this reason.
    Reported(Denial),
    /// It is denied for this reason.
    Denied(Denial),
    /// `serve` would ask an issuer; this was not to.
    Open,
}

impl Decision {
    fn of(verdict: &Verdict, online: bool) -> Self {
        match verdict.outcome {
            Ok(()) => Self::Allowed,
            // Nobody was asked, so nobody failed to answer.
            Err(Denial::IntrospectionUnavailable) if !online => Self::Open,
            Err(denial) if verdict.denied().is_none() => Self::Reported(denial),
            Err(denial) => Self::Denied(denial),
        }
    }
}

/// Explains the `CheckRequest` in `message` under `rules`, which ask issuers about tokens if they
/// are `online`.
pub(crate) async fn explain(
    message: &[u8],
    rules: &Rules,
    clock: Arc<dyn Clock>,
    online: bool,
    mut remarks: Vec<String>,
) -> Explanation {
    let header = match &rules.policies.client_certificate {
        Source::Header { name, .. } => Some(name.as_str()),
        Source::Peer | Source::Xfcc { .. } => None,
    };
    let now = clock.now();
    let (target, verdict) = match wire::read(message, header) {
        Ok(request) => {
            remarks.extend(blanks(&request));
            let verdict = Checker::new(clock).explain(rules, &request).await;
            (Some(target(&request)), verdict)
        }
        Err(denial) => (None, Verdict { outcome: Err(denial), facts: Facts::default() }),
    };
    if verdict.facts.proved.dpop {
        remarks.push(OWN_RECORD.to_owned());
    }
    let decision = Decision::of(&verdict, online);
    Explanation { target, now, verdict, decision, remarks }
}

/// Without the query, which may hold secrets.
fn target(request: &Request<'_>) -> String {
    let target = &request.target;
    let query = if target.query().is_some() { "?…" } else { "" };
    let (method, path) = (target.method, target.path_only());
    format!("{method} {}://{}{path}{query}", target.scheme, target.authority)
}

/// Signatures that were taken out when the request was kept.
fn blanks(request: &Request<'_>) -> Vec<String> {
    let Ok(credentials) = Credentials::read(request) else { return vec![] };
    let is_blank = |jwt: &[u8]| {
        let signature = jwt.rsplit(|it| *it == b'.').next().unwrap_or_default();
        !signature.is_empty() && signature.iter().all(|it| *it == b'A')
    };
    let token = is_blank(credentials.token.as_bytes()).then_some(("token", "--token"));
    let proof = credentials.proof.filter(|it| is_blank(it.as_bytes()));
    let proof = proof.map(|_| ("proof", "--proof"));
    let tell = |(what, flag)| {
        format!(
            "the signature of the {what} was blanked when it was kept: {flag} FILE puts it back"
        )
    };
    [token, proof].into_iter().flatten().map(tell).collect()
}

const OWN_RECORD: &str = "the use of the proof was recorded here only: whether `serve` has seen it \
                          before is not known";
