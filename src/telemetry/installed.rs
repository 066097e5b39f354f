//! The metrics of the installation in force. They are rendered anew for each scrape, so that removed
//! issuers leave nothing behind.

use prometheus::core::Collector;
use prometheus::proto::MetricFamily;
use prometheus::{IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts};
use std::collections::BTreeMap;

/// The figures of an installation.
#[derive(Clone, Debug, Default)]
pub struct Installed {
    /// The SHA-256 of the configuration, in hexadecimal.
    pub digest: String,
    /// Each issuer.
    pub issuers: Vec<IssuerFigures>,
    /// The token cache.
    pub token_cache: CacheFigures,
    /// The replay store.
    pub replay: ReplayFigures,
    /// Proofs that could not be recorded, by cause.
    pub replay_unavailable: BTreeMap<&'static str, u64>,
}

/// The figures of an issuer.
#[derive(Clone, Debug, Default)]
pub struct IssuerFigures {
    /// Its name.
    pub name: String,
    /// Usable keys.
    pub keys: usize,
    /// The age of the last successful fetch of its keys.
    pub age_seconds: Option<u64>,
    /// Fetches of its keys, by outcome.
    pub refreshes: BTreeMap<&'static str, u64>,
    /// Introspections, by outcome.
    pub introspections: BTreeMap<&'static str, u64>,
    /// Whose tokens are turned away without introspection, by cause: 0 nobody's, 1 those that were
    /// not active before, 2 those that were, too.
    pub shedding: BTreeMap<&'static str, u8>,
    /// Its denylist, if it has one.
    pub denylist: Option<DenylistFigures>,
    /// Its status lists, if its tokens may name some.
    pub status_lists: Option<StatusListFigures>,
    /// Its events, if they are received.
    pub events: Option<EventFigures>,
}

/// The figures of the status lists of an issuer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StatusListFigures {
    /// How many lists tokens have named lately.
    pub lists: u64,
    /// How many of them cannot be used.
    pub unusable: u64,
    /// Seconds since the issuer last confirmed the one that it confirmed the longest ago.
    pub age_seconds: Option<u64>,
    /// Fetches by outcome.
    pub fetches: BTreeMap<&'static str, u64>,
}

/// The figures of an issuer's events.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EventFigures {
    /// The subjects that are kept.
    pub entries: u64,
    /// For how long the stream was not heard to its end, where that can be told.
    pub lag_seconds: Option<u64>,
    /// When the last event that revoked tokens was received, in seconds since 1970.
    pub last_event: Option<i64>,
    /// Whether there was no room for an event, so that other tokens are refused, too.
    pub is_full: bool,
    /// Whether what replicas share could not be read for too long, or in part.
    pub is_unheard: bool,
    /// How many entries of it cannot be read.
    pub unreadable: u64,
    /// Events by what came of them.
    pub received: BTreeMap<&'static str, u64>,
    /// Deliveries that were refused, by cause.
    pub refused: BTreeMap<&'static str, u64>,
}

/// The figures of a denylist.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DenylistFigures {
    /// Its entries.
    pub entries: u64,
    /// When the file of the list in force was written, in seconds since 1970.
    pub modified: Option<i64>,
    /// Whether the file is missing or has a mistake, so that an earlier list is in force.
    pub is_behind: bool,
    /// New lists that came into force.
    pub applied: u64,
    /// New lists that were refused.
    pub refused: u64,
}

/// The figures of a cache.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct CacheFigures {
    /// Lookups that found an entry.
    pub hits: u64,
    /// Lookups that found none.
    pub misses: u64,
    /// Its entries.
    pub entries: u64,
}

/// The figures of a replay store.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReplayFigures {
    /// Proofs recorded.
    pub recorded: u64,
    /// Proofs that had been used before.
    pub repeats: u64,
    /// Its entries.
    pub entries: u64,
}

impl Installed {
    /// Its metrics.
    pub(super) fn families(&self) -> prometheus::Result<Vec<MetricFamily>> {
        let cache = &self.token_cache;
        let replay = &self.replay;
        let families = [
            self.configuration()?,
            self.keys()?,
            self.introspections()?,
            self.denylists()?,
            self.status_lists()?,
            self.events()?,
            counter("keybound_token_cache_hits_total", "Token cache hits.", cache.hits)?,
            counter("keybound_token_cache_misses_total", "Tokens not seen before.", cache.misses)?,
            gauge("keybound_token_cache_entries", "Tokens held.", cache.entries)?,
            counter("keybound_replay_recorded_total", "Proofs recorded.", replay.recorded)?,
            counter("keybound_replay_repeats_total", "Proofs used again.", replay.repeats)?,
            gauge("keybound_replay_entries", "Proofs held.", replay.entries)?,
            self.replay_unavailable()?,
        ];
        Ok(families.concat())
    }

    fn configuration(&self) -> prometheus::Result<Vec<MetricFamily>> {
        let info = gauges("keybound_config_info", "The configuration in force.", &["digest"])?;
        info.with_label_values(&[&*self.digest]).set(1);
        Ok(info.collect())
    }

    fn keys(&self) -> prometheus::Result<Vec<MetricFamily>> {
        let issuer = &["issuer"];
        let keys = gauges("keybound_jwks_keys", "Usable keys of an issuer.", issuer)?;
        let age = gauges(
            "keybound_jwks_age_seconds",
            "Time since the keys of an issuer were last fetched or confirmed.",
            issuer,
        )?;
        let refreshes = counters(
            "keybound_jwks_refreshes_total",
            "Attempts to fetch the keys of an issuer.",
            &["issuer", "outcome"],
        )?;
        for issuer in &self.issuers {
            let name = &*issuer.name;
            keys.with_label_values(&[name]).set(whole(issuer.keys));
            if let Some(seconds) = issuer.age_seconds {
                age.with_label_values(&[name]).set(whole(seconds));
            }
            for (outcome, total) in &issuer.refreshes {
                refreshes.with_label_values(&[name, outcome]).inc_by(*total);
            }
        }
        Ok([keys.collect(), age.collect(), refreshes.collect()].concat())
    }

    fn introspections(&self) -> prometheus::Result<Vec<MetricFamily>> {
        let introspections = counters(
            "keybound_introspections_total",
            "Introspection calls by outcome, and checks that were turned away without a call.",
            &["issuer", "outcome"],
        )?;
        let shedding = gauges(
            "keybound_introspection_shedding",
            "Whose tokens are turned away without introspection: 0 nobody's, 1 those that were not \
             active before, 2 \
             those that were, too.",
            &["issuer", "cause"],
        )?;
        for issuer in &self.issuers {
            let name = &*issuer.name;
            for (outcome, total) in &issuer.introspections {
                introspections.with_label_values(&[name, outcome]).inc_by(*total);
            }
            for (cause, whose) in &issuer.shedding {
                shedding.with_label_values(&[name, cause]).set((*whose).into());
            }
        }
        Ok([introspections.collect(), shedding.collect()].concat())
    }

    fn events(&self) -> prometheus::Result<Vec<MetricFamily>> {
        let issuer = &["issuer"];
        let entries =
            gauges("keybound_events_entries", "Subjects of events that are kept.", issuer)?;
        let lag = gauges(
            "keybound_events_lag_seconds",
            "For how long the stream of events was not heard to its end.",
            issuer,
        )?;
        let last = gauges(
            "keybound_events_last_timestamp_seconds",
            "When the last event that revoked tokens was received, in seconds since 1970.",
            issuer,
        )?;
        let full = gauges(
            "keybound_events_full",
            "1 if there was no room for an event, so that other tokens are refused, too.",
            issuer,
        )?;
        let unheard = gauges(
            "keybound_events_unheard",
            "1 if events that replicas share cannot be read, so that tokens are refused.",
            issuer,
        )?;
        let unreadable = gauges(
            "keybound_events_unreadable",
            "Entries that replicas share and that cannot be read, so that tokens are refused.",
            issuer,
        )?;
        let received = counters(
            "keybound_events_received_total",
            "Security events, by what came of them.",
            &["issuer", "outcome"],
        )?;
        let refused = counters(
            "keybound_events_refused_total",
            "Deliveries of security events that were refused, by cause.",
            &["issuer", "cause"],
        )?;
        let all = self.issuers.iter().filter_map(|it| Some((&*it.name, it.events.as_ref()?)));
        for (name, events) in all {
            entries.with_label_values(&[name]).set(whole(events.entries));
            if let Some(seconds) = events.lag_seconds {
                lag.with_label_values(&[name]).set(whole(seconds));
            }
            if let Some(at) = events.last_event {
                last.with_label_values(&[name]).set(at);
            }
            full.with_label_values(&[name]).set(events.is_full.into());
            unheard.with_label_values(&[name]).set(events.is_unheard.into());
            unreadable.with_label_values(&[name]).set(whole(events.unreadable));
            for (outcome, total) in &events.received {
                received.with_label_values(&[name, outcome]).inc_by(*total);
            }
            for (cause, total) in &events.refused {
                refused.with_label_values(&[name, cause]).inc_by(*total);
            }
        }
        let gauges =
            [entries, lag, last, full, unheard, unreadable].map(|it| it.collect()).concat();
        Ok([gauges, received.collect(), refused.collect()].concat())
    }

    fn denylists(&self) -> prometheus::Result<Vec<MetricFamily>> {
        let issuer = &["issuer"];
        let entries = gauges("keybound_denylist_entries", "Entries of the denylist.", issuer)?;
        let modified = gauges(
            "keybound_denylist_modified_timestamp_seconds",
            "When the file of the denylist in force was written, in seconds since 1970.",
            issuer,
        )?;
        let behind = gauges(
            "keybound_denylist_behind",
            "1 if the file of the denylist is missing or has a mistake, so that an earlier list is in \
             force.",
            issuer,
        )?;
        let loads = counters(
            "keybound_denylist_loads_total",
            "New denylists, by outcome.",
            &["issuer", "outcome"],
        )?;
        for (name, list) in self.issuers.iter().filter_map(|it| Some((&*it.name, it.denylist?))) {
            entries.with_label_values(&[name]).set(whole(list.entries));
            if let Some(at) = list.modified {
                modified.with_label_values(&[name]).set(at);
            }
            behind.with_label_values(&[name]).set(list.is_behind.into());
            for (outcome, total) in [("applied", list.applied), ("refused", list.refused)] {
                loads.with_label_values(&[name, outcome]).inc_by(total);
            }
        }
        Ok([entries.collect(), modified.collect(), behind.collect(), loads.collect()].concat())
    }

    fn status_lists(&self) -> prometheus::Result<Vec<MetricFamily>> {
        let issuer = &["issuer"];
        let lists =
            gauges("keybound_status_lists", "Status lists that tokens have named lately.", issuer)?;
        let unusable = gauges(
            "keybound_status_lists_unusable",
            "Those that cannot be used: never fetched, too old, or past their end.",
            issuer,
        )?;
        let age = gauges(
            "keybound_status_list_age_seconds",
            "The age of the oldest status list: seconds since the issuer last confirmed it.",
            issuer,
        )?;
        let fetches = counters(
            "keybound_status_list_fetches_total",
            "Fetches of status lists, by outcome.",
            &["issuer", "outcome"],
        )?;
        let figures =
            self.issuers.iter().filter_map(|it| Some((&*it.name, it.status_lists.as_ref()?)));
        for (name, figures) in figures {
            lists.with_label_values(&[name]).set(whole(figures.lists));
            unusable.with_label_values(&[name]).set(whole(figures.unusable));
            if let Some(seconds) = figures.age_seconds {
                age.with_label_values(&[name]).set(whole(seconds));
            }
            for (outcome, total) in &figures.fetches {
                fetches.with_label_values(&[name, outcome]).inc_by(*total);
            }
        }
        Ok([lists.collect(), unusable.collect(), age.collect(), fetches.collect()].concat())
    }

    fn replay_unavailable(&self) -> prometheus::Result<Vec<MetricFamily>> {
        let unavailable = counters(
            "keybound_replay_unavailable_total",
            "Proofs that could not be recorded, by cause.",
            &["cause"],
        )?;
        for (cause, total) in &self.replay_unavailable {
            unavailable.with_label_values(&[cause]).inc_by(*total);
        }
        Ok(unavailable.collect())
    }
}

fn counters(name: &str, help: &str, labels: &[&str]) -> prometheus::Result<IntCounterVec> {
    IntCounterVec::new(Opts::new(name, help), labels)
}

fn gauges(name: &str, help: &str, labels: &[&str]) -> prometheus::Result<IntGaugeVec> {
    IntGaugeVec::new(Opts::new(name, help), labels)
}

fn counter(name: &str, help: &str, total: u64) -> prometheus::Result<Vec<MetricFamily>> {
    let counter = IntCounter::new(name, help)?;
    counter.inc_by(total);
    Ok(counter.collect())
}

fn gauge(name: &str, help: &str, figure: u64) -> prometheus::Result<Vec<MetricFamily>> {
    let gauge = IntGauge::new(name, help)?;
    gauge.set(whole(figure));
    Ok(gauge.collect())
}

fn whole(figure: impl TryInto<i64>) -> i64 {
    figure.try_into().unwrap_or(i64::MAX)
}
