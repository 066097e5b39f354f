//! Advice on who sends a token: on its binding, and on where the client certificate comes from.

use super::Case;
use keybound_core::client_certificate::Source;
use keybound_core::policy::SenderConstraint;

/// On a certificate that cannot be read.
pub(super) fn malformed_certificate(source: &Source) -> String {
    match source {
        Source::Peer => {
            "the certificate comes in `source.certificate` of Envoy's question: is another program between \
             Envoy and keybound?"
                .to_owned()
        }
        Source::Xfcc { .. } => {
            "is x-forwarded-client-cert written by an Envoy that removes what clients send \
             (forward_client_cert_details: SANITIZE_SET)?"
                .to_owned()
        }
        Source::Header { name, format } => format!(
            "does the proxy write the header {name} in the format {}? `client_certificate.header.format` \
             names the others",
            format.name()
        ),
    }
}

/// On another certificate than that of the token.
pub(super) fn other_certificate(source: &Source) -> String {
    let renewed =
        "the token is bound to another certificate: was it renewed after the token was issued?";
    match source {
        Source::Peer => format!(
            "{renewed} Or does another proxy end the client's TLS, so that this Envoy sees the proxy's own?"
        ),
        Source::Xfcc { .. } => format!(
            "{renewed} Or is there one more proxy in front, which `client_certificate.xfcc.behind` must \
             name?"
        ),
        Source::Header { name, .. } => format!(
            "{renewed} Or does the proxy write another certificate than the client's into {name}, such as \
             its own or an authority's?"
        ),
    }
}

/// On certificates that contradict each other.
pub(super) fn conflict(source: &Source) -> Option<String> {
    matches!(source, Source::Peer | Source::Header { .. }).then(|| {
        "the proxy tells of two certificates: which of them is the client's? \
         `client_certificate.source` names where it stands"
            .to_owned()
    })
}

/// On a token that is not bound as the policy demands.
pub(super) fn binding(case: &Case<'_>) -> Option<String> {
    let ask = match case.setting.policy?.sender_constraint {
        SenderConstraint::Certificate => {
            "the policy demands a token that is bound to a client certificate: the client must ask for it \
             over mutual TLS"
        }
        SenderConstraint::Dpop => {
            "the policy demands a token that is bound to a DPoP key: the client must ask for it with a \
             DPoP proof"
        }
        SenderConstraint::Either | SenderConstraint::IfBound | SenderConstraint::None => {
            "the client must ask for the token over mutual TLS, or with a DPoP proof"
        }
    };
    let switch = match (case.product(), case.setting.policy?.sender_constraint) {
        ("keycloak", SenderConstraint::Certificate) => {
            "switch on \"OAuth 2.0 Mutual TLS Certificate Bound Access Tokens\" at the client in Keycloak"
        }
        ("keycloak", _) => "switch on \"Require DPoP bound tokens\" at the client in Keycloak",
        ("auth0", _) => "switch on sender-constraining for the client and the API in Auth0",
        ("okta", SenderConstraint::Dpop) => "switch on \"Require DPoP header\" at the app in Okta",
        _ => "the issuer must bind tokens of this client",
    };
    Some(format!("{ask}, and {switch}"))
}

/// On a scheme that does not go with the token.
pub(super) fn scheme(case: &Case<'_>) -> String {
    let advice = if case.found().contains("cnf.jkt") {
        "the token is bound to a DPoP key: the client must send `Authorization: DPoP …`, with a proof \
         for each request"
    } else if case.found().ends_with("MTLS_POP") {
        "`MTLS_POP` is for tokens that are bound to a client certificate, and this one is bound to \
         nothing: the client must ask for it with `token_type=mtls_pop` over mutual TLS, and the \
         issuer must let it"
    } else {
        "the token is not bound to a DPoP key: it goes with `Authorization: Bearer …`. If the client \
         asked for a DPoP-bound one, the issuer did not make one"
    };
    advice.to_owned()
}
