//! What is open by a token that was let through, and ends when the token is revoked.

use crate::gate::Gate;
use crate::state::revocation::Revocation;
use keybound_core::oauth::AccessToken;
use keybound_core::{Standing, Unconfirmed};
use std::fmt;
use std::future::pending;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::sleep;

/// The token by which something is open, if its issuer revokes tokens.
pub struct Open {
    gate: Arc<Gate>,
    token: Arc<AccessToken>,
}

impl Open {
    pub(super) fn by(gate: &Arc<Gate>, token: &Arc<AccessToken>) -> Option<Self> {
        let revocable = token.revocable.is_some();
        revocable.then(|| Self { gate: Arc::clone(gate), token: Arc::clone(token) })
    }

    /// Waits until the token is revoked, or nobody can tell whether it is.
    ///
    /// It looks again whenever more is known of revoked tokens, and once a minute: what is known may have
    /// become too old, and a status list at which nobody looks is given up. Of a thousand open streams, only
    /// those whose token is revoked wake their worker.
    pub async fn revoked(self) {
        let mut replaced = self.gate.replacements();
        loop {
            replaced.mark_unchanged();
            let Some(revocation) = self.revocation() else {
                // The issuer revokes none under this configuration.
                changed(&mut replaced).await;
                continue;
            };
            // Before the first look, so that nothing is missed between the two.
            let mut changes = revocation.changes();
            loop {
                if let Err(refusal) = self.standing(&revocation).await {
                    let why = refusal.why.as_deref().unwrap_or_default();
                    tracing::debug!(issuer = self.token.iss(), why, "stream ended: token revoked");
                    return;
                }
                tokio::select! {
                    () = changed(&mut replaced) => break,
                    () = changed(&mut changes) => (),
                    () = sleep(AGAIN) => (),
                }
            }
        }
    }

    /// What revokes tokens of its issuer under the configuration in force.
    fn revocation(&self) -> Option<Arc<Revocation>> {
        let active = self.gate.active();
        let mut issuers = active.installation.issuers.iter();
        issuers.find(|it| it.name() == &*self.token.issuer.name)?.revocation.clone()
    }

    async fn standing(&self, revocation: &Revocation) -> Result<(), Unconfirmed> {
        match revocation.standing(&self.token, self.gate.clock().now()) {
            Standing::Good => Ok(()),
            Standing::Refused(refusal) => Err(refusal),
            Standing::Waits(waiting) => waiting.await,
        }
    }
}

/// The longest time between two looks.
const AGAIN: Duration = Duration::from_secs(60);

/// Waits for a change; for ever, if there will be none.
async fn changed(of: &mut watch::Receiver<()>) {
    if of.changed().await.is_err() {
        pending::<()>().await;
    }
}

impl fmt::Debug for Open {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Open").finish_non_exhaustive()
    }
}
