//! One look at what an issuer publishes, for commands that write or try a configuration.

use super::Failure;
use super::rules::{KeyRules, KeySource};
use super::source::{BadSource, Source};
use crate::state::discovery::Metadata;
use keybound_core::jose::KeySet;

/// What an issuer publishes.
#[derive(Debug)]
pub struct Survey {
    /// Its metadata, if its keys are discovered; an error is a clause.
    pub metadata: Option<Result<Metadata, String>>,
    /// Where its keys are: a URL or a path; `None` if that is not known.
    pub keys_at: Option<String>,
    /// Its keys, those that cannot be used among them; an error is a clause.
    pub keys: Result<KeySet, String>,
}

/// Reads the metadata and the keys of `issuer` once, by the rules that `serve` follows.
pub async fn survey(issuer: &str, rules: &KeyRules) -> Result<Survey, BadSource> {
    let mut source = Source::new(issuer, rules)?;
    let metadata = match rules.source {
        KeySource::Discovery => Some(source.discover().await.map_err(|it| it.to_string())),
        KeySource::Uri(_) | KeySource::File(_) => None,
    };
    let keys_at = match &metadata {
        Some(Ok(metadata)) => metadata.jwks_uri.as_ref().map(ToString::to_string),
        Some(Err(_)) => None,
        None => Some(source.place()),
    };
    let keys = match &metadata {
        Some(Err(_)) => Err("not read: the metadata say where they are".to_owned()),
        Some(Ok(_)) | None => keys(&mut source).await.map_err(|it| it.to_string()),
    };
    Ok(Survey { metadata, keys_at, keys })
}

async fn keys(source: &mut Source) -> Result<KeySet, Failure> {
    let obtained = source.read(None, false, 0).await?;
    KeySet::parse(&obtained.document.unwrap_or_default()).or(Err(Failure::Malformed))
}
