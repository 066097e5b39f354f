//! Findings of a check as text, for the explanation. Never contains a token or a proof.

use crate::client_certificate::{ClientCertificate, Source};
use crate::explanation::Finding;
use crate::jose::fault;
use crate::jose::jws::Header;
use crate::jose::thumbprint::Thumbprint;
use crate::oauth::access_token::AccessToken;
use crate::oauth::confirmation::Confirmation;
use crate::oauth::credentials::{Credentials, Scheme, Token};
use crate::policy::{ClaimRule, SenderConstraint};
use crate::request::{Evidence, Field, PeerCertificate, Request};
use std::time::Duration;

/// How the request carries its token and its proof.
pub(super) fn credentials(read: Option<&Credentials<'_>>, request: &Request<'_>) -> Finding {
    let found = match read {
        None => format!(
            "authorization: {}; dpop: {}",
            field(request.authorization),
            field(request.proof)
        ),
        Some(Credentials { scheme, token, proof, .. }) => {
            let proof = match proof {
                Some(proof) => format!("a proof of {} bytes", proof.as_bytes().len()),
                None => "no proof".to_owned(),
            };
            format!("{}, a token of {}, {proof}", scheme.name(), bytes(token.as_bytes().len()))
        }
    };
    Finding::new("credentials", "headers", found)
        .wanting("one token, as Bearer or DPoP; one proof at most")
}

/// A request under a policy that asks for no token.
pub(super) fn public(removable: bool) -> Finding {
    if removable {
        return Finding::new(
            "policy",
            "public",
            "no token is asked for; one that is sent is removed",
        );
    }
    Finding::new("policy", "public", "access_token in the query, which cannot be removed")
        .wanting("no token, or one in Authorization")
}

/// The form of the token: a JWT, or opaque.
pub(super) fn form(header: Option<&Header>, token: Token<'_>) -> Finding {
    match header {
        Some(header @ Header { kid, typ, .. }) => {
            let absent = || "absent".to_owned();
            let kid = kid.as_ref().map_or_else(absent, |it| format!("{it:?}"));
            let typ = typ.as_ref().map_or_else(absent, |it| format!("{it:?}"));
            let alg = header.alg();
            Finding::new("token", "form", format!("a JWT with alg {alg}, kid {kid}, typ {typ}"))
        }
        None => Finding::new("token", "form", fault::in_words(token.as_bytes()))
            .wanting("a header with alg and without crit, and claims, both JSON in base64url"),
    }
}

/// The form of a token that is no JWT as we read them.
pub(super) fn opaque(token: Token<'_>) -> &'static str {
    match token.as_bytes().split(|it| *it == b'.').count() {
        5 => "of five parts: an encrypted JWT (JWE), which its issuer alone can read",
        3 => "opaque: of three parts, but not in base64url, as those of a JWT are",
        _ => "opaque: not of three parts, as a JWT is",
    }
}

/// The length of the token.
pub(super) fn length(token: Token<'_>, most: usize) -> Finding {
    let found = bytes(token.as_bytes().len());
    Finding::new("token", "length", found).wanting(format!("at most {}", bytes(most)))
}

/// A claim that the policy requires.
pub(super) fn claim(token: &AccessToken, rule: &ClaimRule) -> Finding {
    let found = token.claims.get(&rule.path);
    let found = found.map_or_else(|| "absent".to_owned(), |it| it.to_string());
    let found = format!("{}: {found}", rule.path);
    Finding::new("token", "claim", found).wanting(rule.values.to_string())
}

/// The keys to which the token is bound, and what the policy requires of them.
pub(super) fn binding(
    confirmation: &Confirmation,
    constraint: SenderConstraint,
    scheme: Scheme,
) -> Finding {
    let Confirmation { x5t_s256, jkt, unknown_only } = confirmation;
    let certificate = x5t_s256.map(|_| "a certificate (cnf.x5t#S256)");
    let key = jkt.map(|_| "a DPoP key (cnf.jkt)");
    let unknown = unknown_only.then_some("an unsupported method");
    let bound: Vec<_> = [certificate, key, unknown].into_iter().flatten().collect();
    let found = if bound.is_empty() { "to no key".to_owned() } else { bound.join(" and ") };
    let wanted = match constraint {
        SenderConstraint::Certificate => "a certificate",
        SenderConstraint::Dpop => "a DPoP key",
        SenderConstraint::Either => "a certificate or a DPoP key",
        SenderConstraint::IfBound => "any binding, or none",
        SenderConstraint::None => "any binding, or none, as the policy requires no proof",
    };
    let spelled = match scheme {
        Scheme::Bearer | Scheme::Dpop => "sent as DPoP with cnf.jkt, and as Bearer without",
        Scheme::MtlsPop => "sent as MTLS_POP with cnf.x5t#S256 alone",
    };
    Finding::new("binding", "cnf", format!("{found}, sent as {}", scheme.name()))
        .wanting(format!("{wanted}; {spelled}"))
}

/// How long a stream that the request opens may last.
pub(super) fn left(left: Duration) -> Finding {
    Finding::new("token", "streams", format!("end in {left:?}, when it is refused"))
}

/// Where the client certificate is expected, and what was found there.
pub(super) fn evidence(source: &Source, evidence: &Evidence<'_>) -> Finding {
    let found = match source {
        Source::Peer => format!("source.certificate: {}", peer(evidence.peer_certificate)),
        Source::Xfcc { behind } => {
            let (xfcc, behind) = (field(evidence.xfcc), behind.len().saturating_add(1));
            let own = peer(evidence.peer_certificate);
            format!(
                "x-forwarded-client-cert: {xfcc}, for {behind} elements; source.certificate: {own}"
            )
        }
        Source::Header { name, .. } => format!("{name}: {}", field(evidence.header)),
    };
    Finding::new("certificate", "source", found)
}

/// Whether the certificate is the one to which the token is bound.
pub(super) fn certificate(shown: ClientCertificate, bound_to: Thumbprint) -> Finding {
    let found = match shown {
        ClientCertificate::Absent => "none".to_owned(),
        ClientCertificate::Presented(shown) => both(shown),
        ClientCertificate::Malformed => "a malformed one".to_owned(),
        ClientCertificate::Conflict => "sources that contradict each other".to_owned(),
    };
    Finding::new("certificate", "thumbprint", found).wanting(both(bound_to))
}

fn both(thumbprint: Thumbprint) -> String {
    format!("{} (hex {})", thumbprint.to_base64url(), thumbprint.to_hex())
}

fn peer(certificate: PeerCertificate<'_>) -> String {
    match certificate {
        PeerCertificate::Absent => "absent".to_owned(),
        PeerCertificate::Sha256(_) => "its SHA-256".to_owned(),
        PeerCertificate::UrlEncodedPem(carried)
        | PeerCertificate::Pem(carried)
        | PeerCertificate::Der(carried) => bytes(carried.len()),
    }
}

fn field(field: Field<'_>) -> String {
    match field {
        Field::Absent => "absent".to_owned(),
        Field::One(value) => bytes(value.len()),
        Field::Many => "several lines".to_owned(),
    }
}

fn bytes(count: usize) -> String {
    format!("{count} bytes")
}
