//! An upstream that is a WSGI application: what it sees of a request's headers is what is left of
//! their names in `HTTP_…`.

use super::programs::provisioned;
use serde_json::Value;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// It ends with this.
pub(crate) struct Wsgi {
    pub(crate) address: SocketAddr,
    child: Child,
}

impl Wsgi {
    pub(crate) fn start() -> Self {
        let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/support/wsgi.py");
        let mut command = Command::new(provisioned("python-tools"));
        let mut child = command.arg(program).stdout(Stdio::piped()).spawn().unwrap();
        let mut port = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut port).unwrap();
        Self { address: ([127, 0, 0, 1], port.trim().parse().unwrap()).into(), child }
    }
}

impl Drop for Wsgi {
    fn drop(&mut self) {
        drop(self.child.kill());
        drop(self.child.wait());
    }
}

/// What a client writes that wants to be somebody else.
pub(crate) const FORGED: &str = "forged";

/// Spellings of `name` that some upstream could take for it.
pub(crate) fn spellings(name: &str) -> Vec<String> {
    let first = name.replacen('-', "_", 1);
    let last =
        name.rsplit_once('-').map_or_else(String::new, |(head, tail)| format!("{head}_{tail}"));
    let mixed = first.replace('-', ".");
    let cased = name.to_ascii_uppercase().replace('-', "_");
    vec![name.replace('-', "_"), name.replace('-', "."), first, last, mixed, cased]
}

/// Whether anything of what a client forged is in the environment that `body` tells.
pub(crate) fn is_fooled(body: &Value) -> bool {
    let environ = body["environ"].as_object().unwrap();
    environ.values().any(|it| it.as_str().unwrap().contains(FORGED))
}
