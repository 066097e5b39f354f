//! The part of the configuration about revoked tokens.

use super::events;
use super::files::Files;
use crate::config::file;
use crate::config::problem::{Findings, Path};
use crate::state::revocation::RevocationRules;
use crate::state::revocation::denylist::{Denylist, Entry, YamlReader};
use keybound_core::policy::StatusDemand;
use serde::Deserialize;
use std::sync::Arc;

pub(super) fn compile(
    given: file::Revocation,
    of: events::Of<'_>,
    at: &Path,
    files: &Files,
    findings: &mut Findings,
) -> Option<RevocationRules> {
    let file::Revocation { denylist_file, status_list, events } = given;
    let status_list = status_list.map(|it| it.0).unwrap_or_default();
    let events_at = at.key("events");
    let has_list = denylist_file.is_some() || status_list != StatusDemand::Off;
    if !has_list && events.is_none() && !findings.is_incomplete(at) {
        let message = "revokes nothing: give it `denylist_file`, `status_list: if_present` or `events`, \
                       or leave it out";
        findings.problem(at, message);
    }
    let events = events.map(|it| events::compile(it, of, &events_at, files, findings));
    let denylist = denylist_file.map(|it| denylist(&it, &at.key("denylist_file"), files, findings));
    let denylist = match denylist {
        None => None,
        Some(list) => Some(list?),
    };
    let events = match events {
        None => None,
        Some(rules) => Some(rules?),
    };
    Some(RevocationRules { denylist, status_list, events })
}

fn denylist(
    name: &str,
    at: &Path,
    files: &Files,
    findings: &mut Findings,
) -> Option<Arc<Denylist>> {
    if name.is_empty() {
        findings.problem(at, "must be the name of a file");
        return None;
    }
    let path = files.follows(name);
    let list = Denylist::open(path, YAML);
    list.map_err(|bad| findings.problem(at, bad.to_string())).ok()
}

/// A denylist in YAML.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Listed {
    revoked: Vec<Entry>,
}

const YAML: YamlReader = |text| {
    let read = crate::config::table::<Listed>(text, "revoked", &["", ".revoked[]"]);
    let (Listed { revoked }, lines) = read.map_err(|problems| {
        let told = problems.into_iter().map(|it| {
            let place = if it.path.is_empty() { String::new() } else { format!("{}: ", it.path) };
            (it.line, format!("{place}{}", it.message))
        });
        told.collect::<Vec<_>>()
    })?;
    let line = |it: Option<usize>| it.and_then(|it| u32::try_from(it).ok()).unwrap_or_default();
    Ok(lines.into_iter().map(line).zip(revoked).collect())
};
