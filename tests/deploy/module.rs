//! The module for Envoy as `make module` leaves it.

use crate::{deploy, skipped, succeeds};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

#[test]
fn what_was_built_for_envoy_needs_no_more_than_promised_and_exports_the_hooks_alone() {
    let built = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("module");
    let built = built.join("libkeybound_envoy.so");
    if built.exists() {
        succeeds(Command::new(deploy("envoy-module/build.py")).arg("--judge").arg(built));
    } else {
        skipped("the module for Envoy, which takes minutes: make module");
    }
}

#[test]
fn what_needs_more_than_promised_is_not_taken_for_the_module() {
    let other = Path::new(env!("CARGO_BIN_EXE_keybound"));
    let judged = Command::new(deploy("envoy-module/build.py")).arg("--judge").arg(other).output();
    let judged = judged.unwrap();
    let problems = String::from_utf8_lossy(&judged.stderr);
    assert_eq!(judged.status.code(), Some(1), "{problems}");
    for expected in [
        "it needs libgcc_s.so.1",
        "it no longer exports envoy_dynamic_module_on_program_init",
        "it no longer calls envoy_dynamic_module_callback_log",
        "it may be unloaded",
    ] {
        assert!(problems.contains(expected), "{expected}:\n{problems}");
    }
}

#[test]
fn a_panic_in_what_is_linked_as_the_module_is_does_not_get_out() {
    let Some(zig) = zig() else { return skipped("panics in the module for Envoy: make module") };
    let folder = tempfile::tempdir().unwrap();
    let file = |name| folder.path().join(name);
    fs::write(file("Cargo.toml"), MANIFEST).unwrap();
    fs::write(file("lib.rs"), PANICS).unwrap();
    for with in ["build.rs", "order.ld"] {
        fs::copy(source("src/envoy").join(with), file(with)).unwrap();
    }
    let machine = std::env::consts::ARCH;
    let target = format!("{machine}-unknown-linux-gnu");
    for (flags, lies_aside) in [("", false), (SPLIT, true)] {
        let mut build = Command::new(&zig);
        build.args(["zigbuild", "--offline", "--release", "--target", &format!("{target}.2.17")]);
        build.current_dir(folder.path()).env("CARGO_TARGET_DIR", file("target"));
        succeeds(build.env("RUSTFLAGS", flags));
        let library = file("target").join(&target).join("release/libpanics.so");
        let read = fs::read(&library).unwrap();
        let aside = read.windows(ASIDE.len()).any(|it| it == ASIDE);
        assert_eq!(aside, lies_aside, "whether what catches lies aside: {flags}");
        let load = "import ctypes, sys; sys.exit(ctypes.CDLL(sys.argv[1]).panics(1))";
        let loaded = Command::new("python3").args(["-c", load]).arg(library).output().unwrap();
        assert_eq!(loaded.status.code(), Some(CAUGHT), "{flags}: {loaded:?}");
    }
}

/// What a profile says of code that hardly ever runs, said of all that catches.
const SPLIT: &str = "-Cllvm-args=-enable-split-machine-functions -Cllvm-args=-mfs-split-ehcode";

/// The name of the section of what lies aside (`src/envoy/order.ld`).
const ASIDE: &[u8] = b".text.split";

/// What `make module` links with, where it has been fetched.
fn zig() -> Option<PathBuf> {
    let mut ask = Command::new(source("tests/provision.py"));
    let found = ask.args(["--cached", "cargo-zigbuild"]).output().unwrap();
    let path = String::from_utf8(found.stdout).unwrap();
    found.status.success().then(|| PathBuf::from(path.trim()))
}

fn source(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

const MANIFEST: &str = r#"
[package]
name = "panics"
edition = "2024"
[lib]
crate-type = ["cdylib"]
path = "lib.rs"
[profile.release]
lto = "fat"
codegen-units = 1
strip = "symbols"
[workspace]
"#;

/// It panics where `left` is not 0, and says whether that was caught, and what was there dropped.
const PANICS: &str = r#"
use std::panic::{AssertUnwindSafe, catch_unwind};

struct Dropped<'a>(&'a mut i32);

impl Drop for Dropped<'_> {
    fn drop(&mut self) {
        *self.0 += 1;
    }
}

#[unsafe(no_mangle)]
pub extern "C" fn panics(left: i32) -> i32 {
    let mut dropped = 0;
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        let _here = Dropped(&mut dropped);
        assert_eq!(left, 0);
    }));
    if outcome.is_err() { 10 + dropped } else { 0 }
}
"#;

/// A panic that was caught, after one value was dropped.
const CAUGHT: i32 = 11;
