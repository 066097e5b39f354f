//! One object per issuer: its keys, its introspection and what revokes its tokens. They start, are taken over by a new
//! configuration, and end together.

use super::{InstallationRules, IssuerRules};
use crate::clock::Clock;
use crate::state::introspection::{self, BadEndpoint, Introspector};
use crate::state::jwks::{self, BadSource, IssuerKeys, TimedKeys};
use crate::state::revocation::Revocation;
use crate::state::revocation::events::{self, BadEvents};
use crate::state::revocation::status_lists::StatusListTerms;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;

/// An issuer at run time: its keys, its introspection and what revokes its tokens.
#[derive(Debug)]
pub struct LiveIssuer {
    name: Arc<str>,
    /// Its keys.
    pub keys: TimedKeys,
    /// Its introspection, if configured.
    pub introspection: Option<Arc<Introspector>>,
    /// What revokes its tokens, if configured.
    pub revocation: Option<Arc<Revocation>>,
}

/// An issuer cannot be used as it is configured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BadIssuer {
    /// The source of its keys is invalid.
    Keys(BadSource),
    /// Its introspection endpoint is invalid.
    Introspection(BadEndpoint),
    /// Its events cannot be received.
    Events(BadEvents),
}

/// The issuers of a new configuration, before the old one is affected.
#[derive(Debug)]
pub(super) struct Prepared(Vec<PreparedIssuer>);

#[derive(Debug)]
struct PreparedIssuer {
    issuer: Arc<LiveIssuer>,
    /// Settings of keys that were taken over.
    changes: Vec<jwks::Change>,
    losses: Vec<String>,
}

/// What all issuers of a configuration have in common.
#[derive(Clone, Copy)]
struct Common<'a> {
    /// The claims to keep.
    selection: &'a Arc<[String]>,
    /// How long a check waits for keys.
    patience: Duration,
    clock: &'a Arc<dyn Clock>,
    runtime: &'a Handle,
}

/// Prepares the issuers of `rules`, in their order. State of the same issuers in `previous` is
/// taken over where it still applies.
pub(super) fn prepare(
    rules: &InstallationRules,
    previous: &[Arc<LiveIssuer>],
    clock: &Arc<dyn Clock>,
    runtime: &Handle,
) -> Result<Prepared, BadIssuer> {
    let selection = &rules.policies.claims_asked_for().into();
    let common = Common { selection, patience: rules.limits.patience(), clock, runtime };
    let prepared = rules.issuers.iter().map(|rules| {
        let previous = previous.iter().find(|it| it.name == rules.issuer.name);
        LiveIssuer::prepare(rules, previous.map(|it| &**it), common)
    });
    prepared.collect::<Result<_, _>>().map(Prepared)
}

impl Prepared {
    /// State that is lost: sentences for the operator.
    pub(super) fn losses(&self) -> Vec<String> {
        self.0.iter().flat_map(|it| it.losses.clone()).collect()
    }

    /// Applies the new settings to the state taken over. It cannot fail.
    pub(super) fn apply(self) -> Vec<Arc<LiveIssuer>> {
        let apply = |it: PreparedIssuer| {
            it.changes.into_iter().for_each(jwks::Change::apply);
            it.issuer
        };
        self.0.into_iter().map(apply).collect()
    }
}

impl LiveIssuer {
    /// An issuer of these parts. A check waits at most `patience` for its keys.
    pub fn new(
        keys: &Arc<IssuerKeys>,
        introspection: Option<Arc<Introspector>>,
        patience: Duration,
    ) -> Self {
        let (name, keys) = (keys.issuer().into(), keys.within(patience));
        Self { name, keys, introspection, revocation: None }
    }

    /// The same, whose tokens `revocation` may revoke.
    #[must_use]
    pub fn revoking(self, revocation: Option<Arc<Revocation>>) -> Self {
        Self { revocation, ..self }
    }

    /// The exact `iss` of its tokens.
    pub fn name(&self) -> &str {
        &self.name
    }

    fn prepare(
        rules: &IssuerRules,
        previous: Option<&Self>,
        common: Common<'_>,
    ) -> Result<PreparedIssuer, BadIssuer> {
        let IssuerRules { issuer, keys: key_rules, introspection, revocation } = rules;
        let Common { selection, patience, clock, runtime } = common;
        let held = previous.map(|it| it.keys.shared());
        let (ca, allow_http) = (key_rules.ca.as_deref(), key_rules.allow_http);
        let jwks::Prepared { keys, change, left_behind } =
            jwks::prepare(&issuer.name, key_rules, held, clock, runtime)?;
        let known = previous.and_then(|it| it.introspection.as_ref());
        let asks = introspection.as_ref().map(|rules| {
            let terms =
                introspection::Terms { issuer, rules, ca, allow_http, keys: &keys, selection };
            introspection::start(&terms, known, clock, runtime)
        });
        let introspection = asks.transpose()?;
        let mut losses = vec![];
        if left_behind {
            losses.push(format!(
                "{}: its keys now come from another source, and the previous ones are dropped",
                issuer.name
            ));
        }
        let unheard =
            known.zip(introspection.as_ref()).is_some_and(|(old, new)| !new.continues(old));
        if unheard {
            losses.push(format!(
                "{}: its introspection endpoint or client has changed, and cached results are \
                 dropped",
                issuer.name
            ));
        }
        let known = previous.and_then(|it| it.revocation.as_ref());
        let mut changes: Vec<_> = change.into_iter().collect();
        let terms = StatusListTerms { issuer, keys: &keys, rules: key_rules };
        let revocation = revocation.as_ref().map(|rules| {
            let revocation = Revocation::start(terms, patience, rules, known, clock, runtime);
            let revocation = revocation.map_err(BadSource::Credentials)?;
            let Some(rules) = &rules.events else { return Ok(revocation) };
            let terms = events::Terms { issuer, keys: &keys, rules, ca, allow_http };
            let known = known.and_then(|it| it.events());
            let events::Prepared { events, change, left_behind } =
                events::prepare(&terms, known, &revocation.bell(), clock, runtime)?;
            changes.extend(change);
            if left_behind {
                losses.push(format!(
                    "{}: its events now come from another transmitter or store, and those that were \
                     received count no more",
                    issuer.name
                ));
            }
            Ok::<_, BadIssuer>(revocation.hearing(Some(events)))
        });
        let revocation = revocation.transpose()?.map(Arc::new);
        let issuer = Self::new(&keys, introspection, patience).revoking(revocation);
        let issuer = Arc::new(issuer);
        Ok(PreparedIssuer { issuer, changes, losses })
    }
}

impl From<BadSource> for BadIssuer {
    fn from(error: BadSource) -> Self {
        Self::Keys(error)
    }
}

impl From<BadEvents> for BadIssuer {
    fn from(error: BadEvents) -> Self {
        Self::Events(error)
    }
}

impl From<BadEndpoint> for BadIssuer {
    fn from(error: BadEndpoint) -> Self {
        Self::Introspection(error)
    }
}

impl fmt::Display for BadIssuer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Keys(error) => error.fmt(f),
            Self::Introspection(error) => error.fmt(f),
            Self::Events(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for BadIssuer {}
