//! The task that fetches one status list for as long as tokens name it.

use super::failure::Failure;
use super::list::{Held, Shared};
use super::schedule::{self, Life};
use super::{Common, kind, saved};
use crate::randomness;
use crate::state::http::{self, Limits};
use crate::state::refreshes::Outcome;
use crate::state::snapshot::{self, Kind, Odd, Snapshot, Wanted};
use crate::state::waits::after;
use bytes::Bytes;
use futures_util::FutureExt;
use keybound_core::jose::{KeySet, Thumbprint};
use keybound_core::oauth::{BadStatusList, STATUS_LIST_TOKEN_BYTES, STATUS_LIST_TYPE, StatusList};
use keybound_core::{Newer, UnixTime};
use std::fs;
use std::io;
use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep_until, timeout};

/// Fetches one list. There is one for each, so that fetches of a list never overlap.
#[derive(Debug)]
pub(super) struct Keeper {
    pub(super) common: Arc<Common>,
    pub(super) list: Arc<Shared>,
    pub(super) id: Thumbprint,
}

/// The cause of a fetch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cause {
    /// The schedule.
    Due,
    /// A token with a place beyond the end of the list.
    Asked,
}

/// What a fetch brought.
struct Obtained {
    held: Held,
    outcome: Outcome<'static>,
    /// How long the response may be cached.
    cached: Option<Duration>,
}

impl Keeper {
    /// Fetches on schedule until nobody needs the list any more.
    pub(super) async fn run(self) {
        let mut cause = Cause::Due;
        loop {
            let due = self.fetch(cause).await;
            match self.next_cause(due).await {
                Some(next) => cause = next,
                None => return self.forget().await,
            }
        }
    }

    /// Waits for the next cause of a fetch; none if nobody needs the list any more.
    async fn next_cause(&self, mut due: Instant) -> Option<Cause> {
        let ended = Instant::now();
        loop {
            tokio::select! {
                () = sleep_until(due) => {
                    let now = Instant::now();
                    let (unused, is_one) = (self.list.unused(now), self.list.held.load().is_some());
                    if schedule::is_forgotten(unused, is_one) {
                        return None;
                    }
                    let waited = now.saturating_duration_since(ended);
                    if is_one || unused <= waited.saturating_add(RESOLUTION) {
                        return Some(Cause::Due);
                    }
                    // Nobody has asked for it since it could not be had.
                    due = after(now, IDLE);
                }
                () = self.list.wanted.notified() => {
                    // Checked again, since the requester may have looked before the last fetch
                    // ended.
                    if self.common.may_ask(*self.list.progress.borrow()) {
                        return Some(Cause::Asked);
                    }
                }
            }
        }
    }

    /// Fetches once and returns when the next fetch is due.
    async fn fetch(&self, cause: Cause) -> Instant {
        let obtained = {
            // The time for it does not count as its own: a good list that only had to wait for others would
            // be taken for one that fails. The permits are never closed.
            let _turn = self.turns().acquire().await;
            timeout(FETCH_TIMEOUT, AssertUnwindSafe(self.obtain()).catch_unwind()).await
        };
        let obtained = match obtained {
            Ok(Ok(obtained)) => obtained.and_then(|it| self.settle(it)),
            Ok(Err(_)) => Err(Failure::Panicked),
            Err(_) => Err(Failure::Late),
        };
        let heard = obtained.is_ok();
        let delay = match obtained {
            Ok(life) => schedule::next_refresh(life, randomness::jitter()),
            Err(failure) => self.fail(&failure).await,
        };
        let now = Instant::now();
        let due = after(now, delay);
        self.list.report().next = Some(due);
        self.list.progress.send_modify(|it| {
            it.ended = it.ended.saturating_add(1);
            if cause == Cause::Asked {
                it.asked_at = Some(now);
            }
        });
        if heard {
            // After the waiting checks were notified, which need not wait for the disk.
            self.save().await;
        }
        due
    }

    /// Whose turn it is to fetch, among lists like this one.
    fn turns(&self) -> &Semaphore {
        let held = self.list.held.load().is_some();
        if held && self.list.report().failures.in_a_row == 0 {
            &self.common.turns_of_good
        } else {
            &self.common.turns_of_others
        }
    }

    async fn obtain(&self) -> Result<Obtained, Failure> {
        let held = self.list.held.load_full();
        let known = held.as_ref().filter(|it| self.may_be_unchanged(it));
        let etag = known.and_then(|it| it.version.as_ref());
        let limits = Limits { bytes: STATUS_LIST_TOKEN_BYTES, deadline: FETCH_TIMEOUT };
        let fetched = self.common.client.fetch_as(ACCEPT, &self.list.url, etag, limits).await?;
        let time = self.common.clock.now();
        let (now, cached) = (Instant::now(), fetched.lifetime);
        let Some(body) = fetched.body else {
            let held = held.ok_or(http::Failure::NotModifiedUnasked)?;
            if !held.list.lives(time) {
                return Err(BadStatusList::Expired.into());
            }
            // A 304 need not repeat the entity tag.
            let version = fetched.etag.or_else(|| held.version.clone());
            let held = Held { version, from_snapshot: false, ..Held::clone(&held) };
            return Ok(Obtained { held, outcome: Outcome::NotModified, cached });
        };
        kind::admit(fetched.kind.as_ref()).map_err(Failure::OtherKind)?;
        let (list, digest) = self.verified(&body, time).await?;
        let same = held.as_ref().is_some_and(|it| it.digest == digest);
        if held.is_some_and(|it| list.issued() < it.list.issued()) {
            return Err(Failure::Older);
        }
        let outcome = if same { Outcome::Unchanged } else { Outcome::Changed };
        let held = self.common.held(list, digest, body, now);
        Ok(Obtained { held: Held { version: fetched.etag, ..held }, outcome, cached })
    }

    /// Whether a 304 is accepted for a list. Not for ever, and not once its key is withdrawn.
    fn may_be_unchanged(&self, held: &Held) -> bool {
        let keys = self.common.keys.current();
        let has_key = keys.is_some_and(|it| it.behind(held.list.signed_by()).is_some());
        has_key && held.read_at.elapsed() < self.common.settings.max_stale
    }

    /// The list in `document`. If its key is unknown, the keys are fetched again.
    async fn verified(
        &self,
        document: &Bytes,
        time: UnixTime,
    ) -> Result<(StatusList, Thumbprint), Failure> {
        let keys = &self.common.keys;
        let set = keys.available().await.ok_or(Failure::NoKeys)?;
        let unknown = Failure::Bad(BadStatusList::KeyUnknown);
        let found = self.verify(document, &set, time).await;
        if found.as_ref().err() != Some(&unknown) {
            return found;
        }
        match keys.newer_than(&set).await {
            Newer::Set(newer) => self.verify(document, &newer, time).await,
            Newer::None | Newer::Unasked { .. } => Err(unknown),
        }
    }

    /// Millions of statuses take longer to read than others should wait.
    async fn verify(
        &self,
        document: &Bytes,
        keys: &Arc<KeySet>,
        time: UnixTime,
    ) -> Result<(StatusList, Thumbprint), Failure> {
        let (document, list) = (document.clone(), Arc::clone(&self.list));
        let (keys, issuer) = (Arc::clone(keys), Arc::clone(&self.common.issuer));
        let verify = move || {
            // Servers that send text like to end it with a line break.
            let token = document.trim_ascii();
            let found = StatusList::verify(token, &list.uri, &issuer, &keys, time)?;
            Ok((found, Thumbprint::of(&document)))
        };
        tokio::task::spawn_blocking(verify).await.unwrap_or(Err(Failure::Panicked))
    }

    /// Takes over what was fetched, and returns what is known of its life.
    fn settle(&self, obtained: Obtained) -> Result<Life, Failure> {
        let Obtained { held, outcome, cached } = obtained;
        let (now, time) = (Instant::now(), self.common.clock.now());
        if !self.common.has_room_for(&self.list, held.bytes()) {
            return Err(Failure::NoRoom);
        }
        let usable = schedule::usable(held.list.ttl(), self.common.settings.max_stale);
        let held = held.heard(now, Duration::ZERO, usable);
        let list = Arc::clone(&held.list);
        self.list.held.store(Some(Arc::new(held)));
        self.list.report().failures.add(outcome, time);
        self.common.count(outcome);
        if let Outcome::Changed = outcome {
            let (issuer, at) = (&*self.common.issuer.name, http::shown(&self.list.url));
            tracing::info!(issuer, list = at, entries = list.len(), "status list changed");
            self.common.changes.ring();
        }
        let left = list.expires().map(|it| it.since(time));
        Ok(Life { ttl: list.ttl(), cached, left, usable })
    }

    /// Records a failure, and returns the delay until the next attempt.
    async fn fail(&self, failure: &Failure) -> Duration {
        let failures = {
            let mut report = self.list.report();
            report.failures.add(Outcome::Failed(failure), self.common.clock.now());
            report.failures.in_a_row
        };
        let (issuer, at) = (&*self.common.issuer.name, http::shown(&self.list.url));
        tracing::warn!(issuer, list = at, failures, error = %failure, "status list not fetched");
        if self.list.held.load().is_none() {
            self.restore().await;
        }
        self.common.count(Outcome::Failed(failure));
        schedule::next_retry(failures, randomness::jitter())
    }

    /// Takes over the snapshot, if there is one that is still good.
    async fn restore(&self) {
        let Some(path) = self.path() else { return };
        let time = self.common.clock.now();
        let wanted = Wanted { max_bytes: STATUS_LIST_TOKEN_BYTES, ..self.wanted() };
        let read = move || snapshot::read(&path, &wanted, time);
        let read = match tokio::task::spawn_blocking(read).await {
            Ok(read) => read,
            Err(error) => Err(Odd::Unreadable(io::Error::from(error).kind())),
        };
        let (issuer, at) = (&*self.common.issuer.name, http::shown(&self.list.url));
        let Snapshot { document, heard_at, .. } = match read {
            Ok(snapshot) => snapshot,
            Err(odd) => {
                tracing::warn!(issuer, list = at, reason = %odd, "snapshot of a status list ignored");
                return;
            }
        };
        let (list, digest) = match self.verified(&document, time).await {
            Ok(found) => found,
            Err(failure) => {
                tracing::warn!(
                    issuer,
                    list = at,
                    reason = %failure,
                    "snapshot of a status list ignored"
                );
                return;
            }
        };
        let (now, age) = (Instant::now(), time.since(heard_at));
        let usable = schedule::usable(list.ttl(), self.common.settings.max_stale);
        let held = self.common.held(list, digest, document, now).heard(now, age, usable);
        if !held.is_good(now, time) || !self.common.has_room_for(&self.list, held.bytes()) {
            tracing::warn!(issuer, list = at, "snapshot of a status list ignored: it is too old");
            return;
        }
        tracing::warn!(issuer, list = at, %heard_at, "using a status list from its snapshot");
        self.list.held.store(Some(Arc::new(Held { from_snapshot: true, ..held })));
        self.common.changes.ring();
    }

    /// Writes the snapshot, even if only its date is new: its age matters at the next start.
    async fn save(&self) {
        let (Some(path), Some(keys)) = (self.path(), self.common.settings.snapshot_file.clone())
        else {
            return;
        };
        let Some(held) = self.list.held.load_full() else { return };
        let Some(document) = held.document.clone() else { return };
        let now = self.common.clock.now();
        let Wanted { kind, issuer, source, max_stale, .. } = self.wanted();
        let heard_at = now.saturating_sub(held.age(Instant::now()));
        let is_first = self.list.progress.borrow().ended == 1;
        let write = move || {
            if is_first {
                saved::sweep(&keys, now.saturating_sub(max_stale));
            }
            snapshot::write(&path, &Snapshot { kind, issuer, source, document, heard_at })
        };
        let written = tokio::task::spawn_blocking(write).await;
        if let Err(error) = written.unwrap_or_else(|it| Err(it.into())) {
            let issuer = &*self.common.issuer.name;
            tracing::warn!(issuer, %error, "snapshot of a status list not written");
        }
    }

    /// Gives the list up, with its snapshot.
    async fn forget(&self) {
        let (issuer, at) = (&*self.common.issuer.name, http::shown(&self.list.url));
        tracing::info!(issuer, list = at, "status list dropped: no token names it any more");
        if let Some(path) = self.path() {
            // There may be none.
            drop(tokio::task::spawn_blocking(move || fs::remove_file(path)).await);
        }
        self.common.forget(self.id, &self.list);
    }

    fn path(&self) -> Option<PathBuf> {
        self.common.settings.snapshot_file.as_deref().map(|it| saved::path(it, &self.id))
    }

    fn wanted(&self) -> Wanted {
        Wanted {
            kind: Kind::StatusList,
            issuer: self.common.issuer.name.to_string(),
            source: self.list.uri.to_string(),
            max_bytes: STATUS_LIST_TOKEN_BYTES,
            max_stale: self.common.settings.max_stale,
        }
    }
}

/// What is asked for: `application/` and [`STATUS_LIST_TYPE`].
const ACCEPT: &str = "application/statuslist+jwt";
const _: () = assert!(ACCEPT.len() == 12 + STATUS_LIST_TYPE.len());

/// How long a fetch may take. Checks do not wait for so long.
const FETCH_TIMEOUT: Duration = Duration::from_secs(30);

/// How exactly is known when a list was last used.
const RESOLUTION: Duration = Duration::from_secs(1);

/// How often it is looked whether somebody asks again for a list that could not be had.
const IDLE: Duration = Duration::from_secs(1);
