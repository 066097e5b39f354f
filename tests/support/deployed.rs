//! What tests of the files in `deploy/` share.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

/// The file or folder `path` of `deploy/`.
pub(crate) fn deploy(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy").join(path)
}

/// Says that `what` is skipped.
pub(crate) fn skipped(what: &str) {
    // Not by a print macro: the harness would swallow the line.
    io::stderr().write_all(format!("skipped: {what}\n").as_bytes()).unwrap();
}

/// `text` with `from`, which must be there, replaced by `to`.
#[track_caller]
pub(crate) fn replaced(text: &str, from: &str, to: &str) -> String {
    assert!(text.contains(from), "{from} is not in\n{text}");
    text.replace(from, to)
}
