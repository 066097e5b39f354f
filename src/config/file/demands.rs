//! The shape of parts of the configuration of a policy.

use crate::config::values::Span;
use schemars::JsonSchema;
use serde::Deserialize;

/// How and how recently the user must have logged in (RFC 9470). All that is given must hold.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct UserAuthentication {
    /// The accepted authentication context classes, the preferred one first: the `acr` of the token
    /// must be one of them. Absent: any, or none.
    #[schemars(length(min = 1))]
    pub(in crate::config) acr: Option<Vec<String>>,
    /// How long ago the user may have logged in, by the `auth_time` of the token, in whole seconds, with
    /// `clock_leeway`. Absent: any time.
    pub(in crate::config) max_age: Option<Span>,
}

/// What the metadata of a resource (RFC 9728) say for people. All else in them follows from the policy.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct Resource {
    /// The name of the resource.
    #[schemars(length(min = 1))]
    pub(in crate::config) name: Option<String>,
    /// The https URL of a page for developers of clients.
    pub(in crate::config) documentation: Option<String>,
}
