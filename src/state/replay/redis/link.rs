//! A connection to Redis: one server or a cluster, with or without TLS.

use super::rules::{RedisIdentity, RedisRules, RedisUrl};
use crate::invariant;
use redis::aio::MultiplexedConnection;
use redis::cluster::ClusterClientBuilder;
use redis::cluster_async::ClusterConnection;
use redis::{
    AsyncConnectionConfig, Client, ClientTlsConfig, Cmd, ErrorKind, RedisError, RedisResult,
    TlsCertificates, Value,
};
use std::fmt;
use std::time::Duration;

/// A connection. All copies share it.
#[derive(Clone)]
pub(in crate::state) enum Link {
    /// To one server.
    Single(MultiplexedConnection),
    /// To the servers of a cluster.
    Cluster(ClusterConnection),
}

impl Link {
    /// Connects. The task that drives the connection runs on the present runtime.
    pub(in crate::state) async fn open(rules: &RedisRules) -> RedisResult<Self> {
        let certificates = certificates(rules);
        if rules.cluster {
            let builder = ClusterClientBuilder::new(rules.urls.iter().map(RedisUrl::reveal))
                .connection_timeout(CONNECT)
                .response_timeout(rules.deadline)
                // Enough to follow a slot that has moved. Sending a proof twice could report it as
                // replayed.
                .retries(1)
                // The default would exceed the deadline.
                .min_retry_wait(1)
                .max_retry_wait(5);
            let builder = match certificates {
                Some(certificates) => builder.certs(certificates),
                None => builder,
            };
            return Ok(Self::Cluster(builder.build()?.get_async_connection().await?));
        }
        let Some(url) = rules.urls.first().map(RedisUrl::reveal) else {
            invariant::broken("rules name at least one server");
            return Err(RedisError::from((ErrorKind::InvalidClientConfig, "no server")));
        };
        let client = match certificates {
            Some(certificates) => Client::build_with_tls(url, certificates)?,
            None => Client::open(url)?,
        };
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT))
            // Each command has a deadline of its own.
            .set_response_timeout(None)
            .set_pipeline_buffer_size(UNDER_WAY);
        Ok(Self::Single(client.get_multiplexed_async_connection_with_config(&config).await?))
    }

    /// Sends a command and returns its reply. An error reply is an `Err`.
    pub(in crate::state) async fn send(self, command: &Cmd) -> RedisResult<Value> {
        match self {
            Self::Single(mut connection) => command.query_async(&mut connection).await,
            Self::Cluster(mut connection) => command.query_async(&mut connection).await,
        }
    }

    /// Whether it reconnects by itself.
    pub(super) const fn heals(&self) -> bool {
        matches!(self, Self::Cluster(_))
    }
}

/// Whom to trust and what to show, where the rules say either.
fn certificates(rules: &RedisRules) -> Option<TlsCertificates> {
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
