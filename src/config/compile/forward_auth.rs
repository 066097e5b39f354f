//! The part of the configuration about forward-auth: how a proxy asks by subrequest, and who can
//! reach that listener.

use super::files::Files;
use super::secret;
use crate::config::file::{self, Flavour as Named};
use crate::config::problem::{Findings, Path, quoted};
use crate::config::{Address, ForwardAuth, usual};
use crate::front::forward_auth::{Asker, Flavour, Secret};
use http::HeaderName;
use keybound_core::client_certificate::Source;

pub(super) fn compile(
    address: Option<Address>,
    given: Option<file::ForwardAuth>,
    root: &Path,
    files: &Files,
    findings: &mut Findings,
) -> Option<ForwardAuth> {
    let at = root.key("forward_auth");
    let listens = root.key("listen").key("forward_auth");
    if given.is_some() && address.is_none() && !findings.is_incomplete(&listens) {
        findings.problem(&at, "has no effect: `listen.forward_auth` does not say where to listen");
    }
    let given = given.unwrap_or_default();
    let secret = secret(&given, &at, files, findings);
    let flavour = flavour(&given, &at, findings);
    Some(ForwardAuth { address: address?, asker: Asker { flavour, secret } })
}

fn flavour(given: &file::ForwardAuth, at: &Path, findings: &mut Findings) -> Flavour {
    let prefix_at = at.key("path_prefix");
    let named = given.flavour.map_or_else(Named::default, |it| it.0);
    // If the flavour cannot be read, nothing can be said about what depends on it.
    let known = given.flavour.is_some() || !findings.is_incomplete(&at.key("flavour"));
    if let Some(prefix) = &given.path_prefix {
        if known && named != Named::Envoy {
            findings.problem(&prefix_at, "has no effect: it is for `flavour: envoy`");
        } else if !prefix.starts_with('/') || prefix.ends_with('/') || prefix.contains(['?', '#']) {
            let message =
                format!("{} must begin with a slash and not end with one", quoted(prefix));
            findings.problem(&prefix_at, message);
        }
    }
    match named {
        Named::Nginx => Flavour::Nginx,
        Named::Traefik | Named::Caddy => Flavour::Traefik,
        Named::Envoy => {
            Flavour::Envoy { path_prefix: given.path_prefix.clone().unwrap_or_default() }
        }
    }
}

fn secret(
    given: &file::ForwardAuth,
    at: &Path,
    files: &Files,
    findings: &mut Findings,
) -> Option<Secret> {
    let header = given.secret_header.as_deref().unwrap_or(usual::SECRET_HEADER);
    let header_at = at.key("secret_header");
    let Some(file) = &given.secret_file else {
        if given.secret_header.is_some() && !findings.is_incomplete(&at.key("secret_file")) {
            findings.problem(&header_at, "has no effect: no `secret_file` is set");
        }
        return None;
    };
    let name = HeaderName::from_bytes(header.as_bytes()).ok();
    match name.as_ref().map(HeaderName::as_str) {
        None => findings.problem(&header_at, format!("{} is not a header name", quoted(header))),
        Some(it) if CARRIES_SOMETHING_ELSE.contains(&it) => {
            findings.problem(&header_at, format!("`{it}` carries something else"));
        }
        Some(_) => (),
    }
    match files.read_secret(file).and_then(|it| secret::usable(&it)) {
        Ok(secret) => Some(Secret::new(name?, &secret)),
        Err(message) => {
            findings.problem(&at.key("secret_file"), message);
            None
        }
    }
}

const CARRIES_SOMETHING_ELSE: [&str; 5] =
    ["authorization", "cookie", "dpop", "host", "x-forwarded-client-cert"];

/// Warns of a listener that is not only reachable by the proxy. `tls` is whether client
/// certificates are required, if TLS is enabled.
pub(super) fn warn_of_reach(
    forward_auth: &ForwardAuth,
    tls: Option<bool>,
    at: &Path,
    findings: &mut Findings,
) {
    let Address::Tcp(address) = &forward_auth.address else { return };
    let is_proved = tls == Some(true) || forward_auth.asker.secret.is_some();
    if address.ip().is_loopback() {
        return;
    }
    if !is_proved {
        let message = format!(
            "{address} can be reached from other machines, and anybody who connects there can \
             claim any client certificate: set `listen.tls.client_ca_file` or \
             `forward_auth.secret_file`"
        );
        findings.warning(at, message);
    } else if tls.is_none() {
        let message = format!(
            "{address} can be reached from other machines and has no TLS: tokens and the secret \
             are sent unencrypted"
        );
        findings.warning(at, message);
    }
}

/// Warns of a certificate source that this proxy cannot provide.
pub(super) fn warn_of_source(asker: &Asker, source: &Source, at: &Path, findings: &mut Findings) {
    let cannot = match (source, &asker.flavour) {
        (Source::Header { .. }, _) => return,
        (Source::Xfcc { behind }, Flavour::Envoy { .. }) if behind.is_empty() => return,
        (Source::Xfcc { .. }, Flavour::Envoy { .. }) => {
            "over HTTP Envoy does not identify its peer, so that `behind` cannot be checked"
        }
        (Source::Xfcc { .. }, Flavour::Nginx | Flavour::Traefik) => {
            "only Envoy writes that header, and other proxies pass on what the client sent: write \
             `source: header`"
        }
        (Source::Peer, Flavour::Envoy { .. }) => {
            "over HTTP Envoy does not send the certificate of its peer: write `source: xfcc`"
        }
        (Source::Peer, Flavour::Nginx | Flavour::Traefik) => {
            "such a proxy sends the certificate in a header: write `source: header`"
        }
    };
    let message =
        format!("{cannot}. On `listen.forward_auth`, tokens bound to a certificate are refused");
    findings.warning(&at.key("source"), message);
}
