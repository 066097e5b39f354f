//! Warnings about what others can read or change: files, by users of the same machine; traffic to
//! Redis, by the network in between.

use super::url::is_loopback;
use crate::config::problem::{self, Findings};
use crate::installation::DpopRules;
use crate::permissions;
use crate::state::replay::ReplayRules;
use std::ffi::{OsStr, OsString};
use std::fs::Metadata;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Others may read.
const READ: u32 = 0o004;

/// Others may reach what is in the folder.
const ENTER: u32 = 0o001;

/// How many links are followed, as the system itself does.
const LINKS: usize = 40;

/// What an operator should know of who else may use the file at `path`; nothing, where that is
/// nobody.
pub(super) fn remark(path: &Path, is_secret: bool) -> Option<String> {
    // What cannot be looked at could not be read, which is told.
    let real = path.canonicalize().ok()?;
    let found = real.metadata().ok()?;
    let shown = path.display();
    if is_reachable(&real) && permissions::lets_all_write(&found) {
        return Some(format!("{shown} can be changed by every user of this machine: chmod o-w"));
    }
    if is_mounted(&real) {
        return None;
    }
    if let Some(folder) = folders_on_the_way(path).iter().find(|it| may_be_renamed_by_all(it)) {
        let folder = folder.display();
        return Some(format!(
            "every user of this machine can put another file in the place of {shown}, for \
             {folder} can be changed by them: chmod o-w"
        ));
    }
    (is_secret && is_reachable(&real) && mode(&found) & READ != 0).then(|| {
        format!("{shown} holds a secret that every user of this machine can read: chmod o-r")
    })
}

/// The folders in which a name decides what is found at `path`: those that hold a part of the way,
/// and those of each link on it and of the way to where it leads.
fn folders_on_the_way(path: &Path) -> Vec<PathBuf> {
    let backwards = |path: &Path| path.iter().rev().map(OsStr::to_owned).collect::<Vec<OsString>>();
    let mut folders = vec![];
    let mut at = PathBuf::from("/");
    let mut links = 0..LINKS;
    let mut ahead = std::path::absolute(path).map(|it| backwards(&it)).unwrap_or_default();
    while let Some(name) = ahead.pop() {
        if name == "." {
            continue;
        }
        if name == ".." {
            at.pop();
            continue;
        }
        // The root takes the place of all before it.
        let next = at.join(&name);
        if next.parent().is_some() {
            folders.push(at);
        }
        at = match next.read_link() {
            Ok(target) if links.next().is_some() => {
                ahead.extend(backwards(&target));
                next.parent().map(Path::to_owned).unwrap_or_default()
            }
            Ok(_) | Err(_) => next,
        };
    }
    folders
}

/// Whether every user may put another file into the place of one in this folder, and can reach it.
fn may_be_renamed_by_all(folder: &Path) -> bool {
    folder.metadata().is_ok_and(|it| permissions::lets_all_replace(&it))
        && folder.ancestors().all(lets_through)
}

fn mode(metadata: &Metadata) -> u32 {
    metadata.permissions().mode()
}

/// Whether every folder on the way lets everybody through.
fn is_reachable(real: &Path) -> bool {
    real.ancestors().skip(1).all(lets_through)
}

fn lets_through(folder: &Path) -> bool {
    folder.metadata().is_ok_and(|it| mode(&it) & ENTER != 0)
}

/// Whether a container platform put it there, for this container alone: Kubernetes by way of a folder
/// `..2026_11_27…`, others in a folder of their own. There is nobody else to keep it from, and its
/// mode is what lets the service read it.
fn is_mounted(real: &Path) -> bool {
    let is_of_kubernetes = |it: &OsStr| it.as_bytes().starts_with(b"..");
    real.iter().any(is_of_kubernetes) || real.starts_with("/run/secrets")
}

/// Warns of a Redis to which proofs and its password go in the clear.
pub(super) fn warn_of_redis(dpop: &DpopRules, at: &problem::Path, findings: &mut Findings) {
    let ReplayRules::Redis(rules) = &dpop.replay else { return };
    let mut elsewhere = rules.hosts_in_the_clear().filter(|it| !is_loopback(it));
    if let Some(host) = elsewhere.next() {
        let message = format!(
            "the password and all that is recorded are sent to {host} unencrypted, where others \
             can read and change them: write rediss://"
        );
        findings.warning(&at.key("replay").key("url_file"), message);
    }
    let mut elsewhere = rules.sentinels_in_the_clear().filter(|it| !is_loopback(it));
    if let Some(host) = elsewhere.next() {
        let message = format!(
            "the sentinel at {host} is asked unencrypted, where others can change the answer and name a \
             server of theirs: write rediss://"
        );
        findings.warning(&at.key("replay").key("sentinel_url_file"), message);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, Permissions};
    use std::io::{self, Write};
    use std::os::unix::fs::symlink;

    fn set(path: &Path, mode: u32) {
        fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
    }

    /// A folder that everybody may enter. Where those for temporary files are private, a test is
    /// skipped, with a line that says so; under CI everybody must be able to.
    fn open_folder() -> Option<tempfile::TempDir> {
        let folder = tempfile::tempdir().unwrap();
        set(folder.path(), 0o755);
        let real = folder.path().canonicalize().unwrap();
        if is_reachable(&real.join("file")) {
            return Some(folder);
        }
        let ci = std::env::var_os("CI").is_some_and(|it| it == "true");
        assert!(!ci, "{} must be open to everybody under CI: set TMPDIR", real.display());
        let line = format!("skipped: {} is not open to everybody: set TMPDIR\n", real.display());
        // Not by a print macro: the harness would swallow the line.
        io::stderr().write_all(line.as_bytes()).unwrap();
        None
    }

    #[test]
    fn what_others_may_change_is_told_and_of_secrets_what_they_may_read() {
        let Some(folder) = open_folder() else { return };
        let file = folder.path().join("file");
        fs::write(&file, "x").unwrap();
        for (mode, is_secret, expected) in [
            (0o600, true, None),
            (0o640, true, None),
            (0o660, true, None),
            (0o644, false, None),
            (0o644, true, Some("chmod o-r")),
            (0o604, true, Some("chmod o-r")),
            (0o646, true, Some("chmod o-w")),
            (0o646, false, Some("chmod o-w")),
            (0o602, false, Some("chmod o-w")),
        ] {
            set(&file, mode);
            let told = remark(&file, is_secret);
            let advice = told.as_deref().and_then(|it| it.rsplit(": ").next());
            assert_eq!(advice, expected, "{mode:o} {is_secret}");
        }
        assert_eq!(remark(&folder.path().join("missing"), true), None);
    }

    #[test]
    fn a_folder_that_keeps_others_out_does_so_for_what_is_in_it() {
        let Some(folder) = open_folder() else { return };
        let (inner, file) = (folder.path().join("inner"), folder.path().join("inner/file"));
        fs::create_dir(&inner).unwrap();
        fs::write(&file, "x").unwrap();
        set(&file, 0o666);
        for (mode, told) in [(0o755, true), (0o711, true), (0o750, false), (0o754, false)] {
            set(&inner, mode);
            assert_eq!(remark(&file, true).is_some(), told, "{mode:o}");
        }
    }

    #[test]
    fn whoever_may_change_the_folder_may_put_another_file_there() {
        let Some(folder) = open_folder() else { return };
        let (inner, file) = (folder.path().join("inner"), folder.path().join("inner/file"));
        fs::create_dir(&inner).unwrap();
        fs::write(&file, "x").unwrap();
        set(&file, 0o600);
        for (mode, told) in [(0o777, true), (0o1777, false), (0o775, false), (0o772, false)] {
            set(&inner, mode);
            assert_eq!(remark(&file, false).is_some(), told, "{mode:o}");
        }
    }

    #[test]
    fn no_folder_on_the_way_may_be_changed_by_all() {
        let Some(folder) = open_folder() else { return };
        let at = |name: &str| folder.path().join(name);
        // links/file -> ../steps/next, steps/next -> ../above/inner/file, short -> above/inner
        for name in ["links", "steps", "above", "above/inner"] {
            fs::create_dir(at(name)).unwrap();
            set(&at(name), 0o755);
        }
        fs::write(at("above/inner/file"), "x").unwrap();
        set(&at("above/inner/file"), 0o600);
        symlink("../steps/next", at("links/file")).unwrap();
        symlink("../above/inner/file", at("steps/next")).unwrap();
        symlink(at("above/inner"), at("short")).unwrap();
        let from = |name: &str| remark(&at(name), true);
        let ways = ["links/file", "steps/../links/file", "above/inner/file", "short/file"];
        for way in ways {
            assert_eq!(from(way), None, "{way}");
        }
        for (open, told) in [
            ("links", [true, true, false, false]),
            ("steps", [true, true, false, false]),
            ("above", [true, true, true, true]),
            ("above/inner", [true, true, true, true]),
            ("", [true, true, true, true]),
        ] {
            for (mode, told) in [(0o777, told), (0o1777, [false; 4]), (0o776, [false; 4])] {
                set(&at(open), mode);
                for (way, told) in ways.into_iter().zip(told) {
                    assert_eq!(from(way).is_some(), told, "{open} {mode:o}: {way}");
                }
            }
            set(&at(open), 0o755);
        }
        // Nobody but its owner can reach the file; where the link leads, they can say.
        set(&at("above/inner"), 0o700);
        set(&at("links"), 0o777);
        let told = from("links/file").unwrap();
        assert!(told.contains(&*at("links").canonicalize().unwrap().to_string_lossy()), "{told}");
    }

    #[test]
    fn a_secret_that_a_container_platform_mounts_is_as_it_must_be() {
        let Some(folder) = open_folder() else { return };
        let data = folder.path().join("..2026_11_27_03_05_00.1");
        fs::create_dir(&data).unwrap();
        fs::write(data.join("secret"), "x").unwrap();
        symlink("..2026_11_27_03_05_00.1", folder.path().join("..data")).unwrap();
        let secret = folder.path().join("secret");
        symlink("..data/secret", &secret).unwrap();
        set(&data, 0o755);
        set(&data.join("secret"), 0o644);
        assert_eq!(remark(&secret, true), None);
        set(&data.join("secret"), 0o646);
        assert!(remark(&secret, true).is_some());
        assert!(is_mounted(Path::new("/run/secrets/redis-url")));
        assert!(!is_mounted(Path::new("/run/secretstore/redis-url")));
        assert!(!is_mounted(Path::new("/etc/keybound/.hidden/redis-url")));
    }
}
