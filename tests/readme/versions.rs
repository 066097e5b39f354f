//! The promise of docs/versions.md: a configuration of the version before loads, or the error says what to
//! write instead.

use super::root;
use keybound::commands::demo::pki::Authority;
use std::fs;
use std::path::Path;
use std::process::Command;

/// The first line of a file that no longer loads: what its error says.
const NOW: &str = "# now: ";

/// What the files name.
fn lay_files(folder: &Path) {
    let authority = Authority::new("test authority").unwrap();
    let server = authority.server(&["keybound.example.com"]).unwrap();
    let key = r#"{"keys": [{"kty": "OKP", "crv": "Ed25519",
        "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#;
    for (name, text) in [
        ("tls.pem", &*server.certificate_pem()),
        ("tls-key.pem", &*server.key_pem()),
        ("jwks.json", key),
        ("secret", "0123456789abcdef0123456789abcdef"),
        ("nonce-secret", "0123456789abcdef0123456789abcdef"),
        ("redis-url", "rediss://user:password@redis.example.com:6379"),
        ("headers", "api-key: 0123456789abcdef"),
    ] {
        fs::write(folder.join(name), text).unwrap();
    }
}

/// What is wrong with `file` by the program as it is.
fn complaint(file: &Path) -> Option<String> {
    let text = fs::read_to_string(file).unwrap();
    let folder = tempfile::tempdir().unwrap();
    lay_files(folder.path());
    let configuration = folder.path().join("keybound.yaml");
    fs::write(&configuration, &text).unwrap();
    let mut check = Command::new(env!("CARGO_BIN_EXE_keybound"));
    let output = check.arg("check-config").arg(configuration).output().unwrap();
    let problems = String::from_utf8_lossy(&output.stderr).into_owned();
    let fails = match text.lines().next().and_then(|it| it.strip_prefix(NOW)) {
        Some(told) => output.status.success() || !problems.contains(told),
        None => !output.status.success(),
    };
    fails.then(|| format!("{}:\n{problems}", file.display()))
}

#[test]
fn a_configuration_of_an_earlier_version_loads_or_the_error_says_what_to_write_instead() {
    let mut complaints = vec![];
    let mut judged = 0;
    for version in fs::read_dir(root().join("tests/versions")).unwrap() {
        for file in fs::read_dir(version.unwrap().path()).unwrap() {
            complaints.extend(complaint(&file.unwrap().path()));
            judged += 1;
        }
    }
    assert!(4 <= judged, "{judged} files");
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
}
