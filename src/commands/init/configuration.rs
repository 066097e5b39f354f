//! The configuration that `init` writes, with a comment at each line that says why it is there.

use super::audience::Audience;
use super::readings::Readings;
use crate::config::provider::Provider;
use crate::config::written::{Document, shown, string, strings};
use crate::state::discovery::Metadata;
use keybound_core::jose::{Algorithm, KeySet};
use keybound_core::oauth::Confirmation;
use keybound_core::policy::SenderConstraint;
use std::path::Path;

/// All that is known.
#[derive(Debug)]
pub(super) struct Plan<'a> {
    pub(super) issuer: &'a str,
    pub(super) provider: Option<(Provider, &'static str)>,
    pub(super) audience: Audience,
    pub(super) readings: Readings,
    /// The keys to which the token is bound, if one was taken.
    pub(super) confirmation: Option<Confirmation>,
    /// What became of the token: a sentence.
    pub(super) token: String,
    /// Whether it is opaque.
    pub(super) opaque: bool,
    pub(super) ca_file: Option<&'a Path>,
    pub(super) metadata: &'a Metadata,
    pub(super) keys: &'a KeySet,
}

impl Plan<'_> {
    /// The configuration as YAML.
    pub(super) fn text(&self) -> String {
        let mut document = Document::default();
        self.sources(&mut document);
        document.gap();
        document.section("issuers");
        self.issuer(&mut document);
        document.gap();
        document.section("policies");
        document.element("name", "default", "it has no `match`: every request falls under it");
        let (constraint, why) = self.sender_constraint();
        document.entry("sender_constraint", constraint.name(), why);
        if constraint != SenderConstraint::Certificate {
            let why = "where clients send requests, which their DPoP proofs must name";
            document.note(4, &format!("origin: https://api.example.com  # {why}"));
        }
        document.note(4, "scopes: [payments]  # what a token must grant besides: all of them");
        document.finish()
    }

    /// Where it is from.
    fn sources(&self, document: &mut Document) {
        document.note(0, "Written by `keybound init`. See `keybound check-config --online FILE`.");
        document.note(0, &format!("Metadata: {}", self.metadata.location));
        document.note(0, &format!("Keys: {}", described(self.keys)));
        if !self.keys.skipped().is_empty() {
            document
                .note(0, &format!("Keys that cannot be used: {}", self.keys.skipped_in_words()));
        }
        document.note(0, &format!("Token: {}", self.token));
    }

    fn issuer(&self, document: &mut Document) {
        document.element("issuer", &string(self.issuer), "the exact `iss` of its tokens");
        match self.provider {
            Some((provider, sign)) => document.entry("provider", provider.name(), sign),
            None => document.note(4, "provider: none was recognised, so only the defaults apply"),
        }
        match &self.audience {
            Audience::Known(audience, why) => {
                document.entry("audiences", &strings([audience]), why);
            }
            Audience::Unknown(why) => {
                document.note(4, &format!("audiences: [https://api.example.com]  # TO DO, {why}"));
                document
                    .note(4, "Name your API as this issuer's tokens name it, and remove the `#`.");
            }
        }
        self.readings(document);
        if let Some(path) = self.ca_file {
            let why = "the authority of its certificate, in place of the system's";
            document.entry("ca_file", &string(&path.display().to_string()), why);
        }
        self.introspection(document);
    }

    fn readings(&self, document: &mut Document) {
        let readings = &self.readings;
        if let Some((claim, why)) = readings.audience_claim {
            document.entry("audience_claim", &string(claim), why);
        }
        if let Some((algorithms, why)) = &readings.algorithms {
            document.entry("algorithms", &strings(algorithms.iter().map(|it| it.name())), why);
        }
        if let Some((typ, why)) = &readings.token_types {
            document.entry("token_types", &strings([typ.to_string()]), why);
        }
        let names = [("client_id", &readings.client_id), ("scope", &readings.scope)];
        let names: Vec<_> =
            names.into_iter().filter_map(|(key, it)| Some((key, it.as_ref()?))).collect();
        if !names.is_empty() {
            let values = names.iter().map(|(key, (names, _))| format!("{key}: {}", strings(names)));
            let value = format!("{{{}}}", values.collect::<Vec<_>>().join(", "));
            let why: Vec<_> = names.iter().map(|(_, (_, why))| *why).collect();
            document.entry("claim_names", &value, &why.join("; "));
        }
    }

    /// A hint, since it needs a client of its own at the issuer.
    fn introspection(&self, document: &mut Document) {
        if !self.opaque {
            return;
        }
        let endpoint = match &self.metadata.introspection.endpoint {
            Some(url) => format!("at {url}"),
            None => "with `endpoint`, since the metadata name none".to_owned(),
        };
        let hint = "introspection: {client_id: keybound, client_secret_file: introspection-secret}";
        let why = "the token is opaque: register a client for keybound, and remove the `#`";
        document.note(4, &format!("{hint}  # {endpoint}; {why}"));
    }

    fn sender_constraint(&self) -> (SenderConstraint, &'static str) {
        use SenderConstraint::{Certificate, Dpop, Either};
        match self.confirmation {
            Some(Confirmation { x5t_s256: Some(_), jkt: None, .. }) => {
                (Certificate, "the token is bound to a client certificate (`x5t#S256`)")
            }
            Some(Confirmation { x5t_s256: None, jkt: Some(_), .. }) => {
                (Dpop, "the token is bound to a DPoP key (`jkt`)")
            }
            Some(Confirmation { x5t_s256: Some(_), jkt: Some(_), .. }) => (
                Certificate,
                "the token is bound to a certificate and a DPoP key: both are demanded",
            ),
            Some(Confirmation { unknown_only: true, .. }) => {
                (Either, "the token's `cnf` is of a kind that nobody here can check: it is refused")
            }
            Some(Confirmation { .. }) => (
                Either,
                "the token is bound to nothing and is refused: have the issuer bind it to a certificate \
                 or a DPoP key; a weaker value is not written",
            ),
            None => (Either, "bound to a certificate or a DPoP key: no token says which"),
        }
    }
}

/// The usable keys, each with what it serves.
fn described(keys: &KeySet) -> String {
    let nothing = KeySet::default();
    let each = keys.missing_from(&nothing).map(|key| {
        let kid = key.kid().map_or_else(|| "without `kid`".to_owned(), |it| shown(it));
        format!("{kid} ({})", listed(key.algorithms()))
    });
    each.collect::<Vec<_>>().join(", ")
}

fn listed(algorithms: impl Iterator<Item = Algorithm>) -> String {
    algorithms.map(|it| it.to_string()).collect::<Vec<_>>().join(" ")
}
