//! Mistakes that operators make, each made on purpose: the line that names its cause.

#![expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "a test may panic")]

use super::mutual_tls::{Connector, authority, with_tls};
use super::service::{Service, keybound, request};
use super::world::{World, reason};
use keybound_core::jose::Thumbprint;
use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::thread;

/// What a TLS client begins with.
const CLIENT_HELLO: &[u8] = b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00";

/// What an HTTP/2 client begins with.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// What Envoy asks for in HTTP/1.1, where nobody told it to use HTTP/2.
const HTTP_1: &[u8] =
    b"POST /envoy.service.auth.v3.Authorization/Check HTTP/1.1\r\nhost: a\r\n\r\n";

fn send(address: &str, bytes: &[u8]) {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(bytes).unwrap();
    drop(stream.read_to_end(&mut Vec::new()));
}

/// With a listener for forward-auth.
#[expect(clippy::needless_pass_by_value, reason = "an edit as `Service::start` takes it")]
fn asked_over_http(_: &Path, config: String) -> String {
    let config = config.replacen("admin:", "forward_auth: '127.0.0.1:0', admin:", 1);
    format!("{config}forward_auth: {{flavour: nginx}}\n")
}

fn address(service: &Service, listener: &str) -> String {
    let line = service.log.iter().find(|it| it["message"] == "listening").unwrap();
    line[listener].as_str().unwrap().to_owned()
}

/// The one line about a connection that failed, and its count.
fn failure(service: &mut Service, listener: &str, cause: &str) -> Value {
    let line = service.wait_for("connection failed");
    assert_eq!((&line["listener"], &line["cause"]), (&listener.into(), &cause.into()), "{line}");
    assert_eq!(line["level"], "WARN");
    let labels = format!("{{cause=\"{cause}\",listener=\"{listener}\"}}");
    service.reaches_metric(&format!("keybound_handshake_failures_total{labels}"), 1.0);
    line
}

#[track_caller]
fn advises(line: &Value, part: &str) {
    let advice = line["advice"].as_str().unwrap_or_default();
    assert!(advice.contains(part), "{part}: {line}");
}

#[test]
fn a_proxy_that_speaks_another_protocol_is_told_which_one_is_spoken_here() {
    for (listener, bytes, cause, advice) in [
        ("ext_authz", HTTP_1, "http_version", "http2_protocol_options"),
        ("ext_authz", CLIENT_HELLO, "tls_unexpected", "listen.tls is not set"),
        ("ext_authz", b"SSH-2.0-OpenSSH_9.6 and more\r\n", "not_http", "another program"),
        ("forward_auth", PREFACE, "http_version", "belongs to listen.ext_authz"),
        ("forward_auth", CLIENT_HELLO, "tls_unexpected", "listen.tls is not set"),
    ] {
        let mut service = Service::start(asked_over_http, &[]);
        service.wait_for("ready");
        send(&address(&service, listener), bytes);
        let line = failure(&mut service, listener, cause);
        advises(&line, advice);
    }
}

#[tokio::test]
async fn tls_on_one_side_only_is_told_on_either() {
    let authority = authority();
    let mut service = Service::start(with_tls(&authority), &[]);
    service.wait_for("ready");
    for bytes in [HTTP_1, PREFACE] {
        send(&service.ext_authz.clone(), bytes);
    }
    advises(&failure(&mut service, "ext_authz", "not_tls"), "UpstreamTlsContext");
    // Another kind of failure has a line of its own, however many there are of the first.
    assert_eq!(Connector::new(&service, &authority, None).health().await, None);
    advises(&failure(&mut service, "ext_authz", "certificate_missing"), "tls_certificates");
    let other = super::mutual_tls::authority();
    assert_eq!(Connector::new(&service, &authority, Some(&other)).health().await, None);
    advises(&failure(&mut service, "ext_authz", "certificate_untrusted"), "client_ca_file");
    assert_eq!(Connector::new(&service, &other, Some(&authority)).health().await, None);
    advises(&failure(&mut service, "ext_authz", "refused_by_client"), "certificate_file");
}

/// The warning that has been logged and begins like this.
#[track_caller]
fn warning<'s>(service: &'s Service, beginning: &str) -> &'s Value {
    let begins = |it: &&Value| it["message"].as_str().is_some_and(|it| it.starts_with(beginning));
    let line = service.log.iter().find(begins).unwrap();
    assert_eq!(line["level"], "WARN", "{line}");
    line
}

/// A question of nginx about a request, without the header `missing`, asked at `target`.
fn question(target: &str, missing: &str) -> String {
    let headers = [
        ("x-original-method", "GET"),
        ("x-original-uri", "/payments"),
        ("x-forwarded-host", "api.example.com"),
        ("x-forwarded-proto", "https"),
    ];
    let headers = headers.iter().filter(|(name, _)| *name != missing);
    let lines: Vec<_> = headers.map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let lines = lines.concat();
    format!("GET {target} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n{lines}\r\n")
}

#[test]
fn a_header_that_the_question_of_a_proxy_lacks_is_named() {
    for (target, missing, detail, advice) in [
        ("/check", "x-original-uri", "x_original_uri_missing", "x-original-uri $request_uri;"),
        ("/check", "x-forwarded-host", "x_forwarded_host_missing", "x-forwarded-host $host;"),
        ("/", "", "question_target", "ask at /check"),
    ] {
        let mut service = Service::start(asked_over_http, &[]);
        service.wait_for("ready");
        send(&address(&service, "forward_auth"), question(target, missing).as_bytes());
        let line = service.wait_for("denied");
        assert_eq!(
            (&line["reason"], &line["detail"]),
            (&"request_malformed".into(), &detail.into())
        );
        let line = warning(&service, "question of the proxy refused: ");
        assert_eq!(line["header"].as_str().unwrap_or_default(), missing);
        advises(line, advice);
        let labels = format!("{{detail=\"{detail}\",reason=\"request_malformed\"}}");
        service.reaches_metric(&format!("keybound_denial_details_total{labels}"), 1.0);
    }
}

/// Answers each request with this document, and counts nothing.
fn always(document: impl Fn(&str) -> String) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let body = document(&url);
    let status = if body.is_empty() { "404 Not Found" } else { "200 OK" };
    let answer = format!(
        "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: \
         close\r\n\r\n{body}",
        body.len()
    );
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            drop(stream.read(&mut [0; 4096]));
            drop(stream.write_all(answer.as_bytes()));
        }
    });
    url
}

/// Whose keys are found by the metadata of this issuer.
fn discovered(issuer: &str) -> impl FnOnce(&Path, String) -> String {
    let issuer = issuer.to_owned();
    move |_, config| {
        let config = config.replace("issuer: https://as.example.com", &format!("issuer: {issuer}"));
        config.replace("keys: {jwks_file: jwks.json}", "keys: {discovery: true}")
    }
}

#[test]
fn an_issuer_that_is_spelled_otherwise_than_it_is_called_is_told_with_both_spellings_and_the_url() {
    let slash = always(|url| format!("{{\"issuer\": \"{url}/\", \"jwks_uri\": \"{url}/jwks\"}}"));
    let realm = always(|_| String::new());
    let nobody = "http://127.0.0.1:1".to_owned();
    for (issuer, parts) in [
        (
            slash.clone(),
            [
                format!("{slash}/.well-known/oauth-authorization-server: "),
                format!("\"{slash}/\", and the configuration says \"{slash}\""),
            ],
        ),
        (
            slash.replace("127.0.0.1", "localhost"),
            [
                "http://localhost:".to_owned(),
                format!("\"{slash}/\", and the configuration says \"http://localhost:"),
            ],
        ),
        (
            format!("{realm}/realms/tset"),
            [
                format!(
                    "{realm}/.well-known/oauth-authorization-server/realms/tset: answered with 404"
                ),
                format!("{realm}/realms/tset/.well-known/openid-configuration: answered with 404"),
            ],
        ),
        (
            nobody.clone(),
            [
                format!("{nobody}/.well-known/openid-configuration: "),
                "unreachable: Connection refused (os error 111)".to_owned(),
            ],
        ),
    ] {
        let mut service = Service::start(discovered(&issuer), &[]);
        let line = service.wait_for("key refresh failed");
        let (_, waits) = service.page("GET", "/readyz");
        let asked = keybound().args(["healthcheck", "--address", &service.admin]).output().unwrap();
        let asked = String::from_utf8(asked.stderr).unwrap();
        for part in parts {
            for told in [line["error"].as_str().unwrap(), &waits, &asked] {
                assert!(told.contains(&part), "{part}: {told}");
            }
        }
    }
}

#[test]
fn keys_for_none_of_the_algorithms_are_told_when_they_are_fetched() {
    let edit = |_: &Path, config: String| {
        config.replace("    audiences:", "    algorithms: [PS256, EdDSA]\n    audiences:")
    };
    let mut service = Service::start(edit, &[]);
    service.wait_for("ready");
    let line = warning(&service, "no algorithm of `algorithms` fits a key of the issuer");
    assert_eq!((&line["keys"], &line["algorithms"]), (&"1 (ES256)".into(), &"PS256, EdDSA".into()));
    let service = Service::ready(&[]);
    assert!(
        !service.log.iter().any(|it| it.to_string().contains("algorithm")),
        "{:?}",
        service.log
    );
}

#[test]
fn that_no_request_has_carried_a_certificate_is_told_once_and_until_one_has() {
    let world = World::new();
    for (source, advice) in [
        ("peer", "include_peer_certificate: true"),
        ("xfcc", "forwardClientCertDetails"),
        ("header, header: {name: client-cert, format: rfc9440}", "the header client-cert"),
    ] {
        let edit = |config| format!("{config}client_certificate: {{source: {source}}}\n");
        let mut service = world.service_with(edit, &["--drain-delay", "0s"]);
        let shown = |service: &Service| service.status()["client_certificates"].clone();
        assert_eq!(shown(&service), json!({"carried": false, "missed": 0}));
        for missed in 1..3 {
            let bare = request(&format!("Bearer {}", world.token("payments")), "");
            assert_eq!(reason(&service, bare), "certificate_missing");
            assert_eq!(shown(&service), json!({"carried": false, "missed": missed}));
        }
        if source == "peer" {
            assert_eq!(reason(&service, world.request("payments")), "allowed");
            assert_eq!(shown(&service), json!({"carried": true, "missed": 2}));
        }
        service.signal("TERM");
        assert_eq!(service.end(), Some(0));
        advises(warning(&service, "no request has carried a client certificate so far"), advice);
        let told = service.log.iter().filter(|it| it["missed"].is_u64()).count();
        assert_eq!(told, 1);
    }
}

#[test]
fn a_socket_that_nobody_else_may_open_is_told_with_its_folder() {
    for (mode, beginning) in [(0o700, "only its user may open the socket"), (0o755, "socket made")]
    {
        let edit = |folder: &Path, config: String| {
            std::fs::set_permissions(folder, std::fs::Permissions::from_mode(mode)).unwrap();
            super::over_unix_socket(folder, config)
        };
        let service = Service::start(edit, &[]);
        let begins = |it: &&Value| it["message"].as_str().unwrap().starts_with(beginning);
        let line = service.log.iter().find(begins).unwrap();
        assert_eq!(line["mode"], "0660");
        assert!(line["user"].is_u64() && line["group"].is_u64(), "{line}");
        assert_eq!(line["folder"].is_string(), mode == 0o700);
        assert_eq!(line["level"], if mode == 0o700 { "WARN" } else { "INFO" });
    }
}

#[test]
fn a_thumbprint_in_another_form_is_told_in_the_log() {
    let world = World::new();
    let mut service = world.service();
    let thumbprint = Thumbprint::of(&world.certificate);
    for odd in [
        json!({"x5t#S256": thumbprint.to_hex()}),
        json!({"x5t#S256": thumbprint.to_hex().to_uppercase()}),
        json!({"x5t#S256": format!("{}=", thumbprint.to_base64url())}),
        json!({"jkt": "2jmj7l5rSw0yVb_vlWAYkK_YBwk"}),
    ] {
        let bound = request(&format!("Bearer {}", world.bound_token("payments", &odd)), "");
        assert_eq!(reason(&service, bound), "token_malformed");
        let line = service.wait_for("denied");
        assert_eq!(line["detail"], "confirmation_malformed", "{odd}");
    }
}
