//! This service as a configuration sets it up, without its listeners.

use keybound::clock::{Clock, FixedClock};
use keybound::config;
use keybound::installation::{Checker, Installation};
use keybound_core::{Request, UnixTime, Verdict};
use std::fs;
use std::sync::Arc;
use tempfile::TempDir;
use tokio::runtime::{Builder, Runtime};

/// The time at all of them.
pub const NOW: i64 = 1_800_000_000;

/// What decides, and the runtime in which it does.
#[derive(Debug)]
pub struct Site {
    /// What decides.
    pub installation: Installation,
    /// Who asks it.
    pub checker: Checker,
    /// What drives both. Its clock stands still.
    pub runtime: Runtime,
    /// Where its files are.
    pub folder: TempDir,
}

impl Site {
    /// That of this configuration, with `files` of these names beside it.
    pub fn new(configuration: &str, files: &[(&str, String)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            fs::write(folder.path().join(name), text).unwrap();
        }
        let path = folder.path().join("keybound.yaml");
        fs::write(&path, configuration).unwrap();
        let rules = config::load(&path).unwrap().rules;
        let runtime =
            Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        let clock: Arc<dyn Clock> = Arc::new(FixedClock(UnixTime::from_secs(NOW)));
        let made = Installation::start(rules, None, &clock, runtime.handle()).unwrap();
        let installation = made.installation;
        for issuer in &installation.issuers {
            runtime.block_on(issuer.keys.ready());
        }
        Self { installation, checker: Checker::new(clock), runtime, folder }
    }

    /// Checks one request.
    pub fn check(&self, request: &Request<'_>) -> Verdict {
        let (rules, now) = (&self.installation.rules, self.checker.clock().now());
        self.runtime.block_on(keybound_core::check(rules, &self.installation, request, now))
    }
}
