//! The alerts of `deploy/observability`, by promtool. `alerts.py` has the cases.

use crate::programs::provisioned;
use crate::succeeds;
use std::path::Path;
use std::process::Command;

/// The check `name` of `alerts.py`.
#[track_caller]
fn check(name: &str) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/deploy/alerts.py");
    let mut command = Command::new(provisioned("python-tools"));
    command.arg(script).arg(name).arg(provisioned("promtool"));
    succeeds(command.arg(env!("CARGO_BIN_EXE_keybound")));
}

#[test]
fn each_alert_fires_when_it_should_and_neither_before_nor_otherwise() {
    check("each");
}

#[test]
fn whatever_reason_all_traffic_turns_to_an_alert_fires_within_ten_minutes() {
    check("reasons");
}

#[test]
fn no_alert_fires_on_a_quiet_or_a_growing_service() {
    check("calm");
}

#[test]
fn what_an_alert_says_makes_sense_with_a_policy_and_without_one() {
    check("told");
}
