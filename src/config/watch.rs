//! Knows whether the files that a configuration was made from are still as they were.
//!
//! It looks, again and again, rather than being told: notifications of the file system come from
//! the wrong folder when a Kubernetes `ConfigMap` swaps its links, and not at all over a network.

use super::Ingredient;
use super::compile::read_file;
use crate::jose::thumbprint::Thumbprint;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// The files that a configuration was made from, and what is in them now.
#[derive(Clone, Debug)]
pub struct Watch(Vec<Watched>);

/// What was in the files at a look.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sight(Vec<Option<Thumbprint>>);

#[derive(Clone, Debug)]
struct Watched {
    then: Ingredient,
    now: Option<Thumbprint>,
    stamp: Option<Stamp>,
    /// How many looks the stamp has stayed the same.
    looks: u8,
}

/// What a file system says of a file. It follows links, so that another target is another file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    file: (u64, u64),
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

/// A file system's clock can be so coarse that two writes in a row leave the same stamp. A stamp
/// is trusted once it has stayed for so many looks; until then the file is read each time.
const TRUSTED_AFTER: u8 = 8;

impl Watch {
    /// Watches the files that a configuration was made from.
    pub fn over(ingredients: Vec<Ingredient>) -> Self {
        let watched = |then: Ingredient| {
            let now = then.content;
            Watched { then, now, stamp: None, looks: 0 }
        };
        Self(ingredients.into_iter().map(watched).collect())
    }

    /// What is in the files now. It may wait for the disk.
    pub fn look(&mut self) -> Sight {
        self.0.iter_mut().for_each(Watched::look);
        Sight(self.0.iter().map(|it| it.now).collect())
    }

    /// Whether `sight` is what the configuration was made from.
    pub fn is_same(&self, sight: &Sight) -> bool {
        self.0.iter().map(|it| it.then.content).eq(sight.0.iter().copied())
    }

    /// The files that could be read when the configuration was made, and are not there in `sight`;
    /// none when another has changed besides, for then there may be something new to be made. What
    /// is there and cannot be read is a change: making the configuration anew says what is wrong.
    pub fn missing(&self, sight: &Sight) -> Vec<&Path> {
        let mut missing = vec![];
        for (watched, now) in self.0.iter().zip(&sight.0) {
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
    fn look(&mut self) {
        // Before it is read: what is written meanwhile is then seen at the next look.
        let stamp = Stamp::of(&self.then.path);
        if stamp == self.stamp {
            self.looks = self.looks.saturating_add(1);
        } else {
            (self.stamp, self.looks) = (stamp, 0);
        }
        if self.looks < TRUSTED_AFTER {
            self.now = read_file(&self.then.path).ok().as_deref().map(Thumbprint::of);
        }
    }
}

impl Stamp {
    fn of(path: &Path) -> Option<Self> {
        let found = fs::metadata(path).ok()?;
        Some(Self {
            file: (found.dev(), found.ino()),
            size: found.size(),
            modified: (found.mtime(), found.mtime_nsec()),
            changed: (found.ctime(), found.ctime_nsec()),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::attempt;
    use std::os::unix::fs::symlink;
    use std::path::PathBuf;
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
        let mut watch = Watch::over(attempt(&file).ingredients);
        for _ in 0..=TRUSTED_AFTER {
            let sight = watch.look();
            assert!(watch.is_same(&sight));
        }
        edit(folder.path());
        let sight = watch.look();
        assert_eq!(watch.is_same(&sight), same);
        let names: Vec<_> =
            watch.missing(&sight).iter().map(|it| it.file_name().unwrap()).collect();
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
        let mut watch = Watch::over(attempt(&file).ingredients);
        fs::rename(&file, folder.path().join("aside")).unwrap();
        let sight = watch.look();
        assert!(!watch.is_same(&sight));
        fs::rename(folder.path().join("aside"), &file).unwrap();
        let sight = watch.look();
        assert!(watch.is_same(&sight));
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
        let mut watch = Watch::over(attempt(&file).ingredients);
        let sight = watch.look();
        assert!(watch.is_same(&sight));
        symlink("..two", volume.join("..data_tmp")).unwrap();
        fs::rename(volume.join("..data_tmp"), volume.join("..data")).unwrap();
        let sight = watch.look();
        assert!(!watch.is_same(&sight));
    }

    #[test]
    fn two_writes_that_a_coarse_clock_cannot_tell_apart_are_seen() {
        let (_folder, file) = folder();
        let mut watch = Watch::over(attempt(&file).ingredients);
        let stamp = Stamp::of(&file);
        let sight = watch.look();
        assert!(watch.is_same(&sight));
        fs::write(&file, CONFIG.replace("payments", "paymentz")).unwrap();
        // As if the clock had not moved.
        watch.0[0].stamp = Stamp::of(&file);
        assert_ne!(stamp, None);
        let sight = watch.look();
        assert!(!watch.is_same(&sight));
    }
}
