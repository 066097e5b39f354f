//! Knows the command `explain`: one request through the very code that `serve` runs, told step by
//! step.

mod advice;
mod certificate;
mod json;
mod request;
mod text;

use super::{check_config, complain};
use crate::check::{Checker, Dpop, Facts, Rules, Verdict};
use crate::client_certificate::Source;
use crate::clock::{Clock, ManualClock, SystemClock, UnixTime};
use crate::config::{self, Config};
use crate::denial::Denial;
use crate::front::ext_authz::wire;
use crate::oauth::credentials::Credentials;
use crate::policy::NonceDemand;
use crate::request::Request;
use crate::state::replay::ReplayRules;
use crate::state::token_cache::TokenCache;
use crate::state::{introspection, jwks};
use std::error::Error;
use std::io::{self, Write};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use tokio::runtime::{Builder, Handle};

/// What `explain` is about: a request that was kept, or one that is described as for curl.
#[derive(Debug, clap::Args)]
#[group(id = "what", required = true, multiple = false, args = ["request", "url"])]
pub struct Arguments {
    /// The configuration file
    #[arg(long, env = "KEYBOUND_CONFIG", value_name = "FILE")]
    config: PathBuf,
    /// A `CheckRequest`, binary or protobuf JSON; `-` is standard input
    #[arg(long, value_name = "FILE")]
    request: Option<PathBuf>,
    /// A file with the access token, to go in place of the one in the request
    #[arg(long, value_name = "FILE")]
    token: Option<PathBuf>,
    /// A file with the DPoP proof, to go in place of the one in the request
    #[arg(long, value_name = "FILE")]
    proof: Option<PathBuf>,
    /// The time of the check, as 2027-01-15T08:00:00Z or in seconds since 1970 [default: now]
    #[arg(long, value_name = "TIME", value_parser = time, allow_hyphen_values = true)]
    at: Option<UnixTime>,
    /// Asks issuers about opaque tokens, as `serve` would
    #[arg(long)]
    online: bool,
    /// Prints JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    described: request::Described,
}

fn time(text: &str) -> Result<UnixTime, &'static str> {
    UnixTime::parse(text).ok_or("a time is expected: 2027-01-15T08:00:00Z, or seconds since 1970")
}

/// One check, and all that is told of it.
struct Explanation {
    /// Method and target; none if they could not be read.
    target: Option<String>,
    now: UnixTime,
    verdict: Verdict,
    decision: Decision,
    /// What else there is to know.
    remarks: Vec<String>,
}

/// What became of the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Decision {
    Allowed,
    /// The policy lets through what it would deny for this reason.
    Reported(Denial),
    Denied(Denial),
    /// `serve` would ask an issuer; this was not to.
    Open,
}

/// Explains. Succeeds when the request is allowed, and ends with [`DENIED`] when it is not.
pub(super) fn run(arguments: &Arguments) -> ExitCode {
    let config = match config::load(&arguments.config) {
        Ok(config) => config,
        Err(problems) => {
            // Nobody is left to be told that standard error is gone.
            let _written = check_config::tell(&arguments.config, &problems, "");
            return ExitCode::FAILURE;
        }
    };
    match explained(arguments, config) {
        Ok(explanation) => {
            let text = if arguments.json {
                json::of(&explanation).to_string() + "\n"
            } else {
                text::of(&explanation)
            };
            match io::stdout().lock().write_all(text.as_bytes()) {
                Ok(()) => explanation.decision.code(),
                Err(_) => ExitCode::FAILURE,
            }
        }
        Err(failure) => {
            complain(&failure.to_string());
            ExitCode::FAILURE
        }
    }
}

impl Decision {
    fn of(verdict: &Verdict, online: bool) -> Self {
        match verdict.outcome {
            Ok(()) => Self::Allowed,
            // Nobody was asked, so nobody failed to answer.
            Err(Denial::IntrospectionUnavailable) if !online => Self::Open,
            Err(denial) if verdict.denied().is_none() => Self::Reported(denial),
            Err(denial) => Self::Denied(denial),
        }
    }

    fn code(self) -> ExitCode {
        match self {
            Self::Allowed | Self::Reported(_) => ExitCode::SUCCESS,
            Self::Denied(_) => ExitCode::from(DENIED),
            Self::Open => ExitCode::FAILURE,
        }
    }
}

/// What the shell gets when the request is denied.
const DENIED: u8 = 3;

fn explained(
    arguments: &Arguments,
    config: Config,
) -> Result<Explanation, Box<dyn Error + Send + Sync>> {
    let source = &config.policies.client_certificate;
    let mut message = match &arguments.request {
        Some(path) => request::read(path)?,
        None => arguments.described.message(source)?,
    };
    if let Some(path) = &arguments.token {
        message = request::with_token(&message, path)?;
    }
    if let Some(path) = &arguments.proof {
        message = request::with_proof(&message, path)?;
    }
    let runtime = Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let remarks = remarks_on(&config);
        let clock: Arc<dyn Clock> = match arguments.at {
            Some(time) => Arc::new(ManualClock::at(time)),
            None => Arc::new(SystemClock),
        };
        let rules = rules(config, &clock, arguments.online)?;
        Ok(check(&message, &rules, clock, arguments.online, remarks).await)
    })
}

/// What `serve` would decide with, but for what others would notice: the proof is recorded in this
/// process, no snapshot of keys is written, and no issuer is asked about tokens unless `online`.
fn rules(
    config: Config,
    clock: &Arc<dyn Clock>,
    online: bool,
) -> Result<Rules, Box<dyn Error + Send + Sync>> {
    let mut policies = config.policies;
    for issuer in &mut policies.issuers {
        Arc::make_mut(issuer).keys.upkeep.snapshot_file = None;
    }
    let runtime = Handle::current();
    let keys = jwks::start_all(&policies.issuers, &[], clock, &runtime)?;
    let introspectors = if online {
        introspection::start_all(&policies, &keys, &[], clock, &runtime)?
    } else {
        vec![None; policies.issuers.len()]
    };
    let dpop = Dpop::start(&ReplayRules::default(), config.dpop.nonce_keys, &runtime)?;
    let cache = Arc::new(TokenCache::new(policies.limits.token_cache));
    Ok(Rules::new(policies, keys, introspectors, cache, dpop))
}

async fn check(
    message: &[u8],
    rules: &Rules,
    clock: Arc<dyn Clock>,
    online: bool,
    mut remarks: Vec<String>,
) -> Explanation {
    let header = match &rules.policies.client_certificate {
        Source::Header { name, .. } => Some(name.as_str()),
        Source::Peer | Source::Xfcc { .. } => None,
    };
    let now = clock.now();
    let (target, verdict) = match wire::read(message, header) {
        Ok(request) => {
            remarks.extend(blanks(&request));
            let verdict = Checker::new(clock).explain(rules, &request).await;
            (Some(target(&request)), verdict)
        }
        Err(denial) => (None, Verdict { outcome: Err(denial), facts: Facts::default() }),
    };
    if verdict.facts.proved.dpop {
        remarks.push(OWN_RECORD.to_owned());
    }
    let decision = Decision::of(&verdict, online);
    Explanation { target, now, verdict, decision, remarks }
}

/// Without the query, which may hold secrets.
fn target(request: &Request<'_>) -> String {
    let target = &request.target;
    let query = if target.query().is_some() { "?…" } else { "" };
    let (method, path) = (target.method, target.path_only());
    format!("{method} {}://{}{path}{query}", target.scheme, target.authority)
}

fn remarks_on(config: &Config) -> Vec<String> {
    let nonce = config.policies.proofs.nonce != NonceDemand::Off;
    let drawn = nonce && config.dpop.nonce_keys.is_none();
    drawn.then(|| NO_SECRET.to_owned()).into_iter().collect()
}

/// Signatures that were taken out when the request was kept.
fn blanks(request: &Request<'_>) -> Vec<String> {
    let Ok(credentials) = Credentials::read(request) else { return vec![] };
    let is_blank = |jwt: &[u8]| {
        let signature = jwt.rsplit(|it| *it == b'.').next().unwrap_or_default();
        !signature.is_empty() && signature.iter().all(|it| *it == b'A')
    };
    let token = is_blank(credentials.token.as_bytes()).then_some(("token", "--token"));
    let proof = credentials.proof.filter(|it| is_blank(it.as_bytes()));
    let proof = proof.map(|_| ("proof", "--proof"));
    let tell = |(what, flag)| {
        format!(
            "the signature of the {what} was blanked when it was kept: {flag} FILE puts it back"
        )
    };
    [token, proof].into_iter().flatten().map(tell).collect()
}

const OWN_RECORD: &str = "the use of the proof was recorded here only: whether `serve` has seen it \
                          before is not known";

const NO_SECRET: &str = "there is no dpop.nonce_secret_file, so the nonces of a running `serve` are \
                         not known here, and none of them counts";
