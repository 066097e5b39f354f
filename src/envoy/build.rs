//! How the module is linked.

#![expect(clippy::disallowed_methods, reason = "Cargo tells a build script by variables")]

use std::env;

fn main() {
    // Its threads outlive every configuration, so that Envoy must never unload it.
    println!("cargo::rustc-cdylib-link-arg=-Wl,-z,nodelete");
    let is = |name, value| env::var(name).is_ok_and(|it| it == value);
    // What is built to be tested is linked often, and has functions of its own.
    if is("CARGO_CFG_TARGET_OS", "linux") && !is("OPT_LEVEL", "0") {
        println!("cargo::rustc-cdylib-link-arg=-Wl,-T,{}/order.ld", env!("CARGO_MANIFEST_DIR"));
    }
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=order.ld");
}
