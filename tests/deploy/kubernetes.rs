//! The Kubernetes objects. `objects.py` judges them.

use crate::programs::provisioned;
use crate::shared::shared;
use crate::succeeds;
use keybound::commands::demo::pki::Authority;
use std::fs;
use std::path::Path;
use std::process::Command;

/// The check `name` of `objects.py`.
#[track_caller]
fn check(name: &str, schemas: Option<&Path>) {
    let files = tempfile::tempdir().unwrap();
    let authority = Authority::new("test authority").unwrap();
    let server = authority.server(&["keybound.keybound.svc"]).unwrap();
    for (name, text) in [
        ("ca.crt", authority.certificate_pem()),
        ("tls.crt", server.certificate_pem()),
        ("tls.key", server.key_pem()),
        ("client-secret", "secret".to_owned()),
        ("secret", "0123456789abcdef0123456789abcdef".to_owned()),
        ("url", "rediss://user:password@redis.keybound.svc:6379".to_owned()),
    ] {
        fs::write(files.path().join(name), text).unwrap();
    }
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/deploy/objects.py");
    let mut command = Command::new(provisioned("python-tools"));
    command.arg(script).args([name, env!("CARGO_BIN_EXE_keybound")]).arg(files.path());
    succeeds(command.args(schemas));
}

#[test]
fn every_object_of_kubernetes_own_kinds_is_as_its_schema_says() {
    check("manifests", None);
}

#[test]
fn every_object_of_istio_and_of_envoy_gateway_is_as_its_schema_says() {
    let Some(schemas) = shared("schemas") else { return };
    check("foreign_manifests", Some(&schemas));
}

#[test]
fn for_every_file_of_values_the_chart_renders_what_can_be_applied_and_run() {
    check("chart", None);
}

#[test]
fn the_chart_has_no_fault_as_it_is_downloaded() {
    check("lint", None);
}

#[test]
fn what_the_chart_can_turn_on_and_off_is_there_and_is_not() {
    check("switches", None);
}

#[test]
fn the_chart_replaces_the_pods_for_what_cannot_be_reloaded_and_for_nothing_else() {
    check("reloads", None);
}

#[test]
fn the_pod_has_the_time_to_drain_and_the_user_that_is_asked_for_or_none() {
    check("pod", None);
}

#[test]
fn the_chart_brings_the_rules_and_the_dashboard_along_and_lets_prometheus_in() {
    check("monitoring", None);
}

#[test]
fn the_chart_holds_the_schema_of_the_configuration_as_it_is() {
    up_to_date("schema");
}

#[test]
fn the_chart_lists_every_value_with_its_default() {
    up_to_date("table");
}

/// Whether what `values.py` writes is as it would write it now.
#[track_caller]
fn up_to_date(name: &str) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/deploy/values.py");
    let mut command = Command::new(provisioned("python-tools"));
    succeeds(command.arg(script).args([name, env!("CARGO_BIN_EXE_keybound")]));
}

#[test]
fn what_is_not_safe_is_said_at_the_end_of_an_installation() {
    check("warnings", None);
}

#[test]
fn values_that_cannot_be_meant_are_refused_by_name() {
    check("refusals", None);
}

#[test]
fn proxies_ask_the_service_that_the_chart_makes_and_refuse_when_it_does_not_answer() {
    check("providers", None);
}

#[test]
fn what_listens_for_administrators_alone_is_asked_from_within_its_pod() {
    check("pods", None);
}

#[test]
fn pages_are_answered_before_keybound_is_asked_and_may_read_why_they_are_refused() {
    check("browsers", None);
}

#[test]
fn every_envoy_and_every_gateway_refuses_names_with_underscores() {
    check("names", None);
}

#[test]
fn where_the_module_is_in_envoy_it_stays_and_is_asked_first() {
    check("modules", None);
}
