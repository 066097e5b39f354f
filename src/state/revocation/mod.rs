//! Tokens that were revoked before they expire: what an operator or an issuer says of them, asked at
//! each check without a call.
//!
//! A token must be good by each of the parts. Whatever cannot be told refuses it.

pub mod denylist;
#[cfg(test)]
mod samples;

use crate::clock::Clock;
use denylist::{Denylist, DenylistStatus};
use keybound_core::oauth::AccessToken;
use keybound_core::{Standing, UnixTime};
use serde::Serialize;
use std::sync::Arc;
use tokio::runtime::Handle;
use tokio::sync::watch;

/// How the tokens of an issuer may be revoked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RevocationRules {
    /// The operator's denylist.
    pub denylist: Option<Arc<Denylist>>,
}

/// What is known of the revoked tokens of one issuer.
#[derive(Debug)]
pub struct Revocation {
    issuer: Arc<str>,
    denylist: Option<Arc<Denylist>>,
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
}

impl Revocation {
    /// What revokes the tokens of `issuer` under `rules`. Whoever waits for changes of `previous` is told
    /// of those of this one.
    pub fn start(
        issuer: &Arc<str>,
        rules: &RevocationRules,
        previous: Option<&Arc<Self>>,
        clock: &Arc<dyn Clock>,
        runtime: &Handle,
    ) -> Arc<Self> {
        let changes = previous.map_or_else(Arc::default, |it| Arc::clone(&it.changes));
        let RevocationRules { denylist } = rules.clone();
        if let Some(denylist) = &denylist {
            denylist.start(&changes, clock, runtime);
        }
        Arc::new(Self { issuer: Arc::clone(issuer), denylist, changes })
    }

    /// Whether `token` was revoked.
    #[inline]
    pub fn standing<'a>(&'a self, token: &'a AccessToken, _now: UnixTime) -> Standing<'a> {
        self.denylist.as_ref().map_or(Standing::Good, |it| it.standing(token))
    }

    /// What [`Self::standing`] looks at, for an explanation.
    pub fn describe(&self) -> String {
        let parts = self.denylist.iter().map(|it| it.describe());
        parts.collect::<Vec<_>>().join(", ")
    }

    /// Notifies of each later change by which a token that was good may be so no more.
    pub fn changes(&self) -> watch::Receiver<()> {
        self.changes.0.subscribe()
    }

    /// Its state.
    pub fn status(&self) -> Status {
        Status {
            issuer: self.issuer.to_string(),
            denylist: self.denylist.as_ref().map(|it| it.status()),
        }
    }
}

impl Changes {
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
