//! The document at `/status`: the configuration in force, its keys and its counters.

use super::Admin;
use crate::explain::usual_advice;
use crate::gate::Active;
use crate::state::revocation::denylist::DenylistStatus;
use crate::state::revocation::status_lists::StatusListsStatus;
use crate::state::{introspection, jwks, revocation};
use crate::telemetry::history::LastHour;
use crate::telemetry::installed::{
    CacheFigures, DenylistFigures, EventFigures, Installed, IssuerFigures, ReplayFigures,
    StatusListFigures,
};
use crate::telemetry::metrics::{REVISION, VERSION};
use crate::telemetry::reloads;
use crate::telemetry::{carried, denials};
use keybound_core::Denial;
use keybound_core::policy::EffectivePolicy;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fs;
use std::sync::LazyLock;
use std::sync::atomic::Ordering;
use tokio::time::Instant;

/// The document at `/status`.
#[derive(Debug, Serialize)]
pub struct Status {
    version: &'static str,
    revision: &'static str,
    /// The host name of this replica.
    replica: &'static str,
    phase: &'static str,
    /// The issuers whose keys must be fetched before the service is ready.
    waits_for: Vec<String>,
    uptime_seconds: u64,
    config: ConfigStatus,
    issuers: Vec<jwks::Status>,
    introspection: Vec<introspection::Status>,
    revocation: Vec<revocation::Status>,
    policies: Vec<EffectivePolicy>,
    /// Who has to fix the cause, for each reason.
    faults: BTreeMap<&'static str, &'static str>,
    /// What each reason means, and what to look at first.
    reasons: BTreeMap<&'static str, ReasonStatus>,
    client_certificates: carried::Status,
    last_hour: LastHour,
    /// Whom denials hit in the last hour, by policy and reason.
    denied_clients: Vec<denials::GroupStatus>,
    last_denials: Vec<denials::Status>,
    /// Denials that are in neither list, because there were too many at once.
    missed_denials: u64,
    token_cache: CacheFigures,
    replay: Replay,
    checks_under_way: usize,
    connections: Vec<usize>,
}

/// The replay store.
#[derive(Debug, Serialize)]
struct Replay {
    reachable: bool,
    recorded: u64,
    repeats: u64,
    /// None if the store is external.
    entries: Option<usize>,
    /// The number of proofs that could not be recorded, by cause; only causes that have occurred.
    unavailable: BTreeMap<&'static str, u64>,
    /// What is wrong with the store, even if it can be used.
    warnings: Vec<String>,
}

#[derive(Debug, Serialize)]
struct ReasonStatus {
    sentence: &'static str,
    advice: &'static str,
}

#[derive(Debug, Serialize)]
struct ConfigStatus {
    digest: String,
    age_seconds: u64,
    last_reload: Option<reloads::Status>,
    /// What the last reload that was applied has changed.
    last_change: Option<reloads::Change>,
}

/// The host name; in Kubernetes, that of the pod.
static REPLICA: LazyLock<String> = LazyLock::new(|| {
    let name = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name = name.trim();
    if name.is_empty() { "unknown".to_owned() } else { name.to_owned() }
});

impl Status {
    /// The current status.
    pub fn of(admin: &Admin) -> Self {
        let active = admin.gate.active();
        let now = Instant::now();
        Self {
            version: VERSION,
            revision: REVISION,
            replica: &REPLICA,
            phase: admin.health.phase().label(),
            waits_for: admin.awaited(),
            uptime_seconds: now.duration_since(admin.started).as_secs(),
            config: ConfigStatus {
                digest: active.digest.clone(),
                age_seconds: now.duration_since(active.since).as_secs(),
                last_reload: admin.reloads.status(now),
                last_change: admin.reloads.last_change(now),
            },
            issuers: active.installation.issuers.iter().map(|it| it.keys.status()).collect(),
            introspection: asking(&active),
            revocation: revoking(&active),
            policies: EffectivePolicy::all(active.policies()),
            faults: Denial::ALL.iter().map(|it| (it.label(), it.fault().label())).collect(),
            reasons: Denial::ALL.iter().map(|it| (it.label(), ReasonStatus::of(*it))).collect(),
            client_certificates: admin.gate.carried().status(),
            last_hour: admin.history.last_hour(now),
            denied_clients: admin.gate.denials().clients(now),
            last_denials: admin.gate.denials().status(now),
            missed_denials: admin.gate.denials().missed(),
            token_cache: token_cache(&active),
            replay: Replay::of(&active),
            checks_under_way: admin.gate.under_way(),
            connections: admin.connections.iter().map(|it| it.load(Ordering::Relaxed)).collect(),
        }
    }
}

impl ReasonStatus {
    const fn of(denial: Denial) -> Self {
        Self { sentence: denial.sentence(), advice: usual_advice(denial) }
    }
}

/// The issuers with introspection.
fn asking(active: &Active) -> Vec<introspection::Status> {
    active
        .installation
        .issuers
        .iter()
        .filter_map(|it| it.introspection.as_ref())
        .map(|it| it.status())
        .collect()
}

/// The issuers whose tokens may be revoked here.
fn revoking(active: &Active) -> Vec<revocation::Status> {
    let issuers = active.installation.issuers.iter();
    issuers.filter_map(|it| it.revocation.as_ref()).map(|it| it.status()).collect()
}

fn denylist(list: &DenylistStatus) -> DenylistFigures {
    let &DenylistStatus { entries, modified, is_behind, applied, refused, .. } = list;
    let entries = u64::try_from(entries).unwrap_or(u64::MAX);
    DenylistFigures { entries, modified, is_behind, applied, refused }
}

fn status_lists(lists: StatusListsStatus) -> StatusListFigures {
    let StatusListsStatus { lists, unusable, age_seconds, fetches, .. } = lists;
    let [lists, unusable] = [lists, unusable].map(|it| u64::try_from(it).unwrap_or(u64::MAX));
    StatusListFigures { lists, unusable, age_seconds, fetches }
}

fn events(status: revocation::events::Status) -> EventFigures {
    EventFigures {
        entries: u64::try_from(status.entries).unwrap_or(u64::MAX),
        lag_seconds: status.lag_seconds,
        last_event: status.last_event.map(|it| it.received_at),
        is_full: status.full,
        is_unheard: status.unheard,
        unreadable: u64::try_from(status.unreadable).unwrap_or(u64::MAX),
        received: status.received,
        refused: status.refused,
    }
}

/// The state of the active configuration, for the metrics.
pub fn installed(active: &Active) -> Installed {
    let installation = &active.installation;
    let issuers = installation.issuers.iter().map(|issuer| {
        let keys = issuer.keys.status();
        let asked = issuer.introspection.as_ref().map(|it| it.status());
        let revokes = issuer.revocation.as_ref().map(|it| it.status());
        IssuerFigures {
            name: issuer.name().to_owned(),
            keys: keys.keys,
            age_seconds: keys.age_seconds,
            refreshes: keys.refreshes,
            introspections: asked.iter().flat_map(introspection::Status::outcomes).collect(),
            shedding: asked.map(|it| it.shedding).unwrap_or_default(),
            denylist: revokes.as_ref().and_then(|it| it.denylist.as_ref()).map(denylist),
            status_lists: revokes.as_ref().and_then(|it| it.status_lists.clone()).map(status_lists),
            events: revokes.and_then(|it| it.events).map(events),
        }
    });
    let Replay { recorded, repeats, entries, .. } = Replay::of(active);
    let entries = entries.map_or(0, |it| u64::try_from(it).unwrap_or(u64::MAX));
    let unavailable = installation.replay.unavailable();
    Installed {
        digest: active.digest.clone(),
        issuers: issuers.collect(),
        token_cache: token_cache(active),
        replay: ReplayFigures { recorded, repeats, entries },
        replay_unavailable: unavailable.map(|(it, total)| (it.detail().label(), total)).collect(),
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
    let entries = u64::try_from(cache.entries()).unwrap_or(u64::MAX);
    CacheFigures { hits: cache.hits(), misses: cache.misses(), entries }
}
