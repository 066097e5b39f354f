//! The part of the configuration about issuers.

use super::files::{self, Files};
use super::url::{Fetched, fetched, fetched_metadata};
use super::{introspection, is_token, upkeep};
use crate::config::file;
use crate::config::problem::{Findings, Path, quoted};
use crate::config::usual;
use crate::config::values::{AlgorithmName, Span};
use crate::installation::IssuerRules;
use crate::state::jwks::{KeyRules, KeySource};
use keybound_core::jose::Algorithm;
use keybound_core::jose::{KeySet, NotAKeySet};
use keybound_core::policy::{Introspection, Issuer, IssuerId, USUAL_ALGORITHMS};
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

/// `patience` is that of a check.
pub(super) fn compile(
    issuers: Vec<file::Issuer>,
    patience: Duration,
    at: &Path,
    files: &Files,
    findings: &mut Findings,
) -> Option<Vec<IssuerRules>> {
    if issuers.is_empty() {
        findings.problem(at, "must hold one issuer at least, or no token is accepted");
    }
    let mut names = HashSet::new();
    let mut compiled = vec![];
    for (index, given) in issuers.into_iter().enumerate() {
        let at = at.index(index);
        if let Some(name) = &given.issuer
            && !names.insert(name.clone())
        {
            let message = format!("{} is used twice: names must be unique", quoted(name));
            findings.problem(&at.key("issuer"), message);
        }
        compiled.push(issuer(given, patience, &at, files, findings));
    }
    compiled.into_iter().collect()
}

fn issuer(
    given: file::Issuer,
    patience: Duration,
    at: &Path,
    files: &Files,
    findings: &mut Findings,
) -> Option<IssuerRules> {
    let name = name(given.issuer, &at.key("issuer"), findings);
    let keys = key_rules(name.as_deref(), given.keys, given.ca_file, at, files, findings);
    let asked = given.introspection.as_ref().map_or(Introspection::Never, |it| {
        match it.introspect.map(|it| it.0) {
            Some(file::Introspect::Always) => Introspection::AllTokens,
            Some(file::Introspect::Opaque) | None => Introspection::OpaqueTokens,
        }
    });
    let introspection = given.introspection.map(|it| {
        let source = keys.as_ref().map(|it| &it.source);
        introspection::compile(it, source, patience, &at.key("introspection"), files, findings)
    });
    let introspection = match introspection {
        None => Some(None),
        Some(rules) => rules.map(Some),
    };
    let audiences = audiences(given.audiences, &at.key("audiences"), findings);
    let algorithms = algorithms(given.algorithms, &at.key("algorithms"), findings);
    let token_types = token_types(given.token_types, &at.key("token_types"), findings);
    let clock_leeway = clock_leeway(given.clock_leeway, &at.key("clock_leeway"), findings);
    let issuer = Issuer {
        name: name?.into(),
        audiences: audiences?,
        algorithms,
        token_types,
        clock_leeway,
        introspection: asked,
    };
    Some(IssuerRules { issuer: Arc::new(issuer), keys: keys?, introspection: introspection? })
}

fn name(given: Option<String>, at: &Path, findings: &mut Findings) -> Option<String> {
    let name = findings.required(given, at, "give the exact `iss` of its tokens")?;
    if name.is_empty() || name.chars().any(char::is_control) {
        findings.problem(at, "must be the exact `iss` of its tokens");
        return None;
    }
    Some(name)
}

fn audiences(
    given: Option<Vec<String>>,
    at: &Path,
    findings: &mut Findings,
) -> Option<Vec<String>> {
    let what = "name the audiences, one of which must be in a token's `aud`";
    let audiences = findings.required(given, at, what)?;
    if audiences.is_empty() {
        findings.problem(at, "must not be empty, or no token is accepted");
    }
    for (index, audience) in audiences.iter().enumerate() {
        if audience.is_empty() {
            findings.problem(&at.index(index), "must not be empty");
        }
    }
    Some(audiences)
}

pub(super) fn algorithms(
    given: Option<Vec<AlgorithmName>>,
    at: &Path,
    findings: &mut Findings,
) -> Vec<Algorithm> {
    let Some(given) = given else { return USUAL_ALGORITHMS.to_vec() };
    if given.is_empty() {
        let [first, second, third] = USUAL_ALGORITHMS;
        let message = format!("must not be empty: leave it out for {first}, {second} and {third}");
        findings.problem(at, message);
    }
    given.into_iter().map(|it| it.0).collect()
}

/// As they are compared: in lower case, without `application/` (RFC 7515 §4.1.9).
fn token_types(given: Option<Vec<String>>, at: &Path, findings: &mut Findings) -> Vec<String> {
    let Some(given) = given else { return usual::TOKEN_TYPES.map(str::to_owned).to_vec() };
    if given.is_empty() {
        let [usual] = usual::TOKEN_TYPES;
        findings.problem(at, format!("must not be empty: leave it out for {usual}"));
    }
    let mut types = vec![];
    for (index, given) in given.into_iter().enumerate() {
        let lower = given.to_ascii_lowercase();
        let short = lower.strip_prefix("application/").unwrap_or(&lower);
        if !is_token(short) {
            let message = format!("{} is not a media type: write it like at+jwt", quoted(&given));
            findings.problem(&at.index(index), message);
        } else if short == "jwt" {
            let message = "`JWT` does not tell access tokens from other tokens: only the audience \
                           keeps out ID tokens of this issuer";
            findings.warning(&at.index(index), message);
        }
        types.push(short.to_owned());
    }
    types
}

fn clock_leeway(given: Option<Span>, at: &Path, findings: &mut Findings) -> Duration {
    /// With more than this a clock is wrong, and leeway prolongs the life of stolen tokens.
    const MOST: Duration = Duration::from_secs(300);
    let leeway = given.map_or(usual::CLOCK_LEEWAY, |it| it.0);
    if MOST < leeway {
        findings.problem(at, format!("must be at most 5m, not {leeway:?}"));
    }
    leeway
}

fn key_rules(
    issuer: Option<&str>,
    given: Option<file::Keys>,
    ca_file: Option<String>,
    at: &Path,
    files: &Files,
    findings: &mut Findings,
) -> Option<KeyRules> {
    let keys = at.key("keys");
    if given.is_none() && findings.is_incomplete(&keys) {
        return None;
    }
    let given = given.unwrap_or_default();
    let upkeep = upkeep::compile(&given, &keys, files, findings);
    let source = key_source(issuer, given, at, files, findings);
    let at = at.key("ca_file");
    if ca_file.is_some() && matches!(source, Some(KeySource::File(_))) {
        findings.warning(&at, "has no effect: nothing is fetched from this issuer");
    }
    let Some(name) = ca_file else {
        return source.map(|source| KeyRules { source, ca: None, upkeep });
    };
    let ca = files.read(&name).and_then(|pem| match files::authorities(&pem) {
        Ok(()) => Ok(pem),
        Err(reason) => Err(format!("{} {reason}", files.path(&name).display())),
    });
    let ca = ca.map_err(|message| findings.problem(&at, message)).ok()?;
    Some(KeyRules { source: source?, ca: Some(ca), upkeep })
}

fn key_source(
    issuer: Option<&str>,
    given: file::Keys,
    at: &Path,
    files: &Files,
    findings: &mut Findings,
) -> Option<KeySource> {
    let keys = at.key("keys");
    match (given.discovery, given.jwks_uri, given.jwks_file) {
        (None | Some(true), None, None) => discovery(issuer, &at.key("issuer"), findings),
        (None | Some(false), Some(uri), None) => {
            secure(fetched(&uri), &keys.key("jwks_uri"), findings);
            Some(KeySource::Uri(uri))
        }
        (None | Some(false), None, Some(name)) => {
            let file = files.read(&name).and_then(|bytes| key_set(&name, &bytes));
            file.map_err(|message| findings.problem(&keys.key("jwks_file"), message)).ok()?;
            Some(KeySource::File(files.path(&name)))
        }
        (Some(false), None, None) => {
            let message = "must name a source: `discovery: true`, jwks_uri or jwks_file";
            findings.problem(&keys, message);
            None
        }
        (_, Some(_), _) | (_, _, Some(_)) => {
            let message = "must name exactly one of `discovery: true`, jwks_uri and jwks_file";
            findings.problem(&keys, message);
            None
        }
    }
}

fn discovery(issuer: Option<&str>, at: &Path, findings: &mut Findings) -> Option<KeySource> {
    match fetched_metadata(issuer?) {
        Err(message) => findings.problem(
            at,
            format!("{message}; keys are discovered from it, unless `keys` says otherwise"),
        ),
        fetched @ Ok(_) => secure(fetched, at, findings),
    }
    Some(KeySource::Discovery)
}

fn secure(fetched: Result<Fetched, String>, at: &Path, findings: &mut Findings) {
    match fetched {
        Ok(Fetched::Https) => (),
        Ok(Fetched::Locally) => {
            findings.warning(
                at,
                "keys are fetched over plain http: anybody who controls this machine can replace \
                 them",
            );
        }
        Err(message) => findings.problem(at, message),
    }
}

/// Checks that `bytes` are a JWK Set with a key that can be used (RFC 7517 §5).
fn key_set(name: &str, bytes: &[u8]) -> Result<(), String> {
    match KeySet::parse(bytes) {
        Ok(set) if set.is_empty() => Err(format!("{} holds no key that can be used", quoted(name))),
        Ok(_) => Ok(()),
        Err(NotAKeySet) => {
            Err(format!("{} is not a JWK Set: a JSON object with a list `keys`", quoted(name)))
        }
    }
}

/// The issuers by name, as policies refer to them.
#[derive(Debug)]
pub(super) struct Names(Vec<Option<String>>);

impl Names {
    pub(super) fn of(issuers: &[file::Issuer]) -> Self {
        Self(issuers.iter().map(|it| it.issuer.clone()).collect())
    }

    /// The issuer of this name.
    pub(super) fn find(&self, name: &str) -> Option<IssuerId> {
        self.0.iter().position(|it| it.as_deref() == Some(name)).map(IssuerId)
    }

    /// All issuers, each with its name if it has one.
    pub(super) fn each(&self) -> impl Iterator<Item = (IssuerId, Option<&str>)> {
        self.0.iter().enumerate().map(|(index, name)| (IssuerId(index), name.as_deref()))
    }

    /// Whether these are all the names that there will be.
    pub(super) fn are_complete(&self, findings: &Findings) -> bool {
        let issuers = Path::default().key("issuers");
        let named = !self.0.is_empty() && self.0.iter().all(Option::is_some);
        named && !findings.has_lost_elements(&issuers)
    }
}
