//! The part of the configuration about DPoP: which proofs are accepted, and where used ones are
//! recorded.

use super::files::{self, Files};
use super::{issuers, span, whole_number};
use crate::config::file::{self, ReplayStore};
use crate::config::problem::{Findings, Path};
use crate::installation::DpopRules;
use crate::state::replay::ReplayRules;
use crate::state::replay::memory::MemoryLimits;
use crate::state::replay::redis::{RedisIdentity, RedisRules, SentinelUrls};
use keybound_core::oauth::NonceKeys;
use keybound_core::policy::{
    NonceDemand, Policy, ProofRules, ProofTime, SenderConstraint, USUAL_ALGORITHMS,
};
use std::sync::Arc;
use std::time::Duration;

pub(super) fn compile(
    given: file::Dpop,
    at: &Path,
    files: &Files,
    findings: &mut Findings,
) -> Option<(ProofRules, DpopRules)> {
    /// Beyond five minutes, a stolen proof is worth stealing; RFC 9449 §11.1 speaks of seconds.
    const WINDOW: std::ops::RangeInclusive<Duration> =
        Duration::from_secs(1)..=Duration::from_secs(300);
    let usual = ProofRules::default();
    let time = given.time.map_or(usual.time, |it| it.0);
    let by_nonce = time == ProofTime::Nonce;
    if by_nonce && given.proof_window.is_some() {
        let at = at.key("proof_window");
        findings.warning(&at, "has no effect: `time` is nonce, and a nonce tells its own end");
    }
    let window = span(given.proof_window, usual.window, WINDOW, &at.key("proof_window"), findings);
    let algorithms = issuers::algorithms(
        given.algorithms,
        USUAL_ALGORITHMS.to_vec(),
        &at.key("algorithms"),
        findings,
    );
    let nonce = given.nonce.map_or(usual.nonce, |it| it.0);
    if by_nonce && nonce != NonceDemand::Required {
        let message = "takes the time of a proof from a nonce of ours: set `nonce: required` too";
        findings.problem(&at.key("time"), message);
    }
    let file = at.key("nonce_secret_file");
    if given.nonce_secret_file.is_some() && nonce == NonceDemand::Off {
        findings.warning(&file, "has no effect: `nonce` is off");
    }
    let nonce_keys = given.nonce_secret_file.map(|name| {
        let read = files.read_secret(&name).and_then(|secrets| {
            let keys = NonceKeys::parse(&secrets).map(Arc::new);
            keys.map_err(|error| format!("{} {error}", files.path(&name).display()))
        });
        read.map_err(|message| findings.problem(&file, message)).ok()
    });
    let replay = replay(given.replay.unwrap_or_default(), &at.key("replay"), files, findings);
    let shared = matches!(replay, Some(ReplayRules::Redis(_)));
    if shared && nonce != NonceDemand::Off && nonce_keys.is_none() {
        let message = "replicas share used proofs but not this secret, which each generates for \
                       itself: none accepts another's nonce, unless `nonce_secret_file` is set";
        findings.warning(&at.key("nonce"), message);
    }
    let nonce_keys = match nonce_keys {
        None => None,
        Some(keys) => Some(keys?),
    };
    Some((
        ProofRules { algorithms, time, window, nonce },
        DpopRules { replay: replay?, nonce_keys },
    ))
}

fn replay(
    given: file::Replay,
    at: &Path,
    files: &Files,
    findings: &mut Findings,
) -> Option<ReplayRules> {
    let store = given.store.map_or_else(ReplayStore::default, |it| it.0);
    let for_memory = [("capacity", given.capacity.is_some())];
    let for_redis = [
        ("url_file", given.url_file.is_some()),
        ("sentinel_url_file", given.sentinel_url_file.is_some()),
        ("cluster", given.cluster.is_some()),
        ("ca_file", given.ca_file.is_some()),
        ("certificate_file", given.certificate_file.is_some()),
        ("key_file", given.key_file.is_some()),
        ("timeout", given.timeout.is_some()),
    ];
    let (others, other) = match store {
        ReplayStore::Memory => (&for_redis[..], ReplayStore::Redis),
        ReplayStore::Redis => (&for_memory[..], ReplayStore::Memory),
    };
    for (key, is_given) in others {
        if *is_given {
            findings.problem(&at.key(key), format!("is for `store: {other}`: remove it"));
        }
    }
    match store {
        ReplayStore::Memory => Some(in_memory(&given, at, findings)),
        ReplayStore::Redis => in_redis(given, at, files, findings),
    }
}

fn in_memory(given: &file::Replay, at: &Path, findings: &mut Findings) -> ReplayRules {
    let usual = MemoryLimits::default();
    let capacity = whole_number(
        given.capacity,
        usual.capacity,
        1..=100_000_000,
        &at.key("capacity"),
        findings,
    );
    let per_key = share(given, MemoryLimits::share_of(capacity), at, findings);
    ReplayRules::Memory(MemoryLimits { capacity, per_key })
}

fn share(given: &file::Replay, usual: usize, at: &Path, findings: &mut Findings) -> usize {
    whole_number(given.per_key, usual, 1..=100_000_000, &at.key("per_key"), findings)
}

fn in_redis(
    given: file::Replay,
    at: &Path,
    files: &Files,
    findings: &mut Findings,
) -> Option<ReplayRules> {
    const DEADLINE: std::ops::RangeInclusive<Duration> =
        Duration::from_millis(1)..=Duration::from_secs(10);
    let deadline =
        span(given.timeout, RedisRules::DEADLINE, DEADLINE, &at.key("timeout"), findings);
    let share = share(&given, RedisRules::SHARE, at, findings);
    let certificate = at.key("certificate_file");
    let identity = identity(&given, at, files, findings);
    let ca = given.ca_file.map(|name| {
        let ca = files.read(&name).and_then(|pem| match files::authorities(&pem) {
            Ok(()) => Ok(pem),
            Err(reason) => Err(format!("{} {reason}", files.path(&name).display())),
        });
        ca.map_err(|message| findings.problem(&at.key("ca_file"), message)).ok()
    });
    let cluster = given.cluster.unwrap_or(false);
    let sentinels = sentinels(given.sentinel_url_file, cluster, at, files, findings);
    let at = at.key("url_file");
    let name = findings.required(given.url_file, &at, "name a file that holds the URL of Redis")?;
    let urls = files.read_secret(&name).map_err(|message| findings.problem(&at, message)).ok()?;
    let ca = match ca {
        None => None,
        Some(ca) => Some(ca?),
    };
    let rules = match sentinels? {
        Some(sentinels) => RedisRules::read_watched(&urls, sentinels, ca, deadline),
        None => RedisRules::read(&urls, cluster, ca, deadline),
    };
    let bad = |error| format!("{} {error}", files.path(&name).display());
    let rules = rules.map_err(|error| findings.problem(&at, bad(error))).ok()?;
    let rules = match identity? {
        None => rules,
        Some(identity) => rules
            .with_identity(identity)
            .map_err(|error| findings.problem(&certificate, error.to_string()))
            .ok()?,
    };
    Some(ReplayRules::Redis(rules.with_share(share)))
}

/// The sentinels that name the server.
#[expect(clippy::option_option, reason = "None is a problem, and there may be no sentinels")]
fn sentinels(
    given: Option<String>,
    cluster: bool,
    at: &Path,
    files: &Files,
    findings: &mut Findings,
) -> Option<Option<SentinelUrls>> {
    let Some(name) = given else { return Some(None) };
    let at = at.key("sentinel_url_file");
    if cluster {
        findings.problem(&at, "is for servers that are no cluster: remove it, or `cluster`");
        return None;
    }
    let read = files.read_secret(&name).and_then(|urls| {
        let bad = |error| format!("{} {error}", files.path(&name).display());
        SentinelUrls::read(&urls).map(Some).map_err(bad)
    });
    read.map_err(|message| findings.problem(&at, message)).ok()
}

/// The client certificate for Redis and its key, both or neither.
#[expect(clippy::option_option, reason = "None is a problem, and there may be no certificate")]
fn identity(
    given: &file::Replay,
    at: &Path,
    files: &Files,
    findings: &mut Findings,
) -> Option<Option<RedisIdentity>> {
    let (name, key) = match (&given.certificate_file, &given.key_file) {
        (None, None) => return Some(None),
        (Some(certificate), Some(key)) => (certificate, key),
        (Some(_), None) => {
            findings.problem(&at.key("key_file"), "is missing: the certificate needs its key");
            return None;
        }
        (None, Some(_)) => {
            let message = "is missing: the key needs its certificate";
            findings.problem(&at.key("certificate_file"), message);
            return None;
        }
    };
    let read = files.read(name).and_then(|certificate| {
        let key = files.read_secret(key)?;
        let fit = files::identity(&certificate, &key);
        fit.map_err(|reason| format!("{} {reason}", files.path(name).display()))?;
        Ok(Some(RedisIdentity { certificate, key }))
    });
    read.map_err(|message| findings.problem(&at.key("certificate_file"), message)).ok()
}

/// Says what a store in memory means, where a policy counts on it.
pub(super) fn warn_of_replicas(
    dpop: &DpopRules,
    policies: &[Arc<Policy>],
    at: &Path,
    findings: &mut Findings,
) {
    let counts = |it: &Arc<Policy>| {
        matches!(it.sender_constraint, SenderConstraint::Dpop | SenderConstraint::Either)
    };
    if matches!(dpop.replay, ReplayRules::Memory(_)) && policies.iter().any(counts) {
        let message = "used proofs are recorded in this process only: with several replicas, each \
                       accepts a stolen proof once, unless `store` is redis";
        findings.warning(&at.key("replay"), message);
    }
}
