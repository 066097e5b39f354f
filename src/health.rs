//! Knows whether requests should come here: whether the service is alive, ready, or on its way
//! out.

use tokio::sync::watch;

/// The course of the process's life. It only ever moves forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Something is missing that a first answer needs.
    Starting,
    /// Requests are welcome.
    Ready,
    /// Requests are answered, and should go elsewhere from here on.
    Leaving,
    /// No new connections; those that are open end as soon as their requests are answered.
    Draining,
}

impl Phase {
    /// The word in `/status`.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Ready => "ready",
            Self::Leaving => "leaving",
            Self::Draining => "draining",
        }
    }
}

/// The phase that the process is in, for all to see.
#[derive(Debug)]
pub struct Health(watch::Sender<Phase>);

impl Default for Health {
    fn default() -> Self {
        Self(watch::Sender::new(Phase::Starting))
    }
}

impl Health {
    /// The present phase.
    pub fn phase(&self) -> Phase {
        *self.0.borrow()
    }

    /// Enters `phase`, unless it is past.
    pub fn enter(&self, phase: Phase) {
        self.0.send_if_modified(|present| {
            let forward = *present < phase;
            if forward {
                *present = phase;
            }
            forward
        });
    }

    /// Sees every phase from here on.
    pub fn watch(&self) -> watch::Receiver<Phase> {
        self.0.subscribe()
    }
}

/// Waits until `phase` is reached.
pub async fn reached(watch: &mut watch::Receiver<Phase>, phase: Phase) {
    // The sender is gone: the process is past every phase.
    let _past = watch.wait_for(|present| phase <= *present).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn life_only_moves_forward() {
        let health = Health::default();
        assert_eq!(health.phase(), Phase::Starting);
        health.enter(Phase::Leaving);
        health.enter(Phase::Ready);
        assert_eq!(health.phase(), Phase::Leaving);
    }
}
