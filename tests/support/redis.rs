//! A Redis of one test's own, which can be ended at a bad moment.

use crate::programs::provisioned;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener};
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
        let options = ["--port", "0", "--tls-port", &port, "--tls-auth-clients", clients];
        Self::with(&[&options[..], &CERTIFICATES].concat(), |directory| {
            write_certificates(directory);
            format!("rediss://127.0.0.1:{port}")
        })
    }

    /// A cluster of one over TLS only, for clients with a certificate of its authority.
    pub(crate) fn with_cluster_and_client_certificates() -> Self {
        let (port, bus) = (free_port(), free_port());
        let tls = ["--port", "0", "--tls-port", &port, "--tls-auth-clients", "yes"];
        let cluster = ["--cluster-enabled", "yes", "--cluster-port", &bus, "--tls-cluster", "yes"];
        let options = [&tls[..], &cluster, &CERTIFICATES].concat();
        let redis = Self::with(&options, |directory| {
            write_certificates(directory);
            format!("rediss://127.0.0.1:{port}")
        });
        assert_eq!(redis.ask("CLUSTER ADDSLOTSRANGE 0 16383"), "+OK");
        redis
    }

    /// On a port, as one of several that replicate: over TLS with the certificates that are in `tls`, if
    /// there are any.
    pub(crate) fn replicating(options: &[&str], tls: Option<&Path>) -> Self {
        let port = free_port();
        let of_port: &[&str] = match tls {
            Some(_) => &["--port", "0", "--tls-replication", "yes", "--tls-auth-clients", "no"],
            None => &["--port", &port],
        };
        let of_tls: &[&str] = if tls.is_some() { &["--tls-port", &port] } else { &[] };
        let certificates: &[&str] = if tls.is_some() { &CERTIFICATES } else { &[] };
        Self::with(&[options, of_port, of_tls, certificates].concat(), |directory| {
            tls.inspect(|from| copy_certificates(from, directory));
            format!("127.0.0.1:{port}")
        })
    }

    /// One in sentinel mode, with the settings in `lines`.
    pub(crate) fn sentinel(lines: &str, tls: Option<&Path>) -> Self {
        let port = free_port();
        let options = ["sentinel.conf", "--sentinel"];
        Self::run(options.into_iter(), |directory| {
            let listen = if tls.is_some() { TLS_OF_SENTINELS } else { "port PORT\n" };
            let listen = listen.replace("PORT", &port);
            let text = format!("bind 127.0.0.1\nunixsocket redis.sock\n{listen}{lines}");
            fs::write(directory.join("sentinel.conf"), text).unwrap();
            tls.inspect(|from| copy_certificates(from, directory));
            format!("127.0.0.1:{port}")
        })
    }

    /// Whether it runs.
    pub(crate) const fn is_up(&self) -> bool {
        self.process.is_some()
    }

    /// A cluster of one, which has all slots.
    pub(crate) fn with_cluster() -> Self {
        let (port, bus) = (free_port(), free_port());
        let options = ["--port", &port, "--cluster-enabled", "yes", "--cluster-port", &bus];
        let redis = Self::with(&options, |_| format!("redis://127.0.0.1:{port}"));
        assert_eq!(redis.ask("CLUSTER ADDSLOTSRANGE 0 16383"), "+OK");
        redis
    }

    fn with(options: &[&str], url: impl FnOnce(&Path) -> String) -> Self {
        let usual = ["--bind", "127.0.0.1", "--unixsocket", "redis.sock", "--save", ""];
        let usual = usual.into_iter().chain(["--appendonly", "yes", "--appendfsync", "always"]);
        Self::run(usual.chain(options.iter().copied()), url)
    }

    /// With these options and no others.
    pub(crate) fn run<'a>(
        options: impl Iterator<Item = &'a str>,
        url: impl FnOnce(&Path) -> String,
    ) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let url = url(directory.path());
        let options = options.map(str::to_owned).collect();
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
        self.answer(command).lines().next().unwrap().to_owned()
    }

    /// The strings in its answer to a command.
    pub(crate) fn strings(&self, command: &str) -> Vec<String> {
        let answer = self.answer(command);
        let lines = answer.lines().filter(|it| !it.starts_with(['*', '$', '+']));
        lines.map(str::to_owned).collect()
    }

    /// Asks once more where it has closed the connection, as it does when it turns into a replica.
    fn answer(&self, command: &str) -> String {
        let answered = |_| {
            let mut connection = UnixStream::connect(self.socket()).ok()?;
            connection.write_all(format!("{command}\r\n").as_bytes()).ok()?;
            // A sentinel knows no QUIT.
            connection.shutdown(Shutdown::Write).ok()?;
            let mut answer = String::new();
            connection.read_to_string(&mut answer).ok()?;
            (!answer.is_empty()).then_some(answer)
        };
        (0..3).find_map(answered).unwrap()
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
            .args(&self.options)
            .current_dir(self.directory.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let is_ready =
            |it: &str| it.contains("eady to accept connections") || it.contains("Sentinel ID is");
        let ready = lines.any(|it| is_ready(&it.unwrap()));
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

const CERTIFICATES: [&str; 6] = [
    "--tls-cert-file",
    "server.pem",
    "--tls-key-file",
    "server-key.pem",
    "--tls-ca-cert-file",
    "ca.pem",
];

const TLS_OF_SENTINELS: &str = "port 0
tls-port PORT
tls-replication yes
tls-auth-clients no
tls-cert-file server.pem
tls-key-file server-key.pem
tls-ca-cert-file ca.pem
";

fn copy_certificates(from: &Path, to: &Path) {
    for name in ["ca.pem", "server.pem", "server-key.pem"] {
        fs::copy(from.join(name), to.join(name)).unwrap();
    }
}

/// Redis cannot choose a port itself.
fn free_port() -> String {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    listener.local_addr().unwrap().port().to_string()
}

pub(crate) fn write_certificates(directory: &Path) {
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
