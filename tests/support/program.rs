//! Servers of others as programs: provisioned if they can be had here, and ended with the tests.

use std::ffi::OsStr;
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::timeout;

/// How long a server may take to start. Far more than any needs, for slow machines.
const PATIENCE: Duration = Duration::from_secs(180);
/// The statuses of tests/provision.py when a download failed, and when what builds it is not there.
const NOT_DOWNLOADED: i32 = 75;
const TOOLCHAIN_MISSING: i32 = 69;

/// Ends the program once its standard input is closed, as it is when the tests end, however they do.
const ENDS_WITH_US: &str = r#"exec 3<&0
{ cat <&3; kill $$; } >/dev/null 2>&1 &
exec "$@" </dev/null 2>&1 3<&-"#;

/// The program `name`, or nothing, and a line that says why its tests are skipped. `make test` fetches
/// it. Under CI it is fetched here, too, and only a failed download is a reason to skip, or, where
/// `KEYBOUND_TOOLCHAINS` says that they are optional, a missing toolchain.
pub(crate) fn provisioned(name: &str) -> Option<PathBuf> {
    let ci = std::env::var_os("CI").is_some_and(|it| it == "true");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/provision.py");
    let cached: &[&str] = if ci { &[] } else { &["--cached"] };
    let output = Command::new(script).args(cached).arg(name).output().unwrap();
    if output.status.success() {
        return Some(PathBuf::from(String::from_utf8(output.stdout).unwrap().trim()));
    }
    let reason = String::from_utf8_lossy(&output.stderr);
    let optional = std::env::var_os("KEYBOUND_TOOLCHAINS").is_some_and(|it| it == "optional");
    let excused = match output.status.code() {
        Some(NOT_DOWNLOADED) => true,
        Some(TOOLCHAIN_MISSING) => !ci || optional,
        _ => !ci,
    };
    assert!(excused, "there must be a {name} under CI: {reason}");
    // Not by a print macro: the harness would swallow the line.
    let line = format!("skipped: there is no {name} (tests/provision.py {name}): {reason}");
    io::stderr().write_all(line.as_bytes()).unwrap();
    None
}

/// A program that runs until this is dropped, or the process ends that has it.
#[derive(Debug)]
pub(crate) struct Running {
    _life: ChildStdin,
    log: Arc<Mutex<String>>,
}

impl Running {
    /// Starts `program`, and waits for a line of its output in which `look` finds something.
    pub(crate) async fn start<T: Send + 'static>(
        program: &Path,
        arguments: &[impl AsRef<OsStr>],
        environment: &[(&str, &str)],
        look: impl Fn(&str) -> Option<T> + Send + 'static,
    ) -> (Self, T) {
        let mut child = Command::new("sh")
            .args(["-c", ENDS_WITH_US, "sh"])
            .arg(program)
            .args(arguments)
            .envs(environment.iter().copied())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let life = child.stdin.take().unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let log = Arc::new(Mutex::new(String::new()));
        let (tell, told) = oneshot::channel();
        let kept = Arc::clone(&log);
        thread::spawn(move || {
            let mut tell = Some(tell);
            for line in output.lines().map_while(Result::ok) {
                if let Some(found) = look(&line)
                    && let Some(tell) = tell.take()
                {
                    drop(tell.send(found));
                }
                *kept.lock().unwrap() += &(line + "\n");
            }
            child.wait()
        });
        let running = Self { _life: life, log };
        let found = timeout(PATIENCE, told).await;
        let found = found.unwrap_or_else(|_| panic!("late: {}", running.log()));
        let found = found.unwrap_or_else(|_| panic!("it ended: {}", running.log()));
        (running, found)
    }

    /// All that it has said.
    pub(crate) fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }
}
