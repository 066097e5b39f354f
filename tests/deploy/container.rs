//! The container: one static program that runs in an empty root, as nobody.

use crate::tokens::Signer;
use crate::workshop::Workshop;
use crate::{deploy, image, is_there, skipped, succeeds};
use jsonwebtoken::Algorithm;
use keybound::commands::demo::process::Process;
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

const ROOT: &str = env!("CARGO_MANIFEST_DIR");

#[tokio::test]
async fn the_program_runs_where_there_is_nothing_else() {
    let Some(wanted) = std::env::var_os("KEYBOUND_TEST_CONTAINER") else {
        return skipped("the container, which takes minutes: set KEYBOUND_TEST_CONTAINER");
    };
    if let Some(workshop) = Workshop::open() {
        image::is_built_and_runs(&workshop, image::released(&wanted).as_deref()).await;
    } else if is_there("docker", "info", "the container image") {
        in_a_container();
    } else {
        in_an_empty_root().await;
    }
}

fn in_a_container() {
    let containerfile = deploy("container/Containerfile");
    let mut build = Command::new("docker");
    build.args(["build", "--build-arg", "PROFILE=dev", "--tag", "keybound:test", "--file"]);
    succeeds(build.arg(containerfile).arg(ROOT));
    let mount = format!("{}:/etc/keybound/keybound.yaml:ro", configuration().display());
    let mut check = Command::new("docker");
    check.args(["run", "--rm", "--read-only", "--cap-drop=ALL", "--network=none", "--volume"]);
    succeeds(check.args([&mount, "keybound:test", "check-config", "/etc/keybound/keybound.yaml"]));
}

/// What the recipe does, without its engine.
async fn in_an_empty_root() {
    let program = static_program();
    let headers = succeeds(Command::new("readelf").arg("--program-headers").arg(&program));
    let headers = String::from_utf8_lossy(&headers.stdout).into_owned();
    assert!(!headers.contains("INTERP"), "it needs a loader:\n{headers}");

    let root = tempfile::tempdir().unwrap();
    fs::copy(program, root.path().join("keybound")).unwrap();
    fs::copy(configuration(), root.path().join("keybound.yaml")).unwrap();
    let keys = json!({"keys": [Signer::new(Algorithm::ES256, "test").jwk()]});
    fs::write(root.path().join("jwks.json"), keys.to_string()).unwrap();
    fs::write(root.path().join("here.yaml"), HERE).unwrap();
    let inside = |arguments: &[&str]| {
        let mut command = in_root(root.path());
        command.arg("/keybound").args(arguments);
        command
    };
    let checked = succeeds(&mut inside(&["check-config", "/keybound.yaml"]));
    assert!(String::from_utf8_lossy(&checked.stdout).contains("unix:/run/keybound"));

    let serve = &mut inside(&["serve", "--config", "/here.yaml"]);
    let mut service = Process::start("keybound", serve, &root.path().join("log")).unwrap();
    let admin = service.until("listening", async |it| admin(&it.words())).await.unwrap();
    let healthcheck = &mut inside(&["healthcheck", "--address", &admin]);
    let healthy = async |_: &Process| healthcheck.status().ok()?.success().then_some(());
    service.until("ready", healthy).await.unwrap();
}

/// Runs what comes after it where `root` is all that there is; as root of nothing else, if the
/// machine allows that.
fn in_root(root: &Path) -> Command {
    let mut command = Command::new("chroot");
    if is_there("unshare", "--map-root-user", "chroot without root") {
        command = Command::new("unshare");
        command.args(["--map-root-user", "chroot"]);
    }
    command.arg(root);
    command
}

/// The address of the admin listener, once it is logged.
fn admin(log: &str) -> Option<String> {
    let events = log.lines().filter_map(|it| serde_json::from_str::<Value>(it).ok());
    events.into_iter().find_map(|it| it["admin"].as_str().map(str::to_owned))
}

const HERE: &str = "\
listen: {ext_authz: 'unix:/ext_authz.sock', admin: '127.0.0.1:0'}
issuers:
  - issuer: https://as.example.com
    audiences: [https://api.example.com]
    keys: {jwks_file: jwks.json}
policies:
  - name: api
    sender_constraint: certificate
";

fn configuration() -> PathBuf {
    deploy("envoy/edge-uds/keybound.yaml")
}

/// Built as the recipe has it, but for the profile: once, and again when something has changed.
pub(crate) fn static_program() -> PathBuf {
    let version = succeeds(Command::new(env!("CARGO")).arg("-vV"));
    let version = String::from_utf8_lossy(&version.stdout).into_owned();
    let host = version.lines().find_map(|it| it.strip_prefix("host: ")).unwrap();
    let target = Path::new(env!("CARGO_BIN_EXE_keybound")).ancestors().nth(2).unwrap();
    let mut build = Command::new(env!("CARGO"));
    build.current_dir(ROOT).env_remove("CARGO_ENCODED_RUSTFLAGS");
    build.env("RUSTFLAGS", "-C target-feature=+crt-static").arg("--quiet");
    build.args(["build", "--locked", "--bin", "keybound", "--target", host, "--target-dir"]);
    succeeds(build.arg(target));
    target.join(host).join("debug/keybound")
}
