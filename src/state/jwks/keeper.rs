//! The task that fetches an issuer's keys.

use super::rules::KeyUpkeep;
use super::source::{Obtained, Source};
use super::status::Skipped;
use super::{Failure, Held, Shared, schedule, withdrawn};
use crate::clock::Clock;
use crate::randomness;
use crate::state::http;
use crate::state::refreshes::Outcome;
use crate::state::snapshot::{self, Kind, Odd, Snapshot, Wanted};
use crate::state::waits::after;
use bytes::Bytes;
use futures_util::FutureExt;
use keybound_core::jose::{KeySet, UnusableKey};
use std::convert::Infallible;
use std::io;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until, timeout};

/// Fetches the keys of one issuer. There is one per issuer, so that fetches never overlap.
#[derive(Debug)]
pub(super) struct Keeper {
    pub(super) issuer: Arc<str>,
    pub(super) upkeep: KeyUpkeep,
    pub(super) source: Source,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) shared: Arc<Shared>,
    pub(super) progress: watch::Sender<Progress>,
    /// The present keys may not be in the snapshot yet.
    pub(super) unsaved: bool,
}

/// New settings for an issuer's keys.
#[derive(Debug)]
pub(super) struct Order {
    pub(super) source: Source,
    pub(super) upkeep: KeyUpkeep,
}

/// The progress of the keeper.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Progress {
    /// The number of fetches that have ended.
    pub(super) ended: u64,
    /// Whether a fetch is in progress.
    pub(super) under_way: bool,
    /// When the last fetch caused by an unknown key ended.
    pub(super) asked_at: Option<Instant>,
}

/// The cause of a fetch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cause {
    /// The schedule.
    Due,
    /// A token with an unknown key.
    Asked,
}

impl Keeper {
    /// Fetches on schedule until all senders of `orders` are gone. Each order cancels what is in
    /// progress and causes a fetch.
    pub(super) async fn run(mut self, mut orders: mpsc::UnboundedReceiver<Order>) {
        loop {
            let grace = self.upkeep.withdrawn_key_grace;
            let drop_withdrawn = Arc::clone(&self.shared).drop_withdrawn(grace);
            let order = tokio::select! {
                never = drop_withdrawn => match never {},
                never = self.keep() => match never {},
                order = orders.recv() => order,
            };
            let Some(Order { source, upkeep }) = order else { return };
            (self.source, self.upkeep, self.unsaved) = (source, upkeep, true);
            // Again, since a fetch may have ended after the order was sent.
            self.shared.keep_by(&self.upkeep);
        }
    }

    async fn keep(&mut self) -> Infallible {
        let mut cause = Cause::Due;
        loop {
            let due = self.fetch(cause).await;
            cause = self.next_cause(due).await;
        }
    }

    async fn next_cause(&self, due: Instant) -> Cause {
        loop {
            tokio::select! {
                () = sleep_until(due) => return Cause::Due,
                () = self.shared.wanted.notified() => {
                    // Checked again, since the requester may have looked before the last fetch
                    // ended.
                    let last = self.progress.borrow().asked_at;
                    let cooldown = self.upkeep.unknown_kid_cooldown;
                    if schedule::may_ask(last, cooldown, Instant::now()) {
                        return Cause::Asked;
                    }
                }
            }
        }
    }

    /// Fetches once and returns when the next fetch is due.
    async fn fetch(&mut self, cause: Cause) -> Instant {
        self.progress.send_modify(|it| it.under_way = true);
        let read = self.read(cause).await;
        let settled = read.and_then(|it| self.settle(it));
        let heard = settled.is_ok();
        let delay = match settled {
            Ok(lifetime) => self.source.interval().unwrap_or_else(|| {
                schedule::next_refresh(lifetime, &self.upkeep, randomness::jitter())
            }),
            Err(failure) => self.fail(&failure).await,
        };
        let now = Instant::now();
        let due = after(now, delay);
        self.shared.report().next = Some(due);
        self.progress.send_modify(|it| {
            it.under_way = false;
            it.ended = it.ended.saturating_add(1);
            if cause == Cause::Asked {
                it.asked_at = Some(now);
            }
        });
        if heard || self.unsaved {
            // After the waiting checks were notified, which need not wait for the disk.
            self.save().await;
            self.unsaved = false;
        }
        due
    }

    async fn read(&mut self, cause: Cause) -> Result<Obtained, Failure> {
        let failures = self.shared.report().failures.in_a_row;
        let held = self.shared.held.load_full();
        let known = held
            .as_ref()
            .filter(|it| schedule::may_be_unchanged(it.read_at.elapsed(), &self.upkeep))
            .and_then(|it| it.version.as_ref());
        let read = self.source.read(known, cause == Cause::Asked, failures);
        let read = timeout(self.upkeep.fetch_timeout, AssertUnwindSafe(read).catch_unwind());
        match read.await {
            Ok(Ok(read)) => read,
            Ok(Err(_)) => Err(Failure::Panicked),
            Err(_) => Err(self.source.late()),
        }
    }

    /// Takes over what was read, and returns the lifetime that the issuer proposes.
    fn settle(&self, obtained: Obtained) -> Result<Option<Duration>, Failure> {
        let held = self.shared.held.load_full();
        let (held, outcome) = match (obtained.document, held) {
            (None, None) => return Err(Failure::Http(http::Failure::NotModifiedUnasked)),
            (None, Some(held)) => (self.heard(&held, held.read_at), Outcome::NotModified),
            (Some(document), Some(held)) if document == held.document => {
                (self.heard(&held, Instant::now()), Outcome::Unchanged)
            }
            (Some(document), _) => (self.accept(document, Duration::ZERO)?, Outcome::Changed),
        };
        if let Outcome::Changed = outcome {
            let (keys, skipped) = (held.published.len(), held.published.skipped_count());
            let (kids, withdrawn): (Vec<_>, _) = (held.set.kids().collect(), held.withdrawn.len());
            let kids = kids.join(" ");
            tracing::info!(issuer = &*self.issuer, keys, withdrawn, skipped, kids, "keys changed");
            self.log_skipped(&held.published);
            self.log_unfit(&held.published);
        }
        self.shared.held.store(Some(Arc::new(Held { version: obtained.version, ..held })));
        self.shared.report().add(outcome, self.clock.now());
        Ok(obtained.lifetime)
    }

    /// Names the keys of a new set that cannot be used. It is a warning unless all of them are there
    /// for something else, such as encryption, which is as it should be.
    fn log_skipped(&self, set: &KeySet) {
        if set.skipped().is_empty() {
            return;
        }
        let (issuer, skipped) = (&*self.issuer, set.skipped_in_words());
        if set.skipped().iter().all(|it| it.reason == UnusableKey::Use) {
            tracing::info!(issuer, skipped, "keys skipped");
        } else {
            tracing::warn!(issuer, skipped, "keys skipped");
        }
    }

    /// Names the keys of a new set that sign no token that is accepted. It is a warning where there are no
    /// others.
    fn log_unfit(&self, set: &KeySet) {
        let algorithms = &self.upkeep.algorithms;
        let unfit = set.unfit_in_words(algorithms);
        if algorithms.is_empty() || unfit.is_empty() {
            return;
        }
        let names: Vec<_> = algorithms.iter().map(|it| it.name()).collect();
        let (issuer, keys, names) = (&*self.issuer, unfit.join("; "), names.join(", "));
        if unfit.len() < set.len() {
            tracing::info!(issuer, keys, algorithms = names, "keys for none of the algorithms");
        } else {
            tracing::warn!(
                issuer,
                keys,
                algorithms = names,
                "no algorithm of `algorithms` fits a key of the issuer: all its tokens are refused"
            );
        }
    }

    /// The same keys, confirmed by the issuer again.
    fn heard(&self, held: &Held, read_at: Instant) -> Held {
        let now = Instant::now();
        Held {
            read_at,
            heard_at: now,
            age_then: Duration::ZERO,
            from_snapshot: false,
            ..held.clone()
        }
        .kept_by(&self.upkeep)
    }

    /// The keys in `document`, which the issuer confirmed `age` ago.
    fn accept(&self, document: Bytes, age: Duration) -> Result<Held, Failure> {
        let parse = || KeySet::parse(&document);
        let set = std::panic::catch_unwind(AssertUnwindSafe(parse)).or(Err(Failure::Panicked))?;
        let published = Arc::new(set.or(Err(Failure::Malformed))?);
        self.shared.report().skipped = Skipped::of(&published);
        if published.is_empty() {
            return Err(Failure::Empty(published.skipped_in_words()));
        }
        let now = Instant::now();
        let before = self.shared.held.load();
        let grace = self.upkeep.withdrawn_key_grace;
        let withdrawn = withdrawn::withdrawn(before.as_deref(), &published, grace, now);
        if !withdrawn.is_empty() {
            self.shared.withdrew.notify_one();
        }
        let held = Held {
            set: withdrawn::all(&published, &withdrawn),
            published,
            withdrawn,
            document,
            version: None,
            read_at: now,
            heard_at: now,
            age_then: age,
            usable_until: now,
            from_snapshot: false,
        };
        Ok(held.kept_by(&self.upkeep))
    }

    /// Records a failure, and returns the delay until the next attempt.
    async fn fail(&self, failure: &Failure) -> Duration {
        let failures = {
            let mut report = self.shared.report();
            report.add(Outcome::Failed(failure), self.clock.now());
            report.failures.in_a_row
        };
        tracing::warn!(issuer = &*self.issuer, failures, error = %failure, "key refresh failed");
        if self.shared.held.load().is_none() {
            self.restore().await;
        }
        let retry = schedule::next_retry(failures, &self.upkeep, randomness::jitter());
        self.source.interval().map_or(retry, |it| it.min(retry))
    }

    /// Takes over the snapshot, if there is a valid one.
    async fn restore(&self) {
        let Some(path) = self.upkeep.snapshot_file.clone() else { return };
        let now = self.clock.now();
        let wanted = Wanted {
            kind: Kind::Keys,
            issuer: self.issuer.to_string(),
            source: self.source.place(),
            max_bytes: self.upkeep.max_bytes,
            max_stale: self.upkeep.max_stale,
        };
        let read = move || snapshot::read(&path, &wanted, now);
        let read = match tokio::task::spawn_blocking(read).await {
            Ok(read) => read,
            Err(error) => Err(Odd::Unreadable(io::Error::from(error).kind())),
        };
        let Snapshot { document, heard_at, .. } = match read {
            Ok(snapshot) => snapshot,
            Err(odd) => {
                tracing::warn!(issuer = &*self.issuer, reason = %odd, "snapshot ignored");
                return;
            }
        };
        match self.accept(document, now.since(heard_at)) {
            Ok(held) => {
                let keys = held.set.len();
                tracing::warn!(issuer = &*self.issuer, keys, %heard_at, "using keys from snapshot");
                self.shared.held.store(Some(Arc::new(Held { from_snapshot: true, ..held })));
            }
            Err(failure) => {
                tracing::warn!(issuer = &*self.issuer, reason = %failure, "snapshot ignored");
            }
        }
    }

    /// Writes the snapshot, even if only its date is new: its age matters at the next start.
    async fn save(&self) {
        let Some(path) = self.upkeep.snapshot_file.clone() else { return };
        let Some(held) = self.shared.held.load_full() else { return };
        let age = held.age(Instant::now());
        let snapshot = Snapshot {
            kind: Kind::Keys,
            issuer: self.issuer.to_string(),
            source: self.source.place(),
            document: held.document.clone(),
            heard_at: self.clock.now().saturating_sub(age),
        };
        let write = move || snapshot::write(&path, &snapshot);
        let written = tokio::task::spawn_blocking(write).await;
        if let Err(error) = written.unwrap_or_else(|it| Err(it.into())) {
            tracing::warn!(issuer = &*self.issuer, %error, "snapshot not written");
        }
    }
}
