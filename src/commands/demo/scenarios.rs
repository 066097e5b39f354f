//! The scenarios of the demo: who calls with which token, and what the outcome must be.

use super::cast::{Cast, Token};
use super::roles::{Caller, Proof, SUBJECT};
use keybound_core::Denial;

/// A request and its expected outcome.
#[derive(Clone, Copy, Debug)]
pub struct Scenario {
    /// Its title in the table.
    pub title: &'static str,
    /// The owner of the client certificate.
    pub caller: Caller,
    /// The token.
    pub token: Token,
    /// The DPoP proof; without one, the token is sent as `Bearer`.
    pub proof: Proof,
    /// A further manipulation.
    pub trick: Trick,
    /// The expected outcome.
    pub expected: Result<(), Denial>,
}

/// A manipulation by the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trick {
    /// Nothing.
    Honest,
    /// A forged `x-forwarded-client-cert` with the client's certificate.
    ForgedXfcc,
    /// A forged identity header.
    ForgedIdentity,
}

/// The outcome of a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observed {
    /// The HTTP status.
    pub status: u16,
    /// The authorizer's reason.
    pub reason: String,
    /// The subjects that the upstream received. More than one would be a vulnerability.
    pub subjects: Vec<String>,
}

/// All scenarios, in the order of the table.
pub const ALL: &[Scenario] = {
    use Caller::{Client, Nobody, Renewed, Thief};
    use Proof::{Again, Good, OfThief};
    use Token::{Absent, Bound, DpopBound, Elsewhere, Expired, Tampered, Unbound, Unscoped};
    use Trick::{ForgedIdentity, ForgedXfcc};
    &[
        of("its own token and certificate", Client, Bound),
        of("… and a forged identity header", Client, Bound).with(ForgedIdentity),
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
        of("its own DPoP token and a proof", Nobody, DpopBound).proved(Good),
        of("… and the same proof again", Nobody, DpopBound)
            .proved(Again)
            .denied(Denial::ProofReplayed),
        of("… and a proof made for another URL", Nobody, DpopBound)
            .proved(Proof::Elsewhere)
            .denied(Denial::ProofTargetMismatch),
        of("a stolen DPoP token, the thief's proof", Thief, DpopBound)
            .proved(OfThief)
            .denied(Denial::ProofKeyMismatch),
        of("… and as a bearer token, without a proof", Thief, DpopBound)
            .denied(Denial::SchemeMismatch),
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
    let (proof, trick, expected) = (Proof::Absent, Trick::Honest, Ok(()));
    Scenario { title, caller, token, proof, trick, expected }
}

impl Scenario {
    const fn with(self, trick: Trick) -> Self {
        Self { trick, ..self }
    }

    const fn proved(self, proof: Proof) -> Self {
        Self { proof, ..self }
    }

    const fn denied(self, denial: Denial) -> Self {
        Self { expected: Err(denial), ..self }
    }

    /// The expected status and reason.
    pub fn expected(&self) -> (u16, &'static str) {
        match self.expected {
            Ok(()) => (200, "allowed"),
            Err(denial) => (denial.status(), denial.label()),
        }
    }

    /// Whether `observed` is the expected outcome.
    pub fn holds(&self, observed: &Observed) -> bool {
        let subjects: &[_] = if self.expected.is_ok() { &[SUBJECT] } else { &[] };
        (observed.status, &*observed.reason) == self.expected() && observed.subjects == subjects
    }

    /// The headers of the request.
    pub fn headers(&self, cast: &Cast) -> Vec<(&'static str, String)> {
        let proof = cast.proof(self.proof);
        let scheme = if proof.is_some() { "DPoP" } else { "Bearer" };
        let token = cast.jwt(self.token).map(|it| ("authorization", format!("{scheme} {it}")));
        let proof = proof.map(|it| ("dpop", it.to_owned()));
        self.forged(cast).into_iter().chain(token).chain(proof).collect()
    }

    fn forged(&self, cast: &Cast) -> Option<(&'static str, String)> {
        match self.trick {
            Trick::Honest => None,
            Trick::ForgedIdentity => Some(("x-auth-subject", "admin".to_owned())),
            Trick::ForgedXfcc => {
                let hash = cast.client().thumbprint().to_hex();
                Some(("x-forwarded-client-cert", format!("Hash={hash}")))
            }
        }
    }
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
}
