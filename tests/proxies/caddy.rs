//! Debian's Caddy with `deploy/caddy`.

use super::installation::{Clients, HOST, Proxy, Site, put, put_twice, shown};
use super::programs::provisioned;
use keybound::commands::demo::process::Process;
use std::any::Any;
use std::fs;
use std::process::Command;

pub(crate) static CADDY: Proxy = Proxy {
    name: "caddy",
    keybound: include_str!("../../deploy/caddy/keybound.yaml"),
    start,
    outage: [503, 502],
    malformed: 400,
    unreadable: 400,
    cleans_paths: false,
    hands_on_bodies: true,
    hands_on_nonces: true,
};

/// The same for an operator whose own file takes nothing away: what clients write of ours under other
/// names, and the protocols that they offer.
pub(crate) static BARE_CADDY: Proxy =
    Proxy { start: |site| start_with(site, &without_guards(DEPLOYED)), ..CADDY };

/// The same for pages of another origin.
pub(crate) static CADDY_FOR_PAGES: Proxy = Proxy {
    start: |site| {
        let blocks = shown(include_str!("../../deploy/caddy/README.md"), "Browsers");
        let [cors] = *blocks else { panic!("{blocks:?}") };
        let below = "\t\t# Names that only keybound";
        start_with(site, &put(DEPLOYED, below, &format!("{cors}{below}")))
    },
    ..CADDY
};

const DEPLOYED: &str = include_str!("../../deploy/caddy/Caddyfile");

fn without_guards(text: &str) -> String {
    let guards = [
        "request_header -X",
        "@websocket",
        "request_header @websocket",
        "@upgrade",
        "request_header @upgrade",
    ];
    let is_guard = |line: &str| guards.iter().any(|it| line.trim_start().starts_with(it));
    assert_eq!(text.lines().filter(|it| is_guard(it)).count(), 9);
    text.lines().filter(|it| !is_guard(it)).map(|it| it.to_owned() + "\n").collect()
}

fn start(site: &Site<'_>) -> Box<dyn Any + Send> {
    start_with(site, DEPLOYED)
}

/// The deployed configuration, with other addresses and file names, and without what needs ports
/// that are not ours.
fn start_with(site: &Site<'_>, text: &str) -> Box<dyn Any + Send> {
    let here = site.directory.display();
    let alone = "{\n\tadmin off\n\tauto_https disable_redirects\n\tservers {\n\t\tprotocols h1 h2\n\t}\n}\n";
    let address = format!("\nhttps://{HOST}:{} {{\n\tbind 127.0.0.1\n", site.address.port());
    let text = put(text, "\napi.example.com {\n", &address);
    let text = put_twice(&text, "127.0.0.1:9002", site.keybound);
    let text = put(&text, "127.0.0.1:8080", &site.upstream.to_string());
    let text = match site.clients {
        Clients::OfTheAuthority => text,
        Clients::Any => {
            let text = put(&text, "mode verify_if_given", "mode request");
            put(&text, "trusted_ca_cert_file /etc/caddy/client-ca.crt", "")
        }
    };
    let file = site.directory.join("Caddyfile");
    fs::write(&file, alone.to_owned() + &text.replace("/etc/caddy/", &format!("{here}/"))).unwrap();
    let mut command = Command::new(provisioned("caddy"));
    command.args(["run", "--adapter", "caddyfile", "--config"]).arg(&file);
    // Where it keeps what it makes.
    command.env("XDG_CONFIG_HOME", site.directory).env("XDG_DATA_HOME", site.directory);
    let log = site.directory.join("proxy.log");
    Box::new(Process::start("caddy", &mut command, &log).unwrap())
}
