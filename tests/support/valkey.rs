//! The tests of Redis once more, with Valkey in its place.

use super::program::provisioned;
use std::process::Command;

/// Runs the tests of this program again, with Valkey, but for `own`, which is the caller, and for those that need
/// TLS: the Valkey that is provisioned is built without it. At least so many must pass.
pub(crate) fn all_hold_with_valkey(own: &str, least: usize) {
    let Some(valkey) = provisioned("valkey") else { return };
    let output = Command::new(std::env::current_exe().unwrap())
        .env("REDIS_BIN", valkey)
        .args(["--skip", own, "--skip", "tls", "--skip", "certificate"])
        // Beside the others they would make the machine too busy for their deadlines.
        .args(["--test-threads", "1"])
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{told}");
    let result = told.rsplit_once(" passed").unwrap().0;
    let passed: usize = result.rsplit_once(' ').unwrap().1.parse().unwrap();
    assert!(least <= passed, "{told}");
}
