//! Tokens that the operator revokes while the service runs.

use super::explain::command;
use super::service::{Service, folder, keybound, request};
use super::world::{World, reason, url_encoded};
use envoy_types::pb::envoy::service::auth::v3::CheckRequest;
use prost::Message;
use serde_json::{Value, json};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

const REPLACED: &str = "denylist replaced";
const REFUSED: &str = "denylist refused: keeping the previous one";
const LIST: &str = "revoked.jsonl";
const NOBODY: &str = "{\"sub\":\"nobody\"}\n";

/// A service with a denylist that names nobody who asks.
fn revoking(world: &World) -> Service {
    revoking_with(world, |it| it)
}

fn revoking_with(world: &World, edit: impl FnOnce(String) -> String) -> Service {
    let edit = |folder: &Path, config: String| {
        fs::write(folder.join(LIST), NOBODY).unwrap();
        let jwks_uri = format!("jwks_uri: '{}'", world.provider.jwks_uri());
        let revoking = format!("    revocation: {{denylist_file: {LIST}}}\npolicies:\n");
        edit(config.replace("jwks_file: jwks.json", &jwks_uri).replace("policies:\n", &revoking))
    };
    let mut service = Service::start(edit, &[]);
    service.wait_for("ready");
    service
}

/// With these claims beside the usual ones.
pub(crate) fn asking(world: &World, claims: &Value) -> CheckRequest {
    let certificate = keybound_core::jose::Thumbprint::of(&world.certificate).to_base64url();
    let mut all = json!({"scope": "payments", "cnf": {"x5t#S256": certificate}});
    all.as_object_mut().unwrap().extend(claims.as_object().unwrap().clone());
    let token = world.token_with(&all);
    request(&format!("Bearer {token}"), &url_encoded(&world.certificate))
}

#[test]
fn a_token_that_is_cached_is_refused_as_soon_as_an_entry_names_it() {
    let world = World::new();
    let mut service = revoking(&world);
    let [mine, others] = ["mine", "others"].map(|it| asking(&world, &json!({"jti": it})));
    for _ in 0..2 {
        assert_eq!(reason(&service, mine.clone()), "allowed");
    }
    service.has_metric("keybound_token_cache_hits_total 1");
    let by_denylist =
        "keybound_revocations_total{issuer=\"https://as.example.com\",source=\"denylist\"}";
    service.has_metric(&format!("{by_denylist} 0"));

    service.place(LIST, "{\"sub\":\"nobody\"}\n{\"jti\":\"mine\",\"client_id\":\"client\"}\n");
    assert_eq!(service.wait_for(REPLACED)["entries"], 2);
    assert_eq!(reason(&service, mine.clone()), "token_revoked");
    assert_eq!(reason(&service, others), "allowed");
    service.has_metric(&format!("{by_denylist} 1"));
    service.has_metric("keybound_denylist_entries{issuer=\"https://as.example.com\"} 2");
    let told = command(&service, &["--request", "-"], &mine.encode_to_vec());
    let line = format!("line 2 of {}", service.folder.path().join(LIST).display());
    assert!(told.contains(&format!("{line} names all tokens by jti and client_id")), "{told}");

    service.place(LIST, NOBODY);
    service.wait_for(REPLACED);
    assert_eq!(reason(&service, mine), "allowed");
}

#[test]
fn a_list_with_a_mistake_changes_nothing_later_and_holds_up_no_reload() {
    let world = World::new();
    let mut service = revoking(&world);
    let mine = asking(&world, &json!({"jti": "mine"}));
    service.place(LIST, "{\"jti\":\"mine\"}\n");
    service.wait_for(REPLACED);
    let behind = "keybound_denylist_behind{issuer=\"https://as.example.com\"}";
    service.has_metric(&format!("{behind} 0"));
    service.place(LIST, "{\"jti\":\"another\"}\n{\"jti\":7}\n");
    let problem = service.wait_for(REFUSED)["problem"].clone();
    assert!(problem.as_str().unwrap().contains(", line 2: invalid type"), "{problem}");
    assert_eq!(reason(&service, mine.clone()), "token_revoked");
    service.has_metric(&format!("{behind} 1"));
    let status = service.status()["revocation"][0]["denylist"].clone();
    assert_eq!((&status["is_behind"], &status["entries"]), (&json!(true), &json!(1)));
    assert_eq!(status["last_error"]["what"], problem);

    service.rewrite(|it| it.replace("payments", "ledger"));
    service.wait_for("configuration reloaded");
    assert_eq!(reason(&service, mine.clone()), "token_revoked");
    fs::remove_file(service.folder.path().join(LIST)).unwrap();
    service.wait_for(REFUSED);
    assert_eq!(reason(&service, mine.clone()), "token_revoked");
    service.place(LIST, NOBODY);
    service.wait_for(REPLACED);
    assert_eq!(reason(&service, mine), "allowed");
    service.has_metric(&format!("{behind} 0"));
}

#[test]
fn a_long_list_with_a_mistake_that_holds_up_a_reload_is_read_again_once_it_is_mended() {
    let world = World::new();
    let mut service = revoking(&world);
    let mine = asking(&world, &json!({"jti": "mine"}));
    let long = NOBODY.repeat(70_000);
    service.place("long.jsonl", format!("{long}{{\"jti\":7}}\n"));
    service.rewrite(|it| it.replace(LIST, "long.jsonl"));
    service.wait_for("configuration rejected: keeping the previous one");
    assert_eq!(reason(&service, mine.clone()), "allowed");
    service.place("long.jsonl", format!("{long}{{\"jti\":\"mine\"}}\n"));
    service.wait_for("configuration reloaded");
    assert_eq!(reason(&service, mine), "token_revoked");
}

/// A volume as the kubelet writes it: each file is a link into `..data`, itself a link.
fn volume(folder: &Path, data: &str, list: &str) {
    fs::create_dir(folder.join(data)).unwrap();
    fs::write(folder.join(data).join(LIST), list).unwrap();
    symlink(data, folder.join("..data_tmp")).unwrap();
    fs::rename(folder.join("..data_tmp"), folder.join("..data")).unwrap();
}

#[test]
fn a_list_in_a_config_map_that_is_swapped_is_in_force() {
    let world = World::new();
    let mut service = revoking(&world);
    let folder = service.folder.path().to_owned();
    volume(&folder, "..2026_01", NOBODY);
    symlink(format!("..data/{LIST}"), folder.join("link")).unwrap();
    fs::rename(folder.join("link"), folder.join(LIST)).unwrap();
    service.wait_for(REPLACED);
    volume(&folder, "..2026_02", "revoked: [{jti: mine}]\n");
    fs::remove_dir_all(folder.join("..2026_01")).unwrap();
    service.wait_for(REPLACED);
    assert_eq!(reason(&service, asking(&world, &json!({"jti": "mine"}))), "token_revoked");
}

#[test]
fn an_entry_is_for_the_issuers_that_name_the_file() {
    let world = World::new();
    let mut service = revoking_with(&world, |it| {
        let jwks_uri = world.provider.jwks_uri();
        let another = format!(
            "  - {{issuer: 'https://other.example.com', audiences: ['https://api.example.com'], \
             keys: {{jwks_uri: '{jwks_uri}'}}}}\npolicies:\n"
        );
        it.replace("policies:\n", &another)
    });
    service.place(LIST, "{\"jti\":\"mine\"}\n");
    service.wait_for(REPLACED);
    let of = |iss: &str| asking(&world, &json!({"jti": "mine", "iss": iss}));
    assert_eq!(reason(&service, of("https://as.example.com")), "token_revoked");
    assert_eq!(reason(&service, of("https://other.example.com")), "allowed");
}

#[test]
fn a_policy_that_reports_lets_a_revoked_token_through_and_counts_it() {
    let world = World::new();
    let mut service = revoking_with(&world, |it| {
        it.replace(
            "sender_constraint: certificate",
            "mode: report\n    sender_constraint: certificate",
        )
    });
    service.place(LIST, "{\"sub\":\"somebody\"}\n");
    service.wait_for(REPLACED);
    assert_eq!(reason(&service, asking(&world, &json!({}))), "allowed");
    service.has_metric("keybound_would_deny_total{policy=\"payments\",reason=\"token_revoked\"} 1");
    let by_denylist =
        "keybound_revocations_total{issuer=\"https://as.example.com\",source=\"denylist\"}";
    service.has_metric(&format!("{by_denylist} 1"));
}

#[test]
fn a_list_with_a_mistake_is_an_error_at_the_start_with_file_and_line() {
    for (list, told) in [
        ("{\"jti\":\"a\"}\n{}\n", ", line 2: names no token"),
        ("revoked:\n- {jti: a}\n- {sub: 7}\n", ", line 3: revoked[1].sub: invalid type"),
        ("revoked:\n- {jti: a}\n- [a]\n", ", line 3: revoked[1]: "),
        (
            "revoked:\n- {jti: a}\n- {jtl: a}\n",
            ", line 3: revoked[1].jtl: unknown key: did you mean `jti`?",
        ),
        ("revoked:\n- {jti: a, before: soon}\n", ", line 2: revoked[0].before: "),
        ("revoked:\n- {jti: null}\n", ", line 2: revoked[0].jti: "),
        ("revoked: {jti: a}\n", ", line 1: revoked: "),
        ("denied: []\n", ", line 1: denied: unknown key"),
        ("", ": is empty: write `revoked: []`"),
    ] {
        let (_folder, config) = folder(|folder, config| {
            fs::write(folder.join(LIST), list).unwrap();
            let revoking = format!("    revocation: {{denylist_file: {LIST}}}\npolicies:\n");
            config.replace("policies:\n", &revoking)
        });
        let output = keybound().arg("check-config").arg(&config).output().unwrap();
        let problems = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{list}");
        let place = format!(
            "issuers[0].revocation.denylist_file: {}",
            config.with_file_name(LIST).display()
        );
        assert!(problems.contains(&format!("{place}{told}")), "{list}: {problems}");
    }
}

#[test]
fn a_list_that_is_written_in_place_counts_once_it_stands_still() {
    let world = World::new();
    let mut service = revoking(&world);
    let list = service.folder.path().join(LIST);
    fs::write(&list, "{\"jti\":\"mine\"}\n").unwrap();
    assert_eq!(service.wait_for(REPLACED)["entries"], 1);
    assert_eq!(reason(&service, asking(&world, &json!({"jti": "mine"}))), "token_revoked");
}
