//! The dashboard and the alerts name what there is.

use crate::support::configured::configured;
use keybound::state::revocation::events::{Outcome, Refusal};
use keybound::telemetry::certificates::Certificate;
use keybound::telemetry::connections::{Cause, NotTaken};
use keybound::telemetry::installed::{
    DenylistFigures, EventFigures, Installed, IssuerFigures, StatusListFigures,
};
use keybound::telemetry::meters::Meters;
use keybound::telemetry::metrics::{Front, Metrics, Reload};
use keybound_core::client_certificate::Validity;
use keybound_core::oauth::NonceKeys;
use keybound_core::words::Words;
use keybound_core::{Denial, Detail, Facts, Fault, Request, Rules, Target, UnixTime, Verdict};
use saphyr_parser::{Event, Parser};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

const DASHBOARD: &str = include_str!("../../deploy/observability/dashboard.json");
const ALERTS: &str = include_str!("../../deploy/observability/alerts.yaml");
const README: &str = include_str!("../../deploy/observability/README.md");
const RUNBOOKS: &str = include_str!("../../docs/alerts.md");

/// What Envoy 1.40 counts about its own side of the checks.
const OF_ENVOY: &[&str] = &[
    "envoy_http_ext_authz_ok",
    "envoy_http_ext_authz_denied",
    "envoy_http_ext_authz_error",
    "envoy_http_ext_authz_failure_mode_allowed",
    "envoy_http_ext_authz_invalid",
];

/// Labels that Prometheus adds, and that of Envoy's metrics.
const ADDED: &[&str] = &["namespace", "job", "instance", "le", "envoy_http_conn_manager_prefix"];

/// The labels of a metric and the values that they take here.
type Labels = BTreeMap<String, BTreeSet<String>>;

/// Every metric that the code has, by the name of its series.
fn known() -> BTreeMap<String, Labels> {
    series(&exposition())
}

/// The series of `exposition`.
fn series(exposition: &str) -> BTreeMap<String, Labels> {
    let mut known: BTreeMap<String, Labels> = BTreeMap::new();
    for line in exposition.lines().filter(|it| !it.starts_with('#')) {
        let (name, rest) = line.split_once(['{', ' ']).unwrap();
        let labels = known.entry(name.to_owned()).or_default();
        for (label, value) in matchers(rest) {
            labels.entry(label).or_default().insert(value);
        }
    }
    known
}

/// `/metrics` of a service to which everything has happened.
fn exposition() -> String {
    let text = "issuers: [{issuer: https://as.example.com, audiences: [a], revocation: {status_list: required}}]\n\
                policies:\n\
                - {name: payments, sender_constraint: certificate, origin: 'https://a.example', resource: {}}\n\
                - {name: trial, sender_constraint: certificate, mode: report}\n";
    let policies = configured(text, tempfile::tempdir().unwrap().path()).unwrap().rules.policies;
    let rules = Rules::new(policies, Arc::new(NonceKeys::from_octets(&[0; 32])));
    let (authority, path) = ("a.example", "/.well-known/oauth-protected-resource");
    let target = Target { method: "GET", scheme: "https", authority, path };
    let request = Request { target, ..Request::default() };
    let served = Verdict::serving(rules.metadata_asked_for(&request).unwrap());
    let rules = rules.policies;
    let metrics = Metrics::new().unwrap();
    let meters = Meters::new(&metrics, &rules);
    for policy in &rules.policies {
        for outcome in Denial::ALL.iter().map(|it| Err(*it)).chain([Ok(())]) {
            let facts = Facts { policy: Some(policy.clone()), ..Facts::default() };
            let verdict = Verdict::new(outcome, facts, &rules);
            meters.record(Front::ExtAuthz, &verdict, Duration::ZERO);
        }
    }
    meters.record(Front::ExtAuthz, &served, Duration::ZERO);
    for detail in Detail::ALL {
        let facts = Facts { detail: Some(*detail), ..Facts::default() };
        let verdict = Verdict::new(Err(detail.denial()), facts, &rules);
        meters.record(Front::ExtAuthz, &verdict, Duration::ZERO);
    }
    let refreshes = ["changed", "unchanged", "not_modified"].map(|outcome| {
        let source = include_str!("../../src/state/refreshes.rs");
        assert!(source.contains(&format!("=> {outcome:?},")), "{outcome}");
        (outcome, 1)
    });
    let shedding = ["breaker_open", "busy", "rate_limited"].map(|cause| {
        let source = include_str!("../../src/state/introspection/rank.rs");
        assert!(source.contains(&format!("=> {cause:?},")), "{cause}");
        (cause, 1)
    });
    let issuer = IssuerFigures {
        name: "https://as.example.com".to_owned(),
        keys: 1,
        age_seconds: Some(1),
        refreshes: refreshes.into(),
        introspections: [("active", 1)].into(),
        shedding: shedding.into(),
        denylist: Some(DenylistFigures { modified: Some(1), ..DenylistFigures::default() }),
        status_lists: Some(StatusListFigures {
            age_seconds: Some(1),
            fetches: [("changed", 1)].into(),
            ..StatusListFigures::default()
        }),
        events: Some(EventFigures {
            lag_seconds: Some(1),
            last_event: Some(1),
            received: Outcome::NAMES.iter().map(|it| (*it, 1)).collect(),
            refused: Refusal::NAMES.iter().map(|it| (*it, 1)).collect(),
            ..EventFigures::default()
        }),
    };
    let installed = Installed {
        issuers: vec![issuer],
        replay_unavailable: [("store_late", 1)].into(),
        ..Installed::default()
    };
    metrics.reloaded(Reload::Refused);
    metrics.connections().set_open("ext_authz", 1);
    for cause in Cause::ALL {
        metrics.connections().failures("ext_authz", cause);
    }
    for cause in NotTaken::ALL {
        metrics.connections().not_taken("ext_authz", cause);
    }
    let (from, until) = (UnixTime::from_secs(0), UnixTime::from_secs(1));
    let validity = Validity { from, until };
    let of = |file| Certificate { file, position: 1, validity };
    metrics.certificates().set(&["certificate_file", "client_ca_file"].map(of));
    metrics.exposition(&installed).unwrap()
}

/// What is wrong with an expression, by what the code has.
fn wrong(expression: &str, known: &BTreeMap<String, Labels>) -> Vec<String> {
    let mut found = Vec::new();
    let mut labels: Vec<&Labels> = Vec::new();
    // A name with colons is that of a recording rule.
    let words = expression.split(|it: char| !(it.is_alphanumeric() || "_:".contains(it)));
    let recorded = yaml_values(ALERTS, "record");
    for name in words.clone().filter(|it| it.contains(":keybound_")) {
        if !recorded.iter().any(|it| it == name) {
            found.push(format!("{name} is not recorded"));
        }
    }
    for name in words.clone().filter(|it| it.starts_with("keybound_")) {
        match known.get(name) {
            Some(it) => labels.push(it),
            None => found.push(format!("{name} is no metric")),
        }
    }
    for name in words.filter(|it| it.starts_with("envoy_http_ext")) {
        if !OF_ENVOY.contains(&name) {
            found.push(format!("{name} is no metric of Envoy"));
        }
    }
    // Of several metrics, one may have a label that the others lack.
    let has = |label: &str| {
        let one_has = labels.is_empty() || labels.iter().any(|it| it.contains_key(label));
        ADDED.contains(&label) || one_has
    };
    for (label, values) in matchers(expression) {
        if !has(&label) {
            found.push(format!("{label} is no label"));
        }
        // The values of these are names in a configuration.
        let free = ADDED.contains(&&*label) || ["policy", "issuer"].contains(&&*label);
        for value in values.split('|').filter(|_| !free) {
            if !labels.iter().any(|it| it.get(&label).is_some_and(|it| it.contains(value))) {
                found.push(format!("{label} is never {value}"));
            }
        }
    }
    for opening in ["by (", "ignoring (", "on (", "group_left ("] {
        for listed in expression.split(opening).skip(1) {
            let listed = listed.split(')').next().unwrap();
            let unknown = listed.split(", ").filter(|it| !has(it));
            found.extend(unknown.map(|it| format!("{it} is no label to sum by")));
        }
    }
    found
}

/// Labels and the values that they are compared with.
fn matchers(text: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut parts = text.split('"');
    while let (Some(before), Some(value)) = (parts.next(), parts.next()) {
        let label = before.trim_end_matches(['=', '~', '!']);
        let label = label.rsplit(|it: char| !(it.is_alphanumeric() || it == '_')).next().unwrap();
        found.push((label.to_owned(), value.to_owned()));
    }
    found
}

/// Every value of `key` in a document.
fn values<'a>(document: &'a Value, key: &str, found: &mut Vec<&'a str>) {
    if let Some(members) = document.as_object() {
        found.extend(members.get(key).and_then(Value::as_str));
        members.values().for_each(|it| values(it, key, found));
    }
    document.as_array().into_iter().flatten().for_each(|it| values(it, key, found));
}

/// Every scalar behind the scalar `key` in a YAML document.
fn yaml_values(text: &str, key: &str) -> Vec<String> {
    let events = Parser::new_from_str(text).map(|it| it.unwrap().0);
    let scalars: Vec<_> = events
        .map(|it| if let Event::Scalar(text, ..) = it { text.into_owned() } else { String::new() })
        .collect();
    let pairs = scalars.iter().zip(scalars.iter().skip(1));
    pairs.filter(|(it, _)| *it == key).map(|(_, value)| value.clone()).collect()
}

#[test]
fn the_dashboard_shows_what_there_is() {
    let dashboard: Value = serde_json::from_str(DASHBOARD).unwrap();
    let (mut expressions, mut legends) = (vec![], vec![]);
    values(&dashboard, "expr", &mut expressions);
    values(&dashboard, "legendFormat", &mut legends);
    assert!(20 < expressions.len() && expressions.len() == legends.len());
    let known = known();
    for (expression, legend) in expressions.iter().zip(legends) {
        assert_eq!(wrong(expression, &known), Vec::<String>::new(), "{expression}");
        // What a legend names must have survived the sum.
        for label in legend.split("{{").skip(1).map(|it| it.split("}}").next().unwrap()) {
            let summed = expression.split("by (").nth(1).unwrap().split(')').next().unwrap();
            assert!(summed.split(", ").any(|it| it == label), "{label}: {expression}");
        }
    }
    let shown = expressions.concat();
    // Those of a process are on the dashboards that everybody has for all programs.
    let ours = known.keys().filter(|it| !it.starts_with("process_"));
    let missing = ours.filter(|it| !it.ends_with("_sum") && !shown.contains(&***it));
    assert_eq!(missing.collect::<Vec<_>>(), Vec::<&String>::new(), "are not shown");
}

#[test]
fn every_panel_has_a_place_of_its_own() {
    let dashboard: Value = serde_json::from_str(DASHBOARD).unwrap();
    let places: Vec<_> = dashboard
        .get("panels")
        .and_then(Value::as_array)
        .unwrap()
        .iter()
        .map(|it| (it.get("gridPos").unwrap().to_string(), it.get("id").unwrap().to_string()))
        .collect();
    let distinct: BTreeSet<_> = places.iter().map(|it| &it.0).collect();
    let ids: BTreeSet<_> = places.iter().map(|it| &it.1).collect();
    assert_eq!((distinct.len(), ids.len()), (places.len(), places.len()));
}

#[test]
fn the_alerts_ask_about_what_there_is() {
    let known = known();
    let expressions = yaml_values(ALERTS, "expr");
    let rules = [yaml_values(ALERTS, "alert"), yaml_values(ALERTS, "record")].concat();
    assert!(10 < rules.len() && rules.len() == expressions.len());
    for expression in expressions {
        assert_eq!(wrong(&expression, &known), Vec::<String>::new(), "{expression}");
    }
}

#[test]
fn each_alert_leads_to_what_it_means_and_whom_it_concerns_and_what_to_do() {
    let alerts = yaml_values(ALERTS, "alert");
    let places: Vec<_> =
        alerts.iter().map(|it| format!("docs/alerts.md#{}", it.to_lowercase())).collect();
    assert_eq!(yaml_values(ALERTS, "runbook_url"), places);
    let sections: BTreeMap<_, _> =
        RUNBOOKS.split("\n## ").skip(1).map(|it| it.split_once('\n').unwrap()).collect();
    let explained: BTreeSet<_> = sections.keys().copied().collect();
    assert_eq!(explained, alerts.iter().map(|it| &**it).collect());
    for (alert, section) in sections {
        let parts: Vec<_> =
            section.trim().split("\n\n**").map(|it| it.split_once(".** ")).collect();
        let titles: Vec<_> = parts.iter().map(|it| it.unwrap().0.trim_matches('*')).collect();
        assert_eq!(titles, ["Means", "Who", "Do"], "{alert}");
        let listed = RUNBOOKS.contains(&format!("](#{})", alert.to_lowercase()));
        assert!(listed, "{alert} is not in the list at the top");
    }
}

#[test]
fn each_reason_that_is_taken_for_a_configuration_has_a_cause_in_the_runbook() {
    let expression =
        yaml_values(ALERTS, "expr").into_iter().find(|it| it.contains("policy_unknown"));
    for (_, reasons) in matchers(&expression.unwrap()) {
        for reason in reasons.split('|') {
            assert!(RUNBOOKS.contains(&format!("\n| `{reason}` | ")), "{reason}");
        }
    }
}

#[test]
fn the_page_on_metrics_has_each_with_its_labels() {
    let page = include_str!("../../docs/metrics.md");
    let ticked = |cell: &str| -> BTreeSet<String> {
        cell.split('`').skip(1).step_by(2).map(str::to_owned).collect()
    };
    let mut described = BTreeMap::new();
    for row in page.lines().filter(|it| it.starts_with("| `keybound_")) {
        let cells: Vec<_> = row.split('|').collect();
        let labels = ticked(cells[2]);
        described.extend(ticked(cells[1]).into_iter().map(|it| (it, labels.clone())));
    }
    let mut expected = BTreeMap::new();
    for (series, labels) in known().into_iter().filter(|(it, _)| it.starts_with("keybound_")) {
        let histogram = ["_bucket", "_sum", "_count"];
        let name = histogram.iter().find_map(|it| series.strip_suffix(it)).unwrap_or(&series);
        let labels = labels.into_keys().filter(|it| it != "le").collect::<BTreeSet<_>>();
        expected.insert(name.to_owned(), labels);
    }
    assert_eq!(described, expected);
}

#[test]
fn whatever_is_not_the_clients_fault_raises_an_alert() {
    let expressions = yaml_values(ALERTS, "expr").concat();
    let reasons: BTreeSet<_> = matchers(&expressions)
        .into_iter()
        .filter(|(label, _)| label == "reason")
        .flat_map(|(_, values)| values.split('|').map(str::to_owned).collect::<Vec<_>>())
        .collect();
    for denial in Denial::ALL.iter().filter(|it| it.fault() != Fault::Client) {
        assert!(reasons.contains(denial.label()), "{denial}");
    }
}

#[test]
fn the_dashboard_leaves_it_to_the_metric_whose_fault_a_reason_is() {
    // Whole words: a metric may have the name of a reason in its own.
    let words = DASHBOARD.split(|it: char| !(it.is_alphanumeric() || it == '_'));
    let words: BTreeSet<_> = words.collect();
    for denial in Denial::ALL.iter().filter(|it| it.fault() != Fault::Client) {
        assert!(!words.contains(denial.label()), "{denial}");
    }
}

#[test]
fn an_alert_about_what_there_is_not_is_found() {
    let known = known();
    for (expression, expected) in [
        ("rate(keybound_checks_total[5m])", 0),
        ("rate(keybound_check_total[5m])", 1),
        ("keybound_checks_total{reason=\"token_expired\"}", 0),
        ("keybound_checks_total{reason=\"token_stale\"}", 1),
        ("keybound_checks_total{reason=~\"allowed|token_stale\"}", 1),
        ("keybound_checks_total{issuer=\"x\"}", 1),
        ("sum by (policy, issuer) (keybound_checks_total)", 1),
        ("keybound_checks_total * on (reason) group_left (fault) keybound_reason_info", 0),
        ("keybound_checks_total * on (reason) group_left (guilt) keybound_reason_info", 1),
        ("keybound_checks_total * on (cause) keybound_reason_info{fault=\"client\"}", 1),
        ("keybound_reason_info{fault=\"nobody\"}", 1),
        ("keybound_config_reloads_total{outcome=\"refused\"}", 0),
        ("keybound_config_reloads_total{outcome=\"failed\"}", 1),
        ("keybound_tokens_total{bound=\"nothing\"}", 1),
        ("envoy_http_ext_authz_errors", 1),
        ("policy:keybound_checks:rate5m", 0),
        ("policy:keybound_checks:rate1m", 1),
    ] {
        assert_eq!(wrong(expression, &known).len(), expected, "{expression}");
    }
}

#[test]
fn the_configuration_that_it_shows_is_valid() {
    let block = README.split("```yaml\n").nth(1).unwrap().split("```").next().unwrap();
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("otel-headers"), "x-key: 1\n").unwrap();
    let text = "issuers: [{issuer: https://as.example.com, audiences: [a]}]\n\
                policies: [{name: payments, sender_constraint: certificate}]\n";
    configured(&(text.to_owned() + block), folder.path()).unwrap();
}
