//! A Redis with a replica, and the sentinels that watch both.

use crate::redis::{Redis, write_certificates};
use keybound::state::replay::redis::{RedisRules, SentinelUrls};
use std::path::Path;
use std::time::Duration;
use tempfile::TempDir;
use tokio::task::yield_now;
use tokio::time::timeout;

/// The name by which the sentinels know the master.
pub(crate) const NAME: &str = "mymaster";

/// A Redis with a replica, and the sentinels that watch both.
pub(crate) struct Watched {
    /// The one that is the master at the beginning, and its replica.
    pub(crate) servers: [Redis; 2],
    pub(crate) sentinels: Vec<Redis>,
    certificates: Option<TempDir>,
}

impl Watched {
    /// With so many sentinels, which replace a master that is silent for as long.
    pub(crate) async fn start(sentinels: usize, patience: Duration) -> Self {
        Self::with(sentinels, patience, "", None).await
    }

    /// The same over TLS. A user of the servers and another of the sentinels, with passwords, may do
    /// what keybound asks for.
    pub(crate) async fn over_tls() -> Self {
        let certificates = TempDir::new().unwrap();
        write_certificates(certificates.path());
        let user = "user keybound on >of-sentinels +sentinel|get-master-addr-by-name\n";
        let it = Self::with(1, FOREVER, user, Some(certificates)).await;
        let rights = "~keybound:replay:* +set +get +time +eval +evalsha +role";
        for server in &it.servers {
            assert_eq!(server.ask(&format!("ACL SETUSER keybound on >of-servers {rights}")), "+OK");
        }
        it
    }

    async fn with(
        sentinels: usize,
        patience: Duration,
        more: &str,
        certificates: Option<TempDir>,
    ) -> Self {
        let tls = certificates.as_ref().map(TempDir::path);
        let master = Redis::replicating(&["--repl-diskless-sync-delay", "0"], tls);
        let address = master.url().replace(':', " ");
        let replica = Redis::replicating(&["--replicaof", &address], tls);
        let follows =
            || replica.strings("INFO replication").iter().any(|it| it == "master_link_status:up");
        until(follows).await;
        let watch =
            |_| watching(&master, sentinels.div_euclid(2).saturating_add(1), patience, more, tls);
        let all: Vec<_> = (0..sentinels).map(watch).collect();
        let knows = |it: &Redis, what: &str, count: usize| {
            let told = it.strings(&format!("SENTINEL MASTER {NAME}"));
            let place = told.iter().position(|it| it == what).unwrap();
            told.get(place.saturating_add(1)) == Some(&count.to_string())
        };
        let know = || {
            all.iter().all(|it| {
                knows(it, "num-slaves", 1)
                    && knows(it, "num-other-sentinels", sentinels.saturating_sub(1))
            })
        };
        until(know).await;
        Self { servers: [master, replica], sentinels: all, certificates }
    }

    /// What names the master.
    pub(crate) fn url(&self) -> String {
        match self.certificates {
            Some(_) => format!("rediss://keybound:of-servers@{NAME}"),
            None => format!("redis://{NAME}"),
        }
    }

    /// What names the sentinels.
    pub(crate) fn sentinel_urls(&self) -> String {
        urls(
            &self.sentinels,
            if self.certificates.is_some() {
                "rediss://keybound:of-sentinels@"
            } else {
                "redis://"
            },
        )
    }

    pub(crate) fn ca(&self) -> Option<Vec<u8>> {
        self.certificates.as_ref().map(|it| std::fs::read(it.path().join("ca.pem")).unwrap())
    }

    /// The rules of a store that finds it, in `deadline` for each record.
    pub(crate) fn rules(&self, deadline: Duration) -> RedisRules {
        rules(&self.url(), &self.sentinel_urls(), self.ca(), deadline)
    }

    /// Waits until the replica has all that the master has.
    pub(crate) async fn replicated(&self) {
        let [master, replica] = &self.servers;
        until(|| master.ask("DBSIZE") == replica.ask("DBSIZE")).await;
    }

    /// Waits until the sentinels name the server that was the replica.
    pub(crate) async fn failed_over(&self) {
        let port = self.servers[1].url().split_once(':').unwrap().1;
        let names = |it: &Redis| {
            it.strings(&format!("SENTINEL GET-MASTER-ADDR-BY-NAME {NAME}"))
                .iter()
                .any(|it| it == port)
        };
        until(|| self.sentinels.iter().filter(|it| it.is_up()).all(names)).await;
    }
}

/// A sentinel that takes `server` for the master.
pub(crate) fn watching(
    server: &Redis,
    quorum: usize,
    patience: Duration,
    more: &str,
    tls: Option<&Path>,
) -> Redis {
    let address = server.url().replace(':', " ");
    let millis = patience.as_millis();
    let lines = format!(
        "sentinel monitor {NAME} {address} {quorum}\n\
         sentinel down-after-milliseconds {NAME} {millis}\n\
         sentinel failover-timeout {NAME} 10000\n{more}"
    );
    let sentinel = Redis::sentinel(&lines, tls);
    let often = "INFO-PERIOD 100 ASK-PERIOD 100";
    assert_eq!(sentinel.ask(&format!("SENTINEL DEBUG {often}")), "+OK");
    sentinel
}

/// URLs of sentinels, one in each line.
pub(crate) fn urls(sentinels: &[Redis], scheme: &str) -> String {
    let lines: Vec<_> = sentinels.iter().map(|it| format!("{scheme}{}\n", it.url())).collect();
    lines.concat()
}

pub(crate) fn rules(
    url: &str,
    sentinels: &str,
    ca: Option<Vec<u8>>,
    deadline: Duration,
) -> RedisRules {
    let sentinels = SentinelUrls::read(sentinels.as_bytes()).unwrap();
    RedisRules::read_watched(url.as_bytes(), sentinels, ca, deadline).unwrap()
}

/// Waits until it holds.
async fn until(holds: impl Fn() -> bool) {
    let waiting = async {
        while !holds() {
            yield_now().await;
        }
    };
    timeout(Duration::from_secs(60), waiting).await.unwrap();
}

/// Longer than a test takes.
pub(crate) const FOREVER: Duration = Duration::from_secs(600);
