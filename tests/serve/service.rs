//! The program, run as a service and looked at from outside.

#![expect(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test may panic"
)]

use envoy_types::pb::envoy::service::auth::v3::CheckRequest;
use envoy_types::pb::envoy::service::auth::v3::attribute_context::{HttpRequest, Peer, Request};
use serde_json::Value;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tonic::transport::{Channel, Endpoint};

/// Long enough for a machine that is busy with other tests.
const PATIENCE: Duration = Duration::from_secs(20);

/// A running `keybound serve`.
pub(crate) struct Service {
    child: Child,
    lines: Receiver<String>,
    /// All log lines so far.
    pub(crate) log: Vec<Value>,
    pub(crate) ext_authz: String,
    pub(crate) admin: String,
    pub(crate) folder: TempDir,
}

/// A folder with a configuration whose only policy demands a certificate, edited by `edit`.
pub(crate) fn folder(edit: impl FnOnce(&Path, String) -> String) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("jwks.json"), KEYS).unwrap();
    let text = edit(folder.path(), CONFIG.to_owned());
    let file = folder.path().join("keybound.yaml");
    std::fs::write(&file, text).unwrap();
    (folder, file)
}

pub(crate) fn keybound() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_keybound"));
    command.env_remove("KEYBOUND_CONFIG").stderr(Stdio::piped()).stdout(Stdio::piped());
    command
}

/// The program, started by another one that is given it as its last argument.
fn by_way_of(by: &[&str]) -> Command {
    let program = env!("CARGO_BIN_EXE_keybound");
    let Some((by, arguments)) = by.split_first() else { return keybound() };
    let mut command = Command::new(by);
    command.args(arguments).arg(program).env_remove("KEYBOUND_CONFIG");
    command.stderr(Stdio::piped()).stdout(Stdio::piped());
    command
}

impl Service {
    pub(crate) fn start(edit: impl FnOnce(&Path, String) -> String, arguments: &[&str]) -> Self {
        Self::start_by(&[], edit, arguments)
    }

    /// The same, by a program that is given the command as its last arguments.
    pub(crate) fn start_by(
        by: &[&str],
        edit: impl FnOnce(&Path, String) -> String,
        arguments: &[&str],
    ) -> Self {
        let (folder, file) = folder(edit);
        let mut command = by_way_of(by);
        Self::of(command.arg("serve").arg("--config").arg(file).args(arguments), folder)
    }

    fn of(command: &mut Command, folder: TempDir) -> Self {
        let mut child = command.spawn().unwrap();
        let (tell, lines) = channel();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        thread::spawn(move || {
            stderr.lines().map_while(Result::ok).try_for_each(|it| tell.send(it))
        });
        let (ext_authz, admin) = (String::new(), String::new());
        let mut service = Self { child, lines, log: vec![], ext_authz, admin, folder };
        let line = service.wait_for("listening");
        line["ext_authz"].as_str().unwrap().clone_into(&mut service.ext_authz);
        line["admin"].as_str().unwrap().clone_into(&mut service.admin);
        service
    }

    /// Started, and ready.
    pub(crate) fn ready(arguments: &[&str]) -> Self {
        let mut service = Self::start(|_, it| it, arguments);
        service.wait_for("ready");
        service
    }

    /// The same in the same folder, once this one was killed.
    pub(crate) fn killed_and_started(mut self) -> Self {
        self.signal("KILL");
        self.child.wait().unwrap();
        let empty = tempfile::tempdir().unwrap();
        let folder = std::mem::replace(&mut self.folder, empty);
        let file = folder.path().join("keybound.yaml");
        Self::of(keybound().arg("serve").arg("--config").arg(file), folder)
    }

    /// The next log line with this message.
    pub(crate) fn wait_for(&mut self, message: &str) -> Value {
        let start = Instant::now();
        loop {
            let left = PATIENCE.saturating_sub(start.elapsed());
            let line = self.lines.recv_timeout(left).unwrap();
            let line: Value = serde_json::from_str(&line).unwrap();
            self.log.push(line.clone());
            if line["message"] == message {
                return line;
            }
        }
    }

    pub(crate) fn uri(&self) -> String {
        match self.ext_authz.strip_prefix("unix:") {
            Some(path) => format!("unix://{path}"),
            None => format!("http://{}", self.ext_authz),
        }
    }

    pub(crate) async fn channel(&self) -> Channel {
        Endpoint::from_shared(self.uri()).unwrap().connect().await.unwrap()
    }

    /// The status and the body of an admin page.
    pub(crate) fn page(&self, method: &str, path: &str) -> (u16, String) {
        let (status, _, body) = self.answer(method, path);
        (status, body)
    }

    /// The status, the head and the body of an admin page.
    pub(crate) fn answer(&self, method: &str, path: &str) -> (u16, String, String) {
        self.answer_to(method, path, &format!("host: {}\r\n", self.admin))
    }

    /// The same of a request with these header lines.
    pub(crate) fn answer_to(
        &self,
        method: &str,
        path: &str,
        headers: &str,
    ) -> (u16, String, String) {
        let mut stream = TcpStream::connect(&self.admin).unwrap();
        write!(stream, "{method} {path} HTTP/1.1\r\n{headers}\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), head.to_owned(), body.to_owned())
    }

    /// Puts another configuration in the place of the present one, as `edit` makes it of that.
    pub(crate) fn rewrite(&self, edit: impl FnOnce(&str) -> String) {
        let file = self.folder.path().join("keybound.yaml");
        let text = std::fs::read_to_string(&file).unwrap();
        let new = edit(&text);
        assert_ne!(new, text);
        self.place("keybound.yaml", new);
    }

    /// Puts a file in the place of the one of that name, if there is one, as `mv` does.
    pub(crate) fn place(&self, name: &str, content: impl AsRef<[u8]>) {
        let beside = self.folder.path().join("beside");
        std::fs::write(&beside, content).unwrap();
        std::fs::rename(beside, self.folder.path().join(name)).unwrap();
    }

    /// Looks until this line is among the metrics: some things are counted after their client has
    /// heard of them.
    #[track_caller]
    pub(crate) fn has_metric(&self, line: &str) {
        self.look_until(line, |metrics| metrics.lines().any(|it| it == line));
    }

    /// Looks until the number behind the series that is spelled like this is as large.
    #[track_caller]
    pub(crate) fn reaches_metric(&self, series: &str, least: f64) {
        self.look_until(&format!("{series} {least}"), |metrics| {
            let value = metrics.lines().find_map(|it| it.strip_prefix(series)?.strip_prefix(' '));
            value.is_some_and(|it| least <= it.parse().unwrap())
        });
    }

    #[track_caller]
    fn look_until(&self, expected: &str, holds: impl Fn(&str) -> bool) {
        let start = Instant::now();
        loop {
            let (_, metrics) = self.page("GET", "/metrics");
            if holds(&metrics) {
                return;
            }
            assert!(start.elapsed() < PATIENCE, "{expected}\n{metrics}");
        }
    }

    pub(crate) fn status(&self) -> Value {
        serde_json::from_str(&self.page("GET", "/status").1).unwrap()
    }

    /// Asks for the status until it is as expected.
    pub(crate) fn wait_until(&self, mut holds: impl FnMut(&Value) -> bool) {
        let mut found = Value::Null;
        for _ in 0..20_000 {
            found = self.status();
            if holds(&found) {
                return;
            }
        }
        panic!("{found:#}");
    }

    /// The number of its process.
    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn signal(&self, name: &str) {
        let id = self.child.id().to_string();
        assert!(Command::new("kill").args(["-s", name, &id]).status().unwrap().success());
    }

    /// Its exit code, and the rest of its log.
    pub(crate) fn end(&mut self) -> Option<i32> {
        while let Ok(line) = self.lines.recv_timeout(PATIENCE) {
            self.log.push(serde_json::from_str(&line).unwrap());
        }
        self.child.wait().unwrap().code()
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// A server of keys that answers when it is told to.
pub(crate) struct SlowKeys {
    pub(crate) url: String,
    release: Sender<()>,
}

impl SlowKeys {
    pub(crate) fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}/jwks", listener.local_addr().unwrap());
        let (release, released) = channel();
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            if released.recv().is_ok() {
                let length = KEYS.len();
                let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length:";
                write!(stream, "{head} {length}\r\n\r\n{KEYS}").unwrap();
            }
        });
        Self { url, release }
    }

    pub(crate) fn release(&self) {
        self.release.send(()).unwrap();
    }
}

/// A request with this `Authorization`, over mutual TLS with this certificate.
pub(crate) fn request(authorization: &str, certificate: &str) -> CheckRequest {
    let mut request = CheckRequest::default();
    let attributes = request.attributes.get_or_insert_default();
    attributes.source = Some(Peer { certificate: certificate.to_owned(), ..Peer::default() });
    let http = HttpRequest {
        method: "GET".to_owned(),
        scheme: "https".to_owned(),
        host: "api.example.com".to_owned(),
        path: "/payments".to_owned(),
        headers: [("authorization".to_owned(), authorization.to_owned())].into(),
        ..HttpRequest::default()
    };
    attributes.request = Some(Request { http: Some(http), ..Request::default() });
    request
}

const CONFIG: &str = "\
listen: {ext_authz: '127.0.0.1:0', admin: '127.0.0.1:0'}
issuers:
  - issuer: https://as.example.com
    audiences: [https://api.example.com]
    keys: {jwks_file: jwks.json}
policies:
  - name: payments
    sender_constraint: certificate
limits: {check_deadline: 150ms}
";

/// RFC 7515, appendix A.3.
pub(crate) const KEYS: &str = r#"{"keys": [{"kty": "EC", "crv": "P-256", "kid": "1", "alg": "ES256",
"x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
"y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0"}]}"#;
