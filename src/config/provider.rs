//! Providers: named sets of defaults for issuers, one row each.
//!
//! A row accepts what the provider's access tokens need and nothing else. Where it accepts `JWT` or
//! tokens without a type, it names what tells access tokens from the provider's other tokens.

use crate::config::usual;
use keybound_core::jose::Algorithm;
use keybound_core::policy::{AUDIENCE, ClaimNames, Issuer, Must, TokenType, TypeClaim};
use keybound_core::policy::{USUAL_ALGORITHMS, USUAL_TYPE_CLAIMS};
use keybound_core::words::words;

words! {
    /// An identity provider, whose row gives the defaults for its access tokens. What is written in the
    /// file wins. Each row says where its shape is from.
    pub(crate) enum Provider as "Provider" {
        /// Keycloak: `typ` in the header is `JWT` unless the client asks for `at+jwt`; the claim
        /// `typ` says `Bearer` or `DPoP`, and `ID`, `Refresh` or `Logout` in its other tokens. From
        /// tokens of a running Keycloak 26.
        Keycloak = "keycloak",
        /// Auth0: `JWT`, or `at+jwt` with the RFC 9068 profile; only access tokens name the client.
        /// From its documentation on sender constraining and token profiles.
        Auth0 = "auth0",
        /// Okta: `application/okta-internal-at+jwt` or no type; the client in `cid`, the scope as a
        /// list in `scp`. From its documentation, and issuers in public Spring configurations.
        Okta = "okta",
        /// Microsoft Entra ID, tokens of version 2.0: the scope as words in `scp`; only access
        /// tokens have `azp`. From its access token claims reference, and the source of MSAL.
        Entra = "entra",
        /// Microsoft Entra ID, tokens of version 1.0: the client in `appid`. From its access token
        /// claims reference.
        EntraV1 = "entra-v1",
        /// Azure AD B2C: only access tokens have `azp`. From its overview of tokens.
        B2c = "b2c",
        /// AD FS: the client in `appid`. From its overview of `OpenID` Connect.
        Adfs = "adfs",
        /// Amazon Cognito: no type and no `aud`; `token_use` says `access`. `audiences` names the
        /// clients. From its documentation on access tokens.
        Cognito = "cognito",
        /// Google: ID tokens, since its access tokens can be validated by Google alone. Only
        /// `audiences` keeps out ID tokens for other clients. From its documentation on `OpenID`
        /// Connect.
        Google = "google",
        /// PingFederate: `at+jwt`, or no type; only access tokens name the client. From its plugin
        /// for JWT access tokens, as public configurations set it.
        PingFederate = "ping-federate",
        /// PingOne: `JWT`; only access tokens have `client_id`. From its documentation on token
        /// claims.
        PingOne = "ping-one",
        /// PingAM, ForgeRock, Advanced Identity Cloud: `tokenName` says `access_token`; the scope
        /// is a list. From its documentation on client-side tokens, and tokens in public material.
        PingAm = "ping-am",
        /// Curity: no type unless it is switched on; `purpose` says `access_token`. From its
        /// documentation on JWT access tokens.
        Curity = "curity",
        /// Duende `IdentityServer`, `IdentityServer4`: `at+jwt`; the scope is a list. From its
        /// source code.
        Duende = "duende",
        /// Spring Authorization Server: no type; the scope is a list; only ID tokens have `azp`.
        /// From its source code (`JwtGenerator`) and issues.
        Spring = "spring",
        /// Ory Hydra: `JWT`; the scope as a list in `scp`; only access tokens have `client_id`.
        /// From its source code and configuration schema.
        Hydra = "hydra",
        /// ZITADEL: `JWT`; only access tokens have `jti`. From its documentation and source code.
        Zitadel = "zitadel",
        /// authentik: `JWT`; only access tokens have a scope. From its source code.
        Authentik = "authentik",
        /// Connect2id: `at+jwt`, or with its first codec no type, `cid` and `scp`. From its
        /// documentation on token codecs.
        Connect2id = "connect2id",
        /// WSO2 Identity Server and API Manager: `at+jwt` or `JWT`; ID tokens have `amr`, `isk` or
        /// `nonce`. From its documentation on JWT access tokens.
        Wso2 = "wso2",
        /// Cloud Foundry UAA, SAP XSUAA: `JWT`; the scope is a list; only access tokens have both
        /// `client_id` and `scope`. From its source code and issues.
        Uaa = "uaa",
        /// Service accounts of Kubernetes: no type; the claim `kubernetes.io`. From decoded tokens
        /// of clusters, KEP 1393.
        Kubernetes = "kubernetes",
        /// SPIRE with `jwt_issuer`, JWT-SVIDs: `JWT`; the subject is a SPIFFE ID. From the JWT-SVID
        /// specification, and its source code.
        Spire = "spire",
        /// Maskinporten: no type; no `aud` unless the client names a resource. From its
        /// documentation.
        Maskinporten = "maskinporten",
        /// `HelseID`: `at+jwt` or `JWT`; the scope is a list; only access tokens have `client_id`.
        /// From its documentation for clients.
        Helseid = "helseid",
        /// FAPI 2.0 Security Profile: its algorithms only (§5.4.1), and `at+jwt`. From the profile
        /// itself.
        Fapi = "fapi",
    }
}

/// The defaults of a provider.
struct Row {
    algorithms: &'static [Algorithm],
    /// With `absent` for tokens without a type.
    token_types: &'static [&'static str],
    audience_claim: &'static str,
    client_id: &'static [&'static str],
    scope: &'static [&'static str],
    /// Beside those that every issuer has, but for a row of ID tokens.
    type_claims: &'static [TypeClaim],
    id_tokens: bool,
}

/// The defaults without a provider.
const USUAL: Row = Row {
    algorithms: &USUAL_ALGORITHMS,
    token_types: &usual::TOKEN_TYPES,
    audience_claim: AUDIENCE,
    client_id: &["client_id", "azp"],
    scope: &["scope"],
    type_claims: &[],
    id_tokens: false,
};

const CLIENT: TypeClaim = TypeClaim::there("client_id");
const SCOPE: TypeClaim = TypeClaim::there("scope");
/// Only ID tokens have it (OpenID Connect Core 1.0 §2).
const NO_NONCE: TypeClaim = TypeClaim::absent("nonce");
const NO_AZP: TypeClaim = TypeClaim::absent("azp");
const NO_AMR: TypeClaim = TypeClaim::absent("amr");
const NO_ISK: TypeClaim = TypeClaim::absent("isk");
const JTI: TypeClaim = TypeClaim::there("jti");
const KUBERNETES: TypeClaim = TypeClaim::there("kubernetes.io");
/// Where an ID token has `azp`, `client_id` alone tells.
const ALONE: &[&str] = &["client_id"];

impl Provider {
    #[expect(clippy::too_many_lines, reason = "a table")]
    const fn row(self) -> Row {
        const RS256: &[Algorithm] = &[Algorithm::RS256];
        match self {
            Self::Keycloak => Row {
                token_types: &["at+jwt", "jwt"],
                type_claims: &[TypeClaim { claim: "typ", must: Must::Equal(&["Bearer", "DPoP"]) }],
                ..USUAL
            },
            Self::Auth0 => Row { token_types: &["at+jwt", "jwt"], type_claims: &[CLIENT], ..USUAL },
            Self::Okta => Row {
                algorithms: RS256,
                token_types: &["at+jwt", "okta-internal-at+jwt", "absent"],
                client_id: &["client_id", "cid"],
                scope: &["scope", "scp"],
                type_claims: &[CLIENT],
                ..USUAL
            },
            Self::Entra | Self::B2c => Row {
                algorithms: RS256,
                token_types: &["jwt"],
                scope: &["scope", "scp"],
                type_claims: &[CLIENT],
                ..USUAL
            },
            Self::EntraV1 => Row {
                algorithms: RS256,
                token_types: &["jwt"],
                client_id: &["client_id", "appid"],
                scope: &["scope", "scp"],
                type_claims: &[CLIENT],
                ..USUAL
            },
            Self::Adfs => Row {
                token_types: &["jwt"],
                client_id: &["client_id", "appid"],
                scope: &["scope", "scp"],
                type_claims: &[CLIENT],
                ..USUAL
            },
            Self::Cognito => Row {
                algorithms: RS256,
                token_types: &["absent"],
                audience_claim: "client_id",
                type_claims: &[TypeClaim { claim: "token_use", must: Must::Equal(&["access"]) }],
                ..USUAL
            },
            Self::Google => {
                Row { algorithms: RS256, token_types: &["jwt"], id_tokens: true, ..USUAL }
            }
            Self::PingFederate => Row {
                token_types: &["at+jwt", "absent"],
                client_id: ALONE,
                type_claims: &[CLIENT],
                ..USUAL
            },
            Self::PingOne => {
                Row { token_types: &["jwt"], client_id: ALONE, type_claims: &[CLIENT], ..USUAL }
            }
            Self::PingAm => Row {
                token_types: &["jwt"],
                type_claims: &[
                    TypeClaim { claim: "tokenName", must: Must::EqualIfThere(&["access_token"]) },
                    NO_NONCE,
                ],
                ..USUAL
            },
            Self::Curity => Row {
                token_types: &["at+jwt", "absent"],
                type_claims: &[
                    TypeClaim { claim: "purpose", must: Must::EqualIfThere(&["access_token"]) },
                    NO_NONCE,
                ],
                ..USUAL
            },
            Self::Duende => USUAL,
            Self::Spring => Row {
                token_types: &["absent"],
                client_id: ALONE,
                type_claims: &[NO_AZP, NO_NONCE],
                ..USUAL
            },
            Self::Hydra => Row {
                token_types: &["jwt"],
                client_id: ALONE,
                scope: &["scope", "scp"],
                type_claims: &[CLIENT],
                ..USUAL
            },
            Self::Zitadel => Row { token_types: &["jwt"], type_claims: &[JTI, NO_NONCE], ..USUAL },
            Self::Authentik => {
                Row { token_types: &["jwt"], type_claims: &[SCOPE, NO_NONCE], ..USUAL }
            }
            Self::Connect2id => Row {
                token_types: &["at+jwt", "absent"],
                client_id: &["client_id", "cid"],
                scope: &["scope", "scp"],
                type_claims: &[CLIENT],
                ..USUAL
            },
            Self::Wso2 => Row {
                token_types: &["at+jwt", "jwt"],
                type_claims: &[CLIENT, NO_NONCE, NO_AMR, NO_ISK],
                ..USUAL
            },
            Self::Uaa => Row {
                token_types: &["jwt"],
                client_id: ALONE,
                type_claims: &[CLIENT, SCOPE],
                ..USUAL
            },
            Self::Kubernetes => {
                Row { token_types: &["absent"], type_claims: &[KUBERNETES], ..USUAL }
            }
            Self::Spire => Row {
                token_types: &["jwt"],
                type_claims: &[TypeClaim { claim: "sub", must: Must::BeginWith("spiffe://") }],
                ..USUAL
            },
            Self::Maskinporten => Row {
                token_types: &["absent"],
                client_id: ALONE,
                type_claims: &[CLIENT, SCOPE],
                ..USUAL
            },
            Self::Helseid => Row {
                token_types: &["at+jwt", "jwt"],
                client_id: ALONE,
                type_claims: &[CLIENT],
                ..USUAL
            },
            Self::Fapi => Row {
                algorithms: &[
                    Algorithm::ES256,
                    Algorithm::PS256,
                    Algorithm::EdDSA,
                    Algorithm::Ed25519,
                ],
                ..USUAL
            },
        }
    }
}

impl Provider {
    /// What its tokens need, for an issuer that says nothing else.
    pub(crate) fn defaults(given: Option<Self>) -> Defaults {
        let row = given.map_or(USUAL, Self::row);
        let usual = USUAL_TYPE_CLAIMS.iter().filter(|it| !row.id_tokens || it.claim == "events");
        let owned = |names: &[&str]| names.iter().map(|it| (*it).to_owned()).collect();
        Defaults {
            algorithms: row.algorithms.to_vec(),
            token_types: row.token_types.iter().map(|it| token_type(it)).collect(),
            audience_claim: row.audience_claim,
            claim_names: ClaimNames { client_id: owned(row.client_id), scope: owned(row.scope) },
            type_claims: usual.chain(row.type_claims).copied().collect(),
        }
    }

    /// What `issuer` has from this provider's row, in the words of the configuration: the values that
    /// differ from those of an issuer without a provider.
    pub(crate) fn gives(self, issuer: &Issuer) -> Vec<String> {
        let (own, usual) = (Self::defaults(Some(self)), Self::defaults(None));
        let mut given = vec![];
        let mut value = |name: &str, is_own: bool, values: Vec<String>| {
            if is_own {
                given.push(format!("{name}: {}", values.join(" ")));
            }
        };
        value(
            "algorithms",
            own.algorithms != usual.algorithms && issuer.algorithms == own.algorithms,
            texts(&own.algorithms),
        );
        value(
            "token_types",
            own.token_types != usual.token_types && issuer.token_types == own.token_types,
            texts(&own.token_types),
        );
        value(
            "audience_claim",
            own.audience_claim != usual.audience_claim
                && issuer.audience_claim == own.audience_claim,
            vec![own.audience_claim.to_owned()],
        );
        let (names, others) = (&own.claim_names, &usual.claim_names);
        value(
            "claim_names.client_id",
            names.client_id != others.client_id && issuer.claim_names.client_id == names.client_id,
            names.client_id.clone(),
        );
        value(
            "claim_names.scope",
            names.scope != others.scope && issuer.claim_names.scope == names.scope,
            names.scope.clone(),
        );
        let claims = own.type_claims.iter().filter(|it| !usual.type_claims.contains(it));
        given.extend(claims.map(|it| format!("claim {it}")));
        let missing = usual.type_claims.iter().filter(|it| !own.type_claims.contains(it));
        given.extend(missing.map(|it| format!("claim {} as it may be", it.claim)));
        given
    }
}

fn texts<T: ToString>(values: &[T]) -> Vec<String> {
    values.iter().map(ToString::to_string).collect()
}

/// The rules of an issuer that says nothing of them.
#[derive(Debug)]
pub(crate) struct Defaults {
    pub(crate) algorithms: Vec<Algorithm>,
    pub(crate) token_types: Vec<TokenType>,
    pub(crate) audience_claim: &'static str,
    pub(crate) claim_names: ClaimNames,
    pub(crate) type_claims: Vec<TypeClaim>,
}

/// A `typ` as it is compared; `absent` for none.
pub(crate) fn token_type(name: &str) -> TokenType {
    let lower = name.to_ascii_lowercase();
    match lower.strip_prefix("application/").unwrap_or(&lower) {
        "absent" if lower == name => TokenType::Absent,
        short => TokenType::Named(short.to_owned()),
    }
}
