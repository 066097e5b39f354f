//! What the permissions of a file or folder let every user of the machine do.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;

/// Whether every user may write to it.
pub fn lets_all_write(it: &Metadata) -> bool {
    it.mode() & WRITE != 0
}

/// Whether every user may replace files in this folder, which the sticky bit prevents. Whether they
/// can reach the folder depends on the folders above it.
pub fn lets_all_replace(folder: &Metadata) -> bool {
    lets_all_write(folder) && folder.mode() & STICKY == 0
}

/// Others may write.
const WRITE: u32 = 0o002;

/// Only the owner of a file may replace it.
const STICKY: u32 = 0o1000;

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn a_folder_of_all_keeps_what_is_in_it_with_the_sticky_bit_alone() {
        let folder = tempfile::tempdir().unwrap();
        for (mode, write, replace) in [
            (0o755, false, false),
            (0o775, false, false),
            (0o1775, false, false),
            (0o777, true, true),
            (0o1777, true, false),
            (0o702, true, true),
        ] {
            fs::set_permissions(folder.path(), Permissions::from_mode(mode)).unwrap();
            let found = folder.path().metadata().unwrap();
            let found = (lets_all_write(&found), lets_all_replace(&found));
            assert_eq!(found, (write, replace), "{mode:o}");
        }
    }
}
