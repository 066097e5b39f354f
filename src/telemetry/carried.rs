//! Whether any request has carried a client certificate so far: if none has, the proxy is to blame, not
//! the clients.

use keybound_core::client_certificate::Source;
use serde::Serialize;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// The certificates of all requests.
#[derive(Debug, Default)]
pub struct Carried {
    any: AtomicBool,
    missed: AtomicU64,
    told: Mutex<Option<Instant>>,
}

/// The certificates of all requests in `/status`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Status {
    /// Whether any request has carried one.
    pub carried: bool,
    /// How many requests were denied for the lack of one before.
    pub missed: u64,
}

/// The time between two warnings.
const EVERY: Duration = Duration::from_secs(600);

impl Carried {
    /// Whether any request has carried one.
    pub fn any(&self) -> bool {
        self.any.load(Ordering::Relaxed)
    }

    /// Records that a request has carried one.
    pub fn has_come(&self) {
        self.any.store(true, Ordering::Relaxed);
    }

    /// Records that a request was denied for the lack of one. Returns how many were so far, if that is to
    /// be told.
    pub fn is_missed(&self, now: Instant) -> Option<u64> {
        let missed = self.missed.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.is_some_and(|it| now.saturating_duration_since(it) < EVERY) {
            return None;
        }
        *told = Some(now);
        Some(missed)
    }

    /// Begins anew, for certificates come from elsewhere now.
    pub fn forget(&self) {
        self.any.store(false, Ordering::Relaxed);
        self.missed.store(0, Ordering::Relaxed);
        *self.told.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// The state for `/status`.
    pub fn status(&self) -> Status {
        Status { carried: self.any(), missed: self.missed.load(Ordering::Relaxed) }
    }
}

/// What to do where no certificate comes from `source`.
pub fn advice(source: &Source) -> String {
    let asks =
        "did the client use mutual TLS, and does the proxy that ends it ask for a certificate?";
    match source {
        Source::Peer => format!(
            "{asks} Does this Envoy send it to keybound (include_peer_certificate: true in its ext_authz \
             filter)? Behind another proxy, `client_certificate.source` is `xfcc` or `header`"
        ),
        Source::Xfcc { .. } => format!(
            "{asks} Does that Envoy write x-forwarded-client-cert (forward_client_cert_details: \
             SANITIZE_SET; in Istio forwardClientCertDetails)? Its `Hash` is enough"
        ),
        Source::Header { name, .. } => format!(
            "{asks} Does it write the header {name} for this request, and is the header sent along to \
             keybound?"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn that_none_has_come_is_told_at_once_and_then_every_ten_minutes() {
        let carried = Carried::default();
        let begun = Instant::now();
        let missed = |seconds| carried.is_missed(begun + Duration::from_secs(seconds));
        assert_eq!([0, 1, 599, 600, 601].map(missed), [Some(1), None, None, Some(4), None]);
        assert_eq!(carried.status(), Status { carried: false, missed: 5 });
        carried.has_come();
        assert!(carried.any());
        carried.forget();
        assert_eq!(carried.status(), Status { carried: false, missed: 0 });
        assert_eq!(missed(602), Some(1));
    }
}
