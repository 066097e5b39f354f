//! A connection to Redis: one server, the master that sentinels name, or a cluster, with or without
//! TLS.

use super::rules::{Layout, RedisIdentity, RedisRules, RedisUrl};
use super::sentinels::{Address, PATIENCE, Sentinels, Unknown};
use crate::invariant;
use redis::aio::MultiplexedConnection;
use redis::cluster::ClusterClientBuilder;
use redis::cluster_async::ClusterConnection;
use redis::{
    AsyncConnectionConfig, Client, ClientTlsConfig, Cmd, ConnectionAddr, ConnectionInfo, ErrorKind,
    RedisError, RedisResult, ServerErrorKind, TlsCertificates, Value,
};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio::time::timeout;

/// A connection. All copies share it.
#[derive(Clone)]
pub(in crate::state) enum Link {
    /// To one server.
    Single(MultiplexedConnection, Arc<Origin>),
    /// To the servers of a cluster.
    Cluster(ClusterConnection),
}

/// Where a connection to one server comes from.
#[derive(Debug, Default)]
pub(in crate::state) struct Origin {
    /// The sentinels that named the server, and its address; none if the rules name it.
    found: Option<(Sentinels, Address)>,
    /// The server does not tell us its role.
    hides_role: AtomicBool,
    /// No sentinel answered when they were last asked.
    is_unwatched: AtomicBool,
}

impl Link {
    /// Connects. The task that drives the connection runs on the present runtime.
    pub(in crate::state) async fn open(rules: &RedisRules) -> RedisResult<Self> {
        let Some(url) = rules.urls.first() else {
            invariant::broken("rules name at least one server");
            return Err(RedisError::from((ErrorKind::InvalidClientConfig, "no server")));
        };
        let info = url.info()?;
        match &rules.layout {
            Layout::Cluster => Self::to_cluster(rules).await,
            Layout::One => Self::to_server(rules, info, None).await,
            Layout::Watched(sentinels) => {
                let sentinels = Sentinels::new(rules, sentinels, name_in(&info))?;
                let address = sentinels.find().await?;
                let info = at(info, &address);
                Self::to_server(rules, info, Some((sentinels, address))).await
            }
        }
    }

    async fn to_cluster(rules: &RedisRules) -> RedisResult<Self> {
        let builder = ClusterClientBuilder::new(rules.urls.iter().map(RedisUrl::reveal))
            .connection_timeout(CONNECT)
            .response_timeout(rules.deadline)
            // Enough to follow a slot that has moved. Sending a proof twice could report it as
            // replayed.
            .retries(1)
            // The default would exceed the deadline.
            .min_retry_wait(1)
            .max_retry_wait(5);
        let builder = match certificates(rules) {
            Some(certificates) => builder.certs(certificates),
            None => builder,
        };
        Ok(Self::Cluster(builder.build()?.get_async_connection().await?))
    }

    async fn to_server(
        rules: &RedisRules,
        info: ConnectionInfo,
        found: Option<(Sentinels, Address)>,
    ) -> RedisResult<Self> {
        let client = match certificates(rules) {
            Some(certificates) => Client::build_with_tls(info, certificates)?,
            None => Client::open(info)?,
        };
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT))
            // Each command has a deadline of its own.
            .set_response_timeout(None)
            .set_pipeline_buffer_size(UNDER_WAY);
        let connection = client.get_multiplexed_async_connection_with_config(&config).await?;
        let link = Self::Single(connection, Arc::new(Origin { found, ..Origin::default() }));
        link.is_to_master().await?;
        Ok(link)
    }

    /// Sends a command and returns its reply. An error reply is an `Err`.
    pub(in crate::state) async fn send(self, command: &Cmd) -> RedisResult<Value> {
        match self {
            Self::Single(mut connection, _) => command.query_async(&mut connection).await,
            Self::Cluster(mut connection) => command.query_async(&mut connection).await,
        }
    }

    /// An error if it leads to a replica, or sentinels name another master: what is written there is
    /// lost. Takes no longer than [`PATIENCE`]. Where no sentinel answers, none can be told of, and
    /// the master goes on.
    pub(in crate::state) async fn still_leads(&self) -> RedisResult<()> {
        let Self::Single(_, origin) = self else { return Ok(()) };
        tokio::try_join!(origin.is_named(), self.is_to_master()).map(drop)
    }

    /// An error if the server is a replica. Where no sentinels name it, its user need not be allowed
    /// to ask.
    async fn is_to_master(&self) -> RedisResult<()> {
        let Self::Single(_, origin) = self else { return Ok(()) };
        if origin.hides_role.load(Ordering::Relaxed) {
            return Ok(());
        }
        let mut command = Cmd::new();
        command.arg("ROLE");
        match timeout(PATIENCE, self.clone().send(&command)).await {
            Ok(Ok(answer)) if is_replica(&answer) => Err(RedisError::from((
                ErrorKind::Server(ServerErrorKind::ReadOnly),
                "the server is a replica",
            ))),
            Ok(Ok(_)) => Ok(()),
            Ok(Err(error)) if origin.found.is_none() && error.code().is_some() => {
                origin.hides_role.store(true, Ordering::Relaxed);
                Ok(())
            }
            Ok(Err(error)) => Err(error),
            Err(_) => Err(RedisError::from((ErrorKind::Io, "late answer"))),
        }
    }

    /// Whether it reconnects by itself.
    pub(super) const fn heals(&self) -> bool {
        matches!(self, Self::Cluster(_))
    }

    /// The address that sentinels named, if they did.
    pub(super) fn named(&self) -> Option<String> {
        let Self::Single(_, origin) = self else { return None };
        origin.found.as_ref().map(|(_, address)| address.to_string())
    }
}

impl Origin {
    /// An error if sentinels name another master.
    async fn is_named(&self) -> RedisResult<()> {
        let Some((sentinels, address)) = &self.found else { return Ok(()) };
        let answer = sentinels.find().await;
        let is_silent = matches!(answer, Err(Unknown::Silence { .. }));
        let was_silent = self.is_unwatched.swap(is_silent, Ordering::Relaxed);
        match answer {
            Ok(named) if named == *address => {
                if was_silent {
                    tracing::info!("sentinels answer again");
                }
                Ok(())
            }
            Ok(named) => {
                Err(RedisError::from((ErrorKind::Io, "there is another master", named.to_string())))
            }
            Err(Unknown::Silence { why, .. }) => {
                if !was_silent {
                    tracing::warn!(error = %why, "no sentinel answers: a failover would go unnoticed");
                }
                Ok(())
            }
            Err(unknown) => Err(unknown.into()),
        }
    }
}

/// The name of the master, which stands where the host does.
fn name_in(info: &ConnectionInfo) -> String {
    let (ConnectionAddr::Tcp(host, _) | ConnectionAddr::TcpTls { host, .. }) = info.addr() else {
        invariant::broken("the rules name a master that sentinels watch");
        return String::new();
    };
    host.clone()
}

/// The same server at another address.
fn at(info: ConnectionInfo, address: &Address) -> ConnectionInfo {
    let (host, port) = (address.host.clone(), address.port);
    let there = if let ConnectionAddr::TcpTls { insecure, tls_params, .. } = info.addr() {
        let (insecure, tls_params) = (*insecure, tls_params.clone());
        ConnectionAddr::TcpTls { host, port, insecure, tls_params }
    } else {
        ConnectionAddr::Tcp(host, port)
    };
    info.set_addr(there)
}

/// Whether this is how a replica answers `ROLE`.
fn is_replica(answer: &Value) -> bool {
    let Value::Array(parts) = answer else { return false };
    let role = parts.first();
    role.is_some_and(
        |it| matches!(it, Value::BulkString(it) if matches!(&**it, b"slave" | b"replica")),
    )
}

/// Whom to trust and what to show, where the rules say either.
pub(super) fn certificates(rules: &RedisRules) -> Option<TlsCertificates> {
    let client_tls = rules.identity.clone().map(|RedisIdentity { certificate, key }| {
        ClientTlsConfig { client_cert: certificate, client_key: key }
    });
    let is_usual = client_tls.is_none() && rules.ca.is_none();
    (!is_usual).then(|| TlsCertificates { client_tls, root_cert: rules.ca.clone() })
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.heals() { "Cluster" } else { "Single" })
    }
}

/// A connection takes a few round trips, with TLS some more. No request waits for it.
pub(in crate::state) const CONNECT: Duration = Duration::from_secs(2);

/// Commands that may be queued before senders have to wait.
const UNDER_WAY: usize = 1024;
