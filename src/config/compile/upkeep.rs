//! The part of the configuration about refreshing keys: how often they are fetched, and how long
//! they are kept.

use super::files::Files;
use super::{span, whole_number};
use crate::config::file;
use crate::config::problem::{Findings, Path};
use crate::state::jwks;
use crate::state::jwks::KeyUpkeep;
use std::ops::RangeInclusive;
use std::time::Duration;

pub(super) fn compile(
    given: &file::Keys,
    at: &Path,
    files: &Files,
    findings: &mut Findings,
) -> KeyUpkeep {
    const SECOND: Duration = Duration::from_secs(1);
    const HOUR: Duration = Duration::from_secs(3600);
    const DAY: Duration = Duration::from_secs(24 * 3600);
    const WEEK: Duration = Duration::from_secs(7 * 24 * 3600);
    const FETCH: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(30);
    let usual = KeyUpkeep::default();
    let mut span = |key, given, usual, within| span(given, usual, within, &at.key(key), findings);
    let refresh_min = span("refresh_min", given.refresh_min, usual.refresh_min, SECOND..=DAY);
    let refresh_max = span("refresh_max", given.refresh_max, usual.refresh_max, SECOND..=DAY);
    let max_stale = span("max_stale", given.max_stale, usual.max_stale, SECOND..=WEEK);
    let cooldown = (given.unknown_kid_cooldown, usual.unknown_kid_cooldown);
    let unknown_kid_cooldown = span("unknown_kid_cooldown", cooldown.0, cooldown.1, SECOND..=HOUR);
    let grace = (given.withdrawn_key_grace, usual.withdrawn_key_grace);
    let withdrawn_key_grace = span("withdrawn_key_grace", grace.0, grace.1, Duration::ZERO..=DAY);
    let timeout = (given.fetch_timeout, usual.fetch_timeout);
    let fetch_timeout = span("fetch_timeout", timeout.0, timeout.1, FETCH);
    // Clamped between the two, so that setting one does not require setting the other.
    let refresh_default = given
        .refresh_default
        .map_or_else(|| usual.refresh_default.min(refresh_max).max(refresh_min), |it| it.0);
    if refresh_max < refresh_min {
        findings.problem(&at.key("refresh_max"), "must not be less than refresh_min");
    } else if !(refresh_min..=refresh_max).contains(&refresh_default) {
        findings.problem(&at.key("refresh_default"), "must be refresh_min to refresh_max");
    }
    if max_stale <= refresh_max {
        let message = format!(
            "must be more than refresh_max ({refresh_max:?}), or keys expire while the issuer is \
             healthy"
        );
        findings.problem(&at.key("max_stale"), message);
    }
    if HOUR < withdrawn_key_grace && withdrawn_key_grace <= DAY {
        let message = format!(
            "a key that the issuer withdraws because it was stolen is accepted for another \
             {withdrawn_key_grace:?}: name no more than its replicas take to publish the same set"
        );
        findings.warning(&at.key("withdrawn_key_grace"), message);
    }
    let snapshot = at.key("snapshot_file");
    let snapshot_file =
        given.snapshot_file.as_deref().map(|it| files.writes(it, &snapshot, findings));
    if let Some(fault) = snapshot_file.as_deref().and_then(jwks::snapshot_fault) {
        findings.warning(&snapshot, format!("is not used: {fault}"));
    }
    let bytes = at.key("max_bytes");
    let max_bytes =
        whole_number(given.max_bytes, usual.max_bytes, 1024..=16 << 20, &bytes, findings);
    KeyUpkeep {
        refresh_min,
        refresh_max,
        refresh_default,
        max_stale,
        withdrawn_key_grace,
        unknown_kid_cooldown,
        fetch_timeout,
        max_bytes,
        snapshot_file,
        algorithms: usual.algorithms,
    }
}
