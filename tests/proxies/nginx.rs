//! Debian's nginx with `deploy/nginx`.

use super::dpop_client::DpopClient;
use super::installation::{BOTH, Clients, Installation, Proxy, Site, put, shown};
use super::programs::provisioned;
use keybound::commands::demo::pki::Identity;
use reqwest::Version;
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

/// The same, but that it is told to keep answers to questions, by the token alone, as guides to
/// `auth_request` have it.
static CACHING: Proxy = nginx(|site| start_with(&caching(""), site));

/// The same, and told not to heed what an answer says of that.
static CACHING_ALL: Proxy =
    nginx(|site| start_with(&caching("proxy_ignore_headers Cache-Control;"), site));

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

/// The deployed configuration with a cache of answers, and with this beside it.
fn caching(more: &str) -> String {
    let ask = "proxy_pass http://keybound/check;";
    let cache = "proxy_cache answers; proxy_cache_valid any 5m; \
                 proxy_cache_key $http_authorization;";
    let text = put(DEPLOYED, ask, &format!("{ask} {cache} {more}"));
    let path = "proxy_cache_path /etc/nginx/answers keys_zone=answers:1m;";
    put(&text, "http {\n", &format!("http {{\n{path}\n"))
}

/// How requests end that show the same proof, and then the same token with another certificate, and none.
async fn shown_again(proxy: &'static Proxy) -> [u16; 4] {
    let it = Installation::start_with(proxy, "nonce: off").await;
    let status = async |identity: Option<&Identity>, path: &str, headers: &[(&str, &str)]| {
        it.call(Version::HTTP_2, identity, path, headers).await.status.as_u16()
    };
    let holder = DpopClient::new(|cnf| it.token(&it.client(), |it| it["cnf"] = cnf));
    let authorization = format!("DPoP {}", holder.token);
    let proof = holder.proof("GET", &it.url("/either"));
    let proved = [("authorization", authorization.as_str()), ("dpop", &proof)];
    let proofs = [status(None, "/either", &proved).await, status(None, "/either", &proved).await];

    let client = it.client();
    let token = format!("Bearer {}", it.token(&client, |_| {}));
    let bound = [("authorization", token.as_str())];
    assert_eq!(status(Some(&client), "/", &bound).await, 200);
    let thief = it.client();
    let certificates = [status(Some(&thief), "/", &bound).await, status(None, "/", &bound).await];
    [proofs, certificates].concat().try_into().unwrap()
}

#[tokio::test]
async fn an_answer_is_for_one_request_though_nginx_is_told_to_keep_answers() {
    assert_eq!(shown_again(&CACHING).await, [200, 401, 401, 401]);
}

/// Why the page says never to: what is shown again passes, and nobody is asked.
#[tokio::test]
async fn told_not_to_heed_cache_control_nginx_lets_a_used_proof_and_a_thief_pass() {
    assert_eq!(shown_again(&CACHING_ALL).await, [200; 4]);
}

#[tokio::test]
async fn a_refusal_is_for_one_request_though_nginx_is_told_to_keep_answers() {
    let it = Installation::start(&CACHING).await;
    let (client, other) = (it.client(), it.client());
    let token = format!("Bearer {}", it.token(&client, |_| {}));
    let headers = [("authorization", token.as_str())];
    for (identity, status) in [(&other, 401), (&client, 200), (&other, 401), (&client, 200)] {
        let outcome = it.call(Version::HTTP_2, Some(identity), "/", &headers).await;
        assert_eq!(outcome.status, status);
    }
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
