//! Advice for the operator on each reason for a denial: what to look at first.

mod sender;
mod source;
mod token;

use crate::telemetry::carried;
use keybound_core::client_certificate::Source;
use keybound_core::policy::{Issuer, Policy};
use keybound_core::{Denial, Detail, Finding, SeenJwt};
use std::sync::Arc;

/// A reason for a denial, and what is known of it.
pub(super) struct Case<'a> {
    pub(super) denial: Denial,
    pub(super) detail: Option<Detail>,
    /// What was found wanting.
    pub(super) finding: Option<&'a Finding>,
    pub(super) setting: &'a Setting<'a>,
}

/// What advice depends on beside the reason.
pub(super) struct Setting<'a> {
    /// Where the client certificate comes from.
    pub(super) source: &'a Source,
    /// The policy that applies.
    pub(super) policy: Option<&'a Policy>,
    /// The issuer of the token, or the only one that it may be of.
    pub(super) issuer: Option<&'a Issuer>,
    /// All issuers.
    pub(super) issuers: &'a [Arc<Issuer>],
    /// The token, if it is a JWT.
    pub(super) jwt: Option<&'a SeenJwt>,
    /// What an issuer said last about the token.
    pub(super) answer: Option<&'a str>,
}

impl Case<'_> {
    fn part(&self) -> &str {
        self.finding.map_or("", |it| it.part)
    }

    fn what(&self) -> &str {
        self.finding.map_or("", |it| &it.what)
    }

    fn found(&self) -> &str {
        self.finding.map_or("", |it| &it.found)
    }

    /// The product of the issuer: its `provider`, or one that its URL gives away.
    fn product(&self) -> &str {
        let Some(issuer) = self.setting.issuer else { return "" };
        issuer
            .provider
            .unwrap_or_else(|| if issuer.name.contains("/realms/") { "keycloak" } else { "" })
    }
}

/// Advice that depends on what was found; none where it does not.
type Closer = fn(&Case<'_>) -> Option<String>;

/// What there is to say besides [`on_reason`].
const CLOSER: &[(Denial, Closer)] = &[
    (Denial::TokenMalformed, token::malformed),
    (Denial::TokenAlgorithmForbidden, token::algorithm),
    (Denial::TokenTypeWrong, token::typ),
    (Denial::TokenIssuerUnknown, token::issuer),
    (Denial::TokenAudienceMismatch, token::audience),
    (Denial::TokenClaimMissing, token::missing),
    (Denial::TokenPremature, token::premature),
    (Denial::ScopeInsufficient, token::scope),
    (Denial::BindingMissing, sender::binding),
    (Denial::SchemeMismatch, |it| Some(sender::scheme(it))),
    (Denial::CertificateMissing, |it| Some(carried::advice(it.setting.source))),
    (Denial::CertificateMalformed, |it| Some(sender::malformed_certificate(it.setting.source))),
    (Denial::CertificateMismatch, |it| Some(sender::other_certificate(it.setting.source))),
    (Denial::CertificateConflict, |it| sender::conflict(it.setting.source)),
    (Denial::KeysUnavailable, source::keys),
    (Denial::IntrospectionUnavailable, source::introspection),
];

/// One piece of advice for the operator: on what was found, where that changes it.
pub(super) fn on(case: &Case<'_>) -> String {
    if let Some(advice) = on_detail(case.detail) {
        return advice.to_owned();
    }
    let closer = CLOSER.iter().find(|(denial, _)| *denial == case.denial);
    let advice = closer.and_then(|(_, advice)| advice(case));
    advice.unwrap_or_else(|| on_reason(case.denial).to_owned())
}

const fn on_detail(detail: Option<Detail>) -> Option<&'static str> {
    match detail {
        Some(Detail::KeyForbidsAlgorithm) => Some(
            "the key forbids the algorithm, not `algorithms`: have the issuer sign with the `alg` of \
             its JWK, or publish the key without `alg`",
        ),
        Some(Detail::KeyUnusable) => Some(
            "have the issuer publish the key in a form that can be used: the step `skipped` says \
             what is wrong with it",
        ),
        Some(Detail::Denylisted) => Some(
            "an entry of `revocation.denylist_file` names the token: the step that failed says on which \
             line. If that is not meant, take the entry out of the file",
        ),
        Some(Detail::StatusMalformed) => Some(
            "have the issuer write `status.status_list` as an object with `idx`, a whole number from 0, \
             and `uri`, or set `revocation.status_list: off` if its `status` is something else",
        ),
        Some(Detail::StatusMissing) => Some(
            "have the issuer put `status.status_list` into its access tokens, or set \
             `revocation.status_list: if_present`",
        ),
        Some(Detail::StatusInvalid) => Some(
            "the issuer has revoked the token in its status list: the client must get a new one",
        ),
        Some(Detail::StatusSuspended) => Some(
            "the issuer has suspended the token in its status list: it is good again once the issuer \
             says so there",
        ),
        Some(Detail::StatusOther) => Some(
            "the status list gives the token a status of the issuer's own. Only 0, valid, lets a token \
             through",
        ),
        Some(Detail::StatusListUnavailable) => Some(
            "can this machine fetch the status list that the token names? The step that failed says what \
             was tried, and `/status` has the lists with their last error",
        ),
        Some(Detail::StatusListForbidden) => Some(
            "a list is fetched over https (`allow_http` lifts that), and only from where it is no nearer \
             to this machine than the issuer or its `keys.jwks_uri` is",
        ),
        Some(Detail::StatusListsFull) => Some(
            "the issuer's tokens name more than 256 lists at a time: have it put more tokens into each",
        ),
        Some(Detail::StatusUnreadable) => Some(
            "the list is shorter than the place that the token names, or is that of another tenant: the \
             issuer must publish the list before it issues tokens that name it",
        ),
        Some(Detail::EventReceived) => Some(
            "the issuer has ended the session, or changed or closed the account: the client must get a \
             new token. The step that failed names the event",
        ),
        Some(Detail::EventsFull) => Some(
            "more users and sessions were revoked than `revocation.events.capacity`: raise it. New tokens \
             are good at once",
        ),
        Some(Detail::NamesTooMany) => Some(
            "`jti`, `sub`, `sid` and the client are each one name in a token: have the issuer write them so. \
             Of a list, four are looked up",
        ),
        Some(Detail::EventsUnheard) => Some(
            "the Redis of `dpop.replay`, in which replicas share events, cannot be read: is it up, and do \
             its rights cover XADD and XRANGE on keybound:events:*? Or an entry there cannot be read: the \
             log names it",
        ),
        _ => None,
    }
}

/// One piece of advice for the operator.
#[expect(clippy::too_many_lines, reason = "a table")]
pub(super) const fn on_reason(denial: Denial) -> &'static str {
    use Denial as D;
    match denial {
        D::RequestMalformed => "is this a CheckRequest of Envoy's, and does Envoy normalise paths?",
        D::CredentialsAmbiguous => {
            "does a proxy add a second Authorization or DPoP header, or does the client put the \
             token into the query as well?"
        }
        D::CertificateMalformed => {
            "does client_certificate.source name the place where the proxy writes the \
             certificate, in the format that it writes?"
        }
        D::PolicyUnknown => {
            "add a policy that matches the request, or correct the name in the route's \
             context_extensions or annotation"
        }
        D::CredentialsMissing => {
            "does the client send `Authorization: Bearer …` or `DPoP …`, and does nothing in \
             front of Envoy strip it?"
        }
        D::SchemeUnsupported => "the client must send `Authorization: Bearer …` or `DPoP …`",
        D::TokenMalformed => {
            "is it an access token at all? The step that failed says what is wrong with it"
        }
        D::TokenTooLarge => {
            "can the issuer make smaller tokens? Otherwise raise limits.token_bytes"
        }
        D::TokenAlgorithmForbidden => "have the issuer sign with an algorithm of its `algorithms`",
        D::TokenTypeWrong => {
            "was an ID token sent instead of an access token? `provider` and `token_types` say how \
             access tokens look that do not follow RFC 9068"
        }
        D::TokenIssuerUnknown => {
            "compare `iss` with the issuers of the policy, character by character: a final \
             slash counts"
        }
        D::TokenKeyUnknown => {
            "does the issuer publish the key that it signs with? It may be a token from before \
             a rotation, or from another environment"
        }
        D::TokenSignatureInvalid => {
            "was the token altered or cut on the way, or does another environment use the same \
             key names?"
        }
        D::TokenExpired => {
            "the client must get a new token; if it just did, compare the clocks of the issuer \
             and this machine"
        }
        D::TokenPremature => {
            "compare the clocks of the issuer and this machine; clock_leeway bridges small \
             differences"
        }
        D::TokenAudienceMismatch => {
            "the client must ask for a token for this service, or `audiences` must name what \
             the issuer writes"
        }
        D::TokenClaimMissing => "have the issuer put iss, aud and exp into its access tokens",
        D::TokenInactive => {
            "the issuer does not know the token, or knows that it has ended: the client must \
             get a new one"
        }
        D::TokenRevoked => {
            "it was revoked before it expires, by its issuer or by you: the client must get a new one"
        }
        D::BindingMissing => {
            "was the token asked for over mutual TLS, or with a DPoP proof? The client must be \
             registered for bound tokens at the issuer"
        }
        D::BindingUnsupported => {
            "the issuer binds tokens in a way other than x5t#S256 and jkt: have it use one of \
             them"
        }
        D::SchemeMismatch => {
            "a token with cnf.jkt goes with `Authorization: DPoP`, every other one with \
             `Bearer`; `MTLS_POP` takes those with cnf.x5t#S256 alone"
        }
        D::CertificateMissing => {
            "did the client use mutual TLS, and does the proxy send its certificate to keybound?"
        }
        D::CertificateMismatch => {
            "the token is bound to another certificate: was it renewed after the token was \
             issued?"
        }
        D::CertificateConflict => {
            "does client_certificate.xfcc.behind name every proxy between the client and this \
             Envoy, in order?"
        }
        D::ProofKeyMismatch => {
            "the client must prove with the key with which it got the token: did it make a new \
             key since?"
        }
        D::ProofMissing => "the client must send a DPoP header with a proof for each request",
        D::ProofMalformed => {
            "look at the step that failed: the client's DPoP library leaves out or misspells \
             what RFC 9449 §4.2 asks for"
        }
        D::ProofAlgorithmForbidden => {
            "have the client sign with one of dpop.algorithms, or add the one that it uses, unless \
             it is symmetric or not supported"
        }
        D::ProofSignatureInvalid => {
            "was the proof altered on the way, or signed with another key than it shows?"
        }
        D::ProofMethodMismatch => {
            "the client must make a new proof for each request, with its method as `htm`, in the same \
             letters (GET, not get)"
        }
        D::ProofTargetMismatch => {
            "does the client see another host or path than Envoy? Then give the policy the \
             public `origin`"
        }
        D::ProofTokenMismatch => {
            "the client must make a new proof after it got a new token, with its SHA-256 as \
             `ath`"
        }
        D::ProofStale => {
            "the client must make a new proof for each request; if it does, compare the clocks. If its \
             clock cannot be trusted, set `dpop.nonce: required` and `dpop.time: nonce`"
        }
        D::ProofReplayed => {
            "each proof serves once: does the client, or a proxy that tries again, send it \
             twice?"
        }
        D::AuthenticationInsufficient => {
            "the client must send its user to log in again with the `acr_values` and `max_age` of the \
             challenge, and the issuer must write `acr` and `auth_time` into its access tokens"
        }
        D::NonceRequired => {
            "the client must try again with the nonce from the DPoP-Nonce header of the answer"
        }
        D::ScopeInsufficient => "the client must ask for a token with all of the policy's scopes",
        D::ClaimInsufficient => {
            "compare the claim with the policy's `claims`; the client may have to log its user \
             in more strongly"
        }
        D::KeysUnavailable => {
            "can this machine reach the issuer's key set? The step that failed says what was \
             tried"
        }
        D::IntrospectionUnavailable => {
            "can this machine reach the issuer's introspection endpoint, with its credentials?"
        }
        D::ReplayUnavailable => "is the replay store reachable, and large enough?",
        D::RevocationUnavailable => {
            "whether the token was revoked cannot be told now: the state of `revocation` is on the admin \
             page"
        }
        D::CheckTimedOut => {
            "what does the check wait for: keys, introspection or Redis? Their state is on the \
             admin page"
        }
        D::Overloaded => "add replicas, or raise limits.concurrent_checks",
        D::Internal => "this is a fault of keybound: please report it",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn every_reason_has_advice_of_its_own_in_one_line() {
        let all: HashSet<_> = Denial::ALL.iter().map(|it| on_reason(*it)).collect();
        assert_eq!(all.len(), Denial::ALL.len());
        for advice in all {
            assert!(advice.len() > 20 && !advice.contains('\n'), "{advice}");
        }
    }
}
