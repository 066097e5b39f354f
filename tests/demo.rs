//! `keybound demo`, as a newcomer runs it.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

#[path = "support/programs.rs"]
mod programs;

use keybound::commands::demo::scenarios;
use programs::provisioned;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use tempfile::TempDir;

#[test]
fn every_scenario_ends_as_it_must_through_envoy() {
    let output = shown(Some(&provisioned("envoy")));
    assert!(output.contains("Through Envoy"), "{output}");
}

#[test]
fn every_scenario_ends_as_it_must_without_envoy_and_the_demo_says_so() {
    let output = shown(None);
    assert!(output.contains("Without Envoy"), "{output}");
}

#[test]
fn an_envoy_that_dies_is_reported_with_its_last_words() {
    let scratch = TempDir::new().unwrap();
    let (code, _, complaint) = run(demo(&scratch, Some(Path::new("/bin/false"))));
    assert_eq!(code, Some(1));
    assert!(complaint.contains("envoy ended (exit status: 1)"), "{complaint}");
    assert_left_nothing(&scratch);
}

#[test]
fn an_envoy_that_is_not_there_is_reported_by_its_path() {
    let scratch = TempDir::new().unwrap();
    let (code, _, complaint) = run(demo(&scratch, Some(Path::new("/nowhere/envoy"))));
    assert_eq!(code, Some(1));
    assert!(complaint.contains("starting envoy (/nowhere/envoy)"), "{complaint}");
    assert_left_nothing(&scratch);
}

#[test]
fn it_stays_until_it_is_interrupted_and_leaves_nothing_behind() {
    let scratch = TempDir::new().unwrap();
    let mut command = demo(&scratch, Some(&provisioned("envoy")));
    let mut child = command.arg("--stay").stdout(Stdio::piped()).spawn().unwrap();
    let mut output = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    while !line.contains("proof=$(curl -s http://") {
        line.clear();
        assert_ne!(output.read_line(&mut line).unwrap(), 0, "it ended by itself");
    }
    let address = line.split("http://").nth(1).unwrap().split('/').next().unwrap();
    let proofs = [body_from(address), body_from(address)];
    assert!(proofs.iter().all(|it| it.split('.').count() == 3), "{proofs:?}");
    assert_ne!(proofs[0], proofs[1], "each is new");
    let pid = child.id().to_string();
    assert!(Command::new("kill").args(["-INT", &pid]).status().unwrap().success());
    output.read_to_string(&mut line).unwrap();
    assert!(child.wait().unwrap().success());
    assert_left_nothing(&scratch);
}

/// What the demo prints when all goes well.
#[track_caller]
fn shown(envoy: Option<&Path>) -> String {
    let scratch = TempDir::new().unwrap();
    let (code, output, complaint) = run(demo(&scratch, envoy));
    assert_eq!(code, Some(0), "{output}\n{complaint}");
    let rows = output.lines().filter(|it| it.starts_with('✓')).count();
    assert_eq!(rows, scenarios::ALL.len(), "{output}");
    assert_left_nothing(&scratch);
    output
}

/// The demo, with `scratch` for its files and with no other Envoy at hand than `envoy`.
fn demo(scratch: &TempDir, envoy: Option<&Path>) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_keybound"));
    command.arg("demo").env("TMPDIR", scratch.path()).env_remove("ENVOY_BIN");
    match envoy {
        Some(envoy) => command.arg("--envoy").arg(envoy),
        None => command.env("PATH", scratch.path()),
    };
    command
}

fn run(mut command: Command) -> (Option<i32>, String, String) {
    let Output { status, stdout, stderr } = command.output().unwrap();
    (status.code(), String::from_utf8(stdout).unwrap(), String::from_utf8(stderr).unwrap())
}

fn body_from(address: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap();
    write!(stream, "GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer.split_once("\r\n\r\n").unwrap().1.to_owned()
}

#[track_caller]
fn assert_left_nothing(scratch: &TempDir) {
    assert_eq!(fs::read_dir(scratch.path()).unwrap().count(), 0);
}
