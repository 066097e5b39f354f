//! The whole service on one page: what is checked of a request, in order.

use crate::clock::Clock;
use crate::denial::Denial;
use crate::jose::thumbprint::Thumbprint;
use crate::oauth::access_token::AccessToken;
use crate::policy::{Policy, PolicySet};
use crate::request::Request;
use std::sync::Arc;

/// What decides, swapped as a whole when the configuration changes.
#[derive(Debug)]
pub struct Rules {
    /// What is demanded.
    pub policies: PolicySet,
}

/// Checks requests.
#[derive(Debug)]
pub struct Checker {
    clock: Arc<dyn Clock>,
}

/// How a check ended, and what was known by then.
#[derive(Debug)]
pub struct Verdict {
    /// Allowed, or why not.
    pub outcome: Result<(), Denial>,
    /// What was found on the way.
    pub facts: Facts,
}

/// What a check found, for the log, the metrics and the metadata. It decides nothing.
#[derive(Debug, Default)]
pub struct Facts {
    /// The policy that applied.
    pub policy: Option<Arc<Policy>>,
    /// The token, once it was verified.
    pub token: Option<Arc<AccessToken>>,
    /// The `kid` that the token names. Input: it may hold anything.
    pub kid: Option<String>,
    /// The client certificate that the request came with, once it was looked at.
    pub certificate: Option<Thumbprint>,
    /// What the caller proved.
    pub proved: Proved,
}

/// Of which keys the caller proved possession.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Proved {
    /// The token's client certificate.
    pub certificate: bool,
    /// The token's DPoP key.
    pub dpop: bool,
}

impl Proved {
    /// As metadata and logs name it.
    pub const fn label(self) -> &'static str {
        match (self.certificate, self.dpop) {
            (true, true) => "certificate+dpop",
            (true, false) => "certificate",
            (false, true) => "dpop",
            (false, false) => "none",
        }
    }
}

impl Checker {
    /// A checker that reads the time from `clock`.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock }
    }

    /// Checks one request under `rules`.
    pub async fn check(&self, _rules: &Rules, _request: &Request<'_>) -> Verdict {
        let _ = self.clock.now();
        std::future::ready(()).await;
        Verdict { outcome: Err(Denial::Internal), facts: Facts::default() }
    }
}
