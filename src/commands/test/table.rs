//! The shape of a table of tests.

use crate::config::Span;
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;

/// The places of mappings in a table.
pub(super) const MAPPINGS: &[&str] = &[
    "",
    ".tests[]",
    ".tests[].headers",
    ".tests[].token",
    ".tests[].token.bound_to",
    ".tests[].token.claims",
    ".tests[].token.header",
    ".tests[].proof",
    ".tests[].proof.claims",
    ".tests[].proof.header",
    ".tests[].expect",
];

/// A table: requests, and what each must get.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Table {
    /// The configuration, relative to the folder of the table.
    pub(super) config: Option<String>,
    /// The time of all checks, as 2027-01-15T08:00:00Z or in seconds since 1970.
    pub(super) at: Option<String>,
    /// The tests.
    pub(super) tests: Vec<Test>,
}

/// One request.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Test {
    /// What it shows.
    pub(super) name: String,
    /// Method and URL, as in `GET https://api.example.com/payments`.
    pub(super) request: String,
    /// More headers.
    pub(super) headers: Option<BTreeMap<String, String>>,
    /// The policy that the proxy's configuration names for the route.
    pub(super) policy: Option<String>,
    /// The policy that the route's annotation names (Envoy Gateway).
    pub(super) annotation: Option<String>,
    /// The name of the client certificate. Each name stands for a certificate of its own.
    pub(super) certificate: Option<String>,
    /// The access token.
    pub(super) token: Option<Token>,
    /// The DPoP proof.
    pub(super) proof: Option<Proof>,
    /// What it must get.
    pub(super) expect: Expect,
}

/// An access token. By default it is valid, for all but the scopes and claims that a policy asks for.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Token {
    /// The issuer of the configuration that issues it; by default the first. Another issuer is one that
    /// is not trusted.
    pub(super) issuer: Option<String>,
    /// What it is bound to.
    pub(super) bound_to: Option<BoundTo>,
    /// Claims that replace the usual ones or add to them.
    pub(super) claims: Option<BTreeMap<String, Value>>,
    /// The usual claims that it does not have.
    pub(super) without: Option<Vec<String>>,
    /// Members of its header that replace the usual ones or add to them.
    pub(super) header: Option<BTreeMap<String, Value>>,
    /// How long ago it was issued.
    pub(super) age: Option<Span>,
    /// From when it was issued until it expires.
    pub(super) lifetime: Option<Span>,
    /// Whose key signs it.
    pub(super) signed_by: Option<Signer>,
    /// It is opaque, and its claims are the issuer's answer about it.
    pub(super) opaque: Option<bool>,
    /// Whether the issuer calls it active, where it is introspected.
    pub(super) active: Option<bool>,
    /// The authentication scheme that it is sent with.
    pub(super) scheme: Option<Scheme>,
}

/// What a token is bound to: a certificate, a DPoP key, or both.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct BoundTo {
    /// The name of a client certificate.
    pub(super) certificate: Option<String>,
    /// The name of a DPoP key.
    pub(super) dpop_key: Option<String>,
}

/// Whose key signs a token.
#[derive(Clone, Copy, Debug, Default, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub(super) enum Signer {
    /// The issuer's.
    #[default]
    Issuer,
    /// Somebody else's, under the name of the issuer's key.
    Forger,
    /// Somebody else's, under a name that the issuer's keys do not have.
    Stranger,
}

/// An authentication scheme.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema, PartialEq, Eq)]
pub(super) enum Scheme {
    /// RFC 6750.
    Bearer,
    /// RFC 9449.
    DPoP,
}

/// A DPoP proof. By default it is a good one, for this request and token.
#[derive(Clone, Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Proof {
    /// The name of its key; by default the key that the token is bound to.
    pub(super) key: Option<String>,
    /// Claims that replace the usual ones or add to them.
    pub(super) claims: Option<BTreeMap<String, Value>>,
    /// The usual claims that it does not have.
    pub(super) without: Option<Vec<String>>,
    /// Members of its header that replace the usual ones or add to them.
    pub(super) header: Option<BTreeMap<String, Value>>,
    /// How long ago it was made.
    pub(super) age: Option<Span>,
    /// It holds a nonce that keybound has just given.
    pub(super) nonce: Option<bool>,
    /// It was used before.
    pub(super) replayed: Option<bool>,
}

/// What a request must get.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Expect {
    /// The name of the policy that applies; without it, none may apply.
    pub(super) policy: Option<String>,
    /// The reason: `allowed`, `public`, `resource_metadata`, or that of a denial, also where the policy
    /// only reports it.
    pub(super) reason: String,
    /// `allow`, `deny` or `served`; by default it is not compared.
    pub(super) decision: Option<Decision>,
}

/// What becomes of a request.
#[derive(Clone, Copy, Debug, Deserialize, JsonSchema, PartialEq, Eq)]
#[serde(rename_all = "snake_case")]
pub(super) enum Decision {
    /// It goes on.
    Allow,
    /// It is refused.
    Deny,
    /// keybound answers it itself.
    Served,
}
