//! The platforms that keybound is used on: their own control planes, servers and programs, built from their
//! modules, with the files of `deploy/`. docs/platforms.md says what is run here.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test may panic")]
#![expect(clippy::indexing_slicing, clippy::arithmetic_side_effects, reason = "a test may panic")]

#[path = "../support/built_module.rs"]
mod built_module;
#[path = "../support/deployed.rs"]
mod deployed;
#[path = "../support/dpop_client.rs"]
mod dpop_client;
mod envoy_gateway;
mod istio;
mod kubernetes;
#[path = "../support/program.rs"]
#[expect(dead_code, reason = "shared between tests")]
mod program;
#[path = "../support/programs.rs"]
mod programs;
#[path = "../support/proofs.rs"]
mod proofs;
mod spire;
#[path = "../support/tokens.rs"]
#[expect(dead_code, reason = "shared between tests")]
mod tokens;
#[path = "../support/verbatim.rs"]
mod verbatim;

use deployed::{deploy, replaced, skipped};
use serde_json::Value;
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
    skipped(&format!("{name} is not built yet, or not asked for (make test-platforms)"));
    None
}

/// The documents of a file of YAML.
fn documents(path: &Path) -> Vec<Value> {
    let program = "import json, sys, yaml; json.dump(list(yaml.safe_load_all(open(sys.argv[1]))), sys.stdout)";
    let python = programs::provisioned("python-tools");
    let read = Command::new(python).args(["-c", program]).arg(path).output().unwrap();
    assert!(read.status.success(), "{}: {}", path.display(), String::from_utf8_lossy(&read.stderr));
    serde_json::from_slice(&read.stdout).unwrap()
}
