//! Every metric by name (Prometheus).

use super::connections::Connections;
use keybound_core::Denial;
use prometheus::core::Collector;
use prometheus::proto::{Metric, MetricFamily};
use prometheus::{
    Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts,
    Registry, TextEncoder,
};
use std::collections::HashMap;

/// How requests come in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Front {
    /// Envoy's gRPC service.
    ExtAuthz,
    /// HTTP sub-requests.
    ForwardAuth,
}

impl Front {
    /// All of them.
    pub const ALL: [Self; 2] = [Self::ExtAuthz, Self::ForwardAuth];

    /// The label in metrics and logs.
    pub const fn label(self) -> &'static str {
        match self {
            Self::ExtAuthz => "ext_authz",
            Self::ForwardAuth => "forward_auth",
        }
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
    jwks_keys: IntGaugeVec,
    jwks_age: IntGaugeVec,
    jwks_refreshes: IntCounterVec,
    introspections: IntCounterVec,
    shedding: IntGaugeVec,
    token_cache: CacheMetrics,
    replay: ReplayMetrics,
    config_reloads: IntCounterVec,
    spans: IntCounterVec,
    connections: Connections,
}

#[derive(Debug)]
struct CacheMetrics {
    hits: IntCounter,
    misses: IntCounter,
    entries: IntGauge,
}

#[derive(Debug)]
struct ReplayMetrics {
    recorded: IntCounter,
    repeats: IntCounter,
    entries: IntGauge,
    unavailable: IntCounterVec,
}

/// What a cache has seen since the start, and what it holds now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct CacheFigures {
    /// Look-ups that found something.
    pub hits: u64,
    /// Look-ups that found nothing.
    pub misses: u64,
    /// What it holds.
    pub entries: u64,
}

/// What a replay store has seen since the start, and what it holds now.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct ReplayFigures {
    /// Proofs that were used for the first time.
    pub recorded: u64,
    /// Proofs that were used again.
    pub repeats: u64,
    /// What it holds.
    pub entries: u64,
}

/// How often a policy decided for a reason since the start, by one of the fronts.
#[derive(Clone, Debug, PartialEq)]
pub struct Decisions {
    /// The policy; empty when none could be chosen.
    pub policy: String,
    /// The reason; `allowed` is one.
    pub reason: String,
    /// The policy only reports that it would deny for this reason. The same requests are among
    /// those that it allowed.
    pub let_through: bool,
    /// How often.
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

/// How an attempt to reload the configuration ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reload {
    /// The new file decides from here on.
    Applied,
    /// The new file is bad; the old one goes on deciding.
    Refused,
}

/// What becomes of the span of a check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SpanFate {
    /// The collector has it.
    Exported,
    /// There was no room for it.
    Dropped,
    /// The collector could not be reached or did not take it.
    Failed,
}

/// A check is a matter of microseconds, unless something must be fetched: 25 µs to 1 s.
const DURATION_BUCKETS: [f64; 15] = [
    0.000_025, 0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1,
    0.25, 0.5, 1.0,
];

impl Metrics {
    /// Every metric, at zero.
    pub fn new() -> prometheus::Result<Self> {
        let registry = Registry::new();
        let new = Register(&registry);
        let metrics = Self {
            checks: new.counters(
                "keybound_checks_total",
                "Checks by their outcome; an empty policy is one that could not be chosen.",
                &["front", "policy", "decision", "reason"],
            )?,
            durations: new.histograms(
                "keybound_check_duration_seconds",
                "Time from the request's arrival to its answer.",
                &["front"],
            )?,
            would_deny: new.counters(
                "keybound_would_deny_total",
                "Requests that a policy in report mode let through and would have denied.",
                &["policy", "reason"],
            )?,
            details: new.counters(
                "keybound_denial_details_total",
                "What lay behind refusals, or would-be refusals, where more is known than the reason.",
                &["reason", "detail"],
            )?,
            tokens: new.counters(
                "keybound_tokens_total",
                "Verified tokens seen, by what they are bound to.",
                &["issuer", "bound"],
            )?,
            jwks_keys: new.gauges(
                "keybound_jwks_keys",
                "Usable keys of an issuer.",
                &["issuer"],
            )?,
            jwks_age: new.gauges(
                "keybound_jwks_age_seconds",
                "Time since the keys of an issuer were last fetched or confirmed.",
                &["issuer"],
            )?,
            jwks_refreshes: new.counters(
                "keybound_jwks_refreshes_total",
                "Attempts to fetch the keys of an issuer.",
                &["issuer", "outcome"],
            )?,
            introspections: new.counters(
                "keybound_introspections_total",
                "Calls to an issuer by how they ended, and checks that were turned away without one.",
                &["issuer", "outcome"],
            )?,
            shedding: new.gauges(
                "keybound_introspection_shedding",
                "Whose tokens are turned away unasked: 0 nobody's, 1 those that were not active \
                 before, 2 those that were, too.",
                &["issuer", "cause"],
            )?,
            token_cache: CacheMetrics {
                hits: new.counter("keybound_token_cache_hits_total", "Tokens found verified before.")?,
                misses: new.counter("keybound_token_cache_misses_total", "Tokens not seen before.")?,
                entries: new.gauge("keybound_token_cache_entries", "Tokens held.")?,
            },
            replay: ReplayMetrics {
                recorded: new
                    .counter("keybound_replay_recorded_total", "Proofs used for the first time.")?,
                repeats: new.counter("keybound_replay_repeats_total", "Proofs used again.")?,
                entries: new.gauge("keybound_replay_entries", "Proofs held.")?,
                unavailable: new.counters(
                    "keybound_replay_unavailable_total",
                    "Proofs whose use could not be recorded, by the cause.",
                    &["cause"],
                )?,
            },
            config_reloads: new.counters(
                "keybound_config_reloads_total",
                "Attempts to reload the configuration.",
                &["outcome"],
            )?,
            spans: new.counters(
                "keybound_spans_total",
                "Spans of sampled checks, by what became of them.",
                &["outcome"],
            )?,
            connections: Connections::new(&new)?,
            registry: registry.clone(),
        };
        tell_faults(&new)?;
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

    /// Every decision so far, and every one that was not made because the policy only reports.
    pub fn decisions(&self) -> Vec<Decisions> {
        let of = |counters: &IntCounterVec, let_through| {
            let families = counters.collect();
            let series = families.iter().flat_map(MetricFamily::get_metric);
            series.map(|it| Decisions::of(it, let_through)).collect::<Vec<_>>()
        };
        [of(&self.checks, false), of(&self.would_deny, true)].concat()
    }

    /// Forgets what was known of issuers' keys, so that an issuer that is no longer configured
    /// does not stand there with the age that its keys had.
    pub fn forget_keys(&self) {
        self.jwks_keys.reset();
        self.jwks_age.reset();
    }

    /// Sets what is known of an issuer's keys.
    pub fn set_keys(&self, issuer: &str, keys: usize, age_seconds: Option<u64>) {
        self.jwks_keys.with_label_values(&[issuer]).set(gauge(keys));
        if let Some(age) = age_seconds {
            self.jwks_age.with_label_values(&[issuer]).set(gauge(age));
        }
    }

    /// Brings the count of refreshes that ended with `outcome` up to `total`.
    pub fn set_refreshes(&self, issuer: &str, outcome: &str, total: u64) {
        raise(&self.jwks_refreshes.with_label_values(&[issuer, outcome]), total);
    }

    /// Drops the series of policies that are no longer configured.
    pub fn retain_policies(&self, configured: impl Fn(&str) -> bool) {
        // The empty name stands for requests to which no policy applies.
        let keep = |name: &str| name.is_empty() || configured(name);
        retain(&self.checks, "policy", &keep);
        retain(&self.would_deny, "policy", &keep);
    }

    /// Drops the series of issuers that are no longer configured.
    pub fn retain_issuers(&self, configured: impl Fn(&str) -> bool) {
        for counters in [&self.tokens, &self.jwks_refreshes, &self.introspections] {
            retain(counters, "issuer", &configured);
        }
    }

    /// Forgets whose tokens are turned away, so that no issuer that is gone stands there.
    pub fn forget_shedding(&self) {
        self.shedding.reset();
    }

    /// Sets whose tokens are turned away unasked for this cause, at present.
    pub fn set_shedding(&self, issuer: &str, cause: &str, whose: u8) {
        self.shedding.with_label_values(&[issuer, cause]).set(whose.into());
    }

    /// Brings the count of introspections that ended so up to `total`.
    pub fn set_introspections(&self, issuer: &str, outcome: &str, total: u64) {
        raise(&self.introspections.with_label_values(&[issuer, outcome]), total);
    }

    /// Forgets the introspections at an issuer that is no longer asked, or asked anew: what comes
    /// next counts from zero. `outcomes` are those of [`Self::set_introspections`].
    pub fn forget_introspections(
        &self,
        issuer: &str,
        outcomes: impl IntoIterator<Item = &'static str>,
    ) {
        for outcome in outcomes {
            // An error says that there was no such series.
            drop(self.introspections.remove_label_values(&[issuer, outcome]));
        }
    }

    /// Sets what is known of the token cache.
    pub fn set_token_cache(&self, found: CacheFigures) {
        raise(&self.token_cache.hits, found.hits);
        raise(&self.token_cache.misses, found.misses);
        self.token_cache.entries.set(gauge(found.entries));
    }

    /// Sets what is known of the replay store.
    pub fn set_replay(&self, found: ReplayFigures) {
        raise(&self.replay.recorded, found.recorded);
        raise(&self.replay.repeats, found.repeats);
        self.replay.entries.set(gauge(found.entries));
    }

    /// Brings the count of proofs that could not be recorded for `cause` up to `total`.
    pub fn set_replay_unavailable(&self, cause: &str, total: u64) {
        raise(&self.replay.unavailable.with_label_values(&[cause]), total);
    }

    /// Counts an attempt to reload the configuration.
    pub fn reloaded(&self, outcome: Reload) {
        self.config_reloads.with_label_values(&[outcome.label()]).inc();
    }

    /// The spans that came to this end.
    pub fn spans(&self, fate: SpanFate) -> IntCounter {
        self.spans.with_label_values(&[fate.label()])
    }

    /// The metrics of connections.
    pub const fn connections(&self) -> &Connections {
        &self.connections
    }

    /// The text exposition of everything.
    pub fn exposition(&self) -> prometheus::Result<String> {
        TextEncoder::new().encode_to_string(&self.registry.gather())
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

/// A metric for queries to join with what counts reasons.
fn tell_faults(new: &Register<'_>) -> prometheus::Result<()> {
    let help = "Whose fault each reason for a denial is.";
    let reasons = new.gauges("keybound_reason_info", help, &["reason", "fault"])?;
    for denial in Denial::ALL {
        reasons.with_label_values(&[denial.label(), denial.fault().label()]).set(1);
    }
    Ok(())
}

/// Drops the series whose `label` has a value that is not to be kept.
fn retain(counters: &IntCounterVec, label: &str, keep: &dyn Fn(&str) -> bool) {
    for family in counters.collect() {
        for series in family.get_metric() {
            let labels = series.get_label().iter().map(|it| (it.name(), it.value()));
            let labels: HashMap<&str, &str> = labels.collect();
            if labels.get(label).is_some_and(|it| !keep(it)) {
                // An error says that it has gone by itself.
                drop(counters.remove(&labels));
            }
        }
    }
}

/// A counter that is kept elsewhere can only be caught up with: Prometheus counters never fall.
fn raise(counter: &IntCounter, total: u64) {
    counter.inc_by(total.saturating_sub(counter.get()));
}

fn gauge(figure: impl TryInto<i64>) -> i64 {
    figure.try_into().unwrap_or(i64::MAX)
}

/// What registers metrics.
pub(super) struct Register<'a>(&'a Registry);

impl Register<'_> {
    pub(super) fn counters(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
    ) -> prometheus::Result<IntCounterVec> {
        let metric = IntCounterVec::new(Opts::new(name, help), labels)?;
        self.0.register(Box::new(metric.clone()))?;
        Ok(metric)
    }

    fn counter(&self, name: &str, help: &str) -> prometheus::Result<IntCounter> {
        let metric = IntCounter::new(name, help)?;
        self.0.register(Box::new(metric.clone()))?;
        Ok(metric)
    }

    pub(super) fn gauges(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
    ) -> prometheus::Result<IntGaugeVec> {
        let metric = IntGaugeVec::new(Opts::new(name, help), labels)?;
        self.0.register(Box::new(metric.clone()))?;
        Ok(metric)
    }

    fn gauge(&self, name: &str, help: &str) -> prometheus::Result<IntGauge> {
        let metric = IntGauge::new(name, help)?;
        self.0.register(Box::new(metric.clone()))?;
        Ok(metric)
    }

    fn histograms(
        &self,
        name: &str,
        help: &str,
        labels: &[&str],
    ) -> prometheus::Result<HistogramVec> {
        let options = HistogramOpts::new(name, help).buckets(DURATION_BUCKETS.to_vec());
        let metric = HistogramVec::new(options, labels)?;
        self.0.register(Box::new(metric.clone()))?;
        Ok(metric)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::connections::Cause;

    #[test]
    fn a_counter_that_is_kept_elsewhere_never_falls() {
        let metrics = Metrics::new().unwrap();
        metrics.set_token_cache(CacheFigures { hits: 3, misses: 2, entries: 2 });
        metrics.set_token_cache(CacheFigures { hits: 1, misses: 5, entries: 0 });
        let text = metrics.exposition().unwrap();
        assert!(text.contains("keybound_token_cache_hits_total 3\n"), "{text}");
        assert!(text.contains("keybound_token_cache_misses_total 5\n"), "{text}");
        assert!(text.contains("keybound_token_cache_entries 0\n"), "{text}");
    }

    #[test]
    fn an_issuer_that_is_gone_leaves_no_age_behind() {
        let metrics = Metrics::new().unwrap();
        metrics.set_keys("https://old.example.com", 2, Some(7));
        metrics.forget_keys();
        metrics.set_keys("https://as.example.com", 1, None);
        let text = metrics.exposition().unwrap();
        assert!(!text.contains("old.example.com"), "{text}");
        assert!(text.contains("keybound_jwks_keys{issuer=\"https://as.example.com\"} 1\n"));
    }

    #[test]
    fn what_is_no_longer_configured_has_no_series() {
        let metrics = Metrics::new().unwrap();
        for name in ["", "old", "new"] {
            metrics.checks.with_label_values(&["ext_authz", name, "deny", "internal"]).inc();
            metrics.would_deny.with_label_values(&[name, "internal"]).inc();
            metrics.tokens.with_label_values(&[name, "both"]).inc();
            metrics.set_refreshes(name, "changed", 1);
            metrics.set_introspections(name, "active", 1);
        }
        metrics.retain_policies(|it| it == "new");
        metrics.retain_issuers(|it| it == "new");
        let text = metrics.exposition().unwrap();
        assert!(!text.contains("\"old\""), "{text}");
        assert_eq!(text.matches("\"new\"").count(), 5, "{text}");
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
        ] {
            vector.with_label_values(&vec!["x"; labels]);
        }
        metrics.set_keys("x", 1, Some(1));
        metrics.set_refreshes("x", "changed", 1);
        metrics.set_replay_unavailable("x", 1);
        metrics.connections().set_open("x", 1);
        metrics.connections().failures("x", Cause::Other);
        metrics.set_introspections("x", "active", 1);
        metrics.set_shedding("x", "busy", 1);
        let text = metrics.exposition().unwrap();
        let types: Vec<_> = text.lines().filter_map(|it| it.strip_prefix("# TYPE ")).collect();
        assert_eq!(
            types,
            [
                "keybound_check_duration_seconds histogram",
                "keybound_checks_total counter",
                "keybound_config_reloads_total counter",
                "keybound_connections gauge",
                "keybound_denial_details_total counter",
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
                "keybound_spans_total counter",
                "keybound_token_cache_entries gauge",
                "keybound_token_cache_hits_total counter",
                "keybound_token_cache_misses_total counter",
                "keybound_tokens_total counter",
                "keybound_would_deny_total counter",
            ]
        );
    }

    #[test]
    fn each_reason_stands_there_with_whose_fault_it_is() {
        let text = Metrics::new().unwrap().exposition().unwrap();
        for denial in Denial::ALL {
            let (reason, fault) = (denial.label(), denial.fault().label());
            let line = format!("keybound_reason_info{{fault=\"{fault}\",reason=\"{reason}\"}} 1\n");
            assert!(text.contains(&line), "{line}\n{text}");
        }
    }

    #[test]
    fn keys_are_told_by_issuer() {
        let metrics = Metrics::new().unwrap();
        metrics.set_keys("https://as.example.com", 2, Some(7));
        metrics.set_refreshes("https://as.example.com", "success", 4);
        metrics.reloaded(Reload::Refused);
        let text = metrics.exposition().unwrap();
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
