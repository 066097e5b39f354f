//! The programs that tests run, provisioned by tests/provision.py.

use std::path::{Path, PathBuf};
use std::process::Command;

/// The program `name`, fetched if need be.
pub(crate) fn provisioned(name: &str) -> PathBuf {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/provision.py");
    let output = Command::new(script).arg(name).output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    PathBuf::from(String::from_utf8(output.stdout).unwrap().trim())
}
