//! The unit: understood by systemd, and as confined as it says.

use crate::{deploy, is_there, replaced, succeeds};
use std::fs;
use std::process::Command;

#[test]
fn the_unit_is_understood_and_confined() {
    if !is_there("systemd-analyze", "--version", "the systemd unit") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let unit = folder.path().join("keybound.service");
    let text = fs::read_to_string(deploy("systemd/keybound.service")).unwrap();
    let here = replaced(&text, "/usr/local/bin/keybound", env!("CARGO_BIN_EXE_keybound"));
    fs::write(&unit, here).unwrap();

    let verified = succeeds(Command::new("systemd-analyze").arg("verify").arg(&unit));
    let complaints = String::from_utf8_lossy(&verified.stderr).into_owned();
    // It reads the units of this machine as well, and may have something to say about those.
    assert!(!complaints.contains("keybound"), "{complaints}");
    let mut security = Command::new("systemd-analyze");
    // In tenths: 1.5 of 10.
    succeeds(security.args(["security", "--offline=true", "--threshold=15"]).arg(&unit));
}
