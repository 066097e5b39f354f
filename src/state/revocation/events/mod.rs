//! Events that revoke tokens: a receiver of security event tokens, by poll (RFC 8936) and by push
//! (RFC 8935), for each issuer by itself.
//!
//! - A token of a revoked subject is refused as soon as the event is in force, from whatever cache it
//!   comes.
//! - An event is acknowledged once it is in force and kept where it is to be kept, and not before.
//! - Events may come in any order and any number of times: of each subject the latest time counts.
//! - Memory is bounded. What there is no room for is not forgotten: it revokes more than it says.
//! - A stream that cannot be heard refuses no tokens: it is told in metrics and logs.

mod journal;
mod keeping;
mod kept;
mod marks;
mod poll;
mod receiver;
mod report;
mod rules;
mod shared;
mod verify;

pub use journal::BadSnapshot;
pub use marks::{Hit, Mark};
pub use receiver::NotTaken;
pub use report::{LastEvent, Outcome, Refusal, Status};
pub use rules::{Delivery, EventRules, Verification};

use super::Changes;
use crate::clock::Clock;
use crate::state::http::{self, Client, Credentials, Reach};
use crate::state::jwks::{self, BadSource, IssuerKeys};
use ::http::HeaderValue;
use journal::Journal;
use keeping::Keeping;
use keybound_core::oauth::{AccessToken, Identifier, SubjectKey, SubjectKeys};
use keybound_core::policy::Issuer;
use keybound_core::{Detail, Standing, Unconfirmed, UnixTime};
use marks::Marks;
use poll::Poller;
use receiver::Receiver;
use report::Report;
use reqwest::Url;
use shared::Shared;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use verify::Asker;

/// The events of one issuer.
///
/// Its tasks end when this is dropped. All methods may be called from any thread and any runtime.
#[derive(Debug)]
pub struct Events {
    receiver: Arc<Receiver>,
    began: Instant,
    /// They end when it is dropped.
    tasks: Mutex<JoinSet<()>>,
    asking: Mutex<Asking>,
    runtime: Handle,
}

/// What asks the transmitter, until it may begin.
#[derive(Debug, Default)]
struct Asking {
    poller: Option<Poller>,
    asker: Option<Asker>,
}

/// What is needed to receive the events of an issuer.
#[derive(Clone, Copy, Debug)]
pub struct Terms<'a> {
    /// The issuer.
    pub issuer: &'a Arc<Issuer>,
    /// Its keys.
    pub keys: &'a Arc<IssuerKeys>,
    /// How its events are received.
    pub rules: &'a EventRules,
    /// PEM of the authorities that its servers are verified with.
    pub ca: Option<&'a [u8]>,
    /// Whether it may be asked over plain `http` on other machines.
    pub allow_http: bool,
}

/// Rings when something was revoked, or cannot be told any more, so that what goes on meanwhile is judged again.
#[derive(Clone, Debug, Default)]
pub struct Bell(Arc<Changes>);

/// The events of an issuer before the configuration takes effect.
#[derive(Debug)]
pub struct Prepared {
    /// The events.
    pub events: Arc<Events>,
    /// Settings of its keys to change when the configuration takes effect.
    pub change: Option<jwks::Change>,
    /// Whether events of the previous configuration are left behind.
    pub left_behind: bool,
}

/// Events cannot be received as configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BadEvents {
    /// The certification authorities cannot be read.
    Credentials(http::BadCredentials),
    /// A URL is neither `https` nor `http` that is allowed, or it holds a password.
    UrlRefused,
    /// The source of the transmitter's keys is invalid.
    Keys(BadSource),
    /// What was kept cannot be read.
    Snapshot(BadSnapshot),
}

/// Prepares the events of an issuer. What `previous` received stays in force, if it is from the same
/// transmitter. Nobody is asked before [`Events::begin`].
pub fn prepare(
    terms: &Terms<'_>,
    previous: Option<&Arc<Events>>,
    bell: &Bell,
    clock: &Arc<dyn Clock>,
    runtime: &Handle,
) -> Result<Prepared, BadEvents> {
    let Terms { issuer, keys, rules, .. } = *terms;
    let known = previous.filter(|it| rules.continues(&it.receiver.rules));
    let left_behind = previous.is_some() && known.is_none();
    let (keys, change) = match &rules.keys {
        None => (Arc::clone(keys), None),
        Some(own) => {
            let name = rules.transmitter.issuer.as_ref().into();
            let held = known.map(|it| &it.receiver.keys);
            let prepared = jwks::prepare(&name, own, held, clock, runtime);
            let prepared = prepared.map_err(BadEvents::Keys)?;
            (prepared.keys, prepared.change)
        }
    };
    if let Some(same) = known.filter(|it| it.is_under(terms, &keys)) {
        return Ok(Prepared { events: Arc::clone(same), change, left_behind });
    }
    let (marks, report) = match known.map(|it| &it.receiver) {
        Some(known) => (Arc::clone(&known.marks), Arc::new(Report::after(&known.report))),
        None => (Arc::new(restored(rules, issuer, clock.now())?), Arc::default()),
    };
    // One writes the file at a time, also while the configuration changes.
    let kept = known.and_then(|it| it.receiver.keeping.journal.clone());
    let same = kept.filter(|it| rules.snapshot_file.as_ref().is_some_and(|path| it.is_at(path)));
    if let (Some(path), Some(_), None) = (&rules.snapshot_file, known, &same) {
        // It will be written over: not what is another's, or holds what cannot be put into force.
        journal::read(path, &issuer.name, drop).map_err(BadEvents::Snapshot)?;
    }
    let journal = rules.snapshot_file.clone().map(|path| {
        same.unwrap_or_else(|| Arc::new(Journal::of(path, &issuer.name, &marks, clock)))
    });
    let place = rules.shared.clone().filter(|_| !rules.is_passive);
    let shared = place.map(|place| {
        let before = known.and_then(|it| it.receiver.keeping.shared.as_deref());
        Arc::new(Shared::new(place, &issuer.name, before))
    });
    let receiver = Arc::new(Receiver {
        issuer: Arc::clone(issuer),
        signer: signer(issuer, rules),
        keys,
        rules: rules.clone(),
        marks,
        report,
        keeping: Keeping { journal, shared },
        clock: Arc::clone(clock),
        bell: bell.clone(),
        lines: receiver::Lines::default(),
    });
    let events = Events::start(receiver, terms, runtime)?;
    Ok(Prepared { events: Arc::new(events), change, left_behind })
}

/// Who signs the events, as an issuer of JWTs.
fn signer(issuer: &Issuer, rules: &EventRules) -> Issuer {
    Issuer {
        algorithms: issuer.algorithms.clone(),
        clock_leeway: issuer.clock_leeway,
        ..Issuer::new(&rules.transmitter.issuer, "")
    }
}

/// What was kept before this process began.
fn restored(rules: &EventRules, issuer: &Issuer, now: UnixTime) -> Result<Marks, BadEvents> {
    let marks = Marks::new(rules.capacity);
    let Some(path) = &rules.snapshot_file else { return Ok(marks) };
    let read = journal::read(path, &issuer.name, |line| journal::restore(&marks, line, now));
    read.map_err(BadEvents::Snapshot)?;
    let (issuer, entries) = (&*issuer.name, marks.entries());
    tracing::info!(issuer, entries, "events restored from the snapshot");
    Ok(marks)
}

impl Events {
    fn start(
        receiver: Arc<Receiver>,
        terms: &Terms<'_>,
        runtime: &Handle,
    ) -> Result<Self, BadEvents> {
        let (mut tasks, mut asking) = (JoinSet::new(), Asking::default());
        if !terms.rules.is_passive {
            asking = Asking::of(&receiver, terms)?;
            if let Some(shared) = receiver.keeping.shared.clone() {
                tasks.spawn_on(shared.run(Arc::clone(&receiver)), runtime);
            }
            tasks.spawn_on(sweep(Arc::clone(&receiver)), runtime);
        }
        let (tasks, asking) = (Mutex::new(tasks), Mutex::new(asking));
        Ok(Self { receiver, began: Instant::now(), tasks, asking, runtime: runtime.clone() })
    }

    /// Has the transmitter asked from now on, since these events are in force: what comes is acknowledged.
    /// Only the first call does anything.
    pub fn begin(&self) {
        self.receiver.marks.set_capacity(self.receiver.rules.capacity);
        let Asking { poller, asker } = std::mem::take(&mut *locked(&self.asking));
        let mut tasks = locked(&self.tasks);
        if let Some(poller) = poller {
            tasks.spawn_on(poller.run(), &self.runtime);
        }
        if let Some(asker) = asker {
            tasks.spawn_on(asker.run(), &self.runtime);
        }
    }

    /// Whether it receives events on these terms already.
    fn is_under(&self, terms: &Terms<'_>, keys: &Arc<IssuerKeys>) -> bool {
        let own = &self.receiver;
        own.rules == *terms.rules
            && Arc::ptr_eq(&own.keys, keys)
            && own.issuer.judges_like(terms.issuer)
    }

    /// Why a token with these subjects that was issued at `issued` is refused at `now`.
    pub fn find(
        &self,
        subjects: impl Iterator<Item = SubjectKey>,
        issued: UnixTime,
        now: UnixTime,
    ) -> Option<Hit> {
        self.receiver.marks.find(subjects, issued, now)
    }

    /// Whether `token` was revoked by an event.
    #[inline]
    pub(super) fn standing<'a>(&self, token: &AccessToken, now: UnixTime) -> Standing<'a> {
        let Some(revocable) = &token.revocable else { return Standing::Good };
        if self.is_unheard() {
            return Standing::Refused(Detail::EventsUnheard.into());
        }
        // Before the marks are looked at: one that comes meanwhile changes it.
        let number = self.receiver.marks.number();
        if revocable.passed_events.is_under(number) {
            return Standing::Good;
        }
        let names = [Identifier::Sub, Identifier::Sid, Identifier::Jti];
        match self.find(SubjectKeys::of(revocable).iter(), revocable.issued(), now) {
            None if names.into_iter().any(|it| revocable.has_more(it)) => {
                Standing::Refused(Detail::NamesTooMany.into())
            }
            None => {
                revocable.passed_events.note(number);
                Standing::Good
            }
            Some(hit) => Standing::Refused(refusal(hit)),
        }
    }

    /// What they are, for an explanation.
    pub(super) fn describe(&self) -> String {
        let rules = &self.receiver.rules;
        let (entries, from) = (self.receiver.marks.entries(), &rules.transmitter.issuer);
        let kept = if rules.is_passive {
            "those of snapshot_file, which alone are read here: ask /explain of the service"
        } else {
            rules.delivery.label()
        };
        format!("the events of {from} ({kept}; subjects: {entries})")
    }

    /// Whether it cannot be told what has been revoked: what replicas share was not read for too long, or
    /// not all of it can be.
    pub fn is_unheard(&self) -> bool {
        self.receiver.keeping.shared.as_ref().is_some_and(|it| it.is_stale())
    }

    /// Whether events come by push.
    pub fn is_pushed(&self) -> bool {
        matches!(self.receiver.rules.delivery, Delivery::Push { .. })
    }

    /// Whether events are pushed by who shows this `Authorization`. It is compared in constant time.
    pub fn is_pushed_with(&self, authorization: &HeaderValue) -> bool {
        match &self.receiver.rules.delivery {
            Delivery::Push { bearer } => bearer.is(authorization),
            Delivery::Poll { .. } => false,
        }
    }

    /// Takes a token that was pushed, and returns once it may be acknowledged.
    pub async fn take(&self, token: &[u8]) -> Result<(), NotTaken> {
        self.receiver.take(token).await
    }

    /// Counts a push by who does not show the expected `Authorization`.
    pub fn count_unauthenticated(&self) {
        self.receiver.report.refused(Refusal::Unauthenticated);
    }

    /// Counts and logs a push by the transmitter of which no token was read, and why.
    pub fn refuse_unread(&self, cause: &str) {
        self.receiver.refuse_unread(cause);
    }

    /// The state of these events.
    pub fn status(&self) -> Status {
        let Receiver { report, rules, marks, clock, .. } = &*self.receiver;
        let status = report.status(rules, marks, self.began, clock.now());
        let unreadable = self.receiver.keeping.shared.as_ref().map_or(0, |it| it.unreadable());
        Status { unheard: self.is_unheard(), unreadable, ..status }
    }
}

impl Asking {
    fn of(receiver: &Arc<Receiver>, terms: &Terms<'_>) -> Result<Self, BadEvents> {
        let client = || {
            let credentials = Credentials { ca: terms.ca, identity: None };
            let client = Client::new(credentials).map_err(BadEvents::Credentials)?;
            Ok::<_, BadEvents>(client.allowing_http(terms.allow_http))
        };
        let askable = |text: &str| {
            let url = Url::parse(text).or(Err(BadEvents::UrlRefused))?;
            Reach::of(&url, terms.allow_http).map(|_| url).ok_or(BadEvents::UrlRefused)
        };
        let poller = match &terms.rules.delivery {
            Delivery::Poll { endpoint, interval, bearer } => Some(Poller {
                receiver: Arc::clone(receiver),
                client: client()?,
                endpoint: askable(endpoint)?,
                interval: *interval,
                bearer: bearer.clone(),
            }),
            Delivery::Push { .. } => None,
        };
        let asker = terms.rules.verification.as_ref().map(|rules| {
            let endpoint = askable(&rules.endpoint)?;
            let (receiver, client) = (Arc::clone(receiver), client()?);
            Ok::<_, BadEvents>(Asker { receiver, client, endpoint, rules: rules.clone() })
        });
        Ok(Self { poller, asker: asker.transpose()? })
    }
}

fn locked<T>(it: &Mutex<T>) -> MutexGuard<'_, T> {
    it.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cold]
fn refusal(hit: Hit) -> Unconfirmed {
    let (detail, why) = match hit {
        Hit::Event(Mark { until, kind, .. }) => {
            let until = until.to_rfc3339();
            let why = format!(
                "the issuer told by an event, {kind}, that tokens until {until} are revoked"
            );
            (Detail::EventReceived, why)
        }
        Hit::NoRoom(until) => {
            let until = until.to_rfc3339();
            (
                Detail::EventsFull,
                format!("there was no room for an event about tokens until {until}"),
            )
        }
    };
    Unconfirmed { refusal: detail.into(), why: Some(why.into()) }
}

/// Drops what has expired, now and then, and keeps what no delivery brought.
async fn sweep(receiver: Arc<Receiver>) {
    loop {
        receiver.catch_up().await;
        sleep(SWEEP).await;
        receiver.marks.drop_expired(receiver.clock.now());
    }
}

const SWEEP: Duration = Duration::from_secs(60);

impl Bell {
    /// One that tells those who wait for these changes.
    pub(super) const fn of(changes: Arc<Changes>) -> Self {
        Self(changes)
    }

    /// Something was revoked.
    pub(super) fn ring(&self) {
        self.0.ring();
    }

    /// Waits for it.
    pub fn heard(&self) -> watch::Receiver<()> {
        self.0.0.subscribe()
    }
}

impl fmt::Display for BadEvents {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Credentials(error) => error.fmt(f),
            Self::UrlRefused => f.write_str(
                "events are asked for by https only, or by http from this machine, without `allow_http`",
            ),
            Self::Keys(error) => error.fmt(f),
            Self::Snapshot(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for BadEvents {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::FixedClock;
    use crate::state::http::BearerToken;
    use crate::state::jwks::{KeyRules, KeySource};
    use crate::state::replay::redis::RedisRules;
    use crate::state::revocation::samples::token;
    use keybound_core::oauth::{EventKind, EventSubject, Transmitter};
    use serde_json::json;

    const NOW: UnixTime = UnixTime::from_secs(1000);

    fn events(capacity: usize, shared: Option<RedisRules>) -> Arc<Events> {
        let issuer = &Arc::new(Issuer::new("https://as.example.com", "api"));
        let clock: Arc<dyn Clock> = Arc::new(FixedClock(NOW));
        let key_rules = KeyRules::new(KeySource::File("/nonexistent/jwks.json".into()));
        let runtime = &Handle::current();
        let keys = jwks::prepare(&issuer.name, &key_rules, None, &clock, runtime).unwrap().keys;
        let rules = &EventRules {
            transmitter: Transmitter { issuer: "t".into(), audiences: vec![], stream: None },
            delivery: Delivery::Push { bearer: BearerToken::new("theirs").unwrap() },
            keys: None,
            verification: None,
            keep: EventRules::KEEP,
            capacity,
            snapshot_file: None,
            shared,
            is_passive: false,
        };
        let terms = Terms { issuer, keys: &keys, rules, ca: None, allow_http: false };
        prepare(&terms, None, &Bell::default(), &clock, runtime).unwrap().events
    }

    fn revoke(events: &Events, sub: &str) {
        let mark = Mark {
            until: NOW,
            expires: UnixTime::from_secs(2000),
            kind: EventKind::AccountDisabled,
        };
        events.receiver.marks.put((EventSubject::User(sub.into()).key(), mark), NOW);
    }

    fn refused(events: &Events, token: &AccessToken) -> Option<Detail> {
        match events.standing(token, NOW) {
            Standing::Good => None,
            Standing::Refused(it) => it.refusal.detail,
            Standing::Waits(_) => panic!("events are known at once"),
        }
    }

    #[tokio::test]
    async fn a_token_is_refused_by_an_event_also_if_it_was_good_before() {
        let events = events(10, None);
        let alice = token(&json!({"sub": "alice", "iat": 1000}));
        let later = token(&json!({"sub": "alice", "iat": 1001}));
        assert_eq!([&alice, &later].map(|it| refused(&events, it)), [None, None]);
        revoke(&events, "bob");
        assert_eq!(refused(&events, &alice), None);
        revoke(&events, "alice");
        let expected = [Some(Detail::EventReceived), None];
        assert_eq!([&alice, &later].map(|it| refused(&events, it)), expected);
    }

    #[tokio::test]
    async fn a_token_whose_session_is_none_that_can_be_told_may_be_of_any() {
        let events = events(10, None);
        let subjects =
            [EventSubject::Session("S".into()), EventSubject::Sessionless("alice".into())];
        let until = UnixTime::from_secs(1000);
        for subject in subjects {
            let mark =
                Mark { until, expires: UnixTime::from_secs(9999), kind: EventKind::SessionRevoked };
            events.receiver.marks.put((subject.key(), mark), NOW);
        }
        let (received, many) = (Some(Detail::EventReceived), Some(Detail::NamesTooMany));
        for (sub, sid, expected) in [
            ("alice", json!("S"), received),
            ("alice", json!("T"), None),
            ("alice", json!(["T"]), received),
            ("alice", json!({"id": "T"}), received),
            ("bob", json!(["S"]), received),
            ("bob", json!(["T"]), None),
            ("bob", json!(["a", "b", "c", "d"]), None),
            ("bob", json!(["a", "b", "c", "d", "e"]), many),
        ] {
            let token = token(&json!({"sub": sub, "sid": sid, "iat": 1000}));
            assert_eq!(refused(&events, &token), expected, "{sub} {sid}");
        }
    }

    #[tokio::test]
    async fn where_there_is_no_room_all_tokens_of_then_are_refused_and_new_ones_pass() {
        let events = events(1, None);
        let (alice, new) =
            (json!({"sub": "alice", "iat": 1000}), json!({"sub": "alice", "iat": 1001}));
        let [alice, new] = [alice, new].map(|it| token(&it));
        revoke(&events, "bob");
        assert_eq!(refused(&events, &alice), None);
        revoke(&events, "carol");
        let expected = [Some(Detail::EventsFull), None];
        assert_eq!([&alice, &new].map(|it| refused(&events, it)), expected);
    }

    #[tokio::test]
    async fn until_what_replicas_share_was_read_no_token_passes_not_even_one_that_was_good() {
        let url = b"redis://127.0.0.1:1";
        let shared = RedisRules::read(url, false, None, RedisRules::DEADLINE).unwrap();
        let events = events(10, Some(shared));
        let alice = token(&json!({"sub": "alice", "iat": 1000}));
        let number = events.receiver.marks.number();
        alice.revocable.as_ref().unwrap().passed_events.note(number);
        assert_eq!(refused(&events, &alice), Some(Detail::EventsUnheard));
    }
}
