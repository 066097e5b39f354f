//! Route metadata in a `CheckRequest`: as JSON, and as Envoy Gateway sends it.

use crate::front::ext_authz::pb::envoy::config::core::v3::Metadata;
use crate::front::ext_authz::route::{ANNOTATIONS, KEY, NAMESPACE, RESOURCES};
use keybound_core::jose::json::Any;
use prost_types::value::Kind;
use prost_types::{ListValue, Struct, Value};
use serde::Deserialize;
use serde_json::json;
use std::collections::HashMap;

/// Metadata in JSON. Typed metadata is skipped: no check uses it.
#[derive(Deserialize)]
pub(super) struct Written {
    #[serde(alias = "filterMetadata")]
    filter_metadata: Option<HashMap<String, HashMap<String, Any>>>,
}

impl Written {
    pub(super) fn metadata(self) -> Metadata {
        let given = self.filter_metadata.unwrap_or_default().into_iter();
        let filter_metadata = given
            .map(|(name, it)| (name, structure(it.into_iter().map(|(name, it)| (name, it.0)))))
            .collect();
        Metadata { filter_metadata, ..Metadata::default() }
    }
}

/// The metadata that Envoy Gateway sends for a route whose annotation names this policy.
pub(super) fn naming(policy: &str) -> Metadata {
    let annotations = json!({KEY: policy});
    let resources = json!([{"kind": "HTTPRoute", ANNOTATIONS: annotations}]);
    let ours = HashMap::from([(RESOURCES.to_owned(), Any(resources))]);
    let filter_metadata = Some(HashMap::from([(NAMESPACE.to_owned(), ours)]));
    Written { filter_metadata }.metadata()
}

fn structure(members: impl IntoIterator<Item = (String, serde_json::Value)>) -> Struct {
    Struct { fields: members.into_iter().map(|(name, it)| (name, value(it))).collect() }
}

fn value(given: serde_json::Value) -> Value {
    use serde_json::Value as Given;
    let kind = match given {
        Given::Null => Kind::NullValue(0),
        Given::Bool(it) => Kind::BoolValue(it),
        Given::Number(it) => Kind::NumberValue(it.as_f64().unwrap_or(f64::NAN)),
        Given::String(it) => Kind::StringValue(it),
        Given::Array(items) => {
            Kind::ListValue(ListValue { values: items.into_iter().map(value).collect() })
        }
        Given::Object(members) => Kind::StructValue(structure(members)),
    };
    Value { kind: Some(kind) }
}
