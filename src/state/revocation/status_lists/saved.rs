//! Status lists that outlive the process: a file for each, beside the snapshot of the issuer's keys.
//!
//! What is read back is verified as if it had just been fetched; only its age is the file's word.

use crate::state::snapshot;
use keybound_core::UnixTime;
use keybound_core::jose::Thumbprint;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

/// The file for the list with the URI whose SHA-256 is `list`, beside `keys`.
pub(super) fn path(keys: &Path, list: &Thumbprint) -> PathBuf {
    let mut name = prefix(keys);
    name.push(list.to_hex());
    keys.with_file_name(name)
}

fn prefix(keys: &Path) -> OsString {
    let mut name = keys.file_name().unwrap_or_default().to_owned();
    name.push(".status-list-");
    name
}

/// Removes the files beside `keys` that were written before `oldest`: nothing could be taken from them
/// any more.
pub(super) fn sweep(keys: &Path, oldest: UnixTime) {
    let Ok(folder) = fs::read_dir(snapshot::folder(keys)) else { return };
    let prefix = prefix(keys);
    let is_list = |name: &OsString| {
        name.as_encoded_bytes().starts_with(prefix.as_encoded_bytes()) && *name != prefix
    };
    for file in folder.filter_map(Result::ok).filter(|it| is_list(&it.file_name())) {
        let written = file.metadata().and_then(|it| it.modified());
        let written = written.ok().and_then(|it| it.duration_since(UNIX_EPOCH).ok());
        let written = written.map(|it| UnixTime::from_secs(0).saturating_add(it));
        if written.is_some_and(|it| it < oldest) {
            // If it cannot be removed, it is only too old to be used.
            drop(fs::remove_file(file.path()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::time::Duration;

    #[test]
    fn files_of_lists_that_are_too_old_are_removed_and_no_others() {
        let folder = tempfile::tempdir().unwrap();
        let keys = folder.path().join("as.json");
        let [old, new] = [&b"old"[..], b"new"].map(|it| path(&keys, &Thumbprint::of(it)));
        let others = folder.path().join("other.json.status-list-1");
        for (file, written) in [(&keys, 1), (&old, 999), (&new, 1000), (&others, 1)] {
            let file = File::create(file).unwrap();
            file.set_modified(UNIX_EPOCH + Duration::from_secs(written)).unwrap();
        }
        sweep(&keys, UnixTime::from_secs(1000));
        assert!(!old.exists());
        assert!(keys.exists() && new.exists() && others.exists());
    }
}
