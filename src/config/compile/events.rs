//! The part of the configuration about an issuer's security events.

use super::files::Files;
use super::url::{PlainHttp, fetched};
use super::{bearer, secret, span, whole_number};
use crate::config::file::{self, EventDelivery, EventStore};
use crate::config::problem::{Findings, Path};
use crate::installation::{DpopRules, IssuerRules};
use crate::state::http::BearerToken;
use crate::state::jwks::{self, KeyRules, KeySource};
use crate::state::replay::ReplayRules;
use crate::state::replay::redis::RedisRules;
use crate::state::revocation::events::{Delivery, EventRules, Verification};
use keybound_core::oauth::Transmitter;
use keybound_core::policy::TENANT;
use std::ops::RangeInclusive;
use std::time::Duration;

/// What the issuer tells of itself.
#[derive(Clone, Copy)]
pub(super) struct Of<'a> {
    pub(super) name: Option<&'a str>,
    pub(super) keys: Option<&'a KeyRules>,
    pub(super) plain: PlainHttp,
    pub(super) redis: Redis<'a>,
}

/// The Redis of the store of used proofs.
#[derive(Clone, Copy)]
pub(super) enum Redis<'a> {
    /// What the configuration says of it cannot be read.
    Unknown,
    /// There is none.
    Absent,
    /// It is this.
    Given(&'a RedisRules),
}

/// What was given cannot be used, which is among the findings.
#[derive(Clone, Copy)]
struct Unusable;

/// What was read of a key that may be absent.
type Read<T> = Result<Option<T>, Unusable>;

impl<'a> Redis<'a> {
    pub(super) const fn of(dpop: Option<&'a DpopRules>) -> Self {
        match dpop {
            None => Self::Unknown,
            Some(DpopRules { replay: ReplayRules::Redis(rules), .. }) => Self::Given(rules),
            Some(DpopRules { replay: ReplayRules::Memory(_), .. }) => Self::Absent,
        }
    }
}

pub(super) fn compile(
    given: file::Events,
    of: Of<'_>,
    at: &Path,
    files: &Files,
    findings: &mut Findings,
) -> Option<EventRules> {
    const INTERVAL: RangeInclusive<Duration> =
        Duration::from_millis(100)..=Duration::from_secs(3600);
    const KEEP: RangeInclusive<Duration> =
        Duration::from_secs(60)..=Duration::from_secs(31 * 24 * 3600);
    let delivery = at.key("delivery");
    let delivery = findings.required(given.delivery, &delivery, "write poll or push");
    let mut token = |key: &str, name: Option<&str>, url: Option<&String>| {
        let source = url.cloned().map(KeySource::Uri);
        let read = name
            .map(|it| bearer::compile(it, source.as_ref(), None, &at.key(key), files, findings));
        read.map(|it| it.ok_or(Unusable)).transpose()
    };
    let (key, name) = ("bearer_token_file", given.bearer_token_file.as_deref());
    let bearer = token(key, name, given.endpoint.as_ref());
    let (key, name) = ("verification_token_file", given.verification_token_file.as_deref());
    let verification_token = token(key, name, given.verification_endpoint.as_ref());
    let interval = at.key("poll_interval");
    let is_timed = given.poll_interval.is_some();
    let poll_interval =
        span(given.poll_interval, EventRules::POLL_INTERVAL, INTERVAL, &interval, findings);
    let keep = span(given.keep, EventRules::KEEP, KEEP, &at.key("keep"), findings);
    let capacity = at.key("capacity");
    let capacity =
        whole_number(given.capacity, EventRules::CAPACITY, 1..=100_000_000, &capacity, findings);
    let audience = at.key("audience");
    let told = "name who we are to the transmitter, as its tokens do in `aud`";
    let audience = findings.required(given.audience.filter(|it| !it.is_empty()), &audience, told);
    let issuer = transmitter(given.issuer, of.name, at, findings);
    let mut asked = |key: &str, url: Option<String>| {
        let Some(url) = url else { return Ok(None) };
        let refused = fetched(&url, of.plain).map_err(|it| findings.problem(&at.key(key), it));
        refused.map(|_| Some(url)).or(Err(Unusable))
    };
    let endpoint = asked("endpoint", given.endpoint);
    let jwks_uri = asked("jwks_uri", given.jwks_uri);
    let verification_endpoint = asked("verification_endpoint", given.verification_endpoint);
    let delivery = match delivery?.0 {
        EventDelivery::Poll => {
            if matches!(endpoint, Ok(None)) {
                let told = "name the poll endpoint of the stream";
                findings.required(None::<()>, &at.key("endpoint"), told);
            }
            let given = endpoint.ok().flatten().zip(bearer.ok());
            given.map(|(endpoint, bearer)| Delivery::Poll {
                endpoint,
                interval: poll_interval,
                bearer,
            })
        }
        EventDelivery::Push => {
            let has_endpoint = !matches!(endpoint, Ok(None));
            for (key, given) in [("endpoint", has_endpoint), ("poll_interval", is_timed)] {
                if given {
                    findings.problem(&at.key(key), "is for `delivery: poll`: remove it");
                }
            }
            if matches!(bearer, Ok(None)) {
                let told = "name a file with the Authorization that the transmitter must show";
                findings.required(None::<()>, &at.key("bearer_token_file"), told);
            }
            let bearer = bearer.ok().flatten();
            if bearer.as_ref().is_some_and(|it| it.length() < secret::SHORTEST) {
                findings.problem(&at.key("bearer_token_file"), secret::unusable());
            }
            bearer.map(|bearer| Delivery::Push { bearer })
        }
    };
    let asking = Asking { endpoint: verification_endpoint, token: verification_token };
    let verification = verification(asking, delivery.as_ref(), at, findings);
    let snapshot = at.key("snapshot_file");
    let snapshot_file =
        given.snapshot_file.as_deref().map(|it| files.writes(it, &snapshot, findings));
    if let Some(fault) = snapshot_file.as_deref().and_then(jwks::snapshot_fault) {
        findings.problem(&snapshot, format!("cannot be used: {fault}"));
    }
    let store = given.store.map_or_else(EventStore::default, |it| it.0);
    let shared = shared(store, of.redis, &at.key("store"), findings);
    if store == EventStore::Memory && snapshot_file.is_none() {
        let message = "events are kept in memory alone: those that were acknowledged before a restart \
                       count no more; name a `snapshot_file`, or share them with `store: redis`";
        findings.warning(at, message);
    }
    let keys = keys(jwks_uri, of.keys);
    Some(EventRules {
        transmitter: Transmitter {
            issuer: issuer?.into(),
            audiences: vec![audience?],
            stream: given.stream_id.map(Into::into),
        },
        delivery: delivery?,
        keys: keys.ok()?,
        verification: verification.ok()?,
        keep,
        capacity,
        snapshot_file,
        shared: shared.ok()?,
        is_passive: false,
    })
}

/// The keys of a transmitter that has a set of its own.
fn keys(jwks_uri: Read<String>, issuers: Option<&KeyRules>) -> Read<KeyRules> {
    let Some(uri) = jwks_uri? else { return Ok(None) };
    let keys = issuers.cloned().ok_or(Unusable)?;
    let upkeep = jwks::KeyUpkeep { snapshot_file: None, ..keys.upkeep };
    Ok(Some(KeyRules { source: KeySource::Uri(uri), bearer: None, upkeep, ..keys }))
}

fn transmitter(
    given: Option<String>,
    issuer: Option<&str>,
    at: &Path,
    findings: &mut Findings,
) -> Option<String> {
    let at = at.key("issuer");
    match given {
        Some(name) if name.is_empty() || name.chars().any(char::is_control) => {
            findings.problem(&at, "must be the exact `iss` of its tokens");
            None
        }
        Some(name) => Some(name),
        None if issuer.is_some_and(|it| it.contains(TENANT)) => {
            findings.problem(
                &at,
                "is missing: an issuer of many tenants does not tell who sends events",
            );
            None
        }
        None => issuer.map(str::to_owned),
    }
}

/// What is said of verification.
struct Asking {
    endpoint: Read<String>,
    token: Read<BearerToken>,
}

fn verification(
    asking: Asking,
    delivery: Option<&Delivery>,
    at: &Path,
    findings: &mut Findings,
) -> Read<Verification> {
    let Asking { endpoint, token } = asking;
    let Some(endpoint) = endpoint? else {
        if !matches!(token, Ok(None)) {
            let at = at.key("verification_token_file");
            findings.warning(&at, "has no effect without `verification_endpoint`");
        }
        if matches!(delivery, Some(Delivery::Push { .. })) {
            let message = "nothing tells a stream without events from one that is broken: name \
                           `verification_endpoint`";
            findings.warning(&at.key("delivery"), message);
        }
        return Ok(None);
    };
    let bearer = match (token?, delivery) {
        (None, Some(Delivery::Poll { bearer, .. })) => bearer.clone(),
        (own, _) => own,
    };
    Ok(Some(Verification { endpoint, bearer }))
}

fn shared(
    store: EventStore,
    redis: Redis<'_>,
    at: &Path,
    findings: &mut Findings,
) -> Read<RedisRules> {
    match (store, redis) {
        (EventStore::Memory, _) => Ok(None),
        (EventStore::Redis, Redis::Given(rules)) => Ok(Some(rules.clone())),
        (EventStore::Redis, Redis::Absent) => {
            let message = "is for replicas that share a Redis in dpop.replay: set `dpop.replay.store: \
                           redis`, or leave it out";
            findings.problem(at, message);
            Err(Unusable)
        }
        (EventStore::Redis, Redis::Unknown) => Err(Unusable),
    }
}

/// Finds pushed events that nobody listens for, or that could be of two issuers. `is_heard` is whether there
/// is a listener for events, be it as it should or not.
pub(super) fn check(issuers: &[IssuerRules], is_heard: bool, root: &Path, findings: &mut Findings) {
    let place = |index| root.key("issuers").index(index).key("revocation").key("events");
    let mut pushed = vec![];
    for (index, issuer) in issuers.iter().enumerate() {
        let events = issuer.revocation.as_ref().and_then(|it| it.events.as_ref());
        if let Some(Delivery::Push { bearer }) = events.map(|it| &it.delivery) {
            pushed.push((index, bearer));
        }
    }
    for (position, (index, bearer)) in pushed.iter().enumerate() {
        let at = place(*index);
        if !is_heard {
            let message = "nobody listens for what is pushed: set `listen.events`";
            findings.problem(&at.key("delivery"), message);
        }
        if let Some((other, _)) = pushed.iter().take(position).find(|(_, it)| it == bearer) {
            let message = format!(
                "is that of issuers[{other}], too: it tells whose events are pushed, so that each issuer \
                 needs its own"
            );
            findings.problem(&at.key("bearer_token_file"), message);
        }
    }
    if is_heard && pushed.is_empty() {
        let at = root.key("listen").key("events");
        findings
            .warning(&at, "has no effect: no issuer has `revocation.events` with `delivery: push`");
    }
}
