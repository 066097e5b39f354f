//! Reloads: a new configuration is built beside the old one while requests are served, and then
//! replaces it as a whole or not at all.

use super::StartFailure;
use super::tls::{self, Spoken};
use crate::clock::Clock;
use crate::config::watch::{FileState, Watch};
use crate::config::{
    Address, Attempt, Config, EventsListener, Listen, Origin, Outline, Problem, SourceFile,
    Telemetry, Tls,
};
use crate::front::forward_auth::Secret;
use crate::gate::Gate;
use crate::installation::{Installation, Made};
use crate::telemetry::metrics::Reload;
use crate::telemetry::reloads::Reloads;
use arc_swap::ArcSwapOption;
use futures_util::future::{join, join_all};
use std::convert::Infallible;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep, timeout};
use tokio_rustls::rustls::ServerConfig;

/// Applies the configuration whenever it changes.
#[derive(Debug)]
pub struct Reloader {
    origin: Origin,
    watch: Watch,
    /// The warnings of the configuration in force, which are not logged again.
    logged: Vec<String>,
    /// What the configuration in force says.
    outline: Outline,
    /// The files that were reported as missing.
    missing: Vec<PathBuf>,
    clock: Arc<dyn Clock>,
    gate: Arc<Gate>,
    /// The admin address, which does not change at a reload.
    admin: Address,
    /// The telemetry settings, which do not change at a reload.
    telemetry: Telemetry,
    reloads: Arc<Reloads>,
    doors: Option<Doors>,
    events: EventsDoor,
    judge: Judge,
}

/// What a reload follows on from.
#[derive(Debug)]
pub struct InForce<'a> {
    /// Where the configuration stands.
    pub origin: Origin,
    /// The files that it was read from.
    pub source_files: Vec<SourceFile>,
    /// Its admin address.
    pub admin: Address,
    /// Its telemetry settings.
    pub telemetry: Telemetry,
    /// What it says.
    pub outline: Outline,
    /// Its warnings, which were logged.
    pub logged: &'a [Problem],
}

/// What the front end that runs under a configuration has to say about one: more warnings, or why it
/// cannot.
pub type Judge = fn(Config) -> Result<Config, Vec<Problem>>;

/// The listeners for proxies, where there are some.
#[derive(Debug)]
pub(super) struct Doors {
    /// The listeners, which do not change at a reload.
    pub(super) listen: Listen,
    /// The secret of the forward-auth listener.
    pub(super) secret: Arc<ArcSwapOption<Secret>>,
    /// TLS, for each listener that uses it.
    pub(super) tls: Vec<Arc<Spoken>>,
}

/// The listener for events, where there is one.
#[derive(Debug, Default)]
pub struct EventsDoor {
    /// As it was configured. Its address does not change at a reload.
    pub listener: Option<EventsListener>,
    /// TLS, if it uses it.
    pub tls: Option<Arc<Spoken>>,
}

/// The result of inspecting the files.
#[derive(Debug)]
enum Seen {
    /// They are unchanged since the configuration was read.
    Same,
    /// They have changed.
    New(FileState),
    /// They are still being written.
    Unsettled,
}

/// The polling interval. Together with the time for which files must be unchanged, it leaves part
/// of a second for the rest of a reload.
const LOOK: Duration = Duration::from_millis(250);

/// The longest polling interval after a change.
const CLOSE_LOOK: Duration = Duration::from_millis(100);

/// After this many polls of files that keep changing, other work comes first.
const LOOKS: usize = 20;

/// How long to wait for the first keys of a new issuer and for a new Redis, so that requests find
/// them ready. An outage there must not delay the other changes.
const READY_WITHIN: Duration = Duration::from_secs(5);

impl Reloader {
    /// Applies changes of the configuration in force to `gate`.
    pub fn new(
        in_force: InForce<'_>,
        gate: Arc<Gate>,
        reloads: Arc<Reloads>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let InForce { origin, source_files, admin, telemetry, outline, logged } = in_force;
        Self {
            origin,
            watch: Watch::over(source_files, Instant::now()),
            logged: logged.iter().map(unplaced).collect(),
            outline,
            missing: vec![],
            clock,
            gate,
            admin,
            telemetry,
            reloads,
            doors: None,
            events: EventsDoor::default(),
            judge: Ok,
        }
    }

    /// The same, which asks `judge` about each new configuration.
    #[must_use]
    pub fn judged_by(self, judge: Judge) -> Self {
        Self { judge, ..self }
    }

    /// The same, with listeners for proxies.
    pub(super) fn with_doors(self, doors: Doors) -> Self {
        Self { doors: Some(doors), ..self }
    }

    /// The same, with a listener for events.
    #[must_use]
    pub fn with_events(self, events: EventsDoor) -> Self {
        Self { events, ..self }
    }

    /// Reloads when somebody `asks`, and when a file has changed.
    pub async fn run(mut self, mut asks: mpsc::Receiver<()>) -> Infallible {
        loop {
            tokio::select! {
                Some(()) = asks.recv() => self.reload(None).await,
                () = sleep(LOOK) => {
                    let state = self.settled().await;
                    self.follow(state).await;
                }
            }
        }
    }

    /// Reloads if `state` is new, and logs once which files are missing.
    async fn follow(&mut self, state: io::Result<Seen>) {
        let state = match state {
            Ok(Seen::New(state)) => state,
            Ok(Seen::Unsettled) => return,
            Ok(Seen::Same) => {
                // The files are back, so a later loss is logged again.
                if !self.missing.is_empty() {
                    self.reload(None).await;
                }
                return;
            }
            Err(error) => {
                tracing::error!(%error, "configuration not watched");
                return;
            }
        };
        let files = self.watch.missing(&state);
        if files.is_empty() {
            return self.reload(Some(&state)).await;
        }
        if files != self.missing {
            let names: Vec<_> = files.iter().map(|it| it.display().to_string()).collect();
            let files_missing = names.join(" ");
            tracing::warn!(
                files = files_missing,
                "configuration file missing: keeping the previous one"
            );
            let problem = |it: &&Path| format!("cannot read {}: it is missing", it.display());
            let problems = files.iter().map(problem).collect();
            self.gate.metrics().reloaded(Reload::Refused);
            self.reloads.ended(Reload::Refused, problems);
            self.missing = files.into_iter().map(Path::to_owned).collect();
        }
    }

    /// The content of the files, once they have stopped changing.
    async fn settled(&mut self) -> io::Result<Seen> {
        for _ in 0..LOOKS {
            let state = self.look().await?;
            if self.watch.is_same(&state) {
                return Ok(Seen::Same);
            }
            let wait = self.watch.settles().saturating_duration_since(Instant::now());
            if wait.is_zero() {
                return Ok(Seen::New(state));
            }
            sleep(wait.min(CLOSE_LOOK)).await;
        }
        Ok(Seen::Unsettled)
    }

    /// On another thread, since the disk may be slow.
    async fn look(&mut self) -> io::Result<FileState> {
        let mut watch = self.watch.clone();
        let look = move || (watch.look(Instant::now()), watch);
        let (state, watch) = spawn_blocking(look).await?;
        self.watch = watch;
        Ok(state)
    }

    /// Reloads the files in the state `seen`; `None`: in any state.
    async fn reload(&mut self, seen: Option<&FileState>) {
        let (origin, judge) = (self.origin.clone(), self.judge);
        let attempt = move || {
            let now = Instant::now();
            let Attempt { outcome, source_files } = origin.attempt();
            (outcome.and_then(judge), Watch::over(source_files, now))
        };
        let (outcome, watch) = match spawn_blocking(attempt).await {
            Ok(attempt) => attempt,
            Err(error) => return self.refuse(vec![error.to_string()]),
        };
        if let Some(state) = seen {
            let was_written = !self.watch.has_seen(state, &watch);
            // The next poll finds what was written meanwhile.
            if was_written || self.watch.adopt(&watch, Instant::now(), self.clock.now()) {
                return;
            }
        }
        let changed = watch.changed_since(&self.watch);
        let files = changed.map(|it| format!("{}: changed", it.display())).collect();
        self.watch = watch;
        // Files that are still missing are among the problems.
        self.missing.clear();
        match outcome {
            Ok(config) => {
                if let Err(failure) = self.apply(config, files).await {
                    self.refuse(vec![failure.to_string()]);
                }
            }
            Err(problems) => self.refuse(problems.iter().map(ToString::to_string).collect()),
        }
    }

    fn refuse(&self, problems: Vec<String>) {
        for problem in &problems {
            tracing::error!(problem, "configuration problem");
        }
        tracing::error!(
            problems = problems.len(),
            "configuration rejected: keeping the previous one"
        );
        self.gate.metrics().reloaded(Reload::Refused);
        self.reloads.ended(Reload::Refused, problems);
    }

    /// Applies a configuration. Everything that can fail comes first, and changes nothing.
    async fn apply(&mut self, config: Config, files: Vec<String>) -> Result<(), StartFailure> {
        let Config { listen, rules, telemetry, warnings, digest, outline, .. } = config;
        let old = self.gate.active();
        let spoken = self.doors.as_ref().map(|it| it.speak(&listen)).transpose()?;
        let of_events = self.events.speak(&listen)?;
        let previous_digest = old.digest.clone();
        let (old, runtime) = (&old.installation, Handle::current());
        let made = Installation::start(rules, Some(old), &self.clock, &runtime)?;
        let Made { installation, losses } = made;
        let late = ready(&installation).await;

        self.gate.replace(installation, digest);
        let doors = self.doors.as_mut();
        let mut is_new = doors.is_some_and(|it| it.follow(&listen, spoken.unwrap_or_default()));
        is_new |= self.events.follow(&listen, of_events);
        if is_new {
            let own = self.doors.as_ref().and_then(|it| it.listen.tls.as_ref());
            let shown = tls::validities(own, self.events.listener.as_ref());
            self.gate.metrics().certificates().set(&shown);
        }
        let remarks = [self.for_a_restart(&listen, &telemetry), losses, late].concat();
        self.tell(&warnings, &remarks);
        let changes = [outline.changes_from(&self.outline), files].concat();
        self.outline = outline;
        for change in &changes {
            tracing::info!(change, "configuration changed");
        }
        let digest = &*self.gate.active().digest;
        tracing::info!(digest, previous_digest, changes = changes.len(), "configuration reloaded");
        self.gate.metrics().reloaded(Reload::Applied);
        self.reloads.changed(previous_digest, changes);
        self.reloads.ended(Reload::Applied, remarks);
        Ok(())
    }

    /// Logs the warnings that the previous configuration did not have.
    fn tell(&mut self, warnings: &[Problem], remarks: &[String]) {
        let logged: Vec<_> = warnings.iter().map(unplaced).chain(remarks.iter().cloned()).collect();
        for (warning, text) in warnings.iter().zip(&logged) {
            if !self.logged.contains(text) {
                tracing::warn!(%warning, "configuration warning");
            }
        }
        for remark in remarks.iter().filter(|it| !self.logged.contains(it)) {
            tracing::warn!(remark, "configuration remark");
        }
        self.logged = logged;
    }

    /// Changes that take effect only after a restart.
    fn for_a_restart(&self, listen: &Listen, telemetry: &Telemetry) -> Vec<String> {
        let doors = self.doors.iter().flat_map(|it| it.for_a_restart(listen));
        let own = [
            ("listen.admin", listen.admin != self.admin),
            ("telemetry", *telemetry != self.telemetry),
        ];
        let own = own.into_iter().filter_map(|(key, differs)| differs.then_some(key));
        let events = self.events.differs(listen).then_some("listen.events");
        doors
            .chain(events)
            .chain(own)
            .map(|key| format!("{key}: changes only with a restart"))
            .collect()
    }
}

impl Doors {
    /// What the listeners will say and expect in TLS, if that changes.
    fn speak(&self, listen: &Listen) -> Result<Vec<Arc<ServerConfig>>, StartFailure> {
        let new_tls = listen.tls.as_ref().filter(|it| self.listen.tls.as_ref() != Some(it));
        let speak = |tls: &Tls| self.tls.iter().map(|it| Ok(it.with(tls)?)).collect();
        new_tls.map(speak).transpose().map(Option::unwrap_or_default)
    }

    /// Follows `listen`, and says whether there are other certificates now.
    fn follow(&mut self, listen: &Listen, spoken: Vec<Arc<ServerConfig>>) -> bool {
        let is_new = !spoken.is_empty() && listen.tls.is_some();
        if is_new {
            self.tls.iter().zip(spoken).for_each(|(tls, new)| tls.replace(new));
            self.listen.tls.clone_from(&listen.tls);
            tracing::info!("TLS certificate and authorities replaced, for new connections");
        }
        let secret = listen.forward_auth.as_ref().and_then(|it| it.asker.secret.clone());
        self.secret.store(secret.map(Arc::new));
        is_new
    }

    fn for_a_restart(&self, listen: &Listen) -> impl Iterator<Item = &'static str> {
        let [asked, will_ask] = [&self.listen, listen].map(|it| it.forward_auth.as_ref());
        let same_place = asked.map(|it| &it.address) == will_ask.map(|it| &it.address);
        let same_way = asked.map(|it| &it.asker.flavour) == will_ask.map(|it| &it.asker.flavour);
        [
            ("listen.ext_authz", listen.ext_authz != self.listen.ext_authz),
            ("listen.forward_auth", !same_place),
            ("forward_auth", same_place && !same_way),
            ("listen.tls", listen.tls.is_some() != self.listen.tls.is_some()),
        ]
        .into_iter()
        .filter_map(|(key, differs)| differs.then_some(key))
    }
}

impl EventsDoor {
    /// What it will say in TLS, if that changes.
    fn speak(&self, listen: &Listen) -> Result<Option<Arc<ServerConfig>>, StartFailure> {
        let own = of_events(self.listener.as_ref());
        let new = of_events(listen.events.as_ref()).filter(|it| own != Some(it));
        let spoken = self.tls.as_ref().zip(new).map(|(it, new)| it.with(new));
        Ok(spoken.transpose()?)
    }

    /// Follows `listen`, and says whether there is another certificate now.
    fn follow(&mut self, listen: &Listen, spoken: Option<Arc<ServerConfig>>) -> bool {
        let Some((tls, new)) = self.tls.as_ref().zip(spoken) else { return false };
        tls.replace(new);
        let new = listen.events.as_ref().and_then(|it| it.tls.clone());
        self.listener.iter_mut().for_each(|it| it.tls.clone_from(&new));
        tracing::info!("TLS certificate of the listener for events replaced");
        true
    }

    /// Whether `listen` has it elsewhere, or has or has not TLS in contrast to it.
    fn differs(&self, listen: &Listen) -> bool {
        let [listens, will_listen] = [self.listener.as_ref(), listen.events.as_ref()];
        listens.map(|it| &it.address) != will_listen.map(|it| &it.address)
            || of_events(listens).is_some() != of_events(will_listen).is_some()
    }
}

fn of_events(listener: Option<&EventsListener>) -> Option<&Tls> {
    listener?.tls.as_ref()
}

/// Waits until every issuer has its first keys or failed to get them, and the replay store is
/// reachable, within a limit. Returns what is not ready by then.
async fn ready(installation: &Installation) -> Vec<String> {
    let issuers = &installation.issuers;
    let keys = timeout(READY_WITHIN, join_all(issuers.iter().map(|it| it.keys.tried())));
    let replay = timeout(READY_WITHIN, installation.replay.reachable());
    let (_, replay) = join(keys, replay).await;
    // In either case, slow or failed, the tokens of this issuer are denied for now.
    let missing = issuers.iter().filter(|it| it.keys.current().is_none());
    let late_line = |issuer| format!("{issuer}: no keys yet");
    let mut late: Vec<_> = missing.map(|it| late_line(it.name())).collect();
    if replay.is_err() {
        late.push("dpop.replay: Redis is not reached yet, and DPoP proofs are refused".to_owned());
    }
    late
}

/// A warning without its line number, to recognise it after lines were added above it.
pub(super) fn unplaced(warning: &Problem) -> String {
    format!("{}: {}", warning.path, warning.message)
}
