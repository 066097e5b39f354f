//! Where tokens are introspected: at the place that the operator names, or that the issuer's metadata
//! name.

use super::BadEndpoint;
use crate::state::discovery;
use crate::state::http::{Client, Limits, Reach};
use crate::state::waits::doubled;
use keybound_core::policy::Issuer;
use reqwest::Url;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;

/// The place, as far as it is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// The metadata have not been read yet.
    Sought,
    /// Here.
    At(Url),
    /// The metadata cannot be had, or name none that may be asked.
    Unknown,
}

/// Reads the metadata of an issuer, from time to time.
#[derive(Debug)]
pub(super) struct Seeker {
    issuer: Arc<str>,
    client: Client,
    tell: watch::Sender<Place>,
}

/// The place of an issuer's endpoint, and who is to look for it if it is not given.
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
    /// Reads the metadata, waits, and reads them again, for ever.
    pub(super) async fn run(self) {
        let mut failures = 0_u32;
        loop {
            let found = discovery::discover(&self.client, &self.issuer, LIMITS).await;
            let found = match found {
                Ok(metadata) => metadata.introspection_endpoint.map_or(Place::Unknown, Place::At),
                Err(failure) => {
                    tracing::warn!(issuer = &*self.issuer, error = %failure, "metadata not read");
                    // A place that was known stays where it was.
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

/// The time until the metadata are read again, after so many failures in a row.
fn delay(failures: u32) -> Duration {
    match failures.checked_sub(1) {
        None => KEPT,
        Some(doublings) => doubled(FIRST_RETRY, doublings, LAST_RETRY),
    }
}

/// What reading the metadata may cost; no check waits for it but the first.
const LIMITS: Limits = Limits { bytes: 512 * 1024, deadline: Duration::from_secs(5) };

/// Issuers move their endpoints about never.
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
