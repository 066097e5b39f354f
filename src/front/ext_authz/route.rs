//! Route annotations in a `CheckRequest` from Envoy Gateway: it sends them in the metadata of the
//! route if the filter is configured to (`includeRouteMetadata` of a `SecurityPolicy`).
//!
//! ```text
//! route_metadata_context.filter_metadata["envoy-gateway"] = {
//!   resources: [{kind: HTTPRoute, name: …, annotations: {keybound-policy: payments}}]
//! }
//! ```

use super::protobuf::{Fields, Malformed, entry, only, text};
use keybound_core::{Annotation, Refusal};

/// Envoy Gateway's namespace in the metadata of a route.
pub const NAMESPACE: &str = "envoy-gateway";

/// The member that lists the resources from which the route was made.
pub const RESOURCES: &str = "resources";

/// The member of a resource that contains its annotations.
pub const ANNOTATIONS: &str = "annotations";

/// `gateway.envoyproxy.io/keybound-policy` without its prefix: Envoy Gateway forwards the annotations that start with its
/// own name, and removes that.
pub const KEY: &str = "keybound-policy";

/// The policy that the annotations in an encoded `CheckRequest` name.
///
/// # Errors
///
/// `request_malformed`: the bytes are not such a message, or a singular field occurs twice.
pub fn annotation(message: &[u8]) -> Result<Annotation<'_>, Refusal> {
    Ok(annotation_in(message)?)
}

fn annotation_in(message: &[u8]) -> Result<Annotation<'_>, Malformed> {
    let attributes = only(ATTRIBUTES, message)?.unwrap_or_default();
    let Some(metadata) = only(ROUTE_METADATA_CONTEXT, attributes)? else {
        return Ok(Annotation::Absent);
    };
    let Some(ours) = member(metadata, NAMESPACE)? else { return Ok(Annotation::Absent) };
    let Some(resources) = member(ours, RESOURCES)? else { return Ok(Annotation::Absent) };
    let Some(resources) = of_kind(LIST, resources)? else { return Ok(Annotation::Unclear) };
    let mut said = Annotation::Absent;
    for resource in Fields::of(resources) {
        if let (1, resource) = resource? {
            said = said.and(of_resource(resource.bytes()?)?);
        }
    }
    Ok(said)
}

fn of_resource(resource: &[u8]) -> Result<Annotation<'_>, Malformed> {
    let Some(resource) = of_kind(STRUCT, resource)? else { return Ok(Annotation::Unclear) };
    let Some(annotations) = member(resource, ANNOTATIONS)? else { return Ok(Annotation::Absent) };
    let Some(annotations) = of_kind(STRUCT, annotations)? else { return Ok(Annotation::Unclear) };
    let Some(name) = member(annotations, KEY)? else { return Ok(Annotation::Absent) };
    match of_kind(STRING, name)? {
        Some(name) => text(name).map(Annotation::Names),
        None => Ok(Annotation::Unclear),
    }
}

/// The value of a member of a `Struct`, or of the first map of `Metadata`, which has the same
/// layout.
fn member<'a>(message: &'a [u8], name: &str) -> Result<Option<&'a [u8]>, Malformed> {
    let mut found = None;
    for field in Fields::of(message) {
        let (1, member) = field? else { continue };
        let (key, value) = entry(member.bytes()?)?;
        if key == name.as_bytes() && found.replace(value).is_some() {
            return Err(Malformed::Repeated);
        }
    }
    Ok(found)
}

/// The value in a `google.protobuf.Value`, if it is of this kind.
fn of_kind(kind: u32, value: &[u8]) -> Result<Option<&[u8]>, Malformed> {
    let mut fields = Fields::of(value);
    match (fields.next().transpose()?, fields.next()) {
        (Some((it, payload)), None) if it == kind => payload.bytes().map(Some),
        (_, None) => Ok(None),
        // Repeated, where protobuf would keep the last.
        (_, Some(_)) => Err(Malformed::Repeated),
    }
}

const ATTRIBUTES: u32 = 1;
const ROUTE_METADATA_CONTEXT: u32 = 13;
const STRING: u32 = 3;
const STRUCT: u32 = 5;
const LIST: u32 = 6;
