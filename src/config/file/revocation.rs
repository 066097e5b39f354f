//! The shape of the configuration of an issuer's revoked tokens.

use schemars::JsonSchema;
use serde::Deserialize;

/// What revokes tokens of an issuer before they expire.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct Revocation {
    /// A file with tokens that are denied, by `jti`, `sub`, `sid` and `client_id`: a list `revoked` in
    /// YAML, or an entry on each line in JSON. It is read again when it changes.
    pub(in crate::config) denylist_file: Option<String>,
}
