//! Whether a file has changed, and whether it is complete, by its metadata alone.
//!
//! Half a file can be valid and say less, so one that has changed counts only once it is complete. One
//! that a rename or a link puts in place is complete at once: it was written before. One that is
//! written in place is taken as complete once it has not changed for much longer than a writer pauses.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// The metadata of a file. Links are followed, so that a new target is a new file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// Its path with all links resolved.
    place: Option<PathBuf>,
    file: (u64, u64),
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

/// For a file that was moved into place, or removed: two polls must agree.
pub const PLACED: Duration = Duration::from_millis(100);

/// For a new file that may have been written in place.
pub const CREATED: Duration = Duration::from_millis(500);

/// For an existing file that was written in place.
pub const WRITTEN: Duration = Duration::from_secs(3);

/// The same if its last line has no newline, as if more were to come.
pub const UNFINISHED: Duration = Duration::from_secs(10);

impl Stamp {
    /// That of the file at `path`; none if there is none. This may block on the disk.
    pub fn of(path: &Path) -> Option<Self> {
        let found = fs::metadata(path).ok()?;
        Some(Self {
            place: fs::canonicalize(path).ok(),
            file: (found.dev(), found.ino()),
            size: found.size(),
            modified: (found.mtime(), found.mtime_nsec()),
            changed: (found.ctime(), found.ctime_nsec()),
        })
    }

    /// Whether `file`, which is open, is this one, and was not written since.
    pub fn is_of(&self, file: &File) -> bool {
        let written = (self.file, self.size, self.modified);
        file.metadata().is_ok_and(|it| {
            written == ((it.dev(), it.ino()), it.size(), (it.mtime(), it.mtime_nsec()))
        })
    }

    /// When its content was last written, in whole seconds since 1970.
    pub const fn modified(&self) -> i64 {
        self.modified.0
    }

    /// When it was last changed in any way, in whole seconds since 1970.
    pub const fn changed(&self) -> i64 {
        self.changed.0
    }

    /// Its size in bytes.
    pub const fn size(&self) -> u64 {
        self.size
    }
}

/// How long a file must stay unchanged that went from the stamp `before` to `now`.
pub fn patience(before: Option<&Stamp>, now: Option<&Stamp>) -> Duration {
    let Some(now) = now else { return PLACED };
    let other_place = before.is_some_and(|it| it.place != now.place);
    let other_file = before.is_none_or(|it| it.file != now.file);
    if other_place {
        PLACED
    } else if other_file && now.modified < now.changed {
        // It was written before it got its name.
        PLACED
    } else if other_file {
        CREATED
    } else {
        WRITTEN
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn an_open_file_is_the_one_that_was_seen_until_it_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let [path, other] = ["list", "other"].map(|it| folder.path().join(it));
        fs::write(&path, "a\n").unwrap();
        fs::write(&other, "a\n").unwrap();
        let stamp = Stamp::of(&path).unwrap();
        let mut file = fs::OpenOptions::new().append(true).open(&path).unwrap();
        assert!(stamp.is_of(&file));
        assert!(!stamp.is_of(&File::open(&other).unwrap()));
        fs::rename(&other, &path).unwrap();
        assert!(stamp.is_of(&file), "another has its name, and it is what it was");
        file.write_all(b"b\n").unwrap();
        assert!(!stamp.is_of(&file));
    }
}
