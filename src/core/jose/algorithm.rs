//! Signature algorithms: the asymmetric ones only (RFC 7518 §3, RFC 8037, RFC 9864,
//! RFC 9964).

use crate::words::words;

words! {
    /// A signature algorithm for tokens or proofs, by its registered `alg` value.
    ///
    /// There is deliberately no `none` and no HMAC, so that neither can be configured.
    #[expect(missing_docs, reason = "the names are the registry's")]
    pub enum Algorithm as "Algorithm" {
        RS256 = "RS256",
        RS384 = "RS384",
        RS512 = "RS512",
        PS256 = "PS256",
        PS384 = "PS384",
        PS512 = "PS512",
        ES256 = "ES256",
        ES384 = "ES384",
        ES512 = "ES512",
        EdDSA = "EdDSA",
        Ed25519 = "Ed25519",
        MlDsa44 = "ML-DSA-44",
        MlDsa65 = "ML-DSA-65",
        MlDsa87 = "ML-DSA-87",
    }
}

impl Algorithm {
    /// Whether its signatures and keys are of several kilobytes.
    pub(crate) const fn is_large(self) -> bool {
        matches!(self, Self::MlDsa44 | Self::MlDsa65 | Self::MlDsa87)
    }

    /// The `kty` of the keys that it is used with.
    pub const fn key_type(self) -> &'static str {
        match self {
            Self::RS256 | Self::RS384 | Self::RS512 | Self::PS256 | Self::PS384 | Self::PS512 => {
                "RSA"
            }
            Self::ES256 | Self::ES384 | Self::ES512 => "EC",
            Self::EdDSA | Self::Ed25519 => "OKP",
            Self::MlDsa44 | Self::MlDsa65 | Self::MlDsa87 => "AKP",
        }
    }
}

/// The names of the allowed algorithms.
pub(crate) fn one_of(allowed: &[Algorithm]) -> String {
    allowed.iter().map(|it| it.name()).collect::<Vec<_>>().join(" or ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::words::Words;

    #[test]
    fn nothing_symmetric_and_nothing_unsigned_has_a_name() {
        for name in [
            "none",
            "None",
            "NONE",
            "",
            "HS256",
            "HS384",
            "HS512",
            "es256",
            "ES256K",
            "ml-dsa-44",
            "ML-DSA",
        ] {
            assert_eq!(Algorithm::named(name), None, "{name}");
        }
        assert_eq!(Algorithm::named("PS384"), Some(Algorithm::PS384));
        assert_eq!(Algorithm::named("ML-DSA-65"), Some(Algorithm::MlDsa65));
    }
}
