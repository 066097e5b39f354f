//! Asks a running service whether it is ready, for probes without a shell.

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
}

/// How long each step may take.
const PATIENCE: Duration = Duration::from_secs(2);

/// The most that is read of an answer.
const ANSWER_BYTES: u64 = 4096;

/// Succeeds when the service is ready.
pub fn run(arguments: &Arguments) -> ExitCode {
    let problem = match ask(&arguments.address) {
        Ok(None) => return ExitCode::SUCCESS,
        Ok(Some(waits)) => waits,
        Err(error) => error.to_string(),
    };
    super::complain(&format!("{}: {problem}", arguments.address));
    ExitCode::FAILURE
}

/// What keeps the service from being ready, in its own words; none when it is.
fn ask(address: &str) -> io::Result<Option<String>> {
    let mut stream = connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let request = format!("GET /readyz HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    stream.take(ANSWER_BYTES).read_to_end(&mut answer)?;
    Ok(refusal(&String::from_utf8_lossy(&answer)))
}

fn refusal(answer: &str) -> Option<String> {
    if answer.starts_with("HTTP/1.1 200 ") {
        return None;
    }
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    let line = body.lines().next().unwrap_or_default();
    let shown: String = line.chars().filter(|it| !it.is_control()).take(1024).collect();
    let head = answer.starts_with("HTTP/1.1 503 ");
    Some(if head && !shown.is_empty() {
        format!("not ready: {shown}")
    } else {
        "not ready".to_owned()
    })
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
