//! Issuers: whose tokens are accepted, and how their tokens are read.

use crate::jose::algorithm::Algorithm;
use crate::jose::json::{Object, find};
use crate::policy::{StatusDemand, USUAL_ALGORITHMS};
use crate::uri::HttpUri;
use crate::words::words;
use serde_json::Value;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// An issuer, by its index in [`PolicySet::issuers`](super::PolicySet::issuers).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct IssuerId(pub usize);

/// An authorization server whose tokens are accepted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Issuer {
    /// The exact `iss`. With `{tenantid}` in it, one of [`tenants`](Self::tenants) stands there.
    pub name: Arc<str>,
    /// The tenants that are accepted in the place of `{tenantid}`.
    pub tenants: Vec<String>,
    /// The accepted audiences: the token's audience must contain one of them. Never empty.
    pub audiences: Vec<String>,
    /// The claim that names the audience: a dotted path. Where it is not `aud`, an `aud` that is there
    /// must contain an accepted audience as well (RFC 7519 §4.1.3).
    pub audience_claim: String,
    /// Whether a token may name no audience: absent, null or empty.
    pub allow_missing_audience: bool,
    /// The allowed signature algorithms of tokens. Never empty.
    pub algorithms: Vec<Algorithm>,
    /// The accepted types of tokens. Never empty.
    pub token_types: Vec<TokenType>,
    /// The named set of defaults that these rules are from, for advice.
    pub provider: Option<&'static str>,
    /// What tells its access tokens from its other tokens, beside the type. All must hold.
    pub type_claims: Vec<TypeClaim>,
    /// Where the client and the scope stand in its tokens.
    pub claim_names: ClaimNames,
    /// The tolerated difference between this clock and the issuer's.
    pub clock_leeway: Duration,
    /// The tokens that are introspected.
    pub introspection: Introspection,
    /// Whether the claims of a JWT are those in the token alone, or also those in the answer about it:
    /// then all JWTs are introspected.
    pub claims_from: ClaimsFrom,
    /// Whether tokens of it may be revoked before they expire, by something that
    /// [`Sources::standing`](crate::Sources::standing) is asked about. What identifies a token is kept
    /// only then.
    pub revokes: bool,
    /// What becomes of the status that a token has in a list of this issuer. It is read only where this
    /// issuer [revokes](Self::revokes) tokens.
    pub status: StatusDemand,
}

/// The `typ` of a token (RFC 7515 §4.1.9).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TokenType {
    /// This media type, in lower case and without `application/`.
    Named(String),
    /// The token has no `typ`.
    Absent,
}

/// What a claim must be in an access token, so that no other token of the issuer passes for one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TypeClaim {
    /// The dotted path to the claim; `client_id` and `scope` are wherever [`ClaimNames`] says.
    pub claim: &'static str,
    /// What it must be.
    pub must: Must,
}

/// What a claim must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Must {
    /// There.
    Be,
    /// Not there.
    NotBe,
    /// A string that is one of these.
    Equal(&'static [&'static str]),
    /// A string that is one of these, or not there.
    EqualIfThere(&'static [&'static str]),
    /// A string that begins so.
    BeginWith(&'static str),
}

/// The claims in which the client and the scope stand: dotted paths. Of several, the first that is
/// there counts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimNames {
    /// Of the client (RFC 9068 §2.2, OpenID Connect Core 1.0 §2 for `azp`).
    pub client_id: Vec<String>,
    /// Of the scope (RFC 9068 §2.2.3).
    pub scope: Vec<String>,
}

/// The tokens about which an issuer is asked whether they are active (RFC 7662).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Introspection {
    /// None: opaque tokens are refused.
    #[default]
    Never,
    /// Opaque tokens only.
    OpaqueTokens,
    /// JWTs as well, so that revoked ones are refused.
    AllTokens,
}

words! {
    /// Where the claims of a JWT that is introspected are from.
    #[default(Token)]
    pub enum ClaimsFrom as "ClaimsFrom" {
        /// The token alone.
        Token = "token",
        /// The answer adds to those of the token, which may say little (lightweight and wrapped
        /// tokens). All JWTs are introspected.
        Answer = "answer",
    }
}

impl Issuer {
    /// The issuer `name` of JWT access tokens (RFC 9068) for one `audience`, with the default
    /// algorithms, a leeway of 30 seconds, and no introspection.
    pub fn new(name: &str, audience: &str) -> Self {
        Self {
            name: name.into(),
            tenants: vec![],
            audiences: vec![audience.to_owned()],
            audience_claim: AUDIENCE.to_owned(),
            allow_missing_audience: false,
            algorithms: USUAL_ALGORITHMS.to_vec(),
            token_types: vec![TokenType::Named("at+jwt".to_owned())],
            provider: None,
            type_claims: USUAL_TYPE_CLAIMS.to_vec(),
            claim_names: ClaimNames::default(),
            clock_leeway: Duration::from_secs(30),
            introspection: Introspection::Never,
            claims_from: ClaimsFrom::default(),
            revokes: false,
            status: StatusDemand::Off,
        }
    }

    /// Whether a token that was verified for `other` would also be accepted for this issuer: every
    /// rule that it was checked against is the same.
    pub fn judges_like(&self, other: &Self) -> bool {
        self == other
    }

    /// Whether a token with this `iss` is one of this issuer's.
    pub fn is_called(&self, iss: &str) -> bool {
        *self.name == *iss || self.tenant_in(iss).is_some()
    }

    /// The tenant in an `iss`, if one is accepted there.
    pub(crate) fn tenant_in<'a>(&self, iss: &'a str) -> Option<&'a str> {
        let (before, behind) = self.name.split_once(TENANT)?;
        let tenant = iss.strip_prefix(before)?.strip_suffix(behind)?;
        self.tenants.iter().any(|it| it == tenant).then_some(tenant)
    }

    /// What clients look it up by: its name, or that of each of its tenants, where it is a URL (RFC 8414
    /// §2).
    pub fn identifiers(&self) -> Vec<String> {
        let name = self.name.to_string();
        let names = match &*self.tenants {
            tenants if self.has_tenants() => {
                tenants.iter().map(|it| name.replace(TENANT, it)).collect()
            }
            _ => vec![name],
        };
        names.into_iter().filter(|it| HttpUri::parse(it).is_ok()).collect()
    }

    /// Whether its tokens come from several tenants.
    pub(crate) fn has_tenants(&self) -> bool {
        self.name.contains(TENANT)
    }
}

/// The default claim for the audience.
pub const AUDIENCE: &str = "aud";

/// What stands for the tenant in the name and the metadata of an issuer with many.
pub const TENANT: &str = "{tenantid}";

/// The claims that only other tokens have: `events` a logout or security event token (RFC 8417
/// §2.2), the hashes an ID token (OpenID Connect Core 1.0 §3.1.3.6, §3.3.2.11).
pub const USUAL_TYPE_CLAIMS: &[TypeClaim] =
    &[TypeClaim::absent("events"), TypeClaim::absent("at_hash"), TypeClaim::absent("c_hash")];

impl TypeClaim {
    /// The claim must not be there.
    pub const fn absent(claim: &'static str) -> Self {
        Self { claim, must: Must::NotBe }
    }

    /// The claim must be there.
    pub const fn there(claim: &'static str) -> Self {
        Self { claim, must: Must::Be }
    }

    /// Whether `claims` are those of an access token, as far as this claim tells. A null is absent.
    pub(crate) fn fits(self, claims: &Object, names: &ClaimNames) -> bool {
        let claim = names.find(claims, self.claim).filter(|it| !it.is_null());
        let text = claim.and_then(Value::as_str);
        match self.must {
            Must::Be => claim.is_some(),
            Must::NotBe => claim.is_none(),
            Must::Equal(values) => text.is_some_and(|it| values.contains(&it)),
            Must::EqualIfThere(values) => {
                claim.is_none() || text.is_some_and(|it| values.contains(&it))
            }
            Must::BeginWith(start) => text.is_some_and(|it| it.starts_with(start)),
        }
    }
}

impl Default for ClaimNames {
    fn default() -> Self {
        let names = |names: &[&str]| names.iter().map(|it| (*it).to_owned()).collect();
        Self { client_id: names(&["client_id", "azp"]), scope: names(&["scope"]) }
    }
}

impl ClaimNames {
    /// The claim at `path`; for `client_id` and `scope`, the first of theirs that is there. A null
    /// is absent.
    pub(crate) fn find<'a>(&self, claims: &'a Object, path: &str) -> Option<&'a Value> {
        let names = match path {
            "client_id" => &self.client_id,
            "scope" => &self.scope,
            path => return find(claims, path),
        };
        names.iter().filter_map(|it| find(claims, it)).find(|it| !it.is_null())
    }

    /// The name of the claim that [`find`](Self::find) finds; without one, the first that could be.
    pub(crate) fn name<'a>(&'a self, claims: &Object, path: &'a str) -> &'a str {
        let names = match path {
            "client_id" => &self.client_id,
            "scope" => &self.scope,
            path => return path,
        };
        let there = |it: &&String| find(claims, it).is_some_and(|it| !it.is_null());
        names.iter().find(there).or_else(|| names.first()).map_or(path, |it| it)
    }
}

impl fmt::Display for TokenType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Named(name) => name,
            Self::Absent => "absent",
        })
    }
}

impl fmt::Display for Must {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Be => f.write_str("there"),
            Self::NotBe => f.write_str("absent"),
            Self::Equal(values) => f.write_str(&values.join(" or ")),
            Self::EqualIfThere(values) => write!(f, "{}, or absent", values.join(" or ")),
            Self::BeginWith(start) => write!(f, "{start}…"),
        }
    }
}

impl fmt::Display for TypeClaim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.claim, self.must)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn object(value: &Value) -> Object {
        value.as_object().unwrap().clone()
    }

    #[test]
    fn a_tenant_stands_exactly_where_the_name_says() {
        let mut issuer = Issuer::new("https://login.example/{tenantid}/v2.0", "api");
        issuer.tenants = vec!["a".to_owned(), "b-1".to_owned()];
        for (iss, tenant) in [
            ("https://login.example/a/v2.0", Some("a")),
            ("https://login.example/b-1/v2.0", Some("b-1")),
            ("https://login.example/c/v2.0", None),
            ("https://login.example/A/v2.0", None),
            ("https://login.example//v2.0", None),
            ("https://login.example/a/a/v2.0", None),
            ("https://login.example/a/v2.0/", None),
            ("https://other.example/a/v2.0", None),
            ("https://login.example/a", None),
        ] {
            assert_eq!(issuer.tenant_in(iss), tenant, "{iss}");
            assert_eq!(issuer.is_called(iss), tenant.is_some(), "{iss}");
        }
        let one = Issuer::new("https://login.example/a/v2.0", "api");
        assert!(one.is_called("https://login.example/a/v2.0"));
        assert!(!one.is_called("https://login.example/b/v2.0"));
    }

    const ACCESS: &[&str] = &["access", "Bearer"];

    #[test]
    fn a_claim_tells_by_what_a_claim_is() {
        let on = |must, claim: Value| {
            TypeClaim { claim: "use", must }
                .fits(&object(&json!({"a": 1, "use": claim})), &ClaimNames::default())
        };
        let without = |must| {
            TypeClaim { claim: "use", must }.fits(&object(&json!({"a": 1})), &ClaimNames::default())
        };
        for (must, access, other, number, null, absent) in [
            (Must::Be, true, true, true, false, false),
            (Must::NotBe, false, false, false, true, true),
            (Must::Equal(ACCESS), true, false, false, false, false),
            (Must::EqualIfThere(ACCESS), true, false, false, true, true),
            (Must::BeginWith("acc"), true, false, false, false, false),
        ] {
            assert_eq!(on(must, json!("access")), access, "{must:?}");
            assert_eq!(on(must, json!("id")), other, "{must:?}");
            assert_eq!(on(must, json!(1)), number, "{must:?}");
            assert_eq!(on(must, json!(null)), null, "{must:?}");
            assert_eq!(without(must), absent, "{must:?}");
        }
        assert!(!on(Must::Equal(ACCESS), json!(["access"])), "a list is not the value");
    }

    #[test]
    fn of_several_names_the_first_that_is_there_counts() {
        let names =
            ClaimNames { client_id: vec!["cid".into(), "azp".into()], ..Default::default() };
        let found = |claims: &Value| names.find(&object(claims), "client_id").cloned();
        assert_eq!(found(&json!({"azp": "b", "cid": "a", "client_id": "c"})), Some(json!("a")));
        assert_eq!(found(&json!({"azp": "b", "cid": null})), Some(json!("b")));
        assert_eq!(found(&json!({"azp": "b", "cid": 7})), Some(json!(7)), "it is there");
        assert_eq!(found(&json!({"client_id": "c"})), None);
        let claims = object(&json!({"azp": "b", "scp": "s", "sub": "u"}));
        assert_eq!(names.name(&claims, "client_id"), "azp");
        assert_eq!(names.name(&claims, "scope"), "scope");
        assert_eq!(names.find(&claims, "sub"), Some(&json!("u")));
    }
}
