//! Knows how to ask a running service whether it is ready, for probes without a shell.

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

/// The most that is read of an answer, of which the first line counts.
const ANSWER_BYTES: u64 = 4096;

/// Succeeds when the service is ready.
pub fn run(arguments: &Arguments) -> ExitCode {
    let problem = match ask(&arguments.address) {
        Ok(true) => return ExitCode::SUCCESS,
        Ok(false) => "not ready".to_owned(),
        Err(error) => error.to_string(),
    };
    super::complain(&format!("{}: {problem}", arguments.address));
    ExitCode::FAILURE
}

fn ask(address: &str) -> io::Result<bool> {
    let mut stream = connect(address)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let request = format!("GET /readyz HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    stream.take(ANSWER_BYTES).read_to_end(&mut answer)?;
    Ok(answer.starts_with(b"HTTP/1.1 200 "))
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
