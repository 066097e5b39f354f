//! What the request of a test carries: certificates, tokens and proofs, made on the spot.

use super::keys::{KNOWN, Key};
use super::sources::Answer;
use super::table::{BoundTo, Proof, Scheme, Signer, Test, Token};
use crate::commands::demo::Failure;
use crate::commands::demo::pki::{Authority, Identity};
use crate::config::Config;
use crate::explain::certificate::Certificate;
use keybound_core::UnixTime;
use keybound_core::jose::json::Object;
use keybound_core::jose::{self, Algorithm, KeySet, Thumbprint};
use keybound_core::oauth::NonceKeys;
use keybound_core::policy::{ClaimsFrom, Introspection, Issuer, IssuerId, Must, TENANT, TokenType};
use keybound_core::words::Words;
use rcgen::KeyPair;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// Makes certificates, tokens and proofs for the tests of one table.
pub(super) struct Maker<'a> {
    config: &'a Config,
    /// The time of all checks.
    at: UnixTime,
    nonces: Arc<NonceKeys>,
    authority: Authority,
    certificates: BTreeMap<String, Identity>,
    /// The keys of clients, by name.
    dpop_keys: BTreeMap<String, Key>,
    /// The keys of each issuer, by algorithm.
    issuers: Vec<BTreeMap<&'static str, Key>>,
    /// Keys of nobody that is trusted, by algorithm.
    others: BTreeMap<&'static str, Key>,
    made: u64,
}

/// An access token.
pub(super) struct MadeToken {
    pub(super) text: String,
    pub(super) scheme: Scheme,
    /// What its issuer says about it, if it can be asked.
    pub(super) answer: Option<Answer>,
}

/// Until when a token is good, by default.
const LIFETIME: Duration = Duration::from_secs(300);

impl<'a> Maker<'a> {
    /// For checks under `config` at the time `at`, with the keys that `tests` need.
    pub(super) fn new(
        config: &'a Config,
        at: UnixTime,
        nonces: Arc<NonceKeys>,
        tests: &[Test],
    ) -> Result<Self, Failure> {
        let authority = Authority::new("keybound test")
            .map_err(|cause| Failure::new("making certificates", cause))?;
        let named = tests.iter().filter_map(|it| algorithm_in(it.token.as_ref()?));
        let named: Vec<_> = named.collect();
        let mut issuers = vec![];
        for issuer in &config.rules.policies.issuers {
            let wanted = named.iter().filter(|it| issuer.algorithms.contains(it));
            let mut keys = BTreeMap::new();
            for algorithm in wanted.copied().chain(usual_algorithm(&issuer.algorithms)) {
                keys.insert(algorithm.name(), Key::generate(algorithm)?);
            }
            issuers.push(keys);
        }
        let (certificates, dpop_keys, others, made) = <_>::default();
        Ok(Self { config, at, nonces, authority, certificates, dpop_keys, issuers, others, made })
    }

    /// The keys that each issuer publishes.
    pub(super) fn key_sets(&self) -> Result<Vec<Arc<KeySet>>, Failure> {
        let issuers = self.config.rules.policies.issuers.iter().zip(&self.issuers);
        let sets = issuers.map(|(issuer, keys)| {
            let keys: Vec<_> = keys.values().map(|it| published(it, issuer)).collect();
            let set = KeySet::parse(json!({ "keys": keys }).to_string().as_bytes());
            set.map(Arc::new).map_err(|_unusable| Failure::new("publishing keys", &issuer.name))
        });
        sets.collect()
    }

    /// The certificate of this name.
    pub(super) fn certificate(&mut self, name: &str) -> Result<Certificate, Failure> {
        let der = self.identity(name)?.certificate_der();
        Certificate::read(der).map_err(|cause| Failure::new("making a certificate", cause))
    }

    /// The token of a test, by default from the first issuer of `issuers`.
    pub(super) fn token(
        &mut self,
        spec: &Token,
        issuers: &[IssuerId],
    ) -> Result<MadeToken, Failure> {
        let policies = &self.config.rules.policies;
        let place = match &spec.issuer {
            Some(name) => policies.issuers.iter().position(|it| it.is_called(name)),
            None => Some(issuers.first().map_or(0, |it| it.0)),
        };
        let issuer = place.and_then(|it| policies.issuers.get(it)).map(Arc::clone);
        let claims = self.claims(spec, issuer.as_deref())?;
        self.made = self.made.saturating_add(1);
        let text = if spec.opaque == Some(true) {
            format!("opaque-token-{}", self.made)
        } else {
            self.signed(spec, issuer.as_deref().zip(place), &claims)?
        };
        let bound = spec.bound_to.as_ref().is_some_and(|it| it.dpop_key.is_some());
        let usual = if bound { Scheme::DPoP } else { Scheme::Bearer };
        let asked = issuer.zip(place).filter(|(it, _)| {
            it.introspection != Introspection::Never || it.claims_from == ClaimsFrom::Answer
        });
        let answer = asked.map(|(_, place)| Answer {
            issuer: IssuerId(place),
            token: Thumbprint::of(text.as_bytes()),
            claims: (spec.active != Some(false)).then_some(claims),
            signed: spec.opaque != Some(true),
            allow_missing_audience: self.answers_without_audience(place),
        });
        Ok(MadeToken { text, scheme: spec.scheme.unwrap_or(usual), answer })
    }

    /// The proof of a test, for a request of `method` to `url` with `token`.
    pub(super) fn proof(
        &mut self,
        spec: &Proof,
        (method, url): (&str, &str),
        token: Option<(&Token, &MadeToken)>,
    ) -> Result<String, Failure> {
        let bound = token.and_then(|(it, _)| it.bound_to.as_ref()?.dpop_key.as_deref());
        let name = spec.key.as_deref().or(bound).unwrap_or("client").to_owned();
        let begun = self.at.saturating_sub(spec.age.map_or(Duration::ZERO, |it| it.0));
        self.made = self.made.saturating_add(1);
        let ath = token.map(|(_, it)| Thumbprint::of(it.text.as_bytes()).to_base64url());
        let nonce = (spec.nonce == Some(true)).then(|| self.nonces.issue(self.at));
        let htu = url.split(['?', '#']).next().unwrap_or_default();
        let claims = [
            ("jti", Some(json!(format!("proof-{}", self.made)))),
            ("htm", Some(json!(method))),
            ("htu", Some(json!(htu))),
            ("iat", Some(json!(begun.as_secs()))),
            ("ath", ath.map(Value::from)),
            ("nonce", nonce.map(Value::from)),
        ];
        let claims = replaced(members(claims), spec.claims.as_ref(), spec.without.as_deref());
        let key = self.dpop_key(&name)?;
        let header = [
            ("typ", Some(json!("dpop+jwt"))),
            ("alg", Some(json!(key.kid()))),
            ("jwk", Some(Value::Object(key.jwk()))),
        ];
        key.sign(&replaced(members(header), spec.header.as_ref(), None), &claims)
    }

    fn claims(&mut self, spec: &Token, issuer: Option<&Issuer>) -> Result<Object, Failure> {
        let begun = self.at.saturating_sub(spec.age.map_or(Duration::ZERO, |it| it.0));
        let expires = begun.saturating_add(spec.lifetime.map_or(LIFETIME, |it| it.0));
        let confirmation = spec.bound_to.as_ref().map(|it| self.confirmation(it)).transpose()?;
        let said = spec.issuer.as_deref();
        let (iss, tenant) = names(issuer, said);
        let usual = [
            ("iss", Some(json!(iss))),
            ("tid", tenant.map(Value::from)),
            ("sub", Some(json!("subject"))),
            ("iat", Some(json!(begun.as_secs()))),
            ("exp", Some(json!(expires.as_secs()))),
            ("jti", Some(json!(format!("token-{}", self.made)))),
            ("cnf", confirmation),
        ];
        let mut claims = members(usual);
        let first = self.config.rules.policies.issuers.first();
        if let Some(rules) = issuer.or_else(|| first.map(|it| &**it)) {
            let given = |it: &String| spec.claims.as_ref().is_some_and(|all| all.contains_key(it));
            let (client, scope) = (&rules.claim_names.client_id, &rules.claim_names.scope);
            if let Some(name) = client.first().filter(|_| !client.iter().any(given)) {
                put(&mut claims, name, json!("client"));
            }
            for it in &rules.type_claims {
                let name = match it.claim {
                    "client_id" => client.first().map_or(it.claim, String::as_str),
                    "scope" => scope.first().map_or(it.claim, String::as_str),
                    other => other,
                };
                if let Some(sign) = usual_sign(it.must) {
                    put(&mut claims, name, json!(sign));
                }
            }
            // Last, since some issuers write the audience where the client stands.
            let audience = rules.audiences.first().map_or("", String::as_str);
            put(&mut claims, &rules.audience_claim, json!(audience));
        }
        Ok(replaced(claims, spec.claims.as_ref(), spec.without.as_deref()))
    }

    /// The JWT with these claims, signed as `spec` says.
    fn signed(
        &mut self,
        spec: &Token,
        issuer: Option<(&Issuer, usize)>,
        claims: &Object,
    ) -> Result<String, Failure> {
        let accepted = issuer.map_or(&[Algorithm::ES256][..], |(it, _)| &it.algorithms);
        let usual = usual_algorithm(accepted).ok_or_else(|| {
            Failure::new("signing a token", "for none of `algorithms` can keys be made")
        })?;
        let algorithm = algorithm_in(spec).filter(|it| KNOWN.contains(it)).unwrap_or(usual);
        let signer = spec.signed_by.unwrap_or_default();
        let own = issuer.and_then(|(_, place)| self.issuers.get(place)?.get(algorithm.name()));
        let key = if let Some(key) = own.filter(|_| signer == Signer::Issuer) {
            key
        } else {
            if !self.others.contains_key(algorithm.name()) {
                self.others.insert(algorithm.name(), Key::generate(algorithm)?);
            }
            self.others.get(algorithm.name()).ok_or_else(|| Failure::new("signing", "no key"))?
        };
        let kid = if signer == Signer::Stranger { "stranger" } else { key.kid() };
        let types = issuer.map_or(&[][..], |(it, _)| &it.token_types);
        let typ = match types.first() {
            None => Some("at+jwt"),
            Some(TokenType::Named(name)) => Some(&**name),
            Some(TokenType::Absent) => None,
        };
        let header = [
            ("alg", Some(json!(key.kid()))),
            ("kid", Some(json!(kid))),
            ("typ", typ.map(Value::from)),
        ];
        key.sign(&replaced(members(header), spec.header.as_ref(), None), claims)
    }

    fn confirmation(&mut self, bound_to: &BoundTo) -> Result<Value, Failure> {
        let mut confirmation = Object::new();
        if let Some(name) = &bound_to.certificate {
            let thumbprint = self.identity(name)?.thumbprint();
            confirmation.insert("x5t#S256".to_owned(), thumbprint.to_base64url().into());
        }
        if let Some(name) = &bound_to.dpop_key {
            let thumbprint = jose::thumbprint(&self.dpop_key(name)?.jwk());
            let thumbprint = thumbprint.map_err(|it| Failure::new("making a DPoP key", it))?;
            confirmation.insert("jkt".to_owned(), thumbprint.to_base64url().into());
        }
        Ok(confirmation.into())
    }

    fn identity(&mut self, name: &str) -> Result<&Identity, Failure> {
        if !self.certificates.contains_key(name) {
            let failure = |cause| Failure::new("making a certificate", cause);
            let key = KeyPair::generate().map_err(failure)?;
            let identity = self.authority.client(name, key).map_err(failure)?;
            self.certificates.insert(name.to_owned(), identity);
        }
        self.certificates.get(name).ok_or_else(|| Failure::new("making a certificate", name))
    }

    fn dpop_key(&mut self, name: &str) -> Result<&Key, Failure> {
        let accepted = &self.config.rules.policies.proofs.algorithms;
        let algorithm = usual_algorithm(accepted).unwrap_or(Algorithm::ES256);
        if !self.dpop_keys.contains_key(name) {
            self.dpop_keys.insert(name.to_owned(), Key::generate(algorithm)?);
        }
        self.dpop_keys.get(name).ok_or_else(|| Failure::new("making a DPoP key", name))
    }

    fn answers_without_audience(&self, place: usize) -> bool {
        let rules = self.config.rules.issuers.get(place);
        rules.and_then(|it| it.introspection.as_ref()).is_some_and(|it| it.allow_missing_audience)
    }
}

/// The `iss` of a token, and the tenant in it.
fn names<'a>(issuer: Option<&'a Issuer>, said: Option<&str>) -> (String, Option<&'a str>) {
    let Some(issuer) = issuer else { return (said.unwrap_or_default().to_owned(), None) };
    match issuer.tenants.iter().find(|it| said.is_none_or(|said| said.contains(&***it))) {
        Some(tenant) if issuer.name.contains(TENANT) => {
            (issuer.name.replace(TENANT, tenant), Some(tenant))
        }
        Some(_) | None => (issuer.name.to_string(), None),
    }
}

/// The key as its issuer publishes it.
fn published(key: &Key, issuer: &Issuer) -> Value {
    let mut jwk = key.jwk();
    let owner = issuer.name.contains(TENANT).then(|| json!(*issuer.name));
    let more =
        [("kid", Some(json!(key.kid()))), ("alg", Some(json!(key.kid()))), ("issuer", owner)];
    jwk.extend(members(more));
    jwk.into()
}

/// What tells an access token of a provider from its other tokens.
fn usual_sign(must: Must) -> Option<&'static str> {
    match must {
        Must::Be => Some("present"),
        Must::Equal(values) => values.first().copied(),
        Must::BeginWith(prefix) => Some(prefix),
        Must::NotBe | Must::EqualIfThere(_) => None,
    }
}

/// The algorithm by which tokens are signed where a test does not say: the fastest of `accepted`.
fn usual_algorithm(accepted: &[Algorithm]) -> Option<Algorithm> {
    KNOWN.into_iter().find(|it| accepted.contains(it))
}

/// The algorithm that a test names.
fn algorithm_in(token: &Token) -> Option<Algorithm> {
    Algorithm::named(token.header.as_ref()?.get("alg")?.as_str()?)
}

fn members<const N: usize>(members: [(&str, Option<Value>); N]) -> Object {
    let there = members.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
    there.collect()
}

/// `usual` with the members of `given` in place of its own, and without those in `without`.
fn replaced(
    mut usual: Object,
    given: Option<&BTreeMap<String, Value>>,
    without: Option<&[String]>,
) -> Object {
    for name in without.unwrap_or_default() {
        usual.remove(name);
    }
    let given = given.into_iter().flatten();
    usual.extend(given.map(|(name, value)| (name.clone(), value.clone())));
    usual
}

/// Writes a claim at a dotted path.
fn put(claims: &mut Object, path: &str, value: Value) {
    match path.split_once('.') {
        None => drop(claims.insert(path.to_owned(), value)),
        Some((name, rest)) => {
            let inner = claims.entry(name).or_insert_with(|| Object::new().into());
            if let Some(inner) = inner.as_object_mut() {
                put(inner, rest, value);
            }
        }
    }
}
