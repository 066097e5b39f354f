//! `check-config --against`: what a configuration would do to the requests that `serve --capture` kept.

use crate::clock::FixedClock;
use crate::commands::input;
use crate::config::Config;
use crate::explain::{Decision, Explained, Terms, Ways, explain, request};
use crate::front::capture::Kept;
use keybound_core::jose::KeySet;
use keybound_core::oauth::NonceKeys;
use keybound_core::{Denial, Fixed, Rules};
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::runtime::Builder;

/// What would become of kept requests.
#[derive(Debug, Default, Serialize)]
pub(super) struct Against {
    /// So many were read.
    requests: usize,
    /// So many would be denied for the same reason.
    unchanged: usize,
    /// So many of these would be let through, since their policy only reports.
    reported: usize,
    /// So many were kept for what no file can show, such as an outage or a proof that was used before.
    open: usize,
    /// The others.
    changes: Vec<Change>,
    /// The files that are no kept requests.
    unreadable: Vec<PathBuf>,
}

/// Requests for which the configuration changes something, all in the same way.
#[derive(Debug, Serialize)]
struct Change {
    /// What they were kept for.
    kept_for: &'static str,
    /// What they would get: `allowed`, or the reason to deny them.
    now: &'static str,
    /// Whether the policy would let them through and only report it.
    reported: bool,
    /// The policy that would apply.
    policy: Option<String>,
    files: Vec<PathBuf>,
}

/// Puts the requests in `folder` under `config`.
pub(super) fn put(folder: &Path, config: &Config) -> Result<Against, String> {
    let files = kept_in(folder).map_err(|error| input::of(folder, error))?;
    let runtime = Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| error.to_string())?;
    let unknown = || Arc::new(NonceKeys::from_octets(&[0; 32]));
    let nonces = config.rules.dpop.nonce_keys.clone().unwrap_or_else(unknown);
    let rules = &Rules::new(config.rules.policies.clone(), nonces);
    let mut against = Against::default();
    let mut changes: BTreeMap<_, Vec<PathBuf>> = BTreeMap::new();
    for file in files {
        let message = input::bytes(&file).and_then(request::encoded);
        let kept = message.as_ref().ok().and_then(|it| Kept::of(it));
        let (Ok(message), Some(kept)) = (message, kept) else {
            against.unreadable.push(file);
            continue;
        };
        against.requests = against.requests.saturating_add(1);
        let explained = runtime.block_on(explained(&message, &kept, rules, config));
        match outcome(kept.reason, &explained) {
            Outcome::Unchanged { reported } => {
                against.unchanged = against.unchanged.saturating_add(1);
                against.reported = against.reported.saturating_add(reported.into());
            }
            Outcome::Open => against.open = against.open.saturating_add(1),
            Outcome::Changed(now, reported) => {
                let policy = explained.verdict().facts.policy.as_ref();
                let policy = policy.map(|it| it.name.to_string());
                changes.entry((kept.reason.label(), now, reported, policy)).or_default().push(file);
            }
        }
    }
    let change = |((kept_for, now, reported, policy), files)| Change {
        kept_for,
        now,
        reported,
        policy,
        files,
    };
    against.changes = changes.into_iter().map(change).collect();
    Ok(against)
}

/// The files in `folder`, in the order of their names, and so of time.
fn kept_in(folder: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = fs::read_dir(folder)?.map(|it| Ok(it?.path()));
    let mut files = entries.collect::<io::Result<Vec<_>>>()?;
    files.retain(|it| it.extension().is_some_and(|it| it == "pb"));
    files.sort();
    Ok(files)
}

async fn explained(message: &[u8], kept: &Kept, rules: &Rules, config: &Config) -> Explained {
    // A redacted signature counts as verified, so that no key is needed.
    let keys = rules.policies.issuers.iter().map(|_| Arc::new(KeySet::default()));
    let terms = Terms {
        rules,
        sources: &Fixed::new(keys),
        digest: &config.digest,
        changed: false,
        clock: Arc::new(FixedClock(kept.at)),
        deadline: None,
        online: false,
        accepted: "",
        remarks: vec![],
        ways: &WAYS,
    };
    explain(message, terms).await
}

const WAYS: Ways = Ways { token: "", proof: "", online: "" };

enum Outcome {
    Unchanged { reported: bool },
    Open,
    Changed(&'static str, bool),
}

fn outcome(kept_for: Denial, explained: &Explained) -> Outcome {
    let (now, reported) = match explained.decision {
        Decision::Denied(denial) => (Some(denial), false),
        Decision::Reported(denial) => (Some(denial), true),
        Decision::Allowed | Decision::Public | Decision::Served => (None, false),
        Decision::Open => return Outcome::Open,
    };
    match now {
        Some(denial) if denial == kept_for => Outcome::Unchanged { reported },
        Some(denial) if CIRCUMSTANCES.contains(&denial) => Outcome::Open,
        Some(denial) => Outcome::Changed(denial.label(), reported),
        None if CIRCUMSTANCES.contains(&kept_for) => Outcome::Open,
        None => Outcome::Changed("allowed", false),
    }
}

impl fmt::Display for Against {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { requests, unchanged, reported, open, changes, unreadable } = self;
        writeln!(f, "\nkept requests: {requests}")?;
        write!(f, "  {unchanged} for the same reason as before")?;
        if *reported != 0 {
            write!(f, ", of which {reported} would only be reported")?;
        }
        writeln!(f)?;
        if *open != 0 {
            writeln!(f, "  {open} {OPEN}")?;
        }
        for Change { kept_for, now, reported, policy, files } in changes {
            let policy = policy.as_deref().unwrap_or("no policy");
            let reported = if *reported { ", only reported" } else { "" };
            writeln!(f, "  {} {kept_for} → {now}{reported} ({policy})", files.len())?;
            for file in files.iter().take(SHOWN) {
                writeln!(f, "      {}", file.display())?;
            }
            let more = files.len().saturating_sub(SHOWN);
            if more != 0 {
                writeln!(f, "      and {more} more: --json names them all")?;
            }
        }
        for file in unreadable {
            writeln!(f, "  not a kept request: {}", file.display())?;
        }
        Ok(())
    }
}

const OPEN: &str = "open: they depend on keys, on answers of an issuer, on proofs used before or on the load, which no \
                    file holds";

/// So many files of a change are named.
const SHOWN: usize = 5;

/// Reasons that lie outside a request: the keys of an issuer, its answers, what was used before, load.
const CIRCUMSTANCES: &[Denial] = &[
    Denial::TokenKeyUnknown,
    Denial::TokenSignatureInvalid,
    Denial::TokenInactive,
    Denial::TokenRevoked,
    Denial::ProofReplayed,
    Denial::KeysUnavailable,
    Denial::IntrospectionUnavailable,
    Denial::ReplayUnavailable,
    Denial::RevocationUnavailable,
    Denial::CheckTimedOut,
    Denial::Overloaded,
    Denial::Internal,
];
