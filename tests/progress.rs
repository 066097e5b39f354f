//! What `make demo`, `make test` and `make test-platforms` say while something takes long, and of what they leave
//! out.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Command, Stdio};

/// `tests/progress.py`, whose patience is short, with these arguments.
fn started(arguments: &[&str]) -> Child {
    Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/progress.py"))
        .args(arguments)
        .env("PROGRESS_SILENCE", "0.01")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// Runs until a line holds `line`, then lets the command, which reads a line, go on. Its standard output, its
/// standard error and its status.
fn told(arguments: &[&str], line: &str) -> (String, String, Option<i32>) {
    let mut child = started(arguments);
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    let mut seen = String::new();
    while !seen.lines().any(|it| it.contains(line)) {
        assert_ne!(stderr.read_line(&mut seen).unwrap(), 0, "{seen}");
    }
    child.stdin.take().unwrap().write_all(b"go on\n").unwrap();
    stderr.read_to_string(&mut seen).unwrap();
    let ended = child.wait_with_output().unwrap();
    (String::from_utf8(ended.stdout).unwrap(), seen, ended.status.code())
}

#[test]
fn a_command_that_writes_nothing_is_spoken_for_and_what_it_writes_stays_where_it_was() {
    let command = ["building", "sh", "-c", "read it; echo out; echo err >&2; exit 3"];
    let (out, err, status) = told(&command, " s so far");
    assert_eq!((out.as_str(), status), ("out\n", Some(3)));
    assert!(err.starts_with("== building: sh -c read it;"), "{err}");
    let lines: Vec<_> = err.lines().collect();
    assert!(lines.contains(&"err") && err.contains("\n-- building: failed after "), "{err}");
    assert!(err.bytes().all(|it| it == b'\n' || !it.is_ascii_control()), "no terminal reads it");
}

#[test]
fn of_tests_it_says_which_run_and_how_many_are_done() {
    let cargo = "
        case $* in
        *--no-run) echo '  Executable tests/a.rs (target/a)
  Executable tests/b.rs (target/b)' >&2 ;;
        *) echo '     Running tests/a.rs (target/a)' >&2; echo 'running 3 tests'; echo 'test one ... ok'
           read it; echo 'test two ... ok' ;;
        esac";
    let command = ["test", "--tests", "sh", "-c", cargo, "cargo"];
    let expected = " s so far; tests/a.rs, 1 of 2: 1 of 3 tests are done";
    let (out, err, status) = told(&command, expected);
    assert_eq!(
        (out.as_str(), status),
        ("running 3 tests\ntest one ... ok\ntest two ... ok\n", Some(0))
    );
    assert!(err.starts_with("== test: building, which takes minutes the first time: "), "{err}");
}

#[test]
fn what_cannot_be_started_fails() {
    let ended = started(&["building", "/nowhere/cargo"]).wait_with_output().unwrap();
    assert_eq!(ended.status.code(), Some(127));
    assert!(String::from_utf8(ended.stderr).unwrap().contains("No such file"));
    assert_eq!(started(&["building"]).wait().unwrap().code(), Some(1));
}

/// `tests/platforms/run.py` for one platform with a command that tells what it is to test: its output, its standard
/// error and its status. Nothing is at hand, and there is nothing on PATH but Python.
fn platforms(environment: &[(&str, &str)]) -> (String, String, Option<i32>) {
    let empty = tempfile::tempdir().unwrap();
    let python = Command::new("python3").args(["-c", "import sys; print(sys.executable)"]).output();
    let python = String::from_utf8(python.unwrap().stdout).unwrap();
    std::os::unix::fs::symlink(python.trim(), empty.path().join("python3")).unwrap();
    let command = ["istio", "--", "/bin/sh", "-c", "echo tests: $KEYBOUND_TEST_PLATFORMS"];
    let output = Command::new("/usr/bin/env")
        .arg("python3")
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/platforms/run.py"))
        .args(command)
        .env_remove("CI")
        .env_remove("KEYBOUND_TOOLCHAINS")
        .env_remove("ISTIO_BIN")
        .env("CARGO_TARGET_DIR", empty.path())
        .env("PATH", empty.path())
        .envs(environment.iter().copied())
        .output()
        .unwrap();
    let text = |it| String::from_utf8(it).unwrap();
    (text(output.stdout), text(output.stderr), output.status.code())
}

#[test]
fn a_platform_that_is_not_to_be_had_in_time_is_named_and_not_tested() {
    let (ci, optional) = (("CI", "true"), ("KEYBOUND_TOOLCHAINS", "optional"));
    let missing = "istio needs go, which is not on PATH";
    for (environment, told, tested, status) in [
        (&[("ISTIO_BIN", "/bin/sh"), ci][..], "istio: at hand", "tests: istio\n", 0),
        (&[("PLATFORM_MINUTES", "0"), ci], "istio: LEFT OUT: no time was left", "tests:\n", 0),
        (&[("PLATFORM_MINUTES", "5"), ci], "istio: LEFT OUT: no time was left", "tests:\n", 0),
        (&[("PLATFORM_MINUTES", "90"), ci], missing, "tests:\n", 1),
        (&[ci], "istio: FAILED", "tests:\n", 1),
        (&[ci, optional], "istio: LEFT OUT", "tests:\n", 0),
        (&[], "istio: LEFT OUT", "tests:\n", 0),
        (&[("CI", "false")], "istio: LEFT OUT", "tests:\n", 0),
    ] {
        let (out, err, found) = platforms(environment);
        assert!(err.contains(told), "{environment:?}: {err}");
        assert_eq!((out.as_str(), found), (tested, Some(status)), "{environment:?}: {err}");
    }
}
