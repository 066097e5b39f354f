//! A page in a real browser: what is on it, what is typed, and what is pressed.
//!
//! The browser is led over a pair of pipes, one JSON text after another with a zero between
//! (<https://chromedevtools.github.io/devtools-protocol/>).

#![expect(
    clippy::arithmetic_side_effects,
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test may panic"
)]

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;
use tempfile::TempDir;

/// Long enough for a machine that is busy with other tests.
const PATIENCE: Duration = Duration::from_secs(60);

/// A browser with one page open.
pub(crate) struct Browser {
    child: Child,
    commands: File,
    messages: Receiver<Value>,
    session: Option<String>,
    sent: u64,
    /// What the page complained of so far.
    pub(crate) complaints: Vec<Value>,
    _profile: TempDir,
}

impl Browser {
    /// A browser that has this page open, of which `condition` holds. Without a browser a test is
    /// skipped, with a line that says so; under CI only a failed download is a reason to.
    pub(crate) fn open(url: &str, (width, height): (u32, u32), condition: &str) -> Option<Self> {
        let mut browser = Self::start(&provisioned()?);
        let target = browser.call("Target.createTarget", &json!({"url": "about:blank"}));
        let attach = json!({"targetId": target["targetId"], "flatten": true});
        let attached = browser.call("Target.attachToTarget", &attach);
        browser.session = Some(attached["sessionId"].as_str().unwrap().to_owned());
        for domain in ["Log.enable", "Runtime.enable", "Page.enable"] {
            browser.call(domain, &json!({}));
        }
        let size =
            json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": false});
        browser.call("Emulation.setDeviceMetricsOverride", &size);
        browser.call("Page.navigate", &json!({"url": url}));
        browser.wait_for(condition);
        Some(browser)
    }

    fn start(program: &Path) -> Self {
        let profile = tempfile::tempdir().unwrap();
        let pipes = ["commands", "messages"].map(|it| profile.path().join(it));
        assert!(Command::new("mkfifo").args(&pipes).status().unwrap().success());
        let [commands, messages] = &pipes;
        // It reads from 3 and writes to 4.
        let child = Command::new("sh")
            .args(["-c", r#"exec 3<"$1" 4>"$2"; shift 2; exec "$@""#, "sh"])
            .args([commands, messages])
            .arg(program)
            .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"])
            .arg("--disable-quic")
            .args(["--no-first-run", "--disable-background-networking", "--disable-sync"])
            .args(["--disable-component-update", "--disable-extensions"])
            .arg("--remote-debugging-pipe")
            .arg(format!("--user-data-dir={}", profile.path().join("profile").display()))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let commands = OpenOptions::new().write(true).open(commands).unwrap();
        let read = BufReader::new(File::open(messages).unwrap());
        let (tell, messages) = channel();
        thread::spawn(move || {
            let texts = read.split(0).map_while(Result::ok);
            texts.map(|it| serde_json::from_slice(&it).unwrap()).try_for_each(|it| tell.send(it))
        });
        let complaints = vec![];
        Self { child, commands, messages, session: None, sent: 0, complaints, _profile: profile }
    }

    fn call(&mut self, method: &str, params: &Value) -> Value {
        self.sent += 1;
        let id = self.sent;
        let mut command = json!({"id": id, "method": method, "params": params});
        if let Some(session) = &self.session {
            command["sessionId"] = session.as_str().into();
        }
        self.commands.write_all(format!("{command}\0").as_bytes()).unwrap();
        loop {
            let mut message = self.messages.recv_timeout(PATIENCE).unwrap();
            if message["id"] == id {
                assert_eq!(message["error"], Value::Null, "{method}");
                return message["result"].take();
            }
            if COMPLAINTS.iter().any(|it| message["method"] == *it) {
                self.complaints.push(message["params"].take());
            }
        }
    }

    /// The value of an expression, once it has one.
    pub(crate) fn value(&mut self, expression: &str) -> Value {
        let how = json!({"expression": expression, "awaitPromise": true, "returnByValue": true});
        let mut found = self.call("Runtime.evaluate", &how);
        assert_eq!(found["exceptionDetails"], Value::Null, "{expression}");
        found["result"]["value"].take()
    }

    /// Waits until a condition holds on the page.
    pub(crate) fn wait_for(&mut self, condition: &str) {
        let look = format!(
            "new Promise((done) => {{ const look = () => \
             {condition} ? done(true) : setTimeout(look, 20); look(); }})"
        );
        assert_eq!(self.value(&look), true, "{condition}");
    }

    /// The text of the element with this id.
    pub(crate) fn text(&mut self, id: &str) -> String {
        let found = self.value(&format!("document.getElementById('{id}').textContent"));
        found.as_str().unwrap().to_owned()
    }

    /// Types into what has the focus.
    pub(crate) fn type_in(&mut self, text: &str) {
        self.call("Input.insertText", &json!({"text": text}));
    }

    /// Presses a key.
    pub(crate) fn press(&mut self, key: &str) {
        let (code, text) = match key {
            "Tab" => (9, Value::Null),
            "Enter" => (13, json!("\r")),
            " " => (32, json!(" ")),
            other => panic!("{other}"),
        };
        for kind in ["keyDown", "keyUp"] {
            let mut event = json!({"type": kind, "key": key, "windowsVirtualKeyCode": code});
            if kind == "keyDown" && !text.is_null() {
                event["text"] = text.clone();
            }
            self.call("Input.dispatchKeyEvent", &event);
        }
    }

    /// Clicks into the middle of the first element that `selector` finds.
    pub(crate) fn click(&mut self, selector: &str) {
        let middle = self.value(&format!(
            "(() => {{ const it = document.querySelector({selector:?}); it.scrollIntoView(); \
             const {{x, y, width, height}} = it.getBoundingClientRect(); \
             return [x + width / 2, y + height / 2]; }})()"
        ));
        for kind in ["mousePressed", "mouseReleased"] {
            let event = json!({
                "type": kind, "x": middle[0], "y": middle[1], "button": "left", "clickCount": 1,
            });
            self.call("Input.dispatchMouseEvent", &event);
        }
    }

    /// The whole page, as PNG.
    pub(crate) fn picture(&mut self) -> Vec<u8> {
        let size = self.value("[innerWidth, document.documentElement.scrollHeight]");
        let clip = json!({"x": 0, "y": 0, "width": size[0], "height": size[1], "scale": 1});
        let how = json!({"format": "png", "captureBeyondViewport": true, "clip": clip});
        let picture = self.call("Page.captureScreenshot", &how);
        STANDARD.decode(picture["data"].as_str().unwrap()).unwrap()
    }
}

/// The browser, fetched if need be, or nothing, and a line that says why.
fn provisioned() -> Option<PathBuf> {
    /// The status of tests/provision.py when a download failed.
    const NOT_DOWNLOADED: i32 = 75;
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/provision.py");
    let output = Command::new(script).arg("chromium").output().unwrap();
    let told = |it: &[u8]| String::from_utf8_lossy(it).trim().to_owned();
    if output.status.success() {
        return Some(PathBuf::from(told(&output.stdout)));
    }
    let reason = told(&output.stderr);
    let ci = std::env::var_os("CI").is_some_and(|it| it == "true");
    let excused = !ci || output.status.code() == Some(NOT_DOWNLOADED);
    assert!(excused, "there must be a browser under CI: {reason}");
    // Not by a print macro: the harness would swallow the line.
    let line = format!("skipped: there is no browser: {reason}\n");
    io::stderr().write_all(line.as_bytes()).unwrap();
    None
}

/// What is heard when something on the page went wrong.
const COMPLAINTS: [&str; 3] =
    ["Log.entryAdded", "Runtime.consoleAPICalled", "Runtime.exceptionThrown"];

impl Drop for Browser {
    fn drop(&mut self) {
        // It still writes into its profile when it is killed, and has ended when its pipe has.
        drop(self.commands.write_all(b"{\"id\": 0, \"method\": \"Browser.close\"}\0"));
        while self.messages.recv_timeout(PATIENCE).is_ok() {}
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
