//! Three times that go together: how long a proxy waits for an answer, how long a check may take,
//! and how long an issuer may take to answer about a token.

use crate::config::file;
use crate::config::problem::{Findings, Path};
use crate::config::values::Span;
use crate::installation::{IssuerRules, Limits};
use crate::state::introspection::IntrospectionUpkeep;
use std::time::Duration;

/// Envoy's default `timeout` for `ext_authz`.
const ENVOY_WAITS: Duration = Duration::from_millis(200);

/// The longest deadline of a check.
pub(super) const LONGEST: Duration = Duration::from_secs(60);

/// The deadline of a check where none is written: so that each issuer's introspection has four
/// fifths of it, and no less than where nothing is introspected.
pub(super) fn usual_deadline(issuers: &[file::Issuer]) -> Duration {
    let usual = IntrospectionUpkeep::default().timeout;
    let asked = issuers.iter().filter_map(|it| it.introspection.as_ref());
    let longest = asked.map(|it| it.timeout.map_or(usual, |it| it.0)).max().unwrap_or_default();
    with_a_quarter_more(longest).max(Limits::default().check_deadline).min(LONGEST)
}

/// Finds times that do not fit: that of Envoy, unless it is told otherwise, and those of issuers.
pub(super) fn check(
    issuers: &[IssuerRules],
    limits: &Limits,
    root: &Path,
    findings: &mut Findings,
) {
    let mut slowest: Option<(Path, Duration)> = None;
    for (index, issuer) in issuers.iter().enumerate() {
        let Some(introspection) = &issuer.introspection else { continue };
        let at = root.key("issuers").index(index).key("introspection").key("timeout");
        let timeout = introspection.upkeep.timeout;
        if limits.check_deadline <= timeout {
            let least = Limits { check_deadline: with_a_quarter_more(timeout), ..*limits };
            let together = together(&least, Some((&at, timeout)));
            let deadline = Span(limits.check_deadline);
            findings.problem(
                &at,
                format!(
                    "must be less than limits.check_deadline, which is {deadline}, or checks time \
                     out before it. {together}"
                ),
            );
        } else if slowest.as_ref().is_none_or(|it| it.1 < timeout) {
            slowest = Some((at, timeout));
        }
    }
    if ENVOY_WAITS <= limits.check_deadline {
        let slowest = slowest.as_ref().map(|(at, timeout)| (at, *timeout));
        let waits = Span(ENVOY_WAITS);
        let together = together(limits, slowest);
        let message =
            format!("Envoy gives up after {waits} unless it is told otherwise. {together}");
        findings.warning(&root.key("limits").key("check_deadline"), message);
    }
}

/// What to write for each of the times, with these limits and the slowest issuer.
fn together(limits: &Limits, slowest: Option<(&Path, Duration)>) -> String {
    let deadline = Span(limits.check_deadline);
    let envoy = with_a_quarter_more(limits.check_deadline).as_secs_f64();
    let envoy = format!(
        "`timeout: {envoy}s` or more for ext_authz in Envoy (in `grpc_service` or `http_service`; \
         in Istio, of the provider)"
    );
    match slowest {
        None => format!("Set {envoy}, more than limits.check_deadline ({deadline})"),
        Some((at, timeout)) => format!(
            "Three times go together, each longer than the next: set {envoy}, \
             limits.check_deadline to {deadline}, and {at} to {}",
            Span(timeout)
        ),
    }
}

/// In whole milliseconds.
fn with_a_quarter_more(time: Duration) -> Duration {
    let millis = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    Duration::from_millis(millis.saturating_mul(5).div_ceil(4))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn deadline(timeouts: &[Option<u64>]) -> u128 {
        let issuer = |timeout: &Option<u64>| {
            let timeout = timeout.map(|it| format!(r#""timeout": "{it}ms""#)).unwrap_or_default();
            serde_json::from_str(&format!(r#"{{"introspection": {{{timeout}}}}}"#)).unwrap()
        };
        usual_deadline(&timeouts.iter().map(issuer).collect::<Vec<_>>()).as_millis()
    }

    #[test]
    fn a_check_has_as_much_time_as_its_issuers_take() {
        let silent = serde_json::from_str("{}").unwrap();
        assert_eq!(usual_deadline(&[silent]), Duration::from_millis(150));
        for (timeouts, expected) in [
            (&[][..], 150),
            (&[None], 1000),
            (&[Some(1)], 150),
            (&[Some(120)], 150),
            (&[Some(121)], 152),
            (&[Some(120), None], 1000),
            (&[Some(2000), Some(120)], 2500),
            (&[Some(47_999)], 59_999),
            (&[Some(60_000)], 60_000),
        ] {
            assert_eq!(deadline(timeouts), expected, "{timeouts:?}");
        }
    }
}
