//! This service as a configuration sets it up, without its listeners.

use keybound::check::{Checker, Dpop, Rules, Verdict};
use keybound::clock::{Clock, ManualClock};
use keybound::config;
use keybound::request::Request;
use keybound::state::jwks;
use keybound::state::replay::ReplayRules;
use keybound::state::token_cache::TokenCache;
use keybound::time::UnixTime;
use std::fs;
use std::sync::Arc;
use tempfile::TempDir;
use tokio::runtime::{Builder, Runtime};

/// The time at all of them.
pub const NOW: i64 = 1_800_000_000;

/// What decides, and the runtime in which it does.
#[derive(Debug)]
pub struct Installation {
    /// What decides.
    pub rules: Rules,
    /// Who asks it.
    pub checker: Checker,
    /// What drives both. Its clock stands still.
    pub runtime: Runtime,
    /// Where its files are.
    pub folder: TempDir,
}

impl Installation {
    /// That of this configuration, with `files` of these names beside it.
    pub fn new(configuration: &str, files: &[(&str, String)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            fs::write(folder.path().join(name), text).unwrap();
        }
        let path = folder.path().join("keybound.yaml");
        fs::write(&path, configuration).unwrap();
        let policies = config::load(&path).unwrap().policies;
        let runtime =
            Builder::new_current_thread().enable_all().start_paused(true).build().unwrap();
        let clock: Arc<dyn Clock> = Arc::new(ManualClock::at(UnixTime::from_secs(NOW)));
        let keys = jwks::start_all(&policies.issuers, &[], &clock, runtime.handle()).unwrap();
        for keys in &keys {
            runtime.block_on(keys.ready());
        }
        let nobody = vec![None; keys.len()];
        let dpop = Dpop::start(&ReplayRules::default(), None, runtime.handle()).unwrap();
        let cache = Arc::new(TokenCache::new(policies.limits.token_cache));
        let rules = Rules::new(policies, keys, nobody, cache, dpop);
        Self { rules, checker: Checker::new(clock), runtime, folder }
    }

    /// Checks one request.
    pub fn check(&self, request: &Request<'_>) -> Verdict {
        self.runtime.block_on(self.checker.check(&self.rules, request))
    }
}
