//! Documents of issuers that outlive the process: a file for each, so that a restart while the issuer
//! is down is not an outage here.
//!
//! Anybody who can write the file decides whose tokens are accepted, so a file that is not exactly
//! as expected is ignored.

use crate::permissions;
use bytes::Bytes;
use keybound_core::UnixTime;
use keybound_core::jose::json;
use rustix::process::geteuid;
use serde::{Deserialize, Serialize};
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, BufWriter, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use std::{fmt, process};

/// What a document is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::state) enum Kind {
    /// The keys of an issuer.
    Keys,
    /// One of its status lists.
    StatusList,
}

/// A document of an issuer as it was once fetched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::state) struct Snapshot {
    /// What it is.
    pub(in crate::state) kind: Kind,
    /// The issuer.
    pub(in crate::state) issuer: String,
    /// Where it is from.
    pub(in crate::state) source: String,
    /// The document, byte for byte.
    pub(in crate::state) document: Bytes,
    /// When the issuer last confirmed it.
    pub(in crate::state) heard_at: UnixTime,
}

/// Why a snapshot file is ignored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::state) enum Odd {
    /// It cannot be read.
    Unreadable(io::ErrorKind),
    /// It is a directory, a pipe or a device.
    NotAFile,
    /// Others than its owner may write it.
    Writable,
    /// Every user of the machine can replace it.
    FolderWritable,
    /// Its owner is neither this user nor root, and could have forged it.
    OtherOwner,
    /// It is larger than a snapshot can be.
    TooLarge,
    /// It is not a snapshot, or truncated.
    Malformed,
    /// It is a document of another issuer.
    OtherIssuer,
    /// Its document is from another source than the one wanted now.
    OtherSource,
    /// It is dated in the future.
    Premature,
    /// It is older than `max_stale`.
    Stale,
}

/// What a snapshot must match to be used.
#[derive(Clone, Debug)]
pub(in crate::state) struct Wanted {
    /// What it is.
    pub(in crate::state) kind: Kind,
    /// The issuer.
    pub(in crate::state) issuer: String,
    /// The source.
    pub(in crate::state) source: String,
    /// The longest document, in bytes.
    pub(in crate::state) max_bytes: usize,
    /// How long it is used after the last successful fetch.
    pub(in crate::state) max_stale: Duration,
}

/// What the file holds.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Record {
    issuer: String,
    source: String,
    /// Seconds since the epoch.
    fetched_at: i64,
    /// As text, so that the bytes read back are those that were fetched.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    jwks: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    status_list: Option<String>,
}

/// Writes a snapshot.
pub(in crate::state) fn write(path: &Path, snapshot: &Snapshot) -> io::Result<()> {
    let document = std::str::from_utf8(&snapshot.document).map_err(io::Error::other)?;
    let document = |kind| (snapshot.kind == kind).then(|| document.to_owned());
    let record = Record {
        issuer: snapshot.issuer.clone(),
        source: snapshot.source.clone(),
        fetched_at: snapshot.heard_at.as_secs(),
        jwks: document(Kind::Keys),
        status_list: document(Kind::StatusList),
    };
    place(path, &serde_json::to_vec(&record)?)
}

/// Writes a file atomically: a reader sees the old or the new one. A missing folder is created for this
/// user alone; nothing is written to a folder whose files would be ignored.
pub(in crate::state) fn place(path: &Path, content: &[u8]) -> io::Result<()> {
    place_with(path, |out| out.write_all(content)).map(drop)
}

/// The same with what `write` writes. The file, to which more can be added.
pub(in crate::state) fn place_with(
    path: &Path,
    write: impl FnOnce(&mut BufWriter<&File>) -> io::Result<()>,
) -> io::Result<File> {
    let folder = folder(path);
    if !folder.exists() {
        DirBuilder::new().mode(0o700).create(folder)?;
    }
    trust_folder(folder).map_err(|it| io::Error::other(it.to_string()))?;
    let beside = beside(path);
    let placed = fill(&beside, write).and_then(|file| {
        fs::rename(&beside, path)?;
        Ok(file)
    });
    if placed.is_err() {
        // The first error is the one to report, whether or not this call succeeds.
        drop(fs::remove_file(&beside));
    }
    let file = placed?;
    sync(folder)?;
    Ok(file)
}

/// Has the names in a folder written to the disk: without this, a crash of the machine may bring the old
/// file back.
fn sync(folder: &Path) -> io::Result<()> {
    let synced = File::open(folder).and_then(|it| it.sync_all());
    // There are file systems that cannot.
    let cannot = [io::ErrorKind::InvalidInput, io::ErrorKind::Unsupported];
    synced.or_else(|it| if cannot.contains(&it.kind()) { Ok(()) } else { Err(it) })
}

/// A name in the same directory that no other writer uses.
fn beside(path: &Path) -> PathBuf {
    static WRITES: AtomicU64 = AtomicU64::new(0);
    let number = WRITES.fetch_add(1, Ordering::Relaxed);
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.{number}.new", process::id()));
    path.with_file_name(name)
}

fn fill(
    path: &Path,
    write: impl FnOnce(&mut BufWriter<&File>) -> io::Result<()>,
) -> io::Result<File> {
    match fs::remove_file(path) {
        // Left by a process with the same PID that died while writing.
        Ok(()) => (),
        Err(error) if error.kind() == io::ErrorKind::NotFound => (),
        Err(error) => return Err(error),
    }
    // `create_new` does not follow a link that another user may have put there.
    let file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    let mut out = BufWriter::new(&file);
    write(&mut out)?;
    out.flush()?;
    drop(out);
    // Without this, a crash of the machine may leave the new name with no content.
    file.sync_all()?;
    Ok(file)
}

/// Reads the `wanted` snapshot, if it may be used at `now`.
pub(in crate::state) fn read(path: &Path, wanted: &Wanted, now: UnixTime) -> Result<Snapshot, Odd> {
    // Escaped as JSON, no byte of a document takes more than two.
    let names = wanted.issuer.len().saturating_add(wanted.source.len());
    let limit = wanted.max_bytes.saturating_add(names).saturating_mul(2).saturating_add(FRAME);
    let content = content(path, limit)?;
    let record: Record = json::object_of(&content).or(Err(Odd::Malformed))?;
    if record.issuer != wanted.issuer {
        return Err(Odd::OtherIssuer);
    }
    if record.source != wanted.source {
        return Err(Odd::OtherSource);
    }
    let heard_at = UnixTime::from_secs(record.fetched_at);
    if now.saturating_add(CLOCK_LEEWAY) < heard_at {
        return Err(Odd::Premature);
    }
    if wanted.max_stale <= now.since(heard_at) {
        return Err(Odd::Stale);
    }
    let Record { issuer, source, jwks, status_list, .. } = record;
    let kind = wanted.kind;
    let document = match (kind, jwks, status_list) {
        (Kind::Keys, Some(document), None) | (Kind::StatusList, None, Some(document)) => document,
        (Kind::Keys | Kind::StatusList, _, _) => return Err(Odd::Malformed),
    };
    Ok(Snapshot { kind, issuer, source, document: Bytes::from(document), heard_at })
}

/// The content of a file that nobody but this user and root can have written.
fn content(path: &Path, limit: usize) -> Result<Vec<u8>, Odd> {
    let file = trusted(path)?;
    bounded(file, limit).map_err(|it| Odd::Unreadable(it.kind()))?.ok_or(Odd::TooLarge)
}

/// A file, open, that nobody but this user and root can have written.
pub(in crate::state) fn trusted(path: &Path) -> Result<File, Odd> {
    let unreadable = |error: io::Error| Odd::Unreadable(error.kind());
    // Opening a pipe would wait for a writer.
    if !fs::metadata(path).map_err(unreadable)?.is_file() {
        return Err(Odd::NotAFile);
    }
    let file = File::open(path).map_err(unreadable)?;
    let metadata = file.metadata().map_err(unreadable)?;
    if !metadata.is_file() {
        return Err(Odd::NotAFile);
    }
    trust(metadata.mode(), metadata.uid(), geteuid().as_raw())?;
    trust_folder(folder(path))?;
    Ok(file)
}

/// Whether a file with this mode and owner can have been written only by `us` or root.
const fn trust(mode: u32, owner: u32, us: u32) -> Result<(), Odd> {
    if owner != us && owner != ROOT {
        Err(Odd::OtherOwner)
    } else if mode & OTHERS_WRITE != 0 {
        Err(Odd::Writable)
    } else {
        Ok(())
    }
}

/// Whether only its owner, its group and root can replace a file in `folder`. The file itself is
/// checked too, but an older one of ours could be put back.
fn trust_folder(folder: &Path) -> Result<(), Odd> {
    let folder = fs::metadata(folder).map_err(|it| Odd::Unreadable(it.kind()))?;
    if permissions::lets_all_replace(&folder) { Err(Odd::FolderWritable) } else { Ok(()) }
}

/// Why a snapshot at `path` would be ignored, as far as its folder shows.
pub(in crate::state) fn folder_fault(path: &Path) -> Option<Odd> {
    trust_folder(folder(path)).err().filter(|it| *it == Odd::FolderWritable)
}

/// The folder of `path`.
pub(in crate::state) fn folder(path: &Path) -> &Path {
    let folder = path.parent().filter(|it| !it.as_os_str().is_empty());
    folder.unwrap_or_else(|| Path::new("."))
}

/// The content of `file`; `None` if it is longer than `limit`.
pub(in crate::state) fn bounded(file: File, limit: usize) -> io::Result<Option<Vec<u8>>> {
    let mut content = Vec::new();
    let one_more = u64::try_from(limit).unwrap_or(u64::MAX).saturating_add(1);
    file.take(one_more).read_to_end(&mut content)?;
    Ok(Some(content).filter(|it| it.len() <= limit))
}

impl fmt::Display for Odd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unreadable(kind) => write!(f, "it cannot be read: {kind}"),
            Self::NotAFile => f.write_str("it is not a regular file"),
            Self::Writable => {
                f.write_str("others than its owner may write it: remove it, or chmod go-w it")
            }
            Self::FolderWritable => f.write_str(
                "everybody may write its folder: chmod o-w the folder, or name a file in a folder \
                 below it, which is made for this process alone",
            ),
            Self::OtherOwner => {
                f.write_str("it belongs to another user than the one who reads it: remove it")
            }
            Self::TooLarge => f.write_str("it is too large"),
            Self::Malformed => f.write_str("it is not a whole snapshot"),
            Self::OtherIssuer => f.write_str("it is that of another issuer"),
            Self::OtherSource => f.write_str("its document comes from another source"),
            Self::Premature => f.write_str("it comes from the future"),
            Self::Stale => f.write_str("it is too old"),
        }
    }
}

const OTHERS_WRITE: u32 = 0o022;
const ROOT: u32 = 0;

/// Bytes of a snapshot besides the document and the issuer.
const FRAME: usize = 1024;

/// A snapshot may have been written just before the clock was set back a little.
const CLOCK_LEEWAY: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    const ISSUER: &str = "https://as.example.com";
    const DAY: Duration = Duration::from_secs(86_400);
    const NOW: UnixTime = UnixTime::from_secs(1_800_000_000);

    fn snapshot() -> Snapshot {
        let document = Bytes::from_static(b"{\"keys\": [\"\\u00e9\"]}\n");
        let (issuer, source) = (ISSUER.to_owned(), "discovery".to_owned());
        Snapshot { kind: Kind::Keys, issuer, source, document, heard_at: NOW }
    }

    fn written() -> (tempfile::TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("keys.json");
        write(&path, &snapshot()).unwrap();
        (directory, path)
    }

    fn read_at(path: &Path, now: UnixTime) -> Result<Snapshot, Odd> {
        let (issuer, source) = (ISSUER.to_owned(), "discovery".to_owned());
        let kind = Kind::Keys;
        read(path, &Wanted { kind, issuer, source, max_bytes: 4096, max_stale: DAY }, now)
    }

    #[test]
    fn what_is_written_is_read_back() {
        let (directory, path) = written();
        assert_eq!(read_at(&path, NOW), Ok(snapshot()));
        let mode = fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1, "nothing is left beside it");
    }

    #[test]
    fn a_newer_snapshot_takes_the_place_of_the_older() {
        let (_directory, path) = written();
        let newer = Snapshot { heard_at: NOW.saturating_add(DAY), ..snapshot() };
        write(&path, &newer).unwrap();
        assert_eq!(read_at(&path, newer.heard_at), Ok(newer));
    }

    #[test]
    fn a_link_that_waits_beside_it_is_not_followed() {
        let (directory, path) = written();
        let precious = directory.path().join("precious");
        fs::write(&precious, "precious").unwrap();
        let trap = directory.path().join("trap");
        symlink(&precious, &trap).unwrap();
        fill(&trap, |out| out.write_all(b"{}")).unwrap();
        assert_eq!(fs::read(&precious).unwrap(), b"precious");
        assert_eq!(read_at(&path, NOW), Ok(snapshot()));
    }

    #[test]
    fn the_age_has_two_bounds() {
        let (_directory, path) = written();
        let minute = Duration::from_secs(60);
        let second = Duration::from_secs(1);
        for (now, expected) in [
            (NOW.saturating_sub(minute).saturating_sub(second), Err(Odd::Premature)),
            (NOW.saturating_sub(minute), Ok(snapshot())),
            (NOW.saturating_add(DAY).saturating_sub(second), Ok(snapshot())),
            (NOW.saturating_add(DAY), Err(Odd::Stale)),
        ] {
            assert_eq!(read_at(&path, now), expected, "{now}");
        }
    }

    #[track_caller]
    fn check(edit: impl FnOnce(&Path), expected: Odd) {
        let (_directory, path) = written();
        edit(&path);
        assert_eq!(read_at(&path, NOW), Err(expected));
    }

    #[test]
    fn an_odd_file_counts_as_none() {
        let mode = |path: &Path, it| fs::set_permissions(path, fs::Permissions::from_mode(it));
        check(|it| fs::remove_file(it).unwrap(), Odd::Unreadable(io::ErrorKind::NotFound));
        check(|it| mode(it, 0o602).unwrap(), Odd::Writable);
        check(|it| mode(it, 0o660).unwrap(), Odd::Writable);
        check(|it| mode(it.parent().unwrap(), 0o777).unwrap(), Odd::FolderWritable);
        check(|it| fs::write(it, "").unwrap(), Odd::Malformed);
        check(|it| fs::write(it, "{\"issuer\": ").unwrap(), Odd::Malformed);
        let list = r#"["https://as.example.com","discovery",1800000000,"{}"]"#;
        check(|it| fs::write(it, list).unwrap(), Odd::Malformed);
        let from_anywhere =
            r#"{"issuer":"https://as.example.com","fetched_at":1800000000,"jwks":"{}"}"#;
        check(|it| fs::write(it, from_anywhere).unwrap(), Odd::Malformed);
        check(|it| fs::write(it, [b' '; 10_000]).unwrap(), Odd::TooLarge);
        let list = Snapshot { kind: Kind::StatusList, ..snapshot() };
        check(|it| write(it, &list).unwrap(), Odd::Malformed);
        let other = Snapshot { issuer: "https://other".to_owned(), ..snapshot() };
        check(|it| write(it, &other).unwrap(), Odd::OtherIssuer);
        let elsewhere = Snapshot { source: "https://keys".to_owned(), ..snapshot() };
        check(|it| write(it, &elsewhere).unwrap(), Odd::OtherSource);
        let directory = |it: &Path| {
            fs::remove_file(it).unwrap();
            fs::create_dir(it).unwrap();
        };
        check(directory, Odd::NotAFile);
    }

    #[test]
    fn a_file_counts_that_nobody_else_could_have_written() {
        const US: u32 = 1000;
        for (mode, owner, expected) in [
            (0o600, US, Ok(())),
            (0o644, ROOT, Ok(())),
            (0o620, US, Err(Odd::Writable)),
            (0o602, US, Err(Odd::Writable)),
            (0o600, 1001, Err(Odd::OtherOwner)),
        ] {
            assert_eq!(trust(mode, owner, US), expected, "{mode:o} {owner}");
        }
    }

    #[test]
    fn a_folder_may_be_shared_by_all_if_each_keeps_what_is_theirs() {
        let (directory, path) = written();
        let mode = |it| {
            fs::set_permissions(directory.path(), fs::Permissions::from_mode(it)).unwrap();
        };
        mode(0o1777);
        assert_eq!(read_at(&path, NOW), Ok(snapshot()));
        mode(0o770);
        assert_eq!(read_at(&path, NOW), Ok(snapshot()));
        mode(0o777);
        assert_eq!(folder_fault(&path), Some(Odd::FolderWritable));
        assert!(write(&path, &snapshot()).is_err(), "what would not count is not written");
        let below = directory.path().join("keys").join("as.json");
        assert_eq!(folder_fault(&below), None);
        write(&below, &snapshot()).unwrap();
        assert_eq!(read_at(&below, NOW), Ok(snapshot()));
        let new = fs::metadata(below.parent().unwrap()).unwrap().permissions();
        assert_eq!(new.mode() & 0o777, 0o700);
    }

    #[test]
    fn a_directory_that_is_not_there_is_an_error() {
        let path = Path::new("/nonexistent/folder/keys.json");
        assert!(write(path, &snapshot()).is_err());
    }
}
