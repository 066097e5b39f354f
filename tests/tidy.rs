//! The architecture, held where Cargo does not hold it: who may use whom, and what no file holds.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::fs;
use std::path::{Path, PathBuf};

/// The modules of a crate from the bottom up. A module uses itself and those of rows above its own.
type Order = &'static [&'static [&'static str]];

/// `policy` is above `oauth`: what is demanded is data, and the checks of tokens read it.
const CORE: Order = &[
    &["words"],
    &["explanation", "jose", "percent", "time"],
    &["denial", "request", "uri"],
    &["client_certificate", "grpc_timeout", "mismatches"],
    &["policy"],
    &["oauth"],
    &["resource", "sources"],
    &["check"],
    &["facts"],
    &["answer"],
    &["lib"],
];

const SERVICE: Order = &[
    &["clock", "fair_share", "file_stamp", "invariant", "permissions", "proxy_names"],
    &["randomness", "rate_limit"],
    &["state"],
    &["telemetry"],
    &["installation"],
    &["gate", "health"],
    &["front"],
    &["config"],
    &["explain"],
    &["listener"],
    &["admin"],
    &["server"],
    &["commands"],
    &["lib", "main"],
];

const ENVOY: Order = &[
    &["awaited", "grpc", "judge", "layout", "process"],
    &["stream"],
    &["instance"],
    &["registry"],
    &["settings"],
    &["abi"],
    &["build", "lib"],
];

/// Who calls the cryptography library itself, and what for.
const CRYPTOGRAPHERS: &[&str] = &[
    "src/commands/demo/",                   // an issuer signs
    "src/commands/test/keys.rs",            // so does one in a test
    "src/core/jose/key.rs",                 // signatures are verified
    "src/core/jose/thumbprint.rs",          // SHA-256
    "src/core/oauth/nonce.rs",              // nonces are authenticated
    "src/randomness.rs",                    // where the system has none
    "src/state/introspection/assertion.rs", // a client signs for itself
    "src/state/token_tag.rs",               // cached tokens are told apart
];

/// Lines of a file, without its tests. More are a sign that a room is missing.
const LONGEST: usize = 500;

/// A Rust file of `src/`.
struct Source {
    path: String,
    text: String,
}

impl Source {
    /// The order of its crate, and its path within that.
    fn crate_and_path(&self) -> (Order, &str) {
        let of_members = [("src/core/", CORE), ("src/envoy/", ENVOY)].into_iter();
        let mut own = of_members.filter_map(|(at, it)| Some((it, self.path.strip_prefix(at)?)));
        own.next().unwrap_or_else(|| (SERVICE, self.path.trim_start_matches("src/")))
    }

    /// The module at the root that it belongs to.
    fn room(&self) -> &str {
        self.crate_and_path().1.split('/').next().unwrap().trim_end_matches(".rs")
    }

    /// Whether there are tests in it and nothing else.
    fn is_test(&self) -> bool {
        self.path.ends_with("/tests.rs") || self.path.contains("/tests/")
    }

    /// What comes before the tests.
    fn shipped(&self) -> &str {
        if self.is_test() {
            return "";
        }
        self.text.split("#[cfg(test)]\nmod tests {").next().unwrap()
    }

    /// Whether `super` is the root.
    fn is_below_the_root(&self) -> bool {
        let deep = self.crate_and_path().1.matches('/').count();
        deep == 0 || (deep == 1 && self.path.ends_with("/mod.rs"))
    }
}

/// Where a module uses what is not above it, or hides whom it uses.
fn out_of_order(source: &Source) -> Vec<String> {
    let order = source.crate_and_path().0;
    let row = |module: &str| order.iter().position(|it| it.contains(&module));
    let Some(own) = row(source.room()) else {
        return vec![format!("{} has no row", source.room())];
    };
    let code = without_comments(&source.text);
    let mut found = Vec::new();
    let mut before = "";
    for part in code.split_inclusive("crate::") {
        let used = word_at_the_start(part);
        let is_use = before.strip_suffix("crate::").is_some_and(|it| !it.ends_with(is_word));
        before = part;
        if !is_use {
            continue;
        }
        let above = row(used).is_some_and(|it| it < own);
        if used != source.room() && !above {
            found.push(format!("{} uses crate::{used}", source.path));
        }
    }
    if code.contains("super::super") {
        found.push(format!("{} says super::super: say crate::…", source.path));
    }
    let shipped = without_comments(source.shipped());
    if source.is_below_the_root() && shipped.contains("super::") {
        found.push(format!("{} says super:: for the root: say crate::…", source.path));
    }
    found
}

/// Where the cryptography library is called by who should not.
fn uncalled_for_cryptography(source: &Source) -> Vec<String> {
    let code = without_comments(source.shipped());
    // The provider of TLS bears the same name.
    let calls = code.contains("aws_lc_rs") && !code.contains("rustls::crypto::aws_lc_rs");
    if calls && !CRYPTOGRAPHERS.iter().any(|it| source.path.starts_with(it)) {
        return vec![format!("{} calls aws_lc_rs", source.path)];
    }
    vec![]
}

/// Where JSON is read by who should not: `serde_json` takes a list for an object, and more.
fn lax_json(source: &Source) -> Vec<String> {
    // The demonstration reads what it has started itself.
    let may = ["src/core/jose/json.rs", "src/commands/demo/"];
    let code = without_comments(source.shipped());
    let reads = ["serde_json::from_", "serde_json::Deserializer", "from_value("];
    if reads.iter().any(|it| code.contains(it)) && !may.iter().any(|it| source.path.starts_with(it))
    {
        return vec![format!("{} reads JSON otherwise than by jose::json", source.path)];
    }
    vec![]
}

/// Who goes on behind a refusal, which only an explanation may.
fn reading_on(source: &Source) -> Vec<String> {
    let may = ["src/core/check/diagnosis.rs", "src/core/oauth/read_on.rs", "src/explain/"];
    let code = without_comments(source.shipped());
    let calls = ["claims_of_anybody()", ".read_on(", "::read_on(", "diagnose("];
    let used = calls.iter().filter(|it| code.contains(**it) && !code.contains(&format!("fn {it}")));
    let allowed = may.iter().any(|it| source.path.starts_with(it))
        || source.path == "src/core/check/possession.rs";
    if allowed { vec![] } else { used.map(|it| format!("{} uses {it}", source.path)).collect() }
}

/// Who takes a signature as verified that is not there, which only an explanation of a kept request may.
fn taking_as_verified(source: &Source) -> Vec<String> {
    let may = ["src/core/check/signature.rs", "src/core/oauth/dpop.rs"];
    let code = without_comments(source.shipped());
    let takes = code.contains("jws.taken_as_verified()") && !may.contains(&&*source.path);
    let asks = ["of_redacted(", "Redacted {"].iter().any(|it| code.contains(it));
    let asked = ["src/core/explanation.rs", "src/core/mismatches.rs", "src/explain/kept.rs"];
    let asked = asked.contains(&&*source.path) || source.path == "src/installation/checker.rs";
    let told = [(takes, "takes a signature as verified"), (asks && !asked, "asks for that")];
    let told = told.iter().filter(|it| it.0);
    told.map(|(_, what)| format!("{} {what}", source.path)).collect()
}

/// The one file with a C interface in it.
const UNSAFE: &str = "src/envoy/abi.rs";

/// What is unsafe where it should not be, or does not say why it holds.
fn unsafe_code(source: &Source) -> Vec<String> {
    let code = without_comments(&source.text);
    if source.path != UNSAFE {
        let used = ["unsafe ", "unsafe_code"].iter().filter(|it| code.contains(**it));
        return used.map(|it| format!("{} holds {it}", source.path)).collect();
    }
    let mut found = vec![];
    // A reason stands before the statement that the block is in.
    let mut told = usize::MAX;
    for (line, number) in source.shipped().lines().map(str::trim).zip(1..) {
        told = if line.contains("SAFETY: ") { 0 } else { told.saturating_add(1) };
        let is_block = line.contains("unsafe {") || line.starts_with("unsafe impl");
        if is_block && !line.starts_with("//") && FAR < told {
            found.push(format!("{}:{number} does not say why it holds", source.path));
        }
    }
    found
}

/// Lines between a reason and its block, at most.
const FAR: usize = 5;

/// Files that have grown too long, or do not say what they know.
fn unreadable(source: &Source) -> Vec<String> {
    let mut found = Vec::new();
    let lines = source.shipped().lines().count();
    // What is unsafe stays together.
    let most = if source.path == UNSAFE { LONGEST + 100 } else { LONGEST };
    if most < lines {
        found.push(format!("{} has {lines} lines", source.path));
    }
    if !source.is_test() && !source.text.starts_with("//! ") {
        found.push(format!("{} does not begin with what it knows", source.path));
    }
    found
}

/// What a file holds that is true of one machine only.
fn local(path: &str, text: &str) -> Vec<String> {
    let machine = [["/ho", "me/"], ["/Us", "ers/"], ["/ro", "ot/"], ["/wo", "rk/"], ["/t", "mp/"]];
    let registry = [
        ["index.crat", "es.io"],
        ["static.crat", "es.io"],
        ["py", "pi.org"],
        ["pythonho", "sted.org"],
        ["registry.npm", "js.org"],
        ["deb.deb", "ian.org"],
        ["proxy.gol", "ang.org"],
    ];
    let hidden = machine.into_iter().chain(registry).map(|it| it.concat());
    let mut found: Vec<_> = hidden
        .filter(|it| text.contains(it.as_str()))
        .map(|it| format!("{path} holds {it}"))
        .collect();
    let known = "source = \"registry+https://github.com/rust-lang/crates.io-index\"";
    let sources =
        text.lines().filter(|it| path.ends_with("Cargo.lock") && it.starts_with("source = "));
    found.extend(sources.filter(|it| *it != known).map(|it| format!("{path} holds {it}")));
    found
}

fn without_comments(text: &str) -> String {
    let code = |line: &str| {
        let line = if line.trim_start().starts_with("//") { "" } else { line };
        line.split(" // ").next().unwrap().to_owned() + "\n"
    };
    text.lines().map(code).collect()
}

fn is_word(it: char) -> bool {
    it.is_alphanumeric() || it == '_'
}

fn word_at_the_start(text: &str) -> &str {
    text.split(|it| !is_word(it)).next().unwrap()
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// All files below `folder`, but those that are made, fetched or git's own.
fn files(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name();
        if name == "target" || name == ".git" || name == "__pycache__" {
            continue;
        }
        if entry.file_type().unwrap().is_dir() {
            files(&entry.path(), found);
        } else {
            found.push(entry.path());
        }
    }
}

fn relative(path: &Path) -> String {
    path.strip_prefix(root()).unwrap().to_str().unwrap().to_owned()
}

fn sources() -> Vec<Source> {
    let mut found = Vec::new();
    files(&root().join("src"), &mut found);
    let read = |it: PathBuf| Source { path: relative(&it), text: fs::read_to_string(it).unwrap() };
    found.retain(|it| it.extension().is_some_and(|it| it == "rs"));
    let found: Vec<_> = found.into_iter().map(read).collect();
    assert!(50 < found.len());
    found
}

#[track_caller]
fn none(complaints: &[String]) {
    assert!(complaints.is_empty(), "\n{}", complaints.join("\n"));
}

#[test]
fn a_module_uses_only_what_is_above_it() {
    none(&sources().iter().flat_map(out_of_order).collect::<Vec<_>>());
}

#[test]
fn cryptography_is_called_where_it_belongs() {
    none(&sources().iter().flat_map(uncalled_for_cryptography).collect::<Vec<_>>());
}

#[test]
fn json_is_read_strictly() {
    none(&sources().iter().flat_map(lax_json).collect::<Vec<_>>());
}

#[test]
fn nothing_but_an_explanation_goes_on_behind_a_refusal() {
    none(&sources().iter().flat_map(reading_on).collect::<Vec<_>>());
}

#[test]
fn nothing_but_an_explanation_of_a_kept_request_takes_a_signature_as_verified() {
    none(&sources().iter().flat_map(taking_as_verified).collect::<Vec<_>>());
}

#[test]
fn what_is_unsafe_is_in_one_file_and_says_why_it_holds() {
    none(&sources().iter().flat_map(unsafe_code).collect::<Vec<_>>());
}

#[test]
fn the_module_is_held_to_the_lints_of_all_but_for_its_unsafe_file() {
    let lints = |file: &str, table: &str| {
        let text = fs::read_to_string(root().join(file)).unwrap();
        let from = text.split_once(&format!("[{table}.")).unwrap().1.to_owned();
        from.replace(&format!("[{table}."), "[")
    };
    let all = lints("Cargo.toml", "workspace.lints");
    let own = lints("src/envoy/Cargo.toml", "lints");
    let differs: Vec<_> = all.lines().zip(own.lines()).filter(|(it, own)| it != own).collect();
    assert_eq!(all.lines().count(), own.lines().count());
    assert_eq!(differs.len(), 1, "{differs:?}");
    assert!(differs[0].0.starts_with("unsafe_code = \"forbid\""), "{differs:?}");
    assert!(differs[0].1.starts_with("unsafe_code = \"deny\""), "{differs:?}");
}

#[test]
fn files_are_short_and_say_what_they_know() {
    none(&sources().iter().flat_map(unreadable).collect::<Vec<_>>());
}

#[test]
fn every_module_is_on_the_map() {
    for (file, order, roots) in [
        ("src/core/lib.rs", CORE, &["lib"][..]),
        ("src/envoy/lib.rs", ENVOY, &["lib", "build"]),
        ("src/lib.rs", SERVICE, &["lib", "main"]),
    ] {
        let text = fs::read_to_string(root().join(file)).unwrap();
        let lines = text.lines().map(|it| it.strip_prefix("pub ").unwrap_or(it));
        let modules = lines.filter_map(|it| it.strip_prefix("mod ")?.strip_suffix(';'));
        let mut modules: Vec<_> = modules.chain(roots.iter().copied()).collect();
        let mut placed: Vec<_> = order.concat();
        modules.sort_unstable();
        placed.sort_unstable();
        assert_eq!(placed, modules);
    }
}

#[test]
fn nothing_is_true_of_one_machine_only() {
    let mut found = Vec::new();
    files(&root(), &mut found);
    let text = |it: &PathBuf| Some((relative(it), fs::read_to_string(it).ok()?));
    let texts: Vec<_> = found.iter().filter_map(text).collect();
    none(&texts.iter().flat_map(|(path, text)| local(path, text)).collect::<Vec<_>>());
}

mod planted {
    use super::*;

    #[track_caller]
    fn finds(check: fn(&Source) -> Vec<String>, path: &str, text: &str, expected: usize) {
        let source = Source { path: path.to_owned(), text: text.to_owned() };
        let found = check(&source);
        assert_eq!(found.len(), expected, "{path}: {text}\n{found:?}");
    }

    #[test]
    fn a_use_of_what_is_below_is_found_in_any_spelling() {
        for (path, text, expected) in [
            ("src/core/jose/key.rs", "use crate::oauth::mtls;", 1),
            ("src/core/jose/key.rs", "fn f(it: &crate::request::Request) {}", 1),
            ("src/core/jose/key.rs", "use crate::{oauth, state};", 1),
            ("src/core/jose/key.rs", "use crate::*;", 1),
            ("src/core/jose/key.rs", "pub(in crate::config) fn f() {}", 1),
            ("src/core/jose/key.rs", "use super::super::oauth;", 1),
            ("src/core/jose/mod.rs", "use super::oauth;", 1),
            ("src/core/check/mod.rs", "use super::answer;", 1),
            ("src/core/denial.rs", "use crate::request::Request;", 1),
            ("src/unheard_of.rs", "", 1),
            ("src/core/jose/key.rs", "use crate::jose::jwk;\nuse super::jwk;", 0),
            ("src/core/jose/key.rs", "//! See [`crate::oauth`].\n/// And [`crate::check`].", 0),
            ("src/gate.rs", "use crate::state;\n#[cfg(test)]\nmod tests {\nuse super::*;", 0),
            ("src/core/oauth/mtls.rs", "use mycrate::state;", 0),
        ] {
            finds(out_of_order, path, text, expected);
        }
    }

    #[test]
    fn a_check_that_goes_on_behind_a_refusal_is_found() {
        for (path, text, expected) in [
            ("src/gate.rs", "let it = diagnose(rules, sources, request, now, verdict);", 1),
            ("src/core/check/token.rs", "let claims = jws.claims_of_anybody();", 1),
            ("src/core/check/mod.rs", "AccessToken::read_on(parts, issuer, paths, beside)", 1),
            ("src/core/check/diagnosis.rs", "AccessToken::read_on(parts)", 0),
            ("src/explain/mod.rs", "diagnose(rules)", 0),
        ] {
            finds(reading_on, path, text, expected);
        }
    }

    #[test]
    fn what_is_unsafe_in_the_wrong_place_or_for_no_reason_is_found() {
        for (path, text, expected) in [
            ("src/envoy/stream.rs", "unsafe { f() }", 1),
            ("src/gate.rs", "#[expect(unsafe_code)]", 1),
            ("src/gate.rs", "// unsafe { f() }", 0),
            (UNSAFE, "unsafe { f() }", 1),
            (UNSAFE, "// SAFETY: it holds.\nlet it = unsafe { f() };", 0),
            (UNSAFE, "// SAFETY: it holds.\na();\nb();\nc();\nd();\ne();\nunsafe { f() }", 1),
        ] {
            finds(unsafe_code, path, text, expected);
        }
    }

    #[test]
    fn cryptography_in_the_wrong_place_is_found() {
        for (path, text, expected) in [
            ("src/core/oauth/mtls.rs", "use aws_lc_rs::constant_time;", 1),
            ("src/core/uri.rs", "let it = aws_lc_rs::digest::digest(x);", 1),
            ("src/core/jose/key.rs", "use aws_lc_rs::signature;", 0),
            (
                "src/server/tls.rs",
                "use rustls::crypto::aws_lc_rs;\naws_lc_rs::default_provider();",
                0,
            ),
        ] {
            finds(uncalled_for_cryptography, path, text, expected);
        }
    }

    #[test]
    fn json_that_is_read_laxly_is_found() {
        for (path, text, expected) in [
            ("src/state/http.rs", "let it: Value = serde_json::from_slice(x)?;", 1),
            ("src/state/http.rs", "let it = serde_json::from_str::<It>(x);", 1),
            ("src/state/http.rs", "use serde_json::from_value;\nlet it = from_value(x);", 1),
            ("src/core/jose/json.rs", "serde_json::from_slice(x)", 0),
            ("src/state/http.rs", "json::object_of(x)", 0),
            ("src/state/http.rs", "#[cfg(test)]\nmod tests {\nserde_json::from_slice(x)", 0),
        ] {
            finds(lax_json, path, text, expected);
        }
    }

    #[test]
    fn a_file_that_is_long_or_silent_is_found() {
        let long = |lines: usize| "//! Knows.\n".to_owned() + &"\n".repeat(lines - 1);
        finds(unreadable, "src/core/uri.rs", &long(LONGEST), 0);
        finds(unreadable, "src/core/uri.rs", &long(LONGEST + 1), 1);
        finds(unreadable, "src/core/uri.rs", "use std::fs;\n", 1);
        let tested = long(LONGEST) + "#[cfg(test)]\nmod tests {\n" + &long(LONGEST);
        finds(unreadable, "src/core/uri.rs", &tested, 0);
    }

    #[test]
    fn what_is_true_of_one_machine_is_found() {
        let path = ["/ho", "me/somebody/keybound"].concat();
        assert_eq!(local("README.md", &path).len(), 1);
        let host = ["https://registry.npm", "js.org/x"].concat();
        assert_eq!(local("tests/provision.py", &host).len(), 1);
        let lock = "source = \"registry+https://crates.example.com/index\"\n";
        assert_eq!(local("Cargo.lock", lock).len(), 1);
        assert_eq!(local("README.md", "/etc/keybound/keybound.yaml").len(), 0);
    }
}
