//! Programs for Node in this folder, with what they import.

use super::program::provisioned;
use serde_json::Value;
use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::timeout;

/// How long an answer may take. Far more than any needs, for slow machines.
const PATIENCE: Duration = Duration::from_secs(60);

const PROGRAMS: [(&str, &str); 4] = [
    ("authorization_server.mjs", include_str!("authorization_server.mjs")),
    ("dpop_client.mjs", include_str!("dpop_client.mjs")),
    ("mcp_client.mjs", include_str!("mcp_client.mjs")),
    ("status_lists.mjs", include_str!("status_lists.mjs")),
];

/// A Node, and the programs beside the packages that they import.
pub(crate) struct Node {
    pub(crate) program: PathBuf,
    folder: TempDir,
}

impl Node {
    /// Nothing, and a line that says why, where it cannot be had.
    pub(crate) fn provisioned() -> Option<Self> {
        let program = provisioned("node-clients")?;
        let folder = TempDir::new().unwrap();
        for (name, text) in PROGRAMS {
            fs::write(folder.path().join(name), text).unwrap();
        }
        symlink(program.with_file_name("node_modules"), folder.path().join("node_modules"))
            .unwrap();
        Some(Self { program, folder })
    }

    /// Where a program is.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }
}

/// A program that answers a line of JSON with a line of JSON. It ends with this.
pub(crate) struct Client {
    _child: Child,
    asks: ChildStdin,
    answers: Lines<BufReader<ChildStdout>>,
    log: PathBuf,
}

impl Client {
    /// Starts `command`; what it complains of goes to the file `log`.
    pub(crate) fn start(mut command: Command, log: PathBuf) -> Self {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(File::create(&log).unwrap())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let asks = child.stdin.take().unwrap();
        let answers = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { _child: child, asks, answers, log }
    }

    /// What it says next.
    pub(crate) async fn said(&mut self) -> Value {
        let line = timeout(PATIENCE, self.answers.next_line()).await;
        let line = line.ok().and_then(|it| it.unwrap());
        let line = line.unwrap_or_else(|| panic!("{}", fs::read_to_string(&self.log).unwrap()));
        serde_json::from_str(&line).unwrap()
    }

    /// What it answers.
    pub(crate) async fn ask(&mut self, asked: &Value) -> Value {
        self.asks.write_all(format!("{asked}\n").as_bytes()).await.unwrap();
        self.said().await
    }
}
