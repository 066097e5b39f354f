//! Knows the signature algorithms: the asymmetric ones, and no others (RFC 7518 §3, RFC 8037,
//! RFC 9864).

use std::fmt;

/// A signature algorithm that a token or a proof may use.
///
/// There is no `none` and no HMAC here: what has no name cannot be allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[expect(missing_docs, reason = "the names are the registry's")]
pub enum Algorithm {
    RS256,
    RS384,
    RS512,
    PS256,
    PS384,
    PS512,
    ES256,
    ES384,
    ES512,
    EdDSA,
    Ed25519,
}

impl Algorithm {
    /// All of them.
    pub const ALL: &'static [Self] = &[
        Self::RS256,
        Self::RS384,
        Self::RS512,
        Self::PS256,
        Self::PS384,
        Self::PS512,
        Self::ES256,
        Self::ES384,
        Self::ES512,
        Self::EdDSA,
        Self::Ed25519,
    ];

    /// The `alg` value, as registered.
    pub const fn name(self) -> &'static str {
        match self {
            Self::RS256 => "RS256",
            Self::RS384 => "RS384",
            Self::RS512 => "RS512",
            Self::PS256 => "PS256",
            Self::PS384 => "PS384",
            Self::PS512 => "PS512",
            Self::ES256 => "ES256",
            Self::ES384 => "ES384",
            Self::ES512 => "ES512",
            Self::EdDSA => "EdDSA",
            Self::Ed25519 => "Ed25519",
        }
    }

    /// The algorithm of this name, which has case.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|it| it.name() == name)
    }
}

impl fmt::Display for Algorithm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The name, where there is one that may ever be used.
pub(crate) fn named(algorithm: Option<Algorithm>) -> &'static str {
    algorithm.map_or("none that is known here", Algorithm::name)
}

/// The names of those that are allowed.
pub(crate) fn one_of(allowed: &[Algorithm]) -> String {
    allowed.iter().map(|it| it.name()).collect::<Vec<_>>().join(" or ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_symmetric_and_nothing_unsigned_has_a_name() {
        for name in ["none", "None", "NONE", "", "HS256", "HS384", "HS512", "es256", "ES256K"] {
            assert_eq!(Algorithm::named(name), None, "{name}");
        }
        assert_eq!(Algorithm::named("PS384"), Some(Algorithm::PS384));
    }
}
