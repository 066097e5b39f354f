//! The part of the configuration about listeners: their addresses and who may connect.

use super::files::{self, Files};
use super::forward_auth;
use crate::config::problem::{Findings, Path, quoted};
use crate::config::{Address, EventsListener, Listen, Tls, file, usual};
use crate::proxy_names::ProxyName;
use std::net::SocketAddr;

pub(super) fn compile(
    listen: file::Listen,
    asker: Option<file::ForwardAuth>,
    root: &Path,
    files: &Files,
    findings: &mut Findings,
) -> Listen {
    let at = &root.key("listen");
    let for_proxies = [
        ("listen.ext_authz", listen.ext_authz.is_some()),
        ("listen.forward_auth", listen.forward_auth.is_some()),
        ("listen.tls", listen.tls.is_some()),
        ("forward_auth", asker.is_some()),
    ];
    let for_proxies = for_proxies.into_iter().filter_map(|(key, given)| given.then_some(key));
    let for_proxies = for_proxies.collect();
    let given_tls = listen.tls.is_some() || findings.is_incomplete(&at.key("tls"));
    let compiled = Listen {
        ext_authz: listen.ext_authz.unwrap_or_else(usual::ext_authz),
        forward_auth: forward_auth::compile(listen.forward_auth, asker, root, files, findings),
        admin: listen.admin.unwrap_or_else(usual::admin),
        events: listen.events.and_then(|it| events(it, &at.key("events"), files, findings)),
        tls: listen.tls.and_then(|it| tls(it, &at.key("tls"), files, findings)),
        for_proxies,
    };
    keep_apart(&compiled, at, findings);
    // If TLS cannot be read, it is treated as mutual, to avoid misleading warnings.
    let client_ca = compiled.tls.as_ref().map(|it| it.client_ca.is_some());
    let tls = client_ca.or_else(|| given_tls.then_some(true));
    warn_of_reach(&compiled, tls, at, findings);
    if let Some(forward_auth) = &compiled.forward_auth {
        forward_auth::warn_of_reach(forward_auth, tls, &at.key("forward_auth"), findings);
    }
    compiled
}

/// The listener for events. Who sends them is told by a secret, which must not be read on the way.
fn events(
    given: file::EventsListener,
    at: &Path,
    files: &Files,
    findings: &mut Findings,
) -> Option<EventsListener> {
    let file::EventsListener { address, tls: given } = given;
    let address_at = at.key("address");
    if address.is_none() && !findings.is_incomplete(&address_at) {
        findings.problem(&address_at, "is missing: where transmitters connect, as in 0.0.0.0:9004");
    }
    let tls_at = at.key("tls");
    let wants_tls = given.is_some() || findings.is_incomplete(&tls_at);
    let tls = given.and_then(|it| tls(it, &tls_at, files, findings));
    let address = address?;
    if let (false, Some(elsewhere)) = (wants_tls, elsewhere(&address)) {
        let message = format!(
            "{elsewhere} can be reached from other machines and has no TLS: the Authorization of the \
             transmitter and its events are sent unencrypted, unless a proxy in front ends TLS"
        );
        findings.warning(&address_at, message);
    }
    (tls.is_some() || !wants_tls).then_some(EventsListener { address, tls })
}

/// Warns of listeners that are not only reachable by the proxy. `tls` is whether client
/// certificates are required, if TLS is enabled.
fn warn_of_reach(listen: &Listen, tls: Option<bool>, at: &Path, findings: &mut Findings) {
    let reach = "can be reached from other machines";
    if let Some(address) = elsewhere(&listen.ext_authz) {
        let why = match tls {
            Some(true) => None,
            Some(false) => Some(
                ", and anybody who connects there can claim any client certificate: set \
                 `listen.tls.client_ca_file`, or let only your proxies connect",
            ),
            None => Some(" and has no TLS: tokens are sent unencrypted"),
        };
        if let Some(why) = why {
            findings.warning(&at.key("ext_authz"), format!("{address} {reach}{why}"));
        }
    }
    if let Some(address) = elsewhere(&listen.admin) {
        let message = format!(
            "{address} {reach}, and /status shows what clients did: let only probes and \
             Prometheus connect"
        );
        findings.warning(&at.key("admin"), message);
    }
    if let Some(tls) = &listen.tls
        && tls.client_ca.is_some()
        && tls.client_names.is_empty()
    {
        let message = "any client with a certificate of these authorities can connect and claim \
                       any client certificate: name your proxies in `client_names`";
        findings.warning(&at.key("tls").key("client_ca_file"), message);
    }
}

/// The address, if other machines can reach it.
fn elsewhere(address: &Address) -> Option<&SocketAddr> {
    match address {
        Address::Tcp(address) if !address.ip().is_loopback() => Some(address),
        Address::Tcp(_) | Address::Unix(_) => None,
    }
}

fn keep_apart(listen: &Listen, at: &Path, findings: &mut Findings) {
    let forward_auth = listen.forward_auth.as_ref().map(|it| &it.address);
    let events = listen.events.as_ref().map(|it| &it.address);
    for (key, address, other_key, other) in [
        ("admin", Some(&listen.admin), "ext_authz", Some(&listen.ext_authz)),
        ("forward_auth", forward_auth, "ext_authz", Some(&listen.ext_authz)),
        ("forward_auth", forward_auth, "admin", Some(&listen.admin)),
        ("events", events, "ext_authz", Some(&listen.ext_authz)),
        ("events", events, "forward_auth", forward_auth),
        ("events", events, "admin", Some(&listen.admin)),
    ] {
        if let (Some(address), Some(other)) = (address, other)
            && overlap(address, other)
        {
            let message = format!("is the address of {other_key}, {other}, as well");
            findings.problem(&at.key(key), message);
        }
    }
}

fn overlap(one: &Address, other: &Address) -> bool {
    match (one, other) {
        (Address::Tcp(one), Address::Tcp(other)) => {
            let any = one.ip().is_unspecified() || other.ip().is_unspecified();
            // Port 0 is a different free port each time.
            one.port() != 0 && one.port() == other.port() && (any || one.ip() == other.ip())
        }
        (Address::Unix(one), Address::Unix(other)) => one == other,
        (Address::Tcp(_), Address::Unix(_)) | (Address::Unix(_), Address::Tcp(_)) => false,
    }
}

fn tls(tls: file::Tls, at: &Path, files: &Files, findings: &mut Findings) -> Option<Tls> {
    let mut read = |key, name: Option<String>, holds: fn(&[u8]) -> Result<(), String>| {
        let name = name?;
        let read = if key == "key_file" { files.read_secret(&name) } else { files.read(&name) };
        let read = read.and_then(|pem| match holds(&pem) {
            Ok(()) => Ok(pem),
            Err(reason) => Err(format!("{} {reason}", files.path(&name).display())),
        });
        read.map_err(|message| findings.problem(&at.key(key), message)).ok()
    };
    let missing = [
        ("certificate_file", tls.certificate_file.is_none()),
        ("key_file", tls.key_file.is_none()),
    ];
    let certificate =
        read("certificate_file", tls.certificate_file, |pem| files::certificates(pem).map(drop));
    let key = read("key_file", tls.key_file, |pem| files::private_key(pem).map(drop));
    let wants_client_ca = tls.client_ca_file.is_some();
    let client_ca = read("client_ca_file", tls.client_ca_file, files::authorities);
    for (key, missing) in missing {
        if missing {
            findings.problem(&at.key(key), "is missing: TLS needs a certificate and its key");
        }
    }
    let client_names = client_names(tls.client_names, wants_client_ca, at, findings);
    let (certificate, key) = (certificate?, key?);
    if let Err(message) = files::identity(&certificate, &key) {
        findings.problem(at, message);
    }
    // Never fall back to TLS without client certificates if the operator asked for them.
    let complete = client_ca.is_some() == wants_client_ca;
    let client_names = client_names.filter(|_| complete)?;
    Some(Tls { certificate, key, client_ca, client_names })
}

/// The names that may connect; `None` if they cannot be read, so that no more may connect than
/// intended.
fn client_names(
    given: Option<Vec<String>>,
    has_client_ca: bool,
    at: &Path,
    findings: &mut Findings,
) -> Option<Vec<ProxyName>> {
    let names_at = at.key("client_names");
    let Some(given) = given else {
        return (!findings.is_incomplete(&names_at)).then(Vec::new);
    };
    if given.is_empty() {
        findings.problem(&names_at, "is empty: leave it out, or name the proxies that may connect");
    }
    if !has_client_ca && !findings.is_incomplete(&at.key("client_ca_file")) {
        let message = "needs `client_ca_file`: without it no certificate is requested";
        findings.problem(&names_at, message);
    }
    let mut parse = |(index, name): (usize, String)| match ProxyName::parse(&name) {
        Ok(name) => Some(name),
        Err(message) => {
            findings.problem(&names_at.index(index), format!("{} {message}", quoted(&name)));
            None
        }
    };
    let names: Vec<_> = given.into_iter().enumerate().map(&mut parse).collect();
    names.into_iter().collect()
}
