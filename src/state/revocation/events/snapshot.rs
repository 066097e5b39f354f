//! Events that outlive the process: one file per issuer, written whole and then put in place of the
//! one before.
//!
//! A file that is there and cannot be used is an error: what it held was acknowledged, and nobody would
//! send it again.

use super::marks::{Mark, Marked};
use super::receiver::Receiver;
use crate::state::snapshot::{Odd, content, place};
use keybound_core::UnixTime;
use keybound_core::jose::base64url;
use keybound_core::oauth::{EventKind, SubjectKey};
use keybound_core::words::Words;
use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::str::SplitAsciiWhitespace;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::Mutex;

/// The snapshots of one issuer.
#[derive(Debug)]
pub(super) struct Snapshots {
    path: PathBuf,
    /// How many changes there were.
    changes: AtomicU64,
    /// How many of them are in the file.
    saved: Mutex<u64>,
}

/// What a file holds.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Kept {
    pub(super) marks: Vec<Marked>,
    /// The time of issue for whose events there was no room, and until when that counts.
    pub(super) passed_over: Option<(UnixTime, UnixTime)>,
}

/// A snapshot file cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadSnapshot {
    path: PathBuf,
    why: String,
}

/// The first line of a file.
const TITLE: &str = "keybound security events, version 1";

/// Its last line, without which it was cut off.
const END: &str = "end";

/// The longest line of a file, in bytes.
const LINE: usize = 128;

impl Snapshots {
    pub(super) fn at(path: PathBuf) -> Self {
        Self { path, changes: AtomicU64::new(0), saved: Mutex::new(0) }
    }

    /// Whether they are in this file.
    pub(super) fn is_at(&self, path: &Path) -> bool {
        self.path == path
    }

    /// Writes all marks. Those who wait meanwhile share the next write.
    pub(super) async fn save(&self, receiver: &Receiver) -> io::Result<()> {
        let own = self.changes.fetch_add(1, Ordering::AcqRel).saturating_add(1);
        let mut saved = self.saved.lock().await;
        if own <= *saved {
            return Ok(());
        }
        let written = self.changes.load(Ordering::Acquire);
        let now = receiver.clock.now();
        let kept =
            Kept { marks: receiver.marks.all(now), passed_over: receiver.marks.passed_over(now) };
        let (path, issuer) = (self.path.clone(), receiver.issuer.name.to_string());
        let write = move || place(&path, kept.written(&issuer).as_bytes());
        tokio::task::spawn_blocking(write).await.unwrap_or_else(|it| Err(it.into()))?;
        *saved = written;
        Ok(())
    }
}

/// Reads the file at `path` with the events of `issuer`; nothing if there is no file.
pub(super) fn read(path: &Path, issuer: &str, capacity: usize) -> Result<Kept, BadSnapshot> {
    let bad = |why: String| BadSnapshot { path: path.to_owned(), why };
    let limit = capacity.max(MANY).saturating_mul(LINE);
    let content = match content(path, limit) {
        Ok(content) => content,
        Err(Odd::Unreadable(io::ErrorKind::NotFound)) => return Ok(Kept::default()),
        Err(odd) => return Err(bad(odd.to_string())),
    };
    let malformed = || bad("it is not a snapshot of events, or is truncated".to_owned());
    let Ok(text) = str::from_utf8(&content) else { return Err(malformed()) };
    let (mut lines, whose) = (text.lines(), format!("issuer {issuer}"));
    if lines.next() != Some(TITLE) || !text.ends_with('\n') || lines.next_back() != Some(END) {
        return Err(malformed());
    }
    if lines.next() != Some(&whose) {
        return Err(bad("it holds the events of another issuer".to_owned()));
    }
    Kept::of_lines(lines).ok_or_else(malformed)
}

fn marked(key: &str, words: &mut SplitAsciiWhitespace<'_>) -> Option<Marked> {
    let octets = base64url::decode(key.as_bytes()).ok()?.try_into().ok()?;
    let (until, expires) = (time(words)?, time(words)?);
    let kind = EventKind::named(words.next()?)?;
    words
        .next()
        .is_none()
        .then_some((SubjectKey::from_octets(octets), Mark { until, expires, kind }))
}

fn time(words: &mut SplitAsciiWhitespace<'_>) -> Option<UnixTime> {
    words.next()?.parse().ok().map(UnixTime::from_millis)
}

impl Kept {
    fn written(&self, issuer: &str) -> String {
        format!("{TITLE}\nissuer {issuer}\n{}{END}\n", self.lines())
    }

    /// What is kept, if each of these lines tells of some.
    pub(super) fn of_lines<'a>(lines: impl Iterator<Item = &'a str>) -> Option<Self> {
        let mut kept = Self::default();
        for line in lines {
            let mut words = line.split_ascii_whitespace();
            match words.next()? {
                "passed-over" => {
                    kept.passed_over = Some((time(&mut words)?, time(&mut words)?));
                }
                key => kept.marks.push(marked(key, &mut words)?),
            }
        }
        Some(kept)
    }

    /// The same as lines.
    pub(super) fn lines(&self) -> String {
        let passed_over = self
            .passed_over
            .iter()
            .map(|(at, until)| format!("passed-over {} {}\n", at.as_millis(), until.as_millis()));
        let marks = self.marks.iter().map(|(key, Mark { until, expires, kind })| {
            let key = base64url::encode(key.octets());
            format!("{key} {} {} {kind}\n", until.as_millis(), expires.as_millis())
        });
        passed_over.chain(marks).collect()
    }
}

impl fmt::Display for BadSnapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "revocation.events.snapshot_file {}: {}: its events would be forgotten; put back a good one, \
             or remove it if that is meant",
            self.path.display(),
            self.why
        )
    }
}

impl std::error::Error for BadSnapshot {}

/// A file of so many marks is read even where fewer are kept now.
const MANY: usize = 1_000_000;

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    const ISSUER: &str = "https://as.example.com";

    fn kept() -> Kept {
        let mark = |octet, until| {
            let (until, expires) = (UnixTime::from_millis(until), UnixTime::from_secs(9));
            (
                SubjectKey::from_octets([octet; 16]),
                Mark { until, expires, kind: EventKind::AccountDisabled },
            )
        };
        let passed_over = Some((UnixTime::from_secs(-1), UnixTime::from_millis(77)));
        Kept { marks: vec![mark(0, -5), mark(255, 1_800_000_000_123)], passed_over }
    }

    #[test]
    fn what_is_written_is_read_back_and_others_cannot_read_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("events");
        assert_eq!(read(&path, ISSUER, 1), Ok(Kept::default()), "there is no file yet");
        for kept in [kept(), Kept::default()] {
            place(&path, kept.written(ISSUER).as_bytes()).unwrap();
            assert_eq!(read(&path, ISSUER, 1), Ok(kept));
        }
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left beside it");
    }

    #[test]
    fn a_file_that_is_there_and_cannot_be_used_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("events");
        let good = kept().written(ISSUER);
        let line = good.lines().rev().nth(1).unwrap().to_owned();
        let more = |line: &str| good.replace("\nend\n", &format!("\n{line}\nend\n"));
        for (text, why) in [
            (String::new(), "not a snapshot"),
            (good.trim_end().to_owned(), "truncated"),
            (good.replace("end\n", ""), "truncated"),
            (good.replace(&format!("{line}\nend\n"), ""), "truncated"),
            (good.replace(ISSUER, "https://other"), "another issuer"),
            (good.replace("version 1", "version 2"), "not a snapshot"),
            (good.replace(&line, line.get(1..).unwrap()), "not a snapshot"),
            (good.replace("account-disabled", "else"), "not a snapshot"),
            (more(&format!("{line} x")), "not a snapshot"),
            (more(""), "not a snapshot"),
            (more("passed-over 1"), "not a snapshot"),
        ] {
            fs::write(&path, &text).unwrap();
            let found = read(&path, ISSUER, 1).unwrap_err().to_string();
            assert!(found.contains(why) && found.contains("forgotten"), "{text}: {found}");
        }
        fs::write(&path, &good).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
        assert!(read(&path, ISSUER, 1).is_err(), "anybody could have written it");
    }
}
