//! The module for Envoy.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;

/// The file, built from the same sources as the tests; or what `KEYBOUND_TEST_MODULE` names.
pub(crate) fn module() -> PathBuf {
    static MODULE: LazyLock<PathBuf> = LazyLock::new(|| {
        if let Some(named) = std::env::var_os("KEYBOUND_TEST_MODULE") {
            return std::fs::canonicalize(named).unwrap();
        }
        let built = Path::new(env!("CARGO_BIN_EXE_keybound")).parent().unwrap();
        let mut build = Command::new(env!("CARGO"));
        build.args(["build", "--locked", "--package", "keybound-envoy", "--target-dir"]);
        build.arg(built.parent().unwrap()).current_dir(env!("CARGO_MANIFEST_DIR"));
        if !cfg!(debug_assertions) {
            build.arg("--release");
        }
        let output = build.output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        built.join("libkeybound_envoy.so")
    });
    MODULE.clone()
}
