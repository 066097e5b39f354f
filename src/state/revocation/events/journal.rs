//! Events that outlive the process: one file for each issuer, to which is added what comes into force, and
//! which is written anew once most of it tells nothing any more.
//!
//! - Nothing is acknowledged that is not on the disk. Those who wait while something is written share the
//!   next write.
//! - Each line ends with a check over itself and all lines before, so that no line can be changed, moved or
//!   taken out of the middle unseen. Such a file is an error: what it held was acknowledged, and nobody
//!   would send it again.
//! - A piece of a line at the end is what a crash left of a write that was not acknowledged, since that
//!   comes after its end is on the disk. It is passed over.
//! - What a failed write left behind is never added to: the next one writes the whole file anew.

use super::kept::Line;
use super::marks::{Marked, Marks};
use crate::clock::Clock;
use crate::state::snapshot::{Odd, place_with, trusted};
use keybound_core::UnixTime;
use keybound_core::jose::{Thumbprint, base64url};
use std::fmt;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::mem::take;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex as Lock, MutexGuard, PoisonError};
use tokio::sync::Mutex;
use tokio::task::spawn_blocking;

/// The file of one issuer.
#[derive(Debug)]
pub(super) struct Journal {
    path: PathBuf,
    issuer: String,
    marks: Arc<Marks>,
    clock: Arc<dyn Clock>,
    pending: Lock<Pending>,
    /// The file as this process has written it; none if it is to be written anew.
    file: Arc<Mutex<Option<Written>>>,
}

/// What is in force and not in the file yet. Who puts a mark into force holds it meanwhile, so that nobody
/// who finds the mark in force takes it for kept.
#[derive(Debug, Default)]
pub(super) struct Pending {
    lines: Vec<Line>,
    /// There was more than is held here.
    is_more: bool,
    /// What was last said of events without room.
    passed_over: Option<(UnixTime, UnixTime)>,
}

/// A file that this process has written, and how far.
#[derive(Debug)]
struct Written {
    file: File,
    bytes: u64,
    lines: usize,
    check: Check,
}

/// The check of a line and of all before it.
#[derive(Clone, Debug)]
struct Check([u8; 32]);

/// A journal cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadSnapshot {
    path: PathBuf,
    why: String,
}

/// The first line of a file.
const TITLE: &str = "keybound security events, version 2";

/// The octets of a check that are written.
const OCTETS: usize = 8;

/// The longest line about a mark, in bytes.
const LINE: usize = 256;

/// The longest head, in bytes: a URL may be long.
const HEAD: usize = 16 * 1024;

/// The most lines that wait for a write. More are read out of memory again.
const PENDING: usize = 100_000;

/// A file may have twice as many lines as there are marks, and these besides, until it is written anew.
const SPARE: usize = 10_000;

impl Pending {
    /// A mark is in force.
    pub(super) fn mark(&mut self, mark: Marked) {
        self.add(Line::Mark(mark));
    }

    /// There was no room for events about tokens until the first time, which counts until the second.
    pub(super) fn passed_over(&mut self, times: (UnixTime, UnixTime)) {
        if self.passed_over != Some(times) {
            self.passed_over = Some(times);
            self.add(Line::PassedOver(times));
        }
    }

    fn add(&mut self, line: Line) {
        if PENDING <= self.lines.len() {
            (self.lines, self.is_more) = (vec![], true);
        }
        if !self.is_more {
            self.lines.push(line);
        }
    }

    /// The lines; none if there was more than was held.
    fn taken(&mut self) -> Option<Vec<Line>> {
        let lines = take(&mut self.lines);
        if take(&mut self.is_more) { None } else { Some(lines) }
    }

    const fn is_empty(&self) -> bool {
        self.lines.is_empty() && !self.is_more
    }
}

impl Journal {
    /// That of `marks` at `path`. Nothing is read or written yet.
    pub(super) fn of(
        path: PathBuf,
        issuer: &str,
        marks: &Arc<Marks>,
        clock: &Arc<dyn Clock>,
    ) -> Self {
        let (issuer, marks, clock) = (issuer.to_owned(), Arc::clone(marks), Arc::clone(clock));
        Self { path, issuer, marks, clock, pending: Lock::default(), file: Arc::default() }
    }

    /// Whether it is in this file.
    pub(super) fn is_at(&self, path: &Path) -> bool {
        self.path == path
    }

    /// What is in force and not in the file yet.
    pub(super) fn pending(&self) -> MutexGuard<'_, Pending> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns once all that was in force before is on the disk.
    pub(super) async fn save(self: &Arc<Self>) -> io::Result<()> {
        let mut file = Arc::clone(&self.file).lock_owned().await;
        if file.is_some() && self.pending().is_empty() {
            // Another has written it meanwhile.
            return Ok(());
        }
        let journal = Arc::clone(self);
        // The file goes along: where who waits goes away, the write goes on, and the next one comes after it.
        let write = move || journal.write(&mut file);
        spawn_blocking(write).await.unwrap_or_else(|it| Err(it.into()))
    }

    fn write(&self, file: &mut Option<Written>) -> io::Result<()> {
        // Before the marks are read: what comes meanwhile is pending again.
        let lines = self.pending().taken();
        let known = file.take().filter(|it| it.is_at(&self.path));
        let most = self.marks.entries().saturating_mul(2).saturating_add(SPARE);
        *file = Some(match (known, lines) {
            (Some(mut known), Some(lines)) if known.lines.saturating_add(lines.len()) <= most => {
                known.add(&lines)?;
                known
            }
            (known, _) => self.written_anew(known.is_some())?,
        });
        Ok(())
    }

    /// The file with all marks. Unless it `is_ours`, it is read before: what another process has kept there is
    /// not forgotten.
    fn written_anew(&self, is_ours: bool) -> io::Result<Written> {
        let now = self.clock.now();
        if !is_ours {
            let found = read(&self.path, &self.issuer, |line| restore(&self.marks, line, now));
            if let Err(bad) = found {
                // All that this process has acknowledged is in force.
                tracing::error!(problem = %bad, "events are kept anew, without what is in this file");
            }
        }
        let head = head(&self.issuer);
        let (mut check, mut lines, mut bytes) = (Check::of(&head), 0_usize, head.len());
        let file = place_with(&self.path, |out| {
            out.write_all(head.as_bytes())?;
            let passed_over = self.marks.passed_over(now).map(Line::PassedOver);
            let marks = self.marks.by_shard(now).flatten().map(Line::Mark);
            for line in passed_over.into_iter().chain(marks) {
                let line = check.checked(&line.text());
                out.write_all(line.as_bytes())?;
                (lines, bytes) = (lines.saturating_add(1), bytes.saturating_add(line.len()));
            }
            Ok(())
        })?;
        let bytes = u64::try_from(bytes).unwrap_or(u64::MAX);
        Ok(Written { file, bytes, lines, check })
    }
}

impl Written {
    /// Whether it is the file at `path`, as it was left.
    fn is_at(&self, path: &Path) -> bool {
        let (Ok(there), Ok(own)) = (fs::metadata(path), self.file.metadata()) else { return false };
        (there.dev(), there.ino(), there.len()) == (own.dev(), own.ino(), self.bytes)
    }

    fn add(&mut self, lines: &[Line]) -> io::Result<()> {
        let text: String = lines.iter().map(|it| self.check.checked(&it.text())).collect();
        self.file.write_all(text.as_bytes())?;
        self.file.sync_data()?;
        self.bytes = self.bytes.saturating_add(u64::try_from(text.len()).unwrap_or(u64::MAX));
        self.lines = self.lines.saturating_add(lines.len());
        Ok(())
    }
}

/// What comes before the lines about marks.
fn head(issuer: &str) -> String {
    format!("{TITLE}\nissuer {issuer}\n")
}

impl Check {
    fn of(head: &str) -> Self {
        Self(*Thumbprint::of(head.as_bytes()).octets())
    }

    /// The check of the next line, which takes the place of this one.
    fn next(&mut self, text: &str) -> String {
        self.0 = *Thumbprint::of(&[&self.0, text.as_bytes()].concat()).octets();
        base64url::encode(self.0.get(..OCTETS).unwrap_or_default())
    }

    /// The next line with its check.
    fn checked(&mut self, text: &str) -> String {
        format!("{text} {}\n", self.next(text))
    }

    /// The next line without its check and its end, if the check is the right one.
    fn verified<'a>(&mut self, line: &'a [u8]) -> Option<&'a str> {
        let (text, check) = str::from_utf8(line).ok()?.rsplit_once(' ')?;
        (self.next(text) == check).then_some(text)
    }
}

/// Puts into force what a line tells.
pub(super) fn restore(marks: &Marks, line: Line, now: UnixTime) {
    match line {
        Line::Mark(marked) if now < marked.1.expires => _ = marks.put(marked, now),
        Line::Mark(_) => (),
        Line::PassedOver(times) => _ = marks.pass_over(times),
    }
}

/// Reads the file at `path` with the events of `issuer`, line by line; nothing if there is no file.
pub(super) fn read(
    path: &Path,
    issuer: &str,
    mut each: impl FnMut(Line),
) -> Result<(), BadSnapshot> {
    let bad = |why: String| BadSnapshot { path: path.to_owned(), why };
    let file = match trusted(path) {
        Ok(file) => file,
        Err(Odd::Unreadable(io::ErrorKind::NotFound)) => return Ok(()),
        Err(odd) => return Err(bad(odd.to_string())),
    };
    let mut lines = Lines { file: BufReader::with_capacity(1 << 16, file), line: vec![] };
    if lines.next(HEAD).map_err(|it| bad(unreadable(&it)))? != Some(TITLE.as_bytes()) {
        return Err(bad("it is no file of events, or one of another version".to_owned()));
    }
    let whose = format!("issuer {issuer}");
    if lines.next(HEAD).map_err(|it| bad(unreadable(&it)))? != Some(whose.as_bytes()) {
        return Err(bad("it holds the events of another issuer".to_owned()));
    }
    let mut check = Check::of(&head(issuer));
    for number in 3_u64.. {
        let changed = || bad(format!("line {number} is not as it was written"));
        let Some(line) = lines.next(LINE).map_err(|it| bad(unreadable(&it)))? else {
            if !lines.is_cut_off(check).map_err(|it| bad(unreadable(&it)))? {
                return Err(changed());
            }
            if !lines.line.is_empty() {
                tracing::warn!(
                    file = %path.display(),
                    line = number,
                    "the file of events ends within a line, which was never acknowledged: passed over"
                );
            }
            break;
        };
        each(check.verified(line).and_then(Line::read).ok_or_else(changed)?);
    }
    Ok(())
}

fn unreadable(error: &io::Error) -> String {
    format!("it cannot be read: {error}")
}

/// A file by its lines.
struct Lines {
    file: BufReader<File>,
    line: Vec<u8>,
}

impl Lines {
    /// The next line without its end; none where the file ends, or after `most` bytes without an end.
    fn next(&mut self, most: usize) -> io::Result<Option<&[u8]>> {
        self.line.clear();
        let most = u64::try_from(most).unwrap_or(u64::MAX);
        (&mut self.file).take(most).read_until(b'\n', &mut self.line)?;
        Ok(self.line.strip_suffix(b"\n"))
    }

    /// Whether what comes behind the last line is the piece of one, with any room behind it that the system
    /// has given and not filled. It is not if it is too long, or a whole line with another octet in the place
    /// of its end.
    fn is_cut_off(&mut self, mut before: Check) -> io::Result<bool> {
        let whole = self.line.split_last();
        let is_whole = whole.is_some_and(|(_, text)| before.verified(text).is_some());
        let piece = self.line.iter().rposition(|it| *it != 0).map_or(0, |it| it.saturating_add(1));
        Ok(!is_whole && piece < LINE && self.has_only_room()?)
    }

    /// Whether nothing but zeros comes to the end of the file.
    fn has_only_room(&mut self) -> io::Result<bool> {
        loop {
            let read = self.file.fill_buf()?;
            if read.is_empty() || read.iter().any(|it| *it != 0) {
                return Ok(read.is_empty());
            }
            let count = read.len();
            self.file.consume(count);
        }
    }
}

impl fmt::Display for BadSnapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "revocation.events.snapshot_file {}: {}: its events would be forgotten; put back a good one, \
             name another, or remove it if that is meant",
            self.path.display(),
            self.why
        )
    }
}

impl std::error::Error for BadSnapshot {}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::FixedClock;
    use crate::state::revocation::events::Mark;
    use futures_util::FutureExt;
    use keybound_core::oauth::{EventKind, SubjectKey};
    use std::os::unix::fs::PermissionsExt;
    use std::time::Duration;
    use tempfile::TempDir;

    const ISSUER: &str = "https://as.example.com";
    const NOW: UnixTime = UnixTime::from_secs(1_800_000_000);

    /// A process that keeps marks in a file.
    struct Process {
        marks: Arc<Marks>,
        journal: Arc<Journal>,
    }

    impl Process {
        /// One that begins with what is in the file.
        fn of(path: &Path) -> Self {
            let marks = Arc::new(Marks::new(1_000_000));
            read(path, ISSUER, |line| restore(&marks, line, NOW)).unwrap();
            let clock: Arc<dyn Clock> = Arc::new(FixedClock(NOW));
            let journal = Arc::new(Journal::of(path.to_owned(), ISSUER, &marks, &clock));
            Self { marks, journal }
        }

        /// Puts a mark into force.
        fn put(&self, number: u32, until: i64) {
            let mut pending = self.journal.pending();
            self.marks.put(marked(number, until), NOW);
            pending.mark(marked(number, until));
        }

        /// What is in force, in order.
        fn all(&self) -> Vec<Marked> {
            let mut all = self.marks.all(NOW);
            all.sort_by_key(|it| *it.0.octets());
            all
        }
    }

    fn marked(number: u32, until: i64) -> Marked {
        let mut octets = [0; 16];
        octets[..4].copy_from_slice(&number.to_be_bytes());
        let (until, expires) =
            (UnixTime::from_secs(until), NOW.saturating_add(Duration::from_secs(60)));
        (SubjectKey::from_octets(octets), Mark { until, expires, kind: EventKind::SessionRevoked })
    }

    fn place() -> (TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("events");
        (folder, path)
    }

    /// How many lines about marks are in the file.
    fn lines(path: &Path) -> usize {
        fs::read_to_string(path).unwrap().lines().skip(2).count()
    }

    #[tokio::test]
    async fn what_is_kept_is_in_force_in_the_next_process_and_others_cannot_read_it() {
        let (folder, path) = place();
        let one = Process::of(&path);
        assert_eq!(one.all(), [], "there is no file yet");
        for number in 0..5 {
            one.put(number, 7);
            one.journal.save().await.unwrap();
            assert_eq!(Process::of(&path).all(), one.all());
        }
        one.put(3, 9);
        one.journal
            .pending()
            .passed_over((UnixTime::from_secs(5), NOW.saturating_add(Duration::from_secs(1))));
        one.journal.save().await.unwrap();
        assert_eq!(lines(&path), 7, "only what is new is added");
        let next = Process::of(&path);
        assert_eq!(next.all(), one.all());
        assert_eq!(next.marks.no_room(NOW), Some(UnixTime::from_secs(5)));
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "nothing is left beside it");
    }

    #[tokio::test]
    async fn what_came_before_a_crash_and_was_not_acknowledged_does_no_harm() {
        let (_folder, path) = place();
        let one = Process::of(&path);
        (0..3).for_each(|it| one.put(it, 7));
        one.journal.save().await.unwrap();
        let kept = one.all();
        one.put(3, 7);
        one.journal.save().await.unwrap();
        let whole = fs::read(&path).unwrap();
        let last = whole.trim_ascii_end().iter().rposition(|it| *it == b'\n').unwrap() + 1;
        for cut in last..whole.len() {
            fs::write(&path, &whole[..cut]).unwrap();
            let next = Process::of(&path);
            assert_eq!(next.all(), kept, "{cut}");
            next.put(9, 7);
            next.journal.save().await.unwrap();
            assert_eq!(Process::of(&path).all(), next.all(), "{cut}");
        }
        // Nor does room that the system has given and not filled, of one line or of many.
        for (end, room) in [(last, 50), (last, LINE), (last + 9, LINE), (last + 9, 1 << 20)] {
            let with_room = [&whole[..end], &vec![0; room]].concat();
            fs::write(&path, &with_room).unwrap();
            assert_eq!(Process::of(&path).all(), kept, "{end} {room}");
            fs::write(&path, [&with_room, &whole[last..]].concat()).unwrap();
            assert!(read(&path, ISSUER, |_| ()).is_err(), "what comes behind is not passed over");
        }
        // Whole lines of such a write are in force.
        fs::write(&path, &whole).unwrap();
        assert_eq!(Process::of(&path).all().len(), 4);
    }

    #[tokio::test]
    async fn a_file_with_a_changed_octet_is_an_error_that_says_what_to_do() {
        let (_folder, path) = place();
        let one = Process::of(&path);
        (0..3).for_each(|it| one.put(it, 7));
        one.journal.save().await.unwrap();
        one.put(3, 7);
        one.journal.save().await.unwrap();
        let good = fs::read(&path).unwrap();
        for place in 0..good.len() {
            for other in [good[place] ^ 1, good[place] ^ 0x20, b'\n', 0] {
                let mut changed = good.clone();
                changed[place] = other;
                if changed == good {
                    continue;
                }
                fs::write(&path, &changed).unwrap();
                let told = read(&path, ISSUER, |_| ()).unwrap_err().to_string();
                for part in ["forgotten", "put back a good one", "or remove it"] {
                    assert!(told.contains(part), "{place} {other}: {told}");
                }
            }
        }
    }

    #[tokio::test]
    async fn a_file_that_is_there_and_cannot_be_used_is_an_error() {
        let (_folder, path) = place();
        let one = Process::of(&path);
        (0..4).for_each(|it| one.put(it, 7));
        one.journal.save().await.unwrap();
        let good = fs::read_to_string(&path).unwrap();
        let all: Vec<_> = good.split_inclusive('\n').collect();
        let without = |place: usize| [&all[..place], &all[place + 1..]].concat().concat();
        let (mut swapped, mut twice) = (all.clone(), all.clone());
        swapped.swap(3, 4);
        twice.insert(3, all[3]);
        for (text, why) in [
            (String::new(), "no file of events"),
            (without(0), "no file of events"),
            (good.replace("version 2", "version 1"), "another version"),
            (without(1), "another issuer"),
            (good.replace(ISSUER, "https://other"), "another issuer"),
            (without(3), "line 4 is not as it was written"),
            (swapped.concat(), "line 4 is not as it was written"),
            (twice.concat(), "line 5 is not as it was written"),
            (format!("{good}{}\n", "x".repeat(LINE)), "line 7 is not as it was written"),
            (format!("{good}{}", "x".repeat(LINE)), "line 7 is not as it was written"),
        ] {
            fs::write(&path, &text).unwrap();
            let found = read(&path, ISSUER, |_| ()).unwrap_err().to_string();
            assert!(found.contains(why) && found.contains("forgotten"), "{text}: {found}");
        }
        fs::write(&path, &good).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).unwrap();
        assert!(read(&path, ISSUER, |_| ()).is_err(), "anybody could have written it");
    }

    #[tokio::test]
    async fn a_file_that_says_little_is_written_anew_with_all_that_is_in_force() {
        let (_folder, path) = place();
        let one = Process::of(&path);
        let (subjects, mut longest) = (100, 0);
        let most = 2 * subjects + SPARE;
        for turn in 0..150 {
            (0..100).for_each(|it| one.put(it, turn));
            one.journal.save().await.unwrap();
            assert!(lines(&path) <= most, "{}", lines(&path));
            longest = longest.max(lines(&path));
        }
        assert_eq!(longest, most, "no sooner than that");
        assert!(lines(&path) < most / 2);
        assert_eq!(Process::of(&path).all(), one.all());
        assert_eq!(one.all().len(), subjects);
    }

    #[tokio::test]
    async fn more_than_is_held_for_a_write_is_kept_all_the_same() {
        let (_folder, path) = place();
        let one = Process::of(&path);
        one.journal.save().await.unwrap();
        let count = u32::try_from(PENDING).unwrap() + 10;
        (0..count).for_each(|it| one.put(it, 7));
        assert!(one.journal.pending().lines.is_empty());
        one.journal.save().await.unwrap();
        assert_eq!(Process::of(&path).all().len(), PENDING + 10);
    }

    #[tokio::test]
    async fn what_a_failed_write_left_behind_is_not_added_to() {
        let (folder, path) = place();
        let one = Process::of(&path);
        one.put(0, 7);
        one.journal.save().await.unwrap();
        // The disk is full, within a line.
        {
            let mut file = Arc::clone(&one.journal.file).lock_owned().await;
            let written = file.as_mut().unwrap();
            written.file.write_all(b"half a li").unwrap();
        }
        one.put(1, 7);
        one.journal.save().await.unwrap();
        assert_eq!(Process::of(&path).all(), one.all());
        // A folder is in the way.
        fs::remove_file(&path).unwrap();
        fs::create_dir_all(path.join("full")).unwrap();
        one.put(2, 7);
        assert!(one.journal.save().await.is_err());
        assert!(one.journal.save().await.is_err(), "it is not taken for kept");
        fs::remove_dir_all(&path).unwrap();
        one.journal.save().await.unwrap();
        assert_eq!(Process::of(&path).all(), one.all());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }

    #[tokio::test]
    async fn a_file_that_is_taken_away_or_cut_is_written_anew() {
        let (_folder, path) = place();
        let one = Process::of(&path);
        (0..3).for_each(|it| one.put(it, 7));
        one.journal.save().await.unwrap();
        fs::remove_file(&path).unwrap();
        one.put(3, 7);
        one.journal.save().await.unwrap();
        assert_eq!(Process::of(&path).all(), one.all());
        fs::write(&path, "").unwrap();
        one.put(4, 7);
        one.journal.save().await.unwrap();
        assert_eq!(Process::of(&path).all(), one.all());
    }

    #[tokio::test]
    async fn what_another_process_keeps_in_the_same_file_is_not_forgotten() {
        let (_folder, path) = place();
        let (one, other) = (Process::of(&path), Process::of(&path));
        for (process, number) in [(&one, 0), (&other, 1), (&one, 2), (&other, 3)] {
            process.put(number, 7);
            process.journal.save().await.unwrap();
        }
        assert_eq!(Process::of(&path).all().len(), 4);
    }

    #[tokio::test]
    async fn a_write_goes_on_when_who_waits_for_it_goes_away() {
        let (_folder, path) = place();
        let one = Process::of(&path);
        one.put(0, 7);
        let mut first = Box::pin(one.journal.save());
        assert!(first.as_mut().now_or_never().is_none());
        drop(first);
        one.put(1, 7);
        one.journal.save().await.unwrap();
        assert_eq!(Process::of(&path).all(), one.all());
    }

    #[tokio::test]
    async fn those_who_wait_meanwhile_share_the_next_write() {
        let (_folder, path) = place();
        let one = Process::of(&path);
        one.journal.save().await.unwrap();
        let saves = futures_util::future::join_all((0..100).map(|it| {
            one.put(it, 7);
            one.journal.save()
        }));
        assert!(saves.await.iter().all(Result::is_ok));
        assert_eq!(Process::of(&path).all().len(), 100);
        assert!(one.journal.pending().is_empty());
    }
}
