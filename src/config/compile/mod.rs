//! Compilation of a configuration file into the rules that it stands for. Every part is compiled,
//! whatever is wrong with the others, so that all problems are reported at once.

mod bearer;
mod choosing;
mod client_authentication;
mod client_certificate;
mod dpop;
mod events;
mod exposure;
mod files;
mod forward_auth;
mod introspection;
mod issuers;
mod listen;
mod matching;
mod policies;
mod public;
mod resource;
mod revocation;
mod secret;
mod streams;
mod telemetry;
mod timing;
mod upkeep;
mod upstream;
mod url;
mod user_authentication;

pub(super) use files::{Files, of_long, read_file};

use super::file::{self, File};
use super::problem::{Findings, Path};
use super::values::Span;
use super::{Listen, Telemetry};
use crate::installation::{InstallationRules, Limits};
use crate::state::token_cache::TokenCacheLimits;
use keybound_core::policy::{PolicySet, USUAL_TOKEN_BYTES};
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

/// Compiles `file`. Returns `None` if a part is missing, which is then among the findings.
pub(super) fn compile(
    file: File,
    files: &Files,
    findings: &mut Findings,
) -> Option<(Listen, InstallationRules, Telemetry)> {
    let root = Path::default();
    let listen = file.listen.unwrap_or_default();
    let at = root.key("listen").key("events");
    let is_heard = listen.events.is_some() || findings.is_incomplete(&at);
    let listen = listen::compile(listen, file.forward_auth, &root, files, findings);
    let at = root.key("client_certificate");
    let source = file.client_certificate.unwrap_or_default();
    let client_certificate = client_certificate::compile(source, &at, findings);
    if let Some(forward_auth) = &listen.forward_auth {
        forward_auth::warn_of_source(&forward_auth.asker, &client_certificate, &at, findings);
    }
    let usual = Limits {
        check_deadline: timing::usual_deadline(file.issuers.as_deref().unwrap_or_default()),
        ..Limits::default()
    };
    let given = file.limits.unwrap_or_default();
    let (token_bytes, limits) = limits(&given, usual, &root.key("limits"), findings);
    let asker = listen.forward_auth.as_ref().map(|it| &it.asker);
    let certificate = client_certificate.header();
    let given = file.upstream.unwrap_or_default();
    let upstream = upstream::compile(given, asker, certificate, &root, findings);
    let at = root.key("telemetry");
    let telemetry = telemetry::compile(file.telemetry.unwrap_or_default(), &at, files, findings);

    let dpop = dpop::compile(file.dpop.unwrap_or_default(), &root.key("dpop"), files, findings);

    let at = root.key("issuers");
    let issuers = findings.required(file.issuers, &at, "list the issuers to accept");
    let names = issuers::Names::of(issuers.as_deref().unwrap_or_default());
    let redis = events::Redis::of(dpop.as_ref().map(|it| &it.1));
    let issuers =
        issuers.map(|it| issuers::compile(it, limits.patience(), redis, &at, files, findings));
    let sockets = [Some(&listen.ext_authz), Some(&listen.admin)].into_iter().flatten();
    let sockets = sockets.chain(listen.events.as_ref().map(|it| &it.address));
    let forward_auth = listen.forward_auth.as_ref().map(|it| &it.address);
    files.keep_apart(&sockets.chain(forward_auth).collect::<Vec<_>>(), findings);
    let at = root.key("policies");
    let policies = findings.required(file.policies, &at, "list the policies to apply");
    let policies = policies.map(|it| policies::compile(it, &at, &names, findings));
    let (issuers, policies, (proofs, dpop)) = (issuers??, policies??, dpop?);
    dpop::warn_of_replicas(&dpop, &policies, &root.key("dpop"), findings);
    exposure::warn_of_redis(&dpop, &root.key("dpop"), findings);
    files.warn_of_others(findings);
    timing::check(&issuers, &limits, &root, findings);
    events::check(&issuers, is_heard, &root, findings);
    let policies = policies.into();
    let asker = listen.forward_auth.as_ref().map(|it| &it.asker);
    choosing::warn(&policies, asker, &root.key("policies"), findings);
    resource::warn_of_promises(&policies, &root.key("policies"), findings);
    resource::warn_of_questions(&policies, asker, &root, findings);
    let judged = issuers.iter().map(|it| Arc::clone(&it.issuer)).collect();
    let policies =
        PolicySet { issuers: judged, policies, client_certificate, token_bytes, upstream, proofs };
    let asker = listen.forward_auth.as_ref().map(|it| &it.asker);
    streams::check(&policies, &issuers, asker, &root, findings);
    upstream::keep_listed(&policies, asker, &root.key("upstream").key("headers"), findings);
    Some((listen, InstallationRules { policies, issuers, limits, dpop }, telemetry?))
}

/// A number within bounds, or the default.
fn whole_number(
    given: Option<u64>,
    usual: usize,
    within: RangeInclusive<u64>,
    at: &Path,
    findings: &mut Findings,
) -> usize {
    let Some(value) = given else { return usual };
    if !within.contains(&value) {
        let (least, most) = within.into_inner();
        findings.problem(at, format!("must be {least} to {most}, not {value}"));
    }
    usize::try_from(value).unwrap_or(usize::MAX)
}

/// A duration within bounds, or the default.
fn span(
    given: Option<Span>,
    usual: Duration,
    within: RangeInclusive<Duration>,
    at: &Path,
    findings: &mut Findings,
) -> Duration {
    let span = given.unwrap_or(Span(usual));
    if !within.contains(&span.0) {
        let (least, most) = within.into_inner();
        let message = format!("must be {} to {}, not {span}", Span(least), Span(most));
        findings.problem(at, message);
    }
    span.0
}

/// The limits of tokens and of checks.
fn limits(
    limits: &file::Limits,
    usual: Limits,
    at: &Path,
    findings: &mut Findings,
) -> (usize, Limits) {
    const DEADLINE: RangeInclusive<Duration> = Duration::from_millis(1)..=timing::LONGEST;
    let mut number =
        |key, given, usual, within| whole_number(given, usual, within, &at.key(key), findings);
    let token_bytes = number("token_bytes", limits.token_bytes, USUAL_TOKEN_BYTES, 256..=1_048_576);
    let (given, most) = (limits.concurrent_checks, 1_000_000);
    let concurrent_checks = number("concurrent_checks", given, usual.concurrent_checks, 1..=most);
    let TokenCacheLimits { entries, bytes } = usual.token_cache;
    let token_cache = TokenCacheLimits {
        entries: number("token_cache_entries", limits.token_cache_entries, entries, 1..=10_000_000),
        bytes: number("token_cache_bytes", limits.token_cache_bytes, bytes, 65_536..=16 << 30),
    };
    let deadline = at.key("check_deadline");
    let check_deadline =
        span(limits.check_deadline, usual.check_deadline, DEADLINE, &deadline, findings);
    (token_bytes, Limits { check_deadline, concurrent_checks, token_cache })
}

/// Whether `text` is a token of HTTP (RFC 9110 §5.6.2).
fn is_token(text: &str) -> bool {
    let allowed = |it: u8| it.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&it);
    !text.is_empty() && text.bytes().all(allowed)
}

#[cfg(test)]
mod tests;
