//! The parts as one running service, and how it comes to an end.
//!
//! ```text
//!  listener ──▶ acceptor ──▶ shard 0 … shard N    connections and checks, a thread each
//!                  │
//!  signals, admin, keys                           this thread
//! ```

mod advice;
mod beginning;
pub mod connection;
pub mod events;
pub mod failures;
mod paced;
mod read_ahead;
pub mod readiness;
pub mod reload;
pub mod reminder;
pub mod shard;
pub mod tls;

use crate::admin::explain::Permits;
use crate::admin::{self, Admin};
use crate::clock::Clock;
use crate::config::{Address, Listen, Telemetry};
use crate::front::capture::Capture;
use crate::front::ext_authz::health_and_reflection::{self, HealthAndReflection};
use crate::front::forward_auth::Secret;
use crate::front::peer::Everybody;
use crate::front::{ext_authz, forward_auth};
use crate::gate::Gate;
use crate::health::{Health, Phase, reached};
use crate::listener::places::{LOOK, PlaceRules, Places};
use crate::listener::{Listener, descriptors};
use crate::telemetry::collector::Export;
use crate::telemetry::history::History;
use crate::telemetry::metrics::{self, Metrics};
use crate::telemetry::reloads::Reloads;
use crate::telemetry::sinks::Sinks;
use crate::telemetry::spans::Spans;
use arc_swap::{ArcSwap, ArcSwapOption};
use connection::{Front, Serving};
use events::EventsServer;
use failures::Failures;
use futures_util::future::join_all;
use reload::{Doors, EventsDoor, InForce, Reloader};
use shard::Shards;
use std::num::NonZero;
use std::sync::Arc;
use std::time::Duration;
use tls::Spoken;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::{Instant, interval, sleep};

/// The settings of the service, apart from its rules.
#[derive(Debug)]
pub struct Setup {
    /// The listeners.
    pub listen: Listen,
    /// The number of shards.
    pub shards: NonZero<usize>,
    /// How long it keeps serving while reporting not ready, once shutdown is requested, so that
    /// proxies switch to other instances.
    pub drain_delay: Duration,
    /// How long open connections may then take to finish.
    pub drain_deadline: Duration,
    /// The capture of denied requests, if enabled.
    pub capture: Option<Arc<Capture>>,
}

/// The sinks of checks, and the export of spans.
pub fn sinks(
    telemetry: Telemetry,
    clock: &Arc<dyn Clock>,
    metrics: &Metrics,
) -> Result<(Sinks, Option<Export>), StartFailure> {
    let Some(collector) = telemetry.collector else {
        return Ok((Sinks::new(None, telemetry.log_allows), None));
    };
    let (spans, taken) = Spans::new(collector.sample, Arc::clone(clock), metrics);
    let export = Export::start(collector, taken, metrics)?;
    Ok((Sinks::new(Some(spans), telemetry.log_allows), Some(export)))
}

/// A service that listens and does not answer yet.
#[derive(Debug)]
pub struct Server {
    setup: Setup,
    ext_authz: Door,
    forward_auth: Option<Door>,
    /// The secret of the forward-auth listener.
    secret: Arc<ArcSwapOption<Secret>>,
    admin: Listener,
    events: Option<EventsServer>,
    events_tls: Option<Arc<Spoken>>,
    shards: Shards,
    health: Arc<Health>,
    gate: Arc<Gate>,
    reloads: Arc<Reloads>,
    tasks: JoinSet<()>,
}

/// A listener for proxies.
#[derive(Debug)]
struct Door {
    listener: Listener,
    serving: Serving,
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Every connection had its time to finish.
    Cleanly,
    /// Shutdown was requested a second time.
    AtOnce,
}

/// Why a service cannot start: one sentence for the operator.
pub type StartFailure = Box<dyn std::error::Error + Send + Sync>;

impl Server {
    /// Listens, and starts the shards. Must be called on the tokio runtime that will run it.
    pub fn start(setup: Setup, gate: Arc<Gate>) -> Result<Self, StartFailure> {
        let health = Arc::new(Health::default());
        let files = descriptors::raise();
        let doors = 1_usize.saturating_add(setup.listen.forward_auth.iter().len());
        let opening = Opening {
            most: descriptors::connections(files, doors),
            everybody: Arc::default(),
            setup: &setup,
            gate: &gate,
            health: &health,
        };
        if opening.most < descriptors::CONNECTIONS {
            let connections = opening.most;
            tracing::warn!(files, connections, "the limit on open files is low: raise it");
        }
        let (others, reporter) = HealthAndReflection::new()?;
        let endpoint = ext_authz::endpoint::Endpoint::new(Arc::clone(&gate), others)
            .capturing(setup.capture.clone());
        let front = Front::ExtAuthz(Arc::new(endpoint));
        let ext_authz = opening.door(&setup.listen.ext_authz, front)?;
        let mut secret = Arc::default();
        let forward_auth = setup.listen.forward_auth.as_ref().map(|it| {
            let asker = it.asker.clone();
            let endpoint = forward_auth::endpoint::Endpoint::new(Arc::clone(&gate), asker)
                .capturing(setup.capture.clone());
            secret = Arc::clone(endpoint.secret());
            opening.door(&it.address, Front::ForwardAuth(Arc::new(endpoint)))
        });
        let forward_auth = forward_auth.transpose()?;
        let places = Places::new("admin", admin::PLACES, Arc::default());
        let admin = Listener::bind(&setup.listen.admin, places)?;
        let admin = admin.counting(gate.metrics().connections());
        let events = setup.listen.events.as_ref();
        let events_tls = events.map(EventsServer::spoken).transpose()?.flatten();
        let events = events.map(|it| EventsServer::start(&it.address, events_tls.clone(), &gate));
        let events = events.transpose()?;
        let shown = tls::validities(setup.listen.tls.as_ref(), setup.listen.events.as_ref());
        gate.metrics().certificates().set(&shown);
        let shards = Shards::start(setup.shards, setup.drain_deadline)?;
        let mut tasks = JoinSet::new();
        tasks.spawn(health_and_reflection::report(reporter, health.watch()));
        let reloads = Arc::default();
        Ok(Self {
            setup,
            ext_authz,
            forward_auth,
            secret,
            admin,
            events,
            events_tls,
            shards,
            health,
            gate,
            reloads,
            tasks,
        })
    }

    /// The address of the gRPC listener.
    pub fn ext_authz(&self) -> &Address {
        self.ext_authz.listener.bound()
    }

    /// The address of the forward-auth listener, if enabled.
    pub fn forward_auth(&self) -> Option<&Address> {
        self.forward_auth.as_ref().map(|it| it.listener.bound())
    }

    /// The address of the admin listener.
    pub fn admin(&self) -> &Address {
        self.admin.bound()
    }

    /// The address of the listener for events, if enabled.
    pub fn events(&self) -> Option<&Address> {
        self.events.as_ref().map(EventsServer::address)
    }

    /// The task that applies changes of the configuration `in_force`.
    pub fn reloader(&self, in_force: InForce<'_>, clock: Arc<dyn Clock>) -> Reloader {
        let doors = [&self.ext_authz].into_iter().chain(&self.forward_auth);
        let doors = Doors {
            listen: self.setup.listen.clone(),
            secret: Arc::clone(&self.secret),
            tls: doors.filter_map(|it| it.serving.tls.clone()).collect(),
        };
        let (listener, tls) = (self.setup.listen.events.clone(), self.events_tls.clone());
        let (gate, reloads) = (Arc::clone(&self.gate), Arc::clone(&self.reloads));
        let reloader = Reloader::new(in_force, gate, reloads, clock);
        reloader.with_doors(doors).with_events(EventsDoor { listener, tls })
    }

    /// Serves requests. It is ready once the issuers of the configuration in force have keys,
    /// drains at the first message on `stop` and ends at once at the second.
    pub async fn run(self, mut stop: mpsc::Receiver<()>) -> Ended {
        let Self {
            setup,
            ext_authz,
            forward_auth,
            secret: _,
            admin,
            events,
            events_tls: _,
            shards,
            health,
            gate,
            reloads,
            mut tasks,
        } = self;
        let listeners = [&ext_authz.listener, &admin].into_iter();
        let listeners = listeners.chain(forward_auth.as_ref().map(|it| &it.listener));
        let pages = Admin {
            places: listeners
                .map(Listener::places)
                .chain(events.as_ref().map(EventsServer::places))
                .map(Arc::clone)
                .collect(),
            gate: Arc::clone(&gate),
            health: Arc::clone(&health),
            started: Instant::now(),
            connections: Arc::clone(shards.open()),
            reloads,
            history: Arc::new(History::since(Instant::now())),
            explaining: Permits::default(),
        };
        tasks.spawn(Admin::serve(Arc::new(ArcSwap::from_pointee(pages)), admin));
        tasks.spawn({
            let health = Arc::clone(&health);
            async move {
                readiness::reached(&gate).await;
                tracing::info!("ready");
                health.enter(Phase::Ready);
            }
        });
        let mut accepting = JoinSet::new();
        let doors = [ext_authz].into_iter().chain(forward_auth).collect();
        accepting.spawn(accept(doors, shards));

        stop.recv().await;
        tokio::select! {
            () = drain(&health, setup.drain_delay, &mut accepting) => Ended::Cleanly,
            Some(()) = stop.recv() => Ended::AtOnce,
        }
    }
}

async fn drain(health: &Health, delay: Duration, accepting: &mut JoinSet<()>) {
    tracing::info!("draining");
    health.enter(Phase::Leaving);
    sleep(delay).await;
    health.enter(Phase::Draining);
    while accepting.join_next().await.is_some() {}
    tracing::info!("drained");
}

/// Distributes connections until the process drains, then waits for the last to end.
async fn accept(doors: Vec<Door>, shards: Shards) {
    join_all(doors.into_iter().map(|it| it.admit(&shards))).await;
    shards.drain().await;
}

/// The settings that all doors share.
struct Opening<'a> {
    most: usize,
    everybody: Arc<Everybody>,
    setup: &'a Setup,
    gate: &'a Gate,
    health: &'a Health,
}

/// How long without a request before a proxy's connection may be closed for another one.
const IDLE: Duration = Duration::from_secs(10);

impl Opening<'_> {
    fn door(&self, address: &Address, front: Front) -> Result<Door, StartFailure> {
        let (name, protocol) = match &front {
            Front::ExtAuthz(_) => (metrics::Front::ExtAuthz, &b"h2"[..]),
            Front::ForwardAuth(_) => (metrics::Front::ForwardAuth, &b"http/1.1"[..]),
        };
        let tls = self.setup.listen.tls.as_ref();
        let tls = tls.map(|it| Spoken::new(it, protocol)).transpose()?.map(Arc::new);
        let rules = PlaceRules { most: self.most, idle: IDLE, anybody: false };
        let places = Places::new(name.label(), rules, Arc::clone(&self.everybody));
        let listener = Listener::bind(address, places)?;
        let listener = listener.counting(self.gate.metrics().connections());
        let failures = Arc::new(Failures::new(name, self.gate.metrics()));
        let phases = self.health.watch();
        Ok(Door { listener, serving: Serving { front, tls, phases, failures } })
    }
}

impl Door {
    /// Distributes connections until the process drains, and closes.
    async fn admit(self, shards: &Shards) {
        let mut phases = self.serving.phases.clone();
        let mut looks = interval(LOOK);
        loop {
            tokio::select! {
                () = reached(&mut phases, Phase::Draining) => break,
                _ = looks.tick() => self.listener.places().look(Instant::now()),
                arrival = self.listener.arrival() => shards.deal(arrival, self.serving.clone()),
            }
        }
    }
}
