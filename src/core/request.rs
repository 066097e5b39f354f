//! The request under check, independent of the front end that it came in by.
//!
//! All of it is borrowed from the bytes that the proxy sent.

use crate::jose::thumbprint::Thumbprint;
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
    /// What the client's headers say in place of the target.
    pub overrides: Overrides<'a>,
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
    /// The `grpc-timeout` header.
    pub grpc_timeout: Field<'a>,
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

    /// The authority without what it says of a user, which may be a password (RFC 3986 §3.2.1).
    pub fn host_and_port(&self) -> &'a str {
        self.authority.rsplit_once('@').map_or(self.authority, |(_, host)| host)
    }

    /// The query behind `?`, if there is one.
    pub fn query(&self) -> Option<&'a str> {
        self.path.split_once('?').map(|(_, query)| query)
    }
}

/// What headers say to servers that heed them in place of the method and the URL.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Overrides<'a> {
    /// `X-HTTP-Method-Override`, `X-HTTP-Method` or `X-Method-Override`; many if they differ.
    pub method: Field<'a>,
    /// `X-Original-URL` or `X-Rewrite-URL`; many if they differ.
    pub url: Field<'a>,
}

impl<'a> Overrides<'a> {
    /// The headers that override the method.
    pub const METHOD: [&'static str; 3] =
        ["x-http-method-override", "x-method-override", "x-http-method"];
    /// The headers that override the URL.
    pub const URL: [&'static str; 2] = ["x-original-url", "x-rewrite-url"];

    /// Takes the header down if it is one of them.
    #[inline]
    pub fn add(&mut self, name: &[u8], value: &'a [u8]) {
        // Most headers are shorter or longer, or begin otherwise.
        if !matches!((name.len(), name.first()), (13 | 14 | 17 | 22, Some(b'x' | b'X'))) {
            return;
        }
        let is_one = |names: &[&str]| names.iter().any(|it| reads_as(name, it.as_bytes()));
        let field = match () {
            () if is_one(&Self::METHOD) => &mut self.method,
            () if is_one(&Self::URL) => &mut self.url,
            () => return,
        };
        if *field != Field::One(value) {
            *field = field.and(value);
        }
    }
}

/// Whether two names of headers, or beginnings of names, are one to somebody who takes every separator
/// for the same, as who puts them into variables does (RFC 3875 §4.1.18).
pub fn reads_as(name: &[u8], own: &[u8]) -> bool {
    name.len() == own.len() && name.iter().zip(own).all(|(a, b)| read(*a) == read(*b))
}

const fn read(byte: u8) -> u8 {
    if is_separator(byte) { b'-' } else { byte.to_ascii_lowercase() }
}

/// Whether it stands between the letters and digits of a name.
pub const fn is_separator(byte: u8) -> bool {
    !byte.is_ascii_alphanumeric()
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
    /// The certificate of the peer of the proxy's connection.
    pub peer_certificate: PeerCertificate<'a>,
    /// The name of that peer (`source.principal`); empty if none.
    pub peer_principal: &'a [u8],
    /// The `x-forwarded-client-cert` header.
    pub xfcc: Field<'a>,
    /// The header that the operator named as the carrier of the certificate.
    pub header: Field<'a>,
}

/// The certificate of the peer of the proxy's own connection, in the form in which the proxy has it.
///
/// Only its SHA-256 counts (RFC 8705 §3.1): what is inside is never read, and whether the peer holds
/// its key is for the proxy's TLS to verify.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PeerCertificate<'a> {
    /// There is none, or the proxy does not say.
    #[default]
    Absent,
    /// PEM, URL-encoded as Envoy has it (`source.certificate`).
    UrlEncodedPem(&'a [u8]),
    /// PEM (RFC 7468 §5.1).
    Pem(&'a [u8]),
    /// DER.
    Der(&'a [u8]),
    /// The SHA-256 of its DER.
    Sha256(Thumbprint),
}

impl<'a> PeerCertificate<'a> {
    /// URL-encoded PEM; none where there is no text.
    pub const fn url_encoded_pem(text: &'a [u8]) -> Self {
        if text.is_empty() { Self::Absent } else { Self::UrlEncodedPem(text) }
    }

    /// The SHA-256 in hexadecimal. Text that is no digest is a certificate that cannot be read, and not
    /// none at all.
    pub fn sha256_in_hex(text: &[u8]) -> PeerCertificate<'static> {
        Thumbprint::from_hex(text).map_or(PeerCertificate::Der(b""), PeerCertificate::Sha256)
    }

    /// The bytes that carry it; none where there is no certificate, or its digest alone.
    pub const fn bytes(self) -> &'a [u8] {
        match self {
            Self::UrlEncodedPem(bytes) | Self::Pem(bytes) | Self::Der(bytes) => bytes,
            Self::Absent | Self::Sha256(_) => &[],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Annotation::{Absent, Names, Unclear};
    use super::{Field, Overrides};

    #[test]
    fn an_override_is_told_by_any_of_its_names_in_any_spelling() {
        let method = |it| Overrides { method: it, ..Overrides::default() };
        let url = |it| Overrides { url: it, ..Overrides::default() };
        for (headers, expected) in [
            (&[][..], Overrides::default()),
            (&[("x-http-method-override", "PUT")], method(Field::One(b"PUT"))),
            (&[("X-HTTP-Method", "PUT")], method(Field::One(b"PUT"))),
            (&[("X_Method.Override", "PUT")], method(Field::One(b"PUT"))),
            (&[("x-original-url", "/a")], url(Field::One(b"/a"))),
            (&[("X-Rewrite_URL", "/a")], url(Field::One(b"/a"))),
            (&[("x-http-method", "A"), ("x-method-override", "A")], method(Field::One(b"A"))),
            (&[("x-http-method", "A"), ("x-method-override", "B")], method(Field::Many)),
            (&[("x-original-url", "/a"), ("x-original-url", "/b")], url(Field::Many)),
            (&[("x-original-uri", "/a"), ("x-forwarded-uri", "/b")], Overrides::default()),
            (&[("authorization", "a"), ("x-http-methods", "b")], Overrides::default()),
        ] {
            let mut found = Overrides::default();
            for (name, value) in headers {
                found.add(name.as_bytes(), value.as_bytes());
            }
            assert_eq!(found, expected, "{headers:?}");
        }
    }

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
