//! Where an issuer's keys come from: its metadata, a URL, or a file.

use super::rules::{KeyRules, KeySource, KeyUpkeep};
use super::{Failure, schedule};
use crate::state::discovery::{self, Metadata, Wanted};
use crate::state::http::{self, Client, Credentials, Limits, Reach};
use crate::state::snapshot;
use ::http::{HeaderValue, StatusCode};
use bytes::Bytes;
use reqwest::Url;
use std::fmt;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::time::Instant;

/// The source of an issuer's keys.
#[derive(Debug)]
pub(super) struct Source {
    place: Place,
    limits: Limits,
    /// The URL of the key set that was asked for last.
    asked: Option<Url>,
}

#[derive(Debug)]
enum Place {
    Discovery { issuer: String, client: Client, found: Option<(Url, Instant)> },
    Uri { url: Url, client: Client },
    File(PathBuf),
}

/// A version of the document at one URL. At another URL the same entity tag means something else.
#[derive(Clone, Debug)]
pub(super) struct Version {
    url: Url,
    etag: HeaderValue,
}

/// The result of a read.
#[derive(Debug)]
pub(super) struct Obtained {
    /// The JWK Set; `None` if the known version is still current.
    pub(super) document: Option<Bytes>,
    /// Its version.
    pub(super) version: Option<Version>,
    /// The lifetime that the issuer proposes.
    pub(super) lifetime: Option<Duration>,
}

/// A source that cannot be used as configured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BadSource {
    /// The certification authorities cannot be read.
    Credentials(http::BadCredentials),
    /// The URL is neither `https` nor `http` that is allowed, or it holds a password.
    UrlRefused,
}

impl fmt::Display for BadSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Credentials(_) => "the certification authorities of an issuer cannot be read",
            Self::UrlRefused => {
                "keys are fetched by https only, or by http from this machine, without `allow_http`"
            }
        })
    }
}

impl std::error::Error for BadSource {}

impl Source {
    pub(super) fn new(issuer: &str, rules: &KeyRules) -> Result<Self, BadSource> {
        let client = |server: &Url| {
            let credentials = Credentials { ca: rules.ca.as_deref(), identity: None };
            let client = Client::new(credentials).map_err(BadSource::Credentials)?;
            let client = client.allowing_http(rules.allow_http);
            Ok(match rules.bearer.clone() {
                Some(token) => client.with_bearer(server, token),
                None => client,
            })
        };
        let askable = |text: &str| {
            let url = Url::parse(text).or(Err(BadSource::UrlRefused))?;
            Reach::of(&url, rules.allow_http).map(|_| url).ok_or(BadSource::UrlRefused)
        };
        let place = match &rules.source {
            KeySource::Discovery => {
                let client = client(&askable(issuer)?)?;
                Place::Discovery { issuer: issuer.to_owned(), client, found: None }
            }
            KeySource::Uri(text) => {
                let url = askable(text)?;
                Place::Uri { client: client(&url)?, url }
            }
            KeySource::File(path) => Place::File(path.clone()),
        };
        let KeyUpkeep { max_bytes, fetch_timeout, .. } = rules.upkeep;
        let limits = Limits { bytes: max_bytes, deadline: fetch_timeout };
        Ok(Self { place, limits, asked: None })
    }

    /// Its name in the configuration.
    pub(super) const fn label(&self) -> &'static str {
        match self.place {
            Place::Discovery { .. } => "discovery",
            Place::Uri { .. } => "jwks_uri",
            Place::File(_) => "jwks_file",
        }
    }

    /// The URL or path, as configured.
    pub(super) fn place(&self) -> String {
        match &self.place {
            Place::Discovery { .. } => "discovery".to_owned(),
            Place::Uri { url, .. } => url.to_string(),
            Place::File(path) => path.display().to_string(),
        }
    }

    /// A fixed interval for reading this source again, if it has one.
    pub(super) const fn interval(&self) -> Option<Duration> {
        match self.place {
            Place::File(_) => Some(FILE_INTERVAL),
            Place::Discovery { .. } | Place::Uri { .. } => None,
        }
    }

    /// Reads the metadata of the issuer, and keeps in mind where its keys are. Only for keys that are
    /// discovered.
    pub(super) async fn discover(&mut self) -> Result<Metadata, discovery::Failure> {
        let Place::Discovery { issuer, client, found } = &mut self.place else {
            return Err(discovery::Failure::IssuerNotAUrl);
        };
        let deadline = for_metadata(self.limits.deadline);
        let limits = Limits { deadline, ..self.limits };
        let metadata = discovery::discover(client, issuer, Wanted::Keys, limits).await?;
        if let Some(url) = &metadata.jwks_uri {
            *found = Some((url.clone(), Instant::now()));
        }
        Ok(metadata)
    }

    /// The failure of a read that took too long.
    pub(super) fn late(&self) -> Failure {
        match &self.asked {
            Some(url) => Failure::Fetch(http::shown(url), http::Failure::TimedOut),
            None => Failure::Http(http::Failure::TimedOut),
        }
    }

    /// Reads the keys. `asked`: a token with an unknown key caused it. `failures`: how many reads
    /// have just failed in a row.
    pub(super) async fn read(
        &mut self,
        known: Option<&Version>,
        asked: bool,
        failures: u32,
    ) -> Result<Obtained, Failure> {
        let limits = self.limits;
        self.asked = None;
        match &self.place {
            Place::File(path) => return read_file(path.clone(), limits.bytes).await,
            Place::Uri { url, .. } => self.asked = Some(url.clone()),
            Place::Discovery { found, .. } => {
                let age = found.as_ref().map(|(_, at)| at.elapsed());
                if schedule::must_discover(age, asked, failures) {
                    let metadata = self.discover().await.map_err(Failure::Discovery)?;
                    let missing = || Failure::JwksUriMissing(metadata.location.to_string());
                    self.asked = Some(metadata.jwks_uri.clone().ok_or_else(missing)?);
                } else {
                    self.asked = found.as_ref().map(|(url, _)| url.clone());
                }
            }
        }
        let (Some(client), Some(url)) = (self.client(), &self.asked) else {
            return Err(Failure::JwksUriMissing(self.place()));
        };
        fetch(client, url, known, limits).await
    }

    const fn client(&self) -> Option<&Client> {
        match &self.place {
            Place::Discovery { client, .. } | Place::Uri { client, .. } => Some(client),
            Place::File(_) => None,
        }
    }
}

/// The part of the time for a fetch that the metadata may take, so that some is left for the keys.
fn for_metadata(whole: Duration) -> Duration {
    whole.saturating_mul(3).checked_div(4).unwrap_or_default()
}

async fn fetch(
    client: &Client,
    url: &Url,
    known: Option<&Version>,
    limits: Limits,
) -> Result<Obtained, Failure> {
    let known = known.filter(|it| it.url == *url);
    let fetched = client.fetch(url, known.map(|it| &it.etag), limits).await;
    let fetched = fetched.map_err(|failure| {
        let refused = [StatusCode::UNAUTHORIZED, StatusCode::FORBIDDEN].map(http::Failure::Status);
        if refused.contains(&failure) && client.withholds_bearer(url) {
            Failure::BearerWithheld(http::shown(url), failure)
        } else {
            Failure::Fetch(http::shown(url), failure)
        }
    })?;
    let named = fetched.etag.map(|etag| Version { url: url.clone(), etag });
    let version = match fetched.body {
        Some(_) => named,
        // A 304 need not repeat the entity tag.
        None => named.or_else(|| known.cloned()),
    };
    Ok(Obtained { document: fetched.body, version, lifetime: fetched.lifetime })
}

async fn read_file(path: PathBuf, limit: usize) -> Result<Obtained, Failure> {
    // A file may be on a network file system, and other issuers must not wait for it.
    let reading = tokio::task::spawn_blocking(move || content(&path, limit));
    let content = reading.await.map_err(|it| Failure::File(io::Error::from(it).kind()))??;
    Ok(Obtained { document: Some(Bytes::from(content)), version: None, lifetime: None })
}

fn content(path: &Path, limit: usize) -> Result<Vec<u8>, Failure> {
    let failure = |error: io::Error| Failure::File(error.kind());
    // Opening a pipe would block until there is a writer.
    if !fs::metadata(path).map_err(failure)?.is_file() {
        return Err(Failure::File(io::ErrorKind::InvalidInput));
    }
    let file = File::open(path).map_err(failure)?;
    let content = snapshot::bounded(file, limit).map_err(failure)?;
    content.ok_or(Failure::Http(http::Failure::TooLarge))
}

/// Reading a file is cheap. It is polled, since notifications break where Kubernetes swaps links
/// and on network file systems.
const FILE_INTERVAL: Duration = Duration::from_secs(5);
