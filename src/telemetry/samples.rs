//! A small set of policies, for tests.

use keybound_core::client_certificate::Source;
use keybound_core::policy::{
    Issuer, IssuerId, Policy, PolicySet, ProofRules, SenderConstraint, Upstream,
};
use std::io::{self, Write};
use std::sync::{Arc, Mutex};

/// One issuer, and the policy `payments` for every request.
pub(crate) fn policy_set() -> PolicySet {
    let issuer = Issuer::new("https://as.example.com", "https://api.example.com");
    let payments = Policy {
        issuers: vec![IssuerId(0)],
        ..Policy::new("payments", SenderConstraint::Certificate)
    };
    PolicySet {
        issuers: vec![Arc::new(issuer)],
        policies: [Arc::new(payments)].into(),
        client_certificate: Source::Peer,
        token_bytes: 16384,
        upstream: Upstream::default(),
        proofs: ProofRules::default(),
    }
}

/// A log buffer. Locking it simulates a slow reader.
#[derive(Clone, Default)]
pub(crate) struct Out(pub(crate) Arc<Mutex<Vec<u8>>>);

impl Out {
    /// What has been written to it.
    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

impl Write for Out {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
