//! The issuers whose keys readiness waits for.

use super::{Installation, LiveIssuer};
use crate::state::jwks::IssuerKeys;
use futures_util::future::select_all;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep_until};

/// How long readiness waits for an issuer without keys while another has some.
const PATIENCE: Duration = Duration::from_secs(10);

impl Installation {
    /// The issuers that readiness waits for: those that never had keys, except after ten seconds if
    /// another issuer has some.
    pub fn awaited(&self) -> Vec<&str> {
        let another_serves = self.issuers.iter().any(|it| it.keys.is_ready());
        let is_awaited = |it: &&Arc<LiveIssuer>| {
            !it.keys.is_ready() && (!another_serves || it.keys.began().elapsed() < PATIENCE)
        };
        self.issuers.iter().filter(is_awaited).map(|it| it.name()).collect()
    }

    /// The issuers that have never had keys.
    pub fn without_keys(&self) -> impl Iterator<Item = &str> {
        self.issuers.iter().filter(|it| !it.keys.is_ready()).map(|it| it.name())
    }

    /// Waits until one more issuer has keys, or has been waited for long enough.
    pub async fn closer(&self) {
        let missing = self.issuers.iter().filter(|it| !it.keys.is_ready());
        let waits: Vec<_> = missing.map(|it| Box::pin(one_closer(&it.keys))).collect();
        if !waits.is_empty() {
            select_all(waits).await;
        }
    }
}

async fn one_closer(keys: &IssuerKeys) {
    let end = keys.began().checked_add(PATIENCE).filter(|it| Instant::now() < *it);
    match end {
        None => keys.ready().await,
        Some(end) => {
            tokio::select! {
                () = keys.ready() => (),
                () = sleep_until(end) => (),
            }
        }
    }
}
