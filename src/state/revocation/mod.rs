//! Tokens that were revoked before they expire: what an operator or an issuer says of them, asked at
//! each check without a call.
//!
//! A token must be good by each of the parts. Whatever cannot be told refuses it.

pub mod denylist;
pub mod events;
#[cfg(test)]
mod samples;
pub mod status_lists;

use crate::clock::Clock;
use crate::state::http::BadCredentials;
use denylist::{Denylist, DenylistStatus};
use events::{Bell, EventRules, Events};
use keybound_core::oauth::AccessToken;
use keybound_core::policy::StatusDemand;
use keybound_core::{Standing, UnixTime};
use serde::Serialize;
use status_lists::{StatusListTerms, StatusLists, StatusListsStatus};
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::watch;

/// How the tokens of an issuer may be revoked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RevocationRules {
    /// The operator's denylist.
    pub denylist: Option<Arc<Denylist>>,
    /// What becomes of the status that a token has in a list of the issuer.
    pub status_list: StatusDemand,
    /// How the events of the issuer are received.
    pub events: Option<EventRules>,
}

/// What is known of the revoked tokens of one issuer.
#[derive(Debug)]
pub struct Revocation {
    issuer: Arc<str>,
    denylist: Option<Arc<Denylist>>,
    status_lists: Option<Arc<StatusLists>>,
    /// How long a check waits for a status list.
    patience: Duration,
    events: Option<Arc<Events>>,
    changes: Arc<Changes>,
}

/// Tells that a token that was good may be so no more: a part knows of more revoked tokens.
#[derive(Debug)]
pub struct Changes(watch::Sender<()>);

/// The state of what revokes the tokens of one issuer.
#[derive(Clone, Debug, Serialize)]
pub struct Status {
    /// The issuer.
    pub issuer: String,
    /// The operator's denylist.
    pub denylist: Option<DenylistStatus>,
    /// The issuer's status lists.
    pub status_lists: Option<StatusListsStatus>,
    /// The events of the issuer.
    pub events: Option<events::Status>,
}

impl Revocation {
    /// What revokes the tokens of an issuer under `rules`. Status lists are obtained by `terms`, and waited
    /// for up to `patience`. Whoever waits for changes of `previous` is told of those of this one.
    pub fn start(
        terms: StatusListTerms<'_>,
        patience: Duration,
        rules: &RevocationRules,
        previous: Option<&Arc<Self>>,
        clock: &Arc<dyn Clock>,
        runtime: &Handle,
    ) -> Result<Self, BadCredentials> {
        let changes = previous.map_or_else(Arc::default, |it| Arc::clone(&it.changes));
        let RevocationRules { denylist, status_list, .. } = rules.clone();
        if let Some(denylist) = &denylist {
            denylist.start(&changes, clock, runtime);
        }
        let status_lists = match status_list {
            StatusDemand::Off => None,
            StatusDemand::IfPresent | StatusDemand::Required => {
                let known = previous.and_then(|it| it.status_lists.as_ref());
                Some(StatusLists::start(terms, known, &changes, clock, runtime)?)
            }
        };
        let issuer = Arc::clone(&terms.issuer.name);
        Ok(Self { issuer, denylist, status_lists, patience, events: None, changes })
    }

    /// The same, which hears these events.
    #[must_use]
    pub fn hearing(self, events: Option<Arc<Events>>) -> Self {
        Self { events, ..self }
    }

    /// What rings for those who wait for its changes.
    pub fn bell(&self) -> Bell {
        Bell::of(Arc::clone(&self.changes))
    }

    /// The events of the issuer, if they are received.
    pub const fn events(&self) -> Option<&Arc<Events>> {
        self.events.as_ref()
    }

    /// Whether `token` was revoked.
    #[inline]
    pub fn standing<'a>(&'a self, token: &'a AccessToken, now: UnixTime) -> Standing<'a> {
        if let Some(denylist) = &self.denylist {
            match denylist.standing(token) {
                Standing::Good => (),
                refused @ (Standing::Refused(_) | Standing::Waits(_)) => return refused,
            }
        }
        if let Some(events) = &self.events {
            match events.standing(token, now) {
                Standing::Good => (),
                refused @ (Standing::Refused(_) | Standing::Waits(_)) => return refused,
            }
        }
        // Last, since a list may have to be waited for.
        let lists = self.status_lists.as_ref();
        lists.map_or(Standing::Good, |it| it.standing(token, now, self.patience))
    }

    /// What [`Self::standing`] looks at, for an explanation.
    pub fn describe(&self) -> String {
        let denylist = self.denylist.iter().map(|it| it.describe());
        let lists = self.status_lists.iter().map(|_| "the status list that it names".to_owned());
        let events = self.events.iter().map(|it| it.describe());
        denylist.chain(events).chain(lists).collect::<Vec<_>>().join(", ")
    }

    /// Notifies of each later change by which a token that was good may be so no more.
    pub fn changes(&self) -> watch::Receiver<()> {
        self.changes.subscribe()
    }

    /// Its state.
    pub fn status(&self) -> Status {
        Status {
            issuer: self.issuer.to_string(),
            denylist: self.denylist.as_ref().map(|it| it.status()),
            status_lists: self.status_lists.as_ref().map(|it| it.status()),
            events: self.events.as_ref().map(|it| it.status()),
        }
    }
}

impl Changes {
    /// Notifies of each later change.
    pub fn subscribe(&self) -> watch::Receiver<()> {
        self.0.subscribe()
    }

    /// Tells everybody who waits.
    pub fn ring(&self) {
        self.0.send_replace(());
    }
}

impl Default for Changes {
    fn default() -> Self {
        Self(watch::Sender::new(()))
    }
}
