//! Setup and teardown of the demo: a directory, an issuer, an upstream, the service and an Envoy.

use super::Failure;
use super::cast::{Cast, Token};
use super::dpop;
use super::envoy::{Authorizer, Edge, Envoy, Listener};
use super::issuer::{self, SigningKey};
use super::pki::{Authority, Identity};
use super::roles::{AUDIENCE, Caller, PATH, SCOPE};
use super::scenarios::{Observed, Scenario};
use super::service::{Service, listening};
use super::upstream;
use super::way::{Door, Way};
use crate::clock::{Clock, SystemClock};
use keybound_core::UnixTime;
use std::fs::{self, DirBuilder};
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

/// Everything that runs during the demo. Dropping it stops all of it.
#[derive(Debug)]
pub(super) struct Stage {
    way: Way,
    cast: Cast,
    /// None if the checks are inside Envoy.
    service: Option<Service>,
    /// The site that makes proofs.
    proofs: SocketAddr,
    // After the programs that write into it, since fields are dropped in this order.
    directory: Directory,
    _sites: JoinSet<()>,
}

/// The programs beside this one.
#[derive(Clone, Debug)]
pub(super) struct Programs {
    /// Envoy, if there is one.
    pub(super) envoy: Option<PathBuf>,
    /// The dynamic module, if the checks are to be inside Envoy.
    pub(super) module: Option<PathBuf>,
}

impl Stage {
    /// Sets up everything.
    pub(super) async fn set(programs: Programs, now: UnixTime) -> Result<Self, Failure> {
        let directory = Directory::new(now)?;
        let mut sites = JoinSet::new();
        let authority = Authority::new("keybound demo").map_err(making_certificates)?;
        let server = authority.server(&["localhost", "127.0.0.1"]).map_err(making_certificates)?;

        let (listener, address) = listen().await?;
        let issuer = format!("https://{address}");
        let key = SigningKey::generate("demo")?;
        sites.spawn(issuer::site(&issuer, &key).with_tls(&server)?.serve(listener));
        let (listener, upstream) = listen().await?;
        sites.spawn(upstream::echo().serve(listener));

        let mut cast = Cast::new(&authority, &issuer, &key, now)?;
        directory.write("ca.pem", &authority.certificate_pem())?;
        directory.write_identity("edge", &server)?;
        directory.write_cast(&cast)?;
        let config = directory.write("keybound.yaml", &configuration(&issuer, directory.path()))?;

        let client = reqwest::Client::builder()
            .no_proxy()
            .timeout(Duration::from_secs(1))
            .build()
            .map_err(|cause| Failure::new("setting up a client", cause))?;
        let (service, authorizer) = match &programs.module {
            None => {
                serve(&config, &client).await.map(|(it, at)| (Some(it), Authorizer::Tcp(at)))?
            }
            Some(_) => (None, Authorizer::Module(config)),
        };
        let way = match (programs.envoy, authorizer) {
            (None, Authorizer::Tcp(authorizer)) => Way::Direct(authorizer),
            (None, _) => {
                let cause = "none was found: name one by --envoy";
                return Err(Failure::new("starting Envoy for the module", cause));
            }
            (Some(binary), authorizer) => {
                let edge = edge(authorizer, programs.module, upstream, directory.path());
                let envoy = Envoy::start(&binary, &edge, &client).await?;
                let origin = format!("https://{}", envoy.address(DOOR)?);
                Way::Envoy(envoy, Door { origin, ca: authority.certificate_pem() })
            }
        };
        cast.prove(&way.url(), SystemClock.now())?;
        let (listener, proofs) = listen().await?;
        let token = cast.jwt(Token::DpopBound).unwrap_or_default().to_owned();
        sites.spawn(dpop::site(cast.dpop_key().clone(), way.url(), token).serve(listener));
        Ok(Self { way, cast, service, proofs, directory, _sites: sites })
    }

    /// Runs `scenario` and returns its outcome.
    pub(super) async fn play(&mut self, scenario: &Scenario) -> Result<Observed, Failure> {
        let observed = self.way.play(scenario, &self.cast).await;
        // If the service has exited, its log says more than what the caller got.
        self.service.as_mut().map_or(Ok(()), Service::check)?;
        observed
    }

    /// A description of the setup.
    pub(super) fn description(&self) -> String {
        match &self.way {
            Way::Envoy(_, door) => {
                let keybound = match &self.service {
                    Some(_) => "keybound serve, upstream",
                    None => "upstream, with keybound inside Envoy",
                };
                format!("Through Envoy: client ── mutual TLS ──▶ {} ──▶ {keybound}", door.origin)
            }
            Way::Direct(address) => format!(
                "Without Envoy (none was found; see --envoy): each request goes to keybound serve \
                 on {address}\nas the CheckRequest that Envoy would send."
            ),
        }
    }

    /// Commands to try while it keeps running.
    pub(super) fn invitation(&self) -> String {
        let directory = self.directory.path().display();
        let (admin, log) = match (&self.service, &self.way) {
            (Some(service), _) => (service.address("admin").map(str::to_owned), "keybound.log"),
            (None, Way::Envoy(envoy, _)) => (admin_in(&envoy.log()), "envoy.log"),
            (None, Way::Direct(_)) => (None, "envoy.log"),
        };
        let admin = admin.unwrap_or_default();
        let tries = match &self.way {
            Way::Envoy(_, door) => {
                let curl = |title: &str, name: &str, token: Token| {
                    let token = token.name();
                    format!(
                        "\n  # {title}\n  curl -i --cacert ca.pem --cert {name}.pem --key {name}.key \\\n    \
                         -H \"Authorization: Bearer $(cat {token}.jwt)\" {}{PATH}\n",
                        door.origin
                    )
                };
                curl("the client with its own token", "client", Token::Bound)
                    + &curl("a thief with that token", "thief", Token::Bound)
                    + &curl("a token that is bound to nothing", "client", Token::Unbound)
                    + &self.dpop_invitation()
            }
            Way::Direct(address) => {
                format!("\n  # what it speaks\n  grpcurl -plaintext {address} list\n")
            }
        };
        format!(
            "\nIt stays up until Ctrl-C. Certificates, tokens, configurations and logs are in its \
             directory:\n\n  cd {directory}\n{tries}\n  # the service itself\n  curl \
             http://{admin}/status\n  tail -f {log}\n"
        )
    }

    fn dpop_invitation(&self) -> String {
        let (proofs, token, url) = (self.proofs, Token::DpopBound.name(), self.way.url());
        format!(
            "\n  # a DPoP token with a new proof, good for a minute, and the same proof again\n  \
             proof=$(curl -s http://{proofs}/)\n  for i in 1 2; do\n    curl -i --cacert ca.pem -H \
             \"Authorization: DPoP $(cat {token}.jwt)\" \\\n      -H \"DPoP: $proof\" {url}; \
             echo\n  done\n"
        )
    }
}

/// The admin address in the log of an Envoy with the module.
fn admin_in(log: &str) -> Option<String> {
    listening(log)?.get("admin")?.as_str().map(str::to_owned)
}

/// The name of Envoy's listener.
const DOOR: &str = "edge";

/// Starts the service, and returns its address for Envoy.
async fn serve(config: &Path, client: &reqwest::Client) -> Result<(Service, SocketAddr), Failure> {
    let this =
        std::env::current_exe().map_err(|cause| Failure::new("finding the own program", cause))?;
    let mut service = Service::start(&this, config).await?;
    service.ready(client).await?;
    let authorizer = service.address("ext_authz").and_then(|it| it.parse().ok());
    let authorizer =
        authorizer.ok_or_else(|| Failure::new("starting keybound serve", "it tells no address"))?;
    Ok((service, authorizer))
}

fn edge(
    authorizer: Authorizer,
    module: Option<PathBuf>,
    upstream: SocketAddr,
    directory: &Path,
) -> Edge {
    let listener = Listener {
        name: DOOR,
        authorizer,
        forward_client_cert: "SANITIZE",
        // So that scenarios without a certificate reach the service.
        certificate_required: false,
    };
    Edge {
        listeners: vec![listener],
        module,
        upstream,
        upstream_http2: false,
        directory: directory.to_owned(),
    }
}

fn configuration(issuer: &str, directory: &Path) -> String {
    // JSON strings are YAML strings, whatever the path holds.
    let ca = serde_json::Value::from(directory.join("ca.pem").to_string_lossy());
    format!(
        "listen:
  ext_authz: 127.0.0.1:0
  admin: 127.0.0.1:0
issuers:
  - issuer: {issuer}
    audiences: [{AUDIENCE}]
    ca_file: {ca}
client_certificate:
  source: peer
policies:
  - name: payments
    match: {{path_prefix: {PATH}}}
    sender_constraint: either
    scopes: [{SCOPE}]
limits:
  check_deadline: 900ms
upstream:
  headers: {{x-auth-subject: sub, x-auth-client-id: client_id}}
"
    )
}

async fn listen() -> Result<(TcpListener, SocketAddr), Failure> {
    let listening = |cause| Failure::new("listening", cause);
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.map_err(listening)?;
    let address = listener.local_addr().map_err(listening)?;
    Ok((listener, address))
}

fn making_certificates(cause: rcgen::Error) -> Failure {
    Failure::new("making certificates", cause)
}

/// A directory that is removed on drop.
#[derive(Debug)]
struct Directory(PathBuf);

impl Directory {
    fn new(now: UnixTime) -> Result<Self, Failure> {
        let name = format!("keybound-demo-{}-{}", std::process::id(), now.as_millis());
        let path = std::env::temp_dir().join(name);
        // It holds keys, so it must be new and private.
        DirBuilder::new()
            .mode(0o700)
            .create(&path)
            .map_err(|cause| Failure::new(path.display(), cause))?;
        Ok(Self(path))
    }

    fn path(&self) -> &Path {
        &self.0
    }

    fn write(&self, name: &str, text: &str) -> Result<PathBuf, Failure> {
        let path = self.0.join(name);
        fs::write(&path, text).map_err(|cause| Failure::new(path.display(), cause))?;
        Ok(path)
    }

    fn write_identity(&self, name: &str, identity: &Identity) -> Result<(), Failure> {
        self.write(&format!("{name}.pem"), &identity.certificate_pem())?;
        self.write(&format!("{name}.key"), &identity.key_pem())?;
        Ok(())
    }

    fn write_cast(&self, cast: &Cast) -> Result<(), Failure> {
        let callers =
            [("client", Caller::Client), ("renewed", Caller::Renewed), ("thief", Caller::Thief)];
        for (name, caller) in callers {
            if let Some(identity) = cast.identity(caller) {
                self.write_identity(name, identity)?;
            }
        }
        for token in Token::ALL {
            if let Some(jwt) = cast.jwt(token) {
                self.write(&format!("{}.jwt", token.name()), jwt)?;
            }
        }
        Ok(())
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        // If it cannot be removed, it is left in the temporary directory.
        drop(fs::remove_dir_all(&self.0));
    }
}
