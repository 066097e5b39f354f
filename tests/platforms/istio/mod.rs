//! What configures proxies in an Istio mesh, driving real Envoys, the real service, and requests, by the files of
//! `deploy/istio`.

mod gateway;
mod inside;
mod istiod;
mod mesh;
mod objects;
mod proxy;
mod sidecar;
mod traps;
mod workloads;

use crate::at_hand;
use std::process::Command;

#[test]
fn istio_is_the_one_that_is_pinned() {
    let Some(program) = at_hand("istio") else { return };
    let told = Command::new(program).arg("version").output().unwrap();
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/provision.py");
    let pinned = Command::new(script).args(["--version", "istio"]).output().unwrap();
    assert_eq!(told.stdout, pinned.stdout);
}
