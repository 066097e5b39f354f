//! How the events of an issuer are received, as configured.

use crate::state::http::BearerToken;
use crate::state::jwks::KeyRules;
use crate::state::replay::redis::RedisRules;
use keybound_core::oauth::Transmitter;
use std::path::PathBuf;
use std::time::Duration;

/// How the events of an issuer are received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EventRules {
    /// Whose events, and who we are to it.
    pub transmitter: Transmitter,
    /// How they come.
    pub delivery: Delivery,
    /// The keys of the transmitter; none if they are those of the issuer.
    pub keys: Option<KeyRules>,
    /// How the stream is tried out, if it is.
    pub verification: Option<Verification>,
    /// How long an event counts after it was received. No token should live longer.
    pub keep: Duration,
    /// How many subjects may be kept.
    pub capacity: usize,
    /// Where events are kept over restarts.
    pub snapshot_file: Option<PathBuf>,
    /// Where replicas share their events; none if each has a stream of its own.
    pub shared: Option<RedisRules>,
    /// Whether nothing is received, as by who explains a request beside the service: only what is kept
    /// counts then.
    pub is_passive: bool,
}

/// How events come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// We fetch them (RFC 8936).
    Poll {
        /// Where.
        endpoint: String,
        /// How often, while there are none.
        interval: Duration,
        /// Who we are.
        bearer: Option<BearerToken>,
    },
    /// The transmitter sends them (RFC 8935) and shows this token.
    Push {
        /// The `Authorization` that is expected.
        bearer: BearerToken,
    },
}

/// How a stream is tried out (SSF 1.0 §8.1.4).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verification {
    /// Where verification events are asked for.
    pub endpoint: String,
    /// Who we are.
    pub bearer: Option<BearerToken>,
}

impl EventRules {
    /// How long an event counts unless something else is said.
    pub const KEEP: Duration = Duration::from_secs(24 * 3600);

    /// How many subjects are kept unless something else is said.
    pub const CAPACITY: usize = 1_000_000;

    /// How often events are fetched unless something else is said.
    pub const POLL_INTERVAL: Duration = Duration::from_secs(5);

    /// Whether what was received under `other` holds what these rules would have received.
    pub(super) fn continues(&self, other: &Self) -> bool {
        let same_place = match (&self.shared, &other.shared) {
            (Some(own), Some(other)) => own.is_where(other),
            (None, None) => true,
            (Some(_), None) | (None, Some(_)) => false,
        };
        self.transmitter.issuer == other.transmitter.issuer && same_place
    }
}

impl Delivery {
    /// Its name in the configuration.
    pub const fn label(&self) -> &'static str {
        match self {
            Self::Poll { .. } => "poll",
            Self::Push { .. } => "push",
        }
    }
}
