//! Capture of refused requests for `explain`: a bounded number, redacted, and written outside the
//! request path.

mod check_request;
mod kept;
mod redact;

pub use check_request::{kept_digest, to_check_request};
pub use kept::Kept;
pub use redact::redacted;

use crate::clock::Clock;
use bytes::Bytes;
use keybound_core::{Denial, UnixTime, Verdict};
use redact::redacted_as;
use std::fmt;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

/// What to capture, and where.
#[derive(Clone, Debug)]
pub struct CaptureRules {
    /// The folder, which must exist.
    pub folder: PathBuf,
    /// The reasons for which requests are captured; empty: all.
    pub reasons: Vec<Denial>,
    /// The maximum number of files in the folder.
    pub most: usize,
}

/// Queues refused requests for a thread that writes them. Never blocks a check.
pub struct Capture {
    reasons: Vec<Denial>,
    clock: Arc<dyn Clock>,
    queue: SyncSender<Taken>,
    opens: Arc<AtomicI64>,
    waiting: Arc<AtomicUsize>,
}

/// A request to be written.
struct Taken {
    /// An encoded `CheckRequest`.
    message: Bytes,
    /// The header that carries the client certificate, if there is one.
    certificate_header: Option<String>,
    kept: Kept,
}

/// The maximum number of requests in the queue. Further ones are dropped.
const QUEUE: usize = 64;

/// The longest message that is queued, in bytes, so that the queue is at most 64 MiB. The headers a
/// proxy sends take less than a tenth of it, and bodies are not captured.
const LONGEST: usize = 1024 * 1024;

impl Capture {
    /// Starts a capture, with a thread that writes until the capture is dropped.
    ///
    /// # Errors
    ///
    /// The folder does not exist, or is not writable.
    pub fn start(rules: CaptureRules, clock: Arc<dyn Clock>) -> io::Result<Self> {
        let mut captures = CaptureFolder::open(rules.folder, rules.most, clock.now())?;
        let opens = Arc::clone(&captures.opens);
        let waiting = Arc::clone(&captures.waiting);
        let (queue, taken) = sync_channel(QUEUE);
        std::thread::Builder::new()
            .name("capture".to_owned())
            .spawn(move || captures.keep_all(&taken))?;
        Ok(Self { reasons: rules.reasons, clock, queue, opens, waiting })
    }

    /// Captures the request in `message`, an encoded `CheckRequest`, if `verdict` denies it or, in
    /// report mode, would deny it, under the configuration with this digest. `certificate_header` is the
    /// header that carries the client certificate, if there is one.
    pub fn take(
        &self,
        verdict: &Verdict,
        configuration: &str,
        certificate_header: Option<&str>,
        message: impl FnOnce() -> Bytes,
    ) {
        let Some(reason) = verdict.outcome.err().filter(|it| self.wants(*it)) else { return };
        let at = self.clock.now();
        if at.as_millis() < self.opens.load(Ordering::Relaxed) {
            return;
        }
        // Reserve a place before copying: in a flood of denials, most requests find the queue full
        // and are dropped.
        let kept = || {
            let (detail, configuration) = (verdict.facts.detail, configuration.to_owned());
            Kept { at, reason, detail, configuration }
        };
        if QUEUE <= self.waiting.fetch_add(1, Ordering::Relaxed)
            || !self.send(kept(), certificate_header, message())
        {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Whether the request was queued.
    fn send(&self, kept: Kept, certificate_header: Option<&str>, message: Bytes) -> bool {
        let certificate_header = certificate_header.map(ToOwned::to_owned);
        let taken = Taken { message, certificate_header, kept };
        taken.message.len() <= LONGEST && self.queue.try_send(taken).is_ok()
    }

    fn wants(&self, reason: Denial) -> bool {
        self.reasons.is_empty() || self.reasons.contains(&reason)
    }
}

impl fmt::Debug for Capture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Capture").field("reasons", &self.reasons).finish_non_exhaustive()
    }
}

/// The folder, and the number of files in it.
struct CaptureFolder {
    folder: PathBuf,
    most: usize,
    kept: usize,
    /// When the folder was found full or not writable; none while it can be written to.
    closed: Option<UnixTime>,
    /// When the folder is checked again, in milliseconds since the epoch. Requests before that are
    /// dropped.
    opens: Arc<AtomicI64>,
    /// The length of the queue.
    waiting: Arc<AtomicUsize>,
    /// The last write failed, and a warning was logged.
    broken: bool,
    number: u64,
}

/// The interval at which a full or unwritable folder is checked again.
const LOOK: Duration = Duration::from_secs(10);

const EXTENSION: &str = "pb";

impl CaptureFolder {
    fn open(folder: PathBuf, most: usize, now: UnixTime) -> io::Result<Self> {
        let kept = kept_in(&folder)?;
        // Fail at startup rather than at the first denial, when nobody is looking.
        let trial = folder.join(format!(".keybound-{}", std::process::id()));
        drop(fs::remove_file(part_of(&trial)));
        write(&trial, b"")?;
        fs::remove_file(trial)?;
        let opens = Arc::default();
        let waiting = Arc::default();
        let mut captures =
            Self { folder, most, kept, closed: None, opens, waiting, broken: false, number: 0 };
        captures.close_if_full(now);
        Ok(captures)
    }

    fn keep_all(&mut self, taken: &Receiver<Taken>) {
        while let Ok(taken) = taken.recv() {
            self.waiting.fetch_sub(1, Ordering::Relaxed);
            if self.has_room(taken.kept.at) {
                self.keep(&taken);
            }
        }
    }

    /// Whether the folder can take a file. A full folder is counted again after a while, since the
    /// operator may have removed files.
    fn has_room(&mut self, now: UnixTime) -> bool {
        if self.closed.is_some_and(|it| LOOK <= now.since(it)) {
            // If the folder cannot be read, assume that nothing has changed.
            self.kept = kept_in(&self.folder).unwrap_or(self.kept);
            self.closed = None;
            if self.most <= self.kept {
                self.close(now);
            }
        }
        self.closed.is_none()
    }

    fn close(&mut self, now: UnixTime) {
        self.closed = Some(now);
        self.opens.store(now.saturating_add(LOOK).as_millis(), Ordering::Relaxed);
    }

    fn close_if_full(&mut self, now: UnixTime) {
        if self.most <= self.kept {
            self.close(now);
            tracing::warn!(kept = self.kept, "no more refused requests are kept");
        }
    }

    fn keep(&mut self, taken: &Taken) {
        let Taken { message, certificate_header, kept } = taken;
        let Kept { at, reason, .. } = kept;
        let header = certificate_header.as_deref();
        let Some(message) = redacted_as(kept, message, header) else { return };
        self.number = self.number.saturating_add(1);
        let (time, process) = (at.to_rfc3339_millis(), std::process::id());
        let name = format!("{time}-{reason}-{process}-{}", self.number);
        let file = self.folder.join(format!("{name}.{EXTENSION}"));
        match write(&file, &message) {
            Ok(()) => {
                self.kept = self.kept.saturating_add(1);
                self.broken = false;
                tracing::info!(file = %file.display(), "refused request kept");
                self.close_if_full(*at);
            }
            Err(error) => {
                self.close(*at);
                // Log a full disk once, not for every denial.
                if !std::mem::replace(&mut self.broken, true) {
                    tracing::warn!(%error, "refused requests are not kept");
                }
            }
        }
    }
}

/// The number of captures in the folder, including those of earlier processes.
fn kept_in(folder: &Path) -> io::Result<usize> {
    let mut kept = 0_usize;
    for entry in fs::read_dir(folder)? {
        let is_one = entry?.path().extension().is_some_and(|it| it == EXTENSION);
        kept = kept.saturating_add(usize::from(is_one));
    }
    Ok(kept)
}

/// The name of a file while it is incomplete.
fn part_of(path: &Path) -> PathBuf {
    path.with_extension("part")
}

/// Writes a file atomically.
fn write(path: &Path, message: &[u8]) -> io::Result<()> {
    let part = part_of(path);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&part)?;
    let written = file.write_all(message).and_then(|()| fs::rename(&part, path));
    if written.is_err() {
        // An incomplete file is useless, and takes up space.
        drop(fs::remove_file(&part));
    }
    written
}

/// A request as it is kept.
#[cfg(test)]
pub(crate) fn kept_as(kept: &Kept, message: &[u8]) -> Vec<u8> {
    redacted_as(kept, message, None).unwrap()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::FixedClock;
    use keybound_core::Denial::{CertificateMismatch, Internal, TokenExpired, TokenMalformed};
    use keybound_core::policy::Mode;
    use keybound_core::{Detail, Facts, Request, Target};
    use std::os::unix::fs::PermissionsExt;

    const NOW: UnixTime = UnixTime::from_millis(1_800_000_000_050);

    fn message() -> Bytes {
        let target = Target { method: "GET", path: "/a", ..Target::default() };
        to_check_request(&Request { target, ..Request::default() }, None).into()
    }

    fn verdict(outcome: Result<(), Denial>, mode: Mode) -> Verdict {
        Verdict { outcome, facts: Facts::default(), mode }
    }

    fn denied(reason: Denial) -> Verdict {
        verdict(Err(reason), Mode::Enforce)
    }

    fn expired(at: UnixTime) -> Kept {
        Kept { at, reason: TokenExpired, detail: None, configuration: String::new() }
    }

    /// A capture, and a function that does the work of its thread.
    fn capture(
        folder: &Path,
        reasons: &[Denial],
        most: usize,
    ) -> (Capture, impl FnOnce() -> CaptureFolder) {
        let (queue, taken) = sync_channel(QUEUE);
        let reasons = reasons.to_vec();
        let mut captures = CaptureFolder::open(folder.to_owned(), most, NOW).unwrap();
        let (clock, opens) = (Arc::new(FixedClock(NOW)), Arc::clone(&captures.opens));
        let waiting = Arc::clone(&captures.waiting);
        let capture = Capture { reasons, clock, queue, opens, waiting };
        let keep_all = move || {
            captures.keep_all(&taken);
            captures
        };
        (capture, keep_all)
    }

    fn files(folder: &Path) -> Vec<PathBuf> {
        let mut names: Vec<_> =
            fs::read_dir(folder).unwrap().map(|it| it.unwrap().path()).collect();
        names.sort();
        names
    }

    /// The files in the folder after everything has been written.
    fn kept(folder: &Path, reasons: &[Denial], most: usize, verdicts: &[Verdict]) -> Vec<PathBuf> {
        let (capture, keep_all) = capture(folder, reasons, most);
        for verdict in verdicts {
            capture.take(verdict, "", None, message);
        }
        drop(capture);
        keep_all();
        files(folder)
    }

    #[test]
    fn refused_requests_are_kept_up_to_a_number_and_for_the_reasons_that_are_wanted() {
        let verdicts = [
            denied(TokenExpired),
            denied(CertificateMismatch),
            verdict(Ok(()), Mode::Enforce),
            verdict(Err(TokenExpired), Mode::Report),
        ];
        for (reasons, most, expected) in [
            (&[][..], 10, 3),
            (&[], 2, 2),
            (&[], 0, 0),
            (&[TokenExpired], 10, 2),
            (&[TokenMalformed], 10, 0),
        ] {
            let folder = tempfile::tempdir().unwrap();
            let found = kept(folder.path(), reasons, most, &verdicts);
            assert_eq!(found.len(), expected, "{reasons:?} {most}");
            // Files of an earlier process count as well.
            let again = kept(folder.path(), &[], expected, &[denied(Internal)]);
            assert_eq!(again.len(), expected);
        }
    }

    #[test]
    fn nobody_writes_down_what_is_not_wanted() {
        let folder = tempfile::tempdir().unwrap();
        let (capture, _) = capture(folder.path(), &[TokenExpired], 10);
        capture.take(&denied(TokenMalformed), "", None, || panic!("as nobody should"));
    }

    #[test]
    fn a_request_that_finds_no_place_in_the_queue_is_not_copied() {
        let folder = tempfile::tempdir().unwrap();
        let (capture, keep_all) = capture(folder.path(), &[], 10 * QUEUE);
        let too_long = || Bytes::from(vec![0; LONGEST + 1]);
        capture.take(&denied(TokenExpired), "", None, too_long);
        for _ in 0..QUEUE {
            capture.take(&denied(TokenExpired), "", None, message);
        }
        let mut copies = 0;
        for _ in 0..2 {
            capture.take(&denied(TokenExpired), "", None, || {
                copies += 1;
                message()
            });
        }
        drop(capture);
        let captures = keep_all();
        assert_eq!(
            (copies, captures.kept, captures.waiting.load(Ordering::Relaxed)),
            (0, QUEUE, 0)
        );
    }

    #[test]
    fn nobody_writes_down_what_there_is_no_room_for() {
        let folder = tempfile::tempdir().unwrap();
        let (mut capture, keep_all) = capture(folder.path(), &[], 0);
        let early = LOOK.saturating_sub(Duration::from_millis(1));
        capture.clock = Arc::new(FixedClock(NOW.saturating_add(early)));
        capture.take(&denied(TokenExpired), "", None, || panic!("as nobody should"));
        capture.clock = Arc::new(FixedClock(NOW.saturating_add(LOOK)));
        let mut asked = false;
        capture.take(&denied(TokenExpired), "", None, || {
            asked = true;
            message()
        });
        assert!(asked, "somebody may have made room");
        drop(capture);
        let captures = keep_all();
        assert_eq!(captures.opens.load(Ordering::Relaxed), NOW.as_millis() + 20_000);
        assert_eq!(files(folder.path()), Vec::<PathBuf>::new());
    }

    #[test]
    fn what_finds_no_room_in_the_queue_is_let_go() {
        let folder = tempfile::tempdir().unwrap();
        let flood: Vec<_> = (0..QUEUE + 10).map(|_| denied(TokenExpired)).collect();
        assert_eq!(kept(folder.path(), &[], 1000, &flood).len(), QUEUE);
    }

    #[test]
    fn a_message_is_taken_up_to_a_length() {
        let folder = tempfile::tempdir().unwrap();
        let (capture, keep_all) = capture(folder.path(), &[], 10);
        for length in [LONGEST, LONGEST + 1] {
            // An unknown field, with a key of one byte and a length of three.
            let mut message = message().to_vec();
            message.push(0x7a);
            let rest = u64::try_from(length - message.len() - 3).unwrap();
            prost::encoding::encode_varint(rest, &mut message);
            message.resize(length, b'x');
            capture.take(&denied(TokenExpired), "", None, || message.into());
        }
        drop(capture);
        keep_all();
        assert_eq!(files(folder.path()).len(), 1);
    }

    #[test]
    fn a_file_says_when_and_why_and_is_for_its_owner_only() {
        let folder = tempfile::tempdir().unwrap();
        let found = kept(folder.path(), &[], 10, &[denied(TokenExpired)]);
        let name = found[0].file_name().unwrap().to_str().unwrap();
        assert!(name.starts_with("2027-01-15T08:00:00.050Z-token_expired-"), "{name}");
        assert!(found[0].extension().is_some_and(|it| it == EXTENSION), "{name}");
        assert_eq!(fs::metadata(&found[0]).unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_file_holds_when_and_why_and_under_which_configuration() {
        let folder = tempfile::tempdir().unwrap();
        let (capture, keep_all) = capture(folder.path(), &[], 10);
        let detail = Some(Detail::StoreFull);
        let facts = Facts { detail, ..Facts::default() };
        let reason = Denial::ReplayUnavailable;
        let verdict = Verdict { outcome: Err(reason), facts, mode: Mode::Report };
        capture.take(&verdict, "0a1b", None, message);
        drop(capture);
        keep_all();
        let found = fs::read(&files(folder.path())[0]).unwrap();
        let kept = Kept { at: NOW, reason, detail, configuration: "0a1b".to_owned() };
        assert_eq!(Kept::of(&found), Some(kept));
    }

    #[test]
    fn a_folder_that_somebody_emptied_is_filled_again() {
        let folder = tempfile::tempdir().unwrap();
        let folder = folder.path();
        let taken = |seconds| Taken {
            message: message(),
            certificate_header: None,
            kept: expired(NOW.saturating_add(Duration::from_secs(seconds))),
        };
        let mut captures = CaptureFolder::open(folder.to_owned(), 1, NOW).unwrap();
        let mut keep = |seconds| {
            let taken = taken(seconds);
            if captures.has_room(taken.kept.at) {
                captures.keep(&taken);
            }
            files(folder).len()
        };
        assert_eq!((keep(0), keep(10)), (1, 1));
        fs::remove_file(&files(folder)[0]).unwrap();
        assert_eq!((keep(19), keep(20), keep(30)), (0, 1, 1));
    }

    #[test]
    fn a_full_folder_that_cannot_be_read_is_full() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("before.pb"), "").unwrap();
        let mut captures = CaptureFolder::open(folder.path().to_owned(), 1, NOW).unwrap();
        drop(folder);
        assert!(!captures.has_room(NOW.saturating_add(LOOK)));
    }

    #[test]
    fn nothing_is_left_of_a_file_that_was_not_written_whole() {
        let folder = tempfile::tempdir().unwrap();
        let taken = folder.path().join("taken.pb");
        fs::create_dir(&taken).unwrap();
        assert!(write(&taken, b"message").is_err());
        assert_eq!(files(folder.path()), [taken]);
    }

    #[test]
    fn what_cannot_be_written_is_told_once_and_tried_again() {
        let folder = tempfile::tempdir().unwrap();
        let gone = folder.path().join("gone");
        fs::create_dir(&gone).unwrap();
        let (capture, keep_all) = capture(&gone, &[], 10);
        capture.take(&denied(TokenExpired), "", None, message);
        fs::remove_dir(&gone).unwrap();
        drop(capture);
        let mut captures = keep_all();
        assert!(captures.broken && captures.kept == 0);
        assert!(
            !captures.has_room(NOW.saturating_add(LOOK.saturating_sub(Duration::from_millis(1))))
        );
        // If the folder cannot be read either, its files count as still there.
        assert!(captures.has_room(NOW.saturating_add(LOOK)));
        fs::create_dir(&gone).unwrap();
        let kept = expired(NOW);
        captures.keep(&Taken { message: message(), certificate_header: None, kept });
        assert!(!captures.broken && captures.kept == 1 && files(&gone).len() == 1);
    }

    /// In a container, the process that follows one that was killed has the same PID.
    #[test]
    fn what_a_killed_process_left_behind_is_in_nobodys_way() {
        let folder = tempfile::tempdir().unwrap();
        let left = folder.path().join(format!(".keybound-{}.part", std::process::id()));
        fs::write(&left, "").unwrap();
        assert!(CaptureFolder::open(folder.path().to_owned(), 1, NOW).is_ok());
        assert_eq!(files(folder.path()), Vec::<PathBuf>::new());
    }

    #[test]
    fn a_folder_must_be_there_and_take_files() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "").unwrap();
        let circle = folder.path().join("circle");
        std::os::unix::fs::symlink(&circle, &circle).unwrap();
        for folder in [Path::new("/nonexistent"), &file, &circle, Path::new("/proc")] {
            let folder = folder.to_owned();
            let rules = CaptureRules { folder, reasons: vec![], most: 1 };
            assert!(Capture::start(rules, Arc::new(FixedClock(NOW))).is_err());
        }
    }
}
