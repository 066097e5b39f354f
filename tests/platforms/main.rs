//! The platforms that keybound is used on: their own control planes, servers and programs, built from their
//! modules, with the files of `deploy/`. docs/platforms.md says what is run here.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test may panic")]
#![expect(clippy::indexing_slicing, clippy::arithmetic_side_effects, reason = "a test may panic")]

mod istio;
mod kubernetes;
#[path = "../support/program.rs"]
#[expect(dead_code, reason = "shared between tests")]
mod program;

use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The program `name`, or nothing, and a line that says why its tests are skipped. `make test-platforms` has it,
/// and says by the variable which tests must run; without that, those run that have what they need.
fn at_hand(name: &str) -> Option<PathBuf> {
    let wanted = std::env::var_os("KEYBOUND_TEST_PLATFORMS").map(|it| it.into_string().unwrap());
    let named = wanted.map(|it| it.split_whitespace().any(|it| it == name));
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/provision.py");
    let output = Command::new(script).args(["--cached", name]).output().unwrap();
    let found = output.status.success();
    assert!(found || named != Some(true), "{}", String::from_utf8_lossy(&output.stderr));
    if found && named != Some(false) {
        return Some(PathBuf::from(String::from_utf8(output.stdout).unwrap().trim()));
    }
    // Not by a print macro: the harness would swallow the line.
    let line =
        format!("skipped: {name} is not built yet, or not asked for (make test-platforms)\n");
    io::stderr().write_all(line.as_bytes()).unwrap();
    None
}
