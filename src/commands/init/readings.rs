//! How the tokens of an issuer are read: by the row of its provider, and by keys of the configuration
//! where its keys or a token of it need more.

use super::sample::Sample;
use crate::config::provider::{Defaults, Provider};
use keybound_core::jose::{Algorithm, KeySet};
use keybound_core::policy::{AUDIENCE, Issuer, TokenType};
use keybound_core::words::Words;
use std::sync::Arc;

/// The keys of the configuration that differ from the row of the provider, each with its reason.
#[derive(Debug, Default)]
pub(super) struct Readings {
    pub(super) algorithms: Option<(Vec<Algorithm>, &'static str)>,
    pub(super) token_types: Option<(TokenType, &'static str)>,
    pub(super) audience_claim: Option<(&'static str, &'static str)>,
    pub(super) client_id: Option<(Vec<String>, &'static str)>,
    pub(super) scope: Option<(Vec<String>, &'static str)>,
}

impl Readings {
    /// What an issuer with these `keys` needs beside the row of `provider`, and what `sample` needs.
    pub(super) fn of(provider: Option<Provider>, keys: &KeySet, sample: Option<&Sample>) -> Self {
        let row = Provider::defaults(provider);
        let mut readings = Self { algorithms: of_keys(&row, keys), ..Self::default() };
        let Some(sample) = sample else { return readings };
        if !row.algorithms.contains(&sample.algorithm) {
            readings.algorithms = Some((vec![sample.algorithm], "the token is signed with it"));
        }
        readings.token_types = token_type(&row, sample);
        if row.audience_claim != AUDIENCE && sample.claim(AUDIENCE).is_some() {
            readings.audience_claim =
                Some((AUDIENCE, "the token has it, unlike most of this provider"));
        }
        // With a provider, what tells its access tokens apart may depend on where the client stands.
        if provider.is_none()
            && row.claim_names.client_id.iter().all(|it| sample.claim(it).is_none())
        {
            readings.client_id = more(
                &row.claim_names.client_id,
                &["cid", "appid"],
                sample,
                "the token has the client there",
            );
        }
        if row.claim_names.scope.iter().all(|it| sample.claim(it).is_none()) {
            readings.scope =
                more(&row.claim_names.scope, &["scp"], sample, "the token has its scopes there");
        }
        readings
    }

    /// The claim that names the audience.
    pub(super) fn audience_claim(&self, provider: Option<Provider>) -> &'static str {
        let usual = Provider::defaults(provider).audience_claim;
        self.audience_claim.map_or(usual, |(claim, _)| claim)
    }

    /// Rules by which a token is read before its audience is known: whatever it says there, it may say.
    pub(super) fn issuer(
        &self,
        name: &str,
        provider: Option<Provider>,
        sample: &Sample,
    ) -> Arc<Issuer> {
        let row = Provider::defaults(provider);
        let claim = self.audience_claim(provider);
        let audiences = [AUDIENCE, claim].into_iter().flat_map(|it| sample.texts(it));
        let audiences: Vec<_> = audiences.map(str::to_owned).collect();
        let mut names = row.claim_names;
        if let Some((client_id, _)) = &self.client_id {
            names.client_id.clone_from(client_id);
        }
        if let Some((scope, _)) = &self.scope {
            names.scope.clone_from(scope);
        }
        Arc::new(Issuer {
            audiences,
            audience_claim: claim.to_owned(),
            allow_missing_audience: true,
            algorithms: vec![sample.algorithm],
            token_types: self.token_types.as_ref().map_or(row.token_types, |it| vec![it.0.clone()]),
            type_claims: row.type_claims,
            claim_names: names,
            ..Issuer::new(name, "")
        })
    }
}

/// Those of the keys, if none of them serves an algorithm that is accepted anyway.
fn of_keys(row: &Defaults, keys: &KeySet) -> Option<(Vec<Algorithm>, &'static str)> {
    let nothing = KeySet::default();
    let serves = |it: Algorithm| keys.missing_from(&nothing).any(|key| key.serves(it));
    if row.algorithms.iter().any(|it| serves(*it)) {
        return None;
    }
    Some((Algorithm::all().filter(|it| serves(*it)).collect(), "the issuer's keys serve no other"))
}

fn token_type(row: &Defaults, sample: &Sample) -> Option<(TokenType, &'static str)> {
    let is_accepted = row.token_types.iter().any(|it| match it {
        TokenType::Named(name) => sample.header.is_type(name),
        TokenType::Absent => sample.header.typ.is_none(),
    });
    if is_accepted {
        return None;
    }
    match &sample.header.typ {
        None => Some((
            TokenType::Absent,
            "the token has no `typ`: only the audience keeps out ID tokens of this issuer",
        )),
        Some(_) if sample.header.is_type("jwt") => Some((
            TokenType::Named("jwt".to_owned()),
            "the token's `typ`: only the audience keeps out ID tokens of this issuer",
        )),
        Some(_) if sample.header.is_type("at+jwt") => {
            Some((TokenType::Named("at+jwt".to_owned()), "the token's `typ` (RFC 9068)"))
        }
        // Any other type is not one of access tokens, and the token is refused for it.
        Some(_) => None,
    }
}

/// `usual` names and those of `others` that `sample` has.
fn more(
    usual: &[String],
    others: &[&str],
    sample: &Sample,
    why: &'static str,
) -> Option<(Vec<String>, &'static str)> {
    let found: Vec<_> = others.iter().filter(|it| sample.claim(it).is_some()).collect();
    let owned = found.iter().map(|it| (**it).to_owned());
    (!found.is_empty()).then(|| (usual.iter().cloned().chain(owned).collect(), why))
}
