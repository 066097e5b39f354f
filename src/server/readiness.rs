//! Readiness of the process: it is ready once the issuers of the configuration in force have keys,
//! even if that configuration has changed meanwhile.

use crate::gate::Gate;

/// Waits until everything is there that the first check needs.
pub async fn reached(gate: &Gate) {
    let mut replacements = gate.replacements();
    loop {
        replacements.mark_unchanged();
        let active = gate.active();
        let installation = &active.installation;
        if installation.awaited().is_empty() {
            for issuer in installation.without_keys() {
                tracing::warn!(issuer, "no keys yet: readiness no longer waits for this issuer");
            }
            return;
        }
        tokio::select! {
            () = installation.closer() => (),
            // An error means that the gate is gone, and with it all configurations.
            _ = replacements.changed() => (),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::{Clock, SystemClock};
    use crate::installation::{
        Checker, DpopRules, Installation, InstallationRules, IssuerRules, Limits,
    };
    use crate::state::jwks::{KeyRules, KeySource};
    use crate::telemetry::metrics::Metrics;
    use crate::telemetry::samples::policy_set;
    use futures_util::FutureExt;
    use keybound_core::policy::{Issuer, PolicySet};
    use std::path::{Path, PathBuf};
    use std::pin::pin;
    use std::sync::Arc;
    use std::time::Duration;
    use tokio::runtime::Handle;
    use tokio::time::advance;

    /// RFC 7515, appendix A.3.
    const KEYS: &str = r#"{"keys": [{"kty": "EC", "crv": "P-256",
    "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
    "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}]}"#;

    /// The keys of each issuer are in a file of its name, which may be missing.
    async fn installation(folder: &Path, issuers: &[&str]) -> Installation {
        let issuer = |name: &&str| {
            let issuer = Issuer::clone(&policy_set().issuers[0]);
            let issuer = Arc::new(Issuer { name: (*name).into(), ..issuer });
            let source = KeySource::File(folder.join(name));
            let keys = KeyRules::new(source);
            IssuerRules { issuer, keys, introspection: None, revocation: None }
        };
        let issuers: Vec<_> = issuers.iter().map(issuer).collect();
        let judged = issuers.iter().map(|it| Arc::clone(&it.issuer)).collect();
        let rules = InstallationRules {
            policies: PolicySet { issuers: judged, ..policy_set() },
            issuers,
            limits: Limits::default(),
            dpop: DpopRules::default(),
        };
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let made = Installation::start(rules, None, &clock, &Handle::current()).unwrap();
        for issuer in &made.installation.issuers {
            issuer.keys.ended(1).await;
        }
        made.installation
    }

    fn gate(installation: Installation) -> Gate {
        let metrics = Arc::new(Metrics::new().unwrap());
        Gate::new(Checker::new(Arc::new(SystemClock)), installation, String::new(), metrics)
    }

    fn folder() -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().to_owned();
        std::fs::write(path.join("up"), KEYS).unwrap();
        (folder, path)
    }

    #[tokio::test]
    async fn it_follows_the_configuration_in_force() {
        let (_folder, path) = folder();
        let gate = gate(installation(&path, &["dead"]).await);
        let dead = Arc::downgrade(&gate.active().installation.issuers[0]);
        let mut reached = pin!(reached(&gate));
        assert_eq!(reached.as_mut().now_or_never(), None);
        gate.replace(installation(&path, &["dead", "dead as well"]).await, String::new());
        assert_eq!(reached.as_mut().now_or_never(), None);
        assert_eq!(dead.strong_count(), 0, "who is no longer in force is no longer kept");
        gate.replace(installation(&path, &["up"]).await, String::new());
        assert_eq!(reached.now_or_never(), Some(()));
    }

    #[tokio::test(start_paused = true)]
    async fn an_issuer_without_keys_is_waited_for_ten_seconds_while_another_serves() {
        let (_folder, path) = folder();
        let alone = gate(installation(&path, &["dead"]).await);
        let gate = gate(installation(&path, &["dead", "up"]).await);
        let (mut in_vain, mut ready) = (pin!(reached(&alone)), pin!(reached(&gate)));
        for span in [Duration::ZERO, Duration::from_millis(9_900)] {
            advance(span).await;
            assert_eq!(gate.active().installation.awaited(), ["dead"]);
            assert_eq!(ready.as_mut().now_or_never(), None);
        }
        advance(Duration::from_millis(100)).await;
        assert_eq!(ready.now_or_never(), Some(()));
        assert_eq!(gate.active().installation.awaited(), Vec::<&str>::new());
        assert_eq!(in_vain.as_mut().now_or_never(), None, "nobody serves");
        assert_eq!(alone.active().installation.awaited(), ["dead"]);
    }
}
