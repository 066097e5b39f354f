//! The command `init`: writes a working configuration for an issuer, from what the issuer publishes
//! and from a token of it.

mod audience;
mod configuration;
mod readings;
mod sample;

use super::{complain, input};
use crate::clock::{Clock, SystemClock};
use crate::config::provider::Provider;
use crate::config::recognition::{Known, recognise};
use crate::config::written::shown;
use crate::state::discovery::Metadata;
use crate::state::jwks::{KeyRules, KeySource, survey};
use audience::Audience;
use clap::builder::{PossibleValuesParser, TypedValueParser};
use configuration::Plan;
use keybound_core::UnixTime;
use keybound_core::jose::KeySet;
use keybound_core::oauth::Confirmation;
use keybound_core::words::Words;
use readings::Readings;
use reqwest::Url;
use sample::{OPAQUE, Sample};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use tokio::runtime::Builder;

/// The arguments of `init`.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// The URL of the issuer: the exact `iss` of its tokens
    #[arg(long, value_name = "URL")]
    issuer: String,
    /// The provider, in place of the one that is recognised
    #[arg(long, value_name = "NAME", value_parser = provider())]
    provider: Option<Provider>,
    /// The audience of your API, as tokens name it
    #[arg(long, value_name = "URI")]
    audience: Option<String>,
    /// A file with an access token of the issuer; `-` is standard input. It is not kept
    #[arg(long, value_name = "FILE")]
    token: Option<PathBuf>,
    /// A file with the authority of the issuer's certificate (PEM), if it is not one of the system's
    #[arg(long, value_name = "FILE")]
    ca_file: Option<PathBuf>,
}

fn provider() -> impl TypedValueParser<Value = Provider> {
    let names = PossibleValuesParser::new(Provider::NAMES);
    names.try_map(|it| Provider::named(&it).ok_or("not a provider"))
}

/// Writes the configuration to standard output, and what there is to say about it to standard error.
pub(super) fn run(arguments: &Arguments) -> ExitCode {
    match written(arguments) {
        Ok(text) => match io::stdout().lock().write_all(text.as_bytes()) {
            Ok(()) => ExitCode::SUCCESS,
            Err(_) => ExitCode::FAILURE,
        },
        Err(failure) => {
            complain(&failure);
            ExitCode::FAILURE
        }
    }
}

fn written(arguments: &Arguments) -> Result<String, String> {
    let Arguments { issuer, audience, ca_file, .. } = arguments;
    if audience.as_deref().is_some_and(str::is_empty) {
        return Err("--audience: must not be empty".to_owned());
    }
    let token = arguments.token.as_deref().map(input::line).transpose()?;
    let ca_file = ca_file.as_deref().map(std::path::absolute).transpose();
    let ca_file = ca_file.map_err(|error| format!("--ca-file: {error}"))?;
    let (metadata, keys) = published(issuer, ca_file.as_deref())?;
    let url = Url::parse(issuer).map_err(|error| format!("{}: {error}", shown(issuer)))?;
    let draft = Draft { issuer, url, given: arguments.provider, metadata, keys };
    let now = SystemClock.now();
    let plan = draft.plan(audience.as_deref(), token.as_deref(), ca_file.as_deref(), now);
    for line in plan.remarks() {
        complain(&line);
    }
    Ok(plan.text())
}

/// What the issuer publishes, read as `serve` would read it. An error names the URL.
fn published(issuer: &str, ca_file: Option<&Path>) -> Result<(Metadata, KeySet), String> {
    if issuer.chars().any(char::is_control) {
        return Err(format!("{}: no URL holds control characters", shown(issuer)));
    }
    let ca = ca_file.map(input::bytes).transpose()?;
    let rules = KeyRules { ca, ..KeyRules::new(KeySource::Discovery) };
    let runtime = Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| error.to_string())?;
    let surveyed = runtime.block_on(survey(issuer, &rules));
    let surveyed =
        surveyed.map_err(|error| format!("cannot read {issuer}: {error}{}", hint(issuer)))?;
    let metadata = surveyed.metadata.unwrap_or_else(|| Err("it publishes none".to_owned()));
    let metadata =
        metadata.map_err(|why| format!("cannot read the metadata of {issuer}: {why}"))?;
    let at = surveyed.keys_at.unwrap_or_default();
    let unread = |why: &str| format!("cannot read the keys of {issuer} at {at}: {why}");
    let keys = surveyed.keys.map_err(|why| unread(&why))?;
    if keys.is_empty() {
        return Err(unread(&format!("none can be used: {}", keys.skipped_in_words())));
    }
    Ok((metadata, keys))
}

/// What to do about a URL that must not be asked.
fn hint(issuer: &str) -> &'static str {
    if issuer.starts_with("http:") {
        "; give its https URL, or write `allow_http: true` by hand where the network between is \
         protected by other means"
    } else {
        ""
    }
}

/// An issuer that was read.
struct Draft<'a> {
    issuer: &'a str,
    url: Url,
    /// The provider that the operator names.
    given: Option<Provider>,
    metadata: Metadata,
    keys: KeySet,
}

/// What was taken from a token.
struct Taken {
    sample: Sample,
    confirmation: Confirmation,
}

impl Draft<'_> {
    fn plan<'a>(
        &'a self,
        audience: Option<&str>,
        token: Option<&str>,
        ca_file: Option<&'a Path>,
        now: UnixTime,
    ) -> Plan<'a> {
        let (found, told) = match token.map(|it| self.take(it, now)) {
            None => (None, "none was given, so nothing says how tokens look".to_owned()),
            Some(Ok(found)) => (Some(found), "its signature was verified".to_owned()),
            Some(Err(why)) => (None, format!("nothing was taken from it: {why}")),
        };
        let sample = found.as_ref().map(|it| &it.sample);
        let provider = self.provider(sample);
        let named = provider.map(|it| it.0);
        let readings = Readings::of(named, &self.keys, sample);
        let claim = readings.audience_claim(named);
        Plan {
            issuer: self.issuer,
            provider,
            audience: Audience::of(audience, self.issuer, claim, sample),
            readings,
            confirmation: found.as_ref().map(|it| it.confirmation),
            opaque: told.ends_with(OPAQUE),
            token: told,
            ca_file,
            metadata: &self.metadata,
            keys: &self.keys,
        }
    }

    /// The token, if it is an access token of this issuer by the rules that would be written for it.
    fn take(&self, token: &str, now: UnixTime) -> Result<Taken, String> {
        let sample = Sample::verify(token, &self.keys)?;
        let provider = self.provider(Some(&sample)).map(|it| it.0);
        let readings = Readings::of(provider, &self.keys, Some(&sample));
        let issuer = readings.issuer(self.issuer, provider, &sample);
        let confirmation = sample.read(&issuer, provider, now)?.confirmation;
        Ok(Taken { sample, confirmation })
    }

    /// The provider and the reason for it.
    fn provider(&self, sample: Option<&Sample>) -> Option<(Provider, &'static str)> {
        let token = sample.map(|it| (&it.header, it.claims()));
        let known = Known { issuer: &self.url, metadata: &self.metadata.document, token };
        self.given.map(|it| (it, "as given")).or_else(|| recognise(known))
    }
}

impl Plan<'_> {
    /// What the operator should know at once.
    fn remarks(&self) -> Vec<String> {
        let provider = self.provider.map_or("none", |(provider, _)| provider.name());
        let mut remarks = vec![
            format!("metadata: {}", self.metadata.location),
            format!("provider: {provider}"),
            format!("token: {}", self.token),
        ];
        if let Audience::Unknown(why) = &self.audience {
            remarks.push(format!("`audiences` is yours to fill in: {why}"));
        }
        remarks
    }
}
