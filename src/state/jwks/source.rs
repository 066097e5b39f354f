//! Knows where an issuer's keys come from: its metadata, a URL, or a file.

use super::rules::{KeyRules, KeySource, KeyUpkeep};
use super::snapshot;
use super::{Failure, schedule};
use crate::state::discovery;
use crate::state::http::{self, Client, Credentials, Limits, Reach};
use ::http::HeaderValue;
use bytes::Bytes;
use reqwest::Url;
use std::fmt;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::time::Instant;

/// The place that an issuer's keys are had from.
#[derive(Debug)]
pub(super) struct Source {
    place: Place,
    limits: Limits,
}

#[derive(Debug)]
enum Place {
    Discovery { issuer: String, client: Client, found: Option<(Url, Instant)> },
    Uri { url: Url, client: Client },
    File(PathBuf),
}

/// Names a version of the document at a place. At another place the same name means another thing.
#[derive(Clone, Debug)]
pub(super) struct Version {
    url: Url,
    etag: HeaderValue,
}

/// What was had.
#[derive(Debug)]
pub(super) struct Obtained {
    /// The JWK Set; none when the version that was known still holds.
    pub(super) document: Option<Bytes>,
    /// Names it.
    pub(super) version: Option<Version>,
    /// For how long the issuer proposes to keep it.
    pub(super) lifetime: Option<Duration>,
}

/// The rules of a source contradict themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadSource {
    /// The certification authorities cannot be read.
    Credentials(http::BadCredentials),
    /// The URL is neither `https` nor `http` to loopback, or it holds a password.
    UrlRefused,
}

impl fmt::Display for BadSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Credentials(_) => "the certification authorities of an issuer cannot be read",
            Self::UrlRefused => "keys are fetched by https only, or by http from this machine",
        })
    }
}

impl std::error::Error for BadSource {}

impl Source {
    pub(super) fn new(issuer: &str, rules: &KeyRules) -> Result<Self, BadSource> {
        let client = || {
            let credentials = Credentials { ca: rules.ca.as_deref(), identity: None };
            Client::new(credentials).map_err(BadSource::Credentials)
        };
        let askable = |text: &str| {
            let url = Url::parse(text).or(Err(BadSource::UrlRefused))?;
            Reach::of(&url).map(|_| url).ok_or(BadSource::UrlRefused)
        };
        let place = match &rules.source {
            KeySource::Discovery => {
                askable(issuer)?;
                Place::Discovery { issuer: issuer.to_owned(), client: client()?, found: None }
            }
            KeySource::Uri(text) => Place::Uri { url: askable(text)?, client: client()? },
            KeySource::File(path) => Place::File(path.clone()),
        };
        let KeyUpkeep { max_bytes, fetch_timeout, .. } = rules.upkeep;
        Ok(Self { place, limits: Limits { bytes: max_bytes, deadline: fetch_timeout } })
    }

    /// As the configuration names it.
    pub(super) const fn label(&self) -> &'static str {
        match self.place {
            Place::Discovery { .. } => "discovery",
            Place::Uri { .. } => "jwks_uri",
            Place::File(_) => "jwks_file",
        }
    }

    /// The place itself, as the configuration gives it.
    pub(super) fn place(&self) -> String {
        match &self.place {
            Place::Discovery { .. } => "discovery".to_owned(),
            Place::Uri { url, .. } => url.to_string(),
            Place::File(path) => path.display().to_string(),
        }
    }

    /// When the source is to be read again whatever it says, if there is such a time.
    pub(super) const fn interval(&self) -> Option<Duration> {
        match self.place {
            Place::File(_) => Some(FILE_INTERVAL),
            Place::Discovery { .. } | Place::Uri { .. } => None,
        }
    }

    /// Reads the keys. `asked`: because of a token with an unknown key. `failures`: how many reads
    /// have just failed.
    pub(super) async fn read(
        &mut self,
        known: Option<&Version>,
        asked: bool,
        failures: u32,
    ) -> Result<Obtained, Failure> {
        let limits = self.limits;
        match &mut self.place {
            Place::File(path) => read_file(path.clone(), limits.bytes).await,
            Place::Uri { url, client } => fetch(client, url, known, limits).await,
            Place::Discovery { issuer, client, found } => {
                let age = found.as_ref().map(|(_, at)| at.elapsed());
                if schedule::must_discover(age, asked, failures) {
                    let metadata = discovery::discover(client, issuer, limits).await;
                    let metadata = metadata.map_err(Failure::Discovery)?;
                    let url = metadata.jwks_uri.ok_or(Failure::JwksUriMissing)?;
                    *found = Some((url, Instant::now()));
                }
                let (url, _) = found.as_ref().ok_or(Failure::JwksUriMissing)?;
                fetch(client, url, known, limits).await
            }
        }
    }
}

async fn fetch(
    client: &Client,
    url: &Url,
    known: Option<&Version>,
    limits: Limits,
) -> Result<Obtained, Failure> {
    let known = known.filter(|it| it.url == *url);
    let fetched = client.fetch(url, known.map(|it| &it.etag), limits).await;
    let fetched = fetched.map_err(Failure::Http)?;
    let named = fetched.etag.map(|etag| Version { url: url.clone(), etag });
    let version = match fetched.body {
        Some(_) => named,
        // A 304 need not repeat the name.
        None => named.or_else(|| known.cloned()),
    };
    Ok(Obtained { document: fetched.body, version, lifetime: fetched.lifetime })
}

async fn read_file(path: PathBuf, limit: usize) -> Result<Obtained, Failure> {
    // A file may be on a network, too; the other issuers must not wait for it.
    let reading = tokio::task::spawn_blocking(move || content(&path, limit));
    let content = reading.await.map_err(|it| Failure::File(io::Error::from(it).kind()))??;
    Ok(Obtained { document: Some(Bytes::from(content)), version: None, lifetime: None })
}

fn content(path: &Path, limit: usize) -> Result<Vec<u8>, Failure> {
    let failure = |error: io::Error| Failure::File(error.kind());
    // Opening a pipe would wait for a writer.
    if !fs::metadata(path).map_err(failure)?.is_file() {
        return Err(Failure::File(io::ErrorKind::InvalidInput));
    }
    let file = File::open(path).map_err(failure)?;
    let content = snapshot::bounded(file, limit).map_err(failure)?;
    content.ok_or(Failure::Http(http::Failure::TooLarge))
}

/// A file costs nothing to read. It is read, and not watched, since a watch breaks where Kubernetes
/// swaps links and where a network is in between.
const FILE_INTERVAL: Duration = Duration::from_secs(5);
