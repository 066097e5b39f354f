//! One status list, as it is held: what was fetched last, how long it is good, and who uses it.

use super::status::Report;
use crate::state::waits::after;
use arc_swap::ArcSwapOption;
use bytes::Bytes;
use http::HeaderValue;
use keybound_core::UnixTime;
use keybound_core::jose::Thumbprint;
use keybound_core::oauth::StatusList;
use reqwest::Url;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tokio::task::AbortHandle;
use tokio::time::Instant;

/// A list of an issuer, with the task that fetches it. The task ends when this is dropped.
#[derive(Debug)]
pub(super) struct List {
    pub(super) shared: Arc<Shared>,
    pub(super) keeper: AbortHandle,
}

/// What the keeper of a list and its users share.
#[derive(Debug)]
pub(super) struct Shared {
    /// Exactly as tokens have it.
    pub(super) uri: Box<str>,
    pub(super) url: Url,
    pub(super) held: ArcSwapOption<Held>,
    pub(super) progress: watch::Sender<Progress>,
    /// A token has a place beyond the end of the list.
    pub(super) wanted: Notify,
    report: Mutex<Report>,
    began: Instant,
    /// When it was last looked at, in seconds since `began`.
    used: AtomicU64,
}

/// The progress of the keeper.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Progress {
    /// The number of fetches that have ended.
    pub(super) ended: u64,
    /// When the last fetch ended that was caused by a place beyond the end of the list.
    pub(super) asked_at: Option<Instant>,
}

/// A verified list with its times.
#[derive(Clone, Debug)]
pub(super) struct Held {
    pub(super) list: Arc<StatusList>,
    /// The SHA-256 of the document.
    pub(super) digest: Thumbprint,
    /// The document, where a snapshot is kept.
    pub(super) document: Option<Bytes>,
    pub(super) version: Option<HeaderValue>,
    /// When the document was read.
    pub(super) read_at: Instant,
    /// When the issuer last confirmed it.
    pub(super) heard_at: Instant,
    /// The age of the confirmation at `heard_at`: not zero for a snapshot.
    pub(super) age_then: Duration,
    pub(super) usable_until: Instant,
    pub(super) from_snapshot: bool,
}

impl Shared {
    pub(super) fn new(uri: &str, url: Url) -> Self {
        Self {
            uri: uri.into(),
            url,
            held: ArcSwapOption::empty(),
            progress: watch::Sender::new(Progress::default()),
            wanted: Notify::new(),
            report: Mutex::default(),
            began: Instant::now(),
            used: AtomicU64::new(0),
        }
    }

    /// Whether nothing is known of it yet, since its first fetch has not ended.
    pub(super) fn is_awaited(&self) -> bool {
        self.progress.borrow().ended == 0
    }

    /// Waits until one more fetch has ended.
    pub(super) async fn ended(&self) {
        let mut progress = self.progress.subscribe();
        let ended = progress.borrow().ended;
        // There is no error: the sender is in this.
        drop(progress.wait_for(|it| ended < it.ended).await);
    }

    /// Remembers that it is in use. It writes at most once a second, so that cores do not fight for it.
    pub(super) fn is_used(&self, now: Instant) {
        let seconds = now.saturating_duration_since(self.began).as_secs();
        if self.used.load(Ordering::Relaxed) != seconds {
            self.used.store(seconds, Ordering::Relaxed);
        }
    }

    /// For how long nobody has looked at it.
    pub(super) fn unused(&self, now: Instant) -> Duration {
        let used = Duration::from_secs(self.used.load(Ordering::Relaxed));
        now.saturating_duration_since(self.began).saturating_sub(used)
    }

    pub(super) fn report(&self) -> MutexGuard<'_, Report> {
        self.report.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The memory use of what is held, in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.held.load().as_deref().map_or(0, Held::bytes)
    }
}

impl Held {
    /// The time since the issuer last confirmed it.
    pub(super) fn age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.heard_at).saturating_add(self.age_then)
    }

    /// Whether it may be used: it is neither too old nor past its `exp`.
    pub(super) fn is_good(&self, now: Instant, time: UnixTime) -> bool {
        now < self.usable_until && self.list.lives(time)
    }

    /// The same list, which the issuer confirmed `age` before `now`, and which is used for `usable`
    /// after that.
    pub(super) fn heard(self, now: Instant, age: Duration, usable: Duration) -> Self {
        let usable_until = after(now, usable.saturating_sub(age));
        Self { heard_at: now, age_then: age, usable_until, ..self }
    }

    /// Its memory use in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.list.bytes().saturating_add(self.document.as_ref().map_or(0, Bytes::len))
    }
}

impl Drop for List {
    fn drop(&mut self) {
        self.keeper.abort();
    }
}
