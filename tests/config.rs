//! The commands about the configuration file, as a shell sees them.

#![expect(clippy::unwrap_used, reason = "a test may panic")]

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};

/// The documented configuration.
const FULL: &str = "\
listen:
  ext_authz: 127.0.0.1:9001
  admin: 127.0.0.1:9003
  tls: {certificate_file: tls.pem, key_file: tls-key.pem, client_ca_file: tls.pem, client_names: ['spiffe://example.com/envoy', Envoy.example.com]}

issuers:
  - issuer: https://as.example.com
    audiences: [https://api.example.com]
    algorithms: [ES256, PS256, EdDSA]
    token_types: [at+jwt]
    clock_leeway: 30s
    keys:
      jwks_file: jwks.json
  - issuer: https://other.example.com
    audiences: [https://api.example.com]
    keys: {discovery: true}
    ca_file: tls.pem

client_certificate:
  source: header
  header: {name: client-cert, format: rfc9440}

policies:
  - name: payments
    match: {hosts: [api.example.com], path_prefix: /payments, methods: [GET, POST]}
    sender_constraint: certificate
    issuers: [https://as.example.com]
    scopes: [payments]
    claims: {acr: [urn:example:loa3]}
    authentication: {acr: [phr], max_age: 5m}
    streams: end_with_token
    mode: enforce
  - name: docs
    match: {path_prefix: /docs}
    sender_constraint: none

limits: {token_bytes: 16384, check_deadline: 150ms, concurrent_checks: 10000}

upstream:
  authorization: keep
  headers: {x-auth-subject: sub, x-auth-client-id: client_id, x-auth-scope: scope, x-auth-issuer: iss}
  remove: []
";

const JWKS: &str = r#"{"keys": [{"kty": "OKP", "crv": "Ed25519",
    "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#;

fn keybound(folder: &Path, arguments: &[&str]) -> (i32, String, String) {
    let program = env!("CARGO_BIN_EXE_keybound");
    let Output { status, stdout, stderr } =
        Command::new(program).args(arguments).current_dir(folder).output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code().unwrap(), text(stdout), text(stderr))
}

fn folder_with(text: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o700)).unwrap();
    fs::write(folder.path().join("keybound.yaml"), text).unwrap();
    fs::write(folder.path().join("jwks.json"), JWKS).unwrap();
    let made = rcgen::generate_simple_self_signed(["keybound.example.com".to_owned()]).unwrap();
    fs::write(folder.path().join("tls.pem"), made.cert.pem()).unwrap();
    fs::write(folder.path().join("tls-key.pem"), made.signing_key.serialize_pem()).unwrap();
    folder
}

#[test]
fn a_good_file_is_summed_up_and_warned_of() {
    let folder = folder_with(FULL);
    let (code, stdout, stderr) = keybound(folder.path(), &["check-config", "keybound.yaml"]);
    assert_eq!(code, 0, "{stderr}");
    let warning = "keybound.yaml:35: warning: policies[1].sender_constraint: no proof of \
                   possession is required: anybody who holds a token can use it, even a bound \
                   one\n";
    assert_eq!(stderr, warning);
    let line = |begins: &str| {
        let line = stdout.lines().find(|it| it.starts_with(begins));
        line.unwrap_or_default().split_whitespace().collect::<Vec<_>>().join(" ")
    };
    assert_eq!(
        line("ext_authz"),
        "ext_authz 127.0.0.1:9001, mutual TLS for spiffe://example.com/envoy, envoy.example.com"
    );
    assert_eq!(line("admin"), "admin 127.0.0.1:9003");
    assert_eq!(
        line("DPoP"),
        "DPoP proofs ES256 PS256 RS256 EdDSA Ed25519, within 60s, no nonce, up to 1000000 recorded in memory, \
         50000 of one client"
    );
    assert_eq!(line("client cert"), "client certificate header client-cert (rfc9440)");
    assert_eq!(
        line("https://as"),
        "https://as.example.com https://api.example.com ES256 PS256 EdDSA at+jwt 30s jwks.json -"
    );
    assert_eq!(
        line("payments"),
        "payments GET|POST api.example.com /payments certificate https://as.example.com payments \
         acr = \"urn:example:loa3\" phr, at most 300s ago enforce"
    );
    assert_eq!(line("docs"), "docs /docs none all - - - enforce");
    assert_eq!(line("payments: "), "payments: streams end with their token");
    assert_eq!(line("docs: "), "");
}

#[test]
fn the_time_that_counts_of_a_proof_is_summed_up() {
    let dpop = "dpop: {nonce: required, time: nonce}\n";
    let folder = folder_with(&format!("{FULL}{dpop}"));
    let (code, stdout, stderr) = keybound(folder.path(), &["check-config", "keybound.yaml"]);
    assert_eq!(code, 0, "{stderr}");
    assert!(stdout.contains(", as long as their nonce, nonce required, "), "{stdout}");
}

#[test]
fn keys_of_a_file_that_cannot_be_used_are_named() {
    let ed25519 =
        r#"{"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}"#;
    let enc = ed25519.replace('{', r#"{"use": "enc", "kid": "for-encryption", "#);
    let x25519 = ed25519.replace("Ed25519", "X25519").replace('{', r#"{"kid": "exchange", "#);
    for (keys, code, warned, listed) in [
        (format!("{ed25519}, {enc}"), 0, None, Some("for-encryption")),
        (format!("{ed25519}, {x25519}"), 0, Some("exchange"), Some("exchange")),
        (enc, 1, Some("for-encryption"), None),
        (ed25519.to_owned(), 0, None, None),
    ] {
        let folder = folder_with(FULL);
        fs::write(folder.path().join("jwks.json"), format!("{{\"keys\": [{keys}]}}")).unwrap();
        let (found, stdout, stderr) = keybound(folder.path(), &["check-config", "keybound.yaml"]);
        assert_eq!(found, code, "{stderr}");
        let line = |text: &str, kid: &str| {
            text.lines().any(|it| it.contains(&format!("\"{kid}\" (OKP, ")) && it.contains("its "))
        };
        assert_eq!(stderr.contains("skipped") || stderr.contains("no key"), warned.is_some());
        assert!(warned.is_none_or(|it| line(&stderr, it)), "{stderr}");
        assert_eq!(stdout.contains("skipped"), listed.is_some(), "{stdout}");
        assert!(listed.is_none_or(|it| line(&stdout, it)), "{stdout}");
    }
}

#[test]
fn what_a_provider_gives_is_told_and_what_is_written_instead() {
    let text = |more: &str| {
        format!(
            "issuers: [{{issuer: 'https://as.example.com', audiences: [a], keys: {{jwks_file: \
             jwks.json}}{more}}}]\npolicies: [{{name: p, sender_constraint: certificate}}]\n"
        )
    };
    for (more, told) in [
        ("", &[][..]),
        (
            ", provider: keycloak",
            &["provider keycloak: token_types: at+jwt jwt; claim typ Bearer or DPoP"],
        ),
        (
            ", provider: okta, token_types: [at+jwt]",
            &[
                "provider okta: algorithms: RS256; claim_names.client_id: client_id cid; \
                 claim_names.scope: scope scp; claim client_id there",
                "claim_names.client_id client_id cid",
                "claim_names.scope scope scp",
            ],
        ),
        (
            ", provider: google",
            &["provider google: algorithms: RS256; token_types: jwt; claim at_hash as it may be; \
               claim c_hash as it may be"],
        ),
        (
            ", audience_claim: client_id, allow_missing_audience: true",
            &["audience_claim client_id", "allow_missing_audience true"],
        ),
    ] {
        let folder = folder_with(&text(more));
        let (code, stdout, stderr) = keybound(folder.path(), &["check-config", "keybound.yaml"]);
        assert_eq!(code, 0, "{stderr}");
        let lines = stdout.lines().filter_map(|it| it.strip_prefix("https://as.example.com: "));
        assert_eq!(lines.collect::<Vec<_>>(), told, "{more}");
    }
}

#[test]
fn files_that_others_may_use_are_named() {
    let folder = folder_with(FULL);
    let mode = |name: &str, mode| {
        fs::set_permissions(folder.path().join(name), fs::Permissions::from_mode(mode)).unwrap();
    };
    let warned = || {
        let (code, _, stderr) = keybound(folder.path(), &["check-config", "keybound.yaml"]);
        assert_eq!(code, 0, "{stderr}");
        let lines = stderr.lines().filter_map(|it| it.split_once("chmod "));
        let named = ["keybound.yaml", "jwks.json", "tls.pem", "tls-key.pem"];
        let of = |line: &str| named.into_iter().find(|it| line.contains(&format!("{it} ")));
        lines.map(|(line, advice)| (of(line).unwrap(), advice.to_owned())).collect::<Vec<_>>()
    };
    for name in ["keybound.yaml", "jwks.json", "tls.pem", "tls-key.pem"] {
        mode(name, 0o666);
    }
    assert_eq!(warned(), [], "nobody else may enter the folder");
    mode(".", 0o755);
    if warned().is_empty() {
        return; // Nor a folder above it, here.
    }
    let all = ["jwks.json", "keybound.yaml", "tls-key.pem", "tls.pem"];
    assert_eq!(warned(), all.map(|it| (it, "o-w".to_owned())));
    for name in all {
        mode(name, 0o644);
    }
    assert_eq!(warned(), [("tls-key.pem", "o-r".to_owned())]);
    mode("tls-key.pem", 0o640);
    assert_eq!(warned(), []);
}

#[test]
fn a_policy_that_routes_may_name_is_summed_up_as_such() {
    let folder = folder_with(
        &FULL.replace("- name: docs\n", "- name: docs\n    allow_route_annotation: true\n"),
    );
    let (code, stdout, stderr) = keybound(folder.path(), &["check-config", "keybound.yaml"]);
    assert_eq!(code, 0, "{stderr}");
    let told: Vec<_> =
        stdout.lines().filter(|it| it.contains(", or a route's annotation")).collect();
    assert!(matches!(*told, [docs] if docs.starts_with("docs ")), "{stdout}");
}

#[test]
fn what_the_upstream_gets_to_see_is_summed_up() {
    let headers = "{x-auth-subject: sub, x-auth-groups: {claim: groups, format: json}}";
    let upstream = format!("\nupstream:\n  headers: {headers}\n  remove: [dpop, x-auth-*]\n");
    let (head, _) = FULL.split_once("\nupstream:").unwrap();
    let folder = folder_with(&(head.to_owned() + &upstream));
    let (code, stdout, stderr) = keybound(folder.path(), &["check-config", "keybound.yaml"]);
    assert_eq!(code, 0, "{stderr}");
    let line = "upstream            authorization kept; x-auth-groups = groups as JSON; \
                x-auth-subject = sub; no dpop; no x-auth-*";
    assert!(stdout.lines().any(|it| it == line), "{stdout}");
}

#[test]
fn every_problem_of_a_bad_file_is_told_with_its_place() {
    let text = FULL
        .replace("certificate\n", "certificat\n")
        .replace("audiences: [https://api.example.com]\n    keys", "audiences: []\n    keys")
        .replace("check_deadline: 150ms", "check_deadline: 150");
    let folder = folder_with(&text);
    let (code, stdout, stderr) = keybound(folder.path(), &["check-config", "keybound.yaml"]);
    assert_eq!((code, stdout.as_str()), (1, ""));
    let places: Vec<Vec<_>> =
        stderr.lines().map(|it| it.splitn(4, ':').take(3).collect()).collect();
    let expected: [Vec<_>; 3] = [
        vec!["keybound.yaml", "15", " issuers[1].audiences"],
        vec!["keybound.yaml", "26", " policies[0].sender_constraint"],
        vec!["keybound.yaml", "37", " limits.check_deadline"],
    ];
    assert_eq!(places, expected, "{stderr}");
}

#[test]
fn a_file_that_cannot_be_read_is_a_bad_file() {
    let folder = folder_with("");
    fs::write(folder.path().join("latin1.yaml"), b"listen: {}\n# caf\xe9\n").unwrap();
    fs::write(folder.path().join("null.yaml"), "null\n").unwrap();
    for (name, message) in [
        ("keybound.yaml", "keybound.yaml:1: the file is empty"),
        ("null.yaml", "null.yaml:1: the file is empty"),
        ("missing.yaml", "missing.yaml: cannot read missing.yaml"),
        (".", ".: cannot read .: it is not a regular file"),
        ("latin1.yaml", "latin1.yaml:2: the file is not UTF-8"),
    ] {
        let (code, stdout, stderr) = keybound(folder.path(), &["check-config", name]);
        assert_eq!((code, stdout.as_str()), (1, ""), "{name}");
        assert!(stderr.starts_with(message) && stderr.lines().count() == 1, "{stderr}");
    }
}

#[test]
fn the_schema_is_printed() {
    let folder = tempfile::tempdir().unwrap();
    let (code, stdout, stderr) = keybound(folder.path(), &["schema"]);
    assert_eq!((code, stderr.as_str()), (0, ""));
    let schema: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(schema["$schema"], "https://json-schema.org/draft/2020-12/schema");
    assert_eq!(schema, keybound::config::schema());
    let (code, stdout, stderr) = keybound(folder.path(), &["schema", "--tests"]);
    assert_eq!((code, stderr.as_str()), (0, ""));
    let schema: serde_json::Value = serde_json::from_str(&stdout).unwrap();
    assert_eq!(schema["required"], serde_json::json!(["tests"]));
    assert!(schema["properties"]["at"].is_object(), "{schema}");
}

#[test]
fn wrong_usage_exits_2() {
    let folder = tempfile::tempdir().unwrap();
    for arguments in [&[][..], &["check-config"], &["check"], &["schema", "x"], &["--x"]] {
        let (code, stdout, stderr) = keybound(folder.path(), arguments);
        assert_eq!((code, stdout.as_str()), (2, ""), "{arguments:?}");
        assert!(stderr.contains("Usage"), "{stderr}");
    }
}

/// The exit code of a command that gets the configuration from standard input, and what it told.
fn piped(arguments: &[&str], variable: Option<&str>, input: &str) -> (i32, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_keybound"));
    let command = command.args(arguments).env_remove("KEYBOUND_CONFIG");
    let command = command.envs(variable.map(|it| ("KEYBOUND_CONFIG", it)));
    let piped = || std::process::Stdio::piped();
    let mut child = command.stdin(piped()).stdout(piped()).stderr(piped()).spawn().unwrap();
    // What does not read it has ended before.
    drop(child.stdin.take().unwrap().write_all(input.as_bytes()));
    let Output { status, stdout, stderr } = child.wait_with_output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code().unwrap(), text(stdout), text(stderr))
}

const SMALL: &str = "\
issuers: [{issuer: https://as.example.com, audiences: [https://api.example.com]}]
policies: [{name: api, sender_constraint: certificate}]
";

#[test]
fn all_commands_take_the_configuration_in_the_same_ways() {
    let folder = folder_with(SMALL);
    let file = folder.path().join("keybound.yaml").display().to_string();
    let url = "https://api.example.com/";
    let missing = "/nonexistent/keybound.yaml";
    for (arguments, variable, code) in [
        (&["check-config", &*file][..], None, 0),
        (&["check-config", "-"], None, 0),
        (&["check-config", "--config", &*file], None, 0),
        (&["check-config", "--config", "-"], None, 0),
        (&["check-config"], Some(&*file), 0),
        (&["check-config"], Some("-"), 0),
        (&["check-config"], Some(missing), 1),
        (&["check-config", &*file], Some(missing), 0),
        (&["check-config", "--config", &*file], Some(missing), 0),
        (&["check-config", &*file, "--config", &*file], None, 2),
        (&["check-config"], None, 2),
        (&["explain", "--config", &*file, url], None, 3),
        (&["explain", "--config", "-", url], None, 3),
        (&["explain", url], Some(&*file), 3),
        (&["explain", url], Some("-"), 3),
        (&["explain", "--config", &*file, url], Some(missing), 3),
        (&["explain", "--config", "-", "--request", "-"], None, 1),
        (&["explain", url], None, 2),
    ] {
        let (found, stdout, stderr) = piped(arguments, variable, SMALL);
        assert_eq!(found, code, "{arguments:?} {variable:?}: {stdout}{stderr}");
        assert!(!stdout.contains('\u{1b}') && !stderr.contains('\u{1b}'), "there is no terminal");
    }
    let twice = ["explain", "--config", "-", "--request", "-"];
    assert!(
        piped(&twice, None, SMALL).2.contains("standard input can be read for one of them only")
    );
}

#[test]
fn each_shell_has_completions_for_each_command() {
    for shell in ["bash", "zsh", "fish"] {
        let (code, stdout, stderr) = piped(&["completions", shell], None, "");
        assert_eq!((code, &*stderr), (0, ""), "{shell}");
        for word in ["check-config", "explain", "completions", "capture-reasons"] {
            assert!(stdout.contains(word), "{shell}: {word}");
        }
    }
}

#[test]
fn every_configuration_to_deploy_is_valid_and_free_of_warnings() {
    let clouds = [
        "clouds/aws-alb",
        "clouds/aws-alb/passthrough",
        "clouds/aws-cloudfront",
        "clouds/aws-cloudfront/passthrough",
        "clouds/google-cloud",
        "clouds/cloudflare",
        "clouds/azure/application-gateway",
        "clouds/azure/app-service",
        "clouds/azure/api-management",
    ];
    for proxy in ["envoy", "nginx", "traefik", "caddy"].iter().chain(&clouds) {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy").join(proxy);
        let file = file.join("keybound.yaml").display().to_string();
        let folder = tempfile::tempdir().unwrap();
        let (code, stdout, stderr) = keybound(folder.path(), &["check-config", &file]);
        assert_eq!((code, stderr.as_str()), (0, ""), "{proxy}");
        let over_http = ["nginx", "traefik", "caddy"].contains(proxy);
        assert_eq!(stdout.contains("forward_auth"), over_http, "{stdout}");
    }
}
