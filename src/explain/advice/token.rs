//! Advice on tokens: on what was found in them, by whose they are.

use super::Case;
use crate::config::token_kinds;
use keybound_core::SeenJwt;
use keybound_core::jose::Algorithm;
use keybound_core::policy::Issuer;
use keybound_core::words::Words;
use serde_json::Value;

/// On a token that cannot be read.
pub(super) fn malformed(case: &Case<'_>) -> Option<String> {
    let found = case.found();
    let advice = match case.what() {
        "form" if found.contains("JWE") => {
            "the issuer alone can read it: give the issuer `introspection`, or have it leave its access \
             tokens unencrypted"
        }
        "form" if found.starts_with("opaque") => {
            "opaque tokens need `introspection` for their issuer; where the issuer makes JWTs, did the \
             client send something else, such as a refresh token?"
        }
        "form" => {
            "the step `form` says what is wrong: the client must send the token as it got it, and the \
             issuer must write it so"
        }
        "cnf" => return Some(confirmation(found)),
        "exp" | "nbf" | "iat" => {
            "have the issuer write it as a number of seconds since 1970 (RFC 7519 §2)"
        }
        "scope" | "scp" => {
            "have the issuer write the scope as a string of words, or as a list of strings"
        }
        "sub" | "client_id" | "azp" | "cid" | "appid" | "jti" | "aud" => {
            "have the issuer write this claim as RFC 9068 §2.2 says: the step shows what it is and what \
             it must be"
        }
        _ => return None,
    };
    Some(advice.to_owned())
}

/// On a thumbprint that is none.
fn confirmation(found: &str) -> String {
    let is_hex = |it: &str| it.len() == 64 && it.bytes().all(|it| it.is_ascii_hexdigit());
    let texts = || found.split('"').map(|it| it.replace([':', ' '], ""));
    if texts().any(|it| is_sha1(&it)) {
        return "the thumbprint is a SHA-1, as `x5t` has it: have the issuer write the SHA-256 of the \
                certificate in base64url (RFC 8705 §3.1)"
            .to_owned();
    }
    if texts().any(|it| is_hex(&it)) {
        return "the issuer writes the thumbprint in hex: have it write base64url of the 32 bytes, 43 \
                characters without padding (RFC 8705 §3.1)"
            .to_owned();
    }
    if found.contains("=\"") || found.contains('+') || found.contains('/') {
        return "the issuer writes the thumbprint in base64: have it write base64url without padding, 43 \
                characters of A-Z a-z 0-9 - _ (RFC 8705 §3.1)"
            .to_owned();
    }
    "have the issuer write base64url of the 32 bytes of the SHA-256, 43 characters without padding (RFC \
     8705 §3.1, RFC 9449 §6.1)"
        .to_owned()
}

/// Whether the text is 20 octets in hex or base64, with or without padding.
fn is_sha1(text: &str) -> bool {
    let base64 = text.trim_end_matches('=');
    let is_symbol = |it: u8| it.is_ascii_alphanumeric() || b"+/-_".contains(&it);
    let is_hex = text.len() == 40 && text.bytes().all(|it| it.is_ascii_hexdigit());
    is_hex || base64.len() == 27 && base64.bytes().all(is_symbol)
}

/// On an algorithm that is not on the list. That of a key is told apart by its detail.
pub(super) fn algorithm(case: &Case<'_>) -> Option<String> {
    let header = &case.setting.jwt?.header;
    let Some(unlisted) = header.algorithm else {
        let name = header.unsupported.as_deref().unwrap_or_default();
        return Some(unsupported(name, case.setting.issuer));
    };
    let listed = case.setting.issuer?.algorithms.iter().map(|it| it.name()).collect::<Vec<_>>();
    Some(format!(
        "add {unlisted} to the issuer's `algorithms`, or have the issuer sign with one of {}",
        listed.join(", ")
    ))
}

fn unsupported(name: &str, issuer: Option<&Issuer>) -> String {
    let upper = name.to_ascii_uppercase();
    if upper == "NONE" {
        return "the token is not signed, and is never accepted: have the issuer sign its access tokens \
                with a key pair"
            .to_owned();
    }
    let own = match issuer.and_then(|it| it.provider) {
        Some("authentik") => ": choose a signing key at its provider",
        Some("auth0") => ": choose RS256 for the API",
        _ => "",
    };
    if upper.starts_with("HS") {
        return format!(
            "a symmetric algorithm is never accepted, since whoever verifies could also sign: have the \
             issuer sign with a key pair, such as ES256 or RS256{own}"
        );
    }
    let known: Vec<_> = Algorithm::all().map(Algorithm::name).collect();
    format!("have the issuer sign with an algorithm that is supported here: {}", known.join(", "))
}

/// On the type, in the header or by a claim.
pub(super) fn typ(case: &Case<'_>) -> Option<String> {
    let (what, found) = (case.what(), case.found());
    if what != "typ" || case.finding?.wanted.starts_with("Bearer") {
        return Some(by_a_claim(what, found, case));
    }
    let kind = |it: &SeenJwt| token_kinds::other_kind(&it.header, &it.claims, false);
    if let Some(kind) = case.setting.jwt.and_then(kind) {
        return Some(format!("it is {kind}: the client must send the access token"));
    }
    let issuer = case.setting.issuer?;
    let accepted: Vec<_> = issuer.token_types.iter().map(ToString::to_string).collect();
    let name = if found == "absent" { "absent" } else { found };
    let read = format!("`token_types: [{}, {name}]` reads such tokens", accepted.join(", "));
    let apart = "an ID token may be of this type, too, so the `provider`, if there is a row for it, is better: \
                 it tells them apart";
    Some(match issuer.provider {
        Some(provider) => format!("{read}, which `provider: {provider}` does not name by itself"),
        None => format!("was an ID token sent instead of an access token? If not, {read}; {apart}"),
    })
}

fn by_a_claim(what: &str, found: &str, case: &Case<'_>) -> String {
    let kind = match (what, found.trim_matches('"').to_ascii_lowercase().as_str()) {
        ("events", _) => "a logout token or a security event token",
        ("at_hash" | "c_hash" | "nonce", _) | (_, "id" | "id_token") => "an ID token",
        (_, "refresh" | "offline" | "refresh_token") => "a refresh token",
        (_, "logout") => "a logout token",
        _ => {
            let of = case.setting.issuer.and_then(|it| it.provider);
            let of = of.map_or_else(String::new, |it| format!(" of `provider: {it}`"));
            return format!(
                "this claim tells the access tokens{of} from its ID tokens: was another token sent, or \
                 is the issuer another product?"
            );
        }
    };
    format!("it is {kind}: the client must send the access token")
}

/// On an issuer that is not accepted.
pub(super) fn issuer(case: &Case<'_>) -> Option<String> {
    let found = case.found();
    match (case.part(), case.what()) {
        ("key", "issuer") => {
            return Some(
                "the key is for the tokens of another tenant: is the token of the tenant that its `iss` names?"
                    .to_owned(),
            );
        }
        (_, "tid") => {
            return Some(
                "`tid` and the tenant in `iss` must agree, and be one of `tenants`".to_owned(),
            );
        }
        _ => {}
    }
    let claimed = found.trim_matches('"');
    if case.setting.issuers.iter().any(|it| it.is_called(claimed)) {
        return Some("this issuer is there, but the policy's `issuers` leave it out".to_owned());
    }
    let differs = |it: &&Issuer| {
        let (one, other) = (it.name.trim_end_matches('/'), claimed.trim_end_matches('/'));
        one == other
    };
    let accepted = case.setting.issuers.iter().map(|it| &**it);
    if let Some(near) = accepted.clone().find(differs) {
        return Some(format!(
            "`issuer: {}` and `iss` differ in the final slash, which counts: write {claimed}",
            near.name
        ));
    }
    let host = |it: &str| it.split("://").nth(1).unwrap_or_default().to_ascii_lowercase();
    if accepted.clone().any(|it| host(&it.name) == host(claimed) && !host(claimed).is_empty()) {
        return Some(format!(
            "`issuer` and `iss` differ in http and https, or in the case of a letter, which counts: \
             write {claimed}"
        ));
    }
    if claimed.starts_with("https://sts.windows.net/") {
        return Some(
            "it is a token of version 1.0 of Entra ID: set accessTokenAcceptedVersion to 2 at the API's \
             registration, or name this issuer with `provider: entra-v1`"
                .to_owned(),
        );
    }
    accepted.clone().any(|it| it.name.contains('{')).then(|| {
        "name the tenant in `tenants` if it may use this service; otherwise compare `iss` with the \
         issuers of the policy, character by character"
            .to_owned()
    })
}

/// On an answer of an issuer that names no audience.
const MUTE: &str = "have the issuer name the audience in its answers. Where it cannot, \
                    `introspection.allow_missing_audience: true` accepts answers without: then a token \
                    for any other service of the issuer passes here";

/// What says nothing of the audience.
const NOTHING: [&str; 4] = ["absent", "null", "\"\"", "[]"];

/// On an audience that is another, or none.
pub(super) fn audience(case: &Case<'_>) -> Option<String> {
    if case.part() == "introspection" {
        let answer = case.setting.answer?;
        let is_silent = NOTHING.iter().any(|it| answer.contains(&format!(": aud: {it} (")));
        return is_silent.then(|| MUTE.to_owned());
    }
    let missing = NOTHING.contains(&case.found());
    let product = match case.product() {
        "keycloak" => {
            "add an audience mapper in Keycloak: in a client scope of the client, a mapper of the type \
             Audience that adds this API to the access token"
        }
        "auth0" => {
            "the client must ask for the token with Auth0's parameter `audience`: the API's identifier"
        }
        "okta" => {
            "use a custom authorization server of Okta: tokens of the org's own server are for Okta alone"
        }
        "entra" | "b2c" => {
            "the client must ask for a scope of this API; `aud` is then the client id of the API's \
             registration: name it in `audiences`"
        }
        "entra-v1" => {
            "the client must ask for a scope of this API; `aud` is then its Application ID URI: name it in \
             `audiences`"
        }
        "cognito" if missing => {
            "Cognito's access tokens have no `aud`: with `audience_claim: client_id`, which `provider: \
             cognito` sets, `audiences` names the clients"
        }
        "maskinporten" if missing => {
            "the client must name this API as its `resource` at Maskinporten; without, `aud` is not there"
        }
        _ if missing => {
            "have the issuer put this service into the token's audience; where another claim names it, \
             `audience_claim` says which"
        }
        _ => return None,
    };
    Some(product.to_owned())
}

/// On a required claim that is not there.
pub(super) fn missing(case: &Case<'_>) -> Option<String> {
    match case.what() {
        "iss" => {
            Some("have the issuer put `iss` into its access tokens (RFC 9068 §2.2)".to_owned())
        }
        "exp" => Some(
            "have the issuer put `exp` into its access tokens: one that never ends is not accepted"
                .to_owned(),
        ),
        _ => audience(case),
    }
}

/// On a token that is not valid yet.
pub(super) fn premature(case: &Case<'_>) -> Option<String> {
    let claims = &case.setting.jwt?.claims;
    let times = ["nbf", "iat"].iter().filter_map(|it| claims.get(*it)?.as_f64());
    let is_far = |it: f64| 1e11 < it;
    times.into_iter().any(is_far).then(|| {
        "the issuer writes the time in milliseconds: have it write seconds since 1970 (RFC 7519 §2)"
            .to_owned()
    })
}

/// On scopes that the token does not have, or has elsewhere.
pub(super) fn scope(case: &Case<'_>) -> Option<String> {
    let (policy, claims) = (case.setting.policy?, &case.setting.jwt?.claims);
    let has = |name: &str| {
        let words: Vec<&str> = match claims.get(name) {
            Some(Value::String(text)) => text.split(' ').collect(),
            Some(Value::Array(items)) => items.iter().filter_map(Value::as_str).collect(),
            _ => return false,
        };
        policy.scopes.iter().all(|it| words.contains(&it.as_str()))
    };
    let names = &case.setting.issuer?.claim_names.scope;
    if let Some(name) =
        ["scp", "scope"].into_iter().find(|it| !names.iter().any(|own| own == it) && has(it))
    {
        let names: Vec<_> = names.iter().map(String::as_str).chain([name]).collect();
        return Some(format!(
            "the token has them in `{name}`: `claim_names: {{scope: [{}]}}` at the issuer reads it, as its \
             `provider` does where there is a row for it",
            names.join(", ")
        ));
    }
    let other = ["roles", "permissions", "groups"].into_iter().find(|it| has(it))?;
    Some(format!(
        "the token has them in `{other}`, which is no scope: demand it with the policy's `claims: \
         {{{other}: […]}}` in place of `scopes`"
    ))
}
