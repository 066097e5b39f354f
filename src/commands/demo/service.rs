//! `keybound serve` as a child process, as an operator would run it.

use super::Failure;
use super::process::Process;
use serde_json::Value;
use std::path::Path;
use std::process::Command;

/// A running service.
#[derive(Debug)]
pub struct Service {
    process: Process,
    listening: Value,
}

impl Service {
    /// Starts `binary` with the configuration file `config`, whose listeners may name port 0, and
    /// waits until they listen. Its log is kept beside the file, with the suffix `.log`.
    pub async fn start(binary: &Path, config: &Path) -> Result<Self, Failure> {
        let mut command = Command::new(binary);
        command.arg("serve").arg("--config").arg(config);
        let mut process =
            Process::start("keybound serve", &mut command, &config.with_extension("log"))?;
        let listening = process.until("listening", async |it| listening(&it.words())).await?;
        Ok(Self { process, listening })
    }

    /// Waits until it reports ready, when it has the keys of its issuers.
    pub async fn ready(&mut self, client: &reqwest::Client) -> Result<(), Failure> {
        let url = format!("http://{}/readyz", self.address("admin").unwrap_or_default());
        self.process
            .until("ready", async |_| {
                let answer = client.get(&url).send().await.ok()?;
                answer.status().is_success().then_some(())
            })
            .await
    }

    /// The bound address of its listener `name` (`ext_authz`, `forward_auth`, `admin`).
    pub fn address(&self, name: &str) -> Option<&str> {
        self.listening.get(name)?.as_str()
    }

    /// Its whole log.
    pub fn log(&self) -> String {
        self.process.words()
    }

    /// An error with the end of its log if it has exited.
    pub fn check(&mut self) -> Result<(), Failure> {
        self.process.check()
    }
}

/// The fields of the event with the addresses, once it is logged.
pub(super) fn listening(log: &str) -> Option<Value> {
    log.lines().filter_map(|it| serde_json::from_str::<Value>(it).ok()).find_map(|event| {
        let fields = event.get("fields").cloned().unwrap_or(event);
        (fields.get("message")?.as_str()? == "listening").then_some(fields)
    })
}
