//! Who may connect to a Unix socket: the mode and the owners of its file and of the folders above.

use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Who may connect to a Unix socket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Access {
    mode: u32,
    user: u32,
    group: u32,
    /// A folder that keeps out the members of the group.
    closed: Option<PathBuf>,
}

/// A member of the group may pass, or everybody else.
const PASS_GROUP: u32 = 0o010;
const PASS_OTHERS: u32 = 0o001;

impl Access {
    /// That of the socket at `path`.
    pub(super) fn of(path: &Path) -> io::Result<Self> {
        let found = fs::symlink_metadata(path)?;
        let group = found.gid();
        let whole = path.canonicalize()?;
        let folders = whole.ancestors().skip(1);
        let keeps_out = |it: &&Path| !fs::metadata(it).is_ok_and(|it| lets_in(&it, group));
        let closed = folders.into_iter().find(keeps_out).map(Path::to_owned);
        Ok(Self { mode: found.permissions().mode() & 0o7777, user: found.uid(), group, closed })
    }

    /// Whether only our own user can reach it.
    pub(super) const fn is_closed(&self) -> bool {
        self.closed.is_some()
    }

    /// Logs it: a proxy that may not connect leaves no trace here.
    pub(super) fn tell(&self, socket: &Path) {
        let Self { mode, user, group, closed } = self;
        let (socket, mode) = (socket.display(), format!("{mode:04o}"));
        match closed {
            None => tracing::info!(%socket, mode, user, group, "socket made"),
            Some(folder) => {
                let folder = folder.display();
                let advice = "unless the proxy runs as that user, give the folder the socket's group and \
                              mode 0750";
                tracing::warn!(
                    %socket, mode, user, group, %folder, advice,
                    "only its user may open the socket, since the folder is closed to others"
                );
            }
        }
    }
}

/// Whether members of `group` may pass through a folder.
fn lets_in(folder: &Metadata, group: u32) -> bool {
    let mode = folder.permissions().mode();
    let needed = if folder.gid() == group { PASS_GROUP } else { PASS_OTHERS };
    mode & needed != 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_that_keeps_out_the_group_of_the_socket_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().canonicalize().unwrap();
        let socket = path.join("socket");
        fs::write(&socket, "").unwrap();
        for (mode, closed) in
            [(0o700, true), (0o710, false), (0o750, false), (0o755, false), (0o744, true)]
        {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            let access = Access::of(&socket).unwrap();
            assert_eq!(access.closed, closed.then(|| path.clone()), "{mode:o}");
        }
        assert!(Access::of(&path.join("none")).is_err());
    }
}
