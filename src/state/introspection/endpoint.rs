//! The introspection endpoint: the one in the configuration, or the one in the issuer's metadata.

use super::authentication::ClientAuthentication;
use super::{BadEndpoint, IntrospectionRules};
use crate::state::discovery::{self, IntrospectionMetadata, Metadata, Wanted};
use crate::state::http::{Client, Limits, Reach};
use crate::state::waits::doubled;
use keybound_core::policy::Issuer;
use reqwest::Url;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// The endpoint, as far as it is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// The metadata has not been fetched yet.
    Sought,
    At(Endpoint),
    /// The metadata cannot be fetched, or has no endpoint that may be asked.
    Unknown,
}

/// An endpoint that may be asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Endpoint {
    pub(super) url: Url,
    /// The algorithms for client assertions that it accepts; empty where the metadata do not say.
    pub(super) algorithms: Arc<[String]>,
}

/// A task that refreshes an issuer's metadata.
#[derive(Debug)]
pub(super) struct Seeker {
    issuer: Arc<str>,
    client: Client,
    authentication: ClientAuthentication,
    /// Whether a client certificate is shown.
    certified: bool,
    tell: watch::Sender<Place>,
}

/// The endpoint of an issuer, and the task that discovers it if it is not configured.
pub(super) fn of(
    issuer: &Issuer,
    rules: &IntrospectionRules,
    client: &Client,
) -> Result<(watch::Receiver<Place>, Option<Seeker>), BadEndpoint> {
    let given = rules.endpoint.as_deref();
    let url = Url::parse(given.unwrap_or(&issuer.name)).or(Err(BadEndpoint::UrlRefused))?;
    Reach::of(&url, client.allows_http()).ok_or(BadEndpoint::UrlRefused)?;
    if given.is_some() {
        let endpoint = Endpoint { url, algorithms: <_>::default() };
        return Ok((watch::channel(Place::At(endpoint)).1, None));
    }
    let (tell, place) = watch::channel(Place::Sought);
    let seeker = Seeker {
        issuer: Arc::clone(&issuer.name),
        client: client.clone(),
        authentication: rules.authentication.clone(),
        certified: rules.identity.is_some(),
        tell,
    };
    Ok((place, Some(seeker)))
}

impl Seeker {
    /// Fetches the metadata again and again. It never returns.
    pub(super) async fn run(self) {
        let mut failures = 0_u32;
        loop {
            let found = match self.look().await {
                Ok(metadata) => self.found(metadata.introspection),
                Err(failure) => {
                    tracing::warn!(issuer = &*self.issuer, error = %failure, "metadata not fetched");
                    // After a failure, the known endpoint is kept.
                    match &*self.tell.borrow() {
                        Place::Sought => Place::Unknown,
                        known @ (Place::At(_) | Place::Unknown) => known.clone(),
                    }
                }
            };
            failures = if found == Place::Unknown { failures.saturating_add(1) } else { 0 };
            self.tell.send_replace(found);
            tokio::time::sleep(delay(failures)).await;
        }
    }

    /// Fetches the metadata once.
    pub(super) async fn look(&self) -> Result<Metadata, discovery::Failure> {
        discovery::discover(&self.client, &self.issuer, Wanted::Introspection, LIMITS).await
    }

    /// The place that metadata name for this client.
    pub(super) fn found(&self, metadata: IntrospectionMetadata) -> Place {
        if let Some(supported) = &metadata.authentication_methods
            && !self.authentication.is_among(supported)
        {
            let (ours, theirs) = (self.authentication.name(), shown(supported));
            tracing::warn!(
                issuer = &*self.issuer,
                authentication = ours,
                supported = theirs,
                "the issuer's metadata do not list this authentication for introspection"
            );
        }
        // RFC 8705 §5: who uses mutual TLS uses the alias in preference.
        let alias = metadata.mtls_endpoint.filter(|_| self.certified);
        let algorithms = metadata.signing_algorithms.into();
        match alias.or(metadata.endpoint) {
            Some(url) => Place::At(Endpoint { url, algorithms }),
            None => Place::Unknown,
        }
    }
}

/// Names from metadata, for the log.
fn shown(names: &[String]) -> String {
    names.join(" ").chars().filter(|it| !it.is_control()).take(LONGEST_SHOWN).collect()
}

/// In characters.
const LONGEST_SHOWN: usize = 200;

/// The time until the next fetch, after `failures` in a row.
fn delay(failures: u32) -> Duration {
    match failures.checked_sub(1) {
        None => KEPT,
        Some(doublings) => doubled(FIRST_RETRY, doublings, LAST_RETRY),
    }
}

/// Limits of fetching the metadata. Only the first check waits for it.
pub(super) const LIMITS: Limits = Limits { bytes: 512 * 1024, deadline: Duration::from_secs(5) };

/// Issuers hardly ever move their endpoints.
const KEPT: Duration = Duration::from_secs(3600);

const FIRST_RETRY: Duration = Duration::from_secs(1);
const LAST_RETRY: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_are_read_hourly_and_sooner_after_failures() {
        let delays: Vec<_> = (0..=8).map(|it| delay(it).as_secs()).collect();
        assert_eq!(delays, [3600, 1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(delay(u32::MAX), LAST_RETRY);
    }
}
