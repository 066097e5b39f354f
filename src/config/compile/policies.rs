//! The part of the configuration about policies.

use super::issuers::Names;
use super::{matching, public, resource, user_authentication};
use crate::config::file;
use crate::config::problem::{Findings, Path, quoted};
use crate::config::values::{ClaimValues, Word};
use keybound_core::Origin;
use keybound_core::policy::{ClaimRule, IssuerId, Match, Mode, Policy, SenderConstraint, Streams};
use keybound_core::words::Words;
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

pub(super) fn compile(
    policies: Vec<file::Policy>,
    at: &Path,
    issuers: &Names,
    findings: &mut Findings,
) -> Option<Vec<Arc<Policy>>> {
    if policies.is_empty() {
        findings.problem(at, "must hold one policy at least, or every request is denied");
    }
    let mut names = HashSet::new();
    let mut compiled = vec![];
    for (index, given) in policies.into_iter().enumerate() {
        let at = at.index(index);
        if let Some(name) = &given.name
            && !names.insert(name.clone())
        {
            let message = format!("{} is used twice: names must be unique", quoted(name));
            findings.problem(&at.key("name"), message);
        }
        compiled.push(policy(given, &at, issuers, findings).map(Arc::new));
    }
    let compiled: Vec<Arc<Policy>> = compiled.into_iter().collect::<Option<_>>()?;
    resource::keep_apart(&compiled, at, findings);
    public::warn(&compiled, at, findings);
    warn_of_reports(&compiled, at, findings);
    warn_of_shadows(&compiled, at, findings);
    warn_of_idle_issuers(&compiled, issuers, findings);
    Some(compiled)
}

/// Warns of policies in report mode. A request that is denied before it has a policy is allowed
/// only if every policy is in report mode (`PolicySet::mode`).
fn warn_of_reports(policies: &[Arc<Policy>], at: &Path, findings: &mut Findings) {
    let reports = |it: &Policy| it.mode == Mode::Report;
    let message = if policies.iter().all(|it| reports(it)) {
        "report mode: requests that would be denied are allowed and logged"
    } else {
        "this policy is in report mode: what it would deny is allowed and logged; a request that \
         no policy matches, that cannot be read, or that comes while too many are being checked \
         belongs to no policy, and is refused as long as another policy enforces"
    };
    for (index, _) in policies.iter().enumerate().filter(|(_, it)| reports(it)) {
        findings.warning(&at.index(index).key("mode"), message);
    }
}

fn policy(
    given: file::Policy,
    at: &Path,
    issuers: &Names,
    findings: &mut Findings,
) -> Option<Policy> {
    let is_public = public::compile(&given, at, findings);
    let resource = {
        let elsewhere = given.resource_metadata.is_some();
        let at = at.key("resource");
        resource::compile(given.resource, given.origin.as_deref(), elsewhere, &at, findings)
    };
    let origin = given.origin.and_then(|it| origin(&it, &at.key("origin"), findings));
    let mode = given.mode.map_or_else(Mode::default, |it| it.0);
    let streams = given.streams.map_or_else(Streams::default, |it| it.0);
    let realm = given.realm.or_else(|| given.name.clone()).unwrap_or_default();
    quotable(&realm, &at.key("realm"), findings);
    if let Some(url) = &given.resource_metadata {
        let at = at.key("resource_metadata");
        quotable(url, &at, findings);
        if !url.starts_with("https://") {
            findings.problem(&at, "must be an https URL (RFC 9728)");
        }
    }
    let name = name(given.name, &at.key("name"), findings);
    let matches = matching::compile(given.matches.unwrap_or_default(), &at.key("match"), findings);
    let sender_constraint = sender_constraint(given.sender_constraint, is_public, at, findings);
    let routes_may_name_it = given.allow_route_annotation.unwrap_or(false);
    if routes_may_name_it && let Some(weakness) = weakness(mode, is_public, sender_constraint) {
        findings.warning(&at.key("allow_route_annotation"), weakness);
    }
    let issuers = if is_public {
        vec![]
    } else {
        accepted(given.issuers, &at.key("issuers"), issuers, findings)
    };
    let scopes = scopes(given.scopes.unwrap_or_default(), &at.key("scopes"), findings);
    let claims = claims(given.claims.unwrap_or_default(), &at.key("claims"), findings);
    let authentication =
        user_authentication::compile(given.authentication, &at.key("authentication"), findings);
    Some(Policy {
        name: name?.into(),
        matches,
        public: is_public,
        sender_constraint: sender_constraint?,
        issuers,
        scopes,
        claims,
        authentication,
        origin,
        streams,
        mode,
        routes_may_name_it,
        realm,
        resource,
        resource_metadata: given.resource_metadata,
    })
}

fn origin(text: &str, at: &Path, findings: &mut Findings) -> Option<Origin> {
    let origin = Origin::parse(text);
    if origin.is_err() {
        let message =
            format!("{} is not an origin: write https://HOST, without a path", quoted(text));
        findings.problem(at, message);
    }
    origin.ok()
}

/// Checks that a text can be quoted in a challenge without escapes (RFC 9110 §5.6.4).
fn quotable(text: &str, at: &Path, findings: &mut Findings) {
    if !text.bytes().all(|it| matches!(it, b' '..=b'~') && it != b'"' && it != b'\\') {
        findings.problem(at, "must be visible ASCII without quotes and backslashes");
    }
}

fn name(given: Option<String>, at: &Path, findings: &mut Findings) -> Option<String> {
    /// Names are labels of metrics.
    const LONGEST: usize = 64;
    let name = findings.required(given, at, "give the policy a name for logs and metrics")?;
    let allowed = |it: u8| it.is_ascii_alphanumeric() || b"._-".contains(&it);
    if name.is_empty() || LONGEST < name.len() || !name.bytes().all(allowed) {
        let message = format!(
            "{} must be 1 to {LONGEST} letters, digits, dots, hyphens and underscores",
            quoted(&name)
        );
        findings.problem(at, message);
    }
    Some(name)
}

/// What a policy says of the binding; a public one has nothing to say, and demands none.
fn sender_constraint(
    given: Option<Word<SenderConstraint>>,
    is_public: bool,
    at: &Path,
    findings: &mut Findings,
) -> Option<SenderConstraint> {
    if is_public {
        return Some(SenderConstraint::None);
    }
    let at_constraint = at.key("sender_constraint");
    let given = given.map(|it| it.0);
    // Of a `public` that cannot be read, nothing can be said about what depends on it.
    if given.is_none() && findings.is_incomplete(&at.key("public")) {
        return None;
    }
    let what = format!("write {}", SenderConstraint::choices());
    let constraint = findings.required(given, &at_constraint, &what);
    if let Some(doubt) = constraint.and_then(doubt) {
        findings.warning(&at_constraint, doubt);
    }
    constraint
}

const fn doubt(constraint: SenderConstraint) -> Option<&'static str> {
    match constraint {
        SenderConstraint::Certificate
        | SenderConstraint::Dpop
        | SenderConstraint::Either
        | SenderConstraint::IfBound => None,
        SenderConstraint::None => Some(
            "no proof of possession is required: anybody who holds a token can use it, even a \
             bound one",
        ),
    }
}

/// A warning about a policy that routes can select.
const fn weakness(
    mode: Mode,
    is_public: bool,
    constraint: Option<SenderConstraint>,
) -> Option<&'static str> {
    match (mode, constraint) {
        _ if is_public => {
            Some("anybody who can edit a route can select this policy, which asks for no token")
        }
        (Mode::Report, _) => {
            Some("anybody who can edit a route can select this policy, which denies nothing")
        }
        (Mode::Enforce, Some(SenderConstraint::None)) => Some(
            "anybody who can edit a route can select this policy, which requires no proof of \
             possession",
        ),
        (Mode::Enforce, _) => None,
    }
}

fn accepted(
    given: Option<Vec<String>>,
    at: &Path,
    issuers: &Names,
    findings: &mut Findings,
) -> Vec<IssuerId> {
    let Some(given) = given else { return issuers.each().map(|(id, _)| id).collect() };
    if given.is_empty() {
        findings.problem(at, "must not be empty: leave it out to accept all issuers");
    }
    let mut found = vec![];
    for (index, name) in given.iter().enumerate() {
        match issuers.find(name) {
            Some(id) if found.contains(&id) => (),
            Some(id) => found.push(id),
            None if issuers.are_complete(findings) => {
                let message = format!("{} is not the name of one of the issuers", quoted(name));
                findings.problem(&at.index(index), message);
            }
            None => (),
        }
    }
    found
}

fn scopes(scopes: Vec<String>, at: &Path, findings: &mut Findings) -> Vec<String> {
    for (index, scope) in scopes.iter().enumerate() {
        if scope.contains(' ') {
            let message = format!("{} is several scopes: list each of them", quoted(scope));
            findings.problem(&at.index(index), message);
        } else if !is_scope(scope) {
            findings.problem(&at.index(index), format!("{} is not a scope", quoted(scope)));
        }
    }
    scopes
}

/// Whether `text` is one word of a list with spaces between its words (RFC 6749 §3.3).
pub(super) fn is_scope(text: &str) -> bool {
    let allowed = |it: u8| matches!(it, 0x21 | 0x23..=0x5b | 0x5d..=0x7e);
    !text.is_empty() && text.bytes().all(allowed)
}

fn claims(
    claims: BTreeMap<String, ClaimValues>,
    at: &Path,
    findings: &mut Findings,
) -> Vec<ClaimRule> {
    let mut rules = vec![];
    for (path, ClaimValues(values)) in claims {
        if !is_claim_path(&path) {
            findings.problem(&at.key(&path), BAD_CLAIM_PATH);
        }
        rules.push(ClaimRule { path, values });
    }
    rules
}

/// Whether `path` names a claim: members of objects, with dots between them.
pub(super) fn is_claim_path(path: &str) -> bool {
    path.split('.').all(|it| !it.is_empty())
}

pub(super) const BAD_CLAIM_PATH: &str =
    "must be the path of a claim, with dots between its members, as in sub or cnf.jkt";

/// Warns of policies after others that match all of their requests: only the proxy or a route can
/// select them, by name.
fn warn_of_shadows(policies: &[Arc<Policy>], at: &Path, findings: &mut Findings) {
    let only_matched = |(_, it): &(usize, &Arc<Policy>)| !it.routes_may_name_it;
    for (index, policy) in policies.iter().enumerate().filter(only_matched) {
        let earlier = policies.get(..index).unwrap_or_default();
        let shadow = |part: &Match| earlier.iter().find(|it| matching::covers(&it.matches, part));
        let shadows: Option<Vec<_>> =
            matching::parts(&policy.matches).map(|it| shadow(&it)).collect();
        let Some(mut shadows) = shadows else { continue };
        let mut seen = HashSet::new();
        shadows.retain(|it| seen.insert(&it.name));
        let names: Vec<_> = shadows.iter().map(|it| format!("`{}`", it.name)).collect();
        let (names, verb) = (names.join(" and "), if names.len() == 1 { "does" } else { "do" });
        let message = format!(
            "matches nothing that {names} above {verb} not match first: only a proxy that names \
             it (context_extensions) gets it"
        );
        findings.warning(&at.index(index), message);
    }
}

fn warn_of_idle_issuers(policies: &[Arc<Policy>], issuers: &Names, findings: &mut Findings) {
    for (id, _) in issuers.each() {
        if !policies.iter().any(|it| it.issuers.contains(&id)) {
            let at = Path::default().key("issuers").index(id.0);
            findings.warning(&at, "no policy accepts its tokens");
        }
    }
}
