//! Knows what `/status` tells: what is enforced at present, and with which keys.

use super::Admin;
use crate::gate::Active;
use crate::state::{introspection, jwks};
use crate::telemetry::denials;
use crate::telemetry::history::LastHour;
use crate::telemetry::metrics::{CacheFigures, Metrics, ReplayFigures};
use crate::telemetry::reloads;
use keybound_core::Denial;
use keybound_core::policy::EffectivePolicy;
use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::atomic::Ordering;
use tokio::time::Instant;

/// The document at `/status`.
#[derive(Debug, Serialize)]
pub struct Status {
    version: &'static str,
    phase: &'static str,
    /// The issuers whose keys are waited for before the service is ready.
    waits_for: Vec<String>,
    uptime_seconds: u64,
    config: ConfigStatus,
    issuers: Vec<jwks::Status>,
    introspection: Vec<introspection::Status>,
    policies: Vec<EffectivePolicy>,
    /// Whose fault each reason for a denial is.
    faults: BTreeMap<&'static str, &'static str>,
    last_hour: LastHour,
    last_denials: Vec<denials::Status>,
    token_cache: CacheFigures,
    replay: Replay,
    checks_under_way: usize,
    connections: Vec<usize>,
}

/// The used proofs.
#[derive(Debug, Serialize)]
struct Replay {
    reachable: bool,
    recorded: u64,
    repeats: u64,
    /// None when they are kept elsewhere.
    entries: Option<usize>,
    /// How many could not be recorded, by the cause; those causes alone that have occurred.
    unavailable: BTreeMap<&'static str, u64>,
    /// What is wrong with the store, though it can be used.
    warnings: Vec<String>,
}

#[derive(Debug, Serialize)]
struct ConfigStatus {
    digest: String,
    age_seconds: u64,
    last_reload: Option<reloads::Status>,
}

impl Status {
    /// The state of things at present.
    pub fn of(admin: &Admin) -> Self {
        let active = admin.gate.active();
        let now = Instant::now();
        Self {
            version: env!("CARGO_PKG_VERSION"),
            phase: admin.health.phase().label(),
            waits_for: admin.awaited(),
            uptime_seconds: now.duration_since(admin.started).as_secs(),
            config: ConfigStatus {
                digest: active.digest.clone(),
                age_seconds: now.duration_since(active.since).as_secs(),
                last_reload: admin.reloads.status(now),
            },
            issuers: active.installation.issuers.iter().map(|it| it.keys.status()).collect(),
            introspection: asking(&active),
            policies: EffectivePolicy::all(active.policies()),
            faults: Denial::ALL.iter().map(|it| (it.label(), it.fault().label())).collect(),
            last_hour: admin.history.last_hour(now),
            last_denials: admin.gate.denials().status(now),
            token_cache: token_cache(&active),
            replay: Replay::of(&active),
            checks_under_way: admin.gate.under_way(),
            connections: admin.connections.iter().map(|it| it.load(Ordering::Relaxed)).collect(),
        }
    }
}

/// Those issuers that are asked about their tokens.
fn asking(active: &Active) -> Vec<introspection::Status> {
    active
        .installation
        .issuers
        .iter()
        .filter_map(|it| it.introspection.as_ref())
        .map(|it| it.status())
        .collect()
}

/// Brings the metrics that are kept elsewhere up to date.
pub fn gather(active: &Active, metrics: &Metrics) {
    let installation = &active.installation;
    metrics.forget_keys();
    for issuer in &installation.issuers {
        let status = issuer.keys.status();
        metrics.set_keys(issuer.name(), status.keys, status.age_seconds);
        for (outcome, total) in status.refreshes {
            metrics.set_refreshes(issuer.name(), outcome, total);
        }
    }
    metrics.forget_shedding();
    for status in asking(active) {
        for (outcome, total) in status.outcomes() {
            metrics.set_introspections(&status.issuer, outcome, total);
        }
        for (cause, whose) in &status.shedding {
            metrics.set_shedding(&status.issuer, cause, *whose);
        }
    }
    metrics.set_token_cache(token_cache(active));
    let Replay { recorded, repeats, entries, .. } = Replay::of(active);
    let entries = entries.map_or(0, |it| u64::try_from(it).unwrap_or(u64::MAX));
    metrics.set_replay(ReplayFigures { recorded, repeats, entries });
    for (cause, total) in installation.replay.unavailable() {
        metrics.set_replay_unavailable(cause.detail().label(), total);
    }
}

impl Replay {
    fn of(active: &Active) -> Self {
        let store = &active.installation.replay;
        Self {
            reachable: store.is_reachable(),
            recorded: store.recorded(),
            repeats: store.repeats(),
            entries: store.entries(),
            unavailable: store
                .unavailable()
                .filter(|(_, total)| *total != 0)
                .map(|(cause, total)| (cause.detail().label(), total))
                .collect(),
            warnings: store.concerns(),
        }
    }
}

fn token_cache(active: &Active) -> CacheFigures {
    let cache = &active.installation.cache;
    let entries = u64::try_from(cache.len()).unwrap_or(u64::MAX);
    CacheFigures { hits: cache.hits(), misses: cache.misses(), entries }
}
