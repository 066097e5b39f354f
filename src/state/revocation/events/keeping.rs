//! Where events are kept beyond memory, before they are acknowledged.

use super::receiver::{Changes, Receiver};
use super::shared::Shared;
use super::snapshot::Snapshots;
use redis::RedisError;
use std::fmt;
use std::io;
use std::sync::Arc;

/// Where the events of an issuer are kept.
#[derive(Debug, Default)]
pub(super) struct Keeping {
    pub(super) snapshots: Option<Arc<Snapshots>>,
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
        if let Some(snapshots) = self.snapshots.as_ref().filter(|_| changes.revoking) {
            snapshots.save(receiver).await.map_err(NotKept::Snapshot)?;
        }
        Ok(())
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
