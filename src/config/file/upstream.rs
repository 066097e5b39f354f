//! The shape of the configuration of upstream headers.

use crate::config::usual;
use crate::config::values::Word;
use keybound_core::policy::{ClaimFormat, UpstreamAuthorization};
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, Error, MapAccess, Visitor};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

/// The headers that the upstream receives with an allowed request.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct Upstream {
    /// What is done with the `Authorization` header.
    #[schemars(extend("default" = UpstreamAuthorization::default().name()))]
    pub(in crate::config) authorization: Option<Word<UpstreamAuthorization>>,
    /// The claim that each request header carries. Client headers with these names, or with names
    /// that could be mistaken for them, are removed.
    #[schemars(extend("default" = BTreeMap::from(usual::IDENTITY_HEADERS)))]
    pub(in crate::config) headers: Option<BTreeMap<String, HeaderClaim>>,
    /// More request headers to strip. `x-auth-*` strips all headers with that prefix, except those
    /// in `headers`.
    #[schemars(extend("default" = []))]
    pub(in crate::config) remove: Option<Vec<String>>,
}

/// The claim that a header carries: its dotted path, optionally with a format.
#[derive(Debug)]
pub(in crate::config) struct HeaderClaim(pub(in crate::config) WrittenClaim);

/// A claim and its format in a header.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct WrittenClaim {
    /// The dotted path of the claim.
    #[schemars(required)]
    pub(in crate::config) claim: Option<String>,
    /// Its format.
    #[schemars(extend("default" = ClaimFormat::default().name()))]
    pub(in crate::config) format: Option<Word<ClaimFormat>>,
}

impl<'de> Deserialize<'de> for HeaderClaim {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(Given)
    }
}

struct Given;

impl<'de> Visitor<'de> for Given {
    type Value = HeaderClaim;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the path of a claim, or `claim` and `format`")
    }

    fn visit_str<E: Error>(self, path: &str) -> Result<HeaderClaim, E> {
        Ok(HeaderClaim(WrittenClaim { claim: Some(path.to_owned()), format: None }))
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<HeaderClaim, A::Error> {
        WrittenClaim::deserialize(MapAccessDeserializer::new(map)).map(HeaderClaim)
    }
}

impl JsonSchema for HeaderClaim {
    fn schema_name() -> Cow<'static, str> {
        "HeaderClaim".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let written = generator.subschema_for::<WrittenClaim>();
        json_schema!({
            "anyOf": [{ "type": "string" }, written],
            "description": "The dotted path of a claim, or with how it is written."
        })
    }
}
