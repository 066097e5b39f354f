//! Providers: of each, an access token as it makes them passes with `provider` alone, and its other
//! tokens and those of others do not.
//!
//! The shapes are from public documentation, source code and decoded tokens. The values are made up.

use crate::support::configured::configured;
use crate::support::tokens::Signer;
use jsonwebtoken::Algorithm;
use keybound::clock::{Clock, FixedClock};
use keybound::config;
use keybound::installation::{Checker, Installation};
use keybound_core::oauth::Claim;
use keybound_core::{Denial, Field, Request, Target, UnixTime, Verdict};
use serde_json::{Value, json};
use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::process::Command;
use std::sync::Arc;
use tempfile::TempDir;
use tokio::runtime::Handle;

const NOW: UnixTime = UnixTime::from_secs(1_800_000_000);

/// A provider's access token, and what tells its other tokens.
struct Shape {
    provider: &'static str,
    /// The `typ` in the header.
    typ: Option<&'static str>,
    /// Beside `iss`, `aud`, `sub`, `iat`, `exp` and `cnf`, which all have. A null takes one away.
    claims: Value,
    /// What makes another token of it: the changes to the claims.
    others: Vec<(&'static str, Value)>,
    /// The client that is told.
    client: Option<&'static str>,
    /// The scope that is told.
    scope: Option<&'static str>,
}

fn shape(provider: &'static str, typ: impl Into<Option<&'static str>>, claims: Value) -> Shape {
    let typ = typ.into();
    Shape { provider, typ, claims, others: vec![], client: Some("app"), scope: Some("read write") }
}

impl Shape {
    fn not(mut self, what: &'static str, changes: Value) -> Self {
        self.others.push((what, changes));
        self
    }

    fn without_client(self) -> Self {
        Self { client: None, ..self }
    }

    fn without_scope(self) -> Self {
        Self { scope: None, ..self }
    }
}

fn shapes() -> Vec<Shape> {
    let none = json!(null);
    let list = json!(["read", "write"]);
    vec![
        shape("keycloak", "JWT", json!({"typ": "Bearer", "azp": "app", "scope": "read write"}))
            .not("ID token", json!({"typ": "ID", "at_hash": "x"}))
            .not("ID token of a refresh", json!({"typ": "ID"}))
            .not("refresh token", json!({"typ": "Refresh"}))
            .not("offline token", json!({"typ": "Offline"}))
            .not("logout token", json!({"typ": "Logout", "events": {}}))
            .not("without its mark", json!({"typ": none})),
        shape("keycloak", "at+jwt", json!({"typ": "DPoP", "azp": "app", "scope": "read write"})),
        shape("auth0", "JWT", json!({"azp": "app", "scope": "read write", "gty": "client-credentials"}))
            .not("ID token", json!({"azp": none, "nonce": "n"}))
            .not("logout token", json!({"events": {"…/backchannel-logout": {}}})),
        shape("auth0", "at+jwt", json!({"client_id": "app", "scope": "read write", "jti": "1"})),
        shape("okta", "application/okta-internal-at+jwt", json!({"cid": "app", "scp": list, "ver": 1}))
            .not("ID token", json!({"cid": none, "amr": ["pwd"], "at_hash": "x"}))
            .not("ID token without a hash", json!({"cid": none, "amr": ["pwd"]})),
        shape("okta", None, json!({"cid": "app", "scp": list, "uid": "1"})),
        shape("entra", "JWT", json!({"azp": "app", "scp": "read write", "ver": "2.0"}))
            .not("ID token", json!({"azp": none, "nonce": "n"})),
        shape("entra-v1", "JWT", json!({"appid": "app", "scp": "read write", "ver": "1.0"}))
            .not("ID token", json!({"appid": none})),
        shape("b2c", "JWT", json!({"azp": "app", "scp": "read write", "tfp": "B2C_1_in"}))
            .not("ID token", json!({"azp": none, "nonce": "n"})),
        shape("adfs", "JWT", json!({"appid": "app", "scp": "read write", "apptype": "Confidential"}))
            .not("ID token", json!({"appid": none})),
        shape("cognito", None, json!({
            "aud": none, "client_id": "https://api.example.com", "token_use": "access", "scope": "read write",
        }))
        .not("ID token", json!({"token_use": "id", "aud": "https://api.example.com"}))
        .not("ID token without its hash", json!({"token_use": "id"}))
        .not("another client", json!({"client_id": "other"}))
        .not("another audience", json!({"aud": "other"})),
        shape("google", "JWT", json!({"azp": "app", "at_hash": "x", "email_verified": true}))
            .without_scope()
            .not("security event", json!({"events": {}}))
            .not("another client", json!({"aud": "other"})),
        shape("ping-federate", "at+jwt", json!({"client_id": "app", "scope": "read write"})),
        shape("ping-federate", None, json!({"client_id": "app", "scope": list}))
            .not("ID token", json!({"client_id": none, "azp": "app"})),
        shape("ping-one", "JWT", json!({"client_id": "app", "scope": "read write", "env": "e"}))
            .not("ID token", json!({"client_id": none, "azp": "app"})),
        shape("ping-am", "JWT", json!({
            "tokenName": "access_token", "client_id": "app", "scope": list, "grant_type": "client_credentials",
        }))
        .not("ID token", json!({"tokenName": "id_token"}))
        .not("refresh token", json!({"tokenName": "refresh_token"})),
        shape("curity", None, json!({"purpose": "access_token", "client_id": "app", "scope": "read write"}))
            .not("ID token", json!({"purpose": "id"}))
            .not("ID token without a purpose", json!({"purpose": none, "nonce": "n"})),
        shape("duende", "at+jwt", json!({"client_id": "app", "scope": list})),
        shape("spring", None, json!({"scope": list, "nbf": 1_800_000_000}))
            .without_client()
            .not("ID token", json!({"azp": "app"})),
        shape("hydra", "JWT", json!({"client_id": "app", "scp": list, "ext": {}}))
            .not("ID token", json!({"client_id": none, "azp": "app"})),
        shape("zitadel", "JWT", json!({"jti": "1", "client_id": "app", "scope": "read write"}))
            .not("ID token", json!({"jti": none, "azp": "app"})),
        shape("authentik", "JWT", json!({"azp": "app", "scope": "read write"}))
            .not("ID token", json!({"scope": none})),
        shape("connect2id", None, json!({"cid": "app", "scp": list}))
            .not("ID token", json!({"cid": none})),
        shape("connect2id", "at+jwt", json!({"client_id": "app", "scope": "read write"})),
        shape("wso2", "JWT", json!({"azp": "app", "aut": "APPLICATION", "scope": "read write"}))
            .not("ID token", json!({"amr": ["Basic"]}))
            .not("ID token with a key", json!({"isk": "k"})),
        shape("wso2", "at+jwt", json!({"client_id": "app", "scope": "read write"})),
        shape("uaa", "JWT", json!({"client_id": "app", "cid": "app", "azp": "app", "scope": list}))
            .not("ID token", json!({"client_id": none}))
            .not("refresh token", json!({"scope": none, "granted_scopes": list})),
        shape("kubernetes", None, json!({"kubernetes.io": {"namespace": "shop"}}))
            .without_client()
            .without_scope()
            .not("another token", json!({"kubernetes.io": none})),
        shape("spire", "JWT", json!({"sub": "spiffe://example.org/ns/shop/sa/app"}))
            .without_client()
            .without_scope()
            .not("another token", json!({"sub": "alice"})),
        shape("maskinporten", None, json!({"client_id": "app", "scope": "read write", "token_type": "Bearer"}))
            .not("ID token", json!({"client_id": none})),
        shape("helseid", "JWT", json!({"client_id": "app", "scope": list}))
            .not("ID token", json!({"client_id": none, "azp": "app"})),
        shape("fapi", "at+jwt", json!({"client_id": "app", "scope": "read write"})),
    ]
}

/// Every provider as an issuer of its own.
struct World {
    installation: Installation,
    signers: HashMap<&'static str, Signer>,
    _files: TempDir,
}

fn issuer(provider: &str) -> String {
    format!("https://{provider}.example.com")
}

/// What runs under these issuers and a policy that asks for nothing more.
fn installation(issuers: &Value, files: &TempDir) -> Installation {
    let configuration = json!({
        "issuers": issuers,
        "policies": [{"name": "all", "sender_constraint": "if_bound"}],
        "limits": {"check_deadline": "60s"},
    });
    let config = configured(&configuration.to_string(), files.path());
    let config = config.unwrap_or_else(|it| panic!("{it:?}"));
    let mut warnings = config.warnings.iter();
    let warned = warnings.find(|it| it.path.starts_with("issuers"));
    assert_eq!(warned, None, "a provider by itself is nothing to warn of");
    let clock: Arc<dyn Clock> = Arc::new(FixedClock(NOW));
    let made = Installation::start(config.rules, None, &clock, &Handle::current()).unwrap();
    made.installation
}

async fn verdict(installation: &Installation, token: &str) -> Verdict {
    let authorization = format!("Bearer {token}");
    let request = Request {
        target: Target { method: "GET", scheme: "https", authority: "api", path: "/" },
        authorization: Field::One(authorization.as_bytes()),
        ..Request::default()
    };
    let checker = Checker::new(Arc::new(FixedClock(NOW)));
    checker.explain_with(&installation.rules, installation, &request, None).await
}

impl World {
    fn new() -> Self {
        let files = tempfile::tempdir().unwrap();
        let rs256 = Signer::new(Algorithm::RS256, "rsa");
        let es256 = Signer::new(Algorithm::ES256, "ec");
        let jwks = json!({"keys": [rs256.jwk(), es256.jwk()]}).to_string();
        fs::write(files.path().join("jwks.json"), jwks).unwrap();
        let rules = |name: &String| {
            json!({
                "issuer": issuer(name), "provider": name, "audiences": ["https://api.example.com"],
                "keys": {"jwks_file": "jwks.json"},
            })
        };
        let issuers = json!(providers().iter().map(rules).collect::<Vec<_>>());
        let installation = installation(&issuers, &files);
        let signers = HashMap::from([("RS256", rs256), ("ES256", es256)]);
        Self { installation, signers, _files: files }
    }

    /// The reason, and the client and the scope that were told.
    async fn decide(&self, provider: &str, typ: Option<&str>, claims: &Value) -> Decided {
        let signer = &self.signers[if provider == "fapi" { "ES256" } else { "RS256" }];
        let verdict = verdict(&self.installation, &signer.sign(typ, claims)).await;
        let told = |path| {
            let token = verdict.facts.token.as_ref()?;
            Some(match token.claims.get(path)? {
                Claim::Text(text) => text.to_owned(),
                Claim::Json(json) => serde_json::from_str::<Vec<String>>(json).unwrap().join(" "),
            })
        };
        let reason = verdict.outcome.map_or_else(Denial::label, |()| "allowed");
        Decided { reason, client: told("client_id"), scope: told("scope") }
    }
}

#[derive(Debug, PartialEq)]
struct Decided {
    reason: &'static str,
    client: Option<String>,
    scope: Option<String>,
}

/// The names of all providers.
fn providers() -> Vec<String> {
    let rows = &config::schema()["$defs"]["Provider"]["oneOf"];
    rows.as_array().unwrap().iter().map(|it| it["const"].as_str().unwrap().to_owned()).collect()
}

/// The claims of a token of `provider`'s, with those of `more`.
fn claims(provider: &str, more: &[&Value]) -> Value {
    let mut claims = json!({
        "iss": issuer(provider), "aud": "https://api.example.com", "sub": "alice",
        "iat": 1_800_000_000, "exp": 1_800_000_300,
    });
    let members = claims.as_object_mut().unwrap();
    for (name, value) in more.iter().flat_map(|it| it.as_object().unwrap()) {
        members.insert(name.clone(), value.clone());
    }
    members.retain(|_, it| !it.is_null());
    claims
}

#[tokio::test]
async fn an_access_token_of_each_provider_passes_and_tells_its_client_and_scope() {
    let world = World::new();
    for Shape { provider, typ, claims: own, client, scope, .. } in shapes() {
        let decided = world.decide(provider, typ, &claims(provider, &[&own])).await;
        let client = if provider == "cognito" { Some("https://api.example.com") } else { client };
        let expected = Decided {
            reason: "allowed",
            client: client.map(str::to_owned),
            scope: scope.map(str::to_owned),
        };
        assert_eq!(decided, expected, "{provider} {typ:?} {own}");
    }
}

#[tokio::test]
async fn no_other_token_of_a_provider_passes() {
    let world = World::new();
    for Shape { provider, typ, claims: own, others, .. } in shapes() {
        let refused = ["token_type_wrong", "token_audience_mismatch"];
        for (what, changes) in &others {
            let decided = world.decide(provider, typ, &claims(provider, &[&own, changes])).await;
            assert!(refused.contains(&decided.reason), "{provider} {what}: {decided:?}");
        }
        for changes in [
            json!({"events": {"http://schemas.openid.net/event/backchannel-logout": {}}}),
            json!({"c_hash": "x"}),
            json!({"at_hash": "x"}),
        ] {
            let is_google = provider == "google" && changes.get("events").is_none();
            let decided = world.decide(provider, typ, &claims(provider, &[&own, &changes])).await;
            let expected = if is_google { "allowed" } else { "token_type_wrong" };
            assert_eq!(decided.reason, expected, "{provider} {changes}");
        }
    }
}

#[tokio::test]
async fn a_provider_opens_nothing_beside_its_own_tokens() {
    let world = World::new();
    let all = [None, Some("JWT"), Some("at+jwt"), Some("application/okta-internal-at+jwt")];
    let shapes = shapes();
    for Shape { provider, claims: own, .. } in &shapes {
        let good = claims(provider, &[own]);
        let edited = |name: &str, value: Value| claims(provider, &[own, &json!({ name: value })]);
        let typs: Vec<_> =
            shapes.iter().filter(|it| it.provider == *provider).map(|it| it.typ).collect();
        for typ in all.into_iter().chain([Some("logout+jwt"), Some("secevent+jwt"), Some("JOSE")]) {
            let own_type = typs.contains(&typ) || (typ == Some("at+jwt") && has_at_jwt(provider));
            if !own_type {
                let decided = world.decide(provider, typ, &good).await;
                assert_eq!(decided.reason, "token_type_wrong", "{provider} {typ:?}");
            }
        }
        let typ = typs[0];
        let other = if *provider == "cognito" { "client_id" } else { "aud" };
        for (claims, reason) in [
            (edited(other, json!("other")), "token_audience_mismatch"),
            (edited(other, json!(null)), "token_claim_missing"),
            (edited("exp", json!(1_799_999_970)), "token_expired"),
            (edited("exp", json!(null)), "token_claim_missing"),
            (edited("iss", json!("https://evil.example.com")), "token_issuer_unknown"),
        ] {
            let decided = world.decide(provider, typ, &claims).await;
            assert_eq!(decided.reason, reason, "{provider} {claims}");
        }
    }
}

#[tokio::test]
async fn of_an_issuer_with_many_tenants_those_named_pass_with_keys_of_theirs() {
    let name = "https://login.example.com/{tenantid}/v2.0";
    let keys = ["all", "a-only", "unsaid"].map(|kid| Signer::new(Algorithm::RS256, kid));
    let mut jwks: Vec<_> = keys.iter().map(|it| it.jwk().clone()).collect();
    jwks[0]["issuer"] = json!(name);
    jwks[1]["issuer"] = json!("https://login.example.com/a/v2.0");
    let files = tempfile::tempdir().unwrap();
    fs::write(files.path().join("jwks.json"), json!({ "keys": jwks }).to_string()).unwrap();
    let issuers = json!([{
        "issuer": name, "provider": "entra", "tenants": ["a", "b"],
        "audiences": ["https://api.example.com"], "keys": {"jwks_file": "jwks.json"},
    }]);
    let installation = installation(&issuers, &files);
    let case = async |key: usize, in_iss: &str, tid: &str| {
        let iss = format!("https://login.example.com/{in_iss}/v2.0");
        let claims = claims("entra", &[&json!({"iss": iss, "tid": tid, "azp": "app"})]);
        let verdict = verdict(&installation, &keys[key].sign("JWT", &claims)).await;
        if verdict.outcome.is_ok() {
            assert_eq!(verdict.facts.token.unwrap().iss(), iss);
        }
        verdict.outcome.map_or_else(Denial::label, |()| "allowed")
    };
    for (key, in_iss, tid, expected) in [
        (0, "a", "a", "allowed"),
        (0, "b", "b", "allowed"),
        (1, "a", "a", "allowed"),
        (1, "b", "b", "token_issuer_unknown"),
        (2, "b", "b", "allowed"),
        (0, "c", "c", "token_issuer_unknown"),
        (0, "a", "b", "token_issuer_unknown"),
        (0, "{tenantid}", "{tenantid}", "token_issuer_unknown"),
        (0, "a", "", "token_issuer_unknown"),
    ] {
        assert_eq!(case(key, in_iss, tid).await, expected, "{key} {in_iss} {tid}");
    }
}

/// The rows that take the type of RFC 9068 beside another.
fn has_at_jwt(provider: &str) -> bool {
    ["keycloak", "auth0", "okta", "ping-federate", "curity", "connect2id", "wso2", "helseid"]
        .contains(&provider)
}

#[test]
fn every_provider_has_a_token_here() {
    let tried: BTreeSet<_> = shapes().into_iter().map(|it| it.provider.to_owned()).collect();
    assert_eq!(tried, providers().into_iter().collect());
}

// ---- what `explain` writes for an issuer without a provider ----

/// The issuer of a provider as it calls itself, where that tells.
fn own_url(provider: &str) -> String {
    let url = match provider {
        "keycloak" => "https://sso.example.com/realms/shop",
        "auth0" => "https://shop.eu.auth0.com/",
        "entra" => "https://login.microsoftonline.com/7f/v2.0",
        "entra-v1" => "https://sts.windows.net/7f/",
        "b2c" => "https://shop.b2clogin.com/7f/v2.0/",
        "adfs" => "https://fs.example.com/adfs",
        "cognito" => "https://cognito-idp.eu-west-1.amazonaws.com/eu-west-1_x",
        "ping-one" => "https://auth.pingone.eu/7f/as",
        "helseid" => "https://helseid-sts.nhn.no",
        "zitadel" => "https://shop-1.zitadel.cloud",
        "authentik" => "https://a.example.com/application/o/shop/",
        "connect2id" => "https://as.example.com/c2id",
        "uaa" => "https://uaa.example.com/oauth/token",
        "maskinporten" => "https://maskinporten.no/",
        "google" => "https://accounts.google.com",
        _ => return issuer(provider),
    };
    url.to_owned()
}

/// An issuer without a provider, and the program that explains.
struct Plain {
    folder: TempDir,
    signer: Signer,
    url: String,
}

impl Plain {
    fn new(provider: &str) -> Self {
        let (folder, signer) = (tempfile::tempdir().unwrap(), Signer::new(Algorithm::RS256, "rsa"));
        let jwks = json!({"keys": [signer.jwk()]}).to_string();
        fs::write(folder.path().join("jwks.json"), jwks).unwrap();
        Self { folder, signer, url: own_url(provider) }
    }

    fn token(&self, provider: &str, typ: Option<&str>, more: &[&Value]) -> String {
        let iss = json!({"iss": self.url});
        self.signer.sign(typ, &claims(provider, &[&[&iss], more].concat()))
    }

    /// What is said of a token under the configuration with these lines about the issuer.
    fn told(&self, written: &str, token: &str) -> Value {
        let config = format!(
            "listen: {{ext_authz: '127.0.0.1:0', admin: '127.0.0.1:0'}}\nissuers:\n{written}    \
             audiences: ['https://api.example.com']\n    keys: {{jwks_file: jwks.json}}\n\
             policies: [{{name: all, sender_constraint: if_bound}}]\n"
        );
        let path = self.folder.path().join("keybound.yaml");
        fs::write(&path, config).unwrap();
        let authorization = format!("Authorization: Bearer {token}");
        let output = Command::new(env!("CARGO_BIN_EXE_keybound"))
            .args(["explain", "--json", "--at", "1800000000", "--config"])
            .arg(path)
            .args(["-H", &authorization, "https://api.example.com/"])
            .output()
            .unwrap();
        let errors = String::from_utf8_lossy(&output.stderr);
        serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{errors} {written}"))
    }

    fn plain(&self) -> String {
        format!("  - issuer: '{}'\n", self.url)
    }
}

#[test]
fn what_is_written_for_an_issuer_without_a_provider_reads_its_access_tokens() {
    // Nothing in a token of Spring tells it from an ID token, and Google's are such.
    let unwritten = ["spring", "google"];
    let mut written = 0;
    for Shape { provider, typ, claims: own, others, .. } in shapes() {
        let site = Plain::new(provider);
        let token = site.token(provider, typ, &[&own]);
        let before = site.told(&site.plain(), &token);
        if before["reason"] == "allowed" {
            continue;
        }
        let Some(block) = before["configuration"].as_str() else {
            assert!(unwritten.contains(&provider), "{provider} {typ:?}: {before}");
            assert!(before["no_configuration"].is_string(), "{before}");
            continue;
        };
        assert!(!unwritten.contains(&provider), "{provider}: {block}");
        for never in
            ["allow_missing_audience: ", "audiences:", "HS256", "none", "clock_leeway", "policies:"]
        {
            let lines = block.lines().filter(|it| !it.trim_start().starts_with('#'));
            let keys = lines.map(|it| it.split("  #").next().unwrap());
            assert!(keys.clone().all(|it| !it.contains(never)), "{never}: {block}");
        }
        let after = site.told(block, &token);
        assert_eq!(after["reason"], "allowed", "{provider} {typ:?}\n{block}\n{after}");
        written += 1;
        for (what, changes) in &others {
            // This is the test's own: a token of Keycloak's always has its mark.
            if *what == "without its mark" {
                continue;
            }
            let other = site.token(provider, typ, &[&own, changes]);
            let asked = site.told(&site.plain(), &other);
            if let Some(block) = asked["configuration"].as_str() {
                let let_in = site.told(block, &other);
                assert_ne!(let_in["reason"], "allowed", "{provider} {what}\n{block}");
            }
        }
    }
    assert!(20 < written, "{written}");
}

#[test]
fn what_is_written_never_lets_in_what_is_for_others() {
    let site = Plain::new("keycloak");
    let own = json!({"typ": "Bearer", "azp": "app", "scope": "read"});
    for (changes, reason) in [
        (json!({"aud": "account"}), "token_audience_mismatch"),
        (json!({"aud": null}), "token_claim_missing"),
        (json!({"exp": 1_799_999_000}), "token_expired"),
        (json!({"cnf": {"kid": "x"}}), "binding_unsupported"),
    ] {
        let token = site.token("keycloak", Some("JWT"), &[&own, &changes]);
        let asked = site.told(&site.plain(), &token);
        let block = asked["configuration"].as_str().unwrap();
        assert!(block.contains("provider: keycloak"), "{block}");
        assert_eq!(site.told(block, &token)["reason"], reason, "{block}");
    }
    let foreign = Signer::new(Algorithm::RS256, "rsa");
    let claims = claims("keycloak", &[&json!({"iss": site.url}), &own]);
    let asked = site.told(&site.plain(), &foreign.sign("JWT", &claims));
    assert_eq!(asked["configuration"], Value::Null, "{asked}");
}

/// The pages' blocks in YAML.
fn blocks() -> Vec<&'static str> {
    const PAGE: &str = include_str!("../../docs/issuers.md");
    PAGE.split("```yaml\n").skip(1).map(|it| it.split("```").next().unwrap()).collect()
}

/// `block` without `key` of its issuer and what is below it.
fn without(block: &str, key: &str) -> String {
    let mut is_below = false;
    let mut kept = String::new();
    for line in block.lines() {
        let depth = line.len() - line.trim_start().len();
        is_below = if depth <= 4 { line.trim_start().starts_with(key) } else { is_below };
        if !is_below {
            kept += line;
            kept.push('\n');
        }
    }
    kept
}

#[tokio::test]
async fn each_block_to_paste_reads_the_tokens_of_its_provider() {
    const POLICIES: &str = "policies: [{name: all, sender_constraint: if_bound}]\n";
    const MOUNTED: &str = "/var/run/secrets/kubernetes.io/serviceaccount/";
    let files = tempfile::tempdir().unwrap();
    let signers = [Signer::new(Algorithm::RS256, "rsa"), Signer::new(Algorithm::ES256, "ec")];
    let jwks = json!({"keys": [signers[0].jwk(), signers[1].jwk()]}).to_string();
    let made = rcgen::generate_simple_self_signed(["as.example.com".to_owned()]).unwrap();
    for (name, content) in [
        ("introspection-secret", "a-secret".to_owned()),
        ("token", "a-token".to_owned()),
        ("ca.crt", made.cert.pem()),
        ("jwks.json", jwks),
    ] {
        fs::write(files.path().join(name), content).unwrap();
    }
    let mut seen = BTreeSet::new();
    for block in blocks() {
        let whole = block.replace(MOUNTED, "") + POLICIES;
        let config =
            configured(&whole, files.path()).unwrap_or_else(|it| panic!("{it:?}: {block}"));
        let issuer = Arc::clone(&config.rules.policies.issuers[0]);
        let provider = issuer.provider.unwrap();
        seen.insert(provider.to_owned());
        let alone =
            ["keys:", "introspection:", "ca_file:"].iter().fold(whole, |it, key| without(&it, key));
        let offline = alone.replace("policies:", "    keys: {jwks_file: jwks.json}\npolicies:");
        let config =
            configured(&offline, files.path()).unwrap_or_else(|it| panic!("{it:?}: {offline}"));
        let clock: Arc<dyn Clock> = Arc::new(FixedClock(NOW));
        let made = Installation::start(config.rules, None, &clock, &Handle::current()).unwrap();
        let signer = &signers[usize::from(provider == "fapi")];
        let tenant = issuer.tenants.first().map_or("", |it| it);
        for shape in shapes().iter().filter(|it| it.provider == provider) {
            let audience = if provider == "cognito" { "client_id" } else { "aud" };
            let own = json!({"iss": issuer.name.replace("{tenantid}", tenant), "tid": tenant});
            for (named, expected) in
                [(&*issuer.audiences[0], "allowed"), ("other", "token_audience_mismatch")]
            {
                let claims = claims(provider, &[&shape.claims, &own, &json!({ audience: named })]);
                let verdict = verdict(&made.installation, &signer.sign(shape.typ, &claims)).await;
                let reason = verdict.outcome.map_or_else(Denial::label, |()| "allowed");
                assert_eq!(reason, expected, "{block}");
            }
        }
    }
    assert_eq!(seen, providers().into_iter().collect());
}
