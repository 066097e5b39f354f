//! How an issuer is asked about its tokens (RFC 7662), by configuration.

use std::fmt;
use std::time::Duration;

/// How an issuer is asked about its tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IntrospectionRules {
    /// The URL of the endpoint; none: the one in the issuer's metadata.
    pub endpoint: Option<String>,
    /// The name of this service at the issuer.
    pub client_id: String,
    /// How this service proves that name.
    pub authentication: ClientAuthentication,
    /// Whether to ask for a JWT and to send that upstream in place of an opaque token.
    pub forward_jwt: bool,
    /// Whether an answer about an opaque token may say nothing of its audience.
    pub allow_missing_audience: bool,
    /// What asking may cost, and for how long answers are kept.
    pub upkeep: IntrospectionUpkeep,
}

/// How this service authenticates at the introspection endpoint. Never shown.
#[derive(Clone, PartialEq, Eq)]
pub enum ClientAuthentication {
    /// With this secret (RFC 6749 §2.3.1).
    Secret(String),
    /// With a certificate (RFC 8705 §2): PEM of its chain and its key.
    MutualTls(Vec<u8>),
}

/// What asking an issuer may cost, and for how long its answers are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IntrospectionUpkeep {
    /// How long a check waits for an answer. It must be less than the deadline of a check.
    pub timeout: Duration,
    /// For how long a token counts as active once the issuer said so: a revoked one is accepted
    /// for so long at most.
    pub cache_ttl: Duration,
    /// For how long a token is refused once the issuer's answer said so.
    pub negative_ttl: Duration,
    /// At most so many tokens are remembered as active, and as many as refused.
    pub cache_entries: usize,
    /// At most so many calls are under way at once.
    pub concurrency: usize,
}

impl Default for IntrospectionUpkeep {
    fn default() -> Self {
        Self {
            // A check has 150 ms, and Envoy gives up after 200 ms.
            timeout: Duration::from_millis(120),
            // What revocation may take.
            cache_ttl: Duration::from_secs(60),
            // A token that is not active does not become so, but for replicas of the issuer that
            // lag behind.
            negative_ttl: Duration::from_secs(5),
            cache_entries: 100_000,
            // At 20 ms each, 5,000 new tokens a second.
            concurrency: 100,
        }
    }
}

impl fmt::Debug for ClientAuthentication {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Secret(_) => "Secret",
            Self::MutualTls(_) => "MutualTls",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_credentials_are_printed() {
        for authentication in [
            ClientAuthentication::Secret("hidden".to_owned()),
            ClientAuthentication::MutualTls(b"hidden".to_vec()),
        ] {
            let printed = format!("{authentication:?}");
            assert!(!printed.contains("hidden") && !printed.contains("104"), "{printed}");
        }
    }
}
