//! What a configuration enforces, as text for people and as JSON for machines.

use super::online::Online;
use crate::config::provider::Provider;
use crate::config::{Config, Listen, Telemetry};
use crate::front::forward_auth::{Asker, Flavour};
use crate::installation::{DpopRules, InstallationRules, IssuerRules};
use crate::state::introspection::ClientAuthentication;
use crate::state::jwks::{KeyRules, KeySource};
use crate::state::replay::ReplayRules;
use crate::state::replay::memory::MemoryLimits;
use crate::state::revocation::events::{Delivery, EventRules};
use keybound_core::client_certificate::Source;
use keybound_core::jose::KeySet;
use keybound_core::policy::{
    AUDIENCE, ClaimFormat, ClaimNames, ClaimsFrom, Introspection, NonceDemand, PolicySet,
    ProofRules, ProofTime, UpstreamAuthorization,
};
use keybound_core::policy::{EffectivePolicy, StatusDemand};
use keybound_core::words::Words;
use serde::Serialize;
use std::fmt::{self, Display};
use std::fs;

/// What a configuration enforces: as text, and as JSON.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    sha_256: String,
    ext_authz: String,
    forward_auth: Option<String>,
    admin: String,
    client_certificate: String,
    dpop_proofs: String,
    upstream: String,
    limits: String,
    telemetry: String,
    pub(super) issuers: Vec<IssuerReport>,
    policies: Vec<EffectivePolicy>,
}

/// An issuer, and how its tokens are read.
#[derive(Debug, Serialize)]
pub(super) struct IssuerReport {
    issuer: String,
    audiences: Vec<String>,
    algorithms: Vec<String>,
    token_types: Vec<String>,
    clock_leeway: String,
    keys: String,
    introspection: Option<String>,
    /// Where it is not as without a provider.
    readings: Vec<Reading>,
    /// What it publishes, if it was asked.
    pub(super) online: Option<Online>,
}

#[derive(Debug, Serialize)]
struct Reading {
    name: &'static str,
    value: String,
}

impl Report {
    pub(super) fn of(config: &Config) -> Self {
        let Config { listen, rules, telemetry, digest, .. } = config;
        let InstallationRules { policies, issuers, limits, dpop } = rules;
        let forward_auth = listen
            .forward_auth
            .as_ref()
            .map(|it| format!("{}{}, asked by {}", it.address, tls(listen), asker(&it.asker)));
        Self {
            sha_256: digest.clone(),
            ext_authz: format!("{}{}", listen.ext_authz, tls(listen)),
            forward_auth,
            admin: listen.admin.to_string(),
            client_certificate: source(&policies.client_certificate),
            dpop_proofs: proofs(&policies.proofs, dpop),
            upstream: upstream(policies),
            limits: format!(
                "tokens of {} bytes, {:?} per check, {} checks at once",
                policies.token_bytes, limits.check_deadline, limits.concurrent_checks
            ),
            telemetry: told(telemetry),
            issuers: issuers.iter().map(IssuerReport::of).collect(),
            policies: EffectivePolicy::all(policies),
        }
    }
}

impl Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, value) in [
            ("sha-256", Some(&self.sha_256)),
            ("ext_authz", Some(&self.ext_authz)),
            ("forward_auth", self.forward_auth.as_ref()),
            ("admin", Some(&self.admin)),
            ("client certificate", Some(&self.client_certificate)),
            ("DPoP proofs", Some(&self.dpop_proofs)),
            ("upstream", Some(&self.upstream)),
            ("limits", Some(&self.limits)),
            ("telemetry", Some(&self.telemetry)),
        ] {
            if let Some(value) = value {
                writeln!(f, "{name:18}  {value}")?;
            }
        }
        writeln!(f)?;
        let head =
            ["issuer", "audiences", "algorithms", "token types", "leeway", "keys", "introspection"];
        table(f, head, self.issuers.iter().map(IssuerReport::row))?;
        for issuer in &self.issuers {
            for Reading { name, value } in &issuer.readings {
                writeln!(f, "{}: {name} {value}", issuer.issuer)?;
            }
        }
        writeln!(f)?;
        table(f, EffectivePolicy::COLUMNS, self.policies.iter().map(EffectivePolicy::row))?;
        for policy in &self.policies {
            if let Some(url) = policy.resource_metadata() {
                writeln!(f, "{}: metadata at {url}", policy.name())?;
            }
            if policy.ends_streams() {
                writeln!(f, "{}: streams end with their token", policy.name())?;
            }
        }
        let online = self.issuers.iter().filter_map(|it| Some((&it.issuer, it.online.as_ref()?)));
        for (number, (issuer, found)) in online.enumerate() {
            if number == 0 {
                writeln!(f)?;
            }
            for line in found.lines() {
                writeln!(f, "{issuer}: {line}")?;
            }
        }
        Ok(())
    }
}

fn tls(listen: &Listen) -> String {
    let Some(tls) = &listen.tls else { return String::new() };
    if tls.client_ca.is_none() {
        return ", TLS".to_owned();
    }
    let names: Vec<_> = tls.client_names.iter().map(ToString::to_string).collect();
    let whom = if names.is_empty() { String::new() } else { format!(" for {}", names.join(", ")) };
    format!(", mutual TLS{whom}")
}

fn told(telemetry: &Telemetry) -> String {
    let traces = match &telemetry.collector {
        None => "no traces".to_owned(),
        Some(it) => {
            format!("traces to {}, {} of them begun here", it.endpoint, it.sample.percent())
        }
    };
    format!("{traces}; {} of allows logged", telemetry.log_allows.percent())
}

fn asker(asker: &Asker) -> String {
    let flavour = match &asker.flavour {
        Flavour::Nginx => "nginx".to_owned(),
        Flavour::Traefik => "Traefik or Caddy".to_owned(),
        Flavour::Envoy { path_prefix } if path_prefix.is_empty() => "Envoy".to_owned(),
        Flavour::Envoy { path_prefix } => format!("Envoy below {path_prefix}"),
    };
    flavour + if asker.secret.is_some() { " with a secret" } else { "" }
}

fn source(source: &Source) -> String {
    match source {
        Source::Peer => "peer".to_owned(),
        Source::Xfcc { behind } if behind.is_empty() => "xfcc".to_owned(),
        Source::Xfcc { behind } => format!("xfcc behind {}", behind.join(", ")),
        Source::Header { name, format } => format!("header {name} ({format})"),
    }
}

fn proofs(rules: &ProofRules, dpop: &DpopRules) -> String {
    let nonce = match rules.nonce {
        NonceDemand::Off => "no nonce",
        NonceDemand::Offered => "nonce offered",
        NonceDemand::Required => "nonce required",
    };
    let store = match &dpop.replay {
        ReplayRules::Memory(limits) => {
            let MemoryLimits { capacity, per_key } = limits;
            format!("up to {capacity} recorded in memory, {per_key} of one client")
        }
        ReplayRules::Redis(rules) => {
            format!("recorded in Redis, up to {} of one client", rules.share())
        }
    };
    let time = match rules.time {
        ProofTime::Iat => format!("within {:?}", rules.window),
        ProofTime::Nonce => "as long as their nonce".to_owned(),
    };
    format!("{}, {time}, {nonce}, {store}", texts(&rules.algorithms).join(" "))
}

fn upstream(rules: &PolicySet) -> String {
    let authorization = match rules.upstream.authorization {
        UpstreamAuthorization::Keep => "authorization kept",
        UpstreamAuthorization::Remove => "authorization removed",
        UpstreamAuthorization::Bearer => "authorization as Bearer",
    };
    let set = rules.upstream.headers.iter().map(|it| {
        let format = if it.format == ClaimFormat::Json { " as JSON" } else { "" };
        format!("; {} = {}{format}", it.name, it.claim)
    });
    let removed = rules.upstream.remove.iter().map(|name| format!("; no {name}"));
    let beginning = rules.upstream.remove_beginning.iter().map(|it| format!("; no {it}*"));
    set.chain(removed).chain(beginning).fold(authorization.to_owned(), |text, it| text + &it)
}

impl IssuerReport {
    fn of(rules: &IssuerRules) -> Self {
        let issuer = &rules.issuer;
        Self {
            issuer: issuer.name.to_string(),
            audiences: issuer.audiences.clone(),
            algorithms: texts(&issuer.algorithms),
            token_types: texts(&issuer.token_types),
            clock_leeway: format!("{:?}", issuer.clock_leeway),
            keys: keys(&rules.keys),
            introspection: introspection(rules),
            readings: readings(rules),
            online: None,
        }
    }

    fn row(&self) -> [String; 7] {
        [
            self.issuer.clone(),
            self.audiences.join(" "),
            self.algorithms.join(" "),
            self.token_types.join(" "),
            self.clock_leeway.clone(),
            self.keys.clone(),
            self.introspection.clone().unwrap_or_else(|| "-".to_owned()),
        ]
    }
}

fn keys(keys: &KeyRules) -> String {
    let source = match &keys.source {
        KeySource::Discovery => "discovered".to_owned(),
        KeySource::Uri(uri) => uri.clone(),
        KeySource::File(path) => path.display().to_string(),
    };
    let grace = keys.upkeep.withdrawn_key_grace;
    if grace.is_zero() { source } else { format!("{source}, withdrawn ones for {grace:?} more") }
}

/// The keys in the file of an issuer that cannot be used, in words.
fn skipped(rules: &IssuerRules) -> Option<String> {
    let KeySource::File(path) = &rules.keys.source else { return None };
    let set = KeySet::parse(&fs::read(path).ok()?).ok()?;
    Some(set.skipped_in_words()).filter(|it| !it.is_empty())
}

/// What becomes of the status that a token has in a list of the issuer.
fn status_list(rules: &IssuerRules) -> Option<String> {
    let passes = match rules.issuer.status {
        StatusDemand::Off => return None,
        StatusDemand::IfPresent => "a token that names no list passes",
        StatusDemand::Required => "a token that names no list is denied",
    };
    Some(format!("{}: {passes}", rules.issuer.status.name()))
}

/// How tokens of an issuer are read and where it is asked, where it is not as without a provider.
fn readings(rules: &IssuerRules) -> Vec<Reading> {
    let issuer = &rules.issuer;
    let mut readings = vec![];
    let mut line = |name, value: String| readings.push(Reading { name, value });
    if let Some(provider) = issuer.provider.and_then(Provider::named) {
        line("provider", format!("{provider}: {}", provider.gives(issuer).join("; ")));
    }
    if !issuer.tenants.is_empty() {
        line("tenants", issuer.tenants.join(" "));
    }
    if issuer.audience_claim != AUDIENCE {
        line("audience_claim", issuer.audience_claim.clone());
    }
    if issuer.allow_missing_audience {
        line("allow_missing_audience", "true".to_owned());
    }
    let (names, usual) = (&issuer.claim_names, ClaimNames::default());
    for (what, names, usual) in [
        ("claim_names.client_id", &names.client_id, usual.client_id),
        ("claim_names.scope", &names.scope, usual.scope),
    ] {
        if *names != usual {
            line(what, names.join(" "));
        }
    }
    if rules.keys.allow_http {
        line("allow_http", "true".to_owned());
    }
    if let Some(list) = rules.revocation.as_ref().and_then(|it| it.denylist.as_ref()) {
        line("revocation", list.describe());
    }
    if let Some(demand) = status_list(rules) {
        line("status_list", demand);
    }
    if let Some(events) = rules.revocation.as_ref().and_then(|it| it.events.as_ref()) {
        line("events", described(events));
    }
    if let Some(skipped) = skipped(rules) {
        line("skipped keys", skipped);
    }
    readings
}

fn described(events: &EventRules) -> String {
    let delivery = match &events.delivery {
        Delivery::Poll { endpoint, interval, .. } => format!("poll {endpoint} each {interval:?}"),
        Delivery::Push { .. } => "push".to_owned(),
    };
    let store = match (&events.shared, &events.snapshot_file) {
        (Some(_), _) => "shared in Redis".to_owned(),
        (None, Some(path)) => format!("kept in {}", path.display()),
        (None, None) => "in memory".to_owned(),
    };
    let EventRules { transmitter, keep, capacity, .. } = events;
    let (from, to) = (&transmitter.issuer, transmitter.audiences.join(" "));
    format!("{delivery}, from {from} to {to}, {store} for {keep:?}, at most {capacity} subjects")
}

fn introspection(rules: &IssuerRules) -> Option<String> {
    let tokens = match rules.issuer.introspection {
        Introspection::Never => return None,
        Introspection::OpaqueTokens => "opaque tokens",
        Introspection::AllTokens => "all tokens",
    };
    let Some(introspection) = &rules.introspection else { return Some(tokens.to_owned()) };
    let certified = introspection.authentication != ClientAuthentication::TlsClientAuth
        && introspection.identity.is_some();
    let certificate = if certified { " over mutual TLS" } else { "" };
    let forwarded = if introspection.forward_jwt { ", JWT sent upstream" } else { "" };
    let adds = match rules.issuer.claims_from {
        ClaimsFrom::Token => "",
        ClaimsFrom::Answer => ", claims from the answer",
    };
    let method = introspection.authentication.name();
    Some(format!("{tokens}, {method}{certificate}{forwarded}{adds}"))
}

fn texts<T: Display>(items: &[T]) -> Vec<String> {
    items.iter().map(ToString::to_string).collect()
}

fn table<const COLUMNS: usize>(
    f: &mut fmt::Formatter<'_>,
    head: [&str; COLUMNS],
    rows: impl Iterator<Item = [String; COLUMNS]>,
) -> fmt::Result {
    let rows: Vec<_> = std::iter::once(head.map(str::to_owned)).chain(rows).collect();
    let mut widths = [0; COLUMNS];
    for (width, column) in widths.iter_mut().zip(0..) {
        let longest = rows.iter().filter_map(|it| Some(it.get::<usize>(column)?.chars().count()));
        *width = longest.max().unwrap_or_default();
    }
    for row in &rows {
        let cells = row.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}"));
        writeln!(f, "{}", cells.collect::<Vec<_>>().join("  ").trim_end())?;
    }
    Ok(())
}
