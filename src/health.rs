//! The health of the process: whether it is alive, ready, or shutting down.

use tokio::sync::watch;

/// The phases of the process. They only move forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Something is missing that the first check needs.
    Starting,
    /// Ready for requests.
    Ready,
    /// Requests are still answered, but should go elsewhere.
    Leaving,
    /// No new connections; open ones are closed once their requests are answered.
    Draining,
}

impl Phase {
    /// The name in `/status`.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Ready => "ready",
            Self::Leaving => "leaving",
            Self::Draining => "draining",
        }
    }
}

/// The current phase, observable by all tasks.
#[derive(Debug)]
pub struct Health(watch::Sender<Phase>);

impl Default for Health {
    fn default() -> Self {
        Self(watch::Sender::new(Phase::Starting))
    }
}

impl Health {
    /// The current phase.
    pub fn phase(&self) -> Phase {
        *self.0.borrow()
    }

    /// Enters `phase`, unless it has passed already.
    pub fn enter(&self, phase: Phase) {
        self.0.send_if_modified(|present| {
            let forward = *present < phase;
            if forward {
                *present = phase;
            }
            forward
        });
    }

    /// Notifies of each later phase.
    pub fn watch(&self) -> watch::Receiver<Phase> {
        self.0.subscribe()
    }
}

/// Waits until `phase` is reached.
pub async fn reached(watch: &mut watch::Receiver<Phase>, phase: Phase) {
    // The sender is gone, so the process has passed every phase.
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
