//! The denylist of an operator: a file with the tokens that are no longer good, whatever their issuer says.
//!
//! - A check reads the list in force without a lock, and searches it once for each token it has not
//!   searched it for before.
//! - The file is followed by itself, apart from the configuration, since it may be long: reading it holds
//!   up neither checks nor a reload. A new list replaces the old one as a whole.
//! - A file that is missing, or that has a mistake, replaces nothing.
//! - Issuers that name the same file share one list, also over a reload.

mod entry;
mod follow;
mod load;
mod table;

pub use entry::Entry;
pub use load::{BadDenylist, YamlReader};

use super::Changes;
use crate::clock::Clock;
use crate::file_stamp::Stamp;
use crate::state::refreshes::LastError;
use arc_swap::ArcSwap;
use follow::Followed;
use keybound_core::oauth::AccessToken;
use keybound_core::{Detail, Standing, Unconfirmed, UnixTime};
use serde::Serialize;
use std::fmt;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;
use table::{Hit, Table};
use tokio::runtime::Handle;
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::{Instant, sleep};

/// A denylist, and the file that it is read from.
pub struct Denylist {
    path: PathBuf,
    yaml: YamlReader,
    held: ArcSwap<Table>,
    state: Mutex<State>,
    /// Whom to tell of a new list.
    told: Mutex<Vec<Weak<Changes>>>,
    /// Follows the file.
    keeper: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Debug)]
struct State {
    /// The file that the list in force was read from.
    stamp: Option<Stamp>,
    /// The list in force is not what is in the file.
    is_behind: bool,
    applied: u64,
    refused: u64,
    last_error: Option<LastError>,
}

/// The state of a denylist.
#[derive(Clone, Debug, Serialize)]
pub struct DenylistStatus {
    /// Its file.
    pub file: String,
    /// The number of its entries.
    pub entries: usize,
    /// When the file that the list in force was read from was written, in seconds since 1970.
    pub modified: Option<i64>,
    /// Whether the file is missing or has a mistake, so that an earlier list is in force.
    pub is_behind: bool,
    /// How often a new list came into force since the start.
    pub applied: u64,
    /// How often one was refused.
    pub refused: u64,
    /// Why one was last refused, even if a later one was not.
    pub last_error: Option<LastError>,
}

/// The lists in use, so that a file is read once.
static OPEN: Mutex<Vec<Weak<Denylist>>> = Mutex::new(vec![]);

/// How often the file is looked at.
const LOOK: Duration = Duration::from_millis(250);

impl Denylist {
    /// The denylist in the file at `path`: the one in force if there is one already, whatever is in the
    /// file by now; else it is read, which may take seconds.
    pub fn open(path: PathBuf, yaml: YamlReader) -> Result<Arc<Self>, BadDenylist> {
        if let Some(known) = in_force(&path) {
            return Ok(known);
        }
        let stamp = Stamp::of(&path);
        let table = load::load(&path, &load::open(&path)?, yaml)?;
        let state = State { stamp, is_behind: false, applied: 0, refused: 0, last_error: None };
        Ok(Arc::new(Self {
            path,
            yaml,
            held: ArcSwap::from_pointee(table),
            state: Mutex::new(state),
            told: Mutex::default(),
            keeper: Mutex::default(),
        }))
    }

    /// Follows the file from now on, by a task that ends when this is dropped, and tells `changes` of each
    /// new list.
    pub(super) fn start(
        self: &Arc<Self>,
        changes: &Arc<Changes>,
        clock: &Arc<dyn Clock>,
        runtime: &Handle,
    ) {
        let mut told = locked(&self.told);
        told.retain(|it| 0 < it.strong_count() && !std::ptr::eq(it.as_ptr(), &raw const **changes));
        told.push(Arc::downgrade(changes));
        let mut keeper = locked(&self.keeper);
        if keeper.as_ref().is_none_or(JoinHandle::is_finished) {
            let followed = Followed::read_as(self.read_surely(clock), Instant::now());
            let (list, clock) = (Arc::downgrade(self), Arc::clone(clock));
            *keeper = Some(runtime.spawn(follow(list, followed, clock)));
            let mut open = locked(&OPEN);
            open.retain(|it| 0 < it.strong_count() && it.as_ptr() != Arc::as_ptr(self));
            open.push(Arc::downgrade(self));
        }
    }

    /// The stamp of the file as it was read; none if it was changed just before, since a file system's
    /// clock may be so coarse that a later change leaves the same stamp.
    fn read_surely(&self, clock: &Arc<dyn Clock>) -> Option<Stamp> {
        let stamp = self.state().stamp.clone();
        let before = clock.now().as_secs().saturating_sub(COARSE);
        stamp.filter(|it| it.changed() < before)
    }

    /// Whether `token` is on the list.
    #[inline]
    pub(super) fn standing<'a>(&self, token: &AccessToken) -> Standing<'a> {
        let Some(revocable) = &token.revocable else { return Standing::Good };
        let table = self.held.load();
        if revocable.passed.is_under(table.number()) {
            return Standing::Good;
        }
        match table.find(revocable) {
            None if table.may_mean(revocable) => Standing::Refused(Detail::NamesTooMany.into()),
            None => {
                revocable.passed.note(table.number());
                Standing::Good
            }
            Some(hit) => Standing::Refused(self.refusal(hit)),
        }
    }

    #[cold]
    fn refusal(&self, hit: Hit) -> Unconfirmed {
        let Hit { line, shape, until } = hit;
        let tokens = match until {
            None => "all tokens".to_owned(),
            Some(until) => format!("tokens issued until {}", until.to_rfc3339()),
        };
        let names = shape.names();
        let why = format!("line {line} of {} names {tokens} by {names}", self.path.display());
        Unconfirmed { refusal: Detail::Denylisted.into(), why: Some(why.into()) }
    }

    /// What it is, for an explanation.
    pub fn describe(&self) -> String {
        let table = self.held.load();
        let by: Vec<_> = table.shapes().map(table::Shape::names).collect();
        let by = if by.is_empty() { String::new() } else { format!(", by {}", by.join("; ")) };
        format!("the denylist {} (entries: {}{by})", self.path.display(), table.len())
    }

    /// Its file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Its state.
    pub fn status(&self) -> DenylistStatus {
        let state = self.state();
        DenylistStatus {
            file: self.path.display().to_string(),
            entries: self.held.load().len(),
            modified: state.stamp.as_ref().map(Stamp::modified),
            is_behind: state.is_behind,
            applied: state.applied,
            refused: state.refused,
            last_error: state.last_error.clone(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        locked(&self.state)
    }

    /// Reads the file if it is due. This may block for seconds.
    fn look(&self, followed: &mut Followed, clock: &Arc<dyn Clock>) {
        let found = Stamp::of(&self.path);
        if !followed.is_due(found.clone(), Instant::now(), || ends(&self.path)) {
            return;
        }
        let Some(table) = self.read(found.as_ref()) else { return };
        if matches!(&table, Err(bad) if bad.is_passing) {
            followed.was_not_read(Instant::now());
        } else {
            followed.was_read(found.clone());
        }
        match table {
            Ok(table) => self.apply(table, found),
            Err(bad) => self.refuse(&bad, clock.now()),
        }
    }

    /// What is in the file that has the stamp `found`; none if it is written meanwhile, so that what was read
    /// may be half of each. That another file is in its place by then does no harm.
    fn read(&self, found: Option<&Stamp>) -> Option<Result<Table, BadDenylist>> {
        let file = match load::open(&self.path) {
            Ok(file) => file,
            Err(bad) => return (Stamp::of(&self.path).as_ref() == found).then_some(Err(bad)),
        };
        let is_same = || found.is_some_and(|it| it.is_of(&file));
        if !is_same() {
            return None;
        }
        let table = load::load(&self.path, &file, self.yaml);
        is_same().then_some(table)
    }

    fn apply(&self, table: Table, stamp: Option<Stamp>) {
        let entries = table.len();
        self.held.store(Arc::new(table));
        {
            let mut state = self.state();
            (state.stamp, state.is_behind) = (stamp, false);
            state.applied = state.applied.saturating_add(1);
        }
        tracing::info!(file = %self.path.display(), entries, "denylist replaced");
        locked(&self.told).iter().filter_map(Weak::upgrade).for_each(|it| it.ring());
    }

    fn refuse(&self, bad: &BadDenylist, now: UnixTime) {
        {
            let mut state = self.state();
            state.is_behind = true;
            state.refused = state.refused.saturating_add(1);
            state.last_error = Some(LastError::of(bad, now));
        }
        tracing::error!(problem = %bad, "denylist refused: keeping the previous one");
    }
}

/// A file that was changed in the last seconds before it was read may have been changed again since.
const COARSE: i64 = 3;

/// The list of the file at `path` that is in force.
fn in_force(path: &Path) -> Option<Arc<Denylist>> {
    let open = locked(&OPEN);
    let is_followed = |it: &Arc<Denylist>| {
        locked(&it.keeper).as_ref().is_some_and(|it| !it.is_finished()) && it.path == path
    };
    open.iter().filter_map(Weak::upgrade).find(is_followed)
}

async fn follow(list: Weak<Denylist>, mut followed: Followed, clock: Arc<dyn Clock>) {
    loop {
        sleep(LOOK).await;
        let Some(list) = list.upgrade() else { return };
        let clock = Arc::clone(&clock);
        let looked = spawn_blocking(move || {
            list.look(&mut followed, &clock);
            followed
        });
        match looked.await {
            Ok(it) => followed = it,
            // A panic of ours must not stop this: the file is read again.
            Err(_) => followed = Followed::read_as(None, Instant::now()),
        }
    }
}

/// Whether the last line of the file has an end.
fn ends(path: &Path) -> bool {
    let last = || {
        let mut file = load::open(path).ok()?;
        file.seek(SeekFrom::End(-1)).ok()?;
        let mut last = [0];
        file.read_exact(&mut last).ok()?;
        Some(last == *b"\n")
    };
    last().unwrap_or(true)
}

fn locked<T>(it: &Mutex<T>) -> MutexGuard<'_, T> {
    it.lock().unwrap_or_else(PoisonError::into_inner)
}

impl fmt::Debug for Denylist {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Denylist").field("path", &self.path).finish_non_exhaustive()
    }
}

/// By their files.
impl PartialEq for Denylist {
    fn eq(&self, other: &Self) -> bool {
        self.path == other.path
    }
}

impl Eq for Denylist {}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;
    use std::sync::mpsc;
    use std::thread;

    #[test]
    fn a_file_that_is_written_while_it_is_read_is_read_again() {
        static WRITTEN: Mutex<Option<PathBuf>> = Mutex::new(None);
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("revoked.yaml");
        std::fs::write(&path, "revoked: []\n").unwrap();
        let list = Denylist::open(path.clone(), |_| {
            if let Some(path) = &*locked(&WRITTEN) {
                std::fs::write(path, "revoked: []\n# and more\n").unwrap();
            }
            Ok(vec![])
        });
        let (list, found) = (list.unwrap(), Stamp::of(&path));
        assert!(list.read(found.as_ref()).is_some());
        *locked(&WRITTEN) = Some(path);
        assert!(list.read(found.as_ref()).is_none());
    }

    #[test]
    fn nobody_waits_for_a_pipe_that_is_put_in_the_place_of_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("revoked.yaml");
        assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        let (told, ended) = mpsc::channel();
        thread::spawn(move || told.send(ends(&pipe)));
        assert_eq!(ended.recv_timeout(Duration::from_secs(10)), Ok(true));
    }
}
