//! What `make demo` and `make test` say while something takes long.

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
