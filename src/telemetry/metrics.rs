//! All metrics by name, in Prometheus format.

use super::certificates::Certificates;
use super::connections::Connections;
use super::installed::Installed;
use super::process;
use super::register::Register;
use keybound_core::Denial;
use prometheus::core::Collector;
use prometheus::proto::{Metric, MetricFamily};
use prometheus::{Histogram, HistogramVec, IntCounter, IntCounterVec, Registry, TextEncoder};
use std::collections::HashMap;

/// The front end of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Front {
    /// Envoy's gRPC service.
    ExtAuthz,
    /// Forward-auth subrequests over HTTP.
    ForwardAuth,
    /// Inside Envoy, as a dynamic module.
    Envoy,
}

impl Front {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::ExtAuthz, Self::ForwardAuth, Self::Envoy];

    /// The label in metrics and logs.
    pub const fn label(self) -> &'static str {
        match self {
            Self::ExtAuthz => "ext_authz",
            Self::ForwardAuth => "forward_auth",
            Self::Envoy => "envoy",
        }
    }

    /// Whether the client can get a successful response from us. Over forward-auth, success means that
    /// the request is allowed.
    pub const fn sends_responses(self) -> bool {
        !matches!(self, Self::ForwardAuth)
    }
}

/// All metrics of the process, in a registry of their own.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    pub(super) checks: IntCounterVec,
    pub(super) durations: HistogramVec,
    pub(super) would_deny: IntCounterVec,
    pub(super) details: IntCounterVec,
    pub(super) tokens: IntCounterVec,
    pub(super) revocations: IntCounterVec,
    config_reloads: IntCounterVec,
    spans: IntCounterVec,
    connections: Connections,
    certificates: Certificates,
}

/// The number of decisions of a policy for one reason.
#[derive(Clone, Debug, PartialEq)]
pub struct Decisions {
    /// The policy; empty if none applied.
    pub policy: String,
    /// The reason; `allowed` is one, and `public`.
    pub reason: String,
    /// Counts requests that a policy in report mode would have denied. They are also counted as
    /// allowed.
    pub let_through: bool,
    /// Their number.
    pub total: f64,
}

impl Decisions {
    fn of(series: &Metric, let_through: bool) -> Self {
        let label = |name| series.get_label().iter().find(|it| it.name() == name);
        let text = |name| label(name).map_or("", |it| it.value()).to_owned();
        let total = series.get_counter().get_value();
        Self { policy: text("policy"), reason: text("reason"), let_through, total }
    }
}

/// The outcome of a reload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reload {
    /// The new configuration is in force.
    Applied,
    /// The new file is invalid; the previous configuration stays in force.
    Refused,
}

/// The outcome of a span.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpanFate {
    /// It was exported.
    Exported,
    /// The queue was full.
    Dropped,
    /// The export failed.
    Failed,
}

impl Metrics {
    /// Every metric, at zero.
    pub fn new() -> prometheus::Result<Self> {
        let registry = Registry::new();
        let new = Register::new(&registry);
        let metrics = Self {
            checks: new.counters(
                "keybound_checks_total",
                "Checks by outcome; the policy is empty if none applied.",
                &["front", "policy", "decision", "reason"],
            )?,
            durations: new.histograms(
                "keybound_check_duration_seconds",
                "Time from the request's arrival to the response.",
                &["front"],
            )?,
            would_deny: new.counters(
                "keybound_would_deny_total",
                "Requests that a policy in report mode allowed but would have denied.",
                &["policy", "reason"],
            )?,
            details: new.counters(
                "keybound_denial_details_total",
                "Denials, including those of report mode, by reason and detail.",
                &["reason", "detail"],
            )?,
            tokens: new.counters(
                "keybound_tokens_total",
                "Verified tokens seen, by what they are bound to.",
                &["issuer", "bound"],
            )?,
            revocations: new.counters(
                "keybound_revocations_total",
                "Denials of revoked tokens, including those of report mode, by what revoked them.",
                &["issuer", "source"],
            )?,
            config_reloads: new.counters(
                "keybound_config_reloads_total",
                "Attempts to reload the configuration.",
                &["outcome"],
            )?,
            spans: new.counters(
                "keybound_spans_total",
                "Spans of sampled checks, by outcome.",
                &["outcome"],
            )?,
            connections: Connections::new(&new)?,
            certificates: Certificates::new(&new)?,
            registry: registry.clone(),
        };
        tell_faults(&new)?;
        tell_build(&new)?;
        for fate in [SpanFate::Exported, SpanFate::Dropped, SpanFate::Failed] {
            metrics.spans(fate);
        }
        for outcome in [Reload::Applied, Reload::Refused] {
            metrics.config_reloads.with_label_values(&[outcome.label()]);
        }
        for front in Front::ALL {
            metrics.duration(front);
        }
        Ok(metrics)
    }

    /// The durations of checks that came in by `front`.
    pub(super) fn duration(&self, front: Front) -> Histogram {
        self.durations.with_label_values(&[front.label()])
    }

    /// All decisions so far, and those that policies in report mode would have made.
    pub fn decisions(&self) -> Vec<Decisions> {
        let of = |counters: &IntCounterVec, let_through| {
            let families = counters.collect();
            let series = families.iter().flat_map(MetricFamily::get_metric);
            series.map(|it| Decisions::of(it, let_through)).collect::<Vec<_>>()
        };
        [of(&self.checks, false), of(&self.would_deny, true)].concat()
    }

    /// Removes the series of policies that are no longer configured.
    pub fn retain_policies(&self, configured: impl Fn(&str) -> bool) {
        // The empty name stands for requests to which no policy applies.
        let keep = |name: &str| name.is_empty() || configured(name);
        retain(&self.checks, "policy", &keep);
        retain(&self.would_deny, "policy", &keep);
    }

    /// Removes the series of issuers that are no longer configured.
    pub fn retain_issuers(&self, configured: impl Fn(&str) -> bool) {
        retain(&self.tokens, "issuer", &configured);
        retain(&self.revocations, "issuer", &configured);
    }

    /// Counts an attempt to reload the configuration.
    pub fn reloaded(&self, outcome: Reload) {
        self.config_reloads.with_label_values(&[outcome.label()]).inc();
    }

    /// The counter of spans with this outcome.
    pub fn spans(&self, fate: SpanFate) -> IntCounter {
        self.spans.with_label_values(&[fate.label()])
    }

    /// The metrics of connections.
    pub const fn connections(&self) -> &Connections {
        &self.connections
    }

    /// The metrics of the certificates in `listen.tls`.
    pub const fn certificates(&self) -> &Certificates {
        &self.certificates
    }

    /// All metrics in the text format, including those of the installation in force.
    pub fn exposition(&self, installed: &Installed) -> prometheus::Result<String> {
        let mut families = self.registry.gather();
        let more = installed.families()?;
        families.extend(more.into_iter().filter(|it| !it.get_metric().is_empty()));
        families.extend(process::families()?);
        families.sort_by(|a, b| a.name().cmp(b.name()));
        TextEncoder::new().encode_to_string(&families)
    }
}

impl Reload {
    /// The label in metrics and `/status`.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Applied => "applied",
            Self::Refused => "refused",
        }
    }
}

impl SpanFate {
    const fn label(self) -> &'static str {
        match self {
            Self::Exported => "exported",
            Self::Dropped => "dropped",
            Self::Failed => "failed",
        }
    }
}

/// A metric to join with counters by reason.
fn tell_faults(new: &Register<'_>) -> prometheus::Result<()> {
    let help = "Whose fault each reason for a denial is.";
    let reasons = new.gauges("keybound_reason_info", help, &["reason", "fault"])?;
    for denial in Denial::ALL {
        reasons.with_label_values(&[denial.label(), denial.fault().label()]).set(1);
    }
    Ok(())
}

/// The build, which deployments of several replicas may differ in.
fn tell_build(new: &Register<'_>) -> prometheus::Result<()> {
    let build = new.gauges("keybound_build_info", "The build.", &["version", "revision"])?;
    build.with_label_values(&[VERSION, REVISION]).set(1);
    Ok(())
}

/// The version. `+fips` at its end says that all cryptography is that of a FIPS module.
pub const VERSION: &str = if cfg!(feature = "fips") {
    concat!(env!("CARGO_PKG_VERSION"), "+fips")
} else {
    env!("CARGO_PKG_VERSION")
};

/// The commit that was built, where the build was told.
pub const REVISION: &str = match option_env!("KEYBOUND_REVISION") {
    Some(revision) => revision,
    None => "unknown",
};

/// Removes the series whose `label` value `keep` rejects.
fn retain(counters: &IntCounterVec, label: &str, keep: &dyn Fn(&str) -> bool) {
    for family in counters.collect() {
        for series in family.get_metric() {
            let labels = series.get_label().iter().map(|it| (it.name(), it.value()));
            let labels: HashMap<&str, &str> = labels.collect();
            if labels.get(label).is_some_and(|it| !keep(it)) {
                // An error means that it was removed meanwhile.
                drop(counters.remove(&labels));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::certificates::Certificate;
    use crate::telemetry::connections::{Cause, NotTaken};
    use crate::telemetry::installed::{
        CacheFigures, DenylistFigures, EventFigures, IssuerFigures, StatusListFigures,
    };
    use keybound_core::UnixTime;
    use keybound_core::client_certificate::Validity;

    #[test]
    fn the_version_says_whether_the_cryptography_is_that_of_a_fips_module() {
        assert_eq!(VERSION.strip_suffix("+fips").is_some(), cfg!(feature = "fips"));
        assert!(VERSION.starts_with(env!("CARGO_PKG_VERSION")));
    }

    #[test]
    fn what_is_in_force_stands_there_and_nothing_that_was() {
        let metrics = Metrics::new().unwrap();
        let installed = |name: &str, hits| Installed {
            issuers: vec![IssuerFigures { name: name.to_owned(), keys: 2, ..Default::default() }],
            token_cache: CacheFigures { hits, misses: 2, entries: 1 },
            ..Installed::default()
        };
        let before = metrics.exposition(&installed("https://old", 3)).unwrap();
        assert!(before.contains("keybound_jwks_keys{issuer=\"https://old\"} 2\n"), "{before}");
        let text = metrics.exposition(&installed("https://new", 4)).unwrap();
        assert!(!text.contains("https://old"), "{text}");
        assert!(text.contains("keybound_token_cache_hits_total 4\n"), "{text}");
        assert!(text.contains("keybound_token_cache_entries 1\n"), "{text}");
        assert!(!text.contains("keybound_jwks_age_seconds"), "it has never been heard: {text}");
    }

    fn certificate(position: usize, until: i64) -> Certificate {
        let (from, until) = (UnixTime::from_secs(1), UnixTime::from_secs(until));
        Certificate { file: "certificate_file", position, validity: Validity { from, until } }
    }

    #[test]
    fn certificates_are_told_by_file_and_place_and_no_longer_when_there_are_others() {
        let metrics = Metrics::new().unwrap();
        let told = || {
            let text = metrics.exposition(&Installed::default()).unwrap();
            let found = text.lines().filter(|it| it.starts_with("keybound_tls_"));
            found
                .map(|it| it.split_once("certificate_not_").unwrap().1.to_owned())
                .collect::<Vec<_>>()
        };
        assert_eq!(told(), Vec::<String>::new());
        metrics.certificates().set(&[certificate(1, 7), certificate(2, 9)]);
        metrics.certificates().set(&[certificate(1, 8)]);
        let labels = "timestamp_seconds{file=\"certificate_file\",position=\"1\"}";
        assert_eq!(told(), [format!("after_{labels} 8"), format!("before_{labels} 1")]);
    }

    #[test]
    fn what_is_no_longer_configured_has_no_series() {
        let metrics = Metrics::new().unwrap();
        for name in ["", "old", "new"] {
            metrics.checks.with_label_values(&["ext_authz", name, "deny", "internal"]).inc();
            metrics.would_deny.with_label_values(&[name, "internal"]).inc();
            metrics.tokens.with_label_values(&[name, "both"]).inc();
        }
        metrics.retain_policies(|it| it == "new");
        metrics.retain_issuers(|it| it == "new");
        let text = metrics.exposition(&Installed::default()).unwrap();
        assert!(!text.contains("\"old\""), "{text}");
        assert_eq!(text.matches("\"new\"").count(), 3, "{text}");
        assert_eq!(text.matches("policy=\"\"").count(), 2, "{text}");
    }

    #[test]
    fn the_names_and_types_are_those_that_dashboards_know() {
        let metrics = Metrics::new().unwrap();
        for (vector, labels) in [
            (&metrics.checks, 4),
            (&metrics.would_deny, 2),
            (&metrics.tokens, 2),
            (&metrics.details, 2),
            (&metrics.revocations, 2),
        ] {
            vector.with_label_values(&vec!["x"; labels]);
        }
        metrics.connections().set_open("x", 1);
        metrics.connections().failures("x", Cause::Other);
        metrics.connections().not_taken("x", NotTaken::Other);
        metrics.certificates().set(&[certificate(1, 2)]);
        let issuer = IssuerFigures {
            name: "x".to_owned(),
            keys: 1,
            age_seconds: Some(1),
            refreshes: [("changed", 1)].into(),
            introspections: [("active", 1)].into(),
            shedding: [("busy", 1)].into(),
            denylist: Some(DenylistFigures { modified: Some(1), ..DenylistFigures::default() }),
            status_lists: Some(StatusListFigures {
                age_seconds: Some(1),
                fetches: [("changed", 1)].into(),
                ..StatusListFigures::default()
            }),
            events: Some(EventFigures {
                lag_seconds: Some(1),
                last_event: Some(1),
                received: [("revoking", 1)].into(),
                refused: [("audience", 1)].into(),
                ..EventFigures::default()
            }),
        };
        let installed = Installed {
            issuers: vec![issuer],
            replay_unavailable: [("x", 1)].into(),
            ..Installed::default()
        };
        let text = metrics.exposition(&installed).unwrap();
        let types: Vec<_> = text.lines().filter_map(|it| it.strip_prefix("# TYPE ")).collect();
        assert_eq!(
            types,
            [
                "keybound_build_info gauge",
                "keybound_check_duration_seconds histogram",
                "keybound_checks_total counter",
                "keybound_config_info gauge",
                "keybound_config_reloads_total counter",
                "keybound_connections gauge",
                "keybound_connections_not_accepted_total counter",
                "keybound_denial_details_total counter",
                "keybound_denylist_behind gauge",
                "keybound_denylist_entries gauge",
                "keybound_denylist_loads_total counter",
                "keybound_denylist_modified_timestamp_seconds gauge",
                "keybound_events_entries gauge",
                "keybound_events_full gauge",
                "keybound_events_lag_seconds gauge",
                "keybound_events_last_timestamp_seconds gauge",
                "keybound_events_received_total counter",
                "keybound_events_refused_total counter",
                "keybound_events_unheard gauge",
                "keybound_events_unreadable gauge",
                "keybound_handshake_failures_total counter",
                "keybound_introspection_shedding gauge",
                "keybound_introspections_total counter",
                "keybound_jwks_age_seconds gauge",
                "keybound_jwks_keys gauge",
                "keybound_jwks_refreshes_total counter",
                "keybound_reason_info gauge",
                "keybound_replay_entries gauge",
                "keybound_replay_recorded_total counter",
                "keybound_replay_repeats_total counter",
                "keybound_replay_unavailable_total counter",
                "keybound_revocations_total counter",
                "keybound_spans_total counter",
                "keybound_status_list_age_seconds gauge",
                "keybound_status_list_fetches_total counter",
                "keybound_status_lists gauge",
                "keybound_status_lists_unusable gauge",
                "keybound_tls_certificate_not_after_timestamp_seconds gauge",
                "keybound_tls_certificate_not_before_timestamp_seconds gauge",
                "keybound_token_cache_entries gauge",
                "keybound_token_cache_hits_total counter",
                "keybound_token_cache_misses_total counter",
                "keybound_tokens_total counter",
                "keybound_would_deny_total counter",
                "process_cpu_seconds_total counter",
                "process_max_fds gauge",
                "process_open_fds gauge",
                "process_resident_memory_bytes gauge",
                "process_start_time_seconds gauge",
                "process_threads gauge",
                "process_virtual_memory_bytes gauge",
            ]
        );
    }

    #[test]
    fn each_reason_stands_there_with_whose_fault_it_is() {
        let text = Metrics::new().unwrap().exposition(&Installed::default()).unwrap();
        for denial in Denial::ALL {
            let (reason, fault) = (denial.label(), denial.fault().label());
            let line = format!("keybound_reason_info{{fault=\"{fault}\",reason=\"{reason}\"}} 1\n");
            assert!(text.contains(&line), "{line}\n{text}");
        }
    }

    #[test]
    fn keys_are_told_by_issuer() {
        let metrics = Metrics::new().unwrap();
        let installed = Installed {
            issuers: vec![IssuerFigures {
                name: "https://as.example.com".to_owned(),
                keys: 2,
                age_seconds: Some(7),
                refreshes: [("success", 4)].into(),
                ..IssuerFigures::default()
            }],
            ..Installed::default()
        };
        metrics.reloaded(Reload::Refused);
        let text = metrics.exposition(&installed).unwrap();
        for line in [
            "keybound_jwks_keys{issuer=\"https://as.example.com\"} 2\n",
            "keybound_jwks_age_seconds{issuer=\"https://as.example.com\"} 7\n",
            "keybound_jwks_refreshes_total{issuer=\"https://as.example.com\",outcome=\"success\"} 4\n",
            "keybound_config_reloads_total{outcome=\"applied\"} 0\n",
            "keybound_config_reloads_total{outcome=\"refused\"} 1\n",
        ] {
            assert!(text.contains(line), "{line}\n{text}");
        }
    }
}
