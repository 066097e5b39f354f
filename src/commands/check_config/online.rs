//! `check-config --online`: what the issuers publish, and where that does not fit the configuration.

use crate::config::provider::Provider;
use crate::config::{Config, Problem};
use crate::installation::IssuerRules;
use crate::state::introspection;
use crate::state::jwks::{self, SkippedKey};
use keybound_core::jose::{Algorithm, KeySet, UnusableKey, VerifyingKey};
use keybound_core::words::Words;
use serde::Serialize;

/// What an issuer publishes.
#[derive(Debug, Default, Serialize)]
pub(super) struct Online {
    /// The place that answered with the metadata of this issuer, if they were needed.
    metadata: Option<String>,
    keys_at: Option<String>,
    keys: Vec<Key>,
    skipped_keys: Vec<SkippedKey>,
    /// The same in words.
    #[serde(skip)]
    skipped: Vec<String>,
    introspection: Option<Endpoint>,
}

/// A key that can be used.
#[derive(Debug, Serialize)]
struct Key {
    kid: Option<String>,
    kty: &'static str,
    algorithms: Vec<&'static str>,
}

/// An introspection endpoint.
#[derive(Debug, Serialize)]
struct Endpoint {
    url: Option<String>,
    /// The status of its answer to a HEAD request.
    answered: Option<u16>,
    authentication_methods: Option<Vec<String>>,
}

/// What does not fit.
#[derive(Debug, Default)]
pub(super) struct Misfits {
    pub(super) problems: Vec<Problem>,
    pub(super) warnings: Vec<Problem>,
}

/// Asks each issuer of `config`, all at once. No token is sent.
pub(super) async fn ask(config: &Config) -> (Vec<Online>, Misfits) {
    let issuers = config.rules.issuers.iter().enumerate();
    let asked = issuers.map(|(index, rules)| async move {
        let mut visit = Visit { config, index, rules, misfits: Misfits::default() };
        let online = visit.ask().await;
        (online, visit.misfits)
    });
    let mut all = Misfits::default();
    let mut found = vec![];
    for (online, misfits) in futures_util::future::join_all(asked).await {
        found.push(online);
        all.problems.extend(misfits.problems);
        all.warnings.extend(misfits.warnings);
    }
    (found, all)
}

/// One issuer while it is asked.
struct Visit<'a> {
    config: &'a Config,
    index: usize,
    rules: &'a IssuerRules,
    misfits: Misfits,
}

impl Visit<'_> {
    async fn ask(&mut self) -> Online {
        let mut online = Online::default();
        match jwks::survey(&self.rules.issuer.name, &self.rules.keys).await {
            Err(bad) => self.problem("keys", &bad.to_string()),
            Ok(found) => self.published(found, &mut online),
        }
        if let Some(rules) = &self.rules.introspection {
            let issuer = &self.rules.issuer;
            match introspection::survey(issuer, rules, &self.rules.keys).await {
                Err(bad) => self.problem("introspection", &bad.to_string()),
                Ok(found) => self.introspection(found, &mut online),
            }
        }
        online
    }

    fn published(&mut self, found: jwks::Survey, online: &mut Online) {
        match found.metadata {
            Some(Err(why)) => return self.problem("issuer", &format!("its metadata: {why}")),
            Some(Ok(metadata)) => online.metadata = Some(metadata.location.to_string()),
            None => (),
        }
        online.keys_at = found.keys_at;
        match found.keys {
            Err(why) => self.problem("keys", &why),
            Ok(set) => {
                online.keys = set.missing_from(&KeySet::default()).map(Key::of).collect();
                online.skipped = set.skipped().iter().map(ToString::to_string).collect();
                online.skipped_keys = set.skipped().iter().map(SkippedKey::of).collect();
                self.keys(&set);
            }
        }
    }

    /// Holds the keys against the algorithms that are accepted.
    fn keys(&mut self, set: &KeySet) {
        let skipped = set.skipped_in_words();
        if set.is_empty() {
            let skipped = if skipped.is_empty() { "the set is empty" } else { &skipped };
            return self.problem("keys", &format!("none of its keys can be used: {skipped}"));
        }
        if set.skipped().iter().any(|it| it.reason != UnusableKey::Use) {
            self.warning("keys", &format!("keys that cannot be used are skipped: {skipped}"));
        }
        let accepted = &self.rules.issuer.algorithms;
        let nothing = KeySet::default();
        let each = || set.missing_from(&nothing);
        let unserved: Vec<_> =
            accepted.iter().filter(|it| !each().any(|key| key.serves(**it))).collect();
        if unserved.len() == accepted.len() {
            let served = Algorithm::all().filter(|it| each().any(|key| key.serves(*it)));
            let served = names(served).join(", ");
            let accepted = names(accepted.iter().copied()).join(", ");
            let message =
                format!("no key of the issuer serves {accepted}: its keys are for {served}");
            return self.problem("algorithms", &message);
        }
        let usual = Provider::defaults(self.rules.issuer.provider.and_then(Provider::named));
        if !unserved.is_empty() && *accepted != usual.algorithms {
            let unserved = names(unserved.into_iter().copied()).join(", ");
            self.warning("algorithms", &format!("no key of the issuer serves {unserved}"));
        }
        let odd = each().filter(|key| !accepted.iter().any(|it| key.serves(*it)));
        for key in odd.map(Key::of).collect::<Vec<_>>() {
            let message = format!("tokens under {key} are refused: it serves none of these");
            self.warning("algorithms", &message);
        }
    }

    fn introspection(&mut self, found: introspection::Survey, online: &mut Online) {
        let at = "introspection";
        let metadata = found.metadata.transpose();
        match (&metadata, &found.endpoint, &found.reached) {
            (Err(why), ..) => self.problem(at, &format!("the metadata with its endpoint: {why}")),
            (Ok(_), None, _) => {
                self.problem(
                    at,
                    "the metadata name no endpoint that may be asked: give `endpoint`",
                );
            }
            (Ok(_), Some(url), Some(Err(why))) => {
                self.problem(at, &format!("{url} cannot be reached: {why}"));
            }
            (Ok(_), Some(_), Some(Ok(_)) | None) => (),
        }
        if !found.lists_ours {
            let listed = found.methods.as_deref().unwrap_or_default().join(" ");
            let ours = self.rules.introspection.as_ref().map_or("", |it| it.authentication.name());
            self.warning(at, &format!("the issuer announces {listed} for it, and not {ours}"));
        }
        if online.metadata.is_none() {
            online.metadata = metadata.ok().flatten();
        }
        online.introspection = Some(Endpoint {
            url: found.endpoint,
            answered: found.reached.and_then(Result::ok),
            authentication_methods: found.methods,
        });
    }

    fn problem(&mut self, key: &str, message: &str) {
        let problem = self.config.problem_of_issuer(self.index, key, message);
        self.misfits.problems.push(problem);
    }

    fn warning(&mut self, key: &str, message: &str) {
        let warning = self.config.problem_of_issuer(self.index, key, message);
        self.misfits.warnings.push(warning);
    }
}

impl Online {
    /// The findings as lines of text, in which nothing obeys a terminal.
    pub(super) fn lines(&self) -> Vec<String> {
        let mut lines = vec![];
        if let Some(location) = &self.metadata {
            lines.push(format!("metadata of this issuer at {location}"));
        }
        if let Some(location) = &self.keys_at {
            lines.push(format!("{} keys at {location}", self.keys.len()));
        }
        lines.extend(self.keys.iter().map(|it| format!("key {it}")));
        lines.extend(self.skipped.iter().map(|it| format!("skipped key {it}")));
        if let Some(Endpoint { url: Some(url), answered, authentication_methods }) =
            &self.introspection
        {
            let answered = answered.map_or("no answer".to_owned(), |it| format!("answered {it}"));
            let methods = authentication_methods.as_ref().map_or_else(
                || "no methods of authentication announced".to_owned(),
                |it| format!("announced: {}", it.join(" ").escape_debug()),
            );
            lines.push(format!("introspection at {url}, {answered} to HEAD; {methods}"));
        }
        lines
    }
}

impl Key {
    fn of(key: &VerifyingKey) -> Self {
        let kty = key.algorithms().next().map_or("none", Algorithm::key_type);
        let kid = key.kid().map(ToString::to_string);
        Self { kid, kty, algorithms: names(key.algorithms()) }
    }
}

impl std::fmt::Display for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.kid {
            Some(kid) => write!(f, "{kid:?}")?,
            None => f.write_str("without kid")?,
        }
        write!(f, " ({}): {}", self.kty, self.algorithms.join(" "))
    }
}

fn names(algorithms: impl Iterator<Item = Algorithm>) -> Vec<&'static str> {
    algorithms.map(Algorithm::name).collect()
}
