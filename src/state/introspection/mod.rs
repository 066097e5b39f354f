//! Knows what issuers say about tokens, asks them, and does not let a slow one hold the service
//! (RFC 7662).
//!
//! The promises, for each issuer by itself:
//!
//! - However many checks ask about a token at once, they cause one call, and one who goes away does
//!   not end it for the others.
//! - No check waits longer than `timeout`; no more than `concurrency` calls are under way; and what
//!   comes beyond that is refused at once.
//! - A server that fails again and again is left alone for a while. What it said before counts on.
//! - A token is accepted for `cache_ttl` after the issuer called it active, and not a moment longer.
//! - What is remembered is bounded, and a flood of tokens that are none displaces none that is one.

mod answers;
mod breaker;
mod call;
mod endpoint;
mod status;

pub use answers::Introspected;
pub use status::Status;

use crate::clock::Clock;
use crate::denial::Denial;
use crate::oauth::credentials::Token;
use crate::policy::introspection::IntrospectionRules;
use crate::policy::{Issuer, PolicySet};
use crate::state::http;
use crate::state::jwks::IssuerKeys;
use crate::state::token_cache::{Digest, Seeded};
use answers::{Answers, Finding};
use breaker::{Breaker, Permit, Told};
use call::{Caller, Failure};
use status::Report;
use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

/// Asks one issuer about its tokens.
///
/// Calls run on a runtime of their own choice and end when this is dropped. All methods may be
/// called from any thread and any runtime.
#[derive(Debug)]
pub struct Introspector {
    shared: Arc<Shared>,
    runtime: Handle,
    tasks: Mutex<JoinSet<()>>,
}

/// What calls and those who wait for them have in common.
#[derive(Debug)]
struct Shared {
    caller: Caller,
    answers: Answers,
    traffic: Mutex<Traffic>,
    report: Mutex<Report>,
}

/// The calls that are under way, and whether more may be.
#[derive(Debug, Default)]
struct Traffic {
    flights: HashMap<Digest, watch::Receiver<Flight>, Seeded>,
    breaker: Breaker,
}

/// A call for all who ask about one token.
#[derive(Clone, Debug)]
enum Flight {
    UnderWay,
    Landed(Finding),
    Lost,
}

/// An endpoint cannot be used as it is configured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadEndpoint {
    /// The certification authorities, or the certificate and key, cannot be read.
    Credentials(http::BadCredentials),
    /// The URL is neither `https` nor `http` to loopback, or it holds a password.
    UrlRefused,
    /// The client's name and secret make no header.
    SecretUnusable,
    /// The issuer has no keys to verify signed answers with: a fault of ours.
    KeysMissing,
}

impl Introspector {
    /// One who asks `issuer` as `rules` say, verifies signed answers with `keys`, keeps the claims
    /// at `selection`, and calls on `runtime`.
    ///
    /// `clock` says when a token ends. All spans are measured on the monotonic clock.
    fn start(
        issuer: &Arc<Issuer>,
        rules: &IntrospectionRules,
        keys: &Arc<IssuerKeys>,
        selection: &Arc<[String]>,
        clock: &Arc<dyn Clock>,
        runtime: &Handle,
    ) -> Result<Self, BadEndpoint> {
        let (caller, seeker) = Caller::new(issuer, rules, keys, selection, clock)?;
        let mut tasks = JoinSet::new();
        if let Some(seeker) = seeker {
            tasks.spawn_on(seeker.run(), runtime);
        }
        let shared = Arc::new(Shared {
            caller,
            answers: Answers::new(rules.upkeep),
            traffic: Mutex::default(),
            report: Mutex::default(),
        });
        Ok(Self { shared, runtime: runtime.clone(), tasks: Mutex::new(tasks) })
    }

    /// Whether this asks `issuer` as it demands, so that a new configuration may take it over.
    fn serves(
        &self,
        issuer: &Arc<Issuer>,
        keys: &Arc<IssuerKeys>,
        selection: &Arc<[String]>,
    ) -> bool {
        let caller = &self.shared.caller;
        caller.issuer == *issuer
            && Arc::ptr_eq(&caller.keys, keys)
            && caller.selection == *selection
    }

    /// What the issuer says about `token`, whose SHA-256 is `digest`, now or not long ago.
    ///
    /// Of a token that is itself a JWT, the answer's audience is not looked at, and no JWT is
    /// forwarded in its place. Whether the token is valid at this time is for
    /// [`AccessToken::admit`](crate::oauth::access_token::AccessToken::admit).
    pub async fn introspect(
        &self,
        token: Token<'_>,
        digest: Digest,
    ) -> Result<Introspected, Denial> {
        let finding = match self.shared.remembered(&digest) {
            Some(finding) => finding,
            None => self.asked(token, digest).await?,
        };
        match finding {
            Finding::Active(introspected) => Ok(introspected),
            Finding::Refused(denial) => Err(denial),
        }
    }

    async fn asked(&self, token: Token<'_>, digest: Digest) -> Result<Finding, Denial> {
        let mut flight = match self.board(token, digest) {
            Ok(flight) => flight,
            Err(why) => return Err(self.turned_away(why)),
        };
        let landed = flight.wait_for(|it| !matches!(it, Flight::UnderWay));
        match timeout(self.shared.caller.rules.upkeep.timeout, landed).await {
            Ok(Ok(flight)) => match &*flight {
                Flight::Landed(finding) => Ok(finding.clone()),
                Flight::Lost | Flight::UnderWay => Err(Denial::IntrospectionUnavailable),
            },
            Ok(Err(_)) => Err(Denial::IntrospectionUnavailable),
            Err(_) => Err(self.turned_away("late")),
        }
    }

    fn turned_away(&self, why: &'static str) -> Denial {
        self.shared.report().turned_away(why);
        Denial::IntrospectionUnavailable
    }

    /// The call about this token, if it is under way or may begin, else why not.
    fn board(
        &self,
        token: Token<'_>,
        digest: Digest,
    ) -> Result<watch::Receiver<Flight>, &'static str> {
        let mut traffic = self.shared.traffic();
        if let Some(flight) = traffic.flights.get(&digest) {
            return Ok(flight.clone());
        }
        // A call lands in memory before it leaves the table: who missed both looks once more.
        if let Some(finding) = self.shared.remembered(&digest) {
            return Ok(watch::channel(Flight::Landed(finding)).1);
        }
        if self.shared.caller.rules.upkeep.concurrency <= traffic.flights.len() {
            return Err("busy");
        }
        let permit = traffic.breaker.permit(Instant::now()).ok_or("breaker_open")?;
        let (tell, flight) = watch::channel(Flight::UnderWay);
        traffic.flights.insert(digest, flight.clone());
        drop(traffic);
        let landing =
            Landing { shared: Arc::clone(&self.shared), digest, permit, tell, ended: None };
        self.call(token, landing);
        Ok(flight)
    }

    fn call(&self, token: Token<'_>, landing: Landing) {
        let question = self.shared.caller.question(token);
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        while tasks.try_join_next().is_some() {}
        let call = async move {
            let ended = landing.shared.caller.ask(question).await;
            landing.end(ended);
        };
        tasks.spawn_on(call, &self.runtime);
    }

    /// The state of the introspection.
    pub fn status(&self) -> Status {
        let shared = &self.shared;
        let (in_flight, breaker) = {
            let traffic = shared.traffic();
            (traffic.flights.len(), traffic.breaker.label(Instant::now()))
        };
        let report = shared.report();
        Status {
            issuer: shared.caller.issuer.name.to_string(),
            in_flight,
            active_entries: shared.answers.active(),
            refused_entries: shared.answers.refused(),
            breaker,
            last_error: report.last_error.clone(),
            calls: report.calls.clone(),
            turned_away: report.turned_away.clone(),
        }
    }
}

/// Starts to introspect at those of the issuers of `policies` that have it, in their order. `keys`
/// are theirs, in the same order. Those of `previous` that serve an issuer as it stands are taken
/// over with all that they hold.
pub fn start_all(
    policies: &PolicySet,
    keys: &[Arc<IssuerKeys>],
    previous: &[Option<Arc<Introspector>>],
    clock: &Arc<dyn Clock>,
    runtime: &Handle,
) -> Result<Vec<Option<Arc<Introspector>>>, BadEndpoint> {
    let selection: Arc<[String]> = policies.claims_asked_for().into();
    let introspector = |(place, issuer): (usize, &Arc<Issuer>)| {
        let Some(rules) = &issuer.introspection else { return Ok(None) };
        let keys = keys.get(place).ok_or(BadEndpoint::KeysMissing)?;
        let serves = |it: &&Arc<Introspector>| it.serves(issuer, keys, &selection);
        if let Some(same) = previous.iter().flatten().find(serves) {
            return Ok(Some(Arc::clone(same)));
        }
        let started = Introspector::start(issuer, rules, keys, &selection, clock, runtime);
        started.map(|it| Some(Arc::new(it)))
    };
    policies.issuers.iter().enumerate().map(introspector).collect()
}

impl Shared {
    /// What was found not long ago, as long as the issuer still has the key with which it signed,
    /// for the algorithm with which it did.
    fn remembered(&self, digest: &Digest) -> Option<Finding> {
        let finding = self.answers.get(digest)?;
        if let Finding::Active(Introspected { signed_by: Some(signed_by), .. }) = &finding
            && self.caller.keys.current()?.behind(signed_by).is_none()
        {
            return None;
        }
        Some(finding)
    }

    fn remember(&self, digest: Digest, finding: &Finding) {
        let lifetime = match finding {
            Finding::Refused(_) => Duration::MAX,
            Finding::Active(it) => {
                let end = it.token.expires().saturating_add(self.caller.issuer.clock_leeway);
                end.since(self.caller.clock.now())
            }
        };
        self.answers.insert(digest, finding, lifetime);
    }

    fn traffic(&self) -> MutexGuard<'_, Traffic> {
        self.traffic.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn report(&self) -> MutexGuard<'_, Report> {
        self.report.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The end of a call, however it comes about: a panic and an abort drop it, too.
struct Landing {
    shared: Arc<Shared>,
    digest: Digest,
    permit: Permit,
    tell: watch::Sender<Flight>,
    ended: Option<Result<Finding, Failure>>,
}

impl Landing {
    fn end(mut self, ended: Result<Finding, Failure>) {
        self.ended = Some(ended);
    }
}

impl Drop for Landing {
    fn drop(&mut self) {
        let shared = &*self.shared;
        let ended = self.ended.take().unwrap_or(Err(Failure::Aborted));
        let told = match &ended {
            Ok(_) => Told::Answers,
            Err(failure) => failure.tells(),
        };
        if let Ok(finding) = &ended {
            shared.remember(self.digest, finding);
        }
        let now = Instant::now();
        let (turned, breaker) = {
            let mut traffic = shared.traffic();
            traffic.flights.remove(&self.digest);
            (traffic.breaker.ended(self.permit, told, now), traffic.breaker.label(now))
        };
        let issuer = &*shared.caller.issuer.name;
        if turned {
            tracing::warn!(issuer, breaker, "introspection circuit breaker");
        }
        let flight = match ended {
            Ok(finding) => {
                shared.report().ended(finding.label());
                Flight::Landed(finding)
            }
            Err(failure) => {
                if shared.report().failed(&failure, shared.caller.clock.now(), now) {
                    tracing::warn!(issuer, error = %failure, "token not introspected");
                }
                Flight::Lost
            }
        };
        self.tell.send_replace(flight);
    }
}

impl Finding {
    /// The label in the status and in metrics.
    const fn label(&self) -> &'static str {
        match self {
            Self::Active(_) => "active",
            Self::Refused(Denial::TokenInactive) => "inactive",
            Self::Refused(_) => "refused",
        }
    }
}

impl fmt::Display for BadEndpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Credentials(bad) => bad.fmt(f),
            Self::UrlRefused => f.write_str("the URL is neither https nor http to loopback"),
            Self::SecretUnusable => f.write_str("the client's name and secret make no header"),
            Self::KeysMissing => f.write_str("the issuer has no keys"),
        }
    }
}

impl std::error::Error for BadEndpoint {}
