//! What a configuration makes, without a file of its own.

use keybound::config::{self, Config, Problem};
use std::fs;
use std::path::Path;

/// The configuration that `text` spells in a file in `folder`.
pub(crate) fn configured(text: &str, folder: &Path) -> Result<Config, Vec<Problem>> {
    let path = folder.join("keybound.yaml");
    fs::write(&path, text).unwrap();
    config::load(&path)
}
