//! What `init` writes for Keycloak.

use super::installation::AUDIENCE;
use super::keycloak::{Asking, Keycloak};
use super::realm::{
    BOUND_AT_JWT_CLIENT, BOUND_CLIENT, ELSEWHERE_CLIENT, NOWHERE_CLIENT, SOLE_CLIENT,
    UNBOUND_CLIENT,
};
use rcgen::KeyPair;
use std::fs;
use std::path::Path;
use std::process::{Command, Output};
use tempfile::TempDir;

const EXPLAINED_DENIAL: i32 = 3;

#[tokio::test]
async fn what_it_writes_passes_the_token_and_no_other() {
    let Some(keycloak) = Keycloak::shared().await else { return };
    let identity = |name| keycloak.authority.client(name, KeyPair::generate().unwrap()).unwrap();
    let (client, thief) = (identity("client"), identity("thief"));
    let directory = TempDir::new().unwrap();
    let file = |name: &str, text: &str| {
        fs::write(directory.path().join(name), text).unwrap();
    };
    file("ca.pem", &keycloak.authority.certificate_pem());
    file("client.pem", &client.certificate_pem());
    file("thief.pem", &thief.certificate_pem());
    for asking in
        [Asking::by(SOLE_CLIENT).with(&client), Asking::by(SOLE_CLIENT).with(&client).for_user()]
    {
        let token = keycloak.token(asking).await;
        file("token", &token);
        let written = run(
            directory.path(),
            &["init", "--issuer", &keycloak.issuer(), "--token", "token", "--ca-file", "ca.pem"],
        );
        assert!(written.status.success(), "{written:?}");
        file("keybound.yaml", &String::from_utf8(written.stdout).unwrap());

        let checked = run(directory.path(), &["check-config", "--online", "keybound.yaml"]);
        assert!(checked.status.success(), "{checked:?}");

        let elsewhere = keycloak.token(Asking::by(ELSEWHERE_CLIENT).with(&client)).await;
        for (token, certificate, expected) in [
            (&token, "client.pem", 0),
            (&token, "thief.pem", EXPLAINED_DENIAL),
            (&elsewhere, "client.pem", EXPLAINED_DENIAL),
        ] {
            let header = format!("Authorization: Bearer {token}");
            let url = "https://api.example.com/";
            let arguments =
                ["explain", "--config", "keybound.yaml", "--cert", certificate, "-H", &header, url];
            let explained = run(directory.path(), &arguments);
            assert_eq!(explained.status.code(), Some(expected), "{certificate}: {explained:?}");
        }
    }
}

/// `init` with `token`; what it wrote is in `keybound.yaml`.
fn init(keycloak: &Keycloak, folder: &TempDir, token: &str) -> (String, String) {
    let folder = folder.path();
    fs::write(folder.join("ca.pem"), keycloak.authority.certificate_pem()).unwrap();
    fs::write(folder.join("token"), token).unwrap();
    let issuer = keycloak.issuer();
    let arguments = ["init", "--issuer", &issuer, "--token", "token", "--ca-file", "ca.pem"];
    let (code, stdout, stderr) = keybound(folder, &arguments);
    assert_eq!(code, 0, "{stderr}");
    fs::write(folder.join("keybound.yaml"), &stdout).unwrap();
    (stdout, stderr)
}

#[tokio::test]
async fn what_it_writes_for_a_bound_token_is_without_warnings() {
    let Some(keycloak) = Keycloak::shared().await else { return };
    let client = keycloak.authority.client("client", KeyPair::generate().unwrap()).unwrap();
    for name in [BOUND_CLIENT, BOUND_AT_JWT_CLIENT] {
        for asking in [Asking::by(name).with(&client), Asking::by(name).with(&client).for_user()] {
            let folder = TempDir::new().unwrap();
            let token = keycloak.token(asking).await;
            let (written, _) = init(keycloak, &folder, &token);
            assert!(written.contains("    provider: keycloak  # "), "{written}");
            assert!(written.contains(&format!("    audiences: [{AUDIENCE}]  # ")), "{written}");
            assert!(written.contains("    sender_constraint: certificate  # "), "{written}");
            let check = ["check-config", "--online", "--strict", "keybound.yaml"];
            let (code, stdout, stderr) = keybound(folder.path(), &check);
            assert_eq!((code, &*stderr), (0, ""), "{stdout}");
        }
    }
}

#[tokio::test]
async fn nothing_is_taken_from_its_other_tokens_and_nothing_is_opened_for_unbound_ones() {
    let Some(keycloak) = Keycloak::shared().await else { return };
    let client = keycloak.authority.client("client", KeyPair::generate().unwrap()).unwrap();
    let answer = keycloak.tokens(Asking::by(BOUND_CLIENT).with(&client).for_user()).await;
    for (kind, told) in [("id_token", "ID token"), ("refresh_token", "algorithm")] {
        let folder = TempDir::new().unwrap();
        let (written, stderr) = init(keycloak, &folder, answer[kind].as_str().unwrap());
        assert!(stderr.contains("nothing was taken") && stderr.contains(told), "{stderr}");
        assert!(written.contains("    # audiences: "), "{written}");
    }
    for (name, audience) in [(UNBOUND_CLIENT, true), (NOWHERE_CLIENT, false)] {
        let folder = TempDir::new().unwrap();
        let token = keycloak.token(Asking::by(name).with(&client)).await;
        let (written, _) = init(keycloak, &folder, &token);
        assert_eq!(written.contains("\n    audiences: "), audience, "{written}");
        let unbound = name == UNBOUND_CLIENT;
        assert_eq!(written.contains("    sender_constraint: either  # "), unbound, "{written}");
    }
}

/// The code, standard output and standard error.
fn keybound(directory: &Path, arguments: &[&str]) -> (i32, String, String) {
    let Output { status, stdout, stderr } = run(directory, arguments);
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (status.code().unwrap(), text(stdout), text(stderr))
}

fn run(directory: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_keybound"));
    command.args(arguments).current_dir(directory).output().unwrap()
}
