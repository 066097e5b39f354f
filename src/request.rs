//! Knows what of a request is checked, whatever front end it came in by.
//!
//! All of it is borrowed from the bytes that the proxy sent.

use std::fmt;

/// A request under check.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Request<'a> {
    /// The policy that the proxy's own configuration names for this route, if it names one.
    pub policy: Option<&'a str>,
    /// The policy that the annotations of the route name, where they may.
    pub annotated: Annotation<'a>,
    /// What the request is aimed at.
    pub target: Target<'a>,
    /// The `Authorization` header.
    pub authorization: Field<'a>,
    /// The `DPoP` header.
    pub proof: Field<'a>,
    /// Everything that may tell the client's certificate.
    pub evidence: Evidence<'a>,
    /// The `traceparent` header (W3C Trace Context), as it came.
    pub traceparent: Option<&'a [u8]>,
    /// The proxy's id for the request (`x-request-id`), as it came.
    pub request_id: Option<&'a [u8]>,
    /// The names, as they were spelled, of headers that must not reach the upstream
    /// ([`crate::policy::reserved::ReservedHeaders::must_go`]).
    pub unwanted: Vec<&'a str>,
}

/// What the annotations of a route say about its policy.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Annotation<'a> {
    /// Nothing.
    #[default]
    Absent,
    /// Its name.
    Names(&'a str),
    /// More than one name, or something that is no name.
    Unclear,
}

impl Annotation<'_> {
    /// What both say together.
    #[must_use]
    pub fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Absent, said) | (said, Self::Absent) => said,
            (Self::Names(one), Self::Names(other)) if one == other => self,
            (Self::Names(_) | Self::Unclear, Self::Names(_) | Self::Unclear) => Self::Unclear,
        }
    }
}

/// What a request is aimed at, as the client sent it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Target<'a> {
    /// The method. Methods have case (RFC 9110 §9.1).
    pub method: &'a str,
    /// `http` or `https`, as the proxy sees it.
    pub scheme: &'a str,
    /// The host and perhaps a port, as received.
    pub authority: &'a str,
    /// The path with its query, undecoded. Never a URI reference: `//host/x` is a path.
    pub path: &'a str,
}

impl<'a> Target<'a> {
    /// The path before `?`.
    pub fn path_only(&self) -> &'a str {
        self.path.split_once('?').map_or(self.path, |(path, _)| path)
    }

    /// The query behind `?`, if there is one.
    pub fn query(&self) -> Option<&'a str> {
        self.path.split_once('?').map(|(_, query)| query)
    }
}

/// A header of which a request should have one at most.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub enum Field<'a> {
    /// Not there.
    #[default]
    Absent,
    /// There once, with this value.
    One(&'a [u8]),
    /// There more than once, on separate lines.
    Many,
}

impl<'a> Field<'a> {
    /// The value, when there is exactly one.
    pub const fn sole(self) -> Option<&'a [u8]> {
        match self {
            Self::One(value) => Some(value),
            Self::Absent | Self::Many => None,
        }
    }

    /// The field with one more line of it.
    #[must_use]
    pub fn and(self, value: &'a [u8]) -> Self {
        match self {
            Self::Absent => Self::One(value),
            Self::One(_) | Self::Many => Self::Many,
        }
    }
}

/// Its value may be a secret, and is not shown.
impl fmt::Debug for Field<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Absent => f.write_str("Absent"),
            Self::One(value) => write!(f, "One({} bytes)", value.len()),
            Self::Many => f.write_str("Many"),
        }
    }
}

/// All that may tell the client's certificate. What of it counts is the operator's to say
/// ([`crate::client_certificate::Source`]).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Evidence<'a> {
    /// The certificate of the peer of the proxy's connection: URL-encoded PEM; empty if none.
    pub peer_certificate: &'a [u8],
    /// The name of that peer (`source.principal`); empty if none.
    pub peer_principal: &'a [u8],
    /// The `x-forwarded-client-cert` header.
    pub xfcc: Field<'a>,
    /// The header that the operator named as the carrier of the certificate.
    pub header: Field<'a>,
}

#[cfg(test)]
mod tests {
    use super::Annotation::{Absent, Names, Unclear};

    #[test]
    fn two_annotations_must_name_the_same_policy() {
        for (one, other, together) in [
            (Absent, Absent, Absent),
            (Absent, Names("a"), Names("a")),
            (Names("a"), Names("a"), Names("a")),
            (Names("a"), Names("b"), Unclear),
            (Names("a"), Names(""), Unclear),
            (Absent, Unclear, Unclear),
            (Names("a"), Unclear, Unclear),
            (Unclear, Unclear, Unclear),
        ] {
            assert_eq!(one.and(other), together);
            assert_eq!(other.and(one), together);
        }
    }
}
