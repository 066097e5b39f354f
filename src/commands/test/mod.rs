//! The command `test`: tables of requests, each with the policy and reason that it must get, decided
//! offline under a configuration with keys made on the spot.

mod case;
mod keys;
mod made;
mod sources;
mod table;

use super::demo::Failure;
use super::{check_config, complain, input, paint};
use crate::config::{self, Config, Problem};
use case::{Got, Setting};
use keybound_core::facts::{PUBLIC, RESOURCE_METADATA};
use keybound_core::oauth::NonceKeys;
use keybound_core::{Denial, Rules, UnixTime};
use made::Maker;
use serde_json::{Value, json};
use std::collections::HashSet;
use std::fmt::Write as _;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use table::{Expect, Table, Test};
use tokio::runtime::{Builder, Runtime};

/// The arguments of `test`.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// Tables of requests, each with the policy and reason that it must get; `-` is standard input
    #[arg(required = true, value_name = "FILE")]
    files: Vec<PathBuf>,
    /// The configuration to test, in place of the one that a table names; `-` is standard input
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Prints JSON
    #[arg(long)]
    json: bool,
}

/// The time of the checks where a table does not say: 2027-01-15T08:00:00Z.
const USUAL_TIME: UnixTime = UnixTime::from_secs(1_800_000_000);

/// A table and what became of its tests.
struct Report {
    file: PathBuf,
    tests: Vec<(Test, Got)>,
    /// The policies that no test gets.
    untested: Vec<String>,
}

/// Why a table cannot be run.
enum Stop {
    /// Its own problems, or those of the configuration in this file.
    Problems(PathBuf, Vec<Problem>),
    Failure(String),
}

/// The schema of tables.
pub(super) fn schema() -> Value {
    config::schema_of::<Table>()
}

/// Runs `test`. Succeeds if every test gets what it must.
pub(super) fn run(arguments: &Arguments) -> ExitCode {
    let runtime = match Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            complain(&error.to_string());
            return ExitCode::FAILURE;
        }
    };
    let files = arguments.files.iter().map(|it| Some(it.as_path()));
    if let Err(failure) = input::once(files.chain([arguments.config.as_deref()])) {
        complain(&failure);
        return ExitCode::FAILURE;
    }
    let mut reports = vec![];
    let mut all_ran = true;
    for file in &arguments.files {
        match Report::of(file, arguments.config.as_deref(), &runtime) {
            Ok(report) => reports.push(report),
            Err(stop) => {
                all_ran = false;
                stop.tell();
            }
        }
    }
    let good = all_ran && reports.iter().all(Report::is_good);
    let written = if arguments.json {
        let tables: Vec<_> = reports.iter().map(Report::json).collect();
        writeln!(io::stdout().lock(), "{}", json!({ "ok": good, "tables": tables }))
    } else {
        paint::print(&reports.iter().map(Report::text).collect::<String>())
    };
    if good && written.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

impl Report {
    fn of(file: &Path, config: Option<&Path>, runtime: &Runtime) -> Result<Self, Stop> {
        let problems = |found| Stop::Problems(file.to_owned(), found);
        let bytes = input::bytes(file).map_err(Stop::Failure)?;
        let (table, lines) =
            config::table::<Table>(&bytes, "tests", table::MAPPINGS).map_err(problems)?;
        let (path, config) = configuration(file, &table, config)?;
        let config = config.map_err(|found| Stop::Problems(path, found))?;
        let at = table.at.as_deref().map_or(Ok(USUAL_TIME), crate::explain::time);
        let at = at.map_err(|why| problems(vec![Problem::at("at", None, why)]))?;
        let wrong = problems_of(&table.tests, &config, &lines);
        if !wrong.is_empty() {
            return Err(problems(wrong));
        }
        let failure = |it: Failure| Stop::Failure(format!("{}: {it}", file.display()));
        let tests = runtime.block_on(decided(table.tests, &config, at)).map_err(failure)?;
        let untested = untested(&config, &tests);
        Ok(Self { file: file.to_owned(), tests, untested })
    }

    fn is_good(&self) -> bool {
        self.tests.iter().all(|(test, got)| got.is(&test.expect))
    }

    fn json(&self) -> Value {
        let tests = self.tests.iter().map(|(test, got)| {
            let Expect { policy, reason, decision } = &test.expect;
            let decision = decision.map(table::Decision::label);
            json!({
                "name": test.name, "ok": got.is(&test.expect),
                "expected": {"policy": policy, "reason": reason, "decision": decision},
                "got": {"policy": got.policy, "reason": got.reason, "decision": got.decision},
            })
        });
        let tests: Vec<_> = tests.collect();
        json!({"file": self.file, "tests": tests, "untested_policies": self.untested})
    }

    fn text(&self) -> String {
        let mut text = format!("{}\n", self.file.display());
        let mut good: usize = 0;
        // Writing to a string cannot fail.
        for (test, got) in &self.tests {
            if got.is(&test.expect) {
                good = good.saturating_add(1);
                let found = in_words(got.policy.as_deref(), &got.reason, None);
                let _written = writeln!(text, "✓ {}: {found}", test.name);
            } else {
                told_apart(test, got, &mut text);
            }
        }
        if !self.untested.is_empty() {
            let names = self.untested.join(", ");
            let _written = writeln!(text, "note: no test gets the policies {names}");
        }
        let _written = writeln!(text, "{good} of {} as expected\n", self.tests.len());
        text
    }
}

/// A test that did not get what it must, with the steps of its check.
fn told_apart(test: &Test, got: &Got, told: &mut String) {
    let Expect { policy, reason, decision } = &test.expect;
    let decision = decision.map(table::Decision::label);
    let expected = in_words(policy.as_deref(), reason, decision);
    let found = in_words(got.policy.as_deref(), &got.reason, decision.map(|_| &*got.decision));
    // Writing to a string cannot fail.
    let _written = writeln!(told, "✗ {}\n    expected {expected}\n    got      {found}", test.name);
    for line in got.explanation.lines() {
        let _written = writeln!(told, "    | {line}");
    }
}

fn in_words(policy: Option<&str>, reason: &str, decision: Option<&str>) -> String {
    let policy = policy.unwrap_or("no policy");
    let decision = decision.map_or_else(String::new, |it| format!(" ({it})"));
    format!("{policy}, {reason}{decision}")
}

/// The configuration of a table, and its file.
fn configuration(
    file: &Path,
    table: &Table,
    given: Option<&Path>,
) -> Result<(PathBuf, Result<Config, Vec<Problem>>), Stop> {
    let beside = file.parent().unwrap_or_else(|| Path::new(""));
    let named = table.config.as_deref().map(|it| beside.join(it));
    let Some(path) = given.map(Path::to_owned).or(named) else {
        return Err(Stop::Failure(format!("{}: {NO_CONFIGURATION}", file.display())));
    };
    let bytes = input::bytes(&path).map_err(Stop::Failure)?;
    let config = config::read_to_decide(&bytes);
    Ok((path, config))
}

const NO_CONFIGURATION: &str = "names no configuration: write `config: FILE` or use --config";

async fn decided(
    tests: Vec<Test>,
    config: &Config,
    at: UnixTime,
) -> Result<Vec<(Test, Got)>, Failure> {
    // Of no use to anybody but these checks.
    let nonces = Arc::new(NonceKeys::from_octets(&[0; 32]));
    let rules = &Rules::new(config.rules.policies.clone(), Arc::clone(&nonces));
    let mut maker = Maker::new(config, at, nonces, &tests)?;
    let setting = Setting { config, rules, keys: maker.key_sets()?, at };
    let mut all = vec![];
    for test in tests {
        let named = |it: Failure| Failure::new(&test.name, it);
        let got = case::decided(&test, &setting, &mut maker).await.map_err(named)?;
        all.push((test, got));
    }
    Ok(all)
}

/// What in the tests cannot be meant.
fn problems_of(tests: &[Test], config: &Config, lines: &[Option<usize>]) -> Vec<Problem> {
    let mut problems = vec![];
    let mut names = HashSet::new();
    let policies = &config.rules.policies.policies;
    if tests.is_empty() {
        problems.push(Problem::at("tests", None, "there are none"));
    }
    for (index, (test, line)) in tests.iter().zip(lines).enumerate() {
        let mut problem = |key: &str, message: &str| {
            problems.push(Problem::at(&format!("tests[{index}].{key}"), *line, message));
        };
        if !names.insert(&test.name) {
            problem("name", "another test has this name");
        }
        let Expect { policy, reason, .. } = &test.expect;
        let known =
            policy.as_ref().is_none_or(|it| policies.iter().any(|policy| *policy.name == **it));
        if !known {
            problem("expect.policy", "the configuration has no policy of this name");
        }
        let is_reason = ["allowed", PUBLIC, RESOURCE_METADATA].contains(&&**reason)
            || Denial::labelled(reason).is_some();
        if !is_reason {
            let message = format!(
                "{reason:?} is no reason: write allowed, {PUBLIC}, {RESOURCE_METADATA} or one of \
                 those that `keybound reasons` lists"
            );
            problem("expect.reason", &message);
        }
    }
    problems
}

/// The policies that no test gets.
fn untested(config: &Config, tests: &[(Test, Got)]) -> Vec<String> {
    let is_got = |name: &str| tests.iter().any(|(_, got)| got.policy.as_deref() == Some(name));
    let names = config.rules.policies.policies.iter().map(|it| it.name.to_string());
    names.filter(|it| !is_got(it)).collect()
}

impl Stop {
    fn tell(&self) {
        match self {
            Self::Problems(file, problems) => {
                // If standard error is gone, there is nowhere to report it.
                let _written = check_config::tell(file, problems, "");
            }
            Self::Failure(why) => complain(why),
        }
    }
}
