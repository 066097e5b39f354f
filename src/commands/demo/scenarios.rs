//! Knows what the demo shows: who calls with which token, and what must come of it.

use super::Failure;
use super::issuer::SigningKey;
use super::pki::{Authority, Identity};
use crate::clock::UnixTime;
use crate::denial::Denial;
use rcgen::KeyPair;
use serde_json::{Value, json};

/// The audience of the demo's resource.
pub const AUDIENCE: &str = "https://payments.demo.test";
/// What the demo's tokens are about, and thus what the upstream must see.
pub const SUBJECT: &str = "shop-42";
/// Where the requests go.
pub const PATH: &str = "/payments";
/// The scope that is needed there.
pub const SCOPE: &str = "payments";

/// A request and what must come of it.
#[derive(Clone, Copy, Debug)]
pub struct Scenario {
    /// What happens, for people.
    pub title: &'static str,
    /// Whose certificate comes with the request.
    pub caller: Caller,
    /// The token that comes with it.
    pub token: Token,
    /// What else the caller tries.
    pub trick: Trick,
    /// How it must end.
    pub expected: Result<(), Denial>,
}

/// Whose certificate a request comes with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caller {
    /// The client to which the tokens were issued.
    Client,
    /// The same client after its certificate was renewed, with the same key.
    Renewed,
    /// Another client of the same authority, with a certificate that is just as good.
    Thief,
    /// Somebody without a certificate.
    Nobody,
}

/// A token that the issuer has issued.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Token {
    /// In order, and bound to the client's certificate.
    Bound,
    /// Bound to nothing.
    Unbound,
    /// In order, but an hour ago.
    Expired,
    /// For another audience.
    Elsewhere,
    /// Without the scope.
    Unscoped,
    /// Someone wrote another subject into it.
    Tampered,
    /// There is none.
    Absent,
}

/// What a caller tries besides.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trick {
    /// Nothing.
    Honest,
    /// It says itself that the client's certificate was forwarded.
    ForgedXfcc,
    /// It says itself who it is.
    ForgedIdentity,
}

/// How a request ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observed {
    /// The HTTP status that the caller got.
    pub status: u16,
    /// The reason that the authorizer gave.
    pub reason: String,
    /// Who the caller is, as the upstream was told. More than one would be a hole.
    pub subjects: Vec<String>,
}

/// Every scenario, in the order in which they are told.
pub const ALL: &[Scenario] = {
    use Caller::{Client, Nobody, Renewed, Thief};
    use Token::{Absent, Bound, Elsewhere, Expired, Tampered, Unbound, Unscoped};
    use Trick::{ForgedIdentity, ForgedXfcc};
    &[
        of("its own token and certificate", Client, Bound),
        of("… and an identity header of its own making", Client, Bound).with(ForgedIdentity),
        of("a stolen token, the thief's certificate", Thief, Bound)
            .denied(Denial::CertificateMismatch),
        of("… and a forged x-forwarded-client-cert", Thief, Bound)
            .with(ForgedXfcc)
            .denied(Denial::CertificateMismatch),
        of("a stolen token, no certificate", Nobody, Bound).denied(Denial::CertificateMissing),
        of("… and a forged x-forwarded-client-cert", Nobody, Bound)
            .with(ForgedXfcc)
            .denied(Denial::CertificateMissing),
        of("its own token, a renewed certificate", Renewed, Bound)
            .denied(Denial::CertificateMismatch),
        of("a token that is bound to nothing", Client, Unbound).denied(Denial::BindingMissing),
        of("no token", Client, Absent).denied(Denial::CredentialsMissing),
        of("a token with another subject written in", Client, Tampered)
            .denied(Denial::TokenSignatureInvalid),
        of("an expired token", Client, Expired).denied(Denial::TokenExpired),
        of("a token for another service", Client, Elsewhere).denied(Denial::TokenAudienceMismatch),
        of("a token without the scope", Client, Unscoped).denied(Denial::ScopeInsufficient),
    ]
};

const fn of(title: &'static str, caller: Caller, token: Token) -> Scenario {
    Scenario { title, caller, token, trick: Trick::Honest, expected: Ok(()) }
}

impl Scenario {
    const fn with(self, trick: Trick) -> Self {
        Self { trick, ..self }
    }

    const fn denied(self, denial: Denial) -> Self {
        Self { expected: Err(denial), ..self }
    }

    /// The status and the reason that must come of it.
    pub fn expected(&self) -> (u16, &'static str) {
        match self.expected {
            Ok(()) => (200, "allowed"),
            Err(denial) => (denial.status(), denial.label()),
        }
    }

    /// Whether `observed` is what must come of it.
    pub fn holds(&self, observed: &Observed) -> bool {
        let subjects: &[_] = if self.expected.is_ok() { &[SUBJECT] } else { &[] };
        (observed.status, &*observed.reason) == self.expected() && observed.subjects == subjects
    }

    /// The headers of the request, besides the token.
    pub fn headers(&self, cast: &Cast) -> Vec<(&'static str, String)> {
        match self.trick {
            Trick::Honest => vec![],
            Trick::ForgedIdentity => vec![("x-auth-subject", "admin".to_owned())],
            Trick::ForgedXfcc => {
                let hash = cast.client.thumbprint().to_hex();
                vec![("x-forwarded-client-cert", format!("Hash={hash}"))]
            }
        }
    }
}

impl Token {
    /// Every token that there is.
    pub const ALL: [Self; 6] = [
        Self::Bound,
        Self::Unbound,
        Self::Expired,
        Self::Elsewhere,
        Self::Unscoped,
        Self::Tampered,
    ];

    /// Its name, for a file.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Bound => "bound",
            Self::Unbound => "unbound",
            Self::Expired => "expired",
            Self::Elsewhere => "elsewhere",
            Self::Unscoped => "unscoped",
            Self::Tampered => "tampered",
            Self::Absent => "absent",
        }
    }

    fn edit(self, claims: &mut Value) {
        let (claim, value) = match self {
            Self::Bound | Self::Absent => return,
            Self::Tampered => ("sub", json!("admin")),
            Self::Unbound => ("cnf", Value::Null),
            Self::Expired => ("exp", json!(claims["iat"].as_i64().map(|it| it.saturating_sub(60)))),
            Self::Elsewhere => ("aud", json!("https://blog.demo.test")),
            Self::Unscoped => ("scope", json!("statements")),
        };
        match (claims.as_object_mut(), value) {
            (Some(claims), Value::Null) => drop(claims.remove(claim)),
            (Some(claims), value) => drop(claims.insert(claim.to_owned(), value)),
            (None, _) => (),
        }
    }
}

/// Everybody and everything that appears in the scenarios.
#[derive(Debug)]
pub struct Cast {
    client: Identity,
    renewed: Identity,
    thief: Identity,
    tokens: Vec<(Token, String)>,
}

impl Cast {
    /// Clients of `authority`, and the tokens that `issuer` issues to the first of them at `now`,
    /// signed with `key`.
    pub fn new(
        authority: &Authority,
        issuer: &str,
        key: &SigningKey,
        now: UnixTime,
    ) -> Result<Self, Failure> {
        let failure = |cause| Failure::new("making certificates", cause);
        let new_client = |name| authority.client(name, KeyPair::generate()?);
        let client = new_client("client").map_err(failure)?;
        let renewed = authority.renew(&client).map_err(failure)?;
        let thief = new_client("thief").map_err(failure)?;
        let mut tokens = vec![];
        for token in Token::ALL {
            tokens.push((token, issue(token, &client, issuer, key, now)?));
        }
        Ok(Self { client, renewed, thief, tokens })
    }

    /// The certificate and key of `caller`, unless it has none.
    pub const fn identity(&self, caller: Caller) -> Option<&Identity> {
        match caller {
            Caller::Client => Some(&self.client),
            Caller::Renewed => Some(&self.renewed),
            Caller::Thief => Some(&self.thief),
            Caller::Nobody => None,
        }
    }

    /// The JWT of `token`, unless it is [`Token::Absent`].
    pub fn jwt(&self, token: Token) -> Option<&str> {
        self.tokens.iter().find(|(it, _)| *it == token).map(|(_, jwt)| jwt.as_str())
    }
}

fn issue(
    token: Token,
    client: &Identity,
    issuer: &str,
    key: &SigningKey,
    now: UnixTime,
) -> Result<String, Failure> {
    let mut claims = json!({
        "iss": issuer,
        "aud": AUDIENCE,
        "sub": SUBJECT,
        "client_id": "shop",
        "scope": SCOPE,
        "iat": now.as_secs(),
        "exp": now.as_secs().saturating_add(3600),
        "jti": token.name(),
        "cnf": {"x5t#S256": client.thumbprint().to_base64url()},
    });
    let honest = key.sign("at+jwt", &claims)?;
    token.edit(&mut claims);
    let edited = key.sign("at+jwt", &claims)?;
    Ok(if token == Token::Tampered { spliced(&honest, &edited) } else { edited })
}

/// The claims of one token with the signature of another.
fn spliced(signed: &str, claims: &str) -> String {
    let header = signed.split('.').next().unwrap_or_default();
    let signature = signed.rsplit('.').next().unwrap_or_default();
    let claims = claims.split('.').nth(1).unwrap_or_default();
    format!("{header}.{claims}.{signature}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outcome_holds_only_when_all_of_it_is_expected() {
        let good = of("", Caller::Client, Token::Bound);
        let stolen = of("", Caller::Thief, Token::Bound).denied(Denial::CertificateMismatch);
        let check = |scenario: Scenario, status, reason: &str, subjects: &[&str], holds: bool| {
            let subjects = subjects.iter().map(|&it| it.to_owned()).collect();
            let observed = Observed { status, reason: reason.to_owned(), subjects };
            assert_eq!(scenario.holds(&observed), holds, "{observed:?}");
        };
        check(good, 200, "allowed", &[SUBJECT], true);
        check(good, 200, "", &[SUBJECT], false);
        check(good, 200, "allowed", &["admin"], false);
        check(good, 200, "allowed", &["admin", SUBJECT], false);
        check(good, 200, "allowed", &[], false);
        check(good, 503, "allowed", &[SUBJECT], false);
        check(stolen, 401, "certificate_mismatch", &[], true);
        check(stolen, 401, "certificate_missing", &[], false);
        check(stolen, 403, "certificate_mismatch", &[], false);
        check(stolen, 401, "certificate_mismatch", &[SUBJECT], false);
    }

    #[test]
    fn a_tampered_token_differs_in_its_claims_alone() {
        let spliced = spliced("header.honest.signature", "header.edited.other");
        assert_eq!(spliced, "header.edited.signature");
    }
}
