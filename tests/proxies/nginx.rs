//! Debian's nginx with `deploy/nginx`.

use super::installation::{BOTH, Clients, Installation, Proxy, Site, put, shown};
use super::programs::provisioned;
use std::any::Any;
use std::fs::{self, File};
use std::process::{Child, Command};

pub(crate) static NGINX: Proxy = nginx(start);

/// The same, but that it announces a body with each question and sends none, which it does with the
/// client's own `Content-Length` where nobody takes that away.
static ANNOUNCING: Proxy = nginx(|site| {
    let line = "proxy_set_header Content-Length \"\";";
    start_with(&put(DEPLOYED, line, "proxy_set_header Content-Length 9;"), site)
});

/// The same for pages of another origin.
pub(crate) static NGINX_FOR_PAGES: Proxy = nginx(|site| {
    let blocks = shown(include_str!("../../deploy/nginx/README.md"), "Browsers");
    let [pages, headers, preflight] = *blocks else { panic!("{blocks:?}") };
    let text = put(DEPLOYED, "\nhttp {\n", &format!("\nhttp {{\n{pages}"));
    let nonce = "add_header DPoP-Nonce       $nonce            always;\n";
    let text = put(&text, nonce, &format!("{nonce}{headers}"));
    let location = "location / {\n";
    let text = put(&text, location, &format!("{location}{preflight}"));
    let metadata = "auth_request off;\n";
    let text = put(&text, metadata, &format!("{metadata}add_header Vary Origin always;\n"));
    start_with(&text, site)
});

const DEPLOYED: &str = include_str!("../../deploy/nginx/nginx.conf");

const fn nginx(start: fn(&Site<'_>) -> Box<dyn Any + Send>) -> Proxy {
    Proxy {
        name: "nginx",
        keybound: include_str!("../../deploy/nginx/keybound.yaml"),
        start,
        // It hands on 401 and 403 alone.
        outage: [500, 500],
        malformed: 401,
        unreadable: 403,
        cleans_paths: false,
        hands_on_bodies: false,
        hands_on_nonces: true,
    }
}

struct Nginx(Child);

impl Drop for Nginx {
    fn drop(&mut self) {
        // Asked, not killed: its workers are to end with it. It fails only when it is gone already.
        drop(Command::new("kill").arg(self.0.id().to_string()).status());
        drop(self.0.wait());
    }
}

/// The deployed configuration, with other addresses and file names.
fn start(site: &Site<'_>) -> Box<dyn Any + Send> {
    start_with(DEPLOYED, site)
}

fn start_with(text: &str, site: &Site<'_>) -> Box<dyn Any + Send> {
    let here = site.directory.display();
    let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .map(|it| format!("{it}_temp_path {here}/{it};"))
        .join(" ");
    // The option is told once for an address.
    let all_else = format!("listen {} ssl http2 reuseport default_server", site.address);
    let text = put(text, "listen 443 ssl http2 default_server", &all_else);
    let text = put(&text, "listen 443 ssl http2;", &format!("listen {} ssl http2;", site.address));
    let text = put(&text, "server 127.0.0.1:9002", &format!("server {}", site.keybound));
    let text = put(&text, "server 127.0.0.1:8080", &format!("server {}", site.upstream));
    let text = put(&text, "/run/nginx.pid", &format!("{here}/nginx.pid"));
    let text = put(&text, "\nhttp {\n", &format!("\nhttp {{ access_log off; {temporary}\n"));
    let text = match site.clients {
        Clients::OfTheAuthority => text,
        Clients::Any => {
            let text =
                put(&text, "ssl_verify_client optional;", "ssl_verify_client optional_no_ca;");
            put(&text, "ssl_client_certificate /etc/nginx/client-ca.crt;", "")
        }
    };
    let file = site.directory.join("nginx.conf");
    fs::write(&file, text.replace("/etc/nginx/", &format!("{here}/"))).unwrap();
    let child = Command::new(provisioned("nginx"))
        .args(["-g", "daemon off;", "-e", "stderr", "-c"])
        .arg(&file)
        .stderr(File::create(site.directory.join("proxy.log")).unwrap())
        .spawn();
    Box::new(Nginx(child.unwrap()))
}

#[tokio::test]
async fn the_location_that_asks_is_not_for_clients() {
    let it = Installation::start(&NGINX).await;
    let client = it.client();
    let token = format!("Bearer {}", it.token(&client, |_| {}));
    for http in BOTH {
        let headers = [("authorization", token.as_str())];
        assert_eq!(it.call(http, Some(&client), "/keybound", &headers).await.status, 404);
        assert_eq!(it.call(http, Some(&client), "/other", &headers).await.status, 200);
    }
}

#[tokio::test]
async fn a_body_that_is_announced_and_not_sent_is_not_waited_for() {
    let it = Installation::start(&ANNOUNCING).await;
    let client = it.client();
    let token = format!("Bearer {}", it.token(&client, |_| {}));
    for http in BOTH {
        let headers = [("authorization", token.as_str())];
        for _ in 0..3 {
            assert_eq!(it.call(http, Some(&client), "/", &headers).await.status, 200);
            assert_eq!(it.call(http, None, "/", &headers).await.status, 401);
        }
    }
}
