//! Traefik with `deploy/traefik`.

use super::installation::{Clients, Proxy, Site, put, put_twice, shown};
use super::programs::provisioned;
use keybound::commands::demo::process::Process;
use std::any::Any;
use std::fs;
use std::process::Command;

pub(crate) static TRAEFIK: Proxy = Proxy {
    name: "traefik",
    keybound: include_str!("../../deploy/traefik/keybound.yaml"),
    start,
    outage: [503, 500],
    malformed: 400,
    unreadable: 400,
    cleans_paths: true,
    hands_on_bodies: true,
    hands_on_nonces: false,
};

/// The same for pages of another origin.
pub(crate) static TRAEFIK_FOR_PAGES: Proxy = Proxy {
    start: |site| {
        let blocks = shown(include_str!("../../deploy/traefik/README.md"), "Browsers");
        let [cors] = *blocks else { panic!("{blocks:?}") };
        let text = put(DEPLOYED, "\n  middlewares:\n", &format!("\n  middlewares:\n{cors}"));
        let before = "middlewares: [no-upgrade, client-certificate, keybound]";
        let after = "middlewares: [no-upgrade, cors, client-certificate, keybound]";
        start_with(&put(&text, before, after), site)
    },
    ..TRAEFIK
};

const DEPLOYED: &str = include_str!("../../deploy/traefik/dynamic.yaml");

/// The deployed configurations, with other addresses and file names.
fn start(site: &Site<'_>) -> Box<dyn Any + Send> {
    start_with(DEPLOYED, site)
}

fn start_with(dynamic: &str, site: &Site<'_>) -> Box<dyn Any + Send> {
    let here = format!("{}/", site.directory.display());
    let listen = format!("address: {}\n    reusePort: true", site.address);
    let text = put(include_str!("../../deploy/traefik/traefik.yaml"), "address: :443", &listen);
    let file = site.directory.join("traefik.yaml");
    fs::write(&file, text.replace("/etc/traefik/", &here)).unwrap();
    let text = put_twice(dynamic, "127.0.0.1:9002", site.keybound);
    let text = put(&text, "127.0.0.1:8080", &site.upstream.to_string());
    let text = match site.clients {
        Clients::OfTheAuthority => text,
        Clients::Any => {
            let text = put(&text, "VerifyClientCertIfGiven", "RequestClientCert");
            put(&text, "caFiles: [/etc/traefik/client-ca.crt]", "")
        }
    };
    fs::write(site.directory.join("dynamic.yaml"), text.replace("/etc/traefik/", &here)).unwrap();
    let mut command = Command::new(provisioned("traefik"));
    command.arg(format!("--configFile={}", file.display()));
    let log = site.directory.join("proxy.log");
    Box::new(Process::start("traefik", &mut command, &log).unwrap())
}
