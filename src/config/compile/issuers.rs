//! The part of the configuration about issuers.

use super::files::{self, Files};
use super::url::{Fetched, PlainHttp, fetched, fetched_metadata};
use super::{bearer, events, introspection, is_token, revocation, upkeep};
use crate::config::file;
use crate::config::problem::{Findings, Path, quoted};
use crate::config::provider::{Defaults, Provider, token_type};
use crate::config::usual;
use crate::config::values::{AlgorithmName, Span};
use crate::installation::IssuerRules;
use crate::state::jwks::{KeyRules, KeySource};
use keybound_core::jose::Algorithm;
use keybound_core::jose::{KeySet, NotAKeySet, UnusableKey};
use keybound_core::policy::{
    ClaimNames, ClaimsFrom, Introspection, Issuer, IssuerId, TENANT, TokenType,
};
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

/// `patience` is that of a check.
pub(super) fn compile(
    issuers: Vec<file::Issuer>,
    patience: Duration,
    redis: events::Redis<'_>,
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
        compiled.push(issuer(given, patience, redis, &at, files, findings));
    }
    compiled.into_iter().collect()
}

fn issuer(
    given: file::Issuer,
    patience: Duration,
    redis: events::Redis<'_>,
    at: &Path,
    files: &Files,
    findings: &mut Findings,
) -> Option<IssuerRules> {
    let name = name(given.issuer, &at.key("issuer"), findings);
    let provider = given.provider.map(|it| it.0);
    let usual = Provider::defaults(provider);
    let tenants = tenants(name.as_deref(), given.tenants, at, findings);
    let plain = plain_http(given.allow_http, at, findings);
    let keys = key_rules(name.as_deref(), given.keys, given.ca_file, plain, at, files, findings);
    let (asked, claims_from) = match &given.introspection {
        None => (Introspection::Never, ClaimsFrom::default()),
        Some(given) => asked(given, &at.key("introspection"), findings),
    };
    let introspection = given.introspection.map(|it| {
        let source = keys.as_ref().map(|it| &it.source);
        let at = at.key("introspection");
        introspection::compile(it, source, plain, patience, &at, files, findings)
    });
    let introspection = match introspection {
        None => Some(None),
        Some(rules) => rules.map(Some),
    };
    let of = events::Of { name: name.as_deref(), keys: keys.as_ref(), plain, redis };
    let revocation = given
        .revocation
        .map(|it| revocation::compile(it, of, &at.key("revocation"), files, findings));
    let revocation = match revocation {
        None => Some(None),
        Some(rules) => rules.map(Some),
    };
    let audiences = audiences(given.audiences, &at.key("audiences"), findings);
    let audience_claim = audience_claim(given.audience_claim, &usual, at, findings);
    let allow_missing_audience = given.allow_missing_audience.unwrap_or_default();
    if allow_missing_audience {
        let message = "a token that names no audience may be meant for another service";
        findings.warning(&at.key("allow_missing_audience"), message);
    }
    let algorithms =
        algorithms(given.algorithms, usual.algorithms, &at.key("algorithms"), findings);
    let mut keys = keys;
    if let Some(keys) = &mut keys {
        keys.upkeep.algorithms.clone_from(&algorithms);
    }
    let types = at.key("token_types");
    let token_types = match given.token_types {
        None => usual.token_types,
        Some(given) => token_types(given, provider, &types, findings),
    };
    let claim_names =
        claim_names(given.claim_names, usual.claim_names, &at.key("claim_names"), findings);
    let clock_leeway = clock_leeway(given.clock_leeway, &at.key("clock_leeway"), findings);
    let issuer = Issuer {
        name: name?.into(),
        provider: provider.map(Provider::name),
        tenants,
        audiences: audiences?,
        audience_claim,
        allow_missing_audience,
        algorithms,
        token_types,
        type_claims: usual.type_claims,
        claim_names,
        clock_leeway,
        introspection: asked,
        claims_from,
        revokes: matches!(revocation, Some(Some(_))),
        status: revocation.iter().flatten().map(|it| it.status_list).next().unwrap_or_default(),
    };
    let (issuer, keys) = (Arc::new(issuer), keys?);
    Some(IssuerRules { issuer, keys, introspection: introspection?, revocation: revocation? })
}

/// The tokens that are introspected, and where the claims of a JWT are from.
fn asked(
    given: &file::Introspection,
    at: &Path,
    findings: &mut Findings,
) -> (Introspection, ClaimsFrom) {
    let introspect = given.introspect.map(|it| it.0);
    let claims_from = given.claims_from.map(|it| it.0).unwrap_or_default();
    if claims_from == ClaimsFrom::Answer && introspect == Some(file::Introspect::Opaque) {
        let message =
            "contradicts `claims_from: answer`, which asks about every token: leave it out";
        findings.problem(&at.key("introspect"), message);
    }
    let all = claims_from == ClaimsFrom::Answer || introspect == Some(file::Introspect::Always);
    (if all { Introspection::AllTokens } else { Introspection::OpaqueTokens }, claims_from)
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

/// The tenants of an issuer with a place for them in its name.
fn tenants(
    name: Option<&str>,
    given: Option<Vec<String>>,
    at: &Path,
    findings: &mut Findings,
) -> Vec<String> {
    let has_place = name.is_some_and(|it| it.contains(TENANT));
    let at = at.key("tenants");
    match &given {
        None if has_place => {
            findings
                .problem(&at, format!("name who may be in the place of `{TENANT}` in `issuer`"));
        }
        Some(_) if !has_place && name.is_some() => {
            findings.problem(&at, format!("needs `{TENANT}` in `issuer`, where they stand"));
        }
        Some(none) if none.is_empty() => {
            findings.problem(&at, "must not be empty, or no token is accepted");
        }
        None | Some(_) => (),
    }
    let given = given.unwrap_or_default();
    for (index, tenant) in given.iter().enumerate() {
        let odd = |it: char| !(it.is_ascii_alphanumeric() || "-._~".contains(it));
        if tenant.is_empty() || tenant.contains(odd) {
            let message = format!("{} is not the id of a tenant", quoted(tenant));
            findings.problem(&at.index(index), message);
        }
    }
    given
}

fn audience_claim(
    given: Option<String>,
    usual: &Defaults,
    at: &Path,
    findings: &mut Findings,
) -> String {
    let claim = given.unwrap_or_else(|| usual.audience_claim.to_owned());
    if claim.is_empty() {
        findings.problem(&at.key("audience_claim"), "must name a claim");
    }
    claim
}

pub(super) fn algorithms(
    given: Option<Vec<AlgorithmName>>,
    usual: Vec<Algorithm>,
    at: &Path,
    findings: &mut Findings,
) -> Vec<Algorithm> {
    let Some(given) = given else { return usual };
    if given.is_empty() {
        let usual = usual.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        findings.problem(at, format!("must not be empty: leave it out for {usual}"));
    }
    given.into_iter().map(|it| it.0).collect()
}

/// As they are compared: in lower case, without `application/` (RFC 7515 §4.1.9).
fn token_types(
    given: Vec<String>,
    provider: Option<Provider>,
    at: &Path,
    findings: &mut Findings,
) -> Vec<TokenType> {
    if given.is_empty() {
        let usual = Provider::defaults(provider).token_types;
        let usual = usual.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        findings.problem(at, format!("must not be empty: leave it out for {usual}"));
    }
    let mut types = vec![];
    for (index, given) in given.into_iter().enumerate() {
        let found = token_type(&given);
        let tells = match &found {
            TokenType::Absent => false,
            TokenType::Named(name) => {
                if !is_token(name) {
                    let message =
                        format!("{} is not a media type: write it like at+jwt", quoted(&given));
                    findings.problem(&at.index(index), message);
                }
                name != "jwt"
            }
        };
        if !tells && provider.is_none() {
            let message = format!(
                "`{given}` does not tell access tokens from other tokens: only the audience keeps \
                 out ID tokens of this issuer; with `provider`, its other tokens are told apart"
            );
            findings.warning(&at.index(index), message);
        }
        types.push(found);
    }
    types
}

fn claim_names(
    given: Option<file::ClaimNames>,
    usual: ClaimNames,
    at: &Path,
    findings: &mut Findings,
) -> ClaimNames {
    let given = given.unwrap_or_default();
    let mut names = |key, given: Option<Vec<String>>, usual: Vec<String>| {
        let Some(given) = given else { return usual };
        if given.is_empty() {
            let usual = usual.join(", ");
            findings.problem(&at.key(key), format!("must not be empty: leave it out for {usual}"));
        }
        for (index, name) in given.iter().enumerate() {
            if name.is_empty() {
                findings.problem(&at.key(key).index(index), "must name a claim");
            }
        }
        given
    };
    ClaimNames {
        client_id: names("client_id", given.client_id, usual.client_id),
        scope: names("scope", given.scope, usual.scope),
    }
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

fn plain_http(allow_http: Option<bool>, at: &Path, findings: &mut Findings) -> PlainHttp {
    let allow_http = allow_http.unwrap_or_default();
    if allow_http {
        findings.warning(
            &at.key("allow_http"),
            "metadata, keys and introspection may go over plain http: whoever can change that \
             traffic can sign tokens, so the network must protect it, as a service mesh does",
        );
    }
    PlainHttp::of(allow_http)
}

fn key_rules(
    issuer: Option<&str>,
    given: Option<file::Keys>,
    ca_file: Option<String>,
    plain: PlainHttp,
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
    let bearer_token_file = given.bearer_token_file.clone();
    let source = key_source(issuer, given, plain, at, files, findings);
    let bearer = bearer_token_file.map(|name| {
        let at = keys.key("bearer_token_file");
        bearer::compile(&name, source.as_ref(), issuer, &at, files, findings)
    });
    let bearer = match bearer {
        None => None,
        Some(token) => Some(token?),
    };
    let allow_http = plain == PlainHttp::Allowed;
    let at = at.key("ca_file");
    if ca_file.is_some() && matches!(source, Some(KeySource::File(_))) {
        findings.warning(&at, "has no effect: nothing is fetched from this issuer");
    }
    let Some(name) = ca_file else {
        return source.map(|source| KeyRules { source, ca: None, allow_http, bearer, upkeep });
    };
    let ca = files.read(&name).and_then(|pem| match files::authorities(&pem) {
        Ok(()) => Ok(pem),
        Err(reason) => Err(format!("{} {reason}", files.path(&name).display())),
    });
    let ca = ca.map_err(|message| findings.problem(&at, message)).ok()?;
    Some(KeyRules { source: source?, ca: Some(ca), allow_http, bearer, upkeep })
}

fn key_source(
    issuer: Option<&str>,
    given: file::Keys,
    plain: PlainHttp,
    at: &Path,
    files: &Files,
    findings: &mut Findings,
) -> Option<KeySource> {
    let keys = at.key("keys");
    match (given.discovery, given.jwks_uri, given.jwks_file) {
        (None | Some(true), None, None) => discovery(issuer, plain, &at.key("issuer"), findings),
        (None | Some(false), Some(uri), None) => {
            secure(fetched(&uri, plain), &keys.key("jwks_uri"), findings);
            Some(KeySource::Uri(uri))
        }
        (None | Some(false), None, Some(name)) => {
            let file = files.read(&name).and_then(|bytes| key_set(&name, &bytes));
            let at = keys.key("jwks_file");
            let skipped = file.map_err(|message| findings.problem(&at, message)).ok()?;
            if let Some(skipped) = skipped {
                findings.warning(&at, format!("keys that cannot be used are skipped: {skipped}"));
            }
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

fn discovery(
    issuer: Option<&str>,
    plain: PlainHttp,
    at: &Path,
    findings: &mut Findings,
) -> Option<KeySource> {
    // Where a tenant belongs, the metadata are those for all of them.
    match fetched_metadata(&issuer?.replace(TENANT, "common"), plain) {
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
        // Of the latter, `allow_http` itself is warned of.
        Ok(Fetched::Https | Fetched::Plainly) => (),
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

/// Checks that `bytes` are a JWK Set with a key that can be used (RFC 7517 §5). Returns the others in
/// words, unless all are there for something other than signatures.
fn key_set(name: &str, bytes: &[u8]) -> Result<Option<String>, String> {
    match KeySet::parse(bytes) {
        Ok(set) if set.is_empty() => {
            let skipped = set.skipped_in_words();
            let skipped = if skipped.is_empty() { "it is empty".to_owned() } else { skipped };
            Err(format!("{} holds no key that can be used: {skipped}", quoted(name)))
        }
        Ok(set) => {
            let odd = set.skipped().iter().any(|it| it.reason != UnusableKey::Use);
            Ok(odd.then(|| set.skipped_in_words()))
        }
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
