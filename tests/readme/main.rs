//! README and the pages under `docs/` say what the code does: their tables are the code's, and what they
//! show can be pasted. The architecture names files and functions that there are.

#![expect(clippy::unwrap_used, reason = "a test may panic")]
#![expect(clippy::arithmetic_side_effects, reason = "a test may panic")]
#![expect(clippy::indexing_slicing, reason = "a test may panic")]
#![expect(clippy::panic, reason = "a test may panic")]

#[path = "../support/configured.rs"]
mod configured;

mod configuration;
mod links;
mod platforms;
mod releases;
mod versions;

use keybound::config::Problem;
use keybound_core::client_certificate::HeaderFormat;
use keybound_core::jose::Algorithm;
use keybound_core::policy::USUAL_ALGORITHMS;
use keybound_core::words::Words;
use keybound_core::{Denial, Detail, facts};
use std::collections::HashSet;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

const README: &str = include_str!("../../README.md");
const ARCHITECTURE: &str = include_str!("../../docs/ARCHITECTURE.md");
const CERTIFICATES: &str = include_str!("../../docs/certificates.md");
const CONFIGURATION: &str = include_str!("../../docs/configuration.md");
const ISSUERS: &str = include_str!("../../docs/issuers.md");
const REASONS: &str = include_str!("../../docs/reasons.md");
const SECURITY: &str = include_str!("../../docs/security.md");

/// The folder with README.
fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// README and the pages under `docs/`: their names and texts.
fn pages() -> Vec<(String, String)> {
    let entries = std::fs::read_dir(root().join("docs")).unwrap();
    let found = entries
        .map(|it| it.unwrap().path())
        .filter(|it| it.extension().is_some_and(|it| it == "md"));
    let mut found: Vec<_> = found.chain([root().join("README.md")]).collect();
    found.sort();
    let name = |it: &Path| it.file_name().unwrap().to_str().unwrap().to_owned();
    found.iter().map(|it| (name(it), std::fs::read_to_string(it).unwrap())).collect()
}

#[test]
fn the_table_of_reasons_is_that_of_the_code() {
    let mut table =
        String::from("| reason | status | fault | OAuth `error` | what the client reads |\n");
    table.push_str("|---|---|---|---|---|\n");
    for denial in Denial::ALL {
        let error = denial.error().map_or_else(|| "–".to_owned(), |it| format!("`{}`", it.code()));
        let (label, status, sentence) = (denial.label(), denial.status(), denial.sentence());
        let fault = denial.fault().label();
        writeln!(table, "| `{label}` | {status} | {fault} | {error} | {sentence} |").unwrap();
    }
    assert!(REASONS.contains(&table), "the table should be:\n{table}");
}

#[test]
fn the_table_of_details_is_that_of_the_code() {
    let mut table = String::from("| detail | of | what lies behind it |\n|---|---|---|\n");
    for detail in Detail::ALL {
        writeln!(table, "| `{detail}` | `{}` | {} |", detail.denial(), detail.sentence()).unwrap();
    }
    assert!(REASONS.contains(&table), "the table should be:\n{table}");
}

const ADVICE: [&str; 2] =
    ["<!-- advice: KEYBOUND_BLESS=1 cargo test --test readme -->\n", "<!-- end of advice -->\n"];

#[test]
fn what_to_do_about_a_reason_is_what_the_command_says() {
    let mut table = String::from("| reason | what to do |\n|---|---|\n");
    for denial in Denial::ALL {
        let mut command = Command::new(env!("CARGO_BIN_EXE_keybound"));
        let told = command.args(["reasons", denial.label()]).output().unwrap().stdout;
        let told = String::from_utf8(told).unwrap();
        let advice = told.lines().find_map(|it| it.strip_prefix("what to do: ")).unwrap();
        writeln!(table, "| `{}` | {} |", denial.label(), advice.replace('|', "\\|")).unwrap();
    }
    let (before, rest) = REASONS.split_once(ADVICE[0]).unwrap();
    let (_, after) = rest.split_once(ADVICE[1]).unwrap();
    let expected = format!("{before}{}{table}{}{after}", ADVICE[0], ADVICE[1]);
    if std::env::var_os("KEYBOUND_BLESS").is_some() {
        std::fs::write(root().join("docs/reasons.md"), expected).unwrap();
    } else {
        assert!(REASONS == expected, "the table should be:\n{table}");
    }
}

#[test]
fn the_page_on_logs_has_each_field_of_a_check() {
    let page = include_str!("../../docs/metrics.md");
    let section = page.split("\n| field | what it is |\n").nth(1).unwrap();
    let rows = section.split("\n\n").next().unwrap().lines().skip(1);
    let fields = rows.flat_map(|row| quoted(row.split('|').nth(1).unwrap()));
    let described: Vec<_> = fields.collect();
    // Those that are not there are empty.
    let mut expected = facts::names::<64>(facts::LOG).to_vec();
    expected.retain(|it| !it.is_empty());
    expected.sort_by_key(|it| described.iter().position(|field| field == it));
    assert_eq!(described, expected);
}

/// The rows of the table under *What was tried against it*: what was tried, what happens, the tests.
fn tried() -> Vec<[&'static str; 3]> {
    let section = SECURITY.split("\n## What was tried against it\n").nth(1).unwrap();
    let section = section.split("\n## ").next().unwrap();
    let rows = section.lines().filter(|it| it.starts_with("| ")).skip(1);
    let cells = |row: &'static str| row.trim_matches(['|', ' ']).split(" | ").collect::<Vec<_>>();
    rows.map(|row| cells(row).try_into().unwrap()).collect()
}

#[test]
fn the_table_of_algorithms_is_that_of_the_code() {
    let mut table = String::from("| `kty` | `alg` | by default |\n|---|---|---|\n");
    for kind in ["RSA", "EC", "OKP", "AKP"] {
        let of_kind = || Algorithm::all().filter(|it| it.key_type() == kind);
        let names = |them: Vec<Algorithm>| match &*them {
            [] => "–".to_owned(),
            them => them.iter().map(|it| it.name()).collect::<Vec<_>>().join(" "),
        };
        let usual = of_kind().filter(|it| USUAL_ALGORITHMS.contains(it)).collect();
        writeln!(table, "| {kind} | {} | {} |", names(of_kind().collect()), names(usual)).unwrap();
    }
    assert!(CONFIGURATION.contains(&table), "the table should be:\n{table}");
    let rows =
        table.lines().skip(2).flat_map(|it| it.split('|').nth(2).unwrap().split_whitespace());
    assert_eq!(rows.count(), Algorithm::NAMES.len(), "each has a row");
}

#[test]
fn every_provider_is_named() {
    let section = ISSUERS.split("\n## `provider`\n").nth(1).unwrap();
    let named = section.split("\n\n").nth(1).unwrap();
    let named: Vec<_> = named.split('`').skip(1).step_by(2).collect();
    let schema = keybound::config::schema();
    let rows = schema["$defs"]["Provider"]["oneOf"].as_array().unwrap();
    let expected: Vec<_> = rows.iter().map(|it| it["const"].as_str().unwrap()).collect();
    assert_eq!(named, expected);
}

#[test]
fn every_format_of_a_certificate_in_a_header_has_a_row() {
    let section = CERTIFICATES.split("\n| `header.format` |").nth(1).unwrap();
    let rows = section.split("\n\n").next().unwrap().lines().skip(2);
    let named: Vec<_> = rows.map(|it| it.split('`').nth(1).unwrap()).collect();
    assert_eq!(named, HeaderFormat::NAMES);
}

#[test]
fn each_kind_of_attack_names_tests_that_there_are() {
    let code = code(&["src", "tests"]);
    let known = tests(&code);
    let rows = tried();
    assert!(30 <= rows.len(), "{}", rows.len());
    for [what, happens, tests] in rows {
        assert!(!what.is_empty() && !happens.is_empty(), "{what}");
        for name in tests.split(", ").map(|it| it.trim_matches('`')) {
            assert!(known.contains(name), "{what}: no test is called {name}");
        }
    }
}

/// All code in these folders.
fn code(folders: &[&str]) -> String {
    let mut folders: Vec<_> = folders.iter().map(|it| root().join(it)).collect();
    let mut code = String::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|it| it == "rs") {
                code.push_str(&std::fs::read_to_string(path).unwrap());
            }
        }
    }
    code
}

/// The names of the tests in `code`: functions with that attribute among those directly above.
fn tests(code: &str) -> HashSet<&str> {
    let mut names = HashSet::new();
    let mut is_test = false;
    for line in code.lines().map(str::trim_start) {
        is_test |= line == "#[test]" || line.starts_with("#[tokio::test");
        if let Some(name) = function(line) {
            names.extend(is_test.then_some(name));
        }
        is_test &= line.starts_with("#[") || line.starts_with("//");
    }
    names
}

fn function(line: &str) -> Option<&str> {
    let named = line.strip_prefix("async ").unwrap_or(line).strip_prefix("fn ")?;
    named.split_once('(').map(|it| it.0)
}

#[test]
fn a_helper_is_no_test() {
    for (above, is_test) in [
        ("#[test]", true),
        ("    #[test]", true),
        ("#[tokio::test]", true),
        ("#[tokio::test(start_paused = true)]", true),
        ("#[test]\n#[expect(dead_code)]\n// It is slow.", true),
        ("", false),
        ("#[track_caller]", false),
        ("#[cfg(test)]", false),
        ("/// Other than a\n/// #[test]", false),
        ("#[test]\nfn another() {}", false),
        ("#[test]\n\nconst MANY: u8 = 1;", false),
    ] {
        for function in ["fn it_works() {", "async fn it_works() {"] {
            let code = format!("{above}\n{function}\n");
            assert_eq!(tests(&code).contains("it_works"), is_test, "{code}");
        }
    }
}

/// The fenced blocks of a language in a page.
fn blocks<'a>(page: &'a str, language: &str) -> Vec<&'a str> {
    let fence = format!("```{language}\n");
    page.split(fence.as_str()).skip(1).map(|it| it.split("```").next().unwrap()).collect()
}

#[test]
fn the_file_that_it_shows_is_the_one_to_deploy() {
    let file = std::fs::read_to_string(root().join("deploy/envoy/keybound.yaml")).unwrap();
    assert!(blocks(README, "yaml").contains(&file.as_str()), "README does not show it as it is");
}

/// The lines of `part` follow one another in `whole`, all further in by the same number of blanks.
fn is_part(part: &str, whole: &str) -> bool {
    let part: Vec<_> = part.lines().collect();
    let whole: Vec<_> = whole.lines().collect();
    let indent = |it: &str| it.len() - it.trim_start().len();
    whole.windows(part.len()).any(|them| {
        let further = indent(them[0]).saturating_sub(indent(part[0]));
        let outdented = |it: &str| it.split_at_checked(further).map(|it| it.1.to_owned());
        part.iter().zip(them).all(|(part, it)| outdented(it).as_deref() == Some(*part))
    })
}

#[test]
fn the_filter_that_it_shows_is_that_of_the_file_to_deploy() {
    let file = std::fs::read_to_string(root().join("deploy/envoy/envoy.yaml")).unwrap();
    let of_envoy: Vec<_> =
        blocks(README, "yaml").into_iter().filter(|it| it.contains("envoy.")).collect();
    assert!(!of_envoy.is_empty());
    for part in of_envoy {
        assert!(is_part(part, &file), "it is not in the file:\n{part}");
    }
}

#[test]
fn a_part_is_found_by_its_lines_however_far_in_they_are() {
    let whole = "a:\n  - b: 1\n    c: 2\n  - b: 3\n";
    for (part, expected) in [
        ("- b: 1\n  c: 2\n", true),
        ("  - b: 1\n    c: 2\n", true),
        ("c: 2\n", true),
        ("- b: 1\n  c: 3\n", false),
        ("- b: 1\n- b: 3\n", false),
        ("- b: 1\n c: 2\n", false),
    ] {
        assert_eq!(is_part(part, whole), expected, "{part}");
    }
}

#[test]
fn the_scenarios_that_it_shows_are_those_of_the_demonstration() {
    let demonstration = code(&["src/commands/demo"]);
    let rows: Vec<_> = README.lines().filter_map(|it| it.strip_prefix("✓ ")).collect();
    assert!(5 <= rows.len(), "{rows:?}");
    for row in rows {
        let [name, rest] = row.split("  ").filter(|it| !it.is_empty()).collect::<Vec<_>>()[..2]
        else {
            panic!("{row}");
        };
        assert!(demonstration.contains(&format!("{name:?}")), "no scenario is called {name}");
        let (status, reason) = rest.trim().split_once(' ').unwrap();
        let expected = Denial::labelled(reason).map_or(200, Denial::status).to_string();
        assert_eq!(status, expected, "{row}");
        assert!(row.ends_with(&format!("{status}  {reason}")), "{row}");
    }
}

/// Whether it is a whole configuration.
fn is_whole(block: &str) -> bool {
    let begins = |key: &str| block.lines().any(|it| it == key);
    begins("issuers:") && block.lines().any(|it| it.starts_with("policies:"))
}

#[test]
fn every_configuration_that_is_shown_is_valid_and_no_policy_is_warned_of() {
    let pages = pages();
    let shown = pages.iter().flat_map(|(page, text)| {
        blocks(text, "yaml").into_iter().filter(|it| is_whole(it)).map(move |it| (page, it))
    });
    let shown: Vec<_> = shown.collect();
    assert!(4 <= shown.len(), "{}", shown.len());
    for (page, text) in shown {
        let files = tempfile::tempdir().unwrap();
        let read = configured::configured(text, files.path());
        let of_policies = |it: &Problem| it.path.starts_with("policies");
        let problems = match read {
            Ok(config) => config.warnings.into_iter().filter(of_policies).collect(),
            Err(problems) => problems,
        };
        let problems: Vec<String> = problems.iter().map(ToString::to_string).collect();
        assert!(problems.is_empty(), "{page}: {text}\n{}", problems.join("\n"));
    }
}

/// Whoever pastes it is not told that replicas lack a secret, or that something has no effect.
#[test]
fn the_configuration_of_regions_is_valid_and_its_proofs_are_not_warned_of() {
    let page = include_str!("../../docs/regions.md");
    let shown = page.split("```yaml\n").nth(1).unwrap();
    let files = tempfile::tempdir().unwrap();
    std::fs::write(files.path().join("nonce-secret"), "0123456789abcdef".repeat(2)).unwrap();
    std::fs::write(files.path().join("redis-url"), "rediss://redis.example.com").unwrap();
    let rest = "issuers:
- issuer: https://as.example.com
  audiences: [https://api.example.com]
policies:
- {name: all, match: {hosts: [api.example.com]}, sender_constraint: dpop}
";
    let text = format!("{}{rest}", shown.split("```").next().unwrap());
    let warnings = configured::configured(&text, files.path()).unwrap().warnings;
    let of_dpop: Vec<_> = warnings.iter().filter(|it| it.path.starts_with("dpop")).collect();
    assert!(of_dpop.is_empty(), "{of_dpop:?}");
}

/// Whoever puts them above what guards the API is warned of nothing.
#[test]
fn the_public_policies_for_browsers_are_valid_and_not_warned_of() {
    let page = include_str!("../../docs/browsers.md");
    let shown = page.split("```yaml\n").skip(1).map(|it| it.split("```").next().unwrap());
    let shown: Vec<_> = shown.filter(|it| it.starts_with("policies:")).collect();
    assert_eq!(shown.len(), 2, "{shown:?}");
    for policies in shown {
        let files = tempfile::tempdir().unwrap();
        let rest = "  - {name: all, match: {hosts: [api.example.com]}, sender_constraint: dpop}
issuers:
- issuer: https://as.example.com
  audiences: [https://api.example.com]
";
        let text = format!("{policies}{rest}");
        let warnings = configured::configured(&text, files.path()).unwrap().warnings;
        let of_policies: Vec<_> =
            warnings.iter().filter(|it| it.path.starts_with("policies")).collect();
        assert!(of_policies.is_empty(), "{text}\n{of_policies:?}");
    }
}

/// What stands in backticks.
fn quoted(line: &str) -> impl Iterator<Item = &str> {
    line.split('`').skip(1).step_by(2)
}

/// Whether `name` is that of a file or a folder.
fn is_path(name: &str) -> bool {
    let extension = Path::new(name).extension();
    name.ends_with('/') || extension.is_some_and(|it| it == "rs" || it == "toml")
}

/// The file or folder of this name, below the root or one of the crates.
fn place(name: &str) -> PathBuf {
    let places = ["src", "src/core", "src/envoy"].map(|it| root().join(it).join(name));
    places.into_iter().find(|it| it.exists()).unwrap_or_else(|| root().join(name))
}

/// Whether `code` has one of these keywords before `name`.
fn defines(code: &str, keywords: &[&str], name: &str) -> bool {
    let is_end = |it: &str| !it.starts_with(|it: char| it.is_alphanumeric() || it == '_');
    let defined = |keyword: &&str| code.split(&format!("{keyword} {name}")).skip(1).any(is_end);
    keywords.iter().any(defined)
}

#[test]
fn the_architecture_names_what_there_is() {
    let code = code(&["src"]);
    let (mut types, mut functions) = (0, 0);
    for line in ARCHITECTURE.lines() {
        for name in quoted(line) {
            assert!(!is_path(name) || place(name).exists(), "there is no {name}");
            let (kind, function) = name.split_once("::").unwrap_or((name, ""));
            if kind.starts_with(char::is_uppercase) && kind.chars().all(char::is_alphanumeric) {
                assert!(defines(&code, &["struct", "enum", "trait"], kind), "there is no {kind}");
                assert!(function.is_empty() || defines(&code, &["fn"], function), "{name}");
                types += 1;
            }
        }
        // A function behind the file that it is in.
        for (path, behind) in quoted(line).zip(line.split("`: `").skip(1)) {
            let name = behind.split('`').next().unwrap().rsplit("::").next().unwrap();
            let file = std::fs::read_to_string(place(path)).unwrap();
            assert!(defines(&file, &["fn"], name), "{path} has no {name}");
            functions += 1;
        }
    }
    assert!(20 <= types && 15 <= functions, "{types}, {functions}");
}
