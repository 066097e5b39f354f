//! Token introspection (RFC 7662), in which neither a slow issuer nor a flood of invalid tokens
//! blocks good ones.
//!
//! Each issuer is independent of the others, and for each:
//!
//! - However many checks ask about a token at once, they share one call, which goes on if one of
//!   them gives up.
//! - No check waits longer than `timeout`, and at most `concurrency` calls are in flight.
//! - A token is accepted for at most `cache_ttl` after the issuer called it active.
//! - Caches are bounded, and a flood of invalid tokens evicts no valid one.
//!
//! # Priorities
//!
//! Anybody can make up tokens, and may know some at which the server fails. A good token that is
//! new looks the same. So failures of one token do not count against another, as far as the two can
//! be told apart (`Rank`):
//!
//! 1. *Known*: it was active in the last hour, even if that result has expired; or it is a JWT,
//!    which is introspected only after its signature was verified.
//! 2. *Returning*: it was turned away before. A client retries; an attacker who makes up a new
//!    token for each request does not, and retrying would cost twice as many requests.
//! 3. *New*: all others, and tokens whose last call failed.
//!
//! What the issuer does, and what follows:
//!
//! - *It fails at a token* (5xx, nonsense, timeout). The failure is cached for this token: for a
//!   quarter of a second at first and twice as long with each failure, up to `negative_ttl`. A good
//!   token survives a short outage; one at which the server always fails causes few calls.
//! - *It fails at all tokens* (`breaker`): at least five different ones, for two seconds, without
//!   an answer in between. Then one trial call at a time tests whether it is back. A flood of
//!   tokens at which the server fails leaves gaps in which good ones are answered, so new ones
//!   still get through. Known tokens have a circuit of their own, which only their own failures
//!   open.
//! - *It limits our calls* (`pace`): the rate falls below the one that it answered before, and
//!   grows a little each second. Known tokens are never delayed; the calls for them are taken from
//!   the budget of the others. During a `Retry-After`, calls are made for known tokens only.
//! - *It is slow, or many tokens come* (`places`): a quarter of the `concurrency` is reserved for
//!   known tokens. Other calls queue, and the last to come is served first, as it has the most time
//!   left.
//!
//! If the issuer answers fewer calls than a flood asks for, new tokens get a fair share of the rest
//! and no more, since nothing tells them from the flood before the issuer answers. A good token
//! that is turned away goes before all new ones when it comes again.

mod answers;
mod assertion;
mod authentication;
mod breaker;
mod call;
mod calls;
mod endpoint;
mod failure;
mod form;
mod pace;
mod places;
mod rank;
mod rules;
mod status;
mod survey;

pub use answers::Introspected;
pub use assertion::AssertionKey;
pub use authentication::{ClientAuthentication, Identity};
pub use rules::{IntrospectionRules, IntrospectionUpkeep};
pub use status::Status;
pub use survey::{Survey, survey};

use crate::clock::Clock;
use crate::state::http;
use crate::state::jwks::IssuerKeys;
use crate::state::token_cache::Digest;
use crate::state::waits::after;
use answers::{Answers, Finding, Refused};
use call::Caller;
use calls::{Call, Calls, Load, Running};
use keybound_core::oauth::Token;
use keybound_core::policy::Issuer;
use keybound_core::{Denial, Detail, Unconfirmed};
use rank::{Rank, TurnedAway};
use status::Report;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

/// Introspection at one issuer.
///
/// Calls run on a runtime of their own and are aborted when this is dropped. All methods may be
/// called from any thread and any runtime.
#[derive(Debug)]
pub struct Introspector {
    shared: Arc<Shared>,
    runtime: Handle,
    tasks: Mutex<JoinSet<()>>,
}

/// The state shared by calls and waiting checks.
#[derive(Debug)]
struct Shared {
    caller: Caller,
    answers: Answers,
    /// Locked before `load` where both are.
    calls: Mutex<Calls>,
    load: Arc<Mutex<Load>>,
    report: Arc<Mutex<Report>>,
}

/// An endpoint cannot be used as it is configured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadEndpoint {
    /// The certification authorities, or the certificate and key, cannot be read.
    Credentials(http::BadCredentials),
    /// The URL is neither `https` nor `http` to loopback, or it holds a password.
    UrlRefused,
    /// The client id and secret cannot be sent in a header.
    SecretUnusable,
}

impl Introspector {
    /// One who asks `issuer` as `rules` say, verifies signed answers with `keys`, keeps the claims
    /// at `selection`, and calls on `runtime`. What `previous` heard of active tokens counts on, as
    /// it reads under these rules, and the issuer is spared as it was.
    ///
    /// `clock` says when a token ends. All spans are measured on the monotonic clock.
    fn start(
        terms: &Terms<'_>,
        previous: Option<&Self>,
        clock: &Arc<dyn Clock>,
        runtime: &Handle,
    ) -> Result<Self, BadEndpoint> {
        let (caller, seeker) = Caller::new(terms, clock)?;
        let mut tasks = JoinSet::new();
        if let Some(seeker) = seeker {
            tasks.spawn_on(seeker.run(), runtime);
        }
        let upkeep = terms.rules.upkeep;
        // A server that failed to send a JWT may well succeed when none is asked for.
        let asks_alike = |it: &&Self| it.shared.caller.rules.forward_jwt == terms.rules.forward_jwt;
        let [heard, failed] =
            [previous, previous.filter(asks_alike)].map(|it| it.map(|it| &it.shared.answers));
        let shared = Arc::new(Shared {
            caller,
            answers: Answers::new(upkeep, heard, failed),
            calls: Mutex::default(),
            load: previous.map(|it| Arc::clone(&it.shared.load)).unwrap_or_default(),
            report: previous.map(|it| Arc::clone(&it.shared.report)).unwrap_or_default(),
        });
        Ok(Self { shared, runtime: runtime.clone(), tasks: Mutex::new(tasks) })
    }

    /// Whether this matches `terms`, so that a new configuration may take it over.
    fn serves(&self, terms: &Terms<'_>) -> bool {
        let caller = &self.shared.caller;
        caller.issuer == *terms.issuer
            && caller.rules == *terms.rules
            && caller.ca.as_deref() == terms.ca
            && caller.allows_http() == terms.allow_http
            && Arc::ptr_eq(&caller.keys, terms.keys)
            && caller.selection == *terms.selection
    }

    /// Whether the issuer would give the same responses: same endpoint, same client. Other
    /// differences affect only how they are read.
    fn hears_the_same(&self, terms: &Terms<'_>) -> bool {
        let caller = &self.shared.caller;
        caller.issuer.name == terms.issuer.name
            && caller.rules.endpoint == terms.rules.endpoint
            && caller.rules.client_id == terms.rules.client_id
    }

    /// Whether this continues the counters of `other`.
    pub fn continues(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.shared.report, &other.shared.report)
    }

    /// How long an active result is cached.
    pub fn cache_ttl(&self) -> Duration {
        self.shared.caller.rules.upkeep.cache_ttl
    }

    /// The issuer's result for `token`, whose SHA-256 is `digest`, from a call or the cache.
    ///
    /// For a token that is itself a JWT, whose signature must have been verified, the audience of
    /// the response is ignored, and no JWT is forwarded in its place. Whether the token is valid at
    /// this time is for [`AccessToken::admit`](keybound_core::oauth::AccessToken::admit) to decide.
    ///
    /// This waits no longer than `patience`, or the `timeout` of a call where that is more.
    pub async fn introspect(
        &self,
        token: Token<'_>,
        digest: Digest,
        patience: Duration,
    ) -> Result<Introspected, Unconfirmed> {
        let finding = match self.shared.remembered(&digest) {
            Some(Finding::Active(was)) if !self.shared.caller.reads_as(&was) => {
                match self.read_again(&was, token, digest).await {
                    Some(finding) => finding,
                    None => self.asked(token, digest, patience).await?,
                }
            }
            Some(finding) => finding,
            None => self.asked(token, digest, patience).await?,
        };
        match finding {
            Finding::Active(introspected) => Ok(introspected),
            Finding::Refused(Refused { denial, why }) => {
                Err(Unconfirmed { refusal: denial.into(), why })
            }
        }
    }

    /// The result under these rules of a response that was read under others.
    async fn read_again(
        &self,
        was: &Introspected,
        token: Token<'_>,
        digest: Digest,
    ) -> Option<Finding> {
        let answers = &self.shared.answers;
        if let Some(refused) = answers.refusal(&digest) {
            return Some(Finding::Refused(refused));
        }
        let found = self.shared.caller.read_again(was, token.looks_like_jwt()).await?;
        match &found {
            Finding::Active(found) => answers.replace(digest, found),
            // The response stays cached: under the previous rules, the token is active.
            Finding::Refused(refused) => answers.refuse(digest, refused.clone()),
        }
        Some(found)
    }

    async fn asked(
        &self,
        token: Token<'_>,
        digest: Digest,
        patience: Duration,
    ) -> Result<Finding, Unconfirmed> {
        let caller = &self.shared.caller;
        let timeout = caller.rules.upkeep.timeout;
        let last = after(Instant::now(), patience.max(timeout));
        // The time for finding the endpoint is not the issuer's time to answer.
        let is_found = timeout_at(last, caller.is_found()).await.is_ok();
        let rank =
            if token.looks_like_jwt() { Rank::Known } else { self.shared.answers.rank(&digest) };
        let turned_away = |why| Err(self.shared.turned_away(digest, rank, why));
        if !is_found {
            return turned_away(TurnedAway::Late);
        }
        let deadline = after(Instant::now(), timeout);
        let mut call = match self.join_or_begin(token, digest, rank, deadline) {
            Ok(call) => call,
            Err(why) => return turned_away(why),
        };
        let ended = call.wait_for(|it| !matches!(it, Call::UnderWay));
        match timeout_at(deadline.min(last), ended).await {
            Ok(Ok(call)) => match &*call {
                Call::Ended(finding) => Ok(finding.clone()),
                Call::TurnedAway(why) => turned_away(*why),
                Call::TooLate => turned_away(TurnedAway::Late),
                Call::Failed(why) => {
                    let (refusal, why) =
                        (Detail::IssuerAnswerUnusable.into(), Some(Arc::clone(why)));
                    Err(Unconfirmed { refusal, why })
                }
                Call::UnderWay => Err(Detail::IssuerAnswerUnusable.into()),
            },
            Ok(Err(_)) => Err(Detail::IssuerAnswerUnusable.into()),
            Err(_) => turned_away(TurnedAway::Late),
        }
    }

    /// The call about this token, joined or started, or why none may be made.
    fn join_or_begin(
        &self,
        token: Token<'_>,
        digest: Digest,
        rank: Rank,
        deadline: Instant,
    ) -> Result<watch::Receiver<Call>, TurnedAway> {
        let shared = &self.shared;
        let mut calls = shared.calls();
        if let Some(call) = calls.get(&digest) {
            return Ok(call.clone());
        }
        // Results are cached before the in-flight entry is removed, so re-check the cache after
        // missing both.
        if let Some(finding) = shared.remembered(&digest).filter(|it| shared.reads(it)) {
            return Ok(watch::channel(Call::Ended(finding)).1);
        }
        if shared.answers.has_just_failed(&digest) {
            return Err(TurnedAway::FailedBefore);
        }
        let mut load = shared.load();
        let permit = load.permit(rank, &digest, Instant::now())?;
        // The configuration of the caller sets the limit, since a newly started one may yet be
        // rejected.
        load.places.resize(shared.caller.rules.upkeep.concurrency);
        let place = load.places.enter(rank);
        drop(load);
        let (tell, call) = watch::channel(Call::UnderWay);
        calls.insert(digest, call.clone());
        drop(calls);
        let shared = Arc::clone(shared);
        let running = Running { shared, digest, rank, permit, place, tell, ended: None };
        let question = Caller::question(token);
        let mut tasks = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        while tasks.try_join_next().is_some() {}
        tasks.spawn_on(running.run(question, deadline), &self.runtime);
        Ok(call)
    }

    /// The state of the introspection.
    pub fn status(&self) -> Status {
        let (shared, now) = (&self.shared, Instant::now());
        let (in_flight, waiting, breaker, state) = {
            let load = shared.load();
            let (breaker, places) = (&load.breaker, &load.places);
            (places.taken(), places.waiting(), breaker.label(now), breaker.state())
        };
        let report = shared.report();
        Status {
            issuer: shared.caller.issuer.name.to_string(),
            in_flight,
            waiting,
            active_entries: shared.answers.active(),
            refused_entries: shared.answers.refused(),
            breaker,
            shedding: report.shedding(state, now),
            last_error: report.last_error.clone(),
            calls: report.calls.clone(),
            turned_away: report.turned_away.clone(),
        }
    }
}

/// What introspection at an issuer needs.
#[derive(Clone, Copy, Debug)]
pub struct Terms<'a> {
    /// The issuer.
    pub issuer: &'a Arc<Issuer>,
    /// The rules.
    pub rules: &'a IntrospectionRules,
    /// PEM of the certification authorities to trust, instead of those of the system.
    pub ca: Option<&'a [u8]>,
    /// Whether other machines may be asked over plain `http`.
    pub allow_http: bool,
    /// Its keys, which may sign responses.
    pub keys: &'a Arc<IssuerKeys>,
    /// The dotted paths of the claims to keep.
    pub selection: &'a Arc<[String]>,
}

/// Starts introspection on these `terms`. `previous` did so under another configuration: it is
/// reused if it matches; if only the endpoint and client match, its cached active tokens and its
/// limits are kept.
pub fn start(
    terms: &Terms<'_>,
    previous: Option<&Arc<Introspector>>,
    clock: &Arc<dyn Clock>,
    runtime: &Handle,
) -> Result<Arc<Introspector>, BadEndpoint> {
    if let Some(same) = previous.filter(|it| it.serves(terms)) {
        return Ok(Arc::clone(same));
    }
    let heard = previous.filter(|it| it.hears_the_same(terms)).map(|it| &**it);
    Introspector::start(terms, heard, clock, runtime).map(Arc::new)
}

impl Shared {
    /// A cached result, as long as the issuer still publishes the key that signed the response, for
    /// the same algorithm.
    fn remembered(&self, digest: &Digest) -> Option<Finding> {
        let finding = self.answers.get(digest)?;
        if let Finding::Active(Introspected { signed_by: Some(signed_by), .. }) = &finding
            && self.caller.keys.current()?.behind(signed_by).is_none()
        {
            return None;
        }
        Some(finding)
    }

    fn reads(&self, finding: &Finding) -> bool {
        match finding {
            Finding::Active(it) => self.caller.reads_as(it),
            Finding::Refused(_) => true,
        }
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

    fn turned_away(&self, digest: Digest, rank: Rank, why: TurnedAway) -> Unconfirmed {
        if rank != Rank::Known && why.is_for_want_of_room() {
            self.answers.turned_away(digest);
        }
        let now = Instant::now();
        // Not in the condition, where the report would stay locked while the line is written.
        let (told, last) = {
            let mut report = self.report();
            (report.turned_away(rank, why, now), report.behind(why))
        };
        if let Some(count) = told {
            let (issuer, why, rank) = (&*self.caller.issuer.name, why.label(), rank.label());
            tracing::warn!(issuer, why, rank, count, "tokens turned away without introspection");
        }
        Unconfirmed { refusal: why.detail().into(), why: last }
    }

    fn calls(&self) -> MutexGuard<'_, Calls> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn load(&self) -> MutexGuard<'_, Load> {
        self.load.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn report(&self) -> MutexGuard<'_, Report> {
        self.report.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Finding {
    /// The label in the status and in metrics.
    const fn label(&self) -> &'static str {
        match self {
            Self::Active(_) => "active",
            Self::Refused(Refused { denial: Denial::TokenInactive, .. }) => "inactive",
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
        }
    }
}

impl std::error::Error for BadEndpoint {}
