//! The service as proxies see it that ask over HTTP.

use super::mutual_tls::{Connector, authority, with_tls};
use super::service::Service;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// A question without a token, as Envoy asks it.
const QUESTION: &str = "GET /payments HTTP/1.1\r\nhost: api.example.com\r\n\r\n";

#[expect(clippy::needless_pass_by_value, reason = "an edit as `Service::start` takes it")]
fn listening(_: &Path, config: String) -> String {
    config.replacen("listen: {", "listen: {forward_auth: '127.0.0.1:0', ", 1)
}

/// Where the service listens for HTTP.
fn address(service: &Service) -> &str {
    let line = service.log.iter().find(|it| it["message"] == "listening").unwrap();
    line["forward_auth"].as_str().unwrap()
}

pub(crate) fn connect(service: &Service) -> TcpStream {
    let stream = TcpStream::connect(address(service)).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    stream
}

/// The head and the body of the next answer, whose body is JSON.
fn answer(stream: &mut impl Read) -> String {
    let mut found = Vec::new();
    while !found.ends_with(b"}") {
        let mut byte = [0];
        if stream.read(&mut byte).unwrap() == 0 {
            break;
        }
        found.extend(byte);
    }
    String::from_utf8(found).unwrap()
}

#[test]
fn a_proxy_asks_many_times_over_one_connection() {
    let mut service = Service::start(listening, &[]);
    service.wait_for("ready");
    let mut stream = connect(&service);
    for _ in 0..3 {
        stream.write_all(QUESTION.as_bytes()).unwrap();
        let answer = answer(&mut stream).to_lowercase();
        assert!(answer.starts_with("http/1.1 401 "), "{answer}");
        assert!(answer.contains("\r\nwww-authenticate: bearer realm=\"payments\"\r\n"), "{answer}");
    }
    assert_eq!(service.wait_for("denied")["front"], "forward_auth");
    let (_, metrics) = service.page("GET", "/metrics");
    let series = "keybound_checks_total{decision=\"deny\",front=\"forward_auth\",\
                  policy=\"payments\",reason=\"credentials_missing\"} 3\n";
    assert!(metrics.contains(series), "{metrics}");
}

#[test]
fn a_body_is_not_waited_for() {
    let mut service = Service::start(listening, &[]);
    service.wait_for("ready");
    for (begin, rest, goes_on) in [
        ("content-length: 9\r\n\r\n", "", false),
        ("content-length: 9\r\n\r\nabc", "", false),
        ("transfer-encoding: chunked\r\n\r\n", "", false),
        ("content-length: 9\r\n\r\nabcdefghi", "", true),
        ("transfer-encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n", "", true),
        // It is too long to read it all, and sent all the same: the answer gets through.
        ("content-length: 900000\r\n\r\n", &"a".repeat(900_000), false),
    ] {
        let mut stream = connect(&service);
        let question = format!("POST /payments HTTP/1.1\r\nhost: api.example.com\r\n{begin}{rest}");
        stream.write_all(question.as_bytes()).unwrap();
        let found = answer(&mut stream).to_lowercase();
        assert!(found.starts_with("http/1.1 401 "), "{found}");
        assert_eq!(!found.contains("\r\nconnection: close\r\n"), goes_on, "{begin} {found}");
        if goes_on {
            stream.write_all(QUESTION.as_bytes()).unwrap();
            assert!(answer(&mut stream).starts_with("HTTP/1.1 401 "));
        } else {
            assert_eq!(stream.read(&mut [0]).unwrap(), 0, "closed");
        }
    }
    let line = service.wait_for("denied");
    assert_eq!(line["reason"], "credentials_missing");
}

#[test]
fn what_is_no_question_never_gets_a_success() {
    let mut service = Service::start(listening, &[]);
    service.wait_for("ready");
    let long = format!("GET / HTTP/1.1\r\nhost: a\r\nx: {}\r\n\r\n", "x".repeat(200 * 1024));
    let many = format!("GET / HTTP/1.1\r\nhost: a\r\n{}\r\n", "x: y\r\n".repeat(300));
    for (question, status) in [
        ("nonsense\r\n\r\n", "400"),
        ("GET / HTTP/1.1\r\n\r\n", "400"),
        ("GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n", "400"),
        ("CONNECT api.example.com:443 HTTP/1.1\r\nhost: a\r\n\r\n", "400"),
        ("OPTIONS * HTTP/1.1\r\nhost: a\r\n\r\n", "400"),
        (long.as_str(), "431"),
        (many.as_str(), "431"),
    ] {
        let mut stream = connect(&service);
        // It may hang up before it has read all.
        drop(stream.write_all(question.as_bytes()));
        let mut found = [0; 12];
        stream.read_exact(&mut found).unwrap();
        assert_eq!(str::from_utf8(&found), Ok(format!("HTTP/1.1 {status}").as_str()));
    }
}

#[test]
fn a_stranger_without_the_secret_fills_no_log() {
    const QUESTIONS: usize = 200;
    let with_secret = |folder: &Path, config: String| {
        fs::write(folder.join("secret"), "correct-horse-battery").unwrap();
        listening(folder, config) + "\nforward_auth: {secret_file: secret}\n"
    };
    let mut service = Service::start(with_secret, &["--drain-delay", "0s"]);
    service.wait_for("ready");
    let begun = Instant::now();
    let mut stream = connect(&service);
    for _ in 0..QUESTIONS {
        stream.write_all(QUESTION.as_bytes()).unwrap();
        assert!(answer(&mut stream).starts_with("HTTP/1.1 403 "));
    }
    let seconds = usize::try_from(begun.elapsed().as_secs()).unwrap();
    service.signal("TERM");
    assert_eq!(service.end(), Some(0));
    let told = |message: &str| service.log.iter().filter(|it| it["message"] == *message).count();
    let hints = told("the secret was not shown");
    // One in a second, and each with a second to either side.
    assert!(1 <= hints && hints <= seconds + 2, "{hints} in {seconds} s");
    assert!(1 <= told("denied"), "{:?}", service.log);
}

#[test]
fn a_secret_that_is_replaced_counts_no_longer_not_even_on_an_open_connection() {
    let with_secret = |folder: &Path, config: String| {
        fs::write(folder.join("secret"), "correct-horse-battery").unwrap();
        listening(folder, config) + "\nforward_auth: {secret_file: secret}\n"
    };
    let mut service = Service::start(with_secret, &[]);
    service.wait_for("ready");
    let mut stream = connect(&service);
    let mut status = |secret: &str| {
        let question =
            QUESTION.replace("\r\n\r\n", "\r\nx-keybound-secret: ") + secret + "\r\n\r\n";
        stream.write_all(question.as_bytes()).unwrap();
        answer(&mut stream).split(' ').nth(1).unwrap().to_owned()
    };
    assert_eq!([status("correct-horse-battery"), status("another-secret-of-ours")], ["401", "403"]);
    service.place("secret", "another-secret-of-ours");
    service.wait_for("configuration reloaded");
    assert_eq!([status("correct-horse-battery"), status("another-secret-of-ours")], ["403", "401"]);
    let remarks = service.status()["config"]["last_reload"]["remarks"].clone();
    assert_eq!(remarks, serde_json::json!([]), "nothing is left for a restart");
}

#[test]
fn a_proxy_may_ask_over_a_unix_socket() {
    let over_unix_socket = |folder: &Path, config: String| {
        let socket = folder.join("forward_auth.sock");
        let listen = format!("listen: {{forward_auth: 'unix:{}', ", socket.display());
        config.replacen("listen: {", &listen, 1)
    };
    let mut service = Service::start(over_unix_socket, &[]);
    service.wait_for("ready");
    let path = address(&service).strip_prefix("unix:").unwrap();
    let mut stream = UnixStream::connect(path).unwrap();
    stream.write_all(QUESTION.as_bytes()).unwrap();
    assert!(answer(&mut stream).starts_with("HTTP/1.1 401 "));
}

#[test]
fn an_idle_connection_does_not_hold_up_the_end() {
    let mut service = Service::start(listening, &["--drain-delay", "0s"]);
    service.wait_for("ready");
    let mut stream = connect(&service);
    stream.write_all(QUESTION.as_bytes()).unwrap();
    assert!(answer(&mut stream).starts_with("HTTP/1.1 401 "));
    service.signal("TERM");
    assert_eq!(stream.read(&mut [0]).unwrap(), 0, "closed");
    assert_eq!(service.end(), Some(0));
    assert!(
        service.log.iter().all(|it| it["message"] != "connections aborted"),
        "{:?}",
        service.log
    );
}

#[tokio::test]
async fn only_proxies_with_a_certificate_are_answered() {
    let authority = authority();
    let mutual = with_tls(&authority);
    let mut service =
        Service::start(|folder, config| listening(folder, mutual(folder, config)), &[]);
    service.wait_for("ready");
    let ask = async |signer| {
        let connector = Connector::new(&service, &authority, signer).to(address(&service));
        let mut stream = connector.connect().await.ok()?;
        stream.write_all(QUESTION.as_bytes()).await.ok()?;
        let mut found = [0; 12];
        stream.read_exact(&mut found).await.ok()?;
        Some(found)
    };
    assert_eq!(ask(Some(&authority)).await.as_ref(), Some(b"HTTP/1.1 401"));
    assert_eq!(ask(None).await, None);
    assert_eq!(ask(Some(&super::mutual_tls::authority())).await, None);
}
