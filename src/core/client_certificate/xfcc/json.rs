//! The JSON form of `x-forwarded-client-cert` (Envoy 1.40, `format: JSON`). Values are escaped, so
//! it can carry any SAN.

use super::Element;
use crate::client_certificate::{Unusable, pem};
use crate::jose::json::{self, Any};
use serde::Deserialize;
use std::borrow::Cow;

/// The elements, starting with the client's.
pub(super) fn elements(value: &[u8]) -> Result<Vec<Element<'_>>, Unusable> {
    let members: Vec<Members<'_>> = json::objects_of(value).or(Err(Unusable::Malformed))?;
    members.into_iter().map(Members::element).collect()
}

/// The members of one element. Unknown and duplicate members are refused.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Members<'a> {
    #[serde(borrow)]
    hash: Cow<'a, str>,
    #[serde(borrow)]
    cert: Option<Cow<'a, str>>,
    #[serde(default)]
    uri: Vec<String>,
    #[serde(default)]
    dns: Vec<String>,
    #[serde(rename = "by")]
    _by: Option<Any>,
    #[serde(rename = "chain")]
    _chain: Option<Any>,
    #[serde(rename = "subject")]
    _subject: Option<Any>,
    #[serde(rename = "issuer")]
    _issuer: Option<Any>,
}

impl<'a> Members<'a> {
    fn element(self) -> Result<Element<'a>, Unusable> {
        let first =
            |names: Vec<String>| names.into_iter().next().map(|it| Cow::Owned(it.into_bytes()));
        let read = |it: Cow<'_, str>| pem::thumbprint(it.as_bytes());
        Element::new(
            self.hash.as_bytes(),
            self.cert.map(|it| read(it).ok_or(Unusable::Malformed)).transpose()?,
            first(self.uri),
            first(self.dns),
        )
    }
}
