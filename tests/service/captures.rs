//! The captures that lie here are those that were taken from Envoy.

use crate::support::shared::shared;
use std::fs;
use std::path::Path;

#[test]
fn every_capture_is_as_it_was_taken() {
    let Some(taken) = shared("fixtures/envoy") else { return };
    let ours = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors/envoy");
    let mut compared = 0_usize;
    for entry in fs::read_dir(ours).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_some_and(|it| it == "pb") {
            let original = fs::read(taken.join(path.file_name().unwrap())).unwrap();
            assert!(fs::read(&path).unwrap() == original, "{}", path.display());
            compared = compared.saturating_add(1);
        }
    }
    assert_ne!(compared, 0);
}
