//! What `init` writes for Keycloak.

use super::keycloak::{Asking, Keycloak};
use super::realm::{ELSEWHERE_CLIENT, SOLE_CLIENT};
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

fn run(directory: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_keybound"));
    command.args(arguments).current_dir(directory).output().unwrap()
}
