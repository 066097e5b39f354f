//! The shape of the configuration of an issuer's keys.

use crate::config::values::Span;
use crate::state::jwks::KeyUpkeep;
use schemars::JsonSchema;
use serde::Deserialize;

/// Where an issuer's keys come from (one of the first three), and how they are kept.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct Keys {
    /// The issuer's metadata (RFC 8414, OpenID Connect Discovery) names its JWK Set. This is the
    /// default.
    pub(in crate::config) discovery: Option<bool>,
    /// The https URL of its JWK Set.
    pub(in crate::config) jwks_uri: Option<String>,
    /// A file with its JWK Set.
    pub(in crate::config) jwks_file: Option<String>,
    /// A file with a bearer token to send when the keys are fetched, as a Kubernetes API server asks
    /// for. It is sent only to the host of `jwks_uri`, or to that of the issuer itself, and never to
    /// one that metadata alone name. It is read again when it changes.
    pub(in crate::config) bearer_token_file: Option<String>,
    /// The shortest time between two planned fetches, whatever the issuer says.
    #[schemars(extend("default" = Span(KeyUpkeep::default().refresh_min)))]
    pub(in crate::config) refresh_min: Option<Span>,
    /// The longest time between two planned fetches, whatever the issuer says. A withdrawn key is
    /// accepted for at most this long.
    #[schemars(extend("default" = Span(KeyUpkeep::default().refresh_max)))]
    pub(in crate::config) refresh_max: Option<Span>,
    /// The time between two planned fetches when the issuer says nothing.
    #[schemars(extend("default" = Span(KeyUpkeep::default().refresh_default)))]
    pub(in crate::config) refresh_default: Option<Span>,
    /// How long keys are used after the last successful fetch: more than `refresh_max`.
    #[schemars(extend("default" = Span(KeyUpkeep::default().max_stale)))]
    pub(in crate::config) max_stale: Option<Span>,
    /// How long a key is still accepted after the issuer has withdrawn it: at most 24h. For issuers
    /// whose replicas publish different sets.
    #[schemars(extend("default" = Span(KeyUpkeep::default().withdrawn_key_grace)))]
    pub(in crate::config) withdrawn_key_grace: Option<Span>,
    /// The shortest time between two fetches caused by unknown keys.
    #[schemars(extend("default" = Span(KeyUpkeep::default().unknown_kid_cooldown)))]
    pub(in crate::config) unknown_kid_cooldown: Option<Span>,
    /// How long a fetch may take.
    #[schemars(extend("default" = Span(KeyUpkeep::default().fetch_timeout)))]
    pub(in crate::config) fetch_timeout: Option<Span>,
    /// The maximum size of a document, in bytes.
    #[schemars(range(min = 1024, max = 16_777_216), extend("default" = KeyUpkeep::default().max_bytes))]
    pub(in crate::config) max_bytes: Option<u64>,
    /// A file that keeps the keys across restarts; absent: none.
    pub(in crate::config) snapshot_file: Option<String>,
}
