//! The part of the configuration about where client certificates come from.

use crate::config::file::{self, CertificateSource};
use crate::config::problem::{Findings, Path, quoted};
use crate::config::usual;
use http::HeaderName;
use keybound_core::client_certificate::{HeaderFormat, Source};

pub(super) fn compile(
    given: file::ClientCertificate,
    at: &Path,
    findings: &mut Findings,
) -> Source {
    // A source that cannot be read is unknown: then nothing can be said about the other parts.
    let known = given.source.is_some() || !findings.is_incomplete(&at.key("source"));
    let source = given.source.map_or_else(CertificateSource::default, |it| it.0);
    for (belongs_to, is_given) in [
        (CertificateSource::Xfcc, given.xfcc.is_some()),
        (CertificateSource::Header, given.header.is_some()),
    ] {
        if known && is_given && source != belongs_to {
            let message = format!("has no effect: it is for `source: {belongs_to}`");
            findings.warning(&at.key(belongs_to.name()), message);
        }
    }
    let behind = behind(given.xfcc.unwrap_or_default(), &at.key("xfcc"), findings);
    let (name, format) = header(&given.header.unwrap_or_default(), &at.key("header"), findings);
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
    header: &file::CertificateHeader,
    at: &Path,
    findings: &mut Findings,
) -> (String, HeaderFormat) {
    let name = header.name.as_deref().unwrap_or(usual::CERTIFICATE_HEADER).to_ascii_lowercase();
    let format = header.format.map_or_else(HeaderFormat::default, |it| it.0);
    let at = at.key("name");
    match HeaderName::from_bytes(name.as_bytes()) {
        Err(_) => findings.problem(&at, format!("{} is not a header name", quoted(&name))),
        Ok(name) if name == "x-forwarded-client-cert" => {
            findings.problem(&at, "that header has a source of its own: write `source: xfcc`");
        }
        Ok(name) if matches!(name.as_str(), "authorization" | "cookie" | "dpop" | "host") => {
            findings.problem(&at, format!("`{name}` carries something else"));
        }
        Ok(_) => (),
    }
    (name, format)
}
