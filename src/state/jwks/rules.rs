//! How an issuer's keys are obtained and kept, as configured.

use crate::state::http::BearerToken;
use keybound_core::jose::Algorithm;
use std::path::PathBuf;
use std::time::Duration;

/// How an issuer's keys are obtained and kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyRules {
    /// Where they come from.
    pub source: KeySource,
    /// PEM of the certification authorities to trust when fetching, instead of those of the system.
    pub ca: Option<Vec<u8>>,
    /// Whether they may be fetched over plain `http` from other machines. The same holds for the
    /// issuer's metadata and introspection.
    pub allow_http: bool,
    /// The bearer token that is sent to the host that the configuration names: that of the
    /// `jwks_uri`, or else of the issuer.
    pub bearer: Option<BearerToken>,
    /// How often they are fetched, and how long they are kept.
    pub upkeep: KeyUpkeep,
}

impl KeyRules {
    /// The usual rules for keys from `source`.
    pub fn new(source: KeySource) -> Self {
        Self { source, ca: None, allow_http: false, bearer: None, upkeep: KeyUpkeep::default() }
    }
}

/// How often an issuer's keys are fetched, how long they are kept, and what a fetch may cost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyUpkeep {
    /// The shortest time between two planned fetches, whatever the issuer says. Not more than
    /// `refresh_max`.
    pub refresh_min: Duration,
    /// The longest time between two planned fetches, whatever the issuer says. While the issuer can
    /// be reached, a withdrawn key is accepted for at most this long.
    pub refresh_max: Duration,
    /// The time between two planned fetches when the issuer says nothing.
    pub refresh_default: Duration,
    /// How long keys are used after the last successful fetch. It must exceed `refresh_max`.
    pub max_stale: Duration,
    /// How long a key is still accepted after the issuer has withdrawn it.
    pub withdrawn_key_grace: Duration,
    /// The shortest time between two fetches that unknown key names cause.
    pub unknown_kid_cooldown: Duration,
    /// How long a fetch may take, discovery included.
    pub fetch_timeout: Duration,
    /// The longest document that is read, in bytes.
    pub max_bytes: usize,
    /// Where the keys are saved across restarts; `None` for nowhere.
    pub snapshot_file: Option<PathBuf>,
    /// The algorithms that tokens may be signed with, to warn of keys that are for none of them; empty: no
    /// warning.
    pub algorithms: Vec<Algorithm>,
}

impl Default for KeyUpkeep {
    fn default() -> Self {
        Self {
            // `max-age=0` must not make a fleet of gateways overload the issuer.
            refresh_min: Duration::from_secs(30),
            // `max-age=31536000` must not keep a withdrawn key alive.
            refresh_max: Duration::from_secs(3600),
            // What the large issuers and Envoy's own filter use.
            refresh_default: Duration::from_secs(300),
            // An issuer that is down overnight has until the next evening to come back.
            max_stale: Duration::from_secs(24 * 3600),
            // A key is withdrawn because it must no longer be accepted.
            withdrawn_key_grace: Duration::ZERO,
            // The longest outage after a rotation without overlap. A flood of unknown keys causes
            // at most six fetches a minute.
            unknown_kid_cooldown: Duration::from_secs(10),
            // Fetches do not hold up requests, except the first.
            fetch_timeout: Duration::from_secs(5),
            // A hundred RSA-4096 keys with certificates.
            max_bytes: 512 * 1024,
            snapshot_file: None,
            algorithms: vec![],
        }
    }
}

/// Where an issuer's keys come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeySource {
    /// The metadata document of the issuer (RFC 8414, OpenID Connect Discovery).
    Discovery,
    /// A JWK Set at a URL.
    Uri(String),
    /// A JWK Set in a file.
    File(PathBuf),
}
