//! How the module is linked.

fn main() {
    // Its threads outlive every configuration, so that Envoy must never unload it.
    println!("cargo::rustc-cdylib-link-arg=-Wl,-z,nodelete");
    println!("cargo::rerun-if-changed=build.rs");
}
