//! Recognition of providers: which row of [`Provider`] fits an issuer, by its URL, its metadata and a
//! token of it.
//!
//! Only signs that a product gives by itself count. An issuer that gives none is not recognised.

use super::provider::Provider;
use keybound_core::jose::Header;
use keybound_core::jose::json::Object;
use reqwest::Url;
use serde_json::Value;

/// What is known of an issuer.
#[derive(Clone, Copy)]
pub(crate) struct Known<'a> {
    /// Its URL.
    pub(crate) issuer: &'a Url,
    /// Its metadata.
    pub(crate) metadata: &'a Object,
    /// The header and the claims of one of its tokens, whose signature was verified.
    pub(crate) token: Option<(&'a Header, &'a Object)>,
}

/// A provider, and the sign by which it is known.
type Row = (Provider, &'static str, fn(Known<'_>) -> bool);

/// The first row that fits counts. A provider may have several.
const ROWS: &[Row] = &[
    (
        Provider::Keycloak,
        "its URL holds /realms/ and its endpoints /protocol/openid-connect/",
        |it| {
            it.path().contains("/realms/")
                && it.token_endpoint().contains("/protocol/openid-connect/")
        },
    ),
    (Provider::Auth0, "its host is one of Auth0's", |it| it.is_below("auth0.com")),
    (Provider::Auth0, "its metadata name Auth0's multi-factor challenge", |it| {
        it.text("mfa_challenge_endpoint").ends_with("/mfa/challenge")
    }),
    (Provider::Okta, "its host is one of Okta's", |it| {
        ["okta.com", "oktapreview.com", "okta-emea.com"].iter().any(|host| it.is_below(host))
    }),
    (Provider::Okta, "its token endpoint is Okta's", |it| {
        it.token_endpoint().contains("/oauth2/") && it.token_endpoint().ends_with("/v1/token")
    }),
    (Provider::B2c, "its host is one of Azure AD B2C's", |it| it.is_below("b2clogin.com")),
    (Provider::B2c, "its URL names a policy of Azure AD B2C", |it| {
        let path = it.path().to_ascii_lowercase();
        path.starts_with("/tfp/") || path.contains("/b2c_1")
    }),
    (Provider::Entra, "it is Entra ID's endpoint of version 2.0", |it| {
        let hosts = ["microsoftonline.com", "microsoftonline.us", "microsoftonline.cn"];
        let hosts = hosts.into_iter().chain(["ciamlogin.com"]);
        hosts.into_iter().any(|host| it.is_below(host)) && it.path().ends_with("/v2.0")
    }),
    (Provider::EntraV1, "it is Entra ID's issuer of version 1.0", |it| {
        it.is_below("sts.windows.net") || it.is_below("sts.chinacloudapi.cn")
    }),
    (Provider::Adfs, "its token endpoint is that of AD FS", |it| {
        it.token_endpoint().to_ascii_lowercase().ends_with("/adfs/oauth2/token")
            || it.token_endpoint().to_ascii_lowercase().ends_with("/adfs/oauth2/token/")
    }),
    (Provider::Cognito, "its host is one of Amazon Cognito's", |it| {
        it.host().starts_with("cognito-idp.") && it.is_amazons()
    }),
    (Provider::Google, "it is Google's issuer", |it| it.host() == "accounts.google.com"),
    (Provider::PingOne, "its host is one of PingOne's", |it| {
        it.host().starts_with("auth.pingone.") && it.path().ends_with("/as")
    }),
    (Provider::PingFederate, "its token endpoint is PingFederate's", |it| {
        it.token_endpoint().ends_with("/as/token.oauth2")
    }),
    (Provider::PingAm, "its token endpoint is that of PingAM or ForgeRock", |it| {
        it.token_endpoint().contains("/oauth2/") && it.token_endpoint().ends_with("/access_token")
    }),
    (Provider::Curity, "its URL is that of Curity's anonymous profile", |it| {
        it.path().ends_with("/oauth-anonymous")
    }),
    (Provider::Helseid, "its host is HelseID's", |it| {
        it.host().starts_with("helseid") && it.is_below("nhn.no")
    }),
    (Provider::Duende, "its endpoints are those of IdentityServer", |it| {
        it.token_endpoint().ends_with("/connect/token")
            && it.text("jwks_uri").ends_with("/.well-known/openid-configuration/jwks")
    }),
    (Provider::Wso2, "its URL ends in /oauth2/token, and its keys are below it", |it| {
        it.path().ends_with("/oauth2/token") && it.text("jwks_uri").contains("/oauth2/jwks")
    }),
    (Provider::Spring, "its endpoints are those of Spring Authorization Server", |it| {
        it.token_endpoint().ends_with("/oauth2/token")
            && it.text("jwks_uri").ends_with("/oauth2/jwks")
            && it.text("authorization_endpoint").ends_with("/oauth2/authorize")
    }),
    (Provider::Hydra, "its endpoints are those of Ory Hydra", |it| {
        it.token_endpoint().ends_with("/oauth2/token")
            && it.text("authorization_endpoint").ends_with("/oauth2/auth")
            && it.text("jwks_uri").ends_with("/.well-known/jwks.json")
    }),
    (Provider::Zitadel, "its endpoints are those of ZITADEL", |it| {
        it.token_endpoint().ends_with("/oauth/v2/token")
            && it.text("jwks_uri").ends_with("/oauth/v2/keys")
    }),
    (Provider::Authentik, "its URL holds /application/o/", |it| {
        it.path().contains("/application/o/")
    }),
    (Provider::Connect2id, "its URL ends in /c2id", |it| it.path().ends_with("/c2id")),
    (Provider::Uaa, "its keys are at /token_keys", |it| {
        it.text("jwks_uri").ends_with("/token_keys")
    }),
    (Provider::Kubernetes, "its keys are where the API server of Kubernetes has them", |it| {
        it.text("jwks_uri").ends_with("/openid/v1/jwks")
    }),
    (Provider::Kubernetes, "its host is that of Amazon EKS", |it| {
        it.host().starts_with("oidc.eks.") && it.is_amazons()
    }),
    (Provider::Kubernetes, "it is a cluster of Google Kubernetes Engine", |it| {
        it.host() == "container.googleapis.com"
    }),
    (Provider::Maskinporten, "its host is Maskinporten's", |it| it.is_below("maskinporten.no")),
    (Provider::Keycloak, "its URL holds /realms/, and the claim `typ` says so", |it| {
        it.path().contains("/realms/") && ["Bearer", "DPoP"].contains(&it.claim_text("typ"))
    }),
    (Provider::Adfs, "its URL is that of AD FS", |it| {
        let path = it.path().to_ascii_lowercase();
        path.ends_with("/adfs") || path.ends_with("/adfs/services/trust")
    }),
    (Provider::Zitadel, "its host is one of ZITADEL's", |it| it.is_below("zitadel.cloud")),
    (Provider::Uaa, "its URL ends in /oauth/token, and the token has `cid`", |it| {
        it.path().ends_with("/oauth/token") && it.claim("cid").is_some()
    }),
    (Provider::Wso2, "the claim `aut` of the token says whom it is for", |it| {
        ["APPLICATION", "APPLICATION_USER"].contains(&it.claim_text("aut"))
    }),
    (Provider::Auth0, "the token has the claim `gty`, beside `azp`", |it| {
        it.claim("gty").is_some() && it.claim("azp").is_some()
    }),
    (Provider::Curity, "the claim `purpose` of the token says access_token", |it| {
        it.claim_text("purpose") == "access_token"
    }),
    (Provider::Hydra, "the token has `ext`, and its scope as a list in `scp`", |it| {
        it.claim("ext").is_some_and(Value::is_object)
            && it.claim("scp").is_some_and(Value::is_array)
    }),
    (Provider::Okta, "the token has the type of Okta's access tokens", |it| {
        it.token.is_some_and(|(header, _)| header.is_type("okta-internal-at+jwt"))
    }),
    (Provider::Kubernetes, "the token has the claim `kubernetes.io`", |it| {
        it.claim("kubernetes.io").is_some_and(Value::is_object)
    }),
    (Provider::Spire, "the subject of the token is a SPIFFE ID", |it| {
        it.claim_text("sub").starts_with("spiffe://")
    }),
    (Provider::PingAm, "the claim `tokenName` of the token says access_token", |it| {
        it.claim_text("tokenName") == "access_token"
    }),
];

/// The provider of this issuer, and the sign by which it is recognised: a clause.
pub(crate) fn recognise(known: Known<'_>) -> Option<(Provider, &'static str)> {
    let row = ROWS.iter().find(|(_, _, fits)| fits(known));
    row.map(|(provider, sign, _)| (*provider, *sign))
}

impl<'a> Known<'a> {
    fn host(self) -> &'a str {
        self.issuer.host_str().unwrap_or_default()
    }

    fn path(self) -> &'a str {
        self.issuer.path().trim_end_matches('/')
    }

    /// Whether the host is `domain` or one below it.
    fn is_below(self, domain: &str) -> bool {
        let rest = self.host().strip_suffix(domain);
        rest.is_some_and(|it| it.is_empty() || it.ends_with('.'))
    }

    fn is_amazons(self) -> bool {
        self.is_below("amazonaws.com") || self.is_below("amazonaws.com.cn")
    }

    fn text(self, member: &str) -> &'a str {
        self.metadata.get(member).and_then(Value::as_str).unwrap_or_default()
    }

    fn token_endpoint(self) -> &'a str {
        self.text("token_endpoint")
    }

    fn claim(self, name: &str) -> Option<&'a Value> {
        self.token.and_then(|(_, claims)| claims.get(name))
    }

    fn claim_text(self, name: &str) -> &'a str {
        self.claim(name).and_then(Value::as_str).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use keybound_core::words::Words;
    use serde_json::json;
    use std::collections::BTreeSet;

    fn header(typ: Option<&str>) -> Header {
        Header {
            algorithm: None,
            kid: None,
            typ: typ.map(str::to_owned),
            jwk: None,
            unsupported: None,
        }
    }

    /// An issuer, the rest of its metadata, its token, and the provider.
    type Case = (&'static str, Value, Option<(Option<&'static str>, Value)>, Option<Provider>);

    #[expect(clippy::too_many_lines, reason = "a table")]
    fn cases() -> Vec<Case> {
        let token = |typ, claims| Some((typ, claims));
        let endpoints = |token: &str, keys: &str, authorization: &str| {
            let at = |path: &str| format!("https://as.example.com{path}");
            json!({
                "token_endpoint": at(token), "jwks_uri": at(keys),
                "authorization_endpoint": at(authorization),
            })
        };
        let keycloak = endpoints("/realms/shop/protocol/openid-connect/token", "/certs", "/auth");
        let spring = endpoints("/oauth2/token", "/oauth2/jwks", "/oauth2/authorize");
        let hydra = endpoints("/oauth2/token", "/.well-known/jwks.json", "/oauth2/auth");
        let duende =
            endpoints("/connect/token", "/.well-known/openid-configuration/jwks", "/authorize");
        let nothing = json!({});
        vec![
            (
                "https://as.example.com/realms/shop",
                keycloak.clone(),
                None,
                Some(Provider::Keycloak),
            ),
            (
                "https://as.example.com/auth/realms/shop",
                keycloak.clone(),
                None,
                Some(Provider::Keycloak),
            ),
            ("https://as.example.com/realms/shop", nothing.clone(), None, None),
            ("https://as.example.com", keycloak, None, None),
            ("https://shop.eu.auth0.com/", nothing.clone(), None, Some(Provider::Auth0)),
            (
                "https://login.example.com/",
                json!({"mfa_challenge_endpoint": "https://login.example.com/mfa/challenge"}),
                None,
                Some(Provider::Auth0),
            ),
            ("https://evil-auth0.com/", nothing.clone(), None, None),
            ("https://auth0.com.example.com/", nothing.clone(), None, None),
            ("https://shop.okta.com/oauth2/default", nothing.clone(), None, Some(Provider::Okta)),
            (
                "https://id.example.com/oauth2/aus1",
                endpoints("/oauth2/aus1/v1/token", "/keys", "/a"),
                None,
                Some(Provider::Okta),
            ),
            (
                "https://id.example.com",
                nothing.clone(),
                token(Some("application/okta-internal-at+jwt"), json!({})),
                Some(Provider::Okta),
            ),
            (
                "https://login.microsoftonline.com/7f/v2.0",
                nothing.clone(),
                None,
                Some(Provider::Entra),
            ),
            (
                "https://login.microsoftonline.com/{tenantid}/v2.0",
                nothing.clone(),
                None,
                Some(Provider::Entra),
            ),
            ("https://7f.ciamlogin.com/7f/v2.0", nothing.clone(), None, Some(Provider::Entra)),
            ("https://login.microsoftonline.com/7f", nothing.clone(), None, None),
            ("https://sts.windows.net/7f/", nothing.clone(), None, Some(Provider::EntraV1)),
            ("https://shop.b2clogin.com/7f/v2.0/", nothing.clone(), None, Some(Provider::B2c)),
            (
                "https://id.example.com/tfp/7f/B2C_1_in/v2.0/",
                nothing.clone(),
                None,
                Some(Provider::B2c),
            ),
            (
                "https://fs.example.com/adfs",
                endpoints("/adfs/oauth2/token/", "/k", "/a"),
                None,
                Some(Provider::Adfs),
            ),
            (
                "https://cognito-idp.eu-west-1.amazonaws.com/eu-west-1_x",
                nothing.clone(),
                None,
                Some(Provider::Cognito),
            ),
            ("https://cognito-idp.example.com/eu-west-1_x", nothing.clone(), None, None),
            ("https://accounts.google.com", nothing.clone(), None, Some(Provider::Google)),
            (
                "https://fed.example.com",
                endpoints("/as/token.oauth2", "/k", "/a"),
                None,
                Some(Provider::PingFederate),
            ),
            ("https://auth.pingone.eu/7f/as", nothing.clone(), None, Some(Provider::PingOne)),
            (
                "https://am.example.com/am/oauth2",
                endpoints("/am/oauth2/access_token", "/k", "/a"),
                None,
                Some(Provider::PingAm),
            ),
            (
                "https://am.example.com",
                nothing.clone(),
                token(Some("JWT"), json!({"tokenName": "access_token"})),
                Some(Provider::PingAm),
            ),
            (
                "https://am.example.com",
                nothing.clone(),
                token(Some("JWT"), json!({"tokenName": "id_token"})),
                None,
            ),
            (
                "https://login.example.com/oauth/v2/oauth-anonymous",
                nothing.clone(),
                None,
                Some(Provider::Curity),
            ),
            ("https://helseid-sts.nhn.no", duende.clone(), None, Some(Provider::Helseid)),
            ("https://as.example.com", duende, None, Some(Provider::Duende)),
            (
                "https://as.example.com",
                endpoints("/connect/token", "/.well-known/jwks", "/a"),
                None,
                None,
            ),
            ("https://is.example.com/oauth2/token", spring.clone(), None, Some(Provider::Wso2)),
            ("https://as.example.com", spring, None, Some(Provider::Spring)),
            ("https://as.example.com/", hydra, None, Some(Provider::Hydra)),
            (
                "https://z.example.com",
                endpoints("/oauth/v2/token", "/oauth/v2/keys", "/a"),
                None,
                Some(Provider::Zitadel),
            ),
            (
                "https://a.example.com/application/o/shop/",
                nothing.clone(),
                None,
                Some(Provider::Authentik),
            ),
            ("https://as.example.com/c2id", nothing.clone(), None, Some(Provider::Connect2id)),
            (
                "https://uaa.example.com/oauth/token",
                endpoints("/oauth/token", "/token_keys", "/a"),
                None,
                Some(Provider::Uaa),
            ),
            (
                "https://kubernetes.default.svc",
                json!({"jwks_uri": "https://10.0.0.1/openid/v1/jwks"}),
                None,
                Some(Provider::Kubernetes),
            ),
            (
                "https://oidc.eks.eu-west-1.amazonaws.com/id/7F",
                nothing.clone(),
                None,
                Some(Provider::Kubernetes),
            ),
            (
                "https://container.googleapis.com/v1/projects/p",
                nothing.clone(),
                None,
                Some(Provider::Kubernetes),
            ),
            (
                "https://k.example.com",
                nothing.clone(),
                token(None, json!({"kubernetes.io": {}})),
                Some(Provider::Kubernetes),
            ),
            (
                "https://spire.example.com",
                nothing.clone(),
                token(Some("JWT"), json!({"sub": "spiffe://example.org/app"})),
                Some(Provider::Spire),
            ),
            (
                "https://spire.example.com",
                nothing.clone(),
                token(Some("JWT"), json!({"sub": ["spiffe://a"]})),
                None,
            ),
            ("https://maskinporten.no/", nothing.clone(), None, Some(Provider::Maskinporten)),
            ("https://test.maskinporten.no/", nothing.clone(), None, Some(Provider::Maskinporten)),
            (
                "https://as.example.com/realms/shop",
                nothing.clone(),
                token(Some("JWT"), json!({"typ": "Bearer"})),
                Some(Provider::Keycloak),
            ),
            (
                "https://as.example.com/realms/shop",
                nothing.clone(),
                token(Some("JWT"), json!({"typ": "ID"})),
                None,
            ),
            (
                "http://fs.example.com/adfs/services/trust",
                nothing.clone(),
                None,
                Some(Provider::Adfs),
            ),
            ("https://shop-1.zitadel.cloud", nothing.clone(), None, Some(Provider::Zitadel)),
            (
                "https://uaa.example.com/oauth/token",
                nothing.clone(),
                token(Some("JWT"), json!({"cid": "app"})),
                Some(Provider::Uaa),
            ),
            (
                "https://is.example.com",
                nothing.clone(),
                token(Some("JWT"), json!({"aut": "APPLICATION"})),
                Some(Provider::Wso2),
            ),
            (
                "https://login.example.com/",
                nothing.clone(),
                token(Some("JWT"), json!({"azp": "app", "gty": "client-credentials"})),
                Some(Provider::Auth0),
            ),
            (
                "https://as.example.com",
                nothing.clone(),
                token(None, json!({"purpose": "access_token"})),
                Some(Provider::Curity),
            ),
            (
                "https://as.example.com",
                nothing.clone(),
                token(None, json!({"purpose": "id"})),
                None,
            ),
            (
                "https://as.example.com",
                nothing.clone(),
                token(Some("JWT"), json!({"ext": {}, "scp": ["read"]})),
                Some(Provider::Hydra),
            ),
            (
                "https://as.example.com",
                nothing,
                token(Some("at+jwt"), json!({"sub": "alice"})),
                None,
            ),
            ("https://as.example.com", json!({"token_endpoint": 7, "jwks_uri": null}), None, None),
        ]
    }

    #[test]
    fn each_provider_is_known_by_what_it_alone_has() {
        for (issuer, metadata, token, expected) in cases() {
            let url = Url::parse(issuer).unwrap();
            let metadata = metadata.as_object().unwrap();
            let token = token.map(|(typ, claims)| (header(typ), claims));
            let token = token.as_ref().map(|(header, it)| (header, it.as_object().unwrap()));
            let found = recognise(Known { issuer: &url, metadata, token });
            assert_eq!(found.map(|it| it.0), expected, "{issuer} {metadata:?}");
        }
    }

    #[test]
    fn every_provider_but_a_profile_can_be_recognised() {
        let known: BTreeSet<_> = cases().iter().filter_map(|it| Some(it.3?.name())).collect();
        let all: BTreeSet<_> = Provider::NAMES.iter().copied().filter(|it| *it != "fapi").collect();
        assert_eq!(known, all);
    }
}
