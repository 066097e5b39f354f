//! Knows where the client certificate may come from.

use crate::client_certificate::{HeaderFormat, Source};
use crate::config::file::{self, CertificateFormat, CertificateSource};
use crate::config::problem::{Findings, Path, quoted};
use http::HeaderName;

pub(super) fn compile(
    given: file::ClientCertificate,
    at: &Path,
    findings: &mut Findings,
) -> Source {
    // A source that cannot be read is unknown: then nothing can be said about the other parts.
    let known = given.source.is_some() || !findings.is_incomplete(&at.key("source"));
    let source = given.source.unwrap_or_default();
    for (key, is_given, belongs_to) in [
        ("xfcc", given.xfcc.is_some(), CertificateSource::Xfcc),
        ("header", given.header.is_some(), CertificateSource::Header),
    ] {
        if known && is_given && source != belongs_to {
            let message = format!("has no effect: it is for `source: {key}`");
            findings.warning(&at.key(key), message);
        }
    }
    let behind = behind(given.xfcc.unwrap_or_default(), &at.key("xfcc"), findings);
    let (name, format) = header(given.header.unwrap_or_default(), &at.key("header"), findings);
    match source {
        CertificateSource::Peer => Source::Peer,
        CertificateSource::Xfcc => Source::Xfcc { behind },
        CertificateSource::Header => Source::Header { name, format },
    }
}

fn behind(xfcc: file::Xfcc, at: &Path, findings: &mut Findings) -> Vec<String> {
    let behind = xfcc.behind.unwrap_or_default();
    for (index, identity) in behind.iter().enumerate() {
        if identity.is_empty() || identity.chars().any(char::is_control) {
            let message = "must be the identity of a proxy, such as spiffe://example.com/ns/a/sa/b";
            findings.problem(&at.key("behind").index(index), message);
        }
    }
    behind
}

fn header(
    header: file::CertificateHeader,
    at: &Path,
    findings: &mut Findings,
) -> (String, HeaderFormat) {
    let name = header.name.unwrap_or_else(|| "client-cert".to_owned()).to_ascii_lowercase();
    let format = header.format.unwrap_or(CertificateFormat::Rfc9440);
    let at = at.key("name");
    match HeaderName::from_bytes(name.as_bytes()) {
        Err(_) => findings.problem(&at, format!("{} is no name of a header", quoted(&name))),
        Ok(name) if name == "x-forwarded-client-cert" => {
            findings.problem(&at, "that header has a source of its own: write `source: xfcc`");
        }
        Ok(name) if matches!(name.as_str(), "authorization" | "cookie" | "dpop" | "host") => {
            findings.problem(&at, format!("`{name}` carries something else"));
        }
        Ok(_) => (),
    }
    (name, format.into())
}

impl From<CertificateFormat> for HeaderFormat {
    fn from(format: CertificateFormat) -> Self {
        match format {
            CertificateFormat::Rfc9440 => Self::Rfc9440,
            CertificateFormat::PemUrlencoded => Self::PemUrlencoded,
            CertificateFormat::PemBase64 => Self::PemBase64,
            CertificateFormat::DerBase64 => Self::DerBase64,
            CertificateFormat::DerBase64Chain => Self::DerBase64Chain,
            CertificateFormat::Sha256Hex => Self::Sha256Hex,
            CertificateFormat::Sha256Base64url => Self::Sha256Base64url,
        }
    }
}
