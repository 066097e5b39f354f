//! A token of an issuer, from which only that is taken which verifies under the issuer's keys.

use crate::config::provider::Provider;
use crate::config::token_kinds;
use crate::config::written::shown;
use keybound_core::jose::json::Object;
use keybound_core::jose::{Algorithm, Header, KeySet, Unverified, Verified};
use keybound_core::oauth::AccessToken;
use keybound_core::policy::{ClaimsFrom, Issuer};
use keybound_core::{Explanation, UnixTime};
use serde_json::Value;
use std::sync::Arc;

/// A token whose signature was verified.
#[derive(Debug)]
pub(super) struct Sample {
    pub(super) header: Header,
    pub(super) algorithm: Algorithm,
    verified: Verified,
}

impl Sample {
    /// `token`, if one of `keys` verifies it; otherwise why nothing is taken from it, as a clause.
    pub(super) fn verify(token: &str, keys: &KeySet) -> Result<Self, String> {
        let jws = Unverified::parse(token.as_bytes()).or(Err(OPAQUE))?;
        let header = jws.header().clone();
        let algorithm = header.algorithm.ok_or(
            "its algorithm is none that is supported here: symmetric ones and `none` never are",
        )?;
        let kid = header.kid.as_deref();
        let mut candidates = keys.candidates(kid, algorithm).peekable();
        if candidates.peek().is_none() {
            let kid = kid.map_or_else(|| "without `kid`".to_owned(), shown);
            return Err(format!("its key {kid} for {algorithm} is not among the issuer's"));
        }
        let verified = jws.verify(algorithm, candidates);
        let (verified, _) =
            verified.or(Err("its signature does not verify under the issuer's keys"))?;
        Ok(Self { header, algorithm, verified })
    }

    pub(super) const fn claims(&self) -> &Object {
        self.verified.claims()
    }

    /// The claim, unless it is null.
    pub(super) fn claim(&self, name: &str) -> Option<&Value> {
        self.claims().get(name).filter(|it| !it.is_null())
    }

    /// The strings at `name`: one, or a list.
    pub(super) fn texts(&self, name: &str) -> Vec<&str> {
        match self.claim(name) {
            Some(Value::String(text)) => vec![text],
            Some(Value::Array(items)) => items.iter().filter_map(Value::as_str).collect(),
            Some(_) | None => vec![],
        }
    }

    /// Whether the header has the type of access tokens (RFC 9068 §2.1).
    pub(super) fn says_access_token(&self) -> bool {
        token_kinds::is_marked(&self.header)
    }

    /// The access token, read and judged by the rules of `serve`; otherwise why nothing is taken from
    /// it, as a clause.
    pub(super) fn read(
        &self,
        issuer: &Arc<Issuer>,
        provider: Option<Provider>,
        now: UnixTime,
    ) -> Result<AccessToken, String> {
        if let Some(iss) = self.claim("iss").filter(|it| it.as_str() != Some(&issuer.name)) {
            let iss = iss.as_str().unwrap_or_default();
            return Err(format!("its `iss` is {}, not the issuer's name, exactly", shown(iss)));
        }
        if let Some(kind) = self.other_kind(provider) {
            return Err(kind);
        }
        let mut explanation = Explanation::kept();
        let token = AccessToken::read(
            &self.header,
            &self.verified,
            issuer,
            ClaimsFrom::Token,
            &Arc::from([]),
            &mut explanation,
        );
        let token = token.and_then(|it| it.admit(now, &mut explanation).map(|()| it));
        token.map_err(|denial| {
            let details = explanation.fault().map(|it| {
                format!(": `{}` is {}, wanted: {}", it.what, shown(&it.found), it.wanted)
            });
            format!("{}{}", denial.sentence(), details.unwrap_or_default())
        })
    }

    /// What it is if it is no access token.
    fn other_kind(&self, provider: Option<Provider>) -> Option<String> {
        let claims = self.verified.claims();
        let takes_id_tokens = provider == Some(Provider::Google);
        if let Some(kind) = token_kinds::other_kind(&self.header, claims, takes_id_tokens) {
            return Some(format!("it is {kind}, not an access token"));
        }
        // Without a row that tells them apart, an ID token must not pass for an access token.
        let signs = ["scope", "scp", "client_id", "cid", "appid", "cnf"];
        let has_sign = signs.iter().any(|it| self.claim(it).is_some());
        if provider.is_none() && !self.says_access_token() && !has_sign {
            return Some(
                "nothing in it tells it from an ID token: it has no scope, no client and no `cnf`"
                    .to_owned(),
            );
        }
        None
    }
}

/// Why nothing is taken from a token that is no JWT.
pub(super) const OPAQUE: &str = "it is no signed JWT: opaque tokens need `introspection`";
