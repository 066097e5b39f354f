//! The state of an issuer's status lists, for metrics and the admin page.

use super::StatusLists;
use super::list::Shared;
use crate::state::http;
use crate::state::refreshes::{Failures, LastError};
use keybound_core::UnixTime;
use serde::Serialize;
use std::collections::BTreeMap;
use tokio::time::Instant;

/// The state of the status lists of an issuer.
#[derive(Clone, Debug, Default, Serialize)]
pub struct StatusListsStatus {
    /// How many lists tokens have named lately.
    pub lists: usize,
    /// How many of them cannot be used: never fetched, too old, or past their `exp`.
    pub unusable: usize,
    /// The memory that they use, in bytes.
    pub bytes: usize,
    /// Seconds since the issuer last confirmed the one that it confirmed the longest ago.
    pub age_seconds: Option<u64>,
    /// Fetches by outcome.
    pub fetches: BTreeMap<&'static str, u64>,
    /// The lists, those in trouble first; the first of very many.
    pub each: Vec<StatusListStatus>,
}

/// The state of one list.
#[derive(Clone, Debug, Serialize)]
pub struct StatusListStatus {
    /// Its URI, without a query.
    pub uri: String,
    /// Whether it may be used.
    pub usable: bool,
    /// Whether it comes from the snapshot, because no fetch has succeeded since the start.
    pub from_snapshot: bool,
    /// For how many tokens it has room.
    pub entries: usize,
    /// Seconds since the issuer last confirmed it.
    pub age_seconds: Option<u64>,
    /// Seconds that it may still be used if no fetch succeeds.
    pub usable_for_seconds: Option<u64>,
    /// Its `iat`, in seconds since the epoch.
    pub issued_at: Option<i64>,
    /// Its `exp`, in seconds since the epoch.
    pub expires_at: Option<i64>,
    /// When the next fetch is planned, in seconds from now.
    pub next_refresh_seconds: Option<u64>,
    /// Failed fetches since the last successful one.
    pub consecutive_failures: u32,
    /// The last failure, even if fetches have succeeded since.
    pub last_error: Option<LastError>,
}

/// What happened to one list.
#[derive(Debug, Default)]
pub(super) struct Report {
    pub(super) failures: Failures,
    pub(super) next: Option<Instant>,
}

impl StatusLists {
    /// The state of these lists.
    pub fn status(&self) -> StatusListsStatus {
        let (now, time) = (Instant::now(), self.common.clock.now());
        let lists = self.common.lists.load_full();
        let mut each: Vec<_> =
            lists.values().map(|it| StatusListStatus::of(&it.shared, now, time)).collect();
        each.sort_by(|one, other| {
            (one.usable, other.age_seconds, &one.uri).cmp(&(
                other.usable,
                one.age_seconds,
                &other.uri,
            ))
        });
        let status = StatusListsStatus {
            lists: each.len(),
            unusable: each.iter().filter(|it| !it.usable).count(),
            bytes: lists.values().map(|it| it.shared.bytes()).fold(0, usize::saturating_add),
            age_seconds: each.iter().filter_map(|it| it.age_seconds).max(),
            fetches: self.common.fetches(),
            each: vec![],
        };
        each.truncate(SHOWN);
        StatusListsStatus { each, ..status }
    }
}

/// The most lists that are shown one by one.
const SHOWN: usize = 20;

impl StatusListStatus {
    fn of(list: &Shared, now: Instant, time: UnixTime) -> Self {
        let held = list.held.load_full();
        let good = held.as_ref().filter(|it| it.is_good(now, time));
        let report = list.report();
        let until = |it: Instant| it.saturating_duration_since(now).as_secs();
        let known = held.as_ref().map(|it| &it.list);
        Self {
            uri: http::shown(&list.url),
            usable: good.is_some(),
            from_snapshot: held.as_ref().is_some_and(|it| it.from_snapshot),
            entries: known.map_or(0, |it| it.len()),
            age_seconds: held.as_ref().map(|it| it.age(now).as_secs()),
            usable_for_seconds: good.map(|it| until(it.usable_until)),
            issued_at: known.map(|it| it.issued().as_secs()),
            expires_at: known.and_then(|it| it.expires()).map(UnixTime::as_secs),
            next_refresh_seconds: report.next.map(until),
            consecutive_failures: report.failures.in_a_row,
            last_error: report.failures.last.clone(),
        }
    }
}
