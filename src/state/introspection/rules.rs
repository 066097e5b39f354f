//! Introspection of one issuer, as configured (RFC 7662).

use super::authentication::{ClientAuthentication, Identity};
use std::time::Duration;

/// How an issuer is asked about its tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IntrospectionRules {
    /// The URL of the endpoint; none: the one in the issuer's metadata.
    pub endpoint: Option<String>,
    /// The client id of this service at the issuer; none only without authentication.
    pub client_id: Option<String>,
    /// How this service authenticates.
    pub authentication: ClientAuthentication,
    /// The certificate that it shows, whether or not it authenticates by it.
    pub identity: Option<Identity>,
    /// Whether to ask for a JWT and forward it in place of an opaque token.
    pub forward_jwt: bool,
    /// Whether a response about an opaque token may lack an audience.
    pub allow_missing_audience: bool,
    /// Limits on calls and on cached results.
    pub upkeep: IntrospectionUpkeep,
}

/// Limits on calls and on cached results.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IntrospectionUpkeep {
    /// How long a check waits for a result. It must be less than the deadline of a check.
    pub timeout: Duration,
    /// How long an active result is cached: a revoked token is accepted for at most this long.
    pub cache_ttl: Duration,
    /// How long a refusal is cached.
    pub negative_ttl: Duration,
    /// The maximum number of tokens cached as active, and the same number as refused.
    pub cache_entries: usize,
    /// The maximum number of concurrent calls.
    pub concurrency: usize,
}

impl Default for IntrospectionUpkeep {
    fn default() -> Self {
        Self {
            // Services on the internet take 180 ms and more, and the first call has a handshake.
            timeout: Duration::from_millis(800),
            // The longest delay of a revocation.
            cache_ttl: Duration::from_secs(60),
            // An inactive token does not become active, except while replicas of the issuer lag
            // behind.
            negative_ttl: Duration::from_secs(5),
            cache_entries: 100_000,
            // At 20 ms each, 5,000 new tokens a second.
            concurrency: 100,
        }
    }
}
