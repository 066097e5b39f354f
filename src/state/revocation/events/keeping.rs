//! Where events are kept beyond memory, before they are acknowledged.

use super::journal::{Journal, Pending};
use super::receiver::{Changes, Receiver};
use super::shared::Shared;
use redis::RedisError;
use std::fmt;
use std::io;
use std::sync::{Arc, MutexGuard};

/// Where the events of an issuer are kept.
#[derive(Debug, Default)]
pub(super) struct Keeping {
    pub(super) journal: Option<Arc<Journal>>,
    pub(super) shared: Option<Arc<Shared>>,
}

/// Why events could not be kept.
#[derive(Debug)]
pub(super) enum NotKept {
    /// The snapshot file could not be written.
    Snapshot(io::Error),
    /// The other replicas could not be told.
    Shared(RedisError),
}

impl Keeping {
    /// Keeps what has changed, wherever it is to be kept.
    pub(super) async fn keep(&self, receiver: &Receiver, changes: Changes) -> Result<(), NotKept> {
        if let Some(shared) = &self.shared {
            shared.write(receiver, &changes).await.map_err(NotKept::Shared)?;
        }
        if changes.revoking { self.write().await } else { Ok(()) }
    }

    /// Writes the file, if there is something that it does not hold, or it was not written yet.
    pub(super) async fn write(&self) -> Result<(), NotKept> {
        let Some(journal) = &self.journal else { return Ok(()) };
        journal.save().await.map_err(NotKept::Snapshot)
    }

    /// What is in force and not in the file yet, if there is one. To be held while more comes into force.
    pub(super) fn pending(&self) -> Option<MutexGuard<'_, Pending>> {
        self.journal.as_ref().map(|it| it.pending())
    }
}

impl fmt::Display for NotKept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Snapshot(error) => write!(f, "snapshot_file: {error}"),
            Self::Shared(error) => write!(f, "redis: {error}"),
        }
    }
}
