//! The shape of the configuration of an issuer's security events.

use crate::config::values::{Span, Word};
use crate::state::revocation::events::EventRules;
use keybound_core::words;
use schemars::JsonSchema;
use serde::Deserialize;

/// Security events of the issuer (RFC 8417, OpenID SSF, CAEP and RISC), which revoke the tokens of their
/// subjects that were issued until then.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct Events {
    /// How they come.
    pub(in crate::config) delivery: Option<Word<EventDelivery>>,
    /// For `delivery: poll`: the https URL of the poll endpoint of the stream (RFC 8936).
    pub(in crate::config) endpoint: Option<String>,
    /// A file with a bearer token. For `delivery: poll` it is sent to the endpoint; for `delivery: push` it
    /// is the `Authorization` that the transmitter must show, of 16 characters at least. It is read again when
    /// it changes.
    pub(in crate::config) bearer_token_file: Option<String>,
    /// Who we are to the transmitter: the `aud` of its tokens must hold it.
    pub(in crate::config) audience: Option<String>,
    /// The `iss` of its tokens; absent: the issuer's.
    pub(in crate::config) issuer: Option<String>,
    /// The https URL of its JWK Set; absent: its tokens are signed with the issuer's keys.
    pub(in crate::config) jwks_uri: Option<String>,
    /// How often it is polled.
    #[schemars(extend("default" = Span(EventRules::POLL_INTERVAL)))]
    pub(in crate::config) poll_interval: Option<Span>,
    /// The stream: it is named where verification is asked for, and events about another one count for
    /// nothing.
    pub(in crate::config) stream_id: Option<String>,
    /// The https URL where verification events are asked for, so that a stream that has fallen silent is
    /// noticed.
    pub(in crate::config) verification_endpoint: Option<String>,
    /// A file with the bearer token for `verification_endpoint`; absent: with `delivery: poll` that in
    /// `bearer_token_file`, else none.
    pub(in crate::config) verification_token_file: Option<String>,
    /// How long an event counts: as long as the longest lifetime of a token.
    #[schemars(extend("default" = Span(EventRules::KEEP)))]
    pub(in crate::config) keep: Option<Span>,
    /// How many subjects are kept at most.
    #[schemars(range(min = 1, max = 100_000_000), extend("default" = EventRules::CAPACITY))]
    pub(in crate::config) capacity: Option<u64>,
    /// A file that keeps events over restarts; absent: none.
    pub(in crate::config) snapshot_file: Option<String>,
    /// Where they are kept.
    #[schemars(extend("default" = EventStore::default().name()))]
    pub(in crate::config) store: Option<Word<EventStore>>,
}

words! {
    /// How security events come.
    pub(in crate::config) enum EventDelivery as "EventDelivery" {
        /// They are fetched from the issuer (RFC 8936).
        Poll = "poll",
        /// The issuer sends them to `listen.events` (RFC 8935).
        Push = "push",
    }
}

words! {
    /// Where security events are kept.
    #[default(Memory)]
    pub(in crate::config) enum EventStore as "EventStore" {
        /// In this process: each replica needs a stream of its own.
        Memory = "memory",
        /// In the Redis of `dpop.replay`: all replicas share one stream.
        Redis = "redis",
    }
}
