//! Delivery by poll (RFC 8936): events are fetched, and acknowledged once they are in force.

use super::receiver::{Changes, NotTaken, Receiver};
use crate::randomness;
use crate::state::http::{BearerToken, Client, Failure, Limits, Reply, post_json};
use crate::state::waits::doubled;
use ::http::StatusCode;
use keybound_core::jose::json::{self, Object};
use keybound_core::oauth::BadEvents;
use reqwest::{Request, Url};
use serde_json::{Value, json};
use std::collections::HashSet;
use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::sleep;

/// The task that polls one stream.
#[derive(Debug)]
pub(super) struct Poller {
    pub(super) receiver: Arc<Receiver>,
    pub(super) client: Client,
    pub(super) endpoint: Url,
    pub(super) interval: Duration,
    pub(super) bearer: Option<BearerToken>,
}

/// What the next request tells of tokens that came before.
#[derive(Debug, Default)]
struct Told {
    /// Those that are in force.
    acknowledged: Vec<String>,
    /// Those that were refused, and why.
    refused: Vec<(String, BadEvents)>,
}

/// Polls that follow each other without a pause.
#[derive(Debug, Default)]
struct Row {
    polls: u32,
    /// What was answered in them, as hashes of the `jti`.
    answered: HashSet<u64>,
    hasher: RandomState,
}

/// Why a poll failed.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Failed {
    Http(Failure),
    /// The answer is not that of RFC 8936 §2.3.
    Malformed,
    /// What came could not be kept.
    NotKept,
}

/// An answer.
#[derive(Debug)]
struct Answer {
    sets: Vec<(String, String)>,
    more: bool,
}

/// The most tokens that are asked for, and taken, at once. Others were not acknowledged, and come again.
const BATCH: usize = 500;

/// The longest answer that is read, in bytes.
const ANSWER_BYTES: usize = 16 * 1024 * 1024;

/// How long an exchange may take.
const DEADLINE: Duration = Duration::from_secs(10);

/// The longest wait after failures, unless the interval is longer.
const LONGEST: Duration = Duration::from_secs(60);

/// How many polls may follow each other at once: a transmitter that never comes to an end is asked at the
/// usual interval then. One that sends again what was answered is so at once.
const IN_A_ROW: u32 = 1000;

impl Poller {
    /// Polls without end.
    pub(super) async fn run(self) {
        let (mut told, mut failures, mut row) = (Told::default(), 0_u32, Row::default());
        loop {
            let polled = self.poll(&mut told, &mut row).await;
            self.tell(&polled, failures);
            let pause = match polled {
                Ok(true) if row.polls < IN_A_ROW => {
                    (failures, row.polls) = (0, row.polls.saturating_add(1));
                    continue;
                }
                Ok(_) => {
                    failures = 0;
                    self.interval
                }
                Err(_) => {
                    let pause = doubled(self.interval, failures, LONGEST.max(self.interval));
                    failures = failures.saturating_add(1);
                    pause
                }
            };
            row = Row::default();
            sleep(shortened(pause, failures)).await;
        }
    }

    /// Polls once, and returns whether to go on at once: something came that is to be acknowledged, and that
    /// was not already in this `row`.
    async fn poll(&self, told: &mut Told, row: &mut Row) -> Result<bool, Failed> {
        let reply = self.client.send(self.request(told), LIMITS).await.map_err(Failed::Http)?;
        let Answer { sets, more } = Answer::of(&reply)?;
        // The transmitter has heard it.
        *told = Told::default();
        let (mut is_new, mut is_whole) = (false, !more && sets.len() <= BATCH);
        let (mut changes, mut applied) = (Changes::default(), vec![]);
        for (jti, set) in sets.into_iter().take(BATCH) {
            let outcome = self.receiver.apply(set.as_bytes(), &mut changes).await;
            if outcome.is_err_and(BadEvents::is_passing) {
                is_whole = false;
                continue;
            }
            is_new |= row.answered.insert(row.hasher.hash_one(&jti));
            match outcome {
                Ok(()) => applied.push(jti),
                Err(bad) => told.refused.push((jti, bad)),
            }
        }
        match self.receiver.keep(changes).await {
            Ok(()) => told.acknowledged = applied,
            Err(NotTaken::NotKept | NotTaken::Refused(_)) => return Err(Failed::NotKept),
        }
        if is_whole {
            self.receiver.report.heard();
        }
        Ok(is_new)
    }

    fn request(&self, told: &Told) -> Request {
        let mut body = Object::new();
        body.insert("maxEvents".to_owned(), BATCH.into());
        body.insert("returnImmediately".to_owned(), true.into());
        if !told.acknowledged.is_empty() {
            body.insert("ack".to_owned(), told.acknowledged.clone().into());
        }
        if !told.refused.is_empty() {
            let error = |(jti, bad): &(String, BadEvents)| {
                (jti.clone(), json!({"err": bad.code(), "description": bad.sentence()}))
            };
            let errors: Object = told.refused.iter().map(error).collect();
            body.insert("setErrs".to_owned(), errors.into());
        }
        post_json(&self.endpoint, self.bearer.as_ref(), body)
    }

    fn tell(&self, polled: &Result<bool, Failed>, failures: u32) {
        let report = &self.receiver.report;
        let Err(failed) = polled else { return report.polled("ok") };
        report.polled(failed.label());
        report.failed(&format_args!("poll: {failed}"), self.receiver.clock.now());
        let issuer = &*self.receiver.issuer.name;
        tracing::warn!(issuer, failures, error = %failed, "events not polled");
    }
}

/// Chance takes off up to a quarter after a failure, so that replicas do not come back all at once.
fn shortened(pause: Duration, failures: u32) -> Duration {
    if failures == 0 {
        return pause;
    }
    let off = pause.saturating_mul(randomness::jitter().into()).checked_div(1024);
    pause.saturating_sub(off.unwrap_or_default())
}

const LIMITS: Limits = Limits { bytes: ANSWER_BYTES, deadline: DEADLINE };

impl Answer {
    fn of(reply: &Reply) -> Result<Self, Failed> {
        match reply.status {
            StatusCode::NO_CONTENT | StatusCode::ACCEPTED if reply.body.is_empty() => {
                return Ok(Self { sets: vec![], more: false });
            }
            StatusCode::OK | StatusCode::ACCEPTED => (),
            status => return Err(Failed::Http(Failure::Status(status))),
        }
        let body = json::object(&reply.body).or(Err(Failed::Malformed))?;
        let more = match body.get("moreAvailable") {
            None | Some(Value::Null) => false,
            Some(Value::Bool(more)) => *more,
            Some(_) => return Err(Failed::Malformed),
        };
        let empty = Object::new();
        let sets = match body.get("sets") {
            // Where there are none, some leave it out. But any other document says nothing of events.
            None if body.keys().any(|it| it != "moreAvailable") => return Err(Failed::Malformed),
            None | Some(Value::Null) => &empty,
            Some(Value::Object(sets)) => sets,
            Some(_) => return Err(Failed::Malformed),
        };
        // What is not a string is refused as a token that is malformed.
        let text = |it: &Value| it.as_str().unwrap_or_default().to_owned();
        let sets = sets.iter().map(|(jti, set)| (jti.clone(), text(set))).collect();
        Ok(Self { sets, more })
    }
}

impl Failed {
    const fn label(&self) -> &'static str {
        match self {
            Self::Http(failure) => failure.label(),
            Self::Malformed => "malformed",
            Self::NotKept => "not_kept",
        }
    }
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Http(
                failure @ Failure::Status(StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN),
            ) => {
                write!(
                    f,
                    "{failure}: the token in bearer_token_file has expired or does not suffice"
                )
            }
            Self::Http(failure) => failure.fmt(f),
            Self::Malformed => {
                f.write_str("the answer is not that of RFC 8936: sets, moreAvailable")
            }
            Self::NotKept => f.write_str("what came could not be kept, and is asked for again"),
        }
    }
}
