//! Why and when a request was kept, and under which configuration: written into the request itself.
//!
//! It stands in the metadata of the connection (`metadata_context`), of which no check reads anything and no
//! kept request has others. So what a proxy sends there means nothing, and is not kept either.

use crate::front::ext_authz::pb::envoy::config::core::v3::Metadata;
use crate::front::ext_authz::pb::envoy::service::auth::v3::{AttributeContext, CheckRequest};
use keybound_core::{Denial, Detail, UnixTime};
use prost::Message;
use prost_types::value::Kind;
use prost_types::{Struct, Value};

/// Why and when a request was kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kept {
    /// The time of the check.
    pub at: UnixTime,
    /// Why the request was denied, or would have been in report mode.
    pub reason: Denial,
    /// The detail behind the reason.
    pub detail: Option<Detail>,
    /// The digest of the configuration by which it was checked.
    pub configuration: String,
}

/// The namespace of the metadata.
const NAMESPACE: &str = "keybound.kept";

const AT: &str = "at";
const REASON: &str = "reason";
const DETAIL: &str = "detail";
const CONFIGURATION: &str = "configuration";

impl Kept {
    /// What is written in a kept `CheckRequest`. For explanations: no decision may depend on it.
    pub fn of(message: &[u8]) -> Option<Self> {
        let attributes = CheckRequest::decode(message).ok()?.attributes?;
        let fields = attributes.metadata_context?.filter_metadata.remove(NAMESPACE)?.fields;
        let text = |name: &str| match fields.get(name)?.kind.as_ref()? {
            Kind::StringValue(text) => Some(&**text),
            Kind::NullValue(_)
            | Kind::NumberValue(_)
            | Kind::BoolValue(_)
            | Kind::StructValue(_)
            | Kind::ListValue(_) => None,
        };
        let reason = Denial::labelled(text(REASON)?)?;
        let label = text(DETAIL);
        let is_told = |it: &Detail| Some(it.label()) == label && it.denial() == reason;
        Some(Self {
            at: UnixTime::parse(text(AT)?)?,
            reason,
            detail: Detail::ALL.iter().copied().find(is_told),
            configuration: text(CONFIGURATION)?.to_owned(),
        })
    }

    /// Writes it into a request, in place of all other metadata of the connection.
    pub(super) fn write_into(&self, attributes: &mut AttributeContext) {
        let detail = self.detail.map(|it| (DETAIL, it.label().to_owned()));
        let told = [
            (AT, self.at.to_rfc3339_millis()),
            (REASON, self.reason.label().to_owned()),
            (CONFIGURATION, self.configuration.clone()),
        ];
        let value = |text| Value { kind: Some(Kind::StringValue(text)) };
        let told = told.into_iter().chain(detail);
        let fields = told.map(|(name, text)| (name.to_owned(), value(text))).collect();
        let filter_metadata = [(NAMESPACE.to_owned(), Struct { fields })].into();
        attributes.metadata_context = Some(Metadata { filter_metadata, ..Metadata::default() });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(attributes: AttributeContext) -> Vec<u8> {
        CheckRequest { attributes: Some(attributes) }.encode_to_vec()
    }

    #[test]
    fn what_is_written_is_read_for_each_reason_and_detail() {
        let details = Detail::ALL.iter().map(|it| (it.denial(), Some(*it)));
        for (reason, detail) in Denial::ALL.iter().map(|it| (*it, None)).chain(details) {
            let at = UnixTime::from_millis(1_800_000_000_050);
            let kept = Kept { at, reason, detail, configuration: "0a1b".to_owned() };
            let mut attributes = AttributeContext::default();
            kept.write_into(&mut attributes);
            assert_eq!(Kept::of(&message(attributes)), Some(kept));
        }
    }

    #[test]
    fn what_nobody_has_written_is_not_read() {
        let kept = Kept {
            at: UnixTime::from_secs(1_800_000_000),
            reason: Denial::TokenExpired,
            detail: None,
            configuration: String::new(),
        };
        for (name, value) in [(AT, "soon"), (REASON, "bad_luck"), (CONFIGURATION, "")] {
            let mut attributes = AttributeContext::default();
            kept.write_into(&mut attributes);
            let metadata = attributes.metadata_context.as_mut().unwrap();
            let fields = &mut metadata.filter_metadata.get_mut(NAMESPACE).unwrap().fields;
            match value {
                "" => drop(fields.remove(name)),
                text => drop(fields.insert(
                    name.to_owned(),
                    Value { kind: Some(Kind::StringValue(text.to_owned())) },
                )),
            }
            assert_eq!(Kept::of(&message(attributes)), None, "{name}");
        }
        for odd in [&b""[..], b"\xff", &message(AttributeContext::default())] {
            assert_eq!(Kept::of(odd), None);
        }
    }
}
