//! The part of the configuration about introspection (RFC 7662).

use super::files::Files;
use super::url::{Fetched, PlainHttp, fetched};
use super::{client_authentication, span, whole_number};
use crate::config::file;
use crate::config::problem::{Findings, Path};
use crate::state::introspection::{IntrospectionRules, IntrospectionUpkeep};
use crate::state::jwks::KeySource;
use std::ops::RangeInclusive;
use std::time::Duration;

/// `patience` is that of a check.
pub(super) fn compile(
    given: file::Introspection,
    keys: Option<&KeySource>,
    plain: PlainHttp,
    patience: Duration,
    at: &Path,
    files: &Files,
    findings: &mut Findings,
) -> Option<IntrospectionRules> {
    let upkeep = upkeep(&given, patience, at, findings);
    let where_ = at.key("endpoint");
    match given.endpoint.as_deref().map(|it| fetched(it, plain)) {
        Some(Ok(Fetched::Locally)) => findings.warning(
            &where_,
            "tokens are sent over plain http: anybody who controls this machine can read them",
        ),
        Some(Err(message)) => findings.problem(&where_, message),
        None if keys.is_some_and(|it| *it != KeySource::Discovery) => findings.problem(
            &where_,
            "is required, unless the issuer's metadata is discovered (`keys: {discovery: true}`)",
        ),
        // Of the latter, `allow_http` itself is warned of.
        Some(Ok(Fetched::Https | Fetched::Plainly)) | None => (),
    }
    let client = client_authentication::compile(&given, at, files, findings);
    if given.allow_missing_audience == Some(true) {
        let message = "a token for another service is accepted if the issuer's response has no \
                       audience";
        findings.warning(&at.key("allow_missing_audience"), message);
    }
    let (client_id, authentication, identity) = client?;
    Some(IntrospectionRules {
        endpoint: given.endpoint,
        client_id,
        authentication,
        identity,
        forward_jwt: given.forward_jwt.unwrap_or(false),
        allow_missing_audience: given.allow_missing_audience.unwrap_or(false),
        upkeep,
    })
}

fn upkeep(
    given: &file::Introspection,
    patience: Duration,
    at: &Path,
    findings: &mut Findings,
) -> IntrospectionUpkeep {
    /// Its relation to the deadline of a check is validated with the limits.
    const ANY_TIMEOUT: RangeInclusive<Duration> =
        Duration::from_millis(1)..=Duration::from_secs(60);
    const HOUR: Duration = Duration::from_secs(3600);
    let usual = IntrospectionUpkeep::default();
    let mut span = |key, given, usual, within| span(given, usual, within, &at.key(key), findings);
    // So that a shorter check deadline needs no change here.
    let usual_timeout = usual.timeout.min(patience);
    let timeout = span("timeout", given.timeout, usual_timeout, ANY_TIMEOUT);
    let cache_ttl = span("cache_ttl", given.cache_ttl, usual.cache_ttl, Duration::ZERO..=HOUR);
    let negative_ttl =
        span("negative_ttl", given.negative_ttl, usual.negative_ttl, Duration::ZERO..=HOUR);
    let entries = at.key("cache_entries");
    let cache_entries =
        whole_number(given.cache_entries, usual.cache_entries, 1..=10_000_000, &entries, findings);
    let calls = at.key("concurrency");
    let concurrency =
        whole_number(given.concurrency, usual.concurrency, 1..=10_000, &calls, findings);
    IntrospectionUpkeep { timeout, cache_ttl, negative_ttl, cache_entries, concurrency }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::installation::Limits;

    #[test]
    fn an_answer_is_waited_for_as_long_as_a_check_has_time() {
        let timeout = |check_deadline| {
            let limits = Limits { check_deadline, ..Limits::default() };
            let given = serde_json::from_str("{}").unwrap();
            let mut findings = Findings::default();
            let found = upkeep(&given, limits.patience(), &Path::default(), &mut findings);
            assert_eq!(findings.finish(), (vec![], vec![]));
            found.timeout
        };
        for (deadline, expected) in [(10, 8), (150, 120), (1000, 800), (2000, 800)] {
            let found = timeout(Duration::from_millis(deadline));
            assert_eq!(found, Duration::from_millis(expected), "{deadline}");
        }
    }
}
