//! The command `healthcheck`: asks a running service whether it is ready or alive, for probes in
//! images without a shell.

use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::process::ExitCode;
use std::time::Duration;

/// The arguments of `healthcheck`.
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// The admin listener, HOST:PORT.
    #[arg(long, default_value = "127.0.0.1:9003", value_name = "HOST:PORT")]
    address: String,
    /// Checks whether it is alive rather than ready: it is alive while it waits for keys.
    #[arg(long)]
    live: bool,
}

/// The question.
#[derive(Clone, Copy, Debug)]
struct Question {
    path: &'static str,
    denied: &'static str,
}

const READY: Question = Question { path: "/readyz", denied: "not ready" };
const ALIVE: Question = Question { path: "/livez", denied: "not alive" };

/// The timeout of each step.
const PATIENCE: Duration = Duration::from_secs(2);

/// The maximum size of a response.
const ANSWER_BYTES: u64 = 4096;

/// Succeeds if the service is ready, or alive with `--live`.
pub fn run(arguments: &Arguments) -> ExitCode {
    let question = if arguments.live { ALIVE } else { READY };
    let problem = match ask(&arguments.address, question) {
        Ok(None) => return ExitCode::SUCCESS,
        Ok(Some(refusal)) => refusal,
        Err(error) => error.to_string(),
    };
    super::complain(&format!("{}: {problem}", arguments.address));
    ExitCode::FAILURE
}

/// The service's reason for a negative answer; `None` if it is positive.
fn ask(address: &str, question: Question) -> io::Result<Option<String>> {
    let mut stream = connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let path = question.path;
    let request = format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    stream.take(ANSWER_BYTES).read_to_end(&mut answer)?;
    Ok(refusal(&String::from_utf8_lossy(&answer), question.denied))
}

fn refusal(answer: &str, denied: &str) -> Option<String> {
    if answer.starts_with("HTTP/1.1 200 ") {
        return None;
    }
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    let line = body.lines().next().unwrap_or_default();
    let shown: String = line.chars().filter(|it| !it.is_control()).take(1024).collect();
    let says_why = answer.starts_with("HTTP/1.1 503 ") && !shown.is_empty();
    Some(if says_why { format!("{denied}: {shown}") } else { denied.to_owned() })
}

fn connect(address: &str) -> io::Result<TcpStream> {
    let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
    for found in address.to_socket_addrs()? {
        match TcpStream::connect_timeout(&found, PATIENCE) {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}
