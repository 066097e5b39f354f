//! The Redis connection and its limits, as configured.

use crate::state::replay::memory::MemoryLimits;
use redis::{ConnectionAddr, ConnectionInfo, IntoConnectionInfo};
use std::fmt;
use std::time::Duration;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::pki_types::pem::PemObject;

/// The Redis connection and its limits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RedisRules {
    /// One server, or some servers of a cluster.
    pub(super) urls: Vec<RedisUrl>,
    pub(super) cluster: bool,
    pub(super) ca: Option<Vec<u8>>,
    pub(super) identity: Option<RedisIdentity>,
    pub(super) deadline: Duration,
    pub(super) share: usize,
}

/// The client certificate that is shown to Redis, and its key. `Debug` shows neither.
#[derive(Clone, PartialEq, Eq)]
pub struct RedisIdentity {
    /// The certificate and its chain in PEM.
    pub certificate: Vec<u8>,
    /// The private key in PEM.
    pub key: Vec<u8>,
}

/// Why these rules are invalid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadRedis {
    /// The file is not text, or has no line with a URL.
    UrlMissing,
    /// A line is not a URL, or not one for Redis.
    UrlMalformed,
    /// A URL asks for TLS without verification.
    UrlInsecure,
    /// Several URLs without a cluster.
    UrlsTooMany,
    /// The URLs do not match each other, or do not suit a cluster.
    ClusterMalformed,
    /// A certification authority without a `rediss` URL.
    CaUnused,
    /// The certification authority's file holds no certificate.
    CaMalformed,
    /// A client certificate without a `rediss` URL.
    IdentityUnused,
}

/// A URL with a password in it.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct RedisUrl(String);

impl RedisRules {
    /// The default time that a check waits for Redis. A healthy Redis takes less than one
    /// millisecond; the default for a whole check is 150.
    pub const DEADLINE: Duration = Duration::from_millis(50);

    /// The default limit on live records per client: as many as in memory.
    pub const SHARE: usize = MemoryLimits::share_of(MemoryLimits::CAPACITY);

    /// Reads a file with a URL in each line, as in
    ///
    /// - `redis://user:password@host:6379/0`,
    /// - `rediss://…` over TLS, verified against `ca` (PEM) or else the system's authorities,
    /// - `redis+unix:///run/redis.sock?db=0&user=…&pass=…`.
    ///
    /// Only for a cluster there may be several, of some of its servers.
    pub fn read(
        file: &[u8],
        cluster: bool,
        ca: Option<Vec<u8>>,
        deadline: Duration,
    ) -> Result<Self, BadRedis> {
        let text = std::str::from_utf8(file).or(Err(BadRedis::UrlMissing))?;
        let lines = text.lines().map(str::trim).filter(|it| !it.is_empty());
        let urls: Vec<_> = lines.map(|it| RedisUrl(it.to_owned())).collect();
        let parsed = urls.iter().map(RedisUrl::parse).collect::<Result<Vec<_>, _>>()?;
        match *parsed {
            [] => return Err(BadRedis::UrlMissing),
            [_, _, ..] if !cluster => return Err(BadRedis::UrlsTooMany),
            [_, ..] => (),
        }
        if cluster {
            let client = redis::cluster::ClusterClientBuilder::new(parsed.iter().cloned()).build();
            drop(client.or(Err(BadRedis::ClusterMalformed))?);
        }
        if let Some(ca) = &ca {
            if !parsed.iter().all(is_over_tls) {
                return Err(BadRedis::CaUnused);
            }
            let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(ca).collect();
            if certificates.map_or(true, |it| it.is_empty()) {
                return Err(BadRedis::CaMalformed);
            }
        }
        Ok(Self { urls, cluster, ca, identity: None, deadline, share: Self::SHARE })
    }

    /// Sets the client certificate that is shown to Redis: for `rediss` URLs only.
    pub fn with_identity(self, identity: RedisIdentity) -> Result<Self, BadRedis> {
        let over_tls = |it: &RedisUrl| it.parse().is_ok_and(|it| is_over_tls(&it));
        if !self.urls.iter().all(over_tls) {
            return Err(BadRedis::IdentityUnused);
        }
        Ok(Self { identity: Some(identity), ..self })
    }

    /// Sets the limit on live records per client.
    #[must_use]
    pub fn with_share(self, share: usize) -> Self {
        Self { share, ..self }
    }

    /// The limit on live records per client.
    pub const fn share(&self) -> usize {
        self.share
    }

    /// The hosts with unencrypted connections.
    pub fn hosts_in_the_clear(&self) -> impl Iterator<Item = String> {
        self.urls.iter().filter_map(|it| {
            let parsed = it.parse().ok()?;
            let ConnectionAddr::Tcp(host, _) = parsed.addr() else { return None };
            Some(host.clone())
        })
    }

    /// Whether one connection would serve both.
    pub(super) fn reach_alike(&self, other: &Self) -> bool {
        let Self { urls, cluster, ca, identity, deadline, share: _ } = self;
        (urls, *cluster, ca, identity, *deadline)
            == (&other.urls, other.cluster, &other.ca, &other.identity, other.deadline)
    }

    /// Whether `other` has the same servers and database, whatever its user and deadline. Two
    /// clusters are the same if they share a server.
    pub fn is_where(&self, other: &Self) -> bool {
        let places = |it: &Self| {
            let places = it.urls.iter().filter_map(RedisUrl::place);
            places.collect::<std::collections::BTreeSet<_>>()
        };
        let (here, there) = (places(self), places(other));
        match (self.cluster, other.cluster) {
            (true, true) => !here.is_disjoint(&there),
            (false, false) => here == there,
            (true, false) | (false, true) => false,
        }
    }
}

impl RedisUrl {
    pub(super) fn reveal(&self) -> &str {
        &self.0
    }

    /// The server and the database.
    fn place(&self) -> Option<(String, i64)> {
        let parsed = self.parse().ok()?;
        Some((parsed.addr().to_string(), parsed.redis_settings().db()))
    }

    fn parse(&self) -> Result<ConnectionInfo, BadRedis> {
        if self.0.contains('#') {
            return Err(BadRedis::UrlInsecure);
        }
        self.0.as_str().into_connection_info().or(Err(BadRedis::UrlMalformed))
    }
}

/// Whether it is a connection over TLS.
fn is_over_tls(info: &ConnectionInfo) -> bool {
    matches!(info.addr(), ConnectionAddr::TcpTls { .. })
}

impl fmt::Debug for RedisIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RedisIdentity")
    }
}

impl fmt::Debug for RedisUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RedisUrl")
    }
}

impl fmt::Display for BadRedis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::UrlMissing => "must hold the URL of a Redis, such as redis://user:password@host",
            Self::UrlMalformed => "must hold nothing but redis, rediss or redis+unix URLs",
            Self::UrlInsecure => "must not hold a URL with a fragment: TLS is always verified",
            Self::UrlsTooMany => "must hold one URL, unless `cluster` is true",
            Self::ClusterMalformed => {
                "must hold URLs of one cluster, alike but for host and port, and without a database"
            }
            Self::CaUnused | Self::IdentityUnused => "is of use only with rediss URLs",
            Self::CaMalformed => "must hold certificates in PEM",
        })
    }
}

impl std::error::Error for BadRedis {}

#[cfg(test)]
mod tests {
    use super::*;

    const CA: &[u8] = b"-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n";

    #[track_caller]
    fn check(file: &str, cluster: bool, ca: Option<&[u8]>, expected: Result<usize, BadRedis>) {
        let ca = ca.map(<[u8]>::to_vec);
        let read = RedisRules::read(file.as_bytes(), cluster, ca, RedisRules::DEADLINE);
        assert_eq!(read.map(|it| it.urls.len()), expected, "{file:?}");
    }

    #[test]
    fn a_file_holds_one_url() {
        for url in [
            "redis://host",
            "redis://user:p%40ss@host:6380/3",
            "redis://[::1]:6379",
            "rediss://:password@host",
            "redis+unix:///run/redis.sock?db=1&user=u&pass=p",
        ] {
            check(&format!("\n  {url}\r\n\n"), false, None, Ok(1));
        }
        check("redis://a\nredis://b", false, None, Err(BadRedis::UrlsTooMany));
    }

    #[test]
    fn what_is_not_a_redis_url_is_refused() {
        check("", false, None, Err(BadRedis::UrlMissing));
        check(" \n\n", false, None, Err(BadRedis::UrlMissing));
        for odd in ["host:6379", "http://host", "redis://", "redis://host/x", "redis://host:x"] {
            check(odd, false, None, Err(BadRedis::UrlMalformed));
        }
        let file = RedisRules::read(b"redis://\xff", false, None, RedisRules::DEADLINE);
        assert_eq!(file, Err(BadRedis::UrlMissing));
    }

    #[test]
    fn tls_without_verification_cannot_be_had() {
        check("rediss://host/#insecure", false, None, Err(BadRedis::UrlInsecure));
    }

    #[test]
    fn a_cluster_may_be_named_by_some_of_its_servers() {
        check("redis://a", true, None, Ok(1));
        check("redis://u:p@a:1\nredis://u:p@b:2", true, None, Ok(2));
        for odd in [
            "redis://u:p@a\nredis://u:other@b",
            "redis://a\nrediss://b",
            "redis+unix:///run/redis.sock",
        ] {
            check(odd, true, None, Err(BadRedis::ClusterMalformed));
        }
    }

    #[test]
    fn a_private_authority_goes_with_tls_only() {
        check("rediss://host", false, Some(CA), Ok(1));
        check("redis://host", false, Some(CA), Err(BadRedis::CaUnused));
        check("redis+unix:///run/redis.sock", false, Some(CA), Err(BadRedis::CaUnused));
        for odd in [&b""[..], b"text", b"-----BEGIN CERTIFICATE-----\n?\n-----END CERTIFICATE-----"]
        {
            check("rediss://host", false, Some(odd), Err(BadRedis::CaMalformed));
        }
    }

    #[test]
    fn a_client_certificate_goes_with_tls_only_and_another_one_needs_another_connection() {
        let rules =
            |it: &str| RedisRules::read(it.as_bytes(), false, None, RedisRules::DEADLINE).unwrap();
        let identity = |key: &[u8]| RedisIdentity { certificate: CA.to_vec(), key: key.to_vec() };
        for url in ["redis://host", "redis+unix:///run/redis.sock"] {
            let found = rules(url).with_identity(identity(b"1"));
            assert_eq!(found, Err(BadRedis::IdentityUnused), "{url}");
        }
        let without = rules("rediss://host");
        let one = without.clone().with_identity(identity(b"1")).unwrap();
        let other = without.clone().with_identity(identity(b"2")).unwrap();
        assert!(one.reach_alike(&one.clone()));
        assert!(!one.reach_alike(&other) && !one.reach_alike(&without));
        assert!(one.is_where(&other) && one.is_where(&without));
    }

    #[test]
    fn another_password_leads_to_the_same_place() {
        let rules =
            |it: &str| RedisRules::read(it.as_bytes(), false, None, RedisRules::DEADLINE).unwrap();
        let here = rules("redis://user:old@host:6379/1");
        for (url, same) in [
            ("redis://user:new@host:6379/1", true),
            ("redis://host/1", true),
            ("redis://user:old@host:6379/2", false),
            ("redis://user:old@host:6380/1", false),
            ("redis://user:old@other:6379/1", false),
            ("redis+unix:///run/redis.sock?db=1", false),
        ] {
            assert_eq!(here.is_where(&rules(url)), same, "{url}");
        }
    }

    #[test]
    fn one_server_tells_which_cluster_it_is() {
        let rules = |file: &str, cluster| {
            RedisRules::read(file.as_bytes(), cluster, None, RedisRules::DEADLINE).unwrap()
        };
        let here = rules("redis://a\nredis://b:7000", true);
        for (file, cluster, same) in [
            ("redis://b:7000\nredis://a", true, true),
            ("redis://a\nredis://b:7000\nredis://c", true, true),
            ("redis://b:7000", true, true),
            ("redis://user:new@c\nredis://user:new@a", true, true),
            ("redis://b:7001", true, false),
            ("redis://c\nredis://d", true, false),
            ("redis://a", false, false),
        ] {
            let there = rules(file, cluster);
            assert_eq!(here.is_where(&there), same, "{file:?}");
            assert_eq!(there.is_where(&here), same, "{file:?}");
        }
    }

    #[test]
    fn debug_gives_no_password_away() {
        let file = b"redis://user:secret@host";
        let rules = RedisRules::read(file, false, None, RedisRules::DEADLINE).unwrap();
        assert!(!format!("{rules:?}").contains("secret"));
    }
}
