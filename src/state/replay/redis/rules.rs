//! The Redis connection and its limits, as configured.

use crate::state::replay::memory::MemoryLimits;
use redis::{
    ConnectionAddr, ConnectionInfo, ErrorKind, IntoConnectionInfo, RedisError, RedisResult,
};
use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;
use tokio_rustls::rustls::pki_types::CertificateDer;
use tokio_rustls::rustls::pki_types::pem::PemObject;

/// The Redis connection and its limits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RedisRules {
    /// One server, some servers of a cluster, or a master by its name.
    pub(super) urls: Vec<RedisUrl>,
    pub(super) layout: Layout,
    pub(super) ca: Option<Vec<u8>>,
    pub(super) identity: Option<RedisIdentity>,
    pub(super) deadline: Duration,
    pub(super) share: usize,
}

/// How the server for a record is found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Layout {
    /// There is one.
    One,
    /// It is one of a cluster.
    Cluster,
    /// It is the master that these sentinels name.
    Watched(Vec<RedisUrl>),
}

/// The URLs of sentinels, with their passwords.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SentinelUrls(Vec<RedisUrl>);

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
    /// The URL does not name a master that sentinels could know.
    MasterMalformed,
    /// The URL of a sentinel names a database, which it has none of.
    SentinelMalformed,
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
        let (urls, parsed) = RedisUrl::read(file)?;
        if parsed.len() != 1 && !cluster {
            return Err(BadRedis::UrlsTooMany);
        }
        if cluster {
            let client = redis::cluster::ClusterClientBuilder::new(parsed).build();
            drop(client.or(Err(BadRedis::ClusterMalformed))?);
        }
        let layout = if cluster { Layout::Cluster } else { Layout::One };
        Self::new(urls, layout, ca, deadline)
    }

    /// Reads a file with the URL of a master that sentinels watch: its name stands where the host
    /// does, and there is no port, as in `rediss://user:password@mymaster/0`.
    pub fn read_watched(
        file: &[u8],
        sentinels: SentinelUrls,
        ca: Option<Vec<u8>>,
        deadline: Duration,
    ) -> Result<Self, BadRedis> {
        const NO_PORT: u16 = 6379;
        let (urls, parsed) = RedisUrl::read(file)?;
        let [master] = parsed.as_slice() else { return Err(BadRedis::UrlsTooMany) };
        let (ConnectionAddr::Tcp(_, NO_PORT) | ConnectionAddr::TcpTls { port: NO_PORT, .. }) =
            master.addr()
        else {
            return Err(BadRedis::MasterMalformed);
        };
        Self::new(urls, Layout::Watched(sentinels.0), ca, deadline)
    }

    fn new(
        urls: Vec<RedisUrl>,
        layout: Layout,
        ca: Option<Vec<u8>>,
        deadline: Duration,
    ) -> Result<Self, BadRedis> {
        let rules = Self { urls, layout, ca, identity: None, deadline, share: Self::SHARE };
        if let Some(ca) = &rules.ca {
            if !rules.is_over_tls() {
                return Err(BadRedis::CaUnused);
            }
            let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(ca).collect();
            if certificates.map_or(true, |it| it.is_empty()) {
                return Err(BadRedis::CaMalformed);
            }
        }
        Ok(rules)
    }

    /// Sets the client certificate that is shown to Redis: for `rediss` URLs only.
    pub fn with_identity(self, identity: RedisIdentity) -> Result<Self, BadRedis> {
        if !self.is_over_tls() {
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

    /// Whether any connection is over TLS.
    fn is_over_tls(&self) -> bool {
        let is_tls = |it: &ConnectionInfo| matches!(it.addr(), ConnectionAddr::TcpTls { .. });
        let urls = self.urls.iter().chain(self.sentinels());
        urls.flat_map(RedisUrl::parse).any(|it| is_tls(&it))
    }

    fn sentinels(&self) -> &[RedisUrl] {
        if let Layout::Watched(sentinels) = &self.layout { sentinels } else { &[] }
    }

    /// The hosts of servers with unencrypted connections, or the name of their master.
    pub fn hosts_in_the_clear(&self) -> impl Iterator<Item = String> {
        in_the_clear(&self.urls)
    }

    /// The hosts of sentinels with unencrypted connections.
    pub fn sentinels_in_the_clear(&self) -> impl Iterator<Item = String> {
        in_the_clear(self.sentinels())
    }

    /// Whether one connection would serve both.
    pub(super) fn reach_alike(&self, other: &Self) -> bool {
        let Self { urls, layout, ca, identity, deadline, share: _ } = self;
        (urls, layout, ca, identity, *deadline)
            == (&other.urls, &other.layout, &other.ca, &other.identity, other.deadline)
    }

    /// Whether `other` has the same servers and database, whatever its user and deadline. Two
    /// clusters are the same if they share a server, and two masters of one name if they share a
    /// sentinel.
    pub fn is_where(&self, other: &Self) -> bool {
        let (here, there) = (places(&self.urls), places(&other.urls));
        match (&self.layout, &other.layout) {
            (Layout::Cluster, Layout::Cluster) => !here.is_disjoint(&there),
            (Layout::One, Layout::One) => here == there,
            (Layout::Watched(own), Layout::Watched(others)) => {
                here == there && !places(own).is_disjoint(&places(others))
            }
            (Layout::One | Layout::Cluster | Layout::Watched(_), _) => false,
        }
    }
}

/// The servers and databases.
fn places(urls: &[RedisUrl]) -> BTreeSet<(String, i64)> {
    urls.iter().filter_map(RedisUrl::place).collect()
}

fn in_the_clear(urls: &[RedisUrl]) -> impl Iterator<Item = String> {
    urls.iter().filter_map(|it| {
        let parsed = it.parse().ok()?;
        let ConnectionAddr::Tcp(host, _) = parsed.addr() else { return None };
        Some(host.clone())
    })
}

impl SentinelUrls {
    /// Reads a file with the URL of a sentinel in each line, as in `redis://:password@host:26379`.
    pub fn read(file: &[u8]) -> Result<Self, BadRedis> {
        let (urls, parsed) = RedisUrl::read(file)?;
        if parsed.iter().any(|it| it.redis_settings().db() != 0) {
            return Err(BadRedis::SentinelMalformed);
        }
        Ok(Self(urls))
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

    /// The URLs in a file, one in each line, and what they say.
    fn read(file: &[u8]) -> Result<(Vec<Self>, Vec<ConnectionInfo>), BadRedis> {
        let text = std::str::from_utf8(file).or(Err(BadRedis::UrlMissing))?;
        let lines = text.lines().map(str::trim).filter(|it| !it.is_empty());
        let urls: Vec<_> = lines.map(|it| Self(it.to_owned())).collect();
        let parsed = urls.iter().map(Self::parse).collect::<Result<Vec<_>, _>>()?;
        if urls.is_empty() { Err(BadRedis::UrlMissing) } else { Ok((urls, parsed)) }
    }

    /// What it says, for a connection.
    pub(super) fn info(&self) -> RedisResult<ConnectionInfo> {
        let bad = RedisError::from((ErrorKind::InvalidClientConfig, "not a URL of Redis"));
        self.parse().or(Err(bad))
    }

    fn parse(&self) -> Result<ConnectionInfo, BadRedis> {
        if self.0.contains('#') {
            return Err(BadRedis::UrlInsecure);
        }
        self.0.as_str().into_connection_info().or(Err(BadRedis::UrlMalformed))
    }
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
            Self::MasterMalformed => {
                "must hold a redis or rediss URL with the name of the master that the sentinels watch \
                 where the host stands, and without a port"
            }
            Self::SentinelMalformed => "must hold URLs without a database: sentinels have none",
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

    #[track_caller]
    fn watched(file: &str, sentinels: &str) -> RedisRules {
        let sentinels = SentinelUrls::read(sentinels.as_bytes()).unwrap();
        RedisRules::read_watched(file.as_bytes(), sentinels, None, RedisRules::DEADLINE).unwrap()
    }

    #[test]
    fn sentinels_have_urls_of_their_own_and_the_master_has_a_name() {
        for (url, name) in [
            ("redis://mymaster", "mymaster"),
            ("rediss://user:p%40ss@My-Master_1.a/3", "My-Master_1.a"),
        ] {
            for sentinels in
                ["redis://s", "redis://u:p@s:26379\nrediss://t\nredis+unix:///run/s.sock"]
            {
                let rules = watched(url, sentinels);
                let (place, _) = rules.urls[0].place().unwrap();
                assert_eq!(place, format!("{name}:6379"));
                assert_eq!(rules.sentinels().len(), sentinels.lines().count());
            }
        }
        let sentinels = SentinelUrls::read(b"redis://s").unwrap();
        for (file, expected) in [
            ("", BadRedis::UrlMissing),
            ("redis://a\nredis://b", BadRedis::UrlsTooMany),
            ("redis://mymaster:6380", BadRedis::MasterMalformed),
            ("rediss://mymaster:26379", BadRedis::MasterMalformed),
            ("redis+unix:///run/redis.sock", BadRedis::MasterMalformed),
        ] {
            let (file, urls) = (file.as_bytes(), sentinels.clone());
            let found = RedisRules::read_watched(file, urls, None, RedisRules::DEADLINE);
            assert_eq!(found, Err(expected));
        }
        for (file, expected) in [
            ("", BadRedis::UrlMissing),
            ("host:26379", BadRedis::UrlMalformed),
            ("redis://s/1", BadRedis::SentinelMalformed),
            ("redis://s\nredis://t/1", BadRedis::SentinelMalformed),
            ("rediss://s/#insecure", BadRedis::UrlInsecure),
        ] {
            assert_eq!(SentinelUrls::read(file.as_bytes()), Err(expected), "{file}");
        }
    }

    #[test]
    fn an_authority_is_of_use_where_the_servers_or_the_sentinels_have_tls() {
        for (url, sentinel, of_use) in [
            ("rediss://m", "rediss://s", true),
            ("rediss://m", "redis://s", true),
            ("redis://m", "rediss://s", true),
            ("redis://m", "redis://s", false),
        ] {
            let sentinels = SentinelUrls::read(sentinel.as_bytes()).unwrap();
            let (ca, deadline) = (Some(CA.to_vec()), RedisRules::DEADLINE);
            let found = RedisRules::read_watched(url.as_bytes(), sentinels, ca, deadline);
            assert_eq!(found.is_ok(), of_use, "{url} {sentinel} {found:?}");
            let identity = RedisIdentity { certificate: CA.to_vec(), key: b"1".to_vec() };
            let found = watched(url, sentinel).with_identity(identity);
            assert_eq!(found.is_ok(), of_use, "{url} {sentinel} {found:?}");
        }
    }

    #[test]
    fn one_sentinel_tells_which_master_it_is() {
        let here = watched("redis://m/1", "redis://a\nredis://b:7000");
        for (url, sentinels, same) in [
            ("redis://u:new@m/1", "redis://:new@b:7000", true),
            ("redis://m/1", "redis://c\nredis://a", true),
            ("redis://m/1", "redis://c\nredis://b:7001", false),
            ("redis://m/2", "redis://a", false),
            ("redis://n/1", "redis://a", false),
        ] {
            let there = watched(url, sentinels);
            assert_eq!(here.is_where(&there), same, "{url} {sentinels}");
            assert_eq!(there.is_where(&here), same, "{url} {sentinels}");
            assert!(!here.reach_alike(&there));
        }
        assert!(here.reach_alike(&here.clone()));
        let one = RedisRules::read(b"redis://m/1", false, None, RedisRules::DEADLINE).unwrap();
        for (one, other) in [(&here, &one), (&one, &here)] {
            assert!(!one.is_where(other) && !one.reach_alike(other));
        }
    }

    #[test]
    fn debug_gives_no_password_away() {
        let file = b"redis://user:secret@host";
        let rules = RedisRules::read(file, false, None, RedisRules::DEADLINE).unwrap();
        let watched = watched("redis://user:secret@m", "redis://:secret@s");
        assert!(!format!("{rules:?}{watched:?}").contains("secret"));
    }
}
