//! The command `check-config`: lists every problem of a configuration file, or the policies that it
//! would enforce, and on request what the issuers publish.

mod against;
mod online;
mod report;

use super::paint::{Colour, Paint};
use super::{complain, input};
use crate::config::{Config, Problem};
use against::Against;
use clap::error::ErrorKind;
use online::Misfits;
use report::Report;
use serde_json::{Value, json};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use tokio::runtime::Builder;

/// The arguments of `check-config`.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// The configuration file; `-` is standard input
    file: Option<PathBuf>,
    /// The same, as the other commands name it, and by `KEYBOUND_CONFIG`
    #[arg(long, value_name = "FILE", conflicts_with = "file")]
    config: Option<PathBuf>,
    /// Also fetches metadata and keys of the issuers, and looks for their introspection endpoints. No
    /// token is sent
    #[arg(long)]
    online: bool,
    /// Also puts the requests that `serve --capture` kept in this folder under the configuration, and
    /// lists what would change
    #[arg(long, value_name = "DIR")]
    against: Option<PathBuf>,
    /// Makes warnings count as errors
    #[arg(long)]
    strict: bool,
    /// Prints JSON
    #[arg(long)]
    json: bool,
}

/// All that was found of a configuration.
struct Findings {
    /// `None` if it cannot be compiled.
    report: Option<Report>,
    problems: Vec<Problem>,
    warnings: Vec<Problem>,
    /// What would become of kept requests, if that was asked for.
    against: Option<Against>,
}

/// Writes a summary to standard output, and problems and warnings to standard error.
pub(super) fn run(arguments: &Arguments) -> ExitCode {
    let given = arguments.file.clone().or_else(|| arguments.config.clone());
    let Some(file) = given.or_else(|| std::env::var_os(VARIABLE).map(PathBuf::from)) else {
        return without_file();
    };
    let file = file.as_path();
    let config = match input::config(file) {
        Ok(config) => config,
        Err(failure) => {
            complain(&failure);
            return ExitCode::FAILURE;
        }
    };
    let findings = match config {
        Ok(config) => Findings::of(&config, arguments),
        Err(problems) => Ok(Findings { report: None, problems, warnings: vec![], against: None }),
    };
    let findings = match findings {
        Ok(findings) => findings,
        Err(error) => {
            complain(&error);
            return ExitCode::FAILURE;
        }
    };
    let valid = findings.problems.is_empty() && (!arguments.strict || findings.warnings.is_empty());
    let written = if arguments.json {
        writeln!(io::stdout().lock(), "{}", findings.json(valid))
    } else {
        findings.tell(file)
    };
    if valid && written.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

impl Findings {
    fn of(config: &Config, arguments: &Arguments) -> Result<Self, String> {
        let mut report = Report::of(config);
        let mut misfits = Misfits::default();
        if arguments.online {
            let runtime = Builder::new_current_thread().enable_all().build();
            let runtime = runtime.map_err(|error| error.to_string())?;
            let (found, all) = runtime.block_on(online::ask(config));
            for (issuer, found) in report.issuers.iter_mut().zip(found) {
                issuer.online = Some(found);
            }
            misfits = all;
        }
        let against =
            arguments.against.as_deref().map(|it| against::put(it, config)).transpose()?;
        let warnings = config.warnings.iter().cloned().chain(misfits.warnings).collect();
        Ok(Self { report: Some(report), problems: misfits.problems, warnings, against })
    }

    fn tell(&self, file: &Path) -> io::Result<()> {
        tell(file, &self.problems, "")?;
        tell(file, &self.warnings, "warning: ")?;
        if let Some(report) = &self.report {
            write!(io::stdout().lock(), "{report}")?;
        }
        match &self.against {
            Some(against) => write!(io::stdout().lock(), "{against}"),
            None => Ok(()),
        }
    }

    /// One document, whose members are there whether or not the configuration is valid.
    fn json(&self, valid: bool) -> Value {
        let Self { report, problems, warnings, against } = self;
        let mut document = json!({ "issuers": [], "policies": [] });
        if let Some(report) = report {
            document = json!(report);
        }
        for (name, value) in [
            ("valid", json!(valid)),
            ("problems", json!(problems)),
            ("warnings", json!(warnings)),
            ("against", json!(against)),
        ] {
            if let Some(members) = document.as_object_mut() {
                members.insert(name.to_owned(), value);
            }
        }
        document
    }
}

/// The variable that names the configuration, for this and the other commands.
const VARIABLE: &str = "KEYBOUND_CONFIG";

/// Wrong usage, in the words of the parser of the command line.
fn without_file() -> ExitCode {
    let mut command =
        <Arguments as clap::Args>::augment_args(clap::Command::new("keybound check-config"));
    let message = format!("a configuration is expected: FILE, `-`, --config FILE or {VARIABLE}");
    // If standard error is gone, there is nowhere to report it.
    drop(command.error(ErrorKind::MissingRequiredArgument, message).print());
    ExitCode::from(WRONG_USAGE)
}

/// The exit code for wrong usage, as the parser of the command line has it.
const WRONG_USAGE: u8 = 2;

/// One line each, in the format of compilers, so that editors can jump to the place.
pub(super) fn tell(file: &Path, problems: &[Problem], kind: &str) -> io::Result<()> {
    let mut stderr = io::stderr().lock();
    let paint = Paint::stderr();
    let colour = if kind.is_empty() { Colour::Red } else { Colour::Yellow };
    for Problem { path, line, message } in problems {
        let line = line.map_or_else(String::new, |it| format!("{it}:"));
        let place = format!("{}:{line}", file.display());
        let path = if path.is_empty() { String::new() } else { format!("{path}: ") };
        let (place, kind) = (paint.text(Colour::Bold, &place), paint.text(colour, kind));
        writeln!(stderr, "{place} {kind}{}{message}", paint.text(colour, &path))?;
    }
    Ok(())
}
