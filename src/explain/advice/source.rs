//! Advice on what a check gets from issuers: keys, and what they say about tokens.

use super::Case;
use keybound_core::Detail;

/// On keys that cannot be had.
pub(super) fn keys(case: &Case<'_>) -> Option<String> {
    if case.detail == Some(Detail::KeyNotKnownYet) {
        return Some(
            "the key of the token is not in the set, and the issuer was asked a moment ago: try again \
             after the cooldown; if it stays so, does the issuer publish this key?"
                .to_owned(),
        );
    }
    let found = case.found();
    let advice = if found.contains("with 401") || found.contains("with 403") {
        "the keys are only for who is known there: `keys.bearer_token_file` names a file with the token \
         to send, as the API server of Kubernetes asks for; or publish them without"
    } else if found.contains("certificate") {
        "`ca_file` of the issuer names the authority of its certificate, if it is one of your own"
    } else if found.contains("with 404") {
        "is `issuer` the URL below which its metadata are? Otherwise `keys.jwks_uri` says where the keys are"
    } else {
        return None;
    };
    Some(advice.to_owned())
}

/// On an issuer that does not say whether a token is active.
pub(super) fn introspection(case: &Case<'_>) -> Option<String> {
    Some(of_answer(case.setting.answer?, case.detail).to_owned())
}

fn of_answer(answer: &str, detail: Option<Detail>) -> &'static str {
    let says = |words: &str| answer.contains(words);
    match detail {
        Some(Detail::IssuerLate) => return TIMES,
        Some(Detail::IssuerBusy) => {
            return "more calls at once than introspection.concurrency: raise it as far as the issuer can \
                    bear, or introspection.cache_ttl";
        }
        Some(Detail::IssuerLimits) => {
            return "have the issuer allow more calls of this client, or raise introspection.cache_ttl";
        }
        _ => {}
    }
    if says("refuses our credentials") {
        "compare `client_id`, its secret or key, and `authentication` with what is registered for this \
         service at the issuer, and whether that client may introspect"
    } else if says("with 404") {
        "is there an introspection endpoint at this URL? `introspection.endpoint` names another"
    } else if says("media type") {
        "is the endpoint's URL right? It must answer application/json, or a JWT with its own media type; a \
         web page is often a sign-in or an error of a proxy"
    } else if says("answer's JWT is not accepted") {
        "the answer is signed as the issuer's `algorithms` or `token_types` do not allow, or by another \
         key: the step says what was found and wanted. Without forward_jwt, plain JSON is asked for"
    } else if says("`active`") {
        "have the endpoint answer as RFC 7662 §2.2 says: `active` is true or false, and no string"
    } else if says("compressed") {
        "have the endpoint, or the proxy in front of it, leave its answers uncompressed"
    } else if says("certificate") || says("UnknownIssuer") {
        "`ca_file` of the issuer names the authority of its certificate, if it is one of your own"
    } else if says("timed out") {
        TIMES
    } else if says("no JWT came") {
        "the issuer answers no JWT to be forwarded: have it answer application/jwt to this client, or leave \
         forward_jwt out"
    } else {
        "can this machine reach the issuer's introspection endpoint, with its credentials? The step \
         `answer` says what came back"
    }
}

/// The three times that go together.
const TIMES: &str = "introspection.timeout, limits.check_deadline and Envoy's `timeout` go together, each \
                     longer than the one before: raise all three, or have the issuer answer sooner";
