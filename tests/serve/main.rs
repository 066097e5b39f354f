//! The service as its operator and its proxies see it.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test may panic")]

mod bounds;
#[path = "../support/browser.rs"]
mod browser;
mod burst;
mod capture;
#[path = "../support/collector.rs"]
mod collector;
mod events;
mod explain;
mod forward_auth;
#[path = "../support/identity_provider.rs"]
#[expect(dead_code, reason = "each test file uses its part of it")]
mod identity_provider;
mod mistakes;
mod mutual_tls;
mod page;
#[path = "../support/programs.rs"]
mod programs;
#[path = "../support/proofs.rs"]
mod proofs;
mod reload;
mod revocation;
mod service;
#[path = "../support/tokens.rs"]
#[expect(clippy::indexing_slicing, reason = "shared between tests")]
mod tokens;
mod told_by_issuer;
mod traces;
mod world;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use envoy_types::pb::envoy::service::auth::v3::CheckResponse;
use envoy_types::pb::envoy::service::auth::v3::authorization_client::AuthorizationClient;
use envoy_types::pb::envoy::service::auth::v3::check_response::HttpResponse;
use service::{Service, SlowKeys, folder, keybound, request};
use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::mpsc::{Sender, channel};
use std::thread;
use tokio::runtime::Builder;
use tokio::sync::oneshot;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_prost::ProstCodec;
use tonic_reflection::pb::v1::ServerReflectionRequest;
use tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient;
use tonic_reflection::pb::v1::server_reflection_request::MessageRequest;
use tonic_reflection::pb::v1::server_reflection_response::MessageResponse;

const AUTHORIZATION: &str = "envoy.service.auth.v3.Authorization";

/// What decodes as a `CheckRequest` only with another wire type for `attributes`.
#[derive(Clone, PartialEq, prost::Message)]
struct Garbage {
    #[prost(uint64, tag = "1")]
    attributes: u64,
}

async fn call(channel: Channel, method: &'static str) -> Result<CheckResponse, Status> {
    let mut client = Grpc::new(channel);
    client.ready().await.unwrap();
    let codec = ProstCodec::<Garbage, CheckResponse>::default();
    let request = Request::new(Garbage { attributes: 7 });
    let path = PathAndQuery::from_static(method);
    client.unary(request, path, codec).await.map(tonic::Response::into_inner)
}

fn http_status(response: CheckResponse) -> i32 {
    assert_ne!(response.status.unwrap().code, 0);
    match response.http_response {
        Some(HttpResponse::DeniedResponse(it)) => it.status.unwrap().code,
        other => panic!("{other:?}"),
    }
}

async fn health(channel: Channel, service: &str) -> Result<ServingStatus, Code> {
    let request = HealthCheckRequest { service: service.to_owned() };
    let answer = HealthClient::new(channel).check(request).await;
    answer.map(|it| it.into_inner().status()).map_err(|it| it.code())
}

/// A token whose signature is wrong, which only the issuer's keys can tell.
fn forged_token() -> String {
    let part = |it: &[u8]| URL_SAFE_NO_PAD.encode(it);
    let header = part(br#"{"typ":"at+jwt","alg":"ES256","kid":"1"}"#);
    let claims = part(br#"{"iss":"https://as.example.com","sub":"somebody"}"#);
    format!("{header}.{claims}.{}", part(&[1; 64]))
}

#[tokio::test]
async fn health_is_told_over_tcp() {
    let service = Service::ready(&[]);
    for name in ["", AUTHORIZATION] {
        assert_eq!(health(service.channel().await, name).await, Ok(ServingStatus::Serving));
    }
    assert_eq!(health(service.channel().await, "other").await, Err(Code::NotFound));
}

#[test]
fn health_is_told_over_a_unix_socket() {
    let mut service = Service::start(over_unix_socket, &["--drain-delay", "0s"]);
    service.wait_for("ready");
    let path = service.folder.path().join("socket");
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o660);
    let told = block_on(async { health(service.channel().await, AUTHORIZATION).await });
    assert_eq!(told, Ok(ServingStatus::Serving));
    service.signal("TERM");
    assert_eq!(service.end(), Some(0));
    assert!(!path.exists());
}

#[tokio::test]
async fn a_socket_file_that_nobody_listens_on_is_replaced() {
    let leave_behind = |folder: &Path, config| {
        drop(std::os::unix::net::UnixListener::bind(folder.join("socket")).unwrap());
        over_unix_socket(folder, config)
    };
    let mut service = Service::start(leave_behind, &[]);
    service.wait_for("ready");
    assert_eq!(health(service.channel().await, "").await, Ok(ServingStatus::Serving));
}

#[expect(clippy::needless_pass_by_value, reason = "an edit as `Service::start` takes it")]
fn over_unix_socket(folder: &Path, config: String) -> String {
    let path = folder.join("socket");
    config.replacen("'127.0.0.1:0'", &format!("'unix:{}'", path.display()), 1)
}

#[tokio::test]
async fn reflection_lists_the_service() {
    let service = Service::ready(&[]);
    let mut client = ServerReflectionClient::new(service.channel().await);
    let list = MessageRequest::ListServices(String::new());
    let request = ServerReflectionRequest { host: String::new(), message_request: Some(list) };
    let requests = futures_util::stream::iter([request]);
    let mut answers = client.server_reflection_info(requests).await.unwrap().into_inner();
    let answer = answers.message().await.unwrap().unwrap().message_response;
    let Some(MessageResponse::ListServicesResponse(list)) = answer else { panic!("{answer:?}") };
    let names: Vec<_> = list.service.iter().map(|it| &*it.name).collect();
    assert!(names.contains(&AUTHORIZATION), "{names:?}");
    assert!(names.contains(&"grpc.health.v1.Health"), "{names:?}");
}

#[test]
fn promtool_finds_nothing_amiss_in_the_metrics() {
    let service = Service::ready(&[]);
    let (_, metrics) = service.page("GET", "/metrics");
    for name in ["process_cpu_seconds_total", "process_resident_memory_bytes", "process_open_fds"] {
        assert!(metrics.lines().any(|it| it.starts_with(name)), "{name}: {metrics}");
    }
    let mut promtool = std::process::Command::new(programs::provisioned("promtool"));
    let piped = std::process::Stdio::piped;
    let promtool = promtool.args(["check", "metrics"]).stdin(piped()).stdout(piped());
    let mut promtool = promtool.stderr(piped()).spawn().unwrap();
    promtool.stdin.take().unwrap().write_all(metrics.as_bytes()).unwrap();
    let output = promtool.wait_with_output().unwrap();
    let told = [output.stdout, output.stderr].concat();
    assert_eq!((output.status.code(), &*String::from_utf8(told).unwrap()), (Some(0), ""));
}

#[tokio::test]
async fn what_cannot_be_read_is_denied_and_told() {
    let mut service = Service::ready(&[]);
    let response =
        call(service.channel().await, "/envoy.service.auth.v3.Authorization/Check").await;
    assert_eq!(http_status(response.unwrap()), 400);
    let line = service.wait_for("denied");
    assert_eq!(line["reason"], "request_malformed");
    let (_, metrics) = service.page("GET", "/metrics");
    let series = "keybound_checks_total{decision=\"deny\",front=\"ext_authz\",policy=\"\",\
                  reason=\"request_malformed\"} 1\n";
    assert!(metrics.contains(series), "{metrics}");
}

#[tokio::test]
async fn an_oversized_call_is_denied() {
    let service = Service::ready(&[]);
    let mut client = AuthorizationClient::new(service.channel().await);
    let response = client.check(request(&"x".repeat(9 << 20), "")).await.unwrap().into_inner();
    assert_eq!(http_status(response), 400);
    // The connection goes on.
    let response = client.check(request("Bearer x", "")).await.unwrap().into_inner();
    assert_eq!(http_status(response), 401);
}

#[tokio::test]
async fn an_unknown_method_is_unimplemented() {
    let service = Service::ready(&[]);
    for method in ["/envoy.service.auth.v3.Authorization/Other", "/other.Service/Check", "/"] {
        let status = call(service.channel().await, method).await.unwrap_err();
        assert_eq!(status.code(), Code::Unimplemented, "{method}");
    }
}

#[test]
fn a_denial_is_told_without_the_token() {
    let mut service = Service::ready(&["--log-level", "trace", "--drain-delay", "0s"]);
    let response = block_on(check_with_forged_token(service.uri())).unwrap();
    assert_eq!(http_status(response), 401);
    let line = service.wait_for("denied");
    for (field, value) in
        [("reason", "token_signature_invalid"), ("policy", "payments"), ("kid", "1")]
    {
        assert_eq!(line.get(field).unwrap(), value, "{line}");
    }
    service.signal("TERM");
    assert_eq!(service.end(), Some(0));
    let log = format!("{:?}", service.log);
    for part in forged_token().split('.') {
        assert!(!log.contains(part), "{log}");
    }
}

/// Runs a client. Its connections end with it.
fn block_on<T>(client: impl Future<Output = T>) -> T {
    Builder::new_current_thread().enable_all().build().unwrap().block_on(client)
}

/// Runs a client on a thread of its own, beside a test that waits for the service.
fn beside<T: Send + 'static>(
    client: impl Future<Output = T> + Send + 'static,
) -> thread::JoinHandle<T> {
    thread::spawn(move || block_on(client))
}

async fn check_with_forged_token(uri: String) -> Result<CheckResponse, Status> {
    let channel = Endpoint::from_shared(uri).unwrap().connect().await.unwrap();
    let request = request(&format!("Bearer {}", forged_token()), "");
    AuthorizationClient::new(channel).check(request).await.map(tonic::Response::into_inner)
}

/// Every state of health that is told until the end. A message on `began` says that the first was.
async fn watch_health(uri: String, began: Sender<()>) -> Vec<ServingStatus> {
    let channel = Endpoint::from_shared(uri).unwrap().connect().await.unwrap();
    let request = HealthCheckRequest { service: AUTHORIZATION.to_owned() };
    let mut changes = HealthClient::new(channel).watch(request).await.unwrap().into_inner();
    let mut seen = Vec::new();
    while let Ok(Some(change)) = changes.message().await {
        seen.push(change.status());
        let _told = began.send(());
    }
    seen
}

fn with(keys: &SlowKeys) -> impl FnOnce(&Path, String) -> String {
    |_, config| {
        config
            .replace("jwks_file: jwks.json", &format!("jwks_uri: '{}'", keys.url))
            .replace("150ms", "4s")
    }
}

#[test]
fn a_check_under_way_is_answered_before_the_end() {
    let keys = SlowKeys::start();
    let mut service = Service::start(with(&keys), &["--drain-delay", "0s"]);
    assert_eq!(service.page("GET", "/readyz").0, 503);
    let answer = beside(check_with_forged_token(service.uri()));
    service.wait_until(|it| it["checks_under_way"] == 1);
    service.signal("TERM");
    service.wait_until(|it| it["phase"] == "draining");
    assert_eq!(service.page("GET", "/readyz").0, 503);
    while TcpStream::connect(&service.ext_authz).is_ok() {}
    keys.release();
    assert_eq!(http_status(answer.join().unwrap().unwrap()), 401);
    assert_eq!(service.end(), Some(0));
}

#[test]
fn who_watches_the_health_does_not_hold_up_the_end() {
    let mut service = Service::ready(&["--drain-delay", "0s"]);
    let (begins, began) = channel();
    let seen = beside(watch_health(service.uri(), begins));
    began.recv().unwrap();
    service.signal("TERM");
    assert_eq!(service.end(), Some(0));
    assert!(
        service.log.iter().all(|it| it["message"] != "connections aborted"),
        "{:?}",
        service.log
    );
    drop(seen.join().unwrap());
}

#[test]
fn a_caller_that_gives_up_ends_its_check() {
    let keys = SlowKeys::start();
    let mut service = Service::start(with(&keys), &[]);
    let (enough, had_enough) = oneshot::channel();
    let check = check_with_forged_token(service.uri());
    let client = beside(async {
        tokio::select! {
            answer = check => panic!("{answer:?}"),
            _ = had_enough => (),
        }
    });
    service.wait_until(|it| it["checks_under_way"] == 1);
    enough.send(()).unwrap();
    client.join().unwrap();
    service.wait_until(|it| it["checks_under_way"] == 0);
    keys.release();
    service.wait_for("ready");
    assert!(service.log.iter().all(|it| it["message"] != "denied"), "{:?}", service.log);
}

#[tokio::test]
async fn the_second_signal_ends_at_once() {
    let mut service = Service::ready(&["--drain-delay", "10m"]);
    service.signal("INT");
    service.wait_for("draining");
    assert_eq!(service.page("GET", "/readyz").0, 503);
    let told = health(service.channel().await, AUTHORIZATION).await;
    assert_eq!(told, Ok(ServingStatus::NotServing));
    service.signal("TERM");
    assert_eq!(service.end(), Some(1));
}

#[test]
fn connections_are_dealt_evenly() {
    let service = Service::ready(&["--shards", "3"]);
    block_on(async {
        let mut channels = Vec::new();
        for _ in 0..6 {
            let channel = service.channel().await;
            assert_eq!(health(channel.clone(), "").await, Ok(ServingStatus::Serving));
            channels.push(channel);
        }
        assert_eq!(service.status()["connections"], serde_json::json!([2, 2, 2]));
    });
    service.wait_until(|it| it["connections"] == serde_json::json!([0, 0, 0]));
}

#[test]
fn the_admin_pages() {
    let service = Service::ready(&[]);
    for (method, path, status, part) in [
        ("GET", "/livez", 200, "alive"),
        ("GET", "/readyz", 200, "ready"),
        ("GET", "/metrics", 200, "keybound_jwks_keys{issuer=\"https://as.example.com\"} 1"),
        ("GET", "/status", 200, "\"payments\""),
        ("GET", "/status", 200, "\"keys_unavailable\": \"dependency\""),
        ("GET", "/", 200, "keybound"),
        ("HEAD", "/readyz", 200, ""),
        ("GET", "/readyz?now", 200, "ready"),
        ("GET", "/other", 404, ""),
        ("POST", "/livez", 405, ""),
        ("GET", "/explain", 405, "only POST"),
        ("DELETE", "/", 405, ""),
    ] {
        let (found, body) = service.page(method, path);
        assert_eq!(found, status, "{method} {path}");
        assert!(body.contains(part), "{method} {path}\n{body}");
    }
}

/// Which of `paths` are answered to a request with these header lines.
fn shown(service: &Service, headers: &str) -> Vec<&'static str> {
    let paths = ["/livez", "/readyz", "/metrics", "/status", "/"];
    let is_shown = |it: &&str| match service.answer_to("GET", it, headers).0 {
        200 => true,
        403 => false,
        status => panic!("{status} to {it} with {headers}"),
    };
    paths.into_iter().filter(is_shown).collect()
}

#[test]
fn what_clients_did_is_shown_to_who_asks_by_an_address() {
    let service = Service::ready(&[]);
    let all = ["/livez", "/readyz", "/metrics", "/status", "/"];
    let browser = "accept-language: en\r\nuser-agent: Mozilla/5.0\r\n";
    for host in ["127.0.0.1:9003", "10.1.2.3", "[::1]:9003", "localhost:9003", "LocalHost"] {
        assert_eq!(shown(&service, &format!("host: {host}\r\n")), all, "{host}");
        assert_eq!(shown(&service, &format!("host: {host}\r\n{browser}")), all, "{host}");
    }
    for host in [
        "evil.example:9003",
        "127.0.0.1.evil.example",
        "localhost.evil.example",
        "keybound.edge.svc.cluster.local:9003",
        "keybound",
    ] {
        // Prometheus collects by any name.
        assert_eq!(shown(&service, &format!("host: {host}\r\n")), all[..3], "{host}");
        for sign in [
            browser,
            "accept-language: \r\n",
            "origin: http://evil.example:9003\r\n",
            "referer: http://evil.example:9003/\r\n",
            "sec-fetch-site: same-origin\r\n",
        ] {
            let headers = format!("host: {host}\r\n{sign}");
            assert_eq!(shown(&service, &headers), all[..2], "{headers}");
        }
    }
    assert_eq!(shown(&service, "host: 127.0.0.1\r\nhost: evil.example\r\n"), all[..3]);
    assert_eq!(shown(&service, ""), all[..3]);
}

#[test]
fn healthcheck_says_whether_it_is_ready_or_with_live_whether_it_is_alive() {
    let keys = SlowKeys::start();
    let mut service = Service::start(with(&keys), &[]);
    let ask = |address: &str, more: &[&str]| {
        let mut asked = keybound();
        asked.args(["healthcheck", "--address", address]).args(more).output().unwrap()
    };
    let [ready, live] = [&[][..], &["--live"]];
    let waiting = ask(&service.admin, ready);
    assert_eq!(waiting.status.code(), Some(1));
    let told = String::from_utf8(waiting.stderr).unwrap();
    assert!(told.contains("not ready: starting: waits for the keys of https://as"), "{told}");
    assert_eq!(ask(&service.admin, live).status.code(), Some(0), "waiting for keys is no fault");
    keys.release();
    service.wait_for("ready");
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    for asked in [ready, live] {
        assert_eq!(ask(&service.admin, asked).status.code(), Some(0), "{asked:?}");
        assert_eq!(ask(&closed, asked).status.code(), Some(1), "{asked:?}");
    }
}

#[test]
fn what_keeps_it_from_starting_is_told_in_a_line_of_the_log() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let (_folder, file) = folder(|_, it| it.replacen("127.0.0.1:0", &address, 1));
    let ended = keybound().arg("serve").arg("--config").arg(&file).output().unwrap();
    assert_eq!(ended.status.code(), Some(1));
    let told = String::from_utf8(ended.stderr).unwrap();
    let last = told.lines().last().unwrap();
    let line: serde_json::Value = serde_json::from_str(last).unwrap();
    assert_eq!((&line["level"], &line["message"]), (&"ERROR".into(), &"not started".into()));
    assert!(line["error"].as_str().unwrap().contains(&format!("cannot listen on {address}")));
}

#[test]
fn every_problem_of_the_configuration_is_told() {
    let (_folder, file) = folder(|_, it| it.replace("certificate", "cert").replace("150ms", "1"));
    let serve = |format| {
        let mut serve = keybound();
        serve.args(["serve", "--log-format", format]).env("KEYBOUND_CONFIG", &file);
        let ended = serve.output().unwrap();
        assert_eq!(ended.status.code(), Some(1));
        String::from_utf8(ended.stderr).unwrap()
    };
    let text = serve("text");
    assert_eq!(text.lines().count(), 2, "{text}");
    let line: serde_json::Value = serde_json::from_str(&serve("json")).unwrap();
    let error = line["error"].as_str().unwrap();
    assert!(error.starts_with(&file.display().to_string()), "{error}");
    assert!(error.contains("policies[0].sender_constraint: ") && error.contains("; "), "{error}");
    assert_eq!(keybound().arg("serve").output().unwrap().status.code(), Some(2));
}
