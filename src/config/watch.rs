//! Detection of changes to the files that a configuration was read from.
//!
//! Files are polled. Notifications of the file system come from the wrong folder when a Kubernetes
//! `ConfigMap` swaps its links, and not at all over a network file system.
//!
//! Half a file can be a valid configuration that demands less, so a file counts as changed only
//! once it is complete. One that a rename or a link puts in place is complete at once: it was
//! written before. One that is written in place is taken as complete once it has not changed for
//! much longer than a writer pauses.

use super::SourceFile;
use super::compile::{of_long, read_file};
use crate::file_stamp::{PLACED, Stamp, UNFINISHED, WRITTEN, patience};
use keybound_core::UnixTime;
use keybound_core::jose::Thumbprint;
use std::path::Path;
use std::time::Duration;
use tokio::time::Instant;

/// The files that a configuration was read from, and their present content.
#[derive(Clone, Debug)]
pub struct Watch(Vec<Watched>);

/// The content of the files at one poll.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileState(Vec<Option<Thumbprint>>);

#[derive(Clone, Debug)]
struct Watched {
    then: SourceFile,
    now: Option<Thumbprint>,
    stamp: Option<Stamp>,
    /// The number of polls since the stamp changed.
    looks: u8,
    /// When it last changed.
    since: Instant,
    /// How long it must stay unchanged to count as complete.
    patience: Duration,
}

/// How many polls a stamp must stay the same before it is trusted. A file system's clock can be so
/// coarse that two writes leave the same stamp; until then the file is read each time.
const TRUSTED_AFTER: u8 = 8;

impl Watch {
    /// Watches the files that a configuration was read from, starting at `now`.
    pub fn over(source_files: Vec<SourceFile>, now: Instant) -> Self {
        let watched = |then: SourceFile| {
            let (content, stamp) = (then.content, Stamp::of(&then.path));
            Watched { then, now: content, stamp, looks: 0, since: now, patience: WRITTEN }
        };
        Self(source_files.into_iter().map(watched).collect())
    }

    /// Reads the files `now`. This may block on the disk.
    pub fn look(&mut self, now: Instant) -> FileState {
        self.0.iter_mut().for_each(|it| it.look(now));
        FileState(self.0.iter().map(|it| it.now).collect())
    }

    /// When the changed files will be complete, if they do not change again.
    pub fn settles(&self) -> Instant {
        let changed = self.0.iter().filter(|it| it.now != it.then.content);
        let settles = changed.filter_map(|it| it.since.checked_add(it.patience));
        settles.max().unwrap_or_else(Instant::now)
    }

    /// The files whose content is not what it was when `older` was read, the configuration file aside.
    pub fn changed_since<'a>(&'a self, older: &'a Self) -> impl Iterator<Item = &'a Path> {
        let is_same = |it: &Watched| older.0.iter().any(|old| old.then == it.then);
        self.0.iter().skip(1).filter(move |it| !is_same(it)).map(|it| &*it.then.path)
    }

    /// Whether `newer` was read from the content in `state`, as far as it shares files with this.
    pub fn has_seen(&self, state: &FileState, newer: &Self) -> bool {
        self.0.iter().zip(&state.0).all(|(watched, content)| {
            let mut same = newer.0.iter().filter(|it| it.then.path == watched.then.path);
            same.all(|it| it.then.content == *content)
        })
    }

    /// Also watches the files of `newer` that are not among these and may still be written, as
    /// changed files. Returns whether there are any. `today` is the present time.
    pub fn adopt(&mut self, newer: &Self, now: Instant, today: UnixTime) -> bool {
        let is_unknown = |new: &&Watched| self.0.iter().all(|it| it.then.path != new.then.path);
        let unknown = newer.0.iter().filter(is_unknown);
        let adopted: Vec<_> = unknown.filter_map(|it| it.unsettled(now, today)).collect();
        let are_any = !adopted.is_empty();
        self.0.extend(adopted);
        are_any
    }

    /// Whether `state` is the content that the configuration was read from.
    pub fn is_same(&self, state: &FileState) -> bool {
        self.0.iter().map(|it| it.then.content).eq(state.0.iter().copied())
    }

    /// The files that have disappeared in `state`. Empty if another file has changed too, since
    /// then there may be a new configuration to read. A file that exists but cannot be read counts
    /// as changed, so that reading it reports the reason.
    pub fn missing(&self, state: &FileState) -> Vec<&Path> {
        let mut missing = vec![];
        for (watched, now) in self.0.iter().zip(&state.0) {
            match (watched.then.content, now) {
                (Some(_), None) if watched.stamp.is_none() => missing.push(&*watched.then.path),
                (then, now) if then != *now => return vec![],
                _ => (),
            }
        }
        missing
    }
}

impl Watched {
    /// The same as a recent change, unless it is old enough to be complete.
    fn unsettled(&self, now: Instant, today: UnixTime) -> Option<Self> {
        let stamp = self.stamp.as_ref()?;
        let age = today.since(UnixTime::from_secs(stamp.changed().saturating_add(1)));
        (age < UNFINISHED).then(|| Self {
            then: SourceFile { path: self.then.path.clone(), content: None },
            since: now.checked_sub(age).unwrap_or(now),
            patience: patience(None, Some(stamp)),
            ..self.clone()
        })
    }

    fn look(&mut self, now: Instant) {
        // Taken before reading, so that a write in between is seen at the next poll.
        let stamp = Stamp::of(&self.then.path);
        if stamp == self.stamp {
            self.looks = self.looks.saturating_add(1);
        } else {
            (self.looks, self.since) = (0, now);
            self.patience = patience(self.stamp.as_ref(), stamp.as_ref());
            self.stamp = stamp;
        }
        if self.looks < TRUSTED_AFTER {
            let content = read_file(&self.then.path).ok();
            let digest = content.as_deref().map(Thumbprint::of);
            let digest = digest.or_else(|| of_long(self.stamp.as_ref()));
            if digest != self.now && 0 < self.looks {
                (self.since, self.patience) = (now, WRITTEN);
            }
            let is_whole = content.is_none_or(|it| it.last().is_none_or(|it| *it == b'\n'));
            if self.patience != PLACED && !is_whole {
                self.patience = UNFINISHED;
            }
            self.now = digest;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::attempt;
    use std::fs;
    use std::os::unix::fs::MetadataExt;
    use std::os::unix::fs::symlink;
    use std::path::PathBuf;
    use std::time::SystemTime;
    use tempfile::TempDir;

    const CONFIG: &str = "\
listen: {tls: {certificate_file: server.pem, key_file: server.key}}
issuers:
  - issuer: https://as.example.com
    audiences: [https://api.example.com]
    keys: {jwks_file: jwks.json}
policies:
  - name: payments
";

    /// A configuration that is refused for its files, in which there is nothing of use.
    fn folder() -> (TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        for name in ["server.pem", "server.key", "jwks.json"] {
            fs::write(folder.path().join(name), name).unwrap();
        }
        let file = folder.path().join("keybound.yaml");
        fs::write(&file, CONFIG).unwrap();
        (folder, file)
    }

    #[track_caller]
    fn check(edit: impl FnOnce(&Path), same: bool, missing: &[&str]) {
        let (folder, file) = folder();
        let mut watch = Watch::over(attempt(&file).source_files, Instant::now());
        for _ in 0..=TRUSTED_AFTER {
            let state = watch.look(Instant::now());
            assert!(watch.is_same(&state));
        }
        edit(folder.path());
        let state = watch.look(Instant::now());
        assert_eq!(watch.is_same(&state), same);
        let names: Vec<_> =
            watch.missing(&state).iter().map(|it| it.file_name().unwrap()).collect();
        assert_eq!(names, missing);
    }

    fn write(name: &str, content: &str) -> impl FnOnce(&Path) {
        let (name, content) = (name.to_owned(), content.to_owned());
        move |folder| fs::write(folder.join(name), content).unwrap()
    }

    #[test]
    fn what_is_in_the_files_counts_and_not_when_they_were_written() {
        check(|_| (), true, &[]);
        check(write("keybound.yaml", CONFIG), true, &[]);
        check(write("keybound.yaml", &CONFIG.replace("payments", "paymentz")), false, &[]);
        check(write("server.key", "server.kez"), false, &[]);
        check(write("jwks.json", "other.json"), false, &[]);
        check(write("other", ""), true, &[]);
    }

    #[test]
    fn a_file_that_goes_is_missing_unless_another_changes_too() {
        let remove = |name: &'static str| move |it: &Path| fs::remove_file(it.join(name)).unwrap();
        check(remove("keybound.yaml"), false, &["keybound.yaml"]);
        check(remove("server.pem"), false, &["server.pem"]);
        let both = |folder: &Path| {
            remove("server.pem")(folder);
            write("keybound.yaml", "other")(folder);
        };
        check(both, false, &[]);
    }

    #[test]
    fn a_long_file_that_was_refused_is_read_again_once_it_is_another() {
        let (folder, file) = folder();
        let list = folder.path().join("revoked.jsonl");
        let long = "{\"jti\":\"a\"}\n".repeat(100_000);
        fs::write(&list, format!("{long}{{\"jti\":")).unwrap();
        let revoking = "    revocation: {denylist_file: revoked.jsonl}\npolicies:\n";
        fs::write(&file, CONFIG.replace("policies:\n", revoking)).unwrap();
        let attempt = attempt(&file);
        assert!(attempt.outcome.is_err());
        let mut watch = Watch::over(attempt.source_files, Instant::now());
        for _ in 0..=TRUSTED_AFTER {
            let state = watch.look(Instant::now());
            assert!(watch.is_same(&state));
        }
        fs::write(folder.path().join("mended"), long).unwrap();
        fs::rename(folder.path().join("mended"), &list).unwrap();
        let state = watch.look(Instant::now());
        assert!(!watch.is_same(&state) && watch.missing(&state).is_empty());
        fs::remove_file(&list).unwrap();
        let state = watch.look(Instant::now());
        assert_eq!(watch.missing(&state), [&*list]);
    }

    #[test]
    fn a_file_that_is_there_and_cannot_be_read_is_not_missing() {
        let long = |it: &Path| fs::write(it.join("keybound.yaml"), " ".repeat(2 << 20)).unwrap();
        check(long, false, &[]);
        let device = |it: &Path| {
            fs::remove_file(it.join("keybound.yaml")).unwrap();
            symlink("/dev/zero", it.join("keybound.yaml")).unwrap();
        };
        check(device, false, &[]);
        let circle = |it: &Path| {
            fs::remove_file(it.join("keybound.yaml")).unwrap();
            symlink("keybound.yaml", it.join("keybound.yaml")).unwrap();
        };
        check(circle, false, &["keybound.yaml"]);
    }

    #[test]
    fn a_file_that_comes_back_as_it_was_is_the_same() {
        let (folder, file) = folder();
        let mut watch = Watch::over(attempt(&file).source_files, Instant::now());
        fs::rename(&file, folder.path().join("aside")).unwrap();
        let state = watch.look(Instant::now());
        assert!(!watch.is_same(&state));
        fs::rename(folder.path().join("aside"), &file).unwrap();
        let state = watch.look(Instant::now());
        assert!(watch.is_same(&state));
    }

    #[test]
    fn another_target_of_a_link_is_another_file() {
        let (folder, file) = folder();
        let volume = folder.path().join("volume");
        for (data, text) in [("..one", "one"), ("..two", "two")] {
            fs::create_dir_all(volume.join(data)).unwrap();
            fs::write(volume.join(data).join("keybound.yaml"), text).unwrap();
        }
        symlink("..one", volume.join("..data")).unwrap();
        fs::remove_file(&file).unwrap();
        let file = volume.join("keybound.yaml");
        symlink("..data/keybound.yaml", &file).unwrap();
        let mut watch = Watch::over(attempt(&file).source_files, Instant::now());
        let state = watch.look(Instant::now());
        assert!(watch.is_same(&state));
        symlink("..two", volume.join("..data_tmp")).unwrap();
        fs::rename(volume.join("..data_tmp"), volume.join("..data")).unwrap();
        let state = watch.look(Instant::now());
        assert!(!watch.is_same(&state));
    }

    /// A file of that content whose name came later than it.
    fn placed(folder: &Path, name: &str, content: &str) {
        let beside = folder.join("beside");
        fs::write(&beside, content).unwrap();
        let earlier = SystemTime::UNIX_EPOCH;
        fs::File::options().write(true).open(&beside).unwrap().set_modified(earlier).unwrap();
        fs::rename(beside, folder.join(name)).unwrap();
    }

    fn other() -> String {
        CONFIG.replace("payments", "paymentz")
    }

    /// An edit that another edit follows after some milliseconds, and when what is there then counts.
    #[track_caller]
    fn settles(first: impl FnOnce(&Path), then: impl FnOnce(&Path), after: u64, expected: u64) {
        let (folder, file) = folder();
        let start = Instant::now();
        let at = |millis| start.checked_add(Duration::from_millis(millis)).unwrap();
        let mut watch = Watch::over(attempt(&file).source_files, start);
        watch.look(start);
        first(folder.path());
        watch.look(start);
        assert!(start < watch.settles());
        then(folder.path());
        watch.look(at(after));
        assert_eq!(watch.settles(), at(expected));
    }

    #[test]
    fn a_file_counts_once_it_has_stood_still() {
        let nothing = |_: &Path| ();
        let placed = |it: &Path| placed(it, "keybound.yaml", &other());
        let created = |it: &Path| {
            fs::write(it.join("beside"), other()).unwrap();
            // Written and named in the same moment of a coarse clock, or written where it is.
            fs::rename(it.join("beside"), it.join("keybound.yaml")).unwrap();
            let file = fs::File::options().write(true).open(it.join("keybound.yaml")).unwrap();
            let later = SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(1 << 32)).unwrap();
            file.set_modified(later).unwrap();
        };
        let half = other().split_at(100).0.to_owned();
        let half = |it: &Path| fs::write(it.join("keybound.yaml"), &half).unwrap();
        let created_half = |it: &Path| {
            // Another file that is written where it is, as by `rm` and a copy.
            fs::rename(it.join("keybound.yaml"), it.join("aside")).unwrap();
            half(it);
        };
        let whole = |it: &Path| fs::write(it.join("keybound.yaml"), other()).unwrap();
        let gone = |it: &Path| fs::remove_file(it.join("keybound.yaml")).unwrap();
        settles(placed, nothing, 0, 100);
        settles(created, nothing, 0, 500);
        settles(created_half, nothing, 0, 10_000);
        settles(whole, nothing, 0, 3_000);
        settles(whole, nothing, 2_999, 3_000);
        settles(half, nothing, 0, 10_000);
        settles(gone, nothing, 0, 100);
        settles(half, whole, 240, 3_240);
        settles(half, whole, 9_999, 12_999);
        settles(half, placed, 240, 340);
        settles(placed, half, 50, 10_050);
        settles(gone, placed, 50, 150);
        settles(gone, created, 50, 550);
        settles(placed, write("server.key", "server.kez\n"), 50, 3_050);
    }

    /// A new configuration is the first to name a file of this content, `age` seconds after that was
    /// written. When both count; none: nothing more is waited for.
    #[track_caller]
    fn names(content: Option<&str>, age: u64, expected: Option<u64>) {
        let (folder, file) = folder();
        fs::write(&file, CONFIG.replace("server.pem", "server.key")).unwrap();
        let start = Instant::now();
        let mut watch = Watch::over(attempt(&file).source_files, start);
        watch.look(start);
        let named = folder.path().join("server.pem");
        fs::remove_file(&named).unwrap();
        let mut written = UnixTime::from_secs(0);
        if let Some(content) = content {
            fs::write(&named, content).unwrap();
            written = UnixTime::from_secs(fs::metadata(&named).unwrap().ctime());
        }
        placed(folder.path(), "keybound.yaml", CONFIG);
        let newer = Watch::over(attempt(&file).source_files, start);
        let today = written.saturating_add(Duration::from_secs(age));
        assert_eq!(watch.adopt(&newer, start, today), expected.is_some());
        assert!(!watch.adopt(&newer, start, today), "it is known by now");
        let state = watch.look(start);
        assert!(watch.has_seen(&state, &newer));
        let settles = start.checked_add(Duration::from_millis(expected.unwrap_or(100))).unwrap();
        assert_eq!(watch.settles(), settles);
    }

    #[test]
    fn a_file_that_is_named_for_the_first_time_must_have_stood_still_as_well() {
        names(Some("whole\n"), 0, Some(500));
        names(Some("half"), 0, Some(10_000));
        // A part of a second is not counted.
        names(Some("half"), 1, Some(10_000));
        names(Some("half"), 6, Some(5_000));
        names(Some("half"), 10, Some(1_000));
        names(Some("half"), 11, None);
        names(Some("whole\n"), 11, None);
        names(None, 0, None);
    }

    #[test]
    fn a_configuration_is_held_against_what_was_seen() {
        let (folder, file) = folder();
        let over = || Watch::over(attempt(&file).source_files, Instant::now());
        let mut watch = over();
        write("server.key", "new\n")(folder.path());
        let state = watch.look(Instant::now());
        assert!(watch.has_seen(&state, &over()));
        write("server.key", "newer\n")(folder.path());
        assert!(!watch.has_seen(&state, &over()), "written between the look and the attempt");
    }

    #[test]
    fn two_writes_that_a_coarse_clock_cannot_tell_apart_are_seen() {
        let (_folder, file) = folder();
        let mut watch = Watch::over(attempt(&file).source_files, Instant::now());
        let stamp = Stamp::of(&file);
        let state = watch.look(Instant::now());
        assert!(watch.is_same(&state));
        fs::write(&file, CONFIG.replace("payments", "paymentz")).unwrap();
        // As if the clock had not moved.
        watch.0[0].stamp = Stamp::of(&file);
        assert_ne!(stamp, None);
        let state = watch.look(Instant::now());
        assert!(!watch.is_same(&state));
    }
}
