//! The command `explain`: where it reads its request, and where it prints its explanation.

use super::{check_config, complain, input, paint};
use crate::clock::{Clock, FixedClock, SystemClock};
use crate::config::Config;
use crate::explain::certificate::Certificate;
use crate::explain::{
    Decision, Explained, Terms, Ways, explain, json, kept_at, request, text, time,
};
use crate::installation::Installation;
use crate::state::replay::ReplayRules;
use keybound_core::UnixTime;
use keybound_core::client_certificate::Source;
use keybound_core::policy::NonceDemand;
use std::error::Error;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::{Builder, Handle};

/// The arguments of `explain`: a captured request, or one described as for curl.
#[derive(Debug, clap::Args)]
#[group(id = "what", required = true, multiple = false, args = ["request", "url"])]
pub struct Arguments {
    /// The configuration file; `-` is standard input
    #[arg(long, env = "KEYBOUND_CONFIG", value_name = "FILE")]
    config: PathBuf,
    /// A `CheckRequest`, binary or protobuf JSON; `-` is standard input
    #[arg(long, value_name = "FILE")]
    request: Option<PathBuf>,
    /// A file with an access token that replaces the one in the request
    #[arg(long, value_name = "FILE")]
    token: Option<PathBuf>,
    /// A file with a DPoP proof that replaces the one in the request
    #[arg(long, value_name = "FILE")]
    proof: Option<PathBuf>,
    /// The time of the check, as 2027-01-15T08:00:00Z or in seconds since 1970 [default: when the request
    /// was kept, else now]
    #[arg(long, value_name = "TIME", value_parser = time, allow_hyphen_values = true)]
    at: Option<UnixTime>,
    /// Introspects opaque tokens at their issuers, as `serve` would
    #[arg(long)]
    online: bool,
    /// Prints JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    described: Described,
}

/// A request described as for curl.
#[derive(Debug, clap::Args)]
struct Described {
    /// The URL of a request, with `-X`, `-H` and `--cert` as for curl
    url: Option<String>,
    /// The method
    #[arg(
        short = 'X',
        long,
        value_name = "METHOD",
        default_value = "GET",
        conflicts_with = "request"
    )]
    method: String,
    /// A header, `Name: value`; may be given more than once
    #[arg(short = 'H', long, value_name = "HEADER", conflicts_with = "request")]
    header: Vec<String>,
    /// The client's certificate, PEM or DER
    #[arg(long, value_name = "FILE", conflicts_with = "request")]
    cert: Option<PathBuf>,
    /// The policy that the proxy's configuration names for the route
    #[arg(long, value_name = "NAME", conflicts_with = "request")]
    policy: Option<String>,
    /// The policy that the route's annotation names (Envoy Gateway)
    #[arg(long, value_name = "NAME", conflicts_with = "request")]
    annotation: Option<String>,
}

/// Runs `explain`. Succeeds if the request is allowed, and exits with [`DENIED`] if it is not.
pub(super) fn run(arguments: &Arguments) -> ExitCode {
    let files = [Some(&arguments.config), arguments.request.as_ref(), arguments.token.as_ref()];
    let more = [arguments.proof.as_ref(), arguments.described.cert.as_ref()];
    let files = files.into_iter().chain(more).map(|it| it.map(PathBuf::as_path));
    let config = match input::once(files).and_then(|()| input::config(&arguments.config)) {
        Ok(Ok(config)) => config,
        Err(failure) => {
            complain(&failure);
            return ExitCode::FAILURE;
        }
        Ok(Err(problems)) => {
            // Nobody is left to be told that standard error is gone.
            let _written = check_config::tell(&arguments.config, &problems, "");
            return ExitCode::FAILURE;
        }
    };
    match explained(arguments, config) {
        Ok(explanation) => {
            let written = if arguments.json {
                writeln!(io::stdout().lock(), "{}", json::of(&explanation))
            } else {
                paint::print(&text::of(&explanation))
            };
            match written {
                Ok(()) => code(explanation.decision),
                Err(_) => ExitCode::FAILURE,
            }
        }
        Err(failure) => {
            complain(&failure.to_string());
            ExitCode::FAILURE
        }
    }
}

/// The exit code.
fn code(decision: Decision) -> ExitCode {
    match decision {
        Decision::Allowed | Decision::Public | Decision::Served | Decision::Reported(_) => {
            ExitCode::SUCCESS
        }
        Decision::Denied(_) => ExitCode::from(DENIED),
        Decision::Open => ExitCode::FAILURE,
    }
}

/// The exit code for a denied request.
const DENIED: u8 = 3;

fn explained(
    arguments: &Arguments,
    config: Config,
) -> Result<Explained, Box<dyn Error + Send + Sync>> {
    let source = &config.rules.policies.client_certificate;
    let mut message = match &arguments.request {
        Some(path) => message_in(path)?,
        None => arguments.described.message(source)?,
    };
    if let Some(path) = &arguments.token {
        message = request::with_token(&message, &input::line(path)?)?;
    }
    if let Some(path) = &arguments.proof {
        message = request::with_proof(&message, &input::line(path)?)?;
    }
    let kept = kept_at(&message);
    let changed = arguments.at.is_some() || arguments.token.is_some() || arguments.proof.is_some();
    // The token of a kept request is not there: nobody can say anything of it.
    let online = arguments.online && (kept.is_none() || arguments.token.is_some());
    let runtime = Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let remarks = remarks_on(&config);
        let clock: Arc<dyn Clock> = match arguments.at.or(kept) {
            Some(time) => Arc::new(FixedClock(time)),
            None => Arc::new(SystemClock),
        };
        let digest = &config.digest.clone();
        let sources = &installation(config, &clock, online)?;
        let rules = &sources.rules;
        let (deadline, accepted, ways) = (None, OWN_RECORD, &FLAGS);
        let terms = Terms {
            rules,
            sources,
            digest,
            changed,
            clock,
            deadline,
            online,
            accepted,
            remarks,
            ways,
        };
        Ok(explain(&message, terms).await)
    })
}

/// The installation that `serve` would use, without side effects: proofs are recorded in this
/// process, no snapshot of keys is written, and tokens are introspected only if `online`.
fn installation(
    config: Config,
    clock: &Arc<dyn Clock>,
    online: bool,
) -> Result<Installation, Box<dyn Error + Send + Sync>> {
    let mut rules = config.rules;
    for issuer in &mut rules.issuers {
        issuer.keys.upkeep.snapshot_file = None;
        if !online {
            issuer.introspection = None;
        }
        // What is fetched and acknowledged here would be missing in the service.
        if let Some(events) = issuer.revocation.as_mut().and_then(|it| it.events.as_mut()) {
            events.is_passive = true;
        }
    }
    // Slow keys delay only this command.
    rules.limits.check_deadline = Duration::from_secs(60);
    rules.dpop.replay = ReplayRules::default();
    Ok(Installation::start(rules, None, clock, &Handle::current())?.installation)
}

impl Described {
    /// The `CheckRequest` that Envoy would send, with the certificate where `source` reads it.
    fn message(&self, source: &Source) -> Result<Vec<u8>, String> {
        let described = request::Described {
            method: &self.method,
            url: self.url.as_deref().unwrap_or_default(),
            headers: self.headers()?,
            certificate: self.cert.as_deref().map(certificate_in).transpose()?,
            policy: self.policy.as_deref(),
            annotation: self.annotation.as_deref(),
        };
        described.message(source)
    }

    fn headers(&self) -> Result<Vec<(&str, &str)>, &'static str> {
        let read = |line| request::header(line).ok_or("-H: `Name: value` is expected");
        self.header.iter().map(String::as_str).map(read).collect()
    }
}

/// The encoded `CheckRequest` in the file at `path`; `-` is standard input.
fn message_in(path: &Path) -> Result<Vec<u8>, String> {
    request::encoded(input::bytes(path)?).map_err(|error| input::of(path, error))
}

/// The first certificate in the file at `path`, PEM or DER.
fn certificate_in(path: &Path) -> Result<Certificate, String> {
    Certificate::read(&input::bytes(path)?).map_err(|error| input::of(path, error))
}

fn remarks_on(config: &Config) -> Vec<String> {
    let nonce = config.rules.policies.proofs.nonce != NonceDemand::Off;
    let drawn = nonce && config.rules.dpop.nonce_keys.is_none();
    drawn.then(|| NO_SECRET.to_owned()).into_iter().collect()
}

const FLAGS: Ways = Ways { token: "--token FILE", proof: "--proof FILE", online: "--online" };

const OWN_RECORD: &str = "the use of the proof was recorded here only: whether `serve` has seen it \
                          before is not known";

const NO_SECRET: &str = "there is no dpop.nonce_secret_file, so the nonces of a running `serve` are \
                         not known here, and none of them counts";
