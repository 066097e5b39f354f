//! Child processes that write their output to a file and are killed when their owner is dropped.

use super::Failure;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use tokio::time::{Instant, sleep};

/// How long a program may take to start: generous, for slow machines.
const START_DEADLINE: Duration = Duration::from_secs(30);
/// The polling interval.
const START_POLL: Duration = Duration::from_millis(10);
/// How much of its log is shown when it fails.
const TAIL_LINES: usize = 15;

/// A running program. Dropping it kills it, also in a panic.
#[derive(Debug)]
pub struct Process {
    name: &'static str,
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `command`, with standard output and error redirected to the file `log`.
    pub fn start(name: &'static str, command: &mut Command, log: &Path) -> Result<Self, Failure> {
        let program = Path::new(command.get_program()).display().to_string();
        let failure = |cause| Failure::new(format_args!("starting {name} ({program})"), cause);
        let file = File::create(log).map_err(failure)?;
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone().map_err(failure)?)
            .stderr(file)
            .spawn()
            .map_err(failure)?;
        Ok(Self { name, child, log: log.to_owned() })
    }

    /// Waits until `look` returns a value, and returns it.
    pub async fn until<T>(
        &mut self,
        what: &str,
        mut look: impl AsyncFnMut(&Self) -> Option<T>,
    ) -> Result<T, Failure> {
        let deadline = Instant::now().checked_add(START_DEADLINE);
        loop {
            if let Some(found) = look(self).await {
                return Ok(found);
            }
            self.check()?;
            if deadline.is_none_or(|it| it <= Instant::now()) {
                return Err(self.failure(&format!("is not {what} after {START_DEADLINE:?}")));
            }
            sleep(START_POLL).await;
        }
    }

    /// An error with the end of its log if the program has exited.
    pub fn check(&mut self) -> Result<(), Failure> {
        match self.child.try_wait() {
            Ok(None) => Ok(()),
            Ok(Some(status)) => Err(self.failure(&format!("ended ({status})"))),
            Err(cause) => Err(Failure::new(format_args!("watching {}", self.name), cause)),
        }
    }

    /// Its whole log.
    pub fn words(&self) -> String {
        fs::read(&self.log)
            .map_or_else(|_| String::new(), |it| String::from_utf8_lossy(&it).into_owned())
    }

    fn failure(&self, how: &str) -> Failure {
        let words = self.words();
        let lines: Vec<_> = words.lines().collect();
        let (_, tail) = lines.split_at(lines.len().saturating_sub(TAIL_LINES));
        Failure::new(format_args!("{} {how}", self.name), tail.join("\n"))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail only if it has already exited.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
