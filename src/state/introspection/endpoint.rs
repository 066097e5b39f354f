//! The introspection endpoint: the one in the configuration, or the one in the issuer's metadata.

use super::BadEndpoint;
use crate::state::discovery;
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
    /// Its URL.
    At(Url),
    /// The metadata cannot be fetched, or has no endpoint that may be asked.
    Unknown,
}

/// A task that refreshes an issuer's metadata.
#[derive(Debug)]
pub(super) struct Seeker {
    issuer: Arc<str>,
    client: Client,
    tell: watch::Sender<Place>,
}

/// The endpoint of an issuer, and the task that discovers it if it is not configured.
pub(super) fn of(
    issuer: &Issuer,
    given: Option<&str>,
    client: &Client,
) -> Result<(watch::Receiver<Place>, Option<Seeker>), BadEndpoint> {
    let url = Url::parse(given.unwrap_or(&issuer.name)).or(Err(BadEndpoint::UrlRefused))?;
    Reach::of(&url).ok_or(BadEndpoint::UrlRefused)?;
    if given.is_some() {
        return Ok((watch::channel(Place::At(url)).1, None));
    }
    let (tell, place) = watch::channel(Place::Sought);
    let seeker = Seeker { issuer: Arc::clone(&issuer.name), client: client.clone(), tell };
    Ok((place, Some(seeker)))
}

impl Seeker {
    /// Fetches the metadata again and again. It never returns.
    pub(super) async fn run(self) {
        let mut failures = 0_u32;
        loop {
            let found = discovery::discover(&self.client, &self.issuer, LIMITS).await;
            let found = match found {
                Ok(metadata) => metadata.introspection_endpoint.map_or(Place::Unknown, Place::At),
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
}

/// The time until the next fetch, after `failures` in a row.
fn delay(failures: u32) -> Duration {
    match failures.checked_sub(1) {
        None => KEPT,
        Some(doublings) => doubled(FIRST_RETRY, doublings, LAST_RETRY),
    }
}

/// Limits of fetching the metadata. Only the first check waits for it.
const LIMITS: Limits = Limits { bytes: 512 * 1024, deadline: Duration::from_secs(5) };

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
