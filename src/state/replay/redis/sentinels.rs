//! Finds the master among servers that Redis Sentinel watches.
//!
//! All sentinels are asked at once, and the address counts that more than half of those name that
//! name any: one that was cut off from the others, and missed a failover, is outvoted. What they say
//! is no proof, so who connects to the master asks for its role as well.

use super::link::certificates;
use super::refusal::told;
use super::rules::{RedisRules, RedisUrl};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, Cmd, ErrorKind, RedisError, RedisResult, Value};
use std::fmt;
use std::time::Duration;
use tokio::sync::Mutex;
use tokio::time::timeout;

/// The sentinels of one master.
pub(super) struct Sentinels {
    master: String,
    all: Vec<Sentinel>,
}

/// One of them, and the connection to it once there is one.
struct Sentinel {
    name: String,
    client: Client,
    link: Mutex<Option<MultiplexedConnection>>,
}

/// The address of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Address {
    pub(super) host: String,
    pub(super) port: u16,
}

/// Why the master is not known.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Unknown {
    /// No sentinel answers, or none answers us.
    Silence {
        /// What became of each.
        why: String,
        /// They want a password or a certificate that we do not have.
        is_refused: bool,
    },
    /// No sentinel knows this name.
    Name(String),
    /// They name different servers.
    Disagreement(String),
}

/// What one sentinel says: the address of the master, or that it knows none of this name.
type Answer = RedisResult<Option<Address>>;

impl Sentinels {
    /// The sentinels that the rules name. No connection is made yet.
    pub(super) fn new(rules: &RedisRules, urls: &[RedisUrl], master: String) -> RedisResult<Self> {
        let sentinel = |url: &RedisUrl| {
            let info = url.info()?;
            let name = info.addr().to_string();
            let client = match certificates(rules) {
                Some(certificates) => Client::build_with_tls(info, certificates)?,
                None => Client::open(info)?,
            };
            Ok(Sentinel { name, client, link: Mutex::default() })
        };
        Ok(Self { master, all: urls.iter().map(sentinel).collect::<RedisResult<_>>()? })
    }

    /// Asks where the master is. Takes no longer than [`PATIENCE`].
    pub(super) async fn find(&self) -> Result<Address, Unknown> {
        let ask = async |it: &Sentinel| {
            let answer = timeout(PATIENCE, it.ask(&self.master)).await;
            (it.name.clone(), answer.unwrap_or_else(|_| Err(RedisError::from(LATE))))
        };
        let mut asked: FuturesUnordered<_> = self.all.iter().map(ask).collect();
        let mut answers = Vec::new();
        while let Some(answer) = asked.next().await {
            answers.push(answer);
            // Those that are still silent cannot change that.
            if let Some(found) = most_named(&answers, self.all.len()) {
                return Ok(found.clone());
            }
        }
        decide(&answers, &self.master)
    }
}

impl Sentinel {
    async fn ask(&self, master: &str) -> Answer {
        let mut link = self.link.lock().await;
        let mut connection = match link.take() {
            Some(connection) => connection,
            None => self.connect().await?,
        };
        let mut command = Cmd::new();
        command.arg("SENTINEL").arg("GET-MASTER-ADDR-BY-NAME").arg(master);
        let answer = command.query_async(&mut connection).await?;
        // One that failed, or was given up while it was asked, is not asked again.
        *link = Some(connection);
        address(&answer)
    }

    async fn connect(&self) -> RedisResult<MultiplexedConnection> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(PATIENCE))
            .set_response_timeout(Some(PATIENCE));
        self.client.get_multiplexed_async_connection_with_config(&config).await
    }
}

/// The address that more than half of `voters` name.
fn most_named(answers: &[(String, Answer)], voters: usize) -> Option<&Address> {
    let named = || answers.iter().filter_map(|(_, it)| it.as_ref().ok()?.as_ref());
    named().find(|it| voters < named().filter(|other| other == it).count().saturating_mul(2))
}

/// What all answers together say.
fn decide(answers: &[(String, Answer)], master: &str) -> Result<Address, Unknown> {
    let named = answers.iter().filter(|(_, it)| matches!(it, Ok(Some(_))));
    if let Some(found) = most_named(answers, named.clone().count()) {
        return Ok(found.clone());
    }
    if named.clone().next().is_some() {
        let say = |(sentinel, answer): &(String, Answer)| {
            let address = answer.as_ref().ok()?.as_ref()?;
            Some(format!("{sentinel} names {address}"))
        };
        return Err(Unknown::Disagreement(joined(named.filter_map(say))));
    }
    if answers.iter().any(|(_, it)| it.is_ok()) {
        return Err(Unknown::Name(master.to_owned()));
    }
    let failures = || answers.iter().filter_map(|(name, it)| Some((name, it.as_ref().err()?)));
    let why = joined(failures().map(|(sentinel, error)| format!("{sentinel}: {}", told(error))));
    let is_refused =
        failures().any(|(_, it)| super::Unavailable::of(it) == super::Unavailable::NotPermitted);
    Err(Unknown::Silence { why, is_refused })
}

fn joined(parts: impl Iterator<Item = String>) -> String {
    parts.collect::<Vec<_>>().join("; ")
}

/// The address in an answer.
fn address(answer: &Value) -> Answer {
    let odd = || RedisError::from((ErrorKind::UnexpectedReturnType, "not an address of a master"));
    let text = |it: &Value| {
        let Value::BulkString(octets) = it else { return Err(odd()) };
        String::from_utf8(octets.clone()).or(Err(odd()))
    };
    if *answer == Value::Nil {
        return Ok(None);
    }
    let Value::Array(parts) = answer else { return Err(odd()) };
    let [host, port] = parts.as_slice() else { return Err(odd()) };
    let (host, port) = (text(host)?, text(port)?.parse().or(Err(odd()))?);
    if host.is_empty() || port == 0 {
        return Err(odd());
    }
    Ok(Some(Address { host, port }))
}

impl From<Unknown> for RedisError {
    fn from(unknown: Unknown) -> Self {
        let (kind, what, which) = match unknown {
            Unknown::Silence { why, is_refused: true } => {
                (ErrorKind::AuthenticationFailed, "no sentinel answers", why)
            }
            Unknown::Silence { why, is_refused: false } => {
                (ErrorKind::Io, "no sentinel answers", why)
            }
            Unknown::Name(name) => {
                let hint = "the host of `dpop.replay.url_file` must be the name of a master";
                (ErrorKind::Io, "the sentinels know no master", format!("`{name}`: {hint}"))
            }
            Unknown::Disagreement(which) => {
                (ErrorKind::Io, "the sentinels disagree about the master", which)
            }
        };
        Self::from((kind, what, which))
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

impl fmt::Debug for Sentinels {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.all.iter().map(|it| &it.name)).finish()
    }
}

/// How long a sentinel may take, with the connection.
pub(super) const PATIENCE: Duration = Duration::from_millis(500);

const LATE: (ErrorKind, &str) = (ErrorKind::Io, "late answer");

#[cfg(test)]
mod tests {
    use super::*;

    fn at(port: u16) -> Address {
        Address { host: "10.0.0.1".to_owned(), port }
    }

    fn silent() -> Answer {
        Err(RedisError::from(LATE))
    }

    fn refusing() -> Answer {
        Err(RedisError::from((ErrorKind::AuthenticationFailed, "wrong password")))
    }

    fn of(answers: impl IntoIterator<Item = Answer>) -> Vec<(String, Answer)> {
        answers.into_iter().zip(1..).map(|(it, place)| (format!("s{place}"), it)).collect()
    }

    #[test]
    fn the_address_counts_that_more_than_half_of_those_name_that_name_any() {
        for answers in [
            of([Ok(Some(at(1)))]),
            of([Ok(Some(at(1))), silent(), silent()]),
            of([Ok(Some(at(1))), Ok(None), Ok(None)]),
            of([Ok(Some(at(2))), Ok(Some(at(1))), Ok(Some(at(1)))]),
            of([Ok(Some(at(1))), refusing(), Ok(Some(at(1))), Ok(Some(at(2)))]),
        ] {
            assert_eq!(decide(&answers, "m"), Ok(at(1)), "{answers:?}");
        }
        for answers in [
            of([Ok(Some(at(1))), Ok(Some(at(2)))]),
            of([Ok(Some(at(1))), Ok(Some(at(2))), silent()]),
            of([Ok(Some(at(1))), Ok(Some(at(1))), Ok(Some(at(2))), Ok(Some(at(3)))]),
        ] {
            let found = decide(&answers, "m");
            assert!(matches!(found, Err(Unknown::Disagreement(_))), "{answers:?}");
        }
        let told =
            RedisError::from(decide(&of([Ok(Some(at(1))), Ok(Some(at(2)))]), "m").unwrap_err())
                .to_string();
        assert!(told.contains("s1 names 10.0.0.1:1; s2 names 10.0.0.1:2"), "{told}");
    }

    #[test]
    fn no_more_are_waited_for_once_they_cannot_change_it() {
        for (answers, voters, found) in [
            (of([Ok(Some(at(1)))]), 1, Some(at(1))),
            (of([Ok(Some(at(1)))]), 2, None),
            (of([Ok(Some(at(1))), Ok(Some(at(1)))]), 3, Some(at(1))),
            (of([Ok(Some(at(1))), Ok(Some(at(2)))]), 3, None),
            (of([Ok(Some(at(1))), Ok(Some(at(1)))]), 4, None),
            (of([silent(), Ok(None)]), 2, None),
        ] {
            assert_eq!(most_named(&answers, voters), found.as_ref(), "{answers:?} {voters}");
        }
    }

    #[test]
    fn without_an_address_it_is_told_what_the_sentinels_lack() {
        for (answers, expected) in [
            (of([Ok(None), silent()]), Unknown::Name("m".to_owned())),
            (of([Ok(None), refusing()]), Unknown::Name("m".to_owned())),
        ] {
            assert_eq!(decide(&answers, "m"), Err(expected));
        }
        for (answers, refused, told) in [
            (of([silent()]), false, "s1: late answer"),
            (of([silent(), refusing()]), true, "s2: wrong password"),
        ] {
            let Err(Unknown::Silence { why, is_refused }) = decide(&answers, "m") else {
                unreachable!("none of them answers")
            };
            assert_eq!(is_refused, refused);
            assert!(why.contains(told), "{why}");
        }
    }

    #[test]
    fn an_answer_is_an_address_or_nothing() {
        let bulk = |text: &str| Value::BulkString(text.as_bytes().to_vec());
        let pair = |host: &str, port: &str| Value::Array(vec![bulk(host), bulk(port)]);
        for (host, told) in [
            ("10.0.0.1", "10.0.0.1:1"),
            ("redis.example.com", "redis.example.com:1"),
            ("::1", "[::1]:1"),
        ] {
            let found = address(&pair(host, "1")).unwrap().unwrap();
            assert_eq!((&*found.host, found.port), (host, 1));
            assert_eq!(found.to_string(), told);
        }
        assert_eq!(address(&Value::Nil), Ok(None));
        for odd in [
            Value::Okay,
            bulk("10.0.0.1"),
            Value::Array(vec![bulk("10.0.0.1")]),
            pair("", "1"),
            pair("h", "0"),
            pair("h", "65536"),
            pair("h", "x"),
        ] {
            assert!(address(&odd).is_err(), "{odd:?}");
        }
    }
}
