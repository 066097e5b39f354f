//! What a policy demands of the login of the user (RFC 9470).

use super::policies::is_scope;
use super::span;
use crate::config::file;
use crate::config::problem::{Findings, Path, quoted};
use keybound_core::policy::Authentication;
use std::ops::RangeInclusive;
use std::time::Duration;

/// The challenge tells whole seconds.
const MAX_AGE: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(31_536_000);

pub(super) fn compile(
    given: Option<file::UserAuthentication>,
    at: &Path,
    findings: &mut Findings,
) -> Authentication {
    let Some(file::UserAuthentication { acr, max_age }) = given else {
        return Authentication::default();
    };
    if acr.is_none() && max_age.is_none() {
        findings.problem(at, "demands nothing: write `acr` or `max_age`, or leave it out");
    }
    let acr = acr.map(|it| classes(it, &at.key("acr"), findings)).unwrap_or_default();
    let at = &at.key("max_age");
    let max_age = max_age.map(|it| span(Some(it), it.0, MAX_AGE, at, findings));
    if max_age.is_some_and(|it| it.subsec_nanos() != 0) {
        findings.problem(at, "must be whole seconds, since clients are told seconds (RFC 9470 §3)");
    }
    // Whatever is out of range is among the findings.
    let seconds = |it: Duration| u32::try_from(it.as_secs()).unwrap_or(u32::MAX);
    Authentication { acr, max_age_seconds: max_age.map(seconds) }
}

/// Names that the challenge lists with a space between them.
fn classes(acr: Vec<String>, at: &Path, findings: &mut Findings) -> Vec<String> {
    if acr.is_empty() {
        findings.problem(at, "must not be empty: leave it out to accept every class");
    }
    for (index, class) in acr.iter().enumerate() {
        if !is_scope(class) {
            let message = format!(
                "{} cannot be told in a challenge: write visible ASCII without spaces, quotes and \
                 backslashes",
                quoted(class)
            );
            findings.problem(&at.index(index), message);
        }
    }
    acr
}
