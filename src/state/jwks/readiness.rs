//! Which issuers a service waits for before requests should come to it.

use super::IssuerKeys;
use futures_util::future::select_all;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::time::{Instant, sleep_until};

/// For so long an issuer without keys is waited for while another has some.
const PATIENCE: Duration = Duration::from_secs(10);

/// The issuers that readiness waits for: those that never had keys, unless they have been without
/// for ten seconds while another serves.
pub fn awaited(keys: &[Arc<IssuerKeys>]) -> Vec<&str> {
    let another_serves = keys.iter().any(|it| it.is_ready());
    let is_awaited = |it: &&Arc<IssuerKeys>| {
        !it.is_ready() && (!another_serves || it.began.elapsed() < PATIENCE)
    };
    keys.iter().filter(is_awaited).map(|it| it.issuer()).collect()
}

/// Waits until one more of the issuers has keys, or was waited for long enough.
pub async fn closer(keys: &[Arc<IssuerKeys>]) {
    let missing = keys.iter().filter(|it| !it.is_ready());
    let waits: Vec<Pin<Box<dyn Future<Output = ()> + Send + '_>>> = missing
        .map(|it| -> Pin<Box<dyn Future<Output = ()> + Send + '_>> { Box::pin(one_closer(it)) })
        .collect();
    if !waits.is_empty() {
        select_all(waits).await;
    }
}

async fn one_closer(keys: &IssuerKeys) {
    let end = keys.began.checked_add(PATIENCE).filter(|it| Instant::now() < *it);
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
