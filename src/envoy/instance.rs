//! One configuration, with its gate and the tasks that keep it up to date.

use crate::judge::{in_words, judge};
use crate::process::Process;
use keybound::admin::Admin;
use keybound::admin::explain::Permits;
use keybound::config::{Address, Attempt, Config, Origin};
use keybound::front::module::Endpoint;
use keybound::gate::Gate;
use keybound::health::{Health, Phase};
use keybound::installation::{Checker, Installation, InstallationRules, Made};
use keybound::listener::places::Places;
use keybound::server::events::EventsServer;
use keybound::server::reload::{EventsDoor, InForce, Reloader};
use keybound::server::tls::{self, Spoken};
use keybound::server::{self, readiness, reminder};
use keybound::telemetry::collector::Export;
use keybound::telemetry::metrics::VERSION;
use keybound::telemetry::reloads::Reloads;
use std::future::pending;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio::time::sleep;

/// A configuration in force.
#[derive(Debug)]
pub(crate) struct Instance {
    /// Where the configuration stands.
    pub(crate) origin: Origin,
    /// The address of its admin listener.
    pub(crate) admin: Address,
    endpoint: Arc<Endpoint>,
    health: Arc<Health>,
    reloads: Arc<Reloads>,
    ask: mpsc::Sender<()>,
    tasks: Vec<AbortHandle>,
    export: Mutex<Option<Export>>,
    runtime: Handle,
}

/// A configuration that can be started.
#[derive(Debug)]
pub(crate) struct Candidate {
    origin: Origin,
    config: Config,
    source_files: Vec<keybound::config::SourceFile>,
}

impl Candidate {
    /// Reads the configuration at `origin`.
    ///
    /// # Errors
    ///
    /// All of its problems, each with its place.
    pub(crate) fn read(origin: &Origin) -> Result<Self, Vec<String>> {
        let Attempt { outcome, source_files } = origin.attempt();
        let config = outcome.and_then(judge).map_err(|it| in_words(&it))?;
        Ok(Self { origin: origin.clone(), config, source_files })
    }

    /// The SHA-256 of the configuration.
    pub(crate) fn digest(&self) -> &str {
        &self.config.digest
    }

    /// What it demands.
    pub(crate) const fn rules(&self) -> &InstallationRules {
        &self.config.rules
    }
}

impl Instance {
    /// Puts a configuration into force. State of `previous` is taken over where it still applies.
    ///
    /// # Errors
    ///
    /// Sentences for the operator. Nothing has changed then.
    pub(crate) fn start(
        candidate: Candidate,
        previous: Option<&Installation>,
        process: &Process,
    ) -> Result<Self, Vec<String>> {
        let Candidate { origin, config, source_files } = candidate;
        let Config { listen, rules, telemetry, warnings, digest, outline, .. } = config;
        let (runtime, clock) = (&process.runtime, &process.clock);
        // Timers and tasks of its parts belong to our own thread.
        let _inside = runtime.enter();
        let sentence = |error: &dyn std::fmt::Display| vec![error.to_string()];
        let (sinks, export) = server::sinks(telemetry.clone(), clock, &process.metrics)
            .map_err(|it| sentence(&it))?;
        let events_tls = listen.events.as_ref().map(EventsServer::spoken).transpose();
        let events_tls = events_tls.map_err(|it| sentence(&it))?.flatten();
        let made = Installation::start(rules, previous, clock, runtime);
        let Made { installation, losses } = made.map_err(|it| sentence(&it))?;
        for warning in &warnings {
            tracing::warn!(%warning, "configuration warning");
        }
        for remark in losses {
            tracing::warn!(remark, "configuration remark");
        }
        tracing::info!(from = shown(&origin), digest, version = VERSION, "checking inside Envoy");
        let checker = Checker::new(Arc::clone(clock));
        let gate = Gate::new(checker, installation, digest, Arc::clone(&process.metrics))
            .with_sinks(sinks)
            .noting_in(Arc::clone(&process.denials))
            .beside_others();
        let gate = Arc::new(gate);
        let (reloads, health) = (Arc::<Reloads>::default(), Arc::<Health>::default());
        let (ask, asks) = mpsc::channel(1);
        let in_force = InForce {
            origin: origin.clone(),
            source_files,
            admin: listen.admin.clone(),
            telemetry,
            outline,
            logged: &warnings,
        };
        let door = EventsDoor { listener: listen.events.clone(), tls: events_tls.clone() };
        let reloader =
            Reloader::new(in_force, Arc::clone(&gate), Arc::clone(&reloads), Arc::clone(clock))
                .with_events(door);
        let reloading =
            runtime.spawn(async move { match reloader.judged_by(judge).run(asks).await {} });
        let tasks = vec![
            reloading.abort_handle(),
            runtime.spawn(ready(Arc::clone(&gate), Arc::clone(&health))).abort_handle(),
            runtime.spawn(remind(Arc::clone(&gate))).abort_handle(),
            runtime.spawn(hear(Arc::clone(&gate))).abort_handle(),
        ];
        if events_tls.is_some() {
            let shown = tls::validities(None, listen.events.as_ref());
            process.metrics.certificates().set(&shown);
        }
        let events = listen.events.map(|it| it.address);
        let events =
            events.map(|it| runtime.spawn(receive(it, events_tls.clone(), Arc::clone(&gate))));
        let tasks = tasks.into_iter().chain(events.map(|it| it.abort_handle())).collect();
        let endpoint =
            Arc::new(Endpoint::new(gate, runtime.clone()).capturing(process.capture.clone()));
        let export = Mutex::new(export);
        let (admin, runtime) = (listen.admin, runtime.clone());
        Ok(Self { origin, admin, endpoint, health, reloads, ask, tasks, export, runtime })
    }

    /// What checks requests under it.
    pub(crate) const fn endpoint(&self) -> &Arc<Endpoint> {
        &self.endpoint
    }

    /// The gate.
    pub(crate) fn gate(&self) -> &Arc<Gate> {
        self.endpoint.gate()
    }

    /// Has the configuration read anew at once.
    pub(crate) fn reload(&self) {
        // A reload that is asked for and has not begun yet will see this change, too.
        let _asked = self.ask.try_send(());
    }

    /// What the admin listener shows of it.
    pub(crate) fn page(&self, process: &Process, places: &Arc<Places>) -> Admin {
        Admin {
            gate: Arc::clone(self.gate()),
            health: Arc::clone(&self.health),
            started: process.started,
            connections: Arc::from([]),
            places: vec![Arc::clone(places)],
            reloads: Arc::clone(&self.reloads),
            history: Arc::clone(&process.history),
            explaining: Permits::default(),
        }
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        self.tasks.iter().for_each(AbortHandle::abort);
        let export = self.export.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(export) = export {
            self.runtime.spawn(export.finish());
        }
    }
}

async fn ready(gate: Arc<Gate>, health: Arc<Health>) {
    readiness::reached(&gate).await;
    tracing::info!("ready");
    health.enter(Phase::Ready);
}

async fn remind(gate: Arc<Gate>) {
    match reminder::run(&gate).await {}
}

/// Has issuers asked for events. Envoy may still refuse the listener, and what was acknowledged would be
/// forgotten with it.
async fn hear(gate: Arc<Gate>) {
    sleep(ACCEPTED).await;
    gate.hear();
}

/// How long until Envoy has surely taken a listener, or not.
const ACCEPTED: Duration = Duration::from_secs(1);

/// Listens for security events as soon as the address is to be had: another process may have it, as the one
/// before a hot restart has, or another configuration.
async fn receive(address: Address, tls: Option<Arc<Spoken>>, gate: Arc<Gate>) {
    let mut told = false;
    loop {
        match EventsServer::start(&address, tls.clone(), &gate) {
            Ok(server) => {
                tracing::info!(events = %server.address(), "listening");
                // It listens until this task ends.
                pending::<()>().await;
                drop(server);
            }
            Err(error) => {
                if !std::mem::replace(&mut told, true) {
                    tracing::warn!(%error, "the address for events is tried again until it is free");
                }
                sleep(TRY_AGAIN).await;
            }
        }
    }
}

/// How long until an address that is in use is tried again.
const TRY_AGAIN: Duration = Duration::from_secs(2);

fn shown(origin: &Origin) -> String {
    match origin {
        Origin::File(path) => path.display().to_string(),
        Origin::Inline(_) => "Envoy's configuration".to_owned(),
    }
}
