//! Status lists by other implementations, served as an issuer serves them, before the real service.

use super::node::{Client, Node};
use super::program::provisioned;
use keybound::commands::demo::service::Service;
use reqwest::StatusCode;
use serde_json::{Value, json};
use std::fs;
use std::path::Path;
use tempfile::TempDir;
use tokio::process::Command;

const AUDIENCE: &str = "https://api.example.com";

/// An issuer by another implementation, and a service that holds its tokens to its lists.
struct World {
    issuer: Client,
    service: Service,
    client: reqwest::Client,
    _folder: TempDir,
}

impl World {
    async fn start(command: Command) -> Self {
        let folder = TempDir::new().unwrap();
        let mut issuer = Client::start(command, folder.path().join("issuer.log"));
        let iss = issuer.said().await["iss"].as_str().unwrap().to_owned();
        let config = json!({
            "listen": {
                "ext_authz": format!("unix:{}", folder.path().join("grpc.sock").display()),
                "forward_auth": "127.0.0.1:0", "admin": "127.0.0.1:0",
            },
            "issuers": [{
                "issuer": iss, "audiences": [AUDIENCE], "keys": {"jwks_uri": format!("{iss}/jwks")},
                "revocation": {"status_list": "required"},
            }],
            // Patient, for slow machines.
            "limits": {"check_deadline": "30s"},
            "policies": [{"name": "all", "sender_constraint": "if_bound"}],
        });
        let path = folder.path().join("keybound.yaml");
        fs::write(&path, config.to_string()).unwrap();
        let binary = Path::new(env!("CARGO_BIN_EXE_keybound"));
        let mut service = Service::start(binary, &path).await.unwrap();
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        service.ready(&client).await.unwrap();
        Self { issuer, service, client, _folder: folder }
    }

    /// Has the issuer publish a list, and returns its URI.
    async fn publish(&mut self, bits: u8, statuses: &[u8]) -> String {
        let path = format!("/statuses/{bits}");
        let list = json!({"list": {"path": path, "bits": bits, "statuses": statuses}});
        self.issuer.ask(&list).await["uri"].as_str().unwrap().to_owned()
    }

    /// The answer about a request with a token whose `status` is this.
    async fn answer(&mut self, status: &Value) -> (StatusCode, String) {
        let claims = json!({"aud": AUDIENCE, "sub": "alice", "client_id": "app", "status": status});
        let token = self.issuer.ask(&json!({"token": claims})).await;
        let answer = self
            .client
            .get(format!("http://{}/", self.service.address("forward_auth").unwrap()))
            .header("host", "api.example.com")
            .header("authorization", format!("Bearer {}", token["token"].as_str().unwrap()))
            .send()
            .await
            .unwrap();
        (answer.status(), format!("{}{}", answer.text().await.unwrap(), self.service.log()))
    }

    /// Holds each status of lists of all widths to what is answered.
    async fn holds_to_its_lists(mut self) {
        for (bits, statuses) in [
            (1, &[0, 1, 0, 0, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 1][..]),
            (2, &[0, 1, 0, 2, 3, 0, 2, 0]),
            (4, &[0, 11, 0, 1, 2, 15, 0, 0]),
            (8, &[0, 255, 0, 1, 2, 128, 0, 0]),
        ] {
            let uri = self.publish(bits, statuses).await;
            for (index, status) in statuses.iter().enumerate() {
                let place = json!({"status_list": {"idx": index, "uri": uri}});
                let (found, body) = self.answer(&place).await;
                let expected = if *status == 0 { StatusCode::OK } else { StatusCode::UNAUTHORIZED };
                assert_eq!(found, expected, "{bits} bits, index {index}, status {status}: {body}");
            }
            let beyond = json!({"status_list": {"idx": statuses.len(), "uri": uri}});
            let found = self.answer(&beyond).await.0;
            assert_eq!(found, StatusCode::SERVICE_UNAVAILABLE, "{bits} bits");
        }
        let missing = self.answer(&json!({})).await.0;
        assert_eq!(missing, StatusCode::UNAUTHORIZED, "a list is required");
    }
}

#[tokio::test]
async fn tokens_are_held_to_lists_by_sd_jwt_js() {
    let Some(node) = Node::provisioned() else { return };
    let mut command = Command::new(&node.program);
    command.arg(node.path("status_lists.mjs"));
    World::start(command).await.holds_to_its_lists().await;
}

#[tokio::test]
async fn tokens_are_held_to_lists_by_token_status_list() {
    let Some(python) = provisioned("python-status-list") else { return };
    let mut command = Command::new(python);
    command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/clients/status_lists.py"));
    World::start(command).await.holds_to_its_lists().await;
}
