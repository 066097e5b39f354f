//! When a file that is followed is to be read again. Pure: its metadata and the time are parameters.

use crate::file_stamp::{PLACED, Stamp, UNFINISHED, patience};
use std::time::Duration;
use tokio::time::Instant;

/// What was seen of a file.
#[derive(Debug)]
pub(super) struct Followed {
    read: LastRead,
    /// The file at the last look.
    seen: Option<Stamp>,
    /// Whether it had changed then, and is still to be read.
    pending: bool,
    /// Since when it looks like that, or files are placed one after the other: each is complete, and none
    /// need wait for the last.
    since: Instant,
    /// How long it must.
    patience: Duration,
}

/// The file that was read last, with or without success.
#[derive(Debug)]
enum LastRead {
    /// None, or one that may have changed since and looks as it did.
    Unsure,
    /// One with this stamp; none if there was no file.
    Of(Option<Stamp>),
}

impl Followed {
    /// A file that was read when it had the stamp `read`, at the time `now`. Without one, it is read again
    /// in any case.
    pub(super) fn read_as(read: Option<Stamp>, now: Instant) -> Self {
        let seen = read.clone();
        let read = read.map_or(LastRead::Unsure, |it| LastRead::Of(Some(it)));
        Self { read, seen, pending: false, since: now, patience: PLACED }
    }

    /// Whether to read the file, which has the stamp `found` now. `ends` tells whether its last line has an
    /// end, and is asked only when it has changed.
    pub(super) fn is_due(
        &mut self,
        found: Option<Stamp>,
        now: Instant,
        ends: impl FnOnce() -> bool,
    ) -> bool {
        if matches!(&self.read, LastRead::Of(it) if *it == found) {
            (self.seen, self.pending) = (found, false);
            return false;
        }
        if found != self.seen {
            let was_placed = self.pending && self.patience == PLACED;
            self.patience = patience(self.seen.as_ref(), found.as_ref());
            if self.patience != PLACED && !ends() {
                self.patience = UNFINISHED;
            }
            if !(was_placed && self.patience == PLACED && found.is_some()) {
                self.since = now;
            }
            (self.seen, self.pending) = (found, true);
        }
        self.patience <= now.saturating_duration_since(self.since)
    }

    /// The file was read, with this stamp before and after.
    pub(super) fn was_read(&mut self, stamp: Option<Stamp>) {
        (self.read, self.pending) = (LastRead::Of(stamp), false);
    }

    /// The file could not be read at `now`, which may pass: it is tried again after a while.
    pub(super) fn was_not_read(&mut self, now: Instant) {
        (self.since, self.patience) = (now, AGAIN);
    }
}

/// The time until a file that could not be read is tried again.
const AGAIN: Duration = Duration::from_secs(10);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::file_stamp::{CREATED, WRITTEN};
    use std::fs;
    use std::path::Path;

    const SECOND: Duration = Duration::from_secs(1);

    fn after(start: Instant, span: Duration) -> Instant {
        start.checked_add(span).unwrap()
    }

    /// How long a file that had the stamp `before` must have `found` until it is read.
    #[track_caller]
    fn read_after(before: &Stamp, found: Option<&Stamp>, ends: bool, expected: Duration) {
        let start = Instant::now();
        let mut followed = Followed::read_as(Some(before.clone()), start);
        let mut due = |found: Option<&Stamp>, at| followed.is_due(found.cloned(), at, || ends);
        assert!(!due(Some(before), start));
        let changed = after(start, SECOND);
        assert!(!due(found, changed));
        let just = expected.checked_sub(Duration::from_millis(1)).unwrap();
        assert!(!due(found, after(changed, just)));
        assert!(due(found, after(changed, expected)));
    }

    fn written(folder: &Path, name: &str, text: &str) -> Stamp {
        let path = folder.join(name);
        fs::write(&path, text).unwrap();
        Stamp::of(&path).unwrap()
    }

    #[test]
    fn a_file_is_read_once_it_is_complete() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str, text: &str| written(folder.path(), name, text);
        let (before, longer) = (at("list", "a\n"), at("list", "a\nb\n"));
        let other = at("other", "b\n");
        read_after(&before, Some(&longer), true, WRITTEN);
        read_after(&before, Some(&longer), false, UNFINISHED);
        read_after(&before, Some(&other), true, PLACED);
        read_after(&before, None, true, PLACED);
    }

    #[test]
    fn a_file_that_is_made_where_there_was_none_is_read_once_it_is_complete() {
        let folder = tempfile::tempdir().unwrap();
        let found = Some(written(folder.path(), "list", "a\n"));
        let start = Instant::now();
        let mut followed = Followed::read_as(None, start);
        assert!(!followed.is_due(found.clone(), start, || true));
        assert!(followed.is_due(found, after(start, CREATED), || true));
    }

    #[test]
    fn a_file_that_was_read_is_not_read_again_with_or_without_success() {
        let folder = tempfile::tempdir().unwrap();
        let now = Instant::now();
        let later = after(now, 60 * SECOND);
        let found = Some(written(folder.path(), "list", "a\n"));
        let mut followed = Followed::read_as(None, now);
        assert!(!followed.is_due(found.clone(), now, || true), "nothing is known of it");
        assert!(followed.is_due(found.clone(), later, || true));
        followed.was_read(found.clone());
        assert!(!followed.is_due(found, later, || true));
        assert!(!followed.is_due(None, later, || true), "it has just gone");
        let much_later = after(later, PLACED);
        assert!(followed.is_due(None, much_later, || true));
        followed.was_read(None);
        assert!(!followed.is_due(None, much_later, || true));
    }

    #[test]
    fn a_file_that_could_not_be_read_is_tried_again_after_a_while_though_it_is_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str, text: &str| written(folder.path(), name, text);
        let (before, found, another) = (at("list", "a\n"), at("new", "b\n"), at("other", "c\n"));
        let start = Instant::now();
        let mut followed = Followed::read_as(Some(before), start);
        let due =
            |it: &mut Followed, found: &Stamp, at| it.is_due(Some(found.clone()), at, || true);
        assert!(!due(&mut followed, &found, start));
        let read = after(start, PLACED);
        assert!(due(&mut followed, &found, read));
        followed.was_not_read(read);
        let just = AGAIN.checked_sub(Duration::from_millis(1)).unwrap();
        assert!(!due(&mut followed, &found, after(read, just)));
        assert!(due(&mut followed, &found, after(read, AGAIN)));
        followed.was_not_read(after(read, AGAIN));
        // One that takes its place is not kept waiting.
        let placed = after(read, AGAIN);
        assert!(!due(&mut followed, &another, placed));
        assert!(due(&mut followed, &another, after(placed, PLACED)));
    }

    #[test]
    fn files_that_are_placed_one_after_the_other_do_not_put_it_off() {
        let folder = tempfile::tempdir().unwrap();
        let start = Instant::now();
        let step = Duration::from_millis(50);
        let stamps: Vec<_> =
            (0..4).map(|it| written(folder.path(), &it.to_string(), "a\n")).collect();
        let mut followed = Followed::read_as(Some(stamps[0].clone()), start);
        let mut due = |found: &Stamp, steps| {
            followed.is_due(Some(found.clone()), after(start, step * steps), || true)
        };
        assert!(!due(&stamps[0], 0));
        assert_eq!(
            [1, 2, 3].map(|it| due(&stamps[usize::try_from(it).unwrap()], it)),
            [false, false, true]
        );
    }

    #[test]
    fn a_file_that_is_written_in_place_after_one_was_placed_is_waited_for() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str, text: &str| written(folder.path(), name, text);
        let (before, placed, longer) =
            (at("list", "a\n"), at("other", "b\n"), at("other", "b\nc\n"));
        let start = Instant::now();
        let mut followed = Followed::read_as(Some(before), start);
        assert!(!followed.is_due(Some(placed), start, || true));
        let then = after(start, PLACED);
        let just = WRITTEN.checked_sub(Duration::from_millis(1)).unwrap();
        assert!(!followed.is_due(Some(longer.clone()), then, || true));
        assert!(!followed.is_due(Some(longer.clone()), after(then, just), || true));
        assert!(followed.is_due(Some(longer), after(then, WRITTEN), || true));
    }
}
