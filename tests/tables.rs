//! Each configuration in `deploy/` and `docs/` has a table of tests, and decides what that says.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test may panic"
)]

use serde_json::Value;
use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

fn root(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn text(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Runs `table` under this configuration, and finds that each test and each policy is as it must be.
#[track_caller]
fn holds(table: &Path, configuration: &str) {
    let mut keybound = Command::new(env!("CARGO_BIN_EXE_keybound"))
        .args(["test", "--json", "--config", "-"])
        .arg(table)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    keybound.stdin.take().unwrap().write_all(configuration.as_bytes()).unwrap();
    let output = keybound.wait_with_output().unwrap();
    let shown = table.display();
    let found: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert!(output.status.success(), "{shown}: {found:#}\n{configuration}");
    assert!(1 < found["tables"][0]["tests"].as_array().unwrap().len(), "{shown} tests little");
    assert_eq!(found["tables"][0]["untested_policies"], serde_json::json!([]), "{shown}");
}

/// The files below `folder` for which `wanted` holds.
fn files(folder: &Path, wanted: &dyn Fn(&str) -> bool) -> Vec<PathBuf> {
    let mut found = vec![];
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(files(&path, wanted));
        } else if wanted(path.file_name().unwrap().to_str().unwrap()) {
            found.push(path);
        }
    }
    found
}

/// The table beside `file`.
fn beside(file: &Path) -> PathBuf {
    file.with_extension("test.yaml")
}

/// What stands below `config:` in the values of the chart.
fn of_values(text: &str) -> String {
    let lines = text.lines().skip_while(|it| *it != "config:").skip(1);
    let lines = lines.take_while(|it| it.is_empty() || it.starts_with(' '));
    lines.map(|it| it.strip_prefix("  ").unwrap_or(it).to_owned() + "\n").collect()
}

#[test]
fn every_configuration_to_deploy_decides_what_its_table_says() {
    let configurations = files(&root("deploy"), &|it| it == "keybound.yaml");
    assert!(9 <= configurations.len());
    for file in &configurations {
        let table = beside(file);
        holds(&table, &text(file));
        // As its user runs it.
        let line = Command::new(env!("CARGO_BIN_EXE_keybound")).arg("test").arg(&table).output();
        assert!(line.unwrap().status.success(), "{}", table.display());
    }
    let tables = files(&root("deploy"), &|it| it == "keybound.test.yaml");
    assert_eq!(tables.len(), configurations.len());
}

#[test]
fn all_values_to_deploy_decide_what_their_tables_say() {
    let values = files(&root("deploy"), &|it| it == "keybound-values.yaml");
    assert!(4 <= values.len());
    for file in values {
        holds(&beside(&file), &of_values(&text(&file)));
    }
    for file in files(&root("deploy/helm/keybound/ci"), &|_| true) {
        let name = file.file_name().unwrap().to_str().unwrap().replace("-values", "");
        let table = root("tests/tables/chart").join(name);
        holds(&table, &of_values(&text(&file)));
    }
}

#[test]
fn the_table_that_the_page_on_tests_shows_is_one() {
    let page = text(&root("docs/testing.md"));
    let table = page.split("```yaml\n").nth(1).unwrap().split("```").next().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("table.yaml");
    fs::write(&file, table).unwrap();
    let policies =
        "policies: [{name: payments, sender_constraint: certificate, scopes: [payments]}]\n";
    holds(&file, &whole(policies));
}

#[test]
fn tokens_and_proofs_by_ml_dsa_are_made_where_the_configuration_accepts_them() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("table.yaml");
    let table = "\
tests:
  - name: by the key of the issuer, as without a word of it
    request: GET https://api.example.com/a
    certificate: client
    token: {bound_to: {certificate: client}}
    expect: {policy: api, reason: allowed}
  - name: with a proof
    request: GET https://api.example.com/a
    token: {bound_to: {dpop_key: client}, header: {alg: ML-DSA-65}}
    proof: {}
    expect: {policy: api, reason: allowed}
  - name: by the key of somebody else
    request: GET https://api.example.com/a
    token: {bound_to: {certificate: client}, header: {alg: ML-DSA-87}, signed_by: forger}
    expect: {policy: api, reason: token_signature_invalid}
  - name: by an algorithm that is not accepted
    request: GET https://api.example.com/a
    token: {header: {alg: ML-DSA-44}}
    expect: {policy: api, reason: token_algorithm_forbidden}
";
    fs::write(&file, table).unwrap();
    let configuration = "\
issuers: [{issuer: https://as.example.com, audiences: [a], algorithms: [ML-DSA-65, ML-DSA-87]}]
dpop: {algorithms: [ML-DSA-44]}
policies: [{name: api, sender_constraint: either}]
";
    holds(&file, configuration);
}

/// The configurations in a page: blocks of YAML that have issuers or policies at the top.
fn configurations(page: &str) -> impl Iterator<Item = &str> {
    let blocks = page.split("```yaml\n").skip(1).filter_map(|it| it.split("```").next());
    blocks.filter(|it| has(it, "issuers") || has(it, "policies"))
}

fn has(configuration: &str, key: &str) -> bool {
    configuration.lines().any(|it| it.starts_with(&format!("{key}:")))
}

/// A configuration of a page, with what the page leaves out.
fn whole(configuration: &str) -> String {
    let mut whole = configuration.to_owned();
    for (key, usual) in [
        (
            "issuers",
            "issuers: [{issuer: https://as.example.com, audiences: [https://api.example.com]}]",
        ),
        ("policies", "policies: [{name: api, sender_constraint: if_bound}]"),
    ] {
        if !has(configuration, key) {
            whole = whole + usual + "\n";
        }
    }
    whole
}

/// The table for a configuration of a page: named by the page and the first policy.
fn table(page: &Path, configuration: &str) -> PathBuf {
    let mut policies = configuration.lines().skip_while(|it| !it.starts_with("policies:"));
    let first = policies.find_map(|it| it.trim().strip_prefix("- name: "));
    let Some(policy) = first.and_then(|it| it.split(' ').next()) else {
        return root("tests/tables/issuer.yaml");
    };
    let page = page.file_stem().unwrap().to_str().unwrap();
    root("tests/tables/docs").join(format!("{page}.{policy}.yaml"))
}

#[test]
fn every_configuration_in_the_pages_decides_what_its_table_says() {
    let mut unused = files(&root("tests/tables/docs"), &|_| true);
    let mut issuers = 0;
    for page in files(&root("docs"), &|_| true) {
        let text = text(&page);
        for configuration in configurations(&text) {
            let table = table(&page, configuration);
            holds(&table, &whole(configuration));
            issuers += usize::from(table.ends_with("issuer.yaml"));
            unused.retain(|it| *it != table);
        }
    }
    assert!(20 < issuers);
    assert_eq!(unused, Vec::<PathBuf>::new());
}

const CONFIGURATION: &str = "
listen: {tls: {certificate_file: not-here.crt, key_file: not-here.key}}
issuers:
  - issuer: https://as.example.com
    audiences: [https://api.example.com]
    algorithms: [ES256, PS256]
    ca_file: not-here.pem
    keys: {jwks_file: not-here.json}
    introspection: {endpoint: https://as.example.com/introspect, client_id: gateway, client_secret_file: not-here}
dpop: {nonce: required, nonce_secret_file: not-here, replay: {store: redis, url_file: not-here}}
policies:
  - name: trial
    match: {path_prefix: /trial}
    sender_constraint: certificate
    mode: report
  - name: api
    sender_constraint: either
";

/// The exit code, the output and the diagnostics of `test` on a table with these lines.
fn tested(lines: &str) -> (Option<i32>, String, String) {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("keybound.yaml"), CONFIGURATION).unwrap();
    let table = folder.path().join("table.yaml");
    fs::write(&table, lines).unwrap();
    let mut keybound = Command::new(env!("CARGO_BIN_EXE_keybound"));
    let output = keybound.current_dir(&folder).args(["test", "table.yaml"]).output().unwrap();
    let text = |it| String::from_utf8(it).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

/// A test of a GET of the API with these lines.
fn test(lines: &str, expected: &str) -> String {
    let lines: String = lines.lines().flat_map(|it| ["    ", it, "\n"]).collect();
    format!(
        "config: keybound.yaml\ntests:\n  - name: it\n    request: GET https://api.example.com/a\n{lines}    \
         expect: {expected}\n"
    )
}

#[test]
fn each_part_of_a_request_is_made_as_the_table_says() {
    let bound = "token: {bound_to: {certificate: a}}";
    let key = "token: {bound_to: {dpop_key: a}}";
    for (lines, reason) in [
        (format!("certificate: a\n{bound}"), "allowed"),
        (format!("certificate: b\n{bound}"), "certificate_mismatch"),
        (format!("{key}\nproof: {{nonce: true}}"), "allowed"),
        (format!("{key}\nproof: {{}}"), "nonce_required"),
        (format!("{key}\nproof: {{nonce: true, replayed: true}}"), "proof_replayed"),
        (format!("{key}\nproof: {{nonce: true, age: 5m}}"), "proof_stale"),
        (format!("{key}\nproof: {{nonce: true, without: [ath]}}"), "proof_malformed"),
        (format!("{key}\nproof: {{nonce: true, claims: {{htm: PUT}}}}"), "proof_method_mismatch"),
        (format!("{key}\nproof: {{nonce: true, header: {{typ: jwt}}}}"), "proof_malformed"),
        (format!("{key}\nproof: {{nonce: true, key: b}}"), "proof_key_mismatch"),
        ("token: {bound_to: {dpop_key: a}, scheme: Bearer}".to_owned(), "scheme_mismatch"),
        ("token: {header: {alg: PS256}}".to_owned(), "binding_missing"),
        ("token: {header: {alg: RS256}}".to_owned(), "token_algorithm_forbidden"),
        ("token: {header: {alg: none}}".to_owned(), "token_algorithm_forbidden"),
        ("token: {header: {typ: JWT}}".to_owned(), "token_type_wrong"),
        ("token: {without: [aud]}".to_owned(), "token_claim_missing"),
        ("token: {claims: {aud: b}}".to_owned(), "token_audience_mismatch"),
        ("token: {without: [exp]}".to_owned(), "token_claim_missing"),
        ("token: {age: 5m, lifetime: 4m}".to_owned(), "token_expired"),
        ("token: {signed_by: stranger}".to_owned(), "token_key_unknown"),
        ("token: {signed_by: forger}".to_owned(), "token_signature_invalid"),
        ("token: {opaque: true, bound_to: {certificate: a}}\ncertificate: a".to_owned(), "allowed"),
        ("token: {opaque: true, active: false}".to_owned(), "token_inactive"),
        ("headers: {authorization: Basic eA==}".to_owned(), "scheme_unsupported"),
        (String::new(), "credentials_missing"),
    ] {
        let (code, out, err) = tested(&test(&lines, &format!("{{policy: api, reason: {reason}}}")));
        assert_eq!(code, Some(0), "{lines}: {out}{err}");
        assert_eq!(err, "");
    }
}

#[test]
fn a_reason_is_compared_even_where_the_policy_only_reports_it() {
    let trial = |expected| test("", expected).replace("com/a", "com/trial");
    for (expected, code) in [
        ("{policy: trial, reason: credentials_missing}", 0),
        ("{policy: trial, reason: credentials_missing, decision: allow}", 0),
        ("{policy: trial, reason: credentials_missing, decision: deny}", 1),
        ("{policy: trial, reason: allowed}", 1),
    ] {
        assert_eq!(tested(&trial(expected)).0, Some(code), "{expected}");
    }
}

#[test]
fn what_is_not_as_expected_is_told_with_all_steps_of_the_check() {
    let lines = "certificate: b\ntoken: {bound_to: {certificate: a}}";
    let (code, out, err) = tested(&test(lines, "{policy: api, reason: allowed}"));
    assert_eq!((code, &*err), (Some(1), ""));
    for line in [
        "✗ it",
        "    expected api, allowed",
        "    got      api, certificate_mismatch",
        "    | ✗ denied with status 401: certificate_mismatch",
        "note: no test gets the policies trial",
        "0 of 1 as expected",
    ] {
        assert!(out.lines().any(|it| it == line), "{line}: {out}");
    }
}

#[test]
fn what_cannot_be_meant_is_told_with_its_line() {
    let good = test("", "{policy: api, reason: credentials_missing}");
    assert_eq!(tested(&good).0, Some(0));
    for (from, to, told) in [
        ("credentials_missing", "credential_missing", "table.yaml:3: tests[0].expect.reason: "),
        ("policy: api", "policy: apis", "table.yaml:3: tests[0].expect.policy: "),
        ("policy: api", "polcy: api", "table.yaml:5: tests[0].expect.polcy: unknown key: did you"),
        ("    request:", "    requests:", "table.yaml:4: tests[0].requests: unknown key"),
        ("config: keybound.yaml", "at: noon", "table.yaml: names no configuration: write `config"),
        ("keybound.yaml", "nothing.yaml", "nothing.yaml: No such file"),
        ("keybound.yaml", "table.yaml", "table.yaml:1: config: unknown key"),
        ("tests:", "at: noon\ntests:", "table.yaml: at: a time is expected"),
        ("GET https", "https", "a method and a URL are expected"),
        ("GET https://", "GET ", "the URL has no scheme"),
    ] {
        let (code, out, err) = tested(&good.replace(from, to));
        assert_eq!((code, &*out), (Some(1), ""), "{to}");
        assert!(err.contains(told), "{told}: {err}");
    }
    let empty = "config: keybound.yaml\ntests: []\n";
    assert!(tested(empty).2.contains("tests: there are none"));
    let twice = good.clone() + good.split("tests:\n").nth(1).unwrap();
    assert!(tested(&twice).2.contains("tests[1].name: another test has this name"));
}
