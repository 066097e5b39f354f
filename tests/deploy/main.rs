//! What an operator copies from `deploy/` works as it stands.

#![expect(clippy::unwrap_used, reason = "a test may panic")]
#![expect(clippy::indexing_slicing, reason = "a test may panic")]
#![expect(clippy::panic, reason = "a test may panic")]

mod alerts;
mod aliases;
#[path = "../support/built_module.rs"]
mod built_module;
mod clouds;
#[path = "../support/collector.rs"]
#[expect(dead_code, reason = "shared between tests")]
mod collector;
mod container;
#[path = "../support/deployed.rs"]
mod deployed;
mod envoy;
mod image;
mod istio;
mod kubernetes;
mod mistakes;
mod module;
#[path = "../support/program.rs"]
#[expect(dead_code, reason = "shared between tests")]
mod program;
#[path = "../support/programs.rs"]
mod programs;
mod rollout;
#[path = "../support/shared.rs"]
mod shared;
#[path = "../support/switching.rs"]
mod switching;
mod systemd;
mod tables;
#[path = "../support/tokens.rs"]
#[expect(dead_code, reason = "shared between tests")]
mod tokens;
#[path = "../support/verbatim.rs"]
#[expect(dead_code, reason = "shared between tests")]
mod verbatim;
mod workshop;
#[path = "../support/wsgi.rs"]
mod wsgi;

use deployed::{deploy, replaced, skipped};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// Runs `command`, which must succeed.
#[track_caller]
fn succeeds(command: &mut Command) -> Output {
    let output = command.output().unwrap();
    assert!(
        output.status.success(),
        "{command:?}\n{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    output
}

/// Whether `program` is content with `argument`. If not, a line says that `what` is skipped.
fn is_there(program: &str, argument: &str, what: &str) -> bool {
    let there = Command::new(program).arg(argument).output().is_ok_and(|it| it.status.success());
    if !there {
        skipped(&format!("{what}, for `{program} {argument}` does not work here"));
    }
    there
}

#[test]
fn every_configuration_is_one() {
    let mut found = vec![];
    configurations(&deploy(""), &mut found);
    assert!(4 <= found.len(), "{found:?}");
    for file in found {
        let mut check = Command::new(env!("CARGO_BIN_EXE_keybound"));
        let warnings = succeeds(check.arg("check-config").arg(file)).stderr;
        let warnings = String::from_utf8(warnings).unwrap();
        let named = "only a proxy that names it (context_extensions) gets it";
        let of_policies = |it: &&str| it.contains("warning: policies") && !it.contains(named);
        assert_eq!(warnings.lines().find(of_policies), None);
    }
}

/// The files `keybound.yaml` below `folder`.
fn configurations(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            configurations(&path, found);
        } else if path.ends_with("keybound.yaml") {
            found.push(path);
        }
    }
}
