//! The participants of the demo: its clients and the tokens that they hold.

use super::Failure;
use super::dpop::DpopKey;
use super::issuer::SigningKey;
use super::pki::{Authority, Identity};
use super::roles::{AUDIENCE, Caller, Proof, SCOPE, SUBJECT};
use keybound_core::UnixTime;
use rcgen::KeyPair;
use serde_json::{Value, json};

/// Clients and tokens of the scenarios.
#[derive(Debug)]
pub struct Cast {
    client: Identity,
    renewed: Identity,
    thief: Identity,
    dpop_key: DpopKey,
    tokens: Vec<(Token, String)>,
    proofs: Vec<(Proof, String)>,
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
        let dpop_key = DpopKey::generate()?;
        let claims = |token: Token| {
            json!({
                "iss": issuer,
                "aud": AUDIENCE,
                "sub": SUBJECT,
                "client_id": "shop",
                "scope": SCOPE,
                "iat": now.as_secs(),
                "exp": now.as_secs().saturating_add(3600),
                "jti": token.name(),
                "cnf": {"x5t#S256": client.thumbprint().to_base64url()},
            })
        };
        let mut tokens = vec![];
        for token in Token::ALL {
            tokens.push((token, issue(token, claims(token), &dpop_key, key)?));
        }
        Ok(Self { client, renewed, thief, dpop_key, tokens, proofs: vec![] })
    }

    /// Makes the proofs for requests to `url`, which are valid for a minute from `now`.
    pub fn prove(&mut self, url: &str, now: UnixTime) -> Result<(), Failure> {
        let token = self.jwt(Token::DpopBound).unwrap_or_default();
        let thief = DpopKey::generate()?;
        self.proofs = vec![
            (Proof::Good, self.dpop_key.prove(url, token, now)?),
            (Proof::OfThief, thief.prove(url, token, now)?),
            (Proof::Elsewhere, self.dpop_key.prove(&format!("{url}/refunds"), token, now)?),
        ];
        Ok(())
    }

    /// The DPoP key of the client.
    pub const fn dpop_key(&self) -> &DpopKey {
        &self.dpop_key
    }

    /// The proof `proof`, once it was made.
    pub fn proof(&self, proof: Proof) -> Option<&str> {
        // A replay sends the same proof again.
        let proof = if proof == Proof::Again { Proof::Good } else { proof };
        self.proofs.iter().find(|(it, _)| *it == proof).map(|(_, jwt)| jwt.as_str())
    }

    /// The certificate and key of the client.
    pub const fn client(&self) -> &Identity {
        &self.client
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

/// A token that the issuer has issued.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Token {
    /// Valid, and bound to the client's certificate.
    Bound,
    /// Valid, and bound to the client's DPoP key.
    DpopBound,
    /// Bound to nothing.
    Unbound,
    /// Expired an hour ago.
    Expired,
    /// For another audience.
    Elsewhere,
    /// Without the scope.
    Unscoped,
    /// With a forged subject.
    Tampered,
    /// No token.
    Absent,
}

impl Token {
    /// All of them.
    pub const ALL: [Self; 7] = [
        Self::Bound,
        Self::DpopBound,
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
            Self::DpopBound => "dpop",
            Self::Unbound => "unbound",
            Self::Expired => "expired",
            Self::Elsewhere => "elsewhere",
            Self::Unscoped => "unscoped",
            Self::Tampered => "tampered",
            Self::Absent => "absent",
        }
    }

    fn edit(self, claims: &mut Value, dpop_key: &DpopKey) {
        let (claim, value) = match self {
            Self::Bound | Self::Absent => return,
            Self::Tampered => ("sub", json!("admin")),
            Self::DpopBound => ("cnf", json!({"jkt": dpop_key.thumbprint().to_base64url()})),
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

fn issue(
    token: Token,
    mut claims: Value,
    dpop_key: &DpopKey,
    key: &SigningKey,
) -> Result<String, Failure> {
    let honest = key.sign("at+jwt", &claims)?;
    token.edit(&mut claims, dpop_key);
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
    fn a_tampered_token_differs_in_its_claims_alone() {
        let spliced = spliced("header.honest.signature", "header.edited.other");
        assert_eq!(spliced, "header.edited.signature");
    }
}
