//! A Redis of one test's own, which can be ended at a bad moment.

use crate::programs::provisioned;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use tempfile::TempDir;

/// A Redis that writes every record to disk before it answers, and ends with the test.
pub(crate) struct Redis {
    directory: TempDir,
    options: Vec<String>,
    url: String,
    process: Option<Child>,
}

impl Redis {
    /// On a Unix socket, without a password.
    pub(crate) fn start() -> Self {
        Self::with(&["--port", "0"], |directory| {
            format!("redis+unix://{}", directory.join("redis.sock").display())
        })
    }

    /// On a Unix socket, where this user may do these things.
    pub(crate) fn with_user(user: &str, password: &str, rights: &str) -> Self {
        let rules = format!("{user} on >{password} {rights}");
        let mut options = vec!["--port", "0", "--user"];
        options.extend(rules.split(' '));
        Self::with(&options, |directory| {
            let socket = directory.join("redis.sock");
            format!("redis+unix://{}?user={user}&pass={password}", socket.display())
        })
    }

    /// On a port, over TLS only.
    pub(crate) fn with_tls() -> Self {
        Self::over_tls("no")
    }

    /// On a port, over TLS only, for clients with a certificate of its authority.
    pub(crate) fn with_client_certificates() -> Self {
        Self::over_tls("yes")
    }

    fn over_tls(clients: &str) -> Self {
        let port = free_port();
        let options = [
            "--port",
            "0",
            "--tls-port",
            &port,
            "--tls-auth-clients",
            clients,
            "--tls-cert-file",
            "server.pem",
            "--tls-key-file",
            "server-key.pem",
            "--tls-ca-cert-file",
            "ca.pem",
        ];
        Self::with(&options, |directory| {
            write_certificates(directory);
            format!("rediss://127.0.0.1:{port}")
        })
    }

    /// A cluster of one, which has all slots.
    pub(crate) fn with_cluster() -> Self {
        let (port, bus) = (free_port(), free_port());
        let options = ["--port", &port, "--cluster-enabled", "yes", "--cluster-port", &bus];
        let redis = Self::with(&options, |_| format!("redis://127.0.0.1:{port}"));
        let mut connection = TcpStream::connect(format!("127.0.0.1:{port}")).unwrap();
        assert_eq!(asked(&mut connection, "CLUSTER ADDSLOTSRANGE 0 16383"), "+OK");
        redis
    }

    fn with(options: &[&str], url: impl FnOnce(&Path) -> String) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let url = url(directory.path());
        let options = options.iter().map(|it| String::from(*it)).collect();
        let mut redis = Self { directory, options, url, process: None };
        redis.resume();
        redis
    }

    /// What the file holds that names it.
    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// The certification authority that vouches for it.
    pub(crate) fn ca(&self) -> Vec<u8> {
        fs::read(self.directory.path().join("ca.pem")).unwrap()
    }

    /// A client certificate of its authority, and its key, in PEM: one of two.
    pub(crate) fn client(&self, place: usize) -> [Vec<u8>; 2] {
        ["", "-key"].map(|rest| {
            let name = format!("client-{place}{rest}.pem");
            fs::read(self.directory.path().join(name)).unwrap()
        })
    }

    /// Its Unix socket.
    pub(crate) fn socket(&self) -> PathBuf {
        self.directory.path().join("redis.sock")
    }

    /// The first line of its answer to a command.
    pub(crate) fn ask(&self, command: &str) -> String {
        asked(&mut UnixStream::connect(self.socket()).unwrap(), command)
    }

    /// The strings in its answer to a command.
    pub(crate) fn strings(&self, command: &str) -> Vec<String> {
        let mut connection = UnixStream::connect(self.socket()).unwrap();
        connection.write_all(format!("{command}\r\nQUIT\r\n").as_bytes()).unwrap();
        let mut answer = String::new();
        connection.read_to_string(&mut answer).unwrap();
        let lines = answer.lines().filter(|it| !it.starts_with(['*', '$', '+']));
        lines.map(str::to_owned).collect()
    }

    /// Ends it as a crash would.
    pub(crate) fn kill(&mut self) {
        let mut process = self.process.take().unwrap();
        process.kill().unwrap();
        process.wait().unwrap();
    }

    /// Starts it again where it was, with what it had written.
    pub(crate) fn resume(&mut self) {
        let mut process = Command::new(provisioned("redis"))
            .args(["--bind", "127.0.0.1", "--unixsocket", "redis.sock", "--save", ""])
            .args(["--appendonly", "yes", "--appendfsync", "always"])
            .args(&self.options)
            .current_dir(self.directory.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let ready = lines.any(|it| it.unwrap().contains("eady to accept connections"));
        self.process = Some(process);
        assert!(ready, "redis-server does not start");
    }

    /// Stops it in its tracks, or lets it go on: it stays connected and does not answer.
    pub(crate) fn signal(&self, signal: &str) {
        let process = self.process.as_ref().unwrap().id().to_string();
        assert!(Command::new("kill").args([signal, &process]).status().unwrap().success());
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        if self.process.is_some() {
            self.kill();
        }
    }
}

fn asked(connection: &mut (impl Read + Write), command: &str) -> String {
    connection.write_all(format!("{command}\r\n").as_bytes()).unwrap();
    BufReader::new(connection).lines().next().unwrap().unwrap()
}

/// Redis cannot choose a port itself.
fn free_port() -> String {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    listener.local_addr().unwrap().port().to_string()
}

fn write_certificates(directory: &Path) {
    let mut params = CertificateParams::new([]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let key = KeyPair::generate().unwrap();
    let ca = params.self_signed(&key).unwrap();
    fs::write(directory.join("ca.pem"), ca.pem()).unwrap();

    let issuer = Issuer::new(params, key);
    for (owner, name) in
        [("server", "127.0.0.1"), ("client-0", "keybound"), ("client-1", "keybound")]
    {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new([name.to_owned()]).unwrap();
        // One with the name of its issuer is taken for self-signed.
        params.distinguished_name.push(DnType::CommonName, name);
        let certificate = params.signed_by(&key, &issuer).unwrap();
        let at = |rest| directory.join(format!("{owner}{rest}.pem"));
        fs::write(at(""), certificate.pem()).unwrap();
        fs::write(at("-key"), key.serialize_pem()).unwrap();
    }
}
