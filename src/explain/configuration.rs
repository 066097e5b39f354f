//! The issuer's configuration that would read a token that was refused: what must differ, with a reason
//! at each line.
//!
//! It is made of verified tokens alone, and never names another audience, binding or expiry, nor what
//! would let in other tokens than access tokens.

use crate::config::provider::{Defaults, Provider};
use crate::config::recognition::{Known, recognise};
use crate::config::token_kinds;
use crate::config::written::{Document, shown, string, strings};
use keybound_core::jose::Algorithm;
use keybound_core::jose::json::Object;
use keybound_core::policy::{AUDIENCE, Issuer, TokenType};
use keybound_core::words::Words;
use keybound_core::{Denial, SeenJwt};
use reqwest::Url;
use serde_json::Value;

/// What is said of the configuration of the issuer.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Told {
    /// This YAML would read such a token.
    Write(String),
    /// Nothing is written, for this reason.
    Nothing(String),
}

/// The configuration that would read `jwt`, of which `issuer` finds something wanting; none if nothing
/// of it is for the configuration to mend. Where the scope stands counts if the request `lacks_scope`.
pub(super) fn reading(issuer: &Issuer, jwt: &SeenJwt, lacks_scope: bool) -> Option<Told> {
    let refused = wanting(issuer, jwt);
    let has = |denial| refused.contains(&denial);
    let differs = has(Denial::TokenAlgorithmForbidden)
        || has(Denial::TokenTypeWrong)
        || (lacks_scope && Change::of_scope(issuer, jwt).is_some())
        || (has(Denial::TokenClaimMissing) && Change::of_audience(issuer, jwt).is_some());
    if !differs {
        return None;
    }
    if !jwt.verified {
        return Some(unverified(issuer, jwt));
    }
    Some(match Plan::of(issuer, jwt) {
        Ok(plan) => Told::Write(plan.text(issuer, jwt)),
        Err(why) => Told::Nothing(why),
    })
}

/// A hint for a token that only its issuer can read.
pub(super) fn asking(issuer: &Issuer) -> Told {
    let mut document = Document::default();
    document.element("issuer", &string(&issuer.name), "as it is");
    document.note(
        4,
        "introspection: {client_id: keybound, client_secret_file: introspection-secret}  # only the issuer \
         can read the token: register a client for keybound there, and remove the `#`",
    );
    Told::Write(document.finish())
}

/// Of a token that nobody vouches for, only what the issuer's own keys say is taken.
fn unverified(issuer: &Issuer, jwt: &SeenJwt) -> Told {
    let unlisted = jwt.header.algorithm.filter(|it| !issuer.algorithms.contains(it));
    let Some(unlisted) = unlisted.filter(|_| jwt.has_key) else {
        let why = "no key of the issuer verifies the token, so nothing is taken from it";
        return Told::Nothing(why.to_owned());
    };
    let mut document = Document::default();
    document.element("issuer", &string(&issuer.name), "as it is");
    let algorithms = issuer.algorithms.iter().copied().chain([unlisted]);
    let algorithms = strings(algorithms.map(Algorithm::name));
    document.entry("algorithms", &algorithms, "the issuer publishes a key for it");
    document
        .note(4, "nothing else is taken from the token, since no key of the issuer verifies it");
    Told::Write(document.finish())
}

fn wanting(issuer: &Issuer, jwt: &SeenJwt) -> Vec<Denial> {
    jwt.mismatches_under(issuer).into_iter().map(|it| it.denial).collect()
}

/// Keys of the configuration, each with its value and the reason.
struct Plan {
    entries: Vec<(&'static str, String, String)>,
    issuer: Issuer,
    /// Whether the type alone tells its access tokens from ID tokens.
    is_wide: bool,
}

impl Plan {
    /// What must differ; an error is the reason why nothing is written.
    fn of(issuer: &Issuer, jwt: &SeenJwt) -> Result<Self, String> {
        if let Some(kind) = token_kinds::other_kind(&jwt.header, &jwt.claims, false) {
            return Err(format!("the token is {kind}, and no access token"));
        }
        let mut plan = Self { entries: vec![], issuer: issuer.clone(), is_wide: false };
        if wanting(issuer, jwt).contains(&Denial::TokenTypeWrong) {
            plan.read_type(jwt)?;
        }
        if let Some(unlisted) =
            jwt.header.algorithm.filter(|it| !plan.issuer.algorithms.contains(it))
        {
            plan.issuer.algorithms.push(unlisted);
            let list = strings(plan.issuer.algorithms.iter().map(|it| it.name()));
            let why = "the token is signed so, and the issuer's key verifies it";
            plan.add("algorithms", list, why);
        }
        plan.read_names(jwt);
        if let Some((claim, why)) = Change::of_audience(&plan.issuer, jwt) {
            claim.clone_into(&mut plan.issuer.audience_claim);
            plan.add("audience_claim", string(claim), why);
        }
        Ok(plan)
    }

    fn add(&mut self, key: &'static str, value: String, why: impl Into<String>) {
        self.entries.push((key, value, why.into()));
    }

    /// Has the type accepted: by the row of its provider, else by name.
    fn read_type(&mut self, jwt: &SeenJwt) -> Result<(), String> {
        let found = recognised(&self.issuer, jwt);
        if let Some((provider, sign)) = found.filter(|it| self.issuer.provider != Some(it.0.name()))
        {
            self.issuer = under(&self.issuer, provider);
            self.add("provider", provider.name().to_owned(), sign);
            if !wanting(&self.issuer, jwt).contains(&Denial::TokenTypeWrong) {
                return Ok(());
            }
        }
        let typ = access_type(jwt).ok_or("its `typ` is not one of access tokens")?;
        let mut widened = self.issuer.clone();
        widened.token_types.push(typ);
        if wanting(&widened, jwt).contains(&Denial::TokenTypeWrong) {
            return Err(format!(
                "a claim says that it is no access token of this provider{}",
                rows(&self.issuer, jwt)
            ));
        }
        let told_apart = self.issuer.provider.is_some();
        if !told_apart && !is_like_an_access_token(jwt) {
            return Err(format!(
                "nothing in the token tells it from an ID token{}",
                rows(&self.issuer, jwt)
            ));
        }
        let types = strings(widened.token_types.iter().map(ToString::to_string));
        self.issuer = widened;
        self.is_wide = !told_apart;
        self.add("token_types", types, "the `typ` of the token");
        Ok(())
    }

    /// Has the client and the scope read where the token has them.
    fn read_names(&mut self, jwt: &SeenJwt) {
        let issuer = &self.issuer;
        let (client, scope) = (Change::of_client(issuer, jwt), Change::of_scope(issuer, jwt));
        let both = [("client_id", &client), ("scope", &scope)].into_iter();
        let named = |(name, it): (_, &Option<Vec<String>>)| {
            Some(format!("{name}: {}", strings(it.as_ref()?)))
        };
        let both: Vec<_> = both.filter_map(named).collect();
        if both.is_empty() {
            return;
        }
        let own = &mut self.issuer.claim_names;
        if let Some(names) = client {
            own.client_id = names;
        }
        if let Some(names) = scope {
            own.scope = names;
        }
        self.add("claim_names", format!("{{{}}}", both.join(", ")), "where the token has them");
    }

    fn text(&self, before: &Issuer, jwt: &SeenJwt) -> String {
        let mut document = Document::default();
        document.element("issuer", &string(&before.name), "as it is");
        for (key, value, why) in &self.entries {
            document.entry(key, value, why);
        }
        if self.is_wide {
            document.note(4, ONLY_THE_AUDIENCE);
        }
        let claim = &*self.issuer.audience_claim;
        let wanting = jwt.mismatches_under(&self.issuer);
        let lacks =
            |denial| wanting.iter().any(|it| it.denial == denial && it.finding.what == claim);
        if lacks(Denial::TokenAudienceMismatch) {
            let named = jwt.claims.get(claim).map(|it| shown(&it.to_string()));
            let named = named.unwrap_or_else(|| "another".to_owned());
            document.note(
                4,
                &format!("`audiences` is not written: the token is for {named}, and {OTHERS}"),
            );
        }
        if lacks(Denial::TokenClaimMissing) {
            document.note(
                4,
                &format!(
                    "`allow_missing_audience` is not written: without `{claim}`, the token {OTHERS}"
                ),
            );
        }
        document.note(4, "Bindings, policies and times are not loosened here.");
        document.finish()
    }
}

/// Why a token that does not name this service is not let in.
const OTHERS: &str = "may be meant for another service: have the issuer put this one there";

/// What one key must become.
struct Change;

impl Change {
    /// The claims that hold the scope, if it stands where it is not looked for.
    fn of_scope(issuer: &Issuer, jwt: &SeenJwt) -> Option<Vec<String>> {
        let names = &issuer.claim_names.scope;
        let is_there = |it: &str| jwt.claims.get(it).is_some_and(|it| !it.is_null());
        if names.iter().any(|it| is_there(it)) {
            return None;
        }
        let other = ["scope", "scp"].into_iter().find(|it| is_there(it))?;
        Some(names.iter().cloned().chain([other.to_owned()]).collect())
    }

    /// The claims that hold the client, if it stands where it is not looked for. What tells the access
    /// tokens of a provider apart may depend on them, so with one they stay.
    fn of_client(issuer: &Issuer, jwt: &SeenJwt) -> Option<Vec<String>> {
        let names = &issuer.claim_names.client_id;
        let is_there = |it: &str| jwt.claims.get(it).is_some_and(|it| !it.is_null());
        if issuer.provider.is_some() || names.iter().any(|it| is_there(it)) {
            return None;
        }
        let other = ["cid", "appid"].into_iter().find(|it| is_there(it))?;
        Some(names.iter().cloned().chain([other.to_owned()]).collect())
    }

    /// The claim that holds an accepted audience, if the one that should is not there.
    fn of_audience(issuer: &Issuer, jwt: &SeenJwt) -> Option<(&'static str, &'static str)> {
        let ours = |name: &str| {
            texts(&jwt.claims, name).iter().any(|it| issuer.audiences.iter().any(|own| own == it))
        };
        if !texts(&jwt.claims, &issuer.audience_claim).is_empty() {
            return None;
        }
        if issuer.audience_claim != AUDIENCE && ours(AUDIENCE) {
            return Some((AUDIENCE, "the token has it, and it names one of `audiences`"));
        }
        let is_silent = texts(&jwt.claims, AUDIENCE).is_empty();
        let claim = ["client_id", "cid", "appid"].into_iter().find(|it| ours(it))?;
        is_silent.then_some((claim, "the token has no `aud`, and one of `audiences` there"))
    }
}

/// The strings of a claim: one, or a list.
fn texts<'a>(claims: &'a Object, name: &str) -> Vec<&'a str> {
    match claims.get(name) {
        Some(Value::String(text)) if !text.is_empty() => vec![text],
        Some(Value::Array(items)) => items.iter().filter_map(Value::as_str).collect(),
        _ => vec![],
    }
}

/// The provider that the issuer and its token show themselves to be of. Google's row is for ID tokens.
fn recognised(issuer: &Issuer, jwt: &SeenJwt) -> Option<(Provider, &'static str)> {
    let url = Url::parse(&issuer.name).ok()?;
    let token = Some((&jwt.header, &jwt.claims));
    let found = recognise(Known { issuer: &url, metadata: &Object::new(), token });
    found.filter(|(it, _)| *it != Provider::Google)
}

/// The issuer with the row of `provider`, but for what the operator wrote.
fn under(issuer: &Issuer, provider: Provider) -> Issuer {
    let before = issuer.provider.and_then(Provider::named);
    let (was, row) = (Provider::defaults(before), Provider::defaults(Some(provider)));
    let mut under = issuer.clone();
    let Defaults { algorithms, token_types, audience_claim, claim_names, type_claims } = row;
    if under.algorithms == was.algorithms {
        under.algorithms = algorithms;
    }
    if under.token_types == was.token_types {
        under.token_types = token_types;
    }
    if under.audience_claim == was.audience_claim {
        audience_claim.clone_into(&mut under.audience_claim);
    }
    if under.claim_names.client_id == was.claim_names.client_id {
        under.claim_names.client_id = claim_names.client_id;
    }
    if under.claim_names.scope == was.claim_names.scope {
        under.claim_names.scope = claim_names.scope;
    }
    under.type_claims = type_claims;
    under.provider = Some(provider.name());
    under
}

/// A clause that names the rows that would take it for an access token.
fn rows(issuer: &Issuer, jwt: &SeenJwt) -> String {
    let reads = |it: &Provider| {
        *it != Provider::Google
            && !wanting(&under(issuer, *it), jwt).contains(&Denial::TokenTypeWrong)
    };
    let names: Vec<_> = Provider::all().filter(reads).map(Provider::name).collect();
    if names.is_empty() {
        return String::new();
    }
    format!("; if the issuer is one of these, name it as `provider`: {}", names.join(", "))
}

/// The type of the token, if it is one that access tokens have.
fn access_type(jwt: &SeenJwt) -> Option<TokenType> {
    let named = |it: &&&str| jwt.header.is_type(it);
    match &jwt.header.typ {
        None => Some(TokenType::Absent),
        Some(_) => ["at+jwt", "jwt", "okta-internal-at+jwt"]
            .iter()
            .find(named)
            .map(|it| TokenType::Named((*it).to_owned())),
    }
}

/// Whether a token of an unknown product has what its ID tokens have not: `azp` they have as well, and
/// `amr` they have mostly.
fn is_like_an_access_token(jwt: &SeenJwt) -> bool {
    let has = |name: &str| jwt.claims.get(name).is_some_and(|it| !it.is_null());
    token_kinds::is_marked(&jwt.header)
        || (["client_id", "cid", "appid"].into_iter().any(has) && !has("amr"))
}

const ONLY_THE_AUDIENCE: &str = "ID tokens may have this type as well, and only the audience keeps them out: \
                                 where there is a row for the product, name its `provider` instead.";
