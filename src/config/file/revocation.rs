//! The shape of the configuration of an issuer's revoked tokens.

use super::Events;
use crate::config::values::Word;
use keybound_core::policy::StatusDemand;
use schemars::JsonSchema;
use serde::Deserialize;

/// What revokes tokens of an issuer before they expire.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct Revocation {
    /// A file with tokens that are denied, by `jti`, `sub`, `sid` and `client_id`: a list `revoked` in
    /// YAML, or an entry on each line in JSON. It is read again when it changes.
    pub(in crate::config) denylist_file: Option<String>,
    /// What becomes of the place in a status list of the issuer that a token names
    /// (`status.status_list`, draft-ietf-oauth-status-list).
    #[schemars(extend("default" = StatusDemand::default().name()))]
    pub(in crate::config) status_list: Option<Word<StatusDemand>>,
    /// Security events of the issuer, by poll or by push; absent: none.
    pub(in crate::config) events: Option<Events>,
}
