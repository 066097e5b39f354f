//! Knows how the parts make one running service, and how it comes to an end.
//!
//! ```text
//!  listener ──▶ acceptor ──▶ shard 0 … shard N    connections and checks, a thread each
//!                  │
//!  signals, admin, keys                           this thread
//! ```

pub mod connection;
pub mod reload;
pub mod shard;
pub mod tls;

use crate::admin::{ACCEPT_PAUSE, Admin};
use crate::clock::Clock;
use crate::config::watch::Watch;
use crate::config::{Address, Ingredient, Listen, Telemetry};
use crate::front::ext_authz::companions::{self, Companions};
use crate::front::ext_authz::endpoint::Endpoint;
use crate::gate::Gate;
use crate::health::{Health, Phase, reached};
use crate::listener::Listener;
use crate::telemetry::history::History;
use crate::telemetry::reloads::Reloads;
use connection::Serving;
use reload::Reloader;
use shard::Shards;
use std::num::NonZero;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tls::Spoken;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

/// How the service runs, apart from what it decides.
#[derive(Debug)]
pub struct Setup {
    /// Where it listens.
    pub listen: Listen,
    /// How many shards there are.
    pub shards: NonZero<usize>,
    /// For how long, once it is told to stop, it goes on as before but reports that it is not
    /// ready, so that proxies go elsewhere.
    pub drain_delay: Duration,
    /// How long connections then get to end.
    pub drain_deadline: Duration,
}

/// A service that listens and does not answer yet.
#[derive(Debug)]
pub struct Server {
    setup: Setup,
    ext_authz: Listener,
    admin: Listener,
    tls: Option<Arc<Spoken>>,
    shards: Shards,
    health: Arc<Health>,
    gate: Arc<Gate>,
    reloads: Arc<Reloads>,
    tasks: JoinSet<()>,
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// Every connection had the time that it was promised.
    Cleanly,
    /// It was told to stop a second time.
    AtOnce,
}

/// Why a service cannot start: one sentence for the operator.
pub type StartFailure = Box<dyn std::error::Error + Send + Sync>;

impl Server {
    /// Listens, and starts the shards. To be called on the tokio runtime on which it will run.
    pub fn start(setup: Setup, gate: Arc<Gate>) -> Result<Self, StartFailure> {
        let tls = setup.listen.tls.as_ref().map(Spoken::new).transpose()?.map(Arc::new);
        let ext_authz = Listener::bind(&setup.listen.ext_authz)?;
        let admin = Listener::bind(&setup.listen.admin)?;
        let health = Arc::new(Health::default());
        let (companions, reporter) = Companions::new()?;
        let serving = Serving {
            endpoint: Arc::new(Endpoint::new(Arc::clone(&gate), companions)),
            tls: tls.clone(),
            phases: health.watch(),
        };
        let shards = Shards::start(setup.shards, &serving, setup.drain_deadline)?;
        let mut tasks = JoinSet::new();
        tasks.spawn(companions::report(reporter, health.watch()));
        let reloads = Arc::default();
        Ok(Self { setup, ext_authz, admin, tls, shards, health, gate, reloads, tasks })
    }

    /// Where the gRPC service listens.
    pub fn ext_authz(&self) -> &Address {
        self.ext_authz.bound()
    }

    /// Where the admin pages are.
    pub fn admin(&self) -> &Address {
        self.admin.bound()
    }

    /// What it does when the configuration in the file at `path` changes, which was made from
    /// `ingredients`. `telemetry` is what it began with.
    pub fn reloader(
        &self,
        path: &Path,
        ingredients: Vec<Ingredient>,
        telemetry: Telemetry,
        clock: Arc<dyn Clock>,
    ) -> Reloader {
        Reloader {
            path: path.to_owned(),
            watch: Watch::over(ingredients),
            clock,
            gate: Arc::clone(&self.gate),
            listen: self.setup.listen.clone(),
            telemetry,
            tls: self.tls.clone(),
            reloads: Arc::clone(&self.reloads),
        }
    }

    /// Answers. It is ready once `ready` ends, drains at the first message on `stop` and ends at
    /// once at the second.
    pub async fn run(
        self,
        ready: impl Future<Output = ()> + Send + 'static,
        mut stop: mpsc::Receiver<()>,
    ) -> Ended {
        let Self { setup, ext_authz, admin, tls: _, shards, health, gate, reloads, mut tasks } =
            self;
        let pages = Admin {
            gate,
            health: Arc::clone(&health),
            started: Instant::now(),
            connections: Arc::clone(shards.open()),
            reloads,
            history: History::since(Instant::now()),
        };
        tasks.spawn(Arc::new(pages).serve(admin));
        tasks.spawn({
            let health = Arc::clone(&health);
            async move {
                ready.await;
                tracing::info!("ready");
                health.enter(Phase::Ready);
            }
        });
        let mut accepting = JoinSet::new();
        accepting.spawn(accept(ext_authz, shards, health.watch()));

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

/// Deals out connections until the process drains, then waits for the last to end.
async fn accept(listener: Listener, shards: Shards, mut phases: watch::Receiver<Phase>) {
    loop {
        tokio::select! {
            () = reached(&mut phases, Phase::Draining) => break,
            accepted = listener.accept() => match accepted {
                Ok(socket) => shards.deal(socket),
                Err(error) => {
                    tracing::warn!(%error, listener = "ext_authz", "connection not accepted");
                    sleep(ACCEPT_PAUSE).await;
                }
            },
        }
    }
    drop(listener);
    shards.drain().await;
}
