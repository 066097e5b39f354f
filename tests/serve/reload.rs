//! A configuration that changes while the service runs.

#![expect(clippy::arithmetic_side_effects, clippy::indexing_slicing, reason = "a test may panic")]

use super::mutual_tls::{Connector, authority, tls_files, with_tls};
use super::service::{Service, keybound, request};
use super::tokens::Signer;
use super::world::{World, certificate, reason, reason_of, url_encoded};
use super::{beside, block_on};
use envoy_types::pb::envoy::service::auth::v3::CheckRequest;
use envoy_types::pb::envoy::service::auth::v3::authorization_client::AuthorizationClient;
use jsonwebtoken::Algorithm;
use serde_json::json;
use std::fs;
use std::io::{self, Write};
use std::net::TcpListener;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime};
use tokio::task::JoinSet;
use tonic::transport::{Channel, Endpoint};
use tonic_health::pb::health_check_response::ServingStatus;

const RELOADED: &str = "configuration reloaded";
const REFUSED: &str = "configuration rejected: keeping the previous one";
const MISSING: &str = "configuration file missing: keeping the previous one";

fn policies(service: &Service) -> Vec<String> {
    let status = service.status();
    let names = status["policies"].as_array().unwrap().iter();
    names.map(|it| it["name"].as_str().unwrap().to_owned()).collect()
}

fn renamed(config: &str) -> String {
    config.replace("payments", "ledger")
}

#[test]
fn a_file_that_is_written_anew_is_in_force() {
    let mut service = Service::ready(&[]);
    let before = service.status()["config"]["digest"].clone();
    assert_eq!(reason(&service, request("Bearer x", "")), "token_malformed");
    assert!(service.page("GET", "/metrics").1.contains("policy=\"payments\""));
    service.rewrite(renamed);
    assert_ne!(service.wait_for(RELOADED)["digest"], before);
    assert_eq!(policies(&service), ["ledger"]);
    let (_, metrics) = service.page("GET", "/metrics");
    assert!(!metrics.contains("policy=\"payments\""), "{metrics}");
    let config = &service.status()["config"];
    assert_eq!(config["last_reload"]["outcome"], "applied");
    assert_eq!(config["last_reload"]["remarks"], json!([]));
    service.has_metric("keybound_config_reloads_total{outcome=\"applied\"} 1");
}

/// A volume as the kubelet writes it: each file is a link into `..data`, itself a link.
fn volume(folder: &Path, data: &str, config: &str) {
    fs::create_dir(folder.join(data)).unwrap();
    fs::write(folder.join(data).join("keybound.yaml"), config).unwrap();
    fs::copy(folder.join("jwks.json"), folder.join(data).join("jwks.json")).unwrap();
    symlink(data, folder.join("..data_tmp")).unwrap();
    fs::rename(folder.join("..data_tmp"), folder.join("..data")).unwrap();
}

#[test]
fn a_config_map_that_is_swapped_is_in_force() {
    let mut service = Service::ready(&[]);
    let folder = service.folder.path().to_owned();
    let config = fs::read_to_string(folder.join("keybound.yaml")).unwrap();
    volume(&folder, "..2026_01", &config);
    symlink("..data/keybound.yaml", folder.join("link")).unwrap();
    // The same as before, by way of the links: nothing to reload.
    fs::rename(folder.join("link"), folder.join("keybound.yaml")).unwrap();
    volume(&folder, "..2026_02", &renamed(&config));
    fs::remove_dir_all(folder.join("..2026_01")).unwrap();
    service.wait_for(RELOADED);
    assert_eq!(policies(&service), ["ledger"]);
    service.has_metric("keybound_config_reloads_total{outcome=\"applied\"} 1");
    service.has_metric("keybound_config_reloads_total{outcome=\"refused\"} 0");
}

#[test]
fn a_hangup_reloads_what_has_not_changed() {
    let mut service = Service::ready(&[]);
    service.signal("HUP");
    service.wait_for(RELOADED);
    assert_eq!(policies(&service), ["payments"]);
    service.has_metric("keybound_config_reloads_total{outcome=\"applied\"} 1");
}

#[test]
fn a_bad_file_changes_nothing_until_it_is_mended() {
    let mut service = Service::ready(&[]);
    let before = service.status()["config"]["digest"].clone();
    service.rewrite(|it| renamed(it).replace("150ms", "150"));
    assert_eq!(service.wait_for(REFUSED)["problems"], 1);
    let config = service.status()["config"].clone();
    assert_eq!(config["digest"], before);
    assert_eq!(config["last_reload"]["outcome"], "refused");
    let remark = config["last_reload"]["remarks"][0].as_str().unwrap();
    assert!(remark.contains("line 9: limits.check_deadline"), "{remark}");
    assert_eq!(policies(&service), ["payments"]);
    service.has_metric("keybound_config_reloads_total{outcome=\"refused\"} 1");
    service.rewrite(|it| it.replace("150", "150ms"));
    service.wait_for(RELOADED);
    assert_eq!(policies(&service), ["ledger"]);
}

#[test]
fn a_file_that_another_one_names_counts_as_well() {
    let authority = authority();
    let mut service = Service::start(with_tls(&authority), &[]);
    service.wait_for("ready");
    service.place("key.pem", "not a key");
    service.wait_for(REFUSED);
    for (name, content) in tls_files(&authority) {
        service.place(name, content);
    }
    service.wait_for(RELOADED);
}

#[test]
fn a_file_that_is_named_for_the_first_time_must_have_stood_still() {
    let mut service = Service::ready(&[]);
    let at = |name: &str| service.folder.path().join(name);
    let config = fs::read_to_string(at("keybound.yaml")).unwrap();
    let dpop = "dpop: {nonce: required, nonce_secret_file: nonce.secret}\n";
    fs::write(at("beside"), config + dpop).unwrap();
    // Its name comes later than its content, so that it counts at once.
    let beside = fs::File::options().write(true).open(at("beside")).unwrap();
    beside.set_modified(SystemTime::UNIX_EPOCH).unwrap();
    let written = Instant::now();
    fs::write(at("nonce.secret"), "0123456789abcdef0123456789abcdef\n").unwrap();
    fs::rename(at("beside"), at("keybound.yaml")).unwrap();
    service.wait_for(RELOADED);
    // As long as any other file that is new and was written in its place.
    assert!(Duration::from_millis(500) <= written.elapsed(), "{:?}", written.elapsed());
    service.has_metric("keybound_config_reloads_total{outcome=\"applied\"} 1");
}

#[test]
fn a_file_that_is_removed_is_told_once_and_changes_nothing() {
    let mut service = Service::ready(&[]);
    let file = service.folder.path().join("keybound.yaml");
    let aside = service.folder.path().join("aside");
    fs::rename(&file, &aside).unwrap();
    service.wait_for(MISSING);
    service.wait_until(|it| it["config"]["last_reload"]["outcome"] == "refused");
    service.has_metric("keybound_config_reloads_total{outcome=\"refused\"} 1");
    assert_eq!(policies(&service), ["payments"]);
    service.signal("HUP");
    service.wait_for(REFUSED);
    assert_eq!(policies(&service), ["payments"]);
    fs::rename(&aside, &file).unwrap();
    service.wait_for(RELOADED);
    let told = service.log.iter().filter(|it| it["message"] == MISSING);
    assert_eq!(told.count(), 1);
}

#[test]
fn each_file_that_goes_missing_is_told() {
    let mut service = Service::start(with_tls(&authority()), &[]);
    service.wait_for("ready");
    let folder = service.folder.path().to_owned();
    let mut gone = vec![];
    for name in ["key.pem", "keybound.yaml"] {
        fs::remove_file(folder.join(name)).unwrap();
        gone.push(name);
        let told = service.wait_for(MISSING)["files"].to_string();
        for name in ["key.pem", "keybound.yaml"] {
            assert_eq!(told.contains(name), gone.contains(&name), "{name} {told}");
        }
    }
    service.has_metric("keybound_config_reloads_total{outcome=\"refused\"} 2");
}

#[test]
fn a_file_that_comes_back_as_it_was_is_no_trouble_any_more() {
    let mut service = Service::ready(&[]);
    let file = service.folder.path().join("keybound.yaml");
    let aside = service.folder.path().join("aside");
    fs::rename(&file, &aside).unwrap();
    service.wait_for(MISSING);
    fs::rename(&aside, &file).unwrap();
    service.wait_for(RELOADED);
    service.wait_until(|it| it["config"]["last_reload"]["outcome"] == "applied");
}

#[test]
fn where_it_listens_needs_a_restart_and_the_rest_does_not() {
    let mut service = Service::ready(&[]);
    service.rewrite(|it| renamed(it).replacen("127.0.0.1:0", "127.0.0.2:0", 1));
    service.wait_for(RELOADED);
    assert_eq!(policies(&service), ["ledger"]);
    let remarks = service.status()["config"]["last_reload"]["remarks"].clone();
    assert_eq!(remarks, json!(["listen.ext_authz: changes only with a restart"]));
}

#[test]
fn a_warning_is_told_once_and_not_at_every_reload() {
    let with_warning =
        |_: &Path, it: String| it.replace("audiences:", "token_types: [JWT]\n    audiences:");
    let mut service = Service::start(with_warning, &[]);
    service.wait_for("ready");
    service.rewrite(|it| format!("# a line above\n{}", renamed(it)));
    service.wait_for(RELOADED);
    service.rewrite(|it| it.replace("127.0.0.1:0", "127.0.0.2:0"));
    service.wait_for(RELOADED);
    service.signal("HUP");
    service.wait_for(RELOADED);
    let told = |key: &str, what: &str| {
        let said = |it: &&serde_json::Value| it[key].as_str().is_some_and(|it| it.contains(what));
        service.log.iter().filter(said).count()
    };
    assert_eq!(told("warning", "`JWT` does not tell"), 1, "{:?}", service.log);
    assert_eq!(told("remark", "listen.ext_authz"), 1, "{:?}", service.log);
    assert_eq!(service.status()["config"]["last_reload"]["remarks"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn a_new_certificate_counts_for_new_connections() {
    let (old, new) = (authority(), authority());
    let mut service = Service::start(with_tls(&old), &[]);
    service.wait_for("ready");
    let with_old = Connector::new(&service, &old, Some(&old));
    let with_new = Connector::new(&service, &new, Some(&new));
    let open = with_old.clone().channel().await.unwrap();
    assert_eq!(with_new.clone().health().await, None);
    for (name, content) in tls_files(&new) {
        service.place(name, content);
    }
    service.wait_for(RELOADED);
    assert_eq!(with_new.health().await, Some(ServingStatus::Serving));
    assert_eq!(with_old.health().await, None);
    let told = super::health(open, super::AUTHORIZATION).await;
    assert_eq!(told, Ok(ServingStatus::Serving));
}

#[test]
fn keys_and_verified_tokens_survive() {
    let world = World::new();
    let mut service = world.service();
    assert_eq!(reason(&service, world.request("payments")), "allowed");
    let before = service.status();
    // Were anything to be fetched, it would not come.
    world.provider.hold();
    service.rewrite(|it| it.replace("150ms", "149ms"));
    service.wait_for(RELOADED);
    // Signed anew, so that it is verified anew.
    let second = world.request("payments");
    assert_eq!(reason(&service, second.clone()), "allowed");
    assert_eq!(world.provider.fetches(), 1);
    let after = service.status();
    assert_eq!(before["token_cache"]["entries"], 1);
    assert_eq!(after["token_cache"]["entries"], 2);
    service.has_metric("keybound_token_cache_misses_total 2");

    service.rewrite(|it| it.replace("limits: {", "limits: {token_cache_entries: 7, "));
    service.wait_for(RELOADED);
    assert_eq!(service.status()["token_cache"]["entries"], 2, "as far as there is room");
    assert_eq!(reason(&service, second), "allowed");
    service.has_metric("keybound_token_cache_hits_total 1");
    service.has_metric("keybound_token_cache_misses_total 2");
    assert_eq!(world.provider.fetches(), 1);
}

#[test]
fn keys_outlive_a_change_of_how_they_are_kept_while_the_issuer_is_down() {
    let world = World::new();
    let mut service = world.service();
    block_on(world.provider.go_down());
    service.rewrite(|it| it.replace("keys: {", "keys: {max_stale: 48h, "));
    service.wait_for(RELOADED);
    assert_eq!(reason(&service, world.request("payments")), "allowed");
    assert_eq!(service.status()["config"]["last_reload"]["remarks"], json!([]));
    service.rewrite(|it| it.replace("jwks_uri: 'http://", "jwks_uri: 'http://127.0.0.1:1/?"));
    service.wait_for(RELOADED);
    assert_eq!(reason(&service, world.request("payments")), "keys_unavailable");
    let remark = "https://as.example.com: its keys now come from another source, and the previous \
                  ones are dropped";
    // It fails at once there, and that is told as well as if it were slow.
    let missing = "https://as.example.com: no keys yet";
    assert_eq!(service.status()["config"]["last_reload"]["remarks"], json!([remark, missing]));
}

#[test]
fn a_dead_issuer_that_is_replaced_is_waited_for_no_longer() {
    let dead = "keys: {jwks_uri: 'http://127.0.0.1:1/jwks'}";
    let edit = |_: &Path, it: String| it.replace("keys: {jwks_file: jwks.json}", dead);
    let mut service = Service::start(edit, &[]);
    service.wait_for("key refresh failed");
    let waits = "starting: waits for the keys of https://as.example.com (key set at \
                 http://127.0.0.1:1/jwks: unreachable: Connection refused (os error 111))\n";
    assert_eq!(service.page("GET", "/readyz"), (503, waits.to_owned()));
    // Who may be a page from elsewhere reads no URL.
    let (_, _, bare) = service.answer_to("GET", "/readyz", "host: keybound.example.com\r\n");
    assert_eq!(bare, "starting: waits for the keys of https://as.example.com\n");
    assert_eq!(service.status()["waits_for"], json!(["https://as.example.com"]));
    let told = keybound().args(["healthcheck", "--address", &service.admin]).output().unwrap();
    assert!(!told.status.success());
    let told = String::from_utf8(told.stderr).unwrap();
    assert!(told.ends_with(&format!("not ready: {waits}")), "{told}");
    service.rewrite(|it| it.replace(dead, "keys: {jwks_file: jwks.json}"));
    service.wait_for("ready");
    assert_eq!(service.page("GET", "/readyz").0, 200);
    let health = block_on(async { super::health(service.channel().await, "").await });
    assert_eq!(health, Ok(ServingStatus::Serving));
}

#[test]
fn introspections_are_counted_on_as_long_as_the_issuer_is_asked_the_same() {
    // It listens, and never answers.
    let endpoint = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = endpoint.local_addr().unwrap();
    let edit = |folder: &Path, config: String| {
        fs::write(folder.join("secret"), "secret").unwrap();
        let asked = format!(
            "    introspection: {{endpoint: 'http://{address}/', client_id: k, \
             client_secret_file: secret}}\npolicies:\n"
        );
        config.replace("policies:\n", &asked).replace("150ms", "4s")
    };
    let mut service = Service::start(edit, &[]);
    service.wait_for("ready");
    let ask = |service: &Service, token: &str| {
        assert_eq!(
            reason(service, request(&format!("Bearer {token}"), "")),
            "introspection_unavailable"
        );
        // A call may end a moment after the check that waits for it.
        let calls = || service.status()["introspection"][0]["calls"]["timed_out"].clone();
        let start = Instant::now();
        while calls().is_null() && start.elapsed() < Duration::from_secs(20) {}
    };
    let of_issuer = "issuer=\"https://as.example.com\"";
    let timed_out = format!("keybound_introspections_total{{{of_issuer},outcome=\"timed_out\"}}");
    ask(&service, "first");
    service.has_metric(&format!("{timed_out} 1"));
    for cause in ["breaker_open", "busy", "rate_limited"] {
        let shedding =
            format!("keybound_introspection_shedding{{cause=\"{cause}\",{of_issuer}}} 0");
        service.has_metric(&shedding);
    }
    service.rewrite(|it| it.replace("client_id: k", "client_id: k, timeout: 121ms"));
    service.wait_for(RELOADED);
    service.has_metric(&format!("{timed_out} 1"));
    service.rewrite(|it| it.replace("client_id: k", "client_id: another"));
    service.wait_for(RELOADED);
    ask(&service, "second");
    service.has_metric(&format!("{timed_out} 1"));
}

#[test]
fn used_proofs_survive() {
    let world = World::new();
    let mut service = world.service();
    service.rewrite(|it| it.replace("sender_constraint: certificate", "sender_constraint: dpop"));
    service.wait_for(RELOADED);
    let request = world.proved_request(&Signer::new(Algorithm::ES256, "client"));
    assert_eq!(reason(&service, request.clone()), "allowed");
    service.rewrite(|it| format!("{it}dpop: {{replay: {{capacity: 2000}}}}\n"));
    service.wait_for(RELOADED);
    assert_eq!(reason(&service, request), "proof_replayed");
    service.has_metric("keybound_replay_recorded_total 1");
    service.has_metric("keybound_replay_repeats_total 1");
}

#[test]
fn a_proof_that_cannot_be_recorded_is_told_of_by_its_cause() {
    let world = World::new();
    let mut service = world.service();
    service.rewrite(|it| {
        let it = it.replace("sender_constraint: certificate", "sender_constraint: dpop");
        format!("{it}dpop: {{replay: {{capacity: 1}}}}\n")
    });
    service.wait_for(RELOADED);
    let [one, other] = ["one", "other"].map(|it| Signer::new(Algorithm::ES256, it));
    assert_eq!(reason(&service, world.proved_request(&one)), "allowed");
    assert_eq!(reason(&service, world.proved_request(&other)), "replay_unavailable");
    let found = &service.status()["replay"];
    assert_eq!(found["unavailable"], json!({"store_full": 1}), "{found}");
    assert_eq!(found["warnings"], json!([]), "{found}");
    service.has_metric("keybound_replay_unavailable_total{cause=\"store_full\"} 1");
    service.has_metric("keybound_replay_unavailable_total{cause=\"store_late\"} 0");
}

#[test]
fn a_new_issuer_has_its_keys_when_it_comes_into_force() {
    let world = World::new();
    let mut service = Service::ready(&[]);
    let uri = format!("jwks_uri: '{}'", world.provider.jwks_uri());
    service.rewrite(|it| it.replace("jwks_file: jwks.json", &uri));
    // What comes in meanwhile is checked by the keys of before.
    world.provider.hold();
    block_on(world.provider.fetched(1));
    assert_eq!(reason(&service, world.request("")), "token_signature_invalid");
    world.provider.release();
    service.wait_for(RELOADED);
    assert_eq!(reason(&service, world.request("")), "allowed");
    service.has_metric(
        "keybound_jwks_refreshes_total{issuer=\"https://as.example.com\",outcome=\"changed\"} 2",
    );
}

// ---- under load ----

/// How many checks are asked for in a second.
const RATE: u32 = 2000;

/// So many callers share the rate.
const CALLERS: u32 = 16;

/// Which configurations may decide about a request.
#[derive(Default)]
struct Versions {
    /// The newest that was written.
    written: AtomicUsize,
    /// The newest that is known to be in force.
    in_force: AtomicUsize,
}

/// Checks that are made over and over, and the reason that each must get under every second
/// configuration.
struct Load {
    cases: Vec<(CheckRequest, [&'static str; 2])>,
    versions: Versions,
}

impl Load {
    fn of(world: &World) -> Self {
        let stolen =
            request(&format!("Bearer {}", world.token("one two")), &url_encoded(&certificate()));
        let cases = vec![
            (world.request("one two"), ["allowed", "allowed"]),
            (stolen, ["certificate_mismatch", "certificate_mismatch"]),
            (world.request("one"), ["allowed", "scope_insufficient"]),
            (world.request("two"), ["scope_insufficient", "allowed"]),
        ];
        Self { cases, versions: Versions::default() }
    }

    /// Asks until `end`, and says how often it did.
    async fn ask(&self, channel: Channel, end: Instant) -> usize {
        let mut client = AuthorizationClient::new(channel);
        let mut pace = tokio::time::interval(Duration::from_secs(1) / (RATE / CALLERS));
        let mut asked = 0;
        for (request, reasons) in self.cases.iter().cycle() {
            pace.tick().await;
            if end < Instant::now() {
                break;
            }
            let least = self.versions.in_force.load(Ordering::SeqCst);
            let response = client.check(request.clone()).await.unwrap().into_inner();
            let most = self.versions.written.load(Ordering::SeqCst);
            let found = reason_of(&response);
            let mut allowed = (least..=most).map(|it| reasons[it % 2]);
            assert!(allowed.any(|it| it == found), "{found} under {least} to {most}: {reasons:?}");
            asked += 1;
        }
        asked
    }
}

/// All callers, four on each connection.
async fn ask_until(end: Instant, uri: String, load: Arc<Load>) -> usize {
    let mut callers = JoinSet::new();
    for _ in 0..CALLERS / 4 {
        let channel = Endpoint::from_shared(uri.clone()).unwrap().connect().await.unwrap();
        for _ in 0..4 {
            let (load, channel) = (Arc::clone(&load), channel.clone());
            callers.spawn(async move { load.ask(channel, end).await });
        }
    }
    callers.join_all().await.into_iter().sum()
}

/// Writes one configuration after another until `end`, and says how long each took to be in force.
fn rewrite_until(end: Instant, service: &mut Service, versions: &Versions) -> Vec<Duration> {
    let mut delays = vec![];
    while Instant::now() < end {
        let version = versions.written.fetch_add(1, Ordering::SeqCst) + 1;
        let (old, new) =
            if version.is_multiple_of(2) { ("[two]", "[one]") } else { ("[one]", "[two]") };
        let written = Instant::now();
        service.rewrite(|it| it.replace(old, new));
        service.wait_for(RELOADED);
        delays.push(written.elapsed());
        versions.in_force.store(version, Ordering::SeqCst);
    }
    delays
}

/// `KEYBOUND_LOAD_SECONDS` makes it longer.
#[test]
fn a_reload_under_load_neither_drops_nor_mistakes_a_check() {
    let world = World::new();
    let mut service = world.service();
    service.rewrite(|it| it.replace("certificate\n", "certificate\n    scopes: [one]\n"));
    service.wait_for(RELOADED);
    let load = Arc::new(Load::of(&world));
    let seconds = std::env::var_os("KEYBOUND_LOAD_SECONDS")
        .map_or(5, |it| it.to_str().unwrap().parse().unwrap());
    let begin = Instant::now();
    let end = begin + Duration::from_secs(seconds);
    let callers = beside(ask_until(end, service.uri(), Arc::clone(&load)));
    let mut delays = rewrite_until(end, &mut service, &load.versions);
    let asked = callers.join().unwrap();
    delays.sort();
    let (median, most) = (delays[delays.len() / 2], delays[delays.len() - 1]);
    let (took, reloads) = (begin.elapsed(), delays.len());
    let line = format!(
        "{asked} checks in {took:?}, {reloads} reloads, in force within {median:?}, {most:?} at most\n"
    );
    io::stderr().write_all(line.as_bytes()).unwrap();
    assert!(median < Duration::from_secs(1), "{delays:?}");
    assert_eq!(world.provider.fetches(), 1);
    assert_eq!(service.status()["checks_under_way"], 0);
    let applied = reloads + 1;
    service.has_metric(&format!("keybound_config_reloads_total{{outcome=\"applied\"}} {applied}"));
}
