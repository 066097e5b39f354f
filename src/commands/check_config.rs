//! The command `check-config`: lists every problem of a configuration file, or the policies that it
//! would enforce.

use crate::config::provider::Provider;
use crate::config::{self, Config, Listen, Problem, Telemetry};
use crate::front::forward_auth::{Asker, Flavour};
use crate::installation::{DpopRules, InstallationRules, IssuerRules};
use crate::state::introspection::ClientAuthentication;
use crate::state::jwks::KeySource;
use crate::state::replay::ReplayRules;
use crate::state::replay::memory::MemoryLimits;
use keybound_core::client_certificate::Source;
use keybound_core::jose::KeySet;
use keybound_core::policy::EffectivePolicy;
use keybound_core::policy::{
    AUDIENCE, ClaimFormat, ClaimNames, Introspection, Issuer, NonceDemand, PolicySet, ProofRules,
    UpstreamAuthorization,
};
use keybound_core::words::Words;
use std::fmt::{self, Display};
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// The arguments of `check-config`.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// The configuration file
    file: PathBuf,
}

/// Writes a summary to standard output, or problems to standard error. Warnings go there too.
pub(super) fn run(arguments: &Arguments) -> ExitCode {
    let file = &arguments.file;
    let written = match config::load(file) {
        Ok(config) => tell(file, &config.warnings, "warning: ")
            .and_then(|()| write!(io::stdout().lock(), "{}", Summary(&config)))
            .map(|()| ExitCode::SUCCESS),
        Err(problems) => tell(file, &problems, "").map(|()| ExitCode::FAILURE),
    };
    written.unwrap_or(ExitCode::FAILURE)
}

/// One line each, in the format of compilers, so that editors can jump to the place.
pub(super) fn tell(file: &Path, problems: &[Problem], kind: &str) -> io::Result<()> {
    let mut stderr = io::stderr().lock();
    for Problem { path, line, message } in problems {
        write!(stderr, "{}:", file.display())?;
        if let Some(line) = line {
            write!(stderr, "{line}:")?;
        }
        let place = if path.is_empty() { String::new() } else { format!("{path}: ") };
        writeln!(stderr, " {kind}{place}{message}")?;
    }
    Ok(())
}

/// What a configuration enforces, as text.
struct Summary<'a>(&'a Config);

impl Display for Summary<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Config { listen, rules, telemetry, digest, warnings: _ } = self.0;
        let InstallationRules { policies, issuers, limits, dpop } = rules;
        writeln!(f, "sha-256             {digest}")?;
        writeln!(f, "ext_authz           {}{}", listen.ext_authz, tls(listen))?;
        if let Some(forward_auth) = &listen.forward_auth {
            let (address, asker) = (&forward_auth.address, asker(&forward_auth.asker));
            writeln!(f, "forward_auth        {address}{}, asked by {asker}", tls(listen))?;
        }
        writeln!(f, "admin               {}", listen.admin)?;
        writeln!(f, "client certificate  {}", source(&policies.client_certificate))?;
        writeln!(f, "DPoP proofs         {}", proofs(&policies.proofs, dpop))?;
        writeln!(f, "upstream            {}", upstream(policies))?;
        writeln!(
            f,
            "limits              tokens of {} bytes, {:?} per check, {} checks at once",
            policies.token_bytes, limits.check_deadline, limits.concurrent_checks
        )?;
        writeln!(f, "telemetry           {}", told(telemetry))?;
        writeln!(f)?;
        let head =
            ["issuer", "audiences", "algorithms", "token types", "leeway", "keys", "introspection"];
        table(f, head, issuers.iter().map(issuer))?;
        for line in issuers.iter().flat_map(|it| readings(&it.issuer)) {
            writeln!(f, "{line}")?;
        }
        for issuer in issuers.iter().filter(|it| it.keys.allow_http) {
            writeln!(f, "{}: allow_http true", issuer.issuer.name)?;
        }
        for (issuer, skipped) in issuers.iter().filter_map(|it| Some((it, skipped(it)?))) {
            writeln!(f, "{}: skipped keys {skipped}", issuer.issuer.name)?;
        }
        writeln!(f)?;
        let policies = EffectivePolicy::all(policies);
        table(f, EffectivePolicy::COLUMNS, policies.iter().map(EffectivePolicy::row))
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
    format!("{}, within {:?}, {nonce}, {store}", listed(&rules.algorithms), rules.window)
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

fn issuer(rules: &IssuerRules) -> [String; 7] {
    let IssuerRules { issuer, keys, .. } = rules;
    let source = match &keys.source {
        KeySource::Discovery => "discovered".to_owned(),
        KeySource::Uri(uri) => uri.clone(),
        KeySource::File(path) => path.display().to_string(),
    };
    let grace = keys.upkeep.withdrawn_key_grace;
    let keys = if grace.is_zero() {
        source
    } else {
        format!("{source}, withdrawn ones for {grace:?} more")
    };
    [
        issuer.name.to_string(),
        issuer.audiences.join(" "),
        listed(&issuer.algorithms),
        listed(&issuer.token_types),
        format!("{:?}", issuer.clock_leeway),
        keys,
        introspection(rules),
    ]
}

/// The keys in the file of an issuer that cannot be used, in words.
fn skipped(rules: &IssuerRules) -> Option<String> {
    let KeySource::File(path) = &rules.keys.source else { return None };
    let set = KeySet::parse(&fs::read(path).ok()?).ok()?;
    Some(set.skipped_in_words()).filter(|it| !it.is_empty())
}

/// How tokens of an issuer are read, where it is not as without a provider.
fn readings(issuer: &Issuer) -> Vec<String> {
    let mut lines = vec![];
    let mut line =
        |what: &str, value: String| lines.push(format!("{}: {what} {value}", issuer.name));
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
    lines
}

fn introspection(rules: &IssuerRules) -> String {
    let tokens = match rules.issuer.introspection {
        Introspection::Never => return "-".to_owned(),
        Introspection::OpaqueTokens => "opaque tokens",
        Introspection::AllTokens => "all tokens",
    };
    let Some(introspection) = &rules.introspection else { return tokens.to_owned() };
    let certified = introspection.authentication != ClientAuthentication::TlsClientAuth
        && introspection.identity.is_some();
    let certificate = if certified { " over mutual TLS" } else { "" };
    let forwarded = if introspection.forward_jwt { ", JWT sent upstream" } else { "" };
    format!("{tokens}, {}{certificate}{forwarded}", introspection.authentication.name())
}

fn listed<T: Display>(items: &[T]) -> String {
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
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
