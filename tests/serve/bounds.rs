//! What the service holds for those who say nothing, begin and do not finish, or take no answers,
//! and that others are answered all the while.

#![expect(clippy::arithmetic_side_effects, clippy::indexing_slicing, reason = "a test may panic")]

use super::service::{Service, keybound};
use super::{AUTHORIZATION, block_on, health};
use bytes::Bytes;
use h2::client::{Connection, SendRequest};
use http::Request;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::time::{Duration, Instant};
use tokio::task::JoinSet;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

const MIB: u64 = 1024 * 1024;

/// What `keybound` holds in memory, in bytes.
fn resident(service: &Service) -> u64 {
    let status = fs::read_to_string(format!("/proc/{}/status", service.id())).unwrap();
    let line = status.lines().find_map(|it| it.strip_prefix("VmRSS:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap() * 1024
}

/// Connections that say nothing.
fn silent(address: &str, count: usize) -> Vec<TcpStream> {
    (0..count).map(|_| TcpStream::connect(address).unwrap()).collect()
}

/// Nobody who says nothing is waited for: the first of those would end after 5 s by themselves.
const AT_ONCE: Duration = Duration::from_secs(4);

#[track_caller]
fn answers_probes_at_once(service: &Service) {
    for path in ["/livez", "/readyz", "/metrics"] {
        let begun = Instant::now();
        assert_eq!(service.page("GET", path).0, 200, "{path}");
        assert!(begun.elapsed() < AT_ONCE, "{path} took {:?}", begun.elapsed());
    }
    // It gives up by itself.
    let asked = keybound().args(["healthcheck", "--address", &service.admin]).output().unwrap();
    assert!(asked.status.success(), "{asked:?}");
}

#[test]
fn probes_are_answered_beside_silent_connections() {
    let service = Service::ready(&[]);
    let mut held = Vec::new();
    for more in [64, 936] {
        held.extend(silent(&service.admin, more));
        answers_probes_at_once(&service);
    }
}

#[test]
fn probes_are_answered_beside_connections_that_dawdle() {
    let service = Service::ready(&[]);
    let mut held = silent(&service.admin, 200);
    for part in ["GET /stat", "us HTTP/1.1\r\n", "host: 127"] {
        for stream in &mut held {
            // It may be among those that went to make place.
            drop(stream.write_all(part.as_bytes()));
        }
        answers_probes_at_once(&service);
    }
}

#[test]
fn probes_are_answered_beside_answers_that_nobody_takes() {
    let service = Service::ready(&[]);
    let mut held = silent(&service.admin, 200);
    for stream in &mut held {
        drop(stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n"));
        drop(stream.write_all(b"POST /explain HTTP/1.1\r\nhost: 127.0.0.1\r\n"));
    }
    answers_probes_at_once(&service);
}

#[test]
fn probes_are_answered_beside_explanations_that_are_not_asked_to_the_end() {
    let service = Service::ready(&[]);
    let mut held = silent(&service.admin, 200);
    for stream in &mut held {
        let begun = "POST /explain HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: 9\r\n\
                    content-type: application/json\r\n\r\n{";
        drop(stream.write_all(begun.as_bytes()));
    }
    answers_probes_at_once(&service);
}

/// A service whose process may have so many files open.
fn with_files(most: &str) -> Service {
    let limited = |_: &Path, it| it;
    Service::start_by(&["sh", "-c", &format!("ulimit -n {most}; exec \"$0\" \"$@\"")], limited, &[])
}

#[test]
fn silent_connections_leave_files_for_everybody_else() {
    let mut service = with_files("256");
    service.wait_for("ready");
    let mut held = silent(&service.ext_authz, 300);
    answers_probes_at_once(&service);
    let told = block_on(async { health(service.channel().await, AUTHORIZATION).await });
    assert_eq!(told, Ok(ServingStatus::Serving));
    held.extend(silent(&service.ext_authz, 300));
    answers_probes_at_once(&service);
    let told = block_on(async { health(service.channel().await, AUTHORIZATION).await });
    assert_eq!(told, Ok(ServingStatus::Serving));
}

#[test]
fn as_many_files_as_the_system_allows_may_be_open() {
    let soft = "ulimit -Sn 64; exec \"$0\" \"$@\"";
    let mut service = Service::start_by(&["sh", "-c", soft], |_: &Path, it| it, &[]);
    service.wait_for("ready");
    let limits = fs::read_to_string(format!("/proc/{}/limits", service.id())).unwrap();
    let line = limits.lines().find_map(|it| it.strip_prefix("Max open files")).unwrap();
    let [soft, hard] = [0, 1].map(|it| line.split_whitespace().nth(it).unwrap());
    assert_eq!(soft, hard);
}

#[tokio::test]
async fn a_connection_that_asks_goes_for_nobody() {
    let mut service = with_files("256");
    service.wait_for("ready");
    // Not a client that would connect anew.
    let (mut client, connection) = http2(&service, 65_535).await;
    let mut driven = JoinSet::new();
    driven.spawn(connection);
    let mut held = Vec::new();
    for _ in 0..20 {
        client = client.ready().await.unwrap();
        let (answer, mut stream) = client.send_request(call(CHECK), false).unwrap();
        stream.send_data(Bytes::from_static(EMPTY), true).unwrap();
        assert_eq!(answer.await.unwrap().status(), 200);
        held.extend(silent(&service.ext_authz, 50));
        // Those that came last have all been taken when one that came later is answered.
        let told = health(service.channel().await, AUTHORIZATION).await;
        assert_eq!(told, Ok(ServingStatus::Serving));
    }
    service.wait_for("closed idle connections to make room");
    let ended = driven.try_join_next().map(|it| it.unwrap().map_err(|it| it.to_string()));
    assert_eq!(ended, None);
}

/// An HTTP/2 connection to the service, with a window for answers.
async fn http2(
    service: &Service,
    window: u32,
) -> (SendRequest<Bytes>, Connection<tokio::net::TcpStream>) {
    let stream = tokio::net::TcpStream::connect(&service.ext_authz).await.unwrap();
    let mut builder = h2::client::Builder::new();
    builder.initial_window_size(window).initial_max_send_streams(5000);
    builder.handshake(stream).await.unwrap()
}

fn call(path: &str) -> Request<()> {
    let uri = format!("http://keybound.test{path}");
    Request::post(uri).header("content-type", "application/grpc").body(()).unwrap()
}

const HEALTH: &str = "/grpc.health.v1.Health/Check";
const REFLECTION: &str = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";
const CHECK: &str = "/envoy.service.auth.v3.Authorization/Check";

/// A message without content.
const EMPTY: &[u8] = b"\0\0\0\0\0";

/// Begins `count` messages of `announced` bytes and sends `sent` of each, and says how much more is
/// held for them then. The calls end with the future that is returned.
async fn unfinished(path: &str, count: usize, announced: u32, sent: usize) -> u64 {
    let patient = |_: &Path, it: String| it.replace("check_deadline: 150ms", "check_deadline: 60s");
    let mut service = Service::start(patient, &[]);
    service.wait_for("ready");
    let before = resident(&service);
    let (client, connection) = http2(&service, 65_535).await;
    let mut driven = JoinSet::new();
    driven.spawn(connection);
    let mut client = client.ready().await.unwrap();
    let mut held = Vec::new();
    let mut most = 0;
    for number in 0..count {
        client = client.ready().await.unwrap();
        let (answer, mut stream) = client.send_request(call(path), false).unwrap();
        let mut data = vec![0; 5 + sent];
        data[1..5].copy_from_slice(&announced.to_be_bytes());
        // A stream that is refused takes no more.
        drop(stream.send_data(data.into(), false));
        held.push((answer, stream));
        if number % 64 == 0 {
            tokio::task::yield_now().await;
            most = most.max(resident(&service));
        }
    }
    // Whatever was sent has been read when a call that came later is answered.
    assert_eq!(health(service.channel().await, "").await, Ok(ServingStatus::Serving));
    most = most.max(resident(&service));
    answers_probes_at_once(&service);
    drop((held, driven));
    most.saturating_sub(before)
}

#[tokio::test]
async fn calls_that_are_not_finished_take_little_memory() {
    for (path, count, announced, sent) in [
        (HEALTH, 4096, 1000, 500),
        (HEALTH, 4096, 0x40_0000, 15_000),
        (HEALTH, 60, 0x40_0000, 4_000_000),
        (REFLECTION, 4096, 1000, 500),
        (REFLECTION, 60, 0x40_0000, 4_000_000),
    ] {
        let more = unfinished(path, count, announced, sent).await;
        assert!(more < 32 * MIB, "{path}: {} KiB for {count}", more / 1024);
    }
}

#[tokio::test]
async fn checks_that_are_not_finished_are_bounded_in_memory() {
    let more = unfinished(CHECK, 60, 0x70_0000, 7_000_000).await;
    assert!(more < 64 * MIB, "{} KiB", more / 1024);
}

#[tokio::test]
async fn answers_that_nobody_takes_end_their_connection() {
    let mut service = Service::ready(&[]);
    let mut connections = Vec::new();
    let mut driven = JoinSet::new();
    for _ in 0..4 {
        let (client, connection) = http2(&service, 0).await;
        driven.spawn(connection);
        let mut client = client.ready().await.unwrap();
        let mut held = Vec::new();
        for _ in 0..1000 {
            client = client.ready().await.unwrap();
            let (answer, mut stream) = client.send_request(call(CHECK), false).unwrap();
            stream.send_data(Bytes::from_static(EMPTY), true).unwrap();
            held.push((answer, stream));
        }
        connections.push((client, held));
    }
    while driven.join_next().await.is_some() {}
    drop(connections);
    service.wait_for("connection ended: its answers are not taken");
}

#[tokio::test]
async fn who_watches_the_health_goes_on() {
    let service = Service::ready(&[]);
    let channel = service.channel().await;
    let watch = async |channel| {
        let request = HealthCheckRequest { service: AUTHORIZATION.to_owned() };
        let mut changes = HealthClient::new(channel).watch(request).await?.into_inner();
        let first = changes.message().await?.unwrap().status();
        assert_eq!(first, ServingStatus::Serving);
        Ok::<_, tonic::Status>(changes)
    };
    let mut watching = Vec::new();
    for _ in 0..16 {
        watching.push(watch(channel.clone()).await.unwrap());
    }
    let refused = watch(channel.clone()).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::ResourceExhausted);
    drop(watching.pop());
    // The place is given back once the reset has come.
    while watch(channel.clone()).await.is_err() {}
    assert_eq!(health(channel, "").await, Ok(ServingStatus::Serving));
}

#[test]
fn a_flood_of_connections_that_fail_is_told_in_a_few_lines() {
    let mut service = Service::ready(&["--drain-delay", "0s"]);
    let begun = Instant::now();
    for _ in 0..200 {
        let mut stream = TcpStream::connect(&service.ext_authz).unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").unwrap();
        drop(stream.read_to_end(&mut Vec::new()));
    }
    let seconds = usize::try_from(begun.elapsed().as_secs()).unwrap();
    service.has_metric(
        "keybound_handshake_failures_total{cause=\"http_version\",listener=\"ext_authz\"} 200",
    );
    service.signal("TERM");
    assert_eq!(service.end(), Some(0));
    let told = service.log.iter().filter(|it| it["message"] == "connection failed").count();
    assert!((1..=seconds + 2).contains(&told), "{told} in {seconds} s");
}
